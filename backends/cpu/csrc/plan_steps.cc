// Which operators run together on each tile, and where their values lie in memory.
#include <algorithm>
#include <cstring>

#include "plan.h"

namespace sparsec {
namespace {

// How many tiles more than there are may be made where threads meet.
constexpr double kMostRepeated = 1.15;

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

// Puts stages one after another into a step where a depthwise window reads what the stage before makes, so that the
// plane between them, too large for the second cache, never exists as a whole.
class DepthFirst {
 public:
  DepthFirst(const PlanView& v, int threads, Instance& out) : v_(v), threads_(threads), out_(out), readers_(v.header->value_count, 0), made_by_(v.header->value_count, kNone) {
    for (uint32_t i = 0; i < v.header->op_count; ++i) {
      made_by_[v.ops[i].output] = i;
      for (uint32_t in : v.ops[i].inputs)
        if (in != kNone) ++readers_[in];
    }
    for (uint32_t i = 0; i < v.header->output_count; ++i) ++readers_[v.outputs[i]];
  }

  std::vector<Step> run(const std::vector<Step>& alone) {
    for (const Step& step : alone) {
      if (!done_.empty() && join(step.stages[0])) continue;
      done_.push_back(step);
      held_ = 0;
    }
    return std::move(done_);
  }

 private:
  bool join(const Stage& stage) {
    const BuiltOp& window = out_.ops[stage.begin];
    const uint32_t between = window.record->inputs[0], maker = made_by_[between];
    Step& before = done_.back();
    if (!before.tiles || window.record->code != OpCode::kDepthwise || !window.by_rows || window.padded.packed) return false;
    if (maker == kNone || maker + 1 != before.end() || readers_[between] != 1) return false;
    const Layout& x = out_.values[between];
    const Layout& y = out_.values[window.record->output];
    if (!is_large(x.columns * v_.values[between].channels / threads_) || x.held % x.width) return false;

    Stage next = stage;
    int64_t slots = 1;
    for (int64_t t = 0; t < y.tiles; ++t) {
      next.reads.push_back(tiles_read(*window.record, x, y, t));
      slots = std::max(slots, next.reads.back().second - next.reads.back().first);
    }
    const size_t ring = bytes(slots * ring_tile(between));
    if (ring > kept_cache()) return false;
    if (private_but(before.stages.back(), between) && held_ + ring <= kept_cache()) {
      before.stages.push_back(next);
      if (!repeats(before)) {
        held_ += ring;
        keep(between, slots);
        return true;
      }
      before.stages.pop_back();
    }
    // Only the operator that makes the plane, without those before it.
    Step step{{{maker, maker + 1, {}}, next}, true};
    if (repeats(step)) return false;
    if (before.stages.back().begin == maker) {
      if (before.stages.size() > 1) return false;  // it makes what another window of this step reads
      done_.pop_back();
    } else {
      before.stages.back().end = maker;
    }
    done_.push_back(step);
    held_ = ring;
    keep(between, slots);
    return true;
  }

  static std::pair<int64_t, int64_t> tiles_read(const OpRecord& op, const Layout& x, const Layout& y, int64_t tile) {
    const int64_t begin = tile * y.held / y.width, end = std::min(y.height, begin + y.held / y.width);
    const int64_t first = std::max<int64_t>(0, begin * op.stride[0] - op.pads[0]);
    const int64_t last = std::min(x.height - 1, (end - 1) * op.stride[0] + op.kernel[0] - 1 - op.pads[0]);
    return first > last ? std::pair<int64_t, int64_t>(0, 0) : std::pair(x.tile_of(first), x.tile_of(last) + 1);
  }

  // Nobody outside of a stage reads what it makes, but for one value.
  bool private_but(const Stage& stage, uint32_t value) const {
    std::vector<int> left = readers_;
    for (uint32_t i = stage.begin; i < stage.end; ++i)
      for (uint32_t in : v_.ops[i].inputs)
        if (in != kNone) --left[in];
    for (uint32_t i = stage.begin; i < stage.end; ++i)
      if (v_.ops[i].output != value && left[v_.ops[i].output]) return false;
    return true;
  }

  // Threads share the tiles of the last stage, and each makes all that its own read: tiles at the borders are made twice.
  bool repeats(const Step& step) const {
    const int64_t tiles = out_.values[v_.ops[step.begin()].output].tiles;
    int64_t made = 0;
    for (int64_t t = 0; t < threads_; ++t) {
      const int64_t last = out_.values[v_.ops[step.stages.back().begin].output].tiles;
      std::pair<int64_t, int64_t> range{last * t / threads_, last * (t + 1) / threads_};
      for (size_t s = step.stages.size() - 1; s > 0 && range.first < range.second; --s)
        range = {step.stages[s].reads[range.first].first, step.stages[s].reads[range.second - 1].second};
      made += range.second - range.first;
    }
    return static_cast<double>(made) > kMostRepeated * static_cast<double>(tiles);
  }

