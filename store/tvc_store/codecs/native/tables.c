/* Frequency tables: from counts, to bytes, from bytes.
 *
 * A table holds tokens 0 … size - 1 and the escape. What is kept of a count is its logarithm, in
 * steps that are as coarse as the number of elements allows; frequencies are made from that, by the
 * encoder as by the decoder. Integers only, so that every machine makes the same table.
 */
#include "coding.h"

enum {
    LIMIT = 12,                 /* ones after which a number follows plainly */
    ESCAPED_BITS = 24,          /* about what an escaped element costs */
    ENTRY_BITS = 4,             /* about what an entry of a table costs */
    OCTAVES = 13,               /* below the whole that are told apart */
    LEVEL_BITS = 6,             /* of a level that is written plainly */
};

/* log2 of 1 + (i + 1/2) / 256, in units of 1/4096. */
static uint16_t logarithms[256];

static void __attribute__((constructor)) make_logarithms(void)
{
    for (unsigned i = 0; i < 256; i++) {
        uint64_t x = (uint64_t)(513 + 2 * i) << 22; /* 1 … 2 as 2^31 … 2^32 */
        unsigned digits = 0;
        for (unsigned bit = 0; bit < 12; bit++) {
            x = x * x >> 31;
            digits = digits << 1 | (unsigned)(x >> 32);
            x >>= x >> 32;
        }
        logarithms[i] = (uint16_t)digits;
    }
}

static uint64_t logarithm(uint32_t x)
{
    const unsigned bits = 31 - (unsigned)__builtin_clz(x);
    return (uint64_t)bits << 12 | logarithms[(uint32_t)(x << (31 - bits)) >> 23 & 255];
}

/* What coding the counted tokens costs, and the table, in units of 1/4096 bit. */
uint64_t cost_of(const uint32_t counts[TOKENS])
{
    uint64_t total = 0, saved = 0;
    for (unsigned t = 0; t < TOKENS; t++)
        if (counts[t]) {
            total += counts[t];
            saved += counts[t] * logarithm(counts[t]);
        }
    return total ? total * logarithm((uint32_t)total) - saved : 0;
}

/* How many tokens to keep, so that escapes, entries and frequencies of the unseen cost least. */
static unsigned alphabet(const uint32_t counts[TOKENS], uint64_t total, unsigned stride)
{
    uint64_t escaped = total, wasted = 0, least = UINT64_MAX;
    unsigned best = 1;
    for (unsigned t = 0; t < ESCAPE; t++) {
        const uint64_t wanted = (uint64_t)counts[t] * SCALE;
        escaped -= counts[t];
        wasted += wanted < total ? total - wanted : 0;
        const uint64_t cost = stride * escaped * ESCAPED_BITS * SCALE +
                              (uint64_t)(t + 1) * ENTRY_BITS * SCALE + stride * wasted * 369 / 256;
        if (cost < least) {
            least = cost;
            best = t + 1;
        }
    }
    return best;
}

/* Share SCALE out to tokens and the escape by their weights, at least 1 to each. */
static void share(const uint32_t weights[TOKENS], unsigned size, uint16_t frequencies[TOKENS])
{
    uint64_t total = weights[ESCAPE], common = 0;
    unsigned rare = 0, top = ESCAPE;
    for (unsigned t = 0; t < size; t++)
        total += weights[t];
    memset(frequencies, 0, TOKENS * sizeof *frequencies);
    for (unsigned k = 0; k <= size; k++) {
        const uint64_t weight = weights[k < size ? k : ESCAPE];
        rare += weight * SCALE <= total;
        common += weight * SCALE <= total ? 0 : weight;
    }
    int left = SCALE;
    for (unsigned k = 0; k <= size; k++) {
        const unsigned t = k < size ? k : ESCAPE;
        const uint64_t weight = weights[t];
        const uint64_t part = weight * SCALE <= total
                                  ? 1 : (weight * (SCALE - rare) + common / 2) / common;
        frequencies[t] = (uint16_t)(part ? part : 1);
        left -= frequencies[t];
    }
    while (left) {
        for (unsigned t = 0; t < size; t++)
            if (frequencies[t] > frequencies[top] || (frequencies[t] == frequencies[top] && t < top))
                top = t;
        const int give = left < -(frequencies[top] / 2) ? -(frequencies[top] / 2) : left;
        frequencies[top] = (uint16_t)(frequencies[top] + give);
        left -= give;
    }
}

/* 256 times 2^(k / 4). */
static const uint16_t quarters[4] = {256, 304, 362, 431};

static uint32_t weight_of(unsigned level, unsigned precision)
{
    const unsigned fine = level << (2 - precision);
    return (uint32_t)quarters[fine & 3] << (fine >> 2);
}

static uint8_t level_of(uint64_t count, uint64_t total, unsigned precision)
{
    if (!count)
        return 0;
    const int64_t octaves = (int64_t)logarithm((uint32_t)count) - (int64_t)logarithm((uint32_t)total);
    const int64_t level = (((octaves + OCTAVES * SCALE) << precision) + SCALE / 2) >> SCALE_BITS;
    return (uint8_t)(level < 0 ? 0 : level > OCTAVES << precision ? OCTAVES << precision : level);
}

/* Make frequencies from levels. */
static void settle(struct table *table, unsigned precision)
{
    uint32_t weights[TOKENS];
    for (unsigned t = 0; t < table->size; t++)
        weights[t] = weight_of(table->levels[t], precision);
    weights[ESCAPE] = weight_of(table->levels[ESCAPE], precision);
    share(weights, table->size, table->frequencies);
}

