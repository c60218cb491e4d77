// Runs a built plan: operators one after the other, each split into independent tasks.
#include <algorithm>
#include <chrono>
#include <cstring>
#include <limits>

#include "plan.h"
#include "task_memory.h"

namespace sparsec {
namespace {

class Run {
 public:
  Run(const PlanView& view, Instance& instance, const SparsecTensor* inputs, SparsecTensor* outputs, Parallel& parallel)
      : v_(view), in_(instance), inputs_(inputs), outputs_(outputs), parallel_(parallel) {}

  void all(double* seconds) {
    using Clock = std::chrono::steady_clock;
    auto last = Clock::now();
    const auto lap = [&](uint32_t slot) {
      if (!seconds) return;
      const auto now = Clock::now();
      seconds[slot] += std::chrono::duration<double>(now - last).count();
      last = now;
    };
    const uint32_t ops = v_.header->op_count;
    for (image_ = 0; image_ < in_.batch; ++image_) {
      for (uint32_t i = 0; i < v_.header->input_count; ++i) read_input(i);
      lap(ops);
      for (uint32_t i = 0; i < ops; ++i) {
        op(in_.ops[i]);
        lap(i);
      }
      for (uint32_t i = 0; i < v_.header->output_count; ++i) write_output(i);
      lap(ops + 1);
    }
  }

 private:
  template <class F>
  void each(size_t tasks, F f) {
    parallel_.run(tasks, [](void* data, size_t i) { (*static_cast<F*>(data))(i); }, &f);
  }

  View view(uint32_t value) const {
    const Layout& l = in_.values[value];
    if (l.external >= 0) {
      float* base = inputs_[l.external].data + image_ * l.columns * v_.values[value].channels;
      return {base, l.tile_stride, l.row_stride};
    }
    return {reinterpret_cast<float*>(in_.arena.data() + l.offset), l.tile_stride, l.row_stride};
  }

  void read_input(uint32_t i) {
    const uint32_t id = v_.inputs[i];
    const Layout& l = in_.values[id];
    const int64_t channels = v_.values[id].channels;
    if (v_.values[id].kind == ValueKind::kRaw || l.external >= 0 || l.columns == 0) return;
    const View x = view(id);
    if (v_.values[id].kind == ValueKind::kRows) {
      each(l.tiles, [&](size_t tile) {
        const int64_t n = std::min(l.tile, l.columns - static_cast<int64_t>(tile) * l.tile);
        in_table(l).to_tile(inputs_[i].data + tile * l.tile * channels, channels, n, channels, x.at(tile, 0), l.tile);
      });
      return;
    }
    const float* source = inputs_[i].data + image_ * l.columns * channels;
    each(l.tiles, [&](size_t tile) {
      const int64_t begin = static_cast<int64_t>(tile) * l.tile, n = std::min(l.tile, l.columns - begin);
      for (int64_t c = 0; c < channels; ++c) {
        float* row = x.at(tile, c);
        std::memcpy(row, source + c * l.columns + begin, n * 4);
        std::fill(row + n, row + l.tile, 0.0f);
      }
    });
  }

  void write_output(uint32_t i) {
    const uint32_t id = v_.outputs[i];
    const Layout& l = in_.values[id];
    const int64_t channels = v_.values[id].channels;
    const View y = view(id);
    if (v_.values[id].kind == ValueKind::kRows) {
      each(l.tiles, [&](size_t tile) {
        const int64_t n = std::min(l.tile, l.columns - static_cast<int64_t>(tile) * l.tile);
        in_table(l).from_tile(y.at(tile, 0), l.tile, channels, outputs_[i].data + tile * l.tile * channels, channels, n);
      });
      return;
    }
    float* target = outputs_[i].data + image_ * l.columns * channels;
    each(l.tiles, [&](size_t tile) {
      const int64_t begin = static_cast<int64_t>(tile) * l.tile, n = std::min(l.tile, l.columns - begin);
      for (int64_t c = 0; c < channels; ++c) std::memcpy(target + c * l.columns + begin, y.at(tile, c), n * 4);
    });
  }

