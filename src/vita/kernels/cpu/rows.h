#pragma once
/* Rows of x are multiplied eight, four, two or one at a time, as many as there are left: `call` is compiled for each
 * count, which it knows as the constant ROWS, so that their sums stay in registers. */
#define MOST_ROWS 8
#define SOME_ROWS(left, taken, call) \
    if ((left) >= 8) { enum { ROWS = 8 }; call; taken = ROWS; } \
    else if ((left) >= 4) { enum { ROWS = 4 }; call; taken = ROWS; } \
    else if ((left) >= 2) { enum { ROWS = 2 }; call; taken = ROWS; } \
    else { enum { ROWS = 1 }; call; taken = ROWS; }
