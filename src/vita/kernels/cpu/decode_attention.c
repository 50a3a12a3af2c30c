/* Attention of one decode step in bfloat16: one new position for each request, each with its own KV cache. Needs
 * AVX-512 BF16; elsewhere vita_decode_attention_supports returns 0.
 *
 * Keys and values are read once for all heads that share them. The positions are split into blocks of KV_BLOCK, which
 * threads process in any order and which are reduced afterwards (flash-decoding, Dao et al. 2023). The splits depend on
 * the request alone, so its result does not depend on the number of threads or on the other requests.
 */
#include <float.h>
#include <math.h>
#include "floats.h"
#include "splits.h"
#include "vectors.h"

#if defined(__AVX512BF16__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#define V_BLOCK 32          /* positions whose values are processed together, while the next ones are prefetched */
#define PREFETCH_BYTES 4096 /* of keys */
_Static_assert(KV_BLOCK % V_BLOCK == 0, "a split is a multiple of blocks of values");

/* Sums of each of 16 vectors, by a tree of shuffles and adds. */
static inline __m512 reduce_16_vectors(const __m512 *from) {
    __m512 a[8], b[4], c[2];
    for (int k = 0; k < 8; k++) /* 128-bit lanes hold two partial sums of each of two vectors */
        a[k] = _mm512_add_ps(_mm512_unpacklo_ps(from[2 * k], from[2 * k + 1]),
                             _mm512_unpackhi_ps(from[2 * k], from[2 * k + 1]));
    for (int k = 0; k < 4; k++) { /* lanes hold one partial sum of each of four vectors */
        const __m512d x = _mm512_castps_pd(a[2 * k]), y = _mm512_castps_pd(a[2 * k + 1]);
        b[k] = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(x, y)), _mm512_castpd_ps(_mm512_unpackhi_pd(x, y)));
    }
    for (int k = 0; k < 2; k++)
        c[k] = _mm512_add_ps(_mm512_shuffle_f32x4(b[2 * k], b[2 * k + 1], 0x88),
                             _mm512_shuffle_f32x4(b[2 * k], b[2 * k + 1], 0xDD));
    return _mm512_add_ps(_mm512_shuffle_f32x4(c[0], c[1], 0x88), _mm512_shuffle_f32x4(c[0], c[1], 0xDD));
}

/* Transposes eight rows of eight pairs of floats. Columns are stored `stride` floats apart. */
static inline void transpose_pairs(const __m512 *rows, float *out, int64_t stride) {
    for (int odd = 0; odd < 2; odd++) {
        __m512 a[4];
        for (int k = 0; k < 4; k++) {
            const __m512d x = _mm512_castps_pd(rows[2 * k]), y = _mm512_castps_pd(rows[2 * k + 1]);
            a[k] = _mm512_castpd_ps(odd ? _mm512_unpackhi_pd(x, y) : _mm512_unpacklo_pd(x, y));
        }
        const __m512 low = _mm512_shuffle_f32x4(a[0], a[1], 0x88), low2 = _mm512_shuffle_f32x4(a[2], a[3], 0x88);
        const __m512 high = _mm512_shuffle_f32x4(a[0], a[1], 0xDD), high2 = _mm512_shuffle_f32x4(a[2], a[3], 0xDD);
        _mm512_storeu_ps(out + odd * stride, _mm512_shuffle_f32x4(low, low2, 0x88));
        _mm512_storeu_ps(out + (2 + odd) * stride, _mm512_shuffle_f32x4(high, high2, 0x88));
        _mm512_storeu_ps(out + (4 + odd) * stride, _mm512_shuffle_f32x4(low, low2, 0xDD));
        _mm512_storeu_ps(out + (6 + odd) * stride, _mm512_shuffle_f32x4(high, high2, 0xDD));
    }
}

/* scores [HEAD_BLOCK, KV_BLOCK] = q [HEAD_BLOCK, d] k [count, d]^T, not yet scaled. Scores past `count` are
 * undefined. */
