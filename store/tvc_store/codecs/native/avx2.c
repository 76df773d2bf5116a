/* The level of processors with AVX2. */
#include "coding.h"

#if defined(__x86_64__)
#include <immintrin.h>

/* For a mask of eight lanes: which word goes to each lane when the words of the set lanes are packed
 * to the top (for the encoder), and which is next for each set lane (for the decoder). */
static uint8_t packing[256][8], spreading[256][8];

/* Before the target is chosen: this runs on every processor. */
static void __attribute__((constructor)) make_permutations(void)
{
    for (unsigned mask = 0; mask < 256; mask++) {
        unsigned seen = 0, above = 8;
        for (unsigned lane = 0; lane < 8; lane++) {
            spreading[mask][lane] = (uint8_t)(seen & 7);
            seen += mask >> lane & 1;
        }
        for (unsigned lane = 8; lane-- > 0;)
            if (mask >> lane & 1)
                packing[mask][--above] = (uint8_t)lane;
    }
}

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,bmi,bmi2,popcnt"))), apply_to = function)
#else
#pragma GCC target("avx2,bmi,bmi2,popcnt")
#endif
#include "plain.h"

static bool supported(void)
{
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi2");
}

static inline __m256i permutation(const uint8_t row[8])
{
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64((const void *)row));
}

/* Unsigned a >= b, all ones where true. */
static inline __m256i at_least(__m256i a, __m256i b)
{
    return _mm256_cmpeq_epi32(_mm256_max_epu32(a, b), a);
}

static inline unsigned lanes_of(__m256i mask)
{
    return (unsigned)_mm256_movemask_ps(_mm256_castsi256_ps(mask));
}

/* The destination of a gather is read too: unless it is fresh, every step waits for the one before. */
static inline __m256i look_up(const uint32_t *table, __m256i index, __m256i all)
{
    __m256i fresh = _mm256_setzero_si256();
    __asm__("" : "+x"(fresh));
    return _mm256_mask_i32gather_epi32(fresh, (const int *)table, index, all, 4);
}

static inline __m256i hidden_full_mask(void)
{
    __m256i all = _mm256_set1_epi32(-1);
    __asm__("" : "+x"(all));
    return all;
}

static size_t exceptions(const uint8_t *tokens, const uint8_t *contexts, size_t n,
                         const uint8_t caps[MAX_CONTEXTS], uint16_t *out)
{
    const __m256i low = _mm256_broadcastsi128_si256(_mm_loadu_si128((const void *)caps));
    const __m256i high = _mm256_broadcastsi128_si256(_mm_loadu_si128((const void *)(caps + 16)));
    const __m256i fifteen = _mm256_set1_epi8(15);
    size_t found = 0, i = 0;
    for (; i + 32 <= n; i += 32) {
        const __m256i context = _mm256_loadu_si256((const void *)(contexts + i));
        const __m256i token = _mm256_loadu_si256((const void *)(tokens + i));
        const __m256i index = _mm256_and_si256(context, fifteen);
        const __m256i cap =
            _mm256_blendv_epi8(_mm256_shuffle_epi8(low, index), _mm256_shuffle_epi8(high, index),
                               _mm256_cmpgt_epi8(context, fifteen));
        const __m256i is_over = _mm256_cmpeq_epi8(_mm256_max_epu8(token, cap), token);
        found += list_bits((uint32_t)_mm256_movemask_epi8(is_over), i, out + found);
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
    const __m256i mask = _mm256_set1_epi16((short)layout->exponent_mask);
    const __m256i start = _mm256_set1_epi16((short)(row_term - contexts->lowest));
    const __m256i highest = _mm256_set1_epi16((short)(contexts->count - 1));
    const __m256i zero = _mm256_setzero_si256();
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        const __m256i words = _mm256_loadu_si256((const void *)(base + 2 * i));
        const __m256i exponent = _mm256_and_si256(_mm256_srl_epi16(words, shift), mask);
        __m256i q = _mm256_sub_epi16(start, _mm256_add_epi16(exponent, exponent));
        if (column_terms)
            q = _mm256_add_epi16(
                q, _mm256_cvtepi8_epi16(_mm_loadu_si128((const void *)(column_terms + i))));
        q = _mm256_max_epi16(_mm256_sra_epi16(q, grain), zero);
        q = _mm256_min_epi16(q, highest);
        _mm_storeu_si128((void *)(out + i), _mm_packus_epi16(_mm256_castsi256_si128(q),
                                                             _mm256_extracti128_si256(q, 1)));
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
    for (; i + 16 <= n; i += 16) {
        __m256i low = _mm256_setzero_si256(), high = _mm256_setzero_si256();
        for (size_t pair = 0; pair < pairs; pair++) {
            int32_t both;
            memcpy(&both, left + 2 * pair, sizeof both);
            const __m256i factor = _mm256_set1_epi32(both);
            const __m256i *row = (const __m256i *)(right + 2 * (pair * columns + i));
            low = _mm256_add_epi32(low, _mm256_madd_epi16(_mm256_loadu_si256(row), factor));
            high = _mm256_add_epi32(high, _mm256_madd_epi16(_mm256_loadu_si256(row + 1), factor));
        }
        _mm256_storeu_si256((void *)(out + i), low);
        _mm256_storeu_si256((void *)(out + i + 8), high);
    }
    products_plainly(left, right + 2 * i, pairs, columns, n - i, out + i);
}

static inline __m256i load8(const uint8_t *bytes)
{
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64((const void *)bytes));
}

