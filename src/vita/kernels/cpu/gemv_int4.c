/* Products with four-bit weights on a CPU, plain C with OpenMP.
 *
 * A weight row of n_in values is n_in / GROUP groups. A group's 64 values lie in 32 bytes: byte j holds value j in
 * its low half and value j + 32 in its high half, both plus 8. A group has one scale, in bfloat16.
 *
 * x is rounded to int8 with one scale a group, so that a group's sum is exact in integers:
 *   sum_j (w_j + 8) x_j - 8 sum_j x_j   with u8 times s8 products.
 */
#include "int4.h"
#include "rows.h"
#include "vectors.h"
#if defined(__AVX2__)
#include <immintrin.h>
#endif

#define AHEAD 8192 /* bytes asked for before they are needed */
#define PANEL 8    /* weight rows that go along several rows of x together */
#define NEAR 40000 /* bytes of x that fit into the nearest cache */

#if defined(__AVX512VNNI__) && defined(__AVX512BW__) && defined(__AVX512VL__)
/* Adds two groups, which are 64 bytes of weights, to the sums of `rows` rows; `which` picks their factors. */
static inline __attribute__((always_inline)) void pair(
    const uint8_t *w, const int8_t *q, int64_t n_in, const __m512 *units, __m512i which, const uint8_t *next,
    __m512 *total, const int rows) {
    const __m512i low = _mm512_set1_epi8(15), packed = _mm512_loadu_si512((const void *)w);
    const __m512i one = _mm512_and_si512(packed, low), other = _mm512_and_si512(_mm512_srli_epi16(packed, 4), low);
    _mm_prefetch((const char *)next, _MM_HINT_T0);
    for (int r = 0; r < rows; r++) {
        const int8_t *x = q + r * n_in;
        __m512i sum = _mm512_dpbusd_epi32(_mm512_setzero_si512(), one, _mm512_loadu_si512((const void *)x));
        sum = _mm512_dpbusd_epi32(sum, other, _mm512_loadu_si512((const void *)(x + GROUP)));
        total[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), _mm512_permutexvar_ps(which, units[r]), total[r]);
    }
}

/* Adds up to sixteen groups from `g` on to the sums of `rows` rows; pairs of groups go into two sums in turns, since
 * one would wait for itself. As many weights from `next` on are asked for. */
static inline __attribute__((always_inline)) void stretch(
    const uint8_t *w, const uint16_t *w_scale, const int8_t *q, const float *scale, const float *shift, int64_t g,
    int64_t n_in, const uint8_t *next, __m512 (*sums)[MOST_ROWS], const int rows) {
    const __m512i low = _mm512_set1_epi8(15), two = _mm512_set1_epi32(2);
    const int64_t groups = n_in / GROUP, here = groups - g < 16 ? groups - g : 16;
    const __mmask16 mask = (__mmask16)((1u << here) - 1);
    _mm_prefetch((const char *)(w_scale + g) + AHEAD / 16, _MM_HINT_T0); /* a sixteenth of the weights' bytes */
    const __m512 unit = widened(w_scale + g, mask);
    __m512 units[MOST_ROWS]; /* the scales of all sixteen at once */
    for (int r = 0; r < rows; r++) {
        sums[0][r] = _mm512_fmadd_ps(unit, _mm512_maskz_loadu_ps(mask, shift + r * groups + g), sums[0][r]);
        units[r] = _mm512_mul_ps(unit, _mm512_maskz_loadu_ps(mask, scale + r * groups + g));
    }
    __m512i which = _mm512_inserti64x4(_mm512_setzero_si512(), _mm256_set1_epi32(1), 1); /* 0 x 8, 1 x 8 */
    int64_t k = 0;
    for (; k + 4 <= here; k += 4)
        for (int half = 0; half < 2; half++, which = _mm512_add_epi32(which, two))
            pair(w + (g + k + 2 * half) * HALF, q + (g + k + 2 * half) * GROUP, n_in, units, which,
                 next + (k + 2 * half) * HALF, sums[half], rows);
    if (k + 2 <= here) {
        pair(w + (g + k) * HALF, q + (g + k) * GROUP, n_in, units, which, next + k * HALF, sums[0], rows);
        which = _mm512_add_epi32(which, two);
        k += 2;
    }
    if (k < here) { /* a last one without a partner: half as wide */
        __m256i packed = _mm256_loadu_si256((const __m256i *)(w + (g + k) * HALF));
        __m256i one = _mm256_and_si256(packed, _mm512_castsi512_si256(low));
        __m256i other = _mm256_and_si256(_mm256_srli_epi16(packed, 4), _mm512_castsi512_si256(low));
        for (int r = 0; r < rows; r++) {
            const __m256i *y = (const __m256i *)(q + r * n_in + (g + k) * GROUP);
            __m256i sum = _mm256_dpbusd_epi32(_mm256_setzero_si256(), one, _mm256_loadu_si256(y));
            sum = _mm256_dpbusd_epi32(sum, other, _mm256_loadu_si256(y + 1));
            __m512 wide = _mm512_maskz_cvtepi32_ps(0xFF, _mm512_castsi256_si512(sum));
            sums[0][r] = _mm512_fmadd_ps(wide, _mm512_permutexvar_ps(which, units[r]), sums[0][r]);
        }
    }
}
#endif

