"""The report's charts: matplotlib's SVG, made fit to stand inside a page.

Ink and series are drawn in marker colours that become the page's CSS variables, so a chart follows
the page's light or dark theme; ids get a prefix, so that several charts may stand in one page; text
stays text. Nothing here depends on the clock or the machine: the same figures give the same bytes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from io import StringIO
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
from markupsafe import Markup, escape
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

__all__ = [
    "DASHES",
    "PALETTE",
    "Series",
    "bar_chart",
    "curve_chart",
    "interval_chart",
    "reliability_chart",
]

PALETTE = 8  # series colours that the page defines; the ninth series is dashed instead
DASHES = ((), (6, 2), (2, 2), (8, 2, 2, 2))  # so colour is never all that tells two series apart
MAX_POINTS = 240  # of a curve; more are averaged in equal bins, or a page would weigh megabytes

_INK, _PAPER, _GRID, _REFERENCE = "#010203", "#010204", "#010205", "#010206"
_SERIES = [f"#0102{number:02x}" for number in range(0x10, 0x10 + PALETTE)]
_STYLE = {
    "axes.edgecolor": _GRID,
    "axes.grid": True,
    "axes.labelcolor": _INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.family": "sans-serif",
    "font.size": 10,
    "grid.color": _GRID,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.8,
    "svg.fonttype": "none",
    "svg.hashsalt": "report",
    "text.color": _INK,
    "text.parse_math": False,  # a run may be named "lr=$1"
    "xtick.color": _INK,
    "ytick.color": _INK,
}
_VARIABLES = {
    _INK: "currentColor",
    _PAPER: "var(--paper)",
    _GRID: "var(--grid)",
    _REFERENCE: "var(--reference)",
    **{colour: f"var(--series-{number})" for number, colour in enumerate(_SERIES)},
}


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Series:
    """One run's points in a chart. `number` is its place among the runs: its colour and dash."""

    name: str
    number: int
    x_N: np.ndarray
    y_N: np.ndarray

    @property
    def colour(self) -> str:
        """The marker colour that the page's variable replaces."""
        return _SERIES[self.number % PALETTE]

    @property
    def dashes(self) -> tuple[int, ...]:
        """On and off lengths; empty for a solid line."""
        return DASHES[self.number // PALETTE % len(DASHES)]


def curve_chart(series: Sequence[Series], *, key: str, title: str, unit: str) -> Markup:
    """One line per run over the steps of training.

    Args:
        series: The runs: step and value of each report.
        key: The prefix of the chart's ids, one for each chart of a page.
        title: The chart's name for screen readers.
        unit: What stands beside the vertical axis.
    """
    with mpl.rc_context(_STYLE):
        figure, axes = _axes(width=4.8, height=3.2)
        for one in series:
            x_N, y_N = _thin(one.x_N), _thin(one.y_N)
            marker = "o" if len(x_N) == 1 else ""
            axes.plot(x_N, y_N, color=one.colour, dashes=one.dashes or (None, None), marker=marker)
        axes.set_xlabel("step")
        axes.set_ylabel(unit)
        return _svg(figure, key=key, title=title, description=_ends(series))


def interval_chart(
    series: Sequence[Series],
    *,
    halves: Sequence[np.ndarray],
    key: str,
    title: str,
    across: str,
    unit: str,
    line: tuple[str, float] | None = None,
) -> Markup:
    """Means with their intervals over the values of a setting, one line for each series.

    Args:
        series: The values of the setting and the means there.
        halves: Half the width of each interval; NaN draws none.
        key: The prefix of the chart's ids, one for each chart of a page.
        title: The chart's name for screen readers.
        across: What stands below the horizontal axis.
        unit: What stands beside the vertical axis.
        line: Name and value of a dashed line to compare with; None for no line.
    """
    ticks = sorted({float(x) for one in series for x in one.x_N})
    place = {value: number for number, value in enumerate(ticks)}
    with mpl.rc_context(_STYLE):
        figure, axes = _axes(width=4.8, height=3.2)
        for number, (one, half_N) in enumerate(zip(series, halves, strict=True)):
            # Side by side, so that intervals of several series do not cover each other.
            x_N = np.array([place[float(x)] for x in one.x_N]) + 0.06 * number
            axes.errorbar(
                x_N,
                one.y_N,
                yerr=np.nan_to_num(half_N),
                color=one.colour,
                marker="o",
                markersize=4,
                capsize=3,
                dashes=one.dashes or (None, None),
            )
        if line is not None:
            axes.axhline(line[1], color=_REFERENCE, dashes=(4, 3), linewidth=1.2)
            axes.annotate(
                line[0],
                (0.0, line[1]),
                xytext=(2, 3),
                textcoords="offset points",
                color=_REFERENCE,
                fontsize=9,
            )
        axes.set_xticks(range(len(ticks)), [f"{value:g}" for value in ticks])
        axes.set_xlabel(across)
        axes.set_ylabel(unit)
        return _svg(figure, key=key, title=title, description=_points(series))


def bar_chart(
    bars: Sequence[Series], *, key: str, title: str, unit: str, line: tuple[str, float] | None
) -> Markup:
    """One bar per run from zero, its value next to it.

    Args:
        bars: The runs; the value is the first of `y_N`.
        key: The prefix of the chart's ids, one for each chart of a page.
        title: The chart's name for screen readers.
        unit: What stands below the horizontal axis.
        line: Name and value of a dashed line to compare with; None for no line.
    """
    with mpl.rc_context(_STYLE):
        figure, axes = _axes(width=7.6, height=0.9 + 0.42 * len(bars))
        values = [float(bar.y_N[0]) for bar in bars]
        for place, (bar, value) in enumerate(zip(bars, values, strict=True)):
            axes.barh(place, value, height=0.62, color=bar.colour)
            # At a bar's foot, where the line never runs; next to a bar too short to hold it.
            inside = value > 0.2 * max(values)
            axes.annotate(
                f"{value:.3f}",
                (0 if inside else value, place),
                (8, 0),
                textcoords="offset points",
                color=_PAPER if inside else _INK,
                va="center",
            )
        axes.set_yticks(range(len(bars)), [_short(bar.name) for bar in bars])
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.set_xlabel(unit)
        axes.margins(x=0.06)
        description = "; ".join(
            f"{bar.name} {value:.3f}" for bar, value in zip(bars, values, strict=True)
        )
        if line is not None:
            axes.axvline(line[1], color=_REFERENCE, linestyle="--")
            axes.set_title(f"- - {line[0]} {line[1]:.3f}", loc="right", fontsize=10)
            description += f"; {line[0]} {line[1]:.3f}"
        return _svg(figure, key=key, title=title, description=description)


def reliability_chart(series: Sequence[Series], *, key: str, title: str) -> Markup:
    """Accuracy over confidence, one line per run; a calibrated model lies on the diagonal.

    Args:
        series: The runs: confidence and accuracy of each bin.
        key: The prefix of the chart's ids, one for each chart of a page.
        title: The chart's name for screen readers.
    """
    with mpl.rc_context(_STYLE):
        figure, axes = _axes(width=4.8, height=4.4)
        axes.plot([0, 1], [0, 1], color=_REFERENCE, linewidth=1.0, linestyle="--")
        for one in series:
            axes.plot(
                one.x_N,
                one.y_N,
                color=one.colour,
                dashes=one.dashes or (None, None),
                marker="o",
                markersize=4,
            )
        axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="confidence", ylabel="accuracy")
        mean_gap = "; ".join(
            f"{one.name} is {float(np.mean(one.x_N - one.y_N)):+.2f} from the diagonal on average"
            for one in series
        )
        return _svg(figure, key=key, title=title, description=mean_gap)


