/* Attention of one decode step in bfloat16: one new position of each of some requests, every request with its own keys
 * and values. Built as "not there" for processors without AVX-512's products of pairs.
 *
 * Keys and values are read once, as they lie in the caches, for all heads that share them. They are gone through in
 * pieces, which threads take in turns and which are put together afterwards (Dao et al. 2023): the pieces depend on the
 * request alone, so it gets the same answer with however many threads, and in whatever company.
 */
#include <float.h>
#include <math.h>
#include "floats.h"
#include "vectors.h"

#if defined(__AVX512BF16__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#define KEYS 256   /* of a piece */
#define NEAR 32    /* positions whose values are gone through together; the next ones are asked for meanwhile */
#define AHEAD 4096 /* bytes of keys that are asked for before they are needed */
#define HEADS 8    /* that share keys and go through them together; as many as there are, the others are zeros */
#define WIDEST 256 /* dimensions of a head */

/* The sum of each of sixteen vectors, in turns added to and shuffled into half as many. */
static inline __m512 sums_of_sixteen(const __m512 *from) {
    __m512 a[8], b[4], c[2];
    for (int k = 0; k < 8; k++) /* lanes of 128 bits hold two halves of two vectors */
        a[k] = _mm512_add_ps(_mm512_unpacklo_ps(from[2 * k], from[2 * k + 1]),
                             _mm512_unpackhi_ps(from[2 * k], from[2 * k + 1]));
    for (int k = 0; k < 4; k++) { /* lanes hold a quarter of each of four */
        const __m512d one = _mm512_castps_pd(a[2 * k]), other = _mm512_castps_pd(a[2 * k + 1]);
        b[k] = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(one, other)),
                             _mm512_castpd_ps(_mm512_unpackhi_pd(one, other)));
    }
    for (int k = 0; k < 2; k++)
        c[k] = _mm512_add_ps(_mm512_shuffle_f32x4(b[2 * k], b[2 * k + 1], 0x88),
                             _mm512_shuffle_f32x4(b[2 * k], b[2 * k + 1], 0xDD));
    return _mm512_add_ps(_mm512_shuffle_f32x4(c[0], c[1], 0x88), _mm512_shuffle_f32x4(c[0], c[1], 0xDD));
}

/* Eight rows of eight pairs of numbers become eight columns, `stride` numbers from one to the next. */
static inline void columns_of_pairs(const __m512 *rows, float *out, int64_t stride) {
    for (int odd = 0; odd < 2; odd++) {
        __m512 a[4];
        for (int k = 0; k < 4; k++) {
            const __m512d one = _mm512_castps_pd(rows[2 * k]), other = _mm512_castps_pd(rows[2 * k + 1]);
            a[k] = _mm512_castpd_ps(odd ? _mm512_unpackhi_pd(one, other) : _mm512_unpacklo_pd(one, other));
        }
        const __m512 low = _mm512_shuffle_f32x4(a[0], a[1], 0x88), low2 = _mm512_shuffle_f32x4(a[2], a[3], 0x88);
        const __m512 high = _mm512_shuffle_f32x4(a[0], a[1], 0xDD), high2 = _mm512_shuffle_f32x4(a[2], a[3], 0xDD);
        _mm512_storeu_ps(out + odd * stride, _mm512_shuffle_f32x4(low, low2, 0x88));
        _mm512_storeu_ps(out + (2 + odd) * stride, _mm512_shuffle_f32x4(high, high2, 0x88));
        _mm512_storeu_ps(out + (4 + odd) * stride, _mm512_shuffle_f32x4(low, low2, 0xDD));
        _mm512_storeu_ps(out + (6 + odd) * stride, _mm512_shuffle_f32x4(high, high2, 0xDD));
    }
}

