"""Ids are frozen, unambiguous, and the same however the bytes are fed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from store_samples import LAW, specs, tensors

from tvc_store.dtypes import TensorSpec
from tvc_store.errors import StoreError
from tvc_store.ids import TensorHasher, blob_id, hash_fields, parse_id, tensor_id

GOLDEN = {
    (
        "BF16",
        (2, 3),
        bytes(range(12)),
    ): "79167912309244780db6f6919503bb377f392afc0beb14d034019bbde11be0d8",
    (
        "F32",
        (),
        b"\x00\x00\x80\x3f",
    ): "211ae04ddada6f76ffc406aa9bbbd385f1f869d3562fe9e08cbfc5da7a7f3cc8",
    ("I64", (0, 5), b""): "2bffc45395b4cb4119bb487df54996fe643146168c4c7f017bb1ae1bf716bbb7",
}


@pytest.mark.parametrize("case", GOLDEN)
def test_tensor_ids_are_frozen(case):
    dtype, shape, data = case
    assert tensor_id(TensorSpec(dtype, shape), data) == GOLDEN[case]


def test_other_ids_are_frozen():
    assert blob_id(b"hello") == "14d3110ed028913a0a20fc415e81fc0fd5ea1a3ae88e3fac7faf380fca4b8408"
    assert (
        hash_fields("tvc.x", b"a", b"")
        == "0d92aa100dd0c7f57968760c7bdc171652c60246b414e275f3528313440f47f5"
    )


@LAW
@given(tensors(), st.lists(st.integers(1, 50), min_size=1))
def test_chunked_hashing_equals_whole_hashing(tensor, sizes):
    spec, data = tensor
    hasher, position = TensorHasher(spec), 0
    while position < len(data):
        size = sizes[position % len(sizes)]
        hasher.update(memoryview(data)[position : position + size])
        position += size
    assert hasher.finish() == tensor_id(spec, data)


@LAW
@given(specs(), st.integers(-9, 9).filter(bool))
def test_wrong_length_is_refused(spec, change):
    length = spec.nbytes + change
    if length >= 0:
        with pytest.raises(StoreError, match=f"{length} were given"):
            tensor_id(spec, bytes(length))


@LAW
@given(st.lists(st.binary(max_size=9)), st.lists(st.binary(max_size=9)))
def test_different_fields_have_different_ids(one, other):
    assert (hash_fields("t", *one) == hash_fields("t", *other)) == (one == other)


def test_dtype_and_shape_are_part_of_the_id():
    data = bytes(8)
    kinds = [("F32", (2,)), ("F32", (2, 1)), ("F32", (1, 2)), ("I32", (2,)), ("F64", ())]
    assert len({tensor_id(TensorSpec(*kind), data) for kind in kinds}) == len(kinds)


def test_any_contiguous_buffer_will_do():
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    spec, plain = TensorSpec("F32", (2, 3)), array.tobytes()
    for buffer in (array, plain, bytearray(plain), memoryview(plain), memoryview(array)):
        assert tensor_id(spec, buffer) == tensor_id(spec, plain)
    with pytest.raises(StoreError, match="not contiguous"):
        tensor_id(TensorSpec("F32", (3, 2)), array.T)


@pytest.mark.parametrize(
    "text", ["", "a" * 63, "A" * 64, "g" * 64, "a" * 64 + "\n", "../" + "a" * 61]
)
def test_what_is_no_id(text):
    with pytest.raises(StoreError, match="not an object id"):
        parse_id(text)
