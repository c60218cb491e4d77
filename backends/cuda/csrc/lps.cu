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
constexpr bool BEFORE_90 = __CUDA_ARCH__ < 900;
#else
constexpr bool BEFORE_90 = false;
#endif
constexpr int SETS = 2;                  // of rows, in a block
constexpr int TEAM = 4;                  // warps of a set, over the reduction
constexpr int AHEAD = 8;                 // chunks from the one that is loaded to the one that comes to the L2 cache
// Overflow entries that a lane fetches before it scatters the lists; lists of 8-bit values leave fewer.
constexpr int EARLY = (CLEAR ? 4 : 5) - (VALUES ? 2 : 0);
constexpr int LATE = 4;                  // and that it fetches together afterwards
// Halves of a tile that are multiplied in one go: what ptxas finds registers for.
constexpr int TOGETHER = N8 <= 4 && !(((BEFORE_90 && VALUES) || N8 == 2) && CLEAR && X_BYTES == 2) ? 2 : 1;
constexpr int KEEP = VALUES ? 4 : 3;     // chunks of a tile that CLEAR holds in registers: enough from 80 % zeros on
// Of them with addresses, where accumulators, masks of x and the arithmetic of int8 in bfloat16 leave room.
constexpr bool TIGHT = N8 == 2 && !EVEN && X_BYTES == 16, SCARCE = N8 == 2 && BRAIN && VALUES == INT8;
constexpr int PLACED = N8 > 4 || (TIGHT && VALUES) ? 0 : (N8 == 4 ? KEEP : (TIGHT || SCARCE ? 1 : 2));
// Chunks of the next tile that are asked for before those of a tile are cleared: where gaps are needed for that, it
// takes registers for them.
constexpr int SOON = PLACED < 2 && N8 == 2 ? PLACED : 2;

// Chunks that CLEAR brings to the L2 cache at a time: the lanes bring a line of 128 bytes each.
constexpr int BATCH = 32 / (CHUNK_BYTES / 128);

// What a lane holds of the first KEEP chunks of a tile: what they store, and where that went.
struct Kept {
  Stored v[KEEP];
  u32 gaps[KEEP], at[KEEP][8];
};

// Asks for the chunks FROM, ... < TO of a tile; `values` and `gaps` are where its first one lies.
template <int FROM, int TO>
LANE_FN void fetch(Kept& kept, const char* values, const char* gaps, int count) {
#pragma unroll
  for (int c = FROM; c < TO; c++)
    if (c < count) kept.v[c] = load_values(values + c * CHUNK_BYTES), kept.gaps[c] = load32(gaps + c * CHUNK_BYTES);
}

// Asks for the overflow entries I, I + 1, ... < EARLY of a lane: every 32nd, of the `extra` that lie from `spilt` on.
template <int I>
LANE_FN void fetch_spilt(u32 (&early)[EARLY], const char* spilt, int extra) {
  if constexpr (I < EARLY) {
    load32_if<128 * I>(early[I], spilt, extra > 32 * I);
    fetch_spilt<I + 1>(early, spilt, extra);
  }
}

// Scatters one of the chunks that were fetched.
template <int C>
LANE_FN void scatter_one(Kept& kept, u32& low, u32& high) {
  scatter<512 * C>(widened(kept.v[C]), kept.gaps[C], low, high, kept.at[C]);
}

// Scatters chunks C, C + 1, ... of the `count` of a tile, C >= 2: those that were fetched, then others from memory.
template <int C>
LANE_FN void scatter_more(Kept& kept, const char* values, const char* gaps, int count, u32 low, u32 high) {
  if (C >= count) return;
  if constexpr (C < KEEP) {
    scatter_one<C>(kept, low, high);
    scatter_more<C + 1>(kept, values, gaps, count, low, high);
  } else {
    low += KEEP * 512, high += KEEP * 512;
    int c = KEEP;
#pragma unroll 1
    do {
      scatter<0>(widened(load_values(values + c * CHUNK_BYTES)), load32(gaps + c * CHUNK_BYTES), low, high);
      low += 512, high += 512;
    } while (++c < count);
  }
}

// Zeroes what a chunk with these gaps wrote.
template <int C>
LANE_FN void clear_one(const Kept& kept, const u32 (&wrote)[KEEP], u32& low, u32& high) {
  if constexpr (C < PLACED) {
    const u32 (&at)[8] = kept.at[C];
    store_shared16<512 * C + 128>(at[0], 0), store_shared16<512 * C + 128>(at[1], 0);
    store_shared16<512 * C + 256>(at[2], 0), store_shared16<512 * C + 256>(at[3], 0);
    store_shared16<512 * C + 384>(at[4], 0), store_shared16<512 * C + 384>(at[5], 0);
    store_shared16<512 * C + 512>(at[6], 0), store_shared16<512 * C + 512>(at[7], 0);
    low = at[6], high = at[7];
  } else {
    scatter<512 * C>(Halves{}, wrote[C], low, high);
  }
}

