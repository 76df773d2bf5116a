/* The level of processors with AVX-512 (F, BW, VL, DQ). */
#include "coding.h"

#if defined(__x86_64__)
#include <immintrin.h>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,bmi,bmi2,popcnt"))), apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,bmi,bmi2,popcnt,prefer-vector-width=512")
#endif
#include "plain.h"

static bool supported(void)
{
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("bmi2");
}

/* The destination of a gather is read too: unless it is fresh, every step waits for the one before.
 * A compiler that sees a full mask takes any register for it, so it is not shown one. */
static inline __m512i look_up(const uint32_t *table, __m512i index, __mmask16 all)
{
    __m512i fresh = _mm512_setzero_si512();
    __asm__("" : "+v"(fresh));
    return _mm512_mask_i32gather_epi32(fresh, all, index, table, 4);
}

static inline __mmask16 hidden_full_mask(void)
{
    __mmask16 all = 0xffff;
    __asm__("" : "+k"(all));
    return all;
}

static size_t exceptions(const uint8_t *tokens, const uint8_t *contexts, size_t n,
                         const uint8_t caps[MAX_CONTEXTS], uint16_t *out)
{
    const __m512i low = _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)caps));
    const __m512i high = _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)(caps + 16)));
    const __m512i sixteen = _mm512_set1_epi8(16);
    size_t found = 0, i = 0;
    for (; i + 64 <= n; i += 64) {
        const __m512i context = _mm512_loadu_si512(contexts + i);
        const __m512i token = _mm512_loadu_si512(tokens + i);
        const __mmask64 upper = _mm512_test_epi8_mask(context, sixteen);
        const __m512i index = _mm512_andnot_si512(sixteen, context);
        /* Only the low four bits of an index count. */
        const __m512i cap = _mm512_mask_shuffle_epi8(_mm512_shuffle_epi8(low, index), upper, high,
                                                     index);
        found += list_bits(_mm512_cmpge_epu8_mask(token, cap), i, out + found);
    }
    for (; i < n; i++) {
        out[found] = (uint16_t)i;
        found += tokens[i] >= caps[contexts[i]];
    }
    return found;
}

/* As contexts_pass, for elements of 16 bits. */
static void contexts16(const struct layout *layout, const struct contexts *contexts,
                       const uint8_t *base, size_t n, const int8_t *column_terms, int row_term,
                       uint8_t *out)
{
    const __m128i shift = _mm_cvtsi32_si128((int)layout->exponent_shift);
    const __m128i grain = _mm_cvtsi32_si128((int)contexts->grain);
    const __m512i mask = _mm512_set1_epi16((short)layout->exponent_mask);
    const __m512i start = _mm512_set1_epi16((short)(row_term - contexts->lowest));
    const __m512i highest = _mm512_set1_epi16((short)(contexts->count - 1));
    const __m512i zero = _mm512_setzero_si512();
    size_t i = 0;
    for (; i + 32 <= n; i += 32) {
        const __m512i words = _mm512_loadu_si512(base + 2 * i);
        const __m512i exponent = _mm512_and_si512(_mm512_srl_epi16(words, shift), mask);
        __m512i q = _mm512_sub_epi16(start, _mm512_add_epi16(exponent, exponent));
        if (column_terms)
            q = _mm512_add_epi16(q, _mm512_cvtepi8_epi16(
                                        _mm256_loadu_si256((const void *)(column_terms + i))));
        q = _mm512_max_epi16(_mm512_sra_epi16(q, grain), zero);
        _mm256_storeu_si256((void *)(out + i), _mm512_cvtepi16_epi8(_mm512_min_epi16(q, highest)));
    }
    contexts_pass(layout, contexts, base + 2 * i, n - i, column_terms ? column_terms + i : NULL,
                  row_term, out + i);
}

static void contexts_of(const struct layout *layout, const struct contexts *contexts,
                        const uint8_t *base, size_t n, const int8_t *column_terms, int row_term,
                        uint8_t *out)
{
    (layout->itemsize == 2 ? contexts16 : contexts_pass)(layout, contexts, base, n, column_terms,
                                                         row_term, out);
}

static void products(const int16_t *left, const int16_t *right, size_t pairs, size_t columns,
                     size_t n, int32_t *out)
{
    size_t i = 0;
    for (; i + 32 <= n; i += 32) {
        __m512i low = _mm512_setzero_si512(), high = _mm512_setzero_si512();
        for (size_t pair = 0; pair < pairs; pair++) {
            int32_t both;
            memcpy(&both, left + 2 * pair, sizeof both);
            const __m512i factor = _mm512_set1_epi32(both);
            const int16_t *row = right + 2 * (pair * columns + i);
            low = _mm512_add_epi32(low, _mm512_madd_epi16(_mm512_loadu_si512(row), factor));
            high = _mm512_add_epi32(high, _mm512_madd_epi16(_mm512_loadu_si512(row + 32), factor));
        }
        _mm512_storeu_si512(out + i, low);
        _mm512_storeu_si512(out + i + 16, high);
    }
    products_plainly(left, right + 2 * i, pairs, columns, n - i, out + i);
}

