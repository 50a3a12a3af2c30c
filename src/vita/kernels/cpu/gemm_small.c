/* Products of a few rows with bfloat16 or eight-bit weights on a CPU (requests that decode together), with AVX-512's
 * products of pairs: whole numbers up to 127 are exact in bfloat16. Built as "not there" for processors without them.
 *
 * Every weight is read once, as with one row, but x no longer lies in the nearest cache, and would be fetched anew for
 * every weight row. So they are taken in panels: three at a time, and along all of a panel only as far as x fits into
 * that cache, while the next panel is asked for in the order in which it lies. What a request gets does not depend on
 * how many others there are.
 */
#include <omp.h>
#include "floats.h"
#include "rows.h"
#include "vectors.h"

#if defined(__AVX512BF16__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#define TOGETHER 3        /* weight rows: their sums with eight rows of x fill the registers */
#define MOST_TRIPLES 8    /* of a panel */
#define PANEL (256 << 10) /* bytes: this one, the next and x share the second cache */
#define NEAR (16 << 10)   /* bytes of x that are gone along at a time */

/* Weights [n_out, n_in] of `bytes` each: two of bfloat16, one of whole numbers with a scale a row. */
typedef struct {
    const char *at;
    const uint16_t *scales;
    int64_t n_out, n_in, bytes;
} Weights;

/* Adds `count` values of each row, at most 32, to the sums of `channels` weight rows with `rows` rows of x. */
static inline __attribute__((always_inline)) void add_some(
    __m512 total[TOGETHER][MOST_ROWS], const char *w, const uint16_t *x, int64_t n_in, int64_t count, const int bytes,
    const int channels, const int rows) {
    const __mmask32 there = count < 32 ? (__mmask32)((1u << count) - 1) : 0xFFFFFFFF;
    __m512bh weight[TOGETHER];
    for (int c = 0; c < channels; c++) weight[c] = halves_of(w + c * n_in * bytes, there, bytes);
    for (int r = 0; r < rows; r++) {
        const __m512bh row = (__m512bh)_mm512_maskz_loadu_epi16(there, x + r * n_in);
        for (int c = 0; c < channels; c++) total[c][r] = _mm512_dpbf16_ps(total[c][r], weight[c], row);
    }
}

/* How many weights lie before the first that begins a line, or half of one: 32 of them. */
static inline int64_t before_line(const char *at, int64_t bytes) {
    return (int64_t)(-(uintptr_t)at & (uintptr_t)(32 * bytes - 1)) / bytes;
}

/* Goes along `channels` weight rows, which begin equally far from a line, and `rows` rows of x from `start` to `end`,
 * and adds to their sums. What lies from `next` on is asked for meanwhile. */
static inline __attribute__((always_inline)) void go_along(
    const char *w, const uint16_t *x, int64_t n_in, int64_t start, int64_t end, const char *next,
    __m512 sums[TOGETHER][MOST_ROWS], const int bytes, const int channels, const int rows) {
    __m512 total[TOGETHER][MOST_ROWS];
    for (int c = 0; c < channels; c++)
        for (int r = 0; r < rows; r++) total[c][r] = start ? sums[c][r] : _mm512_setzero_ps();
    const int64_t off = before_line(w + start * bytes, bytes);
    int64_t j = start;
    if (off) {
        add_some(total, w + j * bytes, x + j, n_in, off < end - j ? off : end - j, bytes, channels, rows);
        j += off;
    }
    for (; j + 64 / bytes <= end; j += 64 / bytes, next += 64 * channels) {
        for (int c = 0; c < channels; c++) _mm_prefetch(next + 64 * c, _MM_HINT_T0);
        for (int k = 0; k < 64 / bytes; k += 32)
            add_some(total, w + (j + k) * bytes, x + j + k, n_in, 32, bytes, channels, rows);
    }
    for (int64_t here; j < end; j += here) {
        here = end - j < 32 ? end - j : 32;
        add_some(total, w + j * bytes, x + j, n_in, here, bytes, channels, rows);
    }
    for (int c = 0; c < channels; c++)
        for (int r = 0; r < rows; r++) sums[c][r] = total[c][r];
}

