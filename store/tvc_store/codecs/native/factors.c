/* What a merged adapter makes of its base: the product of its factors added, and rounded. */
#include "coding.h"

/* Write what is expected of n bf16 elements from `first` on; all lie in the matrix. */
void expect(const struct level *level, const struct factors *factors, const uint8_t *base,
            size_t first, size_t n, uint8_t *out)
{
    int32_t change[BLOCK];
    for (size_t done = 0; done < n;) {
        const size_t row = (first + done) / factors->columns;
        const size_t column = (first + done) % factors->columns;
        size_t part = factors->columns - column;
        part = part < n - done ? part : n - done;
        part = part < BLOCK ? part : BLOCK;
        level->products(factors->left + row * factors->pairs * 2, factors->right + 2 * column,
                        factors->pairs, factors->columns, part, change);
        level->rounded(base + 2 * done, change, factors->scale, part, out + 2 * done);
        done += part;
    }
}
