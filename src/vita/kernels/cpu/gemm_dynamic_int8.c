/* GEMM with int4 or int8 weights and x quantised to int8 at run time, for many rows (prefill). Integer products, exact
 * sums within a group of 64, then scaled.
 *
 * Not built for processors with AMX, whose bfloat16 GEMM on dequantised weights is faster, and not without AVX2; then
 * vita_gemm_dynamic_int8_supports returns 0. int4 weights are stored as in gemv_int4.c, int8 weights as [n_out, n_in]
 * with one scale per row. The instructions multiply u8 by s8, so weights get an offset of 8 or 128, and the accumulator
 * of a group starts with the value that removes it.
 */
#include <math.h>
#include "int4.h"
#include "threads.h"

#ifndef M_BLOCK
#define M_BLOCK 6 /* rows of x whose accumulators stay in registers */
#endif
#ifndef L3_BYTES
#define L3_BYTES (8 << 20) /* of x: every block of channels reads so many rows again, from L3 */
#endif
#define QUADS (GROUP_SIZE / 4) /* groups of four values, the input of one dot product instruction */
#if defined(__AMX_TILE__)
#elif defined(__AVX512VNNI__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#include "gemm_dynamic_int8_avx512.h"
#elif defined(__AVX2__) && defined(__FMA__)
#include "gemm_dynamic_int8_avx2.h"
#endif

#if defined(N_BLOCK)
/* Offsets of the buffers in the workspace, in bytes. Each thread has one block of unpacked weights at the start. */
typedef struct {
    int64_t weights;       /* size of a thread's block: uint8 [N_BLOCK, n_in] and float32 scales [groups, N_BLOCK] */
    int64_t q;             /* int8 [rows, n_in] */
    int64_t scale, shift;  /* float32 [rows, groups] each */
    int64_t packed;        /* int8, the layout of `pack`; rows are padded to whole tiles in this and the next two */
    int64_t start;         /* int32 [tiles, groups, M_BLOCK] */
    int64_t packed_scale;  /* float32 [tiles, groups, M_BLOCK] */
    int64_t bytes;         /* of all */
} Layout;

static Layout workspace_layout(int64_t rows, int64_t n_in, int64_t threads) {
    const int64_t groups = n_in / GROUP_SIZE, padded = (rows + M_BLOCK - 1) / M_BLOCK * M_BLOCK;
    Layout at;
    at.weights = N_BLOCK * (n_in + 4 * groups);
    at.q = threads * at.weights;
    at.scale = at.q + rows * n_in;
    at.shift = at.scale + rows * groups * 4;
    at.packed = at.shift + rows * groups * 4;
    at.start = at.packed + padded * n_in;
    at.packed_scale = at.start + padded * groups * 4;
    at.bytes = at.packed_scale + padded * groups * 4;
    return at;
}

/* Packs a tile of up to M_BLOCK rows: values [group][quad][M_BLOCK][4], scales [group][M_BLOCK] and the start values of
 * the accumulators [group][M_BLOCK]: `eighths` (offset of the weights / 8) times the shift of quantize_activations.c,
 * unscaled. Rows past `count` are zeros. */
static void pack(const int8_t *q, const float *scale, const float *shift, int32_t *values, float *scales,
                 int32_t *start, int64_t count, int64_t n_in, int32_t eighths) {
    const int64_t groups = n_in / GROUP_SIZE;
    for (int64_t g = 0; g < groups; g++)
        for (int64_t r = 0; r < M_BLOCK; r++) {
            const int64_t from = r * groups + g, to = g * M_BLOCK + r;
            scales[to] = r < count ? scale[from] : 0;
            /* A NaN scale makes the product NaN, whatever the integers are. */
            start[to] = scales[to] > 0 ? eighths * (int32_t)lrintf(shift[from] / scale[from]) : 0;
            for (int64_t t = 0; t < QUADS; t++) {
                const int64_t half = half_group_offset(g, t / (QUADS / 2), groups);
                const int8_t *quad = q + r * n_in + half + t % (QUADS / 2) * 4;
                values[(g * QUADS + t) * M_BLOCK + r] = 0;
                if (r < count) memcpy(values + (g * QUADS + t) * M_BLOCK + r, quad, 4);
            }
        }
}

