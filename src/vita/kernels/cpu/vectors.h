#pragma once
/* Sixteen numbers at a time: bfloat16 to float32 and back as floats.h does it for one, powers of two, transposing. */
#if defined(__AVX512BW__) && defined(__AVX512VL__)
#include <immintrin.h>
#include <stdint.h>

#define LOG2_E 1.44269504f

/* Which of sixteen there are, if there are `count` left. */
static inline __mmask16 first_of(int64_t count) {
    return count >= 16 ? 0xFFFF : count <= 0 ? 0 : (__mmask16)((1u << count) - 1);
}

static inline __m512 as_floats(__m256i halves) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
}

static inline __m512 widened(const uint16_t *from, __mmask16 there) {
    return as_floats(_mm256_maskz_loadu_epi16(there, from));
}

/* To the nearest, ties to even; what is no number stays none. */
static inline __m256i narrowed(__m512 values) {
    const __m512i bits = _mm512_castps_si512(values);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i even = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7FFF)));
    const __mmask16 none = _mm512_cmp_ps_mask(values, values, _CMP_UNORD_Q);
    return _mm512_cvtepi32_epi16(_mm512_mask_mov_epi32(_mm512_srli_epi32(even, 16), none, _mm512_set1_epi32(0x7FC0)));
}

/* `n` whole numbers times `unit`, as bfloat16. */
static inline void scaled(const int8_t *from, float unit, uint16_t *to, int64_t n) {
    const __m512 by = _mm512_set1_ps(unit);
    for (int64_t k = 0; k < n; k += 16) {
        const __mmask16 there = first_of(n - k);
        const __m512i whole = _mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(there, from + k));
        const __m512 value = _mm512_mul_ps(_mm512_cvtepi32_ps(whole), by);
#if defined(__AVX512BF16__)
        _mm256_mask_storeu_epi16(to + k, there, (__m256i)_mm512_cvtneps_pbh(value));
#else
        _mm256_mask_storeu_epi16(to + k, there, narrowed(value));
#endif
    }
}

#if defined(__AVX512BF16__)
/* Up to 32 numbers of `bytes` each (a constant where this is inlined): two of bfloat16, one of whole numbers, which are
 * exact in it. */
static inline __attribute__((always_inline)) __m512bh halves_of(const void *at, __mmask32 there, const int bytes) {
    if (bytes == 2) return (__m512bh)_mm512_maskz_loadu_epi16(there, at);
    const __m256i whole = _mm256_maskz_loadu_epi8(there, at);
    const __m512 one = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm256_castsi256_si128(whole)));
    return _mm512_cvtne2ps_pbh(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm256_extracti128_si256(whole, 1))), one);
}
#endif

/* Sixteen rows of sixteen words of four bytes become sixteen columns, `stride` bytes from one to the next. */
static inline void transposed(const __m512i *rows, void *out, int64_t stride) {
    uint8_t *to = out;
    __m512i a[16], b[16];
    for (int k = 0; k < 8; k++) { /* of two rows */
        a[2 * k] = _mm512_unpacklo_epi32(rows[2 * k], rows[2 * k + 1]);
        a[2 * k + 1] = _mm512_unpackhi_epi32(rows[2 * k], rows[2 * k + 1]);
    }
    for (int k = 0; k < 4; k++) /* of four rows: b[4 k + j] holds columns j, j + 4, j + 8 and j + 12 */
        for (int j = 0; j < 2; j++) {
            b[4 * k + 2 * j] = _mm512_unpacklo_epi64(a[4 * k + j], a[4 * k + 2 + j]);
            b[4 * k + 2 * j + 1] = _mm512_unpackhi_epi64(a[4 * k + j], a[4 * k + 2 + j]);
        }
    for (int j = 0; j < 4; j++) {
        const __m512i low = _mm512_shuffle_i32x4(b[j], b[4 + j], 0x88);
        const __m512i high = _mm512_shuffle_i32x4(b[j], b[4 + j], 0xDD);
        const __m512i low2 = _mm512_shuffle_i32x4(b[8 + j], b[12 + j], 0x88);
        const __m512i high2 = _mm512_shuffle_i32x4(b[8 + j], b[12 + j], 0xDD);
        _mm512_storeu_si512(to + j * stride, _mm512_shuffle_i32x4(low, low2, 0x88));
        _mm512_storeu_si512(to + (j + 4) * stride, _mm512_shuffle_i32x4(high, high2, 0x88));
        _mm512_storeu_si512(to + (j + 8) * stride, _mm512_shuffle_i32x4(low, low2, 0xDD));
        _mm512_storeu_si512(to + (j + 12) * stride, _mm512_shuffle_i32x4(high, high2, 0xDD));
    }
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
