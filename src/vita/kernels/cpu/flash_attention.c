/* Softmax attention in bfloat16 with AVX-512's products of pairs; built as "not there" for processors without them, and
 * for those that multiply whole tiles (AMX), where PyTorch's own is faster.
 *
 * Scores of a block of queries and a block of keys stay in the nearest caches: they are made, their exponentials are
 * taken against the largest so far, and they weigh the values at once (Dao et al. 2022). Keys and values are laid out
 * for the products before: panels of 64 columns, in each the pairs of one row of the product beside each other.
 */
#include <math.h>
#include "floats.h"
#include "vectors.h"

#if defined(__AVX512BF16__) && defined(__AVX512BW__) && defined(__AVX512VL__) && !defined(__AMX_TILE__)
#define TILE 6      /* queries whose sums stay in registers */
#define QUERIES 48  /* of a block */
#define KEYS 256    /* of a block */
#define PANEL 64    /* columns: four vectors */
#define WIDEST 128  /* dimensions of a head */

/* c [TILE, 64] = (more ? c : 0) + a [TILE, 2 * pairs] b; a in rows of `lda` values, b a panel. */
static inline __attribute__((always_inline)) void tile(
    const uint16_t *a, int64_t lda, const uint16_t *b, float *c, int64_t ldc, int64_t pairs, const int more) {
    __m512 sum[TILE][4];
    for (int r = 0; r < TILE; r++)
        for (int k = 0; k < 4; k++) sum[r][k] = more ? _mm512_loadu_ps(c + r * ldc + 16 * k) : _mm512_setzero_ps();
    for (int64_t p = 0; p < pairs; p++) {
        __m512bh right[4];
        for (int k = 0; k < 4; k++) right[k] = (__m512bh)_mm512_loadu_si512(b + p * 2 * PANEL + 32 * k);
        for (int r = 0; r < TILE; r++) {
            int32_t pair;
            memcpy(&pair, a + r * lda + 2 * p, 4);
            const __m512bh left = (__m512bh)_mm512_set1_epi32(pair);
            for (int k = 0; k < 4; k++) sum[r][k] = _mm512_dpbf16_ps(sum[r][k], left, right[k]);
        }
    }
    for (int r = 0; r < TILE; r++)
        for (int k = 0; k < 4; k++) _mm512_storeu_ps(c + r * ldc + 16 * k, sum[r][k]);
}

/* One row of scores to weights in bfloat16, `seen` of them and zeros up to `width`; returns what sums so far and the
 * outputs so far must be multiplied with. */
static float weigh(const float *scores, uint16_t *weights, int64_t seen, int64_t width, float unit, float *largest,
                   float *sum) {
    __m512 top = _mm512_set1_ps(*largest);
    for (int64_t k = 0; k < seen; k += 16) {
        top = _mm512_mask_max_ps(top, first_of(seen - k), top, _mm512_loadu_ps(scores + k));
    }
    const float now = _mm512_reduce_max_ps(top), before = *largest;
    const __m512 factor = _mm512_set1_ps(unit), end = _mm512_set1_ps(-now * unit);
    __m512 total = _mm512_setzero_ps();
    for (int64_t k = 0; k < width; k += 16) {
        const __m512 power = power_of_two(_mm512_fmadd_ps(_mm512_loadu_ps(scores + k), factor, end));
        const __m512 w = _mm512_maskz_mov_ps(first_of(seen - k), power);
        total = _mm512_add_ps(total, w);
        _mm256_storeu_si256((__m256i *)(weights + k), (__m256i)_mm512_cvtneps_pbh(w));
    }
    const float again = isinf(before) ? 0.0f : exp2f((before - now) * unit);
    *sum = *sum * again + _mm512_reduce_add_ps(total);
    *largest = now;
    return again;
}

/* Panels of 64 rows of x [n, d]: the pairs of 64 rows beside each other, d / 2 times. Rows past n are zeros. */
static void pack_keys(const uint16_t *x, int64_t stride, uint16_t *out, int64_t n, int64_t d) {
    for (int64_t start = 0; start < n; start += PANEL, out += PANEL * d)
        for (int64_t r = 0; r < PANEL; r += 16)
            for (int64_t p = 0; p < d; p += 32) {
                __m512i rows[16];
                for (int k = 0; k < 16; k++) {
                    const int64_t row = start + r + k;
                    rows[k] = row < n ? _mm512_loadu_si512(x + row * stride + p) : _mm512_setzero_si512();
                }
                transposed(rows, out + p * PANEL + 2 * r, 4 * PANEL);
            }
}

/* Panels of 64 columns of x [n, d], in blocks of KEYS rows: two rows' values beside each other. Rows past n are zeros,
 * up to the end of what is read of the last block. */
static void pack_values(const uint16_t *x, int64_t stride, uint16_t *out, int64_t n, int64_t d) {
    uint16_t places[32];
    for (int k = 0; k < 32; k++) places[k] = (uint16_t)(k / 2 + (k % 2) * 32);
    const __m512i first = _mm512_loadu_si512(places), second = _mm512_add_epi16(first, _mm512_set1_epi16(16));
    for (int64_t start = 0; start < n; start += KEYS)
        for (int64_t column = 0; column < d; column += PANEL, out += KEYS * PANEL) {
            const int64_t here = n - start < KEYS ? n - start : KEYS, wide = (here + PANEL - 1) / PANEL * PANEL;
            for (int64_t r = 0; r < wide; r += 2)
                for (int64_t c = 0; c < PANEL; c += 32) {
                    const uint16_t *from = x + (start + r) * stride + column + c;
                    const __m512i none = _mm512_setzero_si512();
                    const __m512i one = r < here ? _mm512_loadu_si512(from) : none;
                    const __m512i other = r + 1 < here ? _mm512_loadu_si512(from + stride) : none;
                    _mm512_storeu_si512(out + r * PANEL + 2 * c, _mm512_permutex2var_epi16(one, first, other));
                    _mm512_storeu_si512(out + r * PANEL + 2 * c + 32, _mm512_permutex2var_epi16(one, second, other));
                }
        }
}

