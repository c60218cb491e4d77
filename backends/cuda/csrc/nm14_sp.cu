// The format nm14_sp: 1:4 on the sparse tensor cores, which multiply two values of every four.
//
// The value of a group stands beside a zero. Two bits say where it belongs, and the instruction needs two columns that
// ascend: for the columns 0 to 3 these are (0, 2), (1, 3), (0, 2) and (1, 3), the value first, first, second, second. So the lower bit
// makes the metadata, and the upper one the half of the register.
#include "finish.cuh"
#include "values.cuh"

#define SP_LINEAR nm14_sp_linear
constexpr int VALUE_BYTES = VALUES ? 512 : 1024, META_BYTES = 128;

// The values of two groups of four columns to two pairs. Bits 0 and 16 of `second` say which is the second of its pair.
LANE_FN void place(u32 two, u32 second, u32& one, u32& other) {
  // Two selectors of permute: 5410 or 1054 for the lower value, 7632 or 3276 for the upper one.
  const u32 how = second * (0x1054u - 0x5410u) + 0x76325410u;
  one = permute(two, 0, how);
  other = permute(two, 0, how >> 16);
}

// Of the upper and the lower 16 of 32 rows: the pairs of 32 columns and of the next 32, and the metadata.
LANE_FN void operands(u32 values, u32 metadata, Quad (&upper)[2], Quad (&lower)[2], u32& upper_meta, u32& lower_meta) {
  const u32 places = load_shared32(metadata);
  Quad both = {0, 0, 0, 0};
  if constexpr (VALUES != SIXTEEN) both = load_shared128(values);
#pragma unroll
  for (int i = 0; i < 2; i++) {
    Quad(&a)[2] = i ? lower : upper;
    Quad v;
    if constexpr (VALUES == SIXTEEN)
      v = load_shared128(values + i * 512);
    else
      v = i ? widen8<VALUES, BRAIN>(both.z, both.w) : widen8<VALUES, BRAIN>(both.x, both.y);
    // Bit 4 n + 2 + m of the lower half, and of the upper one, is of pairs 2 n + m.
    const u32 flags = places >> (8 * i);
    place(v.x, flags >> 2 & 0x00010001, a[0].x, a[0].y);
    place(v.y, flags >> 3 & 0x00010001, a[0].z, a[0].w);
    place(v.z, flags >> 6 & 0x00010001, a[1].x, a[1].y);
    place(v.w, flags >> 7 & 0x00010001, a[1].z, a[1].w);
  }
  upper_meta = (places & 0x11111111u) * 5 + 0x88888888u;
  lower_meta = (places >> 1 & 0x11111111u) * 5 + 0x88888888u;
}

#include "nm_sp.cuh"
