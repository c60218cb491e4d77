// y = activation(x W^T + bias) + residual, W in the format lps: any sparsity, scattered to shared memory.
//
// A block owns 128 rows of W and a slice of the reduction: two sets of rows, four warps each, and every warp a
// quarter of the slice. A warp takes tiles of 64 rows x 64 columns: it scatters the entries to its own 8 KiB
// of shared memory, whose words stand in the order of the fragments, and multiplies from there.
// In lists, every lane writes to a bank of its own.
//
// Compiled with: N8 (rows of x / 8), BRAIN (bfloat16), VALUES (of Values), X_BYTES (16 if K is a multiple of 8, else
// 2), EVEN (K is a multiple of 64), CLEAR (after a tile only the halves that were written are zeroed: pays at high
// sparsity).
#include "finish.cuh"
#define WIDE_BRAIN BRAIN
#include "lps.cuh"

#ifdef __CUDA_ARCH__
constexpr bool BEFORE_90 = __CUDA_ARCH__ < 900, HOPPER = __CUDA_ARCH__ == 900;
#else
constexpr bool BEFORE_90 = false, HOPPER = true;
#endif
constexpr int SETS = 2;                  // of rows, in a block
constexpr int TEAM = 4;                  // warps of a set, over the reduction
constexpr int AHEAD = 8;                 // chunks from the one that is loaded to the one that is brought to the L2 cache
constexpr int EARLY = CLEAR ? 4 : 5;       // overflow entries that a lane fetches before it scatters the lists
constexpr int LATE = 4;                  // and that it fetches together afterwards
// Halves of a tile that are multiplied in one go: what ptxas finds registers for, here and where AHEAD_STAYS.
constexpr int TOGETHER = N8 <= 4 && !(BEFORE_90 && CLEAR && VALUES && X_BYTES == 2) ? 2 : 1;
constexpr int KEEP = 3;                    // chunks of a tile that CLEAR holds in registers: enough from 80 % zeros on
// Of them with addresses, where accumulators, masks of x and the arithmetic of int8 in bfloat16 leave room.
constexpr bool TIGHT = N8 == 2 && !EVEN && X_BYTES == 16;
constexpr int PLACED = N8 > 4 || (TIGHT && VALUES) ? 0 : (TIGHT || (N8 == 2 && BRAIN && VALUES == INT8) ? 1 : 2);

// Whether the distance that a lane prefetches at has a register of its own.
constexpr bool AHEAD_STAYS = (N8 <= 4 || HOPPER) && (X_BYTES == 16 || VALUES == SIXTEEN);

// What a lane holds of the first KEEP chunks of a tile: what they store, and where that went.
struct Kept {
  Stored v[KEEP];
  u32 gaps[KEEP], at[KEEP][8];
};

// Asks for the chunks of a tile; `values` and `gaps` are where its first one lies.
LANE_FN void fetch(Kept& kept, const char* values, const char* gaps, int count) {
#pragma unroll
  for (int c = 0; c < KEEP; c++)
    if (c < count) kept.v[c] = load_values(values + c * CHUNK_BYTES), kept.gaps[c] = load32(gaps + c * CHUNK_BYTES);
}

// Asks for the overflow entries I, I + 1, ... < EARLY of a lane: every 32nd, of the `extra` that lie from `spilt` on.
template <int I>
LANE_FN void fetch_spilt(u32 (&early)[EARLY], const char* spilt, int extra) {
  if constexpr (I < EARLY) {
    if (extra > 32 * I) early[I] = load32_at<128 * I>(spilt);
    fetch_spilt<I + 1>(early, spilt, extra);
  }
}

// Scatters chunks C, C + 1, ... of the `count` of a tile: those that were fetched, then the others from memory.
template <int C>
LANE_FN void scatter_kept(Kept& kept, const char* values, const char* gaps, int count, u32 low, u32 high) {
  if (C >= count) return;
  if constexpr (C < KEEP) {
    scatter<512 * C>(widened(kept.v[C]), kept.gaps[C], low, high, kept.at[C]);
    scatter_kept<C + 1>(kept, values, gaps, count, low, high);
  } else {
    low += KEEP * 512, high += KEEP * 512;
#pragma unroll 1
    for (int c = KEEP; c < count; c++, low += 512, high += 512)
      scatter<0>(widened(load_values(values + c * CHUNK_BYTES)), load32(gaps + c * CHUNK_BYTES), low, high);
  }
}

