// Which instruction sets the library holds and this machine runs.
#include <cstring>

#include "plan.h"

namespace sparsec {

std::vector<const KernelTable*> kernel_tables(const char* isa) {
  std::vector<const KernelTable*> tables;
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (avx512) tables.push_back(avx512_kernels());
  if (avx2) tables.push_back(avx2_kernels());
#elif defined(__aarch64__)
  tables.push_back(neon_kernels());
#endif
  tables.push_back(portable_kernels());
  if (!isa) {  // the portable unit is a way out, not a choice beside a vector unit
    if (tables.size() > 1) tables.pop_back();
    return tables;
  }
  // "avx512" keeps the AVX2 unit behind it: narrow tiles are its work.
  size_t first = 0;
  while (first < tables.size() && std::strcmp(tables[first]->isa, isa)) ++first;
  if (first == tables.size()) fail("instruction set %s is not in this library or not in this machine", isa);
  const bool wide = !std::strcmp(isa, "avx512");
  return {tables.begin() + first, tables.begin() + first + (wide ? 2 : 1)};
}

}  // namespace sparsec
