/* FlashAttention (Dao et al. 2022) in bfloat16 with AVX-512 BF16 dot products, for prefill. Not built for processors
 * with AMX, where PyTorch's kernel is faster; there and elsewhere vita_flash_attention_supports returns 0.
 *
 * For each block of queries and block of keys: compute the scores, take the softmax with a running maximum, multiply
 * with the values. The scores stay in the caches. Keys and values are packed once into blocks of N_BLOCK columns, in
 * which the pairs of values that one dot product instruction takes are adjacent.
 */
#include <math.h>
#include "floats.h"
#include "vectors.h"

#if defined(__AVX512BF16__) && defined(__AVX512BW__) && defined(__AVX512VL__) && !defined(__AMX_TILE__)
#ifndef M_BLOCK
#define M_BLOCK 6 /* queries whose accumulators stay in registers */
#endif
#ifndef KV_BLOCK
#define KV_BLOCK 256 /* keys per block */
#endif
#define Q_BLOCK 48       /* queries per block */
#define N_BLOCK 64       /* packed columns: four vectors */
#define MAX_HEAD_DIM 128
_Static_assert(Q_BLOCK % M_BLOCK == 0 && KV_BLOCK % N_BLOCK == 0, "a block is a multiple of tiles");

/* c [M_BLOCK, N_BLOCK] = (accumulate ? c : 0) + a [M_BLOCK, 2 * pairs] b [2 * pairs, N_BLOCK]. a and c have row
 * strides `lda` and `ldc`, b is packed. */
static inline __attribute__((always_inline)) void gemm_tile(
    const uint16_t *a, int64_t lda, const uint16_t *b, float *c, int64_t ldc, int64_t pairs, const int accumulate) {
    __m512 sum[M_BLOCK][4];
    for (int r = 0; r < M_BLOCK; r++)
        for (int k = 0; k < 4; k++)
            sum[r][k] = accumulate ? _mm512_loadu_ps(c + r * ldc + 16 * k) : _mm512_setzero_ps();
    for (int64_t p = 0; p < pairs; p++) {
        __m512bh right[4];
        for (int k = 0; k < 4; k++) right[k] = (__m512bh)_mm512_loadu_si512(b + p * 2 * N_BLOCK + 32 * k);
        for (int r = 0; r < M_BLOCK; r++) {
            int32_t pair;
            memcpy(&pair, a + r * lda + 2 * p, 4);
            const __m512bh left = (__m512bh)_mm512_set1_epi32(pair);
            for (int k = 0; k < 4; k++) sum[r][k] = _mm512_dpbf16_ps(sum[r][k], left, right[k]);
        }
    }
    for (int r = 0; r < M_BLOCK; r++)
        for (int k = 0; k < 4; k++) _mm512_storeu_ps(c + r * ldc + 16 * k, sum[r][k]);
}

/* Online softmax of one row of scores, scaled by `scale` (which includes log2 e): bfloat16 weights of the first
 * `visible` keys, zeros up to `width`. Updates the running maximum and sum. Returns the factor by which the earlier
 * outputs of the row must be multiplied. */
static float softmax_row(const float *scores, uint16_t *weights, int64_t visible, int64_t width, float scale,
                         float *running_max, float *running_sum) {
    __m512 top = _mm512_set1_ps(*running_max);
    for (int64_t k = 0; k < visible; k += 16) {
        top = _mm512_mask_max_ps(top, tail_mask(visible - k), top, _mm512_loadu_ps(scores + k));
    }
    const float max = _mm512_reduce_max_ps(top), old_max = *running_max;
    const __m512 factor = _mm512_set1_ps(scale), offset = _mm512_set1_ps(-max * scale);
    __m512 sum = _mm512_setzero_ps();
    for (int64_t k = 0; k < width; k += 16) {
        const __m512 power = exp2_f32x16(_mm512_fmadd_ps(_mm512_loadu_ps(scores + k), factor, offset));
        const __m512 w = _mm512_maskz_mov_ps(tail_mask(visible - k), power);
        sum = _mm512_add_ps(sum, w);
        _mm256_storeu_si256((__m256i *)(weights + k), (__m256i)_mm512_cvtneps_pbh(w));
    }
    const float rescale = isinf(old_max) ? 0.0f : exp2f((old_max - max) * scale);
    *running_sum = *running_sum * rescale + _mm512_reduce_add_ps(sum);
    *running_max = max;
    return rescale;
}

