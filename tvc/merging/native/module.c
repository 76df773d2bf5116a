/* The Python module tvc.merging._fused: checks buffers, releases the interpreter, runs loops.
 *
 * Every function takes contiguous buffers and checks every length against every other; what it is
 * given otherwise is a ValueError, not a read outside of memory. Names of types and options are
 * numbers here; tvc/merging/kernels.py gives them names.
 */

#include <Python.h>

#include "levels.h"

#include <stdlib.h>
#include <string.h>

static const struct loops *active;

enum { MAX_MEMBERS = 4096 };

static size_t width_of(int kind)
{
    return kind == SINGLE ? 4 : 2;
}

/* A contiguous buffer of a number of bytes; 0 and an exception where it is another. */
static int take(PyObject *object, Py_buffer *view, int writable, Py_ssize_t nbytes)
{
    if (PyObject_GetBuffer(object, view, writable ? PyBUF_WRITABLE : PyBUF_SIMPLE) < 0)
        return 0;
    if (nbytes >= 0 && view->len != nbytes) {
        PyErr_Format(PyExc_ValueError, "a buffer of %zd bytes, where %zd are needed", view->len,
                     nbytes);
        PyBuffer_Release(view);
        return 0;
    }
    return 1;
}

static int known_kind(int kind)
{
    if (kind >= BRAIN && kind <= SINGLE)
        return 1;
    PyErr_SetString(PyExc_ValueError, "unknown element type");
    return 0;
}

static PyObject *py_levels(PyObject *self, PyObject *unused)
{
    (void)self, (void)unused;
    PyObject *names = PyList_New(0);
    for (const struct loops *const *each = levels(); names && *each; each++) {
        PyObject *name = PyUnicode_FromString((*each)->name);
        if (!name || PyList_Append(names, name) < 0)
            Py_CLEAR(names);
        Py_XDECREF(name);
    }
    return names;
}

static PyObject *py_use(PyObject *self, PyObject *args)
{
    (void)self;
    const char *wanted;
    if (!PyArg_ParseTuple(args, "s", &wanted))
        return NULL;
    for (const struct loops *const *each = levels(); *each; each++)
        if (!strcmp((*each)->name, wanted)) {
            active = *each;
            Py_RETURN_NONE;
        }
    return PyErr_Format(PyExc_ValueError, "this processor has no %s", wanted);
}

