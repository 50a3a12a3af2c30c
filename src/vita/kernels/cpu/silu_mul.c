/* silu(gate) * up of the decoder's MLP in bfloat16: PyTorch's two operations in one pass, without a buffer for the
 * intermediate result. Needs AVX-512; elsewhere vita_has_silu_mul returns 0. */
#include "vectors.h"

#if defined(__AVX512BW__) && defined(__AVX512VL__)
#define BLOCK 4096 /* values per loop iteration of a thread */

int vita_has_silu_mul(void) { return 1; }

/* gate [n] = bf16(gate / (1 + e^-gate)) * up [n]. Each step is rounded as the two operations round. */
void vita_silu_mul(uint16_t *gate, const uint16_t *up, int64_t n) {
#pragma omp parallel for schedule(static) if (n > 65536)
    for (int64_t first = 0; first < n; first += BLOCK) {
        const int64_t end = first + BLOCK < n ? first + BLOCK : n;
        for (int64_t k = first; k < end; k += 16) {
            const __mmask16 mask = tail_mask(end - k);
            const __m512 x = load_bf16x16(gate + k, mask);
            const __m512 power = exp2_f32x16(_mm512_mul_ps(x, _mm512_set1_ps(-LOG2_E)));
            const __m256i silu = f32x16_to_bf16(_mm512_div_ps(x, _mm512_add_ps(_mm512_set1_ps(1.0f), power)));
            const __m512 out = _mm512_mul_ps(bf16x16_to_f32(silu), load_bf16x16(up + k, mask));
            _mm256_mask_storeu_epi16(gate + k, mask, f32x16_to_bf16(out));
        }
    }
}
#else
int vita_has_silu_mul(void) { return 0; }
void vita_silu_mul(void) {}
#endif
