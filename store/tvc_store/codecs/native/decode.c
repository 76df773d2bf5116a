/* Decoding a frame, with no trust in it: every read and every write is bounded here, or by how a
 * number was made; what does not end as it must is refused.
 */
#include "elements.h"

struct decoder {
    uint32_t table[MAX_CONTEXTS * SCALE];
    struct table tables[MAX_CONTEXTS];
    uint32_t states[1 << MAX_LANES_LOG] __attribute__((aligned(64)));
    uint8_t contexts[BLOCK + SPARE], tokens[BLOCK + SPARE];
    uint16_t places[BLOCK + SPARE];
    struct contexts chosen;
    unsigned lanes_log;
    int8_t *row_terms;
    const uint8_t *next, *end;  /* of the words */
    struct stack low;
};

static void make_decoder(struct decoder *decoder)
{
    uint32_t *out = decoder->table;
    for (unsigned c = 0; c < decoder->chosen.count; c++)
        for (unsigned t = 0; t < TOKENS; t++) {
            const uint32_t frequency = decoder->tables[c].frequencies[t];
            for (uint32_t k = 0; k < frequency; k++)
                *out++ = t << 24 | frequency << SCALE_BITS | k;
        }
}

/* Read all but the streams; return whether they can be what they say. */
static bool read_head(struct decoder *decoder, size_t rows)
{
    const uint8_t *next = decoder->next, *end = decoder->end;
    if ((size_t)(end - next) < 4 + (rows + 1) / 2)
        return false;
    const unsigned precision = next[0] >> 6;
    decoder->lanes_log = next[0] & 63;
    if (decoder->lanes_log > MAX_LANES_LOG || precision < 1 || precision > 2)
        return false;
    decoder->chosen.count = (next[1] & 63u) + 1;
    decoder->chosen.grain = next[1] >> 6;
    decoder->chosen.lowest = (int16_t) * (const word16 *)(next + 2);
    if (decoder->chosen.count > MAX_CONTEXTS || decoder->chosen.lowest < LEAST_TERM ||
        decoder->chosen.lowest > MOST_TERM)
        return false;
    next += 4;
    for (size_t row = 0; row < rows; row++) {
        const uint8_t class = next[row / 2] >> (row % 2 * 4) & 15;
        decoder->row_terms[row] = class ? (int8_t)class : UNCHANGED;
    }
    next = read_tables(next + (rows + 1) / 2, end, decoder->chosen.count, precision,
                       decoder->tables);
    const size_t states = sizeof(uint32_t) << decoder->lanes_log;
    if (!next || (size_t)(end - next) < 4 + states)
        return false;
    const size_t bits = *(const word32 *)next, low = (bits + 7) / 8;
    memcpy(decoder->states, next + 4, states);
    next += 4 + states;
    if ((size_t)(end - next) < low)
        return false;
    decoder->low = (struct stack){(uint8_t *)next, bits, 0, 0};
    decoder->next = next + low;
    return true;
}

/* Put the sums in place of those elements whose tokens are not their distances. */
static inline __attribute__((always_inline)) bool
place_large_as(struct decoder *decoder, size_t found, unsigned itemsize, const uint8_t *base,
               uint8_t *out)
{
    const unsigned direct = direct_of(itemsize), shortest = length_of(direct);
    struct stack low = decoder->low;
    for (size_t k = 0; k < found; k++) {
        const size_t i = decoder->places[k];
        const unsigned token = decoder->tokens[i], bucket = token - direct;
        const unsigned length = shortest + bucket / 4;
        uint64_t folded;
        if (token == ESCAPE) {
            if (!pop(&low, decoder->end, 8 * itemsize, &folded))
                return false;
        } else {
            if (length > 8 * itemsize || !pop(&low, decoder->end, length - 3, &folded))
                return false;
            folded |= (uint64_t)(4 | bucket % 4) << (length - 3);
        }
        place_sum(itemsize, base, i, folded, out);
    }
    decoder->low = low;
    return true;
}

static bool place_large(struct decoder *decoder, size_t found, unsigned itemsize,
                        const uint8_t *base, uint8_t *out)
{
    switch (itemsize) {
    case 1: return place_large_as(decoder, found, 1, base, out);
    case 2: return place_large_as(decoder, found, 2, base, out);
    case 4: return place_large_as(decoder, found, 4, base, out);
    default: return place_large_as(decoder, found, 8, base, out);
    }
}

static bool decode_blocks(struct decoder *decoder, const struct level *level,
                          const struct layout *layout, const uint8_t *base, uint8_t *out, size_t n)
{
    const unsigned itemsize = layout->itemsize;
    uint8_t caps[MAX_CONTEXTS];
    memset(caps, (int)direct_of(itemsize), sizeof caps);
    for (size_t from = 0; from < n; from += BLOCK) {
        const size_t part = n - from < BLOCK ? n - from : BLOCK, skip = from * itemsize;
        find_contexts(level, layout, &decoder->chosen, decoder->row_terms, base, from, part,
                      decoder->contexts);
        if (n - from > 2 * BLOCK)
            prefetch(base + skip + BLOCK * itemsize, BLOCK * itemsize);
        decoder->next =
            level->decode(decoder->table, decoder->contexts, decoder->tokens, part,
                          1u << decoder->lanes_log, decoder->states, decoder->next, decoder->end);
        if (!decoder->next)
            return false;
        level->sums(itemsize, decoder->tokens, base + skip, part, out + skip);
        const size_t found =
            level->exceptions(decoder->tokens, decoder->contexts, part, caps, decoder->places);
        if (found && !place_large(decoder, found, itemsize, base + skip, out + skip))
            return false;
    }
    for (unsigned lane = 0; lane < 1u << decoder->lanes_log; lane++)
        if (decoder->states[lane] != LOW)
            return false;
    return decoder->next == decoder->end && decoder->low.at == 0;
}

/* Decode n elements, n > 0, from bytes that may be hostile. */
enum outcome decode_frame(const struct level *level, const struct layout *layout,
                          const uint8_t *stored, size_t size, const uint8_t *base, uint8_t *out,
                          size_t n)
{
    const size_t rows = rows_of(layout, n);
    struct memory *memory;
    struct decoder *decoder = borrow(&memory, sizeof *decoder + rows);
    if (!decoder)
        return NO_MEMORY;
    decoder->row_terms = (int8_t *)(decoder + 1);
    decoder->next = stored;
    decoder->end = stored + size;
    bool is_sound = read_head(decoder, rows);
    if (is_sound) {
        make_decoder(decoder);
        is_sound = decode_blocks(decoder, level, layout, base, out, n);
    }
    give_back(memory);
    return is_sound ? DONE : MALFORMED;
}
