// The operator sparsec::Region for ONNX Runtime: inputs (plan, activations...), outputs (activations...).
//
// No package ships ONNX Runtime's C headers, so the few entries of its API that are used are declared
// here by their position. The API is append-only: a position never changes its meaning.
#include <atomic>
#include <chrono>
#include <cstring>
#include <set>
#include <thread>

#include "plan.h"
#include "team.h"

namespace {

struct OrtStatus;
struct OrtValue;
struct OrtShapeInfo;
struct OrtKernelContext;
struct OrtKernelInfo;
struct OrtDomain;
struct OrtSessionOptions;

constexpr uint32_t kApiVersion = 18;
constexpr int kElementFloat = 1, kElementUint8 = 2;
constexpr int kErrorFail = 1, kErrorInvalidArgument = 2;

struct OrtApiBase {
  const void* const* (*get_api)(uint32_t version);
  const char* (*get_version)();
};

// OrtCustomOp of API 18 up to its last member that is used.
struct OrtCustomOp {
  uint32_t version;
  void* (*create_kernel)(const OrtCustomOp*, const void* const*, const OrtKernelInfo*);
  const char* (*get_name)(const OrtCustomOp*);
  const char* (*get_provider)(const OrtCustomOp*);
  int (*get_input_type)(const OrtCustomOp*, size_t);
  size_t (*get_input_count)(const OrtCustomOp*);
  int (*get_output_type)(const OrtCustomOp*, size_t);
  size_t (*get_output_count)(const OrtCustomOp*);
  void (*compute)(void*, OrtKernelContext*);
  void (*destroy)(void*);
  int (*get_input_characteristic)(const OrtCustomOp*, size_t);
  int (*get_output_characteristic)(const OrtCustomOp*, size_t);
  int (*get_input_memory)(const OrtCustomOp*, size_t);
  int (*get_variadic_input_min)(const OrtCustomOp*);
  int (*get_variadic_input_homogeneity)(const OrtCustomOp*);
  int (*get_variadic_output_min)(const OrtCustomOp*);
  int (*get_variadic_output_homogeneity)(const OrtCustomOp*);
  OrtStatus* (*create_kernel_v2)(const OrtCustomOp*, const void* const*, const OrtKernelInfo*, void**);
  OrtStatus* (*compute_v2)(void*, OrtKernelContext*);
  OrtStatus* (*infer_shapes)(const OrtCustomOp*, void*);
  int (*get_start_version)(const OrtCustomOp*);
  int (*get_end_version)(const OrtCustomOp*);
  size_t (*get_may_inplace)(int**, int**);
  void (*release_may_inplace)(int*, int*);
  size_t (*get_alias_map)(int**, int**);
  void (*release_alias_map)(int*, int*);
};
static_assert(offsetof(OrtCustomOp, compute_v2) == 144 && sizeof(OrtCustomOp) == 208);

struct Api {
  explicit Api(const void* const* table) : t(table) {}
  template <class F>
  F slot(int i) const { return reinterpret_cast<F>(const_cast<void*>(t[i])); }

