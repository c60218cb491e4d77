// What every task of a run sees, and the operators as tasks.
//
// A tile-wise operator computes one tile of its output from the same tile of its operands (a window: from
// the whole planes of its first operand). Others are split by channels, or by heads and sequences.
#ifndef SPARSEC_RUN_CONTEXT_H
#define SPARSEC_RUN_CONTEXT_H

#include "plan.h"
#include "task_memory.h"

namespace sparsec {

struct Context {
  const PlanView& v;
  const Instance& in;
  const SparsecTensor* inputs;
  int64_t image;
  float* local = nullptr;  // of the thread whose task it is: values that no other step reads

  View view(uint32_t value) const {
    const Layout& l = in.values[value];
    if (l.external >= 0) return {inputs[l.external].data + image * l.columns * v.values[value].channels, l};
    if (l.slots) return {local + l.offset / 4, l};
    return {reinterpret_cast<float*>(in.arena.data() + l.offset), l};
  }
  const Layout& out(const BuiltOp& b) const { return in.values[b.record->output]; }
  int64_t channels(const BuiltOp& b) const { return v.values[b.record->output].channels; }
};

// Columns [begin, begin + n) of one row of a tiled value, gathered or scattered.
inline void copy_columns(const View& v, int64_t tile, int64_t row, int64_t begin, int64_t n, float* flat, bool out) {
  while (n > 0) {
    const int64_t in_tile = begin % tile, step = std::min(n, tile - in_tile);
    float* p = v.at(begin / tile, row) + in_tile;
    if (out) std::memcpy(p, flat, step * 4);
    else std::memcpy(flat, p, step * 4);
    begin += step;
    flat += step;
    n -= step;
  }
}

// tile_ops.cc: a tile in pieces that depend on nothing of each other.
int64_t pieces_of(const Context& c, const BuiltOp& b, int64_t tile);
void run_piece(const Context& c, const BuiltOp& b, int64_t tile, int64_t piece);

// Copies of the taps of these channels of the input; see Window::ahead.
void copy_ahead(const Context& c, const BuiltOp& b, int64_t channel, int64_t stop);

// window_ops.cc
void depthwise_tile(const Context& c, const BuiltOp& b, int64_t tile, int64_t channel, int64_t stop);  // b.by_rows: tiles hold whole rows
void depthwise_channels(const Context& c, const BuiltOp& b, int64_t channel, int64_t stop);
void max_pool_channel(const Context& c, const BuiltOp& b, int64_t channel);
void average_channel(const Context& c, const BuiltOp& b, int64_t channel);

// attention.cc: task counts heads, sequence by sequence.
void attention_head(const Context& c, const BuiltOp& b, int64_t task);

}  // namespace sparsec
#endif
