// What a task works on: memory of its thread, and where the tiles of a value lie.
#ifndef SPARSEC_TASK_MEMORY_H
#define SPARSEC_TASK_MEMORY_H

#include <cstring>

#include "plan.h"

namespace sparsec {

inline float* grown(AlignedBytes& memory, size_t floats) {
  if (memory.size() < floats * 4) {
    memory = AlignedBytes(floats * 4);
    std::memset(memory.data(), 0, floats * 4);
  }
  return memory.floats();
}

// Memory of one thread that an operator needs while it works; grows and stays.
inline float* scratch(size_t floats) {
  thread_local AlignedBytes memory;
  return grown(memory, floats);
}

// The same for the values that no other step reads.
inline float* tile_memory(size_t floats) {
  thread_local AlignedBytes memory;
  return grown(memory, floats);
}

struct View {
  float* base;
  const Layout& layout;
  float* at(int64_t tile, int64_t row) const { return base + layout.slot(tile) * layout.tile_stride + row * layout.row_stride; }
};

}  // namespace sparsec
#endif