/* Scores [HEADS, KEYS] of `count` keys [count, d]; what comes of keys past the last one is not used. */
static void score(const uint16_t *q, const uint16_t *k, float *scores, int64_t count, int64_t d) {
    for (int64_t first = 0; first < count; first += 16) {
        __m512 both[8]; /* [HEADS, 2] each */
        for (int pair = 0; pair < 8; pair++) { /* two keys for every load of a query */
            const int64_t j = first + 2 * pair, last = count - 1;
            const uint16_t *one = k + (j < last ? j : last) * d, *other = k + (j + 1 < last ? j + 1 : last) * d;
            __m512 sum[HEADS][2];
            for (int h = 0; h < HEADS; h++) sum[h][0] = sum[h][1] = _mm512_setzero_ps();
            for (int64_t p = 0; p < d; p += 32) {
                const __m512bh a = (__m512bh)_mm512_loadu_si512(one + p), b = (__m512bh)_mm512_loadu_si512(other + p);
                _mm_prefetch((const char *)(one + p) + AHEAD, _MM_HINT_T0);
                _mm_prefetch((const char *)(other + p) + AHEAD, _MM_HINT_T0);
                for (int h = 0; h < HEADS; h++) {
                    const __m512bh query = (__m512bh)_mm512_loadu_si512(q + h * d + p);
                    sum[h][0] = _mm512_dpbf16_ps(sum[h][0], query, a);
                    sum[h][1] = _mm512_dpbf16_ps(sum[h][1], query, b);
                }
            }
            both[pair] = sums_of_sixteen(&sum[0][0]);
        }
        columns_of_pairs(both, scores + first, KEYS);
    }
}

/* One head's scores to weights, zeros behind them; the largest score and the sum of the weights. */
static void weigh(const float *scores, uint16_t *weights, int64_t count, float unit, float *largest, float *sum) {
    __m512 top = _mm512_set1_ps(-INFINITY), total = _mm512_setzero_ps();
    for (int64_t j = 0; j < count; j += 16)
        top = _mm512_mask_max_ps(top, first_of(count - j), top, _mm512_loadu_ps(scores + j));
    *largest = _mm512_reduce_max_ps(top) * unit;
    const __m512 factor = _mm512_set1_ps(unit), end = _mm512_set1_ps(-*largest);
    for (int64_t j = 0; j < count; j += 16) {
        const __m512 power = power_of_two(_mm512_fmadd_ps(_mm512_loadu_ps(scores + j), factor, end));
        const __m512 there = _mm512_maskz_mov_ps(first_of(count - j), power);
        _mm256_storeu_si256((__m256i *)(weights + j), (__m256i)_mm512_cvtneps_pbh(there));
        total = _mm512_add_ps(total, there);
    }
    *sum = _mm512_reduce_add_ps(total);
}

/* out [HEADS, d] = weights [HEADS, KEYS] times values [count, d], two values of a dimension at once. What interleaves
 * the two takes every eight dimensions apart: in `out` the first halves of 32 come first, and then the second ones. */
static void gather(const uint16_t *weights, const uint16_t *v, float *out, int64_t count, int64_t d) {
    for (int64_t k = 0; k < HEADS * d; k += 16) _mm512_storeu_ps(out + k, _mm512_setzero_ps());
    const char *next = (const char *)(v + NEAR * d);
    for (int64_t first = 0; first < count; first += NEAR)
        for (int64_t p = 0; p < d; p += 32) {
            const int64_t end = first + NEAR < count ? first + NEAR : count;
            __m512 sum[HEADS][2];
            for (int h = 0; h < HEADS; h++)
                for (int k = 0; k < 2; k++) sum[h][k] = _mm512_loadu_ps(out + h * d + p + 16 * k);
            for (int64_t j = first; j < end; j += 2, next += 128) {
                const uint16_t *at = v + j * d + p;
                _mm_prefetch(next, _MM_HINT_T0);
                _mm_prefetch(next + 64, _MM_HINT_T0);
                const __m512i one = _mm512_loadu_si512(at);
                const __m512i other = j + 1 < count ? _mm512_loadu_si512(at + d) : _mm512_setzero_si512();
                const __m512bh low = (__m512bh)_mm512_unpacklo_epi16(one, other);
                const __m512bh high = (__m512bh)_mm512_unpackhi_epi16(one, other);
                for (int h = 0; h < HEADS; h++) {
                    int32_t pair;
                    memcpy(&pair, weights + h * KEYS + j, 4);
                    const __m512bh weight = (__m512bh)_mm512_set1_epi32(pair);
                    sum[h][0] = _mm512_dpbf16_ps(sum[h][0], weight, low);
                    sum[h][1] = _mm512_dpbf16_ps(sum[h][1], weight, high);
                }
            }
            for (int h = 0; h < HEADS; h++)
                for (int k = 0; k < 2; k++) _mm512_storeu_ps(out + h * d + p + 16 * k, sum[h][k]);
        }
}

