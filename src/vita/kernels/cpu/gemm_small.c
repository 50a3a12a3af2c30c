/* Small-M GEMM (2 to 16 rows of x: requests that decode together) with bfloat16 or int8 weights, using AVX-512 BF16
 * dot products. int8 values are exact in bfloat16. Elsewhere vita_gemm_small_max_rows_* return 0.
 *
 * Every weight is read from memory once. With several rows, x no longer fits into L1 and would be read again from L2
 * for every weight row. So the kernel blocks over output channels and over K: it processes N_TILE channels at a time,
 * all channels of a block along one L1-sized slice of K before the next slice, and prefetches the next block
 * sequentially. The result of a row does not depend on the other rows.
 */
#include "floats.h"
#include "rows.h"
#include "threads.h"
#include "vectors.h"

#if defined(__AVX512BF16__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#define N_TILE 3                  /* output channels whose accumulators, with 8 rows of x, fill the registers */
#define MAX_N_TILES 8             /* tiles of a block */
#define N_BLOCK_BYTES (256 << 10) /* of weights: a block, the next one and x share L2 */
#define L1_BYTES (16 << 10)       /* of a slice of x */
#define PREFETCH_BYTES 4096       /* ahead in each weight row of `stream` */
#define STREAM_VALUES 20000       /* of x, at most, for `stream`: they are read from L1 again and again */

/* Weights [n_out, n_in]: bfloat16 (bytes = 2), or int8 with one scale per row (bytes = 1). */
typedef struct {
    const char *at;
    const uint16_t *scales;
    int64_t n_out, n_in, bytes;
#if defined(__AVX512VBMI__)
    Int7Table table;
#endif
} Weights;

/* Adds `count` (at most 32) products of each row to the accumulators of `channels` weight rows and `rows` rows of x. */
static inline __attribute__((always_inline)) void add_products(
    __m512 acc[N_TILE][MAX_ROWS], const char *w, int64_t apart, const uint16_t *x, int64_t n_in, int64_t count,
    const int bytes, const int channels, const int rows) {
    const __mmask32 mask = count < 32 ? (__mmask32)((1u << count) - 1) : 0xFFFFFFFF;
    __m512bh weight[N_TILE];
    for (int c = 0; c < channels; c++) weight[c] = load_as_bf16x32(w + c * apart, mask, bytes);
    for (int r = 0; r < rows; r++) {
        const __m512bh row = (__m512bh)_mm512_maskz_loadu_epi16(mask, x + r * n_in);
        for (int c = 0; c < channels; c++) acc[c][r] = _mm512_dpbf16_ps(acc[c][r], weight[c], row);
    }
}

#if defined(__AVX512VBMI__)
/* As add_products, for 64 int8 weights a row. */
static inline __attribute__((always_inline)) void add_int8_products(
    __m512 acc[N_TILE][MAX_ROWS], const char *w, int64_t apart, const uint16_t *x, int64_t n_in, const Int7Table *table,
    const int channels, const int rows) {
    __m512bh weight[N_TILE][2], row[2];
    for (int c = 0; c < channels; c++) int8x64_to_bf16(_mm512_loadu_si512(w + c * apart), table, weight[c]);
    for (int r = 0; r < rows; r++) {
        load_bf16x64_split(x + r * n_in, row);
        for (int half = 0; half < 2; half++)
            for (int c = 0; c < channels; c++) acc[c][r] = _mm512_dpbf16_ps(acc[c][r], weight[c][half], row[half]);
    }
}
#endif

/* Weights before the first address aligned to 32 weights (64 bytes of bfloat16, 32 of int8). */
static inline int64_t until_aligned(const char *at, int64_t bytes) {
    return (int64_t)(-(uintptr_t)at & (uintptr_t)(32 * bytes - 1)) / bytes;
}

/* Accumulates `channels` weight rows, `apart` bytes from each other, times `rows` rows of x over K from `start` to
 * `end`. All weight rows have the same alignment. Prefetches from `next` on, or with `ahead` in each weight row. */
