/* GEMV with int4 weights for a few rows of x, quantised to int8.
 *
 * A weight row of n_in values has n_in / GROUP_SIZE groups. The 64 values of a group are stored in 32 bytes: byte j
 * holds value j in its low nibble and value j + 32 in its high nibble, each plus 8. A group has one bfloat16 scale.
 *
 * x has one scale a group (quantize_activations.c), so the sum of a group is exact in integers, with u8 x s8 products:
 *   sum_j w_j x_j = sum_j (w_j + 8) x_j - 8 sum_j x_j
 */
#include "helpers.h"
#include "int4.h"
#include "rows.h"
#include "vectors.h"
#if defined(__AVX2__)
#include <immintrin.h>
#endif

#define PREFETCH_BYTES 4096
#define STREAMS 4      /* parts of the weights that are read side by side, see dot_streams */
#define STREAM_ROWS 2  /* of x, at most: more accumulators would not fit into the registers */
#define N_BLOCK 8      /* output channels per block if x is larger than L1 */
#define L1_BYTES 40000 /* of x; what remains of a 48 KiB L1 is for weights */

#if defined(__AVX512VNNI__) && defined(__AVX512BW__) && defined(__AVX512VL__)
/* Adds two groups (64 bytes of weights) to the accumulators of `rows` rows. `select` picks the groups' scales out of
 * the 16 in `scales`. Prefetches `next`. */
static inline __attribute__((always_inline)) void add_group_pair(
    const uint8_t *w, const int8_t *q, int64_t n_in, const __m512 *scales, __m512i select, const uint8_t *next,
    __m512 *acc, const int rows) {
    const __m512i nibble = _mm512_set1_epi8(15), packed = _mm512_loadu_si512((const void *)w);
    const __m512i low = _mm512_and_si512(packed, nibble), high = _mm512_and_si512(_mm512_srli_epi16(packed, 4), nibble);
    _mm_prefetch((const char *)next, _MM_HINT_T0);
    for (int r = 0; r < rows; r++) {
        const int8_t *x = q + r * n_in;
        __m512i sum = _mm512_dpbusd_epi32(_mm512_setzero_si512(), low, _mm512_loadu_si512((const void *)x));
        sum = _mm512_dpbusd_epi32(sum, high, _mm512_loadu_si512((const void *)(x + GROUP_SIZE)));
        acc[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), _mm512_permutexvar_ps(select, scales[r]), acc[r]);
    }
}

/* Adds up to 16 groups from group `g` on to the accumulators of `rows` rows. Pairs of groups alternate between two
 * accumulators to hide the latency of the FMA. Prefetches as many weights from `next` on. */
