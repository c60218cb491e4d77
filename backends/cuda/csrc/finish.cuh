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

// y = activation(sum * scale + bias) + residual, for one element.
template <bool BF>
LANE_FN void put(const Epilogue& e, int row, int col, float sum) {
  const u64 at = (u64)col * e.m + row;
  if (e.scale) sum *= as_float(load32(e.scale + row));
  if (e.bias) sum += as_float(load32(e.bias + row));
  sum = activate(sum, e.activation);
  if (e.wide) {
    if (e.residual) sum += as_float(load32((const float*)e.residual + at));
    store32((float*)e.y + at, as_bits(sum));
  } else {
    if (e.residual) sum += widen<BF>(load16((const u16*)e.residual + at));
    store16((u16*)e.y + at, narrow<BF>(sum));
  }
}

// Called by all threads of the block, which owns ROWS rows of W and 8 NF rows of x. acc[i][j] is the
// fragment of rows 16 i and columns 8 j of its warp; KW warps hold parts of the sums of the same 16 RF rows,
// those of set `set`; this one is number `kw` of them. Shared memory is free to overwrite from here on.
//   partial    float32 [blocks, splits, 8 NF, ROWS]; unused without splits
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

  constexpr int SIZE = ROWS * 8 * NF;
  const int row0 = blockIdx.x * ROWS, col0 = blockIdx.z * 8 * NF, splits = gridDim.y;
  const u32 ticket = blockIdx.z * gridDim.x + blockIdx.x;
  float* sums = partial + (u64)ticket * splits * SIZE;
  // Threads beside each other take rows beside each other: these are the contiguous axis of y.
  const int r = threadIdx.x % ROWS, i = r / 16 % RF, row = row0 + r;
  const u32 from = shared_base() + ((r / (16 * RF) * RF * NF * 4 + i * NF * 4 + 2 * (r / 8 % 2)) * 32 + r % 8 * 4) * 4;
  auto local = [&](int c) { return as_float(load_shared32(from + ((c / 8 * 4 + c % 2) * 32 + c % 8 / 2) * 4)); };
  constexpr int TOGETHER = THREADS / ROWS;
  const int c0 = threadIdx.x / ROWS;

  if (splits > 1) {
#pragma unroll 1
    for (int c = c0; c < 8 * NF; c += TOGETHER)
      store_partial(sums + (u64)blockIdx.y * SIZE + c * ROWS + r, local(c));
    fence_device();
    sync_block();
    const u32 flag = shared_base() + SIZE * 4;
    if (threadIdx.x == 0) store_shared32(flag, count_up(counters + ticket));
    sync_block();
    if (load_shared32(flag) != (u32)splits - 1) return;
    fence_device();
    if (threadIdx.x == 0) store32(counters + ticket, 0);  // ready for the next launch
  }
  if (row >= e.m) return;
#pragma unroll 1
  for (int c = c0; c < 8 * NF && col0 + c < e.n; c += TOGETHER) {
    float sum = 0.0f;
    if (splits > 1) {
      for (int s = 0; s < splits; s++) sum += load_partial(sums + (u64)s * SIZE + c * ROWS + r);
    } else {
      sum = local(c);
    }
    put<BF>(e, row, col0 + c, sum);
  }
}
