"""Object files made to harm: each is refused, in little time and memory, with its own error."""

import struct
import tracemalloc

import numpy as np
import pytest
import zstandard
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st
from store_samples import LAW, bf16, coder_of, overwrite, tuned, vector_spec

from tvc_store.codecs import MalformedFrame
from tvc_store.dtypes import TensorSpec
from tvc_store.errors import IntegrityError, StoreError
from tvc_store.header import MAX_HEADER, Header, MalformedObject
from tvc_store.ids import ObjectId, tensor_id
from tvc_store.local import Store
from tvc_store.objectfile import ObjectFile, shared_chunk
from tvc_store.opened import Damaged

ID = ObjectId("ab" * 32)
FIXED = struct.Struct("<8sHBBBBBBQ")
MAGIC = b"\x89tvc\r\n\x1a\n"


@pytest.fixture
def store(tmp_path):
    return Store.create(tmp_path / "objects")


def head(
    *,
    version=1,
    kind=1,
    codec=b"planes",
    dtype=b"U8",
    shape=(100,),
    has_base=0,
    reserved=0,
    raw=100,
    own=ID,
    base=b"",
    extents=None,
    codec_length=None,
    magic=MAGIC,
):
    """A header with a right seal, whatever it says."""
    body = FIXED.pack(
        magic,
        version,
        kind,
        len(codec) if codec_length is None else codec_length,
        len(dtype),
        len(shape) if extents is None else extents,
        has_base,
        reserved,
        raw,
    )
    body += bytes.fromhex(own) + base + codec + dtype + struct.pack(f"<{len(shape)}Q", *shape)
    return body + blake3(body).digest(length=16)


def sealed(header, *frames, shared=b""):
    """A file, with parameters under a right checksum."""
    return header + shared_chunk(shared) + b"".join(frames)


def frame(mode, stored, size=None):
    """A frame with a right checksum, whatever it says."""
    prefix = struct.pack("<BI", mode, len(stored) if size is None else size)
    return prefix + blake3(prefix + stored).digest(length=16) + stored


HEADERS = {
    "empty": b"",
    "another magic": head(magic=b"\x89PNG\r\n\x1a\n"),
    "another version": head(version=2),
    "unknown kind": head(kind=3),
    "reserved": head(reserved=1),
    "base flag": head(has_base=2),
    "no codec": head(codec=b""),
    "long codec": head(codec=b"a" * 33),
    "odd codec": head(codec=b"../../x"),
    "codec with NUL": head(codec=b"planes\0"),
    "codec length lies": head(codec_length=32),
    "unknown type": head(dtype=b"F4"),
    "type of no text": head(dtype=b"\xff\xfe"),
    "long type": head(dtype=b"F" * 17),
    "no type": head(dtype=b"", shape=()),
    "shape without type": head(dtype=b"", shape=(100,)),
    "too many extents": head(shape=(1,) * 17),
    "extents lie": head(extents=16),
    "huge shape": head(shape=(1 << 63, 1 << 63), raw=0),
    "zero times huge": head(shape=(0, 10**12), raw=0),
    "overflowing product": head(shape=(1 << 32, 1 << 32), raw=0),
    "lengths disagree": head(raw=101),
    "huge blob": head(kind=2, dtype=b"", shape=(), raw=1 << 62),
    "blob with a type": head(kind=2),
    "blob with a base": head(kind=2, dtype=b"", shape=(), has_base=1, base=b"x" * 32),
    "its own base": head(has_base=1, base=bytes.fromhex(ID), codec=b"rans"),
}


@pytest.mark.parametrize("name", HEADERS)
def test_hostile_headers_are_refused(store, name):
    overwrite(store, ID, sealed(HEADERS[name], frame(0, bytes(100))))
    for read in (store.read_tensor, store.read_blob, store.tensor_spec):
        with pytest.raises(Damaged, match=ID):
            read(ID)