static inline __attribute__((always_inline)) void add_16_groups(
    const uint8_t *w, const uint16_t *w_scale, const int8_t *q, const float *scale, const float *shift, int64_t g,
    int64_t n_in, const uint8_t *next, __m512 (*acc)[MAX_ROWS], const int rows) {
    const __m512i nibble = _mm512_set1_epi8(15), two = _mm512_set1_epi32(2);
    const int64_t groups = n_in / GROUP_SIZE, count = groups - g < 16 ? groups - g : 16;
    const __mmask16 mask = (__mmask16)((1u << count) - 1);
    _mm_prefetch((const char *)(w_scale + g) + PREFETCH_BYTES / 16, _MM_HINT_T0); /* 1/16 of the bytes of the weights */
    const __m512 weight_scales = load_bf16x16(w_scale + g, mask);
    __m512 scales[MAX_ROWS]; /* scale of w times scale of x, 16 groups per row */
    for (int r = 0; r < rows; r++) {
        acc[0][r] = _mm512_fmadd_ps(weight_scales, _mm512_maskz_loadu_ps(mask, shift + r * groups + g), acc[0][r]);
        scales[r] = _mm512_mul_ps(weight_scales, _mm512_maskz_loadu_ps(mask, scale + r * groups + g));
    }
    /* Lanes 0 to 7 belong to the first group of a pair, lanes 8 to 15 to the second. */
    __m512i select = _mm512_inserti64x4(_mm512_setzero_si512(), _mm256_set1_epi32(1), 1);
    int64_t k = 0;
    for (; k + 4 <= count; k += 4)
        for (int half = 0; half < 2; half++, select = _mm512_add_epi32(select, two))
            add_group_pair(w + (g + k + 2 * half) * HALF_GROUP, q + (g + k + 2 * half) * GROUP_SIZE, n_in, scales,
                           select, next + (k + 2 * half) * HALF_GROUP, acc[half], rows);
    if (k + 2 <= count) {
        add_group_pair(w + (g + k) * HALF_GROUP, q + (g + k) * GROUP_SIZE, n_in, scales, select,
                       next + k * HALF_GROUP, acc[0], rows);
        select = _mm512_add_epi32(select, two);
        k += 2;
    }
    if (k < count) { /* a last group without a partner: 256-bit vectors */
        __m256i packed = _mm256_loadu_si256((const __m256i *)(w + (g + k) * HALF_GROUP));
        __m256i low = _mm256_and_si256(packed, _mm512_castsi512_si256(nibble));
        __m256i high = _mm256_and_si256(_mm256_srli_epi16(packed, 4), _mm512_castsi512_si256(nibble));
        for (int r = 0; r < rows; r++) {
            const __m256i *x = (const __m256i *)(q + r * n_in + (g + k) * GROUP_SIZE);
            __m256i sum = _mm256_dpbusd_epi32(_mm256_setzero_si256(), low, _mm256_loadu_si256(x));
            sum = _mm256_dpbusd_epi32(sum, high, _mm256_loadu_si256(x + 1));
            __m512 sum_f32 = _mm512_maskz_cvtepi32_ps(0xFF, _mm512_castsi256_si512(sum));
            acc[0][r] = _mm512_fmadd_ps(sum_f32, _mm512_permutexvar_ps(select, scales[r]), acc[0][r]);
        }
    }
}
#endif

#if defined(__AVX2__)
/* Eight int32 sums of four products each, of the low nibbles and of the high nibbles of a group. */
static inline __m256i dot_group(__m256i low, __m256i x_low, __m256i high, __m256i x_high) {
#if defined(__AVXVNNI__)
    return _mm256_dpbusd_avx_epi32(_mm256_dpbusd_avx_epi32(_mm256_setzero_si256(), low, x_low), high, x_high);
#else
    const __m256i pairs = _mm256_add_epi16(_mm256_maddubs_epi16(low, x_low), _mm256_maddubs_epi16(high, x_high));
    return _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
#endif
}
#endif

/* Dot products of `channels` weight rows with `rows` quantised rows of x: sums [channels, MAX_ROWS]. `rows` is a
 * compile-time constant. With more than one channel, the loop over channels is inside the loop over blocks of 16
 * groups, so that a block of x is read from L1 for all channels. */
