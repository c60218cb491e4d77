// How columns are cut into tiles, and tiles into panels of microkernels.
#include <unistd.h>

#include <algorithm>
#include <deque>

#include "plan.h"

namespace sparsec {
namespace {

// Columns of a tile; more where all channels of them still fit the second cache, so that windows share more rows.
constexpr int64_t kWideTile = 448, kWidestTile = 2 * kWideTile;
// Time to write a float beyond the second cache and to read it from there, in multiply-adds of the roof, for each lane of
// a vector: memory is as fast with short ones.
constexpr double kStream = 0.625;
// Threads are never equally fast, and the last tile of all keeps all but one waiting: for so much of its time, as measured.
constexpr double kWaits = 0.1;
// What panels of single rows cost that are narrower than their tile, for every float that they read or write, in
// multiply-adds of the roof: it does not lie in one piece, and the processor fetches ahead what another panel needs. As
// measured, 2.5 to 15.
constexpr double kInPieces = 3.0;
// A float of a copy that a window makes of its input, likewise.
constexpr double kCopied = 19.0;
// Rows of the other side's tiles where a window has a stride: its cut is chosen apart.
constexpr int64_t kFewRows = 2;

// Time per multiply-add of a panel of v vectors, relative to the roof, as measured: one row at a time pays for
// the load of its weight, and a wide panel fills the first cache with fewer channels; blocks need chains
// enough to cover the latency of an addition.
double slowness(const SpmmKernel& kernel, int lanes) {
  const double v = kernel.width / lanes;
  if (kernel.block_rows > 1) {
    const double chains = v * kernel.block_rows;
    return (chains < 8 ? 8 / chains : 1.0) * (1.0 + 0.04 / v);
  }
  return 1.2 * (1.0 + 1.0 / v + 0.02 / 16 * kernel.width + 0.008 * std::max(0.0, v - 8));
}

// The cheapest way to cover so many columns with the kernels that there are.
struct Cover {
  std::vector<double> cost;                // of [vectors]
  std::vector<const SpmmKernel*> last;     // the panel at the end of it
  std::vector<int> widest;                 // panel of it

  Cover(const KernelTable* table, int block_rows, int64_t columns) : cost(divide_up(columns, table->lanes) + 1, 1e300), last(cost.size(), nullptr), widest(cost.size(), 0) {
    cost[0] = 0;
    for (int k = 0; k < table->spmm_count; ++k) {
      const SpmmKernel& kernel = table->spmm[k];
      if (kernel.block_rows == block_rows) kernels.push_back(&kernel);
    }
    for (size_t n = 1; n < cost.size(); ++n)
      for (const SpmmKernel* kernel : kernels) {
        const size_t v = kernel->width / table->lanes;
        if (v > n) continue;
        const double c = cost[n - v] + kernel->width * slowness(*kernel, table->lanes);
        if (c < cost[n]) {
          cost[n] = c;
          last[n] = kernel;
          widest[n] = std::max(widest[n - v], kernel->width);
        }
      }
  }

