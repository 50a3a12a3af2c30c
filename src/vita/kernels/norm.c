/* RMSNorm of bfloat16 rows, plain C: PyTorch takes eight operations for it, which is all that a lone row feels. */
#include <math.h>
#include "floats.h"

/* y = narrow(x / sqrt(mean(x^2) + eps)) * weight, every step rounded as the eight operations round it. */
void vita_rms_norm(const uint16_t *x, const uint16_t *weight, uint16_t *y, int64_t rows, int64_t n, double eps) {
    for (int64_t r = 0; r < rows; r++) {
        const uint16_t *from = x + r * n;
        double sum = 0;
        for (int64_t k = 0; k < n; k++) sum += (double)wide(from[k]) * wide(from[k]);
        const float factor = 1.0f / sqrtf((float)(sum / (double)n) + (float)eps);
        for (int64_t k = 0; k < n; k++) y[r * n + k] = narrow(wide(narrow(wide(from[k]) * factor)) * wide(weight[k]));
    }
}
