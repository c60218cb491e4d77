// From a checked plan and input shapes to layouts, memory, kernels and packed weights.
#include <algorithm>
#include <cstring>
#include <limits>

#include "plan.h"

namespace sparsec {
namespace {

// Multiply-adds of a column of weights up to which one more copy of its input takes longer than loads that straddle
// two cache lines.
constexpr double kFewUses = 30;
// Multiply-adds of some channels of a tile that are worth being taken by another thread: 5 us.
constexpr double kPiece = 1 << 16;
constexpr double kMostPieces = 8;
// Floats of the widest vector of any instruction set.
constexpr int64_t kMostLanes = 16;
// What asking for a row costs is a load for each line of the cache, so that long vectors allow it for fewer entries: 20
// with sixteen floats, 40 with eight.
constexpr int64_t kFewFloats = 320;

class Builder {
 public:
  Builder(Plan& plan, const SparsecTensor* inputs, int threads)
      : plan_(plan), v_(plan.view), threads_(threads), shapes_(infer_shapes(plan.view, inputs)), out_(new Instance) {
    out_->key.push_back(threads);
    for (uint32_t i = 0; i < v_.header->input_count; ++i) {
      out_->key.push_back(inputs[i].rank);
      out_->key.insert(out_->key.end(), inputs[i].dims, inputs[i].dims + inputs[i].rank);
    }
  }

  std::unique_ptr<Instance> run() {
    out_->batch = shapes_.batch;
    out_->sequences = shapes_.sequences;
    out_->length = shapes_.length;
    out_->values.resize(v_.header->value_count);
    out_->ops.resize(v_.header->op_count);
    for (uint32_t i = 0; i < v_.header->op_count; ++i) basics(i);
    if (build_direct(plan_, shapes_, *out_)) return std::move(out_);
    lay_out();
    for (uint32_t i = 0; i < v_.header->op_count; ++i) prepare(i);
    group_steps(v_, threads_, *out_);
    for (const Step& s : out_->steps)
      for (uint32_t i = s.begin(); i < s.end(); ++i) {
        if (v_.ops[i].code == OpCode::kLinear || v_.ops[i].code == OpCode::kConv) prepare_product(out_->ops[i], s.tiles);
        if (!out_->ops[i].padded.direct.empty()) find_rows(out_->ops[i]);
      }
    place_values(v_, *out_);
    return std::move(out_);
  }

 private:
  void basics(uint32_t i) {
    auto& b = out_->ops[i];
    const auto& op = v_.ops[i];
    b.record = &op;
    b.table = plan_.tables[0];
    const bool clip = op.activation == Activation::kClip;
    b.low = clip ? op.low : -std::numeric_limits<float>::infinity();
    b.high = clip ? op.high : std::numeric_limits<float>::infinity();
    const auto channels = v_.values[op.output].channels;
    b.bias.assign(round_up(channels, 8), 0.0f);
    if (op.bias != kNone) std::memcpy(b.bias.data(), v_.floats(v_.tensors[op.bias].values_at), channels * 4);
  }

  static bool is_window(OpCode code) {
    return code == OpCode::kConv || code == OpCode::kDepthwise || code == OpCode::kMaxPool;
  }

  void lay_out() {
    const uint32_t count = v_.header->value_count;
    std::vector<bool> plane(count, false), other(count, false);
    for (uint32_t i = 0; i < v_.header->op_count; ++i) {
      const auto& op = v_.ops[i];
      (is_window(op.code) ? plane : other)[op.inputs[0]] = true;
      if (op.inputs[1] != kNone) other[op.inputs[1]] = true;
    }
    for (uint32_t i = 0; i < count; ++i) {
      out_->values[i].columns = shapes_.values[i].columns;
      out_->values[i].height = shapes_.values[i].height;
      out_->values[i].width = shapes_.values[i].width;
    }
    Cuts cuts(plan_, shapes_, threads_);
    for (uint32_t i = 0; i < count; ++i) {
      auto& l = out_->values[i];
      if (v_.values[i].kind == ValueKind::kRaw) continue;
      const int64_t channels = v_.values[i].channels;
      const Cut& cut = cuts.of(l.columns);
      l.held = cut.held;
      l.tile = cut.tile;
      l.tiles = divide_up(l.columns, l.held);
      if (plane[i] && !cut.loose) {  // windows read whole planes, row by row
        l.row_stride = l.tiles * l.tile;
        if (l.row_stride % 1024 == 0) l.row_stride += 16;  // rows 4 KiB apart share cache sets
        l.tile_stride = l.tile;
        l.size = l.row_stride * channels;
      } else {
        // A tile is a piece of memory of its own: what a processor fetches ahead is not what another one writes.
        l.row_stride = l.tile;
        l.tile_stride = round_up(l.tile * channels, 16);
        l.size = l.tiles * l.tile_stride;
      }
      if (std::max(l.row_stride * channels * 4, l.size) >= (int64_t{1} << 31)) fail("a value of %lld channels and %lld columns is too large", static_cast<long long>(channels), static_cast<long long>(l.columns));
    }
    for (uint32_t i = 0; i < v_.header->input_count; ++i) {
      const uint32_t id = v_.inputs[i];
      auto& l = out_->values[id];
      if (!plane[id] || other[id] || is_output(id)) continue;
      l.external = static_cast<int>(i);  // only windows read it: in place
      l.row_stride = l.columns;
      l.size = 0;
    }
  }