/* One piece for `heads` heads: largest scores [HEADS], sums [HEADS] and outputs [HEADS, d] into `part`. */
static void piece(const uint16_t *q, const uint16_t *k, const uint16_t *v, float *part, int64_t heads, int64_t count,
                  int64_t d, float unit) {
    uint16_t query[HEADS * WIDEST], weights[HEADS * KEYS];
    float scores[HEADS * KEYS];
    memcpy(query, q, 2 * (size_t)(heads * d));
    memset(query + heads * d, 0, 2 * (size_t)((HEADS - heads) * d));
    score(query, k, scores, count, d);
    for (int h = 0; h < HEADS; h++)
        weigh(scores + h * KEYS, weights + h * KEYS, count, unit, part + h, part + HEADS + h);
    gather(weights, v, part + 2 * HEADS, count, d);
}

/* Puts the pieces of one head together; they lie `stride` numbers apart. */
static void merge(const float *part, int64_t stride, int64_t pieces, uint16_t *out, int64_t head, int64_t d) {
    float largest = -INFINITY, total = 0, sums[WIDEST] = {0};
    for (int64_t c = 0; c < pieces; c++) {
        const float here = part[c * stride + head];
        largest = here > largest || isnan(here) ? here : largest;
    }
    for (int64_t c = 0; c < pieces; c++) {
        const float *from = part + c * stride, factor = exp2f(from[head] - largest);
        total += factor * from[HEADS + head];
        for (int64_t p = 0; p < d; p++) sums[p] += factor * from[2 * HEADS + head * d + p];
    }
    for (int64_t p = 0; p < d; p++) { /* back from where `gather` left them */
        const int64_t from = p / 32 * 32 + p % 8 / 4 * 16 + p % 32 / 8 * 4 + p % 4;
        out[p] = narrow(sums[from] / total);
    }
}

/* The bfloat16 nearest to x / y, as a number. */
static inline float quotient(float x, float y) { return wide(narrow(x / y)); }

/* One key or value rounded to eight bits by its largest number, as `KVCache` does it. */
static void round_one(const uint16_t *x, int8_t *to, uint16_t *scale, int64_t d) {
    float largest = 0;
    for (int64_t p = 0; p < d; p++) { /* what is no number stays the largest */
        const float here = fabsf(wide(x[p]));
        largest = isnan(largest) || here <= largest ? largest : here;
    }
    const float unit = quotient(largest, 127.0f), used = unit < FLT_MIN ? FLT_MIN : unit;
    *scale = narrow(used);
    for (int64_t p = 0; p < d; p++) {
        const float whole = rintf(quotient(wide(x[p]), used));
        to[p] = whole > 127 ? 127 : whole >= -127 ? (int8_t)whole : -127;
    }
}

/* Where one layer's keys or values of a group lie: [capacity, d], with scales [capacity] if they are rounded. */
typedef struct {
    void *values;
    uint16_t *scales; /* null: they are not */
} Rows;

/* `count` positions from `first` on, of which the last is `last` if that is not null, and is written first; `room` is
 * used if they are rounded. */
