// y = activation(x W^T + bias) + residual, W in the format lps: any sparsity, scattered to shared memory.
//
// A block owns 128 rows of W and a slice of the reduction: two sets of rows, four warps each, and every warp a
// quarter of the slice. A warp takes tiles of 64 rows x 64 columns: it scatters the entries to its own 8 KiB
// of shared memory, whose words stand in the order of the fragments, and multiplies from there.
// All scattering lanes write to a bank of their own.
//
// Compiled with: N8 (rows of x / 8), BRAIN (bfloat16), X_WIDE (K is a multiple of 8), CLEAR (after a tile only
// the words that were written are zeroed: pays from a sparsity of 75 % on).
#include "finish.cuh"

constexpr int SETS = 2;                  // of rows, in a block
constexpr int TEAM = 4;                  // warps of a set, over the reduction
constexpr int THREADS = 32 * SETS * TEAM;
constexpr int ROWS = 64, STEP = 64;      // of a tile
constexpr int STRIPS = ROWS / 16;
constexpr int TILE_BYTES = ROWS * STEP * 2;
constexpr int CHUNK = 160;               // words: 32 lanes x 8 values, 32 lanes x 8 gaps
constexpr int EARLY = 4;                 // overflow entries that a lane fetches before it scatters

// Eight entries of a lane: four go to low halves, four to high halves. A position is 128 bytes from the next.
LANE_FN void scatter(Quad v, u32 gaps, u32& low, u32& high) {
  const u32 l = gaps & 0x0f0f0f0fu, h = (gaps >> 4) & 0x0f0f0f0fu;
  store_shared16<128>(dot4(l, 0x00000080u, low), v.x);
  store_shared16<128>(dot4(h, 0x00000080u, high), v.x >> 16);
  store_shared16<256>(dot4(l, 0x00008080u, low), v.y);
  store_shared16<256>(dot4(h, 0x00008080u, high), v.y >> 16);
  store_shared16<384>(dot4(l, 0x00808080u, low), v.z);
  store_shared16<384>(dot4(h, 0x00808080u, high), v.z >> 16);
  low = dot4(l, 0x80808080u, low);
  high = dot4(h, 0x80808080u, high);
  store_shared16<512>(low, v.w);
  store_shared16<512>(high, v.w >> 16);
  low += 512;
  high += 512;
}

// Eight values of row `n` of x from column k on, zeros outside.
LANE_FN Quad load_x(const u16* x, int n, int k, int N, int K) {
  Quad v = {0, 0, 0, 0};
  if (n >= N) return v;
  const u16* at = x + (u64)n * K + k;
  if constexpr (X_WIDE) {
    if (k < K) v = load128(at);
  } else {
    u32 w[4] = {0, 0, 0, 0};
#pragma unroll
    for (int i = 0; i < 8; i++)
      if (k + i < K) w[i / 2] |= (u32)load16(at + i) << (16 * (i % 2));
    v = {w[0], w[1], w[2], w[3]};
  }
  return v;
}

