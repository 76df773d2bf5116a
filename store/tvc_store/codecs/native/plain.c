/* The level that every processor has. */
#include "plain.h"

static bool always(void) { return true; }

static size_t exceptions(const uint8_t *tokens, const uint8_t *contexts, size_t n,
                         const uint8_t caps[MAX_CONTEXTS], uint16_t *out)
{
    size_t found = 0;
    for (size_t i = 0; i < n; i++) {
        out[found] = (uint16_t)i;
        found += tokens[i] >= caps[contexts[i]];
    }
    return found;
}

static const uint8_t *decode(const uint32_t *table, const uint8_t *contexts, uint8_t *tokens,
                             size_t n, unsigned lanes, uint32_t *states, const uint8_t *next,
                             const uint8_t *end)
{
    size_t i = 0;
    /* A step takes at most a word for each lane: one check a step. */
    for (; i + lanes <= n && (size_t)(end - next) >= 2 * (size_t)lanes; i += lanes)
        for (unsigned lane = 0; lane < lanes; lane++) {
            const uint32_t x = decoded(table, contexts[i + lane], &tokens[i + lane], states[lane]);
            const unsigned empty = x < LOW;
            const uint32_t filled = x << 16 | *(const word16 *)next;
            states[lane] = empty ? filled : x;
            next += 2 * empty;
        }
    return decode_carefully(table, contexts + i, tokens + i, n - i, lanes, states, next, end);
}

const struct level level_plain = {
    .name = "plain C",
    .supported = always,
    .contexts = contexts_pass,
    .distances = distances_pass,
    .sums = sums_pass,
    .sizes = sizes_pass,
    .products = products_plainly,
    .rounded = rounded_pass,
    .exceptions = exceptions,
    .encode = encode_plainly,
    .decode = decode,
};
