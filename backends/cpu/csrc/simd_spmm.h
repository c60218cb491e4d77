// Sparse matrix times dense tile, for any vector type. Included once per instruction-set unit.
//
// One row of weights meets `V` vectors of columns: the products stay in V accumulators over all its
// entries, so that an entry costs one broadcast and V multiply-adds with a memory operand. Rows of a
// block (B) share the loads of x.
//
// Every K block is summed up from zero and then added to y: rounding errors grow with the root of how many
// are added one to the other, and a single chain through all of K erred two to three times as much as
// dense products do.
#ifndef SPARSEC_SIMD_SPMM_H
#define SPARSEC_SIMD_SPMM_H

#include <cstring>

#include "kernels.h"

namespace sparsec {
namespace {

template <int B>
struct Entry {
  int32_t offset;
  float w[B];
};

// The weight of an entry in all lanes. Long vectors of x take every load that a processor makes in a clock, so there
// both halves of an entry come by one.
template <class S>
inline __attribute__((always_inline)) typename S::Vec take(const Entry<1>& e, int32_t& offset) {
  if constexpr (S::lanes == 16) {
    uint64_t both;
    std::memcpy(&both, &e, 8);
    asm("" : "+r"(both));  // else the compiler makes two loads of it again
    offset = static_cast<int32_t>(both);
    return S::set1_bits(static_cast<int32_t>(both >> 32));
  } else {
    offset = e.offset;
    return S::set1(e.w[0]);
  }
}

template <class S, int V>
inline __attribute__((always_inline)) void store_row(const SpmmArgs& a, int row,
                                                     typename S::Vec* acc) {
  float* y = a.y + row * a.ldy;
  if (!a.first) {
#pragma GCC unroll 16
    for (int v = 0; v < V; ++v) acc[v] = S::add(acc[v], S::load(y + v * S::lanes));
  }
  if (a.last) {
    const auto low = S::set1(a.low), high = S::set1(a.high);
    if (a.residual) {
      const float* r = a.residual + row * a.ldr;
#pragma GCC unroll 16
      for (int v = 0; v < V; ++v) acc[v] = S::add(acc[v], S::load(r + v * S::lanes));
    }
#pragma GCC unroll 16
    for (int v = 0; v < V; ++v) acc[v] = S::min(high, S::max(low, acc[v]));
  }
#pragma GCC unroll 16
  for (int v = 0; v < V; ++v) S::store(y + v * S::lanes, acc[v]);
  if (a.last && a.finish) a.finish(y, V * S::lanes);
}

template <class S, int V>
inline __attribute__((always_inline)) void start_row(const SpmmArgs& a, int row,
                                                     typename S::Vec* acc) {
  const auto start = S::set1(a.first ? a.bias[row] : 0.0f);
#pragma GCC unroll 16
  for (int v = 0; v < V; ++v) acc[v] = start;
}

// What is added to a row is asked for two groups ahead. So is the row itself where groups have few entries: such rows end
// before what they are written to has come from the second cache, and, being sorted, lie where the processor does not
// expect them.
template <class S, int V, int B>
inline __attribute__((always_inline)) void fetch_rows(const SpmmArgs& a, ptrdiff_t g) {
  constexpr ptrdiff_t kAhead = 2;
  if (g + kAhead >= a.groups) return;
  const ptrdiff_t row = a.rows[g + kAhead];
  if (a.few) {
#pragma GCC unroll 4
    for (int r = 0; r < B; ++r)
#pragma GCC unroll 16
      for (int at = 0; at < V * S::lanes; at += 16) __builtin_prefetch(a.y + (row + r) * a.ldy + at, 1);
  }
  if (a.residual && a.last) {
#pragma GCC unroll 4
    for (int r = 0; r < B; ++r)
#pragma GCC unroll 16
      for (int at = 0; at < V * S::lanes; at += 16) __builtin_prefetch(a.residual + (row + r) * a.ldr + at);
  }
}

// Unstructured: one row at a time.
template <class S, int V>
void spmm_unstructured(const SpmmArgs& a) {
  const auto* e = static_cast<const Entry<1>*>(a.entries);
  const char* x = a.x;
  for (ptrdiff_t g = 0; g < a.groups; ++g) {
    typename S::Vec acc[V];
    start_row<S, V>(a, a.rows[g], acc);
    fetch_rows<S, V, 1>(a, g);
    for (int n = a.counts[g]; n > 0; --n, ++e) {
      int32_t offset;
      const auto w = take<S>(*e, offset);
      const float* p = reinterpret_cast<const float*>(x + offset);
#pragma GCC unroll 16
      for (int v = 0; v < V; ++v) acc[v] = S::fma(w, S::load(p + v * S::lanes), acc[v]);
    }
    store_row<S, V>(a, a.rows[g], acc);
  }
}

// Blocks of B x 1: B rows share every column; the last block may reach beyond row m.
template <class S, int V, int B>
void spmm_blocks(const SpmmArgs& a) {
  const auto* e = static_cast<const Entry<B>*>(a.entries);
  const char* x = a.x;
  for (ptrdiff_t g = 0; g < a.groups; ++g) {
    const int32_t row = a.rows[g];
    typename S::Vec acc[B][V];
#pragma GCC unroll 4
    for (int r = 0; r < B; ++r) start_row<S, V>(a, row + r, acc[r]);
    fetch_rows<S, V, B>(a, g);
    for (int n = a.counts[g]; n > 0; --n, ++e) {
      const float* p = reinterpret_cast<const float*>(x + e->offset);
      typename S::Vec in[V];
#pragma GCC unroll 16
      for (int v = 0; v < V; ++v) {
        in[v] = S::load(p + v * S::lanes);
        S::keep(in[v]);
      }
#pragma GCC unroll 4
      for (int r = 0; r < B; ++r) {
        const auto w = S::set1(e->w[r]);
#pragma GCC unroll 16
        for (int v = 0; v < V; ++v) acc[r][v] = S::fma(w, in[v], acc[r][v]);
      }
    }
    const int rows = row + B <= a.m ? B : a.m - row;
#pragma GCC unroll 4
    for (int r = 0; r < B; ++r)
      if (r < rows) store_row<S, V>(a, row + r, acc[r]);
  }
}

// Dense product of two activations, four rows at a time.
template <class S, int V, int R>
void dense_block(const DenseArgs& d, ptrdiff_t i, ptrdiff_t j) {
  typename S::Vec acc[R][V];
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) acc[r][v] = S::set1(0.0f);
  const float* a = d.a + i * d.a_row;
  const float* x = d.x + j;
  for (ptrdiff_t k = 0; k < d.k; ++k, a += d.a_col, x += d.ldx) {
    typename S::Vec in[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      in[v] = S::load(x + v * S::lanes);
      S::keep(in[v]);
    }
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      const auto w = S::set1(a[r * d.a_row]);
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) acc[r][v] = S::fma(w, in[v], acc[r][v]);
    }
  }
  const auto alpha = S::set1(d.alpha);
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v)
      S::store(d.y + (i + r) * d.ldy + j + v * S::lanes, S::mul(alpha, acc[r][v]));
}

template <class S, int V>
void dense_columns(const DenseArgs& d, ptrdiff_t j) {
  ptrdiff_t i = 0;
  for (; i + 4 <= d.m; i += 4) dense_block<S, V, 4>(d, i, j);
  for (; i < d.m; ++i) dense_block<S, V, 1>(d, i, j);
}

template <class S, int V>
void dense(const DenseArgs& d) {
  ptrdiff_t j = 0;
  for (; j + V * S::lanes <= d.n; j += V * S::lanes) dense_columns<S, V>(d, j);
  for (; j < d.n; j += S::lanes) dense_columns<S, 1>(d, j);
}

}  // namespace
}  // namespace sparsec
#endif
