// Many short jobs on a team: every task of every job runs exactly once, and errors reach the leader.
#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>

#include "team.h"

namespace sparsec {
void fail(const char*, ...) { throw Error("task"); }
}  // namespace sparsec

struct Job {
  int ran[16];
  int fails;
};

int main() {
  int jobs = 0;
  for (int round = 0; round < 40; ++round) {
    sparsec::Team team(4);
    std::thread helpers[3];
    for (auto& h : helpers) h = std::thread([&] { team.help(); });
    for (int i = 0; i < 300; ++i, ++jobs) {
      Job job{{}, i % 50 == 7 ? 3 : -1};
      const int tasks = 1 + i % 16;
      bool thrown = false;
      try {
        team.run(tasks, [](void* data, size_t t) {
          auto& j = *static_cast<Job*>(data);
          ++j.ran[t];
          if (static_cast<int>(t) == j.fails) sparsec::fail("task");
        }, &job);
      } catch (const sparsec::Error&) {
        thrown = true;
      }
      for (int t = 0; t < tasks; ++t)
        if (job.ran[t] != 1) std::abort();
      if (thrown != (job.fails >= 0 && job.fails < tasks)) std::abort();
      if (i % 100 == 99) std::this_thread::sleep_for(std::chrono::microseconds(300));  // helpers fall asleep
    }
    team.close();
    for (auto& h : helpers) h.join();
  }
  std::printf("%d jobs\n", jobs);
}
