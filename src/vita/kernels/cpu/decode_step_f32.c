/* A decode step of a whole decoder in float32, from embeddings to logits, in one call: a small model computes a layer
 * in less time than Python needs to call its operations. Plain C for any processor, with the vector types of GCC and
 * clang.
 *
 * Weights are float32, bfloat16, or int8 with a scale for each output channel; the products are exact in float32. The
 * result of a row does not depend on the number of threads or on the other rows.
 */
#include "float32.h"
#include "floats.h"
#include "vectors_f32.h"
#include "weights.h"

#define CHANNELS 4           /* output channels of a tile, whose weights are read side by side */
#define ROWS 4               /* rows of x that a tile is multiplied with at a time */
#define CACHE_LINE 64        /* bytes */
#define PREFETCH_BYTES 4096
#define PARALLEL (1 << 18)   /* bytes of weights and products from which threads are worth their barrier */

typedef int32_t Integers __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int8_t Bytes __attribute__((vector_size(LANES), aligned(1), may_alias));

typedef struct {
    const float *attn_norm, *mlp_norm; /* [hidden] */
    Linear q, k, v, o, gate, up, down;
} Layer;

/* cos and sin are [positions, d]. */
typedef struct {
    const Layer *layers;
    const float *norm, *cos, *sin;
    Linear head;
    int64_t count, hidden, inner, heads, kv_heads, d;
    double eps;
} Decoder;

static inline int value_bytes(int64_t format) { return format == FLOAT32 ? 4 : format == BFLOAT16 ? 2 : 1; }

/* Value `at` of weights. */
static inline float load_one(const void *w, int64_t at, int64_t format) {
    if (format == FLOAT32) return ((const float *)w)[at];
    return format == BFLOAT16 ? bf16_to_f32(((const uint16_t *)w)[at]) : (float)((const int8_t *)w)[at];
}

/* Values `at` to `at + LANES` of weights. `format` is a compile-time constant. */
static inline __attribute__((always_inline)) Floats load_weights(const void *w, int64_t at, const int format) {
    if (format == FLOAT32) return load_floats((const float *)w + at);
    if (format == INT8) {
#if defined(__AVX512F__) /* GCC 12 has no good code for the conversion of bytes */
        return (Floats)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const void *)((const int8_t *)w + at))));
#else
        const Integers integers = __builtin_convertvector(*(const Bytes *)((const int8_t *)w + at), Integers);
        return __builtin_convertvector(integers, Floats);
#endif
    }
    return load_bf16((const uint16_t *)w + at);
}

/* sums [rows] += weights `at` to `at + LANES` times the same values of each row of x. */
static inline __attribute__((always_inline)) void add_products(const Linear *linear, const float *x, Floats *sums,
                                                               int64_t at, const int rows, const int format) {
    const Floats weights = load_weights(linear->w, at, format);
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++) sums[r] += weights * load_floats(x + r * linear->n_in);
}

/* y of `channels` output channels from `o` on and `rows` rows. `channels`, `rows` and `format` are constants. */
static inline __attribute__((always_inline)) void multiply_tile(const Linear *linear, const float *x, float *y,
                                                                int64_t o, const int channels, const int rows,
                                                                const int format) {
    const int64_t n = linear->n_in, whole = n / LANES * LANES;
    const int bytes = value_bytes(format), line = CACHE_LINE / bytes;
    Floats sums[CHANNELS][ROWS];
#pragma GCC unroll 8
    for (int c = 0; c < channels; c++)
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++) sums[c][r] = (Floats){0};
    int64_t j = 0;
    for (; rows == 1 && j + line <= n; j += line) /* bound by memory, which is read in whole lines */
#pragma GCC unroll 8
        for (int c = 0; c < channels; c++) {
            const int64_t at = (o + c) * n + j;
            __builtin_prefetch((const char *)linear->w + at * bytes + PREFETCH_BYTES);
#pragma GCC unroll 8
            for (int k = 0; k < line; k += LANES) add_products(linear, x + j + k, sums[c], at + k, rows, format);
        }
    for (; j < whole; j += LANES)
#pragma GCC unroll 8
        for (int c = 0; c < channels; c++) add_products(linear, x + j, sums[c], (o + c) * n + j, rows, format);
#pragma GCC unroll 8
    for (int c = 0; c < channels; c++)
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++) {
            float sum = sum_lanes(sums[c][r]);
            for (int64_t k = whole; k < n; k++) sum += load_one(linear->w, (o + c) * n + k, format) * x[r * n + k];
            if (format == INT8) sum *= bf16_to_f32(((const uint16_t *)linear->scale)[o + c]);
            if (linear->bias) sum += ((const float *)linear->bias)[o + c];
            y[r * linear->n_out + o + c] = sum;
        }
}

