// A loaded plan, and what is built from it for one set of input shapes.
#ifndef SPARSEC_PLAN_H
#define SPARSEC_PLAN_H

#include <algorithm>
#include <cstdlib>
#include <map>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels.h"
#include "plan_format.h"
#include "sparsec_cpu.h"

namespace sparsec {

// Anything that is wrong with a plan or with the tensors it is given; the text reaches the caller.
struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));

inline int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }
inline int64_t divide_up(int64_t n, int64_t by) { return (n + by - 1) / by; }

// Memory aligned to cache lines, and with one line more behind it than was asked for.
class AlignedBytes {
 public:
  AlignedBytes() = default;
  explicit AlignedBytes(size_t size);
  char* data() const { return data_.get(); }
  float* floats() const { return reinterpret_cast<float*>(data_.get()); }
  size_t size() const { return size_; }

 private:
  struct Free {
    void operator()(char* p) const { std::free(p); }
  };
  std::unique_ptr<char, Free> data_;
  size_t size_ = 0;
};

// The bytes of a plan after every check; all pointers lie inside it.
struct PlanView {
  const Header* header;
  const uint32_t* inputs;   // value ids
  const uint32_t* outputs;
  const ValueRecord* values;
  const OpRecord* ops;
  const TensorRecord* tensors;
  const TileRecord* tiles;
  const char* base;

  const char* at(uint64_t offset) const { return base + offset; }
  const float* floats(uint64_t offset) const {
    return reinterpret_cast<const float*>(base + offset);
  }
};

PlanView check_plan(const void* bytes, size_t size);

// Weights in the form a microkernel reads: offsets baked for one row stride of x.
struct Pack {
  struct Part {  // one chunk of rows in one block of the reduction
    size_t group, row, entry;
    ptrdiff_t groups;
    bool few;  // groups have few entries, see SpmmArgs
  };
  int block_rows = 1;
  int64_t depth = 0;  // reduction columns per block
  int blocks = 1, chunks = 1;
  std::vector<Part> parts;  // [chunk][block]
  std::vector<int32_t> counts, rows;
  AlignedBytes entries;
};

struct PackRequest {
  uint32_t tensor;
  int block_rows, chunks;
  int64_t depth, row_bytes;
  int64_t few;  // entries of a group, in the mean, up to which groups are sorted by length and Part::few is set
  // Windows: where the taps of a channel lie (bytes), row_bytes from one channel to the next; offsets then
  // count from the start of the K block, not from row 0.
  std::vector<int32_t> taps;
};

std::shared_ptr<const Pack> pack_weights(const PlanView& view, const PackRequest& request);

// Where the channels of a value lie: element (channel, tile, column in tile).
struct Layout {
  int64_t columns = 0;  // pixels or tokens
  int64_t height = 0, width = 0;  // of images
  int64_t held = 0, tiles = 0;    // columns of a tile; the last one holds the rest
  int64_t tile = 0;               // floats of a row of a tile: `held` and what fills its last vector
  int64_t tile_stride = 0, row_stride = 0;  // floats
  int64_t size = 0;                         // floats

  int64_t held_by(int64_t tile_index) const { return std::min(held, columns - tile_index * held); }
  size_t offset = 0;  // bytes into the arena, or into memory of the thread
  int external = -1;  // index of the input that is used in place
  int64_t slots = 0;  // tiles that memory of the thread has room for: tile t lies in slot t % slots; 0: all are in the arena

  int64_t slot(int64_t tile_index) const { return slots ? tile_index % slots : tile_index; }
  int64_t tile_of(int64_t row) const { return row * width / held; }  // tiles hold whole rows
  int64_t row_at(int64_t row) const { return slot(tile_of(row)) * tile_stride + row * width % held; }
};

// How the taps of a convolution find their columns: from shifted copies of the input, made for each block of the
// reduction so that a tap is a distance in the memory of the thread. Where a step of a row is whole vectors, the rows
// of the window share a copy for each of its columns, made for a tile; else each tap has its own, made for a panel.
struct Window {
  std::vector<TapPhase> phases;  // of each copy, where the window has a stride
  std::vector<TapCopy> copies;
  std::vector<std::vector<uint32_t>> masks;  // of each copy
  std::vector<int32_t> copy_of, offsets;     // of each tap: its copy, and where in it (floats)
  bool shared = false;
  int64_t room = 0;            // vectors of a copy, without its `more`
  int64_t channel_floats = 0;  // of all copies of a channel
  // With a stride: the copies are made before the step begins, of all channels and columns, where threads share the
  // rows of weights or where a 1x1 product would make its outputs block by block.
  bool ahead = false;
  size_t ahead_at = 0;  // bytes into the arena
};