  bool is_output(uint32_t id) const {
    return std::find(v_.outputs, v_.outputs + v_.header->output_count, id) != v_.outputs + v_.header->output_count;
  }

  void prepare(uint32_t i) {
    auto& b = out_->ops[i];
    const auto& op = v_.ops[i];
    const Layout& x = out_->values[op.inputs[0]];
    const Layout& y = out_->values[op.output];
    b.table = table_for(plan_, op.code == OpCode::kGlobalAveragePool ? x.tile : y.tile);
    if (op.code == OpCode::kConv) prepare_window(b, x, y);
    if (op.code == OpCode::kDepthwise) {
      // It works on rows of its own, not on tiles: short rows want short vectors.
      for (const KernelTable* t : plan_.tables)
        if (t == plan_.tables[0] || (find_depthwise(*t, DepthwiseForm::kDirect, op) && y.width <= t->lanes && 2 * y.width > b.table->lanes)) b.table = t;
      prepare_padded(b, x, y);
      b.by_rows = !b.padded.direct.empty() && (y.tiles == 1 || y.held % y.width == 0);
      const double work = static_cast<double>(v_.tensors[op.weight].count) * static_cast<double>(y.held);
      if (threads_ > 1) b.parts = static_cast<int64_t>(std::clamp(work / kPiece, 1.0, kMostPieces));
    }
  }

  void direct_masks(BuiltOp& b, const Layout& x, const Layout& y) {
    const OpRecord& op = *b.record;
    Padded& p = b.padded;
    const int64_t stride = op.stride[1], lanes = b.table->lanes;
    p.packed = stride == 1 && 2 * y.width <= lanes && y.width == x.width ? lanes / y.width : 0;
    b.depthwise = find_depthwise(*b.table, p.packed ? DepthwiseForm::kPacked : DepthwiseForm::kDirect, op);
    for (int64_t r = -op.pads[0]; p.packed && r < y.height + p.packed + op.kernel[0]; ++r)
      for (int k = 0; k < op.kernel[1]; ++k) {
        uint32_t mask = 0;
        for (int64_t l = 0; l < p.packed * y.width; ++l) {
          const int64_t row = r + l / y.width, c = l % y.width + k - op.pads[1];
          if (row >= 0 && row < x.height && c >= 0 && c < x.width) mask |= 1u << l;
        }
        p.direct.push_back(mask);
      }
    for (int64_t v = 0; !p.packed && v < y.width; v += lanes) {
      const int64_t at = y.width < lanes ? 0 : std::min(v, y.width - lanes);
      bool left = false, right = false, any = y.width < lanes;
      for (int k = 0; k < op.kernel[1]; ++k) {
        const int64_t first = stride * at + stride * k - op.pads[1];  // input column of float 0
        uint32_t mask = 0;
        for (int64_t l = 0; l < stride * lanes; ++l)
          if (first + l >= 0 && first + l < x.width) mask |= 1u << l;
        p.direct.push_back(mask);
        if (stride * k >= op.kernel[1]) continue;  // one mask for two taps
        const int64_t middle = op.kernel[1] / 2, tap = stride * k;
        left |= first < 0;
        any |= first < 0 && tap >= middle;
        right |= first + stride * lanes > x.width;
        any |= first + stride * lanes > x.width && tap < middle + (stride == 1);
      }
      p.edges.push_back(any || (left && right) ? kAllMasked : left ? kLeftEdge : right ? kRightEdge : kInside);
    }
    p.zeros.assign(stride * (round_up(y.width, lanes) + lanes) + op.kernel[1], 0.0f);
    p.band = std::max<int64_t>(4, first_cache() / 2 / (y.width * 4) / 4 * 4);
  }

