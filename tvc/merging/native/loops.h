/* The loops over elements, compiled once for each level of vector instructions.
 *
 * Included by loops.c with LEVEL(name) and TARGET defined. Every loop is written so that each
 * element is computed by the same operations in the same order, whatever the width of the vectors:
 * no fused multiply-add, no reordered sums. So all levels give the same bytes, and so does NumPy.
 *
 * A NaN that comes out of arithmetic is stored as the canonical quiet one: which payload survives
 * an addition depends on the order of the operands, which compilers may exchange.
 */

static inline TARGET float LEVEL(bits_to_float)(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline TARGET uint32_t LEVEL(float_to_bits)(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

/* binary16 to binary32, exact: normal numbers by moving the exponent, subnormal ones by a product. */
static inline TARGET float LEVEL(from_half)(uint16_t half)
{
    uint32_t sign = (uint32_t)(half & 0x8000u) << 16;
    uint32_t rest = (uint32_t)(half & 0x7FFFu) << 13;
    uint32_t normal = rest + (112u << 23);
    uint32_t special = rest | 0x7F800000u;
    uint32_t small = LEVEL(float_to_bits)((float)(int32_t)(half & 0x3FFu) * 0x1p-24f);
    uint32_t bits = rest >= 0x0F800000u ? special : rest < 0x00800000u ? small : normal;
    return LEVEL(bits_to_float)(bits | sign);
}

/* binary32 to binary16, to nearest, ties to even. */
static inline TARGET uint16_t LEVEL(to_half)(float value)
{
    uint32_t bits = LEVEL(float_to_bits)(value);
    uint32_t sign = (bits >> 16) & 0x8000u;
    uint32_t rest = bits & 0x7FFFFFFFu;
    /* Adding a half to a tiny number leaves its rounded multiples of 2^-24 in the low bits. */
    uint32_t small = LEVEL(float_to_bits)(LEVEL(bits_to_float)(rest) + 0.5f) - 0x3F000000u;
    uint32_t normal = (rest - (112u << 23) + 0xFFFu + ((rest >> 13) & 1u)) >> 13;
    uint32_t found = rest < 0x38800000u ? small : normal;
    found = rest >= 0x477FF000u ? 0x7C00u : found;
    found = rest > 0x7F800000u ? 0x7E00u : found;
    return (uint16_t)(rest > 0x7F800000u ? 0x7E00u : (found | sign));
}

/* binary32 to bfloat16, to nearest, ties to even. */
static inline TARGET uint16_t LEVEL(to_brain)(float value)
{
    uint32_t bits = LEVEL(float_to_bits)(value);
    uint32_t rounded = (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16;
    return (uint16_t)((bits & 0x7FFFFFFFu) > 0x7F800000u ? 0x7FC0u : rounded);
}

static TARGET void LEVEL(widen)(float *restrict out, const void *restrict raw, size_t n, int kind)
{
    if (kind == BRAIN) {
        const uint16_t *from = raw;
        for (size_t i = 0; i < n; i++)
            out[i] = LEVEL(bits_to_float)((uint32_t)from[i] << 16);
    } else if (kind == HALF) {
        const uint16_t *from = raw;
        for (size_t i = 0; i < n; i++)
            out[i] = LEVEL(from_half)(from[i]);
    } else {
        memcpy(out, raw, n * sizeof *out);
    }
}

static TARGET void LEVEL(narrow)(void *restrict raw, const float *restrict from, size_t n, int kind)
{
    if (kind == BRAIN) {
        uint16_t *out = raw;
        for (size_t i = 0; i < n; i++)
            out[i] = LEVEL(to_brain)(from[i]);
    } else if (kind == HALF) {
        uint16_t *out = raw;
        for (size_t i = 0; i < n; i++)
            out[i] = LEVEL(to_half)(from[i]);
    } else {
        uint32_t *out = raw;
        for (size_t i = 0; i < n; i++) {
            uint32_t bits = LEVEL(float_to_bits)(from[i]);
            out[i] = (bits & 0x7FFFFFFFu) > 0x7F800000u ? 0x7FC00000u : bits;
        }
    }
}

static TARGET void LEVEL(subtract)(float *restrict out, const void *restrict left,
                                   const void *restrict right, size_t n, int kind)
{
    if (kind == BRAIN) {
        const uint16_t *a = left, *b = right;
        for (size_t i = 0; i < n; i++)
            out[i] = LEVEL(bits_to_float)((uint32_t)a[i] << 16)
                     - LEVEL(bits_to_float)((uint32_t)b[i] << 16);
    } else if (kind == HALF) {
        const uint16_t *a = left, *b = right;
        for (size_t i = 0; i < n; i++)
            out[i] = LEVEL(from_half)(a[i]) - LEVEL(from_half)(b[i]);
    } else {
        const float *a = left, *b = right;
        for (size_t i = 0; i < n; i++)
            out[i] = a[i] - b[i];
    }
}

static TARGET void LEVEL(add_scaled)(float *restrict total, const float *restrict part, size_t n,
                                     float factor)
{
    for (size_t i = 0; i < n; i++) {
        float product = part[i] * factor;
        total[i] = total[i] + product;
    }
}

static TARGET void LEVEL(add)(float *restrict total, const float *restrict part, size_t n)
{
    for (size_t i = 0; i < n; i++)
        total[i] = total[i] + part[i];
}

static TARGET void LEVEL(elect)(float *restrict out, const float *const *members, size_t n,
                                const struct election *how)
{
    float tally[TILE], divisor[TILE];
    for (size_t i = 0; i < n; i++)
        tally[i] = 0.0f;
    if (how->vote != NO_VOTE) {
        for (size_t m = 0; m < how->count; m++) {
            const float *restrict from = members[m];
            float lower = how->lower[m], upper = how->upper[m], weight = how->votes[m];
            if (how->vote == BY_MASS) {
                for (size_t i = 0; i < n; i++) {
                    float size = fabsf(from[i]);
                    float kept = (size < lower) | (size > upper) ? 0.0f : from[i];
                    float vote = kept * weight;
                    tally[i] = tally[i] + vote;
                }
            } else {
                for (size_t i = 0; i < n; i++) {
                    float size = fabsf(from[i]);
                    float kept = (size < lower) | (size > upper) ? 0.0f : from[i];
                    float vote = kept * weight;
                    tally[i] = tally[i] + (vote > 0.0f ? 1.0f : vote < 0.0f ? -1.0f : 0.0f);
                }
            }
        }
    }
    /* What was tallied becomes the elected sign: 1, -1, or 0 where every non-zero one agrees. */
    if (how->vote == NO_VOTE) {
        for (size_t i = 0; i < n; i++)
            tally[i] = 0.0f;
    } else if (how->zero_positive) {
        for (size_t i = 0; i < n; i++)
            tally[i] = tally[i] >= 0.0f ? 1.0f : -1.0f;
    } else {
        for (size_t i = 0; i < n; i++)
            tally[i] = tally[i] > 0.0f ? 1.0f : -1.0f;
    }
    for (size_t i = 0; i < n; i++) {
        out[i] = 0.0f;
        divisor[i] = 0.0f;
    }
    for (size_t m = 0; m < how->count; m++) {
        const float *restrict from = members[m];
        float lower = how->lower[m], upper = how->upper[m];
        float vote_weight = how->votes[m], weight = how->weights[m];
        float share = how->by_weights ? weight : 1.0f;
        if (how->vote == NO_VOTE) {
            for (size_t i = 0; i < n; i++) {
                float size = fabsf(from[i]);
                float kept = (size < lower) | (size > upper) ? 0.0f : from[i];
                int agrees = (kept * vote_weight) != 0.0f;
                float value = kept * weight;
                out[i] = out[i] + (agrees ? value : 0.0f);
                divisor[i] = divisor[i] + (agrees ? share : 0.0f);
            }
        } else {
            for (size_t i = 0; i < n; i++) {
                float size = fabsf(from[i]);
                float kept = (size < lower) | (size > upper) ? 0.0f : from[i];
                /* NaN agrees with either sign, zero with none. */
                int agrees = !(kept * vote_weight * tally[i] <= 0.0f);
                float value = kept * weight;
                out[i] = out[i] + (agrees ? value : 0.0f);
                divisor[i] = divisor[i] + (agrees ? share : 0.0f);
            }
        }
    }
    if (how->divide) {
        for (size_t i = 0; i < n; i++)
            out[i] = out[i] / (divisor[i] == 0.0f ? 1.0f : divisor[i]);
    }
}

/* The sum over members of squared distances from their mean. */
static TARGET void LEVEL(spread)(float *restrict out, const float *const *members, size_t count,
                                 size_t n)
{
    float mean[TILE];
    for (size_t i = 0; i < n; i++)
        mean[i] = 0.0f;
    for (size_t m = 0; m < count; m++) {
        const float *restrict from = members[m];
        for (size_t i = 0; i < n; i++)
            mean[i] = mean[i] + from[i];
    }
    for (size_t i = 0; i < n; i++) {
        mean[i] = mean[i] / (float)count;
        out[i] = 0.0f;
    }
    for (size_t m = 0; m < count; m++) {
        const float *restrict from = members[m];
        for (size_t i = 0; i < n; i++) {
            float distance = from[i] - mean[i];
            float square = distance * distance;
            out[i] = out[i] + square;
        }
    }
}

/* Zero where a magnitude, of the element itself or of another, lies outside of bounds. */
static TARGET void LEVEL(bound)(float *restrict out, const float *from, const float *sizes,
                                size_t n, float lower, float upper)
{
    for (size_t i = 0; i < n; i++) {
        float size = fabsf(sizes[i]);
        out[i] = (size < lower) | (size > upper) ? 0.0f : from[i];
    }
}

/* Zero where the draw is not below the chance; what is left is divided by the chance if asked. */
static TARGET void LEVEL(drop)(float *restrict out, const float *restrict from,
                               const float *restrict draws, const float *restrict chances,
                               size_t n, int divide)
{
    if (divide) {
        for (size_t i = 0; i < n; i++) {
            float kept = draws[i] >= chances[i] ? 0.0f : from[i];
            out[i] = kept / (chances[i] == 0.0f ? 1.0f : chances[i]);
        }
    } else {
        for (size_t i = 0; i < n; i++)
            out[i] = draws[i] >= chances[i] ? 0.0f : from[i];
    }
}

/* Philox4x32-10 (Salmon et al., 2011, section 4): four draws for each step of the counter. */
static TARGET void LEVEL(uniforms)(float *restrict out, size_t n, uint64_t key, uint64_t first)
{
    for (size_t start = 0; start < n; start += 4 * STEPS, first += STEPS) {
        uint32_t a[STEPS], b[STEPS], c[STEPS], d[STEPS];
        float drawn[4 * STEPS];
        for (size_t lane = 0; lane < STEPS; lane++) {
            a[lane] = (uint32_t)(first + lane);
            b[lane] = (uint32_t)((first + lane) >> 32);
            c[lane] = 0;
            d[lane] = 0;
        }
        uint32_t low = (uint32_t)key, high = (uint32_t)(key >> 32);
        for (int round = 0; round < 10; round++) {
            for (size_t lane = 0; lane < STEPS; lane++) {
                uint64_t one = (uint64_t)0xD2511F53u * a[lane];
                uint64_t two = (uint64_t)0xCD9E8D57u * c[lane];
                uint32_t was = b[lane];
                a[lane] = (uint32_t)(two >> 32) ^ was ^ low;
                b[lane] = (uint32_t)two;
                c[lane] = (uint32_t)(one >> 32) ^ d[lane] ^ high;
                d[lane] = (uint32_t)one;
            }
            low += 0x9E3779B9u;
            high += 0xBB67AE85u;
        }
        for (size_t lane = 0; lane < STEPS; lane++) {
            drawn[4 * lane] = (float)(int32_t)(a[lane] >> 8) * 0x1p-24f;
            drawn[4 * lane + 1] = (float)(int32_t)(b[lane] >> 8) * 0x1p-24f;
            drawn[4 * lane + 2] = (float)(int32_t)(c[lane] >> 8) * 0x1p-24f;
            drawn[4 * lane + 3] = (float)(int32_t)(d[lane] >> 8) * 0x1p-24f;
        }
        size_t size = n - start < 4 * STEPS ? n - start : 4 * STEPS;
        memcpy(out + start, drawn, size * sizeof *drawn);
    }
}

/* out (rows, columns) = up (rows, rank) times down (rank, columns), times a scale: every element is
 * summed over the rank in order. */
static TARGET void LEVEL(product)(double *restrict out, const double *restrict up,
                                  const double *restrict down, size_t rows, size_t rank,
                                  size_t columns, double scale)
{
    for (size_t row = 0; row < rows; row++) {
        for (size_t start = 0; start < columns; start += TILE) {
            size_t n = columns - start < TILE ? columns - start : TILE;
            double *restrict to = out + row * columns + start;
            for (size_t i = 0; i < n; i++)
                to[i] = 0.0;
            for (size_t k = 0; k < rank; k++) {
                double factor = up[row * rank + k];
                const double *restrict from = down + k * columns + start;
                for (size_t i = 0; i < n; i++) {
                    double part = factor * from[i];
                    to[i] = to[i] + part;
                }
            }
            for (size_t i = 0; i < n; i++)
                to[i] = to[i] * scale;
        }
    }
}

/* Sum of products in pieces of PIECE elements, each over LANES running sums: the order is part of
 * the result, and the same for every width of vectors. */
static TARGET double LEVEL(dot)(const float *left, const float *right, size_t n, double total)
{
    for (size_t start = 0; start < n; start += PIECE) {
        size_t size = n - start < PIECE ? n - start : PIECE;
        const float *a = left + start, *b = right + start;
        double lanes[LANES] = {0};
        size_t whole = size / LANES * LANES;
        for (size_t i = 0; i < whole; i += LANES)
            for (size_t lane = 0; lane < LANES; lane++)
                lanes[lane] = lanes[lane] + (double)a[i + lane] * (double)b[i + lane];
        for (size_t i = whole; i < size; i++)
            lanes[i - whole] = lanes[i - whole] + (double)a[i] * (double)b[i];
        double sum = 0.0;
        for (size_t lane = 0; lane < LANES; lane++)
            sum = sum + lanes[lane];
        total = total + sum;
    }
    return total;
}

/* Counts magnitudes by the high 16 bits of their patterns. Four tables, as increments of one and
 * the same place would wait for each other. */
static TARGET void LEVEL(count_high)(int64_t *table, uint32_t *scratch, const float *from, size_t n)
{
    memset(scratch, 0, 4 * BINS * sizeof *scratch);
    size_t i = 0;
    for (; i + 4 <= n; i += 4)
        for (size_t lane = 0; lane < 4; lane++)
            scratch[lane * BINS + ((LEVEL(float_to_bits)(from[i + lane]) & 0x7FFFFFFFu) >> 16)]++;
    for (; i < n; i++)
        scratch[(LEVEL(float_to_bits)(from[i]) & 0x7FFFFFFFu) >> 16]++;
    for (size_t bin = 0; bin < BINS; bin++)
        table[bin] += (int64_t)scratch[bin] + scratch[BINS + bin] + scratch[2 * BINS + bin]
                      + scratch[3 * BINS + bin];
}

/* Collects the magnitudes within two bounds, as patterns, and counts those above. */
static TARGET size_t LEVEL(collect)(uint32_t *restrict found, size_t room, const float *from,
                                    size_t n, uint32_t lower, uint32_t upper, size_t *above)
{
    size_t inside = 0, larger = 0;
    uint32_t tile[TILE], kept[TILE + LANES];
    for (size_t start = 0; start < n; start += TILE) {
        size_t size = n - start < TILE ? n - start : TILE;
        uint32_t over = 0;
        for (size_t i = 0; i < size; i++) {
            tile[i] = LEVEL(float_to_bits)(from[start + i]) & 0x7FFFFFFFu;
            over += tile[i] > upper;
        }
        larger += over;
        size_t within = LEVEL(compress)(kept, tile, size, lower, upper);
        if (inside + within <= room)
            memcpy(found + inside, kept, within * sizeof *kept);
        inside += within;
    }
    *above = larger;
    return inside;
}
