#pragma once
/* The kernels that a layer of a decode step is made of. */
#include <stdint.h>

#define MAX_DECODE_ROWS 16 /* requests that decode together */

void vita_gemv_bf16(const uint16_t *w, const uint16_t *x, const uint16_t *bias, uint16_t *y, int64_t n_out,
                    int64_t n_in);

int64_t vita_gemm_small_max_rows_bf16(void);
int64_t vita_gemm_small_max_rows_int8(void);
void vita_gemm_small(const void *w, const uint16_t *scales, const uint16_t *x, const uint16_t *bias, uint16_t *y,
                     int64_t rows, int64_t n_out, int64_t n_in);

int64_t vita_gemv_int8_workspace(int64_t rows, int64_t n_in);
void vita_gemv_int8(const int8_t *w, const uint16_t *scales, const void *x, const void *bias, void *y, float *workspace,
                    int64_t rows, int64_t n_out, int64_t n_in, int64_t is_bf16);

int64_t vita_gemv_int4_workspace(int64_t rows, int64_t n_in);
void vita_gemv_int4(const uint8_t *w, const uint16_t *w_scale, const void *input, const void *bias, void *y,
                    uint8_t *workspace, int64_t rows, int64_t n_out, int64_t n_in, int64_t is_bf16);

void vita_rms_norm(const uint16_t *x, const uint16_t *weight, uint16_t *y, int64_t rows, int64_t n, double eps);

int vita_rope_supports(int64_t head_dim);
void vita_rope(uint16_t *x, const uint16_t *cos, const uint16_t *sin, int64_t rows, int64_t heads, int64_t d,
               int64_t angles);

void vita_silu_mul(uint16_t *gate, const uint16_t *up, int64_t n);
