// W [M, K] in 16 bits from the format nm24_sp, for products of many rows of x.
//
// A warp owns 32 rows x 64 columns. A lane reads the values that the product would give it, and the metadata of each
// pair; four lanes beside each other write 32 bytes of a row.
//
// Compiled with: BRAIN (w is bfloat16), VALUES (of Values).
#include "values.cuh"

constexpr int WARPS = 8;  // of a block, beside each other
constexpr int STEP = 64;
constexpr int VALUE_WORDS = VALUES ? 256 : 512, PACK_WORDS = VALUE_WORDS + 64;

// An element of w: a stored 16-bit value as it is, an 8-bit one times the scale of its row.
LANE_FN u64 scaled(u32 value, float scale) {
  if constexpr (VALUES == SIXTEEN) return (u16)value;
  return narrow<BRAIN>(widen<false>((u16)value) * scale);
}

KERNEL(32 * WARPS, 4)
nm24_sp_unpack(const u32* packed, const float* scale, u16* w, int M, int K) {
  const int lane = threadIdx.x & 31, steps = (K + STEP - 1) / STEP;
  const int step = blockIdx.x * WARPS + (threadIdx.x >> 5);
  if (step >= steps) return;
  const u32* pack = packed + ((u64)blockIdx.y * steps + step) * PACK_WORDS;
  const int t = lane & 3;
#pragma unroll
  for (int i = 0; i < 2; i++) {
    Quad both = {0, 0, 0, 0};
    if constexpr (VALUES != SIXTEEN) both = stream128(pack + i * 128 + 4 * lane);
#pragma unroll
    for (int q = 0; q < 2; q++) {
      Quad v;
      if constexpr (VALUES == SIXTEEN)
        v = stream128(pack + (2 * i + q) * 128 + 4 * lane);
      else
        v = q ? widen8<VALUES, false>(both.z, both.w) : widen8<VALUES, false>(both.x, both.y);
      const u32 pairs[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
      for (int r = 0; r < 4; r++) {
        // Lane 4 g + 2 q + u of the metadata has the groups 4 u to 4 u + 3.
        const u32 meta = load32(pack + VALUE_WORDS + 2 * ((lane & 28) + 2 * q + (r >> 1)) + i);
        const u32 places = meta >> (16 * (r & 1) + 4 * t) & 15;
        const int row = blockIdx.y * 32 + 16 * i + (lane >> 2) + 8 * (r & 1);
        const int column = step * STEP + 32 * q + 4 * (t + 4 * (r >> 1));
        if (row >= M || column >= K) continue;
        const float by = VALUES ? as_float(load32(scale + row)) : 1.0f;
        const u64 four = scaled(pairs[r], by) << (16 * (places & 3)) | scaled(pairs[r] >> 16, by) << (16 * (places >> 2));
        store64(w + (u64)row * K + column, four);
      }
    }
  }
}
