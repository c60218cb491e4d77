// W [M, K] in 16 bits from the format lps, for products of many rows of x.
//
// A warp owns a tile of 64 rows x 64 columns: it scatters the entries to its own 8 KiB of shared memory, as lps.cu
// does, and writes the rows from there.
//
// Compiled with: BRAIN (w is bfloat16), VALUES (of Values), ALIGNED (K is a multiple of 8).
#define WIDE_BRAIN false
#include "lps.cuh"

constexpr int WARPS = 8;  // of a block, beside each other in a row of tiles

// Two elements of w: stored 16-bit values as they are, 8-bit ones times the scale of their row.
LANE_FN u32 scaled(u32 pair, float scale) {
  if constexpr (VALUES == SIXTEEN) return pair;
  const u32 low = narrow<BRAIN>(widen<false>((u16)pair) * scale);
  return low | (u32)narrow<BRAIN>(widen<false>((u16)(pair >> 16)) * scale) << 16;
}

KERNEL(32 * WARPS, 2)
lps_unpack(const u32* chunks, const int* tiles, const u32* overflow, const float* scale, u16* w, int M, int K) {
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  const int steps = (K + STEP - 1) / STEP, step = blockIdx.x * WARPS + warp;
  if (step >= steps) return;
  const u32 tile = shared_base() + warp * TILE_BYTES, own = tile + 4 * lane;
#pragma unroll 4
  for (int i = 0; i < TILE_BYTES; i += 512) store_shared128(tile + 16 * lane + i, {0, 0, 0, 0});
  sync_warp();

  const int* at = tiles + 2 * ((u64)blockIdx.y * steps + step);
  const u64 here = load64(at), next = load64(at + 2);
  const char* values = (const char*)chunks + (u64)(u32)here * CHUNK_BYTES + LANE_BYTES * lane;
  const char* gaps = (const char*)chunks + (u64)(u32)here * CHUNK_BYTES + GAPS_AT + 4 * lane;
  u32 low = own - 128, high = own - 126;
#pragma unroll 4
  for (int c = (int)here; c < (int)next; c++, values += CHUNK_BYTES, gaps += CHUNK_BYTES, low += 512, high += 512)
    scatter<0>(widened(load_values(values)), load32(gaps), low, high);
#pragma unroll 4
  for (int i = (int)(here >> 32) + lane; i < (int)(next >> 32); i += 32) {
    const u32 entry = load32(overflow + i);
    store_shared16<0>(tile + (entry >> 16), spilt_value(entry));
  }
  sync_warp();

  // Eight columns of a row are a lane's words of two k16 steps: docs/formats/lps.md.
  const int eight = lane & 7, column = step * STEP + 8 * eight;
#pragma unroll 4
  for (int r = lane >> 3; r < ROWS; r += 4) {
    const int row = blockIdx.y * ROWS + r;
    const u32 word = (eight >> 2) * 32 + (r >> 4) * 4 + (r >> 3 & 1);
    const u32 from = tile + (word * 32 + (r & 7) * 4 + (eight & 3)) * 4;
    Quad v = {load_shared32(from), load_shared32(from + 256), load_shared32(from + 2048), load_shared32(from + 2304)};
    if (row >= M) continue;
    const float by = VALUES ? as_float(load32(scale + row)) : 1.0f;
    v = {scaled(v.x, by), scaled(v.y, by), scaled(v.z, by), scaled(v.w, by)};
    u16* to = w + (u64)row * K + column;
    if constexpr (ALIGNED) {
      if (column < K) store128(to, v);
    } else {
      const u32 pairs[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
      for (int i = 0; i < 8; i++)
        if (column + i < K) store16(to + i, (u16)(pairs[i / 2] >> (16 * (i % 2))));
    }
  }
}
