/* Quantises rows of x to int8 for integer products with quantised weights (gemv_int4.c, gemm_dynamic_int8.c). */
#include <math.h>
#include "int4.h"
#include "vectors.h"

/* A group whose largest magnitude is below this becomes zero. SwiGLU produces many such values, and products with
 * subnormal scales are about a hundred times slower. */
#define SMALLEST_MAX 1e-30f

/* Quantises one group. The first half of its values goes to `to`, the second half to `to + second`. Returns the sum of
 * the int8 values. The scale is NaN if a value is NaN or infinite. */
static int32_t quantize_group(const void *x, int64_t start, int8_t *to, int64_t second, float *scale, int is_bf16) {
#if defined(__AVX512BW__) && defined(__AVX512VL__)
    __m512 from[4], top = _mm512_setzero_ps();
    for (int k = 0; k < 4; k++) {
        from[k] = is_bf16 ? load_bf16x16((const uint16_t *)x + start + 16 * k, 0xFFFF)
                          : _mm512_loadu_ps((const float *)x + start + 16 * k);
        top = _mm512_max_ps(_mm512_abs_ps(from[k]), top);
    }
    __mmask16 not_finite = 0;
    for (int k = 0; k < 4; k++)
        not_finite |= _mm512_cmp_ps_mask(_mm512_abs_ps(from[k]), _mm512_set1_ps(INFINITY), _CMP_NLT_UQ);
    const float max = _mm512_reduce_max_ps(top), inverse = max > SMALLEST_MAX ? 127.0f / max : 0;
    __m512i sum = _mm512_setzero_si512();
    for (int k = 0; k < 4; k++) {
        const __m512i rounded = _mm512_cvtps_epi32(_mm512_mul_ps(from[k], _mm512_set1_ps(inverse)));
        const __m512i integers = not_finite ? _mm512_setzero_si512() : rounded;
        _mm_storeu_si128((__m128i *)(to + k / 2 * second + k % 2 * 16), _mm512_cvtepi32_epi8(integers));
        sum = _mm512_add_epi32(sum, integers);
    }
    *scale = not_finite ? NAN : max > SMALLEST_MAX ? max / 127.0f : 0;
    return _mm512_reduce_add_epi32(sum);
#else
    float from[GROUP_SIZE], max = 0, zero_if_finite = 0;
    for (int j = 0; j < GROUP_SIZE; j++) {
        from[j] = load_float(x, start + j, is_bf16);
        const float magnitude = fabsf(from[j]);
        max = magnitude > max ? magnitude : max;
        zero_if_finite += from[j] * 0.0f;
    }
    const float inverse = max > SMALLEST_MAX ? 127.0f / max : 0;
    int32_t sum = 0;
    for (int j = 0; j < GROUP_SIZE; j++) {
        const int32_t integer = zero_if_finite == 0.0f ? (int32_t)rintf(from[j] * inverse) : 0;
        to[j < HALF_GROUP ? j : j - HALF_GROUP + second] = (int8_t)integer;
        sum += integer;
    }
    *scale = zero_if_finite != 0.0f ? NAN : max > SMALLEST_MAX ? max / 127.0f : 0;
    return sum;
#endif
}

/* Weights and quantised activations share this group size. Python compares it with its own format when loading. */
int64_t vita_group_size(void) { return GROUP_SIZE; }

/* Quantises rows of x [rows, n_in]: int8 values `q`, and for each group its `scale` and `shift` = -8 * scale * (sum of
 * the int8 values), which removes the offset 8 of int4 weights. NaN and infinite inputs propagate: the group's scale
 * becomes NaN, and so does every product with it.
 *
 * Two neighbouring groups a, b are stored as a1 b1 a2 b2 (first halves, then second halves), because 64 bytes of int4
 * weights hold their first halves in the low nibbles and their second halves in the high nibbles. A last group without
 * a neighbour keeps its order. */
void quantize_activations(const void *x, int8_t *q, float *scale, float *shift, int64_t rows, int64_t n_in,
                          int64_t is_bf16) {
    const int64_t groups = n_in / GROUP_SIZE;
#pragma omp parallel for schedule(static) if (rows * n_in > 65536)
    for (int64_t at = 0; at < rows * groups; at++) {
        const int64_t g = at % groups, paired = (g ^ 1) < groups;
        int8_t *to = paired ? q + (at - (g & 1)) * GROUP_SIZE + (g & 1) * HALF_GROUP : q + at * GROUP_SIZE;
        const int64_t second = paired ? GROUP_SIZE : HALF_GROUP;
        const int32_t sum = quantize_group(x, at * GROUP_SIZE, to, second, scale + at, (int)is_bf16);
        shift[at] = -8.0f * scale[at] * (float)sum;
    }
}
