"""MaxText's saved logits: ArrayRecord files of tf.train.Example, or of safetensors before that.

Values are raw logits of the top k without a normaliser: only the distribution given the top k can
be had. Row t is the distribution of `targets[t]`, which is `inputs[t + 1]`; rows of padding, and
rows whose target belongs to another document than their input, are left out. What was written by
pickle is refused. In batches of safetensors `targets` is not read: in a file of MaxText's own
writer it was unshifted in all sequences of a batch but the first; tokens and rows were right.

Described by MaxText at e591f30c. Shapes: L tokens of a sequence, T rows, K entries, B batch.
"""

from __future__ import annotations

import struct
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from logitstore.errors import CorpusError, SettingError
from logitstore.exchange.foreign_documents import ForeignDocument, SparseRows, Values
from logitstore.exchange.foreign_files import Foreign, ForeignFile, files_of, refuse_given
from logitstore.exchange.imports.tf_example import example_features

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from logitstore.exchange.foreign_files import Request

__all__ = ["open_maxtext"]

_PICKLE = b"\x80"
_MOST_HEADER = 1 << 20


def open_maxtext(request: Request) -> Foreign:
    """The ArrayRecord files of a folder, or one of them. Raises CorpusError or SettingError.

    request: what was asked for.
    """
    refuse_given(request, "config", "tokens", "alignment", "bos", what="MaxText's files")
    _reader_class()
    return Foreign(
        files=tuple(
            ForeignFile(name=path.name, paths=(path,), read=partial(_documents, path))
            for path in files_of(request.source, "*.array_record")
        ),
        values=Values.SHARES,
        lacks=("the normaliser of the logits",),
    )


def _reader_class() -> Any:
    try:
        from array_record.python.array_record_module import ArrayRecordReader
    except ImportError as error:
        raise SettingError(
            "reading ArrayRecord needs the package array_record",
            place="--from maxtext",
            remedy="Install it: pip install 'logitstore[exchange]'",
        ) from error
    return ArrayRecordReader


def _records(path: Path) -> Iterator[bytes]:
    """The records of a file, one at a time; its checksums are looked at."""
    kind = _reader_class()
    try:
        reader = kind(str(path))
        try:
            for number in range(reader.num_records()):
                yield from reader.read([number])
        finally:
            reader.close()
    except (RuntimeError, ValueError, IndexError, OSError) as error:
        problem = " ".join(str(error).split())[:200]
        raise CorpusError(
            f"this is no sound ArrayRecord file: {problem}", place=str(path)
        ) from error


def _documents(path: Path) -> Iterator[ForeignDocument]:
    record = -1
    for number, data in enumerate(_records(path)):
        place = f"{path}, record {number}"
        if data.startswith(_PICKLE):
            raise CorpusError(
                "the record is a pickle, which could run code and is never read",
                place=place,
                remedy="Save the logits again with a MaxText of May 2026 or later",
            )
        for fields in _sequences(data, place=place):
            record += 1
            yield from _pieces(fields, record=record, place=place)


def _sequences(data: bytes, *, place: str) -> Iterator[dict[str, np.ndarray]]:
    """The fields of each sequence of a record: a batch of them, or one."""
    if len(data) > 8 and struct.unpack("<Q", data[:8])[0] <= _MOST_HEADER and data[8:9] == b"{":
        batch = _safetensors(data, place=place)
        for row in range(len(batch["inputs"])):
            yield {name: values[row] for name, values in batch.items()}
        return
    found = example_features(data, place=place)
    for name in ("inputs", "top_k_logits", "top_k_indices"):
        if not isinstance(found.get(name), np.ndarray):
            raise CorpusError("a field is missing", place=place, allowed=name)
    fields = {name: value for name, value in found.items() if isinstance(value, np.ndarray)}
    length = max(1, len(fields["inputs"]))
    for name in ("top_k_logits", "top_k_indices"):
        if len(fields[name]) % length:
            raise CorpusError("top k is no multiple of the tokens", place=f"{place}, {name}")
        fields[name] = fields[name].reshape(length, -1)
    yield fields


def _safetensors(data: bytes, *, place: str) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        found: dict[str, np.ndarray] = load(data)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise CorpusError(f"this is no sound safetensors: {error}", place=place) from error
    found["inputs"] = found.pop("tokens", found.get("inputs", np.zeros(0)))
    found.pop("targets", None)
    shape = found["inputs"].shape
    if len(shape) != 2 or any(one.shape[:2] != shape for one in found.values()):
        raise CorpusError(
            "tensors are of different batches",
            place=place,
            found=", ".join(f"{name} {one.shape}" for name, one in found.items()),
        )
    if not {"top_k_logits", "top_k_indices"} <= set(found):
        raise CorpusError("a field is missing", place=place, allowed="top_k_logits, top_k_indices")
    return found


def _pieces(
    fields: Mapping[str, np.ndarray], *, record: int, place: str
) -> Iterator[ForeignDocument]:
    """The documents of a sequence, by the numbers of its segments; 0 is padding."""
    inputs_L, ids_LK = fields["inputs"], fields["top_k_indices"]
    logits_LK = fields["top_k_logits"]
    length = len(inputs_L)
    targets_L = fields.get("targets", np.append(inputs_L[1:], -1))
    own_L = fields.get("inputs_segmentation", np.ones(length, dtype=np.int64))
    next_L = fields.get("targets_segmentation", np.append(own_L[1:], 0))
    shapes = {one.shape for one in (targets_L, own_L, next_L)}
    if ids_LK.shape != logits_LK.shape or ids_LK.ndim != 2 or shapes != {(length,)}:
        raise CorpusError("fields of a sequence differ in length", place=place, found=length)
    if length < 2 or len(ids_LK) != length:
        raise CorpusError("a sequence is too short", place=place, found=length)
    borders = np.flatnonzero(np.diff(own_L)) + 1
    for piece, part in enumerate(np.split(np.arange(length), borders)):
        if own_L[part[0]] == 0:
            continue
        kept = part[(next_L[part] == own_L[part]) & (targets_L[part] >= 0)]
        following = kept[kept + 1 < length]
        if not np.array_equal(targets_L[following], inputs_L[following + 1]):
            raise CorpusError("a row's target is not the token behind it", place=place)
        # Of a sequence that is full the target of the last row stands in `targets` alone.
        ids_L = inputs_L[part]
        if len(kept) and kept[-1] + 1 == length:
            ids_L = np.append(ids_L, targets_L[kept[-1]])
        counted_L = np.zeros(len(ids_L), dtype=bool)
        counted_L[kept - part[0] + 1] = True
        yield ForeignDocument(
            place=f"{place}, document {piece + 1}",
            record=record,
            piece=piece,
            input_ids_L=ids_L.astype(np.int64),
            counted_L=counted_L,
            rows=SparseRows(
                ids_RK=ids_LK[kept].astype(np.int64),
                values_RK=logits_LK[kept].astype(np.float64),
                used_RK=np.ones((len(kept), ids_LK.shape[1]), dtype=bool),
            ),
        )