static uint8_t *encode(const uint32_t *table, const uint8_t *contexts, const uint8_t *tokens,
                       size_t n, unsigned lanes, uint32_t *states, uint8_t *end)
{
    if (lanes < 8)
        return encode_plainly(table, contexts, tokens, n, lanes, states, end);
    const size_t whole = n & ~(size_t)7;
    end = encode_plainly(table, contexts + whole, tokens + whole, n - whole, 8,
                         states + (whole & (lanes - 1)), end);
    const __m256i low16 = _mm256_set1_epi32(0xffff), scale = _mm256_set1_epi32(SCALE);
    const __m256i even = _mm256_set1_epi64x(0x0d0c090805040100);
    const __m256 less = _mm256_set1_ps(0.25f), high = _mm256_set1_ps(65536.0f);
    const __m256i all = hidden_full_mask();
    for (size_t i = whole; i;) {
        i -= 8;
        __m256i *lane = (__m256i *)(states + (i & (lanes - 1)));
        const __m256i x = _mm256_loadu_si256(lane);
        const __m256i index =
            _mm256_or_si256(_mm256_slli_epi32(load8(contexts + i), 8), load8(tokens + i));
        const __m256i entry = look_up(table, index, all);
        const __m256i frequency = _mm256_and_si256(entry, low16);
        const __m256i start = _mm256_srli_epi32(entry, 16);
        const __m256i full = at_least(x, _mm256_slli_epi32(frequency, 32 - SCALE_BITS));
        const unsigned mask = lanes_of(full);
        const __m256i top = _mm256_permutevar8x32_epi32(x, permutation(packing[mask]));
        const __m256i halves = _mm256_shuffle_epi8(top, even);
        const __m128i words = _mm_unpacklo_epi64(_mm256_castsi256_si128(halves),
                                                 _mm256_extracti128_si256(halves, 1));
        /* What lands below the packed words is written over by the next ones. */
        _mm_storeu_si128((void *)(end - 16), words);
        end -= 2 * (unsigned)__builtin_popcount(mask);
        const __m256i rest = _mm256_blendv_epi8(x, _mm256_srli_epi32(x, 16), full);
        /* As in avx512.c; the conversion is of two halves because there is none of unsigned. */
        const __m256 value = _mm256_add_ps(
            _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_srli_epi32(rest, 16)), high),
            _mm256_cvtepi32_ps(_mm256_and_si256(rest, low16)));
        const __m256 about = _mm256_div_ps(value, _mm256_cvtepi32_ps(frequency));
        const __m256i quotient = _mm256_cvttps_epi32(_mm256_sub_ps(about, less));
        const __m256i step = _mm256_sub_epi32(scale, frequency);
        const __m256i sum = _mm256_add_epi32(rest, _mm256_mullo_epi32(quotient, step));
        const __m256i left = _mm256_sub_epi32(sum, _mm256_slli_epi32(quotient, SCALE_BITS));
        const __m256i short_by_one = _mm256_and_si256(at_least(left, frequency), step);
        _mm256_storeu_si256(lane, _mm256_add_epi32(_mm256_add_epi32(sum, start), short_by_one));
    }
    return end;
}

static const uint8_t *decode(const uint32_t *table, const uint8_t *contexts, uint8_t *tokens,
                             size_t n, unsigned lanes, uint32_t *states, const uint8_t *next,
                             const uint8_t *end)
{
    size_t i = 0;
    const __m256i slots = _mm256_set1_epi32(SCALE - 1), lowest = _mm256_set1_epi32(LOW);
    const __m256i all = hidden_full_mask();
    const __m256i tops = _mm256_set1_epi32(0x0f0b0703);
    if (lanes >= 8)
        /* A step takes at most a word for each lane: one check a step. */
        for (; i + lanes <= n && (size_t)(end - next) >= 2 * (size_t)lanes; i += lanes)
            for (unsigned lane = 0; lane < lanes; lane += 8) {
                const __m256i x = _mm256_loadu_si256((const void *)(states + lane));
                const __m256i index = _mm256_or_si256(
                    _mm256_slli_epi32(load8(contexts + i + lane), SCALE_BITS),
                    _mm256_and_si256(x, slots));
                const __m256i entry = look_up(table, index, all);
                const __m256i frequency =
                    _mm256_and_si256(_mm256_srli_epi32(entry, SCALE_BITS), slots);
                const __m256i product =
                    _mm256_mullo_epi32(frequency, _mm256_srli_epi32(x, SCALE_BITS));
                const __m256i y = _mm256_add_epi32(product, _mm256_and_si256(entry, slots));
                const __m256i enough = at_least(y, lowest);
                const unsigned empty = lanes_of(enough) ^ 0xff;
                const __m256i words =
                    _mm256_cvtepu16_epi32(_mm_loadu_si128((const void *)next));
                const __m256i spread =
                    _mm256_permutevar8x32_epi32(words, permutation(spreading[empty]));
                const __m256i filled = _mm256_or_si256(_mm256_slli_epi32(y, 16), spread);
                _mm256_storeu_si256((void *)(states + lane),
                                    _mm256_blendv_epi8(filled, y, enough));
                next += 2 * (unsigned)__builtin_popcount(empty);
                const __m256i packed = _mm256_shuffle_epi8(entry, tops);
                *(word32 *)(tokens + i + lane) =
                    (uint32_t)_mm_cvtsi128_si32(_mm256_castsi256_si128(packed));
                *(word32 *)(tokens + i + lane + 4) =
                    (uint32_t)_mm_cvtsi128_si32(_mm256_extracti128_si256(packed, 1));
            }
    return decode_carefully(table, contexts + i, tokens + i, n - i, lanes, states, next, end);
}

const struct level level_avx2 = {
    .name = "AVX2",
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
const struct level level_avx2 = {.name = "AVX2", .supported = never};
#endif
