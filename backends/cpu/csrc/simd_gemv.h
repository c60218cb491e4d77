// Sparse matrix times one column, weights as they are stored in the plan. Included once per unit.
#ifndef SPARSEC_SIMD_GEMV_H
#define SPARSEC_SIMD_GEMV_H

#include "kernels.h"

namespace sparsec {
namespace {

inline void put_row(const GemvArgs& a, int32_t row, float sum) {
  float y = sum + a.bias[row];
  if (a.residual) y += a.residual[row];
  if (y < a.low) y = a.low;
  if (y > a.high) y = a.high;
  a.y[row] = y;
}

// Lines this far ahead are on their way when they are needed. Measured to help rows that come from memory,
// whose two streams wait for gathers, by 5 %, and not to help blocks.
constexpr int kAheadBytes = 1024;

inline void fetch_ahead(const void* p) { __builtin_prefetch(static_cast<const char*>(p) + kAheadBytes, 0, 0); }

// Unstructured: two vectors of gathered x per step.
template <class S>
void gemv_rows(const GemvArgs& a) {
  for (ptrdiff_t i = a.group_begin; i < a.group_end; ++i) {
    uint32_t p = a.starts[i];
    const uint32_t end = a.starts[i + 1];
    auto s0 = S::set1(0.0f), s1 = s0;
    for (; p + 2 * S::lanes <= end; p += 2 * S::lanes) {
      fetch_ahead(a.columns + p);
      fetch_ahead(a.values + p);
      if constexpr (S::lanes > 8) fetch_ahead(a.values + p + S::lanes);
      s0 = S::fma(S::load(a.values + p), S::gather(a.x, a.columns + p), s0);
      s1 = S::fma(S::load(a.values + p + S::lanes), S::gather(a.x, a.columns + p + S::lanes), s1);
    }
    if (p + S::lanes <= end) {
      s0 = S::fma(S::load(a.values + p), S::gather(a.x, a.columns + p), s0);
      p += S::lanes;
    }
    float sum = S::sum(S::add(s0, s1));
    for (; p < end; ++p) sum += a.values[p] * a.x[a.columns[p]];
    put_row(a, static_cast<int32_t>(i), sum);
  }
}

// B rows share a column. B is a multiple of the lanes: the vector runs over the rows.
template <class S, int B>
void gemv_blocks(const GemvArgs& a) {
  constexpr int kVectors = B / S::lanes, kChains = 4;
  for (ptrdiff_t g = a.group_begin; g < a.group_end; ++g) {
    typename S::Vec acc[kChains][kVectors];
#pragma GCC unroll 8
    for (int j = 0; j < kChains; ++j)
      for (int v = 0; v < kVectors; ++v) acc[j][v] = S::set1(0.0f);
    uint32_t p = a.starts[g];
    const uint32_t end = a.starts[g + 1];
    for (; p + kChains <= end; p += kChains) {
#pragma GCC unroll 8
      for (int j = 0; j < kChains; ++j) {
        const auto x = S::set1(a.x[a.columns[p + j]]);
        const float* w = a.values + static_cast<size_t>(p + j) * B;
        for (int v = 0; v < kVectors; ++v)
          acc[j][v] = S::fma(S::load(w + v * S::lanes), x, acc[j][v]);
      }
    }
    for (; p < end; ++p) {
      const auto x = S::set1(a.x[a.columns[p]]);
      const float* w = a.values + static_cast<size_t>(p) * B;
      for (int v = 0; v < kVectors; ++v)
        acc[0][v] = S::fma(S::load(w + v * S::lanes), x, acc[0][v]);
    }
    alignas(64) float sums[B];
    for (int v = 0; v < kVectors; ++v)
      S::store(sums + v * S::lanes,
               S::add(S::add(acc[0][v], acc[1][v]), S::add(acc[2][v], acc[3][v])));
    const auto row = static_cast<int32_t>(g * B);
    for (int r = 0; r < B && row + r < a.m; ++r) put_row(a, row + r, sums[r]);
  }
}

// Any block height, one value at a time.
template <int B>
void gemv_scalar(const GemvArgs& a) {
  for (ptrdiff_t g = a.group_begin; g < a.group_end; ++g) {
    float sums[B] = {};
    for (uint32_t p = a.starts[g]; p < a.starts[g + 1]; ++p) {
      const float x = a.x[a.columns[p]];
      for (int r = 0; r < B; ++r) sums[r] += a.values[static_cast<size_t>(p) * B + r] * x;
    }
    const auto row = static_cast<int32_t>(g * B);
    for (int r = 0; r < B && row + r < a.m; ++r) put_row(a, row + r, sums[r]);
  }
}

}  // namespace
}  // namespace sparsec
#endif
