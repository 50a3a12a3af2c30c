/* How four-bit weights and rounded rows of x lie in memory (int4.c says why). */
#include "floats.h"

#define GROUP 64
#define HALF (GROUP / 2)

/* Where the first (0) or second (1) half of group g lies in a rounded row. */
static inline int64_t half_of(int64_t g, int64_t which, int64_t groups) {
    if ((g ^ 1) >= groups) return g * GROUP + which * HALF;
    return (g & ~(int64_t)1) * GROUP + (g & 1) * HALF + which * GROUP;
}