static inline __attribute__((always_inline)) void score_keys(
    const uint16_t *q, const char *k, float *scores, int64_t count, int64_t d, const int bytes) {
    for (int64_t first = 0; first < count; first += 16) {
        __m512 sums[8]; /* [HEAD_BLOCK, 2] each */
        for (int pair = 0; pair < 8; pair++) { /* two keys per load of a query */
            const int64_t j = first + 2 * pair, last = count - 1;
            const char *key0 = k + (j < last ? j : last) * d * bytes, *key1 = j < last ? key0 + d * bytes : key0;
            __m512 acc[HEAD_BLOCK][2];
            for (int h = 0; h < HEAD_BLOCK; h++) acc[h][0] = acc[h][1] = _mm512_setzero_ps();
            for (int64_t p = 0; p < d; p += 32) {
                const __m512bh a = load_as_bf16x32(key0 + p * bytes, ~0u, bytes);
                const __m512bh b = load_as_bf16x32(key1 + p * bytes, ~0u, bytes);
                _mm_prefetch(key0 + p * bytes + PREFETCH_BYTES, _MM_HINT_T0);
                _mm_prefetch(key1 + p * bytes + PREFETCH_BYTES, _MM_HINT_T0);
                for (int h = 0; h < HEAD_BLOCK; h++) {
                    const __m512bh query = (__m512bh)_mm512_loadu_si512(q + h * d + p);
                    acc[h][0] = _mm512_dpbf16_ps(acc[h][0], query, a);
                    acc[h][1] = _mm512_dpbf16_ps(acc[h][1], query, b);
                }
            }
            sums[pair] = reduce_16_vectors(&acc[0][0]);
        }
        transpose_pairs(sums, scores + first, KV_BLOCK);
    }
}

/* Softmax of one head's scores within a split: bfloat16 weights (zeros up to a multiple of 16), the maximum and the
 * sum. `scale` includes log2 e. The scales of int8 keys multiply the scores, those of int8 values the weights; both are
 * null for bfloat16 caches. */
static void softmax_split(float *scores, uint16_t *weights, const uint16_t *key_scales, const uint16_t *value_scales,
                          int64_t count, float scale, float *max, float *sum) {
    __m512 top = _mm512_set1_ps(-INFINITY), total = _mm512_setzero_ps();
    for (int64_t j = 0; j < count; j += 16) {
        const __mmask16 mask = tail_mask(count - j);
        __m512 score = _mm512_mul_ps(_mm512_loadu_ps(scores + j), _mm512_set1_ps(scale));
        if (key_scales) score = _mm512_mul_ps(score, load_bf16x16(key_scales + j, mask));
        _mm512_storeu_ps(scores + j, score);
        top = _mm512_mask_max_ps(top, mask, top, score);
    }
    *max = _mm512_reduce_max_ps(top);
    for (int64_t j = 0; j < count; j += 16) {
        const __mmask16 mask = tail_mask(count - j);
        const __m512 less = _mm512_sub_ps(_mm512_loadu_ps(scores + j), _mm512_set1_ps(*max));
        const __m512 power = _mm512_maskz_mov_ps(mask, exp2_f32x16(less));
        const __m512 weight = value_scales ? _mm512_mul_ps(power, load_bf16x16(value_scales + j, mask)) : power;
        _mm256_storeu_si256((__m256i *)(weights + j), (__m256i)_mm512_cvtneps_pbh(weight));
        total = _mm512_add_ps(total, power);
    }
    *sum = _mm512_reduce_add_ps(total);
}

/* out [HEAD_BLOCK, d] = weights [HEAD_BLOCK, KV_BLOCK] v [count, d], two positions per dot product. The unpack
 * instructions that interleave them permute each 32 dimensions; `reduce_splits` undoes that. */
