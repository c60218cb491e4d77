// Depthwise convolution, for any vector type. Included once per instruction-set unit.
#ifndef SPARSEC_SIMD_DEPTHWISE_H
#define SPARSEC_SIMD_DEPTHWISE_H

#include "kernels.h"

namespace sparsec {
namespace {

// The floats that tap k of one vector of outputs is made from: with stride 1 its own, with stride 2 every other
// of two vectors, which taps k and k + 1 are dealt from, lanes in the order of even_pairs. Edge says which loads
// are masked: see Edge in kernels.h.
template <int K, int Stride, int Edge>
constexpr bool is_masked(int k) {
  return Edge == kAllMasked || (Edge == kLeftEdge && k < K / 2) || (Edge == kRightEdge && (Stride == 1 ? k > K / 2 : k >= K / 2));
}

template <class S, int K, int Stride, int Edge>
inline __attribute__((always_inline)) void load_tap(const float* x, const uint32_t* masks, int k, typename S::Vec* taps) {
  constexpr uint32_t kOne = (1u << S::lanes) - 1;
  const bool masked = is_masked<K, Stride, Edge>(k);
  if constexpr (Stride == 1) {
    taps[k] = masked ? S::load_masked(x + k, static_cast<uint16_t>(masks[k])) : S::load(x + k);
    S::keep(taps[k]);
  } else if (k % 2 == 0) {
    const uint32_t m = masked ? masks[k / 2] : 0;
    const auto a = masked ? S::load_masked(x + k, static_cast<uint16_t>(m & kOne)) : S::load(x + k);
    const auto b = masked ? S::load_masked(x + k + S::lanes, static_cast<uint16_t>(m >> S::lanes)) : S::load(x + k + S::lanes);
    taps[k] = S::even_pairs(a, b);
    if (k + 1 < K) taps[k + 1] = S::odd_pairs(a, b);
  }
}

// Adds what one row of a window gives to a vector of outputs. A row is summed apart: chains of K multiply-adds that
// do not wait for each other. Every form of the kernels adds in this order, so that all give the same bits.
template <class S, int K>
inline __attribute__((always_inline)) void add_row(const typename S::Vec* w, const typename S::Vec* taps, bool first, typename S::Vec bias, typename S::Vec& sum) {
  typename S::Vec row = first ? S::fma(w[0], taps[0], bias) : S::mul(w[0], taps[0]);
#pragma GCC unroll 5
  for (int k = 1; k < K; ++k) row = S::fma(w[k], taps[k], row);
  sum = first ? row : S::add(sum, row);
}

// One vector of columns down all rows. An input row is loaded once and added to every output row that it reaches:
// sums[j] is that of the j-th oldest row under way, which the loop hands down as rows are finished.
template <class S, int K, int Stride, int Edge>
void direct_strip(const DepthwiseArgs& d, const typename S::Vec* weight, ptrdiff_t c, const uint32_t* masks) {
  using Vec = typename S::Vec;
  constexpr int kUnderWay = (K + Stride - 1) / Stride;
  Vec w[K * K], sums[kUnderWay];
  uint32_t inside[K];
#pragma GCC unroll 5
  for (int k = 0; k < K; ++k) inside[k] = masks[k];
#pragma GCC unroll 25
  for (int t = 0; t < K * K; ++t) {
    w[t] = weight[t];
    if (K == 3) S::keep(w[t]);  // in registers: a store might change memory
  }
  const Vec bias = S::set1(*d.bias), low_bound = S::set1(d.low), high_bound = S::set1(d.high);
  const ptrdiff_t width = d.width, rows = d.rows;
  const float* const x = d.x - d.left + c * Stride;
  const float* const zeros = d.zeros;
  const int32_t* from = d.row_at;
  float* y = d.y + c;
  const bool spills = width < S::lanes;  // into the next rows, whose own stores come later
  ptrdiff_t r = 1 - kUnderWay;
  // Adds what input rows give to output rows r + low .. r + high - 1, and stores row r when that is there.
  const auto advance = [&](int low, int high) __attribute__((always_inline)) {
#pragma GCC unroll 2
    for (int phase = 0; phase < Stride; ++phase, ++from) {
      if (phase == 1 && r + 1 == rows) break;
      const float* const in = *from < 0 ? zeros : x + *from;
      __builtin_prefetch(in + 32);  // planes lie in the third cache
      Vec taps[K];
#pragma GCC unroll 5
      for (int k = 0; k < K; ++k) load_tap<S, K, Stride, Edge>(in, inside, k, taps);
#pragma GCC unroll 5
      for (int j = 0; j < kUnderWay; ++j) {
        const int ky = Stride * (kUnderWay - 1 - phase - j) + phase;  // phase 1 comes after the hand-down
        if (ky >= 0 && ky < K && j + phase >= low && j + phase < high) add_row<S, K>(w + ky * K, taps, ky == 0, bias, sums[j]);
      }
      if (phase != 0) continue;
      if (low == 0 && r >= 0) {
        const Vec v = S::min(high_bound, S::max(low_bound, Stride == 2 ? S::in_order(sums[0]) : sums[0]));
        if (const ptrdiff_t left = (rows - r) * width; spills && left < S::lanes) S::store_masked(y, static_cast<uint16_t>((1u << left) - 1), v);
        else S::store(y, v);
        y += width;
      }
#pragma GCC unroll 5
      for (int j = 0; j + 1 < kUnderWay; ++j) sums[j] = sums[j + 1];
    }
    ++r;
  };
  // Few rows: all of them are under way at once, and every bound is a constant.
#pragma GCC unroll 4
  for (int few = 1; few < kUnderWay; ++few) {
    if (rows != few) continue;
#pragma GCC unroll 9
    for (int n = kUnderWay - 1; n > -few; --n) advance(n > 0 ? n : 0, few + n < kUnderWay ? few + n : kUnderWay);
    return;
  }
#pragma GCC unroll 5
  for (int j = kUnderWay - 1; j > 0; --j) advance(j, kUnderWay);
  while (r <= rows - kUnderWay) advance(0, kUnderWay);
#pragma GCC unroll 5
  for (int j = kUnderWay - 1; j > 0; --j) advance(0, j);
}

// Short rows, stride 1: a vector holds `d.packed` output rows, so that tap (ky, k) of a vector of rows from r is
// one load at input row r + ky. What lies outside differs from row to row: every row has its masks.
template <class S, int K, int R>
ptrdiff_t packed_rows(const DepthwiseArgs& d, const typename S::Vec* w, ptrdiff_t row) {
  const ptrdiff_t step = d.packed * d.line;
  for (; row + (R - 1) * d.packed < d.rows; row += R * d.packed) {
    const float* x = d.x + (d.top + row) * d.line - d.left;
    const uint32_t* masks = d.masks + row * K;
    typename S::Vec acc[R];
#pragma GCC unroll 5
    for (int ky = 0; ky < K; ++ky)
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) {
        typename S::Vec taps[K];
#pragma GCC unroll 5
        for (int k = 0; k < K; ++k) taps[k] = S::load_masked(x + r * step + ky * d.line + k, static_cast<uint16_t>(masks[(r * d.packed + ky) * K + k]));
        add_row<S, K>(w + ky * K, taps, ky == 0, S::set1(*d.bias), acc[r]);
      }
    const auto low = S::set1(d.low), high = S::set1(d.high);
    float* y = d.y + row * d.width;
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      acc[r] = S::min(high, S::max(low, acc[r]));
      const ptrdiff_t left = (d.rows - row - r * d.packed) * d.width;  // floats, this vector's included
      if (left < S::lanes) S::store_masked(y + r * d.packed * d.width, static_cast<uint16_t>((1u << left) - 1), acc[r]);
      else S::store(y + r * d.packed * d.width, acc[r]);
    }
  }
  return row;
}

