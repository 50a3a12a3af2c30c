/* Sixteen numbers at a time: bfloat16 to float32 and back as floats.h does it for one, and powers of two. */
#if defined(__AVX512BW__) && defined(__AVX512VL__)
#include <immintrin.h>
#include <stdint.h>

#define LOG2_E 1.44269504f

/* Which of sixteen there are, if there are `count` left. */
static inline __mmask16 first_of(int64_t count) {
    return count >= 16 ? 0xFFFF : count <= 0 ? 0 : (__mmask16)((1u << count) - 1);
}

static inline __m512 widened(const uint16_t *from, __mmask16 there) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(there, from)), 16));
}

/* To the nearest, ties to even; what is no number stays none. */
static inline __m256i narrowed(__m512 values) {
    const __m512i bits = _mm512_castps_si512(values);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i even = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7FFF)));
    const __mmask16 none = _mm512_cmp_ps_mask(values, values, _CMP_UNORD_Q);
    return _mm512_cvtepi32_epi16(_mm512_mask_mov_epi32(_mm512_srli_epi32(even, 16), none, _mm512_set1_epi32(0x7FC0)));
}

/* 2^x; below 2^-127 it is next to nothing. What is no number stays none. */
static inline __m512 power_of_two(__m512 x) {
    x = _mm512_max_ps(_mm512_set1_ps(-127.0f), x);
    const __m512 whole = _mm512_roundscale_ps(x, 0), part = _mm512_sub_ps(x, whole);
    __m512 y = _mm512_set1_ps(1.33335581e-3f);
    y = _mm512_fmadd_ps(y, part, _mm512_set1_ps(9.61812911e-3f));
    y = _mm512_fmadd_ps(y, part, _mm512_set1_ps(5.55041087e-2f));
    y = _mm512_fmadd_ps(y, part, _mm512_set1_ps(2.40226507e-1f));
    y = _mm512_fmadd_ps(y, part, _mm512_set1_ps(6.93147182e-1f));
    y = _mm512_fmadd_ps(y, part, _mm512_set1_ps(1.0f));
    return _mm512_scalef_ps(y, whole);
}
#endif
