"""Hostile model folders and safetensors files: each is built here, with the error it must give."""

import contextlib
import json
import os
import socket
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tvc.domain.errors import InputError
from tvc.domain.names import BadName
from tvc.models.adapters import AdapterDirectory
from tvc.models.directory import ModelDirectory, NotAModel
from tvc.models.folder import UnsafeFile, list_folder
from tvc.models.header import (
    MAX_HEADER_BYTES,
    BadHeader,
    BadTensorName,
    UnsupportedFile,
    check_tensor_name,
    parse_header,
    read_header,
)
from tvc.models.strict_json import BadJson
from tvc.models.weights import BadIndex
from tvc_store.errors import TvcError

WEIGHTS = "model.safetensors"


def raw_file(text: str | bytes, data: bytes = b"", *, length: int | None = None) -> bytes:
    body = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(body) if length is None else length) + body + data


def file_of(tensors: dict[str, object], data: bytes = b"") -> bytes:
    return raw_file(json.dumps(tensors), data)


def entry(begin: int, end: int, shape: list[object] | None = None, dtype: str = "U8") -> dict:
    shape = [end - begin] if shape is None else shape
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def model(folder: Path, weights: bytes, config: bytes = b"{}") -> Path:
    (folder / WEIGHTS).write_bytes(weights)
    (folder / "config.json").write_bytes(config)
    return folder


FILES = {
    # The header's length
    "empty file": (b"", BadHeader, "has 0 bytes: too short"),
    "seven bytes": (b"1234567", BadHeader, "has 7 bytes: too short"),
    "length beyond the file": (raw_file("{}", length=100), BadHeader, "claims 100 bytes"),
    "length of 2^63": (raw_file("{}", length=1 << 63), BadHeader, "claims 9223372036854775808"),
    "length of 2^64 - 1": (raw_file("{}", length=(1 << 64) - 1), BadHeader, "claims 1844674"),
    "a pointer of Git LFS": (b"version https://git-lfs.github.com/", UnsupportedFile, "Git LFS"),
    # JSON
    "no JSON": (raw_file("{nothing"), BadJson, "is not JSON"),
    "no object": (raw_file("[]"), BadHeader, "does not begin with"),
    "nothing": (raw_file(""), BadHeader, "does not begin with"),
    "space before it": (raw_file(" {}"), BadHeader, "does not begin with"),
    "text after it": (raw_file("{} {}"), BadJson, "is not JSON"),
    "no UTF-8": (raw_file(b'{"\xff": 1}'), BadJson, "is not JSON"),
    "a thousand deep": (raw_file('{"a":' * 1000 + "1" + "}" * 1000), BadJson, "nested too deep"),
    "a hundred thousand deep": (raw_file('{"a":' + "[" * 10**5), BadJson, "nested too deep"),
    "a number of 5000 digits": (raw_file('{"a":' + "9" * 5000 + "}"), BadJson, "is not JSON"),
    "a tensor twice": (
        raw_file('{"a":%s,"a":%s}' % ((json.dumps(entry(0, 1)),) * 2), b"1"),
        BadJson,
        "has the key 'a' twice",
    ),
    "a field twice": (
        raw_file('{"a":{"dtype":"U8","dtype":"F64","shape":[1],"data_offsets":[0,1]}}', b"1"),
        BadJson,
        "has the key 'dtype' twice",
    ),
    # Entries
    "an entry that is no object": (file_of({"a": 1}), BadHeader, "not described by an object"),
    "a field too many": (file_of({"a": entry(0, 0) | {"x": 1}}), BadHeader, "not described by"),
    "a field missing": (file_of({"a": {"dtype": "U8", "shape": []}}), BadHeader, "not described"),
    "a shape of text": (file_of({"a": entry(0, 0) | {"shape": "12"}}), BadHeader, "right kind"),
    "a shape of fractions": (file_of({"a": entry(0, 1, [1.0])}, b"1"), BadHeader, "not an integer"),
    "a shape of truths": (file_of({"a": entry(0, 1, [True])}, b"1"), BadHeader, "not an integer"),
    "a negative extent": (file_of({"a": entry(0, 1, [-1])}, b"1"), BadHeader, "impossible shape"),
    "two negative extents": (file_of({"a": entry(0, 1, [-1, -1])}, b"1"), BadHeader, "impossible"),
    "0 by 10^12": (file_of({"a": entry(0, 0, [0, 10**12])}), BadHeader, "is too large"),
    "2^32 by 2^32": (file_of({"a": entry(0, 0, [1 << 32, 1 << 32])}), BadHeader, "is too large"),
    "a hundred extents": (file_of({"a": entry(0, 1, [1] * 100)}, b"1"), BadHeader, "impossible"),
    "bytes the shape has not": (file_of({"a": entry(0, 2, [1])}, b"12"), BadHeader, "needs 1"),
    "an unknown type": (file_of({"a": entry(0, 1, dtype="F4")}, b"1"), UnsupportedFile, "'F4'"),
    "a type with an escape": (
        file_of({"a": entry(0, 1, dtype="\x1b[31m")}, b"1"),
        UnsupportedFile,
        r"type '\\x1b\[31m'",
    ),
    # Offsets
    "offsets backwards": (file_of({"a": entry(1, 0, [1])}, b"1"), BadHeader, "impossible data_off"),
    "offsets below zero": (file_of({"a": entry(-1, 0, [1])}, b"1"), BadHeader, "impossible data_o"),
    "three offsets": (
        file_of({"a": entry(0, 1) | {"data_offsets": [0, 1, 2]}}, b"1"),
        BadHeader,
        "no pair of integers",
    ),
    "offsets of 2^64": (file_of({"a": entry(1 << 64, (1 << 64) + 1)}, b"1"), BadHeader, "imp"),
    "an overlap": (file_of({"a": entry(0, 2), "b": entry(1, 3)}, b"123"), BadHeader, "overlaps"),
    "the same bytes twice": (file_of({"a": entry(0, 2), "b": entry(0, 2)}, b"12"), BadHeader, "l"),
    "a gap": (file_of({"a": entry(0, 1), "b": entry(2, 3)}, b"123"), BadHeader, "'b'.* a gap"),
    "a gap at the start": (file_of({"a": entry(1, 2)}, b"12"), BadHeader, "follows a gap"),
    "bytes that are no tensor's": (file_of({"a": entry(0, 1)}, b"12"), BadHeader, "end at byte"),
    "bytes that are missing": (file_of({"a": entry(0, 3)}, b"12"), BadHeader, "end at byte"),
    "bytes and no tensors": (file_of({}, b"12"), BadHeader, "end at byte"),
    # Metadata
    "metadata that is a list": (file_of({"__metadata__": []}), BadHeader, "is not an object"),
    "metadata of numbers": (file_of({"__metadata__": {"a": 1}}), BadHeader, "other than text"),
    "two megabytes of metadata": (
        file_of({"__metadata__": {"a": "x" * (2 << 20)}}),
        UnsupportedFile,
        "more than 1048576 characters",
    ),
}  # fmt: skip


