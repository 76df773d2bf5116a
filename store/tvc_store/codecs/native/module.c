/* The Python module tvc_store.codecs._coding: buffers in, buffers out, no interpreter inside loops.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "tvc_store.codecs._coding", "Compiled coding of frames.", 0, NULL,
    NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__coding(void)
{
    return PyModuleDef_Init(&definition);
}
