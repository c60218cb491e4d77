// The unit for 64-bit ARM: NEON is part of the architecture, no flags are needed.
#include <arm_neon.h>

#include "kernels.h"

namespace sparsec {
namespace {

struct Neon {
  typedef float32x4_t Vec;
  static constexpr int lanes = 4, square = 4;
  static Vec load(const float* p) { return vld1q_f32(p); }
  // The compiler would fold a shared load into each of its uses: a load for every multiply-add.
  static void keep(Vec& v) { asm("" : "+w"(v)); }
  static void store(float* p, Vec v) { vst1q_f32(p, v); }
  static Vec set1(float x) { return vdupq_n_f32(x); }
  static Vec fma(Vec a, Vec b, Vec c) { return vfmaq_f32(c, a, b); }
  static Vec add(Vec a, Vec b) { return vaddq_f32(a, b); }
  static Vec sub(Vec a, Vec b) { return vsubq_f32(a, b); }
  static Vec mul(Vec a, Vec b) { return vmulq_f32(a, b); }
  static Vec div(Vec a, Vec b) { return vdivq_f32(a, b); }
  static Vec max(Vec a, Vec b) { return vmaxq_f32(a, b); }  // NaN in either is kept
  static Vec min(Vec a, Vec b) { return vminq_f32(a, b); }
  static Vec sqrt(Vec a) { return vsqrtq_f32(a); }
  static Vec abs(Vec a) { return vabsq_f32(a); }
  static Vec copy_sign(Vec magnitude, Vec sign) {
    return vbslq_f32(vdupq_n_u32(0x80000000u), sign, magnitude);
  }
  static Vec power_of_two(Vec shifted) {
    const int32x4_t n = vshlq_n_s32(vreinterpretq_s32_f32(shifted), 23);
    return vreinterpretq_f32_s32(vaddq_s32(n, vdupq_n_s32(0x3F800000)));
  }
  static Vec load_masked(const float* p, uint32_t mask) {
    if (mask == 15) return load(p);
    float t[4] = {};
    for (int i = 0; i < lanes; ++i)
      if (mask >> i & 1) t[i] = p[i];
    return load(t);
  }
  static Vec even_of(Vec a, Vec b) { return vuzp1q_f32(a, b); }
  static Vec odd_of(Vec a, Vec b) { return vuzp2q_f32(a, b); }
  static Vec load_even(const float* p) { return vuzp1q_f32(load(p), load(p + 4)); }
  static Vec load_even_masked(const float* p, uint32_t mask) {
    float t[4] = {};
    for (int i = 0; i < lanes; ++i)
      if (mask >> 2 * i & 1) t[i] = p[2 * i];
    return load(t);
  }
  static Vec gather(const float* x, const uint16_t* i) {
    const float t[4] = {x[i[0]], x[i[1]], x[i[2]], x[i[3]]};
    return load(t);
  }
  template <int n>
  static Vec spread(const float* x, const uint16_t* i) {
    static_assert(n == 2);
    return vcombine_f32(vdup_n_f32(x[i[0]]), vdup_n_f32(x[i[1]]));
  }
  static Vec widen(const float* p) { return load(p); }
  static Vec widen(const uint16_t* p) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p))); }
  static Vec widen(const int8_t* p) {  // no vector load: it would read beyond the four
    const int32_t t[4] = {p[0], p[1], p[2], p[3]};
    return vcvtq_f32_s32(vld1q_s32(t));
  }
  static float sum(Vec a) { return vaddvq_f32(a); }
  static void transpose(const float* src, ptrdiff_t lds, float* dst, ptrdiff_t ldd) {
    const Vec a = load(src), b = load(src + lds), c = load(src + 2 * lds), d = load(src + 3 * lds);
    const Vec ab0 = vtrn1q_f32(a, b), ab1 = vtrn2q_f32(a, b), cd0 = vtrn1q_f32(c, d), cd1 = vtrn2q_f32(c, d);
    const auto wide = [](Vec v) { return vreinterpretq_f64_f32(v); };
    store(dst, vreinterpretq_f32_f64(vtrn1q_f64(wide(ab0), wide(cd0))));
    store(dst + ldd, vreinterpretq_f32_f64(vtrn1q_f64(wide(ab1), wide(cd1))));
    store(dst + 2 * ldd, vreinterpretq_f32_f64(vtrn2q_f64(wide(ab0), wide(cd0))));
    store(dst + 3 * ldd, vreinterpretq_f32_f64(vtrn2q_f64(wide(ab1), wide(cd1))));
  }
};
using Simd = Neon;

}  // namespace
}  // namespace sparsec

// Thirty-two registers of four floats.
#define SPARSEC_ISA neon
#define SPMM_ROWS(X) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(10) X(12) X(14) X(16)
#define SPMM_BLOCKS(X) \
  X(1, 2) X(2, 2) X(4, 2) X(7, 2) X(8, 2) X(1, 4) X(2, 4) X(3, 4) X(4, 4) X(5, 4)
#define GEMV_LIST(X) \
  X("f32_gemv_dense", kDense, 1, gemv_dense<Simd>) \
  X("f32_gemv_unstructured", kBlocks, 1, gemv_rows<Simd>) \
  X("f32_gemv_block2x1", kBlocks, 2, (gemv_abreast<Simd, 2, float>)) \
  X("f32_gemv_block4x1", kBlocks, 4, (gemv_blocks<Simd, 4, float>)) \
  X("f32_gemv_block8x1", kBlocks, 8, (gemv_blocks<Simd, 8, float>)) \
  X("f16_gemv_block8x1", kHalfBlocks, 8, (gemv_blocks<Simd, 8, uint16_t>)) \
  X("i8_gemv_block8x1", kByteBlocks, 8, (gemv_blocks<Simd, 8, int8_t>))
#define DEPTHWISE_LIST(X) DEPTHWISE_PADDED(X)
#define DENSE_VECTORS 4
#include "unit.h"

const sparsec::KernelTable* sparsec::neon_kernels() { return &kTable; }