// A channel copied into planes with zero borders, one for each column phase of the stride, so that a
// depthwise window needs no case for the edges: column c of tap kx is plane[c + columns[kx]].
struct Padded {
  std::vector<int32_t> columns;
  std::vector<int64_t> phase_columns;  // input column of element 0 of each phase
  std::vector<uint32_t> masks;         // of each vector of each phase; see PadArgs
  int64_t line = 0;                    // floats of a row of all phases
  int64_t phase_line = 0;              // floats of a row of one phase
  int64_t band = 0;                    // output rows that are done at a time
  std::vector<uint32_t> direct;        // masks to read the input itself; empty: it is copied
  std::vector<uint8_t> edges;          // see DepthwiseArgs
  int64_t packed = 0;
  std::vector<int32_t> rows;           // of direct: where input row r - pad lies, -1 outside
  std::vector<float> zeros;            // a row outside of the input
};

// Neighbouring columns of a tile that one call of a microkernel computes.
struct Panel {
  const SpmmKernel* kernel;
  int64_t at;  // first column in the tile
};

struct BuiltOp {
  const OpRecord* record = nullptr;
  const KernelTable* table = nullptr;
  std::vector<Panel> panels, last_panels;  // of a full tile and of the last one
  const GemvKernel* gemv = nullptr;
  const DepthwiseKernel* depthwise = nullptr;
  std::shared_ptr<const Pack> pack;
  std::vector<float> bias;  // rounded up to 8 rows
  Window window;
  Padded padded;
  bool by_rows = false;     // depthwise: its tiles hold whole rows and are written in place
  int64_t parts = 1;        // depthwise, and products of few columns: pieces of a tile
  int64_t channel_stride = 0;  // of the input of a window, floats
  float low = 0, high = 0;
};

// Operators [begin, end) that run one after the other on each tile; their tiles are the same.
struct Stage {
  uint32_t begin, end;
  // Of each tile, where the first operator is a window over what the stage before makes: the tiles [first, second)
  // that it reads.
  std::vector<std::pair<int64_t, int64_t>> reads;
};

// What the threads do before they wait for each other: stages, each tile of which runs as soon as those that it reads
// are there, so that these are still in the cache; or one operator on all of its output.
struct Step {
  std::vector<Stage> stages;
  bool tiles;

  uint32_t begin() const { return stages.front().begin; }
  uint32_t end() const { return stages.back().end; }
};

// A plan built for one set of input shapes: layouts, memory and packed weights. Used by one run at a
// time.
struct Instance {
  std::vector<int64_t> key;  // number of threads, all input dims
  int64_t batch = 1;         // images run one after the other
  int64_t sequences = 1, length = 0;
  bool direct = false;       // few columns: rows as outside, no tiles (plan_direct.cc)
  int64_t direct_columns = 0;
  std::vector<float*> rows;  // of direct: where each value lies
  std::vector<Layout> values;
  std::vector<BuiltOp> ops;
  std::vector<Step> steps;
  size_t local_floats = 0;  // of a thread, for values that no other step reads
  AlignedBytes arena;
};

struct Plan {
  AlignedBytes copy;  // of bytes that were not aligned
  PlanView view;
  std::vector<const KernelTable*> tables;  // widest vectors first
  int threads = 1;
  std::mutex mutex;  // guards what follows
  std::vector<std::unique_ptr<Instance>> idle;
  std::vector<std::pair<PackRequest, std::shared_ptr<const Pack>>> packs;
};

struct Shape {
  int64_t columns = 0, height = 0, width = 0;
};

struct Shapes {
  int64_t batch = 1, sequences = 1, length = 0;
  std::vector<Shape> values;
  const SparsecTensor* leading = nullptr;  // the input whose leading dims the outputs repeat
};

// Sizes of every value for these inputs.
Shapes infer_shapes(const PlanView& view, const SparsecTensor* inputs);
// Fills rank and dims of the outputs.
void infer_outputs(const PlanView& view, const SparsecTensor* inputs, SparsecTensor* outputs);
// plan_tiles.cc: how columns are cut into tiles, and tiles into panels of microkernels.
int64_t first_cache();
int64_t second_cache();
// Processors with more than 1 MiB of second cache reach the third one through a network on the chip, which takes longer:
// planes are kept off it from two thirds of the second cache on, else from a third more than its size, as measured.
inline bool third_is_far() { return second_cache() > 1 << 20; }
inline bool is_large(int64_t floats) { return floats * (third_is_far() ? 6 : 3) > second_cache(); }
// Bytes for the tiles between windows that run depth first: a part of the second cache, as measured.
inline double kept_cache() { return (third_is_far() ? 0.45 : 0.7) * static_cast<double>(second_cache()); }
// A dense weight runs as blocks without gaps, higher blocks as several: with so many rows at once a vector of
// columns or three fill the registers, and narrower panels read all weights more often.
constexpr int kBlockRows = 4;
int block_rows_of(const TensorRecord& t);
const KernelTable* table_for(const Plan& plan, int64_t tile);
// The kernel of this form, null if the table has none that fits.
const DepthwiseKernel* find_depthwise(const KernelTable& table, DepthwiseForm form, const OpRecord& op);
struct Cut {
  int64_t held, tile;  // see Layout
  bool loose;          // windows ask where a row lies, so that tiles need not lie beside each other in planes
};
// Time of operators whose rows the threads share, waiting for each other after every one, in terms of an even cut. A
// more uneven cut is run so.
constexpr double kSplitByRows = 1.15;
// Cuts of the values of a plan, by their number of columns: the one that costs the operators that make them least.
class Cuts {
 public:
  Cuts(const Plan& plan, const Shapes& shapes, int threads);
  const Cut& of(int64_t columns);