  OrtStatus* status(int code, const char* text) const { return slot<OrtStatus* (*)(int, const char*)>(0)(code, text); }
  OrtStatus* create_domain(const char* name, OrtDomain** out) const { return slot<OrtStatus* (*)(const char*, OrtDomain**)>(26)(name, out); }
  OrtStatus* domain_add(OrtDomain* d, const OrtCustomOp* op) const { return slot<OrtStatus* (*)(OrtDomain*, const OrtCustomOp*)>(27)(d, op); }
  OrtStatus* add_domain(OrtSessionOptions* o, OrtDomain* d) const { return slot<OrtStatus* (*)(OrtSessionOptions*, OrtDomain*)>(28)(o, d); }
  OrtStatus* data(const OrtValue* v, void** out) const { return slot<OrtStatus* (*)(const OrtValue*, void**)>(51)(v, out); }
  OrtStatus* element_type(const OrtShapeInfo* s, int* out) const { return slot<OrtStatus* (*)(const OrtShapeInfo*, int*)>(60)(s, out); }
  OrtStatus* rank(const OrtShapeInfo* s, size_t* out) const { return slot<OrtStatus* (*)(const OrtShapeInfo*, size_t*)>(61)(s, out); }
  OrtStatus* dims(const OrtShapeInfo* s, int64_t* out, size_t n) const { return slot<OrtStatus* (*)(const OrtShapeInfo*, int64_t*, size_t)>(62)(s, out, n); }
  OrtStatus* shape(const OrtValue* v, OrtShapeInfo** out) const { return slot<OrtStatus* (*)(const OrtValue*, OrtShapeInfo**)>(65)(v, out); }
  void release_shape(OrtShapeInfo* s) const { slot<void (*)(OrtShapeInfo*)>(99)(s); }
  OrtStatus* input_count(const OrtKernelContext* c, size_t* out) const { return slot<OrtStatus* (*)(const OrtKernelContext*, size_t*)>(88)(c, out); }
  OrtStatus* output_count(const OrtKernelContext* c, size_t* out) const { return slot<OrtStatus* (*)(const OrtKernelContext*, size_t*)>(89)(c, out); }
  OrtStatus* input(const OrtKernelContext* c, size_t i, const OrtValue** out) const { return slot<OrtStatus* (*)(const OrtKernelContext*, size_t, const OrtValue**)>(90)(c, i, out); }
  OrtStatus* output(OrtKernelContext* c, size_t i, const int64_t* dims, size_t n, OrtValue** out) const {
    return slot<OrtStatus* (*)(OrtKernelContext*, size_t, const int64_t*, size_t, OrtValue**)>(91)(c, i, dims, n, out);
  }
  OrtStatus* constant_input(const OrtKernelInfo* k, size_t i, int* constant, const OrtValue** out) const {
    return slot<OrtStatus* (*)(const OrtKernelInfo*, size_t, int*, const OrtValue**)>(249)(k, i, constant, out);
  }
  OrtStatus* parallel_for(const OrtKernelContext* c, void (*fn)(void*, size_t), size_t total, size_t batches, void* data) const {
    return slot<OrtStatus* (*)(const OrtKernelContext*, void (*)(void*, size_t), size_t, size_t, void*)>(274)(c, fn, total, batches, data);
  }

