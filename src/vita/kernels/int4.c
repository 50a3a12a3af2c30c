/* Products with four-bit weights on a CPU, plain C with OpenMP.
 *
 * A weight row of n_in values is n_in / GROUP groups. A group's 64 values lie in 32 bytes: byte j holds value j in
 * its low half and value j + 32 in its high half, both plus 8. A group has one scale, in bfloat16.
 *
 * x is rounded to int8 with one scale a group, so that a group's sum is exact in integers:
 *   sum_j (w_j + 8) x_j - 8 sum_j x_j   with u8 times s8 products.
 */
#include <math.h>
#include <stdint.h>
#include <string.h>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

#define GROUP 64
#define HALF (GROUP / 2)
#define MOST_ROWS 8 /* of x at a time: their sums stay in registers */

static float from_bf16(uint16_t value) {
    uint32_t bits = (uint32_t)value << 16;
    float out;
    memcpy(&out, &bits, 4);
    return out;
}

static uint16_t to_bf16(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return (uint16_t)((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
}

/* Rounds rows of x: int8 values, and for each group its scale and minus eight times its sum, scaled. */
void vita_round_rows(const float *x, int8_t *q, float *scale, float *shift, int64_t rows, int64_t n_in) {
    int64_t groups = rows * n_in / GROUP;
    for (int64_t g = 0; g < groups; g++) {
        const float *from = x + g * GROUP;
        float largest = 0, any = 0;
        for (int j = 0; j < GROUP; j++) {
            largest = fmaxf(largest, fabsf(from[j]));
            any += from[j] * 0.0f; /* NaN if one of them is no number */
        }
        if (any != 0.0f) { /* a failure upstream stays visible: the whole sum is no number */
            memset(q + g * GROUP, 0, GROUP);
            scale[g] = shift[g] = NAN;
            continue;
        }
        float unit = largest / 127.0f, inverse = largest > 0 ? 127.0f / largest : 0;
        int32_t sum = 0;
        for (int j = 0; j < GROUP; j++) {
            int32_t whole = (int32_t)lrintf(from[j] * inverse);
            q[g * GROUP + j] = (int8_t)whole;
            sum += whole;
        }
        scale[g] = unit;
        shift[g] = -8.0f * unit * (float)sum;
    }
}

/* One weight row times `rows` rounded rows of x (a constant where this is inlined): unpacked once for all of them. */
static inline __attribute__((always_inline)) void dots(
    const uint8_t *w, const uint16_t *w_scale, const int8_t *q, const float *scale, const float *shift, float *y,
    int64_t stride, int64_t n_in, const int rows) {
    const int64_t groups = n_in / GROUP;
#if defined(__AVX512VNNI__) && defined(__AVX512BW__) && defined(__AVX512VL__)
    const __m512i low = _mm512_set1_epi8(15);
    __m512 total[MOST_ROWS];
    for (int r = 0; r < rows; r++) total[r] = _mm512_setzero_ps();
    for (int64_t g = 0; g < groups; g++) {
        __m256i packed = _mm256_loadu_si256((const __m256i *)(w + g * HALF));
        __m512i wide = _mm512_inserti64x4(_mm512_castsi256_si512(packed), _mm256_srli_epi16(packed, 4), 1);
        __m512i values = _mm512_and_si512(wide, low);
        float unit = from_bf16(w_scale[g]);
        for (int r = 0; r < rows; r++) {
            __m512i x = _mm512_loadu_si512((const void *)(q + r * n_in + g * GROUP));
            __m512 sum = _mm512_cvtepi32_ps(_mm512_dpbusd_epi32(_mm512_setzero_si512(), values, x));
            total[r] = _mm512_fmadd_ps(sum, _mm512_set1_ps(unit * scale[r * groups + g]), total[r]);
        }
    }
    for (int64_t g = 0; g < groups; g += 16) { /* the shifts, sixteen groups at a time */
        __mmask16 here = groups - g >= 16 ? 0xFFFF : (__mmask16)((1 << (groups - g)) - 1);
        __m512i halves = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(here, w_scale + g));
        __m512 unit = _mm512_castsi512_ps(_mm512_slli_epi32(halves, 16));
        for (int r = 0; r < rows; r++) {
            total[r] = _mm512_fmadd_ps(unit, _mm512_maskz_loadu_ps(here, shift + r * groups + g), total[r]);
        }
    }
    for (int r = 0; r < rows; r++) y[r * stride] = _mm512_reduce_add_ps(total[r]);
#elif defined(__AVX2__)
    const __m256i low = _mm256_set1_epi8(15), ones = _mm256_set1_epi16(1);
    __m256 total[MOST_ROWS];
    float rest[MOST_ROWS] = {0};
    for (int r = 0; r < rows; r++) total[r] = _mm256_setzero_ps();
    for (int64_t g = 0; g < groups; g++) {
        __m256i packed = _mm256_loadu_si256((const __m256i *)(w + g * HALF));
        __m256i first = _mm256_and_si256(packed, low), second = _mm256_and_si256(_mm256_srli_epi16(packed, 4), low);
        float unit = from_bf16(w_scale[g]);
        for (int r = 0; r < rows; r++) {
            const __m256i *x = (const __m256i *)(q + r * n_in + g * GROUP);
            __m256i a = _mm256_maddubs_epi16(first, _mm256_loadu_si256(x));
            __m256i b = _mm256_maddubs_epi16(second, _mm256_loadu_si256(x + 1));
            __m256 sum = _mm256_cvtepi32_ps(_mm256_madd_epi16(_mm256_add_epi16(a, b), ones));
            total[r] = _mm256_add_ps(total[r], _mm256_mul_ps(sum, _mm256_set1_ps(unit * scale[r * groups + g])));
            rest[r] += unit * shift[r * groups + g];
        }
    }
    for (int r = 0; r < rows; r++) {
        float lanes[8], sum = rest[r];
        _mm256_storeu_ps(lanes, total[r]);
        for (int j = 0; j < 8; j++) sum += lanes[j];
        y[r * stride] = sum;
    }
#else
    float rest[MOST_ROWS] = {0};
    for (int64_t g = 0; g < groups; g++) {
        for (int r = 0; r < rows; r++) {
            const int8_t *x = q + r * n_in + g * GROUP;
            int32_t sum = 0;
            for (int j = 0; j < HALF; j++) {
                sum += (w[g * HALF + j] & 15) * x[j] + (w[g * HALF + j] >> 4) * x[j + HALF];
            }
            rest[r] += from_bf16(w_scale[g]) * (scale[r * groups + g] * (float)sum + shift[r * groups + g]);
        }
    }
    for (int r = 0; r < rows; r++) y[r * stride] = rest[r];
#endif
}

/* y [rows, n_out] = x w^T; a weight row is read from memory once for all rows of x. */
void vita_int4_product(const uint8_t *w, const uint16_t *w_scale, const int8_t *q, const float *scale,
                       const float *shift, float *y, int64_t rows, int64_t n_out, int64_t n_in) {
    const int64_t groups = n_in / GROUP;
#pragma omp parallel for schedule(static)
    for (int64_t o = 0; o < n_out; o++) {
        const uint8_t *row = w + o * n_in / 2;
        const uint16_t *unit = w_scale + o * groups;
        for (int64_t r = 0; r < rows;) {
            const int8_t *x = q + r * n_in;
            const float *s = scale + r * groups, *d = shift + r * groups;
            float *to = y + r * n_out + o;
            int64_t left = rows - r;
            if (left >= 8) { dots(row, unit, x, s, d, to, n_out, n_in, 8); r += 8; }
            else if (left >= 4) { dots(row, unit, x, s, d, to, n_out, n_in, 4); r += 4; }
            else if (left >= 2) { dots(row, unit, x, s, d, to, n_out, n_in, 2); r += 2; }
            else { dots(row, unit, x, s, d, to, n_out, n_in, 1); r += 1; }
        }
    }
}

/* Weights widened to bfloat16 [n_out, n_in], for products with many rows. */
void vita_int4_widen(const uint8_t *w, const uint16_t *w_scale, uint16_t *out, int64_t n_out, int64_t n_in) {
    int64_t groups = n_out * n_in / GROUP;
#pragma omp parallel for schedule(static)
    for (int64_t g = 0; g < groups; g++) {
        float unit = from_bf16(w_scale[g]);
        uint16_t table[16];
        for (int v = 0; v < 16; v++) table[v] = to_bf16(unit * (float)(v - 8));
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