// Zeroes what scatter_kept wrote; `first` are the gaps of chunks that were fetched, `gaps` is where those of the next
// tile lie.
template <int C>
LANE_FN void clear(const Kept& kept, const u32 (&first)[KEEP], const char* gaps, int count, u32 low, u32 high) {
  const Quad zero = {0, 0, 0, 0};
  if (C >= count) return;
  if constexpr (C < PLACED) {
    const u32 (&at)[8] = kept.at[C];
    store_shared16<512 * C + 128>(at[0], 0), store_shared16<512 * C + 128>(at[1], 0);
    store_shared16<512 * C + 256>(at[2], 0), store_shared16<512 * C + 256>(at[3], 0);
    store_shared16<512 * C + 384>(at[4], 0), store_shared16<512 * C + 384>(at[5], 0);
    store_shared16<512 * C + 512>(at[6], 0), store_shared16<512 * C + 512>(at[7], 0);
    clear<C + 1>(kept, first, gaps, count, at[6], at[7]);
  } else if constexpr (C < KEEP) {
    scatter<512 * C>(zero, first[C], low, high);
    clear<C + 1>(kept, first, gaps, count, low, high);
  } else {
    low += KEEP * 512, high += KEEP * 512;
#pragma unroll 1
    for (int c = KEEP - count; c < 0; c++, low += 512, high += 512)
      scatter<0>(zero, load32(gaps + c * CHUNK_BYTES), low, high);
  }
}

// Eight elements of a row of x, zeros for those past the `left` that remain of it.
LANE_FN Quad load_x(const char* at, int left) {
  if constexpr (X_BYTES == 16) {
    if (EVEN || left > 0) return load128(at);
    return {0, 0, 0, 0};
  }
  u32 w[4] = {0, 0, 0, 0};
#pragma unroll
  for (int i = 0; i < 8; i++)
    if (i < left) w[i / 2] |= (u32)load16(at + 2 * i) << (16 * (i % 2));
  return {w[0], w[1], w[2], w[3]};
}

// Where a row of x stands, by what ptxas finds registers for: its address; bytes from an address `now` that moves on for
// all rows; or bytes from x.
#if N8 <= 4 && !(BRAIN && VALUES == 2 && X_BYTES == 2)
using Place = const char*;
LANE_FN Place place(const char* x, u32 bytes) { return x + bytes; }
LANE_FN const char* start(const char*, const char*, Place at) { return at; }
#elif !defined(__CUDA_ARCH__) || __CUDA_ARCH__ < 1200 || EVEN
using Place = u32;
LANE_FN Place place(const char*, u32 bytes) { return pin(bytes); }
LANE_FN const char* start(const char*, const char* now, Place at) { return now + at; }
LANE_FN void advance(Place, u32) {}
#else
using Place = u32;
LANE_FN Place place(const char*, u32 bytes) { return bytes; }
LANE_FN const char* start(const char* x, const char*, Place at) { return x + at; }
LANE_FN void advance(Place& at, u32 bytes) { at += bytes; }
#endif

