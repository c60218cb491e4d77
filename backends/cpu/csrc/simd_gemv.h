// Sparse matrix times one column, weights as they are stored in the plan. Included once per unit.
#ifndef SPARSEC_SIMD_GEMV_H
#define SPARSEC_SIMD_GEMV_H

#include "half.h"
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

// What a product of one column costs is waiting for memory: the processor's own prefetchers stop where a
// page of 4 KiB ends, so lines two pages ahead are asked for. Measured on 4096 x 4096 from memory (Zen 4): blocks
// 0.127 to 0.087 ms at 0.95 and 0.56 to 0.39 ms at 0.8, rows 0.92 to 0.72 ms at 0.8; nothing lost where
// the weights are in a cache. (A second stream of groups gains as much, and not more with this.) Asked for past
// the second cache, as data that is used once, they come three times as late on Emerald Rapids.
constexpr int kAheadBytes = 8192;

// Asks for the lines that `used` bytes of a stream from `p` on will need later.
template <int kUsed>
inline void fetch_ahead(const void* p) {
#pragma GCC unroll 8
  for (int at = 0; at < kUsed; at += 64) __builtin_prefetch(static_cast<const char*>(p) + kAheadBytes + at);
}

// Unstructured: two vectors of gathered x per step.
template <class S>
void gemv_rows(const GemvArgs& a) {
  const auto* values = static_cast<const float*>(a.values);
  for (ptrdiff_t i = a.group_begin; i < a.group_end; ++i) {
    uint32_t p = a.starts[i];
    const uint32_t end = a.starts[i + 1];
    auto s0 = S::set1(0.0f), s1 = s0;
    for (; p + 2 * S::lanes <= end; p += 2 * S::lanes) {
      fetch_ahead<2 * S::lanes * 2>(a.columns + p);
      fetch_ahead<2 * S::lanes * 4>(values + p);
      s0 = S::fma(S::load(values + p), S::gather(a.x, a.columns + p), s0);
      s1 = S::fma(S::load(values + p + S::lanes), S::gather(a.x, a.columns + p + S::lanes), s1);
    }
    if (p + S::lanes <= end) {
      s0 = S::fma(S::load(values + p), S::gather(a.x, a.columns + p), s0);
      p += S::lanes;
    }
    float sum = S::sum(S::add(s0, s1));
    for (; p < end; ++p) sum += values[p] * a.x[a.columns[p]];
    put_row(a, static_cast<int32_t>(i), sum);
  }
}

// B rows share a column. B is a multiple of the lanes: the vector runs over the rows. T is what a value
// is stored as; S::widen makes floats of a vector of them.
template <class S, int B, class T>
void gemv_blocks(const GemvArgs& a) {
  constexpr int kVectors = B / S::lanes, kChains = 4;
  const auto* values = static_cast<const T*>(a.values);
  for (ptrdiff_t g = a.group_begin; g < a.group_end; ++g) {
    typename S::Vec acc[kChains][kVectors];
#pragma GCC unroll 8
    for (int j = 0; j < kChains; ++j)
      for (int v = 0; v < kVectors; ++v) acc[j][v] = S::set1(0.0f);
    uint32_t p = a.starts[g];
    const uint32_t end = a.starts[g + 1];
    for (; p + kChains <= end; p += kChains) {
      fetch_ahead<kChains * B * static_cast<int>(sizeof(T))>(values + static_cast<size_t>(p) * B);
      if (p % 32 < kChains) fetch_ahead<64>(a.columns + p);
#pragma GCC unroll 8
      for (int j = 0; j < kChains; ++j) {
        const auto x = S::set1(a.x[a.columns[p + j]]);
        const T* w = values + static_cast<size_t>(p + j) * B;
        for (int v = 0; v < kVectors; ++v)
          acc[j][v] = S::fma(S::widen(w + v * S::lanes), x, acc[j][v]);
      }
    }
    for (; p < end; ++p) {
      const auto x = S::set1(a.x[a.columns[p]]);
      const T* w = values + static_cast<size_t>(p) * B;
      for (int v = 0; v < kVectors; ++v)
        acc[0][v] = S::fma(S::widen(w + v * S::lanes), x, acc[0][v]);
    }
    const auto row = static_cast<int32_t>(g * B);
    alignas(64) float sums[B];
    for (int v = 0; v < kVectors; ++v) {
      auto sum = S::add(S::add(acc[0][v], acc[1][v]), S::add(acc[2][v], acc[3][v]));
      if constexpr (sizeof(T) == 1) sum = S::mul(sum, S::load(a.scales + row + v * S::lanes));
      S::store(sums + v * S::lanes, sum);
    }
    for (int r = 0; r < B && row + r < a.m; ++r) put_row(a, row + r, sums[r]);
  }
}