static uint8_t *encode(const uint32_t *table, const uint8_t *contexts, const uint8_t *tokens,
                       size_t n, unsigned lanes, uint32_t *states, uint8_t *end)
{
    if (lanes < 16)
        return encode_plainly(table, contexts, tokens, n, lanes, states, end);
    const size_t whole = n & ~(size_t)15;
    end = encode_plainly(table, contexts + whole, tokens + whole, n - whole, 16,
                         states + (whole & (lanes - 1)), end);
    const __m512i low16 = _mm512_set1_epi32(0xffff), scale = _mm512_set1_epi32(SCALE);
    const __m512i places = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m512 less = _mm512_set1_ps(0.25f);
    const __mmask16 all = hidden_full_mask();
    for (size_t i = whole; i;) {
        i -= 16;
        uint32_t *lane = states + (i & (lanes - 1));
        const __m512i x = _mm512_loadu_si512(lane);
        const __m512i context = _mm512_cvtepu8_epi32(_mm_loadu_si128((const void *)(contexts + i)));
        const __m512i token = _mm512_cvtepu8_epi32(_mm_loadu_si128((const void *)(tokens + i)));
        const __m512i index = _mm512_or_si512(_mm512_slli_epi32(context, 8), token);
        const __m512i entry = look_up(table, index, all);
        const __m512i frequency = _mm512_and_si512(entry, low16);
        const __m512i start = _mm512_srli_epi32(entry, 16);
        const __mmask16 full =
            _mm512_cmpge_epu32_mask(x, _mm512_slli_epi32(frequency, 32 - SCALE_BITS));
        const int count = __builtin_popcount(full);
        /* Rotated to the top; what lands below is written over by the next words. */
        const __m512i top = _mm512_permutexvar_epi32(
            _mm512_add_epi32(places, _mm512_set1_epi32(count)), _mm512_maskz_compress_epi32(full, x));
        _mm256_storeu_si256((void *)(end - 32), _mm512_cvtepi32_epi16(top));
        end -= 2 * count;
        const __m512i rest = _mm512_mask_srli_epi32(x, full, x, 16);
        /* The quotient is below 2^20 and its float wrong by less than a quarter: with a quarter
         * taken off it is right or one too small, never too large. */
        const __m512 about = _mm512_div_ps(_mm512_cvtepu32_ps(rest), _mm512_cvtepi32_ps(frequency));
        const __m512i quotient = _mm512_cvttps_epi32(_mm512_sub_ps(about, less));
        const __m512i step = _mm512_sub_epi32(scale, frequency);
        const __m512i sum = _mm512_add_epi32(rest, _mm512_mullo_epi32(quotient, step));
        const __m512i left = _mm512_sub_epi32(sum, _mm512_slli_epi32(quotient, SCALE_BITS));
        const __mmask16 short_by_one = _mm512_cmpge_epu32_mask(left, frequency);
        const __m512i coded = _mm512_add_epi32(sum, start);
        _mm512_storeu_si512(lane, _mm512_mask_add_epi32(coded, short_by_one, coded, step));
    }
    return end;
}

static const uint8_t *decode(const uint32_t *table, const uint8_t *contexts, uint8_t *tokens,
                             size_t n, unsigned lanes, uint32_t *states, const uint8_t *next,
                             const uint8_t *end)
{
    size_t i = 0;
    const __m512i slots = _mm512_set1_epi32(SCALE - 1), lowest = _mm512_set1_epi32(LOW);
    const __mmask16 all = hidden_full_mask();
    if (lanes >= 16)
        /* A step takes at most a word for each lane: one check a step. */
        for (; i + lanes <= n && (size_t)(end - next) >= 2 * (size_t)lanes; i += lanes)
            for (unsigned lane = 0; lane < lanes; lane += 16) {
                const __m512i x = _mm512_loadu_si512(states + lane);
                const __m512i context =
                    _mm512_cvtepu8_epi32(_mm_loadu_si128((const void *)(contexts + i + lane)));
                const __m512i slot = _mm512_and_si512(x, slots);
                const __m512i index =
                    _mm512_or_si512(_mm512_slli_epi32(context, SCALE_BITS), slot);
                const __m512i entry = look_up(table, index, all);
                const __m512i frequency =
                    _mm512_and_si512(_mm512_srli_epi32(entry, SCALE_BITS), slots);
                const __m512i product =
                    _mm512_mullo_epi32(frequency, _mm512_srli_epi32(x, SCALE_BITS));
                const __m512i y = _mm512_add_epi32(product, _mm512_and_si512(entry, slots));
                const __mmask16 empty = _mm512_cmplt_epu32_mask(y, lowest);
                const __m512i words =
                    _mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *)next));
                const __m512i shifted = _mm512_mask_slli_epi32(y, empty, y, 16);
                const __m512i spread = _mm512_maskz_expand_epi32(empty, words);
                _mm512_storeu_si512(states + lane, _mm512_or_si512(shifted, spread));
                next += 2 * (unsigned)__builtin_popcount(empty);
                _mm_storeu_si128((void *)(tokens + i + lane),
                                 _mm512_cvtepi32_epi8(_mm512_srli_epi32(entry, 24)));
            }
    return decode_carefully(table, contexts + i, tokens + i, n - i, lanes, states, next, end);
}

const struct level level_avx512 = {
    .name = "AVX-512",
    .supported = supported,
    .contexts = contexts_of,
    .distances = distances_pass,
    .sums = sums_pass,
    .sizes = sizes_pass,
    .products = products,
    .rounded = rounded_pass,
    .exceptions = exceptions,
    .encode = encode,
    .decode = decode,
};

#if defined(__clang__)
#pragma clang attribute pop
#endif

#else
static bool never(void) { return false; }
const struct level level_avx512 = {.name = "AVX-512", .supported = never};
#endif
