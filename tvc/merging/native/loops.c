/* The levels of vector instructions that loops.h is compiled for, and which this processor has. */

#include "levels.h"

#include <math.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

/* Keeps the patterns within bounds, in order; `kept` has room for LANES more than there are. */
static size_t compress_plain(uint32_t *restrict kept, const uint32_t *restrict tile, size_t size,
                             uint32_t lower, uint32_t upper)
{
    size_t count = 0;
    for (size_t i = 0; i < size; i++) {
        kept[count] = tile[i];
        count += (tile[i] >= lower) & (tile[i] <= upper);
    }
    return count;
}

#define TABLE(level, label)                                                      \
    static const struct loops loops_##level = {                                  \
        label,           widen_##level, narrow_##level, subtract_##level,        \
        add_scaled_##level, add_##level, elect_##level, spread_##level,          \
        bound_##level,   drop_##level,  uniforms_##level, product_##level,                      \
        dot_##level,     count_high_##level, collect_##level,                    \
    };

#define LEVEL(name) name##_plain
#define TARGET
#include "loops.h"
#undef LEVEL
#undef TARGET
TABLE(plain, "plain C")

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#define HAS_X86 1

#define compress_avx2 compress_plain
#define LEVEL(name) name##_avx2
#define TARGET __attribute__((target("avx2")))
#include "loops.h"
#undef LEVEL
#undef TARGET
TABLE(avx2, "AVX2")

#define LEVEL(name) name##_avx512
#ifdef __clang__
#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl")))
#else
#define TARGET \
    __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512")))
#endif
static TARGET size_t compress_avx512(uint32_t *restrict kept, const uint32_t *restrict tile,
                                     size_t size, uint32_t lower, uint32_t upper)
{
    const __m512i least = _mm512_set1_epi32((int)lower), most = _mm512_set1_epi32((int)upper);
    size_t count = 0;
    for (size_t i = 0; i < size; i += LANES) {
        size_t left = size - i;
        __mmask16 there = left < LANES ? (__mmask16)((1u << left) - 1u) : (__mmask16)0xFFFFu;
        __m512i part = _mm512_maskz_loadu_epi32(there, tile + i);
        there = _mm512_mask_cmp_epu32_mask(there, part, least, _MM_CMPINT_NLT);
        there = _mm512_mask_cmp_epu32_mask(there, part, most, _MM_CMPINT_LE);
        _mm512_storeu_si512(kept + count, _mm512_maskz_compress_epi32(there, part));
        count += (size_t)__builtin_popcount(there);
    }
    return count;
}
#include "loops.h"
#undef LEVEL
#undef TARGET
TABLE(avx512, "AVX-512")
#endif

const struct loops *const *levels(void)
{
    static const struct loops *found[4];
    size_t count = 0;
#ifdef HAS_X86
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw")
        && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
        found[count++] = &loops_avx512;
    if (__builtin_cpu_supports("avx2"))
        found[count++] = &loops_avx2;
#endif
    found[count++] = &loops_plain;
    found[count] = NULL;
    return found;
}
