/* The gate of the decoder's MLP in bfloat16: two operations of PyTorch's in one, without a place for what is between.
 * Built as "not there" for processors without AVX-512. */
#include "vectors.h"

#if defined(__AVX512BW__) && defined(__AVX512VL__)
#define PIECE 4096 /* values that one thread takes at a time */

int vita_gates(void) { return 1; }

/* gate = narrow(gate / (1 + e^-gate)) * up, every step rounded as the two operations round it. */
void vita_silu_times(uint16_t *gate, const uint16_t *up, int64_t n) {
#pragma omp parallel for schedule(static) if (n > 65536)
    for (int64_t first = 0; first < n; first += PIECE) {
        const int64_t end = first + PIECE < n ? first + PIECE : n;
        for (int64_t k = first; k < end; k += 16) {
            const __mmask16 there = first_of(end - k);
            const __m512 x = widened(gate + k, there);
            const __m512 power = power_of_two(_mm512_mul_ps(x, _mm512_set1_ps(-LOG2_E)));
            const __m256i open = narrowed(_mm512_div_ps(x, _mm512_add_ps(_mm512_set1_ps(1.0f), power)));
            const __m512 rounded = as_floats(open);
            const __m512 out = _mm512_mul_ps(rounded, widened(up + k, there));
            _mm256_mask_storeu_epi16(gate + k, there, narrowed(out));
        }
    }
}
#else
int vita_gates(void) { return 0; }
void vita_silu_times(void) {}
#endif