static inline __attribute__((always_inline)) void dot_rows(
    const uint8_t *w, const uint16_t *w_scale, const int8_t *q, const float *scale, const float *shift, float *sums,
    int64_t n_in, int64_t channels, const int rows) {
    const int64_t groups = n_in / GROUP_SIZE;
    (void)channels; /* always 1 without AVX-512 VNNI */
#if defined(__AVX512VNNI__) && defined(__AVX512BW__) && defined(__AVX512VL__)
    if (channels == 1) {
        __m512 acc[2][MAX_ROWS];
        for (int r = 0; r < rows; r++) acc[0][r] = acc[1][r] = _mm512_setzero_ps();
        for (int64_t g = 0; g < groups; g += 16)
            add_16_groups(w, w_scale, q, scale, shift, g, n_in, w + g * HALF_GROUP + PREFETCH_BYTES, acc, rows);
        for (int r = 0; r < rows; r++) sums[r] = _mm512_reduce_add_ps(_mm512_add_ps(acc[0][r], acc[1][r]));
        return;
    }
    __m512 acc[N_BLOCK][2][MAX_ROWS];
    for (int64_t c = 0; c < channels; c++)
        for (int r = 0; r < rows; r++) acc[c][0][r] = acc[c][1][r] = _mm512_setzero_ps();
    const uint8_t *next = w + channels * n_in / 2; /* the next block, prefetched sequentially */
    for (int64_t g = 0; g < groups; g += 16)
        for (int64_t c = 0; c < channels; c++, next += 16 * HALF_GROUP)
            add_16_groups(w + c * n_in / 2, w_scale + c * groups, q, scale, shift, g, n_in, next, acc[c], rows);
    for (int64_t c = 0; c < channels; c++)
        for (int r = 0; r < rows; r++)
            sums[c * MAX_ROWS + r] = _mm512_reduce_add_ps(_mm512_add_ps(acc[c][0][r], acc[c][1][r]));
#elif defined(__AVX2__)
    const __m256i nibble = _mm256_set1_epi8(15);
    __m256 acc[MAX_ROWS];
    float offset[MAX_ROWS] = {0};
    for (int r = 0; r < rows; r++) acc[r] = _mm256_setzero_ps();
    for (int64_t g = 0; g < groups; g++) {
        if (g % 2 == 0) _mm_prefetch((const char *)(w + g * HALF_GROUP) + PREFETCH_BYTES, _MM_HINT_T0);
        __m256i packed = _mm256_loadu_si256((const __m256i *)(w + g * HALF_GROUP));
        __m256i low = _mm256_and_si256(packed, nibble), high = _mm256_and_si256(_mm256_srli_epi16(packed, 4), nibble);
        float weight_scale = bf16_to_f32(w_scale[g]);
        for (int r = 0; r < rows; r++) {
            const int8_t *x = q + r * n_in;
            const __m256i x_low = _mm256_loadu_si256((const __m256i *)(x + half_group_offset(g, 0, groups)));
            const __m256i x_high = _mm256_loadu_si256((const __m256i *)(x + half_group_offset(g, 1, groups)));
            const __m256 sum = _mm256_cvtepi32_ps(dot_group(low, x_low, high, x_high));
            const __m256 factor = _mm256_set1_ps(weight_scale * scale[r * groups + g]);
            acc[r] = _mm256_add_ps(acc[r], _mm256_mul_ps(sum, factor));
            offset[r] += weight_scale * shift[r * groups + g];
        }
    }
    for (int r = 0; r < rows; r++) {
        float lanes[8], sum = offset[r];
        _mm256_storeu_ps(lanes, acc[r]);
        for (int j = 0; j < 8; j++) sum += lanes[j];
        sums[r] = sum;
    }
#else
    float acc[MAX_ROWS] = {0};
    for (int64_t g = 0; g < groups; g++) {
        for (int r = 0; r < rows; r++) {
            const int8_t *x_low = q + r * n_in + half_group_offset(g, 0, groups);
            const int8_t *x_high = q + r * n_in + half_group_offset(g, 1, groups);
            int32_t sum = 0;
            for (int j = 0; j < HALF_GROUP; j++) {
                sum += (w[g * HALF_GROUP + j] & 15) * x_low[j] + (w[g * HALF_GROUP + j] >> 4) * x_high[j];
            }
            acc[r] += bf16_to_f32(w_scale[g]) * (scale[r * groups + g] * (float)sum + shift[r * groups + g]);
        }
    }
    for (int r = 0; r < rows; r++) sums[r] = acc[r];
#endif
}

#if defined(__AVX512VNNI__) && defined(__AVX512BW__) && defined(__AVX512VL__)
/* Dot products of STREAMS weight rows, `apart` channels from each other, with `rows` quantised rows of x: sums
 * [STREAMS, MAX_ROWS]. A core prefetches along several streams of addresses at once: one thread reads weights 1.2 times
 * as fast as along one stream. `rows` is a compile-time constant. */
static inline __attribute__((always_inline)) void dot_streams(
    const uint8_t *w, const uint16_t *w_scale, const int8_t *q, const float *scale, const float *shift, float *sums,
    int64_t n_in, int64_t apart, const int rows) {
    const int64_t groups = n_in / GROUP_SIZE;
    __m512 acc[STREAMS][2][MAX_ROWS];
    for (int s = 0; s < STREAMS; s++)
        for (int r = 0; r < rows; r++) acc[s][0][r] = acc[s][1][r] = _mm512_setzero_ps();
    for (int64_t g = 0; g < groups; g += 16)
        for (int s = 0; s < STREAMS; s++) {
            const uint8_t *row = w + s * apart * n_in / 2;
            add_16_groups(row, w_scale + s * apart * groups, q, scale, shift, g, n_in,
                          row + g * HALF_GROUP + PREFETCH_BYTES, acc[s], rows);
        }
    for (int s = 0; s < STREAMS; s++)
        for (int r = 0; r < rows; r++)
            sums[s * MAX_ROWS + r] = _mm512_reduce_add_ps(_mm512_add_ps(acc[s][0][r], acc[s][1][r]));
}
#endif

