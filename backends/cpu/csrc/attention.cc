// Attention of one head in one sequence.
#include <algorithm>

#include "run_context.h"

namespace sparsec {
namespace {

const float* mask_rows(const Context& c, uint32_t value, int64_t sequence, int64_t head, int64_t* ld) {
  const SparsecTensor& m = c.inputs[std::find(c.v.inputs, c.v.inputs + c.v.header->input_count, value) - c.v.inputs];
  *ld = m.dims[2] == 1 ? 0 : m.dims[3];
  const int64_t plane = m.dims[2] * m.dims[3];
  return m.data + (m.dims[0] == 1 ? 0 : sequence * m.dims[1] * plane) + (m.dims[1] == 1 ? 0 : head * plane);
}

}  // namespace

// P = softmax(alpha K^T Q + mask) over keys, out = V P. Columns are queries, so that the softmax runs down
// the columns of a vector.
void attention_head(const Context& c, const BuiltOp& b, int64_t task) {
  const OpRecord& op = *b.record;
  const Layout& l = c.out(b);
  const int64_t size = c.channels(b) / op.heads, length = c.in.length;
  const int64_t padded = round_up(length, b.table->lanes);
  const int64_t wide = std::min<int64_t>(padded, 64);
  const View q = c.view(op.inputs[0]), k = c.view(op.inputs[1]), v = c.view(op.inputs[2]), y = c.view(op.output);
  const int64_t sequence = task / op.heads, head = task % op.heads, start = sequence * length;
  float* qs = scratch(3 * size * padded + padded * wide + size * wide);
  float* ks = qs + size * padded;
  float* vs = ks + size * padded;
  float* scores = vs + size * padded;
  float* part = scores + padded * wide;
  for (int64_t d = 0; d < size; ++d) {
    copy_columns(q, l.held, head * size + d, start, length, qs + d * padded, false);
    copy_columns(k, l.held, head * size + d, start, length, ks + d * padded, false);
    copy_columns(v, l.held, head * size + d, start, length, vs + d * padded, false);
    std::fill(qs + d * padded + length, qs + (d + 1) * padded, 0.0f);
  }
  const float* mask = nullptr;
  int64_t mask_ld = 0;
  if (op.inputs[3] != kNone) mask = mask_rows(c, op.inputs[3], sequence, head, &mask_ld);
  for (int64_t i = 0; i < padded; i += wide) {
    const int64_t n = std::min(wide, padded - i);
    b.table->dense({ks, 1, padded, qs + i, padded, scores, n, length, size, n, op.alpha});
    b.table->softmax_columns(scores, n, length, n, mask ? mask + i * mask_ld : nullptr, mask_ld, length - i);
    b.table->dense({vs, padded, 1, scores, n, part, n, size, length, n, 1.0f});
    const int64_t real = std::min(n, length - i);
    for (int64_t d = 0; d < size; ++d) copy_columns(y, l.held, head * size + d, start + i, real, part + d * n, true);
  }
}

}  // namespace sparsec
