// Threads for plans that run without a host runtime.
#ifndef SPARSEC_POOL_H
#define SPARSEC_POOL_H

#include <thread>

#include "team.h"

namespace sparsec {

class Pool final : public Parallel {
 public:
  explicit Pool(int threads) : team_(threads) {
    try {
      for (int i = 1; i < threads; ++i) workers_.emplace_back([this] { team_.help(); });
    } catch (...) {  // the system gives no more threads
      close();
      throw;
    }
  }
  ~Pool() override { close(); }
  void run(size_t tasks, void (*fn)(void*, size_t), void* data) override {
    const std::lock_guard<std::mutex> one(callers_);
    team_.run(tasks, fn, data);
  }
  void share(size_t pieces, void (*fn)(void*, size_t), void* data) override { team_.share(pieces, fn, data); }
  int threads() const override { return team_.threads(); }

 private:
  void close() {
    team_.close();
    for (auto& worker : workers_) worker.join();
  }

  Team team_;
  std::mutex callers_;  // one job at a time
  std::vector<std::thread> workers_;
};

}  // namespace sparsec
#endif