/* convert(out, from, kind, narrowing): stored numbers to float32, or back. */
static PyObject *py_convert(PyObject *self, PyObject *args)
{
    (void)self;
    PyObject *out_object, *from_object;
    int kind, narrowing;
    Py_buffer out, from;
    if (!PyArg_ParseTuple(args, "OOip", &out_object, &from_object, &kind, &narrowing)
        || !known_kind(kind))
        return NULL;
    if (!take(from_object, &from, 0, -1))
        return NULL;
    size_t n = (size_t)from.len / (narrowing ? 4 : width_of(kind));
    if (!take(out_object, &out, 1, (Py_ssize_t)(n * (narrowing ? width_of(kind) : 4)))) {
        PyBuffer_Release(&from);
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS
    if (narrowing)
        active->narrow(out.buf, from.buf, n, kind);
    else
        active->widen(out.buf, from.buf, n, kind);
    Py_END_ALLOW_THREADS
    PyBuffer_Release(&out);
    PyBuffer_Release(&from);
    Py_RETURN_NONE;
}

/* subtract(out, left, right, kind): float32 difference of stored numbers. */
static PyObject *py_subtract(PyObject *self, PyObject *args)
{
    (void)self;
    PyObject *out_object, *left_object, *right_object;
    int kind;
    Py_buffer out, left, right;
    if (!PyArg_ParseTuple(args, "OOOi", &out_object, &left_object, &right_object, &kind)
        || !known_kind(kind))
        return NULL;
    if (!take(left_object, &left, 0, -1))
        return NULL;
    size_t n = (size_t)left.len / width_of(kind);
    PyObject *done = NULL;
    if (take(right_object, &right, 0, left.len)) {
        if (take(out_object, &out, 1, (Py_ssize_t)(4 * n))) {
            Py_BEGIN_ALLOW_THREADS
            active->subtract(out.buf, left.buf, right.buf, n, kind);
            Py_END_ALLOW_THREADS
            PyBuffer_Release(&out);
            done = Py_NewRef(Py_None);
        }
        PyBuffer_Release(&right);
    }
    PyBuffer_Release(&left);
    return done;
}

/* add_scaled(total, part, factor): total += part * factor, rounded twice; a factor of 1 adds. */
static PyObject *py_add_scaled(PyObject *self, PyObject *args)
{
    (void)self;
    PyObject *total_object, *part_object;
    double factor;
    Py_buffer total, part;
    if (!PyArg_ParseTuple(args, "OOd", &total_object, &part_object, &factor)
        || !take(part_object, &part, 0, -1))
        return NULL;
    PyObject *done = NULL;
    if (take(total_object, &total, 1, part.len)) {
        Py_BEGIN_ALLOW_THREADS
        if (factor == 1.0)
            active->add(total.buf, part.buf, (size_t)part.len / 4);
        else
            active->add_scaled(total.buf, part.buf, (size_t)part.len / 4, (float)factor);
        Py_END_ALLOW_THREADS
        PyBuffer_Release(&total);
        done = Py_NewRef(Py_None);
    }
    PyBuffer_Release(&part);
    return done;
}

/* product(out, up, down, rank, scale): float64 factors of a matrix, multiplied. */
static PyObject *py_product(PyObject *self, PyObject *args)
{
    (void)self;
    PyObject *out_object, *up_object, *down_object;
    Py_ssize_t rank;
    double scale;
    Py_buffer out, up, down;
    if (!PyArg_ParseTuple(args, "OOOnd", &out_object, &up_object, &down_object, &rank, &scale))
        return NULL;
    if (rank < 1 || rank > PY_SSIZE_T_MAX / 8)
        return PyErr_Format(PyExc_ValueError, "a product of rank %zd", rank);
    if (!take(up_object, &up, 0, -1))
        return NULL;
    PyObject *done = NULL;
    if (take(down_object, &down, 0, -1)) {
        Py_ssize_t rows = up.len / 8 / rank, columns = down.len / 8 / rank;
        if (up.len != rows * rank * 8 || down.len != columns * rank * 8
            || (rows && columns > PY_SSIZE_T_MAX / 8 / rows)) {
            PyErr_SetString(PyExc_ValueError, "factors that do not have this rank");
        } else if (take(out_object, &out, 1, rows * columns * 8)) {
            Py_BEGIN_ALLOW_THREADS
            active->product(out.buf, up.buf, down.buf, (size_t)rows, (size_t)rank,
                            (size_t)columns, scale);
            Py_END_ALLOW_THREADS
            PyBuffer_Release(&out);
            done = Py_NewRef(Py_None);
        }
        PyBuffer_Release(&down);
    }
    PyBuffer_Release(&up);
    return done;
}

static PyObject *py_dot(PyObject *self, PyObject *args)
{
    (void)self;
    PyObject *left_object, *right_object;
    double total;
    Py_buffer left, right;
    if (!PyArg_ParseTuple(args, "OOd", &left_object, &right_object, &total)
        || !take(left_object, &left, 0, -1))
        return NULL;
    PyObject *done = NULL;
    if (take(right_object, &right, 0, left.len)) {
        Py_BEGIN_ALLOW_THREADS
        total = active->dot(left.buf, right.buf, (size_t)left.len / 4, total);
        Py_END_ALLOW_THREADS
        PyBuffer_Release(&right);
        done = PyFloat_FromDouble(total);
    }
    PyBuffer_Release(&left);
    return done;
}

/* count_high(table, values): adds to 32768 int64 counts. */
static PyObject *py_count_high(PyObject *self, PyObject *args)
{
    (void)self;
    PyObject *table_object, *values_object;
    Py_buffer table, values;
    if (!PyArg_ParseTuple(args, "OO", &table_object, &values_object)
        || !take(values_object, &values, 0, -1))
        return NULL;
    PyObject *done = NULL;
    uint32_t *scratch = malloc(4 * BINS * sizeof *scratch);
    if (!scratch) {
        PyErr_NoMemory();
    } else if (take(table_object, &table, 1, BINS * 8)) {
        Py_BEGIN_ALLOW_THREADS
        active->count_high(table.buf, scratch, values.buf, (size_t)values.len / 4);
        Py_END_ALLOW_THREADS
        PyBuffer_Release(&table);
        done = Py_NewRef(Py_None);
    }
    free(scratch);
    PyBuffer_Release(&values);
    return done;
}

/* collect(found, values, lower, upper) -> (inside, above): patterns of magnitudes within bounds.
 * Where more are inside than there is room for, nothing more is collected, but all are counted. */
static PyObject *py_collect(PyObject *self, PyObject *args)
{
    (void)self;
    PyObject *found_object, *values_object;
    unsigned int lower, upper;
    Py_buffer found, values;
    if (!PyArg_ParseTuple(args, "OOII", &found_object, &values_object, &lower, &upper)
        || !take(values_object, &values, 0, -1))
        return NULL;
    PyObject *done = NULL;
    if (take(found_object, &found, 1, -1)) {
        size_t above = 0, inside = 0;
        Py_BEGIN_ALLOW_THREADS
        inside = active->collect(found.buf, (size_t)found.len / 4, values.buf,
                                 (size_t)values.len / 4, lower, upper, &above);
        Py_END_ALLOW_THREADS
        PyBuffer_Release(&found);
        done = Py_BuildValue("nn", (Py_ssize_t)inside, (Py_ssize_t)above);
    }
    PyBuffer_Release(&values);
    return done;
}

/* Several buffers of one length, and where a tile of each begins. */
struct members {
    Py_ssize_t count, taken;
    Py_buffer *views;
    const float **tiles;
};

static void release_members(struct members *members)
{
    while (members->taken > 0)
        PyBuffer_Release(&members->views[--members->taken]);
    free(members->views);
    free(members->tiles);
}

/* 0 and an exception where they are not buffers of `nbytes`; release them either way. */
static int take_members(PyObject *list, struct members *members, Py_ssize_t nbytes)
{
    members->taken = 0;
    members->count = PyList_Size(list);
    members->views = NULL;
    members->tiles = NULL;
    if (members->count < 1 || members->count > MAX_MEMBERS) {
        PyErr_Format(PyExc_ValueError, "%zd members", members->count);
        return 0;
    }
    members->views = calloc((size_t)members->count, sizeof *members->views);
    members->tiles = calloc((size_t)members->count, sizeof *members->tiles);
    if (!members->views || !members->tiles) {
        PyErr_NoMemory();
        return 0;
    }
    for (; members->taken < members->count; members->taken++)
        if (!take(PyList_GetItem(list, members->taken), &members->views[members->taken], 0, nbytes))
            return 0;
    return 1;
}

static const float *const *tiles_at(struct members *members, size_t start)
{
    for (Py_ssize_t m = 0; m < members->count; m++)
        members->tiles[m] = (const float *)members->views[m].buf + start;
    return members->tiles;
}

/* elect(out, members, numbers, vote, zero_positive, divide, by_weights)
 * numbers: float32 (4, k): lower bounds, upper bounds, votes, weights. */
static PyObject *py_elect(PyObject *self, PyObject *args)
{
    (void)self;
    PyObject *out_object, *list, *numbers_object;
    struct election how;
    struct members members;
    Py_buffer out, numbers;
    if (!PyArg_ParseTuple(args, "OO!Oippp", &out_object, &PyList_Type, &list, &numbers_object,
                          &how.vote, &how.zero_positive, &how.divide, &how.by_weights))
        return NULL;
    if (how.vote < NO_VOTE || how.vote > BY_COUNT)
        return PyErr_Format(PyExc_ValueError, "vote %d", how.vote);
    if (!take(out_object, &out, 1, -1))
        return NULL;
    PyObject *done = NULL;
    if (take_members(list, &members, out.len)
        && take(numbers_object, &numbers, 0, 16 * members.count)) {
        const float *each = numbers.buf;
        size_t n = (size_t)out.len / 4;
        how.count = (size_t)members.count;
        how.lower = each;
        how.upper = each + how.count;
        how.votes = each + 2 * how.count;
        how.weights = each + 3 * how.count;
        Py_BEGIN_ALLOW_THREADS
        for (size_t start = 0; start < n; start += TILE)
            active->elect((float *)out.buf + start, tiles_at(&members, start),
                          n - start < TILE ? n - start : TILE, &how);
        Py_END_ALLOW_THREADS
        PyBuffer_Release(&numbers);
        done = Py_NewRef(Py_None);
    }
    release_members(&members);
    PyBuffer_Release(&out);
    return done;
}

/* spread(out, members): the sum of squared distances from the mean. */
static PyObject *py_spread(PyObject *self, PyObject *args)
{
    (void)self;
    PyObject *out_object, *list;
    struct members members;
    Py_buffer out;
    if (!PyArg_ParseTuple(args, "OO!", &out_object, &PyList_Type, &list)
        || !take(out_object, &out, 1, -1))
        return NULL;
    PyObject *done = NULL;
    if (take_members(list, &members, out.len)) {
        size_t n = (size_t)out.len / 4;
        Py_BEGIN_ALLOW_THREADS
        for (size_t start = 0; start < n; start += TILE)
            active->spread((float *)out.buf + start, tiles_at(&members, start),
                           (size_t)members.count, n - start < TILE ? n - start : TILE);
        Py_END_ALLOW_THREADS
        done = Py_NewRef(Py_None);
    }
    release_members(&members);
    PyBuffer_Release(&out);
    return done;
}

/* bound(out, values, sizes, lower, upper) */
static PyObject *py_bound(PyObject *self, PyObject *args)
{
    (void)self;
    PyObject *objects[3];
    Py_buffer views[3];
    double lower, upper;
    int taken = 0;
    if (!PyArg_ParseTuple(args, "OOOdd", &objects[0], &objects[1], &objects[2], &lower, &upper))
        return NULL;
    for (; taken < 3; taken++)
        if (!take(objects[taken], &views[taken], taken == 0, taken ? views[0].len : -1))
            break;
    PyObject *done = NULL;
    if (taken == 3) {
        Py_BEGIN_ALLOW_THREADS
        active->bound(views[0].buf, views[1].buf, views[2].buf, (size_t)views[0].len / 4,
                      (float)lower, (float)upper);
        Py_END_ALLOW_THREADS
        done = Py_NewRef(Py_None);
    }
    while (taken > 0)
        PyBuffer_Release(&views[--taken]);
    return done;
}

/* drop(out, values, draws, chances, divide) */
static PyObject *py_drop(PyObject *self, PyObject *args)
{
    (void)self;
    PyObject *objects[4];
    Py_buffer views[4];
    int divide, taken = 0;
    if (!PyArg_ParseTuple(args, "OOOOp", &objects[0], &objects[1], &objects[2], &objects[3],
                          &divide))
        return NULL;
    for (; taken < 4; taken++)
        if (!take(objects[taken], &views[taken], taken == 0, taken ? views[0].len : -1))
            break;
    PyObject *done = NULL;
    if (taken == 4) {
        Py_BEGIN_ALLOW_THREADS
        active->drop(views[0].buf, views[1].buf, views[2].buf, views[3].buf,
                     (size_t)views[0].len / 4, divide);
        Py_END_ALLOW_THREADS
        done = Py_NewRef(Py_None);
    }
    while (taken > 0)
        PyBuffer_Release(&views[--taken]);
    return done;
}

/* uniforms(out, key, first): draws from a step of the counter on. */
static PyObject *py_uniforms(PyObject *self, PyObject *args)
{
    (void)self;
    PyObject *out_object;
    unsigned long long key, first;
    Py_buffer out;
    if (!PyArg_ParseTuple(args, "OKK", &out_object, &key, &first)
        || !take(out_object, &out, 1, -1))
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    active->uniforms(out.buf, (size_t)out.len / 4, key, first);
    Py_END_ALLOW_THREADS
    PyBuffer_Release(&out);
    Py_RETURN_NONE;
}

/* The places of a row's elements by rising magnitude; equal ones stay in order. Digits of 11 bits,
 * least first; NaN is one magnitude, above infinity. */
static void order_row(uint32_t *order, const float *from, size_t n, uint32_t *keys, uint32_t *other,
                      uint32_t *places)
{
    enum { DIGITS = 3, DIGIT = 11, SIZE = 1 << DIGIT };
    uint32_t counts[DIGITS][SIZE];
    memset(counts, 0, sizeof counts);
    for (size_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, from + i, sizeof bits);
        bits &= 0x7FFFFFFFu;
        keys[i] = bits = bits > 0x7F800000u ? 0x7F800001u : bits;
        order[i] = (uint32_t)i;
        for (int digit = 0; digit < DIGITS; digit++)
            counts[digit][(bits >> (DIGIT * digit)) & (SIZE - 1)]++;
    }
    uint32_t *from_keys = keys, *to_keys = other, *from_order = order, *to_order = places;
    for (int digit = 0; digit < DIGITS; digit++) {
        uint32_t *count = counts[digit], before = 0;
        if (n && count[(from_keys[0] >> (DIGIT * digit)) & (SIZE - 1)] == n)
            continue;
        for (size_t bucket = 0; bucket < SIZE; bucket++) {
            uint32_t here = count[bucket];
            count[bucket] = before;
            before += here;
        }
        for (size_t i = 0; i < n; i++) {
            uint32_t at = count[(from_keys[i] >> (DIGIT * digit)) & (SIZE - 1)]++;
            to_keys[at] = from_keys[i];
            to_order[at] = from_order[i];
        }
        uint32_t *swap = from_keys;
        from_keys = to_keys;
        to_keys = swap;
        swap = from_order;
        from_order = to_order;
        to_order = swap;
    }
    if (from_order != order)
        memcpy(order, from_order, n * sizeof *order);
}

