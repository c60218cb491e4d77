// Every way to widen stored values, for a test of all bytes. out: [E4M3, INT8][float16, bfloat16][part][count].
#include "values.cuh"

KERNEL(32, 1) widen(const u32* words, u32* out, int count) {
  for (int i = threadIdx.x; i < count; i += 32) {
    const u32 w = load32(words + i);
    store32(out + 0 * count + i, widen2<E4M3, false, 0>(w));
    store32(out + 1 * count + i, widen2<E4M3, false, 1>(w));
    store32(out + 2 * count + i, widen2<E4M3, true, 0>(w));
    store32(out + 3 * count + i, widen2<E4M3, true, 1>(w));
    store32(out + 4 * count + i, widen2<INT8, false, 0>(w));
    store32(out + 5 * count + i, widen2<INT8, false, 1>(w));
    store32(out + 6 * count + i, widen2<INT8, true, 0>(w));
    store32(out + 7 * count + i, widen2<INT8, true, 1>(w));
  }
}
