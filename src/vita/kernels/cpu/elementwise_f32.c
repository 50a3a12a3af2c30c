/* RMSNorm and rotary position embedding (RoPE) in float32, each in one pass. Plain C for any processor. */
#include <math.h>
#include "float32.h"

#define LANES 16 /* independent sums, which the compiler vectorises */

/* y [rows, n] = x / sqrt(mean(x^2) + eps) * weight [n]. */
void vita_rms_norm_f32(const float *x, const float *weight, float *y, int64_t rows, int64_t n, double eps) {
#pragma omp parallel for schedule(static) if (rows > 32)
    for (int64_t r = 0; r < rows; r++) {
        const float *from = x + r * n;
        float partial[LANES] = {0}, sum = 0;
        int64_t j = 0;
        for (; j + LANES <= n; j += LANES)
            for (int k = 0; k < LANES; k++) partial[k] += from[j + k] * from[j + k];
        for (; j < n; j++) sum += from[j] * from[j];
        for (int k = 0; k < LANES; k++) sum += partial[k];
        const float factor = 1.0f / sqrtf(sum / (float)n + (float)eps);
        for (int64_t k = 0; k < n; k++) y[r * n + k] = from[k] * factor * weight[k];
    }
}

/* x [rows, heads, d] = x * cos + [-x2, x1] * sin, in place, where x1 and x2 are the halves of a head. cos and sin are
 * [angles, d]; row r of x uses row r % angles. */
void vita_rope_f32(float *x, const float *cos, const float *sin, int64_t rows, int64_t heads, int64_t d,
                   int64_t angles) {
    const int64_t half = d / 2;
#pragma omp parallel for schedule(static) if (rows > 64)
    for (int64_t r = 0; r < rows; r++) {
        const float *c = cos + r % angles * d, *s = sin + r % angles * d;
        for (float *head = x + r * heads * d; head < x + (r + 1) * heads * d; head += d)
#pragma omp simd
            for (int64_t j = 0; j < half; j++) {
                const float x1 = head[j], x2 = head[half + j];
                head[j] = x1 * c[j] - x2 * s[j];
                head[half + j] = x2 * c[half + j] + x1 * s[half + j];
            }
    }
}
