/* How large the changes of a frame are, by row and by column. */
#include "elements.h"

#include <stdlib.h>

/* 2^(-k / 2), in units of 1 / 32768: what an element of a column with term k is divided by. */
static const uint16_t shares[16] = {32768, 23170, 16384, 11585, 8192, 5793, 4096, 2896,
                                    2048,  1448,  1024,  724,   512,  362,  256,  181};

static unsigned highest_exponent(const struct layout *layout, const uint8_t *base, size_t n)
{
    const unsigned stride = stride_of(n);
    unsigned highest = 0;
    for (size_t i = 0; i < n; i = next_probed(i, stride)) {
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
    return (size < 4095 ? size : 4095) << 14 >> (below < 30 ? below : 30);
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
        if (!shares)
            count += part;
        else
            for (size_t i = from; i < from + part; i++)
                count += shares[i] > 0;
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

void measure_rows(const struct level *level, const struct layout *layout,
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
