/* The gate of the decoder's MLP in bfloat16: two operations of PyTorch's in one, without a place for what is between.
 * Built as "not there" for processors without AVX-512. */
#include "floats.h"
#include "power.h"

#if defined(__AVX512F__)
#define PIECE 4096 /* values that one thread takes at a time */

int vita_gates(void) { return 1; }

static inline __m512 widened(const uint16_t *from, __mmask16 mask) {
    uint16_t some[16] = {0};
    if (mask != 0xFFFF) {
        for (int k = 0; mask >> k; k++) some[k] = from[k];
        from = some;
    }
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)from)), 16));
}

/* gate = narrow(gate / (1 + e^-gate)) * up, every step rounded as the two operations round it. */
void vita_silu_times(uint16_t *gate, const uint16_t *up, int64_t n) {
#pragma omp parallel for schedule(static) if (n > 65536)
    for (int64_t first = 0; first < n; first += PIECE) {
        const int64_t end = first + PIECE < n ? first + PIECE : n;
        for (int64_t k = first; k < end; k += 16) {
            const int64_t count = end - k < 16 ? end - k : 16;
            const __mmask16 mask = (__mmask16)((1u << count) - 1);
            const __m512 x = widened(gate + k, mask);
            const __m512 power = power_of_two(_mm512_mul_ps(x, _mm512_set1_ps(-LOG2_E)));
            float out[16], times[16];
            _mm512_storeu_ps(out, _mm512_div_ps(x, _mm512_add_ps(_mm512_set1_ps(1.0f), power)));
            _mm512_storeu_ps(times, widened(up + k, mask));
            for (int64_t j = 0; j < count; j++) gate[k + j] = narrow(wide(narrow(out[j])) * times[j]);
        }
    }
}
#else
int vita_gates(void) { return 0; }
void vita_silu_times(void) {}
#endif
