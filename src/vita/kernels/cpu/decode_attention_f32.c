/* Attention of one decode step in float32: one new position for each request, each with its own KV cache. Plain C for
 * any processor; the compiler vectorises the loops.
 *
 * Keys and values are read once for all heads that share them, in splits as in decode_attention.c: the result of a
 * request does not depend on the number of threads or on the other requests.
 */
#include "float32.h"
#include "splits.h"
#include "vectors_f32.h"

#define UNROLL 4             /* keys that are multiplied side by side */
#define PARALLEL (1 << 17)   /* values of keys from which threads are worth their barrier */

/* scores [keys] = q [d] k [keys, d]^T times `scale`. `keys` is a compile-time constant. */
static inline __attribute__((always_inline)) void score_tile(const float *q, const float *k, float *scores, int64_t d,
                                                             float scale, const int keys) {
    Floats sums[UNROLL];
    int64_t p = 0;
#pragma GCC unroll 8
    for (int j = 0; j < keys; j++) sums[j] = (Floats){0};
    for (; p + LANES <= d; p += LANES)
#pragma GCC unroll 8
        for (int j = 0; j < keys; j++) sums[j] += load_floats(q + p) * load_floats(k + j * d + p);
#pragma GCC unroll 8
    for (int j = 0; j < keys; j++) {
        float sum = sum_lanes(sums[j]);
        for (int64_t left = p; left < d; left++) sum += q[left] * k[j * d + left];
        scores[j] = sum * scale;
    }
}

/* scores [heads, KV_BLOCK] = q [heads, d] k [count, d]^T times `scale`. */
static void score_keys(const float *q, const float *k, float *scores, int64_t heads, int64_t count, int64_t d,
                       float scale) {
    int64_t j = 0;
    for (; j + UNROLL <= count; j += UNROLL)
        for (int64_t h = 0; h < heads; h++) score_tile(q + h * d, k + j * d, scores + h * KV_BLOCK + j, d, scale, UNROLL);
    for (; j < count; j++)
        for (int64_t h = 0; h < heads; h++) score_tile(q + h * d, k + j * d, scores + h * KV_BLOCK + j, d, scale, 1);
}

/* Powers of two of one head's scores less their maximum, in place; the maximum and the sum. A NaN makes both NaN. */
static void softmax_split(float *scores, int64_t count, float *max, float *sum) {
    float top = -INFINITY, total = 0;
    for (int64_t j = 0; j < count; j++) top = scores[j] > top || isnan(scores[j]) ? scores[j] : top;
#pragma omp simd
    for (int64_t j = 0; j < count; j++) scores[j] = exp2_f32(scores[j] - top);
#pragma omp simd reduction(+ : total)
    for (int64_t j = 0; j < count; j++) total += scores[j];
    *max = top;
    *sum = total;
}

/* out [heads, chunks * LANES] = weights [heads, count] v [count, chunks * LANES]: rows of `weights` are KV_BLOCK floats
 * apart, those of `v` and `out` `d`. `heads` and `chunks` are compile-time constants. */
static inline __attribute__((always_inline)) void weight_tile(const float *weights, const float *v, float *out,
                                                              int64_t count, int64_t d, const int heads,
                                                              const int chunks) {
    Floats sums[2][2];
#pragma GCC unroll 2
    for (int h = 0; h < heads; h++)
#pragma GCC unroll 2
        for (int c = 0; c < chunks; c++) sums[h][c] = (Floats){0};
    for (int64_t j = 0; j < count; j++)
#pragma GCC unroll 2
        for (int h = 0; h < heads; h++)
#pragma GCC unroll 2
            for (int c = 0; c < chunks; c++)
                sums[h][c] += weights[h * KV_BLOCK + j] * load_floats(v + j * d + c * LANES);
#pragma GCC unroll 2
    for (int h = 0; h < heads; h++)
#pragma GCC unroll 2
        for (int c = 0; c < chunks; c++) memcpy(out + h * d + c * LANES, &sums[h][c], sizeof(Floats));
}

/* out [heads, d] = weights [heads, KV_BLOCK] v [count, d]. */
static void weight_values(const float *weights, const float *v, float *out, int64_t heads, int64_t count, int64_t d) {
    for (int64_t h = 0; h < heads; h += 2) {
        const float *from = weights + h * KV_BLOCK;
        float *to = out + h * d;
        const int64_t pair = heads - h > 1;
        int64_t p = 0;
        for (; p + 2 * LANES <= d; p += 2 * LANES) {
            if (pair) weight_tile(from, v + p, to + p, count, d, 2, 2);
            else weight_tile(from, v + p, to + p, count, d, 1, 2);
        }
        for (; p + LANES <= d; p += LANES) {
            if (pair) weight_tile(from, v + p, to + p, count, d, 2, 1);
            else weight_tile(from, v + p, to + p, count, d, 1, 1);
        }
        for (; p < d; p++)
            for (int64_t k = 0; k <= pair; k++) {
                float sum = 0;
                for (int64_t j = 0; j < count; j++) sum += from[k * KV_BLOCK + j] * v[j * d + p];
                to[k * d + p] = sum;
            }
    }
}