static inline __attribute__((always_inline)) void accumulate(
    const Weights *all, const char *w, int64_t apart, const uint16_t *x, int64_t n_in, int64_t start, int64_t end,
    const char *next, __m512 sums[N_TILE][MAX_ROWS], const int bytes, const int channels, const int rows,
    const int ahead) {
    __m512 acc[N_TILE][MAX_ROWS];
    for (int c = 0; c < channels; c++)
        for (int r = 0; r < rows; r++) acc[c][r] = start ? sums[c][r] : _mm512_setzero_ps();
    const int64_t lead = until_aligned(w + start * bytes, bytes);
    int64_t j = start;
    if (lead) {
        add_products(acc, w + j * bytes, apart, x + j, n_in, lead < end - j ? lead : end - j, bytes, channels, rows);
        j += lead;
    }
    for (; j + 64 / bytes <= end; j += 64 / bytes) {
        for (int c = 0; c < channels; c++)
            _mm_prefetch(ahead ? w + c * apart + j * bytes + PREFETCH_BYTES : next + 64 * c, _MM_HINT_T0);
        if (!ahead) next += 64 * channels;
#if defined(__AVX512VBMI__)
        if (bytes == 1) {
            add_int8_products(acc, w + j, apart, x + j, n_in, &all->table, channels, rows);
            continue;
        }
#endif
        for (int k = 0; k < 64 / bytes; k += 32)
            add_products(acc, w + (j + k) * bytes, apart, x + j + k, n_in, 32, bytes, channels, rows);
    }
    for (int64_t count; j < end; j += count) {
        count = end - j < 32 ? end - j : 32;
        add_products(acc, w + j * bytes, apart, x + j, n_in, count, bytes, channels, rows);
    }
    for (int c = 0; c < channels; c++)
        for (int r = 0; r < rows; r++) sums[c][r] = acc[c][r];
}

/* Reduces the accumulators of `channels` channels, `apart` channels from each other, and stores `count` rows of y. */
static void store_sums(const Weights *w, __m512 sums[N_TILE][MAX_ROWS], const uint16_t *bias, uint16_t *y,
                       int64_t first, int64_t channels, int64_t apart, int64_t count) {
    for (int64_t k = 0, c = first; k < channels; k++, c += apart) {
        const float scale = w->scales ? bf16_to_f32(w->scales[c]) : 1, add = bias ? bf16_to_f32(bias[c]) : 0;
        for (int64_t r = 0; r < count; r++)
            y[r * w->n_out + c] = f32_to_bf16(scale * _mm512_reduce_add_ps(sums[k][r]) + add);
    }
}

/* Length of a slice of K for which `rows` rows of x fit into L1_BYTES, a multiple of a cache line. */
static int64_t k_block(int64_t rows) { return L1_BYTES / (rows < MAX_ROWS ? rows : MAX_ROWS) / 64 * 32; }

/* Computes output channels `first` to `end`, N_TILE at a time if their weight rows have the same alignment. */
static inline __attribute__((always_inline)) void channel_block(
    const Weights *w, const uint16_t *x, const uint16_t *bias, uint16_t *y, int64_t rows, int64_t first, int64_t end,
    const int bytes) {
    const int64_t n_in = w->n_in, size = n_in * bytes;
    const int64_t tiles = n_in % 32 == 0 ? (end - first) / N_TILE : 0, rest = first + tiles * N_TILE;
    __m512 sums[MAX_N_TILES][N_TILE][MAX_ROWS];
    for (int64_t r = 0, taken = 0; r < rows; r += taken) {
        const int64_t lead = until_aligned(w->at, bytes), step = k_block(rows - r);
        const uint16_t *from = x + r * n_in;
        const char *next = w->at + end * size;
        for (int64_t start = 0, stop; start < n_in && tiles; start = stop) {
            stop = start + step + (start ? 0 : lead) < n_in ? start + step + (start ? 0 : lead) : n_in;
            for (int64_t t = 0; t < tiles; t++, next += N_TILE * bytes * (stop - start)) {
                const char *at = w->at + (first + t * N_TILE) * size;
                DISPATCH_ROWS(rows - r, taken,
                              accumulate(w, at, size, from, n_in, start, stop, next, sums[t], bytes, N_TILE, ROWS, 0))
            }
        }
        for (int64_t t = 0; t < tiles; t++)
            store_sums(w, sums[t], bias, y + r * w->n_out, first + t * N_TILE, N_TILE, 1, taken);
        for (int64_t o = rest; o < end; o++) {
            const char *at = w->at + o * size;
            DISPATCH_ROWS(rows - r, taken, accumulate(w, at, size, from, n_in, 0, n_in, at, sums[0], bytes, 1, ROWS, 0))
            store_sums(w, sums[0], bias, y + r * w->n_out, o, 1, 1, taken);
        }
    }
}

