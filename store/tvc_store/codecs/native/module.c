/* The Python module tvc_store.codecs._coding: checked buffers in, bytes out, the GIL released in
 * between. What the arguments mean is said in native.py, beside this folder.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "coding.h"

#include <stdlib.h>

enum { MAX_FRAME = 1 << 26 };

static const struct level *const levels[] = {&level_avx512, &level_avx2, &level_plain};
enum { LEVELS = sizeof levels / sizeof *levels };
static const struct level *chosen;

/* The arguments that both directions share. */
struct arguments {
    Py_buffer data, base, columns;
    unsigned itemsize, shift, mask;
    Py_ssize_t width, first;
    int with_rows;
};

static bool is_sound(const struct arguments *given, Py_ssize_t size)
{
    const bool right = (given->itemsize == 1 || given->itemsize == 2 || given->itemsize == 4 ||
                        given->itemsize == 8) &&
                       size > 0 && size <= MAX_FRAME && size % given->itemsize == 0 &&
                       given->base.len == size && given->shift < 8 * given->itemsize &&
                       given->mask < 2048 && given->width >= 0 && given->first >= 0 &&
                       (given->width || (!given->with_rows && !given->columns.len)) &&
                       (!given->columns.len || given->columns.len == given->width);
    if (!right)
        return false;
    for (Py_ssize_t i = 0; i < given->columns.len; i++) {
        const int term = ((const int8_t *)given->columns.buf)[i];
        if (term != UNCHANGED && (term < 0 || term > 15))
            return false;
    }
    return true;
}

static struct layout layout_of(const struct arguments *given)
{
    return (struct layout){
        .itemsize = given->itemsize,
        .exponent_shift = given->shift,
        .exponent_mask = given->mask,
        .columns = (size_t)given->width,
        .column_terms = given->columns.len ? given->columns.buf : NULL,
        .with_rows = given->with_rows,
        .first = (size_t)given->first,
    };
}

static void release(struct arguments *given)
{
    PyBuffer_Release(&given->data);
    PyBuffer_Release(&given->base);
    PyBuffer_Release(&given->columns);
}

static PyObject *encode(PyObject *module, PyObject *args)
{
    (void)module;
    struct arguments given;
    if (!PyArg_ParseTuple(args, "y*y*IIIny*pn", &given.data, &given.base, &given.itemsize,
                          &given.shift, &given.mask, &given.width, &given.columns,
                          &given.with_rows, &given.first))
        return NULL;
    PyObject *result = NULL;
    if (!is_sound(&given, given.data.len)) {
        PyErr_SetString(PyExc_ValueError, "not a frame and its base");
    } else {
        const struct layout layout = layout_of(&given);
        const size_t n = (size_t)given.data.len / given.itemsize;
        struct coded coded = {0};
        enum outcome outcome;
        Py_BEGIN_ALLOW_THREADS
        outcome = encode_frame(chosen, &layout, given.data.buf, given.base.buf, n, &coded);
        Py_END_ALLOW_THREADS
        if (outcome == NO_MEMORY) {
            PyErr_NoMemory();
        } else if (outcome == NOT_WORTH) {
            result = Py_NewRef(Py_None);
        } else {
            result = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)coded_size(&coded));
            if (result)
                take_frame(&coded, (uint8_t *)PyBytes_AsString(result));
            drop_frame(&coded);
        }
    }
    release(&given);
    return result;
}

static PyObject *decode(PyObject *module, PyObject *args)
{
    (void)module;
    struct arguments given;
    Py_buffer out;
    if (!PyArg_ParseTuple(args, "y*w*y*IIIny*pn", &given.data, &out, &given.base, &given.itemsize,
                          &given.shift, &given.mask, &given.width, &given.columns,
                          &given.with_rows, &given.first))
        return NULL;
    PyObject *result = NULL;
    if (!is_sound(&given, out.len)) {
        PyErr_SetString(PyExc_ValueError, "not a frame's place and its base");
    } else {
        const struct layout layout = layout_of(&given);
        const size_t n = (size_t)out.len / given.itemsize;
        enum outcome outcome;
        Py_BEGIN_ALLOW_THREADS
        outcome = decode_frame(chosen, &layout, given.data.buf, (size_t)given.data.len,
                               given.base.buf, out.buf, n);
        Py_END_ALLOW_THREADS
        if (outcome == NO_MEMORY)
            PyErr_NoMemory();
        else
            result = Py_NewRef(outcome == DONE ? Py_True : Py_False);
    }
    release(&given);
    PyBuffer_Release(&out);
    return result;
}