/* Attention of `heads` query heads to `count` positions, into `partial`. */
static void attend_split(const float *q, const float *k, const float *v, float *partial, int64_t heads, int64_t count,
                         int64_t d, float scale) {
    float scores[HEAD_BLOCK * KV_BLOCK];
    score_keys(q, k, scores, heads, count, d, scale);
    for (int64_t h = 0; h < heads; h++)
        softmax_split(scores + h * KV_BLOCK, count, partial + h, partial + HEAD_BLOCK + h);
    weight_values(scores, v, partial + 2 * HEAD_BLOCK, heads, count, d);
}

/* Reduces the partial results of one head, which are `stride` floats apart, to out [d]. */
static void reduce_splits(const float *partial, int64_t stride, int64_t splits, float *out, int64_t head, int64_t d) {
    float max = -INFINITY, total = 0, sums[MAX_HEAD_DIM] = {0};
    for (int64_t c = 0; c < splits; c++) {
        const float here = partial[c * stride + head];
        max = here > max || isnan(here) ? here : max;
    }
    for (int64_t c = 0; c < splits; c++) {
        const float *from = partial + c * stride, factor = exp2_f32(from[head] - max);
        total += factor * from[HEAD_BLOCK + head];
        for (int64_t p = 0; p < d; p++) sums[p] += factor * from[2 * HEAD_BLOCK + head * d + p];
    }
    for (int64_t p = 0; p < d; p++) out[p] = sums[p] / total;
}

int vita_decode_attention_f32_supports(int64_t head_dim) { return head_dim > 0 && head_dim <= MAX_HEAD_DIM; }

/* Workspace of vita_decode_attention_f32 in bytes. */
int64_t vita_decode_attention_f32_workspace(const int64_t *lengths, int64_t requests, int64_t heads, int64_t kv_heads,
                                            int64_t d) {
    return splits_workspace(lengths, requests, heads, kv_heads, d);
}

/* Appends k and v [requests, kv_heads, d] at position `lengths` [requests] of layer `layer` of each cache [layers,
 * kv_heads, capacity, d], then attends with q [requests, heads, d] to all positions; out has the shape of q. */
void vita_decode_attention_f32(const float *q, const float *k, const float *v, float *const *keys,
                               float *const *values, const int64_t *lengths, const int64_t *capacities, float *out,
                               float *workspace, int64_t requests, int64_t heads, int64_t kv_heads, int64_t d,
                               int64_t layer, double scale) {
    const int64_t shared = heads / kv_heads, blocks = head_blocks(heads, kv_heads), size = partial_size(d);
    const int64_t splits = max_splits(lengths, requests);
    int64_t read = 0;
    for (int64_t r = 0; r < requests; r++) read += (lengths[r] + 1) * kv_heads * d;
    const float scale2 = (float)(scale * 1.4426950408889634); /* powers of two, not of e */
#pragma omp parallel if (read >= PARALLEL)
    {
#pragma omp for schedule(dynamic) collapse(2)
        for (int64_t at = 0; at < requests * kv_heads; at++)
            for (int64_t c = 0; c < splits; c++) {
                const int64_t r = at / kv_heads, first = c * KV_BLOCK, end = lengths[r] + 1;
                if (first >= end) continue;
                const int64_t count = end - first < KV_BLOCK ? end - first : KV_BLOCK;
                const int64_t start = (layer * kv_heads + at % kv_heads) * capacities[r] * d;
                float *key = keys[r] + start, *value = values[r] + start;
                if (first + count == end) { /* no other split reads the new position */
                    memcpy(key + (end - 1) * d, k + at * d, sizeof(float) * (size_t)d);
                    memcpy(value + (end - 1) * d, v + at * d, sizeof(float) * (size_t)d);
                }
                for (int64_t b = 0; b < blocks; b++) {
                    const int64_t here = shared - b * HEAD_BLOCK < HEAD_BLOCK ? shared - b * HEAD_BLOCK : HEAD_BLOCK;
                    attend_split(q + (at * shared + b * HEAD_BLOCK) * d, key + first * d, value + first * d,
                                 workspace + ((at * blocks + b) * splits + c) * size, here, count, d, scale2);
                }
            }
#pragma omp for schedule(static)
        for (int64_t at = 0; at < requests * heads; at++) {
            const int64_t r = at / heads, h = at % heads / shared, b = at % shared / HEAD_BLOCK;
            const float *partial = workspace + ((r * kv_heads + h) * blocks + b) * splits * size;
            reduce_splits(partial, size, (lengths[r] + KV_BLOCK) / KV_BLOCK, out + at * d, at % shared % HEAD_BLOCK, d);
        }
    }
}
