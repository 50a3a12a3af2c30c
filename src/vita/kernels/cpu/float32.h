#pragma once
/* The float32 kernels that a decode step is made of. */
#include <stdint.h>

void vita_rms_norm_f32(const float *x, const float *weight, float *y, int64_t rows, int64_t n, double eps);

void vita_rope_f32(float *x, const float *cos, const float *sin, int64_t rows, int64_t heads, int64_t d,
                   int64_t angles);

int64_t vita_decode_attention_f32_workspace(const int64_t *lengths, int64_t requests, int64_t heads, int64_t kv_heads,
                                            int64_t d);

void vita_decode_attention_f32(const float *q, const void *k, const void *v, void *const *keys, void *const *values,
                               const int64_t *lengths, const int64_t *capacities, float *out, float *workspace,
                               int64_t requests, int64_t heads, int64_t kv_heads, int64_t d, int64_t layer,
                               double scale, int is_bf16);
