"""YAML from outside: read as plain values, or refused in one line."""

import time
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tvc.versioning.strict_yaml import MAX_YAML, BadYaml, read_number, read_yaml


def read(text: str):
    return read_yaml(text, what="file")


def test_values():
    text = """
a: 1
b: [0.3, .5, 2., -1e2, 1.5e-3]
c: {d: true, e: off, f: ~, g: "1", h: text}
i:
"""
    assert read(text) == {
        "a": Fraction(1),
        "b": [Fraction(3, 10), Fraction(1, 2), Fraction(2), "-1e2", Fraction(3, 2000)],
        "c": {"d": True, "e": False, "f": None, "g": "1", "h": "text"},
        "i": None,
    }


REFUSED = {
    "a: &x 1\nb: *x": "line 1: anchors and aliases",
    "a: *x": "anchors and aliases",
    "a: !!python/object/apply:os.system [ls]": "tags (!) are not read",
    "!x a: 1": "tags (!) are not read",
    "a: 1\na: 2": "'a' is there twice",
    "a: {b: 1, b: 2}": "'b' is there twice",
    "<<: {a: 1}": "'<<' is read as a merge",
    "a: 010": "'010' is not a plain number",
    "a: 0x10": "'0x10' is not a plain number",
    "a: 1_000": "'1_000' is not a plain number",
    "a: 1:30": "'1:30' is not a plain number",
    "a: .inf": "'.inf' is not a plain number",
    "a: .nan": "'.nan' is not a plain number",
    "a: 2020-01-01": "is read as a timestamp",
    "1: a": "a key must be a text",
    "? [a]\n: b": "a key must be a text",
    "a: 1\n---\nb: 2": "is not YAML",
    "- a": "is not a mapping",
    "": "is not a mapping",
    "a": "is not a mapping",
    "a: \x00": "is not YAML",
    "a: [": "is not YAML",
    "\ta: 1": "is not YAML",
    "%YAML 9.9\n---\na: 1": "is not YAML",
    f"a: {'9' * 5000}": "is not a plain number",
    f"a: 1.0e+{'9' * 30}": "is not a plain number",
    "[" * 100_000: "nested too deep",
    "a: " + "{b: " * 30 + "1" + "}" * 30: "nested too deep",
    f"a: [{'1,' * 100_000}]": "has too many values",
    "a: " + "x" * MAX_YAML: "is larger than 1 MiB",
}


@pytest.mark.parametrize(
    "text", REFUSED, ids=lambda text: text[:20].encode("unicode_escape").decode()
)
def test_refused(text):
    began = time.monotonic()
    with pytest.raises(BadYaml) as caught:
        read(text)
    assert REFUSED[text] in caught.value.message
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 400
    assert time.monotonic() - began < 10


@given(st.text(max_size=200))
def test_nothing_else_is_raised(text):
    try:
        found = read(text)
    except BadYaml:
        return
    assert isinstance(found, dict)


@given(st.fractions(-(10**9), 10**9, max_denominator=1000), st.integers(0, 6))
def test_numbers_are_exact(number, digits):
    text = f"{float(number):.{digits}f}"
    assert read_number(text) == Fraction(text)
    assert read(f"a: {text}.0" if digits == 0 else f"a: {text}") == {"a": Fraction(text)}


@pytest.mark.parametrize(
    "text", ["", ".", "-", "e5", "1e", "01", "1e999", "--1", "1 2", "٣", "inf"]
)
def test_no_numbers(text):
    assert read_number(text) is None
