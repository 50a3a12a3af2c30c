/* Powers of two, sixteen at a time. */
#if defined(__AVX512F__)
#include <immintrin.h>

#define LOG2_E 1.44269504f

/* 2^x; below 2^-127 it is next to nothing. What is no number stays none. */
static inline __m512 power_of_two(__m512 x) {
    x = _mm512_max_ps(_mm512_set1_ps(-127.0f), x);
    const __m512 whole = _mm512_roundscale_ps(x, 0), part = _mm512_sub_ps(x, whole);
    __m512 y = _mm512_set1_ps(1.33335581e-3f);
    y = _mm512_fmadd_ps(y, part, _mm512_set1_ps(9.61812911e-3f));
    y = _mm512_fmadd_ps(y, part, _mm512_set1_ps(5.55041087e-2f));
    y = _mm512_fmadd_ps(y, part, _mm512_set1_ps(2.40226507e-1f));
    y = _mm512_fmadd_ps(y, part, _mm512_set1_ps(6.93147182e-1f));
    y = _mm512_fmadd_ps(y, part, _mm512_set1_ps(1.0f));
    return _mm512_scalef_ps(y, whole);
}
#endif
