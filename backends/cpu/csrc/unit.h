// The table of one instruction-set unit. The unit defines SPARSEC_ISA, a vector type `Simd` and the lists
// SPMM_ROWS(V), SPMM_BLOCKS(V, B), GEMV_LIST and DEPTHWISE_LIST before it includes this.
#include "simd_depthwise.h"
#include "simd_gemv.h"
#include "simd_math.h"
#include "simd_spmm.h"
#include "simd_taps.h"

namespace sparsec {
namespace {

#define SPARSEC_STRING(x) #x
#define SPARSEC_NAME(x) SPARSEC_STRING(x)
#define X_ROWS(V) \
  {"f32_spmm_unstructured_v" #V "__" SPARSEC_NAME(SPARSEC_ISA), 1, V * Simd::lanes, \
   spmm_unstructured<Simd, V>},
#define X_BLOCKS(V, B) \
  {"f32_spmm_block" #B "x1_v" #V "__" SPARSEC_NAME(SPARSEC_ISA), B, V * Simd::lanes, \
   spmm_blocks<Simd, V, B>},

const SpmmKernel kSpmm[] = {SPMM_ROWS(X_ROWS) SPMM_BLOCKS(X_BLOCKS)};

#define X_GEMV(NAME, KIND, B, FN) {NAME "__" SPARSEC_NAME(SPARSEC_ISA), TensorKind::KIND, B, FN},
const GemvKernel kGemv[] = {GEMV_LIST(X_GEMV)};

// For units where masked loads cost nothing, and for others.
#define DEPTHWISE_IN_PLACE(X) \
  X(kPacked, "packed_k3s1", 3, 1, (depthwise_packed<Simd, 3>)) \
  X(kPacked, "packed_k5s1", 5, 1, (depthwise_packed<Simd, 5>)) \
  X(kDirect, "direct_k3s1", 3, 1, (depthwise_direct<Simd, 3, 1>)) \
  X(kDirect, "direct_k3s2", 3, 2, (depthwise_direct<Simd, 3, 2>)) \
  X(kDirect, "direct_k5s1", 5, 1, (depthwise_direct<Simd, 5, 1>)) \
  X(kDirect, "direct_k5s2", 5, 2, (depthwise_direct<Simd, 5, 2>)) \
  X(kPadded, "padded_any", 0, 0, (depthwise_any<Simd>))
#define DEPTHWISE_PADDED(X) \
  X(kPadded, "padded_k3s1", 3, 1, (depthwise_padded<Simd, 3, 1>)) \
  X(kPadded, "padded_k3s2", 3, 2, (depthwise_padded<Simd, 3, 2>)) \
  X(kPadded, "padded_k5s1", 5, 1, (depthwise_padded<Simd, 5, 1>)) \
  X(kPadded, "padded_k5s2", 5, 2, (depthwise_padded<Simd, 5, 2>)) \
  X(kPadded, "padded_any", 0, 0, (depthwise_any<Simd>))
#define X_DEPTHWISE(FORM, NAME, K, STRIDE, FN) \
  {"f32_depthwise_" NAME "__" SPARSEC_NAME(SPARSEC_ISA), DepthwiseForm::FORM, K, STRIDE, depthwise<FN>},
const DepthwiseKernel kDepthwise[] = {DEPTHWISE_LIST(X_DEPTHWISE)};

const KernelTable kTable = {
    SPARSEC_NAME(SPARSEC_ISA),
    Simd::lanes,
    kSpmm,
    static_cast<int>(sizeof kSpmm / sizeof kSpmm[0]),
    kGemv,
    static_cast<int>(sizeof kGemv / sizeof kGemv[0]),
    kDepthwise,
    static_cast<int>(sizeof kDepthwise / sizeof kDepthwise[0]),
    {nullptr, nullptr, finish<Simd, Gelu>, finish<Simd, GeluTanh>, finish<Simd, Silu>,
     finish<Simd, HardSwish>},
    clip<Simd>,
    binary<Simd, Sum>,
    binary<Simd, Product>,
    dense<Simd, DENSE_VECTORS>,
    softmax_columns<Simd>,
    layer_norm<Simd>,
    rms_norm<Simd>,
    rms_norm_row<Simd>,
    to_tile<Simd>,
    from_tile<Simd>,
    pad<Simd>,
    copy_taps<Simd>,
    copy_phases<Simd>,
    copy_strided<Simd>,
};

}  // namespace
}  // namespace sparsec