@pytest.mark.parametrize("attack", FILES)
def test_safetensors_files(attack, tmp_path):
    content, error, message = FILES[attack]
    with pytest.raises(error, match=message) as caught:
        ModelDirectory.open(model(tmp_path, content))
    assert WEIGHTS in caught.value.message
    assert caught.value.message.isprintable()
    assert caught.value.exit_code == (1 if issubclass(caught.type, InputError) else 3)


NAMES = [
    "", ".", "..", "../../etc/x", "/etc/x", "a//b", "a/./b", "a/../b", "a/", "a\x00b", "a\nb",
    "a\rb", "\x1b[2J", "\x1b]0;title\x07", "\u202egpj", "a\u200bb", "a\u2028b", "a\u00a0b", "a\\b",
    "a\x7f", "\ud800", "x" * 513, "\ufeffa", "a\u0085b",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_names_of_tensors(name, tmp_path):
    with pytest.raises(BadTensorName, match="cannot name a tensor") as caught:
        ModelDirectory.open(model(tmp_path, file_of({name: entry(0, 1)}, b"1")))
    assert caught.value.message.isprintable()
    with pytest.raises(BadTensorName):
        check_tensor_name(name)


def test_names_that_are_fine():
    for name in ["a", "a.b/c", "é", "模型", "x" * 512, "...", "a b", "model.layers.0.weight"]:
        check_tensor_name(name)


# Refused before anything is parsed, by counting: that takes milliseconds, parsing takes minutes.
HEADERS = {
    "71 MB": (b'{"a":1}'.ljust(71 << 20), UnsupportedFile, "more than 33554432"),
    "just too long": (b"{}".ljust(MAX_HEADER_BYTES + 1), UnsupportedFile, "more than 33554432"),
    "objects": (b"{" + b'"a":{},' * 2_000_000, UnsupportedFile, "more than 200000 tensors"),
    "brackets": (b'{"a":' + b"[" * (30 << 20), UnsupportedFile, "more than 200000 tensors"),
    "numbers": (b'{"a":[' + b"1," * (15 << 20), UnsupportedFile, "more than 200000 tensors"),
    "strings": (b'{"a":[' + b'""' * (15 << 20), UnsupportedFile, "more than 200000 tensors"),
}


@pytest.mark.parametrize("attack", HEADERS)
def test_headers_of_any_size_are_refused_before_they_are_parsed(attack, monkeypatch, tmp_path):
    body, error, message = HEADERS[attack]
    monkeypatch.setattr("json.loads", _never)
    (tmp_path / WEIGHTS).write_bytes(raw_file(body))
    with (tmp_path / WEIGHTS).open("rb") as file, pytest.raises(error, match=message):
        read_header(file.fileno(), file=WEIGHTS)


def _never(*arguments, **options):
    raise AssertionError("this header is too large to be parsed")


def test_a_hundred_million_tensors_are_announced(tmp_path):
    """A sparse file of seven gigabytes: the length is refused, not read."""
    with (tmp_path / WEIGHTS).open("wb") as file:
        file.write(struct.pack("<Q", 7_000_000_000))
        file.truncate(8_000_000_000)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UnsupportedFile, match="has 7000000000 bytes, more than 33554432"):
        ModelDirectory.open(tmp_path)


