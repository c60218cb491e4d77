// A float16 as a float, where the compiler has no type for it.
#ifndef SPARSEC_HALF_H
#define SPARSEC_HALF_H

#include <stdint.h>
#include <string.h>

namespace sparsec {

// Exact for every value; subnormals, infinities and NaN included. Static: units are compiled with
// flags of their own, and the linker must not merge their copies.
static inline float half_to_float(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000u) << 16;
  const uint32_t exponent = half >> 10 & 31u, mantissa = half & 0x3FFu;
  if (exponent == 0) {  // zero or a multiple of 2^-24
    const float magnitude = static_cast<float>(mantissa) * 5.9604644775390625e-8f;
    return sign ? -magnitude : magnitude;
  }
  const uint32_t bits = sign | (exponent == 31 ? 0x7F800000u : (exponent + 112) << 23) | mantissa << 13;
  float value;
  memcpy(&value, &bits, 4);
  return value;
}

}  // namespace sparsec
#endif
