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

// Bit l of a mask of 16 becomes bit 2 l.
inline uint32_t two_apart(uint32_t mask) {
  mask = (mask | mask << 8) & 0x00FF00FFu;
  mask = (mask | mask << 4) & 0x0F0F0F0Fu;
  mask = (mask | mask << 2) & 0x33333333u;
  return (mask | mask << 1) & 0x55555555u;
}

// Floats x[stride * i], i < n, of a row of `width`: those from `begin` to `end` are inside of it, the others are zero.
// Whole vectors are stored.
template <class S>
void strided_row(const float* x, ptrdiff_t stride, ptrdiff_t begin, ptrdiff_t end, ptrdiff_t readable, float* y, ptrdiff_t n) {
  if (stride > 2) {
    for (ptrdiff_t i = 0; i < n; ++i) y[i] = i >= begin && i < end ? x[stride * i] : 0.0f;
    return;
  }
  for (ptrdiff_t i = 0; i < n; i += S::lanes) {
    if (i >= begin && stride * (i + S::lanes) <= readable) {
      S::store(y + i, stride == 2 ? S::load_even(x + 2 * i) : S::load(x + i));
      continue;
    }
    const ptrdiff_t low = begin > i ? begin - i : 0, high = end - i < S::lanes ? end - i : S::lanes;
    uint32_t mask = low < high ? ((1u << high) - 1) & ~((1u << low) - 1) : 0;
    if (stride == 2) mask = two_apart(mask);
    S::store(y + i, stride == 2 ? S::load_even_masked(x + 2 * i, mask) : S::load_masked(x + i, static_cast<uint16_t>(mask)));
  }
}

// Rows of n floats as they are, or every other float of them. What a vector overwrites beyond its row belongs to vectors that
// come later, and up to a vector beyond the last row.
template <class S, int Stride>
void whole_rows(const float* x, ptrdiff_t x_step, const uint32_t* masks, float* y, ptrdiff_t n, ptrdiff_t rows) {
  for (ptrdiff_t v = (n + S::lanes - 1) / S::lanes - 1; v >= 0; --v) {
    const uint32_t mask = masks[v];
    const float* from = x + v * Stride * S::lanes;
    float* to = y + v * S::lanes;
    for (ptrdiff_t r = 0; r < rows; ++r, from += x_step, to += n) {
      if constexpr (Stride == 2) S::store(to, S::load_even_masked(from, mask));
      else S::store(to, S::load_masked(from, static_cast<uint16_t>(mask)));
    }
  }
}

template <class S>
void copy_phases(const PhaseCopiesArgs& a) {
  float* y = a.y;
  const ptrdiff_t first = a.first_vector * S::lanes;
  for (ptrdiff_t channel = 0; channel < a.channels; ++channel) {
    const float* plane = a.x + channel * a.channel_stride;
    for (ptrdiff_t k = 0; k < a.count; ++k) {
      const TapPhase& phase = a.phases[k];
      const uint32_t* masks = a.copies[k].masks;
      const ptrdiff_t count = (a.vectors + a.copies[k].more) * S::lanes;
      ptrdiff_t row = phase.row + first / a.out_width * a.stride_y, at = first % a.out_width;
      for (ptrdiff_t done = 0; done < count; at = 0) {
        const ptrdiff_t n = count - done < a.out_width - at ? count - done : a.out_width - at;
        const float* x = plane + row * a.width + phase.column + a.stride_x * at;
        ptrdiff_t rows = 1;
        if (row < 0 || row >= a.height) {
          for (ptrdiff_t i = 0; i < n; i += S::lanes) S::store(y + done + i, S::set1(0.0f));
        } else if (masks && n == a.out_width) {
          const ptrdiff_t fit = (count - done) / n, left = (a.height - row + a.stride_y - 1) / a.stride_y;
          rows = fit < left ? fit : left;
          if (a.stride_x == 2) whole_rows<S, 2>(x, a.stride_y * a.width, masks, y + done, n, rows);
          else whole_rows<S, 1>(x, a.stride_y * a.width, masks, y + done, n, rows);
        } else {
          strided_row<S>(x, a.stride_x, phase.begin - at, phase.end - at, a.width - phase.column - a.stride_x * at, y + done, n);
        }
        row += rows * a.stride_y;
        done += rows * n;
      }
      y += (a.room + a.copies[k].more) * S::lanes;
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
