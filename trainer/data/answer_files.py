"""Whether what is learnt from is a file of answers, which no teacher has read."""

from __future__ import annotations

import os
from pathlib import Path

from logitstore import SettingError

__all__ = ["is_answers", "labels_only", "refuse_teacher"]

_SUFFIX = ".parquet"


def is_answers(source: object) -> bool:
    """Whether `source` names a Parquet file; a store is a folder.

    Args:
        source: What was given as a store.
    """
    if not isinstance(source, str | os.PathLike):
        return False
    path = Path(source)
    return path.suffix.lower() == _SUFFIX and path.is_file()


def labels_only(spec: object) -> bool:
    """Whether targets are labels, by the spec of what is read: no teacher stands behind them.

    Args:
        spec: Of a store, or of answers.
    """
    return bool(getattr(spec, "labels_only", False))


def refuse_teacher(place: object, *, alpha: float) -> None:
    """Raise SettingError where a loss asks answers for a teacher.

    Args:
        place: What is learnt from, for the message.
        alpha: The weight of the teacher's distributions.
    """
    if alpha > 0:
        raise SettingError(
            "these are answers, and no distributions of a teacher",
            place=str(place),
            found=f"--alpha {alpha:g}",
            remedy="Learn from the answers alone with --alpha 0, or let a teacher read them with "
            "`logitstore dump` first",
        )