/* Stores the sums [channels, MAX_ROWS] of `rows` rows from row `r` on; the channels are `apart` channels from each
 * other. */
static void store_sums(const float *sums, const void *bias, void *y, int64_t first, int64_t channels, int64_t apart,
                       int64_t r, int64_t rows, int64_t n_out, int64_t is_bf16) {
    for (int64_t k = 0; k < channels; k++) {
        const int64_t c = first + k * apart;
        const float add = bias ? load_float(bias, c, (int)is_bf16) : 0;
        for (int64_t i = 0; i < rows; i++)
            store_float(y, (r + i) * n_out + c, sums[k * MAX_ROWS + i] + add, (int)is_bf16);
    }
}

/* Workspace of vita_gemv_int4 in bytes: x as int8 [rows, n_in], its float32 scales and shifts [rows, groups]. */
int64_t vita_gemv_int4_workspace(int64_t rows, int64_t n_in) {
    return rows * (n_in + n_in / GROUP_SIZE * 2 * (int64_t)sizeof(float));
}

/* The quantised x of a GEMV: int8 values [rows, n_in], scales and shifts [rows, groups]. */
static inline void parts_of_x(const Gemv *gemv, const int8_t **q, const float **scale, const float **shift) {
    *q = gemv->x;
    *scale = (const float *)(*q + gemv->rows * gemv->n_in);
    *shift = *scale + gemv->rows * (gemv->n_in / GROUP_SIZE);
}

#if defined(__AVX512VNNI__) && defined(__AVX512BW__) && defined(__AVX512VL__)
/* Channels of all streams, for one or STREAM_ROWS rows; see `Gemv`. */
static void compute_streams(const Gemv *gemv, void *y, int64_t first, int64_t last) {
    const int64_t n_in = gemv->n_in, groups = n_in / GROUP_SIZE, apart = gemv->apart;
    const int8_t *q;
    const float *scale, *shift;
    parts_of_x(gemv, &q, &scale, &shift);
    for (int64_t c = first; c < last; c++) {
        float sums[STREAMS * MAX_ROWS];
        const uint8_t *row = (const uint8_t *)gemv->w + c * n_in / 2;
        const uint16_t *row_scale = (const uint16_t *)gemv->w_scale + c * groups;
        if (gemv->rows == 1) dot_streams(row, row_scale, q, scale, shift, sums, n_in, apart, 1);
        else dot_streams(row, row_scale, q, scale, shift, sums, n_in, apart, STREAM_ROWS);
        store_sums(sums, gemv->bias, y, c, STREAMS, apart, 0, gemv->rows, gemv->n_out, gemv->is_bf16);
    }
}
#endif

/* Output channels that are computed together. */
static inline int64_t block_of(int64_t rows, int64_t n_in) {
#if defined(__AVX512VNNI__) && defined(__AVX512BW__) && defined(__AVX512VL__)
    return rows * n_in > L1_BYTES ? N_BLOCK : 1;
#else
    (void)rows, (void)n_in;
    return 1;
#endif
}

/* Channels in blocks; see `Gemv`. */
static void compute_blocks(const Gemv *gemv, void *y, int64_t begin, int64_t end) {
    const int64_t n_in = gemv->n_in, groups = n_in / GROUP_SIZE;
    const int64_t block = block_of(gemv->rows, n_in);
    const int8_t *q;
    const float *scale, *shift;
    parts_of_x(gemv, &q, &scale, &shift);
    for (int64_t first = begin; first < end; first += block) {
        const int64_t channels = end - first < block ? end - first : block;
        const uint8_t *row = (const uint8_t *)gemv->w + first * n_in / 2;
        const uint16_t *row_scale = (const uint16_t *)gemv->w_scale + first * groups;
        for (int64_t r = 0, taken; r < gemv->rows; r += taken) {
            const int8_t *x = q + r * n_in;
            const float *s = scale + r * groups, *d = shift + r * groups;
            float sums[N_BLOCK * MAX_ROWS];
            DISPATCH_ROWS(gemv->rows - r, taken, dot_rows(row, row_scale, x, s, d, sums, n_in, channels, ROWS))
            store_sums(sums, gemv->bias, y, first, channels, 1, r, taken, gemv->n_out, gemv->is_bf16);
        }
    }
}

