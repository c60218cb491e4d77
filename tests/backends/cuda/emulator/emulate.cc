// The machine that emulate.h speaks to: lanes, their meetings, memory, and joint instructions.
#include <algorithm>
#include <cstdio>
#include <numeric>
#include <random>

#include "lanes.cuh"

namespace emulated {

Machine machine;
Lane* now = nullptr;
static void (*entry)(void**);
static void** entry_arguments;

[[noreturn]] void fail(const std::string& what) {
  char where[96];
  std::snprintf(where, sizeof where, "block (%u, %u, %u), thread %u: ", machine.block.x, machine.block.y,
                machine.block.z, now->thread.x);
  if (machine.error.empty()) machine.error = where + what;
  for (;;) swapcontext(&now->context, &machine.scheduler);
}

bool arrive(Meeting& m, const char* what, unsigned needed) {
  if (m.arrived == 0) {
    m.what = what;
    m.needed = needed;
  } else if (m.what != what || m.needed != needed) {
    fail(std::string("divided: some lanes are at ") + m.what + ", this one is at " + what);
  }
  machine.progress++;
  return ++m.arrived == needed;
}

void wait(const Meeting& m) {
  for (const u64 round = m.round; m.round == round;) swapcontext(&now->context, &machine.scheduler);
}

u8* shared(u32 at, u32 bytes) {
  if (at % bytes) fail("shared address " + std::to_string(at) + " is not a multiple of " + std::to_string(bytes));
  if (at < SHARED_BASE || at - SHARED_BASE + bytes > machine.shared.size())
    fail("shared address " + std::to_string((long)at - SHARED_BASE) + " of " + std::to_string(machine.shared.size()));
  return machine.shared.data() + (at - SHARED_BASE);
}

void check_global(const void* at, u64 bytes, bool write) {
  const char* p = static_cast<const char*>(at);
  if ((uintptr_t)p % bytes) fail("global address is not a multiple of " + std::to_string(bytes));
  for (const Region& r : machine.regions)
    if (p >= r.begin && p + bytes <= r.begin + r.bytes) {
      if (write && !r.writable) fail("store to an operand that is read only");
      return;
    }
  fail("global address outside all operands, " + std::to_string(bytes) + " bytes");
}

void land(const Copy& c) {
  if (c.from) check_global(c.at, c.bytes, false);
  u8* to = shared(c.to, c.bytes);
  std::memset(to, 0, c.bytes);
  std::memcpy(to, c.at, c.from);
}

void land_all_but(size_t left) {
  auto& groups = now->groups;
  while (groups.size() > left) {
    for (const Copy& copy : groups.front()) land(copy);
    groups.erase(groups.begin());
  }
}

static float low(u32 word, bool brain) { return half_value((u16)word, brain); }
static float high(u32 word, bool brain) { return half_value((u16)(word >> 16), brain); }

static u32 word(const Quad& q, int i) { return i == 0 ? q.x : i == 1 ? q.y : i == 2 ? q.z : q.w; }

// d[g + 8 h][2 t + j] of lane 4 g + t is c[2 h + j].
template <int K>
static void accumulate(Fragments* const* lanes, const float (&a)[16][K], const float (&b)[K][8]) {
  for (int l = 0; l < 32; l++)
    for (int i = 0; i < 4; i++) {
      const int row = l / 4 + 8 * (i / 2), col = 2 * (l % 4) + i % 2;
      double sum = lanes[l]->c[i];
      for (int k = 0; k < K; k++) sum += (double)a[row][k] * (double)b[k][col];
      lanes[l]->c[i] = (float)sum;
    }
}

template <bool BF>
void run_multiply(Fragments* const* lanes) {
  float a[16][16], b[16][8];
  for (int l = 0; l < 32; l++)
    for (int r = 0; r < 4; r++) {
      const int g = l / 4, t = l % 4, row = g + 8 * (r & 1), col = 2 * t + 8 * (r >> 1);
      a[row][col] = low(word(lanes[l]->a, r), BF);
      a[row][col + 1] = high(word(lanes[l]->a, r), BF);
      if (r < 2) {
        b[2 * t + 8 * r][g] = low(word(lanes[l]->b, r), BF);
        b[2 * t + 8 * r + 1][g] = high(word(lanes[l]->b, r), BF);
      }
    }
  accumulate<16>(lanes, a, b);
}

template <bool BF, int SELECTOR>
void run_multiply_sparse(Fragments* const* lanes) {
  float a[16][32] = {}, b[32][8];
  for (int l = 0; l < 32; l++)
    for (int r = 0; r < 4; r++) {
      const int g = l / 4, t = l % 4, row = g + 8 * (r & 1), group = t + 4 * (r >> 1);
      // Lane 2 SELECTOR + u of four holds the groups 4 u to 4 u + 3: row g in the low half, g + 8 in the high.
      const u32 meta = lanes[4 * g + 2 * SELECTOR + group / 4]->meta;
      const u32 pair = meta >> (16 * (r & 1) + 4 * (group % 4)) & 15;
      const int first = pair & 3, second = pair >> 2;
      if (first >= second) fail("mma.sp: metadata out of order");
      a[row][4 * group + first] = low(word(lanes[l]->a, r), BF);
      a[row][4 * group + second] = high(word(lanes[l]->a, r), BF);
      b[2 * t + 8 * r][g] = low(word(lanes[l]->b, r), BF);
      b[2 * t + 8 * r + 1][g] = high(word(lanes[l]->b, r), BF);
    }
  accumulate<32>(lanes, a, b);
}

template void run_multiply<false>(Fragments* const*);
template void run_multiply<true>(Fragments* const*);
template void run_multiply_sparse<false, 0>(Fragments* const*);
template void run_multiply_sparse<false, 1>(Fragments* const*);
template void run_multiply_sparse<true, 0>(Fragments* const*);
template void run_multiply_sparse<true, 1>(Fragments* const*);

void run_load_matrices(Rows* const* lanes) {
  u32 words[4][32];
  for (int l = 0; l < 32; l++) std::memcpy(&words[l / 8][4 * (l % 8)], shared(lanes[l]->at, 16), 16);
  for (int l = 0; l < 32; l++) lanes[l]->v = {words[0][l], words[1][l], words[2][l], words[3][l]};
}

void run_same(u32* const* lanes) {
  for (int l = 1; l < 32; l++)
    if (*lanes[l] != *lanes[0]) fail("lane " + std::to_string(l) + " differs in what is to be the same");
}

static void start_lane() {
  entry(entry_arguments);
  if (!now->open.empty() || !now->groups.empty()) {
    for (const auto& group : now->groups)
      if (!group.empty()) fail("copies are still under way at the end");
    if (!now->open.empty()) fail("copies are still under way at the end");
  }
  now->done = true;
  machine.progress++;
  for (;;) swapcontext(&now->context, &machine.scheduler);
}

static bool run_block(unsigned threads, std::mt19937* shuffled, int order) {
  std::fill(machine.shared.begin(), machine.shared.end(), 0xff);  // NaN
  machine.lanes.resize(threads);
  machine.warps.assign(threads / 32, Warp{});
  for (Meeting& b : machine.barriers) b = Meeting{};
  std::vector<unsigned> turns(threads);
  std::iota(turns.begin(), turns.end(), 0u);
  if (order < 0) std::reverse(turns.begin(), turns.end());
  if (order > 0) std::shuffle(turns.begin(), turns.end(), *shuffled);
  for (unsigned i = 0; i < threads; i++) {
    Lane& lane = machine.lanes[i];
    if (!lane.stack) lane.stack.reset(new char[STACK]);
    lane.thread = {i, 0, 0};
    lane.done = false;
    lane.open.clear();
    lane.groups.clear();
    getcontext(&lane.context);
    lane.context.uc_stack.ss_sp = lane.stack.get();
    lane.context.uc_stack.ss_size = STACK;
    lane.context.uc_link = nullptr;
    makecontext(&lane.context, start_lane, 0);
  }
  for (unsigned left = threads; left;) {
    const u64 before = machine.progress;
    for (const unsigned i : turns) {
      if (machine.lanes[i].done) continue;
      now = &machine.lanes[i];
      swapcontext(&machine.scheduler, &now->context);
      if (!machine.error.empty()) return false;
      left -= now->done;
    }
    if (left && machine.progress == before) {
      const char* what = machine.warps[now->thread.x / 32].meeting.what;
      machine.error = std::string("deadlock; the last lane waits at ") + (what ? what : "a barrier");
      return false;
    }
  }
  return true;
}

const char* launch(void (*call)(void**), const unsigned* grid, unsigned threads, unsigned shared_bytes,
                   void** arguments, const Region* regions, unsigned region_count, int order, int eager) {
  machine.grid = {grid[0], grid[1], grid[2]};
  machine.regions.assign(regions, regions + region_count);
  machine.shared.assign(shared_bytes, 0);
  machine.eager = eager;
  machine.error.clear();
  entry = call;
  entry_arguments = arguments;
  std::mt19937 shuffled(order);
  const unsigned total = grid[0] * grid[1] * grid[2];
  std::vector<unsigned> turns(total);
  std::iota(turns.begin(), turns.end(), 0u);
  if (order < 0) std::reverse(turns.begin(), turns.end());
  if (order > 0) std::shuffle(turns.begin(), turns.end(), shuffled);
  for (const unsigned i : turns) {
    machine.block = {i % grid[0], i / grid[0] % grid[1], i / grid[0] / grid[1]};
    if (!run_block(threads, &shuffled, order)) return machine.error.c_str();
  }
  return nullptr;
}

}  // namespace emulated
