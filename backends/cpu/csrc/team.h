// Threads that run a sequence of parallel jobs together.
#ifndef SPARSEC_TEAM_H
#define SPARSEC_TEAM_H

#include <atomic>
#include <condition_variable>
#include <exception>

#include "plan.h"

namespace sparsec {

// One leader calls run(), others help() until close(). The leader waits for claimed tasks only, never for a
// helper to arrive: late helpers, or none at all, cost time but not progress. Between jobs helpers spin for
// some tens of microseconds, because the next operator follows at once, and then sleep: a thread that only
// spins takes the processor from whoever else needs it.
//
// Each thread has a shard of the tasks and takes from the others when its own is empty, so that a thread works
// on the same part of the columns in one operator after the other and finds them in its cache. It goes through its own
// from the front and takes from the others' ends, so that what anybody does are neighbouring tasks.
//
// Processors are never equally fast: one has a neighbour on its core, or is a smaller one. A thread that finds no task
// left takes pieces from inside the tasks of the others: what a task gives to share() it works through from the front, and
// whoever waits takes from the end. Where all are equally fast nobody does.
class Team final : public Parallel {
 public:
  explicit Team(int threads);

  // Leader. An exception of a task or a piece is thrown here, when all claimed tasks are done.
  void run(size_t tasks, void (*fn)(void*, size_t), void* data) override;
  // Within a task; returns when all pieces are done. A piece shares nothing itself.
  void share(size_t pieces, void (*fn)(void*, size_t), void* data) override;
  int threads() const override { return threads_; }
  void close();

  // Any other thread: returns after close().
  void help();
  // How many came before close().
  int helpers() const { return helpers_.load(); }

 private:
  // A shard in one word, so that both of its ends change together: tasks [next, end) are left.
  static constexpr int kBits = 32;
  static constexpr uint64_t kMask = 0xffffffff;
  static constexpr int kMost = 64;  // shards, and threads that share pieces
  struct alignas(64) Shard {
    std::atomic<uint64_t> word{0};  // end << kBits | next
    bool empty() const;
    bool claim(bool front, size_t& task);
  };
  struct Pieces {
    Shard shard;
    void (*fn)(void*, size_t) = nullptr;  // this and `data` are read by who has claimed a piece
    void* data = nullptr;
    std::atomic<size_t> left{0};  // pieces that are not done
  };

  void work(int thread);
  void call(void (*fn)(void*, size_t), void* data, size_t i);
  void done(std::atomic<size_t>& left);
  void wake();
  bool pieces_of_others(int thread) const;
  bool take_piece(int thread);
  template <class Ready>
  void wait(int thread, Ready ready);

  const int threads_, shards_;
  Shard tasks_[kMost];
  Pieces pieces_[kMost];  // of each thread
  void (*fn_)(void*, size_t) = nullptr;
  void* data_ = nullptr;
  std::atomic<uint64_t> job_{0};  // changes with every job
  std::atomic<bool> closed_{false};
  std::atomic<size_t> left_{0};  // tasks that are not done
  std::atomic<int> helpers_{0}, asleep_{0};
  std::mutex mutex_;
  std::condition_variable changed_;
  std::exception_ptr error_;  // guarded by mutex_
};

}  // namespace sparsec
#endif