  const KernelTable& in_table(const Layout& l) const {
    for (const BuiltOp& b : in_.ops)
      if (l.tile % b.table->lanes == 0) return *b.table;
    return *in_.ops[0].table;
  }

  void op(const BuiltOp& b) {
    if (in_.values[b.record->output].columns == 0) return;
    switch (b.record->code) {
      case OpCode::kLinear: return linear(b);
      case OpCode::kConv: return conv(b);
      case OpCode::kDepthwise: return depthwise(b);
      case OpCode::kAdd: return elementwise(b, b.table->add);
      case OpCode::kMultiply: return elementwise(b, b.table->multiply);
      case OpCode::kActivation: return activation(b);
      case OpCode::kLayerNorm: return layer_norm(b);
      case OpCode::kRmsNorm: return rms_norm(b);
      case OpCode::kAttention: return attention(b);
      case OpCode::kMaxPool: return max_pool(b);
      case OpCode::kGlobalAveragePool: return average(b);
    }
  }

  SpmmArgs product_args(const BuiltOp& b, int64_t tile) const {
    SpmmArgs a{};
    const View y = view(b.record->output);
    a.y = y.at(tile, 0);
    a.ldy = y.row_stride;
    if (b.record->inputs[1] != kNone) {
      const View r = view(b.record->inputs[1]);
      a.residual = r.at(tile, 0);
      a.ldr = r.row_stride;
    }
    a.bias = b.bias.data();
    a.low = b.low;
    a.high = b.high;
    a.m = static_cast<int32_t>(v_.values[b.record->output].channels);
    a.finish = b.table->finish[static_cast<int>(b.record->activation)];
    return a;
  }

  static void run_part(const BuiltOp& b, SpmmArgs a, int chunk, int block, int64_t tile_columns) {
    const Pack& pack = *b.pack;
    const Pack::Part& part = pack.parts[chunk * pack.blocks + block];
    a.counts = pack.counts.data() + part.group;
    a.rows = pack.rows.data() + part.row;
    a.entries = pack.entries.data() + part.entry;
    a.groups = part.groups;
    a.first = block == 0;
    a.last = block + 1 == pack.blocks;
    const int width = b.kernel->width;
    for (int64_t at = 0; at < tile_columns; at += width) {
      SpmmArgs s = a;
      s.x += at * 4;
      s.y += at;
      if (s.residual) s.residual += at;
      b.kernel->run(s);
    }
  }

  void linear(const BuiltOp& b) {
    const Layout& y = in_.values[b.record->output];
    const View x = view(b.record->inputs[0]);
    const int chunks = b.pack->chunks;
    each(y.tiles * chunks, [&](size_t task) {
      const int64_t tile = task / chunks;
      SpmmArgs a = product_args(b, tile);
      a.x = reinterpret_cast<const char*>(x.at(tile, 0));
      for (int block = 0; block < b.pack->blocks; ++block) run_part(b, a, task % chunks, block, y.tile);
    });
  }

  Taps taps(const BuiltOp& b) const {
    const Window& w = b.window;
    return {w.offsets.data(), w.masks.empty() ? nullptr : w.masks.data(), w.masks.empty() ? nullptr : w.full.data(), w.taps};
  }

  // The planes of one channel of a strided window.
  void split_planes(const BuiltOp& b, const float* x, float* planes) const {
    const Layout& in = in_.values[b.record->inputs[0]];
    const Layout& out = in_.values[b.record->output];
    const Window& w = b.window;
    const int64_t sy = b.record->stride[0], sx = b.record->stride[1];
    for (size_t i = 0; i < w.planes.size(); ++i) {
      float* row = planes + i * w.plane_size;
      const int64_t shift = w.planes[i].shift;
      const int64_t begin = std::min(out.width, shift < 0 ? (-shift + sx - 1) / sx : 0);
      const int64_t end = std::clamp<int64_t>(in.width > shift ? (in.width - shift + sx - 1) / sx : 0, begin, out.width);
      for (int64_t r = 0; r < w.plane_rows; ++r, row += out.width) {
        const int64_t y = (w.first + r) * sy + w.planes[i].remainder;
        if (y < 0 || y >= in.height) {
          std::fill(row, row + out.width, 0.0f);
          continue;
        }
        std::fill(row, row + begin, 0.0f);
        b.table->copy_strided(x + y * in.width + begin * sx + shift, sx, row + begin, end - begin);
        std::fill(row + end, row + out.width, 0.0f);
      }
    }
  }

