#pragma once
/* Splits of a decode step's attention. The positions of a request are split into blocks of KV_BLOCK, whose partial
 * results are reduced afterwards (flash-decoding, Dao et al. 2023). */
#include <stdint.h>

#ifndef KV_BLOCK
#define KV_BLOCK 256 /* positions of a split */
#endif
#define HEAD_BLOCK 8 /* query heads of one KV head that are processed together */
#define MAX_HEAD_DIM 256

/* Floats of a partial result: maxima [HEAD_BLOCK], sums [HEAD_BLOCK] and outputs [HEAD_BLOCK, d]. */
static inline int64_t partial_size(int64_t d) { return HEAD_BLOCK * (2 + d); }

/* Splits of the longest request, with its new position. */
static inline int64_t max_splits(const int64_t *lengths, int64_t requests) {
    int64_t most = 0;
    for (int64_t r = 0; r < requests; r++) most = lengths[r] >= most ? lengths[r] + 1 : most;
    return (most + KV_BLOCK - 1) / KV_BLOCK;
}

/* Blocks of query heads of one KV head. */
static inline int64_t head_blocks(int64_t heads, int64_t kv_heads) {
    return (heads / kv_heads + HEAD_BLOCK - 1) / HEAD_BLOCK;
}

/* Bytes of the partial results of every request, block of heads and split. */
static inline int64_t splits_workspace(const int64_t *lengths, int64_t requests, int64_t heads, int64_t kv_heads,
                                       int64_t d) {
    const int64_t partials = requests * kv_heads * head_blocks(heads, kv_heads) * max_splits(lengths, requests);
    return partials * partial_size(d) * (int64_t)sizeof(float);
}