// Blocks on a processor that registers must allow; three leave no room to widen and to read x by elements.
KERNEL(THREADS, N8 <= 1 && !CLEAR && (X_BYTES == 16 || VALUES == SIXTEEN) ? 3 : (N8 <= 2 ? 2 : 1))
lps_linear(const u16* x, const u32* chunks, const int* tiles, const u32* overflow, const float* scale,
           const float* bias, const void* residual, void* y, float* partial, u32* counters, int M, int N, int K,
           int activation, int wide) {
  const int lane = threadIdx.x & 31, warp = (int)same(threadIdx.x >> 5);
  const int set = warp % SETS, member = warp / SETS;
  const int group = blockIdx.x * SETS + set;
  const int steps = (K + STEP - 1) / STEP;
  const int slices = gridDim.y * TEAM, slice = blockIdx.y * TEAM + member;
  const int first = (int)((u64)steps * slice / slices);
  const int last = group * ROWS < M ? (int)((u64)steps * (slice + 1) / slices) : first;
  const u32 tile = pin(shared_base() + warp * TILE_BYTES), rows = pin(tile + 16 * lane), own = pin(tile + 4 * lane);
  const Quad zero = {0, 0, 0, 0};

  float acc[STRIPS][N8][4] = {};
  if (first < last) {
#pragma unroll 1
    for (int i = 0; i < TILE_BYTES; i += 512) store_shared128(rows + i, zero);
    sync_warp();

    // tiles[t] = {first chunk, first overflow entry}; the chunks of consecutive tiles follow each other.
    const char* at = (const char*)(tiles + 2 * ((u64)group * steps + first));
    const u64 here = load64(at);
    u64 next = load64(at + 8);
    int chunk = (int)here, over = (int)(here >> 32);
    const int end = (int)load32(at + 8 * (last - first));
    advance(at, 16);
    const char* values = (const char*)chunks + (u64)chunk * CHUNK_BYTES + LANE_BYTES * lane;
    const char* gaps = (const char*)chunks + (u64)chunk * CHUNK_BYTES + GAPS_AT + 4 * lane;
    // 16 bytes behind what they load, these lanes meet each of the 128-byte lines of a chunk.
    constexpr int OTHERS = 128 / LANE_BYTES - 1;
    [[maybe_unused]] const bool caller = lane == 0 || (lane & OTHERS) == OTHERS;
    // With CLEAR the chunks of the next tile are under way while a tile is cleared; else two chunks always,
    // whichever tile they belong to.
    Kept kept = {};
    Stored v0 = {}, v1 = {};
    u32 g0 = 0, g1 = 0;
    int stream = end - chunk;  // chunks this warp has not asked for
    if constexpr (CLEAR) {
      fetch(kept, values, gaps, (int)next - chunk);
    } else {
      if (stream > 0) v0 = load_values(values), g0 = load32(gaps);
      if (stream > 1) v1 = load_values(values + CHUNK_BYTES), g1 = load32(gaps + CHUNK_BYTES);
      values += 2 * CHUNK_BYTES, gaps += 2 * CHUNK_BYTES, stream -= 2;
    }

    // Rows of x past the end repeat the last one: nothing of them is stored.
    Place x_at[N8];
    const char* x_now = (const char*)x;
#pragma unroll
    for (int j = 0; j < N8; j++) {
      const int n = blockIdx.z * 8 * N8 + 8 * j + (lane >> 2);
      x_at[j] = place((const char*)x, ((u32)(n < N ? n : N - 1) * K + first * STEP + 8 * (lane & 3)) * 2);
    }
    // From a lane's values to the line that it brings to the L2 cache.
    u32 ahead = (128 - LANE_BYTES) * lane + AHEAD * CHUNK_BYTES;
    if constexpr (AHEAD_STAYS) ahead = pin(ahead);
    u32 early[EARLY] = {}, spots[EARLY] = {};  // overflow entries, and where they went
    int x_left = K - first * STEP - 8 * (lane & 3);

#pragma unroll 1
    for (int step = first; step < last; step++) {
      int count = (int)same((int)next - chunk);
      const int spare = (int)same((int)(next >> 32) - over), extra = spare - lane;
      const char* spilt = element<4>(overflow, over + lane);
      chunk = (int)next, over = (int)(next >> 32);
      if (step + 1 < last) next = load64(at);
      advance(at, 8);
      fetch_spilt<0>(early, spilt, extra);

      u32 low = own - 128, high = own - 126;
      u32 written[KEEP];
      if constexpr (CLEAR) {
        scatter_kept<0>(kept, values, gaps, count, low, high);
#pragma unroll
        for (int c = 0; c < KEEP; c++) written[c] = kept.gaps[c];
      } else {
#pragma unroll 1
        for (; count > 1; count -= 2) {
          scatter<0>(widened(v0), g0, low, high);
          if (stream > 0) v0 = load_values(values), g0 = load32(gaps);
          scatter<512>(widened(v1), g1, low, high);
          if (stream > 1) v1 = load_values(values + CHUNK_BYTES), g1 = load32(gaps + CHUNK_BYTES);
          if (caller && stream > AHEAD + 1) {
            prefetch(values + AHEAD * CHUNK_BYTES + 16);
            prefetch(values + (AHEAD + 1) * CHUNK_BYTES + 16);
          }
          values += 2 * CHUNK_BYTES, gaps += 2 * CHUNK_BYTES, stream -= 2;
          low += 1024, high += 1024;
        }
        if (count) {
          scatter<0>(widened(v0), g0, low, high);
          v0 = v1, g0 = g1;
          if (stream > 0) v1 = load_values(values), g1 = load32(gaps);
          values += CHUNK_BYTES, gaps += CHUNK_BYTES, stream -= 1;
        }
      }
#pragma unroll
      for (int i = 0; i < EARLY; i++)
        if (extra > 32 * i) {
          spots[i] = tile + (early[i] >> 16);
          store_shared16<0>(spots[i], spilt_value(early[i]));
        }
#pragma unroll 1
      for (int from = 32 * EARLY; from < spare; from += 32 * LATE) {
        u32 late[LATE];
#pragma unroll
        for (int i = 0; i < LATE; i++)
          if (extra - from > 32 * i) late[i] = load32(spilt + 4 * from + 128 * i);
#pragma unroll
        for (int i = 0; i < LATE; i++)
          if (extra - from > 32 * i) store_shared16<0>(tile + (late[i] >> 16), spilt_value(late[i]));
      }
      sync_warp();

#pragma unroll TOGETHER
      for (int b = 0; b < STEP / 32; b++) {
        Quad xs[N8];
#pragma unroll
        for (int j = 0; j < N8; j++) xs[j] = load_x(start((const char*)x, x_now, x_at[j]) + 64 * b, x_left - 32 * b);
#pragma unroll
        for (int s = 0; s < 2; s++) {
#pragma unroll
          for (int i = 0; i < STRIPS; i++) {
            const u32 words = rows + ((2 * b + s) * STRIPS + i) * 512;
            const Quad a = load_matrices(words);
            if constexpr (!CLEAR) store_shared128(words, zero);
#pragma unroll
            for (int j = 0; j < N8; j++)
              multiply<BRAIN>(acc[i][j], a, s ? xs[j].z : xs[j].x, s ? xs[j].w : xs[j].y);
          }
        }
      }
#pragma unroll
      for (int j = 0; j < N8; j++) advance(x_at[j], STEP * 2);
      advance(x_now, STEP * 2);
      x_left -= STEP;
      sync_warp();
      if constexpr (CLEAR) {
        advance(values, count * CHUNK_BYTES), advance(gaps, count * CHUNK_BYTES);
        fetch(kept, values, gaps, (int)next - chunk);
        // A line a lane: as many bytes as this tile had, AHEAD chunks on. Past the end there is none to bring.
        if (lane < count * (CHUNK_BYTES / 128) && end - chunk > AHEAD + 4096 / CHUNK_BYTES) prefetch(values + ahead);
        clear<0>(kept, written, gaps, count, own - 128, own - 126);
#pragma unroll
        for (int i = 0; i < EARLY; i++)
          if (extra > 32 * i) store_shared16<0>(spots[i], 0);
#pragma unroll 1
        for (int i = 32 * EARLY; i < spare; i += 32)
          if (i < extra) store_shared16<0>(tile + (load32(spilt + 4 * i) >> 16), 0);
        sync_warp();
      }
    }
  }

  const Epilogue e = {scale, bias, residual, y, M, N, activation, wide};
  finish<BRAIN, TEAM>(acc, e, set, member, partial, counters);
}
