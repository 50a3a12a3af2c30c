#pragma once
/* GEMVs that helper threads share, see helpers.c. */
#include <stdint.h>

/* A GEMV. Its output channels are numbered 0 to `channels`; each stands for `streams` channels, `apart` from each
 * other. */
typedef struct Gemv Gemv;
struct Gemv {
    /* Computes channels `first` to `last` into y [rows, n_out]. Reads nothing but the fields of the struct. */
    void (*compute)(const Gemv *gemv, void *y, int64_t first, int64_t last);
    const void *w, *w_scale, *bias; /* valid until vita_helpers_end */
    const void *x;                  /* of x_bytes, which share_gemv copies */
    void *y;                        /* [rows, n_out] */
    int64_t rows, n_out, n_in, is_bf16, channels, streams, apart, x_bytes;
};

/* Computes y with the helpers. Returns 0, with y unchanged, if the calling thread has none or the GEMV is small. */
int share_gemv(const Gemv *gemv, int64_t weight_bytes);
