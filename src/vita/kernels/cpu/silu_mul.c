/* silu(gate) * up of the decoder's MLP in bfloat16: PyTorch's two operations in one pass, without a buffer for the
 * intermediate result. */
#include "floats.h"
#include "vectors.h"
#include "vectors_f32.h"

#define BLOCK 4096 /* values per loop iteration of a thread */

#if defined(__AVX512BW__) && defined(__AVX512VL__)
static void compute(uint16_t *gate, const uint16_t *up, int64_t first, int64_t end) {
    for (int64_t k = first; k < end; k += 16) {
        const __mmask16 mask = tail_mask(end - k);
        const __m512 x = load_bf16x16(gate + k, mask);
        const __m512 power = exp2_f32x16(_mm512_mul_ps(x, _mm512_set1_ps(-LOG2_E)));
        const __m256i silu = f32x16_to_bf16(_mm512_div_ps(x, _mm512_add_ps(_mm512_set1_ps(1.0f), power)));
        const __m512 out = _mm512_mul_ps(bf16x16_to_f32(silu), load_bf16x16(up + k, mask));
        _mm256_mask_storeu_epi16(gate + k, mask, f32x16_to_bf16(out));
    }
}
#else
static void compute(uint16_t *gate, const uint16_t *up, int64_t first, int64_t end) {
#pragma omp simd
    for (int64_t k = first; k < end; k++) {
        const uint16_t silu = f32_to_bf16(silu_f32(bf16_to_f32(gate[k])));
        gate[k] = f32_to_bf16(bf16_to_f32(silu) * bf16_to_f32(up[k]));
    }
}
#endif

/* gate [n] = bf16(gate / (1 + e^-gate)) * up [n]. Each step is rounded as the two operations round. */
void vita_silu_mul(uint16_t *gate, const uint16_t *up, int64_t n) {
#pragma omp parallel for schedule(static) if (n > 65536)
    for (int64_t first = 0; first < n; first += BLOCK) compute(gate, up, first, first + BLOCK < n ? first + BLOCK : n);
}
