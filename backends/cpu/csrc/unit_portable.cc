// The unit for any processor: vectors of four floats in the compiler's own notation.
#include <math.h>
#include <string.h>

#include "half.h"
#include "kernels.h"

namespace sparsec {
namespace {

struct Portable {
  typedef float Vec __attribute__((vector_size(16)));
  typedef float Loose __attribute__((vector_size(16), aligned(4), may_alias));
  typedef int32_t Int __attribute__((vector_size(16)));
  static constexpr int lanes = 4, square = 4;
  static Vec load(const float* p) { return *reinterpret_cast<const Loose*>(p); }
  static void keep(Vec&) {}
  static void store(float* p, Vec v) { *reinterpret_cast<Loose*>(p) = v; }
  static Vec set1(float x) { return Vec{x, x, x, x}; }
  static Vec fma(Vec a, Vec b, Vec c) { return a * b + c; }
  static Vec add(Vec a, Vec b) { return a + b; }
  static Vec sub(Vec a, Vec b) { return a - b; }
  static Vec mul(Vec a, Vec b) { return a * b; }
  static Vec div(Vec a, Vec b) { return a / b; }
  static Vec pick(Int m, Vec a, Vec b) {
    return reinterpret_cast<Vec>((m & reinterpret_cast<Int>(a)) |
                                 (~m & reinterpret_cast<Int>(b)));
  }
  // A NaN in the second operand is kept, as in the other units.
  static Vec max(Vec a, Vec b) { return pick(a > b, a, b); }
  static Vec min(Vec a, Vec b) { return pick(a < b, a, b); }
  static Vec sqrt(Vec a) { return Vec{sqrtf(a[0]), sqrtf(a[1]), sqrtf(a[2]), sqrtf(a[3])}; }
  static Vec abs(Vec a) {
    return reinterpret_cast<Vec>(reinterpret_cast<Int>(a) & 0x7FFFFFFF);
  }
  static Vec copy_sign(Vec magnitude, Vec sign) {
    return reinterpret_cast<Vec>((reinterpret_cast<Int>(magnitude) & 0x7FFFFFFF) |
                                 (reinterpret_cast<Int>(sign) & ~0x7FFFFFFF));
  }
  static Vec power_of_two(Vec shifted) {  // low bits of `shifted` hold the exponent
    using Bits = unsigned __attribute__((vector_size(16)));  // may overflow
    return reinterpret_cast<Vec>((reinterpret_cast<Bits>(shifted) << 23) + 0x3F800000);
  }
  static Vec load_masked(const float* p, uint32_t mask) {
    Vec v = set1(0.0f);
    for (int i = 0; i < lanes; ++i)
      if (mask >> i & 1) v[i] = p[i];
    return v;
  }
  static Vec even_of(Vec a, Vec b) { return Vec{a[0], a[2], b[0], b[2]}; }
  static Vec odd_of(Vec a, Vec b) { return Vec{a[1], a[3], b[1], b[3]}; }
  static Vec load_even(const float* p) { return Vec{p[0], p[2], p[4], p[6]}; }
  static Vec load_even_masked(const float* p, uint32_t mask) {
    Vec v = set1(0.0f);
    for (int i = 0; i < lanes; ++i)
      if (mask >> 2 * i & 1) v[i] = p[2 * i];
    return v;
  }
  static Vec gather(const float* x, const uint16_t* i) {
    return Vec{x[i[0]], x[i[1]], x[i[2]], x[i[3]]};
  }
  template <int n>
  static Vec spread(const float* x, const uint16_t* i) {
    static_assert(n == 2);
    return Vec{x[i[0]], x[i[0]], x[i[1]], x[i[1]]};
  }
  static Vec widen(const float* p) { return load(p); }
  static Vec widen(const uint16_t* p) {
    return Vec{half_to_float(p[0]), half_to_float(p[1]), half_to_float(p[2]), half_to_float(p[3])};
  }
  static Vec widen(const int8_t* p) {
    return Vec{static_cast<float>(p[0]), static_cast<float>(p[1]), static_cast<float>(p[2]), static_cast<float>(p[3])};
  }
  static float sum(Vec a) { return (a[0] + a[1]) + (a[2] + a[3]); }
  static void transpose(const float* src, ptrdiff_t lds, float* dst, ptrdiff_t ldd) {
    for (int i = 0; i < square; ++i)
      for (int j = 0; j < square; ++j) dst[j * ldd + i] = src[i * lds + j];
  }
};
using Simd = Portable;

}  // namespace
}  // namespace sparsec

#define SPARSEC_ISA portable
#define SPMM_ROWS(X) X(1) X(2) X(4) X(8)
#define SPMM_BLOCKS(X) X(1, 2) X(2, 2) X(4, 2) X(1, 4) X(2, 4)
#define GEMV_LIST(X) \
  X("f32_gemv_dense", kDense, 1, gemv_dense<Simd>) \
  X("f32_gemv_unstructured", kBlocks, 1, gemv_rows<Simd>) \
  X("f32_gemv_block2x1", kBlocks, 2, (gemv_abreast<Simd, 2, float>)) \
  X("f32_gemv_block4x1", kBlocks, 4, (gemv_blocks<Simd, 4, float>)) \
  X("f32_gemv_block8x1", kBlocks, 8, (gemv_blocks<Simd, 8, float>)) \
  X("f16_gemv_block8x1", kHalfBlocks, 8, (gemv_blocks<Simd, 8, uint16_t>)) \
  X("i8_gemv_block8x1", kByteBlocks, 8, (gemv_blocks<Simd, 8, int8_t>))
#define DEPTHWISE_LIST(X) DEPTHWISE_PADDED(X)
#define DENSE_VECTORS 2
#include "unit.h"

const sparsec::KernelTable* sparsec::portable_kernels() { return &kTable; }
