/* A decoder layer of a decode step in bfloat16, in two calls: what comes before attention and what comes after it. They
 * call the kernels that the layer's operations would call one by one, with the same results. */
#include "floats.h"
#include "linear.h"
#include "weights.h"

typedef struct {
    const uint16_t *attn_norm, *mlp_norm; /* [hidden] */
    Linear q, k, v, o, gate, up, down;
} Layer;

/* Rows that a layer can have; 0 where a kernel is missing. */
int64_t vita_decode_layer_max_rows(const Layer *layer, int64_t head_dim) {
    const Linear *linears[] = {&layer->q, &layer->k, &layer->v, &layer->o, &layer->gate, &layer->up, &layer->down};
    int64_t most = MAX_DECODE_ROWS;
    for (int i = 0; i < 7; i++)
        if (linears[i]->format == BFLOAT16) {
            const int64_t here = vita_gemm_small_max_rows_bf16();
            most = here < 1 ? 1 : here < most ? here : most;
        }
    return vita_rope_supports(head_dim) ? most : 0;
}

static int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

/* Bytes of the workspace of `multiply`. */
static int64_t multiply_workspace(const Layer *layer, int64_t rows) {
    const int64_t widest = larger(layer->down.n_in, larger(layer->q.n_in, layer->o.n_in));
    return larger(vita_gemv_int8_workspace(rows, widest), vita_gemv_int4_workspace(rows, widest));
}

/* Workspace of a layer in bytes. */
int64_t vita_decode_layer_workspace(const Layer *layer, int64_t rows) {
    return multiply_workspace(layer, rows) + rows * 2 * (layer->q.n_in + layer->down.n_in) * (int64_t)sizeof(uint16_t);
}

static void multiply(const Linear *linear, const uint16_t *x, uint16_t *y, void *workspace, int64_t rows) {
    const int64_t n_out = linear->n_out, n_in = linear->n_in;
    if (linear->format == INT4)
        vita_gemv_int4(linear->w, linear->scale, x, linear->bias, y, workspace, rows, n_out, n_in, 1);
    else if (linear->format == INT8 && rows > vita_gemm_small_max_rows_int8())
        vita_gemv_int8(linear->w, linear->scale, x, linear->bias, y, workspace, rows, n_out, n_in, 1);
    else if (linear->format == BFLOAT16 && rows == 1) vita_gemv_bf16(linear->w, x, linear->bias, y, n_out, n_in);
    else vita_gemm_small(linear->w, linear->scale, x, linear->bias, y, rows, n_out, n_in);
}

/* x [n] += y [n], rounded to bfloat16. */
static void add(uint16_t *x, const uint16_t *y, int64_t n) {
    for (int64_t k = 0; k < n; k++) x[k] = f32_to_bf16(bf16_to_f32(x[k]) + bf16_to_f32(y[k]));
}

/* q [rows, heads, d], k and v [rows, kv_heads, d] of x [rows, hidden]; cos and sin are [rows, d]. */
void vita_decode_layer_begin(const Layer *layer, const uint16_t *x, uint16_t *q, uint16_t *k, uint16_t *v,
                             const uint16_t *cos, const uint16_t *sin, void *workspace, int64_t rows, int64_t d,
                             double eps) {
    const int64_t hidden = layer->q.n_in;
    uint16_t *normed = (uint16_t *)((char *)workspace + multiply_workspace(layer, rows));
    vita_rms_norm(x, layer->attn_norm, normed, rows, hidden, eps);
    multiply(&layer->q, normed, q, workspace, rows);
    multiply(&layer->k, normed, k, workspace, rows);
    multiply(&layer->v, normed, v, workspace, rows);
    vita_rope(q, cos, sin, rows, layer->q.n_out / d, d, rows);
    vita_rope(k, cos, sin, rows, layer->k.n_out / d, d, rows);
}

/* x [rows, hidden], in place, after attention with the result `attended` [rows, heads, d]. */
void vita_decode_layer_end(const Layer *layer, uint16_t *x, const uint16_t *attended, void *workspace, int64_t rows,
                           double eps) {
    const int64_t hidden = layer->q.n_in, inner = layer->down.n_in;
    uint16_t *normed = (uint16_t *)((char *)workspace + multiply_workspace(layer, rows)), *out = normed + rows * hidden;
    uint16_t *gate = out + rows * hidden, *up = gate + rows * inner;
    multiply(&layer->o, attended, out, workspace, rows);
    add(x, out, rows * hidden);
    vita_rms_norm(x, layer->mlp_norm, normed, rows, hidden, eps);
    multiply(&layer->gate, normed, gate, workspace, rows);
    multiply(&layer->up, normed, up, workspace, rows);
    vita_silu_mul(gate, up, rows * inner);
    multiply(&layer->down, gate, out, workspace, rows);
    add(x, out, rows * hidden);
}
