// Depthwise convolution, for any vector type. Included once per instruction-set unit.
#ifndef SPARSEC_SIMD_DEPTHWISE_H
#define SPARSEC_SIMD_DEPTHWISE_H

#include "kernels.h"

namespace sparsec {
namespace {

// The taps of one input row for one vector of outputs: x points at tap 0 of lane 0. With stride 2 two
// vectors are loaded for each pair of taps and dealt out, lanes in the order of even_pairs.
template <class S, int K, int Stride, bool Masked>
inline __attribute__((always_inline)) void load_taps(const float* x, const uint32_t* masks, typename S::Vec* taps) {
  if constexpr (Stride == 1) {
#pragma GCC unroll 5
    for (int k = 0; k < K; ++k) taps[k] = Masked ? S::load_masked(x + k, static_cast<uint16_t>(masks[k])) : S::load(x + k);
  } else {
    constexpr uint32_t kOne = (1u << S::lanes) - 1;
#pragma GCC unroll 3
    for (int k = 0; k < K; k += 2) {
      const uint32_t m = Masked ? masks[k / 2] : 0;
      const auto a = Masked ? S::load_masked(x + k, static_cast<uint16_t>(m & kOne)) : S::load(x + k);
      const auto b = Masked ? S::load_masked(x + k + S::lanes, static_cast<uint16_t>(m >> S::lanes)) : S::load(x + k + S::lanes);
      taps[k] = S::even_pairs(a, b);
      if (k + 1 < K) taps[k + 1] = S::odd_pairs(a, b);
    }
  }
}

// R output rows of one vector of columns, read from `in`: each input row is loaded once for all output rows
// that it reaches. K is the size of a square window without dilation.
template <class S, int K, int Stride, int R, bool Masked>
inline __attribute__((always_inline)) void direct_block(const DepthwiseArgs& d, const typename S::Vec* w, const float* const* in,
                                                        ptrdiff_t row, ptrdiff_t c, uint16_t cut) {
  uint32_t masks[K];
  if (Masked)
    for (int k = 0; k < (Stride == 1 ? K : (K + 1) / 2); ++k) masks[k] = d.masks[c / S::lanes * K + k];
  typename S::Vec acc[R];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) acc[r] = S::set1(*d.bias);
#pragma GCC unroll 24
  for (int i = 0; i < Stride * (R - 1) + K; ++i) {
    typename S::Vec taps[K];
    load_taps<S, K, Stride, Masked>(in[i] + c * Stride, masks, taps);
#pragma GCC unroll 5
    for (int k = 0; k < K; ++k) S::keep(taps[k]);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const int ky = i - Stride * r;
      if (ky < 0 || ky >= K) continue;
#pragma GCC unroll 5
      for (int k = 0; k < K; ++k) acc[r] = S::fma(w[ky * K + k], taps[k], acc[r]);
    }
  }
  const auto low = S::set1(d.low), high = S::set1(d.high);
  float* y = d.y + row * d.width + c;
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    if (Stride == 2) acc[r] = S::in_order(acc[r]);
    acc[r] = S::min(high, S::max(low, acc[r]));
    if (r + 1 == R && cut) S::store_masked(y + r * d.width, cut, acc[r]);
    else S::store(y + r * d.width, acc[r]);
  }
}

// Strips from right to left: a store that spills into the next row comes before that row's own. What the
// last row would spill is cut off.
template <class S, int K, int Stride, int R>
ptrdiff_t direct_rows(const DepthwiseArgs& d, const typename S::Vec* w, ptrdiff_t row) {
  for (; row + R <= d.rows; row += R) {
    const float* in[Stride * (R - 1) + K];
#pragma GCC unroll 24
    for (int i = 0; i < Stride * (R - 1) + K; ++i) {
      const ptrdiff_t from = d.top + row * Stride + i;
      in[i] = from >= 0 && from < d.height ? d.x + from * d.line - d.left : d.zeros;
    }
    uint16_t cut = row + R == d.rows ? d.cut : 0;
    for (ptrdiff_t c = (d.width - 1) / S::lanes * S::lanes; c >= 0; c -= S::lanes, cut = 0) {
      if (d.full[c / S::lanes]) direct_block<S, K, Stride, R, false>(d, w, in, row, c, cut);
      else direct_block<S, K, Stride, R, true>(d, w, in, row, c, cut);
    }
  }
  return row;
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
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) acc[r] = S::set1(*d.bias);
#pragma GCC unroll 5
    for (int ky = 0; ky < K; ++ky)
