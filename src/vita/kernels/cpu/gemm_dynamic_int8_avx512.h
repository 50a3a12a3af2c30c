#pragma once
/* What gemm_dynamic_int8.c needs of a processor, with vectors of sixteen numbers (AVX-512 VNNI). */
#include "vectors.h"

#define LANES 16
#define PANEL (2 * LANES) /* weight rows beside each other: two vectors */
#define MOST_BITS 8       /* of a weight */

/* Unpacks `PANEL` weight rows of four bits: [group][quad][row][4] values plus eight, and [group][row] scales. Rows past
 * the last one repeat it; what comes of them is thrown away. */
static void unpack_4(const uint8_t *w, const uint16_t *w_scale, uint8_t *values, float *scales, int64_t first,
                   int64_t n_out, int64_t n_in) {
    const int64_t groups = n_in / GROUP;
    const __m512i low = _mm512_set1_epi8(15);
    __m512i rows[16], columns[16];
    for (int v = 0; v < PANEL; v += 16) {
        int64_t at[16];
        for (int c = 0; c < 16; c++) at[c] = first + v + c < n_out ? first + v + c : n_out - 1;
        for (int64_t g = 0; g < groups; g += 16) {
            for (int c = 0; c < 16; c++)
                rows[c] = _mm512_castps_si512(widened(w_scale + at[c] * groups + g, first_of(groups - g)));
            transposed(rows, columns, 64);
            for (int64_t t = 0; t < 16 && g + t < groups; t++)
                _mm512_storeu_si512(scales + (g + t) * PANEL + v, columns[t]);
        }
        for (int64_t g = 0; g < groups; g += 2) { /* a line of each of sixteen rows */
            const __mmask16 there = g + 1 < groups ? 0xFFFF : 0xFF;
            for (int c = 0; c < 16; c++) rows[c] = _mm512_maskz_loadu_epi32(there, w + at[c] * (n_in / 2) + g * HALF);
            transposed(rows, columns, 64);
            for (int64_t t = 0; t < QUADS && g + t / (QUADS / 2) < groups; t++) {
                const int64_t quad = (g + t / (QUADS / 2)) * QUADS + t % (QUADS / 2);
                uint8_t *to = values + (quad * PANEL + v) * 4;
                _mm512_storeu_si512(to, _mm512_and_si512(columns[t], low));
                _mm512_storeu_si512(to + QUADS / 2 * PANEL * 4,
                                    _mm512_and_si512(_mm512_srli_epi16(columns[t], 4), low));
            }
        }
    }
}

/* The same for eight bits, plus 128. */
static void unpack_8(const uint8_t *w, const uint16_t *w_scale, uint8_t *values, float *scales, int64_t first,
                     int64_t n_out, int64_t n_in) {
    const int64_t groups = n_in / GROUP;
    const __m512i sign = _mm512_set1_epi8((char)128);
    __m512i rows[16], columns[16];
    for (int v = 0; v < PANEL; v += 16) {
        int64_t at[16];
        float unit[16];
        for (int c = 0; c < 16; c++) {
            at[c] = first + v + c < n_out ? first + v + c : n_out - 1;
            unit[c] = wide(w_scale[at[c]]);
        }
        for (int64_t g = 0; g < groups; g++) {
            for (int c = 0; c < 16; c++) rows[c] = _mm512_loadu_si512(w + at[c] * n_in + g * GROUP);
            transposed(rows, columns, 64);
            for (int64_t t = 0; t < QUADS; t++)
                _mm512_storeu_si512(values + ((g * QUADS + t) * PANEL + v) * 4, _mm512_xor_si512(columns[t], sign));
            _mm512_storeu_ps(scales + g * PANEL + v, _mm512_loadu_ps(unit));
        }
    }
}

/* The intrinsic for it makes GCC 12 copy every sum before it is added to. */
static inline void add_products(__m512i *sum, __m512i unsigned_bytes, __m512i signed_bytes) {
    __asm__("vpdpbusd %2, %1, %0" : "+v"(*sum) : "v"(unsigned_bytes), "v"(signed_bytes));
}

/* A tile of x times a panel: sums [TILE, PANEL]. */
static void tile(const uint8_t *values, const float *scales, const int32_t *x, const float *scale, const int32_t *start,
                 float *sums, int64_t groups) {
    __m512 total[TILE][2];
    for (int r = 0; r < TILE; r++) total[r][0] = total[r][1] = _mm512_setzero_ps();
    for (int64_t g = 0; g < groups; g++, scales += PANEL, scale += TILE, start += TILE) {
        __m512i sum[TILE][2];
        for (int r = 0; r < TILE; r++) sum[r][0] = sum[r][1] = _mm512_set1_epi32(start[r]);
        for (int t = 0; t < QUADS; t++, x += TILE, values += PANEL * 4) {
            const __m512i one = _mm512_loadu_si512(values), other = _mm512_loadu_si512(values + 64);
            for (int r = 0; r < TILE; r++) {
                const __m512i four = _mm512_set1_epi32(x[r]);
                add_products(&sum[r][0], one, four);
                add_products(&sum[r][1], other, four);
            }
        }
        const __m512 unit = _mm512_loadu_ps(scales), other = _mm512_loadu_ps(scales + 16);
        for (int r = 0; r < TILE; r++) {
            const __m512 mine = _mm512_set1_ps(scale[r]);
            total[r][0] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[r][0]), _mm512_mul_ps(unit, mine), total[r][0]);
            total[r][1] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[r][1]), _mm512_mul_ps(other, mine), total[r][1]);
        }
    }
    for (int r = 0; r < TILE; r++)
        for (int v = 0; v < 2; v++) _mm512_storeu_ps(sums + r * PANEL + 16 * v, total[r][v]);
}

/* `count` sums, plus `add`, into y from `at` on, in its format. */
static inline void put_some(void *y, int64_t at, const float *sums, const float *add, int64_t count, int half) {
    for (int64_t c = 0; c < count; c += LANES) {
        const __m512 all = _mm512_add_ps(_mm512_loadu_ps(sums + c), _mm512_loadu_ps(add + c));
        if (half) _mm256_mask_storeu_epi16((uint16_t *)y + at + c, first_of(count - c), narrowed(all));
        else _mm512_mask_storeu_ps((float *)y + at + c, first_of(count - c), all);
    }
}