  void find_rows(BuiltOp& b) {
    const OpRecord& op = *b.record;
    const Layout& x = out_->values[op.inputs[0]];
    const int64_t last = int64_t{op.stride[0]} * (out_->values[op.output].height - 1) + op.kernel[0] - op.pads[0];
    for (int64_t r = -op.pads[0]; r < last; ++r)
      b.padded.rows.push_back(r >= 0 && r < x.height ? static_cast<int32_t>(x.external < 0 ? x.row_at(r) : r * x.width) : -1);
  }

  void prepare_padded(BuiltOp& b, const Layout& x, const Layout& y) {
    const OpRecord& op = *b.record;
    Padded& p = b.padded;
    const int64_t stride = op.stride[1], lanes = b.table->lanes;
    const auto phase_of = [&](int kx) {  // column kx * dilation - pad = stride * q + phase
      const int64_t column = int64_t{kx} * op.dilation[1] - op.pads[1];
      const int64_t q = column >= 0 ? column / stride : -((-column + stride - 1) / stride);
      return std::pair(column - q * stride, q);
    };
    int64_t first = 0, last = 0;
    for (int kx = 0; kx < op.kernel[1]; ++kx) {
      first = std::min(first, phase_of(kx).second);
      last = std::max(last, phase_of(kx).second);
    }
    if (find_depthwise(*b.table, DepthwiseForm::kDirect, op)) return direct_masks(b, x, y);
    b.depthwise = find_depthwise(*b.table, DepthwiseForm::kPadded, op);
    // Lanes beyond the last column read into the next row and are not used.
    p.phase_line = round_up(y.width + last - first, lanes);
    std::vector<int64_t> used;
    for (int kx = 0; kx < op.kernel[1]; ++kx) {
      const auto [phase, q] = phase_of(kx);
      auto at = std::find(used.begin(), used.end(), phase) - used.begin();
      if (at == static_cast<ptrdiff_t>(used.size())) {
        used.push_back(phase);
        p.phase_columns.push_back(phase + first * stride);
      }
      p.columns.push_back(static_cast<int32_t>(at * p.phase_line + q - first));
    }
    p.line = static_cast<int64_t>(used.size()) * p.phase_line;
    if (stride <= 2)
      for (int64_t column : p.phase_columns)
        for (int64_t v = 0; v < p.phase_line; v += lanes) {
          uint32_t mask = 0;
          for (int64_t l = 0; l < lanes; ++l) {
            const int64_t c = column + stride * (v + l);
            if (c >= 0 && c < x.width) mask |= 1u << (l * stride);
          }
          p.masks.push_back(mask);
        }
    const int64_t fits = first_cache() / 2 / (p.line * 4 * op.stride[0]);
    p.band = std::max<int64_t>(4, fits / 4 * 4);
    if (p.line >= (1 << 24)) fail("a depthwise window needs rows that are too long");
  }

  // Floats from the first row of a window to its last one, in a copy.
  static int64_t reach(const OpRecord& op, const Layout& y) { return int64_t{op.kernel[0] - 1} * op.dilation[0] / op.stride[0] * y.width; }

  // Whether the rows of a window read the same copies, if these fit a tile. With a stride they do: panel by panel a
  // channel would be read in scattered pieces.
  bool shares_copies(const OpRecord& op, const Layout& y) const {
    const auto& t = v_.tensors[op.weight];
    const bool aligned = op.dilation[0] * y.width % plan_.tables[0]->lanes == 0, strided = op.stride[0] != 1 || op.stride[1] != 1;
    return op.kernel[0] > 1 && (strided || aligned || static_cast<double>(t.count) / static_cast<double>(t.columns) < kFewUses);
  }

