// What one lane of a warp can ask of the machine, one function an instruction.
//
// Kernels are written against these functions alone. Compiled for a GPU they are inline PTX; compiled by
// a host compiler, "emulate.h" of the tests gives each the meaning that the PTX manual gives the
// instruction, checks every address, and runs the very same kernel source lane by lane.
//
// No header of the CUDA toolkit is included, so that NVRTC compiles this file too.
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

struct alignas(16) Quad {
  u32 x, y, z, w;
};

#ifndef __CUDACC__
#include "emulate.h"
#else

#define KERNEL(threads, blocks) extern "C" __global__ void __launch_bounds__(threads, blocks)
#define LANE_FN static __device__ __forceinline__

// ---- shared memory, by 32-bit address -----------------------------------------------------------

LANE_FN u32 shared_base() {
  extern __shared__ Quad shared_bytes[];
  return (u32)__cvta_generic_to_shared(shared_bytes);
}
LANE_FN Quad load_shared128(u32 at) {
  Quad v;
  asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "r"(at)
               : "memory");
  return v;
}
LANE_FN u64 load_shared64(u32 at) {
  u64 v;
  asm volatile("ld.shared.u64 %0, [%1];" : "=l"(v) : "r"(at) : "memory");
  return v;
}
LANE_FN u32 load_shared32(u32 at) {
  u32 v;
  asm volatile("ld.shared.u32 %0, [%1];" : "=r"(v) : "r"(at) : "memory");
  return v;
}
LANE_FN void store_shared128(u32 at, Quad v) {
  asm volatile("st.shared.v4.u32 [%0], {%1,%2,%3,%4};" ::"r"(at), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w)
               : "memory");
}
LANE_FN void store_shared32(u32 at, u32 v) {
  asm volatile("st.shared.u32 [%0], %1;" ::"r"(at), "r"(v) : "memory");
}
// The offset is a literal of the instruction: it costs nothing.
template <int OFFSET>
LANE_FN void store_shared16(u32 at, u16 v) {
  asm volatile("st.shared.u16 [%0+%2], %1;" ::"r"(at), "h"(v), "n"(OFFSET) : "memory");
}
// Lane i names row i % 8 (16 bytes) of matrix i / 8; lane i receives word i % 4 of row i / 4 of each.
LANE_FN Quad load_matrices(u32 at) {
  Quad v;
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "r"(at)
               : "memory");
  return v;
}

// ---- global memory -------------------------------------------------------------------------------

// Read once: weights leave no trace in the L1 cache.
LANE_FN Quad stream128(const void* at) {
  Quad v;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(at));
  return v;
}
LANE_FN u64 stream64(const void* at) {
  u64 v;
  asm volatile("ld.global.nc.L1::no_allocate.u64 %0, [%1];" : "=l"(v) : "l"(at));
  return v;
}
LANE_FN u32 load32(const void* at) {
  u32 v;
  asm volatile("ld.global.nc.u32 %0, [%1];" : "=r"(v) : "l"(at));
  return v;
}
// Into v if `go`, which is what it was otherwise. The offset is a literal of the instruction: it costs nothing.
template <int OFFSET>
LANE_FN void load32_if(u32& v, const void* at, bool go) {
  asm volatile("{ .reg .pred p; setp.ne.u32 p, %2, 0; @p ld.global.nc.u32 %0, [%1+%3]; }"
               : "+r"(v)
               : "l"(at), "r"((u32)go), "n"(OFFSET));
}
LANE_FN u64 load64(const void* at) {
  u64 v;
  asm volatile("ld.global.nc.u64 %0, [%1];" : "=l"(v) : "l"(at));
  return v;
}
LANE_FN u16 load16(const void* at) {
  u16 v;
  asm volatile("ld.global.nc.u16 %0, [%1];" : "=h"(v) : "l"(at));
  return v;
}
LANE_FN Quad load128(const void* at) {
  Quad v;
  asm volatile("ld.global.nc.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(at));
  return v;
}
// Brings the 128 bytes around `at` to the L2 cache if `go`.
LANE_FN void prefetch(const void* at, bool go = true) {
  asm volatile("{ .reg .pred p; setp.ne.u32 p, %1, 0; @p prefetch.global.L2 [%0]; }" ::"l"(at), "r"((u32)go));
}
// Written by other blocks during this launch: not through the read-only path.
LANE_FN Quad load_partial128(const float* at) {
  Quad v;
  asm volatile("ld.global.cg.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(at)
               : "memory");
  return v;
}
LANE_FN void store_partial128(float* at, Quad v) {
  asm volatile("st.global.cg.v4.u32 [%0], {%1,%2,%3,%4};" ::"l"(at), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w)
               : "memory");
}
LANE_FN void store32(void* at, u32 v) { asm volatile("st.global.u32 [%0], %1;" ::"l"(at), "r"(v) : "memory"); }
LANE_FN void store64(void* at, u64 v) { asm volatile("st.global.u64 [%0], %1;" ::"l"(at), "l"(v) : "memory"); }
LANE_FN void store128(void* at, Quad v) {
  asm volatile("st.global.v4.u32 [%0], {%1,%2,%3,%4};" ::"l"(at), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w) : "memory");
}
LANE_FN void store16(void* at, u16 v) { asm volatile("st.global.u16 [%0], %1;" ::"l"(at), "h"(v) : "memory"); }

