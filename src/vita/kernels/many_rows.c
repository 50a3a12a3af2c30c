/* Weights in four or eight bits times many rounded rows (prefill), with AVX-512's products of whole numbers.
 *
 * Built as "not there" where the processor multiplies whole tiles of bfloat16 (AMX), which is faster still, and on
 * those without such products. Sums of a group of 64 are exact, then scaled. Weights of four bits lie as in int4.c,
 * those of eight [n_out, n_in] with one scale a row. Such products want one factor without a sign: weights are plus 8,
 * or plus 128, and a group's sum begins with what takes that off again.
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

/* Unpacks `PANEL` weight rows of four bits: [group][quad][row][4] values plus eight, and [group][row] scales. Rows past
 * the last one repeat it; what comes of them is thrown away. */
static void unpack_4(const uint8_t *w, const uint16_t *w_scale, uint8_t *values, float *scales, int64_t first,
                   int64_t n_out, int64_t n_in) {
    const int64_t groups = n_in / GROUP;
    const __m512i low = _mm512_set1_epi8(15);
    __m512i rows[16], columns[16];
    for (int v = 0; v < PANEL; v += 16) {
        int64_t at[16];
        for (int c = 0; c < 16; c++) at[c] = first + v + c < n_out ? first + v + c : n_out - 1;
        for (int64_t g = 0; g < groups; g += 16) {
            for (int c = 0; c < 16; c++)
                rows[c] = _mm512_castps_si512(widened(w_scale + at[c] * groups + g, first_of(groups - g)));
            transposed(rows, columns, 64);
            for (int64_t t = 0; t < 16 && g + t < groups; t++)
                _mm512_storeu_si512(scales + (g + t) * PANEL + v, columns[t]);
        }
        for (int64_t g = 0; g < groups; g += 2) { /* a line of each of sixteen rows */
            const __mmask16 there = g + 1 < groups ? 0xFFFF : 0xFF;
            for (int c = 0; c < 16; c++) rows[c] = _mm512_maskz_loadu_epi32(there, w + at[c] * (n_in / 2) + g * HALF);
            transposed(rows, columns, 64);
            for (int64_t t = 0; t < QUADS && g + t / (QUADS / 2) < groups; t++) {
                const int64_t quad = (g + t / (QUADS / 2)) * QUADS + t % (QUADS / 2);
                uint8_t *to = values + (quad * PANEL + v) * 4;
                _mm512_storeu_si512(to, _mm512_and_si512(columns[t], low));
                _mm512_storeu_si512(to + QUADS / 2 * PANEL * 4,
                                    _mm512_and_si512(_mm512_srli_epi16(columns[t], 4), low));
            }
        }
    }
}

/* The same for eight bits, plus 128. */
static void unpack_8(const uint8_t *w, const uint16_t *w_scale, uint8_t *values, float *scales, int64_t first,
                     int64_t n_out, int64_t n_in) {
    const int64_t groups = n_in / GROUP;
    const __m512i sign = _mm512_set1_epi8((char)128);
    __m512i rows[16], columns[16];
    for (int v = 0; v < PANEL; v += 16) {
        int64_t at[16];
        float unit[16];
        for (int c = 0; c < 16; c++) {
            at[c] = first + v + c < n_out ? first + v + c : n_out - 1;
            unit[c] = wide(w_scale[at[c]]);
        }
        for (int64_t g = 0; g < groups; g++) {
            for (int c = 0; c < 16; c++) rows[c] = _mm512_loadu_si512(w + at[c] * n_in + g * GROUP);
            transposed(rows, columns, 64);
            for (int64_t t = 0; t < QUADS; t++)
                _mm512_storeu_si512(values + ((g * QUADS + t) * PANEL + v) * 4, _mm512_xor_si512(columns[t], sign));
            _mm512_storeu_ps(scales + g * PANEL + v, _mm512_loadu_ps(unit));
        }
    }
}

/* Rows of x as tiles read them, one after the other: [group][quad][TILE][4] values, [group][TILE] scales and what a
 * group's sum begins with, `eights` times the shift of int4.c. Rows past the last one are zeros. */
static void pack(const int8_t *q, const float *scale, const float *shift, int32_t *values, float *scales,
                 int32_t *start, int64_t count, int64_t n_in, int32_t eights) {
    const int64_t groups = n_in / GROUP;
    for (int64_t g = 0; g < groups; g++)
        for (int64_t r = 0; r < TILE; r++) {
            const int64_t from = r * groups + g, to = g * TILE + r;
            scales[to] = r < count ? scale[from] : 0;
            /* no number stays one by its scale */
            start[to] = scales[to] > 0 ? eights * (int32_t)lrintf(shift[from] / scale[from]) : 0;
            for (int64_t t = 0; t < QUADS; t++) {
                const int8_t *quad = q + r * n_in + half_of(g, t / (QUADS / 2), groups) + t % (QUADS / 2) * 4;
                values[(g * QUADS + t) * TILE + r] = 0;
                if (r < count) memcpy(values + (g * QUADS + t) * TILE + r, quad, 4);
            }
        }
}

/* The intrinsic for it makes GCC 12 copy every sum before it is added to. */
static inline void add_products(__m512i *sum, __m512i unsigned_bytes, __m512i signed_bytes) {
    __asm__("vpdpbusd %2, %1, %0" : "+v"(*sum) : "v"(unsigned_bytes), "v"(signed_bytes));
}

