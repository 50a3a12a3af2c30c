/* Four-bit weights times many rounded rows (prefill), with AVX-512's products of whole numbers.
 *
 * Built as "not there" where the processor multiplies whole tiles of bfloat16 (AMX), which is faster still, and on
 * those without such products. The format is that of int4.c: sums of a group of 64 are exact, then scaled.
 */
#include <math.h>
#include <omp.h>
#include "int4.h"
#include "vectors.h"

#if defined(__AVX512VNNI__) && defined(__AVX512BW__) && defined(__AVX512VL__) && !defined(__AMX_TILE__)
#define TILE 6                 /* rows of x whose sums stay in registers */
#define PANEL 32               /* weight rows beside each other: two vectors */
#define QUADS (GROUP / 4)      /* of values that one product takes, in a group */
#define NEAR (8 << 20)         /* bytes of x that every panel goes through, so that they stay in the last cache */

/* Unpacks `PANEL` weight rows: [group][quad][row][4] values plus eight, and [group][row] scales. Rows past the last one
 * repeat it; what comes of them is thrown away. */
static void unpack(const uint8_t *w, const uint16_t *w_scale, uint8_t *values, float *scales, int64_t first,
                   int64_t n_out, int64_t n_in) {
    const int64_t groups = n_in / GROUP;
    int32_t at[PANEL];
    for (int c = 0; c < PANEL; c++) {
        const int64_t row = first + c < n_out ? first + c : n_out - 1;
        at[c] = (int32_t)((row - first) * (n_in / 2));
        for (int64_t g = 0; g < groups; g++) scales[g * PANEL + c] = wide(w_scale[row * groups + g]);
    }
    const __m512i low = _mm512_set1_epi8(15);
    for (int64_t g = 0; g < groups; g++)
        for (int v = 0; v < PANEL / 16; v++)
            for (int t = 0; t < QUADS / 2; t++) {
                const uint8_t *from = w + first * (n_in / 2) + g * HALF + 4 * t;
                const __m512i packed = _mm512_i32gather_epi32(_mm512_loadu_si512(at + 16 * v), from, 1);
                uint8_t *to = values + ((g * QUADS + t) * PANEL + 16 * v) * 4;
                _mm512_storeu_si512(to, _mm512_and_si512(packed, low));
                _mm512_storeu_si512(to + QUADS / 2 * PANEL * 4, _mm512_and_si512(_mm512_srli_epi16(packed, 4), low));
            }
}

/* `rows` rows of x (a constant where this is inlined) times a panel: sums [rows, PANEL]. */
static inline __attribute__((always_inline)) void tile(
    const uint8_t *values, const float *scales, const int8_t *q, const float *scale, const int32_t *start, float *sums,
    int64_t n_in, const int rows) {
    const int64_t groups = n_in / GROUP;
    __m512 total[TILE][2];
    for (int r = 0; r < rows; r++) total[r][0] = total[r][1] = _mm512_setzero_ps();
    for (int64_t g = 0; g < groups; g++) {
        __m512i sum[TILE][2];
        for (int r = 0; r < rows; r++) sum[r][0] = sum[r][1] = _mm512_set1_epi32(start[r * groups + g]);
        for (int half = 0; half < 2; half++) {
            const int8_t *x = q + half_of(g, half, groups);
            const uint8_t *w = values + (g * QUADS + half * QUADS / 2) * PANEL * 4;
            for (int t = 0; t < QUADS / 2; t++) {
                const __m512i one = _mm512_loadu_si512(w + t * PANEL * 4);
                const __m512i other = _mm512_loadu_si512(w + t * PANEL * 4 + 64);
                for (int r = 0; r < rows; r++) {
                    int32_t quad;
                    memcpy(&quad, x + r * n_in + 4 * t, 4);
                    const __m512i four = _mm512_set1_epi32(quad);
                    sum[r][0] = _mm512_dpbusd_epi32(sum[r][0], one, four);
                    sum[r][1] = _mm512_dpbusd_epi32(sum[r][1], other, four);
                }
            }
        }
        const __m512 unit = _mm512_loadu_ps(scales + g * PANEL), other = _mm512_loadu_ps(scales + g * PANEL + 16);
        for (int r = 0; r < rows; r++) {
            const __m512 mine = _mm512_set1_ps(scale[r * groups + g]);
            total[r][0] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[r][0]), _mm512_mul_ps(unit, mine), total[r][0]);
            total[r][1] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[r][1]), _mm512_mul_ps(other, mine), total[r][1]);
        }
    }
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < 2; v++) _mm512_storeu_ps(sums + r * PANEL + 16 * v, total[r][v]);
}