  std::vector<const SpmmKernel*> kernels;
};

// Rows of a tile that lie a power of two of lines apart share few sets of the first cache.
bool crowds_sets(const KernelTable* table, int64_t tile) {
  const int64_t lines = divide_up(tile, 16), panel = std::min<int64_t>(tile, 8 * table->lanes) / 16;
  int64_t apart = 64;
  while (lines % apart) apart /= 2;
  return 64 / apart * std::max<int64_t>(panel, 1) < 64;
}

// What the system says, KiB; some say nothing, some say 0, and a virtual machine may say anything.
[[maybe_unused]] int64_t cache_size(int name, int64_t unknown, int64_t least, int64_t most) {
  const long said = sysconf(name);
  return said > 0 ? std::clamp<int64_t>(said, least << 10, most << 10) : unknown << 10;
}

}  // namespace

int64_t first_cache() {
#ifdef _SC_LEVEL1_DCACHE_SIZE
  static const int64_t size = cache_size(_SC_LEVEL1_DCACHE_SIZE, 32, 16, 128);
  return size;
#else
  return 32 << 10;
#endif
}

int64_t second_cache() {
#ifdef _SC_LEVEL2_CACHE_SIZE
  static const int64_t size = cache_size(_SC_LEVEL2_CACHE_SIZE, 512, 256, 4096);
  return size;
#else
  return 512 << 10;
#endif
}

int block_rows_of(const TensorRecord& t) {
  return t.kind == TensorKind::kDense ? kBlockRows : std::min(static_cast<int>(t.block_rows), kBlockRows);
}

const KernelTable* table_for(const Plan& plan, int64_t tile) {
  for (const KernelTable* t : plan.tables)
    if (tile % t->lanes == 0) return t;
  fail("no kernel for tiles of %lld columns", static_cast<long long>(tile));
}

std::vector<Panel> cut_panels(const KernelTable* table, int block_rows, int64_t columns) {
  const Cover cover(table, block_rows, columns);
  std::vector<Panel> panels;
  int64_t at = 0;
  for (size_t n = cover.cost.size() - 1; n > 0; n -= panels.back().kernel->width / table->lanes) {
    if (!cover.last[n]) fail("no kernel for blocks of %d rows and %lld columns", block_rows, static_cast<long long>(columns));
    panels.push_back({cover.last[n], at});
    at += cover.last[n]->width;
  }
  return panels;
}

const DepthwiseKernel* find_depthwise(const KernelTable& table, DepthwiseForm form, const OpRecord& op) {
  const bool plain = op.kernel[0] == op.kernel[1] && op.stride[0] == op.stride[1] && op.dilation[0] == 1 && op.dilation[1] == 1;
  for (int i = 0; i < table.depthwise_count; ++i) {
    const DepthwiseKernel& k = table.depthwise[i];
    if (k.form == form && (k.size == 0 || (plain && k.size == op.kernel[0] && k.stride == op.stride[0]))) return &k;
  }
  return nullptr;
}

double unevenness(int64_t columns, int64_t held, int threads) {
  if (columns == 0) return 1.0;
  const int64_t tiles = divide_up(columns, held);
  int64_t most = 0;
  for (int t = 0; t < threads; ++t)  // as a team shares them
    most = std::max(most, std::min(columns, tiles * (t + 1) / threads * held) - std::min(columns, tiles * t / threads * held));
  return static_cast<double>(most * threads) / static_cast<double>(columns);
}

// Rows of an image can lie anywhere if whoever reads windows of them asks where: tiles apart from each other, and with a gap
// behind the rows of a tile that are no multiple of a vector.
bool Cuts::gaps_allowed(int64_t columns, int64_t row) const {
  if (!row || 2 * row <= plan_.tables[0]->lanes) return false;  // several rows in a vector: no gaps
  for (const OpRecord* op : reading(columns)) {
    if (op->code == OpCode::kMaxPool || op->code == OpCode::kConv) return false;
    // Images of as many pixels need not have rows as long.
    if (op->code == OpCode::kDepthwise && (shapes_.values[op->inputs[0]].width != row || !find_depthwise(*plan_.tables[0], DepthwiseForm::kDirect, *op))) return false;
  }
  const Operators& makers = making(columns);
  return std::none_of(makers.begin(), makers.end(), [](const OpRecord* op) { return op->code == OpCode::kConv; });
}

// Time of a product beside its multiply-adds: floats that lie in pieces, and copies for windows, a tile at a time.
double Cuts::moving(const OpRecord& op, int64_t held, bool in_pieces) const {
  const Shape& y = shapes_.values[op.output];
  const auto reads = static_cast<double>(plan_.view.values[op.inputs[0]].channels);
  if (op.code == OpCode::kConv) {
    const double halo = (op.kernel[0] - 1) * static_cast<double>(y.width) / static_cast<double>(std::min(held, y.columns));
    return op.kernel[0] == 1 ? 0 : kCopied * op.kernel[1] * reads * static_cast<double>(y.columns) * halo;
  }
  const double writes = (op.inputs[1] == kNone ? 1.0 : 2.0) * plan_.view.values[op.output].channels;
  return in_pieces ? kInPieces * (reads + writes) * static_cast<double>(y.columns) : 0;
}

// Time to write and read the input of a depthwise window that stays in the second cache neither as a whole nor, in
// tiles of so many rows, as what a tile of so many output rows reads.
double Cuts::streaming(const OpRecord& op, int64_t input_rows, int64_t output_rows) const {
  const Shape& x = shapes_.values[op.inputs[0]];
  const int64_t channels = plan_.view.values[op.inputs[0]].channels, rows = (output_rows - 1) * op.stride[0] + op.kernel[0];
  if (!is_large(x.columns * channels / threads_)) return 0;
  // Tiles that a stretch of rows lies in may reach beyond it on either side.
  const int64_t live = std::min(x.height, round_up(rows - 1, input_rows) + input_rows);
  const bool stays = static_cast<double>(live * x.width * channels * 4) <= kept_cache();
  return stays ? 0 : kStream * plan_.tables[0]->lanes * static_cast<double>(x.columns * channels);
}

// A cut asks for those of fewer columns, so these come first.
Cuts::Cuts(const Plan& plan, const Shapes& shapes, int threads) : plan_(plan), shapes_(shapes), threads_(threads) {
  for (uint32_t i = 0; i < plan.view.header->op_count; ++i) {
    const OpRecord& op = plan.view.ops[i];
    making_[shapes.values[op.output].columns].push_back(&op);
    reading_[shapes.values[op.inputs[0]].columns].push_back(&op);
  }
  for (const auto& [columns, makers] : making_) of(columns);
}

const Cuts::Operators& Cuts::at(const std::map<int64_t, Operators>& operators, int64_t columns) {
  static const Operators none;
  const auto found = operators.find(columns);
  return found == operators.end() ? none : found->second;
}

const Cut& Cuts::of(int64_t columns) {
  const auto found = known_.find(columns);
  return found != known_.end() ? found->second : known_.emplace(columns, choose(columns)).first->second;
}

int64_t Cuts::hint(int64_t columns) const {
  for (uint32_t i = 0; i < plan_.view.header->tile_count; ++i) {
    const TileRecord& t = plan_.view.tiles[i];
    if (t.columns == columns && t.threads == static_cast<uint32_t>(threads_) && t.lanes == static_cast<uint32_t>(plan_.tables[0]->lanes)) return t.held;
  }
  return 0;
}

Cut Cuts::choose(int64_t columns) {
  const PlanView& view = plan_.view;
  const int64_t step = plan_.tables.back()->lanes;
  std::deque<std::pair<std::pair<const KernelTable*, int>, Cover>> covers;
  int64_t row = 0, channels = 1;  // of the images that a depthwise window makes
  for (const OpRecord* op : making(columns)) {
    if (op->code != OpCode::kDepthwise) continue;
    row = shapes_.values[op->output].width;
    channels = std::max<int64_t>(channels, view.values[op->output].channels);
  }
  std::vector<std::pair<const OpRecord*, int64_t>> readers;  // windows that make smaller images from these, and the rows of their tiles
  for (const OpRecord* op : reading(columns)) {
    const Shape& y = shapes_.values[op->output];
    if (op->code == OpCode::kDepthwise && y.columns < columns && y.columns > 0)
      readers.emplace_back(op, std::max<int64_t>(1, of(y.columns).held / y.width));
  }
  const auto cover = [&](const KernelTable* table, int block_rows) -> const Cover& {
    for (const auto& [key, value] : covers)
      if (key == std::pair(table, block_rows)) return value;
    return covers.emplace_back(std::pair(table, block_rows), Cover(table, block_rows, kWidestTile)).second;
  };
  const bool gaps = gaps_allowed(columns, row), whole_rows = row || !readers.empty();
  const auto cut = [&](int64_t held, int64_t width) -> Cut { return {held, width, gaps && held % row == 0 && held < columns}; };
  if (const int64_t held = hint(columns)) {
    if (gaps && held % row == 0) return cut(held, round_up(held, plan_.tables[0]->lanes));
    if (held % step == 0) return cut(held, held);
  }
  Cut best{step, step, false};
  double best_cost = 1e300;
  const auto consider = [&](int64_t held, int64_t width) {
    const int64_t tiles = std::max<int64_t>(1, divide_up(columns, held)), rest = columns - (tiles - 1) * held;
    const KernelTable* table = table_for(plan_, width);
    const bool rows = row && (tiles == 1 || held % row == 0);
    double cost = 1e-3 * static_cast<double>(tiles * width);  // decides where there are no products at all
    for (const OpRecord* maker : making(columns)) {
      const OpRecord& op = *maker;
      if (op.weight == kNone) continue;
      const auto& t = view.tensors[op.weight];
      if (op.code == OpCode::kDepthwise) {
        // Input rows are loaded once for all rows of a tile; what has no whole rows is copied once more.
        const double reach = op.kernel[0] - 1, kept = rows ? std::min<double>(held / row, shapes_.values[op.output].height) : 1.0;
        cost += static_cast<double>(t.count * columns) * (rows ? 1.5 + 2.2 * reach / kept : 5.0);
        if (rows) cost += streaming(op, op.stride[0] == 1 ? static_cast<int64_t>(kept) : kFewRows, static_cast<int64_t>(kept));
        continue;
      }
      const Cover& costs = cover(table, block_rows_of(t));
      const int64_t vectors = divide_up(held, table->lanes);
      const double one = costs.cost[vectors], last = costs.cost[divide_up(std::max<int64_t>(rest, 1), table->lanes)];
      cost += static_cast<double>(t.count) * t.block_rows * (one * static_cast<double>(tiles - 1) + last);
      if (!whole_rows && block_rows_of(t) == 1) cost += moving(op, held, costs.widest[vectors] < width);
    }
    for (const auto& [op, output_rows] : readers)
      if (rows) cost += streaming(*op, std::max<int64_t>(1, held / row), output_rows);
    if (table != plan_.tables[0]) cost *= 1.3;  // shorter vectors
    if (crowds_sets(table, width)) cost *= 1.1;
    // On a cut too uneven operators are split by rows, and the threads wait for each other after every one.
    cost *= std::min(unevenness(columns, held, threads_), kSplitByRows);
    if (threads_ > 1) cost *= 1.0 + kWaits * threads_ / static_cast<double>(std::max<int64_t>(tiles, threads_));
    if (cost < best_cost * 0.999) {
      best_cost = cost;
      best = cut(held, width);
    }
  };
  const int64_t fits = row ? second_cache() / 4 / (4 * channels) : 0, widest = std::clamp(fits, kWideTile, kWidestTile);
  for (int64_t width = step; width <= widest; width += step) consider(width, width);
  for (int64_t held = row; gaps && held <= widest && held < columns; held += row)
    for (const KernelTable* table : plan_.tables) consider(held, round_up(held, table->lanes));
  if (row && columns > widest && columns <= kWidestTile) consider(round_up(columns, step), round_up(columns, step));  // windows share all rows
  return best;
}

// Reduction columns per pass. Single rows want x in the first cache, unless they are so sparse that
// going through y once more costs as much; blocks share each load of x and do with the second cache.
int64_t choose_depth(const TensorRecord& t, int64_t panel) {
  int64_t bytes = 4 * first_cache();
  if (block_rows_of(t) == 1) {
    const double kept = static_cast<double>(t.count) / static_cast<double>(std::max<uint64_t>(1, static_cast<uint64_t>(t.rows) * t.columns));
    bytes = kept > 0.08 ? first_cache() : 2 * first_cache();
  }
  const int64_t depth = std::clamp<int64_t>(bytes / (panel * 4), 16, t.columns);
  return divide_up(t.columns, divide_up(t.columns, depth));  // equal blocks
}

}  // namespace sparsec
