/* What the parts of the coder share. The format of a frame is in store/README.md.
 *
 * Everything here works on plain memory and knows no Python. Buffers may lie at any address: types
 * that are read from them are declared unaligned.
 */
#ifndef TVC_CODING_H
#define TVC_CODING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "frames are little-endian, and so is this code; the Python twin works everywhere"enum outcome measure_columns(const struct layout *, const uint8_t *frame, const uint8_t *base,
                             size_t n, uint64_t *sums);

#endif

typedef uint16_t __attribute__((aligned(1), may_alias)) word16;
typedef uint32_t __attribute__((aligned(1), may_alias)) word32;
typedef uint64_t __attribute__((aligned(1), may_alias)) word64;

enum {
    SCALE_BITS = 12,            /* of the frequencies in a table */
    SCALE = 1 << SCALE_BITS,
    LOW = 1 << 16,              /* states lie in [LOW, 2^32) between symbols */
    MAX_CONTEXTS = 32,
    TOKENS = 256,
    ESCAPE = 255,               /* the token of what has none in its context: the value follows */
    DIRECT = 128,               /* values below are their own token */
    DIRECT_BYTE = 255,          /* the same for 8 bits, where only 255 has none */
    DIRECT_WIDE = 16,           /* the same for 64 bits, which have more bit lengths */
    BLOCK = 2048,               /* elements at a time, so that temporaries stay in the first cache */
    MAX_LANES_LOG = 8,
    UNCHANGED = -96,            /* the term of a row or column in which nothing changed */
    LEAST_TERM = -4400,         /* bounds of all terms together */
    MOST_TERM = 200,
    SPARE = 64,                 /* bytes that passes may touch beyond an end */
};

/* One frame's place in its tensor, and what contexts are made of. */
struct layout {
    unsigned itemsize;          /* 1, 2, 4 or 8 */
    unsigned exponent_shift;    /* where the base's exponent lies in an element */
    unsigned exponent_mask;     /* 0: elements have none */
    size_t columns;             /* elements of a row; 0: no rows */
    const int8_t *column_terms; /* [columns], or NULL */
    bool with_rows;             /* the frame says a scale per row */
    size_t first;               /* the frame's first element in its tensor */
};

/* How contexts are numbered: (terms - 2 exponent - lowest) >> grain, clamped to 0 … count - 1. */
struct contexts {
    int lowest;
    unsigned grain;
    unsigned count;
};

/* What a processor can do faster than plain C; all levels give the same bytes. */
struct level {
    const char *name;
    bool (*supported)(void);

    /* Write contexts of n elements of one row. */
    void (*contexts)(const struct layout *, const struct contexts *, const uint8_t *base, size_t n,
                     const int8_t *column_terms, int row_term, uint8_t *out);

    /* Write the least of 255 and the zigzagged distance of n elements. */
    void (*distances)(unsigned itemsize, const uint8_t *frame, const uint8_t *base, size_t n,
                      uint8_t *out);

    /* Write base + distance for n elements whose zigzagged distances are the tokens. */
    void (*sums)(unsigned itemsize, const uint8_t *tokens, const uint8_t *base, size_t n,
                 uint8_t *out);

    /* Return the sum of the sizes of the changes of n elements of one row, 64 of every 64 * step;
     * each times its share, in units of 1/32768, where there are shares. A size is the distance, at
     * most 4095, times 2^14, halved for each step of the exponent below `highest`. */
    uint64_t (*sizes)(const struct layout *, const uint8_t *frame, const uint8_t *base, size_t n,
                      const uint16_t *shares, unsigned highest, size_t step);

    /* Write sums of products of a row of the left factor and n columns of the right one. Both hold
     * pairs: right[(pair * columns + column) * 2], so that two products are made at once. */
    void (*products)(const int16_t *left, const int16_t *right, size_t pairs, size_t columns,
                     size_t n, int32_t *out);

    /* Round bf16 base + change * scale for n elements; leave what is no usual number as it is. */
    void (*rounded)(const uint8_t *base, const int32_t *change, float scale, size_t n, uint8_t *out);

