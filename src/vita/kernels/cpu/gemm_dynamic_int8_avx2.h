#pragma once
/* The same as many_rows_512.h with vectors of eight numbers (AVX2). Without VNNI two products must fit into 16 bits
 * together, which those of eight-bit weights do not. */
#include <immintrin.h>

#define LANES 8
#define PANEL (2 * LANES)
#if defined(__AVXVNNI__)
#define MOST_BITS 8
#else
#define MOST_BITS 4
#endif

static void unpack_4(const uint8_t *w, const uint16_t *w_scale, uint8_t *values, float *scales, int64_t first,
                     int64_t n_out, int64_t n_in) {
    const int64_t groups = n_in / GROUP;
    for (int64_t c = 0; c < PANEL; c++) {
        const int64_t at = first + c < n_out ? first + c : n_out - 1;
        for (int64_t g = 0; g < groups; g++) {
            scales[g * PANEL + c] = wide(w_scale[at * groups + g]);
            for (int64_t t = 0; t < QUADS / 2; t++) {
                uint8_t *to = values + ((g * QUADS + t) * PANEL + c) * 4;
                uint32_t eight;
                memcpy(&eight, w + at * (n_in / 2) + g * HALF + 4 * t, 4);
                const uint32_t low = eight & 0x0F0F0F0F, high = eight >> 4 & 0x0F0F0F0F;
                memcpy(to, &low, 4);
                memcpy(to + QUADS / 2 * PANEL * 4, &high, 4);
            }
        }
    }
}

static void unpack_8(const uint8_t *w, const uint16_t *w_scale, uint8_t *values, float *scales, int64_t first,
                     int64_t n_out, int64_t n_in) {
    for (int64_t c = 0; c < PANEL; c++) {
        const int64_t at = first + c < n_out ? first + c : n_out - 1;
        for (int64_t g = 0; g < n_in / GROUP; g++) scales[g * PANEL + c] = wide(w_scale[at]);
        for (int64_t t = 0; t < n_in / 4; t++) {
            uint32_t four;
            memcpy(&four, w + at * n_in + 4 * t, 4);
            four ^= 0x80808080;
            memcpy(values + (t * PANEL + c) * 4, &four, 4);
        }
    }
}

/* A group's sums: eight weight rows each of `values`, one after the other, times six of x. */
#if defined(__AVXVNNI__)
static inline void add_group(__m256i sum[TILE][2], const uint8_t *values, const int32_t *x) {
    for (int t = 0; t < QUADS; t++, x += TILE, values += PANEL * 4) {
        const __m256i one = _mm256_loadu_si256((const __m256i *)values);
        const __m256i other = _mm256_loadu_si256((const __m256i *)(values + 32));
        for (int r = 0; r < TILE; r++) {
            const __m256i four = _mm256_set1_epi32(x[r]);
            __asm__("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sum[r][0]) : "x"(one), "x"(four));
            __asm__("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sum[r][1]) : "x"(other), "x"(four));
        }
    }
}
#else
#define MOST_QUADS 8 /* whose products, two of 15 * 127 each, are less than 2^15 together */
static inline void add_group(__m256i sum[TILE][2], const uint8_t *values, const int32_t *x) {
    const __m256i ones = _mm256_set1_epi16(1);
    for (int part = 0; part < QUADS; part += MOST_QUADS) {
        __m256i pairs[TILE][2];
        for (int r = 0; r < TILE; r++) pairs[r][0] = pairs[r][1] = _mm256_setzero_si256();
        for (int t = 0; t < MOST_QUADS; t++, x += TILE, values += PANEL * 4) {
            const __m256i one = _mm256_loadu_si256((const __m256i *)values);
            const __m256i other = _mm256_loadu_si256((const __m256i *)(values + 32));
            for (int r = 0; r < TILE; r++) {
                const __m256i four = _mm256_set1_epi32(x[r]);
                pairs[r][0] = _mm256_add_epi16(pairs[r][0], _mm256_maddubs_epi16(one, four));
                pairs[r][1] = _mm256_add_epi16(pairs[r][1], _mm256_maddubs_epi16(other, four));
            }
        }
        for (int r = 0; r < TILE; r++)
            for (int v = 0; v < 2; v++)
                sum[r][v] = _mm256_add_epi32(sum[r][v], _mm256_madd_epi16(pairs[r][v], ones));
    }
}
#endif

static void tile(const uint8_t *values, const float *scales, const int32_t *x, const float *scale, const int32_t *start,
                 float *sums, int64_t groups) {
    memset(sums, 0, TILE * PANEL * sizeof(float));
    for (int64_t g = 0; g < groups; g++, scales += PANEL, scale += TILE, start += TILE) {
        __m256i sum[TILE][2];
        for (int r = 0; r < TILE; r++) sum[r][0] = sum[r][1] = _mm256_set1_epi32(start[r]);
        add_group(sum, values + g * GROUP * PANEL, x + g * QUADS * TILE);
        for (int r = 0; r < TILE; r++)
            for (int v = 0; v < 2; v++) {
                float *to = sums + r * PANEL + LANES * v;
                const __m256 by = _mm256_mul_ps(_mm256_loadu_ps(scales + LANES * v), _mm256_set1_ps(scale[r]));
                _mm256_storeu_ps(to, _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum[r][v]), by, _mm256_loadu_ps(to)));
            }
    }
}

static inline void put_some(void *y, int64_t at, const float *sums, const float *add, int64_t count, int half) {
    for (int64_t c = 0; c < count; c++) put(y, at + c, sums[c] + add[c], half);
}
