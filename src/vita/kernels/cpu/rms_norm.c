/* RMSNorm of bfloat16 rows in one pass. PyTorch needs eight operations, which read and write the rows eight times. */
#include <math.h>
#include "floats.h"

#define LANES 32 /* independent sums, which the compiler vectorises */

/* y [rows, n] = bf16(x / sqrt(mean(x^2) + eps)) * weight [n]. Each step is rounded as the separate operations round. */
void vita_rms_norm(const uint16_t *x, const uint16_t *weight, uint16_t *y, int64_t rows, int64_t n, double eps) {
#pragma omp parallel for schedule(static) if (rows > 8)
    for (int64_t r = 0; r < rows; r++) {
        const uint16_t *from = x + r * n;
        double partial[LANES] = {0}, sum = 0;
        int64_t j = 0;
        for (; j + LANES <= n; j += LANES)
            for (int k = 0; k < LANES; k++) partial[k] += (double)bf16_to_f32(from[j + k]) * bf16_to_f32(from[j + k]);
        for (; j < n; j++) sum += (double)bf16_to_f32(from[j]) * bf16_to_f32(from[j]);
        for (int k = 0; k < LANES; k++) sum += partial[k];
        const float factor = 1.0f / sqrtf((float)(sum / (double)n) + (float)eps);
        for (int64_t k = 0; k < n; k++) {
            const uint16_t normalized = f32_to_bf16(bf16_to_f32(from[k]) * factor);
            y[r * n + k] = f32_to_bf16(bf16_to_f32(normalized) * bf16_to_f32(weight[k]));
        }
    }
}