  void conv(const BuiltOp& b) {
    const Layout& y = in_.values[b.record->output];
    const int64_t channels = v_.values[b.record->inputs[0]].channels;
    const View in = view(b.record->inputs[0]);
    const float* x = in.base;
    if (!b.window.planes.empty()) {
      float* planes = reinterpret_cast<float*>(in_.arena.data() + b.planes_at);
      each(channels, [&](size_t c) { split_planes(b, in.base + c * in.row_stride, planes + c * b.channel_stride); });
      x = planes;
    }
    const int chunks = b.pack->chunks, lanes = b.table->lanes;
    const int64_t total = channels * b.window.taps, depth = b.pack->depth;
    each(y.tiles * chunks, [&](size_t task) {
      const int64_t tile = task / chunks;
      SpmmArgs a = product_args(b, tile);
      float* rows = scratch(depth * y.tile);
      a.x = reinterpret_cast<const char*>(rows);
      PatchArgs p{};
      p.taps = taps(b);
      p.first_vector = tile * y.tile / lanes;
      p.vectors = y.tile / lanes;
      for (int block = 0; block < b.pack->blocks; ++block) {
        float* row = rows;
        for (int64_t k = block * depth, end = std::min(total, k + depth); k < end;) {
          const int64_t c = k / b.window.taps;
          p.begin = static_cast<int32_t>(k % b.window.taps);
          p.end = static_cast<int32_t>(std::min<int64_t>(b.window.taps, p.begin + end - k));
          p.x = x + c * b.channel_stride;
          p.rows = row;
          b.table->patch(p);
          row += (p.end - p.begin) * y.tile;
          k += p.end - p.begin;
        }
        run_part(b, a, task % chunks, block, y.tile);
      }
    });
  }

  // Input rows [from, from + count) of one channel, split and padded.
  void pad_rows(const BuiltOp& b, const float* x, int64_t from, int64_t count, float* padded) const {
    const Layout& in = in_.values[b.record->inputs[0]];
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
        const float* source = x + y * in.width + start + begin * stride;
        b.table->copy_strided(source, stride, line + begin, end - begin);
        std::fill(line + end, line + p.phase_line, 0.0f);
      }
    }
  }

  void depthwise(const BuiltOp& b) {
    const OpRecord& op = *b.record;
    const Layout& l = in_.values[op.output];
    const View in = view(op.inputs[0]), out = view(op.output);
    const float* weights = v_.floats(v_.tensors[op.weight].values_at);
    const FinishFn finish = b.table->finish[static_cast<int>(op.activation)];
    const int64_t reach = int64_t{op.dilation[0]} * (op.kernel[0] - 1) + 1;
    each(v_.values[op.output].channels, [&](size_t c) {
      const int64_t band = std::min(b.padded.band, l.height);
      const int64_t lines = (band - 1) * op.stride[0] + reach;
      float* padded = scratch(lines * b.padded.line + round_up(band * l.width, 16) + 128);
      float* rows = padded + lines * b.padded.line + 64;
      DepthwiseArgs d{};
      d.x = padded;
      d.weight = weights + static_cast<int64_t>(c) * op.kernel[0] * op.kernel[1];
      d.y = rows;
      d.kernel[0] = op.kernel[0];
      d.kernel[1] = op.kernel[1];
      d.stride = op.stride[0];
      d.dilation = op.dilation[0];
      d.line = b.padded.line;
      if (!b.padded.direct.empty()) {
        d.masks = b.padded.direct.data();
        d.line = in_.values[op.inputs[0]].width;
        d.x = in.base + c * in.row_stride;
      }
      d.columns = b.padded.columns.data();
      d.width = l.width;
      d.bias = b.bias[c];
      d.low = b.low;
      d.high = b.high;
      for (int64_t r = 0; r < l.height; r += band) {
        d.rows = std::min(band, l.height - r);
        if (d.masks) {
          d.top = r - op.pads[0];
          d.height = in_.values[op.inputs[0]].height;
        } else {
          pad_rows(b, in.base + c * in.row_stride, r * op.stride[0] - op.pads[0], (d.rows - 1) * op.stride[0] + reach, padded);
        }
        b.table->depthwise(d);
        if (finish) finish(rows, d.rows * l.width);
        copy_columns(out, l.tile, c, r * l.width, d.rows * l.width, rows, true);
      }
    });
  }

