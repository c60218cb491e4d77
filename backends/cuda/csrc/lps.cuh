// The format lps on the device: how a lane reads entries and scatters them to the image of a tile.
//
// Compiled with VALUES (of Values). WIDE_BRAIN: 8-bit values become bfloat16, not float16.
#pragma once
#include "values.cuh"

constexpr int ROWS = 64, STEP = 64;  // of a tile
constexpr int STRIPS = ROWS / 16;
constexpr int TILE_BYTES = ROWS * STEP * 2;
constexpr int LANE_BYTES = VALUES ? 8 : 16;  // of a lane in a chunk: 8 values
constexpr int GAPS_AT = 32 * LANE_BYTES;  // behind those of 32 lanes
constexpr int CHUNK_BYTES = GAPS_AT + 32 * 4;  // 8 gaps a lane

// Eight values of a lane as they are stored, and as they are multiplied: of the low and of the high list by turns.
struct Eight {
  u32 x, y;
};
struct Halves {
  u16 of[8];
};
#if VALUES
using Stored = Eight;
LANE_FN Stored load_values(const void* at) {
  const u64 v = stream64(at);
  return {(u32)v, (u32)(v >> 32)};
}
LANE_FN Halves widened(Stored v) {
  Halves h;
  widen_each<VALUES, WIDE_BRAIN>(v.x, h.of, 0), widen_each<VALUES, WIDE_BRAIN>(v.y, h.of, 4);
  return h;
}
#else
using Stored = Quad;
LANE_FN Stored load_values(const void* at) { return stream128(at); }
LANE_FN Halves widened(Stored v) {
  Halves h;
  halves(v.x, h.of[0], h.of[1]), halves(v.y, h.of[2], h.of[3]);
  halves(v.z, h.of[4], h.of[5]), halves(v.w, h.of[6], h.of[7]);
  return h;
}
#endif
// An overflow entry holds its value in the low half; of 8 bits the upper byte is zero.
LANE_FN u16 spilt_value(u32 entry) {
  if constexpr (CONVERTS<VALUES, WIDE_BRAIN>) return widen_int8<WIDE_BRAIN, 0>(entry);
  if constexpr (VALUES != SIXTEEN) entry = widen2<VALUES, WIDE_BRAIN, 0>(entry);
  u16 low, high;
  halves(entry, low, high);
  return low;
}

// Eight entries of a lane: four go to low halves, four to high halves. A position is 128 bytes from the next.
// OFFSET is what the positions of earlier chunks contribute besides their gaps. `at` gets where they went,
// for clear_one().
template <int OFFSET>
LANE_FN void scatter(const Halves& v, u32 gaps, u32& low, u32& high, u32 (&at)[8]) {
  const u32 l = gaps & 0x0f0f0f0fu, h = (gaps >> 4) & 0x0f0f0f0fu;
  at[0] = dot4(l, 0x00000080u, low), at[1] = dot4(h, 0x00000080u, high);
  store_shared16<OFFSET + 128>(at[0], v.of[0]), store_shared16<OFFSET + 128>(at[1], v.of[1]);
  at[2] = dot4(l, 0x00008080u, low), at[3] = dot4(h, 0x00008080u, high);
  store_shared16<OFFSET + 256>(at[2], v.of[2]), store_shared16<OFFSET + 256>(at[3], v.of[3]);
  at[4] = dot4(l, 0x00808080u, low), at[5] = dot4(h, 0x00808080u, high);
  store_shared16<OFFSET + 384>(at[4], v.of[4]), store_shared16<OFFSET + 384>(at[5], v.of[5]);
  at[6] = low = dot4(l, 0x80808080u, low), at[7] = high = dot4(h, 0x80808080u, high);
  store_shared16<OFFSET + 512>(at[6], v.of[6]), store_shared16<OFFSET + 512>(at[7], v.of[7]);
}
template <int OFFSET>
LANE_FN void scatter(const Halves& v, u32 gaps, u32& low, u32& high) {
  u32 at[8];
  scatter<OFFSET>(v, gaps, low, high, at);
}
