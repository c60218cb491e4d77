// Few columns, as in decoding: every value lies row by row as it does outside, and products read the
// stored weights once instead of a packed copy. A step is bound by the bytes of its weights.
#include <algorithm>
#include <chrono>
#include <cstring>

#include "plan.h"

namespace sparsec {
namespace {

// Values of a weight that are worth waking another thread for: about ten microseconds.
constexpr uint64_t kValuesPerThread = 8192;

bool prepare(const Plan& plan, BuiltOp& b) {
  const OpRecord& op = *b.record;
  if (op.code == OpCode::kAdd || op.code == OpCode::kMultiply || op.code == OpCode::kActivation || op.code == OpCode::kRmsNorm) return true;
  if (op.code != OpCode::kLinear) return false;
  const TensorRecord& t = plan.view.tensors[op.weight];
  b.gemv = find_gemv(plan, t, &b.table);
  return b.gemv != nullptr;
}

// The group of a weight that follows the first `part` of `parts` of its values.
int64_t border(const PlanView& v, const TensorRecord& t, int64_t part, int64_t parts) {
  const int64_t groups = divide_up(t.rows, t.block_rows);
  if (t.kind == TensorKind::kDense || part == 0 || part == parts) return groups * part / parts;
  const auto* starts = reinterpret_cast<const uint32_t*>(v.at(t.starts_at));
  return std::lower_bound(starts, starts + groups, static_cast<uint32_t>(t.count * part / parts)) - starts;
}

class DirectRun {
 public:
  DirectRun(const PlanView& view, const Instance& instance, std::vector<float*>& rows, Parallel& parallel)
      : v_(view), columns_(instance.direct_columns), rows_(rows), parallel_(parallel) {}

  void op(const BuiltOp& b) {
    const OpRecord& op = *b.record;
    const int64_t n = v_.values[op.output].channels;
    const float* x = rows_[op.inputs[0]];
    float* y = rows_[op.output];
    switch (op.code) {
      case OpCode::kLinear:
        return linear(b);
      case OpCode::kAdd:
        b.table->add(x, rows_[op.inputs[1]], y, n * columns_, b.low, b.high);
        break;
      case OpCode::kMultiply:
        b.table->multiply(x, rows_[op.inputs[1]], y, n * columns_, b.low, b.high);
        break;
      case OpCode::kRmsNorm: {
        const float* gain = v_.floats(v_.tensors[op.gain].values_at);
        for (int64_t c = 0; c < columns_; ++c) b.table->rms_norm_row(x + c * n, y + c * n, n, gain, op.alpha);
        break;
      }
      default:
        std::memcpy(y, x, n * columns_ * 4);
        if (op.activation == Activation::kClip) b.table->clip(y, n * columns_, b.low, b.high);
    }
    if (const FinishFn finish = b.table->finish[static_cast<int>(op.activation)]) finish(y, n * columns_);
  }

 private:
  void linear(const BuiltOp& b) {
    const OpRecord& op = *b.record;
    const TensorRecord& t = v_.tensors[op.weight];
    const int64_t parts = gemv_parts(t, parallel_.threads());
    auto task = [&](size_t index) {
      const int64_t column = static_cast<int64_t>(index) / parts;
      const float* residual = op.inputs[1] == kNone ? nullptr : rows_[op.inputs[1]] + column * t.rows;
      gemv_part(v_, b, static_cast<int64_t>(index) % parts, parts, rows_[op.inputs[0]] + column * t.columns, residual, rows_[op.output] + column * t.rows);
    };
    parallel_.run(columns_ * parts, [](void* data, size_t i) { (*static_cast<decltype(task)*>(data))(i); }, &task);
  }

