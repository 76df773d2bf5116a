"""Draws a sweep as a PNG: rates with their intervals, and the general loss below.

Apart, since matplotlib takes its time to import. Without a window, and without pyplot's global
state. Absent: the plot in the terminal, which is the command line's.
"""

import io
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from tvc.behaviours.results import Measured
from tvc.behaviours.sweeping import Point

__all__ = ["draw_sweep"]

_SIZE = (7.0, 4.2)
_TALL = (7.0, 6.2)
_DOTS = 150


def draw_sweep(points: Sequence[Point], *, term: str) -> bytes:
    """Return a PNG of what a term's coefficient does.

    Args:
        points: At least one, all of one suite.
        term: What is scaled, for the axis.
    """
    losses = [point.measured.loss for point in points]
    figure = Figure(figsize=_TALL if all(losses) else _SIZE, dpi=_DOTS, layout="constrained")
    FigureCanvasAgg(figure)
    panels: list[Axes] = list(
        figure.subplots(
            2 if all(losses) else 1,
            1,
            sharex=True,
            squeeze=False,
            height_ratios=[3, 1] if all(losses) else None,
        )[:, 0]
    )
    _draw_rates(panels[0], points)
    if all(losses):
        _draw_losses(panels[1], points)
    # What a recipe says may hold a dollar, which would begin a formula.
    panels[-1].set_xlabel(f"coefficient of {term}".replace("$", r"\$"))
    file = io.BytesIO()
    figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()


def _draw_rates(axes: Axes, points: Sequence[Point]) -> None:
    numbers = [float(point.coefficient) for point in points]
    for name in points[0].measured.behaviours:
        rates = [point.measured.behaviours[name].alone.rate for point in points]
        (line,) = axes.plot(
            numbers, [rate.value for rate in rates], marker="o", label=name.replace("$", r"\$")
        )
        low, high = zip(*(rate.interval for rate in rates), strict=True)
        axes.fill_between(numbers, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
    axes.set_ylabel("rate, with 95 % intervals")
    axes.set_ylim(-0.02, 1.02)
    axes.grid(visible=True, alpha=0.3)
    axes.legend(loc="best", fontsize="small")


def _draw_losses(axes: Axes, points: Sequence[Point]) -> None:
    numbers = [float(point.coefficient) for point in points]
    losses = [_loss(point.measured) for point in points]
    axes.plot(numbers, losses, marker="o", color="black")
    axes.set_ylabel("general loss")
    axes.grid(visible=True, alpha=0.3)


def _loss(measured: Measured) -> float:
    assert measured.loss is not None
    return measured.loss.value
