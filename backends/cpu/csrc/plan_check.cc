// Every check of a plan, before anything in it is used. Nothing here trusts a number of the file.
#include <array>
#include <cmath>
#include <cstdarg>
#include <cstdio>
#include <cstring>

#include "plan.h"

namespace sparsec {

void fail(const char* format, ...) {
  char text[256];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  throw Error(text);
}

namespace {

// CRC-32 (ISO-HDLC, as in zip and png), eight bytes at a time.
uint32_t crc32(const uint8_t* p, size_t n) {
  static const auto tables = [] {
    std::array<std::array<uint32_t, 256>, 8> t{};
    for (uint32_t i = 0; i < 256; ++i) {
      uint32_t c = i;
      for (int k = 0; k < 8; ++k) c = (c >> 1) ^ (c & 1 ? 0xEDB88320u : 0u);
      t[0][i] = c;
    }
    for (uint32_t i = 0; i < 256; ++i)
      for (int k = 1; k < 8; ++k) t[k][i] = (t[k - 1][i] >> 8) ^ t[0][t[k - 1][i] & 0xFF];
    return t;
  }();
  uint32_t c = 0xFFFFFFFFu;
  for (; n >= 8; n -= 8, p += 8) {
    uint32_t low, high;
    std::memcpy(&low, p, 4);
    std::memcpy(&high, p + 4, 4);
    low ^= c;
    c = tables[7][low & 0xFF] ^ tables[6][low >> 8 & 0xFF] ^ tables[5][low >> 16 & 0xFF] ^
        tables[4][low >> 24] ^ tables[3][high & 0xFF] ^ tables[2][high >> 8 & 0xFF] ^
        tables[1][high >> 16 & 0xFF] ^ tables[0][high >> 24];
  }
  for (; n; --n, ++p) c = (c >> 8) ^ tables[0][(c ^ *p) & 0xFF];
  return ~c;
}

class Checker {
 public:
  explicit Checker(const PlanView& view) : v_(view) {}

  void run() {
    check_values();
    check_tiles();
    for (uint32_t i = 0; i < v_.header->tensor_count; ++i) check_tensor(i);
    defined_.assign(v_.header->value_count, false);
    for (uint32_t i = 0; i < v_.header->input_count; ++i) {
      define(v_.inputs[i], "an input");
      const auto& value = v_.values[v_.inputs[i]];
      if (value.kind == ValueKind::kImage && value.rank != 4) fail("plan: input %u: an image of rank %u", i, value.rank);
    }
    for (uint32_t i = 0; i < v_.header->op_count; ++i) check_op(i);
    for (uint32_t i = 0; i < v_.header->output_count; ++i) {
      use(v_.outputs[i], "an output");
      if (v_.values[v_.outputs[i]].kind == ValueKind::kRaw) fail("plan: an output is a raw value");
    }
  }

 private:
  void check_values() {
    bool rows = false, images = false;
    for (uint32_t i = 0; i < v_.header->value_count; ++i) {
      const auto& value = v_.values[i];
      rows |= value.kind == ValueKind::kRows;
      images |= value.kind == ValueKind::kImage;
      switch (value.kind) {
        case ValueKind::kRows:
          if (value.rank < 2 || value.rank > SPARSEC_MAX_RANK) fail("plan: value %u: rank %u", i, value.rank);
          break;
        case ValueKind::kImage:
          if (value.rank != 4 && value.rank != 2) fail("plan: value %u: an image of rank %u", i, value.rank);
          break;
        case ValueKind::kRaw:
          if (value.rank < 1 || value.rank > SPARSEC_MAX_RANK) fail("plan: value %u: rank %u", i, value.rank);
          break;
        default:
          fail("plan: value %u: unknown kind %u", i, static_cast<uint32_t>(value.kind));
      }
      const bool raw = value.kind == ValueKind::kRaw;
      if (raw ? value.channels != 0 : value.channels == 0 || value.channels > kMaxChannels)
        fail("plan: value %u: %u channels", i, value.channels);
      uint32_t reserved = value.reserved0;
      for (uint32_t r : value.reserved) reserved |= r;
      if (reserved) fail("plan: value %u: reserved fields are not zero", i);
    }
    if (rows && images) fail("plan: rows and images in one plan");
  }

  void check_tiles() const {
    for (uint32_t i = 0; i < v_.header->tile_count; ++i) {
      const TileRecord& t = v_.tiles[i];
      if (!t.columns || !t.threads || !t.lanes || !t.held || t.held > kMostHeld) fail("plan: hint %u: tiles of %u columns of %u", i, t.held, t.columns);
    }
  }

