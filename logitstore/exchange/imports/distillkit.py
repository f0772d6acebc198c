"""DistillKit's Parquet: its codec, the legacy layout before it, and plain columns.

    compressed_logprobs, bytepacked_indices        today's codec; settings in a file beside it
    packed_indices, exact_values, coeffs           legacy; settings are not written by the system
    token_ids, top_values                          plain

Row t is the distribution of token t + 1. Where a record has as many rows as tokens, the last row of
each document in it predicts a token that was cut off, and is left out; `attention_mask` numbers the
documents of a record from 1.

Described by arcee-ai/DistillKit at a61c2e7. Shapes: L tokens, R rows, K entries.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from logitstore.errors import CorpusError
from logitstore.exchange.arrow_rows import matrix, numbers, open_table, rows_of, table_files
from logitstore.exchange.foreign_documents import ForeignDocument, SparseRows, Values
from logitstore.exchange.foreign_files import Foreign, ForeignFile, refuse_given
from logitstore.exchange.imports.distillkit_codec import Legacy, Packed
from logitstore.exchange.imports.distillkit_config import read_config
from logitstore.targets.targets import EMPTY_TAIL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from logitstore.exchange.foreign_files import Request

__all__ = ["open_distillkit"]

_PACKED = ("compressed_logprobs", "bytepacked_indices")
_LEGACY = ("packed_indices", "exact_values", "coeffs")
_PLAIN = ("token_ids", "top_values")


def open_distillkit(request: Request) -> Foreign:
    """The files of a folder, or one of them. Raises CorpusError or SettingError.

    request: what was asked for.
    """
    refuse_given(request, "tokens", "alignment", "bos", what="DistillKit's files")
    paths = table_files(request.source)
    names = open_table(paths[0]).schema.names
    layout = next((one for one in (_PACKED, _LEGACY, _PLAIN) if set(one) <= set(names)), None)
    if layout is None:
        raise CorpusError(
            "these are no columns of DistillKit",
            place=str(paths[0]),
            found=", ".join(names),
            allowed=" or ".join(", ".join(one) for one in (_PACKED, _LEGACY, _PLAIN)),
        )
    if layout is _PLAIN:
        refuse_given(request, "config", what="plain columns")
        decode: Callable[[dict[str, Any], str], SparseRows] = _plain
        settings: dict[str, Any] = {}
        columns = None
    else:
        codec: Packed | Legacy
        if layout is _PACKED:
            codec = read_config(request, kind=Packed)
        else:
            codec = read_config(request, kind=Legacy)
        decode, settings, columns = codec.decode, codec.settings, codec.vocab_size
    return Foreign(
        files=tuple(
            ForeignFile(
                name=path.name,
                paths=(path,),
                read=partial(_documents, path, layout, decode),
            )
            for path in paths
        ),
        values=Values.LOGPROBS,
        lacks=(
            "names of documents",
            "whether a document's last token was added by the writer",
        ),
        settings=settings,
        columns=columns,
        tested=True,
    )


def _plain(row: dict[str, Any], place: str) -> SparseRows:
    ids_RK = matrix(row["token_ids"], kind=int, place=f"{place}, token_ids")
    values_RK = matrix(row["top_values"], kind=float, place=f"{place}, top_values")
    if ids_RK.shape != values_RK.shape:
        raise CorpusError(
            "ids and values differ in shape",
            place=place,
            found=values_RK.shape,
            allowed=ids_RK.shape,
        )
    # Our own export pads so: DistillKit's reader knows no padding, and such a token weighs nothing.
    return SparseRows(ids_RK=ids_RK, values_RK=values_RK, used_RK=~(values_RK <= EMPTY_TAIL / 2))


def _documents(
    path: Path, layout: tuple[str, ...], decode: Callable[[dict[str, Any], str], SparseRows]
) -> Iterator[ForeignDocument]:
    mask = ["attention_mask"] if "attention_mask" in open_table(path).schema.names else []
    for number, row in rows_of(path, ["input_ids", *layout, *mask]):
        place = f"{path}, record {number}"
        ids_L = numbers(row["input_ids"], kind=int, place=f"{place}, input_ids")
        rows = decode(row, place)
        if len(rows) not in (len(ids_L) - 1, len(ids_L)):
            raise CorpusError(
                "there is another number of rows than the layout has",
                place=place,
                found=len(rows),
                allowed=f"{len(ids_L) - 1} or {len(ids_L)}, for {len(ids_L)} tokens",
            )
        numbers_L = np.ones(len(ids_L), dtype=np.int64)
        if mask:
            numbers_L = numbers(row[mask[0]], kind=int, place=f"{place}, attention_mask")
        if len(numbers_L) != len(ids_L):
            raise CorpusError("attention_mask has another length than input_ids", place=place)
        yield from _pieces(place, number, ids_L, numbers_L, rows)


def _pieces(
    place: str, record: int, ids_L: np.ndarray, numbers_L: np.ndarray, rows: SparseRows
) -> Iterator[ForeignDocument]:
    """The documents of a record, which has a number for each; 0 is padding."""
    borders = np.flatnonzero(np.diff(numbers_L)) + 1
    for piece, part in enumerate(np.split(np.arange(len(ids_L)), borders)):
        if len(part) < 2 or numbers_L[part[0]] == 0:
            continue
        counted_L = np.ones(len(part), dtype=bool)
        counted_L[0] = False
        yield ForeignDocument(
            place=place if len(borders) == 0 else f"{place}, document {piece + 1}",
            record=record,
            piece=piece,
            input_ids_L=ids_L[part],
            counted_L=counted_L,
            rows=rows.rows(slice(int(part[0]), int(part[-1]))),
        )
