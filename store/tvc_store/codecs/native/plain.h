/* The passes in plain C, which a compiler vectorises as far as the including file allows.
 *
 * Included by one file per level, after it has chosen its target. Absent on purpose: intrinsics.
 */
#include "coding.h"

#define EACH_WIDTH(itemsize, CALL)                                                                 \
    switch (itemsize) {                                                                            \
    case 1: CALL(uint8_t, int8_t, uint8_t); break;                                                 \
    case 2: CALL(uint16_t, int16_t, word16); break;                                                \
    case 4: CALL(uint32_t, int32_t, word32); break;                                                \
    default: CALL(uint64_t, int64_t, word64); break;                                               \
    }

static inline int clamp_context(int value, int highest)
{
    value = value < 0 ? 0 : value;
    return value > highest ? highest : value;
}

static void contexts_pass(const struct layout *layout, const struct contexts *contexts,
                          const uint8_t *base, size_t n, const int8_t *column_terms, int row_term,
                          uint8_t *restrict out)
{
    const unsigned shift = layout->exponent_shift, mask = layout->exponent_mask;
    const int grain = (int)contexts->grain;
    const int16_t highest = (int16_t)(contexts->count - 1);
    const int16_t start = (int16_t)(row_term - contexts->lowest);
    if (highest == 0) {
        memset(out, 0, n);
        return;
    }
#define CONTEXTS(U, S, W)                                                                          \
    if (column_terms)                                                                              \
        for (size_t i = 0; i < n; i++) {                                                           \
            const int16_t exponent = (int16_t)((((const W *)base)[i] >> shift) & mask);            \
            const int16_t q = (int16_t)(start + column_terms[i] - 2 * exponent);                   \
            out[i] = (uint8_t)clamp_context(q >> grain, highest);                                  \
        }                                                                                          \
    else                                                                                           \
        for (size_t i = 0; i < n; i++) {                                                           \
            const int16_t exponent = (int16_t)((((const W *)base)[i] >> shift) & mask);            \
            const int16_t q = (int16_t)(start - 2 * exponent);                                     \
            out[i] = (uint8_t)clamp_context(q >> grain, highest);                                  \
        }
    EACH_WIDTH(layout->itemsize, CONTEXTS)
#undef CONTEXTS
}

static void distances_pass(unsigned itemsize, const uint8_t *frame, const uint8_t *base, size_t n,
                           uint8_t *restrict out)
{
#define DISTANCES(U, S, W)                                                                         \
    for (size_t i = 0; i < n; i++) {                                                               \
        const U d = (U)(((const W *)frame)[i] - ((const W *)base)[i]);                             \
        const U z = (U)((U)(d << 1) ^ (U)((S)d >> (8 * sizeof(U) - 1)));                           \
        const U most = (U)255;                                                                     \
        out[i] = (uint8_t)(z > most ? most : z);                                                   \
    }
    EACH_WIDTH(itemsize, DISTANCES)
#undef DISTANCES
}

static void sums_pass(unsigned itemsize, const uint8_t *restrict tokens, const uint8_t *base,
                      size_t n, uint8_t *restrict out)
{
#define SUMS(U, S, W)                                                                              \
    for (size_t i = 0; i < n; i++) {                                                               \
        const U z = tokens[i];                                                                     \
        ((W *)out)[i] = (U)(((const W *)base)[i] + (U)((U)(z >> 1) ^ (U)(0 - (z & 1))));           \
    }
    EACH_WIDTH(itemsize, SUMS)
#undef SUMS
}

/* Write the places of the set bits, and up to three more, so that few branches depend on how many
 * there are; return how many. */
static inline size_t list_bits(uint64_t set, size_t from, uint16_t *out)
{
    const size_t count = (size_t)__builtin_popcountll(set);
    size_t k = 0;
    do {
        for (const size_t end = k + 4; k < end; k++) {
            out[k] = (uint16_t)(from + (size_t)__builtin_ctzll(set | 1ULL << 63));
            set &= set - 1;
        }
    } while (k < count);
    return count;
}

