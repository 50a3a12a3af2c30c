#pragma once
/* Weights of a decoder, as decoder_weights.py describes them. */
#include <stdint.h>

enum { FLOAT32 = 0, BFLOAT16 = 1, INT8 = 2, INT4 = 3 };

/* A linear layer: y [rows, n_out] = x [rows, n_in] (w [n_out, n_in] * scale)^T + bias [n_out]. The weights have one of the
 * formats above; `scale` is that of int8 [n_out] and int4 [n_out, n_in / 64], bfloat16; `bias` can be null. */
typedef struct {
    const void *w, *scale, *bias;
    int64_t n_out, n_in, format;
} Linear;
