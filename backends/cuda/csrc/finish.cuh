// From accumulators to y: sum over the warps and blocks that share the reduction, then the epilogue.
//
// Every sum is taken in one fixed order: equal input gives equal bits, whichever block comes last.
#pragma once
#include "lanes.cuh"

enum Activation { LINEAR = 0, RELU = 1, GELU = 2, SILU = 3, GELU_TANH = 4 };

LANE_FN float activate(float v, int how) {
  if (how == RELU) return v > 0.0f || v != v ? v : 0.0f;
  if (how == GELU) return 0.5f * v * (1.0f + erff(v * 0.70710678f));
  if (how == SILU) return v / (1.0f + expf(-v));
  if (how == GELU_TANH) return 0.5f * v * (1.0f + tanhf(0.79788456f * (v + 0.044715f * v * v * v)));
  return v;
}

struct Epilogue {
  const float* bias;      // float32 [M], or null
  const void* residual;   // as y [N, M], or null
  void* y;                // float16, bfloat16 or float32 [N, M]
  int m, n;
  int activation;         // one of Activation
  int wide;               // y and residual are float32
};

// y = activation(sum + bias) + residual, for one element.
template <bool BF>
LANE_FN void put(const Epilogue& e, int row, int col, float sum) {
  if (row >= e.m || col >= e.n) return;
  const u64 at = (u64)col * e.m + row;
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

// Called by all threads of the block. acc[i][j] is the fragment of rows 16 i and columns 8 j of the warp.
//   row, col   first row of W and of x of this warp
//   kw         which of the KW warps that share these rows this one is
//   area       shared memory for one warp's accumulators, the same for the KW warps; free to overwrite
//   ticket     number of this set of rows and columns, the same in all blocks that share it
template <bool BF, int KW, int RF, int NF>
LANE_FN void finish(float (&acc)[RF][NF][4], const Epilogue& e, int row, int col, int kw, u32 area, float* partial,
                    u32* counters, u32 ticket) {
  const int lane = threadIdx.x & 31;
#pragma unroll
  for (int k = 1; k < KW; k++) {
    sync_block();
    if (kw == k) {
#pragma unroll
      for (int f = 0; f < RF * NF * 4; f++)
        store_shared32(area + (f * 32 + lane) * 4, as_bits(acc[f / (4 * NF)][f / 4 % NF][f % 4]));
    }
    sync_block();
    if (kw == 0) {
#pragma unroll
      for (int f = 0; f < RF * NF * 4; f++)
        acc[f / (4 * NF)][f / 4 % NF][f % 4] += as_float(load_shared32(area + (f * 32 + lane) * 4));
    }
  }
  if (kw != 0 || row >= e.m) return;

  const int splits = gridDim.y;
  if (splits > 1) {
    const u64 size = RF * NF * 4 * 32;
    float* mine = partial + (u64)ticket * splits * size + lane;
#pragma unroll
    for (int f = 0; f < RF * NF * 4; f++)
      store_partial(mine + blockIdx.y * size + f * 32, acc[f / (4 * NF)][f / 4 % NF][f % 4]);
    fence_device();
    sync_warp();
    u32 before = lane == 0 ? count_up(counters + ticket) : 0;
    before = broadcast(before, 0);
    if (before != (u32)splits - 1) return;
    fence_device();
    if (lane == 0) store32(counters + ticket, 0);  // ready for the next launch
#pragma unroll
    for (int f = 0; f < RF * NF * 4; f++) acc[f / (4 * NF)][f / 4 % NF][f % 4] = 0.0f;
    for (int s = 0; s < splits; s++) {
#pragma unroll
      for (int f = 0; f < RF * NF * 4; f++)
        acc[f / (4 * NF)][f / 4 % NF][f % 4] += load_partial(mine + s * size + f * 32);
    }
  }
#pragma unroll
  for (int i = 0; i < RF; i++) {
#pragma unroll
    for (int j = 0; j < NF; j++) {
#pragma unroll
      for (int q = 0; q < 4; q++)
        put<BF>(e, row + 16 * i + (lane >> 2) + 8 * (q >> 1), col + 8 * j + 2 * (lane & 3) + (q & 1), acc[i][j][q]);
    }
  }
}