/* Computes N_TILE output channels from as many parts of the weights, `apart` channels from each other: a core prefetches
 * along several streams of addresses at once (see gemv_int4.c). */
static inline __attribute__((always_inline)) void stream(
    const Weights *w, const uint16_t *x, const uint16_t *bias, uint16_t *y, int64_t rows, int64_t first, int64_t apart,
    const int bytes) {
    const int64_t size = w->n_in * bytes;
    const char *at = w->at + first * size;
    __m512 sums[N_TILE][MAX_ROWS];
    for (int64_t r = 0, taken; r < rows; r += taken) {
        DISPATCH_ROWS(rows - r, taken,
                      accumulate(w, at, apart * size, x + r * w->n_in, w->n_in, 0, w->n_in, NULL, sums, bytes, N_TILE,
                                 ROWS, 1))
        store_sums(w, sums, bias, y + r * w->n_out, first, N_TILE, apart, taken);
    }
}

/* Largest number of rows for which this kernel is faster than the alternatives. With AMX, PyTorch's bfloat16 GEMM is
 * faster. */
#define MAX_GEMM_ROWS 16
#if defined(__AMX_TILE__)
int64_t vita_gemm_small_max_rows_bf16(void) { return 0; }
#else
int64_t vita_gemm_small_max_rows_bf16(void) { return MAX_GEMM_ROWS; }
#endif
int64_t vita_gemm_small_max_rows_int8(void) { return MAX_GEMM_ROWS; }

/* y [rows, n_out] = x [rows, n_in] w [n_out, n_in]^T + bias [n_out], all bfloat16; with `scales` [n_out], w is int8.
 * `bias` can be null. */
void vita_gemm_small(const void *w, const uint16_t *scales, const uint16_t *x, const uint16_t *bias, uint16_t *y,
                     int64_t rows, int64_t n_out, int64_t n_in) {
    Weights all = {.at = w, .scales = scales, .n_out = n_out, .n_in = n_in, .bytes = scales ? 1 : 2};
#if defined(__AVX512VBMI__)
    if (scales) all.table = int7_table();
#endif
    const int64_t share = n_out / (N_TILE * 4 * omp_get_max_threads());
    const int64_t most = N_BLOCK_BYTES / (all.bytes * N_TILE * n_in);
    int64_t tiles = k_block(rows) >= n_in ? 1 : share < most ? share : most;
    tiles = tiles < 1 ? 1 : tiles > MAX_N_TILES ? MAX_N_TILES : tiles;
    const int64_t step = tiles * N_TILE;
    int64_t streamed = 0; /* output channels that `stream` computes */
    if (rows * n_in <= STREAM_VALUES && n_in % 32 == 0) {
        const int64_t apart = n_out / N_TILE;
        streamed = apart * N_TILE;
#pragma omp parallel for schedule(static)
        for (int64_t c = 0; c < apart; c++) {
            if (scales) stream(&all, x, bias, y, rows, c, apart, 1);
            else stream(&all, x, bias, y, rows, c, apart, 2);
        }
    }
#pragma omp parallel for schedule(static) if (n_out - streamed > step)
    for (int64_t b = 0; b < (n_out - streamed + step - 1) / step; b++) {
        const int64_t first = streamed + b * step, end = first + step < n_out ? first + step : n_out;
        if (scales) channel_block(&all, x, bias, y, rows, first, end, 1);
        else channel_block(&all, x, bias, y, rows, first, end, 2);
    }
}
#else
int64_t vita_gemm_small_max_rows_bf16(void) { return 0; }
int64_t vita_gemm_small_max_rows_int8(void) { return 0; }
void vita_gemm_small(void) {}
#endif
