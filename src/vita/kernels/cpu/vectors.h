#pragma once
/* AVX-512 helpers on 16 floats: bfloat16 conversion (rounding as in floats.h), exp2, 16 x 16 transpose. */
#if defined(__AVX512BW__) && defined(__AVX512VL__)
#include <immintrin.h>
#include <stdint.h>

#define LOG2_E 1.44269504f

/* Mask of the first `count` of 16 lanes; all 16 if there are more. */
static inline __mmask16 tail_mask(int64_t count) {
    return count >= 16 ? 0xFFFF : count <= 0 ? 0 : (__mmask16)((1u << count) - 1);
}

static inline __m512 bf16x16_to_f32(__m256i values) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(values), 16));
}

static inline __m512 load_bf16x16(const uint16_t *from, __mmask16 mask) {
    return bf16x16_to_f32(_mm256_maskz_loadu_epi16(mask, from));
}

/* Round to nearest, ties to even. NaN stays NaN. */
static inline __m256i f32x16_to_bf16(__m512 values) {
    const __m512i bits = _mm512_castps_si512(values);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7FFF)));
    const __mmask16 nan = _mm512_cmp_ps_mask(values, values, _CMP_UNORD_Q);
    const __m512i upper = _mm512_srli_epi32(rounded, 16);
    return _mm512_cvtepi32_epi16(_mm512_mask_mov_epi32(upper, nan, _mm512_set1_epi32(0x7FC0)));
}

/* to [n], bfloat16 = from [n], int8, times `scale`. */
static inline void dequantize_int8_row(const int8_t *from, float scale, uint16_t *to, int64_t n) {
    const __m512 factor = _mm512_set1_ps(scale);
    for (int64_t k = 0; k < n; k += 16) {
        const __mmask16 mask = tail_mask(n - k);
        const __m512i integers = _mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(mask, from + k));
        const __m512 value = _mm512_mul_ps(_mm512_cvtepi32_ps(integers), factor);
#if defined(__AVX512BF16__)
        _mm256_mask_storeu_epi16(to + k, mask, (__m256i)_mm512_cvtneps_pbh(value));
#else
        _mm256_mask_storeu_epi16(to + k, mask, f32x16_to_bf16(value));
#endif
    }
}

#if defined(__AVX512BF16__)
/* Loads up to 32 values as bfloat16. `bytes` per value is a compile-time constant: 2 for bfloat16, 1 for int8, whose
 * values are exact in bfloat16. */
static inline __attribute__((always_inline)) __m512bh load_as_bf16x32(const void *at, __mmask32 mask, const int bytes) {
    if (bytes == 2) return (__m512bh)_mm512_maskz_loadu_epi16(mask, at);
    const __m256i integers = _mm256_maskz_loadu_epi8(mask, at);
    const __m512 low = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm256_castsi256_si128(integers)));
    return _mm512_cvtne2ps_pbh(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm256_extracti128_si256(integers, 1))), low);
}
#endif

#if defined(__AVX512BF16__) && defined(__AVX512VBMI__)
/* Bytes of bfloat16(v) for v from 0 to 127, to be looked up 64 at a time. */
typedef struct {
    __m512i low[2], high[2];
} Int7Table;

static inline Int7Table int7_table(void) {
    uint8_t low[128], high[128];
    for (int v = 0; v < 128; v++) {
        const union { float value; uint32_t bits; } as = {(float)v}; /* its lower 16 bits are 0 */
        low[v] = (uint8_t)(as.bits >> 16), high[v] = (uint8_t)(as.bits >> 24);
    }
    Int7Table table;
    for (int k = 0; k < 2; k++)
        table.low[k] = _mm512_loadu_si512(low + 64 * k), table.high[k] = _mm512_loadu_si512(high + 64 * k);
    return table;
}

/* 64 int8 values from -127 to 127 as bfloat16, by two look-ups instead of conversions through int32 and float32. Each
 * 128-bit lane is split: `out[0]` has its values 0 to 7, `out[1]` its values 8 to 15. */
static inline __attribute__((always_inline)) void int8x64_to_bf16(__m512i values, const Int7Table *t, __m512bh out[2]) {
    const __m512i magnitude = _mm512_abs_epi8(values);
    const __m512i low = _mm512_permutex2var_epi8(t->low[0], magnitude, t->low[1]);
    const __m512i unsigned_high = _mm512_permutex2var_epi8(t->high[0], magnitude, t->high[1]);
    const __m512i sign = _mm512_and_si512(values, _mm512_set1_epi8((char)0x80));
    const __m512i high = _mm512_or_si512(unsigned_high, sign);
    out[0] = (__m512bh)_mm512_unpacklo_epi8(low, high);
    out[1] = (__m512bh)_mm512_unpackhi_epi8(low, high);
}

/* 64 bfloat16 values in the order of int8x64_to_bf16. */
static inline __attribute__((always_inline)) void load_bf16x64_split(const uint16_t *from, __m512bh out[2]) {
    const __m512i a = _mm512_loadu_si512(from), b = _mm512_loadu_si512(from + 32);
    const __m512i even = _mm512_set_epi64(13, 12, 9, 8, 5, 4, 1, 0); /* lanes */
    const __m512i odd = _mm512_set_epi64(15, 14, 11, 10, 7, 6, 3, 2);
    out[0] = (__m512bh)_mm512_permutex2var_epi64(a, even, b);
    out[1] = (__m512bh)_mm512_permutex2var_epi64(a, odd, b);
}
#endif

/* Transposes 16 rows of 16 32-bit words. Columns are stored `stride` bytes apart. */
static inline void transpose_16x16(const __m512i *rows, void *out, int64_t stride) {
    uint8_t *to = out;
    __m512i a[16], b[16];
    for (int k = 0; k < 8; k++) { /* interleave rows 2k and 2k + 1 */
        a[2 * k] = _mm512_unpacklo_epi32(rows[2 * k], rows[2 * k + 1]);
        a[2 * k + 1] = _mm512_unpackhi_epi32(rows[2 * k], rows[2 * k + 1]);
    }
    for (int k = 0; k < 4; k++) /* rows 4k to 4k + 3: b[4 k + j] holds their columns j, j + 4, j + 8 and j + 12 */
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

/* 2^x. Arguments below -127 are clamped. NaN stays NaN. */
static inline __m512 exp2_f32x16(__m512 x) {
    x = _mm512_max_ps(_mm512_set1_ps(-127.0f), x);
    const __m512 exponent = _mm512_roundscale_ps(x, 0), fraction = _mm512_sub_ps(x, exponent);
    __m512 y = _mm512_set1_ps(1.33335581e-3f);
    y = _mm512_fmadd_ps(y, fraction, _mm512_set1_ps(9.61812911e-3f));
    y = _mm512_fmadd_ps(y, fraction, _mm512_set1_ps(5.55041087e-2f));
    y = _mm512_fmadd_ps(y, fraction, _mm512_set1_ps(2.40226507e-1f));
    y = _mm512_fmadd_ps(y, fraction, _mm512_set1_ps(6.93147182e-1f));
    y = _mm512_fmadd_ps(y, fraction, _mm512_set1_ps(1.0f));
    return _mm512_scalef_ps(y, exponent);
}
#endif