template <class S, int K>
void depthwise_packed(const DepthwiseArgs& d) {
  typename S::Vec w[K * K];
#pragma GCC unroll 25
  for (int t = 0; t < K * K; ++t) w[t] = S::set1(d.weight[t]);
  ptrdiff_t r = packed_rows<S, K, 4>(d, w, 0);
  r = packed_rows<S, K, 2>(d, w, r);
  packed_rows<S, K, 1>(d, w, r);
}

template <class S, int K, int Stride>
void depthwise_direct(const DepthwiseArgs& d) {
  typename S::Vec w[K * K];
#pragma GCC unroll 25
  for (int t = 0; t < K * K; ++t) w[t] = S::set1(d.weight[t]);
  const uint32_t* masks = d.masks;
  for (ptrdiff_t v = 0; v * S::lanes < d.width; ++v, masks += K) {
    ptrdiff_t c = v * S::lanes;
    if (c > d.width - S::lanes) c = d.width < S::lanes ? 0 : d.width - S::lanes;  // the last overlaps the one before
    switch (d.edges[v]) {
      case kInside: direct_strip<S, K, Stride, kInside>(d, w, c, masks); break;
      case kLeftEdge: direct_strip<S, K, Stride, kLeftEdge>(d, w, c, masks); break;
      case kRightEdge: direct_strip<S, K, Stride, kRightEdge>(d, w, c, masks); break;
      default: direct_strip<S, K, Stride, kAllMasked>(d, w, c, masks);
    }
  }
}

