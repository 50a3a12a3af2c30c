#pragma once
/* Numbers as the engine holds them: float32, or bfloat16 (`half` is 1), which is float32 without its lower bits. */
#include <stdint.h>
#include <string.h>

static inline float wide(uint16_t value) {
    uint32_t bits = (uint32_t)value << 16;
    float out;
    memcpy(&out, &bits, 4);
    return out;
}

static inline uint16_t narrow(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    if ((bits & 0x7FFFFFFF) > 0x7F800000) return 0x7FC0; /* no number stays no number */
    return (uint16_t)((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
}

static inline float get(const void *from, int64_t at, int half) {
    return half ? wide(((const uint16_t *)from)[at]) : ((const float *)from)[at];
}

static inline void put(void *to, int64_t at, float value, int half) {
    if (half) ((uint16_t *)to)[at] = narrow(value);
    else ((float *)to)[at] = value;
}