  void elementwise(const BuiltOp& b, BinaryFn apply) {
    const Layout& l = in_.values[b.record->output];
    const View x = view(b.record->inputs[0]), other = view(b.record->inputs[1]), y = view(b.record->output);
    const int64_t channels = v_.values[b.record->output].channels;
    const FinishFn finish = b.table->finish[static_cast<int>(b.record->activation)];
    each(l.tiles, [&](size_t tile) {
      for (int64_t c = 0; c < channels; ++c) {
        apply(x.at(tile, c), other.at(tile, c), y.at(tile, c), l.tile, b.low, b.high);
        if (finish) finish(y.at(tile, c), l.tile);
      }
    });
  }

  void activation(const BuiltOp& b) {
    const Layout& l = in_.values[b.record->output];
    const View x = view(b.record->inputs[0]), y = view(b.record->output);
    const int64_t channels = v_.values[b.record->output].channels;
    const FinishFn finish = b.table->finish[static_cast<int>(b.record->activation)];
    each(l.tiles, [&](size_t tile) {
      for (int64_t c = 0; c < channels; ++c) {
        std::memcpy(y.at(tile, c), x.at(tile, c), l.tile * 4);
        if (finish) finish(y.at(tile, c), l.tile);
        else b.table->clip(y.at(tile, c), l.tile, b.low, b.high);
      }
    });
  }

  void layer_norm(const BuiltOp& b) {
    const Layout& l = in_.values[b.record->output];
    const OpRecord& op = *b.record;
    const View x = view(op.inputs[0]), y = view(op.output);
    each(l.tiles, [&](size_t tile) {
      const float* other = op.inputs[1] == kNone ? nullptr : view(op.inputs[1]).at(tile, 0);
      b.table->layer_norm(x.at(tile, 0), other, y.at(tile, 0), v_.values[op.output].channels, l.tile,
                          v_.floats(v_.tensors[op.gain].values_at), b.bias.data(), op.alpha);
    });
  }

  void rms_norm(const BuiltOp& b) {
    const Layout& l = in_.values[b.record->output];
    const OpRecord& op = *b.record;
    const View x = view(op.inputs[0]), y = view(op.output);
    const float* gain = v_.floats(v_.tensors[op.gain].values_at);
    each(l.tiles, [&](size_t tile) {
      b.table->rms_norm(x.at(tile, 0), y.at(tile, 0), v_.values[op.output].channels, l.tile, gain, op.alpha);
    });
  }

  // Columns [begin, begin + n) of one row of a tiled value, gathered or scattered.
  static void copy_columns(const View& v, int64_t tile, int64_t row, int64_t begin, int64_t n, float* flat, bool out) {
    while (n > 0) {
      const int64_t in_tile = begin % tile, step = std::min(n, tile - in_tile);
      float* p = v.at(begin / tile, row) + in_tile;
      if (out) std::memcpy(p, flat, step * 4);
      else std::memcpy(flat, p, step * 4);
      begin += step;
      flat += step;
      n -= step;
    }
  }

