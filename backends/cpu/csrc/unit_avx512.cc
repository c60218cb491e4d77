// The unit for x86-64 with AVX-512 F, BW, DQ and VL. Only this file is compiled with their flags.
#include <immintrin.h>

#include "kernels.h"

namespace sparsec {
namespace {

struct Avx512 {
  typedef __m512 Vec;
  static constexpr int lanes = 16, square = 8;
  static Vec load(const float* p) { return _mm512_loadu_ps(p); }
  // The compiler would fold a shared load into each of its uses: a load for every multiply-add.
  static void keep(Vec& v) { asm("" : "+v"(v)); }
  static void store(float* p, Vec v) { _mm512_storeu_ps(p, v); }
  static Vec set1(float x) { return _mm512_set1_ps(x); }
  static Vec set1_bits(int32_t bits) { return _mm512_castsi512_ps(_mm512_set1_epi32(bits)); }
  static Vec fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
  static Vec add(Vec a, Vec b) { return _mm512_add_ps(a, b); }
  static Vec sub(Vec a, Vec b) { return _mm512_sub_ps(a, b); }
  static Vec mul(Vec a, Vec b) { return _mm512_mul_ps(a, b); }
  static Vec div(Vec a, Vec b) { return _mm512_div_ps(a, b); }
  static Vec max(Vec a, Vec b) { return _mm512_max_ps(a, b); }  // NaN in b is kept
  static Vec min(Vec a, Vec b) { return _mm512_min_ps(a, b); }
  static Vec sqrt(Vec a) { return _mm512_sqrt_ps(a); }
  static Vec abs(Vec a) { return _mm512_andnot_ps(_mm512_set1_ps(-0.0f), a); }
  static Vec copy_sign(Vec magnitude, Vec sign) {
    const Vec bit = _mm512_set1_ps(-0.0f);
    return _mm512_or_ps(_mm512_andnot_ps(bit, magnitude), _mm512_and_ps(bit, sign));
  }
  static Vec power_of_two(Vec shifted) {
    const __m512i n = _mm512_slli_epi32(_mm512_castps_si512(shifted), 23);
    return _mm512_castsi512_ps(_mm512_add_epi32(n, _mm512_set1_epi32(0x3F800000)));
  }
  static void store_masked(float* p, uint16_t mask, Vec v) { _mm512_mask_storeu_ps(p, mask, v); }
  static Vec load_masked(const float* p, uint32_t mask) { return _mm512_maskz_loadu_ps(static_cast<__mmask16>(mask), p); }
  // Even and odd floats of two vectors, in the order that costs least; in_order puts them right.
  static Vec even_pairs(Vec a, Vec b) { return _mm512_shuffle_ps(a, b, 0x88); }
  static Vec odd_pairs(Vec a, Vec b) { return _mm512_shuffle_ps(a, b, 0xDD); }
  static Vec in_order(Vec v) {
    return _mm512_castpd_ps(_mm512_permutexvar_pd(_mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7), _mm512_castps_pd(v)));
  }
  static Vec even_of(Vec a, Vec b) {
    const __m512i even =
        _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    return _mm512_permutex2var_ps(a, even, b);
  }
  static Vec odd_of(Vec a, Vec b) {
    const __m512i odd =
        _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
    return _mm512_permutex2var_ps(a, odd, b);
  }
  static Vec load_even(const float* p) { return even_of(load(p), load(p + 16)); }
  static Vec load_even_masked(const float* p, uint32_t mask) {
    return even_of(load_masked(p, mask & 0xFFFF), load_masked(p + 16, mask >> 16));
  }
  static Vec widen(const float* p) { return load(p); }
  static Vec widen(const uint16_t* p) { return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }
  static Vec widen(const int8_t* p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
  }
  template <int n>
  static Vec spread(const float* x, const uint16_t* i) {
    static_assert(n == 2);
    return _mm512_mask_broadcastss_ps(set1(x[i[0]]), 0xFF00, _mm_load_ss(x + i[1]));
  }
  static float sum(Vec a) { return _mm512_reduce_add_ps(a); }
  static void transpose(const float* src, ptrdiff_t lds, float* dst, ptrdiff_t ldd) {
    __m256 r[8], t[8];
    for (int i = 0; i < 8; ++i) r[i] = _mm256_loadu_ps(src + i * lds);
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
      _mm256_storeu_ps(dst + i * ldd, _mm256_permute2f128_ps(r[i], r[i + 4], 0x20));
      _mm256_storeu_ps(dst + (i + 4) * ldd, _mm256_permute2f128_ps(r[i], r[i + 4], 0x31));
    }
  }
};
using Simd = Avx512;


}  // namespace
}  // namespace sparsec

// Thirty-two registers.
#define SPARSEC_ISA avx512
#define SPMM_ROWS(X) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(10) X(12) X(13) X(14)
#define SPMM_BLOCKS(X) \
  X(1, 2) X(2, 2) X(3, 2) X(4, 2) X(7, 2) X(8, 2) X(1, 4) X(2, 4) X(3, 4) X(4, 4) X(5, 4)
// Lower blocks are left to the AVX2 unit: x is put together float by float, and a wider vector of it
// takes longer.
#define GEMV_LIST(X) \
  X("f32_gemv_dense", kDense, 1, gemv_dense<Simd>) \
  X("f32_gemv_block8x1", kBlocks, 8, (gemv_abreast<Simd, 8, float>)) \
  X("f16_gemv_block8x1", kHalfBlocks, 8, (gemv_abreast<Simd, 8, uint16_t>)) \
  X("i8_gemv_block8x1", kByteBlocks, 8, (gemv_abreast<Simd, 8, int8_t>))
#define DEPTHWISE_LIST(X) DEPTHWISE_IN_PLACE(X)
#define DENSE_VECTORS 4
#include "unit.h"

const sparsec::KernelTable* sparsec::avx512_kernels() { return &kTable; }