@LAW
@given(st.binary(max_size=MAX_HEADER))
def test_no_bytes_crash_the_parser(data):
    for attack in (data, MAGIC + data, head()[:-20] + data):
        with pytest.raises(MalformedObject):
            Header.parse(attack)


BODIES = {
    "no frame": [head()],
    "a wrong checksum": [head(), frame(0, bytes(100))[:-1] + b"x"],
    "a frame of another's checksum": [head(), frame(0, bytes(100))[:21] + bytes(99) + b"x"],
    "frame of an unknown mode": [head(), frame(3, bytes(100))],
    "raw frame too short": [head(), frame(0, bytes(99))],
    "raw frame too long": [head(), frame(0, bytes(101))],
    "frame length lies": [head(), frame(1, bytes(50), size=60)],
    "frame length is 4 GiB": [head(), frame(1, b"", size=0xFFFFFFFF)],
    "coded not shorter": [head(), frame(1, bytes(100))],
    "equal to no base": [head(), frame(2, b"")],
    "coded frame of the raw codec": [head(codec=b"raw"), frame(1, b"abc")],
    "bytes after": [head(), frame(0, bytes(100)), b"x"],
    "planes cut": [head(), frame(1, b"\x01")],
    "plane length lies": [head(), frame(1, struct.pack("<BI", 1, 1 << 31))],
    "plane of an unknown mode": [head(), frame(1, struct.pack("<BI", 2, 1) + b"x")],
    "raw plane of another length": [head(), frame(1, struct.pack("<BI", 0, 1) + b"x")],
    "no zstd": [head(), frame(1, struct.pack("<BI", 1, 20) + b"x" * 20)],
    "bytes after the planes": [head(), frame(1, struct.pack("<BI", 0, 0) + b"xyz")],
    "difference without a base": [head(codec=b"rans"), frame(0, bytes(100))],
    "512 GiB in 1 KiB": [head(shape=(1 << 39,), raw=1 << 39), bytes(1024)],
    "wrong content": [head(), frame(0, bytes(100))],
}


@pytest.mark.parametrize("name", BODIES)
def test_hostile_bodies_are_refused(store, name):
    overwrite(store, ID, sealed(*BODIES[name]))
    with pytest.raises(Damaged, match=ID):
        store.read_tensor(ID)


def bomb(announced):
    """A zstd stream of 64 MiB in 2 KiB, announcing its size or not."""
    parameters = zstandard.ZstdCompressionParameters.from_level(19, write_content_size=announced)
    return zstandard.ZstdCompressor(compression_params=parameters).compress(bytes(1 << 26))


@pytest.mark.parametrize("announced", [True, False])
def test_decompression_bombs_do_not_go_off(store, announced):
    stored = bomb(announced)
    attack = struct.pack("<BI", 1, len(stored)) + stored
    overwrite(store, ID, sealed(head(raw=1 << 16, shape=(1 << 16,)), frame(1, attack)))
    tracemalloc.start()
    with pytest.raises(Damaged, match="announces"):
        store.read_tensor(ID)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 21


def test_a_stream_that_lies_about_its_size_is_refused():
    planes = coder_of("planes", 100_000, dtype="U8")
    plain = bytes(1000)
    stored = bytearray(zstandard.ZstdCompressor(level=1).compress(plain))
    assert zstandard.frame_content_size(bytes(stored)) == 1000
    position = bytes(stored).index(struct.pack("<H", 1000 - 256))
    stored[position : position + 2] = struct.pack("<H", 100_000 - 65536 - 256 & 0xFFFF)
    announced = zstandard.frame_content_size(bytes(stored))
    attack = np.frombuffer(struct.pack("<BI", 1, len(stored)) + stored, np.uint8)
    out = np.empty(announced, np.uint8)
    with pytest.raises(MalformedFrame):
        planes.decode(attack, out, at=0, base=None)