/* row_order(out, values, columns): for each row the places of its elements by rising magnitude. */
static PyObject *py_row_order(PyObject *self, PyObject *args)
{
    (void)self;
    PyObject *out_object, *values_object;
    Py_ssize_t columns;
    Py_buffer out, values;
    if (!PyArg_ParseTuple(args, "OOn", &out_object, &values_object, &columns))
        return NULL;
    if (columns < 1 || columns > UINT32_MAX)
        return PyErr_Format(PyExc_ValueError, "rows of %zd", columns);
    if (!take(values_object, &values, 0, -1))
        return NULL;
    PyObject *done = NULL;
    uint32_t *room = malloc(3 * (size_t)columns * sizeof *room);
    if (!room) {
        PyErr_NoMemory();
    } else if (values.len / 4 % columns) {
        PyErr_SetString(PyExc_ValueError, "values that are not whole rows");
    } else if (take(out_object, &out, 1, values.len)) {
        size_t n = (size_t)values.len / 4, width = (size_t)columns;
        Py_BEGIN_ALLOW_THREADS
        for (size_t start = 0; start < n; start += width)
            order_row((uint32_t *)out.buf + start, (const float *)values.buf + start, width, room,
                      room + width, room + 2 * width);
        Py_END_ALLOW_THREADS
        PyBuffer_Release(&out);
        done = Py_NewRef(Py_None);
    }
    free(room);
    PyBuffer_Release(&values);
    return done;
}