static PyObject *expected(PyObject *module, PyObject *args)
{
    (void)module;
    Py_buffer base, out, left, right;
    Py_ssize_t pairs, columns, first;
    int exponent;
    if (!PyArg_ParseTuple(args, "y*w*y*y*nnin", &base, &out, &left, &right, &pairs, &columns,
                          &exponent, &first))
        return NULL;
    const Py_ssize_t n = base.len / 2;
    const bool is_sound = n > 0 && base.len == 2 * n && out.len == base.len && pairs > 0 &&
                          pairs <= 64 && columns > 0 && columns <= 1 << 26 && first >= 0 &&
                          right.len == 4 * pairs * columns && left.len % (4 * pairs) == 0 &&
                          (first + n - 1) / columns < left.len / (4 * pairs) &&
                          exponent >= -126 && exponent < 127;
    if (is_sound) {
        const uint32_t bits = (uint32_t)(exponent + 127) << 23;
        struct factors factors = {left.buf, right.buf, (size_t)(left.len / (4 * pairs)),
                                  (size_t)columns, (size_t)pairs, 0};
        memcpy(&factors.scale, &bits, sizeof bits);
        Py_BEGIN_ALLOW_THREADS
        expect(chosen, &factors, base.buf, (size_t)first, (size_t)n, out.buf);
        Py_END_ALLOW_THREADS
    } else {
        PyErr_SetString(PyExc_ValueError, "not a frame and factors of its matrix");
    }
    PyBuffer_Release(&base);
    PyBuffer_Release(&out);
    PyBuffer_Release(&left);
    PyBuffer_Release(&right);
    return is_sound ? Py_NewRef(Py_None) : NULL;
}

static PyObject *column_sizes(PyObject *module, PyObject *args)
{
    (void)module;
    struct arguments given = {.with_rows = 1};
    if (!PyArg_ParseTuple(args, "y*y*IIIn", &given.data, &given.base, &given.itemsize,
                          &given.shift, &given.mask, &given.width))
        return NULL;
    PyObject *result = NULL;
    if (!is_sound(&given, given.data.len) ||
        given.data.len % ((Py_ssize_t)given.itemsize * given.width)) {
        PyErr_SetString(PyExc_ValueError, "not rows and their base");
    } else {
        const struct layout layout = layout_of(&given);
        const size_t n = (size_t)given.data.len / given.itemsize;
        uint64_t *sums = calloc(layout.columns, sizeof *sums);
        enum outcome outcome = NO_MEMORY;
        if (sums) {
            Py_BEGIN_ALLOW_THREADS
            outcome = measure_columns(&layout, given.data.buf, given.base.buf, n, sums);
            Py_END_ALLOW_THREADS
        }
        result = outcome == DONE
                     ? PyBytes_FromStringAndSize((const char *)sums,
                                                 given.width * (Py_ssize_t)sizeof *sums)
                     : PyErr_NoMemory();
        free(sums);
    }
    release(&given);
    return result;
}

static PyObject *supported(PyObject *module, PyObject *none)
{
    (void)module, (void)none;
    PyObject *names = PyList_New(0);
    for (unsigned i = 0; names && i < LEVELS; i++) {
        if (!levels[i]->supported())
            continue;
        PyObject *name = PyUnicode_FromString(levels[i]->name);
        if (!name || PyList_Append(names, name))
            Py_CLEAR(names);
        Py_XDECREF(name);
    }
    return names;
}

static PyObject *in_use(PyObject *module, PyObject *none)
{
    (void)module, (void)none;
    return PyUnicode_FromString(chosen->name);
}

static PyObject *use(PyObject *module, PyObject *args)
{
    (void)module;
    const char *name;
    if (!PyArg_ParseTuple(args, "s", &name))
        return NULL;
    for (unsigned i = 0; i < LEVELS; i++)
        if (!strcmp(name, levels[i]->name) && levels[i]->supported()) {
            chosen = levels[i];
            Py_RETURN_NONE;
        }
    return PyErr_Format(PyExc_ValueError, "this processor has no %s", name);
}

static PyMethodDef methods[] = {
    {"encode", encode, METH_VARARGS, NULL},
    {"decode", decode, METH_VARARGS, NULL},
    {"column_sizes", column_sizes, METH_VARARGS, NULL},
    {"expected", expected, METH_VARARGS, NULL},
    {"supported", supported, METH_NOARGS, NULL},
    {"in_use", in_use, METH_NOARGS, NULL},
    {"use", use, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static int prepare(PyObject *module)
{
    (void)module;
    for (unsigned i = 0; !chosen; i++)
        if (levels[i]->supported())
            chosen = levels[i];
    return 0;
}

static PyModuleDef_Slot slots[] = {{Py_mod_exec, (void *)prepare}, {0, NULL}};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "tvc_store.codecs._coding", NULL, 0, methods, slots, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__coding(void)
{
    return PyModuleDef_Init(&definition);
}
