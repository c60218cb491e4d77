// The AVX-512 intrinsics of unit_avx512.cc on plain arrays, included before every file of a library for tests
// (-include): the unit then runs on any processor with AVX2. Written from Intel's descriptions of the
// instructions, one loop over lanes each; a masked lane of a load or store touches no memory.
#ifndef SPARSEC_AVX512_ON_ARRAYS_H
#define SPARSEC_AVX512_ON_ARRAYS_H

#define __builtin_cpu_supports(feature) true

#ifdef __AVX2__  // a file that holds vectors
#include <immintrin.h>

#include <cmath>
#include <cstdint>
#include <cstring>

namespace avx512_on_arrays {

struct Floats { float lane[16]; };
struct Doubles { double lane[8]; };
struct Ints { int32_t lane[16]; };
struct Longs { int64_t lane[8]; };

// The same 64 bytes as another type.
template <class To, class From>
To cast(const From& from) {
  static_assert(sizeof(To) == 64 && sizeof(From) == 64);
  To to;
  std::memcpy(&to, &from, 64);
  return to;
}

template <class F>
Floats floats(F of_lane) {
  Floats v;
  for (int i = 0; i < 16; ++i) v.lane[i] = of_lane(i);
  return v;
}

template <class F>
Ints ints(F of_lane) {
  Ints v;
  for (int i = 0; i < 16; ++i) v.lane[i] = of_lane(i);
  return v;
}

inline bool bit(uint16_t mask, int i) { return mask >> i & 1; }

inline Floats load(const float* p) { return floats([&](int i) { return p[i]; }); }
inline Floats load_masked(uint16_t mask, const float* p) {
  return floats([&](int i) { return bit(mask, i) ? p[i] : 0.0f; });
}
inline void store_masked(float* p, uint16_t mask, const Floats& v) {
  for (int i = 0; i < 16; ++i)
    if (bit(mask, i)) p[i] = v.lane[i];
}
inline void store(float* p, const Floats& v) { store_masked(p, 0xFFFF, v); }

inline Floats set(float x) { return floats([&](int) { return x; }); }
inline Ints set_int(int32_t x) { return ints([&](int) { return x; }); }
template <class... Int>
Ints list(Int... x) {
  static_assert(sizeof...(x) == 16);
  return {{x...}};
}
template <class... Long>
Longs list_long(Long... x) {
  static_assert(sizeof...(x) == 8);
  return {{x...}};
}

inline Floats fma(const Floats& a, const Floats& b, const Floats& c) {
  return floats([&](int i) { return std::fma(a.lane[i], b.lane[i], c.lane[i]); });
}
inline Floats add(const Floats& a, const Floats& b) { return floats([&](int i) { return a.lane[i] + b.lane[i]; }); }
inline Floats sub(const Floats& a, const Floats& b) { return floats([&](int i) { return a.lane[i] - b.lane[i]; }); }
inline Floats mul(const Floats& a, const Floats& b) { return floats([&](int i) { return a.lane[i] * b.lane[i]; }); }
inline Floats div(const Floats& a, const Floats& b) { return floats([&](int i) { return a.lane[i] / b.lane[i]; }); }
inline Floats sqrt(const Floats& a) { return floats([&](int i) { return std::sqrt(a.lane[i]); }); }
// The second operand where either is no number.
inline Floats max(const Floats& a, const Floats& b) {
  return floats([&](int i) { return a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]; });
}
inline Floats min(const Floats& a, const Floats& b) {
  return floats([&](int i) { return a.lane[i] < b.lane[i] ? a.lane[i] : b.lane[i]; });
}

template <class F>
Floats bitwise(const Floats& a, const Floats& b, F of_lane) {
  const Ints x = cast<Ints>(a), y = cast<Ints>(b);
  return cast<Floats>(ints([&](int i) { return of_lane(x.lane[i], y.lane[i]); }));
}
inline Floats and_(const Floats& a, const Floats& b) { return bitwise(a, b, [](int32_t x, int32_t y) { return x & y; }); }
inline Floats or_(const Floats& a, const Floats& b) { return bitwise(a, b, [](int32_t x, int32_t y) { return x | y; }); }
inline Floats andnot(const Floats& a, const Floats& b) { return bitwise(a, b, [](int32_t x, int32_t y) { return ~x & y; }); }

inline Ints add_int(const Ints& a, const Ints& b) {
  return ints([&](int i) { return static_cast<int32_t>(static_cast<uint32_t>(a.lane[i]) + static_cast<uint32_t>(b.lane[i])); });
}
inline Ints shift_left(const Ints& a, unsigned by) {
  return ints([&](int i) { return by > 31 ? 0 : static_cast<int32_t>(static_cast<uint32_t>(a.lane[i]) << by); });
}

