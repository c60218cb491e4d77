#include "pool.h"

#include <chrono>

namespace sparsec {
namespace {

constexpr auto kSpin = std::chrono::microseconds(30);

template <class Ready>
bool spin_until(Ready ready) {
  const auto end = std::chrono::steady_clock::now() + kSpin;
  do {
    for (int i = 0; i < 64; ++i)
      if (ready()) return true;
  } while (std::chrono::steady_clock::now() < end);
  return ready();
}

}  // namespace

Pool::Pool(int threads) {
  for (int i = 1; i < threads; ++i) workers_.emplace_back([this] { work(); });
}

Pool::~Pool() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stop_ = true;
  }
  wake_.notify_all();
  for (auto& worker : workers_) worker.join();
}

void Pool::take_tasks() {
  for (size_t i = next_.fetch_add(1); i < tasks_; i = next_.fetch_add(1)) fn_(data_, i);
}

void Pool::run(size_t tasks, void (*fn)(void*, size_t), void* data) {
  if (tasks < 2) {
    if (tasks) fn(data, 0);
    return;
  }
  const std::lock_guard<std::mutex> one(callers_);
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    tasks_ = tasks;
    fn_ = fn;
    data_ = data;
    next_ = 0;
    busy_ = workers_.size();
    ++job_;
  }
  wake_.notify_all();
  take_tasks();
  const auto finished = [this] { return busy_ == 0; };
  if (!spin_until(finished)) {
    std::unique_lock<std::mutex> lock(mutex_);
    done_.wait(lock, finished);
  }
}

void Pool::work() {
  uint64_t seen = 0;
  for (;;) {
    const auto called = [&] { return job_ != seen || stop_; };
    if (!spin_until(called)) {
      std::unique_lock<std::mutex> lock(mutex_);
      wake_.wait(lock, called);
    }
    if (stop_) return;
    {
      const std::lock_guard<std::mutex> lock(mutex_);  // see all of the job
      seen = job_;
    }
    take_tasks();
    if (busy_.fetch_sub(1) == 1) {
      const std::lock_guard<std::mutex> lock(mutex_);
      done_.notify_one();
    }
  }
}

}  // namespace sparsec
