// From stored values of 8 bits to the 16-bit floats that are multiplied, two at a time.
#pragma once
#include "lanes.cuh"

enum Values { SIXTEEN = 0, E4M3 = 1, INT8 = 2 };

// Two 16-bit floats: bytes 2 PART and 2 PART + 1 of a word, exactly.
template <int KIND, bool BF, int PART>
LANE_FN u32 widen2(u32 word) {
  constexpr u32 first = 2 * PART, second = first + 1;
  if constexpr (KIND == INT8 && !BF) {
    // 0x6400 | n is 1024 + n.
    const u32 n = permute(word ^ 0x80808080u, 0x64646464u, 0x4040 | second << 8 | first);
    return fma2<BF>(n, 0x3c003c00u, 0xe480e480u);
  } else if constexpr (KIND == INT8) {
    // 0x4300 | n is 128 + n for seven bits, and the sign bit makes 128 of it 256.
    const u32 n = permute(word, 0, 0x4040 | second << 8 | first);
    return fma2<BF>((n & 0x00800080u) | 0x43004300u, 0xbf80bf80u, (n & 0x007f007fu) | 0x43004300u);
  } else {
#if __CUDA_ARCH__ >= 890
    if constexpr (!BF) return widen_e4m3<PART>(word);
#endif
    // The exponent of another bias, where it belongs, is a power of two off: 2^8, or 2^120 for bfloat16.
    const u32 n = permute(word, 0, 0x0404 | second << 12 | first << 4);
    if constexpr (BF) return fma2<BF>((n & 0x80008000u) | (n >> 4 & 0x07f007f0u), 0x7b807b80u, 0x80008000u);
    return fma2<BF>((n & 0x80008000u) | (n >> 1 & 0x3f803f80u), 0x5c005c00u, 0x80008000u);
  }
}

// Eight 16-bit floats of eight bytes, in their order.
template <int KIND, bool BF>
LANE_FN Quad widen8(u32 low, u32 high) {
  return {widen2<KIND, BF, 0>(low), widen2<KIND, BF, 1>(low), widen2<KIND, BF, 0>(high),
          widen2<KIND, BF, 1>(high)};
}

// Whether int8 becomes a float of 16 bits by a conversion of one byte, which leaves it where a 16-bit store takes it.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
template <int KIND, bool BF>
constexpr bool CONVERTS = KIND == INT8 && !BF;
#else
template <int KIND, bool BF>
constexpr bool CONVERTS = KIND == INT8;
#endif

// Four 16-bit floats of a word, one by one.
template <int KIND, bool BF>
LANE_FN void widen_each(u32 word, u16 (&to)[8], int from) {
  if constexpr (CONVERTS<KIND, BF>) {
    to[from] = widen_int8<BF, 0>(word), to[from + 1] = widen_int8<BF, 1>(word);
    to[from + 2] = widen_int8<BF, 2>(word), to[from + 3] = widen_int8<BF, 3>(word);
  } else {
    halves(widen2<KIND, BF, 0>(word), to[from], to[from + 1]);
    halves(widen2<KIND, BF, 1>(word), to[from + 2], to[from + 3]);
  }
}
