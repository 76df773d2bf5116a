/* The levels of vector instructions that loops.h is compiled for, and which this processor has. */

#include "levels.h"

#include <math.h>
#include <string.h>

#define TABLE(level, label)                                                      \
    static const struct loops loops_##level = {                                  \
        label,           widen_##level, narrow_##level, subtract_##level,        \
        add_scaled_##level, add_##level, elect_##level, product_##level,         \
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