def test_one_tensor_too_many():
    field = '{"dtype":"U8","shape":[0],"data_offsets":[0,0]}'
    raw = raw_file("{" + ",".join(f'"{n}":{field}' for n in range(200_001)) + "}")
    with pytest.raises(UnsupportedFile, match="more than 200000 tensors"):
        parse_header(raw, size=len(raw), file="x")


GOOD = file_of(
    {"a": entry(0, 4, [1], "F32"), "b.weight": entry(4, 10, [3], "BF16"), "c": entry(10, 10, [0])},
    b"0123456789",
)


def test_an_empty_tensor_may_stand_before_the_one_it_shares_its_offset_with():
    raw = file_of({"a": entry(0, 2), "z": entry(0, 0), "b": entry(2, 3), "y": entry(3, 3)}, b"123")
    names = [found.name for found in parse_header(raw[:-3], size=len(raw), file="x").entries]
    assert names == ["z", "a", "b", "y"]


@given(st.data())
@settings(deadline=None, max_examples=400)
def test_any_damage_to_a_header_is_refused_or_changes_what_is_said(data):
    """No damage makes the reader fail in another way, or point outside the file."""
    raw = bytearray(GOOD)
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 11))] = data.draw(st.integers(0, 255))
    length = int.from_bytes(raw[:8], "little")
    try:
        header = parse_header(bytes(raw[: 8 + length]), size=len(raw), file="x")
    except TvcError as error:
        shown = error.message
        assert shown.isprintable()
        return
    spans = [(entry.offset, entry.offset + entry.spec.nbytes) for entry in header.entries]
    assert sum(end - begin for begin, end in spans) == len(raw) - 8 - length
    assert all(8 + length <= begin <= end <= len(raw) for begin, end in spans)


@given(st.integers(0, len(GOOD) - 1))
@settings(deadline=None)
def test_every_truncation_is_refused(length):
    with pytest.raises(TvcError):
        parse_header(GOOD[:length], size=length, file="x")


def test_every_truncation_of_a_file_is_refused(tmp_path):
    for length in range(len(GOOD)):
        with pytest.raises(TvcError):
            ModelDirectory.open(model(tmp_path, GOOD[:length]))
    ModelDirectory.open(model(tmp_path, GOOD))


# Folders


def good(folder: Path) -> Path:
    return model(folder, GOOD)


def _link_outside(folder: Path) -> None:
    (folder.parent / "secret").write_text("secret")
    (folder / "tokenizer.json").symlink_to("../secret")


