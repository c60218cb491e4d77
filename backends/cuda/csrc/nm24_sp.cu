// The format nm24_sp: 2:4, which the sparse tensor cores take as it is stored.
#include "finish.cuh"
#include "values.cuh"

#define SP_LINEAR nm24_sp_linear
constexpr int VALUE_BYTES = VALUES ? 1024 : 2048, META_BYTES = 256;

// Of the upper and the lower 16 of 32 rows: the kept values of 32 columns and of the next 32, and the metadata.
LANE_FN void operands(u32 values, u32 metadata, Quad (&upper)[2], Quad (&lower)[2], u32& upper_meta, u32& lower_meta) {
#pragma unroll
  for (int i = 0; i < 2; i++) {
    Quad(&a)[2] = i ? lower : upper;
    const u32 at = values + i * (VALUE_BYTES / 2);
    a[0] = load_shared128(at);
    if constexpr (VALUES == SIXTEEN) {
      a[1] = load_shared128(at + 512);
    } else {
      a[1] = widen8<VALUES, BRAIN>(a[0].z, a[0].w);
      a[0] = widen8<VALUES, BRAIN>(a[0].x, a[0].y);
    }
  }
  const u64 both = load_shared64(metadata);
  upper_meta = (u32)both, lower_meta = (u32)(both >> 32);
}

#include "nm_sp.cuh"
