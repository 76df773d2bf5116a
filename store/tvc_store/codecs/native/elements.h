/* Single elements: their distances, tokens and exponents, and the stack of their plain low bits.
 *
 * Functions are inline, since the width of an element is a constant where they are called in loops.
 */
#ifndef TVC_ELEMENTS_H
#define TVC_ELEMENTS_H

#include "coding.h"

/* A stack of bit fields. */
struct stack {
    uint8_t *bytes;
    size_t at;                  /* bits */
    uint64_t waiting;
    unsigned held;              /* bits of `waiting` */
};

static inline unsigned direct_of(unsigned itemsize)
{
    return itemsize == 8 ? DIRECT_WIDE : itemsize == 1 ? DIRECT_BYTE : DIRECT;
}

static inline unsigned length_of(uint64_t x) { return x ? 64 - (unsigned)__builtin_clzll(x) : 0; }

static inline uint64_t distance_at(unsigned itemsize, const uint8_t *frame, const uint8_t *base, size_t i)
{
    switch (itemsize) {
    case 1: {
        const uint8_t d = (uint8_t)(frame[i] - base[i]);
        return (uint8_t)(d << 1 ^ (d >> 7 ? 0xff : 0));
    }
    case 2: {
        const uint16_t d = (uint16_t)(((const word16 *)frame)[i] - ((const word16 *)base)[i]);
        return (uint16_t)(d << 1 ^ (d >> 15 ? 0xffff : 0));
    }
    case 4: {
        const uint32_t d = ((const word32 *)frame)[i] - ((const word32 *)base)[i];
        return (uint32_t)(d << 1 ^ (0 - (d >> 31)));
    }
    default: {
        const uint64_t d = ((const word64 *)frame)[i] - ((const word64 *)base)[i];
        return d << 1 ^ (0 - (d >> 63));
    }
    }
}

static inline void place_sum(unsigned itemsize, const uint8_t *base, size_t i, uint64_t folded,
                      uint8_t *out)
{
    const uint64_t d = folded >> 1 ^ (0 - (folded & 1));
    switch (itemsize) {
    case 1: out[i] = (uint8_t)(base[i] + d); break;
    case 2: ((word16 *)out)[i] = (uint16_t)(((const word16 *)base)[i] + d); break;
    case 4: ((word32 *)out)[i] = (uint32_t)(((const word32 *)base)[i] + d); break;
    default: ((word64 *)out)[i] = ((const word64 *)base)[i] + d; break;
    }
}

/* The token of a distance: itself, or by its length and the two bits below the leading one. The last
 * tokens of 8 and 64 bits would be beyond a byte, and are escapes. */
static inline unsigned token_of(uint64_t folded, unsigned direct)
{
    if (folded < direct)
        return (unsigned)folded;
    const unsigned length = length_of(folded);
    const unsigned token =
        direct + 4 * (length - length_of(direct)) + (unsigned)(folded >> (length - 3) & 3);
    return token < ESCAPE ? token : ESCAPE;
}

static inline void push(struct stack *stack, uint64_t value, unsigned width)
{
    if (width > 32) {
        push(stack, value & 0xffffffff, 32);
        value >>= 32;
        width -= 32;
    }
    stack->waiting |= value << stack->held;
    stack->held += width;
    *(word64 *)(stack->bytes + stack->at / 8) = stack->waiting;
    stack->at += stack->held & ~7u;
    stack->waiting >>= stack->held & ~7u;
    stack->held &= 7;
}

/* Take the last field, width <= 32, from a stack of at least that many bits. */
static inline uint64_t pop_short(struct stack *stack, const uint8_t *end, unsigned width)
{
    uint64_t loaded = 0;
    stack->at -= width;
    const uint8_t *from = stack->bytes + stack->at / 8;
    if (end - from >= 8)
        loaded = *(const word64 *)from;
    else
        memcpy(&loaded, from, (size_t)(end - from));
    return loaded >> (stack->at & 7) & ((1ULL << width) - 1);
}

static inline bool pop(struct stack *stack, const uint8_t *end, unsigned width, uint64_t *value)
{
    if (stack->at < width)
        return false;
    uint64_t high = 0;
    if (width > 32) {
        high = pop_short(stack, end, width - 32) << 32;
        width = 32;
    }
    *value = high | pop_short(stack, end, width);
    return true;
}

static inline unsigned exponent_in(unsigned itemsize, const struct layout *layout,
                                   const uint8_t *base, size_t i)
{
    uint64_t word;
    switch (itemsize) {
    case 1: word = base[i]; break;
    case 2: word = ((const word16 *)base)[i]; break;
    case 4: word = ((const word32 *)base)[i]; break;
    default: word = ((const word64 *)base)[i]; break;
    }
    return (unsigned)(word >> layout->exponent_shift) & layout->exponent_mask;
}

static inline unsigned exponent_at(const struct layout *layout, const uint8_t *base, size_t i)
{
    return exponent_in(layout->itemsize, layout, base, i);
}

/* Ask for the bytes that the next block needs while this one is computed on. */
static inline void prefetch(const uint8_t *bytes, size_t size)
{
    for (size_t at = 0; at < size; at += 64)
        __builtin_prefetch(bytes + at);
}

/* Some elements from all over a frame: the first ones of each chunk, or of one chunk in `stride`. */
enum { CHUNK = 512, PROBE = 16 };

static inline size_t next_probed(size_t i, unsigned stride)
{
    const size_t place = i % ((size_t)CHUNK * stride), probe = PROBE * (stride < 4 ? stride : 4);
    return place < probe - 1 ? i + 1 : i + (size_t)CHUNK * stride - place;
}

/* How many chunks there are for each that is counted. */
static inline unsigned stride_of(size_t n)
{
    return n <= 1 << 19 ? 1 : n <= 1 << 20 ? 4 : 8;
}

#endif