/* Packs keys x [n, d] into blocks of N_BLOCK rows: [d / 2][N_BLOCK][2]. Rows past n are zeros. */
static void pack_keys(const uint16_t *x, int64_t stride, uint16_t *out, int64_t n, int64_t d) {
    for (int64_t start = 0; start < n; start += N_BLOCK, out += N_BLOCK * d)
        for (int64_t r = 0; r < N_BLOCK; r += 16)
            for (int64_t p = 0; p < d; p += 32) {
                __m512i rows[16];
                for (int k = 0; k < 16; k++) {
                    const int64_t row = start + r + k;
                    rows[k] = row < n ? _mm512_loadu_si512(x + row * stride + p) : _mm512_setzero_si512();
                }
                transpose_16x16(rows, out + p * N_BLOCK + 2 * r, 4 * N_BLOCK);
            }
}

/* Packs values x [n, d] into blocks of KV_BLOCK rows and N_BLOCK columns: [KV_BLOCK / 2][N_BLOCK][2]. Rows past n are
 * zeros, up to the next multiple of N_BLOCK rows, the last that is read. */
static void pack_values(const uint16_t *x, int64_t stride, uint16_t *out, int64_t n, int64_t d) {
    uint16_t interleave[32];
    for (int k = 0; k < 32; k++) interleave[k] = (uint16_t)(k / 2 + (k % 2) * 32);
    const __m512i first = _mm512_loadu_si512(interleave), second = _mm512_add_epi16(first, _mm512_set1_epi16(16));
    for (int64_t start = 0; start < n; start += KV_BLOCK)
        for (int64_t column = 0; column < d; column += N_BLOCK, out += KV_BLOCK * N_BLOCK) {
            const int64_t count = n - start < KV_BLOCK ? n - start : KV_BLOCK;
            const int64_t padded = (count + N_BLOCK - 1) / N_BLOCK * N_BLOCK;
            for (int64_t r = 0; r < padded; r += 2)
                for (int64_t c = 0; c < N_BLOCK; c += 32) {
                    const uint16_t *from = x + (start + r) * stride + column + c;
                    const __m512i zero = _mm512_setzero_si512();
                    const __m512i row0 = r < count ? _mm512_loadu_si512(from) : zero;
                    const __m512i row1 = r + 1 < count ? _mm512_loadu_si512(from + stride) : zero;
                    _mm512_storeu_si512(out + r * N_BLOCK + 2 * c, _mm512_permutex2var_epi16(row0, first, row1));
                    _mm512_storeu_si512(out + r * N_BLOCK + 2 * c + 32, _mm512_permutex2var_epi16(row0, second, row1));
                }
        }
}

/* Attention of up to Q_BLOCK queries. The first of them sees keys 0 to `last`, each further one a key more; `last` is
 * `keys` if not causal. k and v are packed. */
static void query_block(const uint16_t *q, int64_t q_stride, const uint16_t *k, const uint16_t *v, uint16_t *out,
                        int64_t out_stride, int64_t count, int64_t keys, int64_t d, int64_t last, float scale) {
    uint16_t query[Q_BLOCK * MAX_HEAD_DIM], weights[Q_BLOCK * KV_BLOCK];
    float scores[Q_BLOCK * KV_BLOCK], acc[Q_BLOCK * MAX_HEAD_DIM], running_max[Q_BLOCK], running_sum[Q_BLOCK];
    for (int64_t r = 0; r < Q_BLOCK; r++) {
        if (r < count) memcpy(query + r * d, q + r * q_stride, 2 * (size_t)d);
        else memset(query + r * d, 0, 2 * (size_t)d);
        running_max[r] = -INFINITY;
        running_sum[r] = 0;
    }
    memset(acc, 0, sizeof(float) * (size_t)(Q_BLOCK * d));
    const int64_t rows = (count + M_BLOCK - 1) / M_BLOCK * M_BLOCK, end = last + count < keys ? last + count : keys;
    for (int64_t start = 0; start < end; start += KV_BLOCK) {
        const int64_t here = end - start < KV_BLOCK ? end - start : KV_BLOCK;
        const int64_t padded = (here + N_BLOCK - 1) / N_BLOCK * N_BLOCK;
        for (int64_t n = 0; n < padded; n += N_BLOCK)
            for (int64_t r = 0; r < rows; r += M_BLOCK)
                gemm_tile(query + r * d, d, k + (start + n) * d, scores + r * KV_BLOCK + n, KV_BLOCK, d / 2, 0);
        for (int64_t r = 0; r < rows; r++) {
            int64_t visible = last + r + 1 - start;
            visible = visible < 0 ? 0 : visible < here ? visible : here;
            if (!visible) { /* a causal row that ends before this block */
                memset(weights + r * KV_BLOCK, 0, 2 * (size_t)padded);
                continue;
            }
            const float rescale = softmax_row(scores + r * KV_BLOCK, weights + r * KV_BLOCK, visible, padded, scale,
                                              running_max + r, running_sum + r);
            const __m512 factor = _mm512_set1_ps(rescale);
            for (float *at = acc + r * d; rescale != 1.0f && at < acc + (r + 1) * d; at += 16)
                _mm512_storeu_ps(at, _mm512_mul_ps(_mm512_loadu_ps(at), factor));
        }
        for (int64_t n = 0; n < d; n += N_BLOCK)
            for (int64_t r = 0; r < rows; r += M_BLOCK)
                gemm_tile(weights + r * KV_BLOCK, KV_BLOCK, v + start * d + n * KV_BLOCK, acc + r * d + n, d,
                          padded / 2, 1);
    }
    for (int64_t r = 0; r < count; r++) {
        const __m512 inverse = _mm512_set1_ps(1.0f / running_sum[r]);
        for (int64_t j = 0; j < d; j += 16)
            _mm256_storeu_si256((__m256i *)(out + r * out_stride + j),
                                (__m256i)_mm512_cvtneps_pbh(_mm512_mul_ps(_mm512_loadu_ps(acc + r * d + j), inverse)));
    }
}