/* The same for any number of rows and all output channels. */
static inline __attribute__((always_inline)) void multiply_format(const Linear *linear, const float *x, float *y,
                                                                  int64_t rows, const int format) {
    const int64_t n_in = linear->n_in, n_out = linear->n_out, tiles = n_out / CHANNELS;
#pragma omp parallel for schedule(static) if (n_out * n_in * (value_bytes(format) + rows) >= PARALLEL)
    for (int64_t tile = 0; tile < tiles; tile++) {
        const int64_t o = tile * CHANNELS;
        int64_t r = 0;
        for (; r + ROWS <= rows; r += ROWS)
            multiply_tile(linear, x + r * n_in, y + r * n_out, o, CHANNELS, ROWS, format);
        for (; r < rows; r++) multiply_tile(linear, x + r * n_in, y + r * n_out, o, CHANNELS, 1, format);
    }
    for (int64_t o = tiles * CHANNELS; o < n_out; o++)
        for (int64_t r = 0; r < rows; r++) multiply_tile(linear, x + r * n_in, y + r * n_out, o, 1, 1, format);
}

static void multiply(const Linear *linear, const float *x, float *y, int64_t rows) {
    if (linear->format == INT8) multiply_format(linear, x, y, rows, INT8);
    else if (linear->format == BFLOAT16) multiply_format(linear, x, y, rows, BFLOAT16);
    else multiply_format(linear, x, y, rows, FLOAT32);
}

static void add(float *x, const float *y, int64_t n) {
    for (int64_t k = 0; k < n; k++) x[k] += y[k];
}

/* gate [n] = gate / (1 + e^-gate) * up. */
static void silu_mul(float *gate, const float *up, int64_t n) {
#pragma omp simd
    for (int64_t k = 0; k < n; k++) gate[k] = silu_f32(gate[k]) * up[k];
}

/* Floats of the buffers of a step, without those of attention. */
static int64_t buffer_floats(const Decoder *decoder, int64_t rows) {
    return 2 * rows * (decoder->hidden + decoder->inner + (decoder->heads + decoder->kv_heads) * decoder->d);
}

/* Workspace of vita_decode_step_f32 in bytes. */
int64_t vita_decode_step_f32_workspace(const Decoder *decoder, const int64_t *lengths, int64_t rows) {
    return buffer_floats(decoder, rows) * (int64_t)sizeof(float) +
           vita_decode_attention_f32_workspace(lengths, rows, decoder->heads, decoder->kv_heads, decoder->d);
}

/* Appends one position to the KV cache of each row: keys and values [layers, kv_heads, capacity, d] each, with `lengths`
 * positions filled. x [rows, hidden] are the embeddings, which are overwritten; logits are [rows, vocab]. */
void vita_decode_step_f32(const Decoder *decoder, float *x, float *const *keys, float *const *values,
                          const int64_t *lengths, const int64_t *capacities, float *logits, float *workspace,
                          int64_t rows) {
    const int64_t hidden = decoder->hidden, d = decoder->d, heads = decoder->heads, kv_heads = decoder->kv_heads;
    float *normed = workspace, *out = normed + rows * hidden, *q = out + rows * hidden, *k = q + rows * heads * d;
    float *v = k + rows * kv_heads * d, *attended = v + rows * kv_heads * d;
    float *gate = attended + rows * heads * d, *up = gate + rows * decoder->inner;
    float *partial = workspace + buffer_floats(decoder, rows);
    for (int64_t l = 0; l < decoder->count; l++) {
        const Layer *layer = decoder->layers + l;
        vita_rms_norm_f32(x, layer->attn_norm, normed, rows, hidden, decoder->eps);
        multiply(&layer->q, normed, q, rows);
        multiply(&layer->k, normed, k, rows);
        multiply(&layer->v, normed, v, rows);
        for (int64_t r = 0; r < rows; r++) {
            const float *cos = decoder->cos + lengths[r] * d, *sin = decoder->sin + lengths[r] * d;
            vita_rope_f32(q + r * heads * d, cos, sin, 1, heads, d, 1);
            vita_rope_f32(k + r * kv_heads * d, cos, sin, 1, kv_heads, d, 1);
        }
        vita_decode_attention_f32(q, k, v, (void *const *)keys, (void *const *)values, lengths, capacities, attended,
                                  partial, rows, heads, kv_heads, d, l, 1 / sqrt((double)d), 0);
        multiply(&layer->o, attended, out, rows);
        add(x, out, rows * hidden);
        vita_rms_norm_f32(x, layer->mlp_norm, normed, rows, hidden, decoder->eps);
        multiply(&layer->gate, normed, gate, rows);
        multiply(&layer->up, normed, up, rows);
        silu_mul(gate, up, rows * decoder->inner);
        multiply(&layer->down, gate, out, rows);
        add(x, out, rows * hidden);
    }
    vita_rms_norm_f32(x, decoder->norm, normed, rows, hidden, decoder->eps);
    multiply(&decoder->head, normed, logits, rows);
}
