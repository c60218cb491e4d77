// Operators that compute a tile of their output from the same tile of their operands.
#include <algorithm>

#include "run_context.h"

namespace sparsec {
namespace {

SpmmArgs product_args(const Context& c, const BuiltOp& b, int64_t tile) {
  SpmmArgs a{};
  const View y = c.view(b.record->output);
  a.y = y.at(tile, 0);
  a.ldy = y.layout.row_stride;
  if (b.record->inputs[1] != kNone) {
    const View r = c.view(b.record->inputs[1]);
    a.residual = r.at(tile, 0);
    a.ldr = r.layout.row_stride;
  }
  a.bias = b.bias.data();
  a.low = b.low;
  a.high = b.high;
  a.m = static_cast<int32_t>(c.channels(b));
  a.finish = b.table->finish[static_cast<int>(b.record->activation)];
  return a;
}

// One block of the reduction for one panel of the tile.
void run_part(const BuiltOp& b, SpmmArgs a, int chunk, int block, const Panel& panel) {
  const Pack& pack = *b.pack;
  const Pack::Part& part = pack.parts[chunk * pack.blocks + block];
  a.counts = pack.counts.data() + part.group;
  a.rows = pack.rows.data() + part.row;
  a.entries = pack.entries.data() + part.entry;
  a.groups = part.groups;
  a.first = block == 0;
  a.last = block + 1 == pack.blocks;
  a.y += panel.at;
  if (a.residual) a.residual += panel.at;
  panel.kernel->run(a);
}

const std::vector<Panel>& panels(const Context& c, const BuiltOp& b, int64_t tile) {
  return tile + 1 == c.out(b).tiles ? b.last_panels : b.panels;
}

void linear(const Context& c, const BuiltOp& b, int64_t tile, int chunk) {
  SpmmArgs a = product_args(c, b, tile);
  const float* x = c.view(b.record->inputs[0]).at(tile, 0);
  for (const Panel& panel : panels(c, b, tile)) {
    a.x = reinterpret_cast<const char*>(x + panel.at);
    for (int block = 0; block < b.pack->blocks; ++block) run_part(b, a, chunk, block, panel);
  }
}

void conv(const Context& c, const BuiltOp& b, int64_t tile, int chunk) {
  const Window& w = b.window;
  const int64_t channels = c.v.values[b.record->inputs[0]].channels, in_block = b.pack->depth / static_cast<int64_t>(w.offsets.size());
  const float* x = c.view(b.record->inputs[0]).base;
  const int lanes = b.table->lanes;
  const std::vector<Panel>& all = panels(c, b, tile);
  SpmmArgs a = product_args(c, b, tile);
  TapCopiesArgs copies{};
  copies.copies = w.copies.data();
  copies.count = static_cast<ptrdiff_t>(w.copies.size());
  copies.channel_stride = b.channel_stride;
  copies.room = w.room;
  copies.y = scratch(in_block * w.channel_floats);
  // Copies are those of the panels [i, stop).
  for (size_t i = 0, stop; i < all.size(); i = stop) {
    stop = w.shared ? all.size() : i + 1;
    const int64_t at = all[i].at;
    copies.first_vector = (tile * c.out(b).tile + at) / lanes;
    copies.vectors = (all[stop - 1].at - at + all[stop - 1].kernel->width) / lanes;
    for (int block = 0; block < b.pack->blocks; ++block) {
      copies.x = x + block * in_block * b.channel_stride;
      copies.channels = std::min(in_block, channels - block * in_block);
      if (w.phases.empty()) b.table->copy_taps(copies);
      else split_phases(c, b, copies);
      for (size_t p = i; p < stop; ++p) {
        a.x = reinterpret_cast<const char*>(copies.y + all[p].at - at);
        run_part(b, a, chunk, block, all[p]);
      }
    }
  }
}

void elementwise(const Context& c, const BuiltOp& b, int64_t tile, BinaryFn apply) {
  const View x = c.view(b.record->inputs[0]), other = c.view(b.record->inputs[1]), y = c.view(b.record->output);
  const FinishFn finish = b.table->finish[static_cast<int>(b.record->activation)];
  const int64_t width = c.out(b).tile;
  for (int64_t r = 0; r < c.channels(b); ++r) {
    apply(x.at(tile, r), other.at(tile, r), y.at(tile, r), width, b.low, b.high);
    if (finish) finish(y.at(tile, r), width);
  }
}

void activation(const Context& c, const BuiltOp& b, int64_t tile) {
  const View x = c.view(b.record->inputs[0]), y = c.view(b.record->output);
  const FinishFn finish = b.table->finish[static_cast<int>(b.record->activation)];
  const int64_t width = c.out(b).tile;
  for (int64_t r = 0; r < c.channels(b); ++r) {
    std::memcpy(y.at(tile, r), x.at(tile, r), width * 4);
    if (finish) finish(y.at(tile, r), width);
    else b.table->clip(y.at(tile, r), width, b.low, b.high);
  }
}

void norm(const Context& c, const BuiltOp& b, int64_t tile) {
  const OpRecord& op = *b.record;
  const float* x = c.view(op.inputs[0]).at(tile, 0);
  float* y = c.view(op.output).at(tile, 0);
  const float* gain = c.v.floats(c.v.tensors[op.gain].values_at);
  if (op.code == OpCode::kRmsNorm) {
    b.table->rms_norm(x, y, c.channels(b), c.out(b).tile, gain, op.alpha);
  } else {
    const float* other = op.inputs[1] == kNone ? nullptr : c.view(op.inputs[1]).at(tile, 0);
    b.table->layer_norm(x, other, y, c.channels(b), c.out(b).tile, gain, b.bias.data(), op.alpha);
  }
}

}  // namespace

void run_tile(const Context& c, const BuiltOp& b, int64_t tile, int chunk) {
  switch (b.record->code) {
    case OpCode::kLinear: return linear(c, b, tile, chunk);
    case OpCode::kConv: return conv(c, b, tile, chunk);
    case OpCode::kDepthwise: return depthwise_tile(c, b, tile);
    case OpCode::kAdd: return elementwise(c, b, tile, b.table->add);
    case OpCode::kMultiply: return elementwise(c, b, tile, b.table->multiply);
    case OpCode::kActivation: return activation(c, b, tile);
    default: return norm(c, b, tile);
  }
}

}  // namespace sparsec
