// From the stored weights to what microkernels read: byte offsets baked in, grouped by K block.
#include <algorithm>
#include <cstring>
#include <numeric>

#include "half.h"
#include "plan.h"

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace sparsec {

constexpr size_t kHuge = 2 << 20;

AlignedBytes::AlignedBytes(size_t size) : size_(size) {
  const size_t align = size < kHuge ? kAlign : kHuge;
  data_.reset(static_cast<char*>(std::aligned_alloc(align, round_up(static_cast<int64_t>(size) + kAlign, align))));
  if (!data_) fail("out of memory: %zu bytes", size);
#ifdef __linux__
  // Channels lie far apart: with small pages each needs an entry of its own in the address cache.
  if (align == kHuge) madvise(data_.get(), round_up(static_cast<int64_t>(size), align), MADV_HUGEPAGE);
#endif
}

namespace {

// Sorted by length among so many, groups still have outputs that lie close together.
constexpr int64_t kNear = 128;

// The entries of a group of `block_rows` rows, whatever the tensor is stored as: dense, or in blocks as high or
// several times as high.
class Groups {
 public:
  Groups(const PlanView& view, const TensorRecord& t, int block_rows) : t_(t), b_(block_rows), parts_(std::max(1, static_cast<int>(t.block_rows) / block_rows)) {
    values_ = view.at(t.values_at);
    if (t.scales_at) scales_ = view.floats(t.scales_at);
    if (t.kind != TensorKind::kDense) {
      starts_ = reinterpret_cast<const uint32_t*>(view.at(t.starts_at));
      columns_ = view.at(t.columns_at);
    }
  }

  int64_t count() const { return divide_up(t_.rows, b_); }

  // Index of the first entry of group g whose column is not below `column`.
  int64_t find(int64_t g, int64_t column) const {
    if (!starts_) return column;
    int64_t low = starts_[g / parts_], high = starts_[g / parts_ + 1];
    while (low < high) {
      const int64_t middle = (low + high) / 2;
      if (this->column(middle) < column) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  int64_t column(int64_t entry) const {
    if (!starts_) return entry;
    return t_.columns <= 65536 ? reinterpret_cast<const uint16_t*>(columns_)[entry]
                               : reinterpret_cast<const uint32_t*>(columns_)[entry];
  }

  float value(int64_t g, int64_t entry, int r) const {
    const int64_t row = g * b_ + r;
    if (!starts_) return row < t_.rows ? stored(row * t_.columns + entry) : 0.0f;
    const float w = stored((entry * parts_ + g % parts_) * b_ + r);
    return scales_ ? scales_[row] * w : w;
  }

 private:
  float stored(int64_t i) const {
    if (t_.kind == TensorKind::kByteBlocks) return reinterpret_cast<const int8_t*>(values_)[i];
    if (t_.kind == TensorKind::kHalfBlocks) return half_to_float(reinterpret_cast<const uint16_t*>(values_)[i]);
    return reinterpret_cast<const float*>(values_)[i];
  }

  const TensorRecord& t_;
  int b_, parts_;  // so many groups are stored as one
  const char* values_ = nullptr;
  const float* scales_ = nullptr;
  const uint32_t* starts_ = nullptr;
  const char* columns_ = nullptr;
};

}  // namespace

std::shared_ptr<const Pack> pack_weights(const PlanView& view, const PackRequest& q) {
  const auto& t = view.tensors[q.tensor];
  const Groups groups(view, t, q.block_rows);
  auto pack = std::make_shared<Pack>();
  pack->block_rows = q.block_rows;
  pack->depth = q.depth;
  pack->blocks = static_cast<int>(divide_up(t.columns, q.depth));
  pack->chunks = q.chunks;
  const auto taps = static_cast<int64_t>(q.taps.size());
  if (q.row_bytes * (taps ? divide_up(q.depth, taps) : t.columns) >= (int64_t{1} << 31)) fail("a tile of %u channels is too large", t.columns);
  const int64_t total = groups.count();
  const size_t entry_bytes = 4 + 4 * static_cast<size_t>(q.block_rows);
  std::vector<char> bytes;
  for (int chunk = 0; chunk < q.chunks; ++chunk) {
    const int64_t unit = divide_up(total, q.chunks), begin = std::min(total, chunk * unit), end = std::min(total, begin + unit);
    for (int block = 0; block < pack->blocks; ++block) {
      const int64_t k0 = block * q.depth, k1 = std::min<int64_t>(t.columns, k0 + q.depth);
      const bool needed = block == 0 || block + 1 == pack->blocks;
      std::vector<int64_t> order(end - begin), from(end - begin), length(end - begin);
      std::iota(order.begin(), order.end(), 0);
      for (int64_t i = 0; i < end - begin; ++i) {
        from[i] = groups.find(begin + i, k0);
        length[i] = groups.find(begin + i, k1) - from[i];
      }
      // Where short groups of equal length follow each other, the processor expects the ends of their loops. With more
      // entries that counts less than rows of y, and of what is added to them, which follow each other in memory.
      const bool few = std::accumulate(length.begin(), length.end(), int64_t{0}) <= q.few * (end - begin);
      const auto longer = [&](int64_t a, int64_t b) { return length[a] > length[b]; };
      for (int64_t i = 0; few && i < end - begin; i += kNear)
        std::stable_sort(order.begin() + i, order.begin() + std::min(i + kNear, end - begin), longer);
      pack->parts.push_back({pack->counts.size(), pack->rows.size(), bytes.size(), 0, few});
      auto& part = pack->parts.back();
      for (const int64_t i : order) {
        if (!length[i] && !needed) continue;
        pack->counts.push_back(static_cast<int32_t>(length[i]));
        pack->rows.push_back(static_cast<int32_t>((begin + i) * q.block_rows));
        for (int64_t entry = from[i]; entry < from[i] + length[i]; ++entry) {
          const int64_t column = groups.column(entry);
          const int64_t offset = taps ? (column - k0) / taps * q.row_bytes + q.taps[column % taps] : column * q.row_bytes;
          size_t at = bytes.size();
          bytes.resize(at + entry_bytes);
          const auto baked = static_cast<int32_t>(offset);
          std::memcpy(&bytes[at], &baked, 4);
          for (int b = 0; b < q.block_rows; ++b) {
            const float w = groups.value(begin + i, entry, b);
            std::memcpy(&bytes[at += 4], &w, 4);
          }
        }
        ++part.groups;
      }
    }
  }
  pack->entries = AlignedBytes(bytes.size());
  if (!bytes.empty()) std::memcpy(pack->entries.data(), bytes.data(), bytes.size());
  return pack;
}

}  // namespace sparsec
