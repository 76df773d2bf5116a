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

/* elect(out, members, bounds, vote, zero_positive, divide, by_weights)
 * bounds: float32 (4, k): lower, upper, votes, weights. */
static PyObject *py_elect(PyObject *self, PyObject *args)
{
    (void)self;
    PyObject *out_object, *members_object, *numbers_object;
    struct election how;
    Py_buffer out, numbers;
    if (!PyArg_ParseTuple(args, "OO!Oippp", &out_object, &PyList_Type, &members_object,
                          &numbers_object, &how.vote, &how.zero_positive, &how.divide,
                          &how.by_weights))
        return NULL;
    Py_ssize_t count = PyList_Size(members_object);
    if (count < 0 || count > MAX_MEMBERS || how.vote < NO_VOTE || how.vote > BY_COUNT)
        return PyErr_Format(PyExc_ValueError, "%zd members, vote %d", count, how.vote);
    if (!take(numbers_object, &numbers, 0, 4 * 4 * count))
        return NULL;
    PyObject *done = NULL;
    Py_ssize_t taken = 0;
    Py_buffer *views = calloc((size_t)count + 1, sizeof *views);
    const float **parts = calloc((size_t)count + 1, sizeof *parts);
    if (!views || !parts) {
        PyErr_NoMemory();
        goto end;
    }
    if (!take(out_object, &out, 1, -1))
        goto end;
    for (; taken < count; taken++)
        if (!take(PyList_GetItem(members_object, taken), &views[taken], 0, out.len))
            break;
    if (taken == count) {
        const float *each = numbers.buf;
        how.count = (size_t)count;
        how.lower = each;
        how.upper = each + count;
        how.votes = each + 2 * count;
        how.weights = each + 3 * count;
        size_t n = (size_t)out.len / 4;
        Py_BEGIN_ALLOW_THREADS
        for (size_t start = 0; start < n; start += TILE) {
            for (Py_ssize_t m = 0; m < count; m++)
                parts[m] = (const float *)views[m].buf + start;
            active->elect((float *)out.buf + start, parts, n - start < TILE ? n - start : TILE,
                          &how);
        }
        Py_END_ALLOW_THREADS
        done = Py_NewRef(Py_None);
    }
    PyBuffer_Release(&out);
end:
    while (taken > 0)
        PyBuffer_Release(&views[--taken]);
    free(views);
    free(parts);
    PyBuffer_Release(&numbers);
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
