/* The product of one row with bfloat16 weights on a CPU, plain C with OpenMP.
 *
 * A decode step reads every weight once and does next to nothing with it, so all that counts is how fast memory is
 * read: a thread walks along one weight row after the other and asks for what comes next well before. Rows in a mapped
 * file may begin anywhere, and a load that crosses a cache line costs two: loads of weights are brought onto lines, and
 * those of x, which lies in the nearest cache, cross them instead.
 */
#include "floats.h"
#if defined(__AVX2__)
#include <immintrin.h>
#endif

#define AHEAD 2048 /* bytes asked for before they are needed */

/* One weight row times x, summed in float32. */
static float dot(const uint16_t *w, const uint16_t *x, int64_t n_in) {
    int64_t j = 0;
    float sum = 0;
#if defined(__AVX512BF16__)
    __m512 total[4];
    for (int k = 0; k < 4; k++) total[k] = _mm512_setzero_ps();
    const int64_t lead = (int64_t)(-(uintptr_t)w & 63) / 2;
    if (lead && lead <= n_in) {
        const __mmask32 mask = (__mmask32)((1u << lead) - 1);
        __m512bh a = (__m512bh)_mm512_maskz_loadu_epi16(mask, w), b = (__m512bh)_mm512_maskz_loadu_epi16(mask, x);
        total[0] = _mm512_dpbf16_ps(total[0], a, b);
        j = lead;
    }
    for (; j + 128 <= n_in; j += 128) {
        for (int k = 0; k < 4; k++) {
            const uint16_t *at = w + j + 32 * k;
            _mm_prefetch((const char *)at + AHEAD, _MM_HINT_T0);
            __m512bh y = (__m512bh)_mm512_loadu_si512(x + j + 32 * k);
            total[k] = _mm512_dpbf16_ps(total[k], (__m512bh)_mm512_loadu_si512(at), y);
        }
    }
    sum = _mm512_reduce_add_ps(_mm512_add_ps(_mm512_add_ps(total[0], total[1]), _mm512_add_ps(total[2], total[3])));
#elif defined(__AVX2__) && defined(__FMA__)
    const __m256i upper = _mm256_set1_epi32((int)0xFFFF0000);
    __m256 total[4];
    for (int k = 0; k < 4; k++) total[k] = _mm256_setzero_ps();
    for (; j + 32 <= n_in; j += 32) { /* every second value is the upper half of a word, the others its lower */
        _mm_prefetch((const char *)(w + j) + AHEAD, _MM_HINT_T0);
        for (int k = 0; k < 2; k++) {
            __m256i a = _mm256_loadu_si256((const __m256i *)(w + j + 16 * k));
            __m256i b = _mm256_loadu_si256((const __m256i *)(x + j + 16 * k));
            __m256 a_even = _mm256_castsi256_ps(_mm256_slli_epi32(a, 16));
            __m256 b_even = _mm256_castsi256_ps(_mm256_slli_epi32(b, 16));
            __m256 a_odd = _mm256_castsi256_ps(_mm256_and_si256(a, upper));
            __m256 b_odd = _mm256_castsi256_ps(_mm256_and_si256(b, upper));
            total[2 * k] = _mm256_fmadd_ps(a_even, b_even, total[2 * k]);
            total[2 * k + 1] = _mm256_fmadd_ps(a_odd, b_odd, total[2 * k + 1]);
        }
    }
    float lanes[8];
    _mm256_storeu_ps(lanes, _mm256_add_ps(_mm256_add_ps(total[0], total[1]), _mm256_add_ps(total[2], total[3])));
    for (int k = 0; k < 8; k++) sum += lanes[k];
#endif
    for (; j < n_in; j++) sum += wide(w[j]) * wide(x[j]);
    return sum;
}

/* y [n_out] = w x + bias, all bfloat16; bias may be null. */
void vita_bf16_row(const uint16_t *w, const uint16_t *x, const uint16_t *bias, uint16_t *y, int64_t n_out,
                   int64_t n_in) {
#pragma omp parallel for schedule(static)
    for (int64_t o = 0; o < n_out; o++) y[o] = narrow(dot(w + o * n_in, x, n_in) + (bias ? wide(bias[o]) : 0));
}
