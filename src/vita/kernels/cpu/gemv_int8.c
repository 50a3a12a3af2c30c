/* GEMV with int8 weights for a few rows of x, float32 accumulation. Used for float32 x, and for bfloat16 x on
 * processors without the instructions of gemm_small.c.
 *
 * Each weight row has one scale. Weights are converted to float32 in registers and x is float32, so the products are
 * exact. Weight rows can start at any address; the values before the first cache line boundary are processed first, so
 * that all other loads are aligned.
 */
#include "floats.h"
#include "helpers.h"
#include "rows.h"
#include "vectors.h"
#if defined(__AVX2__)
#include <immintrin.h>
#endif

#define PREFETCH_BYTES 4096

/* Dot products of one weight row with `rows` rows of x. `rows` is a compile-time constant. */
static inline __attribute__((always_inline)) void dot_rows(const int8_t *w, const float *x, float *sums, int64_t n_in,
                                                           const int rows) {
    int64_t j = 0;
    for (int r = 0; r < rows; r++) sums[r] = 0;
#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__)
    __m512 acc[MAX_ROWS][2];
    for (int r = 0; r < rows; r++) acc[r][0] = acc[r][1] = _mm512_setzero_ps();
    const int64_t lead = (int64_t)(-(uintptr_t)w & 63); /* values before the first cache line boundary */
    for (int64_t k = 0; k < lead && lead <= n_in; k += 16, j = lead) {
        const __mmask16 mask = lead - k >= 16 ? 0xFFFF : (__mmask16)((1u << (lead - k)) - 1);
        __m512 weights = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(mask, w + k)));
        for (int r = 0; r < rows; r++) {
            acc[r][0] = _mm512_fmadd_ps(weights, _mm512_maskz_loadu_ps(mask, x + r * n_in + k), acc[r][0]);
        }
    }
    for (; j + 64 <= n_in; j += 64) {
        _mm_prefetch((const char *)(w + j) + PREFETCH_BYTES, _MM_HINT_T0);
        for (int k = 0; k < 4; k++) {
            __m512i integers = _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(w + j + 16 * k)));
            __m512 weights = _mm512_cvtepi32_ps(integers);
            for (int r = 0; r < rows; r++) {
                __m512 values = _mm512_loadu_ps(x + r * n_in + j + 16 * k);
                acc[r][k & 1] = _mm512_fmadd_ps(weights, values, acc[r][k & 1]);
            }
        }
    }
    for (int r = 0; r < rows; r++) sums[r] = _mm512_reduce_add_ps(_mm512_add_ps(acc[r][0], acc[r][1]));
#elif defined(__AVX2__) && defined(__FMA__)
    __m256 acc[MAX_ROWS];
    for (int r = 0; r < rows; r++) acc[r] = _mm256_setzero_ps();
    for (; j + 8 <= n_in; j += 8) {
        if (j % 64 == 0) _mm_prefetch((const char *)(w + j) + PREFETCH_BYTES, _MM_HINT_T0);
        __m256 weights = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(w + j))));
        for (int r = 0; r < rows; r++) {
            acc[r] = _mm256_fmadd_ps(weights, _mm256_loadu_ps(x + r * n_in + j), acc[r]);
        }
    }
    for (int r = 0; r < rows; r++) {
        float lanes[8];
        _mm256_storeu_ps(lanes, acc[r]);
        for (int k = 0; k < 8; k++) sums[r] += lanes[k];
    }
#endif
    for (; j < n_in; j++)
        for (int r = 0; r < rows; r++) sums[r] += (float)w[j] * x[r * n_in + j];
}

/* Workspace of vita_gemv_int8 in bytes: x as float32 [rows, n_in]. */
int64_t vita_gemv_int8_workspace(int64_t rows, int64_t n_in) { return rows * n_in * (int64_t)sizeof(float); }

/* See `Gemv`; x is float32. */
static void compute(const Gemv *gemv, void *y, int64_t first, int64_t last) {
    const int64_t rows = gemv->rows, n_in = gemv->n_in;
    const uint16_t *scales = gemv->w_scale;
    for (int64_t o = first; o < last; o++) {
        const int8_t *row = (const int8_t *)gemv->w + o * n_in;
        const float scale = bf16_to_f32(scales[o]);
        const float add = gemv->bias ? load_float(gemv->bias, o, (int)gemv->is_bf16) : 0;
        float sums[MAX_ROWS];
        for (int64_t r = 0; r < rows;) {
            const float *from = (const float *)gemv->x + r * n_in;
            int64_t taken;
            DISPATCH_ROWS(rows - r, taken, dot_rows(row, from, sums, n_in, ROWS))
            for (int64_t k = 0; k < taken; k++)
                store_float(y, (r + k) * gemv->n_out + o, scale * sums[k] + add, (int)gemv->is_bf16);
            r += taken;
        }
    }
}

/* y [rows, n_out] = x [rows, n_in] (w [n_out, n_in] * scales [n_out])^T + bias [n_out]. x, bias and y are float32, or
 * bfloat16 if `is_bf16`; `bias` can be null. Each weight row is read from memory once for all rows of x. */
void vita_gemv_int8(const int8_t *w, const uint16_t *scales, const void *x, const void *bias, void *y, float *workspace,
                    int64_t rows, int64_t n_out, int64_t n_in, int64_t is_bf16) {
    for (int64_t k = 0; k < rows * n_in; k++) workspace[k] = load_float(x, k, (int)is_bf16);
    const Gemv gemv = {compute, w, scales, bias, workspace, y, rows, n_out, n_in, is_bf16, n_out, 1, 0,
                       vita_gemv_int8_workspace(rows, n_in)};
    if (share_gemv(&gemv, n_out * n_in)) return;
#pragma omp parallel for schedule(static)
    for (int64_t o = 0; o < n_out; o++) compute(&gemv, y, o, o + 1);
}

/* out [n_out, n_in], bfloat16 = w [n_out, n_in] * scales [n_out]. */
void vita_dequantize_int8(const int8_t *w, const uint16_t *scales, uint16_t *out, int64_t n_out, int64_t n_in) {
#pragma omp parallel for schedule(static)
    for (int64_t o = 0; o < n_out; o++) {
        const int8_t *from = w + o * n_in;
        const float scale = bf16_to_f32(scales[o]);
#if defined(__AVX512BW__) && defined(__AVX512VL__)
        dequantize_int8_row(from, scale, out + o * n_in, n_in);
#else
        for (int64_t j = 0; j < n_in; j++) out[o * n_in + j] = f32_to_bf16(scale * (float)from[j]);
#endif
    }
}