  const char* data(uint64_t at, uint64_t bytes, uint32_t tensor) {
    if (at % kAlign) fail("plan: tensor %u: data at %llu is not aligned", tensor, static_cast<unsigned long long>(at));
    if (at < sizeof(Header) || at > v_.header->size || bytes > v_.header->size - at)
      fail("plan: tensor %u: data reaches beyond the plan", tensor);
    return v_.at(at);
  }

  void check_tensor(uint32_t i) {
    const auto& t = v_.tensors[i];
    if (t.rows == 0 || t.columns == 0 || t.rows > kMaxChannels || t.columns > kMaxChannels)
      fail("plan: tensor %u: shape %u x %u", i, t.rows, t.columns);
    if (t.count > v_.header->size) fail("plan: tensor %u: more values than bytes", i);
    if (t.kind == TensorKind::kDense) {
      if (t.block_rows != 1 || t.starts_at || t.columns_at || t.scales_at)
        fail("plan: tensor %u: a dense tensor with blocks", i);
      if (t.count != static_cast<uint64_t>(t.rows) * t.columns) fail("plan: tensor %u: wrong count", i);
      data(t.values_at, t.count * 4, i);
      return;
    }
    const bool narrow_values = t.kind == TensorKind::kHalfBlocks || t.kind == TensorKind::kByteBlocks;
    if (t.kind != TensorKind::kBlocks && !narrow_values) fail("plan: tensor %u: unknown kind", i);
    const uint32_t b = t.block_rows;
    if ((b != 1 && b != 2 && b != 4 && b != 8) || (narrow_values && b != 8))
      fail("plan: tensor %u: blocks of %u rows", i, b);
    const uint64_t groups = (static_cast<uint64_t>(t.rows) + b - 1) / b;
    const auto* starts = reinterpret_cast<const uint32_t*>(data(t.starts_at, (groups + 1) * 4, i));
    const bool narrow = t.columns <= 65536;
    const char* columns = data(t.columns_at, t.count * (narrow ? 2 : 4), i);
    data(t.values_at, t.count * b * value_bytes(t.kind), i);
    if (t.kind == TensorKind::kByteBlocks) data(t.scales_at, groups * b * 4, i);
    else if (t.scales_at) fail("plan: tensor %u: scales do not belong here", i);
    if (starts[0] != 0 || starts[groups] != t.count) fail("plan: tensor %u: starts do not span it", i);
    const uint32_t used = t.rows - static_cast<uint32_t>(groups - 1) * b;  // rows of the last group
    for (uint64_t p = starts[groups - 1]; p < t.count; ++p)
      for (uint64_t byte = (p * b + used) * value_bytes(t.kind); byte < (p + 1) * b * value_bytes(t.kind); ++byte)
        if (v_.at(t.values_at)[byte]) fail("plan: tensor %u: values in rows beyond the last", i);
    for (uint64_t g = 0; g < groups; ++g) {
      if (starts[g] > starts[g + 1] || starts[g + 1] > t.count)
        fail("plan: tensor %u: starts are not ascending", i);
      for (uint32_t p = starts[g]; p < starts[g + 1]; ++p) {
        const auto column = column_at(columns, p, narrow);
        if (column >= t.columns) fail("plan: tensor %u: column %u of %u", i, column, t.columns);
        if (p > starts[g] && column <= column_at(columns, p - 1, narrow))
          fail("plan: tensor %u: columns are not ascending", i);
      }
    }
  }

  static uint32_t column_at(const char* columns, uint32_t p, bool narrow) {
    return narrow ? reinterpret_cast<const uint16_t*>(columns)[p]
                  : reinterpret_cast<const uint32_t*>(columns)[p];
  }

  void define(uint32_t value, const char* what) {
    if (value >= v_.header->value_count) fail("plan: %s names value %u, which does not exist", what, value);
    if (defined_[value]) fail("plan: value %u is defined twice", value);
    defined_[value] = true;
  }

  void use(uint32_t value, const char* what) const {
    if (value >= v_.header->value_count) fail("plan: %s names value %u, which does not exist", what, value);
    if (!defined_[value]) fail("plan: %s uses value %u before it is defined", what, value);
  }

  const ValueRecord& operand(const OpRecord& op, int i, uint32_t at) const {
    use(op.inputs[i], "an operator");
    const auto& value = v_.values[op.inputs[i]];
    if (value.kind == ValueKind::kRaw && !(op.code == OpCode::kAttention && i == 3))
      fail("plan: operator %u: operand %d is a raw value", at, i);
    return value;
  }