// Zeroes what scatter_more wrote; `gaps` is where those of the next tile lie.
template <int C>
LANE_FN void clear_more(const Kept& kept, const u32 (&wrote)[KEEP], const char* gaps, int count, u32 low, u32 high) {
  if (C >= count) return;
  if constexpr (C < KEEP) {
    clear_one<C>(kept, wrote, low, high);
    clear_more<C + 1>(kept, wrote, gaps, count, low, high);
  } else {
    low += KEEP * 512, high += KEEP * 512;
    int c = KEEP - count;
#pragma unroll 1
    do {
      scatter<0>(Halves{}, load32(gaps + c * CHUNK_BYTES), low, high);
      low += 512, high += 512;
    } while (++c < 0);
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
#elif !defined(__CUDA_ARCH__) || __CUDA_ARCH__ < 1200 || (EVEN && !(CLEAR && VALUES))
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
      fetch<0, KEEP>(kept, values, gaps, (int)next - chunk);
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
    [[maybe_unused]] int bring = chunk;  // with CLEAR: AHEAD chunks before what comes to the L2 cache next
    u32 early[EARLY] = {}, spots[EARLY];  // overflow entries, and where they went
#pragma unroll
    for (int i = 0; i < EARLY; i++) spots[i] = own;
    int x_left = K - first * STEP - 8 * (lane & 3);

#pragma unroll 1
    for (int step = first; step < last; step++) {
      int count = (int)same((int)next - chunk);
      const int spare = (int)same((int)(next >> 32) - over), extra = spare - lane;
      fetch_spilt<0>(early, element<4>(overflow, over + lane), extra);
      chunk += count, over += spare;
      if (step + 1 < last) next = load64(at);
      advance(at, 8);

      u32 low = own - 128, high = own - 126;
      if constexpr (CLEAR) {
        // The first two together, here and below: most tiles have both, and it is a branch less.
        if (count > 1) {
          scatter_one<0>(kept, low, high), scatter_one<1>(kept, low, high);
          scatter_more<2>(kept, values, gaps, count, low, high);
        } else if (count) {
          scatter_one<0>(kept, low, high);
        }
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
          if (extra - from > 32 * i) late[i] = load32(overflow + (over - extra) + from + 32 * i);
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
          const u32 words = rows + (2 * b + s) * STRIPS * 512;
          Quad a[STRIPS];
#pragma unroll
          for (int i = 0; i < STRIPS && !CLEAR; i++) a[i] = load_matrices(words + i * 512);
          if constexpr (!CLEAR) {
            sync_warp();  // what a lane zeroes, others have read
#pragma unroll
            for (int i = 0; i < STRIPS; i++) store_shared128(words + i * 512, zero);
          }
#pragma unroll
          for (int i = 0; i < STRIPS; i++) {
            if constexpr (CLEAR) a[i] = load_matrices(words + i * 512);
#pragma unroll
            for (int j = 0; j < N8; j++)
              multiply<BRAIN>(acc[i][j], a[i], s ? xs[j].z : xs[j].x, s ? xs[j].w : xs[j].y);
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
        u32 wrote[KEEP];
#pragma unroll
        for (int c = 0; c < KEEP; c++) wrote[c] = kept.gaps[c];
        const int coming = (int)same((int)next - chunk);
        fetch<0, SOON>(kept, values, gaps, coming);
        low = own - 128, high = own - 126;
        if (count > 1) {
          clear_one<0>(kept, wrote, low, high), clear_one<1>(kept, wrote, low, high);
          clear_more<2>(kept, wrote, gaps, count, low, high);
        } else if (count) {
          clear_one<0>(kept, wrote, low, high);
        }
        if (SOON < coming) fetch<SOON, KEEP>(kept, values, gaps, coming);
        if (chunk >= bring) {
          const char* line = element<CHUNK_BYTES>((const char*)chunks + 128 * lane, bring + AHEAD);
          prefetch(line, lane < BATCH * (CHUNK_BYTES / 128) && bring + AHEAD + BATCH <= end);
          bring += BATCH;
        }
        // What is left of an earlier tile is a place that is zero already.
#pragma unroll
        for (int i = 0; i < EARLY; i++) store_shared16<0>(spots[i], 0);
#pragma unroll 1
        for (int i = 32 * EARLY; i < spare; i += 32) {
          const int mine = over - extra + i;  // past the last one: the last one
          store_shared16<0>(tile + (load32(overflow + (mine < over ? mine : over - 1)) >> 16), 0);
        }
        sync_warp();
      }
    }
  }

  const Epilogue e = {scale, bias, residual, y, M, N, activation, wide};
  finish<BRAIN, TEAM>(acc, e, set, member, partial, counters);
}
