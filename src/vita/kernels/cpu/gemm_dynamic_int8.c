/* Weights in four or eight bits times many rounded rows (prefill), in products of whole numbers.
 *
 * Built as "not there" where the processor multiplies whole tiles of bfloat16 (AMX), which is faster still, and on
 * those without AVX2. Sums of a group of 64 are exact, then scaled. Weights of four bits lie as in gemv_int4.c, those of
 * eight [n_out, n_in] with one scale a row. Such products want one factor without a sign: weights are plus 8, or plus
 * 128, and a group's sum begins with what takes that off again.
 */
#include <math.h>
#include <omp.h>
#include "int4.h"

#define TILE 6            /* rows of x whose sums stay in registers */
#define QUADS (GROUP / 4) /* of values that one product takes, in a group */
#define NEAR (8 << 20)    /* bytes of x that every panel goes through, so that they stay in the last cache */
#if defined(__AMX_TILE__)
#elif defined(__AVX512VNNI__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#include "gemm_dynamic_int8_avx512.h"
#elif defined(__AVX2__) && defined(__FMA__)
#include "gemm_dynamic_int8_avx2.h"
#endif

#if defined(PANEL)
/* Rows of x as tiles read them, one after the other: [group][quad][TILE][4] values, [group][TILE] scales and what a
 * group's sum begins with, `eights` times the shift of gemv_int4.c. Rows past the last one are zeros. */
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

int vita_has_many_rows(int64_t bits) { return bits <= MOST_BITS; }

/* y [rows, n_out] = x w^T + bias with weights of `bits`; x, bias (or null) and y in one format. `room` is for a panel a
 * thread, PANEL * (n_in + 4 * groups) bytes, for the rounded rows, rows * (n_in + 8 * groups), and for the same as
 * tiles, where the rows are rounded up to whole ones. */
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
                        put_some(y, (t * TILE + k) * n_out + o, sums + k * PANEL, add, wide_by, (int)half);
                }
            }
    }
}
#else
int vita_has_many_rows(int64_t bits) {
    (void)bits;
    return 0;
}
void vita_many_rows(void) {}
#endif
