/* Runs plans one after the other, without ONNX Runtime and without Python: the edge path.
 *
 *     run_plan INPUT.f32 OUTPUT.f32 PLAN SHAPE [PLAN SHAPE]...
 *
 * INPUT holds float32 in row-major order. Each plan gets what the one before it computed, seen with
 * its SHAPE, such as 1x3x224x224.
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

static void parse_shape(const char* text, SparsecTensor* t) {
  char* end = (char*)text;
  for (t->rank = 0; t->rank < SPARSEC_MAX_RANK && *text; text = *end ? end + 1 : end)
    t->dims[t->rank++] = strtoll(text, &end, 10);
}

static int fail(const char* what) {
  fprintf(stderr, "run_plan: %s\n", what);
  return 1;
}

int main(int argc, char** argv) {
  char error[256] = "";
  size_t plan_size = 0, size = 0;
  if (argc < 5 || argc % 2 == 0) return fail("usage: run_plan INPUT OUTPUT PLAN SHAPE [PLAN SHAPE]...");
  SparsecTensor in = {read_file(argv[1], &size), 0, {0}}, out = {0};
  for (int i = 3; i < argc; i += 2, in.data = out.data) {
    void* bytes = read_file(argv[i], &plan_size);
    if (!bytes || !in.data) return fail("a file cannot be read");
    parse_shape(argv[i + 1], &in);
    if (elements(&in) * sizeof(float) != size) return fail("a shape says another size than the data have");
    SparsecPlan* plan = sparsec_plan_load(bytes, plan_size, NULL, error, sizeof error);
    if (!plan) return fail(error);
    if (sparsec_plan_inputs(plan) != 1 || sparsec_plan_outputs(plan) != 1) return fail("a plan has several inputs or outputs");
    if (sparsec_plan_shapes(plan, &in, &out, error, sizeof error)) return fail(error);
    size = elements(&out) * sizeof(float);
    out.data = malloc(size);
    if (!out.data || sparsec_plan_run(plan, &in, &out, error, sizeof error)) return fail(error);
    sparsec_plan_free(plan);
    free(bytes);
    free(in.data);
  }
  FILE* file = fopen(argv[2], "wb");
  if (!file || fwrite(in.data, 1, size, file) != size || fclose(file)) return fail("the output cannot be written");
  printf("%s: %zu values\n", sparsec_isas(), size / sizeof(float));
  return 0;
}
