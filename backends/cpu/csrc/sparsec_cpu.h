/* libsparsec_cpu: runs the plans of sparse regions. C ABI, no dependency.
 *
 * A plan (docs/formats/cpu-plan.md) is loaded from memory, checked completely, and then run any
 * number of times, from several threads at once. The same library is an ONNX Runtime
 * custom-operator library (RegisterCustomOps), but needs no ONNX Runtime.
 *
 *     char error[256];
 *     SparsecPlan* plan = sparsec_plan_load(bytes, size, NULL, error, sizeof error);
 *     sparsec_plan_shapes(plan, inputs, outputs, error, sizeof error);   // fills outputs[].dims
 *     ... allocate outputs[].data ...
 *     sparsec_plan_run(plan, inputs, outputs, error, sizeof error);
 *     sparsec_plan_free(plan);
 */
#ifndef SPARSEC_CPU_H
#define SPARSEC_CPU_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define SPARSEC_API __attribute__((visibility("default")))
#define SPARSEC_MAX_RANK 8

typedef struct SparsecPlan SparsecPlan;

/* A float32 tensor in row-major order. */
typedef struct SparsecTensor {
  float* data;
  int32_t rank;
  int64_t dims[SPARSEC_MAX_RANK];
} SparsecTensor;

typedef struct SparsecOptions {
  const char* isa; /* "avx512", "avx2", "neon", "portable"; NULL: the best this machine has */
  int32_t threads; /* of sparsec_plan_run, at most 1024; 0 and 1: the caller's thread alone */
} SparsecOptions;

/* Version of the plan format that this library reads. */
SPARSEC_API int sparsec_plan_version(void);

/* Instruction sets this machine can run, best first, separated by commas. */
SPARSEC_API const char* sparsec_isas(void);

/* Names of all microkernels in the library for one instruction set, separated by commas. */
SPARSEC_API const char* sparsec_microkernels(const char* isa);

/* Checks and prepares a plan. `bytes` must stay valid and unchanged until sparsec_plan_free.
 * Returns NULL and writes a sentence to `error` if anything is wrong. */
SPARSEC_API SparsecPlan* sparsec_plan_load(const void* bytes, size_t size,
                                           const SparsecOptions* options, char* error,
                                           size_t error_size);
SPARSEC_API void sparsec_plan_free(SparsecPlan* plan);

SPARSEC_API int sparsec_plan_inputs(const SparsecPlan* plan);
SPARSEC_API int sparsec_plan_outputs(const SparsecPlan* plan);
SPARSEC_API int sparsec_plan_ops(const SparsecPlan* plan);

/* Fills rank and dims of the outputs for inputs of these dims. 0 if done, else 1 and a sentence. */
SPARSEC_API int sparsec_plan_shapes(SparsecPlan* plan, const SparsecTensor* inputs,
                                    SparsecTensor* outputs, char* error, size_t error_size);

/* Runs the plan; outputs must have the dims that sparsec_plan_shapes gives. */
SPARSEC_API int sparsec_plan_run(SparsecPlan* plan, const SparsecTensor* inputs,
                                 SparsecTensor* outputs, char* error, size_t error_size);

/* As sparsec_plan_run; adds the seconds spent in each operator to seconds[0..ops), and those of reading inputs
 * and writing outputs to seconds[ops] and seconds[ops + 1]. Operators that run together on each tile share the time
 * of all of them in proportion to what the threads spent in each. */
SPARSEC_API int sparsec_plan_profile(SparsecPlan* plan, const SparsecTensor* inputs,
                                     SparsecTensor* outputs, double* seconds, char* error,
                                     size_t error_size);

/* Bytes that the plan holds beside its own: after a run, values between operators for the shapes of the last runs, and weights
 * in the form that the kernels read. */
SPARSEC_API size_t sparsec_plan_memory(SparsecPlan* plan);

#ifdef __cplusplus
}
#endif
#endif