/* `count` sums of each of `channels` weight rows from `first` on to where they belong in y. */
static void finish(const Weights *w, __m512 sums[TOGETHER][MOST_ROWS], const uint16_t *bias, uint16_t *y, int64_t first,
                   int64_t channels, int64_t count) {
    for (int64_t c = first; c < first + channels; c++) {
        const float unit = w->scales ? wide(w->scales[c]) : 1, add = bias ? wide(bias[c]) : 0;
        for (int64_t r = 0; r < count; r++)
            y[r * w->n_out + c] = narrow(unit * _mm512_reduce_add_ps(sums[c - first][r]) + add);
    }
}

/* How far so many rows of x fit into the nearest cache: whole lines of values. */
static int64_t reach(int64_t rows) { return NEAR / (rows < MOST_ROWS ? rows : MOST_ROWS) / 64 * 32; }

/* The weight rows from `first` to `end`, three together if they begin alike. */
static inline __attribute__((always_inline)) void panel(
    const Weights *w, const uint16_t *x, const uint16_t *bias, uint16_t *y, int64_t rows, int64_t first, int64_t end,
    const int bytes) {
    const int64_t n_in = w->n_in, size = n_in * bytes;
    const int64_t triples = n_in % 32 == 0 ? (end - first) / TOGETHER : 0, rest = first + triples * TOGETHER;
    __m512 sums[MOST_TRIPLES][TOGETHER][MOST_ROWS];
    for (int64_t r = 0, taken = 0; r < rows; r += taken) {
        const int64_t lead = before_line(w->at, bytes), step = reach(rows - r);
        const uint16_t *from = x + r * n_in;
        const char *next = w->at + end * size;
        for (int64_t start = 0, stop; start < n_in && triples; start = stop) {
            stop = start + step + (start ? 0 : lead) < n_in ? start + step + (start ? 0 : lead) : n_in;
            for (int64_t t = 0; t < triples; t++, next += TOGETHER * bytes * (stop - start)) {
                const char *at = w->at + (first + t * TOGETHER) * size;
                SOME_ROWS(rows - r, taken, go_along(at, from, n_in, start, stop, next, sums[t], bytes, TOGETHER, ROWS))
            }
        }
        for (int64_t t = 0; t < triples; t++)
            finish(w, sums[t], bias, y + r * w->n_out, first + t * TOGETHER, TOGETHER, taken);
        for (int64_t o = rest; o < end; o++) {
            const char *at = w->at + o * size;
            SOME_ROWS(rows - r, taken, go_along(at, from, n_in, 0, n_in, at, sums[0], bytes, 1, ROWS))
            finish(w, sums[0], bias, y + r * w->n_out, o, 1, taken);
        }
    }
}

/* Rows up to which this is faster than what else there is. */
#define MOST 16
#if defined(__AMX_TILE__) /* PyTorch multiplies whole tiles of bfloat16 */
int vita_most_bf16_rows(void) { return 0; }
#else
int vita_most_bf16_rows(void) { return MOST; }
#endif
int vita_most_int8_rows(void) { return MOST; }

/* y [rows, n_out] = x w^T + bias, all in bfloat16, or weights in whole numbers with `scales` [n_out]; bias may be
 * null. */
void vita_few_rows(const void *w, const uint16_t *scales, const uint16_t *x, const uint16_t *bias, uint16_t *y,
                   int64_t rows, int64_t n_out, int64_t n_in) {
    const Weights all = {w, scales, n_out, n_in, scales ? 1 : 2};
    const int64_t share = n_out / (TOGETHER * 4 * omp_get_max_threads()), most = PANEL / (all.bytes * TOGETHER * n_in);
    int64_t triples = reach(rows) >= n_in ? 1 : share < most ? share : most;
    triples = triples < 1 ? 1 : triples > MOST_TRIPLES ? MOST_TRIPLES : triples;
    const int64_t step = triples * TOGETHER;
#pragma omp parallel for schedule(static)
    for (int64_t p = 0; p < (n_out + step - 1) / step; p++) {
        const int64_t first = p * step, end = first + step < n_out ? first + step : n_out;
        if (scales) panel(&all, x, bias, y, rows, first, end, 1);
        else panel(&all, x, bias, y, rows, first, end, 2);
    }
}
#else
int vita_most_bf16_rows(void) { return 0; }
int vita_most_int8_rows(void) { return 0; }
void vita_few_rows(void) {}
#endif
