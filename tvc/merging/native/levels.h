/* What the loops are called with, and the table that holds one level's loops. */

#ifndef TVC_LEVELS_H
#define TVC_LEVELS_H

#include <stddef.h>
#include <stdint.h>

enum { BRAIN = 0, HALF = 1, SINGLE = 2 };                 /* stored types */
enum { NO_VOTE = 0, BY_MASS = 1, BY_COUNT = 2 };          /* how signs are elected */
enum { TILE = 1024, PIECE = 16384, LANES = 16, STEPS = 64, BINS = 32768 };

struct election {
    size_t count;
    const float *lower, *upper, *votes, *weights;         /* one for each member */
    int vote, zero_positive, divide, by_weights;
};

struct loops {
    const char *name;
    void (*widen)(float *, const void *, size_t, int);
    void (*narrow)(void *, const float *, size_t, int);
    void (*subtract)(float *, const void *, const void *, size_t, int);
    void (*add_scaled)(float *, const float *, size_t, float);
    void (*add)(float *, const float *, size_t);
    void (*elect)(float *, const float *const *, size_t, const struct election *);
    void (*spread)(float *, const float *const *, size_t, size_t);
    void (*bound)(float *, const float *, const float *, size_t, float, float);
    void (*drop)(float *, const float *, const float *, const float *, size_t, int);
    void (*uniforms)(float *, size_t, uint64_t, uint64_t);
    void (*product)(double *, const double *, const double *, size_t, size_t, size_t, double);
    double (*dot)(const float *, const float *, size_t, double);
    void (*count_high)(int64_t *, uint32_t *, const float *, size_t);
    size_t (*collect)(uint32_t *, size_t, const float *, size_t, uint32_t, uint32_t, size_t *);
};

/* The levels that this processor has, best first; ended by NULL. */
const struct loops *const *levels(void);

#endif