/* Sixteen sums into y, of which the first `count` have a place there, in its format. */
static inline void put_some(void *y, int64_t at, __m512 sums, int64_t count, int half) {
    if (half) _mm256_mask_storeu_epi16((uint16_t *)y + at, first_of(count), narrowed(sums));
    else _mm512_mask_storeu_ps((float *)y + at, first_of(count), sums);
}

int vita_int4_has_rows(void) { return 1; }

/* y [rows, n_out] = x w^T + bias; x, bias (or null) and y in one format. `room` is for a panel a thread,
 * PANEL * (n_in + 4 * groups) bytes, and then for the rounded rows with what every group's sum begins with (-8 times
 * the sum of x), rows * (n_in + 12 * groups). */
void vita_int4_rows(const uint8_t *w, const uint16_t *w_scale, const void *input, const void *bias, void *y,
                    uint8_t *room, int64_t rows, int64_t n_out, int64_t n_in, int64_t half, int64_t threads) {
    const int64_t groups = n_in / GROUP, panels = (n_out + PANEL - 1) / PANEL;
    const int64_t panel = PANEL * (n_in + 4 * groups);
    int8_t *q = (int8_t *)(room + threads * panel);
    float *scale = (float *)(q + rows * n_in), *shift = scale + rows * groups;
    int32_t *start = (int32_t *)(shift + rows * groups);
    vita_round_rows(input, q, scale, shift, rows, n_in, half);
    const int64_t most = NEAR / n_in / TILE * TILE, block = most > TILE ? most : TILE;
#pragma omp parallel num_threads((int)threads)
    {
#pragma omp for schedule(static)
        for (int64_t k = 0; k < rows * groups; k++) /* no number stays one by its scale */
            start[k] = scale[k] > 0 ? (int32_t)lrintf(shift[k] / scale[k]) : 0;
#pragma omp for schedule(dynamic) collapse(2)
        for (int64_t first = 0; first < rows; first += block)
            for (int64_t p = 0; p < panels; p++) {
                const int64_t end = first + block < rows ? first + block : rows;
                const int64_t o = p * PANEL, wide_by = n_out - o < PANEL ? n_out - o : PANEL;
                uint8_t *values = room + omp_get_thread_num() * panel;
                float *scales = (float *)(values + PANEL * n_in), sums[TILE * PANEL], add[PANEL] = {0};
                for (int64_t c = 0; c < wide_by && bias; c++) add[c] = get(bias, o + c, (int)half);
                unpack(w, w_scale, values, scales, o, n_out, n_in);
                for (int64_t r = first; r < end;) {
                    const int8_t *x = q + r * n_in;
                    const float *s = scale + r * groups;
                    const int32_t *b = start + r * groups;
                    int64_t taken = end - r < TILE ? 1 : TILE;
                    if (taken == TILE) tile(values, scales, x, s, b, sums, n_in, TILE);
                    else tile(values, scales, x, s, b, sums, n_in, 1);
                    for (int64_t k = 0; k < taken; k++, r++)
                        for (int64_t c = 0; c < wide_by; c += 16) {
                            const __m512 sum = _mm512_loadu_ps(sums + k * PANEL + c);
                            const __m512 all = _mm512_add_ps(sum, _mm512_loadu_ps(add + c));
                            put_some(y, r * n_out + o + c, all, wide_by - c, (int)half);
                        }
                }
            }
    }
}
#else
int vita_int4_has_rows(void) { return 0; }
void vita_int4_rows(void) {}
#endif
