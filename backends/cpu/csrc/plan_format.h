// The bytes of a plan, as docs/formats/cpu-plan.md specifies them. Little-endian.
#ifndef SPARSEC_PLAN_FORMAT_H
#define SPARSEC_PLAN_FORMAT_H

#include <stdint.h>

namespace sparsec {

constexpr char kMagic[8] = {'S', 'P', 'C', 'P', 'L', 'A', 'N', '\0'};
constexpr uint32_t kVersion = 1;
constexpr uint32_t kNone = 0xFFFFFFFFu;
constexpr uint32_t kMaxCount = 1u << 16;     // of values, operators, tensors
constexpr uint32_t kMaxChannels = 1u << 24;  // of a value, and rows or columns of a weight
constexpr uint32_t kMostHeld = 4096;         // columns of a tile
constexpr int64_t kAlign = 64;

struct Header {
  char magic[8];
  uint32_t version;
  uint32_t crc32;  // of all bytes after the header
  uint64_t size;   // of the whole plan
  uint32_t input_count, output_count, value_count, op_count, tensor_count;
  uint32_t tile_count;
  uint64_t io_at, values_at, ops_at, tensors_at, tiles_at;
  uint64_t reserved[5];
};
static_assert(sizeof(Header) == 128);

enum class ValueKind : uint32_t { kRows = 1, kImage = 2, kRaw = 3 };

struct ValueRecord {
  ValueKind kind;
  uint32_t channels;  // 0 for kRaw
  uint32_t reserved0;
  uint32_t rank;      // of the tensor outside: 2.. for kRows, 4 for kImage, or 2 for one pixel that is made
  uint32_t reserved[4];
};
static_assert(sizeof(ValueRecord) == 32);

// A hint: values of so many columns are best cut into tiles that hold `held`, by so many threads with vectors of so many
// floats. For all others the library chooses.
struct TileRecord {
  uint32_t columns, threads, lanes, held;
};
static_assert(sizeof(TileRecord) == 16);

enum class TensorKind : uint32_t {
  kDense = 1,
  kBlocks = 2,      // float32
  kHalfBlocks = 3,  // float16
  kByteBlocks = 4,  // int8 with a scale for each row
};

struct TensorRecord {
  TensorKind kind;
  uint32_t rows, columns;
  uint32_t block_rows;  // 1, 2, 4 or 8; kDense: 1; kHalfBlocks, kByteBlocks: 8
  uint64_t count;       // stored values: kBlocks counts blocks, kDense rows * columns
  uint64_t starts_at;   // uint32 [ceil(rows / block_rows) + 1]
  uint64_t columns_at;  // uint16 [count] if columns <= 65536, else uint32 [count]
  uint64_t values_at;   // [count, block_rows]
  uint64_t scales_at;   // kByteBlocks: float32 [rows rounded up to block_rows]; else 0
};
static_assert(sizeof(TensorRecord) == 56);

// Bytes of one stored value.
constexpr uint64_t value_bytes(TensorKind kind) {
  return kind == TensorKind::kByteBlocks ? 1 : kind == TensorKind::kHalfBlocks ? 2 : 4;
}

enum class OpCode : uint32_t {
  kLinear = 1,
  kConv = 2,
  kDepthwise = 3,
  kAdd = 4,
  kActivation = 5,
  kLayerNorm = 6,
  kAttention = 7,
  kMaxPool = 8,
  kGlobalAveragePool = 9,
  kRmsNorm = 10,
  kMultiply = 11,
};
constexpr uint32_t kLastOpCode = 11;

enum class Activation : uint32_t {
  kNone = 0,
  kClip = 1,
  kGelu = 2,
  kGeluTanh = 3,
  kSilu = 4,
  kHardSwish = 5,
};
constexpr uint32_t kLastActivation = 5;

struct OpRecord {
  OpCode code;
  Activation activation;
  uint32_t inputs[4];
  uint32_t output;
  uint32_t weight, bias, gain;
  int32_t kernel[2], stride[2], pads[4], dilation[2];  // pads: top, left, bottom, right
  uint32_t heads;
  float low, high;    // kClip
  float alpha;        // kLayerNorm, kRmsNorm: epsilon; kAttention: factor of the scores
  uint32_t depth_hint;  // reduction columns per pass; 0: the library chooses
  uint32_t reserved[7];
};
static_assert(sizeof(OpRecord) == 128);

}  // namespace sparsec
#endif