// R rows of one vector of columns. An input row is loaded once for all output rows that it reaches; K is
// the size of a square window without dilation, and all of its weights stay in registers.
template <class S, int K, int Stride, int R>
inline __attribute__((always_inline)) void depthwise_block(const DepthwiseArgs& d,
                                                           const typename S::Vec* w, ptrdiff_t row,
                                                           ptrdiff_t c) {
  const float* x = d.x + row * Stride * d.line + c;
  typename S::Vec acc[R];
#pragma GCC unroll 16
  for (int i = 0; i < Stride * (R - 1) + K; ++i) {
    typename S::Vec taps[K];
#pragma GCC unroll 5
    for (int kx = 0; kx < K; ++kx) {
      taps[kx] = S::load(x + i * d.line + d.columns[kx]);
      S::keep(taps[kx]);
    }
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      const int ky = i - Stride * r;
      if (ky >= 0 && ky < K) add_row<S, K>(w + ky * K, taps, ky == 0, S::set1(*d.bias), acc[r]);
    }
  }
  const auto low = S::set1(d.low), high = S::set1(d.high);
  float* y = d.y + row * d.width + c;
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) S::store(y + r * d.width, S::min(high, S::max(low, acc[r])));
}

// Strips from right to left: a store that spills into the next row comes before that row's own.
template <class S, int K, int Stride>
void depthwise_padded(const DepthwiseArgs& d) {
  constexpr int kRows = 4;
  typename S::Vec w[K * K];
#pragma GCC unroll 25
  for (int t = 0; t < K * K; ++t) w[t] = S::set1(d.weight[t]);
  const ptrdiff_t last = (d.width - 1) / S::lanes * S::lanes;
  ptrdiff_t r = 0;
  for (; r + kRows <= d.rows; r += kRows)
    for (ptrdiff_t c = last; c >= 0; c -= S::lanes)
      depthwise_block<S, K, Stride, kRows>(d, w, r, c);
  for (ptrdiff_t c = last; c >= 0; c -= S::lanes) {
    if (d.rows - r == 3) depthwise_block<S, K, Stride, 3>(d, w, r, c);
    if (d.rows - r == 2) depthwise_block<S, K, Stride, 2>(d, w, r, c);
    if (d.rows - r == 1) depthwise_block<S, K, Stride, 1>(d, w, r, c);
  }
}

template <class S>
void depthwise_any(const DepthwiseArgs& d) {
  const ptrdiff_t last = (d.width - 1) / S::lanes * S::lanes;
  const auto low = S::set1(d.low), high = S::set1(d.high);
  for (ptrdiff_t r = 0; r < d.rows; ++r)
    for (ptrdiff_t c = last; c >= 0; c -= S::lanes) {
      auto acc = S::set1(0.0f);
      for (int ky = 0; ky < d.kernel[0]; ++ky) {
        const float* x = d.x + (r * d.stride + ky * d.dilation) * d.line + c;
        const float* w = d.weight + ky * d.kernel[1];
        auto row = S::set1(ky ? 0.0f : *d.bias);
        for (int kx = 0; kx < d.kernel[1]; ++kx) row = S::fma(S::set1(w[kx]), S::load(x + d.columns[kx]), row);
        acc = S::add(acc, row);
      }
      S::store(d.y + r * d.width + c, S::min(high, S::max(low, acc)));
    }
}

// A microkernel: all channels of d, each by the function for one.
template <void (*Channel)(const DepthwiseArgs&)>
void depthwise(const DepthwiseArgs& all) {
  DepthwiseArgs d = all;
  // The first and the last rows of a tile were made by other threads and lie in their caches.
  constexpr ptrdiff_t kAhead = 8;
  for (ptrdiff_t c = 0; c < all.channels; ++c) {
    if (d.row_at && c + kAhead < all.channels) {
      const int32_t ends[2] = {d.row_at[0], d.row_at[(d.rows - 1) * d.stride + d.kernel[0] - 1]};
      for (int32_t end : ends)
        if (end >= 0) {
          __builtin_prefetch(d.x + kAhead * d.x_step + end);
          __builtin_prefetch(d.x + kAhead * d.x_step + end + 15);
        }
    }
    Channel(d);
    d.x += d.x_step;
    d.y += d.y_step;
    d.weight += d.kernel[0] * d.kernel[1];
    ++d.bias;
  }
}

}  // namespace
}  // namespace sparsec
#endif