def _axes(*, width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.patch.set_alpha(0.0)
    axes = figure.add_subplot()
    axes.patch.set_alpha(0.0)
    axes.set_axisbelow(True)
    return figure, axes


def _svg(figure: Figure, *, key: str, title: str, description: str) -> Markup:
    """The figure as one <svg> element with a name and a description for those who cannot see it."""
    buffer = StringIO()
    figure.savefig(
        buffer,
        format="svg",
        metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")),
    )
    _, _, content = buffer.getvalue().partition("<svg")
    attributes, _, body = content.partition(">")
    view = re.search(r'viewBox="[^"]*"', attributes)
    body = re.sub(r'\bid="', f'id="{key}-', body)
    body = re.sub(r'href="#', f'href="#{key}-', body)
    body = body.replace("url(#", f"url(#{key}-")
    for colour, variable in _VARIABLES.items():
        body = body.replace(colour, variable)
    return Markup(
        '<svg role="img" aria-labelledby="{key}-title {key}-desc" {view}'
        ' xmlns:xlink="http://www.w3.org/1999/xlink">'
        '<title id="{key}-title">{title}</title><desc id="{key}-desc">{description}</desc>{body}'
    ).format(
        key=key,
        view=Markup(view.group(0) if view else ""),
        title=escape(title),
        description=escape(description),
        body=Markup(body),
    )


def _thin(values_N: np.ndarray) -> np.ndarray:
    """At most `MAX_POINTS` values: the means of equal bins."""
    if len(values_N) <= MAX_POINTS:
        return values_N
    return np.array([part.mean() for part in np.array_split(values_N, MAX_POINTS)])


def _points(series: Sequence[Series]) -> str:
    return "; ".join(
        f"{one.name}: "
        + ", ".join(f"{y:.3f} at {x:g}" for x, y in zip(one.x_N, one.y_N, strict=True))
        for one in series
    )


def _ends(series: Sequence[Series]) -> str:
    return "; ".join(f"{one.name}: from {one.y_N[0]:.3f} to {one.y_N[-1]:.3f}" for one in series)


def _short(name: str) -> str:
    return name if len(name) <= 28 else f"{name[:27]}…"
