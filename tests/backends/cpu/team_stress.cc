// Many short jobs on a team: every task of every job, and every piece of every task, runs exactly once, and errors
// reach the leader. Prints how many jobs there were.
#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>

#include "team.h"

namespace sparsec {
void fail(const char*, ...) { throw Error("task"); }
}  // namespace sparsec

namespace {

constexpr int kTasks = 16, kPieces = 9, kHelpers = 4;  // one more than the work is cut for

struct Job {
  sparsec::Team& team;
  int pieces;  // of a task
  int fails;   // this task, or its last piece
  int ran[kTasks] = {}, shared[kTasks][kPieces] = {}, sum[kTasks] = {};
};

struct Task {
  Job& job;
  size_t number;
};

void piece(void* data, size_t p) {
  const auto& t = *static_cast<Task*>(data);
  ++t.job.shared[t.number][p];
  if (p % 3 == 2) std::this_thread::yield();
  if (static_cast<int>(t.number) == t.job.fails && static_cast<int>(p) + 1 == t.job.pieces) sparsec::fail("piece");
}

void task(void* data, size_t t) {
  auto& job = *static_cast<Job*>(data);
  ++job.ran[t];
  if (static_cast<int>(t) == job.fails && job.pieces == 0) sparsec::fail("task");
  Task mine{job, t};
  // What one call of share() wrote is there when it returns.
  for (int again = 0; again < 2; ++again) {
    job.team.share(job.pieces, piece, &mine);
    for (int p = 0; p < job.pieces; ++p) job.sum[t] += job.shared[t][p];
  }
}

}  // namespace

int main() {
  int jobs = 0;
  for (int round = 0; round < 40; ++round) {
    sparsec::Team team(kHelpers);
    std::thread helpers[kHelpers];
    for (auto& h : helpers) h = std::thread([&] { team.help(); });
    for (int i = 0; i < 300; ++i, ++jobs) {
      Job job{team, i % (kPieces + 1), i % 50 == 7 ? 3 : -1};
      const int tasks = 1 + i % kTasks;
      bool thrown = false;
      try {
        team.run(tasks, task, &job);
      } catch (const sparsec::Error&) {
        thrown = true;
      }
      for (int t = 0; t < tasks; ++t) {
        if (job.ran[t] != 1 || (t != job.fails && job.sum[t] != 3 * job.pieces)) std::abort();
        for (int p = 0; p < job.pieces; ++p)
          if (job.shared[t][p] != 2) std::abort();
      }
      if (thrown != (job.fails >= 0 && job.fails < tasks)) std::abort();
      if (i % 100 == 99) std::this_thread::sleep_for(std::chrono::microseconds(300));  // helpers fall asleep
    }
    team.close();
    for (auto& h : helpers) h.join();
  }
  std::printf("%d jobs\n", jobs);
}
