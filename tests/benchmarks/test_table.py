"""Results are kept group by group, and the README quotes what is kept."""

import re
from pathlib import Path

import pytest

from tests.benchmarks.group import GROUPS, TITLES
from tests.benchmarks.table import (
    Row,
    Section,
    dump_rows,
    keep,
    load_rows,
    not_measured,
    parse_sections,
    section_text,
)

ROOT = Path(__file__).parents[2]
ORDER = ["First", "Second", "Third"]


def section(title: str, ratio: float = 1.5) -> Section:
    return Section(title, ["2026-01-02, a machine"], [Row("a against b", ratio, "3 s against 2 s")])


def test_a_partial_run_replaces_its_own_sections_only(tmp_path: Path) -> None:
    file = tmp_path / "RESULTS.md"
    keep(file, [section("Third"), section("First")], order=ORDER)
    before = parse_sections(file.read_text())
    keep(file, [section("First", 2.5), section("Second")], order=ORDER)
    after = parse_sections(file.read_text())
    assert list(after) == ORDER
    assert after["Third"] == before["Third"]
    assert "| 2.50 |" in after["First"]
    assert "1.50" not in after["First"]


def test_keeping_again_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "RESULTS.md"
    keep(file, [section("First"), section("Second")], order=ORDER)
    text = file.read_text()
    keep(file, [section("Second")], order=ORDER)
    assert file.read_text() == text


def test_rows_survive_the_way_between_processes() -> None:
    rows = [Row("a", 0.25, "b", at_most=2), not_measured("c", "no such thing")]
    assert load_rows(dump_rows(rows)) == rows


@pytest.mark.parametrize(
    ("ratio", "text"),
    [
        (0, "0"),
        (0.000011, "0.000011"),
        (0.0528, "0.0528"),
        (1, "1.00"),
        (37.46, "37.5"),
        (1234.5, "1234"),
    ],
)
def test_ratios_have_three_digits(ratio: float, text: str) -> None:
    assert Row("a", ratio, "b").cells()[0] == text


def test_targets() -> None:
    assert not Row("a", 2.0, "b", at_most=2).is_missed
    assert Row("a", 2.01, "b", at_most=2).target == "≤ 2.00, missed"
    assert Row("a", 29.0, "b", at_least=30).target == "≥ 30.0, missed"
    assert Row("a", 2.0, "b").target == ""
    assert not Row("a", None, "why", at_most=2).is_missed


def test_what_a_program_said_cannot_break_the_table() -> None:
    text = section_text(Section("t", [], [not_measured("a | b", "one\ntwo | three")]))
    assert text.splitlines()[-1] == "| n/a | | a / b | not measured: one two / three |"


def test_every_group_has_a_title_and_a_module() -> None:
    assert list(GROUPS) == list(TITLES)
    assert len(set(TITLES.values())) == len(TITLES)
    for module in GROUPS.values():
        assert (ROOT / "tests" / "benchmarks" / f"{module}.py").is_file()


def test_the_kept_results_are_of_these_groups() -> None:
    kept = parse_sections((ROOT / "tests" / "benchmarks" / "RESULTS.md").read_text())
    assert list(kept) == [title for title in TITLES.values() if title in kept]


def test_the_readme_quotes_ratios_that_are_kept() -> None:
    """Each row of the README's table of figures has its ratio from a row of the results."""
    section_of_readme = re.split(r"^## ", (ROOT / "README.md").read_text(), flags=re.MULTILINE)
    (measured,) = (text for text in section_of_readme if text.startswith("Measured\n"))
    quoted = re.findall(r"^\| [^|]+\| [^|]*\| ([\d.]+) \|", measured, re.MULTILINE)
    results = (ROOT / "tests" / "benchmarks" / "RESULTS.md").read_text()
    kept = set(re.findall(r"^\| ([\d.]+) \|", results, re.MULTILINE))
    assert quoted
    assert set(quoted) <= kept
