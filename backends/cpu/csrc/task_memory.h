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

// The same for the values of a step that live no longer than one tile.
inline float* tile_memory(size_t floats) {
  thread_local AlignedBytes memory;
  return grown(memory, floats);
}

struct View {
  float* base;
  int64_t tile_stride, row_stride;
  float* at(int64_t tile, int64_t row) const { return base + tile * tile_stride + row * row_stride; }
};

}  // namespace sparsec
#endif
