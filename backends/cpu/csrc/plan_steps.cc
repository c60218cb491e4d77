// Which operators run together on each tile, and where their values lie in memory.
#include <algorithm>
#include <cstring>

#include "plan.h"

namespace sparsec {
namespace {

// A tile more than its share keeps one thread busy while the others wait: up to here that is cheaper than to
// wait after every operator.
constexpr double kMostUneven = 1.2;

bool reads_planes(OpCode code) { return code == OpCode::kConv || code == OpCode::kDepthwise; }

bool tile_wise(const BuiltOp& b) {
  switch (b.record->code) {
    case OpCode::kMaxPool:
    case OpCode::kGlobalAveragePool:
    case OpCode::kAttention: return false;
    case OpCode::kDepthwise: return b.by_rows;
    default: return true;
  }
}

// A stretch of bytes that is needed from one point in time to another.
struct Item {
  int64_t begin, end;
  size_t size;
  size_t* offset;
};

// First fit; returns the bytes that all items need together.
size_t fit(const std::vector<Item>& items) {
  size_t total = 0;
  std::vector<const Item*> placed;
  for (const Item& item : items) {
    std::vector<const Item*> live;
    for (const Item* p : placed)
      if (p->begin <= item.end && item.begin <= p->end) live.push_back(p);
    std::sort(live.begin(), live.end(), [](const Item* a, const Item* b) { return *a->offset < *b->offset; });
    size_t at = 0;
    for (const Item* p : live) {
      if (at + item.size <= *p->offset) break;
      at = std::max(at, *p->offset + p->size);
    }
    *item.offset = at;
    total = std::max(total, at + item.size);
    placed.push_back(&item);
  }
  return total;
}

size_t bytes(int64_t floats) { return static_cast<size_t>(round_up(floats * 4 + 256, 256)); }

}  // namespace

void group_steps(const PlanView& v, int threads, Instance& out) {
  std::vector<int64_t> made_in(v.header->value_count, -1);  // step that makes a value
  for (uint32_t i = 0; i < v.header->op_count; ++i) {
    const OpRecord& op = v.ops[i];
    const Layout& l = out.values[op.output];
    const bool tiles = tile_wise(out.ops[i]) && unevenness(l.columns, l.held, threads) <= kMostUneven;
    bool joins = tiles && !out.steps.empty() && out.steps.back().tiles;
    if (joins) {
      const Layout& current = out.values[v.ops[out.steps.back().begin].output];
      joins = current.columns == l.columns && current.held == l.held;
      const auto here = static_cast<int64_t>(out.steps.size()) - 1;
      if (reads_planes(op.code) && made_in[op.inputs[0]] == here) joins = false;
    }
    if (joins) out.steps.back().end = i + 1;
    else out.steps.push_back({i, i + 1, tiles});
    made_in[op.output] = static_cast<int64_t>(out.steps.size()) - 1;
  }
}

void place_values(const PlanView& v, Instance& out) {
  const uint32_t count = v.header->value_count;
  const auto steps = static_cast<int64_t>(out.steps.size());
  // First and last operator, and first and last step, that touch a value.
  std::vector<int64_t> made(count, -1), used(count, -1), begin(count, -1), end(count, -1);
  std::vector<bool> planes(count, false);
  for (int64_t s = 0; s < steps; ++s)
    for (uint32_t i = out.steps[s].begin; i < out.steps[s].end; ++i) {
      const OpRecord& op = v.ops[i];
      made[op.output] = i;
      begin[op.output] = s;
      const auto touch = [&](uint32_t value) {
        used[value] = std::max<int64_t>(used[value], i);
        end[value] = std::max(end[value], s);
      };
      touch(op.output);
      for (uint32_t in : op.inputs)
        if (in != kNone) touch(in);
      if (!tile_wise(out.ops[i]) || reads_planes(op.code)) planes[op.inputs[0]] = true;
    }
  for (uint32_t i = 0; i < v.header->output_count; ++i) end[v.outputs[i]] = steps;

  std::vector<Item> items, local;
  for (uint32_t i = 0; i < count; ++i) {
    Layout& l = out.values[i];
    if (!l.size) continue;
    l.local = begin[i] >= 0 && begin[i] == end[i] && out.steps[begin[i]].tiles && !planes[i] && l.row_stride == l.tile;
    if (l.local) local.push_back({made[i], used[i], bytes(l.tile * v.values[i].channels), &l.offset});
    else items.push_back({begin[i], end[i], bytes(l.size), &l.offset});
  }
  out.local_floats = fit(local) / 4;
  const size_t total = fit(items);
  if (total > (size_t{1} << 36)) fail("the plan needs %zu bytes for these shapes", total);
  out.arena = AlignedBytes(total);
  std::memset(out.arena.data(), 0, total);
}

}  // namespace sparsec
