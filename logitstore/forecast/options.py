"""What `estimate` and `tune` are told, beside what a dump is told."""

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
    help="The seconds to spend on a sample, about; loading the teacher comes on top.",
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
    help="Choose the least error within so many bytes a target.",
)
_MAX_ERROR = Option(
    name="max_error",
    kind=float,
    default=None,
    nullable=True,
    above=0,
    help="Choose the fewest bytes within this error, as in 0.05.",
)
_PICTURE = Option(
    name="picture",
    spelled="out",
    kind=object,
    default=None,
    nullable=True,
    help="The file for a picture of the trade-off: .png, .svg or .pdf.",
)

ESTIMATE_OPTIONS = (*JOB_OPTIONS, *TARGET_OPTIONS, _SECONDS, _ON_FRACTION)
TUNE_OPTIONS = (*JOB_OPTIONS, _SECONDS, _MAX_BYTES, _MAX_ERROR, _PICTURE, _ON_FRACTION)


def check_bounds(
    *, max_bytes: float | None, max_error: float | None, picture: Any, **options: Any
) -> None:
    """Refuse two bounds at once, and a picture that cannot be written, by a SettingError."""
    check_fields(**options)
    if max_bytes is not None and max_error is not None:
        raise SettingError("--max-bytes and --max-error exclude each other")
    if picture is not None:
        check_picture(picture)


def check_picture(path: str | PathLike[str]) -> None:
    """Refuse a file that the picture cannot be written to, before anything is measured for it."""
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
