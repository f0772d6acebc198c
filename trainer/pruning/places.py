"""What is refused of a teacher's and of a student's folder before torch is imported."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from logitstore import ModelError, StorageError, StoreError
from logitstore.plumbing import gguf_file

__all__ = ["refuse_bad_teacher", "refuse_used"]

_ELSEWHERE = "Name another folder (--out)"


def refuse_used(out: Path) -> None:
    """Raise StoreError for a folder that holds files, StorageError for one that nobody may read.

    Args:
        out: The folder of the student, which need not be there.
    """
    try:
        names = [one.name for one in islice(out.iterdir(), 2)] if out.is_dir() else []
    except OSError as error:
        raise StorageError(
            f"the folder cannot be used: {error.strerror}", place=out, remedy=_ELSEWHERE
        ) from error
    if names:
        raise StoreError("the folder is not empty", place=out, found=names[0], remedy=_ELSEWHERE)


def refuse_bad_teacher(teacher: str | Path) -> None:
    """Raise ModelError for an adapter, which is a part of a model, and for a GGUF file.

    Args:
        teacher: How the user named it, or its folder.
    """
    if (Path(teacher) / "adapter_config.json").is_file():
        raise ModelError(
            "the folder holds an adapter, whose layers are those of another model",
            place=teacher,
            remedy="Merge it into that model (merge_and_unload of PEFT), save the result with "
            "save_pretrained and name its folder",
        )
    if gguf_file(str(teacher)) is not None:
        raise ModelError(
            "a student is made from a transformers folder, not from a .gguf file",
            place=teacher,
            remedy="Name the folder that the file was made from, or have transformers load the "
            "file and save it with save_pretrained",
        )
