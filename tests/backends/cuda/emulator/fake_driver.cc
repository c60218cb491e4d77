// The entry points of libcuda that a loader needs, on the host: device memory is memory, a launch runs the
// emulated kernel that this library was built with, and every call is written down.
#include <cstdio>
#include <cstdlib>
#include <map>

#include "lanes.cuh"

using CUresult = int;

namespace fake {
void (*kernel)(void**);  // that a library is built with, which sets them
const char* kernel_name;
static std::string log;
static std::map<char*, size_t> memory;
static int shared_limit = 48 << 10;
static thread_local int depth = 0;  // of the context, which everything but the device itself needs
static bool open_memory = false;  // kernels may touch what the driver did not allocate, as tensors of torch
template <class... A>
void note(const char* format, A... arguments) {
  char line[256];
  std::snprintf(line, sizeof line, format, arguments...);
  log += line;
  log += '\n';
}
}  // namespace fake

extern "C" {
void fake_open_memory() { fake::open_memory = true; }
int fake_depth() { return fake::depth; }
const char* fake_log() { return fake::log.c_str(); }
CUresult cuInit(unsigned) { return 0; }
CUresult cuDeviceGet(int* device, int ordinal) {
  *device = ordinal;
  return ordinal == 0 ? 0 : 101;
}
CUresult cuDevicePrimaryCtxRetain(void** context, int) {
  *context = &fake::log;
  return 0;
}
CUresult cuCtxPushCurrent_v2(void* context) {
  if (context != &fake::log) return 201;
  fake::depth++;
  return 0;
}
CUresult cuCtxPopCurrent_v2(void** context) {
  *context = &fake::log;
  return fake::depth-- > 0 ? 0 : 201;
}
CUresult cuCtxSynchronize() { return fake::depth == 1 ? 0 : 201; }
CUresult cuDeviceGetAttribute(int* value, int which, int) {
  *value = which == 75 ? 9 : 0;
  return 0;
}
CUresult cuGetErrorString(CUresult status, const char** text) {
  *text = status == 101 ? "invalid device ordinal" : status == 201 ? "invalid device context" : status == 1 ? "invalid argument" : fake::log.c_str();
  return 0;
}
CUresult cuMemAlloc_v2(char** at, size_t bytes) {
  if (fake::depth != 1) return 201;
  *at = static_cast<char*>(std::aligned_alloc(256, (bytes + 255) / 256 * 256));
  std::memset(*at, 0xff, bytes);
  fake::memory[*at] = bytes;
  return 0;
}
CUresult cuMemFree_v2(char* at) {
  if (fake::depth != 1) return 201;
  if (!fake::memory.erase(at)) return 1;
  std::free(at);
  return 0;
}
CUresult cuStreamCreate(void** stream, unsigned flags) {
  *stream = &fake::depth;
  return flags == 1 ? 0 : 1;
}
CUresult cuStreamSynchronize(void* stream) { return stream == &fake::depth ? 0 : 400; }
CUresult cuStreamDestroy_v2(void* stream) { return stream == &fake::depth ? 0 : 400; }
CUresult cuMemsetD8Async(char* at, unsigned char byte, size_t bytes, void* stream) {
  if (stream != &fake::depth) return 400;
  std::memset(at, byte, bytes);
  return 0;
}
CUresult cuMemsetD8_v2(char* at, unsigned char byte, size_t bytes) {
  if (fake::depth != 1) return 201;
  std::memset(at, byte, bytes);
  return 0;
}
CUresult cuMemcpyHtoD_v2(char* to, const void* from, size_t bytes) {
  if (fake::depth != 1) return 201;
  std::memcpy(to, from, bytes);
  return 0;
}
CUresult cuMemcpyDtoH_v2(void* to, const char* from, size_t bytes) {
  if (fake::depth != 1) return 201;
  std::memcpy(to, from, bytes);
  return 0;
}
CUresult cuModuleLoadData(void** module, const char* image) {
  if (fake::depth != 1) return 201;
  const bool cubin = !std::memcmp(image, "\x7f" "ELF", 4);
  if (!cubin && !std::strstr(image, ".version")) return 200;
  fake::note("load %s", cubin ? "cubin" : "ptx");
  *module = &fake::memory;
  return 0;
}
CUresult cuModuleGetFunction(void** function, void* module, const char* name) {
  if (fake::depth != 1) return 201;
  if (module != &fake::memory || std::strcmp(name, fake::kernel_name)) return 500;
  *function = &fake::kernel;
  return 0;
}
CUresult cuFuncSetAttribute(void*, int which, int value) {
  if (fake::depth != 1) return 201;
  fake::note("attribute %d %d", which, value);
  if (which == 8) fake::shared_limit = value;
  return 0;
}
CUresult cuLaunchKernel(void* function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                        unsigned shared, void* stream, void** arguments, void** extra) {
  if (fake::depth != 1) return 201;
  fake::note("launch grid %u %u %u block %u %u %u shared %u stream %zu", gx, gy, gz, bx, by, bz, shared, (size_t)stream);
  if (function != &fake::kernel || extra || (int)shared > fake::shared_limit) return 1;
  std::vector<emulated::Region> regions;
  for (const auto& [at, bytes] : fake::memory) regions.push_back({at, bytes, 1});
  if (fake::open_memory) regions.push_back({nullptr, ~0ull >> 1, 1});
  const unsigned grid[3] = {gx, gy, gz};
  const char* error = emulated::launch(fake::kernel, grid, bx * by * bz, shared, arguments, regions.data(),
                                       (unsigned)regions.size(), 0, 0);
  if (error) fake::note("%s", error);
  return error ? 700 : 0;
}
}