  void prepare_window(BuiltOp& b, const Layout& x, const Layout& y) {
    const OpRecord& op = *b.record;
    Window& w = b.window;
    const int lanes = b.table->lanes;
    const bool masked = op.stride[0] == 1 && op.stride[1] == 1 && y.width == x.width;
    // Taps of one source differ by whole rows of outputs only: column p of a tap is that of its source at p + from.
    struct Tap {
      int64_t remainder, column;  // of the source
      int64_t from;
    };
    std::vector<Tap> taps;
    for (int ky = 0; ky < op.kernel[0]; ++ky)
      for (int kx = 0; kx < op.kernel[1]; ++kx) {
        const int64_t row = int64_t{ky} * op.dilation[0] - op.pads[0], column = int64_t{kx} * op.dilation[1] - op.pads[1];
        const int64_t q = row >= 0 ? row / op.stride[0] : -divide_up(-row, op.stride[0]);
        taps.push_back({row - q * op.stride[0], column, q * y.width + (masked ? column : 0)});
      }
    b.channel_stride = x.row_stride;
    w.shared = shares_copies(op, y) && reach(op, y) <= y.tile;
    std::vector<int64_t> first;  // tap of each copy
    for (size_t t = 0; t < taps.size(); ++t) {
      size_t k = 0;
      while (k < first.size() && !(w.shared && taps[first[k]].remainder == taps[t].remainder && taps[first[k]].column == taps[t].column)) ++k;
      if (k == first.size()) {
        first.push_back(static_cast<int64_t>(t));
        if (!masked) w.phases.push_back(phase_at(taps[t].remainder + taps[t].from / y.width * op.stride[0], taps[t].column, op.stride[1], x.width, y.width));
        w.copies.push_back({taps[t].from, 0, nullptr});
      }
      w.copies[k].more = std::max<ptrdiff_t>(w.copies[k].more, divide_up(taps[t].from - w.copies[k].from, lanes));
      w.copy_of.push_back(static_cast<int32_t>(k));
      w.offsets.push_back(static_cast<int32_t>(taps[t].from - w.copies[k].from));
    }
    for (size_t k = 0; masked && k < w.copies.size(); ++k) {
      const int ky = static_cast<int>(first[k]) / op.kernel[1], kx = static_cast<int>(first[k]) % op.kernel[1];
      const int64_t vectors = y.tiles * y.tile / lanes + w.copies[k].more;
      std::vector<uint32_t> masks(vectors, 0);
      for (int64_t p = 0; p < vectors * lanes; ++p) {
        const int64_t r = p / y.width + int64_t{ky} * op.dilation[0] - op.pads[0];
        const int64_t c = p % y.width + int64_t{kx} * op.dilation[1] - op.pads[1];
        if (r >= 0 && r < x.height && c >= 0 && c < x.width) masks[p / lanes] |= 1u << p % lanes;
      }
      w.masks.push_back(std::move(masks));
      w.copies[k].masks = w.masks.back().data();
    }
    for (size_t k = 0; k < w.phases.size() && op.stride[1] <= 2; ++k) {
      const int64_t floats = lanes * op.stride[1];
      std::vector<uint32_t> masks(divide_up(y.width, lanes), 0);
      for (int64_t f = 0; f < static_cast<int64_t>(masks.size()) * floats; ++f)
        if (const int64_t c = w.phases[k].column + f; c >= 0 && c < x.width) masks[f / floats] |= 1u << f % floats;
      w.masks.push_back(std::move(masks));
      w.copies[k].masks = w.masks.back().data();
    }
  }

  static TapPhase phase_at(int64_t row, int64_t column, int64_t stride, int64_t in_width, int64_t out_width) {
    const int64_t begin = std::min(out_width, column < 0 ? divide_up(-column, stride) : 0);
    return {row, column, begin, std::clamp<int64_t>(in_width > column ? divide_up(in_width - column, stride) : 0, begin, out_width)};
  }

