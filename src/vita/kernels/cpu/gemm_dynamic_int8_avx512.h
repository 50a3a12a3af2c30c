#pragma once
/* The parts of gemm_dynamic_int8.c that depend on the instruction set, for AVX-512 VNNI. */
#include "vectors.h"

#define LANES 16
#define N_BLOCK (2 * LANES) /* output channels per block: two vectors */
#define MAX_BITS 8          /* of a weight */

/* Unpacks N_BLOCK int4 weight rows: values [group][quad][row][4] plus 8, and scales [group][row]. Rows past the last
 * one repeat it; their results are discarded. */
static void unpack_int4(const uint8_t *w, const uint16_t *w_scale, uint8_t *values, float *scales, int64_t first,
                        int64_t n_out, int64_t n_in) {
    const int64_t groups = n_in / GROUP_SIZE;
    const __m512i nibble = _mm512_set1_epi8(15);
    __m512i rows[16], columns[16];
    for (int v = 0; v < N_BLOCK; v += 16) {
        int64_t at[16];
        for (int c = 0; c < 16; c++) at[c] = first + v + c < n_out ? first + v + c : n_out - 1;
        for (int64_t g = 0; g < groups; g += 16) {
            for (int c = 0; c < 16; c++)
                rows[c] = _mm512_castps_si512(load_bf16x16(w_scale + at[c] * groups + g, tail_mask(groups - g)));
            transpose_16x16(rows, columns, 64);
            for (int64_t t = 0; t < 16 && g + t < groups; t++)
                _mm512_storeu_si512(scales + (g + t) * N_BLOCK + v, columns[t]);
        }
        for (int64_t g = 0; g < groups; g += 2) { /* two groups, one cache line, of each of 16 rows */
            const __mmask16 mask = g + 1 < groups ? 0xFFFF : 0xFF;
            for (int c = 0; c < 16; c++)
                rows[c] = _mm512_maskz_loadu_epi32(mask, w + at[c] * (n_in / 2) + g * HALF_GROUP);
            transpose_16x16(rows, columns, 64);
            for (int64_t t = 0; t < QUADS && g + t / (QUADS / 2) < groups; t++) {
                const int64_t quad = (g + t / (QUADS / 2)) * QUADS + t % (QUADS / 2);
                uint8_t *to = values + (quad * N_BLOCK + v) * 4;
                _mm512_storeu_si512(to, _mm512_and_si512(columns[t], nibble));
                _mm512_storeu_si512(to + QUADS / 2 * N_BLOCK * 4,
                                    _mm512_and_si512(_mm512_srli_epi16(columns[t], 4), nibble));
            }
        }
    }
}

/* Unpacks N_BLOCK int8 weight rows in the same layout, plus 128. */
static void unpack_int8(const uint8_t *w, const uint16_t *w_scale, uint8_t *values, float *scales, int64_t first,
                        int64_t n_out, int64_t n_in) {
    const int64_t groups = n_in / GROUP_SIZE;
    const __m512i sign = _mm512_set1_epi8((char)128);
    __m512i rows[16], columns[16];
    for (int v = 0; v < N_BLOCK; v += 16) {
        int64_t at[16];
        float row_scales[16];
        for (int c = 0; c < 16; c++) {
            at[c] = first + v + c < n_out ? first + v + c : n_out - 1;
            row_scales[c] = bf16_to_f32(w_scale[at[c]]);
        }
        for (int64_t g = 0; g < groups; g++) {
            for (int c = 0; c < 16; c++) rows[c] = _mm512_loadu_si512(w + at[c] * n_in + g * GROUP_SIZE);
            transpose_16x16(rows, columns, 64);
            for (int64_t t = 0; t < QUADS; t++)
                _mm512_storeu_si512(values + ((g * QUADS + t) * N_BLOCK + v) * 4, _mm512_xor_si512(columns[t], sign));
            _mm512_storeu_ps(scales + g * N_BLOCK + v, _mm512_loadu_ps(row_scales));
        }
    }
}

/* Inline assembly, because GCC 12 copies every accumulator before the intrinsic adds to it. */
static inline void dot_quads(__m512i *sum, __m512i unsigned_bytes, __m512i signed_bytes) {
    __asm__("vpdpbusd %2, %1, %0" : "+v"(*sum) : "v"(unsigned_bytes), "v"(signed_bytes));
}

/* sums [M_BLOCK, N_BLOCK] of a packed tile of x and a block of unpacked weights. */
static void multiply_tile(const uint8_t *values, const float *scales, const int32_t *x, const float *scale,
                          const int32_t *start, float *sums, int64_t groups) {
    __m512 acc[M_BLOCK][2];
    for (int r = 0; r < M_BLOCK; r++) acc[r][0] = acc[r][1] = _mm512_setzero_ps();
    for (int64_t g = 0; g < groups; g++, scales += N_BLOCK, scale += M_BLOCK, start += M_BLOCK) {
        __m512i sum[M_BLOCK][2];
        for (int r = 0; r < M_BLOCK; r++) sum[r][0] = sum[r][1] = _mm512_set1_epi32(start[r]);
        for (int t = 0; t < QUADS; t++, x += M_BLOCK, values += N_BLOCK * 4) {
            const __m512i w0 = _mm512_loadu_si512(values), w1 = _mm512_loadu_si512(values + 64);
            for (int r = 0; r < M_BLOCK; r++) {
                const __m512i quad = _mm512_set1_epi32(x[r]);
                dot_quads(&sum[r][0], w0, quad);
                dot_quads(&sum[r][1], w1, quad);
            }
        }
        const __m512 scale0 = _mm512_loadu_ps(scales), scale1 = _mm512_loadu_ps(scales + 16);
        for (int r = 0; r < M_BLOCK; r++) {
            const __m512 row_scale = _mm512_set1_ps(scale[r]);
            acc[r][0] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[r][0]), _mm512_mul_ps(scale0, row_scale), acc[r][0]);
            acc[r][1] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[r][1]), _mm512_mul_ps(scale1, row_scale), acc[r][1]);
        }
    }
    for (int r = 0; r < M_BLOCK; r++)
        for (int v = 0; v < 2; v++) _mm512_storeu_ps(sums + r * N_BLOCK + 16 * v, acc[r][v]);
}

/* Stores `count` values of sums + add at y[index], as float32 or bfloat16. */
static inline void store_row(void *y, int64_t index, const float *sums, const float *add, int64_t count, int is_bf16) {
    for (int64_t c = 0; c < count; c += LANES) {
        const __m512 values = _mm512_add_ps(_mm512_loadu_ps(sums + c), _mm512_loadu_ps(add + c));
        const __mmask16 mask = tail_mask(count - c);
        if (is_bf16) _mm256_mask_storeu_epi16((uint16_t *)y + index + c, mask, f32x16_to_bf16(values));
        else _mm512_mask_storeu_ps((float *)y + index + c, mask, values);
    }
}