static const uint16_t *positions(Rows rows, int64_t first, int64_t count, const uint16_t *last, uint16_t *room,
                                 int64_t d) {
    const int64_t at = first + count - 1;
    if (!rows.scales) {
        if (last) memcpy((uint16_t *)rows.values + at * d, last, 2 * (size_t)d);
        return (const uint16_t *)rows.values + first * d;
    }
    if (last) round_one(last, (int8_t *)rows.values + at * d, rows.scales + at, d);
    for (int64_t j = first; j < first + count; j++)
        scaled((const int8_t *)rows.values + j * d, wide(rows.scales[j]), room + (j - first) * d, d);
    return room;
}

int vita_steps(void) { return 1; }

/* Appends k and v [requests, groups, d] to layer `layer` of each cache, [layers, groups, capacity, d], at `lengths`,
 * and attends with q [requests, heads, d] to all that is then there; out as q. Caches are in bfloat16, or in eight bits
 * with scales [2, layers, groups, capacity] of keys and then values; `scales` holds nulls if they are not. d is a
 * multiple of 32, at most 256. `room` holds the pieces: requests * groups * (blocks of 8 heads of a group) * (pieces
 * of the longest) * (16 + 8 d) numbers. */
void vita_step(const uint16_t *q, const uint16_t *k, const uint16_t *v, void *const *keys, void *const *values,
               uint16_t *const *scales, const int64_t *lengths, const int64_t *capacities, uint16_t *out, float *room,
               int64_t requests, int64_t heads, int64_t groups, int64_t d, int64_t layers, int64_t layer,
               double scale) {
    const int64_t shared = heads / groups, blocks = (shared + HEADS - 1) / HEADS, size = 2 * HEADS + HEADS * d;
    int64_t most = 0;
    for (int64_t r = 0; r < requests; r++) most = lengths[r] >= most ? lengths[r] + 1 : most;
    const int64_t pieces = (most + KEYS - 1) / KEYS;
#pragma omp parallel
    {
#pragma omp for schedule(dynamic) collapse(2)
        for (int64_t at = 0; at < requests * groups; at++)
            for (int64_t c = 0; c < pieces; c++) {
                const int64_t r = at / groups, first = c * KEYS, end = lengths[r] + 1;
                if (first >= end) continue;
                const int64_t count = end - first < KEYS ? end - first : KEYS;
                const int64_t start = (layer * groups + at % groups) * capacities[r], each = scales[r] ? 1 : 2;
                const Rows key = {(char *)keys[r] + start * d * each, scales[r] ? scales[r] + start : 0};
                const Rows value = {(char *)values[r] + start * d * each,
                                    scales[r] ? key.scales + layers * groups * capacities[r] : 0};
                const int newest = first + count == end; /* the new position is nobody else's */
                uint16_t wide_keys[KEYS * WIDEST], wide_values[KEYS * WIDEST];
                const uint16_t *ks = positions(key, first, count, newest ? k + at * d : 0, wide_keys, d);
                const uint16_t *vs = positions(value, first, count, newest ? v + at * d : 0, wide_values, d);
                for (int64_t b = 0; b < blocks; b++) {
                    const int64_t here = shared - b * HEADS < HEADS ? shared - b * HEADS : HEADS;
                    piece(q + (at * shared + b * HEADS) * d, ks, vs, room + ((at * blocks + b) * pieces + c) * size,
                          here, count, d, (float)scale * LOG2_E);
                }
            }
#pragma omp for schedule(static)
        for (int64_t at = 0; at < requests * heads; at++) {
            const int64_t r = at / heads, g = at % heads / shared, b = at % shared / HEADS;
            const float *parts = room + ((r * groups + g) * blocks + b) * pieces * size;
            merge(parts, size, (lengths[r] + KEYS) / KEYS, out + at * d, at % shared % HEADS, d);
        }
    }
}
#else
int vita_steps(void) { return 0; }
void vita_step(void) {}
#endif
