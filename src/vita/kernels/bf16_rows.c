/* Products of a few rows with bfloat16 weights on a CPU (requests that decode together), with AVX-512's products of
 * pairs. Built as "not there" for processors without them, and for those that multiply whole tiles (AMX).
 *
 * Every weight is read once, as with one row (bf16.c), but x no longer lies in the nearest cache, and would be fetched
 * anew for every weight row. So they are taken in panels: three at a time, and along all of a panel only as far as x
 * fits into that cache, while the next panel is asked for in the order in which it lies. What a request gets does not
 * depend on how many others there are.
 */
#include <omp.h>
#include "floats.h"
#include "rows.h"

#if defined(__AVX512BF16__) && defined(__AVX512BW__) && !defined(__AMX_TILE__)
#include <immintrin.h>

#define TOGETHER 3        /* weight rows: their sums with eight rows of x fill the registers */
#define MOST_TRIPLES 8    /* of a panel */
#define PANEL (256 << 10) /* bytes: this one, the next and x share the second cache */
#define NEAR (16 << 10)   /* bytes of x that are gone along at a time */

/* Adds `count` values of each row, at most a line, to the sums of `channels` weight rows with `rows` rows of x. */
static inline __attribute__((always_inline)) void line(__m512 total[TOGETHER][MOST_ROWS], const uint16_t *w,
                                                       const uint16_t *x, int64_t n_in, int64_t count,
                                                       const int channels, const int rows) {
    const __mmask32 there = count < 32 ? (__mmask32)((1u << count) - 1) : 0xFFFFFFFF;
    __m512bh weight[TOGETHER];
    for (int c = 0; c < channels; c++) weight[c] = (__m512bh)_mm512_maskz_loadu_epi16(there, w + c * n_in);
    for (int r = 0; r < rows; r++) {
        const __m512bh row = (__m512bh)_mm512_maskz_loadu_epi16(there, x + r * n_in);
        for (int c = 0; c < channels; c++) total[c][r] = _mm512_dpbf16_ps(total[c][r], weight[c], row);
    }
}

/* Goes along `channels` weight rows, which begin equally far from a line, and `rows` rows of x from `start` to `end`,
 * and adds to their sums. What lies from `next` on is asked for meanwhile. */
static inline __attribute__((always_inline)) void along(const uint16_t *w, const uint16_t *x, int64_t n_in,
                                                        int64_t start, int64_t end, const char *next,
                                                        __m512 sums[TOGETHER][MOST_ROWS], const int channels,
                                                        const int rows) {
    __m512 total[TOGETHER][MOST_ROWS];
    for (int c = 0; c < channels; c++)
        for (int r = 0; r < rows; r++) total[c][r] = start ? sums[c][r] : _mm512_setzero_ps();
    const int64_t off = (int64_t)(-(uintptr_t)(w + start) & 63) / 2;
    int64_t j = start;
    if (off) {
        line(total, w + j, x + j, n_in, off < end - j ? off : end - j, channels, rows);
        j += off;
    }
    for (; j + 32 <= end; j += 32, next += 64 * channels) {
        for (int c = 0; c < channels; c++) _mm_prefetch(next + 64 * c, _MM_HINT_T0);
        line(total, w + j, x + j, n_in, 32, channels, rows);
    }
    if (j < end) line(total, w + j, x + j, n_in, end - j, channels, rows);
    for (int c = 0; c < channels; c++)
        for (int r = 0; r < rows; r++) sums[c][r] = total[c][r];
}

/* `count` sums of each of `channels` weight rows from `first` on to where they belong in y. */
static void finish(__m512 sums[TOGETHER][MOST_ROWS], const uint16_t *bias, uint16_t *y, int64_t n_out, int64_t first,
                   int64_t channels, int64_t count) {
    for (int64_t c = 0; c < channels; c++) {
        const float add = bias ? wide(bias[first + c]) : 0;
        for (int64_t r = 0; r < count; r++) y[r * n_out + first + c] = narrow(_mm512_reduce_add_ps(sums[c][r]) + add);
    }
}

/* How far so many rows of x fit into the nearest cache: whole lines of values. */
static int64_t reach(int64_t rows) { return NEAR / (rows < MOST_ROWS ? rows : MOST_ROWS) / 64 * 32; }

/* The weight rows from `first` to `end` for several rows of x, three together if they begin alike. */
static void panel(const uint16_t *w, const uint16_t *x, const uint16_t *bias, uint16_t *y, int64_t rows, int64_t n_out,
                  int64_t n_in, int64_t first, int64_t end) {
    const int64_t triples = n_in % 32 == 0 ? (end - first) / TOGETHER : 0, rest = first + triples * TOGETHER;
    const int64_t size = (end - first) * n_in; /* of the next one, too */
    __m512 sums[MOST_TRIPLES][TOGETHER][MOST_ROWS];
    for (int64_t r = 0, taken = 0; r < rows; r += taken) {
        const uint16_t *from = x + r * n_in;
        const int64_t lead = (int64_t)(-(uintptr_t)w & 63) / 2 % 32;
        const char *next = (const char *)(w + first * n_in + size);
        const int64_t far = reach(rows - r);
        for (int64_t start = 0, stop; start < n_in && triples; start = stop) {
            stop = start + far + (start ? 0 : lead) < n_in ? start + far + (start ? 0 : lead) : n_in;
            for (int64_t t = 0; t < triples; t++, next += 2 * TOGETHER * (stop - start)) {
                const uint16_t *weight = w + (first + t * TOGETHER) * n_in;
                SOME_ROWS(rows - r, taken, along(weight, from, n_in, start, stop, next, sums[t], TOGETHER, ROWS))
            }
        }
        for (int64_t t = 0; t < triples; t++)
            finish(sums[t], bias, y + r * n_out, n_out, first + t * TOGETHER, TOGETHER, taken);
        for (int64_t o = rest; o < end; o++) {
            const uint16_t *weight = w + o * n_in;
            SOME_ROWS(rows - r, taken, along(weight, from, n_in, 0, n_in, (const char *)weight, sums[0], 1, ROWS))
            finish(sums[0], bias, y + r * n_out, n_out, o, 1, taken);
        }
    }
}

int vita_bf16_most_rows(void) { return 16; }

/* y [rows, n_out] = x w^T + bias, all bfloat16; bias may be null. */
void vita_bf16_rows(const uint16_t *w, const uint16_t *x, const uint16_t *bias, uint16_t *y, int64_t rows,
                    int64_t n_out, int64_t n_in) {
    const int64_t share = n_out / (TOGETHER * 4 * omp_get_max_threads()), most = PANEL / (2 * TOGETHER * n_in);
    int64_t triples = reach(rows) >= n_in ? 1 : share < most ? share : most;
    triples = triples < 1 ? 1 : triples > MOST_TRIPLES ? MOST_TRIPLES : triples;
    const int64_t step = triples * TOGETHER;
#pragma omp parallel for schedule(static)
    for (int64_t p = 0; p < (n_out + step - 1) / step; p++)
        panel(w, x, bias, y, rows, n_out, n_in, p * step, (p + 1) * step < n_out ? (p + 1) * step : n_out);
}
#else
int vita_bf16_most_rows(void) { return 1; }
void vita_bf16_rows(void) {}
#endif