KERNEL(THREADS, N8 <= 2 ? 3 : (N8 <= 4 ? 2 : 1))
lps_linear(const u16* x, const u32* chunks, const int* tiles, const u32* overflow, const float* bias,
           const void* residual, void* y, float* partial, u32* counters, int M, int N, int K, int activation,
           int wide) {
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  const int set = warp % SETS, member = warp / SETS;
  const int group = blockIdx.x * SETS + set, row = group * ROWS, col = blockIdx.z * 8 * N8;
  const int steps = (K + STEP - 1) / STEP;
  const int slices = gridDim.y * TEAM, slice = blockIdx.y * TEAM + member;
  const int first = (int)((u64)steps * slice / slices);
  const int last = row < M ? (int)((u64)steps * (slice + 1) / slices) : first;
  const u32 tile = shared_base() + warp * TILE_BYTES;
  const Quad zero = {0, 0, 0, 0};

  float acc[STRIPS][N8][4] = {};
  if (first < last) {
    for (int i = 0; i < TILE_BYTES / 512; i++) store_shared128(tile + i * 512 + lane * 16, zero);
    sync_warp();

    // tiles[t] = {first chunk, first overflow entry}; the chunks of consecutive tiles follow each other.
    const int* at = tiles + 2 * ((u64)group * steps + first);
    const int stop = (int)load32(at + 2 * (last - first));
    u64 here = load64(at), next = load64(at + 2);
    int c = (int)here, over = (int)(here >> 32);
    const u32* stream = chunks + (u64)c * CHUNK;
    Quad v0 = zero, v1 = zero;
    u32 g0 = 0, g1 = 0;
    if (c < stop) v0 = stream128(stream + 4 * lane), g0 = load32(stream + 128 + lane);
    if (c + 1 < stop) v1 = stream128(stream + CHUNK + 4 * lane), g1 = load32(stream + CHUNK + 128 + lane);
    stream += 2 * CHUNK + 4 * lane;

#pragma unroll 1
    for (int step = first; step < last; step++) {
      const int begin = c, end = (int)next, over_begin = over, over_end = (int)(next >> 32);
      at += 2;
      if (step + 1 < last) next = load64(at + 2);
      u32 early[EARLY];
#pragma unroll
      for (int i = 0; i < EARLY; i++) {
        early[i] = 0;
        if (over + 32 * i + lane < over_end) early[i] = load32(overflow + over + 32 * i + lane);
      }
      u32 low = tile + 4 * lane, high = low + 2;
      low -= 128, high -= 128;
#pragma unroll 2
      for (; c < end; c++) {
        scatter(v0, g0, low, high);
        v0 = v1, g0 = g1;
        if (c + 2 < stop) v1 = stream128(stream), g1 = load32(stream + 128 - 3 * lane);
        stream += CHUNK;
      }
#pragma unroll
      for (int i = 0; i < EARLY; i++)
        if (over + 32 * i + lane < over_end) store_shared16<0>(tile + (early[i] >> 16) * 2, early[i]);
      for (int i = over + 32 * EARLY + lane; i < over_end; i += 32) {
        const u32 entry = load32(overflow + i);
        store_shared16<0>(tile + (entry >> 16) * 2, entry);
      }
      over = over_end;
      sync_warp();

#pragma unroll
      for (int b = 0; b < STEP / 32; b++) {
        Quad xs[N8];
#pragma unroll
        for (int j = 0; j < N8; j++)
          xs[j] = load_x(x, col + 8 * j + (lane >> 2), step * STEP + 32 * b + 8 * (lane & 3), N, K);
#pragma unroll
        for (int s = 0; s < 2; s++) {
#pragma unroll
          for (int i = 0; i < STRIPS; i++) {
            const u32 words = tile + ((2 * b + s) * STRIPS + i) * 512 + lane * 16;
            const Quad a = load_matrices(words);
            if constexpr (!CLEAR) store_shared128(words, zero);
#pragma unroll
            for (int j = 0; j < N8; j++)
              multiply<BRAIN>(acc[i][j], a, s ? xs[j].z : xs[j].x, s ? xs[j].w : xs[j].y);
          }
        }
      }
      sync_warp();
      if constexpr (CLEAR) {
        low = tile + 4 * lane - 128, high = low + 2;
        const u32* gaps = chunks + (u64)begin * CHUNK + 128 + lane;
        for (int i = begin; i < end; i++, gaps += CHUNK) scatter(zero, load32(gaps), low, high);
        for (int i = over_begin + lane; i < over_end; i += 32)
          store_shared16<0>(tile + (load32(overflow + i) >> 16) * 2, 0);
        sync_warp();
      }
    }
  }

  const Epilogue e = {bias, residual, y, M, N, activation, wide};
  const u32 area = shared_base() + set * STRIPS * N8 * 512;
  const u32 ticket = (blockIdx.z * gridDim.x + blockIdx.x) * SETS + set;
  finish<BRAIN, TEAM>(acc, e, row, col, member, area, partial, counters, ticket);
}