  // Per head and sequence: P = softmax(alpha K^T Q + mask) over keys, out = V P. Columns are queries,
  // so that the softmax runs down the columns of a vector.
  void attention(const BuiltOp& b) {
    const OpRecord& op = *b.record;
    const Layout& l = in_.values[op.output];
    const int64_t size = v_.values[op.output].channels / op.heads, length = in_.length;
    const int64_t padded = round_up(length, b.table->lanes);
    const int64_t wide = std::min<int64_t>(padded, 64);
    const View q = view(op.inputs[0]), k = view(op.inputs[1]), v = view(op.inputs[2]), y = view(op.output);
    each(in_.sequences * op.heads, [&](size_t task) {
      const int64_t sequence = task / op.heads, head = task % op.heads, start = sequence * length;
      float* qs = scratch(3 * size * padded + padded * wide + size * wide);
      float* ks = qs + size * padded;
      float* vs = ks + size * padded;
      float* scores = vs + size * padded;
      float* part = scores + padded * wide;
      for (int64_t d = 0; d < size; ++d) {
        copy_columns(q, l.tile, head * size + d, start, length, qs + d * padded, false);
        copy_columns(k, l.tile, head * size + d, start, length, ks + d * padded, false);
        copy_columns(v, l.tile, head * size + d, start, length, vs + d * padded, false);
        std::fill(qs + d * padded + length, qs + (d + 1) * padded, 0.0f);
      }
      const float* mask = nullptr;
      int64_t mask_ld = 0;
      if (op.inputs[3] != kNone) mask = mask_rows(op.inputs[3], sequence, head, &mask_ld);
      for (int64_t i = 0; i < padded; i += wide) {
        const int64_t n = std::min(wide, padded - i);
        b.table->dense({ks, 1, padded, qs + i, padded, scores, n, length, size, n, op.alpha});
        b.table->softmax_columns(scores, n, length, n, mask ? mask + i * mask_ld : nullptr, mask_ld, length - i);
        b.table->dense({vs, padded, 1, scores, n, part, n, size, length, n, 1.0f});
        const int64_t real = std::min(n, length - i);
        for (int64_t d = 0; d < size; ++d)
          copy_columns(y, l.tile, head * size + d, start + i, real, part + d * n, true);
      }
    });
  }

  const float* mask_rows(uint32_t value, int64_t sequence, int64_t head, int64_t* ld) const {
    const SparsecTensor& m = inputs_[std::find(v_.inputs, v_.inputs + v_.header->input_count, value) - v_.inputs];
    *ld = m.dims[2] == 1 ? 0 : m.dims[3];
    const int64_t plane = m.dims[2] * m.dims[3];
    return m.data + (m.dims[0] == 1 ? 0 : sequence * m.dims[1] * plane) + (m.dims[1] == 1 ? 0 : head * plane);
  }

  void max_pool(const BuiltOp& b) {
    const OpRecord& op = *b.record;
    const Layout& in = in_.values[op.inputs[0]];
    const Layout& out = in_.values[op.output];
    const View x = view(op.inputs[0]), y = view(op.output);
    constexpr float kLeast = -std::numeric_limits<float>::infinity();
    each(v_.values[op.output].channels, [&](size_t c) {
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
          const float* row = x.at(0, c) + from * in.width;
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
      copy_columns(y, out.tile, c, 0, out.columns, flat, true);
    });
  }

  void average(const BuiltOp& b) {
    const Layout& in = in_.values[b.record->inputs[0]];
    const View x = view(b.record->inputs[0]), y = view(b.record->output);
    for (int64_t c = 0; c < v_.values[b.record->output].channels; ++c) {
      double sum = 0;
      for (int64_t tile = 0; tile < in.tiles; ++tile) {
        const float* row = x.at(tile, c);
        const int64_t n = std::min(in.tile, in.columns - tile * in.tile);
        float part = 0;
        for (int64_t i = 0; i < n; ++i) part += row[i];
        sum += part;
      }
      *y.at(0, c) = static_cast<float>(sum / static_cast<double>(in.columns));
    }
  }

  const PlanView& v_;
  Instance& in_;
  const SparsecTensor* inputs_;
  SparsecTensor* outputs_;
  Parallel& parallel_;
  int64_t image_ = 0;
};

}  // namespace

void run_instance(Plan& plan, Instance& instance, const SparsecTensor* inputs, SparsecTensor* outputs,
                  Parallel& parallel, double* seconds) {
  if (instance.direct) return run_direct(plan.view, instance, inputs, outputs, parallel);
  Run(plan.view, instance, inputs, outputs, parallel).all(seconds);
}

}  // namespace sparsec