// ---- copies from global to shared memory that run beside the computation ---------------------------

// Copies BYTES if `go`; zeros instead if not `inside`.
template <int BYTES>
LANE_FN void copy_async(u32 to, const void* at, bool go, bool inside = true) {
  if constexpr (BYTES == 16)
    asm volatile(
        "{ .reg .pred p; setp.ne.u32 p, %2, 0; @p cp.async.cg.shared.global [%0], [%1], 16, %3; }" ::"r"(to), "l"(at),
        "r"((u32)go), "r"(inside ? 16 : 0)
        : "memory");
  else
    asm volatile(
        "{ .reg .pred p; setp.ne.u32 p, %2, 0; @p cp.async.ca.shared.global [%0], [%1], %4, %3; }" ::"r"(to), "l"(at),
        "r"((u32)go), "r"(inside ? BYTES : 0), "n"(BYTES)
        : "memory");
}
LANE_FN void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until at most LEFT of the groups committed by this lane are still under way.
template <int LEFT>
LANE_FN void copy_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(LEFT) : "memory");
}

// ---- together -----------------------------------------------------------------------------------

LANE_FN void sync_warp() { __syncwarp(); }
LANE_FN void sync_block() { __syncthreads(); }
// Barrier number `id` (1 to 15) among `threads` threads.
LANE_FN void sync_some(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
LANE_FN void fence_device() { __threadfence(); }
LANE_FN u32 count_up(u32* at) { return atomicAdd(at, 1u); }

// ---- arithmetic -----------------------------------------------------------------------------------

// Sum of the products of four bytes each, plus c.
LANE_FN u32 dot4(u32 a, u32 b, u32 c) {
  u32 d;
  asm("dp4a.u32.u32 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
  return d;
}
// Byte i of the result is byte (selector >> 4 i & 7) of the eight of b and a, those of a first.
LANE_FN u32 permute(u32 a, u32 b, u32 selector) {
  u32 d;
  asm("prmt.b32 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(selector));
  return d;
}
// a * b + c of two 16-bit floats each, rounded once; subnormal numbers count.
template <bool BF>
LANE_FN u32 fma2(u32 a, u32 b, u32 c) {
  u32 d;
  if constexpr (BF)
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
  else
    asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
  return d;
}
// The halves of a word, each where a 16-bit store takes it.
LANE_FN void halves(u32 v, u16& low, u16& high) { asm("mov.b32 {%0,%1}, %2;" : "=h"(low), "=h"(high) : "r"(v)); }
#if __CUDA_ARCH__ >= 890
// Two float16 of the two e4m3 in the low half of a word, or in the high one.
template <int HIGH>
LANE_FN u32 widen_e4m3(u32 word) {
  u16 half[2];
  halves(word, half[0], half[1]);
  u32 d;
  asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(d) : "h"(half[HIGH]));
  return d;
}
#endif
// A float16 of a signed byte of a word; a bfloat16 from sm_90 on.
template <bool BF, int BYTE>
LANE_FN u16 widen_int8(u32 word) {
  u16 h;
  if constexpr (BF)
    asm("{ .reg .s32 n; bfe.s32 n, %1, %2, 8; cvt.rn.bf16.s32 %0, n; }" : "=h"(h) : "r"(word), "n"(8 * BYTE));
  else
    asm("{ .reg .s32 n; bfe.s32 n, %1, %2, 8; cvt.rn.f16.s32 %0, n; }" : "=h"(h) : "r"(word), "n"(8 * BYTE));
  return h;
}
// c[16x8] += a[16x16] b[16x8]; fragments as the PTX manual lays out m16n8k16.
template <bool BF>
LANE_FN void multiply(float (&c)[4], Quad a, u32 b0, u32 b1) {
  if constexpr (BF)
    asm(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(b0), "r"(b1));
  else
    asm(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(b0), "r"(b1));
}
// c[16x8] += a[16x32, two of four kept] b[32x8]. SELECTOR 0 reads the metadata of lanes 0 and 1 of every
// four, 1 that of lanes 2 and 3.
template <bool BF, int SELECTOR>
LANE_FN void multiply_sparse(float (&c)[4], Quad a, Quad b, u32 meta) {
  if constexpr (BF)
    asm(
        "mma.sp::ordered_metadata.sync.aligned.m16n8k32.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, "
        "{%4,%5,%6,%7}, {%8,%9,%10,%11}, {%0,%1,%2,%3}, %12, %13;"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(b.x), "r"(b.y), "r"(b.z), "r"(b.w), "r"(meta),
          "n"(SELECTOR));
  else
    asm(
        "mma.sp::ordered_metadata.sync.aligned.m16n8k32.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, "
        "{%4,%5,%6,%7}, {%8,%9,%10,%11}, {%0,%1,%2,%3}, %12, %13;"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(b.x), "r"(b.y), "r"(b.z), "r"(b.w), "r"(meta),
          "n"(SELECTOR));
}
// at + bytes, in an addition of its own: compilers fold additions of an unrolled loop into many pointers.
LANE_FN void advance(const char*& at, u32 bytes) {
  asm volatile("add.s64 %0, %0, %1;" : "+l"(at) : "l"((u64)bytes));
}
// base + index * SIZE, computed here and once: compilers compute it anew for every load under a condition.
template <u32 SIZE>
LANE_FN const char* element(const void* base, u32 index) {
  u64 at;
  asm volatile("mad.wide.u32 %0, %1, %2, %3;" : "=l"(at) : "r"(index), "n"(SIZE), "l"((u64)base));
  return (const char*)at;
}
// The value as it is, which the compiler can no longer compute anew: it stays in a register.
LANE_FN u32 pin(u32 v) { return __shfl_sync(0xffffffffu, v, threadIdx.x & 31); }
// A value that is the same in all lanes of the warp, known to be: a branch on it needs no book-keeping of lanes.
LANE_FN u32 same(u32 v) { return __shfl_sync(0xffffffffu, v, 0); }
LANE_FN float as_float(u32 v) { return __uint_as_float(v); }
LANE_FN u32 as_bits(float v) { return __float_as_uint(v); }
// To float16 or bfloat16, to nearest, ties to even.
template <bool BF>
LANE_FN u16 narrow(float v) {
  u16 h;
  if constexpr (BF)
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(h) : "f"(v));
  else
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(v));
  return h;
}
template <bool BF>
LANE_FN float widen(u16 h) {
  if constexpr (BF) return __uint_as_float((u32)h << 16);
  float v;
  asm("cvt.f32.f16 %0, %1;" : "=f"(v) : "h"(h));
  return v;
}
#endif