#pragma GCC unroll 5
      for (int k = 0; k < K; ++k)
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r)
          acc[r] = S::fma(w[ky * K + k], S::load_masked(x + r * step + ky * d.line + k, static_cast<uint16_t>(masks[(r * d.packed + ky) * K + k])), acc[r]);
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
  constexpr int kMost = S::lanes == 16 ? 7 : 4;  // accumulators beside the weights
  ptrdiff_t r = direct_rows<S, K, Stride, kMost>(d, w, 0);
  if (kMost > 4) r = direct_rows<S, K, Stride, 4>(d, w, r);
  r = direct_rows<S, K, Stride, 2>(d, w, r);
  direct_rows<S, K, Stride, 1>(d, w, r);
}

// R rows of one vector of columns. An input row is loaded once for all output rows that it reaches; K is
// the size of a square window without dilation, and all of its weights stay in registers.
template <class S, int K, int Stride, int R>
inline __attribute__((always_inline)) void depthwise_block(const DepthwiseArgs& d,
                                                           const typename S::Vec* w, ptrdiff_t row,
                                                           ptrdiff_t c) {
  const float* x = d.x + row * Stride * d.line + c;
  typename S::Vec acc[R];
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) acc[r] = S::set1(*d.bias);
#pragma GCC unroll 16
  for (int i = 0; i < Stride * (R - 1) + K; ++i) {
#pragma GCC unroll 5
    for (int kx = 0; kx < K; ++kx) {
      auto in = S::load(x + i * d.line + d.columns[kx]);
      S::keep(in);
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) {
        const int ky = i - Stride * r;
        if (ky >= 0 && ky < K) acc[r] = S::fma(w[ky * K + kx], in, acc[r]);
      }
    }
  }
  const auto low = S::set1(d.low), high = S::set1(d.high);
  float* y = d.y + row * d.width + c;
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) S::store(y + r * d.width, S::min(high, S::max(low, acc[r])));
}

// Strips from right to left: a store that spills into the next row comes before that row's own.
template <class S, int K, int Stride>
void depthwise_square(const DepthwiseArgs& d) {
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
      auto acc = S::set1(*d.bias);
      for (int ky = 0; ky < d.kernel[0]; ++ky) {
        const float* x = d.x + (r * d.stride + ky * d.dilation) * d.line + c;
        const float* w = d.weight + ky * d.kernel[1];
        for (int kx = 0; kx < d.kernel[1]; ++kx)
          acc = S::fma(S::set1(w[kx]), S::load(x + d.columns[kx]), acc);
      }
      S::store(d.y + r * d.width + c, S::min(high, S::max(low, acc)));
    }
}

using DepthwiseChannel = void (*)(const DepthwiseArgs&);

template <class S>
DepthwiseChannel depthwise_of(const DepthwiseArgs& d) {
  const bool square = d.kernel[0] == d.kernel[1] && d.dilation == 1;
  const int k = square ? d.kernel[0] : 0;
  if constexpr (S::direct_depthwise) {
    if (d.packed && k == 3) return depthwise_packed<S, 3>;
    if (d.packed && k == 5) return depthwise_packed<S, 5>;
    if (d.masks && k == 3) return d.stride == 1 ? depthwise_direct<S, 3, 1> : depthwise_direct<S, 3, 2>;
    if (d.masks && k == 5) return d.stride == 1 ? depthwise_direct<S, 5, 1> : depthwise_direct<S, 5, 2>;
  }
  if (k == 3 && d.stride == 1) return depthwise_square<S, 3, 1>;
  if (k == 3 && d.stride == 2) return depthwise_square<S, 3, 2>;
  if (k == 5 && d.stride == 1) return depthwise_square<S, 5, 1>;
  if (k == 5 && d.stride == 2) return depthwise_square<S, 5, 2>;
  return depthwise_any<S>;
}

template <class S>
void depthwise(const DepthwiseArgs& all) {
  DepthwiseArgs d = all;
  const DepthwiseChannel run = depthwise_of<S>(d);
  for (ptrdiff_t c = 0; c < all.channels; ++c) {
    run(d);
    d.x += d.x_step;
    d.y += d.y_step;
    d.weight += d.kernel[0] * d.kernel[1];
    ++d.bias;
  }
}

}  // namespace
}  // namespace sparsec
#endif
