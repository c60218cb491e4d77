// Runs a built plan step by step, each split into independent tasks.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <utility>

#include "run_context.h"

namespace sparsec {
namespace {

using Range = std::pair<int64_t, int64_t>;  // [first, second)

// Which tiles of each stage but the last a thread's rings hold, of the step that it works on.
struct Rings {
  uint64_t job = 0;
  std::vector<Range> held;
};

Rings& rings() {
  thread_local Rings mine;
  return mine;
}

class Run {
 public:
  Run(const PlanView& view, Instance& instance, const SparsecTensor* inputs, SparsecTensor* outputs, Parallel& parallel, double* seconds)
      : c_{view, instance, inputs, 0, nullptr}, outputs_(outputs), parallel_(parallel), seconds_(seconds), spent_(seconds ? view.header->op_count : 0) {}

  void all() {
    const Header& header = *c_.v.header;
    for (c_.image = 0; c_.image < c_.in.batch; ++c_.image) {
      last_ = Clock::now();
      for (uint32_t i = 0; i < header.input_count; ++i) read_input(i);
      lap(header.op_count);
      for (const Step& s : c_.in.steps) step(s);
      for (uint32_t i = 0; i < header.output_count; ++i) write_output(i);
      lap(header.op_count + 1);
    }
  }

 private:
  using Clock = std::chrono::steady_clock;

  // The time since the last call.
  double lap() {
    const auto before = std::exchange(last_, Clock::now());
    return std::chrono::duration<double>(last_ - before).count();
  }

  void lap(uint32_t slot) {
    if (seconds_) seconds_[slot] += lap();
  }

  // The time of a step belongs to its operators in proportion to what the threads spent in each.
  void lap(const Step& s) {
    if (!seconds_) return;
    int64_t all = 0;
    for (uint32_t i = s.begin(); i < s.end(); ++i) all += spent_[i];
    const double time = lap();
    if (!all) seconds_[s.begin()] += time;
    for (uint32_t i = s.begin(); all && i < s.end(); ++i) seconds_[i] += time * static_cast<double>(spent_[i].exchange(0)) / static_cast<double>(all);
  }

  template <class F>
  void each_task(int64_t tasks, F f) {
    parallel_.run(tasks, [](void* data, size_t i) { (*static_cast<F*>(data))(static_cast<int64_t>(i)); }, &f);
  }

  // A few tasks for each thread: a late thread holds up a part of its share, and none waits long.
  template <class F>
  void ranges(int64_t count, F f) {
    const int64_t tasks = parallel_.threads() == 1 ? 1 : std::min<int64_t>(count, 8 * parallel_.threads());
    each_task(tasks, [&](int64_t t) { f(count * t / tasks, count * (t + 1) / tasks); });
  }

  template <class F>
  void each(int64_t count, F f) {
    ranges(count, [&](int64_t i, int64_t stop) {
      for (; i < stop; ++i) f(i);
    });
  }

  void step(const Step& s) {
    const BuiltOp& first = c_.in.ops[s.begin()];
    const Layout& l = c_.out(first);
    if (l.columns == 0) return;
    for (uint32_t i = s.begin(); i < s.end(); ++i) {
      const BuiltOp& b = c_.in.ops[i];
      if (b.window.ahead) ranges(c_.v.values[b.record->inputs[0]].channels, [&](int64_t r, int64_t stop) { copy_ahead(c_, b, r, stop); });
    }
    if (!s.tiles) whole(first);
    else if (s.stages.size() == 1) each(l.tiles, [&](int64_t tile) { stage(s.stages[0], tile); });
    else depth_first(s);
    lap(s);
  }

  void stage(const Stage& g, int64_t tile) {
    Context c = c_;
    c.local = tile_memory(c_.in.local_floats);
    auto begun = seconds_ ? Clock::now() : Clock::time_point();
    for (uint32_t i = g.begin; i < g.end; ++i) {
      const BuiltOp& b = c_.in.ops[i];
      auto piece = [&](int64_t p) { run_piece(c, b, tile, p); };
      parallel_.share(pieces_of(c, b, tile), [](void* data, size_t p) { (*static_cast<decltype(piece)*>(data))(static_cast<int64_t>(p)); }, &piece);
      if (!seconds_) continue;
      const auto before = std::exchange(begun, Clock::now());
      spent_[i] += std::chrono::nanoseconds(begun - before).count();
    }
  }

  // A task is a tile of the last stage. Whoever takes it makes, before it, the tiles of the stages before that it reads and
  // that the thread has not.
  void depth_first(const Step& s) {
    static std::atomic<uint64_t> jobs{0};
    const uint64_t job = ++jobs;
    each_task(c_.out(c_.in.ops[s.stages.back().begin]).tiles, [&](int64_t tile) {
      Rings& mine = rings();
      if (mine.job != job) mine = {job, std::vector<Range>(s.stages.size() - 1, Range{0, 0})};
      make(s, s.stages.size() - 1, tile, mine.held);
    });
  }

