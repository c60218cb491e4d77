// Threads for plans that run without a host runtime.
#ifndef SPARSEC_POOL_H
#define SPARSEC_POOL_H

#include <atomic>
#include <condition_variable>
#include <thread>

#include "plan.h"

namespace sparsec {

// Workers take tasks one at a time from a shared counter. They spin for some tens of microseconds after
// a job, because the next operator follows at once, and then sleep: a worker that only spins takes the
// processor from whoever else needs it.
class Pool final : public Parallel {
 public:
  explicit Pool(int threads);
  ~Pool() override;
  void run(size_t tasks, void (*fn)(void*, size_t), void* data) override;
  int threads() const override { return static_cast<int>(workers_.size()) + 1; }

 private:
  void work();
  void take_tasks();

  std::vector<std::thread> workers_;
  std::mutex callers_;  // one job at a time
  std::mutex mutex_;
  std::condition_variable wake_, done_;
  std::atomic<uint64_t> job_{0};
  std::atomic<bool> stop_{false};
  std::atomic<size_t> next_{0}, busy_{0};
  size_t tasks_ = 0;
  void (*fn_)(void*, size_t) = nullptr;
  void* data_ = nullptr;
};

}  // namespace sparsec
#endif
