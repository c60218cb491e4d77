// W [M, K] in 16 bits from the format nm14_sp, for products of many rows of x.
//
// A warp owns 32 rows x 64 columns. A lane reads the values that the product would give it, and for each the bit that
// makes its metadata; four lanes beside each other write 32 bytes of a row.
//
// Compiled with: BRAIN (w is bfloat16), VALUES (of Values).
#include "values.cuh"

constexpr int WARPS = 8;  // of a block, beside each other
constexpr int STEP = 64;
constexpr int VALUE_WORDS = VALUES ? 128 : 256, PACK_WORDS = VALUE_WORDS + 32;

KERNEL(32 * WARPS, 4)
nm14_sp_unpack(const u32* packed, const float* scale, u16* w, int M, int K) {
  const int lane = threadIdx.x & 31, steps = (K + STEP - 1) / STEP;
  const int step = blockIdx.x * WARPS + (threadIdx.x >> 5);
  if (step >= steps) return;
  const u32* pack = packed + ((u64)blockIdx.y * steps + step) * PACK_WORDS;
  const int g = lane >> 2, t = lane & 3;
  const u32 own = load32(pack + VALUE_WORDS + lane);
  Quad both = {0, 0, 0, 0};
  if constexpr (VALUES != SIXTEEN) both = stream128(pack + 4 * lane);
#pragma unroll
  for (int i = 0; i < 2; i++) {
    Quad v;
    if constexpr (VALUES == SIXTEEN)
      v = stream128(pack + i * 128 + 4 * lane);
    else
      v = i ? widen8<VALUES, false>(both.z, both.w) : widen8<VALUES, false>(both.x, both.y);
    const u32 twos[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int pair = 0; pair < 4; pair++) {
      const int q = pair >> 1, u = pair & 1;
      const u32 lower = load32(pack + VALUE_WORDS + 4 * g + pair) >> i;  // lane 4 g + 2 q + u has the groups 4 u to 4 u + 3
      const u32 upper = own >> (8 * i + 4 * q + u + 2);
#pragma unroll
      for (int h = 0; h < 2; h++) {
        const u32 column_of_four = (lower >> (16 * h + 4 * t) & 1) | (upper >> (16 * h) & 1) << 1;
        const int row = blockIdx.y * 32 + 16 * i + 8 * h + g, column = step * STEP + 32 * q + 16 * u + 4 * t;
        if (row >= M || column >= K) continue;
        u64 value = (u16)(twos[pair] >> (16 * h));
        if constexpr (VALUES != SIXTEEN) value = narrow<BRAIN>(widen<false>((u16)value) * as_float(load32(scale + row)));
        store64(w + (u64)row * K + column, value << (16 * column_of_four));
      }
    }
  }
}
