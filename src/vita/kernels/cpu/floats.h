#pragma once
/* Scalar float32 and bfloat16. A bfloat16 is the upper 16 bits of a float32. Buffers passed as `void *` hold float32,
 * or bfloat16 if `is_bf16` is 1. */
#include <stdint.h>
#include <string.h>

static inline float bf16_to_f32(uint16_t value) {
    uint32_t bits = (uint32_t)value << 16;
    float out;
    memcpy(&out, &bits, 4);
    return out;
}

/* Round to nearest, ties to even. NaN stays NaN. */
static inline uint16_t f32_to_bf16(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    if ((bits & 0x7FFFFFFF) > 0x7F800000) return 0x7FC0;
    return (uint16_t)((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
}

static inline float load_float(const void *from, int64_t index, int is_bf16) {
    return is_bf16 ? bf16_to_f32(((const uint16_t *)from)[index]) : ((const float *)from)[index];
}

static inline void store_float(void *to, int64_t index, float value, int is_bf16) {
    if (is_bf16) ((uint16_t *)to)[index] = f32_to_bf16(value);
    else ((float *)to)[index] = value;
}
