// y = activation(x W^T + bias) + residual, W in the format nm24_sp: 2:4 on the sparse tensor cores.
//
// A block owns 128 rows of W and a slice of the reduction. It has two teams of four warps, each with half of
// the slice; a warp owns 32 rows. A team runs through its columns 64 at a time, in a ring of STAGES buffers
// filled by asynchronous copies: every warp brings its own weights, the team together its rows of x.
//
// Compiled with: N8 (rows of x / 8), BRAIN (bfloat16), STAGES, X_BYTES (16 if K is a multiple of 8, else 8).
#include "finish.cuh"

constexpr int STRIPS = 2;                          // of 16 rows, in a warp
constexpr int TEAM = 4;                            // warps that share x
constexpr int TEAMS = 2;                           // of warps, over the reduction
constexpr int THREADS = 32 * TEAM * TEAMS;
constexpr int BLOCK_ROWS = 16 * STRIPS * TEAM;
constexpr int STEP = 64;                           // columns in a buffer
constexpr int STRIP_BYTES = 1024 + 128;            // kept values, then metadata
constexpr int W_BYTES = STRIP_BYTES * STRIPS * TEAM;
constexpr int STAGE_BYTES = W_BYTES + 8 * N8 * STEP * 2;

// Blocks on a processor that registers must allow; shared memory allows no more.
KERNEL(THREADS, N8 <= 4 ? 2 : 1)
nm24_sp_linear(const u16* x, const u32* packed, const float* bias, const void* residual, void* y, float* partial,
               u32* counters, int M, int N, int K, int activation, int wide) {
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  const int team = warp / TEAM, member = warp % TEAM, thread = threadIdx.x % (32 * TEAM);
  const int row = blockIdx.x * BLOCK_ROWS + member * 16 * STRIPS, col = blockIdx.z * 8 * N8;
  const int strips = (M + 15) / 16, steps = (K + STEP - 1) / STEP;
  const int slices = gridDim.y * TEAMS, slice = blockIdx.y * TEAMS + team;
  const int first = (int)((u64)steps * slice / slices), last = (int)((u64)steps * (slice + 1) / slices);
  const u32 ring = shared_base() + team * STAGES * STAGE_BYTES;

  // Strips past the end repeat the last one: their metadata is valid, and put() stores nothing of them.
  const u32* from[STRIPS];
#pragma unroll
  for (int i = 0; i < STRIPS; i++) {
    const int strip = row / 16 + i < strips ? row / 16 + i : strips - 1;
    from[i] = packed + (u64)strip * steps * (STRIP_BYTES / 4);
  }
  const u32 own = member * STRIPS * STRIP_BYTES;

  // x: piece p of a row of the buffer holds X_BYTES; pieces of 16 bytes are swizzled over the banks.
  constexpr int PIECES = STEP * 2 / X_BYTES, COPIES = 8 * N8 * PIECES;
  auto fetch = [&](int step, u32 stage) {
#pragma unroll
    for (int i = 0; i < STRIPS; i++) {
      const u32* block = from[i] + (u64)step * (STRIP_BYTES / 4);
      const u32 to = stage + own + i * STRIP_BYTES;
      copy_async<16>(to + 16 * lane, block + 4 * lane, 16);
      copy_async<16>(to + 512 + 16 * lane, block + 128 + 4 * lane, 16);
      copy_async<4>(to + 1024 + 4 * lane, block + 256 + lane, 4);
    }
#pragma unroll
    for (int c = 0; c < (COPIES + 32 * TEAM - 1) / (32 * TEAM); c++) {
      const int at = thread + c * 32 * TEAM, n = at / PIECES, piece = at % PIECES;
      if (COPIES % (32 * TEAM) == 0 || at < COPIES) {
        const int k = step * STEP + piece * (X_BYTES / 2);
        const bool inside = col + n < N && k < K;
        const u32 byte = piece * X_BYTES;
        const u32 to = stage + W_BYTES + n * (STEP * 2) + ((byte >> 4) ^ (n & 7)) * 16 + (byte & 15);
        copy_async<X_BYTES>(to, inside ? x + (u64)(col + n) * K + k : x, inside ? X_BYTES : 0);
      }
    }
  };

  float acc[STRIPS][N8][4] = {};
#pragma unroll
  for (int s = 0; s < STAGES - 1; s++) {
    if (first + s < last) fetch(first + s, ring + s * STAGE_BYTES);
    copy_commit();
  }
  u32 stage = ring, ahead = ring + (STAGES - 1) * STAGE_BYTES;
  const u32 end = ring + STAGES * STAGE_BYTES;
  // Row and first piece that this lane names to load_matrices.
  const u32 x_row = W_BYTES + (lane & 7) * (STEP * 2), x_piece = lane >> 3, x_swizzle = lane & 7;
#pragma unroll 1
  for (int step = first; step < last; step++) {
    copy_wait<STAGES - 2>();
    sync_some(1 + team, 32 * TEAM);  // all copies of this step have landed, and all have left `ahead`
    if (step + STAGES - 1 < last) fetch(step + STAGES - 1, ahead);
    copy_commit();
    Quad a[STRIPS][2];
    u32 meta[STRIPS];
#pragma unroll
    for (int i = 0; i < STRIPS; i++) {
      const u32 at = stage + own + i * STRIP_BYTES;
      a[i][0] = load_shared128(at + 16 * lane);
      a[i][1] = load_shared128(at + 512 + 16 * lane);
      meta[i] = load_shared32(at + 1024 + 4 * lane);
    }
    const u32 low = stage + x_row + ((x_piece ^ x_swizzle) << 4), high = stage + x_row + (((x_piece + 4) ^ x_swizzle) << 4);
#pragma unroll
    for (int j = 0; j < N8; j++) {
      const Quad b0 = load_matrices(low + j * 8 * STEP * 2), b1 = load_matrices(high + j * 8 * STEP * 2);
#pragma unroll
      for (int i = 0; i < STRIPS; i++) {
        multiply_sparse<BRAIN, 0>(acc[i][j], a[i][0], b0, meta[i]);
        multiply_sparse<BRAIN, 1>(acc[i][j], a[i][1], b1, meta[i]);
      }
    }
    stage = stage + STAGE_BYTES == end ? ring : stage + STAGE_BYTES;
    ahead = ahead + STAGE_BYTES == end ? ring : ahead + STAGE_BYTES;
  }
  copy_wait<0>();

  const Epilogue e = {bias, residual, y, M, N, activation, wide};
  const u32 area = shared_base() + member * STRIPS * N8 * 512;
  const u32 ticket = (blockIdx.z * gridDim.x + blockIdx.x) * TEAM + member;
  finish<BRAIN, TEAMS>(acc, e, row, col, team, area, partial, counters, ticket);
}