/* A tile of x times a panel: sums [TILE, PANEL]. */
static void tile(const uint8_t *values, const float *scales, const int32_t *x, const float *scale, const int32_t *start,
                 float *sums, int64_t groups) {
    __m512 total[TILE][2];
    for (int r = 0; r < TILE; r++) total[r][0] = total[r][1] = _mm512_setzero_ps();
    for (int64_t g = 0; g < groups; g++, scales += PANEL, scale += TILE, start += TILE) {
        __m512i sum[TILE][2];
        for (int r = 0; r < TILE; r++) sum[r][0] = sum[r][1] = _mm512_set1_epi32(start[r]);
        for (int t = 0; t < QUADS; t++, x += TILE, values += PANEL * 4) {
            const __m512i one = _mm512_loadu_si512(values), other = _mm512_loadu_si512(values + 64);
            for (int r = 0; r < TILE; r++) {
                const __m512i four = _mm512_set1_epi32(x[r]);
                add_products(&sum[r][0], one, four);
                add_products(&sum[r][1], other, four);
            }
        }
        const __m512 unit = _mm512_loadu_ps(scales), other = _mm512_loadu_ps(scales + 16);
        for (int r = 0; r < TILE; r++) {
            const __m512 mine = _mm512_set1_ps(scale[r]);
            total[r][0] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[r][0]), _mm512_mul_ps(unit, mine), total[r][0]);
            total[r][1] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[r][1]), _mm512_mul_ps(other, mine), total[r][1]);
        }
    }
    for (int r = 0; r < TILE; r++)
        for (int v = 0; v < 2; v++) _mm512_storeu_ps(sums + r * PANEL + 16 * v, total[r][v]);
}

/* Sixteen sums into y, of which the first `count` have a place there, in its format. */
static inline void put_some(void *y, int64_t at, __m512 sums, int64_t count, int half) {
    if (half) _mm256_mask_storeu_epi16((uint16_t *)y + at, first_of(count), narrowed(sums));
    else _mm512_mask_storeu_ps((float *)y + at, first_of(count), sums);
}

int vita_has_many_rows(void) { return 1; }

/* y [rows, n_out] = x w^T + bias with weights of `bits`; x, bias (or null) and y in one format. `room` is for a panel a thread,
 * PANEL * (n_in + 4 * groups) bytes, for the rounded rows, rows * (n_in + 8 * groups), and for the same as tiles, where
 * the rows are rounded up to whole ones. */
void vita_many_rows(const uint8_t *w, const uint16_t *w_scale, const void *input, const void *bias, void *y,
                    uint8_t *room, int64_t rows, int64_t n_out, int64_t n_in, int64_t half, int64_t bits,
                    int64_t threads) {
    const int64_t groups = n_in / GROUP, panels = (n_out + PANEL - 1) / PANEL, tiles = (rows + TILE - 1) / TILE;
    const int64_t panel = PANEL * (n_in + 4 * groups), near = NEAR / (TILE * n_in), block = near > 1 ? near : 1;
    int8_t *q = (int8_t *)(room + threads * panel);
    float *scale = (float *)(q + rows * n_in), *shift = scale + rows * groups;
    int32_t *packed = (int32_t *)(shift + rows * groups), *start = packed + tiles * TILE * n_in / 4;
    float *scales_of_x = (float *)(start + tiles * TILE * groups);
    vita_round_rows(input, q, scale, shift, rows, n_in, half);
#pragma omp parallel num_threads((int)threads)
    {
#pragma omp for schedule(static)
        for (int64_t t = 0; t < tiles; t++) {
            const int64_t r = t * TILE, at = r * groups;
            int32_t *values = packed + r * n_in / 4;
            pack(q + r * n_in, scale + at, shift + at, values, scales_of_x + at, start + at, rows - r, n_in,
                 bits == 8 ? 16 : 1);
        }
#pragma omp for schedule(dynamic) collapse(2)
        for (int64_t first = 0; first < tiles; first += block)
            for (int64_t p = 0; p < panels; p++) {
                const int64_t end = first + block < tiles ? first + block : tiles;
                const int64_t o = p * PANEL, wide_by = n_out - o < PANEL ? n_out - o : PANEL;
                uint8_t *values = room + omp_get_thread_num() * panel;
                float *scales = (float *)(values + PANEL * n_in), sums[TILE * PANEL], add[PANEL] = {0};
                for (int64_t c = 0; c < wide_by && bias; c++) add[c] = get(bias, o + c, (int)half);
                (bits == 8 ? unpack_8 : unpack_4)(w, w_scale, values, scales, o, n_out, n_in);
                for (int64_t t = first; t < end; t++) {
                    const int64_t at = t * TILE * groups, count = rows - t * TILE < TILE ? rows - t * TILE : TILE;
                    tile(values, scales, packed + t * TILE * n_in / 4, scales_of_x + at, start + at, sums, groups);
                    for (int64_t k = 0; k < count; k++)
                        for (int64_t c = 0; c < wide_by; c += 16) {
                            const __m512 sum = _mm512_loadu_ps(sums + k * PANEL + c);
                            const __m512 all = _mm512_add_ps(sum, _mm512_loadu_ps(add + c));
                            put_some(y, (t * TILE + k) * n_out + o + c, all, wide_by - c, (int)half);
                        }
                }
            }
    }
}
#else
int vita_has_many_rows(void) { return 0; }
void vita_many_rows(void) {}
#endif
