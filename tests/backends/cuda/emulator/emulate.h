// A warp on the host: every lane is a fiber, and instructions of the whole warp wait for all 32 of them.
//
// Gives the functions of lanes.cuh their meaning after the PTX manual, fragment by fragment, so that the
// kernels' own source runs bit by bit under g++. What a device would do in silence is an error here: an
// address outside the operands or misaligned, a warp that reaches a joint instruction divided, metadata out
// of order, a barrier that nobody completes, copies that are never waited for.
//
// Lanes run one after another up to their next joint instruction, in an order the caller chooses, and
// asynchronous copies land as early or as late as they may: results that depend on either are races.
//
// What does not depend on the kernel is in emulate.cc, compiled once for all of them.
#pragma once

#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#define KERNEL(threads, blocks) static void
#define LANE_FN static inline

namespace emulated {

struct Dim {
  unsigned x = 0, y = 0, z = 0;
};

struct Region {  // memory that a kernel may touch
  const char* begin;
  u64 bytes;
  int writable;
};

struct Copy {
  u32 to;
  const void* at;
  int from, bytes;
};

constexpr u32 SHARED_BASE = 1024;  // no address of shared memory is 0
constexpr size_t STACK = 96 << 10;

struct Lane {
  ucontext_t context;
  std::unique_ptr<char[]> stack;
  Dim thread;
  bool done = false;
  std::vector<Copy> open;                // since the last commit
  std::vector<std::vector<Copy>> groups;  // committed, not landed
};

struct Meeting {  // a joint instruction, or a barrier
  const char* what = nullptr;
  unsigned arrived = 0, needed = 0;
  u64 round = 0;
};

struct Warp {
  Meeting meeting;
  void* slots[32];
};

struct Machine {
  Dim block, grid;
  std::vector<Region> regions;
  std::vector<u8> shared;
  std::vector<Lane> lanes;
  std::vector<Warp> warps;
  Meeting barriers[16];
  ucontext_t scheduler;
  std::string error;
  bool eager = false;
  u64 progress = 0;
};

extern Machine machine;
extern Lane* now;

[[noreturn]] void fail(const std::string& what);
u8* shared(u32 at, u32 bytes);
void check_global(const void* at, u64 bytes, bool write);
void land(const Copy& copy);
void land_all_but(size_t left);

inline int lane_id() { return now->thread.x & 31; }

bool arrive(Meeting& m, const char* what, unsigned needed);  // whether it is the last one
void wait(const Meeting& m);

inline void meet(Meeting& m, const char* what, unsigned needed, auto&& complete) {
  if (!arrive(m, what, needed)) return wait(m);
  complete();
  m.arrived = 0;
  m.round++;
}

// All lanes of the warp bring a payload; the last to come computes for all.
template <class Payload>
void together(const char* what, Payload& mine, void (*run)(Payload* const*)) {
  Warp& warp = machine.warps[now->thread.x / 32];
  warp.slots[lane_id()] = &mine;
  meet(warp.meeting, what, 32, [&] { run(reinterpret_cast<Payload* const*>(warp.slots)); });
}

template <class T>
T load_global(const void* at) {
  check_global(at, sizeof(T), false);
  T v;
  std::memcpy(&v, at, sizeof v);
  return v;
}
template <class T>
void store_global(void* at, T v) {
  check_global(at, sizeof(T), true);
  std::memcpy(at, &v, sizeof v);
}

inline float half_value(u16 bits, bool brain) {
  if (brain) {
    const u32 wide = (u32)bits << 16;
    float v;
    std::memcpy(&v, &wide, 4);
    return v;
  }
  _Float16 h;
  std::memcpy(&h, &bits, 2);
  return (float)h;
}

struct Fragments {
  float* c;
  Quad a, b;
  u32 meta;
};
template <bool BF>
void run_multiply(Fragments* const* lanes);
template <bool BF, int SELECTOR>
void run_multiply_sparse(Fragments* const* lanes);

struct Rows {
  u32 at;
  Quad v;
};
void run_load_matrices(Rows* const* lanes);
inline void run_nothing(int* const*) {}
void run_same(u32* const* lanes);

template <class... A, size_t... I>
void unpack(void (*kernel)(A...), void** arguments, std::index_sequence<I...>) {
  kernel(*static_cast<std::remove_cvref_t<A>*>(arguments[I])...);
}

// Runs all blocks of a grid, one after another. Returns null, or what went wrong.
//   order   0 lanes and blocks forward, negative backward, positive shuffled by that seed
//   eager   asynchronous copies land when issued, else when waited for
const char* launch(void (*call)(void**), const unsigned* grid, unsigned threads, unsigned shared_bytes,
                   void** arguments, const Region* regions, unsigned region_count, int order, int eager);

}  // namespace emulated

