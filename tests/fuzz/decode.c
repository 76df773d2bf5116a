/* A fuzzer of the decoder of frames, for libFuzzer:
 *
 *     clang -g -O1 -D_POSIX_C_SOURCE=200809L -I store/tvc_store/codecs/native \
 *         -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=undefined \
 *         store/tvc_store/codecs/native/{avx2,avx512,decode,encode,factors,frame}.c \
 *         store/tvc_store/codecs/native/{measure,plain,tables}.c tests/fuzz/decode.c \
 *         -o .work/fuzz_decode
 *     mkdir -p .work/grown
 *     .work/fuzz_decode -max_len=16384 -max_total_time=3600 .work/grown tests/fuzz/corpus
 *
 * An input says how large a frame is and what is known of it, then what its base is made from, then
 * holds the stored bytes. Every level that the processor has must say the same of it and fill the
 * same elements; what decodes is encoded again, and must come back. The command's other half,
 * tests/fuzz/seeds.py, writes the corpus.
 */
#include "coding.h"

#include <stdlib.h>

enum { HEAD = 16, MOST = 1 << 14 };

static const struct level *const levels[] = {&level_plain, &level_avx2, &level_avx512};

static void *exactly(const void *bytes, size_t size)
{
    void *copy = malloc(size ? size : 1);
    if (!copy)
        abort();
    if (size)
        memcpy(copy, bytes, size);
    return copy;
}

static void encode_again(const struct level *level, const struct layout *layout,
                         const uint8_t *frame, const uint8_t *base, size_t n)
{
    struct coded coded = {0};
    if (encode_frame(level, layout, frame, base, n, &coded) != DONE)
        return;
    const size_t size = coded_size(&coded), bytes = n * layout->itemsize;
    uint8_t *stored = malloc(size), *out = malloc(bytes);
    if (!stored || !out)
        abort();
    take_frame(&coded, stored);
    drop_frame(&coded);
    if (decode_frame(level, layout, stored, size, base, out, n) != DONE ||
        memcmp(out, frame, bytes))
        abort();
    free(stored);
    free(out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < HEAD)
        return 0;
    static const uint8_t shifts[4][2] = {{3, 15}, {7, 255}, {23, 255}, {52, 255}};
    const unsigned log = data[0] & 3, itemsize = 1u << log;
    const size_t n = 1 + (data[1] | (size_t)data[2] << 8) % MOST;
    struct layout layout = {.itemsize = itemsize};
    if (data[3] & 1) {
        layout.exponent_shift = shifts[log][0];
        layout.exponent_mask = log == 3 ? 2047 : shifts[log][1];
    }
    layout.columns = data[3] & 2 ? 1 + data[4] * (size_t)(1 + data[5]) : 0;
    layout.with_rows = layout.columns && data[3] & 4;
    layout.first = layout.columns ? data[6] * (size_t)data[7] : 0;
    int8_t *terms = NULL;
    if (layout.columns && data[3] & 8) {
        terms = malloc(layout.columns);
        if (!terms)
            abort();
        for (size_t i = 0; i < layout.columns; i++)
            terms[i] = (i * data[8]) % 17 == 16 ? UNCHANGED : (int8_t)((i * data[9] >> 3) % 16);
        layout.column_terms = terms;
    }
    uint8_t *base = malloc(n * itemsize);
    if (!base)
        abort();
    uint32_t state = data[10] | (uint32_t)data[11] << 8;
    for (size_t i = 0; i < n * itemsize; i++) {
        state = state * 1664525 + 1013904223;
        base[i] = i % itemsize == itemsize - 1 ? 0x3c + (state >> 29) : (uint8_t)(state >> 24);
    }

    uint8_t *stored = exactly(data + HEAD, size - HEAD), *first = NULL;
    enum outcome said = DONE;
    for (unsigned i = 0; i < sizeof levels / sizeof *levels; i++) {
        if (!levels[i]->supported())
            continue;
        uint8_t *out = malloc(n * itemsize);
        if (!out)
            abort();
        const enum outcome outcome =
            decode_frame(levels[i], &layout, stored, size - HEAD, base, out, n);
        if (outcome == DONE)
            encode_again(levels[i], &layout, out, base, n);
        if (first && (outcome != said || (said == DONE && memcmp(first, out, n * itemsize))))
            abort();
        said = outcome;
        free(first);
        first = out;
    }
    free(first);
    free(stored);
    free(base);
    free(terms);
    return 0;
}
