/* Rows of x rounded to eight bits, for products with rounded weights (gemv_int4.c, gemm_dynamic_int8.c). */
#include <math.h>
#include "int4.h"
#include "vectors.h"

/* A group of less than this is nothing: products with subnormal numbers take a hundred times as long, and the gate of
 * an MLP makes many where it is far from open. */
#define NOTHING 1e-30f

/* Rounds one group: its values in two halves, to `to` and to `second` behind it. Returns their sum; their scale is none
 * if one of the values is no number or has no end. */
static int32_t round_group(const void *x, int64_t at, int8_t *to, int64_t second, float *scale, int half) {
#if defined(__AVX512BW__) && defined(__AVX512VL__)
    __m512 from[4], top = _mm512_setzero_ps();
    for (int k = 0; k < 4; k++) {
        from[k] = half ? widened((const uint16_t *)x + at + 16 * k, 0xFFFF)
                       : _mm512_loadu_ps((const float *)x + at + 16 * k);
        top = _mm512_max_ps(_mm512_abs_ps(from[k]), top);
    }
    __mmask16 odd = 0;
    for (int k = 0; k < 4; k++)
        odd |= _mm512_cmp_ps_mask(_mm512_abs_ps(from[k]), _mm512_set1_ps(INFINITY), _CMP_NLT_UQ);
    const float largest = _mm512_reduce_max_ps(top), inverse = largest > NOTHING ? 127.0f / largest : 0;
    __m512i sum = _mm512_setzero_si512();
    for (int k = 0; k < 4; k++) {
        const __m512i rounded = _mm512_cvtps_epi32(_mm512_mul_ps(from[k], _mm512_set1_ps(inverse)));
        const __m512i whole = odd ? _mm512_setzero_si512() : rounded;
        _mm_storeu_si128((__m128i *)(to + k / 2 * second + k % 2 * 16), _mm512_cvtepi32_epi8(whole));
        sum = _mm512_add_epi32(sum, whole);
    }
    *scale = odd ? NAN : largest > NOTHING ? largest / 127.0f : 0;
    return _mm512_reduce_add_epi32(sum);
#else
    float from[GROUP], largest = 0, any = 0;
    for (int j = 0; j < GROUP; j++) {
        from[j] = get(x, at + j, half);
        const float size = fabsf(from[j]);
        largest = size > largest ? size : largest;
        any += from[j] * 0.0f;
    }
    const float inverse = largest > NOTHING ? 127.0f / largest : 0;
    int32_t sum = 0;
    for (int j = 0; j < GROUP; j++) {
        const int32_t whole = any == 0.0f ? (int32_t)rintf(from[j] * inverse) : 0;
        to[j < HALF ? j : j - HALF + second] = (int8_t)whole;
        sum += whole;
    }
    *scale = any != 0.0f ? NAN : largest > NOTHING ? largest / 127.0f : 0;
    return sum;
#endif
}

/* Rounds rows of x: int8 values, and for each group its scale and minus eight times its sum, scaled. What is no number
 * upstream stays visible: the scale is none, and so is every sum with it.
 *
 * Two groups a, b are stored as their first halves and then their second ones (a1 b1 a2 b2), since 64 bytes of weights
 * hold both their low halves and both their high ones; a last group without a partner keeps its order. */
void vita_round_rows(const void *x, int8_t *q, float *scale, float *shift, int64_t rows, int64_t n_in, int64_t half) {
    const int64_t groups = n_in / GROUP;
#pragma omp parallel for schedule(static) if (rows * n_in > 65536)
    for (int64_t at = 0; at < rows * groups; at++) {
        const int64_t g = at % groups, paired = (g ^ 1) < groups;
        int8_t *to = paired ? q + (at - (g & 1)) * GROUP + (g & 1) * HALF : q + at * GROUP;
        const int32_t sum = round_group(x, at * GROUP, to, paired ? GROUP : HALF, scale + at, (int)half);
        shift[at] = -8.0f * scale[at] * (float)sum;
    }
}