static inline __attribute__((always_inline)) void weight_values(
    const uint16_t *weights, const char *v, float *out, int64_t count, int64_t d, const int bytes) {
    for (int64_t k = 0; k < HEAD_BLOCK * d; k += 16) _mm512_storeu_ps(out + k, _mm512_setzero_ps());
    const char *next = v + V_BLOCK * d * bytes;
    for (int64_t first = 0; first < count; first += V_BLOCK)
        for (int64_t p = 0; p < d; p += 32) {
            const int64_t end = first + V_BLOCK < count ? first + V_BLOCK : count;
            __m512 acc[HEAD_BLOCK][2];
            for (int h = 0; h < HEAD_BLOCK; h++)
                for (int k = 0; k < 2; k++) acc[h][k] = _mm512_loadu_ps(out + h * d + p + 16 * k);
            for (int64_t j = first; j < end; j += 2, next += 64 * bytes) {
                const char *at = v + (j * d + p) * bytes;
                _mm_prefetch(next, _MM_HINT_T0);
                if (bytes == 2) _mm_prefetch(next + 64, _MM_HINT_T0);
                const __m512i value0 = (__m512i)load_as_bf16x32(at, ~0u, bytes);
                const __m512i value1 = (__m512i)load_as_bf16x32(at + d * bytes, j + 1 < count ? ~0u : 0, bytes);
                const __m512bh low = (__m512bh)_mm512_unpacklo_epi16(value0, value1);
                const __m512bh high = (__m512bh)_mm512_unpackhi_epi16(value0, value1);
                for (int h = 0; h < HEAD_BLOCK; h++) {
                    int32_t pair;
                    memcpy(&pair, weights + h * KV_BLOCK + j, 4);
                    const __m512bh weight = (__m512bh)_mm512_set1_epi32(pair);
                    acc[h][0] = _mm512_dpbf16_ps(acc[h][0], weight, low);
                    acc[h][1] = _mm512_dpbf16_ps(acc[h][1], weight, high);
                }
            }
            for (int h = 0; h < HEAD_BLOCK; h++)
                for (int k = 0; k < 2; k++) _mm512_storeu_ps(out + h * d + p + 16 * k, acc[h][k]);
        }
}

/* Keys or values of one layer and KV head: [capacity, d], bfloat16, or int8 with scales [capacity]. */
typedef struct {
    char *at;
    uint16_t *scales; /* null: bfloat16 */
} Rows;

/* Attention of `heads` query heads to `count` positions from `first` on, into `partial`. */
static inline __attribute__((always_inline)) void attend_split(
    const uint16_t *q, Rows k, Rows v, float *partial, int64_t heads, int64_t first, int64_t count, int64_t d,
    float scale, const int bytes) {
    uint16_t query[HEAD_BLOCK * MAX_HEAD_DIM], weights[HEAD_BLOCK * KV_BLOCK];
    float scores[HEAD_BLOCK * KV_BLOCK];
    memcpy(query, q, 2 * (size_t)(heads * d));
    memset(query + heads * d, 0, 2 * (size_t)((HEAD_BLOCK - heads) * d));
    const uint16_t *key_scales = bytes == 1 ? k.scales + first : 0, *value_scales = bytes == 1 ? v.scales + first : 0;
    score_keys(query, k.at + first * d * bytes, scores, count, d, bytes);
    for (int h = 0; h < HEAD_BLOCK; h++)
        softmax_split(scores + h * KV_BLOCK, weights + h * KV_BLOCK, key_scales, value_scales, count, scale,
                      partial + h, partial + HEAD_BLOCK + h);
    weight_values(weights, v.at + first * d * bytes, partial + 2 * HEAD_BLOCK, count, d, bytes);
}

/* Reduces the partial results of one head, which are `stride` floats apart, to out [d]. */
static void reduce_splits(const float *partial, int64_t stride, int64_t splits, uint16_t *out, int64_t head,
                          int64_t d) {
    float max = -INFINITY, total = 0, sums[MAX_HEAD_DIM] = {0};
    for (int64_t c = 0; c < splits; c++) {
        const float here = partial[c * stride + head];
        max = here > max || isnan(here) ? here : max;
    }
    for (int64_t c = 0; c < splits; c++) {
        const float *from = partial + c * stride, factor = exp2f(from[head] - max);
        total += factor * from[HEAD_BLOCK + head];
        for (int64_t p = 0; p < d; p++) sums[p] += factor * from[2 * HEAD_BLOCK + head * d + p];
    }
    for (int64_t p = 0; p < d; p++) { /* undo the permutation of `weight_values` */
        const int64_t from = p / 32 * 32 + p % 8 / 4 * 16 + p % 32 / 8 * 4 + p % 4;
        out[p] = f32_to_bf16(sums[from] / total);
    }
}

/* x / y rounded to bfloat16. */
static inline float divide_bf16(float x, float y) { return bf16_to_f32(f32_to_bf16(x / y)); }

