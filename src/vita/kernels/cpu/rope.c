/* Rotary positions in bfloat16, in place: seven operations of PyTorch's in one. Built as "not there" for processors
 * without AVX-512. */
#include "vectors.h"

#if defined(__AVX512BW__) && defined(__AVX512VL__)
/* A product as it is rounded when it is an operation of its own. */
static inline __m512 times(__m512 x, __m512 y) { return as_floats(narrowed(_mm512_mul_ps(x, y))); }

int vita_rotates(void) { return 1; }

/* x [rows, heads, d] = x * cos + [-x2, x1] * sin; cos and sin [angles, d], the row of x modulo `angles`; d / 2 is a
 * multiple of 16. */
void vita_rotate(uint16_t *x, const uint16_t *cos, const uint16_t *sin, int64_t rows, int64_t heads, int64_t d,
                 int64_t angles) {
    const int64_t half = d / 2;
#pragma omp parallel for schedule(static) if (rows > 16)
    for (int64_t r = 0; r < rows; r++) {
        const uint16_t *c = cos + r % angles * d, *s = sin + r % angles * d;
        for (uint16_t *at = x + r * heads * d; at < x + (r + 1) * heads * d; at += d)
            for (int64_t j = 0; j < half; j += 16) {
                const __m512 one = widened(at + j, 0xFFFF), two = widened(at + half + j, 0xFFFF);
                const __m512 back = times(two, widened(s + j, 0xFFFF)), on = times(one, widened(s + half + j, 0xFFFF));
                const __m512 first = _mm512_sub_ps(times(one, widened(c + j, 0xFFFF)), back);
                const __m512 second = _mm512_add_ps(times(two, widened(c + half + j, 0xFFFF)), on);
                _mm256_storeu_si256((__m256i *)(at + j), narrowed(first));
                _mm256_storeu_si256((__m256i *)(at + half + j), narrowed(second));
            }
    }
}
#else
int vita_rotates(void) { return 0; }
void vita_rotate(void) {}
#endif