int vita_gemm_dynamic_int8_supports(int64_t bits, int64_t n_in) {
    return bits <= MAX_BITS && n_in > 0 && n_in % GROUP_SIZE == 0;
}

/* Workspace of vita_gemm_dynamic_int8 in bytes. */
int64_t vita_gemm_dynamic_int8_workspace(int64_t rows, int64_t n_in, int64_t threads) {
    return workspace_layout(rows, n_in, threads).bytes;
}

/* y [rows, n_out] = x [rows, n_in] w [n_out, n_in]^T + bias [n_out] with weights of `bits` bits. x, bias and y are
 * float32, or bfloat16 if `is_bf16`; `bias` can be null. */
void vita_gemm_dynamic_int8(const uint8_t *w, const uint16_t *w_scale, const void *input, const void *bias, void *y,
                            uint8_t *workspace, int64_t rows, int64_t n_out, int64_t n_in, int64_t is_bf16,
                            int64_t bits, int64_t threads) {
    const int64_t groups = n_in / GROUP_SIZE, tiles = (rows + M_BLOCK - 1) / M_BLOCK;
    const int64_t channel_blocks = (n_out + N_BLOCK - 1) / N_BLOCK;
    const int64_t fit = L3_BYTES / (M_BLOCK * n_in), tiles_per_pass = fit > 1 ? fit : 1;
    const Layout at = workspace_layout(rows, n_in, threads);
    int8_t *q = (int8_t *)(workspace + at.q);
    float *scale = (float *)(workspace + at.scale), *shift = (float *)(workspace + at.shift);
    int32_t *packed = (int32_t *)(workspace + at.packed), *start = (int32_t *)(workspace + at.start);
    float *packed_scale = (float *)(workspace + at.packed_scale);
    quantize_activations(input, q, scale, shift, rows, n_in, is_bf16);
#pragma omp parallel num_threads((int)threads)
    {
#pragma omp for schedule(static)
        for (int64_t t = 0; t < tiles; t++) {
            const int64_t r = t * M_BLOCK, first = r * groups;
            int32_t *values = packed + r * n_in / 4;
            pack(q + r * n_in, scale + first, shift + first, values, packed_scale + first, start + first, rows - r,
                 n_in, bits == 8 ? 16 : 1);
        }
#pragma omp for schedule(dynamic) collapse(2)
        for (int64_t first = 0; first < tiles; first += tiles_per_pass)
            for (int64_t b = 0; b < channel_blocks; b++) {
                const int64_t end = first + tiles_per_pass < tiles ? first + tiles_per_pass : tiles;
                const int64_t o = b * N_BLOCK, channels = n_out - o < N_BLOCK ? n_out - o : N_BLOCK;
                uint8_t *values = workspace + omp_get_thread_num() * at.weights;
                float *scales = (float *)(values + N_BLOCK * n_in), sums[M_BLOCK * N_BLOCK], add[N_BLOCK] = {0};
                for (int64_t c = 0; c < channels && bias; c++) add[c] = load_float(bias, o + c, (int)is_bf16);
                (bits == 8 ? unpack_int8 : unpack_int4)(w, w_scale, values, scales, o, n_out, n_in);
                for (int64_t t = first; t < end; t++) {
                    const int64_t row = t * M_BLOCK, count = rows - row < M_BLOCK ? rows - row : M_BLOCK;
                    multiply_tile(values, scales, packed + row * n_in / 4, packed_scale + row * groups,
                                  start + row * groups, sums, groups);
                    for (int64_t k = 0; k < count; k++)
                        store_row(y, (row + k) * n_out + o, sums + k * N_BLOCK, add, channels, (int)is_bf16);
                }
            }
    }
}
#else
int vita_gemm_dynamic_int8_supports(int64_t bits, int64_t n_in) {
    (void)bits;
    (void)n_in;
    return 0;
}
int64_t vita_gemm_dynamic_int8_workspace(void) { return 0; }
void vita_gemm_dynamic_int8(void) {}
#endif
