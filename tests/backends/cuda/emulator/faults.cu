// Kernels that are wrong on purpose, each in one way: the emulator has to find them out.
#include "lanes.cuh"

constexpr int THREADS = 64;

KERNEL(THREADS, 1) faulty(const u32* input, u32* output, int fault) {
  const int lane = threadIdx.x & 31;
  const u32 base = shared_base();
  if (fault == 1 && lane == 5) load_matrices(base);              // a warp divided at a joint instruction
  if (fault == 2) load_shared128(base + 4 * lane);               // misaligned
  if (fault == 3) store_shared32(base + 4096, 0);                // outside shared memory
  if (fault == 4) output[0] = load32(input + 1024);              // outside the operand
  if (fault == 5) store32((void*)input, 1);                      // an operand that is read only
  if (fault == 6 && threadIdx.x < 32) sync_block();              // nobody else comes
  if (fault == 7) copy_async<16>(base + 16 * lane, input, true), copy_commit();  // never waited for
  float c[4] = {};
  if (fault == 8) multiply_sparse<false, 0>(c, {0, 0, 0, 0}, {0, 0, 0, 0}, 0);  // metadata does not ascend
  if (fault == 13 && same(lane / 31)) store32(output, 1);        // lane 31 differs from the others
  if (fault == 9 || fault == 10) {  // a race: lane 31 reads what lane 0 writes, without and with a barrier
    store_shared32(base + 4 * threadIdx.x, threadIdx.x + 1);
    if (fault == 10) sync_warp();
    store32(output + threadIdx.x, load_shared32(base + 4 * (threadIdx.x ^ 31)));
  }
  if (fault == 11 || fault == 12) {  // an asynchronous copy read too early, and in time
    copy_async<16>(base + 16 * threadIdx.x, input + 4 * threadIdx.x, true);
    copy_commit();
    if (fault == 12) copy_wait<0>();
    store32(output + threadIdx.x, load_shared32(base + 16 * threadIdx.x));
    copy_wait<0>();
  }
  sync_warp();
}
