// The unit for x86-64 with AVX2, FMA and F16C. Only this file is compiled with their flags.
#include <immintrin.h>
#include <string.h>

#include "kernels.h"

namespace sparsec {
namespace {

struct Avx2 {
  typedef __m256 Vec;
  static constexpr int lanes = 8, square = 8;
  static Vec load(const float* p) { return _mm256_loadu_ps(p); }
  // The compiler would fold a shared load into each of its uses: a load for every multiply-add.
  static void keep(Vec& v) { asm("" : "+x"(v)); }
  static void store(float* p, Vec v) { _mm256_storeu_ps(p, v); }
  static Vec set1(float x) { return _mm256_set1_ps(x); }
  static Vec fma(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }
  static Vec add(Vec a, Vec b) { return _mm256_add_ps(a, b); }
  static Vec sub(Vec a, Vec b) { return _mm256_sub_ps(a, b); }
  static Vec mul(Vec a, Vec b) { return _mm256_mul_ps(a, b); }
  static Vec div(Vec a, Vec b) { return _mm256_div_ps(a, b); }
  static Vec max(Vec a, Vec b) { return _mm256_max_ps(a, b); }  // NaN in b is kept
  static Vec min(Vec a, Vec b) { return _mm256_min_ps(a, b); }
  static Vec sqrt(Vec a) { return _mm256_sqrt_ps(a); }
  static Vec abs(Vec a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }
  static Vec copy_sign(Vec magnitude, Vec sign) {
    const Vec bit = _mm256_set1_ps(-0.0f);
    return _mm256_or_ps(_mm256_andnot_ps(bit, magnitude), _mm256_and_ps(bit, sign));
  }
  static Vec power_of_two(Vec shifted) {
    const __m256i n = _mm256_slli_epi32(_mm256_castps_si256(shifted), 23);
    return _mm256_castsi256_ps(_mm256_add_epi32(n, _mm256_set1_epi32(0x3F800000)));
  }
  static __m256i lanes_of(uint32_t mask) {
    const __m256i bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    return _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32(mask), bit), bit);
  }
  static Vec load_masked(const float* p, uint32_t mask) { return _mm256_maskload_ps(p, lanes_of(mask)); }
  static void store_masked(float* p, uint16_t mask, Vec v) { _mm256_maskstore_ps(p, lanes_of(mask), v); }
  // Even and odd floats of two vectors, in the order that costs least; in_order puts them right.
  static Vec even_pairs(Vec a, Vec b) { return _mm256_shuffle_ps(a, b, 0x88); }
  static Vec odd_pairs(Vec a, Vec b) { return _mm256_shuffle_ps(a, b, 0xDD); }
  static Vec in_order(Vec v) { return _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(v), 0xD8)); }
  static Vec even_of(Vec a, Vec b) {
    const Vec s = _mm256_shuffle_ps(a, b, 0x88);
    return _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(s), 0xD8));
  }
  static Vec odd_of(Vec a, Vec b) {
    const Vec s = _mm256_shuffle_ps(a, b, 0xDD);
    return _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(s), 0xD8));
  }
  static Vec load_even(const float* p) { return even_of(load(p), load(p + 8)); }
  static Vec load_even_masked(const float* p, uint32_t mask) {
    return even_of(load_masked(p, mask & 0xFF), load_masked(p + 8, mask >> 8));
  }
  // Loads of single floats, put together. The gather instruction takes 1.6 times as long on Zen 5, and is
  // slowed down on purpose where it leaks (downfall).
  static __m128 gather4(const float* x, const uint16_t* i) {
    uint64_t at;
    memcpy(&at, i, sizeof at);
    __m128 v = _mm_load_ss(x + (at & 0xFFFF));
    v = _mm_insert_ps(v, _mm_load_ss(x + (at >> 16 & 0xFFFF)), 0x10);
    v = _mm_insert_ps(v, _mm_load_ss(x + (at >> 32 & 0xFFFF)), 0x20);
    return _mm_insert_ps(v, _mm_load_ss(x + (at >> 48)), 0x30);
  }
  static Vec gather(const float* x, const uint16_t* i) {
    return _mm256_insertf128_ps(_mm256_castps128_ps256(gather4(x, i)), gather4(x, i + 4), 1);
  }
  template <int n>
  static Vec spread(const float* x, const uint16_t* i) {
    if constexpr (n == 2) return _mm256_insertf128_ps(set1(x[i[0]]), _mm_broadcast_ss(x + i[1]), 1);
    const __m256i twice = _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3);
    return _mm256_permutevar8x32_ps(_mm256_castps128_ps256(gather4(x, i)), twice);
  }
  static Vec widen(const float* p) { return load(p); }
  static Vec widen(const uint16_t* p) { return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
  static Vec widen(const int8_t* p) {
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
  }
  static float sum(Vec a) {
    alignas(32) float t[8];
    _mm256_store_ps(t, a);
    return ((t[0] + t[1]) + (t[2] + t[3])) + ((t[4] + t[5]) + (t[6] + t[7]));
  }
  static void transpose(const float* src, ptrdiff_t lds, float* dst, ptrdiff_t ldd) {
    __m256 r[8], t[8];
    for (int i = 0; i < 8; ++i) r[i] = load(src + i * lds);
    for (int i = 0; i < 8; i += 2) {
      t[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
      t[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
    }
    for (int i = 0; i < 8; i += 4) {
      r[i] = _mm256_shuffle_ps(t[i], t[i + 2], 0x44);
      r[i + 1] = _mm256_shuffle_ps(t[i], t[i + 2], 0xEE);
      r[i + 2] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0x44);
      r[i + 3] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0xEE);
    }
    for (int i = 0; i < 4; ++i) {
      store(dst + i * ldd, _mm256_permute2f128_ps(r[i], r[i + 4], 0x20));
      store(dst + (i + 4) * ldd, _mm256_permute2f128_ps(r[i], r[i + 4], 0x31));
    }
  }
};
using Simd = Avx2;

}  // namespace
}  // namespace sparsec

// Sixteen registers: V * R accumulators and a weight; blocks also hold V inputs.
#define SPARSEC_ISA avx2
#define SPMM_ROWS(X) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(10) X(12)
#define SPMM_BLOCKS(X) X(1, 2) X(2, 2) X(3, 2) X(4, 2) X(1, 4) X(2, 4) X(3, 4)
#define GEMV_LIST(X) \
  X("f32_gemv_dense", kDense, 1, gemv_dense<Simd>) \
  X("f32_gemv_unstructured", kBlocks, 1, gemv_rows<Simd>) \
  X("f32_gemv_block2x1", kBlocks, 2, (gemv_abreast<Simd, 2, float>)) \
  X("f32_gemv_block4x1", kBlocks, 4, (gemv_abreast<Simd, 4, float>)) \
  X("f32_gemv_block8x1", kBlocks, 8, (gemv_blocks<Simd, 8, float>)) \
  X("f16_gemv_block8x1", kHalfBlocks, 8, (gemv_blocks<Simd, 8, uint16_t>)) \
  X("i8_gemv_block8x1", kByteBlocks, 8, (gemv_blocks<Simd, 8, int8_t>))
#define DEPTHWISE_LIST(X) DEPTHWISE_IN_PLACE(X)
#define DENSE_VECTORS 2
#include "unit.h"

const sparsec::KernelTable* sparsec::avx2_kernels() { return &kTable; }