static PyMethodDef methods[] = {
    {"levels", py_levels, METH_NOARGS, "Names of the levels this processor has, best first."},
    {"use", py_use, METH_VARARGS, "Use the level of a name."},
    {"convert", py_convert, METH_VARARGS, "Widen stored numbers to float32, or narrow them."},
    {"subtract", py_subtract, METH_VARARGS, "Subtract stored numbers in float32."},
    {"add_scaled", py_add_scaled, METH_VARARGS, "Add a multiple to a float32 total."},
    {"product", py_product, METH_VARARGS, "Multiply the factors of a matrix."},
    {"dot", py_dot, METH_VARARGS, "Add a sum of products to a float64 total."},
    {"count_high", py_count_high, METH_VARARGS, "Count magnitudes by high bits."},
    {"collect", py_collect, METH_VARARGS, "Collect magnitudes within bounds."},
    {"spread", py_spread, METH_VARARGS, "Sum squared distances from the mean of members."},
    {"bound", py_bound, METH_VARARGS, "Drop what lies outside of bounds."},
    {"drop", py_drop, METH_VARARGS, "Drop what is drawn."},
    {"uniforms", py_uniforms, METH_VARARGS, "Draw uniform numbers."},
    {"row_order", py_row_order, METH_VARARGS, "Order the rows of a matrix by magnitude."},
    {"elect", py_elect, METH_VARARGS, "Bound, elect signs and merge."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_fused", "Loops of merges; see tvc/merging/kernels.py.", -1, methods,
    NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__fused(void)
{
    active = levels()[0];
    return PyModule_Create(&definition);
}
