"""The options of `estimate` and `tune`, and the checks of their values."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from logitstore.dumping.options import HIDDEN_LAYERS, JOB_OPTIONS, TARGET_OPTIONS
from logitstore.errors import SettingError, StorageError
from logitstore.options import Option
from logitstore.progress import ON_PROGRESS
from logitstore.store.local import LocalStorage

if TYPE_CHECKING:
    from os import PathLike

__all__ = ["ESTIMATE_OPTIONS", "PICTURE_SUFFIXES", "TUNE_OPTIONS"]

PICTURE_SUFFIXES = (".png", ".svg", ".pdf")


def _refuse_picture(path: str | PathLike[str]) -> None:
    """Refuse a file that the picture cannot be written to, before anything is measured for it."""
    if not str(path).lower().endswith(PICTURE_SUFFIXES):
        raise SettingError(
            "this is no name of a picture",
            found=path,
            allowed=f"a {', '.join(PICTURE_SUFFIXES)} file",
        )
    try:
        LocalStorage.of_file(path)
    except StorageError as error:
        raise SettingError("cannot be written", found=path, remedy=error.remedy) from error


_SECONDS = Option(
    name="seconds",
    kind=float,
    default=60.0,
    above=0,
    help="Spend about this many seconds on a sample; loading the teacher is not included.",
)
_PLAN_ONLY = Option(
    name="plan_only",
    kind=bool,
    default=False,
    excludes=("seconds",),
    help="Do not load the teacher: say what the corpus is, estimate its targets from tokenised "
    "samples and the bytes roughly, and no time.",
)
_MAX_BYTES = Option(
    name="max_bytes",
    kind=float,
    default=None,
    nullable=True,
    above=0,
    excludes=("max_error",),
    help="Choose the setting with the least error within this many bytes per target.",
)
_MAX_ERROR = Option(
    name="max_error",
    kind=float,
    default=None,
    nullable=True,
    above=0,
    excludes=("max_bytes",),
    help="Choose the setting with the fewest bytes within this error, as in 0.05.",
)
_OUT = Option(
    name="out",
    kind=Path,
    default=None,
    nullable=True,
    refuse=_refuse_picture,
    help="Draw a picture of the trade-off to this file: .png, .svg or .pdf.",
    in_python="Without one no picture is drawn.",
)

ESTIMATE_OPTIONS = (
    *JOB_OPTIONS,
    *TARGET_OPTIONS,
    HIDDEN_LAYERS,
    replace(_SECONDS, excludes=("plan_only",)),
    _PLAN_ONLY,
    ON_PROGRESS,
)
TUNE_OPTIONS = (*JOB_OPTIONS, _SECONDS, _MAX_BYTES, _MAX_ERROR, _OUT, ON_PROGRESS)
