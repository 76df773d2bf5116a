"""A tensor is compared with the parent's by pieces, whatever the pieces are."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tvc.domain.snapshot import TensorRef
from tvc.evaluation.bits import changed_elements
from tvc.recording.comparing import Comparison
from tvc_store.dtypes import TensorSpec
from tvc_store.errors import IntegrityError
from tvc_store.ids import tensor_id

DTYPES = {1: "U8", 2: "BF16", 4: "F32", 8: "F64"}


def pieces(data, sizes, width):
    """Give an array in pieces of so many elements, each overwritten by the next."""
    at, memory = 0, np.empty(data.size, np.uint8)
    for size in sizes:
        part = data[at : at + size * width]
        at += part.size
        memory[: part.size] = part
        if part.size:
            yield memory[: part.size]
    if at < data.size:
        yield data[at:]


cuts = st.lists(st.integers(1, 9), max_size=8)


@given(st.integers(0, 40), st.integers(0, 5), st.sampled_from([1, 2, 4, 8]), cuts, cuts, st.data())
def test_pieces_count_what_the_whole_counts(numel, grown, width, own, others, data):
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    spec, parent = (TensorSpec(DTYPES[width], (n,)) for n in (numel + grown, numel))
    before = rng.integers(0, 256, parent.nbytes, np.uint8)
    after = rng.integers(0, 256, spec.nbytes, np.uint8)
    same = rng.random(numel) < 0.7
    after[: before.size].reshape(numel, width)[same] = before.reshape(numel, width)[same]
    known = data.draw(st.sampled_from([None, TensorRef(tensor_id(parent, before), parent)]))
    comparison = Comparison(spec, parent, known, lambda: pieces(before, others, width))
    at = 0
    for piece in pieces(after, own, width):
        comparison.see(at, piece)
        at += piece.size
    assert comparison.finish() == TensorRef(tensor_id(parent, before), parent)
    assert comparison.changed == changed_elements(spec, after, parent, before)


def test_another_type_changes_every_element():
    spec, parent = TensorSpec("F16", (3,)), TensorSpec("BF16", (3,))
    data = np.arange(6, dtype=np.uint8)
    comparison = Comparison(spec, parent, None, lambda: pieces(data, [2], 2))
    comparison.see(0, data)
    assert comparison.finish().id == tensor_id(parent, data)
    assert comparison.changed == 3


def test_a_damaged_parent_is_an_error():
    spec = TensorSpec("U8", (4,))
    data = np.arange(4, dtype=np.uint8)

    def broken():
        yield data
        raise IntegrityError("damaged")

    def gone():
        raise IntegrityError("gone")
        yield data

    known = TensorRef(tensor_id(spec, data), spec)
    comparison = Comparison(spec, spec, known, gone)
    with pytest.raises(IntegrityError, match="gone"):
        comparison.see(0, data)
    comparison = Comparison(spec, spec, known, broken)
    comparison.see(0, data)
    with pytest.raises(IntegrityError, match="damaged"):
        comparison.finish()


def test_a_parent_that_is_the_base_is_not_read_twice():
    spec = TensorSpec("BF16", (4,))
    before, after = np.arange(8, dtype=np.uint8), np.arange(1, 9, dtype=np.uint8)
    after[:4] = before[:4]

    def unread():
        raise AssertionError("read")
        yield before

    known = TensorRef(tensor_id(spec, before), spec)
    comparison = Comparison(spec, spec, known, unread, base=known.id)
    comparison.see(0, after[:6], before[:6])
    comparison.see(6, after[6:], before[6:])
    assert comparison.finish() == known
    assert comparison.changed == 2
    # Of another base nothing follows, and without one the parent is read.
    for base, frames in ((tensor_id(spec, after), before), (known.id, None)):
        comparison = Comparison(spec, spec, known, unread, base=base)
        with pytest.raises(AssertionError, match="read"):
            comparison.see(0, after, frames)