  const void* const* t;
};

// A status of the host becomes an exception, and back at the boundary.
struct HostError {
  OrtStatus* status;
};
void must(OrtStatus* status) {
  if (status) throw HostError{status};
}

template <class F>
OrtStatus* guarded(const Api& api, F f) {
  try {
    f();
    return nullptr;
  } catch (const HostError& e) {
    return e.status;
  } catch (const sparsec::Error& e) {
    return api.status(kErrorInvalidArgument, (std::string("sparsec::Region: ") + e.what()).c_str());
  } catch (const std::exception& e) {
    return api.status(kErrorFail, (std::string("sparsec::Region: ") + e.what()).c_str());
  }
}

SparsecTensor describe(const Api& api, const OrtValue* value, int element) {
  SparsecTensor t{};
  OrtShapeInfo* info = nullptr;
  must(api.shape(value, &info));
  size_t rank = 0;
  int type = 0;
  OrtStatus* status = api.rank(info, &rank);
  if (!status) status = api.element_type(info, &type);
  if (!status && rank <= SPARSEC_MAX_RANK) status = api.dims(info, t.dims, rank);
  api.release_shape(info);
  must(status);
  if (rank > SPARSEC_MAX_RANK) sparsec::fail("a tensor of rank %zu", rank);
  if (type != element) sparsec::fail("a tensor of element type %d, needed %d", type, element);
  t.rank = static_cast<int32_t>(rank);
  void* data = nullptr;
  must(api.data(const_cast<OrtValue*>(value), &data));
  t.data = static_cast<float*>(data);
  return t;
}

// Counts the threads of the session's pool: the API does not tell. Each task lingers long enough for an idle
// worker to take the next one; workers that are slow to wake, or find no processor free, are missed.
int count_threads(const Api& api, const OrtKernelContext* context) {
  constexpr size_t kTasks = 64;
  struct Seen {
    std::mutex mutex;
    std::set<std::thread::id> ids;
  } seen;
  const auto task = [](void* data, size_t) {
    auto& s = *static_cast<Seen*>(data);
    {
      const std::lock_guard<std::mutex> lock(s.mutex);
      s.ids.insert(std::this_thread::get_id());
    }
    const auto end = std::chrono::steady_clock::now() + std::chrono::microseconds(20);
    while (std::chrono::steady_clock::now() < end) {
    }
  };
  must(api.parallel_for(context, task, kTasks, 0, &seen));
  return static_cast<int>(seen.ids.size());
}

// Runs f(team) on one thread of the session's pool while the others that are idle help, and returns how many were
// there. Whoever comes first leads: a pool that is busy with another session then delays nothing. The work is cut for
// so many threads, and as many as there are processors are asked to come.
template <class F>
int with_team(const Api& api, const OrtKernelContext* context, int threads, F f) {
  static const int processors = static_cast<int>(std::thread::hardware_concurrency());
  struct Job {
    sparsec::Team team;
    F& f;
    std::atomic<bool> led{false};
    std::exception_ptr error;
  } job{sparsec::Team(threads), f, {}, {}};
  const auto enter = [](void* data, size_t) {
    auto& j = *static_cast<Job*>(data);
    if (j.led.exchange(true)) return j.team.help();
    try {
      j.f(j.team);
    } catch (...) {
      j.error = std::current_exception();
    }
    j.team.close();
  };
  must(api.parallel_for(context, enter, std::max(threads, processors), 0, &job));
  if (job.error) std::rethrow_exception(job.error);
  return 1 + job.team.helpers();
}

struct Kernel {
  explicit Kernel(const void* const* table) : api(table) {}
  Api api;
  std::mutex mutex;
  const void* bytes = nullptr;  // what `plan` was loaded from
  size_t size = 0;
  std::shared_ptr<sparsec::Plan> plan;
  std::atomic<int> threads{0};

  std::shared_ptr<sparsec::Plan> load(const OrtValue* value) {
    const SparsecTensor t = describe(api, value, kElementUint8);
    if (t.rank != 1) sparsec::fail("the plan is of rank %d, needed 1", t.rank);
    const auto count = static_cast<size_t>(t.dims[0]);
    const std::lock_guard<std::mutex> lock(mutex);
    if (!plan || t.data != bytes || count != size) {
      plan = sparsec::load_plan(t.data, count, nullptr, 1);
      bytes = t.data;
      size = count;
    }
    return plan;
  }

