// The C interface: exceptions end here, as a sentence in the caller's buffer.
#include <algorithm>
#include <cstdio>
#include <cstring>

#include "plan.h"
#include "pool.h"

struct SparsecPlan {
  std::unique_ptr<sparsec::Plan> plan;
  std::unique_ptr<sparsec::Pool> pool;  // null: one thread
};

namespace sparsec {

std::unique_ptr<Plan> load_plan(const void* bytes, size_t size, const char* isa, int threads) {
  auto plan = std::make_unique<Plan>();
  if (!bytes) fail("plan: no bytes");
  if (reinterpret_cast<uintptr_t>(bytes) % kAlign) {  // tables and weights are read in place
    plan->copy = AlignedBytes(size);
    std::memcpy(plan->copy.data(), bytes, size);
    bytes = plan->copy.data();
  }
  plan->view = check_plan(bytes, size);
  plan->tables = kernel_tables(isa);
  plan->threads = threads > 1 ? threads : 1;
  return plan;
}

}  // namespace sparsec

namespace {

constexpr int kMostThreads = 1024;

template <class F>
int guarded(char* error, size_t error_size, F f) {
  try {
    f();
    return 0;
  } catch (const std::exception& e) {
    if (error && error_size) std::snprintf(error, error_size, "%s", e.what());
    return 1;
  }
}

void check_arguments(const SparsecPlan* plan, const SparsecTensor* inputs, const SparsecTensor* outputs) {
  if (!plan) sparsec::fail("no plan");
  if (!inputs || !outputs) sparsec::fail("no array of %s", inputs ? "outputs" : "inputs");
}

void check_data(const SparsecTensor* tensors, uint32_t count, const char* what) {
  for (uint32_t i = 0; i < count; ++i) {
    const SparsecTensor& t = tensors[i];
    const int32_t rank = std::clamp(t.rank, 0, SPARSEC_MAX_RANK);
    if (!t.data && std::find(t.dims, t.dims + rank, 0) == t.dims + rank) sparsec::fail("%s %u: no data", what, i);
  }
}

void run(SparsecPlan* plan, const SparsecTensor* inputs, SparsecTensor* outputs, double* seconds) {
  check_arguments(plan, inputs, outputs);
  check_data(inputs, plan->plan->view.header->input_count, "input");
  check_data(outputs, plan->plan->view.header->output_count, "output");
  sparsec::Serial serial;
  sparsec::Parallel& parallel = plan->pool ? static_cast<sparsec::Parallel&>(*plan->pool) : serial;
  sparsec::run_plan(*plan->plan, inputs, outputs, parallel, seconds);
}

}  // namespace

extern "C" {

int sparsec_plan_version(void) { return sparsec::kVersion; }

const char* sparsec_isas(void) {
  static const std::string names = [] {
    std::string text;
    for (const char* isa : {"avx512", "avx2", "neon", "portable"}) {
      try {
        sparsec::kernel_tables(isa);
        text += (text.empty() ? "" : ",") + std::string(isa);
      } catch (const sparsec::Error&) {  // not in this machine
      }
    }
    return text;
  }();
  return names.c_str();
}

const char* sparsec_microkernels(const char* isa) {
  thread_local std::string names;
  names.clear();
  try {
    const auto* table = sparsec::kernel_tables(isa)[0];
    for (int i = 0; i < table->spmm_count; ++i) names += std::string(i ? "," : "") + table->spmm[i].name;
    for (int i = 0; i < table->gemv_count; ++i) names += std::string(",") + table->gemv[i].name;
    for (int i = 0; i < table->depthwise_count; ++i) names += std::string(",") + table->depthwise[i].name;
  } catch (const sparsec::Error&) {
    return "";
  }
  return names.c_str();
}

SparsecPlan* sparsec_plan_load(const void* bytes, size_t size, const SparsecOptions* options, char* error, size_t error_size) {
  SparsecPlan* result = nullptr;
  guarded(error, error_size, [&] {
    auto holder = std::make_unique<SparsecPlan>();
    const int threads = options ? options->threads : 1;
    if (threads > kMostThreads) sparsec::fail("%d threads, at most %d are possible", threads, kMostThreads);
    holder->plan = sparsec::load_plan(bytes, size, options ? options->isa : nullptr, threads);
    if (threads > 1) holder->pool = std::make_unique<sparsec::Pool>(threads);
    result = holder.release();
  });
  return result;
}

void sparsec_plan_free(SparsecPlan* plan) { delete plan; }

int sparsec_plan_inputs(const SparsecPlan* plan) { return plan ? static_cast<int>(plan->plan->view.header->input_count) : 0; }
int sparsec_plan_outputs(const SparsecPlan* plan) { return plan ? static_cast<int>(plan->plan->view.header->output_count) : 0; }
int sparsec_plan_ops(const SparsecPlan* plan) { return plan ? static_cast<int>(plan->plan->view.header->op_count) : 0; }

int sparsec_plan_shapes(SparsecPlan* plan, const SparsecTensor* inputs, SparsecTensor* outputs, char* error, size_t error_size) {
  return guarded(error, error_size, [&] {
    check_arguments(plan, inputs, outputs);
    sparsec::infer_outputs(plan->plan->view, inputs, outputs);
  });
}

int sparsec_plan_run(SparsecPlan* plan, const SparsecTensor* inputs, SparsecTensor* outputs, char* error, size_t error_size) {
  return guarded(error, error_size, [&] { run(plan, inputs, outputs, nullptr); });
}

int sparsec_plan_profile(SparsecPlan* plan, const SparsecTensor* inputs, SparsecTensor* outputs, double* seconds, char* error, size_t error_size) {
  return guarded(error, error_size, [&] { run(plan, inputs, outputs, seconds); });
}

size_t sparsec_plan_memory(SparsecPlan* plan) {
  if (!plan) return 0;
  sparsec::Plan& p = *plan->plan;
  const std::lock_guard<std::mutex> lock(p.mutex);
  size_t bytes = 0;
  for (const auto& instance : p.idle) bytes += instance->arena.size() + 4 * instance->local_floats * static_cast<size_t>(instance->key[0]);
  for (const auto& [request, pack] : p.packs) bytes += pack->entries.size() + 4 * (pack->counts.size() + pack->rows.size());
  return bytes;
}

}  // extern "C"
