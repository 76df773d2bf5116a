/* What encoding and decoding share: memory that is kept, rows, and the contexts of elements.
 *
 * Encoding runs from the last element to the first and decoding from the first to the last, so both
 * streams, the words of the entropy coder and the plain low bits of large distances, are stacks.
 */
#include "coding.h"

#include <stdatomic.h>
#include <stdlib.h>

enum { SPARES = 4 };            /* buffers kept for the next frame */

/* Memory is kept for the next frame: fresh pages cost as much as a tenth of the coding. */
static _Atomic(struct memory *) spares[SPARES];

/* Return at least `size` aligned bytes behind a struct memory, or NULL. */
void *borrow(struct memory **memory, size_t size)
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

void give_back(struct memory *memory)
{
    for (unsigned i = 0; memory && i < SPARES; i++)
        memory = atomic_exchange(&spares[i], memory);
    free(memory);
}

size_t rows_of(const struct layout *layout, size_t n)
{
    if (!layout->with_rows)
        return 0;
    const size_t first = layout->first / layout->columns;
    return (layout->first + n - 1) / layout->columns - first + 1;
}

/* Write the contexts of elements from … from + n of a frame, row by row. */
void find_contexts(const struct level *level, const struct layout *layout,
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

void set_row_terms(const uint8_t *classes, size_t rows, int8_t *terms)
{
    for (size_t row = 0; row < rows; row++)
        terms[row] = classes[row] ? (int8_t)classes[row] : UNCHANGED;
}
