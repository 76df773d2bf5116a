"""Draws what experiments found as PNG: lines with their intervals, and maps of heads.

Without a window, and without pyplot's global state. Absent: what is drawn.
"""

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from tvc.optimizers.readings import Interval

__all__ = ["Grid", "Panel", "draw_grids", "draw_panels"]

_DOTS: Final = 150
_WIDTH: Final = 7.0
_TALL: Final = 3.0


@dataclass(frozen=True, slots=True)
class Panel:
    """Lines over the same places.

    Args:
        label: Of the vertical axis.
        lines: Name → an interval at each place.
    """

    label: str
    lines: Mapping[str, Sequence[Interval]]


@dataclass(frozen=True, slots=True)
class Grid:
    """Numbers by layer and head.

    Args:
        title: What they are.
        rows: Labels of the layers.
        values: A row a layer, a number a head; rows may be of different lengths.
    """

    title: str
    rows: Sequence[str]
    values: Sequence[Sequence[float]]


def draw_panels(panels: Sequence[Panel], places: Sequence[str], *, across: str) -> bytes:
    """Return a PNG of panels below each other.

    Args:
        panels: At least one.
        places: Labels along the horizontal axis, evenly spaced.
        across: What they are.
    """
    figure = Figure(figsize=(_WIDTH, _TALL * len(panels)), dpi=_DOTS, layout="constrained")
    grid: Any = figure.subplots(len(panels), 1, sharex=True, squeeze=False)
    for panel, axes in zip(panels, grid[:, 0], strict=True):
        _draw_lines(axes, panel)
    last: Axes = grid[-1, 0]
    last.set_xticks(range(len(places)), [_plain(each) for each in places])
    last.set_xlabel(_plain(across))
    return _png(figure)


def draw_grids(grids: Sequence[Grid]) -> bytes:
    """Return a PNG of maps below each other, a row a layer and a column a head.

    Args:
        grids: At least one.
    """
    heights = [0.9 + 0.28 * len(grid.rows) for grid in grids]
    figure = Figure(figsize=(_WIDTH, sum(heights)), dpi=_DOTS, layout="constrained")
    several: Any = figure.subplots(len(grids), 1, squeeze=False, height_ratios=heights)
    for grid, axes in zip(grids, several[:, 0], strict=True):
        width = max(map(len, grid.values))
        cells = [[*row, *[math.nan] * (width - len(row))] for row in grid.values]
        shown = axes.imshow(cells, aspect="auto", cmap="viridis", interpolation="nearest")
        axes.set_title(_plain(grid.title), fontsize="small")
        axes.set_yticks(range(len(grid.rows)), [_plain(each) for each in grid.rows])
        axes.set_xlabel("head")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        figure.colorbar(shown, ax=axes)
    return _png(figure)


def _draw_lines(axes: Axes, panel: Panel) -> None:
    for name, values in panel.lines.items():
        places = range(len(values))
        means = [value.mean for value in values]
        (line,) = axes.plot(places, means, marker="o", label=_plain(name))
        # An interval that is not known is not drawn; one that is, even where others are not.
        low, high = zip(*(_bounds(value) for value in values), strict=True)
        axes.fill_between(places, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
    axes.set_ylabel(_plain(panel.label))
    axes.grid(visible=True, alpha=0.3)
    axes.legend(loc="best", fontsize="small")


def _bounds(value: Interval) -> tuple[float, float]:
    known = math.isfinite(value.low) and math.isfinite(value.high)
    return (value.low, value.high) if known else (value.mean, value.mean)


def _plain(text: str) -> str:
    """Return text in which a dollar begins no formula."""
    return text.replace("$", r"\$")


def _png(figure: Figure) -> bytes:
    FigureCanvasAgg(figure)
    file = io.BytesIO()
    figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()