def _absolute_link(folder: Path) -> None:
    (folder / "vocab.txt").symlink_to("/etc/passwd")


def _link_in_a_circle(folder: Path) -> None:
    (folder / "vocab.txt").symlink_to("vocab.txt")


def _link_to_nothing(folder: Path) -> None:
    (folder / "vocab.txt").symlink_to("nothing")


def _link_to_a_folder(folder: Path) -> None:
    (folder / "more").symlink_to(".")


def _weights_outside(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder.parent / "other")
    (folder / WEIGHTS).symlink_to("../other")


def _fake_cache(folder: Path) -> None:
    """A folder may not call itself a cache: only the folders above the root count."""
    (folder / "snapshots").mkdir()
    (folder / "vocab.txt").symlink_to("../../secret")
    (folder.parent.parent / "secret").write_text("secret")


def _fifo(folder: Path) -> None:
    os.mkfifo(folder / "tokenizer.json")


def _fifo_as_weights(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    os.mkfifo(folder / WEIGHTS)


def _socket(folder: Path) -> None:
    with contextlib.chdir(folder), socket.socket(socket.AF_UNIX) as listener:
        listener.bind("s")  # from inside: the path of a socket is short


def _escape(folder: Path) -> None:
    (folder / "\x1b[2Jvocab.txt").write_text("x")


def _newline(folder: Path) -> None:
    (folder / "a\nb.txt").write_text("x")


def _not_utf8(folder: Path) -> None:
    (Path(os.fsdecode(os.fsencode(folder) + b"/\xff.txt"))).write_text("x")


def _backslash(folder: Path) -> None:
    (folder / "a\\vocab.txt").write_text("x")


def _case_twins(folder: Path) -> None:
    (folder / "Vocab.txt").write_text("x")
    (folder / "vocab.txt").write_text("x")


def _config(content: bytes):
    def build(folder: Path) -> None:
        (folder / "config.json").write_bytes(content)

    return build


def _index(content: object):
    def build(folder: Path) -> None:
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / f"{WEIGHTS}.index.json").write_text(text)

    return build


def _modules(content: str):
    def build(folder: Path) -> None:
        (folder / "modules.json").write_text(content)

    return build


def _large_file(folder: Path) -> None:
    with (folder / "tokenizer.json").open("wb") as file:
        file.truncate((64 << 20) + 1)


FOLDERS = {
    "a link outside": (_link_outside, UnsafeFile, "tokenizer.json leads out of the model folder"),
    "an absolute link": (_absolute_link, UnsafeFile, "vocab.txt leads out of the model folder"),
    "a link in a circle": (_link_in_a_circle, UnsafeFile, "vocab.txt leads in a circle"),
    "a link to nothing": (_link_to_nothing, UnsafeFile, "vocab.txt leads to nothing"),
    "a link to a folder": (_link_to_a_folder, UnsafeFile, "more leads to a folder"),
    "weights outside": (_weights_outside, UnsafeFile, "model.safetensors leads out of the model"),
    "a false cache": (_fake_cache, UnsafeFile, "vocab.txt leads out of the model folder"),
    "a fifo": (_fifo, UnsafeFile, "tokenizer.json in model is not a plain file"),
    "a fifo as weights": (_fifo_as_weights, UnsafeFile, "in model is not a plain file"),
    "a socket": (_socket, UnsafeFile, "s in model is not a plain file"),
    "an escape": (_escape, BadName, r"'\\\\x1b\[2Jvocab.txt' is not a plain relative file name"),
    "a newline": (_newline, BadName, "is not a plain relative file name"),
    "a name that is no UTF-8": (_not_utf8, BadName, "is not a plain relative file name"),
    "a backslash": (_backslash, BadName, "is not a plain relative file name"),
    "twins by case": (_case_twins, BadName, "'Vocab.txt' and 'vocab.txt' differ only by case"),
    "a config that is no JSON": (_config(b"{"), BadJson, "config.json is not JSON"),
    "a config that is a list": (_config(b"[]"), BadJson, "config.json is not a JSON object"),
    "a config with a key twice": (_config(b'{"a":1,"a":2}'), BadJson, "has the key 'a' twice"),
    "a deep config": (_config(b'{"a":' * 99 + b"1" + b"}" * 99), BadJson, "nested too deep"),
    "a bottomless config": (_config(b"[" * 10**6), BadJson, "nested too deep"),
    "a huge config": (_config(b" " * (17 << 20)), InputError, "config.json has 17825792 bytes"),
    "a huge tokenizer": (_large_file, NotAModel, "tokenizer.json has 67108865 bytes"),
    "an index of nothing": (_index({}), BadIndex, "has no weight_map"),
    "an index that is a list": (_index([]), BadJson, "is not a JSON object"),
    "an index upwards": (
        _index({"weight_map": {"a": "../other.safetensors"}}),
        BadIndex,
        "puts 'a' in ../other.safetensors, which is no file of this folder",
    ),
    "an absolute index": (
        _index({"weight_map": {"a": "/etc/passwd.safetensors"}}),
        BadIndex,
        "which is no file of this folder",
    ),
    "an index of another kind of file": (
        _index({"weight_map": {"a": "config.json"}}),
        BadIndex,
        "puts 'a' in config.json, which is no file",
    ),
    "an index of numbers": (_index({"weight_map": {"a": 1}}), BadIndex, "puts 'a' in 1, which is"),
    "an index with an escape": (
        _index({"weight_map": {"\x1b[2J": "x.safetensors"}}),
        BadIndex,
        r"puts '\\x1b\[2J' in x.safetensors",
    ),
    "an index that names a tensor twice": (
        _index('{"weight_map":{"a":"model.safetensors","a":"model.safetensors"}}'),
        BadJson,
        "has the key 'a' twice",
    ),
    "modules upwards": (_modules('[{"path":"../x"}]'), BadName, "'../x' is not a plain relative"),
    "modules of numbers": (_modules('[{"path":1}]'), BadJson, "is not a list of modules"),
    "modules that end early": (_modules('[]}, "x": {"y": [1]'), BadJson, "modules.json is not"),
}  # fmt: skip