static uint64_t sizes_pass(const struct layout *layout, const uint8_t *frame, const uint8_t *base,
                           size_t n, const uint16_t *shares, unsigned highest, size_t step)
{
    const unsigned shift = layout->exponent_shift, mask = layout->exponent_mask;
    uint64_t sum = 0;
#define SIZE(U, S, W)                                                                              \
    const U word = ((const W *)base)[i];                                                           \
    const U d = (U)(((const W *)frame)[i] - word);                                                 \
    const U far = (U)((S)d < 0 ? 0 - d : d);                                                       \
    const U most = (U)4095;                                                                        \
    const uint32_t size = (uint32_t)(sizeof(U) > 1 && far > most ? most : far);                    \
    const uint32_t exponent = (uint32_t)(word >> shift) & mask;                                    \
    const uint32_t below = exponent < highest ? highest - exponent : 0;                            \
    const uint32_t scaled = size << 14 >> (below < 30 ? below : 30);
#define SIZES(U, S, W)                                                                             \
    for (size_t from = 0; from < n; from += 64 * step) {                                           \
        const size_t end = n - from < 64 ? n : from + 64;                                          \
        if (shares)                                                                                \
            for (size_t i = from; i < end; i++) {                                                  \
                SIZE(U, S, W)                                                                      \
                sum += (uint64_t)scaled * shares[i] >> 15;                                         \
            }                                                                                      \
        else {                                                                                     \
            uint32_t part = 0; /* 64 times 4095 * 2^14 fits */                                     \
            for (size_t i = from; i < end; i++) {                                                  \
                SIZE(U, S, W)                                                                      \
                part += scaled;                                                                    \
            }                                                                                      \
            sum += part;                                                                           \
        }                                                                                          \
    }
    EACH_WIDTH(layout->itemsize, SIZES)
#undef SIZES
#undef SIZE
    return sum;
}

static inline void products_plainly(const int16_t *left, const int16_t *right, size_t pairs,
                                    size_t columns, size_t n, int32_t *restrict out)
{
    memset(out, 0, n * sizeof *out);
    for (size_t pair = 0; pair < pairs; pair++) {
        const int32_t one = left[2 * pair], other = left[2 * pair + 1];
        const int16_t *row = right + 2 * pair * columns;
        for (size_t i = 0; i < n; i++)
            out[i] = (int32_t)((uint32_t)out[i] + (uint32_t)(row[2 * i] * one) +
                               (uint32_t)(row[2 * i + 1] * other));
    }
}

static void rounded_pass(const uint8_t *base, const int32_t *change, float scale, size_t n,
                         uint8_t *restrict out)
{
    for (size_t i = 0; i < n; i++) {
        const uint32_t word = ((const word16 *)base)[i], wide = word << 16;
        float sum;
        uint32_t bits;
        memcpy(&sum, &wide, sizeof sum);
        sum += (float)change[i] * scale;
        memcpy(&bits, &sum, sizeof bits);
        /* Below 2^-100 some processors are told to take a number for 0. */
        const uint32_t size = bits & 0x7fffffff;
        const uint32_t rounded = (bits + (0x7fff + (bits >> 16 & 1))) >> 16;
        const uint32_t is_usual = (size >= 27u << 23) & ((word >> 7 & 255) != 255);
        ((word16 *)out)[i] = (uint16_t)(is_usual ? rounded : word);
    }
}

static inline uint8_t *encode_one(const uint32_t *table, uint8_t context, uint8_t token,
                                  uint32_t *state, uint8_t *end)
{
    const uint32_t entry = table[(uint32_t)context << 8 | token];
    const uint32_t frequency = entry & 0xffff, start = entry >> 16, x = *state;
    const unsigned full = x >= frequency << (32 - SCALE_BITS);
    *(word16 *)(end - 2) = (uint16_t)x;
    const uint32_t rest = full ? x >> 16 : x;
    *state = (rest / frequency << SCALE_BITS) + rest % frequency + start;
    return end - 2 * full;
}

static inline uint8_t *encode_plainly(const uint32_t *table, const uint8_t *contexts,
                                      const uint8_t *tokens, size_t n, unsigned lanes,
                                      uint32_t *states, uint8_t *end)
{
    while (n--)
        end = encode_one(table, contexts[n], tokens[n], &states[n & (lanes - 1)], end);
    return end;
}

static inline uint32_t decoded(const uint32_t *table, uint8_t context, uint8_t *token, uint32_t x)
{
    const uint32_t entry = table[(uint32_t)context << SCALE_BITS | (x & (SCALE - 1))];
    *token = (uint8_t)(entry >> 24);
    return (entry >> SCALE_BITS & (SCALE - 1)) * (x >> SCALE_BITS) + (entry & (SCALE - 1));
}

/* Decode where the words may run out at any symbol. */
static const uint8_t *decode_carefully(const uint32_t *table, const uint8_t *contexts,
                                       uint8_t *tokens, size_t n, unsigned lanes, uint32_t *states,
                                       const uint8_t *next, const uint8_t *end)
{
    for (size_t i = 0; i < n; i++) {
        uint32_t x = decoded(table, contexts[i], &tokens[i], states[i & (lanes - 1)]);
        if (x < LOW) {
            if (end - next < 2)
                return NULL;
            x = x << 16 | *(const word16 *)next;
            next += 2;
        }
        states[i & (lanes - 1)] = x;
    }
    return next;
}
