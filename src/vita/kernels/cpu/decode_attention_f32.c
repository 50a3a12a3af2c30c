/* Attention of one decode step, computed in float32: one new position for each request, each with its own KV cache in
 * float32 or bfloat16. Plain C for any processor; the compiler vectorises the loops.
 *
 * Keys and values are read once for all heads that share them, in splits as in decode_attention.c: the result of a
 * request does not depend on the number of threads or on the other requests.
 */
#include "float32.h"
#include "floats.h"
#include "splits.h"
#include "vectors_f32.h"

#define UNROLL 4             /* keys that are multiplied side by side */
#define SHARED_HEADS 2       /* heads, at most, for which a key is loaded once */
#define PREFETCH_BYTES 4096  /* of keys */
#define PREFETCH_ROWS 16     /* of values, which are read a few columns at a time */
#define PARALLEL (1 << 17)   /* values of keys from which threads are worth their barrier */

/* Values `at` to `at + LANES` of a cache. `is_bf16` is a compile-time constant. */
static inline __attribute__((always_inline)) Floats load_cached(const void *from, int64_t at, const int is_bf16) {
    return is_bf16 ? load_bf16((const uint16_t *)from + at) : load_floats((const float *)from + at);
}

/* Of q times the row of k that begins at `row`: the products from `p` to `d`. */
static __attribute__((noinline)) float rest_of_product(const float *q, const void *k, int64_t row, int64_t p, int64_t d,
                                                       int is_bf16) {
    float sum = 0;
    for (; p < d; p++) sum += q[p] * load_float(k, row + p, is_bf16);
    return sum;
}

/* scores [heads, KV_BLOCK] from `first` on = q [heads, d] times `keys` rows of k [count, d] from `first` on, times
 * `scale`. `heads`, `keys` and `is_bf16` are compile-time constants. */
static inline __attribute__((always_inline)) void score_tile(const float *q, const void *k, float *scores,
                                                             int64_t first, int64_t d, float scale, const int heads,
                                                             const int keys, const int is_bf16) {
    Floats sums[SHARED_HEADS][UNROLL];
    int64_t p = 0;
#pragma GCC unroll 2
    for (int h = 0; h < heads; h++)
#pragma GCC unroll 4
        for (int j = 0; j < keys; j++) sums[h][j] = (Floats){0};
    for (; p + LANES <= d; p += LANES)
#pragma GCC unroll 4
        for (int j = 0; j < keys; j++) {
            const Floats key = load_cached(k, (first + j) * d + p, is_bf16);
            __builtin_prefetch((const char *)k + ((first + j) * d + p) * (is_bf16 ? 2 : 4) + PREFETCH_BYTES);
#pragma GCC unroll 2
            for (int h = 0; h < heads; h++) sums[h][j] += load_floats(q + h * d + p) * key;
        }
#pragma GCC unroll 2
    for (int h = 0; h < heads; h++)
#pragma GCC unroll 4
        for (int j = 0; j < keys; j++) {
            float sum = sum_lanes(sums[h][j]);
            if (p < d) sum += rest_of_product(q + h * d, k, (first + j) * d, p, d, is_bf16);
            scores[h * KV_BLOCK + first + j] = sum * scale;
        }
}

/* scores [heads, KV_BLOCK] = q [heads, d] k [count, d]^T times `scale`. `heads` and `is_bf16` are constants. */
static inline __attribute__((always_inline)) void score_keys(const float *q, const void *k, float *scores,
                                                             int64_t count, int64_t d, float scale, const int heads,
                                                             const int is_bf16) {
    int64_t j = 0;
    for (; j + UNROLL <= count; j += UNROLL) score_tile(q, k, scores, j, d, scale, heads, UNROLL, is_bf16);
    for (; j < count; j++) score_tile(q, k, scores, j, d, scale, heads, 1, is_bf16);
}

/* Powers of two of one head's scores less their maximum, in place; the maximum and the sum. A NaN makes the sum NaN. */
static __attribute__((noinline)) void softmax_split(float *scores, int64_t count, float *max, float *sum) {
    float top = -INFINITY, total = 0;
#pragma omp simd reduction(max : top)
    for (int64_t j = 0; j < count; j++) top = scores[j] > top ? scores[j] : top;
#pragma omp simd
    for (int64_t j = 0; j < count; j++) scores[j] = exp2_f32(scores[j] - top);
#pragma omp simd reduction(+ : total)
    for (int64_t j = 0; j < count; j++) total += scores[j];
    *max = top;
    *sum = total;
}

/* out [heads, chunks * LANES] = weights [heads, count] times columns `p` to `p + chunks * LANES` of v [count, d]. Rows of
 * `weights` are KV_BLOCK floats apart, those of `out` `d`. `heads`, `chunks` and `is_bf16` are constants. */