  void make(const Step& s, size_t level, int64_t tile, std::vector<Range>& held) {
    if (level > 0) {
      const Range wanted = s.stages[level].reads[tile];
      Range& have = held[level - 1];
      const int64_t slots = c_.out(c_.in.ops[s.stages[level - 1].end - 1]).slots;
      if (wanted.first > have.second || wanted.second < have.first) have = {wanted.first, wanted.first};
      while (have.first > wanted.first) {
        make(s, level - 1, have.first - 1, held);
        have = {have.first - 1, std::min(have.second, have.first - 1 + slots)};
      }
      while (have.second < wanted.second) {
        make(s, level - 1, have.second, held);
        have = {std::max(have.first, have.second + 1 - slots), have.second + 1};
      }
    }
    stage(s.stages[level], tile);
  }

  // One operator on all of its output.
  void whole(const BuiltOp& b) {
    const int64_t channels = c_.channels(b);
    switch (b.record->code) {
      case OpCode::kDepthwise: return ranges(channels, [&](int64_t r, int64_t stop) { depthwise_channels(c_, b, r, stop); });
      case OpCode::kMaxPool: return each(channels, [&](int64_t r) { max_pool_channel(c_, b, r); });
      case OpCode::kGlobalAveragePool: return each(channels, [&](int64_t r) { average_channel(c_, b, r); });
      case OpCode::kAttention: return each(c_.in.sequences * b.record->heads, [&](int64_t t) { attention_head(c_, b, t); });
      default: break;
    }
    const int64_t last = c_.out(b).tiles - 1, pieces = pieces_of(c_, b, 0);
    each(last * pieces + pieces_of(c_, b, last), [&](int64_t t) {
      const int64_t tile = std::min(t / pieces, last);
      run_piece(c_, b, tile, t - tile * pieces);
    });
  }

  void read_input(uint32_t i) {
    const uint32_t id = c_.v.inputs[i];
    const Layout& l = c_.in.values[id];
    const int64_t channels = c_.v.values[id].channels;
    if (c_.v.values[id].kind == ValueKind::kRaw || l.external >= 0 || l.columns == 0) return;
    const View x = c_.view(id);
    const float* source = c_.inputs[i].data + (c_.v.values[id].kind == ValueKind::kRows ? 0 : c_.image * l.columns * channels);
    each(l.tiles, [&](int64_t tile) {
      const int64_t begin = tile * l.held, n = l.held_by(tile);
      if (c_.v.values[id].kind == ValueKind::kRows) {
        table_of(l).to_tile(source + begin * channels, channels, n, channels, x.at(tile, 0), l.tile);
        return;
      }
      for (int64_t r = 0; r < channels; ++r) {
        float* row = x.at(tile, r);
        std::memcpy(row, source + r * l.columns + begin, n * 4);
        std::fill(row + n, row + l.tile, 0.0f);
      }
    });
  }

  void write_output(uint32_t i) {
    const uint32_t id = c_.v.outputs[i];
    const Layout& l = c_.in.values[id];
    const int64_t channels = c_.v.values[id].channels;
    const View y = c_.view(id);
    float* target = outputs_[i].data + (c_.v.values[id].kind == ValueKind::kRows ? 0 : c_.image * l.columns * channels);
    each(l.tiles, [&](int64_t tile) {
      const int64_t begin = tile * l.held, n = l.held_by(tile);
      if (c_.v.values[id].kind == ValueKind::kRows) {
        table_of(l).from_tile(y.at(tile, 0), l.tile, channels, target + begin * channels, channels, n);
        return;
      }
      for (int64_t r = 0; r < channels; ++r) std::memcpy(target + r * l.columns + begin, y.at(tile, r), n * 4);
    });
  }

  const KernelTable& table_of(const Layout& l) const {
    for (const BuiltOp& b : c_.in.ops)
      if (l.tile % b.table->lanes == 0) return *b.table;
    return *c_.in.ops[0].table;
  }

  Context c_;
  SparsecTensor* outputs_;
  Parallel& parallel_;
  double* seconds_;
  std::vector<std::atomic<int64_t>> spent_;  // nanoseconds of all threads in each operator of a step, if `seconds_`
  Clock::time_point last_;
};

}  // namespace

void run_instance(Plan& plan, Instance& instance, const SparsecTensor* inputs, SparsecTensor* outputs, Parallel& parallel, double* seconds) {
  if (instance.direct) return run_direct(plan.view, instance, inputs, outputs, parallel, seconds);
  Run(plan.view, instance, inputs, outputs, parallel, seconds).all();
}

}  // namespace sparsec