/* Quantises one key or value [d] to int8 by its largest magnitude, rounding as `KVCache` does. */
static void quantize_row(const uint16_t *x, int8_t *to, uint16_t *scale, int64_t d) {
    float max = 0;
    for (int64_t p = 0; p < d; p++) { /* NaN stays the maximum */
        const float here = fabsf(bf16_to_f32(x[p]));
        max = isnan(max) || here <= max ? max : here;
    }
    const float quotient = divide_bf16(max, 127.0f), used = quotient < FLT_MIN ? FLT_MIN : quotient;
    *scale = f32_to_bf16(used);
    for (int64_t p = 0; p < d; p++) {
        const float integer = rintf(divide_bf16(bf16_to_f32(x[p]), used));
        to[p] = integer > 127 ? 127 : integer >= -127 ? (int8_t)integer : -127;
    }
}

/* Writes one position into the cache. */
static void write_position(Rows rows, int64_t at, const uint16_t *x, int64_t d) {
    if (rows.scales) quantize_row(x, (int8_t *)rows.at + at * d, rows.scales + at, d);
    else memcpy(rows.at + 2 * at * d, x, 2 * (size_t)d);
}

int vita_decode_attention_supports(int64_t head_dim) {
    return head_dim > 0 && head_dim % 32 == 0 && head_dim <= MAX_HEAD_DIM;
}

/* Workspace of vita_decode_attention in bytes: the partial results of every request, block of heads and split. */
int64_t vita_decode_attention_workspace(const int64_t *lengths, int64_t requests, int64_t heads, int64_t kv_heads,
                                        int64_t d) {
    return splits_workspace(lengths, requests, heads, kv_heads, d);
}

/* Appends k and v [requests, kv_heads, d] at position `lengths` [requests] of layer `layer` of each cache [layers,
 * kv_heads, capacity, d], then attends with q [requests, heads, d] to all positions; out has the shape of q. Caches are
 * bfloat16, or int8 with `scales` [2, layers, kv_heads, capacity] of keys, then values; `scales` holds a null pointer
 * for each bfloat16 cache. */
void vita_decode_attention(const uint16_t *q, const uint16_t *k, const uint16_t *v, void *const *keys,
                           void *const *values, uint16_t *const *scales, const int64_t *lengths,
                           const int64_t *capacities, uint16_t *out, float *workspace, int64_t requests,
                           int64_t heads, int64_t kv_heads, int64_t d, int64_t layers, int64_t layer, double scale) {
    const int64_t shared = heads / kv_heads, blocks = head_blocks(heads, kv_heads), size = partial_size(d);
    const int64_t splits = max_splits(lengths, requests);
#pragma omp parallel
    {
#pragma omp for schedule(dynamic) collapse(2)
        for (int64_t at = 0; at < requests * kv_heads; at++)
            for (int64_t c = 0; c < splits; c++) {
                const int64_t r = at / kv_heads, first = c * KV_BLOCK, end = lengths[r] + 1;
                if (first >= end) continue;
                const int64_t count = end - first < KV_BLOCK ? end - first : KV_BLOCK;
                const int64_t start = (layer * kv_heads + at % kv_heads) * capacities[r], bytes = scales[r] ? 1 : 2;
                uint16_t *key_scales = scales[r] ? scales[r] + start : 0;
                uint16_t *value_scales = scales[r] ? key_scales + layers * kv_heads * capacities[r] : 0;
                const Rows key = {(char *)keys[r] + start * d * bytes, key_scales};
                const Rows value = {(char *)values[r] + start * d * bytes, value_scales};
                if (first + count == end) { /* no other split reads the new position */
                    write_position(key, end - 1, k + at * d, d);
                    write_position(value, end - 1, v + at * d, d);
                }
                for (int64_t b = 0; b < blocks; b++) {
                    const int64_t here = shared - b * HEAD_BLOCK < HEAD_BLOCK ? shared - b * HEAD_BLOCK : HEAD_BLOCK;
                    const uint16_t *query = q + (at * shared + b * HEAD_BLOCK) * d;
                    float *partial = workspace + ((at * blocks + b) * splits + c) * size;
                    const float scale2 = (float)scale * LOG2_E;
                    if (bytes == 1) attend_split(query, key, value, partial, here, first, count, d, scale2, 1);
                    else attend_split(query, key, value, partial, here, first, count, d, scale2, 2);
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
#else
int vita_decode_attention_supports(int64_t head_dim) {
    (void)head_dim;
    return 0;
}
int64_t vita_decode_attention_workspace(void) { return 0; }
void vita_decode_attention(void) {}
#endif
