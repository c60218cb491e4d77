// y = activation(x W^T + bias) + residual, W as fragments of the sparse tensor cores.
//
// A block owns 64 STRIPS rows of W and a slice of the reduction. It has two teams of four warps, each with half
// of the slice; a warp owns 16 STRIPS rows: with more rows of x, more, for each fragment of x is read once for all
// of them. A team runs through its columns 64 at a time, in a ring of STAGES buffers filled by asynchronous
// copies: every warp brings its own weights, the team together its rows of x.
//
// Compiled with: N8 (rows of x / 8), BRAIN (bfloat16), VALUES (of Values), STRIPS (2 or 4), STAGES, X_BYTES (16 if
// K is a multiple of 8, else 8), EVEN (K is a multiple of 64).
//
// A source of a format defines SP_LINEAR, the name of its kernel, VALUE_BYTES and META_BYTES, which 32 rows of a step
// take, and operands(), which makes of them what a lane gives to the instructions. It includes finish.cuh and values.cuh.
#pragma once

constexpr int PACKS = STRIPS / 2;                  // of 32 rows, as they are stored
constexpr int TEAM = 4;                            // warps that share x
constexpr int TEAMS = 2;                           // of warps, over the reduction
constexpr int STEP = 64;                           // columns in a buffer
constexpr int PACK_BYTES = VALUE_BYTES + META_BYTES;
constexpr int X_AT = PACK_BYTES * PACKS * TEAM;
constexpr int STAGE_BYTES = X_AT + 8 * N8 * STEP * 2;
constexpr int PIECES = STEP * 2 / X_BYTES;         // of a row of x in a buffer
constexpr int COPIES = (8 * N8 * PIECES + 32 * TEAM - 1) / (32 * TEAM);

// Blocks on a processor that registers must allow; shared memory allows no more.
KERNEL(THREADS, STRIPS == 2 && N8 <= 4 ? 2 : 1)
SP_LINEAR(const u16* x, const u32* packed, const float* scale, const float* bias, const void* residual, void* y,
               float* partial, u32* counters, int M, int N, int K, int activation, int wide) {
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  const int team = warp / TEAM, member = warp % TEAM, thread = threadIdx.x % (32 * TEAM);
  const int packs = (M + 31) / 32, steps = (K + STEP - 1) / STEP;
  const int slices = gridDim.y * TEAMS, slice = blockIdx.y * TEAMS + team;
  const int first = (int)((u64)steps * slice / slices), last = (int)((u64)steps * (slice + 1) / slices);
  const u32 ring = shared_base() + team * STAGES * STAGE_BYTES;

  // A pack past the end repeats the last one: its metadata is valid, and nothing of it is stored. Pointers stand
  // in the middle of what is copied from them: an asynchronous copy has room for 2 KiB forth and back.
  const char* from[PACKS];
#pragma unroll
  for (int p = 0; p < PACKS; p++) {
    const int pack = (blockIdx.x * TEAM + member) * PACKS + p;
    from[p] = (const char*)packed + ((u64)(pack < packs ? pack : packs - 1) * steps + first) * PACK_BYTES + 16 * lane + VALUE_BYTES / 2;
  }
  const u32 values_at = pin(ring + member * PACKS * PACK_BYTES + 16 * lane);
  const u32 metadata_at = pin(values_at + VALUE_BYTES - (16 - META_BYTES / 32) * lane), barrier = pin(1 + team);

  // Rows of x past the end repeat the last one. A row of a buffer is 8 pieces of 16 bytes, swizzled over the banks.
  const char* x_from[COPIES];
  u32 x_to[COPIES];
  int x_left[COPIES];  // columns up to K
#pragma unroll
  for (int c = 0; c < COPIES; c++) {
    const int at = thread + c * 32 * TEAM, n = at / PIECES, byte = at % PIECES * X_BYTES;
    const int row = blockIdx.z * 8 * N8 + n < N ? blockIdx.z * 8 * N8 + n : N - 1;
    x_left[c] = K - first * STEP - byte / 2;
    x_from[c] = (const char*)(x + (u64)row * K + first * STEP) + byte;
    x_to[c] = pin(ring + X_AT + n * (STEP * 2) + ((byte >> 4) ^ (n & 7)) * 16 + (byte & 15));
  }
  // Brings the next step, which is number `step` from where the pointers to x stand.
  auto fetch = [&](int step, bool go) {
    const u32 stage = step % STAGES * STAGE_BYTES;
#pragma unroll
    for (int p = 0; p < PACKS; p++) {
      const u32 to = values_at + stage + p * PACK_BYTES;
#pragma unroll
      for (int v = 0; v < VALUE_BYTES; v += 512) copy_async<16>(to + v, from[p] + (v - VALUE_BYTES / 2), go);
      copy_async<16>(to + VALUE_BYTES, from[p] + VALUE_BYTES / 2, go && lane < META_BYTES / 16);
      advance(from[p], PACK_BYTES);
    }
#pragma unroll
    for (int c = 0; c < COPIES; c++) {
      const bool mine = 8 * N8 * PIECES % (32 * TEAM) == 0 || thread + c * 32 * TEAM < 8 * N8 * PIECES;
      copy_async<X_BYTES>(x_to[c] + stage, x_from[c] + step * STEP * 2, go && mine, EVEN || x_left[c] > step * STEP);
    }
    copy_commit();
  };

  float acc[STRIPS][N8][4] = {};
  int left = last - first;
#pragma unroll
  for (int s = 0; s < STAGES - 1; s++) fetch(s, s < left);
  // The row and piece of x that this lane names to load_matrices, for the lower and the upper 32 columns.
  const u32 x_row = ring + X_AT + (lane & 7) * (STEP * 2);
  const u32 x_low = pin(x_row + (((lane >> 3) ^ (lane & 7)) << 4));
  const u32 x_high = pin(x_row + (((lane >> 3) + 4 ^ (lane & 7)) << 4));
#pragma unroll 1
  while (left > 0) {
#pragma unroll
    for (int s = 0; s < STAGES; s++) {
      const u32 stage = s * STAGE_BYTES;
      copy_wait<STAGES - 2>();
      sync_some(barrier, 32 * TEAM);  // all copies of this step have landed, and all have left the oldest buffer
      fetch(s + STAGES - 1, left > STAGES - 1);
      Quad a[STRIPS][2];
      u32 meta[STRIPS];
#pragma unroll
      for (int p = 0; p < PACKS; p++) {
        const u32 at = stage + p * PACK_BYTES;
        operands(values_at + at, metadata_at + at, a[2 * p], a[2 * p + 1], meta[2 * p], meta[2 * p + 1]);
      }
#pragma unroll
      for (int j = 0; j < N8; j++) {
        const Quad b0 = load_matrices(x_low + stage + j * 8 * STEP * 2);
        const Quad b1 = load_matrices(x_high + stage + j * 8 * STEP * 2);
#pragma unroll
        for (int i = 0; i < STRIPS; i++) {
          multiply_sparse<BRAIN, 0>(acc[i][j], a[i][0], b0, meta[i]);
          multiply_sparse<BRAIN, 1>(acc[i][j], a[i][1], b1, meta[i]);
        }
      }
      if (--left <= 0) break;
    }
    // Once for all steps of the ring: the distances fit the copies.
#pragma unroll
    for (int c = 0; c < COPIES; c++) advance(x_from[c], STAGES * STEP * 2), x_left[c] -= STAGES * STEP;
  }
  copy_wait<0>();

  const Epilogue e = {scale, bias, residual, y, M, N, activation, wide};
  finish<BRAIN, TEAMS>(acc, e, member, team, partial, counters);
}