/* y [rows, n_out] = x [rows, n_in] w [n_out, n_in]^T + bias [n_out]. x, bias and y are float32, or bfloat16 if
 * `is_bf16`; `bias` can be null. n_in is a multiple of GROUP_SIZE. Each weight row is read from memory once for all
 * rows of x. */
void vita_gemv_int4(const uint8_t *w, const uint16_t *w_scale, const void *input, const void *bias, void *y,
                    uint8_t *workspace, int64_t rows, int64_t n_out, int64_t n_in, int64_t is_bf16) {
    float *scale = (float *)(workspace + rows * n_in), *shift = scale + rows * (n_in / GROUP_SIZE);
    quantize_activations(input, (int8_t *)workspace, scale, shift, rows, n_in, is_bf16);
    Gemv gemv = {compute_blocks, w, w_scale, bias, workspace, y, rows, n_out, n_in, is_bf16, n_out, 1, 0,
                 vita_gemv_int4_workspace(rows, n_in)};
    int64_t streamed = 0; /* output channels that compute_streams computes */
#if defined(__AVX512VNNI__) && defined(__AVX512BW__) && defined(__AVX512VL__)
    if (rows <= STREAM_ROWS && rows * n_in <= L1_BYTES) {
        Gemv streams = gemv;
        streams.compute = compute_streams;
        streams.channels = streams.apart = n_out / STREAMS;
        streams.streams = STREAMS;
        streamed = streams.channels * STREAMS;
        if (!share_gemv(&streams, streamed * n_in / 2)) {
#pragma omp parallel for schedule(static)
            for (int64_t c = 0; c < streams.channels; c++) compute_streams(&streams, y, c, c + 1);
        }
    }
#endif
    if (streamed == 0 && share_gemv(&gemv, n_out * n_in / 2)) return;
    const int64_t block = block_of(rows, n_in);
#pragma omp parallel for schedule(static) if (n_out - streamed > STREAMS)
    for (int64_t first = streamed; first < n_out; first += block)
        compute_blocks(&gemv, y, first, first + block < n_out ? first + block : n_out);
}

/* out [n_out, n_in], bfloat16 = dequantised w. */
void vita_dequantize_int4(const uint8_t *w, const uint16_t *w_scale, uint16_t *out, int64_t n_out, int64_t n_in) {
    int64_t groups = n_out * n_in / GROUP_SIZE;
#pragma omp parallel for schedule(static)
    for (int64_t g = 0; g < groups; g++) {
        float scale = bf16_to_f32(w_scale[g]);
        uint16_t table[16]; /* the 16 values of this group */
        for (int v = 0; v < 16; v++) table[v] = f32_to_bf16(scale * (float)(v - 8));
        const uint8_t *from = w + g * HALF_GROUP;
        uint16_t *to = out + g * GROUP_SIZE;
#if defined(__AVX512BW__)
        __m512i values = _mm512_castsi256_si512(_mm256_loadu_si256((const __m256i *)table));
        __m512i words = _mm512_cvtepu8_epi16(_mm256_loadu_si256((const __m256i *)from));
        __m512i low = _mm512_and_si512(words, _mm512_set1_epi16(15));
        _mm512_storeu_si512((void *)to, _mm512_permutexvar_epi16(low, values));
        _mm512_storeu_si512((void *)(to + HALF_GROUP), _mm512_permutexvar_epi16(_mm512_srli_epi16(words, 4), values));
#else
        for (int j = 0; j < HALF_GROUP; j++) {
            to[j] = table[from[j] & 15];
            to[j + HALF_GROUP] = table[from[j] >> 4];
        }
#endif
    }
}
