/* Encoding a frame: its contexts are chosen by what a sample costs, then all is coded at once. */
#include "elements.h"

enum {
    FINE = 64,                  /* contexts that are counted before some are put together */
    COARSE = 1 << 18,           /* elements up to which tables are kept in half octaves */
    TERMS = MOST_TERM - LEAST_TERM + 1,
    BITS_PER_LANE = 8192,       /* a lane costs about 24 bits: this keeps them below 0.3 % */
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

/* Return the term below which only one element in 2048 lies, unchanged rows and columns apart. */
static int lowest_term(struct scratch *scratch, const struct layout *layout,
                       const int8_t *row_terms, const uint8_t *base, size_t n)
{
    const size_t first_row = layout->columns ? layout->first / layout->columns : 0;
    const unsigned stride = stride_of(n);
    uint64_t total = 0, seen = 0;
    memset(scratch->terms, 0, sizeof scratch->terms);
    for (size_t i = 0; i < n; i = next_probed(i, stride)) {
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
        const size_t ahead = (size_t)CHUNK * stride;
        if (stride > 1 && n - from > ahead + CHUNK) {
            prefetch(base + skip + ahead * itemsize, CHUNK * itemsize);
            prefetch(frame + skip + ahead * itemsize, CHUNK * itemsize);
        }
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

    const unsigned stride = stride_of(n);
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
