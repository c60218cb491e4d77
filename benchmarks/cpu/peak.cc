// Prints GFLOP/s of one core: FMA on registers, then with an operand from a buffer of 16 and of 256 KiB.
// Compiled by peak.py for the vectors that are asked for.
#include <immintrin.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#ifdef __AVX512F__
typedef __m512 Vec;
static Vec load(const float* p) { return _mm512_load_ps(p); }
static Vec fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
static Vec set(float x) { return _mm512_set1_ps(x); }
#else
typedef __m256 Vec;
static Vec load(const float* p) { return _mm256_load_ps(p); }
static Vec fma(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }
static Vec set(float x) { return _mm256_set1_ps(x); }
#endif
constexpr int kLanes = sizeof(Vec) / 4, kChains = 12;

static double now() {
  timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return t.tv_sec + 1e-9 * t.tv_nsec;
}

// Best of 20: kChains * steps FMA, operand i of buffer i % floats; floats 0 keeps to registers.
static double rate(const float* buffer, int floats) {
  const int steps = 20000;
  const int span = floats / (kChains * kLanes) * (kChains * kLanes);
  double best = 1e9;
  for (int round = 0; round < 20; ++round) {
    Vec acc[kChains];
    for (int c = 0; c < kChains; ++c) acc[c] = set(1.0f + c);
    const Vec x = set(0.999f);
    const double start = now();
    int at = 0;
    for (int s = 0; s < steps; ++s) {
#pragma GCC unroll 12
      for (int c = 0; c < kChains; ++c) acc[c] = fma(acc[c], x, span ? load(buffer + at + c * kLanes) : x);
      at += kChains * kLanes;
      if (at >= span) at = 0;
    }
    const double time = now() - start;
    if (time < best) best = time;
    for (int c = 0; c < kChains; ++c) asm volatile("" : "+x"(acc[c]));
  }
  return 2.0 * kLanes * kChains * steps / best / 1e9;
}

int main() {
  const int small = 16 << 8, large = 256 << 8;
  float* buffer = static_cast<float*>(aligned_alloc(64, large * 4));
  for (int i = 0; i < large; ++i) buffer[i] = 1e-3f;
  printf("%.1f %.1f %.1f\n", rate(buffer, 0), rate(buffer, small), rate(buffer, large));
}
