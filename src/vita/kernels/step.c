/* Attention of one decode step in bfloat16: one new position of each of some requests, every request with its own keys
 * and values. Built as "not there" for processors without AVX-512's products of pairs.
 *
 * Keys and values are read once, as they lie in the caches, for all heads that share them. They are gone through in
 * pieces, which threads take in turns and which are put together afterwards (Dao et al. 2023): the pieces depend on the
 * request alone, so it gets the same answer with however many threads, and in whatever company.
 */
#include <math.h>
#include "floats.h"
#include "vectors.h"

#if defined(__AVX512BF16__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#define KEYS 256   /* of a piece */
#define HEADS 8    /* that share keys and go through them together; as many as there are, the others are zeros */
#define WIDEST 256 /* dimensions of a head */

/* Scores [HEADS, KEYS] of `count` keys [count, d]. */
static void score(const uint16_t *q, const uint16_t *k, float *scores, int64_t count, int64_t d) {
    for (int64_t j = 0; j < count; j += 2) { /* two keys for every load of a query */
        const uint16_t *one = k + j * d, *other = j + 1 < count ? one + d : one;
        __m512 sum[HEADS][2];
        for (int h = 0; h < HEADS; h++) sum[h][0] = sum[h][1] = _mm512_setzero_ps();
        for (int64_t p = 0; p < d; p += 32) {
            const __m512bh a = (__m512bh)_mm512_loadu_si512(one + p), b = (__m512bh)_mm512_loadu_si512(other + p);
            for (int h = 0; h < HEADS; h++) {
                const __m512bh query = (__m512bh)_mm512_loadu_si512(q + h * d + p);
                sum[h][0] = _mm512_dpbf16_ps(sum[h][0], query, a);
                sum[h][1] = _mm512_dpbf16_ps(sum[h][1], query, b);
            }
        }
        for (int h = 0; h < HEADS; h++) {
            scores[h * KEYS + j] = _mm512_reduce_add_ps(sum[h][0]);
            scores[h * KEYS + j + 1] = _mm512_reduce_add_ps(sum[h][1]);
        }
    }
}

/* One head's scores to weights in place; the largest score and the sum of the weights. */
static void weigh(float *scores, int64_t count, float unit, float *largest, float *sum) {
    __m512 top = _mm512_set1_ps(-INFINITY), total = _mm512_setzero_ps();
    for (int64_t j = 0; j < count; j += 16)
        top = _mm512_mask_max_ps(top, first_of(count - j), top, _mm512_loadu_ps(scores + j));
    *largest = _mm512_reduce_max_ps(top) * unit;
    const __m512 factor = _mm512_set1_ps(unit), end = _mm512_set1_ps(-*largest);
    for (int64_t j = 0; j < count; j += 16) {
        const __m512 power = power_of_two(_mm512_fmadd_ps(_mm512_loadu_ps(scores + j), factor, end));
        _mm512_storeu_ps(scores + j, power);
        total = _mm512_mask_add_ps(total, first_of(count - j), total, power);
    }
    *sum = _mm512_reduce_add_ps(total);
}

/* out [HEADS, d] = weights [HEADS, KEYS] times values [count, d]. */
static void gather(const float *weights, const uint16_t *v, float *out, int64_t count, int64_t d) {
    for (int64_t p = 0; p < d; p += 32) {
        __m512 sum[HEADS][2];
        for (int h = 0; h < HEADS; h++) sum[h][0] = sum[h][1] = _mm512_setzero_ps();
        for (int64_t j = 0; j < count; j++) {
            const __m512 a = widened(v + j * d + p, 0xFFFF), b = widened(v + j * d + p + 16, 0xFFFF);
            for (int h = 0; h < HEADS; h++) {
                const __m512 weight = _mm512_set1_ps(weights[h * KEYS + j]);
                sum[h][0] = _mm512_fmadd_ps(weight, a, sum[h][0]);
                sum[h][1] = _mm512_fmadd_ps(weight, b, sum[h][1]);
            }
        }
        for (int h = 0; h < HEADS; h++) {
            _mm512_storeu_ps(out + h * d + p, sum[h][0]);
            _mm512_storeu_ps(out + h * d + p + 16, sum[h][1]);
        }
    }
}

/* One piece for `heads` heads: largest scores [HEADS], sums [HEADS] and outputs [HEADS, d] into `part`. */
static void piece(const uint16_t *q, const uint16_t *k, const uint16_t *v, float *part, int64_t heads, int64_t count,
                  int64_t d, float unit) {
    uint16_t query[HEADS * WIDEST];
    float scores[HEADS * KEYS];
    memcpy(query, q, 2 * (size_t)(heads * d));
    memset(query + heads * d, 0, 2 * (size_t)((HEADS - heads) * d));
    score(query, k, scores, count, d);
    for (int h = 0; h < HEADS; h++) weigh(scores + h * KEYS, count, unit, part + h, part + HEADS + h);
    gather(scores, v, part + 2 * HEADS, count, d);
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
    for (int64_t p = 0; p < d; p++) out[p] = narrow(sums[p] / total);
}

int vita_steps(void) { return 1; }

/* Appends k and v [requests, groups, d] to layer `layer` of each cache, [layers, groups, capacity, d], at `lengths`,
 * and attends with q [requests, heads, d] to all that is then there; out as q. d is a multiple of 32, at most 256.
 * `room` holds the pieces: requests * groups * (blocks of 8 heads of a group) * (pieces of the longest) * (16 + 8 d). */
void vita_step(const uint16_t *q, const uint16_t *k, const uint16_t *v, uint16_t *const *keys, uint16_t *const *values,
               const int64_t *lengths, const int64_t *capacities, uint16_t *out, float *room, int64_t requests,
               int64_t heads, int64_t groups, int64_t d, int64_t layer, double scale) {
    const int64_t shared = heads / groups, blocks = (shared + HEADS - 1) / HEADS, size = 2 * HEADS + HEADS * d;
    int64_t most = 0;
    for (int64_t r = 0; r < requests; r++) most = lengths[r] >= most ? lengths[r] + 1 : most;
    const int64_t pieces = (most + KEYS - 1) / KEYS;
#pragma omp parallel
    {
#pragma omp for schedule(dynamic) collapse(2)
        for (int64_t at = 0; at < requests * groups; at++)
            for (int64_t c = 0; c < pieces; c++) {
                const int64_t r = at / groups, g = at % groups, first = c * KEYS, end = lengths[r] + 1;
                if (first >= end) continue;
                const int64_t count = end - first < KEYS ? end - first : KEYS;
                const int64_t start = ((layer * groups + g) * capacities[r] + first) * d;
                uint16_t *key = keys[r] + start, *value = values[r] + start;
                if (first + count == end) { /* the new position is nobody else's */
                    memcpy(key + (count - 1) * d, k + at * d, 2 * (size_t)d);
                    memcpy(value + (count - 1) * d, v + at * d, 2 * (size_t)d);
                }
                for (int64_t b = 0; b < blocks; b++) {
                    const int64_t here = shared - b * HEADS < HEADS ? shared - b * HEADS : HEADS;
                    piece(q + (r * heads + g * shared + b * HEADS) * d, key, value,
                          room + ((at * blocks + b) * pieces + c) * size, here, count, d, (float)scale * LOG2_E);
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
