/* Runs one plan on one tensor, without ONNX Runtime and without Python: the edge path.
 *
 *     run_plan PLAN INPUT.f32 OUTPUT.f32 DIM [DIM ...]
 *
 * INPUT holds float32 in row-major order with the given dims. Build, on or for any machine:
 *
 *     cc -I backends/cpu/csrc examples/edge/run_plan.c libsparsec_cpu.so -o run_plan
 */
#include <stdio.h>
#include <stdlib.h>

#include "sparsec_cpu.h"

static void* read_file(const char* path, size_t* size) {
  FILE* file = fopen(path, "rb");
  if (!file) return NULL;
  fseek(file, 0, SEEK_END);
  *size = (size_t)ftell(file);
  rewind(file);
  void* bytes = aligned_alloc(64, (*size + 63) / 64 * 64);
  if (bytes && fread(bytes, 1, *size, file) != *size) bytes = NULL;
  fclose(file);
  return bytes;
}

static size_t elements(const SparsecTensor* t) {
  size_t n = 1;
  for (int i = 0; i < t->rank; ++i) n *= (size_t)t->dims[i];
  return n;
}

static int fail(const char* what) {
  fprintf(stderr, "run_plan: %s\n", what);
  return 1;
}

int main(int argc, char** argv) {
  char error[256] = "";
  size_t plan_size = 0, input_size = 0;
  if (argc < 5 || argc > 4 + SPARSEC_MAX_RANK) return fail("usage: run_plan PLAN INPUT OUTPUT DIM...");
  void* bytes = read_file(argv[1], &plan_size);
  SparsecTensor in = {read_file(argv[2], &input_size), argc - 4, {0}}, out = {0};
  if (!bytes || !in.data) return fail("a file cannot be read");
  for (int i = 4; i < argc; ++i) in.dims[i - 4] = atoll(argv[i]);
  if (elements(&in) * sizeof(float) != input_size) return fail("the input has another size than its dims say");

  SparsecPlan* plan = sparsec_plan_load(bytes, plan_size, NULL, error, sizeof error);
  if (!plan) return fail(error);
  if (sparsec_plan_inputs(plan) != 1 || sparsec_plan_outputs(plan) != 1) return fail("this program runs plans with one input and one output");
  if (sparsec_plan_shapes(plan, &in, &out, error, sizeof error)) return fail(error);
  out.data = malloc(elements(&out) * sizeof(float));
  if (!out.data || sparsec_plan_run(plan, &in, &out, error, sizeof error)) return fail(error);

  FILE* file = fopen(argv[3], "wb");
  const size_t count = elements(&out);
  if (!file || fwrite(out.data, sizeof(float), count, file) != count || fclose(file)) return fail("the output cannot be written");
  sparsec_plan_free(plan);
  printf("%s: %zu values\n", sparsec_isas(), count);
  return 0;
}
