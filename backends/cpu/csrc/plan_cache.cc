// Runs a plan with what was built for these shapes before, or builds it.
#include <algorithm>

#include "plan.h"

namespace sparsec {
namespace {

void check_masks(const PlanView& v, const Instance& in, const SparsecTensor* inputs) {
  if (!in.length) return;  // nothing is masked, of any number of sequences
  for (uint32_t i = 0; i < v.header->op_count; ++i) {
    const OpRecord& op = v.ops[i];
    if (op.code != OpCode::kAttention || op.inputs[3] == kNone) continue;
    const auto* end = v.inputs + v.header->input_count;
    const auto* at = std::find(v.inputs, end, op.inputs[3]);
    if (at == end) fail("operator %u: the mask is not an input", i);
    const int64_t* d = inputs[at - v.inputs].dims;
    const bool good = (d[0] == 1 || d[0] == in.sequences) && (d[1] == 1 || d[1] == op.heads) &&
                      (d[2] == 1 || d[2] == in.length) && d[3] == in.length;
    if (!good) fail("operator %u: the mask does not fit %lld sequences of %lld", i, static_cast<long long>(in.sequences), static_cast<long long>(in.length));
  }
}

}  // namespace

void run_plan(Plan& plan, const SparsecTensor* inputs, SparsecTensor* outputs, Parallel& parallel, double* seconds) {
  constexpr size_t kKept = 8;
  std::vector<int64_t> key{parallel.threads()};
  for (uint32_t i = 0; i < plan.view.header->input_count; ++i) {
    key.push_back(inputs[i].rank);
    if (inputs[i].rank < 0 || inputs[i].rank > SPARSEC_MAX_RANK) fail("input %u: rank %d", i, inputs[i].rank);
    key.insert(key.end(), inputs[i].dims, inputs[i].dims + inputs[i].rank);
  }
  std::unique_ptr<Instance> instance;
  {
    const std::lock_guard<std::mutex> lock(plan.mutex);
    for (auto& idle : plan.idle)
      if (idle->key == key) {
        instance = std::move(idle);
        std::swap(idle, plan.idle.back());
        plan.idle.pop_back();
        break;
      }
  }
  if (!instance) instance = build_instance(plan, inputs, parallel.threads());
  check_masks(plan.view, *instance, inputs);
  run_instance(plan, *instance, inputs, outputs, parallel, seconds);
  const std::lock_guard<std::mutex> lock(plan.mutex);
  plan.idle.push_back(std::move(instance));
  if (plan.idle.size() <= kKept) return;
  plan.idle.erase(plan.idle.begin());
  const auto unused = [](const auto& pack) { return pack.second.use_count() == 1; };
  plan.packs.erase(std::remove_if(plan.packs.begin(), plan.packs.end(), unused), plan.packs.end());
}

}  // namespace sparsec
