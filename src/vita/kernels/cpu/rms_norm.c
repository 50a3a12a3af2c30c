/* RMSNorm of bfloat16 rows, plain C: PyTorch takes eight operations for it, which is all that a lone row feels, and
 * many rows are read and written eight times. */
#include <math.h>
#include "floats.h"

#define LANES 32 /* sums side by side, which the compiler makes vectors of */

/* y = narrow(x / sqrt(mean(x^2) + eps)) * weight, every step rounded as the eight operations round it. */
void vita_rms_norm(const uint16_t *x, const uint16_t *weight, uint16_t *y, int64_t rows, int64_t n, double eps) {
#pragma omp parallel for schedule(static) if (rows > 8)
    for (int64_t r = 0; r < rows; r++) {
        const uint16_t *from = x + r * n;
        double part[LANES] = {0}, sum = 0;
        int64_t at = 0;
        for (; at + LANES <= n; at += LANES)
            for (int k = 0; k < LANES; k++) part[k] += (double)wide(from[at + k]) * wide(from[at + k]);
        for (; at < n; at++) sum += (double)wide(from[at]) * wide(from[at]);
        for (int k = 0; k < LANES; k++) sum += part[k];
        const float factor = 1.0f / sqrtf((float)(sum / (double)n) + (float)eps);
        for (int64_t k = 0; k < n; k++) y[r * n + k] = narrow(wide(narrow(wide(from[k]) * factor)) * wide(weight[k]));
    }
}
