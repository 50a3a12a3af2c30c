#pragma once
/* Register blocking over rows of x. A kernel processes 8, 4, 2 or 1 rows at a time. DISPATCH_ROWS compiles `call` once
 * for each count with ROWS as a compile-time constant, so that all accumulators stay in registers. It sets `taken` to
 * the number of rows processed. */
#define MAX_ROWS 8
#define DISPATCH_ROWS(left, taken, call) \
    if ((left) >= 8) { enum { ROWS = 8 }; call; taken = ROWS; } \
    else if ((left) >= 4) { enum { ROWS = 4 }; call; taken = ROWS; } \
    else if ((left) >= 2) { enum { ROWS = 2 }; call; taken = ROWS; } \
    else { enum { ROWS = 1 }; call; taken = ROWS; }
