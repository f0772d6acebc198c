"""The picture of a trade-off: error over bytes per target, one line for each sparsifier."""

from __future__ import annotations

import io
from itertools import groupby
from typing import TYPE_CHECKING

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

if TYPE_CHECKING:
    from collections.abc import Sequence

    from logitstore.forecast.tradeoff import MeasuredSparsifier

__all__ = ["draw"]

_STYLE = {
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 10,
    "grid.color": "0.9",
    "svg.fonttype": "none",
    "svg.hashsalt": "tradeoff",
}
# No dates, so that equal measurements give equal bytes.
_NO_CLOCK: dict[str, dict[str, None]] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
_MARKERS = "osD^v"  # so that lines differ by more than their colour


def draw(
    measured: Sequence[MeasuredSparsifier], recommended: MeasuredSparsifier, *, name: str
) -> bytes:
    """The bytes of the picture.

    Args:
        measured: The settings; the points of one sparsifier form a line.
        recommended: The setting that is marked.
        name: Name of the file; its suffix is the format: png, svg or pdf.
    """
    picture = io.BytesIO()
    kind = name.rpartition(".")[2].lower()
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(7.2, 4.6), layout="constrained")
        axes = figure.add_subplot()
        by_name = sorted(measured, key=lambda one: (one.sparsify, one.bytes_per_target))
        groups = groupby(by_name, key=lambda one: one.sparsify)
        for number, (sparsifier, group) in enumerate(groups):
            line, marker = list(group), _MARKERS[number % len(_MARKERS)]
            bytes_N, error_N = (
                [one.bytes_per_target for one in line],
                [one.error for one in line],
            )
            axes.plot(bytes_N, error_N, marker=marker, markersize=5, label=sparsifier)
            for one in line:
                axes.annotate(
                    _short(one, among=line),
                    (one.bytes_per_target, one.error),
                    # Labels above and below, for lines that coincide.
                    (5, -11 if number % 2 else 4),
                    textcoords="offset points",
                    fontsize=8,
                    color="0.35",
                )
        axes.plot(
            [recommended.bytes_per_target],
            [recommended.error],
            marker="o",
            markersize=14,
            fillstyle="none",
            color="0.2",
            linestyle="none",
            label=recommended.command,
        )
        axes.set(xscale="log", yscale="log")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
            axis.set_major_formatter("{x:g}")
            axis.set_minor_locator(NullLocator())
        axes.set_xlabel("stored bytes a target")
        axes.set_ylabel("relative error of a gradient over 2,048 targets")
        axes.legend(frameon=False)
        figure.savefig(picture, format=kind, dpi=144, metadata=_NO_CLOCK.get(kind, {}))
    return picture.getvalue()


def _short(one: MeasuredSparsifier, *, among: Sequence[MeasuredSparsifier]) -> str:
    """The label of a setting: the options in which the settings of its sparsifier differ."""
    varied = [
        name for name in one.options if len({other.options[name] for other in among}) > 1
    ] or list(one.options)
    return "+".join(f"{one.options[name]:g}" for name in varied)
