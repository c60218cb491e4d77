// Windows over feature maps: padded and shifted copies.
#ifndef SPARSEC_SIMD_TAPS_H
#define SPARSEC_SIMD_TAPS_H

#include "kernels.h"

namespace sparsec {
namespace {

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
void copy_taps(const TapCopiesArgs& a) {
  float* y = a.y;
  for (ptrdiff_t c = 0; c < a.channels; ++c) {
    const float* plane = a.x + c * a.channel_stride + a.first_vector * S::lanes;
    for (ptrdiff_t k = 0; k < a.count; ++k) {
      const TapCopy& copy = a.copies[k];
      const float* x = plane + copy.from;
      const ptrdiff_t n = a.vectors + copy.more;
      if (const uint32_t* mask = copy.masks) {
        mask += a.first_vector;
        for (ptrdiff_t v = 0; v < n; ++v) S::store(y + v * S::lanes, S::load_masked(x + v * S::lanes, mask[v]));
      } else {
        for (ptrdiff_t v = 0; v < n; ++v) S::store(y + v * S::lanes, S::load(x + v * S::lanes));
      }
      y += (a.room + copy.more) * S::lanes;
    }
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
