"""The picture of a trade-off: error over bytes a target, one line for each sparsifier."""

from __future__ import annotations

import io
from itertools import groupby
from typing import TYPE_CHECKING

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from logitstore.errors import SettingError, StorageError
from logitstore.store.local import LocalStorage

if TYPE_CHECKING:
    from collections.abc import Sequence
    from os import PathLike

    from logitstore.forecast.tradeoff import Setting

__all__ = ["check_picture", "draw"]

_SUFFIXES = (".png", ".svg", ".pdf")
_STYLE = {
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 10,
    "grid.color": "0.9",
    "svg.fonttype": "none",
    "svg.hashsalt": "tradeoff",
}
# The same figures give the same bytes.
_NO_CLOCK: dict[str, dict[str, None]] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
_MARKERS = "osD^v"  # so colour is never all that tells two lines apart


def check_picture(path: str | PathLike[str]) -> tuple[LocalStorage, str]:
    """The folder and the name of the picture's file.

    A file that cannot be written is refused before anything is measured for it.
    """
    if not str(path).lower().endswith(_SUFFIXES):
        raise SettingError(
            "--out is no name of a picture", found=path, allowed=f"a {', '.join(_SUFFIXES)} file"
        )
    try:
        return LocalStorage.of_file(path)
    except StorageError as error:
        raise SettingError("--out cannot be written", found=path, remedy=error.remedy) from error


def draw(settings: Sequence[Setting], recommended: Setting, *, name: str) -> bytes:
    """The picture, in the format that the suffix of the file's name says."""
    picture = io.BytesIO()
    kind = name.rpartition(".")[2].lower()
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(7.2, 4.6), layout="constrained")
        axes = figure.add_subplot()
        by_name = sorted(settings, key=lambda one: (one.sparsify, one.bytes_per_target))
        groups = groupby(by_name, key=lambda one: one.sparsify)
        for marker, (name, group) in zip(_MARKERS, groups, strict=False):
            line = list(group)
            bytes_N, error_N = (
                [one.bytes_per_target for one in line],
                [one.error for one in line],
            )
            axes.plot(bytes_N, error_N, marker=marker, markersize=5, label=name)
            for one in line:
                axes.annotate(
                    _short(one),
                    (one.bytes_per_target, one.error),
                    (5, -11 if name == "topp" else 4),  # topp lies on topk's line
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


def _short(one: Setting) -> str:
    """What tells the settings of one sparsifier apart."""
    if one.sparsify == "topp":
        return f"{one.options['top_p']:g}"
    return "+".join(f"{value:g}" for value in one.options.values())
