// y = activation(x W^T + bias) + residual, W in the format lps: any sparsity, scattered to shared memory.
//
// A block owns 128 rows of W and a slice of the reduction: two sets of rows, four warps each, and every warp a
// quarter of the slice. A warp takes tiles of 64 rows x 64 columns: it scatters the entries to its own 8 KiB
// of shared memory, whose words stand in the order of the fragments, and multiplies from there.
// In lists, every lane writes to a bank of its own.
//
// Compiled with: N8 (rows of x / 8), BRAIN (bfloat16), X_BYTES (16 if K is a multiple of 8, else 2), EVEN (K is a
// multiple of 64), CLEAR (after a tile only the words that were written are zeroed: pays at high sparsity).
#include "finish.cuh"

constexpr int SETS = 2;                  // of rows, in a block
constexpr int TEAM = 4;                  // warps of a set, over the reduction
constexpr int ROWS = 64, STEP = 64;      // of a tile
constexpr int STRIPS = ROWS / 16;
constexpr int TILE_BYTES = ROWS * STEP * 2;
constexpr int CHUNK_BYTES = 640;         // 32 lanes x 8 values, then 32 lanes x 8 gaps
constexpr int AHEAD = 8;                 // chunks from the one that is loaded to the one that is brought to the L2 cache
constexpr int EARLY = 5;                 // overflow entries that a lane fetches before it scatters the lists
constexpr int LATE = 4;                  // and that it fetches together afterwards

// Eight entries of a lane: four go to low halves, four to high halves. A position is 128 bytes from the next.
// OFFSET is what the positions of earlier chunks contribute besides their gaps.
template <int OFFSET>
LANE_FN void scatter(Quad v, u32 gaps, u32& low, u32& high) {
  const u32 l = gaps & 0x0f0f0f0fu, h = (gaps >> 4) & 0x0f0f0f0fu;
  store_shared16<OFFSET + 128>(dot4(l, 0x00000080u, low), v.x);
  store_shared16<OFFSET + 128>(dot4(h, 0x00000080u, high), v.x >> 16);
  store_shared16<OFFSET + 256>(dot4(l, 0x00008080u, low), v.y);
  store_shared16<OFFSET + 256>(dot4(h, 0x00008080u, high), v.y >> 16);
  store_shared16<OFFSET + 384>(dot4(l, 0x00808080u, low), v.z);
  store_shared16<OFFSET + 384>(dot4(h, 0x00808080u, high), v.z >> 16);
  low = dot4(l, 0x80808080u, low);
  high = dot4(h, 0x80808080u, high);
  store_shared16<OFFSET + 512>(low, v.w);
  store_shared16<OFFSET + 512>(high, v.w >> 16);
}

// Eight elements of a row of x, zeros for those past the `left` that remain of it.
LANE_FN Quad load_x(const char* at, int left) {
  if constexpr (X_BYTES == 16) {
    if (EVEN || left > 0) return load128(at);
    return {0, 0, 0, 0};
  }
  u32 w[4] = {0, 0, 0, 0};
#pragma unroll
  for (int i = 0; i < 8; i++)
    if (i < left) w[i / 2] |= (u32)load16(at + 2 * i) << (16 * (i % 2));
  return {w[0], w[1], w[2], w[3]};
}

