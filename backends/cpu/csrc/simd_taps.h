// Windows over feature maps: depthwise convolution and the patches of other convolutions.
#ifndef SPARSEC_SIMD_TAPS_H
#define SPARSEC_SIMD_TAPS_H

#include "kernels.h"

namespace sparsec {
namespace {

// R rows of one vector of columns. An input row is loaded once for all output rows that it reaches; K is
// the size of a square window without dilation, and all of its weights stay in registers.
template <class S, int K, int Stride, int R, bool Direct>
inline __attribute__((always_inline)) void depthwise_block(const DepthwiseArgs& d,
                                                           const typename S::Vec* w, ptrdiff_t row,
                                                           ptrdiff_t c) {
  const float* x = d.x + (d.top + row * Stride) * d.line + c;
  const uint16_t* mask = Direct ? d.masks + c / S::lanes * K : nullptr;
  typename S::Vec acc[R];
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) acc[r] = S::set1(d.bias);
#pragma GCC unroll 16
  for (int i = 0; i < Stride * (R - 1) + K; ++i) {
    const bool inside = static_cast<size_t>(d.top + row * Stride + i) < static_cast<size_t>(d.height);
#pragma GCC unroll 5
    for (int kx = 0; kx < K; ++kx) {
      const float* p = x + i * d.line + d.columns[kx];
      const auto in = Direct ? S::load_masked(p, inside ? mask[kx] : 0) : S::load(p);
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
template <class S, int K, int Stride, bool Direct>
void depthwise_square(const DepthwiseArgs& d) {
  constexpr int kRows = 4;
  typename S::Vec w[K * K];
#pragma GCC unroll 25
  for (int t = 0; t < K * K; ++t) w[t] = S::set1(d.weight[t]);
  const ptrdiff_t last = (d.width - 1) / S::lanes * S::lanes;
  ptrdiff_t r = 0;
  for (; r + kRows <= d.rows; r += kRows)
    for (ptrdiff_t c = last; c >= 0; c -= S::lanes)
      depthwise_block<S, K, Stride, kRows, Direct>(d, w, r, c);
  for (ptrdiff_t c = last; c >= 0; c -= S::lanes) {
    if (d.rows - r == 3) depthwise_block<S, K, Stride, 3, Direct>(d, w, r, c);
    if (d.rows - r == 2) depthwise_block<S, K, Stride, 2, Direct>(d, w, r, c);
    if (d.rows - r == 1) depthwise_block<S, K, Stride, 1, Direct>(d, w, r, c);
  }
}

template <class S>
void depthwise_any(const DepthwiseArgs& d) {
  const ptrdiff_t last = (d.width - 1) / S::lanes * S::lanes;
  const auto low = S::set1(d.low), high = S::set1(d.high);
  for (ptrdiff_t r = 0; r < d.rows; ++r)
    for (ptrdiff_t c = last; c >= 0; c -= S::lanes) {
      auto acc = S::set1(d.bias);
      for (int ky = 0; ky < d.kernel[0]; ++ky) {
        const float* x = d.x + (r * d.stride + ky * d.dilation) * d.line + c;
        const float* w = d.weight + ky * d.kernel[1];
        for (int kx = 0; kx < d.kernel[1]; ++kx)
          acc = S::fma(S::set1(w[kx]), S::load(x + d.columns[kx]), acc);
      }
      S::store(d.y + r * d.width + c, S::min(high, S::max(low, acc)));
    }
}

template <class S>
void depthwise(const DepthwiseArgs& d) {
  const bool square = d.kernel[0] == d.kernel[1] && d.dilation == 1;
  const int k = square ? d.kernel[0] : 0;
  if constexpr (S::direct_depthwise) {
    if (d.masks && k == 3) return depthwise_square<S, 3, 1, true>(d);
    if (d.masks && k == 5) return depthwise_square<S, 5, 1, true>(d);
  }
  if (k == 3 && d.stride == 1) return depthwise_square<S, 3, 1, false>(d);
  if (k == 3 && d.stride == 2) return depthwise_square<S, 3, 2, false>(d);
  if (k == 5 && d.stride == 1) return depthwise_square<S, 5, 1, false>(d);
  if (k == 5 && d.stride == 2) return depthwise_square<S, 5, 2, false>(d);
  depthwise_any<S>(d);
}

// One row for stride 2 with both phases, `low` the one that starts a column earlier: each input is loaded
// once and dealt out.
template <class S>
void deal_row(const PadArgs& a, const float* x, float* y, int low) {
  const ptrdiff_t vectors = a.phase_line / S::lanes;
  const uint32_t* even = a.masks + low * vectors;
  const uint32_t* odd = a.masks + (1 - low) * vectors;
  constexpr uint32_t kOne = (1u << S::lanes) - 1, kBoth = static_cast<uint32_t>((1ull << 2 * S::lanes) - 1);
  float* y_even = y + low * a.phase_line;
  float* y_odd = y + (1 - low) * a.phase_line;
  const float* p = x + a.columns[low];
  for (ptrdiff_t v = 0; v < vectors; ++v, p += 2 * S::lanes) {
    const uint32_t mask = even[v] | odd[v] << 1;
    typename S::Vec first, second;
    if (mask == kBoth) {
      first = S::load(p);
      second = S::load(p + S::lanes);
    } else {
      first = S::load_masked(p, static_cast<uint16_t>(mask & kOne));
      second = S::load_masked(p + S::lanes, static_cast<uint16_t>(mask >> S::lanes));
    }
    S::store(y_even + v * S::lanes, S::even_of(first, second));
    S::store(y_odd + v * S::lanes, S::odd_of(first, second));
  }
}

template <class S>
void pad(const PadArgs& a) {
  const ptrdiff_t vectors = a.phase_line / S::lanes;
  const ptrdiff_t apart = a.phases == 2 ? a.columns[1] - a.columns[0] : 0;
  const bool deal = a.stride == 2 && (apart == 1 || apart == -1);
  for (ptrdiff_t i = 0; i < a.count; ++i) {
    float* y = a.y + i * a.line;
    const ptrdiff_t row = a.from + i;
    if (row < 0 || row >= a.height) {
      for (ptrdiff_t v = 0; v < a.phases * vectors; ++v) S::store(y + v * S::lanes, S::set1(0.0f));
      continue;
    }
    const float* x = a.x + row * a.width;
    if (deal) {
      deal_row<S>(a, x, y, apart == 1 ? 0 : 1);
      continue;
    }
    const uint32_t* mask = a.masks;
    for (int32_t k = 0; k < a.phases; ++k, mask += vectors, y += a.phase_line) {
      const float* p = x + a.columns[k];
      for (ptrdiff_t v = 0; v < vectors; ++v) {
        const ptrdiff_t at = v * S::lanes;
        S::store(y + at, a.stride == 1 ? S::load_masked(p + at, static_cast<uint16_t>(mask[v]))
                                       : S::load_even_masked(p + 2 * at, mask[v]));
      }
    }
  }
}

template <class S>
void patch(const PatchArgs& a) {
  float* row = a.rows;
  const ptrdiff_t width = a.vectors * S::lanes;
  for (int32_t t = a.begin; t < a.end; ++t, row += width) {
    const float* x = a.x + a.first_vector * S::lanes + a.taps.offsets[t];
    const uint16_t* mask = a.taps.masks;
    if (!mask) {
      for (ptrdiff_t v = 0; v < a.vectors; ++v)
        S::store(row + v * S::lanes, S::load(x + v * S::lanes));
      continue;
    }
    mask += a.first_vector * a.taps.count + t;
    for (ptrdiff_t v = 0; v < a.vectors; ++v, mask += a.taps.count)
      S::store(row + v * S::lanes, S::load_masked(x + v * S::lanes, *mask));
  }
}

template <class S>
void copy_strided(const float* src, ptrdiff_t stride, float* dst, ptrdiff_t n) {
  ptrdiff_t i = 0;
  if (stride == 2) {
    // The last vector would read one float beyond src[2 (n - 1)]: leave it to the loop below.
    for (; i + S::lanes < n; i += S::lanes) S::store(dst + i, S::load_even(src + 2 * i));
  }
  for (; i < n; ++i) dst[i] = src[i * stride];
}

}  // namespace
}  // namespace sparsec
#endif
