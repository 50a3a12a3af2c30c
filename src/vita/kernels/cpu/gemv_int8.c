/* Products of few rows with eight-bit weights on a CPU, plain C with OpenMP: of float32, or where gemm_small.c is not.
 *
 * A weight row has one scale. Weights are widened to float32 in registers and x is float32, so nothing is rounded.
 * Rows in a mapped file may begin anywhere: the first few values are taken apart, so that loads lie on cache lines.
 */
#include "floats.h"
#include "rows.h"
#include "vectors.h"
#if defined(__AVX2__)
#include <immintrin.h>
#endif

#define AHEAD 4096   /* bytes asked for before they are needed */

/* One weight row times `rows` rows of x (a constant where this is inlined). */
static inline __attribute__((always_inline)) void dots(const int8_t *w, const float *x, float *sums, int64_t n_in,
                                                       const int rows) {
    int64_t j = 0;
    for (int r = 0; r < rows; r++) sums[r] = 0;
#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__)
    __m512 total[MOST_ROWS][2];
    for (int r = 0; r < rows; r++) total[r][0] = total[r][1] = _mm512_setzero_ps();
    const int64_t lead = (int64_t)(-(uintptr_t)w & 63);
    for (int64_t k = 0; k < lead && lead <= n_in; k += 16, j = lead) {
        const __mmask16 mask = lead - k >= 16 ? 0xFFFF : (__mmask16)((1u << (lead - k)) - 1);
        __m512 value = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(mask, w + k)));
        for (int r = 0; r < rows; r++) {
            total[r][0] = _mm512_fmadd_ps(value, _mm512_maskz_loadu_ps(mask, x + r * n_in + k), total[r][0]);
        }
    }
    for (; j + 64 <= n_in; j += 64) {
        _mm_prefetch((const char *)(w + j) + AHEAD, _MM_HINT_T0);
        for (int k = 0; k < 4; k++) {
            __m512i whole = _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(w + j + 16 * k)));
            __m512 value = _mm512_cvtepi32_ps(whole);
            for (int r = 0; r < rows; r++) {
                __m512 y = _mm512_loadu_ps(x + r * n_in + j + 16 * k);
                total[r][k & 1] = _mm512_fmadd_ps(value, y, total[r][k & 1]);
            }
        }
    }
    for (int r = 0; r < rows; r++) sums[r] = _mm512_reduce_add_ps(_mm512_add_ps(total[r][0], total[r][1]));
#elif defined(__AVX2__) && defined(__FMA__)
    __m256 total[MOST_ROWS];
    for (int r = 0; r < rows; r++) total[r] = _mm256_setzero_ps();
    for (; j + 8 <= n_in; j += 8) {
        if (j % 64 == 0) _mm_prefetch((const char *)(w + j) + AHEAD, _MM_HINT_T0);
        __m256 value = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(w + j))));
        for (int r = 0; r < rows; r++) {
            total[r] = _mm256_fmadd_ps(value, _mm256_loadu_ps(x + r * n_in + j), total[r]);
        }
    }
    for (int r = 0; r < rows; r++) {
        float lanes[8];
        _mm256_storeu_ps(lanes, total[r]);
        for (int k = 0; k < 8; k++) sums[r] += lanes[k];
    }
#endif
    for (; j < n_in; j++)
        for (int r = 0; r < rows; r++) sums[r] += (float)w[j] * x[r * n_in + j];
}

/* y [rows, n_out] = x (w scale)^T + bias; x, bias (or null) and y in one format, `room` for rows * n_in float32. A
 * weight row is read from memory once for all rows of x. */
void vita_int8_product(const int8_t *w, const uint16_t *w_scale, const void *x, const void *bias, void *y, float *room,
                       int64_t rows, int64_t n_out, int64_t n_in, int64_t half) {
    for (int64_t k = 0; k < rows * n_in; k++) room[k] = get(x, k, (int)half);
#pragma omp parallel for schedule(static)
    for (int64_t o = 0; o < n_out; o++) {
        const int8_t *row = w + o * n_in;
        float sums[MOST_ROWS], unit = wide(w_scale[o]), add = bias ? get(bias, o, (int)half) : 0;
        for (int64_t r = 0; r < rows;) {
            const float *from = room + r * n_in;
            int64_t taken;
            SOME_ROWS(rows - r, taken, dots(row, from, sums, n_in, ROWS))
            for (int64_t k = 0; k < taken; k++) put(y, (r + k) * n_out + o, unit * sums[k] + add, (int)half);
            r += taken;
        }
    }
}

/* Weights widened to bfloat16 [n_out, n_in], for products with many rows. */
void vita_int8_widen(const int8_t *w, const uint16_t *w_scale, uint16_t *out, int64_t n_out, int64_t n_in) {
#pragma omp parallel for schedule(static)
    for (int64_t o = 0; o < n_out; o++) {
        const int8_t *from = w + o * n_in;
        const float unit = wide(w_scale[o]);
#if defined(__AVX512BW__) && defined(__AVX512VL__)
        scaled(from, unit, out + o * n_in, n_in);
#else
        for (int64_t j = 0; j < n_in; j++) out[o * n_in + j] = narrow(unit * (float)from[j]);
#endif
    }
}
