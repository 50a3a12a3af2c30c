/* GEMV with bfloat16 weights: one row of x, float32 accumulation.
 *
 * The kernel reads every weight once, so memory bandwidth limits it: each thread processes consecutive weight rows and
 * prefetches PREFETCH_BYTES ahead. Weights in a memory-mapped file can start at any address, and a load that crosses a
 * cache line costs two. So weight loads are aligned to cache lines; loads of x, which is in L1, are not.
 */
#include "floats.h"
#include "helpers.h"
#include <stddef.h>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

#define PREFETCH_BYTES 2048
#define STREAMS 4 /* parts of the weights that are read side by side, see dot_streams */

/* Dot product of one weight row with x. */
static float dot(const uint16_t *w, const uint16_t *x, int64_t n_in) {
    int64_t j = 0;
    float sum = 0;
#if defined(__AVX512BF16__)
    __m512 acc[4];
    for (int k = 0; k < 4; k++) acc[k] = _mm512_setzero_ps();
    const int64_t lead = (int64_t)(-(uintptr_t)w & 63) / 2; /* values before the first cache line boundary */
    if (lead && lead <= n_in) {
        const __mmask32 mask = (__mmask32)((1u << lead) - 1);
        __m512bh a = (__m512bh)_mm512_maskz_loadu_epi16(mask, w), b = (__m512bh)_mm512_maskz_loadu_epi16(mask, x);
        acc[0] = _mm512_dpbf16_ps(acc[0], a, b);
        j = lead;
    }
    for (; j + 128 <= n_in; j += 128) {
        for (int k = 0; k < 4; k++) {
            const uint16_t *line = w + j + 32 * k;
            _mm_prefetch((const char *)line + PREFETCH_BYTES, _MM_HINT_T0);
            __m512bh b = (__m512bh)_mm512_loadu_si512(x + j + 32 * k);
            acc[k] = _mm512_dpbf16_ps(acc[k], (__m512bh)_mm512_loadu_si512(line), b);
        }
    }
    sum = _mm512_reduce_add_ps(_mm512_add_ps(_mm512_add_ps(acc[0], acc[1]), _mm512_add_ps(acc[2], acc[3])));
#elif defined(__AVX2__) && defined(__FMA__)
    const __m256i upper = _mm256_set1_epi32((int)0xFFFF0000);
    __m256 acc[4];
    for (int k = 0; k < 4; k++) acc[k] = _mm256_setzero_ps();
    for (; j + 32 <= n_in; j += 32) { /* even values are the lower halves of 32-bit words */
        _mm_prefetch((const char *)(w + j) + PREFETCH_BYTES, _MM_HINT_T0);
        for (int k = 0; k < 2; k++) {
            __m256i a = _mm256_loadu_si256((const __m256i *)(w + j + 16 * k));
            __m256i b = _mm256_loadu_si256((const __m256i *)(x + j + 16 * k));
            __m256 a_even = _mm256_castsi256_ps(_mm256_slli_epi32(a, 16));
            __m256 b_even = _mm256_castsi256_ps(_mm256_slli_epi32(b, 16));
            __m256 a_odd = _mm256_castsi256_ps(_mm256_and_si256(a, upper));
            __m256 b_odd = _mm256_castsi256_ps(_mm256_and_si256(b, upper));
            acc[2 * k] = _mm256_fmadd_ps(a_even, b_even, acc[2 * k]);
            acc[2 * k + 1] = _mm256_fmadd_ps(a_odd, b_odd, acc[2 * k + 1]);
        }
    }
    float lanes[8];
    _mm256_storeu_ps(lanes, _mm256_add_ps(_mm256_add_ps(acc[0], acc[1]), _mm256_add_ps(acc[2], acc[3])));
    for (int k = 0; k < 8; k++) sum += lanes[k];
#endif
    for (; j < n_in; j++) sum += bf16_to_f32(w[j]) * bf16_to_f32(x[j]);
    return sum;
}

#if defined(__AVX512BF16__)
/* Dot products of STREAMS weight rows, `apart` values from each other, with x, in the order of `dot`. A core prefetches
 * along several streams of addresses at once. All weight rows have the same alignment. */