#if defined(__AVX2__)
/* Eight sums of the products of four values each of both halves of a group. */
static inline __m256i products(__m256i first, __m256i one, __m256i second, __m256i other) {
#if defined(__AVXVNNI__)
    return _mm256_dpbusd_avx_epi32(_mm256_dpbusd_avx_epi32(_mm256_setzero_si256(), first, one), second, other);
#else
    const __m256i pairs = _mm256_add_epi16(_mm256_maddubs_epi16(first, one), _mm256_maddubs_epi16(second, other));
    return _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
#endif
}
#endif

/* `channels` weight rows times `rows` rounded rows of x (a constant where this is inlined): sums [channels, MOST_ROWS].
 * Sixteen groups of all channels come first, where x does not fit into the nearest cache whole. */
static inline __attribute__((always_inline)) void dots(
    const uint8_t *w, const uint16_t *w_scale, const int8_t *q, const float *scale, const float *shift, float *sums,
    int64_t n_in, int64_t channels, const int rows) {
    const int64_t groups = n_in / GROUP;
    (void)channels; /* one, where it is not used */
#if defined(__AVX512VNNI__) && defined(__AVX512BW__) && defined(__AVX512VL__)
    if (channels == 1) {
        __m512 total[2][MOST_ROWS];
        for (int r = 0; r < rows; r++) total[0][r] = total[1][r] = _mm512_setzero_ps();
        for (int64_t g = 0; g < groups; g += 16)
            stretch(w, w_scale, q, scale, shift, g, n_in, w + g * HALF + AHEAD, total, rows);
        for (int r = 0; r < rows; r++) sums[r] = _mm512_reduce_add_ps(_mm512_add_ps(total[0][r], total[1][r]));
        return;
    }
    __m512 kept[PANEL][2][MOST_ROWS];
    for (int64_t c = 0; c < channels; c++)
        for (int r = 0; r < rows; r++) kept[c][0][r] = kept[c][1][r] = _mm512_setzero_ps();
    const uint8_t *next = w + channels * n_in / 2; /* in the order in which it lies, which memory likes best */
    for (int64_t g = 0; g < groups; g += 16)
        for (int64_t c = 0; c < channels; c++, next += 16 * HALF)
            stretch(w + c * n_in / 2, w_scale + c * groups, q, scale, shift, g, n_in, next, kept[c], rows);
    for (int64_t c = 0; c < channels; c++)
        for (int r = 0; r < rows; r++)
            sums[c * MOST_ROWS + r] = _mm512_reduce_add_ps(_mm512_add_ps(kept[c][0][r], kept[c][1][r]));
#elif defined(__AVX2__)
    const __m256i low = _mm256_set1_epi8(15);
    __m256 total[MOST_ROWS];
    float rest[MOST_ROWS] = {0};
    for (int r = 0; r < rows; r++) total[r] = _mm256_setzero_ps();
    for (int64_t g = 0; g < groups; g++) {
        if (g % 2 == 0) _mm_prefetch((const char *)(w + g * HALF) + AHEAD, _MM_HINT_T0);
        __m256i packed = _mm256_loadu_si256((const __m256i *)(w + g * HALF));
        __m256i first = _mm256_and_si256(packed, low), second = _mm256_and_si256(_mm256_srli_epi16(packed, 4), low);
        float unit = wide(w_scale[g]);
        for (int r = 0; r < rows; r++) {
            const int8_t *x = q + r * n_in;
            const __m256i one = _mm256_loadu_si256((const __m256i *)(x + half_of(g, 0, groups)));
            const __m256i other = _mm256_loadu_si256((const __m256i *)(x + half_of(g, 1, groups)));
            const __m256 sum = _mm256_cvtepi32_ps(products(first, one, second, other));
            total[r] = _mm256_add_ps(total[r], _mm256_mul_ps(sum, _mm256_set1_ps(unit * scale[r * groups + g])));
            rest[r] += unit * shift[r * groups + g];
        }
    }
    for (int r = 0; r < rows; r++) {
        float lanes[8], sum = rest[r];
        _mm256_storeu_ps(lanes, total[r]);
        for (int j = 0; j < 8; j++) sum += lanes[j];
        sums[r] = sum;
    }
#else
    float rest[MOST_ROWS] = {0};
    for (int64_t g = 0; g < groups; g++) {
        for (int r = 0; r < rows; r++) {
            const int8_t *x = q + r * n_in + half_of(g, 0, groups), *y2 = q + r * n_in + half_of(g, 1, groups);
            int32_t sum = 0;
            for (int j = 0; j < HALF; j++) {
                sum += (w[g * HALF + j] & 15) * x[j] + (w[g * HALF + j] >> 4) * y2[j];
            }
            rest[r] += wide(w_scale[g]) * (scale[r * groups + g] * (float)sum + shift[r * groups + g]);
        }
    }
    for (int r = 0; r < rows; r++) sums[r] = rest[r];
#endif
}

