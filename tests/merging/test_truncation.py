"""Truncation: the nearest matrix of a rank, against a singular value decomposition."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tvc.merging.truncation import residual, spectrum, truncate

SHAPES = st.tuples(st.integers(1, 24), st.integers(1, 24))


def drawn(shape, seed, *, decay=0.0, dtype=np.float32):
    """A matrix whose singular values fall by a power of their number."""
    rows, columns = shape
    rng = np.random.default_rng(seed)
    rank = min(shape)
    left, _ = np.linalg.qr(rng.standard_normal((rows, rank)))
    right, _ = np.linalg.qr(rng.standard_normal((columns, rank)))
    sizes = np.arange(1, rank + 1) ** -decay
    return ((left * sizes) @ right.T).astype(dtype)


@given(shape=SHAPES, seed=st.integers(0, 99), decay=st.sampled_from([0.0, 1.0, 4.0]))
def test_what_is_kept_is_the_best_there_is(shape, seed, decay):
    matrix = drawn(shape, seed, decay=decay)
    squares = np.linalg.svd(matrix.astype(np.float64), compute_uv=False) ** 2
    np.testing.assert_allclose(spectrum(matrix), squares, rtol=0, atol=1e-13 * squares.sum())
    for rank in range(1, min(shape) + 1):
        factors = truncate(matrix, rank)
        assert factors.down.shape == (rank, shape[1])
        assert factors.up.shape == (shape[0], rank)
        assert factors.down.dtype == factors.up.dtype == np.float32
        left = np.square(matrix - factors.up.astype(np.float64) @ factors.down).sum()
        assert left <= squares[rank:].sum() + 1e-12 * squares.sum()
        assert residual(matrix, factors) == pytest.approx(left, rel=1e-9, abs=1e-18)


@given(shape=SHAPES, seed=st.integers(0, 99), decay=st.sampled_from([0.0, 1.0, 4.0]))
def test_factors_share_singular_values_equally(shape, seed, decay):
    factors = truncate(drawn(shape, seed, decay=decay), min(shape))
    rows = np.linalg.norm(factors.down, axis=1)
    np.testing.assert_allclose(rows, np.linalg.norm(factors.up, axis=0), rtol=1e-5)
    assert (np.diff(rows) <= 1e-4 * rows[:-1]).all()


@pytest.mark.parametrize("shape", [(6, 9), (9, 6)])
def test_signs_are_not_left_to_the_library(shape):
    matrix = drawn(shape, 7, decay=1.0)
    for sign in (1, -1):
        factors = truncate(sign * matrix, 6)
        short = factors.up if shape[0] < shape[1] else factors.down.T
        assert (short[np.abs(short).argmax(axis=0), np.arange(6)] > 0).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(40, 30), (30, 40), (1, 7), (7, 1)])
def test_full_rank_is_the_matrix_however_small_its_last_directions(shape, dtype):
    matrix = drawn(shape, 3, decay=8.0, dtype=dtype)
    factors = truncate(matrix, min(shape))
    wide = factors.up.astype(np.float64) @ factors.down
    assert np.linalg.norm(wide - matrix) <= 2e-7 * np.linalg.norm(matrix)


@pytest.mark.parametrize("shape", [(6, 9), (9, 6)])
def test_fewer_directions_than_the_rank_give_no_noise(shape):
    matrix = np.zeros(shape, np.float32)
    matrix[2] = 3.0
    factors = truncate(matrix, 5)
    assert np.isfinite(factors.down).all()
    assert np.isfinite(factors.up).all()
    np.testing.assert_allclose(factors.up @ factors.down, matrix, atol=1e-6)
    nothing = truncate(np.zeros(shape, np.float32), 2)
    assert not nothing.down.any()
    assert not nothing.up.any()


def test_bytes_do_not_depend_on_the_number_of_threads():
    matrix = drawn((600, 900), 5, decay=0.5)
    before = torch.get_num_threads()
    found = set()
    for threads in (1, 2, 4):
        torch.set_num_threads(threads)
        found.add(b"".join(each.tobytes() for each in truncate(matrix, 16)))
        torch.set_num_threads(threads)
        found.add(spectrum(matrix).tobytes() + str(residual(matrix, truncate(matrix, 2))).encode())
    torch.set_num_threads(before)
    assert len(found) == 2