static void dot_streams(const uint16_t *w, const uint16_t *x, float *sums, int64_t n_in, int64_t apart) {
    __m512 acc[STREAMS][4];
    for (int s = 0; s < STREAMS; s++)
        for (int k = 0; k < 4; k++) acc[s][k] = _mm512_setzero_ps();
    int64_t j = 0;
    const int64_t lead = (int64_t)(-(uintptr_t)w & 63) / 2; /* values before the first cache line boundary */
    if (lead && lead <= n_in) {
        const __mmask32 mask = (__mmask32)((1u << lead) - 1);
        const __m512bh b = (__m512bh)_mm512_maskz_loadu_epi16(mask, x);
        for (int s = 0; s < STREAMS; s++)
            acc[s][0] = _mm512_dpbf16_ps(acc[s][0], (__m512bh)_mm512_maskz_loadu_epi16(mask, w + s * apart), b);
        j = lead;
    }
    for (; j + 128 <= n_in; j += 128)
        for (int s = 0; s < STREAMS; s++)
            for (int k = 0; k < 4; k++) {
                const uint16_t *line = w + s * apart + j + 32 * k;
                _mm_prefetch((const char *)line + PREFETCH_BYTES, _MM_HINT_T0);
                const __m512bh b = (__m512bh)_mm512_loadu_si512(x + j + 32 * k);
                acc[s][k] = _mm512_dpbf16_ps(acc[s][k], (__m512bh)_mm512_loadu_si512(line), b);
            }
    for (int s = 0; s < STREAMS; s++) {
        sums[s] = _mm512_reduce_add_ps(
            _mm512_add_ps(_mm512_add_ps(acc[s][0], acc[s][1]), _mm512_add_ps(acc[s][2], acc[s][3])));
        for (int64_t i = j; i < n_in; i++) sums[s] += bf16_to_f32(w[s * apart + i]) * bf16_to_f32(x[i]);
    }
}
#endif

#if defined(__AVX512BF16__)
/* Channels of all streams; see `Gemv`. */
static void compute_streams(const Gemv *gemv, void *y, int64_t first, int64_t last) {
    const uint16_t *w = gemv->w, *bias = gemv->bias;
    for (int64_t o = first; o < last; o++) {
        float sums[STREAMS];
        dot_streams(w + o * gemv->n_in, gemv->x, sums, gemv->n_in, gemv->apart * gemv->n_in);
        for (int64_t s = 0, c = o; s < STREAMS; s++, c += gemv->apart)
            ((uint16_t *)y)[c] = f32_to_bf16(sums[s] + (bias ? bf16_to_f32(bias[c]) : 0));
    }
}
#endif

/* See `Gemv`. */
static void compute(const Gemv *gemv, void *y, int64_t first, int64_t last) {
    const uint16_t *w = gemv->w, *bias = gemv->bias;
    for (int64_t o = first; o < last; o++)
        ((uint16_t *)y)[o] = f32_to_bf16(dot(w + o * gemv->n_in, gemv->x, gemv->n_in) +
                                         (bias ? bf16_to_f32(bias[o]) : 0));
}

/* y [n_out] = w [n_out, n_in] x [n_in] + bias [n_out], all bfloat16. `bias` can be null. */
void vita_gemv_bf16(const uint16_t *w, const uint16_t *x, const uint16_t *bias, uint16_t *y, int64_t n_out,
                    int64_t n_in) {
    const Gemv gemv = {compute, w, NULL, bias, x, y, 1, n_out, n_in, 1, n_out, 1, 0, n_in * (int64_t)sizeof(uint16_t)};
    int64_t streamed = 0; /* output channels that compute_streams computes */
#if defined(__AVX512BF16__)
    if (n_in % 32 == 0) {
        Gemv streams = gemv;
        streams.compute = compute_streams;
        streams.channels = streams.apart = n_out / STREAMS;
        streams.streams = STREAMS;
        streamed = streams.channels * STREAMS;
        if (!share_gemv(&streams, streamed * n_in * (int64_t)sizeof(uint16_t))) {
#pragma omp parallel for schedule(static)
            for (int64_t o = 0; o < streams.channels; o++) compute_streams(&streams, y, o, o + 1);
        }
    }
#endif
    if (streamed == 0 && share_gemv(&gemv, n_out * n_in * (int64_t)sizeof(uint16_t))) return;
#pragma omp parallel for schedule(static) if (n_out - streamed > STREAMS)
    for (int64_t o = streamed; o < n_out; o++) compute(&gemv, y, o, o + 1);
}