  void want_tensor(uint32_t id, uint32_t rows, uint32_t columns, bool dense, uint32_t at) const {
    if (id >= v_.header->tensor_count) fail("plan: operator %u: tensor %u does not exist", at, id);
    const auto& t = v_.tensors[id];
    if (t.rows != rows || t.columns != columns)
      fail("plan: operator %u: tensor is %u x %u, needed %u x %u", at, t.rows, t.columns, rows, columns);
    if (dense && t.kind != TensorKind::kDense) fail("plan: operator %u: tensor is not dense", at);
  }

  // A padding wider than the window would make maxima of nothing, and images of any size from a pixel.
  static bool reaches(const OpRecord& op, int d) {
    const int most = op.dilation[d] * (op.kernel[d] - 1);
    return op.code != OpCode::kMaxPool || (op.pads[d] <= most && op.pads[d + 2] <= most);
  }

  void check_window(const OpRecord& op, uint32_t at) const {
    for (int d = 0; d < 2; ++d) {
      const bool good = op.kernel[d] >= 1 && op.kernel[d] <= 64 && op.stride[d] >= 1 &&
                        op.stride[d] <= 64 && op.dilation[d] >= 1 && op.dilation[d] <= 64 &&
                        op.pads[d] >= 0 && op.pads[d] <= 4096 && op.pads[d + 2] >= 0 &&
                        op.pads[d + 2] <= 4096 && reaches(op, d);
      if (!good) fail("plan: operator %u: window out of range", at);
    }
  }

  void forbid(bool present, const char* what, uint32_t at) const {
    if (present) fail("plan: operator %u: %s does not belong here", at, what);
  }

  void check_op(uint32_t at) {
    const auto& op = v_.ops[at];
    if (static_cast<uint32_t>(op.code) - 1 >= kLastOpCode) fail("plan: operator %u: unknown code", at);
    if (static_cast<uint32_t>(op.activation) > kLastActivation) fail("plan: operator %u: unknown activation", at);
    for (uint32_t r : op.reserved)
      if (r) fail("plan: operator %u: reserved fields are not zero", at);
    if (std::isnan(op.low) || std::isnan(op.high) || op.low > op.high) fail("plan: operator %u: clip bounds", at);
    if (!std::isfinite(op.alpha)) fail("plan: operator %u: factor is not finite", at);
    if (op.depth_hint > kMaxChannels) fail("plan: operator %u: hint out of range", at);
    const auto& x = operand(op, 0, at);
    if (op.output >= v_.header->value_count) fail("plan: operator %u: output does not exist", at);
    const auto& y = v_.values[op.output];
    if (y.kind != x.kind) fail("plan: operator %u: output is of another kind", at);
    const bool linear = op.code == OpCode::kLinear || op.code == OpCode::kConv;
    const bool depthwise = op.code == OpCode::kDepthwise;
    const bool norm = op.code == OpCode::kLayerNorm, rms = op.code == OpCode::kRmsNorm, attention = op.code == OpCode::kAttention;
    const bool window = op.code == OpCode::kConv || depthwise || op.code == OpCode::kMaxPool;
    const bool image = x.kind == ValueKind::kImage;
    if (window || op.code == OpCode::kGlobalAveragePool) {
      if (!image) fail("plan: operator %u: needs an image", at);
    } else if ((norm || rms || attention) && image) {
      fail("plan: operator %u: needs rows", at);
    }
    if (window) check_window(op, at);
    if (!linear && x.channels != y.channels) fail("plan: operator %u: channels differ", at);
    if (linear) {
      const uint64_t taps = op.code == OpCode::kConv ? static_cast<uint64_t>(op.kernel[0]) * op.kernel[1] : 1;
      if (x.channels * taps > kMaxChannels) fail("plan: operator %u: reduction too long", at);
      want_tensor(op.weight, y.channels, static_cast<uint32_t>(x.channels * taps), false, at);
      if (op.inputs[1] != kNone) {
        const auto& r = operand(op, 1, at);
        if (r.kind != x.kind || r.channels != y.channels) fail("plan: operator %u: residual differs", at);
      }
    } else if (depthwise) {
      want_tensor(op.weight, x.channels, static_cast<uint32_t>(op.kernel[0] * op.kernel[1]), true, at);
    } else {
      forbid(op.weight != kNone, "a weight", at);
    }
    if (linear || depthwise) {
      if (op.bias != kNone) want_tensor(op.bias, 1, y.channels, true, at);
    } else if (norm) {
      want_tensor(op.bias, 1, y.channels, true, at);
    } else {
      forbid(op.bias != kNone, "a bias", at);
    }
    if (norm || rms) {
      want_tensor(op.gain, 1, y.channels, true, at);
      if (!(op.alpha >= 0.0f)) fail("plan: operator %u: epsilon is negative", at);
    } else {
      forbid(op.gain != kNone, "a gain", at);
    }
    const bool elementwise = op.code == OpCode::kAdd || op.code == OpCode::kMultiply;
    if (elementwise || (norm && op.inputs[1] != kNone)) {
      const auto& other = operand(op, 1, at);
      if (other.kind != x.kind || other.channels != x.channels) fail("plan: operator %u: operands differ", at);
    }
    if (attention) check_attention(op, x, at);
    const bool second = linear || norm || attention || elementwise;
    forbid(!second && op.inputs[1] != kNone, "a second operand", at);
    forbid(!attention && (op.inputs[2] != kNone || op.inputs[3] != kNone), "a further operand", at);
    const bool plain = norm || rms || attention || op.code == OpCode::kMaxPool || op.code == OpCode::kGlobalAveragePool;
    forbid(plain && op.activation != Activation::kNone, "an activation", at);
    define(op.output, "an operator");
  }

