#include "team.h"

#include <algorithm>
#include <chrono>
#include <utility>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace sparsec {
namespace {

constexpr auto kSpin = std::chrono::microseconds(50);

// Of this thread in the team that it works for: 0 leads.
thread_local int my_number = 0;

inline void pause() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

template <class Ready>
bool spin_until(Ready ready) {
  for (int i = 0; i < 64; ++i) {
    if (ready()) return true;
    pause();
  }
  const auto end = std::chrono::steady_clock::now() + kSpin;
  do {
    for (int i = 0; i < 32; ++i) {
      if (ready()) return true;
      pause();
    }
  } while (std::chrono::steady_clock::now() < end);
  return ready();
}

}  // namespace

Team::Team(int threads) : threads_(threads), shards_(std::clamp(threads, 1, kMost)) {}

void Team::run(size_t tasks, void (*fn)(void*, size_t), void* data) {
  if (tasks < 1) return;
  if (threads_ < 2) {
    for (size_t i = 0; i < tasks; ++i) fn(data, i);
    return;
  }
  // Nobody reads these now: all tasks of the job before are done, and claims that come late find none.
  fn_ = fn;
  data_ = data;
  left_.store(tasks, std::memory_order_relaxed);
  for (int s = 0; s < shards_; ++s)
    tasks_[s].word.store(static_cast<uint64_t>(tasks * (s + 1) / shards_) << kBits | tasks * s / shards_, std::memory_order_release);
  job_.fetch_add(1);
  wake();
  work(0);
  wait(0, [this] { return left_.load() == 0; });
  const std::lock_guard<std::mutex> lock(mutex_);
  if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
}

void Team::share(size_t pieces, void (*fn)(void*, size_t), void* data) {
  if (pieces < 2 || my_number >= kMost) {
    for (size_t i = 0; i < pieces; ++i) fn(data, i);
    return;
  }
  // Nobody reads these now: all pieces of before are done.
  Pieces& mine = pieces_[my_number];
  mine.fn = fn;
  mine.data = data;
  mine.left.store(pieces, std::memory_order_relaxed);
  mine.shard.word.store(static_cast<uint64_t>(pieces) << kBits);
  wake();
  for (size_t piece; mine.shard.claim(true, piece); done(mine.left)) call(fn, data, piece);
  wait(my_number, [&] { return mine.left.load() == 0; });
}

bool Team::Shard::empty() const {
  const uint64_t now = word.load();
  return (now & kMask) >= now >> kBits;
}

bool Team::Shard::claim(bool front, size_t& task) {
  uint64_t now = word.load(std::memory_order_acquire);
  for (;;) {
    const uint64_t next = now & kMask, end = now >> kBits;
    if (next >= end) return false;
    const uint64_t left = front ? end << kBits | (next + 1) : (end - 1) << kBits | next;
    if (word.compare_exchange_weak(now, left, std::memory_order_acquire)) {
      task = front ? next : end - 1;
      return true;
    }
  }
}

void Team::work(int thread) {
  my_number = thread;
  const int home = thread % shards_;
  for (int i = 0; i < shards_; ++i)
    for (size_t task; tasks_[(home + i) % shards_].claim(i == 0, task); done(left_)) call(fn_, data_, task);
}

void Team::call(void (*fn)(void*, size_t), void* data, size_t i) {
  try {
    fn(data, i);
  } catch (...) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!error_) error_ = std::current_exception();
  }
}

void Team::done(std::atomic<size_t>& left) {
  if (left.fetch_sub(1) == 1) wake();
}

// Whoever falls asleep is counted before it looks again at what it waits for, and that is changed before this.
void Team::wake() {
  if (!asleep_.load()) return;
  const std::lock_guard<std::mutex> lock(mutex_);
  changed_.notify_all();
}

bool Team::pieces_of_others(int thread) const {
  for (int i = 0; i < std::min(1 + helpers_.load(), kMost); ++i)
    if (i != thread && !pieces_[i].shard.empty()) return true;
  return false;
}

bool Team::take_piece(int thread) {
  for (int i = 0; i < std::min(1 + helpers_.load(), kMost); ++i) {
    Pieces& theirs = pieces_[i];
    size_t piece;
    if (i == thread || !theirs.shard.claim(false, piece)) continue;
    call(theirs.fn, theirs.data, piece);
    done(theirs.left);
    return true;
  }
  return false;
}

// Returns when ready; until then takes pieces.
template <class Ready>
void Team::wait(int thread, Ready ready) {
  const auto something = [&] { return ready() || pieces_of_others(thread); };
  while (!ready()) {
    if (take_piece(thread) || spin_until(something)) continue;
    std::unique_lock<std::mutex> lock(mutex_);
    asleep_.fetch_add(1);
    changed_.wait(lock, something);
    asleep_.fetch_sub(1);
  }
}

void Team::help() {
  if (closed_.load()) return;
  const int thread = helpers_.fetch_add(1) + 1;
  uint64_t seen = 0;
  while (!closed_.load()) {
    wait(thread, [&] { return job_.load() != seen || closed_.load(); });
    seen = job_.load();
    work(thread);
  }
}

void Team::close() {
  closed_.store(true);
  const std::lock_guard<std::mutex> lock(mutex_);
  changed_.notify_all();
}

}  // namespace sparsec
