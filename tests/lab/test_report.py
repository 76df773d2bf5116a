"""Reports: whole or not there, with every number as JSON knows them."""

import json
import math
import os

import pytest

from tvc.lab.plotting import Grid, Panel, draw_grids, draw_panels
from tvc.lab.report import FolderTaken, Report, Table, check_free, format_interval, write_report
from tvc.optimizers.readings import Interval
from tvc_store.durable import WriteFailed


def report(**plots: bytes) -> Report:
    return Report(
        name="try",
        question="Does it?",
        found=["It does."],
        method=["Control: none."],
        limits=["Nothing."],
        settings={"lr": 0.1, "counts": [1, 2]},
        facts={"values": [1.0, math.nan, -math.inf], "nested": {"x": (math.inf, 2)}},
        tables=[Table("Of it", ("a", "b|c"), [["1", "2 | 3"]])],
        plots=plots,
    )


def test_a_report_is_written_into_an_empty_folder(tmp_path) -> None:
    (tmp_path / "there").mkdir()
    for name in ("there", "new"):
        write_report(report(**{"a.png": b"x"}), tmp_path / name)
        files = sorted(each.name for each in (tmp_path / name).iterdir())
        assert files == ["a.png", "report.json", "report.md"]
    facts = json.loads((tmp_path / "new" / "report.json").read_bytes())
    assert facts["values"] == [1.0, None, None]
    assert facts["nested"] == {"x": [None, 2]}
    text = (tmp_path / "new" / "report.md").read_text()
    assert "| a | b&#124;c |\n| --- | --- |\n| 1 | 2 &#124; 3 |\n" in text
    assert "| counts | 1, 2 |" in text
    assert sorted(os.listdir(tmp_path)) == ["new", "there"]


def test_what_is_there_stays(tmp_path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("mine")
    for name in ("file", "link", "full"):
        with pytest.raises(FolderTaken, match=name):
            check_free(tmp_path / name)
        with pytest.raises(FolderTaken):
            write_report(report(), tmp_path / name)
    assert sorted(os.listdir(tmp_path)) == ["file", "full", "link"]


def test_a_report_that_cannot_be_written_leaves_nothing(tmp_path) -> None:
    with pytest.raises(WriteFailed):
        write_report(report(**{"x" * 300: b""}), tmp_path / "new")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("interval", "options", "text"),
    [
        (Interval(0.5, 0.25, 0.75), {}, "0.5 [0.25, 0.75]"),
        (Interval(0.5, 0.25, 0.75), {"percent": True}, "50.0 [25.0, 75.0] %"),
        (
            Interval(-0.5, -0.75, 0.1),
            {"percent": True, "signed": True},
            "-50.0 [-75.0, +10.0] points",
        ),
        (Interval(0.5, -math.inf, math.inf), {}, "0.5"),
        (Interval(math.nan, -math.inf, math.inf), {}, "none"),
    ],
)
def test_intervals_are_written_for_people(interval, options, text) -> None:
    assert format_interval(interval, **options) == text


def test_plots_bear_what_is_not_known() -> None:
    unknown, known = Interval(1, -math.inf, math.inf), Interval(1, 0, 2)
    lines = draw_panels([Panel("$x", {"a_$b": [unknown, known]})], ["1", "2"], across="$")
    grids = draw_grids([Grid("$", ["a", "b"], [[1.0, math.nan], [2.0]])])
    assert lines.startswith(b"\x89PNG")
    assert grids.startswith(b"\x89PNG")
    assert lines == draw_panels([Panel("$x", {"a_$b": [unknown, known]})], ["1", "2"], across="$")