#define threadIdx (emulated::now->thread)
#define blockIdx (emulated::machine.block)
#define gridDim (emulated::machine.grid)

LANE_FN u32 shared_base() { return emulated::SHARED_BASE; }
LANE_FN Quad load_shared128(u32 at) {
  Quad v;
  std::memcpy(&v, emulated::shared(at, 16), 16);
  return v;
}
LANE_FN u64 load_shared64(u32 at) {
  u64 v;
  std::memcpy(&v, emulated::shared(at, 8), 8);
  return v;
}
LANE_FN u32 load_shared32(u32 at) {
  u32 v;
  std::memcpy(&v, emulated::shared(at, 4), 4);
  return v;
}
LANE_FN void store_shared128(u32 at, Quad v) { std::memcpy(emulated::shared(at, 16), &v, 16); }
LANE_FN void store_shared32(u32 at, u32 v) { std::memcpy(emulated::shared(at, 4), &v, 4); }
template <int OFFSET>
LANE_FN void store_shared16(u32 at, u16 v) { std::memcpy(emulated::shared(at + OFFSET, 2), &v, 2); }
LANE_FN Quad load_matrices(u32 at) {
  emulated::Rows mine{at, {}};
  emulated::together("ldmatrix", mine, emulated::run_load_matrices);
  return mine.v;
}

LANE_FN Quad stream128(const void* at) { return emulated::load_global<Quad>(at); }
LANE_FN Quad load128(const void* at) { return emulated::load_global<Quad>(at); }
LANE_FN u64 load64(const void* at) { return emulated::load_global<u64>(at); }
LANE_FN u64 stream64(const void* at) { return emulated::load_global<u64>(at); }
LANE_FN u32 load32(const void* at) { return emulated::load_global<u32>(at); }
template <int OFFSET>
LANE_FN void load32_if(u32& v, const void* at, bool go) {
  if (go) v = emulated::load_global<u32>((const char*)at + OFFSET);
}
LANE_FN u16 load16(const void* at) { return emulated::load_global<u16>(at); }
LANE_FN void prefetch(const void* at, bool go = true) {
  if (go) emulated::check_global((const void*)((uintptr_t)at & ~15), 16, false);
}
LANE_FN Quad load_partial128(const float* at) { return emulated::load_global<Quad>(at); }
LANE_FN void store_partial128(float* at, Quad v) { emulated::store_global(at, v); }
LANE_FN void store32(void* at, u32 v) { emulated::store_global(at, v); }
LANE_FN void store64(void* at, u64 v) { emulated::store_global(at, v); }
LANE_FN void store128(void* at, Quad v) { emulated::store_global(at, v); }
LANE_FN void store16(void* at, u16 v) { emulated::store_global(at, v); }

template <int BYTES>
LANE_FN void copy_async(u32 to, const void* at, bool go, bool inside = true) {
  if (!go) return;
  const emulated::Copy copy{to, at, inside ? BYTES : 0, BYTES};
  if (emulated::machine.eager) emulated::land(copy);
  else emulated::now->open.push_back(copy);
}
LANE_FN void copy_commit() {
  emulated::now->groups.push_back(std::move(emulated::now->open));
  emulated::now->open.clear();
}
template <int LEFT>
LANE_FN void copy_wait() {
  emulated::land_all_but(LEFT);
}

LANE_FN void sync_warp() {
  int nothing = 0;
  emulated::together("syncwarp", nothing, emulated::run_nothing);
}
LANE_FN void sync_some(int id, int threads) {
  emulated::meet(emulated::machine.barriers[id], "bar.sync", threads, [] {});
}
LANE_FN void sync_block() { sync_some(0, (int)emulated::machine.lanes.size()); }
LANE_FN void fence_device() {}
LANE_FN u32 count_up(u32* at) {
  const u32 before = emulated::load_global<u32>(at);
  emulated::store_global(at, before + 1);
  return before;
}

