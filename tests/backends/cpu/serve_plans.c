/* Runs plans that come in on stdin and writes what they compute to stdout, so that kernels of another
 * machine can be tested under an emulator that is started once.
 *
 * Request: u64 plan size, char isa[16], i32 threads, i32 inputs, i32 outputs; the plan; each input as i32
 * rank, i64 dims[rank], data. A plan of size 0 asks for the names of the microkernels.
 * Answer: i32 status. 0: each output as an input is sent, or for names u32 size and text.
 * Otherwise u32 size and a sentence.
 *
 * Every tensor ends where memory that must not be touched begins.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "sparsec_cpu.h"

#define MAX_TENSORS 8

typedef struct Request {
  uint64_t plan_size;
  char isa[16];
  int32_t threads, inputs, outputs, reserved;
} Request;

static void get(void* to, size_t size) {
  if (size && fread(to, size, 1, stdin) != 1) exit(0); /* the other side has gone */
}

static void put(const void* from, size_t size) {
  if (size && fwrite(from, size, 1, stdout) != 1) exit(1);
}

static void put_text(int32_t status, const char* text) {
  const uint32_t size = (uint32_t)strlen(text);
  put(&status, sizeof status);
  put(&size, sizeof size);
  put(text, size);
}

static size_t bytes_of(const SparsecTensor* t) {
  size_t n = sizeof(float);
  for (int i = 0; i < t->rank; ++i) n *= (size_t)t->dims[i];
  return n;
}

/* The pages in use, to be given back after the request. */
static struct { void* at; size_t size; } mapped[2 * MAX_TENSORS];
static int mapped_count;

static void guard(SparsecTensor* t) {
  const size_t page = (size_t)sysconf(_SC_PAGESIZE), size = bytes_of(t);
  const size_t whole = (size + page - 1) / page * page + page;
  char* at = mmap(NULL, whole, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (at == MAP_FAILED || mprotect(at + whole - page, page, PROT_NONE)) exit(2);
  mapped[mapped_count].at = at;
  mapped[mapped_count++].size = whole;
  t->data = (float*)(at + whole - page - size);
}

static void serve(const Request* request) {
  SparsecTensor in[MAX_TENSORS] = {{0}}, out[MAX_TENSORS] = {{0}};
  char error[256] = "";
  void* bytes = aligned_alloc(64, (request->plan_size + 63) / 64 * 64);
  if (!bytes) exit(3);
  get(bytes, request->plan_size);
  for (int i = 0; i < request->inputs; ++i) {
    get(&in[i].rank, sizeof in[i].rank);
    get(in[i].dims, sizeof in[i].dims[0] * (size_t)in[i].rank);
    guard(&in[i]);
    get(in[i].data, bytes_of(&in[i]));
  }
  const SparsecOptions options = {request->isa, request->threads};
  SparsecPlan* plan = sparsec_plan_load(bytes, request->plan_size, &options, error, sizeof error);
  int failed = !plan || sparsec_plan_shapes(plan, in, out, error, sizeof error);
  for (int i = 0; !failed && i < request->outputs; ++i) guard(&out[i]);
  failed = failed || sparsec_plan_run(plan, in, out, error, sizeof error);
  if (failed) {
    put_text(1, error);
  } else {
    const int32_t status = 0;
    put(&status, sizeof status);
    for (int i = 0; i < request->outputs; ++i) {
      put(&out[i].rank, sizeof out[i].rank);
      put(out[i].dims, sizeof out[i].dims[0] * (size_t)out[i].rank);
      put(out[i].data, bytes_of(&out[i]));
    }
  }
  if (plan) sparsec_plan_free(plan);
  free(bytes);
  while (mapped_count) {
    --mapped_count;
    munmap(mapped[mapped_count].at, mapped[mapped_count].size);
  }
}

int main(void) {
  for (;;) {
    Request request;
    get(&request, sizeof request);
    if (request.plan_size) {
      serve(&request);
    } else {
      put_text(0, sparsec_microkernels(request.isa));
    }
    fflush(stdout);
  }
}