// In each quarter two lanes of a, then two of b, chosen by two bits each.
inline Floats shuffle(const Floats& a, const Floats& b, unsigned chosen) {
  return floats([&](int i) {
    const Floats& from = i % 4 < 2 ? a : b;
    return from.lane[i / 4 * 4 + (chosen >> 2 * (i % 4) & 3)];
  });
}
inline Floats permute_two(const Floats& a, const Ints& index, const Floats& b) {
  return floats([&](int i) {
    const int at = index.lane[i] & 31;
    return at < 16 ? a.lane[at] : b.lane[at - 16];
  });
}
inline Doubles permute_pairs(const Longs& index, const Doubles& a) {
  Doubles v;
  for (int i = 0; i < 8; ++i) v.lane[i] = a.lane[index.lane[i] & 7];
  return v;
}
inline Floats broadcast_masked(const Floats& kept, uint16_t mask, __m128 x) {
  return floats([&](int i) { return bit(mask, i) ? _mm_cvtss_f32(x) : kept.lane[i]; });
}

inline Floats to_float(const Ints& a) { return floats([&](int i) { return static_cast<float>(a.lane[i]); }); }
inline Ints widen_bytes(__m128i a) {
  int8_t bytes[16];
  std::memcpy(bytes, &a, 16);
  return ints([&](int i) { return bytes[i]; });
}
inline Floats widen_halves(__m256i a) {
  uint16_t halves[16];
  std::memcpy(halves, &a, 32);
  return floats([&](int i) { return _cvtsh_ss(halves[i]); });
}
// Halves are added to each other, as the compiler's own sequence does.
inline float sum(Floats a) {
  for (int n = 8; n > 0; n /= 2)
    for (int i = 0; i < n; ++i) a.lane[i] += a.lane[i + n];
  return a.lane[0];
}

}  // namespace avx512_on_arrays

#define __m512 avx512_on_arrays::Floats
#define __m512i avx512_on_arrays::Ints
#define _mm512_loadu_ps avx512_on_arrays::load
#define _mm512_storeu_ps avx512_on_arrays::store
#define _mm512_maskz_loadu_ps avx512_on_arrays::load_masked
#define _mm512_mask_storeu_ps avx512_on_arrays::store_masked
#define _mm512_set1_ps avx512_on_arrays::set
#define _mm512_set1_epi32 avx512_on_arrays::set_int
#undef _mm512_setr_epi32
#undef _mm512_setr_epi64
#define _mm512_setr_epi32 avx512_on_arrays::list
#define _mm512_setr_epi64 avx512_on_arrays::list_long
#define _mm512_fmadd_ps avx512_on_arrays::fma
#define _mm512_add_ps avx512_on_arrays::add
#define _mm512_sub_ps avx512_on_arrays::sub
#define _mm512_mul_ps avx512_on_arrays::mul
#define _mm512_div_ps avx512_on_arrays::div
#define _mm512_max_ps avx512_on_arrays::max
#define _mm512_min_ps avx512_on_arrays::min
#define _mm512_sqrt_ps avx512_on_arrays::sqrt
#define _mm512_and_ps avx512_on_arrays::and_
#define _mm512_or_ps avx512_on_arrays::or_
#define _mm512_andnot_ps avx512_on_arrays::andnot
#define _mm512_add_epi32 avx512_on_arrays::add_int
#define _mm512_slli_epi32 avx512_on_arrays::shift_left
#define _mm512_shuffle_ps avx512_on_arrays::shuffle
#define _mm512_permutex2var_ps avx512_on_arrays::permute_two
#define _mm512_permutexvar_pd avx512_on_arrays::permute_pairs
#define _mm512_mask_broadcastss_ps avx512_on_arrays::broadcast_masked
#define _mm512_cvtepi32_ps avx512_on_arrays::to_float
#define _mm512_cvtepi8_epi32 avx512_on_arrays::widen_bytes
#define _mm512_cvtph_ps avx512_on_arrays::widen_halves
#define _mm512_reduce_add_ps avx512_on_arrays::sum
#define _mm512_castps_si512 avx512_on_arrays::cast<avx512_on_arrays::Ints>
#define _mm512_castsi512_ps avx512_on_arrays::cast<avx512_on_arrays::Floats>
#define _mm512_castps_pd avx512_on_arrays::cast<avx512_on_arrays::Doubles>
#define _mm512_castpd_ps avx512_on_arrays::cast<avx512_on_arrays::Floats>

#define asm(...)  // keeps a value in a register, which arrays are not

#endif
#endif