@pytest.mark.parametrize("attack", FOLDERS)
def test_model_folders(attack, tmp_path):
    build, error, message = FOLDERS[attack]
    folder = tmp_path / "parent" / "model"
    folder.mkdir(parents=True)
    build(good(folder))
    with pytest.raises(error, match=message) as caught:
        ModelDirectory.open(folder)
    assert caught.value.message.isprintable()


@pytest.mark.parametrize("build", [_link_outside, _fifo, _escape, _socket])
def test_adapter_folders(build, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "adapter_config.json").write_text('{"peft_type":"LORA"}')
    (folder / "adapter_model.safetensors").write_bytes(GOOD)
    build(folder)
    with pytest.raises((UnsafeFile, BadName)):
        AdapterDirectory.open(folder)


@pytest.mark.slow
def test_a_folder_of_twenty_thousand_files(tmp_path):
    for n in range(20_001):
        os.close(os.open(tmp_path / f"{n}.txt", os.O_CREAT | os.O_WRONLY))
    with pytest.raises(InputError, match="has 20001 entries: no model folder"):
        list_folder(tmp_path)


_SWAP = """
import os, sys
from pathlib import Path
from tvc.models.directory import ModelDirectory
from tvc.models.folder import ChangedFile
folder = Path(sys.argv[1])
model = ModelDirectory.open(folder)
(folder / "model.safetensors").unlink()
os.mkfifo(folder / "model.safetensors")
try:
    model.read("a")
except ChangedFile as error:
    print(error.message)
"""


def test_a_fifo_that_took_the_place_of_the_weights_does_not_block(tmp_path):
    command = [sys.executable, "-c", _SWAP, str(good(tmp_path))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.endswith("changed while tvc was reading it\n")


_HEAVY = """
import resource, sys
from pathlib import Path
from tvc.models.directory import ModelDirectory
from tvc_store.errors import TvcError
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    ModelDirectory.open(Path(sys.argv[1]))
except TvcError as error:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
def test_the_heaviest_header_that_is_parsed_stays_small(tmp_path):
    """As many strings as the limits let through, in a header of the largest size."""
    strings = b",".join(b'"%d":0' % n for n in range(1_000_000))
    body = (b"{" + strings + b"}").ljust(MAX_HEADER_BYTES)
    command = [sys.executable, "-c", _HEAVY, str(model(tmp_path, raw_file(body)))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert int(done.stdout) < 400 << 10  # KiB
