// Depthwise convolution and pooling.
#include <algorithm>
#include <limits>

#include "run_context.h"

namespace sparsec {

namespace {

// Input rows [from, from + count) of one channel, split and padded.
void pad_rows(const Context& c, const BuiltOp& b, const float* x, int64_t from, int64_t count, float* padded) {
  const Layout& in = c.in.values[b.record->inputs[0]];
  const Padded& p = b.padded;
  const int64_t stride = b.record->stride[1];
  if (!p.masks.empty()) {
    b.table->pad({x, in.width, in.height, from, count, padded, p.line, p.phase_line, static_cast<int32_t>(p.phase_columns.size()),
                  static_cast<int32_t>(stride), p.phase_columns.data(), p.masks.data()});
    return;
  }
  for (int64_t i = 0; i < count; ++i) {
    float* line = padded + i * p.line;
    const int64_t y = from + i;
    if (y < 0 || y >= in.height) {
      std::fill(line, line + p.line, 0.0f);
      continue;
    }
    for (size_t k = 0; k < p.phase_columns.size(); ++k, line += p.phase_line) {
      const int64_t start = p.phase_columns[k];
      const int64_t begin = std::min(p.phase_line, start < 0 ? (-start + stride - 1) / stride : 0);
      const int64_t end = std::clamp<int64_t>(in.width > start ? (in.width - start + stride - 1) / stride : 0, begin, p.phase_line);
      std::fill(line, line + begin, 0.0f);
      b.table->copy_strided(x + y * in.width + start + begin * stride, stride, line + begin, end - begin);
      std::fill(line + end, line + p.phase_line, 0.0f);
    }
  }
}

DepthwiseArgs depthwise_args(const Context& c, const BuiltOp& b, int64_t channel) {
  const OpRecord& op = *b.record;
  const Layout& l = c.out(b);
  DepthwiseArgs d{};
  d.weight = c.v.floats(c.v.tensors[op.weight].values_at) + channel * op.kernel[0] * op.kernel[1];
  d.kernel[0] = op.kernel[0];
  d.kernel[1] = op.kernel[1];
  d.stride = op.stride[0];
  d.dilation = op.dilation[0];
  d.line = b.padded.line;
  d.columns = b.padded.columns.data();
  d.width = l.width;
  d.bias = b.bias.data() + channel;
  d.channels = 1;
  d.low = b.low;
  d.high = b.high;
  if (b.padded.direct.empty()) return d;
  const Layout& in = c.in.values[op.inputs[0]];
  d.x = c.view(op.inputs[0]).at(0, channel);
  d.line = in.width;
  d.left = op.pads[1];
  d.masks = b.padded.direct.data();
  d.edges = b.padded.edges.data();
  d.zeros = b.padded.zeros.data();
  d.packed = b.padded.packed;
  return d;
}

// Rows [begin, end) of all channels of d, written where they belong.
void rows_in_place(const BuiltOp& b, DepthwiseArgs& d, float* y, int64_t begin, int64_t end) {
  d.y = y;
  d.top = begin * b.record->stride[0] - b.record->pads[0];
  d.row_at = b.padded.rows.data() + begin * b.record->stride[0];
  d.rows = end - begin;
  d.masks = b.padded.direct.data() + (d.packed ? begin * d.kernel[1] : 0);
  b.depthwise->run(d);
  if (const FinishFn finish = b.table->finish[static_cast<int>(b.record->activation)])
    for (int64_t r = 0; r < d.channels; ++r) finish(y + r * d.y_step, d.rows * d.width);
}

// One channel by way of rows of its own: where tiles hold no whole rows, or the input needs a padded copy.
void depthwise_copied(const Context& c, const BuiltOp& b, int64_t channel) {
  const OpRecord& op = *b.record;
  const Layout& l = c.out(b);
  const View y = c.view(op.output);
  DepthwiseArgs d = depthwise_args(c, b, channel);
  const FinishFn finish = b.table->finish[static_cast<int>(op.activation)];
  const int64_t reach = int64_t{op.dilation[0]} * (op.kernel[0] - 1) + 1;
  const int64_t band = std::min(b.padded.band, l.height);
  const bool copied = b.padded.direct.empty();
  const int64_t lines = copied ? (band - 1) * op.stride[0] + reach : 0;
  float* padded = scratch(lines * d.line + round_up(band * l.width, 16) + 128);
  d.y = padded + lines * d.line + 64;
  const float* x = c.view(op.inputs[0]).at(0, channel);
  for (int64_t r = 0; r < l.height; r += band) {
    d.rows = std::min(band, l.height - r);
    d.top = r * op.stride[0] - op.pads[0];
    if (!copied) d.row_at = b.padded.rows.data() + r * op.stride[0];
    if (d.packed) d.masks = b.padded.direct.data() + r * d.kernel[1];
    if (copied) {
      pad_rows(c, b, x, d.top, (d.rows - 1) * op.stride[0] + reach, padded);
      d.x = padded;
    }
    b.depthwise->run(d);
    if (finish) finish(d.y, d.rows * l.width);
    copy_columns(y, l.held, channel, r * l.width, d.rows * l.width, d.y, true);
  }
}

}  // namespace

void depthwise_tile(const Context& c, const BuiltOp& b, int64_t tile, int64_t channel, int64_t stop) {
  const Layout& l = c.out(b);
  const View y = c.view(b.record->output);
  const int64_t band = l.held / l.width, begin = tile * band, end = std::min(l.height, begin + band);
  DepthwiseArgs d = depthwise_args(c, b, channel);
  d.channels = stop - channel;
  d.x_step = c.in.values[b.record->inputs[0]].row_stride;
  d.y_step = y.layout.row_stride;
  rows_in_place(b, d, y.at(tile, channel), begin, end);
}

void depthwise_channels(const Context& c, const BuiltOp& b, int64_t channel, int64_t stop) {
  const OpRecord& op = *b.record;
  const Layout& l = c.out(b);
  const View y = c.view(op.output);
  if (!b.by_rows) {
    for (; channel < stop; ++channel) depthwise_copied(c, b, channel);
    return;
  }
  const bool one_piece = l.tile_stride == l.held;
  const int64_t band = one_piece ? l.height : l.held / l.width;
  for (int64_t r = 0, tile = 0; r < l.height; r += band, ++tile) {
    DepthwiseArgs d = depthwise_args(c, b, channel);
    d.channels = stop - channel;
    d.x_step = c.in.values[op.inputs[0]].row_stride;
    d.y_step = y.layout.row_stride;
    rows_in_place(b, d, y.at(tile, channel), r, std::min(l.height, r + band));
  }
}

void max_pool_channel(const Context& c, const BuiltOp& b, int64_t channel) {
  const OpRecord& op = *b.record;
  const Layout& in = c.in.values[op.inputs[0]];
  const Layout& out = c.out(b);
  const float* x = c.view(op.inputs[0]).at(0, channel);
  constexpr float kLeast = -std::numeric_limits<float>::infinity();
  // Rows first: one padded row of maxima, then the columns of the window.
  const int64_t line = in.width + op.pads[1] + op.pads[3];
  float* top = scratch(line + out.columns + out.width);
  float* flat = top + line;
  float* strided = flat + out.columns;
  for (int64_t r = 0; r < out.height; ++r) {
    std::fill(top, top + line, kLeast);
    for (int ky = 0; ky < op.kernel[0]; ++ky) {
      const int64_t from = r * op.stride[0] + int64_t{ky} * op.dilation[0] - op.pads[0];
      if (from < 0 || from >= in.height) continue;
      const float* row = x + from * in.width;
      float* t = top + op.pads[1];
      for (int64_t i = 0; i < in.width; ++i) t[i] = row[i] > t[i] ? row[i] : t[i];
    }
    float* best = flat + r * out.width;
    std::fill(best, best + out.width, kLeast);
    for (int kx = 0; kx < op.kernel[1]; ++kx) {
      b.table->copy_strided(top + int64_t{kx} * op.dilation[1], op.stride[1], strided, out.width);
      for (int64_t i = 0; i < out.width; ++i) best[i] = strided[i] > best[i] ? strided[i] : best[i];
    }
  }
  copy_columns(c.view(op.output), out.held, channel, 0, out.columns, flat, true);
}

void average_channel(const Context& c, const BuiltOp& b, int64_t channel) {
  const Layout& in = c.in.values[b.record->inputs[0]];
  const View x = c.view(b.record->inputs[0]);
  // Every column adds to the sum of its number modulo 8: the result does not depend on how they are cut in tiles.
  double part[8] = {};
  for (int64_t tile = 0, begin = 0; tile < in.tiles; ++tile, begin += in.held) {
    const float* row = x.at(tile, channel);
    const int64_t n = in.held_by(tile);
    int64_t i = 0;
    for (; begin % 8 == 0 && i + 8 <= n; i += 8)
      for (int l = 0; l < 8; ++l) part[l] += row[i + l];
    for (; i < n; ++i) part[(begin + i) % 8] += row[i];
  }
  double sum = 0;
  for (double p : part) sum += p;
  *c.view(b.record->output).at(0, channel) = static_cast<float>(sum / static_cast<double>(in.columns));
}

}  // namespace sparsec
