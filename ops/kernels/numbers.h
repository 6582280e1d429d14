// Numbers in kernels for a CPU: bfloat16 beside float, and an exponential that compilers vectorise.

#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

struct bfloat16 { uint16_t bits; };

static inline float as_float(uint32_t bits) { float x; memcpy(&x, &bits, 4); return x; }
static inline uint32_t as_bits(float x) { uint32_t bits; memcpy(&bits, &x, 4); return bits; }

static inline float load(float x) { return x; }
static inline float load(bfloat16 x) { return as_float((uint32_t)x.bits << 16); }

static inline void store(float &to, float x) { to = x; }
static inline void store(bfloat16 &to, float x) {  // to nearest, ties to even
    uint32_t bits = as_bits(x);
    to.bits = x != x ? 0x7fc0 : (uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

// e^x = 2^n e^r with |r| < 0.35; ln 2 in two pieces so that r is exact. Not-a-number passes through.
static inline float exponential(float x) {
    x = x < -87.f ? -87.f : x;
    x = x > 88.f ? 88.f : x;
    float n = rintf(x * 1.44269504f);
    float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    float p = 1.f / 5040;
    p = p * r + 1.f / 720;
    p = p * r + 1.f / 120;
    p = p * r + 1.f / 24;
    p = p * r + 1.f / 6;
    p = p * r + 0.5f;
    p = p * r + 1.f;
    p = p * r + 1.f;
    // The scale is put together from bits: not-a-number as an integer is undefined, hence the detour by 0.
    int32_t power = (int32_t)(n == n ? n : 0.f);
    return p * as_float((uint32_t)(power + 127) << 23);
}