inline float to_float(float value) { return value; }
inline float to_float(int8_t value) { return value; }
inline float to_float(uint16_t half) { return half_to_float(half); }

// Blocks lower than a vector, several columns of them at a time. S::spread<n> repeats n numbers of x, each
// over its part of the vector.
template <class S, int B, class T>
void gemv_abreast(const GemvArgs& a) {
  constexpr int kColumns = S::lanes / B, kChains = 4, kStep = kColumns * kChains;
  static_assert(kColumns > 1 && kStep <= 32);
  const auto* values = static_cast<const T*>(a.values);
  const auto at = [&](uint32_t p) { return values + static_cast<size_t>(p) * B; };
  const auto product = [&](uint32_t p, typename S::Vec sum) {
    return S::fma(S::widen(at(p)), S::template spread<kColumns>(a.x, a.columns + p), sum);
  };
  for (ptrdiff_t g = a.group_begin; g < a.group_end; ++g) {
    typename S::Vec acc[kChains];
    for (int j = 0; j < kChains; ++j) acc[j] = S::set1(0.0f);
    uint32_t p = a.starts[g];
    const uint32_t end = a.starts[g + 1];
    for (; p + kStep <= end; p += kStep) {
      fetch_ahead<kStep * B * static_cast<int>(sizeof(T))>(at(p));
      if (p % 32 < kStep) fetch_ahead<64>(a.columns + p);
#pragma GCC unroll 8
      for (int j = 0; j < kChains; ++j) acc[j] = product(p + kColumns * j, acc[j]);
    }
    for (; p + kColumns <= end; p += kColumns) acc[0] = product(p, acc[0]);
    alignas(64) float sums[S::lanes];
    S::store(sums, S::add(S::add(acc[0], acc[1]), S::add(acc[2], acc[3])));
    for (int c = 1; c < kColumns; ++c)
      for (int r = 0; r < B; ++r) sums[r] += sums[c * B + r];
    for (; p < end; ++p)
      for (int r = 0; r < B; ++r) sums[r] += to_float(at(p)[r]) * a.x[a.columns[p]];
    const auto row = static_cast<int32_t>(g * B);
    for (int r = 0; r < B && row + r < a.m; ++r) put_row(a, row + r, sizeof(T) == 1 ? sums[r] * a.scales[row + r] : sums[r]);
  }
}

// R dense rows from i on, read side by side: one stream is not enough to keep memory busy. What is asked for ahead
// is the next R rows. The sums are the same whatever R is.
template <class S, int R>
void dense_dots(const GemvArgs& a, ptrdiff_t i) {
  const float* w = static_cast<const float*>(a.values) + i * a.k;
  typename S::Vec even[R], odd[R];
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) even[r] = odd[r] = S::set1(0.0f);
  ptrdiff_t k = 0;
  for (; k + 2 * S::lanes <= a.k; k += 2 * S::lanes) {
    const auto x = S::load(a.x + k), next = S::load(a.x + k + S::lanes);
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      const float* p = w + r * a.k + k;
      if (R > 1) __builtin_prefetch(p + R * a.k);
      even[r] = S::fma(S::load(p), x, even[r]);
      odd[r] = S::fma(S::load(p + S::lanes), next, odd[r]);
    }
  }
  const bool one = k + S::lanes <= a.k;
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) {
    const float* p = w + r * a.k;
    if (one) even[r] = S::fma(S::load(p + k), S::load(a.x + k), even[r]);
    float sum = S::sum(S::add(even[r], odd[r]));
    for (ptrdiff_t j = k + (one ? S::lanes : 0); j < a.k; ++j) sum += p[j] * a.x[j];
    put_row(a, static_cast<int32_t>(i) + r, sum);
  }
}

template <class S>
void gemv_dense(const GemvArgs& a) {
  constexpr int kRows = 4;
  ptrdiff_t i = a.group_begin;
  for (; i + kRows <= a.group_end; i += kRows) dense_dots<S, kRows>(a, i);
  for (; i < a.group_end; ++i) dense_dots<S, 1>(a, i);
}

}  // namespace
}  // namespace sparsec
#endif