def test_bytes_after_the_planes_are_refused():
    planes = coder_of("planes", 500, dtype="U8")
    stored = zstandard.ZstdCompressor().compress(bytes(500))
    attack = np.frombuffer(struct.pack("<BI", 1, len(stored)) + stored + b"x", np.uint8)
    with pytest.raises(MalformedFrame, match="bytes follow"):
        planes.decode(attack, np.empty(500, np.uint8), at=0, base=None)


def test_a_forged_blob_is_refused(store):
    forged = head(kind=2, dtype=b"", shape=())
    overwrite(store, ID, sealed(forged, frame(0, bytes(100))))
    with pytest.raises(Damaged, match="the content is another"):
        store.read_blob(ID)


def test_two_streams_in_one_plane_are_refused():
    planes = coder_of("planes", 500, dtype="U8")
    stored = zstandard.ZstdCompressor().compress(bytes(500)) * 2
    attack = np.frombuffer(struct.pack("<BI", 1, len(stored)) + stored, np.uint8)
    with pytest.raises(MalformedFrame):
        planes.decode(attack, np.empty(500, np.uint8), at=0, base=None)


@LAW
@given(st.binary(max_size=60), st.sampled_from(["planes", "rans"]))
def test_no_bytes_crash_a_codec(data, name):
    out, base = np.zeros(64, np.uint8), np.zeros(64, np.uint8)
    with pytest.raises(MalformedFrame):
        coder_of(name, 32, dtype="BF16").decode(np.frombuffer(data, np.uint8), out, at=0, base=base)


def test_chains_and_circles_are_refused(store):
    base = bf16(200)
    spec = vector_spec(base)
    origin = store.put_tensor(spec, base)
    step = store.put_tensor(spec, tuned(base), base=origin)
    third = tensor_id(spec, tuned(base, seed=5))
    forge(store, third, spec, step)
    with pytest.raises(Damaged, match=f"{step} is damaged: a difference"):
        store.read_tensor(third)

    one, other = ObjectId("1" * 64), ObjectId("2" * 64)
    forge(store, one, spec, other)
    forge(store, other, spec, one)
    for object_id in (one, other):
        with pytest.raises(Damaged, match="a difference, where another object needs a base"):
            store.read_tensor(object_id)


def forge(store, object_id, spec, base):
    header = Header(object_id, "tensor", "rans", spec.nbytes, spec, base).to_bytes()
    overwrite(store, object_id, sealed(header, frame(2, b"")))


def test_a_base_of_another_type_is_refused(store):
    base = bf16(200)
    origin = store.put_tensor(vector_spec(base), base)
    forge(store, ID, TensorSpec("BF16", (100, 2)), origin)
    with pytest.raises(Damaged, match="another type or shape"):
        store.read_tensor(ID)
    blob = store.put_blob(base.tobytes())
    forge(store, ID, vector_spec(base), blob)
    with pytest.raises(Damaged, match="a blob, where a tensor"):
        store.read_tensor(ID)


def test_an_unknown_codec_is_named(store):
    overwrite(store, ID, sealed(head(codec=b"nobody"), frame(0, bytes(100))))
    with pytest.raises(StoreError, match="the codec 'nobody' is not installed"):
        store.read_tensor(ID)


def test_random_damage_with_right_checksums(store):
    """Whoever can write files can make right checksums: then the ids still tell."""
    rng = np.random.default_rng(0)
    base = np.tile(bf16(16), 20)
    spec = vector_spec(base)
    object_id = store.put_tensor(spec, base)
    with ObjectFile(store.path / object_id[:2] / object_id[2:]) as file:
        header = file.header.to_bytes()
    good = (store.path / object_id[:2] / object_id[2:]).read_bytes()
    mode, stored = good[len(header) + 20], good[len(header) + 20 + 21 :]
    for _ in range(400):
        bad = bytearray(stored)
        bad[rng.integers(len(bad))] ^= 1 << rng.integers(8)
        overwrite(store, object_id, sealed(header, frame(mode, bytes(bad))))
        try:
            content = store.read_tensor(object_id)[1]
        except IntegrityError:
            continue
        assert content.tobytes() == base.tobytes()
