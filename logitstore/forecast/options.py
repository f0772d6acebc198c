"""The options of `estimate` and `tune`, and the checks of their values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from logitstore.dumping.options import JOB_OPTIONS, TARGET_OPTIONS, check_fields
from logitstore.errors import SettingError, StorageError
from logitstore.options import Option
from logitstore.store.local import LocalStorage

if TYPE_CHECKING:
    from os import PathLike

__all__ = ["ESTIMATE_OPTIONS", "PICTURE_SUFFIXES", "TUNE_OPTIONS", "check_bounds", "check_picture"]

PICTURE_SUFFIXES = (".png", ".svg", ".pdf")

_SECONDS = Option(
    name="seconds",
    kind=float,
    default=60.0,
    above=0,
    help="Spend about this many seconds on a sample; loading the teacher is not included.",
)
_ON_FRACTION = Option(
    name="on_fraction",
    kind=object,
    default=None,
    nullable=True,
    python_only=True,
    help="A function that is called with the share of the work that is done, 0 to 1.",
)
_MAX_BYTES = Option(
    name="max_bytes",
    kind=float,
    default=None,
    nullable=True,
    above=0,
    help="Choose the setting with the least error within this many bytes per target.",
)
_MAX_ERROR = Option(
    name="max_error",
    kind=float,
    default=None,
    nullable=True,
    above=0,
    help="Choose the setting with the fewest bytes within this error, as in 0.05.",
)
_PICTURE = Option(
    name="picture",
    spelled="out",
    kind=object,
    default=None,
    nullable=True,
    help="Draw a picture of the trade-off to this file: .png, .svg or .pdf.",
)

ESTIMATE_OPTIONS = (*JOB_OPTIONS, *TARGET_OPTIONS, _SECONDS, _ON_FRACTION)
TUNE_OPTIONS = (*JOB_OPTIONS, _SECONDS, _MAX_BYTES, _MAX_ERROR, _PICTURE, _ON_FRACTION)


def check_bounds(
    *, max_bytes: float | None, max_error: float | None, picture: Any, **options: Any
) -> None:
    """Raise SettingError for options that exclude each other or cannot be satisfied.

    Args:
        max_bytes: The bound on bytes per target, or None.
        max_error: The bound on the error, or None. Only one of the two may be given.
        picture: The file of the picture, or None.
        options: The options of the job.
    """
    check_fields(**options)
    if max_bytes is not None and max_error is not None:
        raise SettingError("--max-bytes and --max-error exclude each other")
    if picture is not None:
        check_picture(picture)


def check_picture(path: str | PathLike[str]) -> None:
    """Raise SettingError where a picture cannot be written to `path`.

    That is where it has another suffix than PICTURE_SUFFIXES, or its folder is missing.
    """
    if not str(path).lower().endswith(PICTURE_SUFFIXES):
        raise SettingError(
            "--out is no name of a picture",
            found=path,
            allowed=f"a {', '.join(PICTURE_SUFFIXES)} file",
        )
    try:
        LocalStorage.of_file(path)
    except StorageError as error:
        raise SettingError("--out cannot be written", found=path, remedy=error.remedy) from error
