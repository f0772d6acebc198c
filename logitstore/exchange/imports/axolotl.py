"""axolotl's data sets of knowledge distillation, raw and prepared.

    prepared   input_ids, target_token_ids, target_logprobs, target_mask, each [T, k]
    raw        logprobs, target_token_ids: a row for each token of the answer
    legacy     a column of lists of {token: "token_id:N", logprob}, likewise

Two systems wrote prepared rows under one schema: row t for token t, or for token t + 1; nobody can
tell them apart but who made them. Their values are renormalised over the k kept. Raw data has no
token ids: they must be given, with the tokens that count.

Described by axolotl at 067b021c. Shapes: L tokens, T rows, K entries.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from logitstore.errors import CorpusError, SettingError
from logitstore.exchange.arrow_rows import matrix, numbers, open_table, rows_of, table_files
from logitstore.exchange.foreign_documents import ForeignDocument, SparseRows, Values
from logitstore.exchange.foreign_files import ALIGNMENTS, Foreign, ForeignFile, refuse_given
from logitstore.exchange.token_files import TokenRecord, next_tokens, token_records
from logitstore.exchange.token_names import id_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from logitstore.exchange.foreign_files import Request

__all__ = ["open_axolotl"]

_PREPARED = ("input_ids", "target_token_ids", "target_logprobs", "target_mask")
_RAW = ("target_token_ids", "logprobs")
_LEGACY = "llm_text_generation_vllm_logprobs"
_WHY = "the data set holds no token ids of its texts"


def open_axolotl(request: Request) -> Foreign:
    """The files of a folder, or one of them. Raises CorpusError or SettingError.

    request: what was asked for.
    """
    refuse_given(request, "config", "bos", what="axolotl's data sets")
    paths = table_files(request.source)
    names = set(open_table(paths[0]).schema.names)
    if set(_PREPARED) <= names:
        return _prepared(paths, request)
    if set(_RAW) <= names:
        return _raw(paths, request, _raw_rows, _RAW)
    if _LEGACY in names:
        return _raw(paths, request, _legacy_rows, (_LEGACY,))
    raise CorpusError(
        "these are no columns of axolotl",
        place=str(paths[0]),
        found=", ".join(sorted(names)),
        allowed=f"{', '.join(_PREPARED)}; or {', '.join(_RAW)}; or {_LEGACY}",
    )


def _prepared(paths: list[Path], request: Request) -> Foreign:
    refuse_given(request, "tokens", what="prepared data, which has its tokens")
    if request.alignment is None:
        raise SettingError(
            "--alignment is missing: under this schema row t is for token t in some data sets and "
            "for token t + 1 in others, and no file says which",
            place=str(request.source),
            allowed="same (prepared offline, row t for token t), next (from a server while "
            "training, row t for token t + 1)",
        )
    step = ALIGNMENTS[request.alignment]
    return Foreign(
        files=tuple(
            ForeignFile(name=path.name, paths=(path,), read=partial(_of_prepared, path, step))
            for path in paths
        ),
        values=Values.SHARES,
        lacks=("names of documents",),
        settings={"alignment": request.alignment},
    )


def _of_prepared(path: Path, step: int) -> Iterator[ForeignDocument]:
    for number, row in rows_of(path, _PREPARED):
        place = f"{path}, record {number}"
        ids_L = numbers(row["input_ids"], kind=int, place=f"{place}, input_ids")
        ids_TK, mask_TK = (
            matrix(row[name], kind=int, place=f"{place}, {name}")
            for name in ("target_token_ids", "target_mask")
        )
        values_TK = matrix(row["target_logprobs"], kind=float, place=f"{place}, target_logprobs")
        if not ids_TK.shape == mask_TK.shape == values_TK.shape or len(ids_TK) != len(ids_L):
            raise CorpusError(
                "the columns are of different shapes",
                place=place,
                found=f"{len(ids_L)} tokens, {ids_TK.shape}, {values_TK.shape}, {mask_TK.shape}",
            )
        used_TK = (mask_TK != 0) & (values_TK != -np.inf)
        rows = np.flatnonzero(used_TK.any(axis=1))
        if len(rows) and rows[-1] + step >= len(ids_L):
            raise CorpusError(
                "a row belongs to a token behind the last",
                place=f"{place}, row {rows[-1]}",
                remedy="Check --alignment",
            )
        counted_L = np.zeros(len(ids_L), dtype=bool)
        counted_L[rows + step] = True
        yield ForeignDocument(
            place=place,
            record=number,
            piece=0,
            input_ids_L=ids_L,
            counted_L=counted_L,
            rows=SparseRows(ids_RK=ids_TK[rows], values_RK=values_TK[rows], used_RK=used_TK[rows]),
        )


def _raw(
    paths: list[Path],
    request: Request,
    rows: Callable[[dict[str, Any], str], SparseRows],
    columns: tuple[str, ...],
) -> Foreign:
    refuse_given(request, "alignment", what="raw data, where row j is for token j of the answer")
    token_records(request.tokens, why=_WHY)

    def documents() -> Iterator[ForeignDocument]:
        tokens = token_records(request.tokens, why=_WHY)
        record = -1
        for path in paths:
            for number, row in rows_of(path, columns):
                record += 1
                place = f"{path}, record {number}"
                yield _with_tokens(
                    place, record, next_tokens(tokens, place=place), rows(row, place)
                )

    return Foreign(
        files=(ForeignFile(name=request.source.name, paths=tuple(paths), read=documents),),
        values=Values.LOGPROBS,
        lacks=("token ids of the texts, which were given beside it",),
    )


def _with_tokens(place: str, record: int, tokens: TokenRecord, rows: SparseRows) -> ForeignDocument:
    if tokens.counted_L is None:
        raise CorpusError(
            "a record of --tokens does not say which tokens are the answer's",
            place=tokens.place,
            allowed="a list `counted`, 1 for each token that has a row",
        )
    return ForeignDocument(
        place=place,
        record=record,
        piece=0,
        input_ids_L=tokens.input_ids_L,
        counted_L=tokens.counted_L,
        rows=rows,
    )


def _raw_rows(row: dict[str, Any], place: str) -> SparseRows:
    ids_RK = matrix(row["target_token_ids"], kind=int, place=f"{place}, target_token_ids")
    values_RK = matrix(row["logprobs"], kind=float, place=f"{place}, logprobs")
    if ids_RK.shape != values_RK.shape:
        raise CorpusError(
            "ids and values differ in shape",
            place=place,
            found=values_RK.shape,
            allowed=ids_RK.shape,
        )
    return SparseRows(ids_RK=ids_RK, values_RK=values_RK, used_RK=values_RK != -np.inf)


def _legacy_rows(row: dict[str, Any], place: str) -> SparseRows:
    ids, values = [], []
    for number, entries in enumerate(row[_LEGACY].as_py() or ()):
        at = f"{place}, row {number}"
        found = [one for one in entries or () if isinstance(one, dict)]
        if not all(isinstance(one.get("logprob"), float) for one in found):
            raise CorpusError("an entry has no log-probability", place=at)
        ids.append([id_of(one.get("token"), place=at) for one in found])
        values.append([one["logprob"] for one in found])
    return SparseRows.ragged(ids, values)
