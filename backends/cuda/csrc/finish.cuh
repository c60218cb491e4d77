// From accumulators to y: sum over the warps and blocks that share the reduction, then the epilogue.
//
// Every sum is taken in one fixed order: equal input gives equal bits, whichever block comes last.
#pragma once
#include "lanes.cuh"

constexpr int THREADS = 256;  // of a block

enum Activation { LINEAR = 0, RELU = 1, GELU = 2, SILU = 3, GELU_TANH = 4 };

LANE_FN float activate(float v, int how) {
  if (how == RELU) return v > 0.0f || v != v ? v : 0.0f;
  if (how == GELU) return 0.5f * v * (1.0f + erff(v * 0.70710678f));
  if (how == SILU) return v / (1.0f + expf(-v));
  if (how == GELU_TANH) return 0.5f * v * (1.0f + tanhf(0.79788456f * (v + 0.044715f * v * v * v)));
  return v;
}

struct Epilogue {
  const float* scale;    // float32 [M] of values of 8 bits, or null
  const float* bias;     // float32 [M], or null
  const void* residual;  // as y [N, M], or null
  void* y;               // float16, bfloat16 or float32 [N, M]
  int m, n;
  int activation;        // one of Activation
  int wide;              // y and residual are float32
};

// y = activation(v) + residual, for one element.
template <bool BF>
LANE_FN void put(const Epilogue& e, int row, int col, float v) {
  const u64 at = (u64)col * e.m + row;
  v = activate(v, e.activation);
  if (e.wide) {
    if (e.residual) v += as_float(load32((const float*)e.residual + at));
    store32((float*)e.y + at, as_bits(v));
  } else {
    if (e.residual) v += widen<BF>(load16((const u16*)e.residual + at));
    store16((u16*)e.y + at, narrow<BF>(v));
  }
}

// Adds, in the order of the splits, what they left in memory, and puts the sums where each left its own in shared
// memory, which is the order that `sums` has too. A thread has QUADS pieces of 16 bytes; few reach memory at a time
// what many bytes need to arrive, so loads go out eight together.
template <int QUADS>
LANE_FN void add_partials(const float* sums, u32 own, int splits) {
  constexpr int TOGETHER = QUADS < 4 ? QUADS : 4;
#pragma unroll 1
  for (int q = 0; q < QUADS; q += TOGETHER) {
    float sum[TOGETHER][4] = {};
#pragma unroll(8 / TOGETHER)
    for (int s = 0; s < splits; s++) {
#pragma unroll
      for (int i = 0; i < TOGETHER; i++) {
        const Quad v = load_partial128(sums + ((u64)s * QUADS + q + i) * 4 * THREADS);
        sum[i][0] += as_float(v.x), sum[i][1] += as_float(v.y);
        sum[i][2] += as_float(v.z), sum[i][3] += as_float(v.w);
      }
    }
#pragma unroll
    for (int i = 0; i < TOGETHER; i++)
      store_shared128(own + (q + i) * 16 * THREADS,
                      {as_bits(sum[i][0]), as_bits(sum[i][1]), as_bits(sum[i][2]), as_bits(sum[i][3])});
  }
}

// Called by all threads of the block, which owns ROWS rows of W and 8 NF rows of x. acc[i][j] is the
// fragment of rows 16 i and columns 8 j of its warp; KW warps hold parts of the sums of the same 16 RF rows,
// those of set `set`; this one is number `kw` of them. Shared memory is free to overwrite from here on.
//   partial    float32 [blocks, splits, 8 NF * ROWS]; unused without splits
//   counters   one a block of rows and columns, zero before the launch and zero after it
template <bool BF, int KW, int RF, int NF>
LANE_FN void finish(const float (&acc)[RF][NF][4], const Epilogue& e, int set, int kw, float* partial, u32* counters) {
  constexpr int ROWS = THREADS / 32 / KW * 16 * RF;  // 128 or 256
  const int lane = threadIdx.x & 31;
  const u32 mine = shared_base() + (set * RF * NF * 4 * 32 + lane) * 4;
#pragma unroll 1
  for (int k = 0; k < KW; k++) {
    sync_block();
    if (kw == k) {
#pragma unroll
      for (int f = 0; f < RF * NF * 4; f++) {
        float v = acc[f / (4 * NF)][f / 4 % NF][f % 4];
        if (k) v = as_float(load_shared32(mine + f * 128)) + v;
        store_shared32(mine + f * 128, as_bits(v));
      }
    }
  }
  sync_block();

  constexpr int SIZE = ROWS * 8 * NF, QUADS = SIZE / 4 / THREADS;
  const int row0 = blockIdx.x * ROWS, col0 = blockIdx.z * 8 * NF, splits = gridDim.y;
  if (splits > 1) {
    const u32 ticket = blockIdx.z * gridDim.x + blockIdx.x, own = shared_base() + 16 * threadIdx.x;
    float* sums = partial + (u64)ticket * splits * SIZE + 4 * threadIdx.x;
#pragma unroll 4
    for (int q = 0; q < QUADS; q++)
      store_partial128(sums + ((u64)blockIdx.y * QUADS + q) * 4 * THREADS, load_shared128(own + q * 16 * THREADS));
    fence_device();
    sync_block();
    const u32 flag = shared_base() + SIZE * 4;
    if (threadIdx.x == 0) store_shared32(flag, count_up(counters + ticket));
    sync_block();
    if (load_shared32(flag) != (u32)splits - 1) return;
    fence_device();
    if (threadIdx.x == 0) store32(counters + ticket, 0);  // ready for the next launch
    add_partials<QUADS>(sums, own, splits);
    sync_block();
  }

  // Threads beside each other take rows beside each other: these are the contiguous axis of y.
  const int r = threadIdx.x % ROWS, i = r / 16 % RF, row = row0 + r;
  if (row >= e.m) return;
  const u32 from = shared_base() + ((r / (16 * RF) * RF * NF * 4 + i * NF * 4 + 2 * (r / 8 % 2)) * 32 + r % 8 * 4) * 4;
  const float scale = e.scale ? as_float(load32(e.scale + row)) : 1.0f;
  const float bias = e.bias ? as_float(load32(e.bias + row)) : 0.0f;
  constexpr int TOGETHER = THREADS / ROWS, BATCH = 4;  // columns at a time: of the block, of a thread
#pragma unroll 1
  for (int c = threadIdx.x / ROWS; c < 8 * NF && col0 + c < e.n; c += BATCH * TOGETHER) {
    float v[BATCH];
#pragma unroll
    for (int j = 0; j < BATCH; j++) {
      const int at = c + j * TOGETHER;
      v[j] = as_float(load_shared32(from + ((at / 8 * 4 + at % 2) * 32 + at % 8 / 2) * 4)) * scale + bias;
    }
#pragma unroll
    for (int j = 0; j < BATCH; j++)
      if (col0 + c + j * TOGETHER < e.n) put<BF>(e, row, col0 + c + j * TOGETHER, v[j]);
  }
}
