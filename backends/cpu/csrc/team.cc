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

Team::Team(int threads) : threads_(threads), shards_(std::clamp(threads, 1, kMostShards)) {}

void Team::run(size_t tasks, void (*fn)(void*, size_t), void* data) {
  if (tasks < 2 || threads_ < 2) {
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
  if (asleep_.load()) {
    const std::lock_guard<std::mutex> lock(mutex_);
    wake_.notify_all();
  }
  work(0);
  const auto finished = [this] { return left_.load() == 0; };
  if (!spin_until(finished)) {
    std::unique_lock<std::mutex> lock(mutex_);
    done_.wait(lock, finished);
  }
  const std::lock_guard<std::mutex> lock(mutex_);
  if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
}

bool Team::claim(Shard& shard, bool own, size_t& task) {
  uint64_t word = shard.word.load(std::memory_order_acquire);
  for (;;) {
    const uint64_t next = word & kMask, end = word >> kBits;
    if (next >= end) return false;
    const uint64_t left = own ? end << kBits | (next + 1) : (end - 1) << kBits | next;
    if (shard.word.compare_exchange_weak(word, left, std::memory_order_acquire)) {
      task = own ? next : end - 1;
      return true;
    }
  }
}

void Team::work(int home) {
  for (int i = 0; i < shards_; ++i)
    for (size_t task; claim(tasks_[(home + i) % shards_], i == 0, task);) {
      try {
        fn_(data_, task);
      } catch (...) {
        const std::lock_guard<std::mutex> lock(mutex_);
        if (!error_) error_ = std::current_exception();
      }
      if (left_.fetch_sub(1) == 1) {
        const std::lock_guard<std::mutex> lock(mutex_);  // the leader may be about to wait
        done_.notify_one();
      }
    }
}

void Team::help() {
  if (closed_.load()) return;
  const int home = (helpers_.fetch_add(1) + 1) % shards_;
  uint64_t seen = 0;
  while (!closed_.load()) {
    const auto called = [&] { return job_.load() != seen || closed_.load(); };
    if (!spin_until(called)) {
      std::unique_lock<std::mutex> lock(mutex_);
      asleep_.fetch_add(1);
      wake_.wait(lock, called);
      asleep_.fetch_sub(1);
    }
    seen = job_.load();
    work(home);
  }
}

void Team::close() {
  closed_.store(true);
  const std::lock_guard<std::mutex> lock(mutex_);
  wake_.notify_all();
}

}  // namespace sparsec