  void compute(OrtKernelContext* context) {
    size_t input_count = 0, output_count = 0;
    must(api.input_count(context, &input_count));
    must(api.output_count(context, &output_count));
    const OrtValue* value = nullptr;
    must(api.input(context, 0, &value));
    const auto current = load(value);
    const auto& header = *current->view.header;
    if (input_count != header.input_count + 1 || output_count != header.output_count)
      sparsec::fail("the node has %zu inputs and %zu outputs, the plan %u and %u", input_count - 1, output_count, header.input_count, header.output_count);
    std::vector<SparsecTensor> inputs, outputs(output_count);
    for (size_t i = 1; i < input_count; ++i) {
      must(api.input(context, i, &value));
      inputs.push_back(describe(api, value, kElementFloat));
    }
    sparsec::infer_outputs(current->view, inputs.data(), outputs.data());
    for (size_t i = 0; i < output_count; ++i) {
      OrtValue* out = nullptr;
      must(api.output(context, i, outputs[i].dims, outputs[i].rank, &out));
      void* data = nullptr;
      must(api.data(out, &data));
      outputs[i].data = static_cast<float*>(data);
    }
    // Results do not depend on this number: two runs at once may both change it.
    if (!threads) threads = count_threads(api, context);
    const auto run = [&](sparsec::Parallel& parallel) { sparsec::run_plan(*current, inputs.data(), outputs.data(), parallel, nullptr); };
    const int count = threads, came = with_team(api, context, count, run);
    if (came > count) threads = came;
  }
};

OrtStatus* create_kernel(const OrtCustomOp*, const void* const* table, const OrtKernelInfo* info, void** out) {
  const Api api(table);
  return guarded(api, [&] {
    auto kernel = std::make_unique<Kernel>(table);
    int constant = 0;
    const OrtValue* value = nullptr;
    must(api.constant_input(info, 0, &constant, &value));
    if (!constant || !value) sparsec::fail("the plan must be an initializer: bytes that may change cannot be checked once");
    kernel->load(value);  // a bad plan fails when the session is made
    *out = kernel.release();
  });
}

OrtStatus* compute(void* kernel, OrtKernelContext* context) {
  auto& k = *static_cast<Kernel*>(kernel);
  return guarded(k.api, [&] { k.compute(context); });
}

constexpr int kRequired = 0, kVariadic = 2;

OrtCustomOp region() {
  OrtCustomOp op{};
  op.version = kApiVersion;
  op.get_name = [](const OrtCustomOp*) { return "Region"; };
  op.get_provider = [](const OrtCustomOp*) -> const char* { return nullptr; };
  op.get_input_type = [](const OrtCustomOp*, size_t i) { return i ? kElementFloat : kElementUint8; };
  op.get_input_count = [](const OrtCustomOp*) -> size_t { return 2; };
  op.get_output_type = [](const OrtCustomOp*, size_t) { return kElementFloat; };
  op.get_output_count = [](const OrtCustomOp*) -> size_t { return 1; };
  op.destroy = [](void* kernel) { delete static_cast<Kernel*>(kernel); };
  op.get_input_characteristic = [](const OrtCustomOp*, size_t i) { return i ? kVariadic : kRequired; };
  op.get_output_characteristic = [](const OrtCustomOp*, size_t) { return kVariadic; };
  op.get_input_memory = [](const OrtCustomOp*, size_t) { return 0; };
  op.get_variadic_input_min = [](const OrtCustomOp*) { return 1; };
  op.get_variadic_input_homogeneity = [](const OrtCustomOp*) { return 1; };
  op.get_variadic_output_min = [](const OrtCustomOp*) { return 1; };
  op.get_variadic_output_homogeneity = [](const OrtCustomOp*) { return 1; };
  op.create_kernel_v2 = create_kernel;
  op.compute_v2 = compute;
  op.get_start_version = [](const OrtCustomOp*) { return 1; };
  op.get_end_version = [](const OrtCustomOp*) { return 1; };
  return op;
}

}  // namespace

// Called by SessionOptions.register_custom_ops_library.
extern "C" SPARSEC_API OrtStatus* RegisterCustomOps(OrtSessionOptions* options, const OrtApiBase* base) {
  const void* const* table = base->get_api(kApiVersion);
  if (!table) return nullptr;  // an older runtime: the model will say that the operator is unknown
  static const OrtCustomOp op = region();
  static OrtDomain* domain = nullptr;
  static std::mutex mutex;
  const Api api(table);
  const std::lock_guard<std::mutex> lock(mutex);
  if (!domain) {
    OrtDomain* made = nullptr;
    if (OrtStatus* status = api.create_domain("sparsec", &made)) return status;
    if (OrtStatus* status = api.domain_add(made, &op)) return status;
    domain = made;
  }
  return api.add_domain(options, domain);
}
