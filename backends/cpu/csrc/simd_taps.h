// Windows over feature maps: depthwise convolution and the patches of other convolutions.
#ifndef SPARSEC_SIMD_TAPS_H
#define SPARSEC_SIMD_TAPS_H

#include "kernels.h"

namespace sparsec {
namespace {

// T: number of taps if it is known at compile time (the weights then stay in registers), else 0.
template <class S, int T>
void depthwise_taps(const DepthwiseArgs& d) {
  const int taps = T ? T : d.taps.count;
  const auto low = S::set1(d.low), high = S::set1(d.high), bias = S::set1(d.bias);
  typename S::Vec w[T ? T : 1];
  ptrdiff_t offset[T ? T : 1];
  if constexpr (T > 0) {
#pragma GCC unroll 9
    for (int t = 0; t < T; ++t) {
      w[t] = S::set1(d.weight[t]);
      offset[t] = d.taps.offsets[t];
    }
  }
  const uint16_t* mask = d.taps.masks;
  const uint8_t* full = d.taps.full;
  const float* x = d.x;
  for (ptrdiff_t tile = 0; tile < d.tiles; ++tile) {
    float* y = d.y + tile * d.tile_stride;
    for (ptrdiff_t i = 0; i < d.tile_vectors; ++i, x += S::lanes, y += S::lanes) {
      auto acc = bias;
      if (!mask || *full) {
        if constexpr (T > 0) {
          auto other = S::set1(0.0f);
#pragma GCC unroll 9
          for (int t = 0; t < T; t += 2) acc = S::fma(w[t], S::load(x + offset[t]), acc);
#pragma GCC unroll 9
          for (int t = 1; t < T; t += 2) other = S::fma(w[t], S::load(x + offset[t]), other);
          acc = S::add(acc, other);
        } else {
          for (int t = 0; t < taps; ++t)
            acc = S::fma(S::set1(d.weight[t]), S::load(x + d.taps.offsets[t]), acc);
        }
      } else {
        for (int t = 0; t < taps; ++t)
          acc = S::fma(S::set1(d.weight[t]), S::load_masked(x + d.taps.offsets[t], mask[t]), acc);
      }
      S::store(y, S::min(high, S::max(low, acc)));
      if (mask) {
        mask += taps;
        ++full;
      }
    }
  }
}

template <class S>
void depthwise(const DepthwiseArgs& d) {
  if (d.taps.count == 9) return depthwise_taps<S, 9>(d);
  depthwise_taps<S, 0>(d);
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