  // Floats of a tile of a value, all channels.
  int64_t ring_tile(uint32_t value) const { return round_up(out_.values[value].tile * v_.values[value].channels, 16); }

  void keep(uint32_t value, int64_t slots) {
    Layout& x = out_.values[value];
    x.slots = slots;
    x.row_stride = x.tile;
    x.tile_stride = ring_tile(value);
    x.size = slots * x.tile_stride;
  }

  const PlanView& v_;
  const int threads_;
  Instance& out_;
  std::vector<int> readers_;
  std::vector<uint32_t> made_by_;
  std::vector<Step> done_;
  size_t held_ = 0;  // bytes of the last step's planes
};

}  // namespace

void group_steps(const PlanView& v, int threads, Instance& out) {
  std::vector<int64_t> made_in(v.header->value_count, -1);  // step that makes a value
  std::vector<Step> alone;
  for (uint32_t i = 0; i < v.header->op_count; ++i) {
    const OpRecord& op = v.ops[i];
    const Layout& l = out.values[op.output];
    const bool tiles = tile_wise(out.ops[i]) && unevenness(l.columns, l.held, threads) <= kSplitByRows;
    bool joins = tiles && !alone.empty() && alone.back().tiles;
    if (joins) {
      const Layout& current = out.values[v.ops[alone.back().begin()].output];
      joins = current.columns == l.columns && current.held == l.held;
      const auto here = static_cast<int64_t>(alone.size()) - 1;
      if (reads_planes(op.code) && made_in[op.inputs[0]] == here) joins = false;
    }
    if (joins) alone.back().stages[0].end = i + 1;
    else alone.push_back({{{i, i + 1, {}}}, tiles});
    made_in[op.output] = static_cast<int64_t>(alone.size()) - 1;
  }
  out.steps = DepthFirst(v, threads, out).run(alone);
}

void place_values(const PlanView& v, Instance& out) {
  const uint32_t count = v.header->value_count;
  // Operator that makes a value and the last one that reads it; stages and steps of both, numbered from the first.
  std::vector<int64_t> made(count, -1), used(count, -1), stage_made(count, -1), stage_used(count, -1), begin(count, -1), end(count, -1);
  std::vector<bool> planes(count, false);
  int64_t stage = 0;
  const auto steps = static_cast<int64_t>(out.steps.size());
  for (int64_t s = 0; s < steps; ++s)
    for (const Stage& g : out.steps[s].stages) {
      for (uint32_t i = g.begin; i < g.end; ++i) {
        const OpRecord& op = v.ops[i];
        made[op.output] = i;
        stage_made[op.output] = stage;
        begin[op.output] = s;
        const auto touch = [&](uint32_t value) {
          used[value] = std::max<int64_t>(used[value], i);
          stage_used[value] = std::max(stage_used[value], stage);
          end[value] = std::max(end[value], s);
        };
        touch(op.output);
        for (uint32_t in : op.inputs)
          if (in != kNone) touch(in);
        if (!tile_wise(out.ops[i]) || reads_planes(op.code)) planes[op.inputs[0]] = true;
      }
      ++stage;
    }
  for (uint32_t i = 0; i < v.header->output_count; ++i) end[v.outputs[i]] = steps;

  std::vector<Item> items, local;
  for (uint32_t i = 0; i < count; ++i) {
    Layout& l = out.values[i];
    const uint32_t channels = v.values[i].channels;
    if (l.slots) {  // as long as its step
      const Step& step = out.steps[begin[i]];
      local.push_back({step.begin(), step.end(), bytes(l.size), &l.offset});
      continue;
    }
    if (!l.size) continue;
    if (begin[i] >= 0 && stage_made[i] == stage_used[i] && end[i] == begin[i] && out.steps[begin[i]].tiles && !planes[i] && l.row_stride == l.tile) {
      l.slots = 1;
      local.push_back({made[i], used[i], bytes(l.tile * channels), &l.offset});
    } else {
      items.push_back({begin[i], end[i], bytes(l.size), &l.offset});
    }
  }
  for (int64_t s = 0; s < steps; ++s)
    for (uint32_t i = out.steps[s].begin(); i < out.steps[s].end(); ++i) {
      BuiltOp& b = out.ops[i];
      if (b.window.ahead) items.push_back({s, s, bytes(b.window.channel_floats * v.values[b.record->inputs[0]].channels), &b.window.ahead_at});
    }
  out.local_floats = fit(local) / 4;
  const size_t total = fit(items);
  if (total > (size_t{1} << 36)) fail("the plan needs %zu bytes for these shapes", total);
  out.arena = AlignedBytes(total);
  std::memset(out.arena.data(), 0, total);
}

}  // namespace sparsec
