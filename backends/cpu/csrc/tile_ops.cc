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
  a.few = part.few;
  a.first = block == 0;
  a.last = block + 1 == pack.blocks;
  a.y += panel.at;
  if (a.residual) a.residual += panel.at;
  panel.kernel->run(a);
}

const std::vector<Panel>& panels(const Context& c, const BuiltOp& b, int64_t tile) {
  return tile + 1 == c.out(b).tiles ? b.last_panels : b.panels;
}

// A piece is a panel, or one of so many parts of its rows.
void linear(const Context& c, const BuiltOp& b, int64_t tile, int64_t piece) {
  SpmmArgs a = product_args(c, b, tile);
  const Panel& panel = panels(c, b, tile)[piece / b.pack->chunks];
  a.x = reinterpret_cast<const char*>(c.view(b.record->inputs[0]).at(tile, 0) + panel.at);
  for (int block = 0; block < b.pack->blocks; ++block) run_part(b, a, static_cast<int>(piece % b.pack->chunks), block, panel);
}

// A weight for few columns, as behind the pooling of an image, is read as it is stored: packed for tiles it would be
// multiplied by a vector of columns most of which are not there.
void few_columns(const Context& c, const BuiltOp& b, int64_t tile, int64_t piece) {
  const TensorRecord& t = c.v.tensors[b.record->weight];
  const View x = c.view(b.record->inputs[0]), y = c.view(b.record->output);
  float* row = scratch(t.columns + 2 * t.rows);
  float *out = row + t.columns, *residual = b.record->inputs[1] == kNone ? nullptr : out + t.rows;
  for (int64_t column = 0; column < c.out(b).held_by(tile); ++column) {
    for (int64_t k = 0; k < t.columns; ++k) row[k] = x.at(tile, k)[column];
    for (int64_t r = 0; residual && r < t.rows; ++r) residual[r] = c.view(b.record->inputs[1]).at(tile, r)[column];
    const auto [begin, end] = gemv_part(c.v, b, piece, b.parts, row, residual, out);
    for (int64_t r = begin; r < end; ++r) y.at(tile, r)[column] = out[r];
  }
}

PhaseCopiesArgs copies_args(const Context& c, const BuiltOp& b) {
  const Window& w = b.window;
  const Layout& in = c.in.values[b.record->inputs[0]];
  PhaseCopiesArgs copies{};
  copies.copies = w.copies.data();
  copies.count = static_cast<ptrdiff_t>(w.copies.size());
  copies.channel_stride = b.channel_stride;
  copies.room = w.room;
  copies.phases = w.phases.data();
  copies.width = in.width;
  copies.height = in.height;
  copies.out_width = c.out(b).width;
  copies.stride_y = b.record->stride[0];
  copies.stride_x = b.record->stride[1];
  return copies;
}

void make_copies(const BuiltOp& b, const PhaseCopiesArgs& copies) {
  if (b.window.phases.empty()) b.table->copy_taps(copies);
  else b.table->copy_phases(copies);
}

float* copies_ahead(const Context& c, const BuiltOp& b) { return reinterpret_cast<float*>(c.in.arena.data() + b.window.ahead_at); }

void conv(const Context& c, const BuiltOp& b, int64_t tile, int chunk) {
  const Window& w = b.window;
  const int64_t channels = c.v.values[b.record->inputs[0]].channels, in_block = b.pack->depth / static_cast<int64_t>(w.offsets.size());
  const int64_t begin = tile * c.out(b).tile;
  const float* x = c.view(b.record->inputs[0]).base;
  const int lanes = b.table->lanes;
  const std::vector<Panel>& all = panels(c, b, tile);
  SpmmArgs a = product_args(c, b, tile);
  if (w.ahead) {
    for (const Panel& panel : all)
      for (int block = 0; block < b.pack->blocks; ++block) {
        a.x = reinterpret_cast<const char*>(copies_ahead(c, b) + block * in_block * w.channel_floats + begin + panel.at);
        run_part(b, a, chunk, block, panel);
      }
    return;
  }
  PhaseCopiesArgs copies = copies_args(c, b);
  copies.y = scratch(in_block * w.channel_floats);
  // Copies are those of the panels [i, stop).
  for (size_t i = 0, stop; i < all.size(); i = stop) {
    stop = w.shared ? all.size() : i + 1;
    const int64_t at = all[i].at;
    copies.first_vector = (begin + at) / lanes;
    copies.vectors = (all[stop - 1].at - at + all[stop - 1].kernel->width) / lanes;
    for (int block = 0; block < b.pack->blocks; ++block) {
      copies.x = x + block * in_block * b.channel_stride;
      copies.channels = std::min(in_block, channels - block * in_block);
      make_copies(b, copies);
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

void copy_ahead(const Context& c, const BuiltOp& b, int64_t channel, int64_t stop) {
  PhaseCopiesArgs copies = copies_args(c, b);
  copies.vectors = c.out(b).tiles * c.out(b).tile / b.table->lanes;
  copies.x = c.view(b.record->inputs[0]).at(0, channel);
  copies.channels = stop - channel;
  copies.y = copies_ahead(c, b) + channel * b.window.channel_floats;
  make_copies(b, copies);
}

int64_t pieces_of(const Context& c, const BuiltOp& b, int64_t tile) {
  switch (b.record->code) {
    case OpCode::kLinear: return b.gemv ? b.parts : static_cast<int64_t>(panels(c, b, tile).size()) * b.pack->chunks;
    case OpCode::kConv: return b.pack->chunks;
    case OpCode::kDepthwise: return b.parts;
    default: return 1;
  }
}

void run_piece(const Context& c, const BuiltOp& b, int64_t tile, int64_t piece) {
  switch (b.record->code) {
    case OpCode::kLinear: return b.gemv ? few_columns(c, b, tile, piece) : linear(c, b, tile, piece);
    case OpCode::kConv: return conv(c, b, tile, static_cast<int>(piece));
    case OpCode::kDepthwise: return depthwise_tile(c, b, tile, c.channels(b) * piece / b.parts, c.channels(b) * (piece + 1) / b.parts);
    case OpCode::kAdd: return elementwise(c, b, tile, b.table->add);
    case OpCode::kMultiply: return elementwise(c, b, tile, b.table->multiply);
    case OpCode::kActivation: return activation(c, b, tile);
    default: return norm(c, b, tile);
  }
}

}  // namespace sparsec
