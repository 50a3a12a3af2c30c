#pragma once
/* How four-bit weights and rounded rows of x lie in memory (gemv_int4.c says why). */
#include "floats.h"

#define GROUP 64
#define HALF (GROUP / 2)

/* Rounds rows of x: int8 values `q` [rows, n_in], and of each group its scale and shift [rows, groups]. */
void vita_round_rows(const void *x, int8_t *q, float *scale, float *shift, int64_t rows, int64_t n_in, int64_t half);

/* Where the first (0) or second (1) half of group g lies in a rounded row. */
static inline int64_t half_of(int64_t g, int64_t which, int64_t groups) {
    if ((g ^ 1) >= groups) return g * GROUP + which * HALF;
    return (g & ~(int64_t)1) * GROUP + (g & 1) * HALF + which * GROUP;
}