  void check_attention(const OpRecord& op, const ValueRecord& x, uint32_t at) const {
    if (op.heads == 0 || x.channels % op.heads) fail("plan: operator %u: %u heads", at, op.heads);
    for (int i = 1; i < 3; ++i) {
      const auto& other = operand(op, i, at);
      if (other.kind != x.kind || other.channels != x.channels) fail("plan: operator %u: operands differ", at);
    }
    if (op.inputs[3] != kNone) {
      const auto& mask = operand(op, 3, at);
      if (mask.kind != ValueKind::kRaw || mask.rank != 4) fail("plan: operator %u: mask is not a raw value of rank 4", at);
    }
  }

  PlanView v_;
  std::vector<bool> defined_;
};

const char* table(const char* base, uint64_t size, uint64_t at, uint64_t count, uint64_t item, const char* what) {
  if (at % 8 || at < sizeof(Header) || at > size || count * item > size - at)
    fail("plan: the table of %s reaches beyond the plan", what);
  return base + at;
}

}  // namespace

PlanView check_plan(const void* bytes, size_t size) {
  if (size < sizeof(Header)) fail("plan: %zu bytes are too few for a header", size);
  PlanView v{};
  v.base = static_cast<const char*>(bytes);
  v.header = reinterpret_cast<const Header*>(bytes);
  const Header& h = *v.header;
  if (std::memcmp(h.magic, kMagic, sizeof kMagic)) fail("plan: this is not a plan (wrong magic bytes)");
  if (h.version != kVersion) fail("plan: version %u, this library reads version %u", h.version, kVersion);
  if (h.size != size) fail("plan: %llu bytes by its header, got %zu: truncated or padded", static_cast<unsigned long long>(h.size), size);
  for (uint64_t r : h.reserved)
    if (r) fail("plan: reserved fields are not zero");
  for (uint32_t count : {h.input_count, h.output_count, h.value_count, h.op_count, h.tensor_count, h.tile_count})
    if (count > kMaxCount) fail("plan: a table of %u items is too long", count);
  if (!h.input_count || !h.output_count || !h.op_count) fail("plan: no inputs, outputs or operators");
  const uint32_t crc = crc32(reinterpret_cast<const uint8_t*>(bytes) + sizeof(Header), size - sizeof(Header));
  if (crc != h.crc32) fail("plan: checksum is %08x, should be %08x: the bytes were altered", crc, h.crc32);
  const char* io = table(v.base, size, h.io_at, static_cast<uint64_t>(h.input_count) + h.output_count, 4, "inputs and outputs");
  v.inputs = reinterpret_cast<const uint32_t*>(io);
  v.outputs = v.inputs + h.input_count;
  v.values = reinterpret_cast<const ValueRecord*>(table(v.base, size, h.values_at, h.value_count, sizeof(ValueRecord), "values"));
  v.ops = reinterpret_cast<const OpRecord*>(table(v.base, size, h.ops_at, h.op_count, sizeof(OpRecord), "operators"));
  v.tensors = reinterpret_cast<const TensorRecord*>(table(v.base, size, h.tensors_at, h.tensor_count, sizeof(TensorRecord), "tensors"));
  if (h.tile_count) v.tiles = reinterpret_cast<const TileRecord*>(table(v.base, size, h.tiles_at, h.tile_count, sizeof(TileRecord), "tile hints"));
  if (h.tiles_at != (h.tile_count ? size - h.tile_count * sizeof(TileRecord) : 0)) fail("plan: the table of tile hints is not at its end");
  Checker(v).run();
  return v;
}

}  // namespace sparsec
