/* A dilated convolution along rows in float32, for the codec's generator. Plain C for any processor, with the vector
 * types of GCC and clang.
 *
 * It is a matrix product whose inner dimension is taps times input channels. Panels of weights are copied so that they
 * stay in L1 while they are multiplied with a chunk of rows, whose sums stay in L2. The result of a row depends neither
 * on the number of rows nor on that of threads.
 */
#include "vectors_f32.h"

#define WIDTH 2 /* vectors of output channels in a tile */
#if LANES == 16
#define ROWS 12 /* rows of a tile: its sums, two weights and a value of x fill the registers */
#define FEW 4   /* of a tile at the end of a chunk */
#else
#define ROWS 6
#define FEW 2
#endif
#define DEPTH 128 /* of a panel, in weights of an output channel: 16 KiB with 16 lanes */
#define PREFETCH 32 /* ahead, in weights of an output channel */
#define CHUNK (40 * ROWS)

typedef struct {
    const float *x, *w, *bias;
    float *y;
    int64_t rows, n_in, n_out, taps, dilation;
} Conv;

typedef struct {
    Floats values[DEPTH][WIDTH];
    int64_t begin, end; /* of the inner dimension */
} Panel;

/* Adds the products of a panel to `count` rows of y from `row` on, and output channels from `channel` on. The first
 * panel begins with the bias. `count` is a compile-time constant. */
static inline __attribute__((always_inline)) void multiply_tile(const Conv *conv, const Panel *panel, int64_t row,
                                                                int64_t channel, const int count) {
    const int64_t n_in = conv->n_in;
    float *y = conv->y + row * conv->n_out + channel;
    Floats sums[ROWS][WIDTH];
#pragma GCC unroll 16
    for (int r = 0; r < count; r++)
#pragma GCC unroll 2
        for (int v = 0; v < WIDTH; v++)
            sums[r][v] = load_floats((panel->begin ? y + r * conv->n_out : conv->bias + channel) + v * LANES);
    for (int64_t k = panel->begin; k < panel->end;) {
        const int64_t tap = k / n_in, from = k - tap * n_in;
        const int64_t rest = panel->end - k, size = n_in - from < rest ? n_in - from : rest;
        const float *x = conv->x + (row + tap * conv->dilation) * n_in + from;
        const Floats(*weights)[WIDTH] = panel->values + (k - panel->begin);
        for (int64_t j = 0; j < size; j++)
#pragma GCC unroll 16
            for (int r = 0; r < count; r++)
#pragma GCC unroll 2
                for (int v = 0; v < WIDTH; v++) sums[r][v] += x[r * n_in + j] * weights[j][v];
        k += size;
    }
#pragma GCC unroll 16
    for (int r = 0; r < count; r++)
#pragma GCC unroll 2
        for (int v = 0; v < WIDTH; v++) *(Floats *)(y + r * conv->n_out + v * LANES) = sums[r][v];
}

/* Rows `begin` to `end` of y, and the output channels of a tile from `channel` on. */
static void multiply_chunk(const Conv *conv, int64_t begin, int64_t end, int64_t channel) {
    const int64_t depth = conv->taps * conv->n_in;
    Panel panel;
    for (panel.begin = 0; panel.begin < depth; panel.begin = panel.end) {
        panel.end = panel.begin + DEPTH < depth ? panel.begin + DEPTH : depth;
        for (int64_t k = panel.begin; k < panel.end; k++)
            for (int v = 0; v < WIDTH; v++) {
                const float *w = conv->w + k * conv->n_out + channel + v * LANES;
                __builtin_prefetch(w + PREFETCH * conv->n_out); /* lines that are far apart */
                panel.values[k - panel.begin][v] = load_floats(w);
            }
        int64_t row = begin;
        for (; row + ROWS <= end; row += ROWS) multiply_tile(conv, &panel, row, channel, ROWS);
        for (; row + FEW <= end; row += FEW) multiply_tile(conv, &panel, row, channel, FEW);
        for (; row < end; row++) multiply_tile(conv, &panel, row, channel, 1);
    }
}

static void multiply(const Conv *conv) {
    const int64_t tiles = conv->n_out / (WIDTH * LANES), chunks = (conv->rows + CHUNK - 1) / CHUNK;
#pragma omp for schedule(dynamic)
    for (int64_t task = 0; task < tiles * chunks; task++) {
        const int64_t begin = task / tiles * CHUNK, end = begin + CHUNK < conv->rows ? begin + CHUNK : conv->rows;
        multiply_chunk(conv, begin, end, task % tiles * WIDTH * LANES);
    }
}

/* Output channels must be a multiple of this. */
int64_t vita_conv_f32_channels(void) { return WIDTH * LANES; }

/* Feeds n rows to a stream whose last `kept` rows are in `tail`, and then `zeros` rows of zeros. Values under zero are
 * multiplied by `slope` first. Writes the rows of y that are complete,
 *
 *     y [rows, n_out] = bias [n_out] + the sum over taps of the rows from tap * dilation on, times w [taps, n_in, n_out],
 *
 * and moves the last rows, at most (taps - 1) * dilation, to `tail`. `workspace` has kept + n + zeros rows.
 * Addresses of empty arrays can be null. */
void vita_conv_stream_f32(const float *x, const float *w, const float *bias, float *tail, float *y, float *workspace,
                          int64_t n, int64_t kept, int64_t zeros, int64_t n_in, int64_t n_out, int64_t taps,
                          int64_t dilation, double slope) {
    const int64_t span = (taps - 1) * dilation, total = kept + n + zeros, moved = total < span ? total : span;
    const Conv conv = {workspace, w, bias, y, total > span ? total - span : 0, n_in, n_out, taps, dilation};
    const float factor = (float)slope;
    float *activated = workspace + kept * n_in;
    if (kept) memcpy(workspace, tail, kept * n_in * sizeof(float));
    if (zeros) memset(activated + n * n_in, 0, zeros * n_in * sizeof(float));
#pragma omp parallel
    {
#pragma omp for schedule(static)
        for (int64_t r = 0; r < n; r++)
            for (int64_t k = r * n_in; k < (r + 1) * n_in; k++) activated[k] = x[k] < 0.0f ? x[k] * factor : x[k];
        multiply(&conv);
    }
    if (moved) memcpy(tail, workspace + (total - moved) * n_in, moved * n_in * sizeof(float));
}
