"""The files that hold a model's weights: which of them are read, and a hash that names them all.

An index says which file holds which tensor. It must not reach beyond the folder, whose files alone
are hashed; and a folder must not hold two models at once.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from logitstore.errors import ModelError, StoreError
from logitstore.format.json import fingerprint, parse_json

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["check_weight_files", "reads_safetensors", "weights_fingerprint"]

_PATTERNS = ("*.safetensors", "*.bin", "*.safetensors.index.json", "*.bin.index.json")
_NAMES = ("model.safetensors", "pytorch_model.bin")


def reads_safetensors(folder: Path) -> bool:
    """Whether the weights of a folder are read from safetensors; else from .bin files.

    folder: that of the model.
    """
    return any(folder.glob("*.safetensors*")) or not any(folder.glob("pytorch_model*.bin*"))


def check_weight_files(folder: Path) -> None:
    """Raise ModelError where an index names files that are not there, or beside a whole model.

    folder: that of the model.
    """
    name = _NAMES[0] if reads_safetensors(folder) else _NAMES[1]
    index = folder / f"{name}.index.json"
    if not index.is_file():
        return
    files = _indexed(index)
    if (folder / name).is_file():
        if all((folder / file).is_file() for file in files):
            raise ModelError(
                f"the folder holds two models: {name}, and the parts that {index.name} names",
                place=folder,
                remedy="Remove the one that is not meant",
            )
        return
    for file in files:
        if "/" in file or "\\" in file:
            raise ModelError(
                "the index names a file outside of the model's folder", place=index, found=file
            )
        if not (folder / file).is_file():
            raise ModelError(
                "a file of the model is missing",
                place=folder,
                found=f"no {file}, which {index.name} names",
                remedy="Fetch the model again",
            )


def _indexed(index: Path) -> list[str]:
    try:
        content: Any = parse_json(index.read_bytes(), place=str(index))
    except (OSError, StoreError) as error:
        raise ModelError(
            f"the index cannot be read: {' '.join(str(error).split())[:200]}", place=index
        ) from error
    names = content.get("weight_map") if isinstance(content, dict) else None
    files = list(names.values()) if isinstance(names, dict) else []
    if not files or not all(isinstance(one, str) for one in files):
        raise ModelError("the index has no weight_map of file names", place=index)
    return sorted(set(files))


def weights_fingerprint(path: Path) -> str:
    """A hash that names a model: its configuration and the bytes of its weights and their index.

    path: the folder of the model, or its GGUF file, whose bytes are all there is.
    """
    if path.is_file():
        return _sha256(path)
    files = [file for pattern in _PATTERNS for file in sorted(path.glob(pattern))]
    return fingerprint({file.name: _sha256(file) for file in [path / "config.json", *files]})


def _sha256(path: Path) -> str:
    # The Hub's cache names a file's blob by its sha256, so 140 GB need not be read for it.
    blob = path.resolve().name
    if path.is_symlink() and len(blob) == 64:
        return blob
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