static inline __attribute__((always_inline)) void weight_tile(const float *weights, const void *v, float *out,
                                                              int64_t p, int64_t count, int64_t d, const int heads,
                                                              const int chunks, const int is_bf16) {
    Floats sums[SHARED_HEADS][2];
#pragma GCC unroll 2
    for (int h = 0; h < heads; h++)
#pragma GCC unroll 2
        for (int c = 0; c < chunks; c++) sums[h][c] = (Floats){0};
    for (int64_t j = 0; j < count; j++)
#pragma GCC unroll 2
        for (int c = 0; c < chunks; c++) {
            const Floats value = load_cached(v, j * d + p + c * LANES, is_bf16);
            __builtin_prefetch((const char *)v + ((j + PREFETCH_ROWS) * d + p + c * LANES) * (is_bf16 ? 2 : 4));
#pragma GCC unroll 2
            for (int h = 0; h < heads; h++) sums[h][c] += weights[h * KV_BLOCK + j] * value;
        }
#pragma GCC unroll 2
    for (int h = 0; h < heads; h++)
#pragma GCC unroll 2
        for (int c = 0; c < chunks; c++) memcpy(out + h * d + p + c * LANES, &sums[h][c], sizeof(Floats));
}

/* weights [count] times column `p` of v [count, d]. */
static __attribute__((noinline)) float weight_column(const float *weights, const void *v, int64_t p, int64_t count,
                                                     int64_t d, int is_bf16) {
    float sum = 0;
    for (int64_t j = 0; j < count; j++) sum += weights[j] * load_float(v, j * d + p, is_bf16);
    return sum;
}

/* out [heads, d] = weights [heads, KV_BLOCK] v [count, d]. `heads` and `is_bf16` are constants. */
static inline __attribute__((always_inline)) void weight_values(const float *weights, const void *v, float *out,
                                                                int64_t count, int64_t d, const int heads,
                                                                const int is_bf16) {
    int64_t p = 0;
    for (; p + 2 * LANES <= d; p += 2 * LANES) weight_tile(weights, v, out, p, count, d, heads, 2, is_bf16);
    for (; p + LANES <= d; p += LANES) weight_tile(weights, v, out, p, count, d, heads, 1, is_bf16);
    for (; p < d; p++)
        for (int h = 0; h < heads; h++) out[h * d + p] = weight_column(weights + h * KV_BLOCK, v, p, count, d, is_bf16);
}

/* Attention of `heads` query heads to `count` positions, into the partial results of head `h` on. `heads` and `is_bf16`
 * are compile-time constants. */
static inline __attribute__((always_inline)) void attend_tile(const float *q, const void *k, const void *v,
                                                              float *partial, int64_t h, int64_t count, int64_t d,
                                                              float scale, const int heads, const int is_bf16) {
    float scores[SHARED_HEADS * KV_BLOCK];
    score_keys(q + h * d, k, scores, count, d, scale, heads, is_bf16);
    for (int i = 0; i < heads; i++)
        softmax_split(scores + i * KV_BLOCK, count, partial + h + i, partial + HEAD_BLOCK + h + i);
    weight_values(scores, v, partial + 2 * HEAD_BLOCK + h * d, count, d, heads, is_bf16);
}

/* Attention of `heads` query heads to `count` positions, into `partial`. `is_bf16` is a compile-time constant. */
static inline __attribute__((always_inline)) void attend_split(const float *q, const void *k, const void *v,
                                                               float *partial, int64_t heads, int64_t count, int64_t d,
                                                               float scale, const int is_bf16) {
    int64_t h = 0;
    for (; h + SHARED_HEADS <= heads; h += SHARED_HEADS)
        attend_tile(q, k, v, partial, h, count, d, scale, SHARED_HEADS, is_bf16);
    for (; h < heads; h++) attend_tile(q, k, v, partial, h, count, d, scale, 1, is_bf16);
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
 * kv_heads, capacity, d], then attends with q [requests, heads, d] to all positions; out has the shape of q. k, v and the
 * caches are bfloat16 if `is_bf16` is 1, else float32. */
void vita_decode_attention_f32(const float *q, const void *k, const void *v, void *const *keys, void *const *values,
                               const int64_t *lengths, const int64_t *capacities, float *out, float *workspace,
                               int64_t requests, int64_t heads, int64_t kv_heads, int64_t d, int64_t layer,
                               double scale, int is_bf16) {
    const int64_t shared = heads / kv_heads, blocks = head_blocks(heads, kv_heads), size = partial_size(d);
    const int64_t splits = max_splits(lengths, requests), bytes = is_bf16 ? 2 : 4;
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
                char *key = (char *)keys[r] + start * bytes, *value = (char *)values[r] + start * bytes;
                if (first + count == end) { /* no other split reads the new position */
                    memcpy(key + (end - 1) * d * bytes, (const char *)k + at * d * bytes, (size_t)(d * bytes));
                    memcpy(value + (end - 1) * d * bytes, (const char *)v + at * d * bytes, (size_t)(d * bytes));
                }
                key += first * d * bytes;
                value += first * d * bytes;
                for (int64_t b = 0; b < blocks; b++) {
                    const int64_t here = shared - b * HEAD_BLOCK < HEAD_BLOCK ? shared - b * HEAD_BLOCK : HEAD_BLOCK;
                    const float *query = q + (at * shared + b * HEAD_BLOCK) * d;
                    float *partial = workspace + ((at * blocks + b) * splits + c) * size;
                    if (is_bf16) attend_split(query, key, value, partial, here, count, d, scale2, 1);
                    else attend_split(query, key, value, partial, here, count, d, scale2, 0);
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
