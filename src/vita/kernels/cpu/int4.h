#pragma once
/* Memory layout of int4 weights and quantised activations. gemv_int4.c describes the weights, quantize_activations.c
 * the activations. */
#include "floats.h"

#define GROUP_SIZE 64 /* consecutive weights of a row that share one scale */
#define HALF_GROUP (GROUP_SIZE / 2)

/* Quantises rows of x [rows, n_in]: int8 `q` [rows, n_in], float32 `scale` and `shift` [rows, n_in / GROUP_SIZE]. Not
 * exported. */
__attribute__((visibility("hidden"))) void quantize_activations(
    const void *x, int8_t *q, float *scale, float *shift, int64_t rows, int64_t n_in, int64_t is_bf16);

/* Offset of the first (0) or second (1) half of group g in a quantised row. */
static inline int64_t half_group_offset(int64_t g, int64_t which, int64_t groups) {
    if ((g ^ 1) >= groups) return g * GROUP_SIZE + which * HALF_GROUP;
    return (g & ~(int64_t)1) * GROUP_SIZE + (g & 1) * HALF_GROUP + which * GROUP_SIZE;
}