/* Make a table from counts of one element in `stride`. */
void make_table(const uint32_t counts[TOKENS], unsigned stride, unsigned precision,
                struct table *table)
{
    uint64_t total = 0, escaped;
    for (unsigned t = 0; t < TOKENS; t++)
        total += counts[t];
    escaped = total;
    table->size = total ? alphabet(counts, total, stride) : 1;
    for (unsigned t = 0; t < table->size; t++) {
        table->levels[t] = level_of(counts[t], total, precision);
        escaped -= counts[t];
    }
    table->levels[ESCAPE] = level_of(escaped, total, precision);
    settle(table, precision);
}

static unsigned length_of(unsigned x)
{
    return x ? 32 - (unsigned)__builtin_clz(x) : 0;
}

static unsigned guess_for(const uint8_t *levels, unsigned t)
{
    return t == 1 ? levels[0] : (levels[t - 1] + levels[t - 2] + 1u) / 2;
}

/* The plain bits of a folded error where errors were `usual` / 16 so far: about log2 of the mean. */
static unsigned width_for(unsigned usual)
{
    const unsigned length = length_of(usual * 11 >> 8);
    return length ? length - 1 : 0;
}

static unsigned update(unsigned usual, unsigned folded)
{
    return usual - usual / 4 + folded * 4;
}

static size_t put(uint8_t *out, size_t at, unsigned value, unsigned width)
{
    for (unsigned bit = 0; bit < width; bit++, at++)
        out[at >> 3] = (uint8_t)(out[at >> 3] | (value >> bit & 1) << (at & 7));
    return at;
}

static size_t write_table(const struct table *table, uint8_t *out, size_t at)
{
    const uint8_t *levels = table->levels;
    unsigned usual = 32;
    at = put(out, at, table->size, 8);
    at = put(out, at, levels[ESCAPE], LEVEL_BITS);
    at = put(out, at, levels[0], LEVEL_BITS);
    for (unsigned t = 1; t < table->size; t++) {
        const int error = levels[t] - (int)guess_for(levels, t);
        const unsigned folded = error < 0 ? (unsigned)(-2 * error - 1) : (unsigned)(2 * error);
        const unsigned width = width_for(usual), ones = folded >> width;
        if (ones < LIMIT) {
            at = put(out, at, (1u << ones) - 1, ones + 1);
            at = put(out, at, folded & ((1u << width) - 1), width);
        } else {
            at = put(out, at, (1u << LIMIT) - 1, LIMIT);
            at = put(out, at, levels[t], LEVEL_BITS);
        }
        usual = update(usual, folded);
    }
    return at;
}

/* Write tables to at most TABLES_BYTES of zeros; return the bytes. */
size_t write_tables(const struct table *tables, unsigned count, uint8_t *out)
{
    size_t at = 0;
    for (unsigned c = 0; c < count; c++)
        at = write_table(&tables[c], out, at);
    return (at + 7) / 8;
}

struct bits {
    const uint8_t *bytes;
    size_t at, count;
};

/* Return the next bits, or -1 where they run out. */
static int take(struct bits *bits, unsigned width)
{
    unsigned value = 0;
    if (bits->count - bits->at < width)
        return -1;
    for (unsigned bit = 0; bit < width; bit++, bits->at++)
        value |= (unsigned)(bits->bytes[bits->at >> 3] >> (bits->at & 7) & 1) << bit;
    return (int)value;
}

/* Return the next level, or -1 where there is none. */
static int take_level(struct bits *bits, unsigned guess, unsigned *usual)
{
    const unsigned width = width_for(*usual);
    unsigned ones = 0;
    int bit = 1, level, error;
    while (ones < LIMIT && (bit = take(bits, 1)) == 1)
        ones++;
    const int rest = bit < 0 ? -1 : take(bits, ones < LIMIT ? width : LEVEL_BITS);
    if (rest < 0)
        return -1;
    if (ones < LIMIT) {
        const int folded = (int)(ones << width | (unsigned)rest);
        error = folded & 1 ? -(folded + 1) / 2 : folded / 2;
        level = (int)guess + error;
    } else {
        level = rest;
        error = level - (int)guess;
    }
    *usual = update(*usual, error < 0 ? (unsigned)(-2 * error - 1) : (unsigned)(2 * error));
    return level;
}

static bool read_table(struct bits *bits, unsigned precision, struct table *table)
{
    const int most = OCTAVES << precision, size = take(bits, 8);
    const int escape = take(bits, LEVEL_BITS), first = take(bits, LEVEL_BITS);
    unsigned usual = 32;
    if (size < 1 || size > ESCAPE || escape < 0 || escape > most || first < 0 || first > most)
        return false;
    table->size = (unsigned)size;
    table->levels[ESCAPE] = (uint8_t)escape;
    table->levels[0] = (uint8_t)first;
    for (unsigned t = 1; t < table->size; t++) {
        const int level = take_level(bits, guess_for(table->levels, t), &usual);
        if (level < 0 || level > most)
            return false;
        table->levels[t] = (uint8_t)level;
    }
    settle(table, precision);
    return true;
}

/* Read tables; return where they end, or NULL where they are none. */
const uint8_t *read_tables(const uint8_t *next, const uint8_t *end, unsigned count,
                           unsigned precision, struct table *tables)
{
    struct bits bits = {next, 0, 8 * (size_t)(end - next)};
    for (unsigned c = 0; c < count; c++)
        if (!read_table(&bits, precision, &tables[c]))
            return NULL;
    return next + (bits.at + 7) / 8;
}