/* Outputs of up to QUERIES queries, the first of which sees keys up to `last` (all of them if not causal). */
static void block(const uint16_t *q, int64_t q_stride, const uint16_t *k, const uint16_t *v, uint16_t *out,
                  int64_t out_stride, int64_t count, int64_t keys, int64_t d, int64_t last, float unit) {
    uint16_t query[QUERIES * WIDEST], weights[QUERIES * KEYS];
    float scores[QUERIES * KEYS], sums[QUERIES * WIDEST], largest[QUERIES], total[QUERIES];
    for (int64_t r = 0; r < QUERIES; r++) {
        if (r < count) memcpy(query + r * d, q + r * q_stride, 2 * (size_t)d);
        else memset(query + r * d, 0, 2 * (size_t)d);
        largest[r] = -INFINITY;
        total[r] = 0;
    }
    memset(sums, 0, sizeof(float) * (size_t)(QUERIES * d));
    const int64_t rows = (count + TILE - 1) / TILE * TILE, end = last + count < keys ? last + count : keys;
    for (int64_t start = 0; start < end; start += KEYS) {
        const int64_t here = end - start < KEYS ? end - start : KEYS, wide = (here + PANEL - 1) / PANEL * PANEL;
        for (int64_t panel = 0; panel < wide; panel += PANEL)
            for (int64_t r = 0; r < rows; r += TILE)
                tile(query + r * d, d, k + (start + panel) * d, scores + r * KEYS + panel, KEYS, d / 2, 0);
        for (int64_t r = 0; r < rows; r++) {
            int64_t seen = last + r + 1 - start;
            seen = seen < 0 ? 0 : seen < here ? seen : here;
            if (!seen) { /* a causal row that ends before this block */
                memset(weights + r * KEYS, 0, 2 * (size_t)wide);
                continue;
            }
            const float again = weigh(scores + r * KEYS, weights + r * KEYS, seen, wide, unit, largest + r, total + r);
            const __m512 factor = _mm512_set1_ps(again);
            for (float *at = sums + r * d; again != 1.0f && at < sums + (r + 1) * d; at += 16)
                _mm512_storeu_ps(at, _mm512_mul_ps(_mm512_loadu_ps(at), factor));
        }
        for (int64_t column = 0; column < d; column += PANEL)
            for (int64_t r = 0; r < rows; r += TILE)
                tile(weights + r * KEYS, KEYS, v + start * d + column * KEYS, sums + r * d + column, d, wide / 2, 1);
    }
    for (int64_t r = 0; r < count; r++) {
        const __m512 share = _mm512_set1_ps(1.0f / total[r]);
        for (int64_t j = 0; j < d; j += 16)
            _mm256_storeu_si256((__m256i *)(out + r * out_stride + j),
                                (__m256i)_mm512_cvtneps_pbh(_mm512_mul_ps(_mm512_loadu_ps(sums + r * d + j), share)));
    }
}

int vita_attends(void) { return 1; }

/* Attention of q [batch, heads, queries, d] over k and v [batch, groups, keys, d], d 64 or 128, d in one piece;
 * out [batch, queries, heads, d] whole. Causal: query i sees keys 0 to keys - queries + i. `room` holds the packed keys
 * and values: 2 * batch * groups * (keys rounded up to 256) * d values. Strides are of batch, head and row. */
void vita_attention(const uint16_t *q, const uint16_t *k, const uint16_t *v, uint16_t *out, uint16_t *room,
                    const int64_t *strides, int64_t batch, int64_t heads, int64_t groups, int64_t queries, int64_t keys,
                    int64_t d, int64_t causal, double scale) {
    const int64_t *qs = strides, *ks = strides + 3, *vs = strides + 6;
    const int64_t size = (keys + KEYS - 1) / KEYS * KEYS * d, blocks = (queries + QUERIES - 1) / QUERIES;
#pragma omp parallel
    {
#pragma omp for schedule(static)
        for (int64_t at = 0; at < batch * groups; at++) {
            const int64_t b = at / groups, g = at % groups;
            pack_keys(k + b * ks[0] + g * ks[1], ks[2], room + 2 * at * size, keys, d);
            pack_values(v + b * vs[0] + g * vs[1], vs[2], room + (2 * at + 1) * size, keys, d);
        }
#pragma omp for schedule(dynamic)
        for (int64_t at = 0; at < batch * heads * blocks; at++) {
            const int64_t b = at / blocks / heads, h = at / blocks % heads, first = at % blocks * QUERIES;
            const uint16_t *mine = room + 2 * (b * groups + h / (heads / groups)) * size;
            block(q + b * qs[0] + h * qs[1] + first * qs[2], qs[2], mine, mine + size,
                  out + ((b * queries + first) * heads + h) * d, heads * d,
                  queries - first < QUERIES ? queries - first : QUERIES, keys, d,
                  causal ? keys - queries + first : keys, (float)scale * LOG2_E);
        }
    }
}
#else
int vita_attends(void) { return 0; }
void vita_attention(void) {}
#endif
