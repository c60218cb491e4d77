// Element-wise and column-wise arithmetic, for any vector type. Included once per unit.
#ifndef SPARSEC_SIMD_MATH_H
#define SPARSEC_SIMD_MATH_H

#include "kernels.h"

namespace sparsec {
namespace {

// exp(x), relative error below 2e-7: 2^n * p(r) with |r| <= ln2 / 2 (Cephes' range reduction and a
// degree-6 Taylor form whose last coefficients are rounded for float).
template <class S>
inline __attribute__((always_inline)) typename S::Vec exp_of(typename S::Vec x) {
  x = S::min(S::set1(88.0f), S::max(S::set1(-87.0f), x));
  const auto magic = S::set1(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  const auto shifted = S::fma(x, S::set1(1.44269504089f), magic);
  const auto n = S::sub(shifted, magic);
  auto r = S::fma(n, S::set1(-0.693359375f), x);
  r = S::fma(n, S::set1(2.12194440e-4f), r);
  auto p = S::set1(1.9875691500e-4f);
  p = S::fma(p, r, S::set1(1.3981999507e-3f));
  p = S::fma(p, r, S::set1(8.3334519073e-3f));
  p = S::fma(p, r, S::set1(4.1665795894e-2f));
  p = S::fma(p, r, S::set1(1.6666665459e-1f));
  p = S::fma(p, r, S::set1(5.0000001201e-1f));
  p = S::add(S::fma(p, S::mul(r, r), r), S::set1(1.0f));
  return S::mul(p, S::power_of_two(shifted));
}

template <class S>
inline __attribute__((always_inline)) typename S::Vec sigmoid_of(typename S::Vec x) {
  const auto one = S::set1(1.0f);
  return S::div(one, S::add(one, exp_of<S>(S::sub(S::set1(0.0f), x))));
}

// erf(x) by Abramowitz and Stegun 7.1.26, absolute error 1.5e-7; odd, so that sign is copied.
template <class S>
inline __attribute__((always_inline)) typename S::Vec erf_of(typename S::Vec x) {
  const auto a = S::abs(x);
  const auto one = S::set1(1.0f);
  const auto t = S::div(one, S::fma(a, S::set1(0.3275911f), one));
  auto p = S::set1(1.061405429f);
  p = S::fma(p, t, S::set1(-1.453152027f));
  p = S::fma(p, t, S::set1(1.421413741f));
  p = S::fma(p, t, S::set1(-0.284496736f));
  p = S::fma(p, t, S::set1(0.254829592f));
  p = S::mul(p, t);
  const auto e = exp_of<S>(S::sub(S::set1(0.0f), S::mul(a, a)));
  return S::copy_sign(S::sub(one, S::mul(p, e)), x);
}

template <class S>
struct Gelu {  // 0.5 x (1 + erf(x / sqrt 2))
  static typename S::Vec of(typename S::Vec x) {
    const auto h = S::mul(x, S::set1(0.5f));
    return S::fma(h, erf_of<S>(S::mul(x, S::set1(0.70710678f))), h);
  }
};

template <class S>
struct GeluTanh {  // 0.5 x (1 + tanh(u)) = x sigmoid(2u), u = sqrt(2 / pi) (x + 0.044715 x^3)
  static typename S::Vec of(typename S::Vec x) {
    const auto cubic = S::fma(S::mul(S::mul(x, x), x), S::set1(0.044715f), x);
    return S::mul(x, sigmoid_of<S>(S::mul(cubic, S::set1(1.5957691216f))));
  }
};

template <class S>
struct Silu {
  static typename S::Vec of(typename S::Vec x) { return S::mul(x, sigmoid_of<S>(x)); }
};

template <class S>
struct HardSwish {  // x * clip(x / 6 + 0.5, 0, 1)
  static typename S::Vec of(typename S::Vec x) {
    auto g = S::fma(x, S::set1(1.0f / 6.0f), S::set1(0.5f));
    return S::mul(x, S::min(S::set1(1.0f), S::max(S::set1(0.0f), g)));
  }
};

template <class S, template <class> class F>
void finish(float* y, ptrdiff_t n) {
  for (ptrdiff_t i = 0; i + S::lanes <= n; i += S::lanes) S::store(y + i, F<S>::of(S::load(y + i)));
  const ptrdiff_t rest = n % S::lanes;
  if (rest) {
    alignas(64) float t[S::lanes] = {};
    float* tail = y + n - rest;
    for (ptrdiff_t i = 0; i < rest; ++i) t[i] = tail[i];
    S::store(t, F<S>::of(S::load(t)));
    for (ptrdiff_t i = 0; i < rest; ++i) tail[i] = t[i];
  }
}

// n need not be a multiple of the lanes in clip and binary.
template <class S>
void clip(float* y, ptrdiff_t n, float low, float high) {
  ptrdiff_t i = 0;
  for (; i + S::lanes <= n; i += S::lanes)
    S::store(y + i, S::min(S::set1(high), S::max(S::set1(low), S::load(y + i))));
  for (; i < n; ++i) {
    if (y[i] < low) y[i] = low;
    if (y[i] > high) y[i] = high;
  }
}

struct Sum {
  template <class S>
  static typename S::Vec of(typename S::Vec a, typename S::Vec b) { return S::add(a, b); }
  static float of(float a, float b) { return a + b; }
};

struct Product {
  template <class S>
  static typename S::Vec of(typename S::Vec a, typename S::Vec b) { return S::mul(a, b); }
  static float of(float a, float b) { return a * b; }
};

template <class S, class F>
void binary(const float* a, const float* b, float* y, ptrdiff_t n, float low, float high) {
  ptrdiff_t i = 0;
  for (; i + S::lanes <= n; i += S::lanes) {
    const auto s = F::template of<S>(S::load(a + i), S::load(b + i));
    S::store(y + i, S::min(S::set1(high), S::max(S::set1(low), s)));
  }
  for (; i < n; ++i) {
    float s = F::of(a[i], b[i]);
    if (s < low) s = low;
    if (s > high) s = high;
    y[i] = s;
  }
}

template <class S>
void softmax_columns(float* x, ptrdiff_t ldx, ptrdiff_t k, ptrdiff_t n, const float* mask,
                     ptrdiff_t mask_ld, ptrdiff_t mask_columns) {
  for (ptrdiff_t j = 0; j < n; j += S::lanes) {
    auto top = S::set1(-__builtin_inff());
    for (ptrdiff_t i = 0; i < k; ++i) {
      auto s = S::load(x + i * ldx + j);
      if (mask && mask_ld == 0) {
        s = S::add(s, S::set1(mask[i]));
      } else if (mask) {  // one row of the mask per column of x
        alignas(64) float t[S::lanes];
        for (int l = 0; l < S::lanes; ++l)
          t[l] = j + l < mask_columns ? mask[(j + l) * mask_ld + i] : 0.0f;
        s = S::add(s, S::load(t));
      }
      S::store(x + i * ldx + j, s);
      top = S::max(top, s);
    }
    auto sum = S::set1(0.0f);
    for (ptrdiff_t i = 0; i < k; ++i) {
      const auto e = exp_of<S>(S::sub(S::load(x + i * ldx + j), top));
      S::store(x + i * ldx + j, e);
      sum = S::add(sum, e);
    }
    const auto scale = S::div(S::set1(1.0f), sum);
    for (ptrdiff_t i = 0; i < k; ++i)
      S::store(x + i * ldx + j, S::mul(S::load(x + i * ldx + j), scale));
  }
}

// Two passes over the tile for mean and variance, as the definition has it: a one-pass variance
// cancels when the mean is large.
template <class S>
void layer_norm(const float* a, const float* b, float* y, ptrdiff_t channels, ptrdiff_t width,
                const float* gain, const float* shift, float epsilon) {
  const auto inverse = S::set1(1.0f / static_cast<float>(channels));
  for (ptrdiff_t j = 0; j < width; j += S::lanes) {
    auto sum0 = S::set1(0.0f), sum1 = sum0;
    ptrdiff_t c = 0;
    for (; c + 2 <= channels; c += 2) {
      const ptrdiff_t at = c * width + j;
      auto s0 = S::load(a + at), s1 = S::load(a + at + width);
      if (b) {
        s0 = S::add(s0, S::load(b + at));
        s1 = S::add(s1, S::load(b + at + width));
      }
      S::store(y + at, s0);
      S::store(y + at + width, s1);
      sum0 = S::add(sum0, s0);
      sum1 = S::add(sum1, s1);
    }
    if (c < channels) {
      auto s0 = S::load(a + c * width + j);
      if (b) s0 = S::add(s0, S::load(b + c * width + j));
      S::store(y + c * width + j, s0);
      sum0 = S::add(sum0, s0);
    }
    const auto mean = S::mul(S::add(sum0, sum1), inverse);
    auto var0 = S::set1(0.0f), var1 = var0;
    for (c = 0; c + 2 <= channels; c += 2) {
      const auto d0 = S::sub(S::load(y + c * width + j), mean);
      const auto d1 = S::sub(S::load(y + (c + 1) * width + j), mean);
      var0 = S::fma(d0, d0, var0);
      var1 = S::fma(d1, d1, var1);
    }
    if (c < channels) {
      const auto d0 = S::sub(S::load(y + c * width + j), mean);
      var0 = S::fma(d0, d0, var0);
    }
    const auto var = S::fma(S::add(var0, var1), inverse, S::set1(epsilon));
    const auto scale = S::div(S::set1(1.0f), S::sqrt(var));
    for (c = 0; c < channels; ++c) {
      const auto d = S::mul(S::sub(S::load(y + c * width + j), mean), scale);
      S::store(y + c * width + j, S::fma(d, S::set1(gain[c]), S::set1(shift[c])));
    }
  }
}

template <class S>
void rms_norm(const float* x, float* y, ptrdiff_t channels, ptrdiff_t width, const float* gain,
              float epsilon) {
  const auto inverse = S::set1(1.0f / static_cast<float>(channels));
  for (ptrdiff_t j = 0; j < width; j += S::lanes) {
    auto square0 = S::set1(0.0f), square1 = square0;
    ptrdiff_t c = 0;
    for (; c + 2 <= channels; c += 2) {
      const auto v0 = S::load(x + c * width + j), v1 = S::load(x + (c + 1) * width + j);
      square0 = S::fma(v0, v0, square0);
      square1 = S::fma(v1, v1, square1);
    }
    if (c < channels) {
      const auto v0 = S::load(x + c * width + j);
      square0 = S::fma(v0, v0, square0);
    }
    const auto mean = S::fma(S::add(square0, square1), inverse, S::set1(epsilon));
    const auto scale = S::div(S::set1(1.0f), S::sqrt(mean));
    for (c = 0; c < channels; ++c)
      S::store(y + c * width + j,
               S::mul(S::mul(S::load(x + c * width + j), scale), S::set1(gain[c])));
  }
}

template <class S>
void rms_norm_row(const float* x, float* y, ptrdiff_t channels, const float* gain, float epsilon) {
  auto square0 = S::set1(0.0f), square1 = square0;
  ptrdiff_t c = 0;
  for (; c + 2 * S::lanes <= channels; c += 2 * S::lanes) {
    const auto v0 = S::load(x + c), v1 = S::load(x + c + S::lanes);
    square0 = S::fma(v0, v0, square0);
    square1 = S::fma(v1, v1, square1);
  }
  float sum = S::sum(S::add(square0, square1));
  for (; c < channels; ++c) sum += x[c] * x[c];
  alignas(64) float scale[S::lanes];
  S::store(scale, S::div(S::set1(1.0f), S::sqrt(S::set1(sum / static_cast<float>(channels) + epsilon))));
  const auto factor = S::set1(scale[0]);
  for (c = 0; c + S::lanes <= channels; c += S::lanes)
    S::store(y + c, S::mul(S::mul(S::load(x + c), factor), S::load(gain + c)));
  for (; c < channels; ++c) y[c] = x[c] * scale[0] * gain[c];
}

template <class S>
void to_tile(const float* src, ptrdiff_t ld, ptrdiff_t n, ptrdiff_t channels, float* dst,
             ptrdiff_t width) {
  ptrdiff_t c = 0;
  for (; c + S::square <= channels; c += S::square) {
    ptrdiff_t i = 0;
    for (; i + S::square <= n; i += S::square)
      S::transpose(src + i * ld + c, ld, dst + c * width + i, width);
    for (ptrdiff_t r = c; r < c + S::square; ++r) {
      for (ptrdiff_t k = i; k < n; ++k) dst[r * width + k] = src[k * ld + r];
      for (ptrdiff_t k = n; k < width; ++k) dst[r * width + k] = 0.0f;
    }
  }
  for (; c < channels; ++c) {
    for (ptrdiff_t k = 0; k < n; ++k) dst[c * width + k] = src[k * ld + c];
    for (ptrdiff_t k = n; k < width; ++k) dst[c * width + k] = 0.0f;
  }
}

template <class S>
void from_tile(const float* src, ptrdiff_t width, ptrdiff_t channels, float* dst, ptrdiff_t ld,
               ptrdiff_t n) {
  ptrdiff_t i = 0;
  for (; i + S::square <= n; i += S::square) {
    ptrdiff_t c = 0;
    for (; c + S::square <= channels; c += S::square)
      S::transpose(src + c * width + i, width, dst + i * ld + c, ld);
    for (; c < channels; ++c)
      for (ptrdiff_t k = i; k < i + S::square; ++k) dst[k * ld + c] = src[c * width + k];
  }
  for (; i < n; ++i)
    for (ptrdiff_t c = 0; c < channels; ++c) dst[i * ld + c] = src[c * width + i];
}

}  // namespace
}  // namespace sparsec
#endif