    /* List the places where token >= caps[context], in order, and up to three more places; return
     * how many there are. */
    size_t (*exceptions)(const uint8_t *tokens, const uint8_t *contexts, size_t n,
                         const uint8_t caps[MAX_CONTEXTS], uint16_t *out);

    /* Code n tokens, the last first, and write words downwards from `end`; return where they begin.
     * table[context << 8 | token] is start << 16 | frequency, never 0 for what occurs. There are 64
     * bytes to spare below the n words that this may write. */
    uint8_t *(*encode)(const uint32_t *table, const uint8_t *contexts, const uint8_t *tokens,
                       size_t n, unsigned lanes, uint32_t *states, uint8_t *end);

    /* Decode n tokens, n a multiple of the lanes but for the last ones of a frame; return where
     * reading stopped, or NULL where the words run out. table[context << 12 | slot] is
     * token << 24 | frequency << 12 | slot - start. */
    const uint8_t *(*decode)(const uint32_t *table, const uint8_t *contexts, uint8_t *tokens,
                             size_t n, unsigned lanes, uint32_t *states, const uint8_t *next,
                             const uint8_t *end);
};

extern const struct level level_plain, level_avx2, level_avx512;

/* tables.c */
struct table {
    unsigned size;                  /* tokens below have a frequency, and ESCAPE */
    uint8_t levels[TOKENS];         /* logarithms of their weights, as they are written */
    uint16_t frequencies[TOKENS];
};

/* The most that tables take: each entry at most 18 bits. */
enum { TABLES_BYTES = MAX_CONTEXTS * (3 + 18 * TOKENS / 8) };

uint64_t cost_of(const uint32_t counts[TOKENS]);
void make_table(const uint32_t counts[TOKENS], unsigned stride, unsigned precision, struct table *);
size_t write_tables(const struct table *, unsigned count, uint8_t *out);
const uint8_t *read_tables(const uint8_t *next, const uint8_t *end, unsigned count,
                           unsigned precision, struct table *);

/* factors.c */
struct factors {
    const int16_t *left;        /* [rows][pairs][2] */
    const int16_t *right;       /* [pairs][columns][2] */
    size_t rows, columns, pairs;
    float scale;
};

void expect(const struct level *, const struct factors *, const uint8_t *base, size_t first,
            size_t n, uint8_t *out);

enum outcome { DONE, NOT_WORTH, NO_MEMORY, MALFORMED };

/* frame.c */
struct memory {
    size_t size;                /* of what follows */
} __attribute__((aligned(64)));

/* Return at least `size` aligned bytes, or NULL; they are given back by the struct before them. */
void *borrow(struct memory **, size_t size);
void give_back(struct memory *);

size_t rows_of(const struct layout *, size_t n);
void set_row_terms(const uint8_t *classes, size_t rows, int8_t *terms);
void find_contexts(const struct level *, const struct layout *, const struct contexts *,
                   const int8_t *row_terms, const uint8_t *base, size_t from, size_t n,
                   uint8_t *out);

/* measure.c */
void measure_rows(const struct level *, const struct layout *, const uint8_t *frame,
                  const uint8_t *base, size_t n, size_t rows, uint16_t *column_shares,
                  uint8_t *classes);
enum outcome measure_columns(const struct layout *, const uint8_t *frame, const uint8_t *base,
                             size_t n, uint64_t *sums);

/* encode.c */

/* A coded frame before it is put together. */
struct coded {
    struct memory *memory;
    const uint8_t *head, *low, *words;
    const uint32_t *states;
    size_t head_size, states_size, low_size, words_size;
};

enum outcome encode_frame(const struct level *, const struct layout *, const uint8_t *frame,
                          const uint8_t *base, size_t n, struct coded *);
size_t coded_size(const struct coded *);
void take_frame(const struct coded *, uint8_t *out);
void drop_frame(struct coded *);

/* decode.c */
enum outcome decode_frame(const struct level *, const struct layout *, const uint8_t *stored,
                          size_t size, const uint8_t *base, uint8_t *out, size_t n);

#endif
