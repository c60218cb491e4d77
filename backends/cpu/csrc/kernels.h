// Microkernels: what each instruction set offers to the plan runner.
//
// A microkernel does no checking; plan_check.cc and plan_build.cc own that. Activations lie as rows
// of channels over columns (pixels or tokens); a column tile is `width` columns wide.
#ifndef SPARSEC_KERNELS_H
#define SPARSEC_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#include "plan_format.h"

namespace sparsec {

// What happens to finished output rows while they are in the first cache.
using FinishFn = void (*)(float* y, ptrdiff_t n);

// y[m, width] (+)= W[m, K block] @ x[K block, width].
//
// Groups of `block_rows` output rows that share their columns, or (for block_rows 1) of `R` rows
// side by side. Entries of a group are contiguous: {int32 byte offset into x, float w[block_rows]}.
struct SpmmArgs {
  const int32_t* counts;  // entries of each group (per row when R > 1)
  const int32_t* rows;    // first row of each group; R per group when R > 1
  const void* entries;
  ptrdiff_t groups;
  const float* bias;  // [m rounded up to 8]
  const char* x;
  float* y;
  ptrdiff_t ldy;          // floats between rows of y
  const float* residual;  // may be null
  ptrdiff_t ldr;
  float low, high;
  int32_t m;         // rows of y that exist
  int32_t first;     // the first K block adds the bias; later ones add y
  int32_t last;      // the last one adds the residual, clips and finishes
  bool few;          // groups have few entries: rows of y are asked for before they are written
  FinishFn finish;   // may be null
};
using SpmmFn = void (*)(const SpmmArgs&);

struct SpmmKernel {
  const char* name;
  int block_rows, width;  // width in columns
  SpmmFn run;
};

// y[rows, 1] = clip(W @ x + bias + residual) for one column, weights as they are stored in the plan.
struct GemvArgs {
  const uint32_t* starts;  // this and `columns` are null where the weight is dense
  const uint16_t* columns;
  ptrdiff_t k;             // columns of the weight
  const void* values;    // float, float16 bits or int8, as the kernel reads them
  const float* scales;   // of int8: [rows rounded up to block_rows]
  ptrdiff_t group_begin, group_end;
  const float* bias;  // [rows rounded up to 8]
  const float* x;
  float* y;
  const float* residual;  // [rows]; may be null
  int32_t m;
  float low, high;
};
using GemvFn = void (*)(const GemvArgs&);

struct GemvKernel {
  const char* name;
  TensorKind values;
  int block_rows;
  GemvFn run;
};

// Dense y[m, n] = alpha * a @ x; element (i, k) of a is a[i * a_row + k * a_col]; n is a multiple of
// the lanes, m any.
struct DenseArgs {
  const float* a;
  ptrdiff_t a_row, a_col;
  const float* x;
  ptrdiff_t ldx;
  float* y;
  ptrdiff_t ldy;
  ptrdiff_t m, k, n;
  float alpha;
};

// A shifted copy of part of a plane whose columns are numbered row by row: column p is x[p + from]. The taps of a
// window that lie whole vectors apart read the same copy. What lies outside the map is masked: bit l of
// masks[vector] says that lane l is inside; without masks everything is.
struct TapCopy {
  ptrdiff_t from;         // floats
  ptrdiff_t more;         // vectors that the last of its taps reads beyond those of the first
  const uint32_t* masks;  // may be null
};

// Which loads of a vector of a depthwise window may reach outside of the row: none, those of the taps left of the
// middle, those right of it (with stride 2: from the middle on), or any.
enum Edge : uint8_t { kInside, kLeftEdge, kRightEdge, kAllMasked };

// Channels of a depthwise convolution, each over a padded plane: y[r * width + c] = clip(bias + sum over ky, kx
// of weight * x[(r * row_step + ky * tap_step) + c + columns[kx]]). Whole vectors are stored: up to a
// vector beyond the last row of y is overwritten.
struct DepthwiseArgs {
  const float* x;
  const float* weight;
  float* y;
  int32_t kernel[2];
  int32_t stride;         // of rows; row_step = stride * line
  int32_t dilation;       // of rows; tap_step = dilation * line
  ptrdiff_t line;         // floats between rows of x
  const int32_t* columns;  // [kernel[1]]
  ptrdiff_t rows, width;  // of y
  const float* bias;  // [channels]
  float low, high;
  ptrdiff_t channels, x_step, y_step;  // x, y and weight are those of the first channel
  // Without a padded copy (kDirect, kPacked): x is the input itself, its row r of the window lies at
  // x + row_at[r] - left, or is `zeros` where row_at[r] is -1. Bit l of
  // masks[vector * kernel[1] + k] says that float l of the vector (stride 1: of tap k; stride 2: of the two
  // vectors that taps 2k and 2k + 1 are dealt from) is inside the row; edges[vector] is its Edge. The last
  // vector ends with the row. Nothing is written beyond the last row.
  const uint32_t* masks;
  const uint8_t* edges;
  const float* zeros;
  const int32_t* row_at;
  ptrdiff_t left;
  // Short rows, `line` floats apart and without gaps: so many output rows share a vector, 0 if each has its own;
  // row 0 of the window lies at input row `top`. Bit l of masks[r * kernel[1] + k] then
  // says that lane l of tap k is inside if its vector begins at row r of the window.
  ptrdiff_t packed, top;
};

using DepthwiseFn = void (*)(const DepthwiseArgs&);

// How a depthwise kernel finds its input: in place, a vector for each row or for several, or in a padded copy.
enum class DepthwiseForm : uint8_t { kDirect, kPacked, kPadded };

struct DepthwiseKernel {
  const char* name;
  DepthwiseForm form;
  int size, stride;  // of a square window without dilation; 0: any
  DepthwiseFn run;
};

// Copies input rows into planes with zero borders, one plane for each column phase of the stride (1 or 2).
// Lane l of vector v of phase k comes from x[columns[k] + stride * (v * lanes + l)] if bit l * stride of
// masks[k * vectors + v] is set, else it is zero.
struct PadArgs {
  const float* x;          // input row 0
  ptrdiff_t width, height;  // of the input
  ptrdiff_t from, count;   // rows to copy; those outside the input are zero
  float* y;
  ptrdiff_t line;          // floats between rows of y
  ptrdiff_t phase_line;    // floats between phases, a multiple of the lanes
  int32_t phases, stride;
  const int64_t* columns;
  const uint32_t* masks;
};

// The copies of some channels, one behind the other, for `vectors` vectors of outputs from first_vector. Each has
// room for `room` vectors and its `more`.
struct TapCopiesArgs {
  const TapCopy* copies;
  ptrdiff_t count, channels, channel_stride;
  const float* x;
  ptrdiff_t first_vector, vectors, room;
  float* y;
};

// What a copy holds for a window with a stride: for output column (r, c) the input at row `row + stride * r` and column
// `column + stride * c`, which is inside of its row for c from `begin` to `end`. What lies outside is zero.
// The masks of such a copy are those of a row of outputs: bit f of masks[v] says that float f of the stride's lanes from vector v
// on is inside of its row; null where the stride is longer than 2.
struct TapPhase {
  ptrdiff_t row, column, begin, end;
};

// The same copies for a window with a stride; its outputs have rows of out_width. Up to a vector beyond those of a copy
// is overwritten.
struct PhaseCopiesArgs : TapCopiesArgs {
  const TapPhase* phases;
  ptrdiff_t width, height, out_width, stride_y, stride_x;
};

// y[i] = clip(a[i] op b[i]), i < n.
using BinaryFn = void (*)(const float* a, const float* b, float* y, ptrdiff_t n, float low, float high);

struct KernelTable {
  const char* isa;
  int lanes;  // floats of a vector
  const SpmmKernel* spmm;
  int spmm_count;
  const GemvKernel* gemv;
  int gemv_count;
  const DepthwiseKernel* depthwise;  // the first that fits is taken
  int depthwise_count;
  FinishFn finish[kLastActivation + 1];  // null for kNone and kClip
  void (*clip)(float* y, ptrdiff_t n, float low, float high);
  BinaryFn add, multiply;
  void (*dense)(const DenseArgs&);
  // x[k, n] -> softmax over k in each column, in place; n a multiple of lanes; mask may be null:
  // [k] added to row k times, or [n, k] (mask_ld != 0) added elementwise.
  void (*softmax_columns)(float* x, ptrdiff_t ldx, ptrdiff_t k, ptrdiff_t n, const float* mask,
                          ptrdiff_t mask_ld, ptrdiff_t mask_columns);
  // One tile [channels][width]: y = norm(a + b) * gain + shift; b may be null.
  void (*layer_norm)(const float* a, const float* b, float* y, ptrdiff_t channels, ptrdiff_t width,
                     const float* gain, const float* shift, float epsilon);
  // The same tile divided by the root of its mean square; and one column that lies as a row.
  void (*rms_norm)(const float* x, float* y, ptrdiff_t channels, ptrdiff_t width, const float* gain, float epsilon);
  void (*rms_norm_row)(const float* x, float* y, ptrdiff_t channels, const float* gain, float epsilon);
  // dst[c][0..width) = src[0..n)[c], zero beyond n; c < channels.
  void (*to_tile)(const float* src, ptrdiff_t ld, ptrdiff_t n, ptrdiff_t channels, float* dst,
                  ptrdiff_t width);
  void (*from_tile)(const float* src, ptrdiff_t width, ptrdiff_t channels, float* dst,
                    ptrdiff_t ld, ptrdiff_t n);
  void (*pad)(const PadArgs&);
  void (*copy_taps)(const TapCopiesArgs&);
  void (*copy_phases)(const PhaseCopiesArgs&);
  // dst[i] = src[i * stride], i < n.
  void (*copy_strided)(const float* src, ptrdiff_t stride, float* dst, ptrdiff_t n);
};

// Null where the library was built without the unit.
const KernelTable* portable_kernels();
const KernelTable* avx2_kernels();
const KernelTable* avx512_kernels();
const KernelTable* neon_kernels();

}  // namespace sparsec
#endif