  const PlanView& v_;
  int64_t columns_;
  std::vector<float*>& rows_;
  Parallel& parallel_;
};

}  // namespace

const GemvKernel* find_gemv(const Plan& plan, const TensorRecord& weight, const KernelTable** table) {
  if (weight.columns > 65536) return nullptr;  // 16 bits say which
  for (const KernelTable* t : plan.tables)
    for (int k = 0; k < t->gemv_count; ++k)
      if (t->gemv[k].values == weight.kind && t->gemv[k].block_rows == static_cast<int>(weight.block_rows)) {
        *table = t;
        return &t->gemv[k];
      }
  return nullptr;
}

int64_t gemv_parts(const TensorRecord& t, int threads) {
  // Twice as many parts as threads, of equally many values: a late thread holds up half a part.
  return threads > 1 ? std::clamp<int64_t>(static_cast<int64_t>(t.count * t.block_rows / kValuesPerThread), 1, 2 * threads) : 1;
}

std::pair<int64_t, int64_t> gemv_part(const PlanView& v, const BuiltOp& b, int64_t part, int64_t parts, const float* x, const float* residual, float* y) {
  const TensorRecord& t = v.tensors[b.record->weight];
  GemvArgs a{};
  if (t.kind != TensorKind::kDense) {
    a.starts = reinterpret_cast<const uint32_t*>(v.at(t.starts_at));
    a.columns = reinterpret_cast<const uint16_t*>(v.at(t.columns_at));
  }
  a.k = t.columns;
  a.values = v.at(t.values_at);
  a.scales = t.scales_at ? v.floats(t.scales_at) : nullptr;
  a.group_begin = border(v, t, part, parts);
  a.group_end = border(v, t, part + 1, parts);
  a.bias = b.bias.data();
  a.x = x;
  a.y = y;
  a.residual = residual;
  a.m = static_cast<int32_t>(t.rows);
  a.low = b.low;
  a.high = b.high;
  b.gemv->run(a);
  const int64_t begin = a.group_begin * t.block_rows, end = std::min<int64_t>(t.rows, a.group_end * t.block_rows);
  if (const FinishFn finish = b.table->finish[static_cast<int>(b.record->activation)]) finish(y + begin, end - begin);
  return {begin, end};
}

bool build_direct(const Plan& plan, const Shapes& shapes, Instance& out) {
  const PlanView& v = plan.view;
  out.direct_columns = shapes.values[v.outputs[0]].columns;
  if (out.direct_columns > kFewColumns) return false;
  for (uint32_t i = 0; i < v.header->value_count; ++i)
    if (v.values[i].kind != ValueKind::kRows) return false;
  std::vector<bool> outside(v.header->value_count, false);
  for (uint32_t i = 0; i < v.header->input_count + v.header->output_count; ++i) {
    if (outside[v.inputs[i]]) return false;  // one value in two places would need a copy
    outside[v.inputs[i]] = true;             // the outputs follow the inputs
  }
  for (BuiltOp& b : out.ops)
    if (!prepare(plan, b)) return false;
  std::vector<int64_t> at(v.header->value_count, -1);
  int64_t floats = 0;
  for (uint32_t i = 0; i < v.header->value_count; ++i) {
    if (outside[i]) continue;
    at[i] = floats;
    floats += round_up(out.direct_columns * v.values[i].channels, 16);
  }
  out.arena = AlignedBytes(floats * 4);
  out.rows.assign(v.header->value_count, nullptr);
  for (uint32_t i = 0; i < v.header->value_count; ++i)
    if (at[i] >= 0) out.rows[i] = out.arena.floats() + at[i];
  return out.direct = true;
}

void run_direct(const PlanView& v, Instance& instance, const SparsecTensor* inputs, const SparsecTensor* outputs,
                Parallel& parallel, double* seconds) {
  for (uint32_t i = 0; i < v.header->input_count; ++i) instance.rows[v.inputs[i]] = inputs[i].data;
  for (uint32_t i = 0; i < v.header->output_count; ++i) instance.rows[v.outputs[i]] = outputs[i].data;
  DirectRun run(v, instance, instance.rows, parallel);
  using Clock = std::chrono::steady_clock;
  for (size_t i = 0; i < instance.ops.size(); ++i) {
    const auto begun = seconds ? Clock::now() : Clock::time_point();
    run.op(instance.ops[i]);
    if (seconds) seconds[i] += std::chrono::duration<double>(Clock::now() - begun).count();
  }
}

}  // namespace sparsec
