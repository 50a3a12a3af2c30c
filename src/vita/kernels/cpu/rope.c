/* Rotary position embedding (RoPE) in bfloat16, in place: seven PyTorch operations in one pass. */
#include <stdint.h>
#include "floats.h"
#include "vectors.h"

#if defined(__AVX512BW__) && defined(__AVX512VL__)
/* x * y rounded to bfloat16, as a separate operation rounds it. */
static inline __m512 mul_bf16(__m512 x, __m512 y) { return bf16x16_to_f32(f32x16_to_bf16(_mm512_mul_ps(x, y))); }

static void rotate_head(uint16_t *head, const uint16_t *c, const uint16_t *s, int64_t half) {
    for (int64_t j = 0; j < half; j += 16) {
        const __m512 x1 = load_bf16x16(head + j, 0xFFFF), x2 = load_bf16x16(head + half + j, 0xFFFF);
        const __m512 sin_x2 = mul_bf16(x2, load_bf16x16(s + j, 0xFFFF));
        const __m512 sin_x1 = mul_bf16(x1, load_bf16x16(s + half + j, 0xFFFF));
        const __m512 first = _mm512_sub_ps(mul_bf16(x1, load_bf16x16(c + j, 0xFFFF)), sin_x2);
        const __m512 second = _mm512_add_ps(mul_bf16(x2, load_bf16x16(c + half + j, 0xFFFF)), sin_x1);
        _mm256_storeu_si256((__m256i *)(head + j), f32x16_to_bf16(first));
        _mm256_storeu_si256((__m256i *)(head + half + j), f32x16_to_bf16(second));
    }
}
#else
static inline float mul_bf16(float x, uint16_t y) { return bf16_to_f32(f32_to_bf16(x * bf16_to_f32(y))); }

static void rotate_head(uint16_t *head, const uint16_t *c, const uint16_t *s, int64_t half) {
#pragma omp simd
    for (int64_t j = 0; j < half; j++) {
        const float x1 = bf16_to_f32(head[j]), x2 = bf16_to_f32(head[half + j]);
        head[j] = f32_to_bf16(mul_bf16(x1, c[j]) - mul_bf16(x2, s[j]));
        head[half + j] = f32_to_bf16(mul_bf16(x2, c[half + j]) + mul_bf16(x1, s[half + j]));
    }
}
#endif

/* Half a head is a multiple of vectors. */
int vita_rope_supports(int64_t head_dim) { return head_dim > 0 && head_dim % 32 == 0; }

/* x [rows, heads, d] = x * cos + [-x2, x1] * sin, where x1 and x2 are the halves of a head. cos and sin are
 * [angles, d]; row r of x uses row r % angles. */
void vita_rope(uint16_t *x, const uint16_t *cos, const uint16_t *sin, int64_t rows, int64_t heads, int64_t d,
               int64_t angles) {
#pragma omp parallel for schedule(static) if (rows > 16)
    for (int64_t r = 0; r < rows; r++)
        for (uint16_t *head = x + r * heads * d; head < x + (r + 1) * heads * d; head += d)
            rotate_head(head, cos + r % angles * d, sin + r % angles * d, d / 2);
}
