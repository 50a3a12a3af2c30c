/* The product of a few rows with bfloat16 weights (requests decoded together), with AVX-512's products of pairs.
 *
 * Built as "not there" for processors without them, and for those that multiply whole tiles (AMX), where PyTorch's own
 * is faster. As for one row (bf16.c) memory is what counts: a weight is read once for all rows of x.
 */
#include "floats.h"
#include "rows.h"

#if defined(__AVX512BF16__) && defined(__AVX512BW__) && !defined(__AMX_TILE__)
#include <immintrin.h>

#define AHEAD 4096 /* bytes asked for before they are needed */

/* Two weight rows times `rows` rows of x (a constant where this is inlined), as sums [2][MOST_ROWS]. Loads of weights
 * are brought onto cache lines, and those of x cross them instead. */
static inline __attribute__((always_inline)) void dots(
    const uint16_t *w, int64_t stride, const uint16_t *x, float *sums, int64_t n_in, const int rows) {
    __m512 one[MOST_ROWS], other[MOST_ROWS];
    for (int r = 0; r < rows; r++) one[r] = other[r] = _mm512_setzero_ps();
    int64_t j = 0, step = (int64_t)(-(uintptr_t)w & 63) / 2;
    if (step == 0) step = 32;
    while (j < n_in) {
        const int64_t left = n_in - j, here = left < step ? left : step;
        const __mmask32 mask = here == 32 ? 0xFFFFFFFFu : (__mmask32)((1u << here) - 1);
        const __m512bh a = (__m512bh)_mm512_maskz_loadu_epi16(mask, w + j);
        const __m512bh b = (__m512bh)_mm512_maskz_loadu_epi16(mask, w + stride + j);
        _mm_prefetch((const char *)(w + j) + AHEAD, _MM_HINT_T0);
        _mm_prefetch((const char *)(w + stride + j) + AHEAD, _MM_HINT_T0);
        for (int r = 0; r < rows; r++) {
            const __m512bh y = (__m512bh)_mm512_maskz_loadu_epi16(mask, x + r * n_in + j);
            one[r] = _mm512_dpbf16_ps(one[r], a, y);
            other[r] = _mm512_dpbf16_ps(other[r], b, y);
        }
        j += here;
        step = 32;
    }
    for (int r = 0; r < rows; r++) {
        sums[r] = _mm512_reduce_add_ps(one[r]);
        sums[MOST_ROWS + r] = _mm512_reduce_add_ps(other[r]);
    }
}

int vita_bf16_has_rows(void) { return 1; }

/* y [rows, n_out] = x w^T + bias, all bfloat16; bias may be null. */
void vita_bf16_rows(const uint16_t *w, const uint16_t *x, const uint16_t *bias, uint16_t *y, int64_t rows,
                    int64_t n_out, int64_t n_in) {
#pragma omp parallel for schedule(static)
    for (int64_t o = 0; o < n_out; o += 2) {
        const int64_t pair = o + 1 < n_out; /* the last weight row may stand alone: it is taken twice */
        const uint16_t *at = w + o * n_in;
        float sums[2 * MOST_ROWS];
        for (int64_t r = 0; r < rows;) {
            const uint16_t *from = x + r * n_in;
            int64_t taken;
            SOME_ROWS(rows - r, taken, dots(at, pair * n_in, from, sums, n_in, ROWS))
            for (int64_t k = 0; k < taken; k++)
                for (int64_t c = 0; c <= pair; c++)
                    y[(r + k) * n_out + o + c] = narrow(sums[c * MOST_ROWS + k] + (bias ? wide(bias[o + c]) : 0));
            r += taken;
        }
    }
}
#else
int vita_bf16_has_rows(void) { return 0; }
void vita_bf16_rows(void) {}
#endif