  void prepare_product(BuiltOp& b, bool by_tiles) {
    const OpRecord& op = *b.record;
    const Layout& x = out_->values[op.inputs[0]];
    const Layout& y = out_->values[op.output];
    const auto& t = v_.tensors[op.weight];
    const bool conv = op.code == OpCode::kConv;
    b.gemv = nullptr;
    if (!conv && y.columns <= kFewColumns) {
      const KernelTable* table = nullptr;
      b.gemv = find_gemv(plan_, t, &table);
      b.parts = gemv_parts(t, threads_);
      if (b.gemv) b.table = table;
      if (b.gemv) return;
    }
    PackRequest q{};
    q.tensor = op.weight;
    q.block_rows = block_rows_of(t);
    const int64_t groups = divide_up(t.rows, q.block_rows);
    b.panels = cut_panels(b.table, q.block_rows, y.held);
    b.last_panels = cut_panels(b.table, q.block_rows, std::max<int64_t>(y.held_by(y.tiles - 1), 1));
    int64_t widest = 0;
    for (const auto* panels : {&b.panels, &b.last_panels})
      for (const Panel& p : *panels) widest = std::max<int64_t>(widest, p.kernel->width);
    q.row_bytes = x.row_stride * 4;
    q.few = kFewFloats / b.table->lanes;
    const int64_t taps = conv ? static_cast<int64_t>(b.window.offsets.size()) : 1;
    int64_t floats = usual_panel(q.block_rows, y.columns);  // that a panel reads for a column of weights
    if (conv && shares_copies(op, y)) floats = std::min(floats, divide_up(floats + reach(op, y), op.kernel[0]));
    q.depth = op.depth_hint ? std::min<int64_t>(op.depth_hint, t.columns) : choose_depth(t, floats);
    q.depth = std::max<int64_t>(1, q.depth / taps) * taps;  // whole channels
    q.chunks = 1;
    // A few parts for each thread: a late one holds up little. Every part of a window may make the copies of its taps anew.
    const int64_t parts = conv ? threads_ : 4 * threads_;
    if (!by_tiles && y.tiles < parts)
      q.chunks = static_cast<int>(std::clamp<int64_t>(divide_up(parts, y.tiles), 1, std::max<int64_t>(1, groups * q.block_rows / 16)));
    if (conv) {
      const bool pays = q.chunks > 1 || (taps == 1 && q.depth < t.columns);
      b.window.ahead = !b.window.phases.empty() && pays && fits_ahead(b.window, y, t.columns / taps);
      place_taps(b, y, widest, q);
    }
    b.pack = cached_pack(q);
  }

  // Whether all copies of all channels are small enough to be made ahead.
  static bool fits_ahead(const Window& w, const Layout& y, int64_t channels) {
    int64_t floats = 0;
    for (const TapCopy& copy : w.copies) floats += y.tiles * y.tile + (copy.more + 1) * kMostLanes;
    return floats * channels <= int64_t{1} << 26;
  }

  // The width of most panels of a product of so many columns, however these are cut into tiles: K blocks follow from
  // it, and sums from them, which must not depend on the number of threads.
  int64_t usual_panel(int block_rows, int64_t columns) const {
    const KernelTable& table = *plan_.tables[0];
    int64_t width = table.lanes;
    for (int k = 0; k < table.spmm_count; ++k)
      if (table.spmm[k].block_rows == block_rows && table.spmm[k].width <= 8 * table.lanes) width = std::max<int64_t>(width, table.spmm[k].width);
    return std::min(width, round_up(std::max<int64_t>(columns, 1), table.lanes));
  }

  // Where the copies of a window lie.
  static void place_taps(BuiltOp& b, const Layout& y, int64_t widest, PackRequest& q) {
    Window& w = b.window;
    const int64_t lanes = b.table->lanes, taps = static_cast<int64_t>(w.offsets.size());
    w.room = (w.ahead ? y.tiles * y.tile : w.shared ? y.tile : widest) / lanes + (w.phases.empty() ? 0 : 1);  // see PhaseCopiesArgs
    std::vector<int64_t> start;
    for (const TapCopy& copy : w.copies) {
      start.push_back(w.channel_floats);
      w.channel_floats += (w.room + copy.more) * lanes;
    }
    for (int64_t t = 0; t < taps; ++t) q.taps.push_back(static_cast<int32_t>((start[w.copy_of[t]] + w.offsets[t]) * 4));
    q.row_bytes = w.channel_floats * 4;
  }

  std::shared_ptr<const Pack> cached_pack(const PackRequest& q) {
    const std::lock_guard<std::mutex> lock(plan_.mutex);
    for (const auto& [request, pack] : plan_.packs)
      if (request.tensor == q.tensor && request.block_rows == q.block_rows &&
          request.chunks == q.chunks && request.depth == q.depth && request.row_bytes == q.row_bytes && request.few == q.few && request.taps == q.taps)
        return pack;
    auto pack = pack_weights(v_, q);
    plan_.packs.emplace_back(q, pack);
    return pack;
  }

  Plan& plan_;
  const PlanView& v_;
  int threads_;
  Shapes shapes_;
  std::unique_ptr<Instance> out_;
};

}  // namespace

std::unique_ptr<Instance> build_instance(Plan& plan, const SparsecTensor* inputs, int threads) {
  return Builder(plan, inputs, threads).run();
}

}  // namespace sparsec