/* y [rows, n_out] = x w^T + bias; x, bias (or null) and y in one format. A weight row is read from memory once for all
 * rows of x. `room` is for the rounded rows: rows * (n_in + 8 * groups) bytes. */
void vita_int4_product(const uint8_t *w, const uint16_t *w_scale, const void *input, const void *bias, void *y,
                       uint8_t *room, int64_t rows, int64_t n_out, int64_t n_in, int64_t half) {
    const int64_t groups = n_in / GROUP;
    int8_t *q = (int8_t *)room;
    float *scale = (float *)(room + rows * n_in), *shift = scale + rows * groups;
    vita_round_rows(input, q, scale, shift, rows, n_in, half);
#if defined(__AVX512VNNI__) && defined(__AVX512BW__) && defined(__AVX512VL__)
    const int64_t together = rows * n_in > NEAR ? PANEL : 1;
#else
    const int64_t together = 1;
#endif
#pragma omp parallel for schedule(static)
    for (int64_t first = 0; first < n_out; first += together) {
        const int64_t channels = n_out - first < together ? n_out - first : together;
        const uint8_t *row = w + first * n_in / 2;
        const uint16_t *unit = w_scale + first * groups;
        for (int64_t r = 0, taken; r < rows; r += taken) {
            const int8_t *x = q + r * n_in;
            const float *s = scale + r * groups, *d = shift + r * groups;
            float sums[PANEL * MOST_ROWS];
            SOME_ROWS(rows - r, taken, dots(row, unit, x, s, d, sums, n_in, channels, ROWS))
            for (int64_t c = 0; c < channels; c++) {
                const float add = bias ? get(bias, first + c, (int)half) : 0;
                for (int64_t k = 0; k < taken; k++)
                    put(y, (r + k) * n_out + first + c, sums[c * MOST_ROWS + k] + add, (int)half);
            }
        }
    }
}

/* Weights widened to bfloat16 [n_out, n_in], for products with many rows. */
void vita_int4_widen(const uint8_t *w, const uint16_t *w_scale, uint16_t *out, int64_t n_out, int64_t n_in) {
    int64_t groups = n_out * n_in / GROUP;
#pragma omp parallel for schedule(static)
    for (int64_t g = 0; g < groups; g++) {
        float unit = wide(w_scale[g]);
        uint16_t table[16];
        for (int v = 0; v < 16; v++) table[v] = narrow(unit * (float)(v - 8));
        const uint8_t *from = w + g * HALF;
        uint16_t *to = out + g * GROUP;
#if defined(__AVX512BW__)
        __m512i values = _mm512_castsi256_si512(_mm256_loadu_si256((const __m256i *)table));
        __m512i words = _mm512_cvtepu8_epi16(_mm256_loadu_si256((const __m256i *)from));
        __m512i low = _mm512_and_si512(words, _mm512_set1_epi16(15));
        _mm512_storeu_si512((void *)to, _mm512_permutexvar_epi16(low, values));
        _mm512_storeu_si512((void *)(to + HALF), _mm512_permutexvar_epi16(_mm512_srli_epi16(words, 4), values));
#else
        for (int j = 0; j < HALF; j++) {
            to[j] = table[from[j] & 15];
            to[j + HALF] = table[from[j] >> 4];
        }
#endif
    }
}
