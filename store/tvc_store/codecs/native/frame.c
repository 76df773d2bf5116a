/* A frame: what is measured first, what is written, and how it is read with no trust in it.
 *
 * Encoding runs from the last element to the first and decoding from the first to the last, so both
 * streams, the words of the entropy coder and the plain low bits of large distances, are stacks.
 */
#include "coding.h"

#include <stdatomic.h>
#include <stdlib.h>

enum {
    FINE = 64,                  /* contexts that are counted before some are put together */
    CHUNK = 512,                /* elements counted in a row */
    PROBE = 16,                 /* elements of a chunk from which the range of contexts is taken */
    COUNT_ALL = 1 << 19,        /* elements up to which all are counted */
    COUNT_QUARTER = 1 << 20,    /* elements up to which one in four is, above one in eight */
    COARSE = 1 << 18,           /* elements up to which tables are kept in half octaves */
    LEAST_TERM = -4400,         /* bounds of all terms together */
    MOST_TERM = 200,
    TERMS = MOST_TERM - LEAST_TERM + 1,
    BITS_PER_LANE = 8192,       /* a lane costs about 24 bits: this keeps them below 0.3 % */
    SPARE = 64,
    SPARES = 4,                 /* buffers kept for the next frame */
};

typedef uint32_t counts_t[TOKENS];

struct scratch {
    counts_t counts[2][FINE];   /* two copies: neighbours often count the same token */
    counts_t merged[MAX_CONTEXTS];
    struct table tables[MAX_CONTEXTS];
    uint32_t starts[MAX_CONTEXTS][TOKENS];
    uint32_t terms[TERMS];
    uint8_t *head;
    size_t head_room;
    uint32_t states[1 << MAX_LANES_LOG] __attribute__((aligned(64)));
    uint8_t contexts[BLOCK + SPARE], tokens[BLOCK + SPARE];
    uint16_t places[BLOCK + SPARE];
    uint64_t folded[BLOCK];     /* the distances at those places */
};

/* Memory is kept for the next frame: fresh pages cost as much as a tenth of the coding. */
static _Atomic(struct memory *) spares[SPARES];

/* Return at least `size` aligned bytes behind a struct memory, or NULL. */
static void *borrow(struct memory **memory, size_t size)
{
    for (unsigned i = 0; i < SPARES; i++) {
        *memory = atomic_exchange(&spares[i], NULL);
        if (*memory && (*memory)->size >= size)
            return *memory + 1;
        free(*memory);
    }
    if (posix_memalign((void **)memory, sizeof **memory, sizeof **memory + size))
        return NULL;
    (*memory)->size = size;
    return *memory + 1;
}

static void give_back(struct memory *memory)
{
    for (unsigned i = 0; memory && i < SPARES; i++)
        memory = atomic_exchange(&spares[i], memory);
    free(memory);
}

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

static size_t rows_of(const struct layout *layout, size_t n)
{
    if (!layout->with_rows)
        return 0;
    const size_t first = layout->first / layout->columns;
    return (layout->first + n - 1) / layout->columns - first + 1;
}

