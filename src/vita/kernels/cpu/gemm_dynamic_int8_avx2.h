#pragma once
/* The parts of gemm_dynamic_int8.c that depend on the instruction set, for AVX2. Without AVX-VNNI two products are
 * added in 16 bits, which products of int8 weights exceed: those builds support int4 only. */
#include <immintrin.h>

#define LANES 8
#define N_BLOCK (2 * LANES) /* output channels per block: two vectors */
#if defined(__AVXVNNI__)
#define MAX_BITS 8 /* of a weight */
#else
#define MAX_BITS 4
#endif

/* Unpacks N_BLOCK int4 weight rows: values [group][quad][row][4] plus 8, and scales [group][row]. Rows past the last
 * one repeat it; their results are discarded. */
static void unpack_int4(const uint8_t *w, const uint16_t *w_scale, uint8_t *values, float *scales, int64_t first,
                        int64_t n_out, int64_t n_in) {
    const int64_t groups = n_in / GROUP_SIZE;
    for (int64_t c = 0; c < N_BLOCK; c++) {
        const int64_t at = first + c < n_out ? first + c : n_out - 1;
        for (int64_t g = 0; g < groups; g++) {
            scales[g * N_BLOCK + c] = bf16_to_f32(w_scale[at * groups + g]);
            for (int64_t t = 0; t < QUADS / 2; t++) {
                uint8_t *to = values + ((g * QUADS + t) * N_BLOCK + c) * 4;
                uint32_t packed;
                memcpy(&packed, w + at * (n_in / 2) + g * HALF_GROUP + 4 * t, 4);
                const uint32_t low = packed & 0x0F0F0F0F, high = packed >> 4 & 0x0F0F0F0F;
                memcpy(to, &low, 4);
                memcpy(to + QUADS / 2 * N_BLOCK * 4, &high, 4);
            }
        }
    }
}

/* Unpacks N_BLOCK int8 weight rows in the same layout, plus 128. */
static void unpack_int8(const uint8_t *w, const uint16_t *w_scale, uint8_t *values, float *scales, int64_t first,
                        int64_t n_out, int64_t n_in) {
    for (int64_t c = 0; c < N_BLOCK; c++) {
        const int64_t at = first + c < n_out ? first + c : n_out - 1;
        for (int64_t g = 0; g < n_in / GROUP_SIZE; g++) scales[g * N_BLOCK + c] = bf16_to_f32(w_scale[at]);
        for (int64_t t = 0; t < n_in / 4; t++) {
            uint32_t quad;
            memcpy(&quad, w + at * n_in + 4 * t, 4);
            quad ^= 0x80808080;
            memcpy(values + (t * N_BLOCK + c) * 4, &quad, 4);
        }
    }
}

/* Adds the integer products of one group to the accumulators of M_BLOCK rows and N_BLOCK channels. */
#if defined(__AVXVNNI__)
static inline void add_group(__m256i sum[M_BLOCK][2], const uint8_t *values, const int32_t *x) {
    for (int t = 0; t < QUADS; t++, x += M_BLOCK, values += N_BLOCK * 4) {
        const __m256i w0 = _mm256_loadu_si256((const __m256i *)values);
        const __m256i w1 = _mm256_loadu_si256((const __m256i *)(values + 32));
        for (int r = 0; r < M_BLOCK; r++) {
            const __m256i quad = _mm256_set1_epi32(x[r]);
            __asm__("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sum[r][0]) : "x"(w0), "x"(quad));
            __asm__("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sum[r][1]) : "x"(w1), "x"(quad));
        }
    }
}
#else
#define MAX_QUADS 8 /* that can be added in 16 bits: 8 * 2 * 15 * 127 < 2^15 */
static inline void add_group(__m256i sum[M_BLOCK][2], const uint8_t *values, const int32_t *x) {
    const __m256i ones = _mm256_set1_epi16(1);
    for (int first = 0; first < QUADS; first += MAX_QUADS) {
        __m256i pairs[M_BLOCK][2];
        for (int r = 0; r < M_BLOCK; r++) pairs[r][0] = pairs[r][1] = _mm256_setzero_si256();
        for (int t = 0; t < MAX_QUADS; t++, x += M_BLOCK, values += N_BLOCK * 4) {
            const __m256i w0 = _mm256_loadu_si256((const __m256i *)values);
            const __m256i w1 = _mm256_loadu_si256((const __m256i *)(values + 32));
            for (int r = 0; r < M_BLOCK; r++) {
                const __m256i quad = _mm256_set1_epi32(x[r]);
                pairs[r][0] = _mm256_add_epi16(pairs[r][0], _mm256_maddubs_epi16(w0, quad));
                pairs[r][1] = _mm256_add_epi16(pairs[r][1], _mm256_maddubs_epi16(w1, quad));
            }
        }
        for (int r = 0; r < M_BLOCK; r++)
            for (int v = 0; v < 2; v++)
                sum[r][v] = _mm256_add_epi32(sum[r][v], _mm256_madd_epi16(pairs[r][v], ones));
    }
}
#endif

/* sums [M_BLOCK, N_BLOCK] of a packed tile of x and a block of unpacked weights. */
static void multiply_tile(const uint8_t *values, const float *scales, const int32_t *x, const float *scale,
                          const int32_t *start, float *sums, int64_t groups) {
    memset(sums, 0, M_BLOCK * N_BLOCK * sizeof(float));
    for (int64_t g = 0; g < groups; g++, scales += N_BLOCK, scale += M_BLOCK, start += M_BLOCK) {
        __m256i sum[M_BLOCK][2];
        for (int r = 0; r < M_BLOCK; r++) sum[r][0] = sum[r][1] = _mm256_set1_epi32(start[r]);
        add_group(sum, values + g * GROUP_SIZE * N_BLOCK, x + g * QUADS * M_BLOCK);
        for (int r = 0; r < M_BLOCK; r++)
            for (int v = 0; v < 2; v++) {
                float *to = sums + r * N_BLOCK + LANES * v;
                const __m256 factor = _mm256_mul_ps(_mm256_loadu_ps(scales + LANES * v), _mm256_set1_ps(scale[r]));
                _mm256_storeu_ps(to, _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum[r][v]), factor, _mm256_loadu_ps(to)));
            }
    }
}

/* Stores `count` values of sums + add at y[index], as float32 or bfloat16. */
static inline void store_row(void *y, int64_t index, const float *sums, const float *add, int64_t count, int is_bf16) {
    for (int64_t c = 0; c < count; c++) store_float(y, index + c, sums[c] + add[c], is_bf16);
}