KERNEL(THREADS, N8 <= 1 ? 3 : (N8 <= 2 ? 2 : 1))
lps_linear(const u16* x, const u32* chunks, const int* tiles, const u32* overflow, const float* bias,
           const void* residual, void* y, float* partial, u32* counters, int M, int N, int K, int activation,
           int wide) {
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  const int set = warp % SETS, member = warp / SETS;
  const int group = blockIdx.x * SETS + set;
  const int steps = (K + STEP - 1) / STEP;
  const int slices = gridDim.y * TEAM, slice = blockIdx.y * TEAM + member;
  const int first = (int)((u64)steps * slice / slices);
  const int last = group * ROWS < M ? (int)((u64)steps * (slice + 1) / slices) : first;
  const u32 tile = pin(shared_base() + warp * TILE_BYTES), rows = pin(tile + 16 * lane), own = pin(tile + 4 * lane);
  const Quad zero = {0, 0, 0, 0};

  float acc[STRIPS][N8][4] = {};
  if (first < last) {
#pragma unroll 1
    for (int i = 0; i < TILE_BYTES; i += 512) store_shared128(rows + i, zero);
    sync_warp();

    // tiles[t] = {first chunk, first overflow entry}; the chunks of consecutive tiles follow each other.
    const int* at = tiles + 2 * ((u64)group * steps + first);
    u64 here = load64(at), next = load64(at + 2);
    int chunk = (int)here, over = (int)(here >> 32);
    int stream = (int)load32(at + 2 * (last - first)) - chunk;  // chunks this warp has not fetched
    at += 4;
    const char* values = (const char*)chunks + (u64)chunk * CHUNK_BYTES + 16 * lane;
    const char* gaps = (const char*)chunks + (u64)chunk * CHUNK_BYTES + 512 + 4 * lane;
    // 16 bytes behind what they load, these lanes meet each of the five 128-byte lines of a chunk.
    const bool caller = lane == 0 || (lane & 7) == 7;
    Quad v0 = zero, v1 = zero;
    u32 g0 = 0, g1 = 0;
    if (stream > 0) v0 = stream128(values), g0 = load32(gaps);
    if (stream > 1) v1 = stream128(values + CHUNK_BYTES), g1 = load32(gaps + CHUNK_BYTES);
    values += 2 * CHUNK_BYTES, gaps += 2 * CHUNK_BYTES, stream -= 2;

    // Rows of x past the end repeat the last one: nothing of them is stored.
    u32 x_at[N8];  // bytes into x: below 4 GiB
#pragma unroll
    for (int j = 0; j < N8; j++) {
      const int n = blockIdx.z * 8 * N8 + 8 * j + (lane >> 2);
      x_at[j] = ((u32)(n < N ? n : N - 1) * K + first * STEP + 8 * (lane & 3)) * 2;
    }
    int x_left = K - first * STEP - 8 * (lane & 3);

#pragma unroll 1
    for (int step = first; step < last; step++) {
      const int begin = chunk, over_begin = over;
      int count = (int)next - chunk, extra = (int)(next >> 32) - over - lane;
      u32 spilt = ((u32)over + lane) * 4;
      chunk = (int)next, over = (int)(next >> 32);
      if (step + 1 < last) next = load64(at);
      at += 2;
      u32 early[EARLY];
#pragma unroll
      for (int i = 0; i < EARLY; i++)
        if (extra > 32 * i) early[i] = load32((const char*)overflow + spilt + 128 * i);

      u32 low = own - 128, high = own - 126;
#pragma unroll 1
      for (; count > 1; count -= 2) {
        scatter<0>(v0, g0, low, high);
        if (stream > 0) v0 = stream128(values), g0 = load32(gaps);
        scatter<512>(v1, g1, low, high);
        if (stream > 1) v1 = stream128(values + CHUNK_BYTES), g1 = load32(gaps + CHUNK_BYTES);
        if (caller && stream > AHEAD + 1) {
          prefetch(values + AHEAD * CHUNK_BYTES + 16);
          prefetch(values + (AHEAD + 1) * CHUNK_BYTES + 16);
        }
        values += 2 * CHUNK_BYTES, gaps += 2 * CHUNK_BYTES, stream -= 2;
        low += 1024, high += 1024;
      }
      if (count) {
        scatter<0>(v0, g0, low, high);
        v0 = v1, g0 = g1;
        if (stream > 0) v1 = stream128(values), g1 = load32(gaps);
        values += CHUNK_BYTES, gaps += CHUNK_BYTES, stream -= 1;
      }
#pragma unroll
      for (int i = 0; i < EARLY; i++)
        if (extra > 32 * i) store_shared16<0>(tile + (early[i] >> 16), early[i]);
#pragma unroll 1
      for (int from = 32 * EARLY; from < extra; from += 32 * LATE) {
        u32 late[LATE];
#pragma unroll
        for (int i = 0; i < LATE; i++)
          if (extra - from > 32 * i) late[i] = load32((const char*)overflow + (spilt + 4 * from) + 128 * i);
#pragma unroll
        for (int i = 0; i < LATE; i++)
          if (extra - from > 32 * i) store_shared16<0>(tile + (late[i] >> 16), late[i]);
      }
      sync_warp();

#pragma unroll 1
      for (int b = 0; b < STEP / 32; b++) {
        Quad xs[N8];
#pragma unroll
        for (int j = 0; j < N8; j++) xs[j] = load_x((const char*)x + x_at[j] + 64 * b, x_left - 32 * b);
#pragma unroll
        for (int s = 0; s < 2; s++) {
#pragma unroll
          for (int i = 0; i < STRIPS; i++) {
            const u32 words = rows + ((2 * b + s) * STRIPS + i) * 512;
            const Quad a = load_matrices(words);
            if constexpr (!CLEAR) store_shared128(words, zero);
#pragma unroll
            for (int j = 0; j < N8; j++)
              multiply<BRAIN>(acc[i][j], a, s ? xs[j].z : xs[j].x, s ? xs[j].w : xs[j].y);
          }
        }
      }
#pragma unroll
      for (int j = 0; j < N8; j++) x_at[j] += STEP * 2;
      x_left -= STEP;
      sync_warp();
      if constexpr (CLEAR) {
        low = own - 128, high = own - 126;
        u32 again = (u32)begin * CHUNK_BYTES + 512 + 4 * lane;
#pragma unroll 1
        for (int i = begin; i < chunk; i++, again += CHUNK_BYTES, low += 512, high += 512)
          scatter<0>(zero, load32((const char*)chunks + again), low, high);
        spilt = ((u32)over_begin + lane) * 4;
#pragma unroll 1
        for (int i = 0; i < extra; i += 32) store_shared16<0>(tile + (load32((const char*)overflow + (spilt + 4 * i)) >> 16), 0);
        sync_warp();
      }
    }
  }

  const Epilogue e = {bias, residual, y, M, N, activation, wide};
  finish<BRAIN, TEAM>(acc, e, set, member, partial, counters);
}