/* Write the contexts of elements from … from + n of a frame, row by row. */
static void find_contexts(const struct level *level, const struct layout *layout,
                          const struct contexts *contexts, const int8_t *row_terms,
                          const uint8_t *base, size_t from, size_t n, uint8_t *out)
{
    if (!layout->columns) {
        level->contexts(layout, contexts, base + from * layout->itemsize, n, NULL, 0, out);
        return;
    }
    const size_t first_row = layout->first / layout->columns;
    for (size_t done = 0; done < n;) {
        const size_t at = layout->first + from + done;
        const size_t column = at % layout->columns, row = at / layout->columns - first_row;
        const size_t rest = layout->columns - column;
        const size_t part = rest < n - done ? rest : n - done;
        level->contexts(layout, contexts, base + (from + done) * layout->itemsize, part,
                        layout->column_terms ? layout->column_terms + column : NULL,
                        layout->with_rows ? row_terms[row] : 0, out + done);
        done += part;
    }
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

static unsigned exponent_at(const struct layout *layout, const uint8_t *base, size_t i)
{
    return exponent_in(layout->itemsize, layout, base, i);
}

/* Return the term below which only one element in 2048 lies, unchanged rows and columns apart. */
static int lowest_term(struct scratch *scratch, const struct layout *layout,
                       const int8_t *row_terms, const uint8_t *base, size_t n)
{
    const size_t first_row = layout->columns ? layout->first / layout->columns : 0;
    uint64_t total = 0, seen = 0;
    memset(scratch->terms, 0, sizeof scratch->terms);
    for (size_t i = 0; i < n; i = i % CHUNK < PROBE - 1 ? i + 1 : i + CHUNK - i % CHUNK) {
        int term = -2 * (int)exponent_at(layout, base, i);
        if (layout->columns) {
            const size_t at = layout->first + i;
            const int row = layout->with_rows ? row_terms[at / layout->columns - first_row] : 0;
            const int column =
                layout->column_terms ? layout->column_terms[at % layout->columns] : 0;
            if (row == UNCHANGED || column == UNCHANGED)
                continue;
            term += row + column;
        }
        scratch->terms[term - LEAST_TERM]++;
        total++;
    }
    int term = 0;
    while (term < TERMS - 1 && (seen += scratch->terms[term]) * 2048 <= total)
        term++;
    return total ? term + LEAST_TERM : 0;
}

static void count_tokens(struct scratch *scratch, const struct level *level,
                         const struct layout *layout, const struct contexts *fine,
                         const int8_t *row_terms, const uint8_t *frame, const uint8_t *base,
                         size_t n, unsigned stride)
{
    const unsigned itemsize = layout->itemsize, direct = direct_of(itemsize);
    memset(scratch->counts, 0, sizeof scratch->counts);
    for (size_t from = 0; from < n; from += (size_t)CHUNK * stride) {
        const size_t part = n - from < CHUNK ? n - from : CHUNK, skip = from * itemsize;
        find_contexts(level, layout, fine, row_terms, base, from, part, scratch->contexts);
        level->distances(itemsize, frame + skip, base + skip, part, scratch->tokens);
        for (size_t i = 0; i < part; i++) {
            unsigned token = scratch->tokens[i];
            if (token >= direct)
                token = token_of(distance_at(itemsize, frame, base, from + i), direct);
            scratch->counts[i & 1][scratch->contexts[i]][token]++;
        }
    }
    for (unsigned c = 0; c < FINE; c++)
        for (unsigned t = 0; t < TOKENS; t++)
            scratch->counts[0][c][t] += scratch->counts[1][c][t];
}

/* Put 2^by fine contexts together; return how many there are then. */
static unsigned merge_contexts(struct scratch *scratch, unsigned by)
{
    unsigned count = 1;
    memset(scratch->merged, 0, sizeof scratch->merged);
    for (unsigned c = 0; c < FINE; c++) {
        const unsigned place = c >> by < MAX_CONTEXTS ? c >> by : MAX_CONTEXTS - 1;
        uint32_t any = 0;
        for (unsigned t = 0; t < TOKENS; t++) {
            scratch->merged[place][t] += scratch->counts[0][c][t];
            any |= scratch->counts[0][c][t];
        }
        if (any)
            count = place + 1;
    }
    return count;
}

static uint64_t context_cost(const uint32_t counts[TOKENS], unsigned stride)
{
    unsigned size = TOKENS;
    while (size && !counts[size - 1])
        size--;
    return stride * cost_of(counts) + (uint64_t)(20 + 4 * size) * SCALE;
}

/* Return what a frame costs with the merged contexts, in units of 1/4096 bit. */
static uint64_t merged_cost(const struct scratch *scratch, unsigned count, unsigned stride)
{
    uint64_t cost = 0;
    for (unsigned c = 0; c < count; c++)
        cost += context_cost(scratch->merged[c], stride);
    return cost;
}

static void add_counts(uint32_t to[TOKENS], const uint32_t from[TOKENS])
{
    for (unsigned t = 0; t < TOKENS; t++)
        to[t] += from[t];
}

/* Put the outermost contexts together with their neighbours while that is cheaper. */
static void trim_contexts(struct scratch *scratch, struct contexts *contexts, unsigned stride)
{
    counts_t *merged = scratch->merged, both;
    bool is_cheaper = true;
    while (contexts->count > 1 && is_cheaper) {
        const unsigned last = contexts->count - 1;
        memcpy(both, merged[last], sizeof both);
        add_counts(both, merged[last - 1]);
        is_cheaper = context_cost(both, stride) <=
                     context_cost(merged[last], stride) + context_cost(merged[last - 1], stride);
        if (is_cheaper) {
            memcpy(merged[last - 1], both, sizeof both);
            contexts->count--;
        }
    }
    for (is_cheaper = true; contexts->count > 1 && is_cheaper;) {
        memcpy(both, merged[0], sizeof both);
        add_counts(both, merged[1]);
        is_cheaper = context_cost(both, stride) <=
                     context_cost(merged[0], stride) + context_cost(merged[1], stride);
        if (is_cheaper) {
            memcpy(merged[1], both, sizeof both);
            memmove(merged[0], merged[1], --contexts->count * sizeof both);
            contexts->lowest += 1 << contexts->grain;
        }
    }
}

/* Choose the contexts, leave their counts in `merged`, and return the cost in bits. */
static uint64_t choose_contexts(struct scratch *scratch, struct contexts *contexts, unsigned stride)
{
    const unsigned finest = contexts->grain;
    uint64_t least = UINT64_MAX;
    for (unsigned grain = finest; grain < 4; grain++) {
        const unsigned count = merge_contexts(scratch, grain - finest);
        const uint64_t cost = merged_cost(scratch, count, stride);
        if (cost < least) {
            least = cost;
            contexts->grain = grain;
        }
    }
    contexts->count = merge_contexts(scratch, contexts->grain - finest);
    trim_contexts(scratch, contexts, stride);
    return least / SCALE;
}

static void make_encoder(struct scratch *scratch, unsigned count, unsigned direct,
                         uint8_t limits[MAX_CONTEXTS], uint8_t caps[MAX_CONTEXTS])
{
    memset(limits, 0, MAX_CONTEXTS);
    memset(caps, 0, MAX_CONTEXTS);
    for (unsigned c = 0; c < count; c++) {
        uint32_t start = 0;
        for (unsigned t = 0; t < TOKENS; t++) {
            const uint32_t frequency = scratch->tables[c].frequencies[t];
            scratch->starts[c][t] = start << 16 | frequency;
            start += frequency;
        }
        limits[c] = (uint8_t)scratch->tables[c].size;
        caps[c] = limits[c] < direct ? limits[c] : (uint8_t)direct;
    }
}

/* Give the listed places the tokens of their distances, and keep those. */
static inline __attribute__((always_inline)) void
mark_large_as(struct scratch *scratch, size_t found, unsigned itemsize,
              const uint8_t limits[MAX_CONTEXTS], const uint8_t *frame, const uint8_t *base)
{
    const unsigned direct = direct_of(itemsize);
    for (size_t k = 0; k < found; k++) {
        const size_t i = scratch->places[k];
        const uint64_t folded = distance_at(itemsize, frame, base, i);
        const unsigned token = token_of(folded, direct);
        scratch->folded[k] = folded;
        scratch->tokens[i] = token < limits[scratch->contexts[i]] ? (uint8_t)token : ESCAPE;
    }
}

static void mark_large(struct scratch *scratch, size_t found, unsigned itemsize,
                       const uint8_t limits[MAX_CONTEXTS], const uint8_t *frame,
                       const uint8_t *base)
{
    switch (itemsize) {
    case 1: mark_large_as(scratch, found, 1, limits, frame, base); break;
    case 2: mark_large_as(scratch, found, 2, limits, frame, base); break;
    case 4: mark_large_as(scratch, found, 4, limits, frame, base); break;
    default: mark_large_as(scratch, found, 8, limits, frame, base); break;
    }
}

static void push_large(const struct scratch *scratch, struct stack *given, size_t found,
                       unsigned itemsize)
{
    const unsigned direct = direct_of(itemsize);
    struct stack stack = *given;
    while (found--) {
        const uint64_t folded = scratch->folded[found];
        const unsigned length = length_of(folded);
        if (scratch->tokens[scratch->places[found]] == ESCAPE)
            push(&stack, folded, 8 * itemsize);
        else if (folded >= direct)
            push(&stack, folded & ((1ULL << (length - 3)) - 1), length - 3);
    }
    *given = stack;
}

static unsigned lanes_for(uint64_t bits)
{
    unsigned log = 0;
    while (log < MAX_LANES_LOG && bits >> log >= 2 * BITS_PER_LANE)
        log++;
    return log;
}

/* Write all that comes before the states; return the bytes. */
static size_t write_head(struct scratch *scratch, const struct contexts *contexts,
                         const uint8_t *classes, size_t rows, unsigned precision,
                         unsigned lanes_log, uint32_t low_bits)
{
    uint8_t *out = scratch->head;
    size_t size = 4;
    memset(out, 0, scratch->head_room);
    out[0] = (uint8_t)(precision << 6 | lanes_log);
    out[1] = (uint8_t)(contexts->grain << 6 | (contexts->count - 1));
    *(word16 *)(out + 2) = (uint16_t)contexts->lowest;
    for (size_t row = 0; row < rows; row++)
        out[size + row / 2] = (uint8_t)(out[size + row / 2] | classes[row] << (row % 2 * 4));
    size += (rows + 1) / 2;
    size += write_tables(scratch->tables, contexts->count, out + size);
    *(word32 *)(out + size) = low_bits;
    return size + 4;
}

/* Ask for the bytes that the next block needs while this one is computed on. */
static void prefetch(const uint8_t *bytes, size_t size)
{
    for (size_t at = 0; at < size; at += 64)
        __builtin_prefetch(bytes + at);
}

struct streams {
    uint8_t *words, *end;       /* where the words begin, and the end of their room */
    struct stack low;
};

/* Encode all blocks, the last first; return whether that was worth it. */
static bool encode_blocks(struct scratch *scratch, const struct level *level,
                          const struct layout *layout, const struct contexts *contexts,
                          const int8_t *row_terms, const uint8_t *frame, const uint8_t *base,
                          size_t n, unsigned lanes, struct streams *streams)
{
    const unsigned itemsize = layout->itemsize, direct = direct_of(itemsize);
    uint8_t limits[MAX_CONTEXTS], caps[MAX_CONTEXTS];
    make_encoder(scratch, contexts->count, direct, limits, caps);
    for (unsigned lane = 0; lane < lanes; lane++)
        scratch->states[lane] = LOW;
    for (size_t from = (n - 1) / BLOCK * BLOCK;; from -= BLOCK) {
        const size_t part = n - from < BLOCK ? n - from : BLOCK, skip = from * itemsize;
        uint8_t *tokens = scratch->tokens;
        find_contexts(level, layout, contexts, row_terms, base, from, part, scratch->contexts);
        level->distances(itemsize, frame + skip, base + skip, part, tokens);
        const size_t found =
            level->exceptions(tokens, scratch->contexts, part, caps, scratch->places);
        mark_large(scratch, found, itemsize, limits, frame + skip, base + skip);
        if (from) {
            prefetch(base + skip - BLOCK * itemsize, BLOCK * itemsize);
            prefetch(frame + skip - BLOCK * itemsize, BLOCK * itemsize);
        }
        streams->words = level->encode(scratch->starts[0], scratch->contexts, tokens, part, lanes,
                                       scratch->states, streams->words);
        push_large(scratch, &streams->low, found, itemsize);
        const size_t size = (size_t)(streams->end - streams->words) + streams->low.at / 8;
        if (size >= n * itemsize)
            return false;
        if (!from)
            return true;
    }
}

/* 2^(-k / 2), in units of 1 / 32768: what an element of a column with term k is divided by. */
static const uint16_t shares[16] = {32768, 23170, 16384, 11585, 8192, 5793, 4096, 2896,
                                    2048,  1448,  1024,  724,   512,  362,  256,  181};

static unsigned highest_exponent(const struct layout *layout, const uint8_t *base, size_t n)
{
    unsigned highest = 0;
    for (size_t i = 0; i < n; i = i % CHUNK < PROBE - 1 ? i + 1 : i + CHUNK - i % CHUNK) {
        const unsigned exponent = exponent_at(layout, base, i);
        highest = exponent > highest ? exponent : highest;
    }
    return highest;
}

/* Return the size of an element's change: its distance times the unit of its base's last place. One
 * wild element does not decide for its row or column. */
static inline uint64_t size_of(uint64_t folded, unsigned exponent, unsigned highest)
{
    const uint64_t size = (folded >> 1) + (folded & 1);
    const unsigned below = exponent < highest ? highest - exponent : 0;
    return (size < 4095 ? size : 4095) << 15 >> (below < 30 ? below : 30);
}

/* Return twice the logarithm of the mean size of a row's changes, or 0 where there are none. Sizes
 * are divided by what is usual in their columns. */
static unsigned row_size(const struct level *level, const struct layout *layout,
                         const uint8_t *frame, const uint8_t *base, size_t n,
                         const uint16_t *shares, unsigned highest)
{
    if (!memcmp(frame, base, n * layout->itemsize))
        return 0;
    const size_t step = n >= 2048 ? 4 : n >= 1024 ? 2 : 1;
    const uint64_t sum = level->sizes(layout, frame, base, n, shares, highest, step);
    uint64_t count = 0;
    for (size_t from = 0; from < n; from += 64 * step) {
        const size_t part = n - from < 64 ? n - from : 64;
        for (size_t i = from; i < from + part; i++)
            count += !shares || shares[i];
    }
    const uint64_t mean = count ? (sum << 16) / count + 1 : 1;
    const unsigned bits = length_of(mean) - 1;
    /* The upper half of an octave begins at the square root of two. */
    return 2 * bits + (mean << (63 - bits) >> 32 >= 0xb504f334) + 1;
}

static inline __attribute__((always_inline)) void
add_row(const struct layout *layout, unsigned itemsize, const uint8_t *frame, const uint8_t *base,
        unsigned highest, uint32_t *sizes, uint64_t *sums)
{
    const size_t columns = layout->columns;
    uint64_t sum = 0;
    for (size_t i = 0; i < columns; i++) {
        const unsigned exponent = exponent_in(itemsize, layout, base, i);
        sizes[i] = (uint32_t)size_of(distance_at(itemsize, frame, base, i), exponent, highest);
        sum += sizes[i];
    }
    const uint64_t share = (1ULL << 32) / (sum / columns + 1);
    for (size_t i = 0; i < columns; i++)
        sums[i] += sizes[i] * share >> 16;
}

/* Add to each column what its changes are of the mean in their row; n is of whole rows. */
enum outcome measure_columns(const struct layout *layout, const uint8_t *frame, const uint8_t *base,
                             size_t n, uint64_t *sums)
{
    uint32_t *sizes = malloc(layout->columns * sizeof *sizes);
    if (!sizes)
        return NO_MEMORY;
    const unsigned itemsize = layout->itemsize, highest = highest_exponent(layout, base, n);
    for (size_t from = 0; from < n; from += layout->columns) {
        const uint8_t *row = frame + from * itemsize, *origin = base + from * itemsize;
        switch (itemsize) {
        case 1: add_row(layout, 1, row, origin, highest, sizes, sums); break;
        case 2: add_row(layout, 2, row, origin, highest, sizes, sums); break;
        case 4: add_row(layout, 4, row, origin, highest, sizes, sums); break;
        default: add_row(layout, 8, row, origin, highest, sizes, sums); break;
        }
    }
    free(sizes);
    return DONE;
}

static void measure_rows(const struct level *level, const struct layout *layout,
                         const uint8_t *frame, const uint8_t *base, size_t n, size_t rows,
                         uint16_t *column_shares, uint8_t *classes)
{
    if (!rows)
        return;
    for (size_t i = 0; layout->column_terms && i < layout->columns; i++) {
        const int term = layout->column_terms[i];
        column_shares[i] = term == UNCHANGED ? 0 : shares[term];
    }
    const unsigned highest = highest_exponent(layout, base, n);
    uint64_t sum = 0, changed = 0;
    size_t column = layout->first % layout->columns, from = 0;
    for (size_t row = 0; row < rows; row++, column = 0) {
        const size_t rest = layout->columns - column, part = rest < n - from ? rest : n - from;
        const size_t skip = from * layout->itemsize;
        classes[row] = (uint8_t)row_size(level, layout, frame + skip, base + skip, part,
                                         layout->column_terms ? column_shares + column : NULL,
                                         highest);
        sum += classes[row];
        changed += classes[row] > 0;
        from += part;
    }
    const int middle = changed ? (int)((sum + changed / 2) / changed) : 0;
    for (size_t row = 0; row < rows; row++) {
        const int class = classes[row] - middle + 8;
        if (classes[row])
            classes[row] = (uint8_t)(class < 1 ? 1 : class > 15 ? 15 : class);
    }
}

static void set_row_terms(const uint8_t *classes, size_t rows, int8_t *terms)
{
    for (size_t row = 0; row < rows; row++)
        terms[row] = classes[row] ? (int8_t)classes[row] : UNCHANGED;
}

/* Encode n elements, n > 0; what comes of it is kept in `coded` until it is taken or dropped. */
enum outcome encode_frame(const struct level *level, const struct layout *layout,
                          const uint8_t *frame, const uint8_t *base, size_t n, struct coded *coded)
{
    const size_t rows = rows_of(layout, n), raw = n * layout->itemsize;
    const size_t room = 2 * n + SPARE, low_room = raw + 9 * (size_t)BLOCK + SPARE;
    const size_t head_room = TABLES_BYTES + rows / 2 + SPARE;
    const size_t shared = rows && layout->column_terms ? layout->columns : 0;
    struct scratch *scratch =
        borrow(&coded->memory, sizeof *scratch + shared * sizeof(uint16_t) + room + low_room +
                                   head_room + 2 * rows);
    if (!scratch)
        return NO_MEMORY;
    uint16_t *column_shares = (uint16_t *)(scratch + 1);
    uint8_t *streams_room = (uint8_t *)(column_shares + shared);
    scratch->head = streams_room + room + low_room;
    scratch->head_room = head_room;
    int8_t *row_terms = (int8_t *)(scratch->head + head_room);
    uint8_t *classes = (uint8_t *)row_terms + rows;
    measure_rows(level, layout, frame, base, n, rows, column_shares, classes);
    set_row_terms(classes, rows, row_terms);

    const unsigned stride = n <= COUNT_ALL ? 1 : n <= COUNT_QUARTER ? 4 : 8;
    const unsigned precision = n > COARSE ? 2 : 1;
    const unsigned finest = layout->columns ? 0 : 1;
    struct contexts contexts = {lowest_term(scratch, layout, row_terms, base, n), finest, FINE};
    count_tokens(scratch, level, layout, &contexts, row_terms, frame, base, n, stride);
    const uint64_t bits = choose_contexts(scratch, &contexts, stride);
    for (unsigned c = 0; c < contexts.count; c++)
        make_table(scratch->merged[c], stride, precision, &scratch->tables[c]);
    const unsigned lanes_log = lanes_for(bits);

    uint8_t *end = streams_room + room;
    struct streams streams = {end, end, {end, 0, 0, 0}};
    if (!encode_blocks(scratch, level, layout, &contexts, row_terms, frame, base, n,
                       1u << lanes_log, &streams)) {
        drop_frame(coded);
        return NOT_WORTH;
    }
    const size_t low_bits = streams.low.at + streams.low.held;
    coded->head = scratch->head;
    coded->head_size = write_head(scratch, &contexts, classes, rows, precision, lanes_log,
                                   (uint32_t)low_bits);
    coded->states = scratch->states;
    coded->states_size = sizeof(uint32_t) << lanes_log;
    coded->low = end;
    coded->low_size = (low_bits + 7) / 8;
    coded->words = streams.words;
    coded->words_size = (size_t)(end - streams.words);
    return DONE;
}

size_t coded_size(const struct coded *coded)
{
    return coded->head_size + coded->states_size + coded->low_size + coded->words_size;
}

/* Write a coded frame where there is room for it. */
void take_frame(const struct coded *coded, uint8_t *out)
{
    memcpy(out, coded->head, coded->head_size);
    out += coded->head_size;
    memcpy(out, coded->states, coded->states_size);
    out += coded->states_size;
    memcpy(out, coded->low, coded->low_size);
    memcpy(out + coded->low_size, coded->words, coded->words_size);
}

void drop_frame(struct coded *coded)
{
    give_back(coded->memory);
    coded->memory = NULL;
}

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
