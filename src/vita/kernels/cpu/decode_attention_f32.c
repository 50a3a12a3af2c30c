/* Attention of one decode step in float32: one new position for each request, each with its own KV cache. Plain C for
 * any processor; the compiler vectorises the loops.
 *
 * Keys and values are read once for all heads that share them, in splits as in decode_attention.c: the result of a
 * request does not depend on the number of threads or on the other requests.
 */
#include <math.h>
#include <string.h>
#include "splits.h"

#define CHUNK 16             /* dimensions of a head whose sums stay in registers */
#define PARALLEL (1 << 17)   /* values of keys from which threads are worth their barrier */

/* 2^x for x <= 0, to one unit in the last place; NaN stays NaN. */
static inline float exp2_f32(float x) {
    x = x < -126.0f ? -126.0f : x;
    const float whole = rintf(x), y = (x - whole) * 0.69314718056f;
    float power = 1.0f / 5040; /* Taylor's series of e^y, |y| < 0.35 */
    power = power * y + 1.0f / 720;
    power = power * y + 1.0f / 120;
    power = power * y + 1.0f / 24;
    power = power * y + 1.0f / 6;
    power = power * y + 0.5f;
    power = power * y + 1.0f;
    power = power * y + 1.0f;
    const int32_t bits = ((int32_t)whole + 127) << 23;
    float factor;
    memcpy(&factor, &bits, 4);
    return power * factor;
}

/* scores [heads, KV_BLOCK] = q [heads, d] k [count, d]^T times `scale`. */
static void score_keys(const float *q, const float *k, float *scores, int64_t heads, int64_t count, int64_t d,
                       float scale) {
    for (int64_t j = 0; j < count; j++)
        for (int64_t h = 0; h < heads; h++) {
            const float *query = q + h * d, *key = k + j * d;
            float sum = 0;
#pragma omp simd reduction(+ : sum)
            for (int64_t p = 0; p < d; p++) sum += query[p] * key[p];
            scores[h * KV_BLOCK + j] = sum * scale;
        }
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

/* out [width] = weights [count] v [count, width], rows of v `d` floats apart. */
static inline __attribute__((always_inline)) void weight_chunk(const float *weights, const float *v, float *out,
                                                               int64_t count, int64_t d, const int64_t width) {
    float sums[CHUNK] = {0};
    for (int64_t j = 0; j < count; j++)
#pragma omp simd
        for (int64_t p = 0; p < width; p++) sums[p] += weights[j] * v[j * d + p];
    memcpy(out, sums, sizeof(float) * (size_t)width);
}

/* Attention of `heads` query heads to `count` positions, into `partial`. */
static void attend_split(const float *q, const float *k, const float *v, float *partial, int64_t heads, int64_t count,
                         int64_t d, float scale) {
    float scores[HEAD_BLOCK * KV_BLOCK];
    score_keys(q, k, scores, heads, count, d, scale);
    for (int64_t h = 0; h < heads; h++) {
        float *weights = scores + h * KV_BLOCK, *out = partial + 2 * HEAD_BLOCK + h * d;
        softmax_split(weights, count, partial + h, partial + HEAD_BLOCK + h);
        int64_t p = 0;
        for (; p + CHUNK <= d; p += CHUNK) weight_chunk(weights, v + p, out + p, count, d, CHUNK);
        if (p < d) weight_chunk(weights, v + p, out + p, count, d, d - p);
    }
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