/* Values of the packed keys, or of the packed values, of one head. */
static int64_t packed_size(int64_t keys, int64_t d) { return (keys + KV_BLOCK - 1) / KV_BLOCK * KV_BLOCK * d; }

int vita_flash_attention_supports(int64_t head_dim) {
    return head_dim > 0 && head_dim % N_BLOCK == 0 && head_dim <= MAX_HEAD_DIM;
}

/* Workspace of vita_flash_attention in bytes: packed keys and values of every KV head. */
int64_t vita_flash_attention_workspace(int64_t batch, int64_t kv_heads, int64_t keys, int64_t d) {
    return 2 * batch * kv_heads * packed_size(keys, d) * (int64_t)sizeof(uint16_t);
}

/* Attention of q [batch, heads, queries, d] over k and v [batch, kv_heads, keys, d]. The last dimension is contiguous;
 * `strides` has those of batch, head and row, for q, k and v. out [batch, queries, heads, d] is contiguous. Causal:
 * query i sees keys 0 to keys - queries + i. */
void vita_flash_attention(const uint16_t *q, const uint16_t *k, const uint16_t *v, uint16_t *out, uint16_t *workspace,
                          const int64_t *strides, int64_t batch, int64_t heads, int64_t kv_heads, int64_t queries,
                          int64_t keys, int64_t d, int64_t causal, double scale) {
    const int64_t *qs = strides, *ks = strides + 3, *vs = strides + 6;
    const int64_t size = packed_size(keys, d), blocks = (queries + Q_BLOCK - 1) / Q_BLOCK;
#pragma omp parallel
    {
#pragma omp for schedule(static)
        for (int64_t at = 0; at < batch * kv_heads; at++) {
            const int64_t b = at / kv_heads, h = at % kv_heads;
            pack_keys(k + b * ks[0] + h * ks[1], ks[2], workspace + 2 * at * size, keys, d);
            pack_values(v + b * vs[0] + h * vs[1], vs[2], workspace + (2 * at + 1) * size, keys, d);
        }
#pragma omp for schedule(dynamic)
        for (int64_t at = 0; at < batch * heads * blocks; at++) {
            const int64_t b = at / blocks / heads, h = at / blocks % heads, first = at % blocks * Q_BLOCK;
            const uint16_t *packed = workspace + 2 * (b * kv_heads + h / (heads / kv_heads)) * size;
            query_block(q + b * qs[0] + h * qs[1] + first * qs[2], qs[2], packed, packed + size,
                        out + ((b * queries + first) * heads + h) * d, heads * d,
                        queries - first < Q_BLOCK ? queries - first : Q_BLOCK, keys, d,
                        causal ? keys - queries + first : keys, (float)scale * LOG2_E);
        }
    }
}
#else
int vita_flash_attention_supports(int64_t head_dim) {
    (void)head_dim;
    return 0;
}
int64_t vita_flash_attention_workspace(void) { return 0; }
void vita_flash_attention(void) {}
#endif