LANE_FN void advance(const char*& at, u32 bytes) { at += bytes; }
template <u32 SIZE>
LANE_FN const char* element(const void* base, u32 index) { return (const char*)base + (u64)index * SIZE; }
LANE_FN u32 pin(u32 v) {
  sync_warp();  // the whole warp has to be there
  return v;
}
LANE_FN u32 same(u32 v) {
  emulated::together("same", v, emulated::run_same);
  return v;
}
LANE_FN u32 dot4(u32 a, u32 b, u32 c) {
  for (int i = 0; i < 32; i += 8) c += (a >> i & 255) * (b >> i & 255);
  return c;
}
template <bool BF>
LANE_FN void multiply(float (&c)[4], Quad a, u32 b0, u32 b1) {
  emulated::Fragments mine{c, a, {b0, b1, 0, 0}, 0};
  emulated::together("mma", mine, emulated::run_multiply<BF>);
}
template <bool BF, int SELECTOR>
LANE_FN void multiply_sparse(float (&c)[4], Quad a, Quad b, u32 meta) {
  emulated::Fragments mine{c, a, b, meta};
  emulated::together("mma.sp", mine, emulated::run_multiply_sparse<BF, SELECTOR>);
}
LANE_FN float as_float(u32 v) {
  float f;
  std::memcpy(&f, &v, 4);
  return f;
}
LANE_FN u32 as_bits(float v) {
  u32 b;
  std::memcpy(&b, &v, 4);
  return b;
}
template <bool BF>
LANE_FN u16 narrow(float v) {
  u16 bits;
  if constexpr (BF) {
    const u32 wide = as_bits(v);
    bits = v != v ? 0x7fff : (u16)((wide + 0x7fff + (wide >> 16 & 1)) >> 16);
  } else {
    const _Float16 h = (_Float16)v;
    std::memcpy(&bits, &h, 2);
  }
  return bits;
}
template <bool BF>
LANE_FN float widen(u16 h) { return emulated::half_value(h, BF); }

LANE_FN u32 permute(u32 a, u32 b, u32 selector) {
  const u64 bytes = (u64)b << 32 | a;
  u32 d = 0;
  for (int i = 0; i < 4; i++) {
    if (selector >> 4 * i & 8) emulated::fail("prmt: copies of a sign are not emulated");
    d |= (u32)(bytes >> 8 * (selector >> 4 * i & 7) & 255) << 8 * i;
  }
  return d;
}
LANE_FN void halves(u32 v, u16& low, u16& high) { low = (u16)v, high = (u16)(v >> 16); }
template <bool BF, int BYTE>
LANE_FN u16 widen_int8(u32 word) { return narrow<BF>((float)(signed char)(word >> 8 * BYTE)); }
template <bool BF>
LANE_FN u32 fma2(u32 a, u32 b, u32 c) {
  u32 d = 0;
  for (int i = 0; i < 32; i += 16) {
    auto value = [&](u32 v) { return (double)emulated::half_value((u16)(v >> i), BF); };
    d |= (u32)narrow<BF>((float)(value(a) * value(b) + value(c))) << i;  // exact before it is narrowed
  }
  return d;
}

// Makes `kernel` callable from outside, its arguments by address as the driver takes them.
#define EMULATE(kernel)                                                                                        \
  template <class... A>                                                                                        \
  static void unpack_all(void (*function)(A...), void** arguments) {                                           \
    emulated::unpack(function, arguments, std::index_sequence_for<A...>{});                                    \
  }                                                                                                            \
  extern "C" const char* emulate(const unsigned* grid, unsigned threads, unsigned shared_bytes,                \
                                 void** arguments, const emulated::Region* regions, unsigned region_count,     \
                                 int order, int eager) {                                                       \
    return emulated::launch([](void** each) { unpack_all(kernel, each); }, grid, threads, shared_bytes,        \
                            arguments, regions, region_count, order, eager);                                   \
  }
