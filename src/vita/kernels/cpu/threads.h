#pragma once
/* OpenMP's functions. Without OpenMP there is one thread: some compilers come without its library. */
#ifdef _OPENMP
#include <omp.h>
#else
static inline int omp_get_thread_num(void) { return 0; }
static inline int omp_get_max_threads(void) { return 1; }
#endif
