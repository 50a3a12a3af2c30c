#pragma once
/* Vectors of float32 by the vector types of GCC and clang, as wide as the processor's registers. */
#include <math.h>
#include <stdint.h>
#include <string.h>
#if defined(__AVX__)
#include <immintrin.h>
#endif
#if defined(__AVX512F__)
#define LANES 16 /* values of a vector */
#elif defined(__AVX__)
#define LANES 8
#else
#define LANES 4
#endif

typedef float Floats __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef uint32_t Words __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef uint16_t Halves __attribute__((vector_size(2 * LANES), aligned(2), may_alias));

static inline __attribute__((always_inline)) Floats load_floats(const float *from) { return *(const Floats *)from; }

/* bfloat16 values, which are the upper halves of floats. GCC 12 has no good code for the conversion of 16-bit lanes. */
static inline __attribute__((always_inline)) Floats load_bf16(const uint16_t *from) {
#if defined(__AVX512F__)
    return (Floats)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *)from)), 16);
#elif defined(__AVX2__)
    return (Floats)_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const void *)from)), 16);
#else
    return (Floats)(__builtin_convertvector(*(const Halves *)from, Words) << 16);
#endif
}

/* The sum of all lanes, in pairs: a chain of additions would take longer than the products of a short row. */
static inline __attribute__((always_inline)) float sum_lanes(Floats vector) {
#if defined(__AVX512F__)
    return _mm512_reduce_add_ps((__m512)vector);
#else
    float sums[LANES];
    memcpy(sums, &vector, sizeof sums);
    for (int width = LANES / 2; width; width /= 2)
        for (int k = 0; k < width; k++) sums[k] += sums[k + width];
    return sums[0];
#endif
}

/* 2^x for -126 <= x <= 126, and the nearest of these otherwise, to one unit in the last place; NaN stays NaN. */
static inline float exp2_f32(float x) {
    x = x < -126.0f ? -126.0f : x > 126.0f ? 126.0f : x;
    const float whole = rintf(x), y = (x - whole) * 0.69314718056f;
    float power = 1.0f / 5040; /* Taylor's series of e^y, |y| < 0.35 */
    power = power * y + 1.0f / 720;
    power = power * y + 1.0f / 120;
    power = power * y + 1.0f / 24;
    power = power * y + 1.0f / 6;
    power = power * y + 0.5f;
    power = power * y + 1.0f;
    power = power * y + 1.0f;
    const int32_t bits = ((int32_t)whole + 127) << 23;
    float factor;
    memcpy(&factor, &bits, 4);
    return power * factor;
}

/* x / (1 + e^-x). */
static inline float silu_f32(float x) { return x / (1.0f + exp2_f32(x * -1.44269504f)); }
