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

/* Scores [HEADS, KEYS] of `count` keys [count, d], without their scales; what comes of keys past the last one is not
 * used. */
static inline __attribute__((always_inline)) void score(
    const uint16_t *q, const char *k, float *scores, int64_t count, int64_t d, const int bytes) {
    for (int64_t first = 0; first < count; first += 16) {
        __m512 both[8]; /* [HEADS, 2] each */
        for (int pair = 0; pair < 8; pair++) { /* two keys for every load of a query */
            const int64_t j = first + 2 * pair, last = count - 1;
            const char *one = k + (j < last ? j : last) * d * bytes, *other = j < last ? one + d * bytes : one;
            __m512 sum[HEADS][2];
            for (int h = 0; h < HEADS; h++) sum[h][0] = sum[h][1] = _mm512_setzero_ps();
            for (int64_t p = 0; p < d; p += 32) {
                const __m512bh a = halves_of(one + p * bytes, ~0u, bytes), b = halves_of(other + p * bytes, ~0u, bytes);
                _mm_prefetch(one + p * bytes + AHEAD, _MM_HINT_T0);
                _mm_prefetch(other + p * bytes + AHEAD, _MM_HINT_T0);
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

/* One head's scores to weights, zeros behind them; the largest score and the sum of the weights. Rounded keys' scales
 * belong to the scores, rounded values' to the weights; null if there are none. */
static void weigh(float *scores, uint16_t *weights, const uint16_t *of_keys, const uint16_t *of_values, int64_t count,
                  float unit, float *largest, float *sum) {
    __m512 top = _mm512_set1_ps(-INFINITY), total = _mm512_setzero_ps();
    for (int64_t j = 0; j < count; j += 16) {
        const __mmask16 there = first_of(count - j);
        __m512 here = _mm512_mul_ps(_mm512_loadu_ps(scores + j), _mm512_set1_ps(unit));
        if (of_keys) here = _mm512_mul_ps(here, widened(of_keys + j, there));
        _mm512_storeu_ps(scores + j, here);
        top = _mm512_mask_max_ps(top, there, top, here);
    }
    *largest = _mm512_reduce_max_ps(top);
    for (int64_t j = 0; j < count; j += 16) {
        const __mmask16 there = first_of(count - j);
        const __m512 less = _mm512_sub_ps(_mm512_loadu_ps(scores + j), _mm512_set1_ps(*largest));
        const __m512 power = _mm512_maskz_mov_ps(there, power_of_two(less));
        const __m512 weight = of_values ? _mm512_mul_ps(power, widened(of_values + j, there)) : power;
        _mm256_storeu_si256((__m256i *)(weights + j), (__m256i)_mm512_cvtneps_pbh(weight));
        total = _mm512_add_ps(total, power);
    }
    *sum = _mm512_reduce_add_ps(total);
}

/* out [HEADS, d] = weights [HEADS, KEYS] times values [count, d], two values of a dimension at once. What interleaves
 * the two takes every eight dimensions apart: in `out` the first halves of 32 come first, and then the second ones. */
static inline __attribute__((always_inline)) void gather(
    const uint16_t *weights, const char *v, float *out, int64_t count, int64_t d, const int bytes) {
    for (int64_t k = 0; k < HEADS * d; k += 16) _mm512_storeu_ps(out + k, _mm512_setzero_ps());
    const char *next = v + NEAR * d * bytes;
    for (int64_t first = 0; first < count; first += NEAR)
        for (int64_t p = 0; p < d; p += 32) {
            const int64_t end = first + NEAR < count ? first + NEAR : count;
            __m512 sum[HEADS][2];
            for (int h = 0; h < HEADS; h++)
                for (int k = 0; k < 2; k++) sum[h][k] = _mm512_loadu_ps(out + h * d + p + 16 * k);
            for (int64_t j = first; j < end; j += 2, next += 64 * bytes) {
                const char *at = v + (j * d + p) * bytes;
                _mm_prefetch(next, _MM_HINT_T0);
                if (bytes == 2) _mm_prefetch(next + 64, _MM_HINT_T0);
                const __m512i one = (__m512i)halves_of(at, ~0u, bytes);
                const __m512i other = (__m512i)halves_of(at + d * bytes, j + 1 < count ? ~0u : 0, bytes);
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

/* One layer's keys or values of a group: [capacity, d], in bfloat16, or in eight bits with scales [capacity]. */
typedef struct {
    char *at;
    uint16_t *scales; /* null: in bfloat16 */
} Rows;

/* One piece, `count` positions from `first` on, for `heads` heads: largest scores [HEADS], sums [HEADS] and outputs
 * [HEADS, d] into `part`. */
static inline __attribute__((always_inline)) void piece(
    const uint16_t *q, Rows k, Rows v, float *part, int64_t heads, int64_t first, int64_t count, int64_t d, float unit,
    const int bytes) {
    uint16_t query[HEADS * WIDEST], weights[HEADS * KEYS];
    float scores[HEADS * KEYS];
    memcpy(query, q, 2 * (size_t)(heads * d));
    memset(query + heads * d, 0, 2 * (size_t)((HEADS - heads) * d));
    const uint16_t *of_keys = bytes == 1 ? k.scales + first : 0, *of_values = bytes == 1 ? v.scales + first : 0;
    score(query, k.at + first * d * bytes, scores, count, d, bytes);
    for (int h = 0; h < HEADS; h++)
        weigh(scores + h * KEYS, weights + h * KEYS, of_keys, of_values, count, unit, part + h, part + HEADS + h);
    gather(weights, v.at + first * d * bytes, part + 2 * HEADS, count, d, bytes);
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

/* Writes one position. */
static void write_one(Rows rows, int64_t at, const uint16_t *x, int64_t d) {
    if (rows.scales) round_one(x, (int8_t *)rows.at + at * d, rows.scales + at, d);
    else memcpy(rows.at + 2 * at * d, x, 2 * (size_t)d);
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
                const int64_t start = (layer * groups + at % groups) * capacities[r], bytes = scales[r] ? 1 : 2;
                uint16_t *of_keys = scales[r] ? scales[r] + start : 0;
                uint16_t *of_values = scales[r] ? of_keys + layers * groups * capacities[r] : 0;
                const Rows key = {(char *)keys[r] + start * d * bytes, of_keys};
                const Rows value = {(char *)values[r] + start * d * bytes, of_values};
                if (first + count == end) { /* the new position is nobody else's */
                    write_one(key, end - 1, k + at * d, d);
                    write_one(value, end - 1, v + at * d, d);
                }
                for (int64_t b = 0; b < blocks; b++) {
                    const int64_t here = shared - b * HEADS < HEADS ? shared - b * HEADS : HEADS;
                    const uint16_t *query = q + (at * shared + b * HEADS) * d;
                    float *part = room + ((at * blocks + b) * pieces + c) * size;
                    if (bytes == 1) piece(query, key, value, part, here, first, count, d, (float)scale * LOG2_E, 1);
                    else piece(query, key, value, part, here, first, count, d, (float)scale * LOG2_E, 2);
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
