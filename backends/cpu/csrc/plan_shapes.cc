// Shapes of all values from those of the inputs.
#include <algorithm>

#include "plan.h"

namespace sparsec {
namespace {

constexpr int64_t kMaxColumns = int64_t{1} << 28;

int64_t window_size(int64_t in, const OpRecord& op, int d, uint32_t at) {
  const int64_t reach = int64_t{op.dilation[d]} * (op.kernel[d] - 1) + 1;
  const int64_t span = in + op.pads[d] + op.pads[d + 2] - reach;
  if (span < 0) fail("operator %u: a window of %lld on %lld pixels", at, static_cast<long long>(reach), static_cast<long long>(in));
  return span / op.stride[d] + 1;
}

}  // namespace

Shapes infer_shapes(const PlanView& v, const SparsecTensor* inputs) {
  Shapes s;
  s.values.resize(v.header->value_count);
  bool first_image = true;
  for (uint32_t i = 0; i < v.header->input_count; ++i) {
    const auto& record = v.values[v.inputs[i]];
    const SparsecTensor& x = inputs[i];
    auto& shape = s.values[v.inputs[i]];
    if (x.rank != static_cast<int32_t>(record.rank))
      fail("input %u: rank %d, needed %u", i, x.rank, record.rank);
    int64_t elements = 1;
    for (int d = 0; d < x.rank; ++d) {
      if (x.dims[d] < 0 || x.dims[d] > kMaxColumns) fail("input %u: dimension %lld", i, static_cast<long long>(x.dims[d]));
      if (x.dims[d] && elements > (int64_t{1} << 40) / x.dims[d]) fail("input %u is too large", i);
      elements *= x.dims[d];
    }
    if (record.kind == ValueKind::kRaw) continue;
    const int channel = record.kind == ValueKind::kImage ? 1 : x.rank - 1;
    if (x.dims[channel] != record.channels)
      fail("input %u: %lld channels, needed %u", i, static_cast<long long>(x.dims[channel]), record.channels);
    if (record.kind == ValueKind::kImage) {
      if (!first_image && x.dims[0] != s.batch) fail("input %u: batch %lld, the others have %lld", i, static_cast<long long>(x.dims[0]), static_cast<long long>(s.batch));
      first_image = false;
      s.batch = x.dims[0];
      shape = {x.dims[2] * x.dims[3], x.dims[2], x.dims[3]};
    } else {
      shape.columns = elements / record.channels;
      if (!s.leading) {
        s.leading = &x;
        s.length = x.dims[x.rank - 2];
        s.sequences = s.length ? shape.columns / s.length : 0;
      }
      for (int d = 0; d + 1 < x.rank; ++d)
        if (x.rank != s.leading->rank || x.dims[d] != s.leading->dims[d])
          fail("input %u: leading dimensions differ from those of the first input", i);
    }
    if (shape.columns > kMaxColumns) fail("input %u has too many columns", i);
  }
  for (uint32_t i = 0; i < v.header->op_count; ++i) {
    const auto& op = v.ops[i];
    const Shape& x = s.values[op.inputs[0]];
    Shape y = x;
    switch (op.code) {
      case OpCode::kConv:
      case OpCode::kDepthwise:
      case OpCode::kMaxPool:
        y.height = window_size(x.height, op, 0, i);
        y.width = window_size(x.width, op, 1, i);
        y.columns = y.height * y.width;
        if (y.columns > kMaxColumns) fail("operator %u: too many columns", i);
        break;
      case OpCode::kGlobalAveragePool:
        y = {1, 1, 1};
        break;
      default:
        break;
    }
    if (op.inputs[1] != kNone && op.code != OpCode::kAttention) {
      const Shape& r = s.values[op.inputs[1]];
      if (r.columns != y.columns || r.width != y.width) fail("operator %u: the second operand has another size", i);
    }
    s.values[op.output] = y;
  }
  return s;
}

void infer_outputs(const PlanView& v, const SparsecTensor* inputs, SparsecTensor* outputs) {
  const Shapes s = infer_shapes(v, inputs);
  for (uint32_t i = 0; i < v.header->output_count; ++i) {
    const auto& record = v.values[v.outputs[i]];
    const auto& shape = s.values[v.outputs[i]];
    SparsecTensor& y = outputs[i];
    if (record.kind == ValueKind::kImage) {
      y.rank = static_cast<int32_t>(record.rank);
      if (y.rank == 2 && shape.columns != 1) fail("output %u: %lld pixels, needed one", i, static_cast<long long>(shape.columns));
      const int64_t dims[4] = {s.batch, record.channels, shape.height, shape.width};
      std::copy(dims, dims + y.rank, y.dims);
    } else {
      y.rank = s.leading->rank;
      std::copy(s.leading->dims, s.leading->dims + y.rank, y.dims);
      y.dims[y.rank - 1] = record.channels;
    }
  }
}

}  // namespace sparsec