 private:
  Cut choose(int64_t columns);
  int64_t hint(int64_t columns) const;  // columns of a tile, 0 for none
  double streaming(const OpRecord& op, int64_t input_rows, int64_t output_rows) const;
  bool gaps_allowed(int64_t columns, int64_t row) const;
  double moving(const OpRecord& op, int64_t held, bool in_pieces) const;

  using Operators = std::vector<const OpRecord*>;
  const Operators& making(int64_t columns) const { return at(making_, columns); }
  const Operators& reading(int64_t columns) const { return at(reading_, columns); }
  static const Operators& at(const std::map<int64_t, Operators>& operators, int64_t columns);

  const Plan& plan_;
  const Shapes& shapes_;
  const int threads_;
  std::map<int64_t, Operators> making_, reading_;  // values of so many columns
  std::map<int64_t, Cut> known_;
};
// How much longer the busiest of the threads works than all of them would on an even cut: 1 and more.
double unevenness(int64_t columns, int64_t held, int threads);
std::vector<Panel> cut_panels(const KernelTable* table, int block_rows, int64_t columns);
int64_t choose_depth(const TensorRecord& t, int64_t panel);
// plan_steps.cc
void group_steps(const PlanView& view, int threads, Instance& instance);
void place_values(const PlanView& view, Instance& instance);
std::unique_ptr<Instance> build_instance(Plan& plan, const SparsecTensor* inputs, int threads);

// Runs fn(data, i) for i in [0, tasks), in any order and on any threads, and returns when all are done.
struct Parallel {
  virtual void run(size_t tasks, void (*fn)(void*, size_t), void* data) = 0;
  // The same within a task, which threads without one take a part in.
  virtual void share(size_t pieces, void (*fn)(void*, size_t), void* data) {
    for (size_t i = 0; i < pieces; ++i) fn(data, i);
  }
  virtual int threads() const = 0;
  virtual ~Parallel() = default;
};
struct Serial final : Parallel {
  void run(size_t tasks, void (*fn)(void*, size_t), void* data) override {
    for (size_t i = 0; i < tasks; ++i) fn(data, i);
  }
  int threads() const override { return 1; }
};

// So many columns that a product reads the stored weights once for each, and no packed copy of them.
constexpr int64_t kFewColumns = 3;
// The kernel for one column of a weight as it is stored, null if there is none, and the table that it is from.
const GemvKernel* find_gemv(const Plan& plan, const TensorRecord& weight, const KernelTable** table);
// Parts that threads share a product of one column in.
int64_t gemv_parts(const TensorRecord& weight, int threads);
// One of them: rows of x, residual (or null) and y. Returns the rows [first, second) that it made.
std::pair<int64_t, int64_t> gemv_part(const PlanView& view, const BuiltOp& b, int64_t part, int64_t parts, const float* x,
                                      const float* residual, float* y);
// Builds `out` for few columns and returns true, or returns false and leaves it to the tiles.
bool build_direct(const Plan& plan, const Shapes& shapes, Instance& out);
void run_direct(const PlanView& view, Instance& instance, const SparsecTensor* inputs, const SparsecTensor* outputs,
                Parallel& parallel, double* seconds);

// seconds: null, or one slot per operator and two more for inputs and outputs.
void run_instance(Plan& plan, Instance& instance, const SparsecTensor* inputs,
                  SparsecTensor* outputs, Parallel& parallel, double* seconds);
void run_plan(Plan& plan, const SparsecTensor* inputs, SparsecTensor* outputs, Parallel& parallel,
              double* seconds);

std::unique_ptr<Plan> load_plan(const void* bytes, size_t size, const char* isa, int threads);
std::vector<const KernelTable*> kernel_tables(const char* isa);

}  // namespace sparsec
#endif
