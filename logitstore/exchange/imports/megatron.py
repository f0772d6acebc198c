"""Megatron-LM's saved logits: tar files of zstd around `torch.save`, without tokens.

    cp{C}_dp{D}__{last iteration}.tar    _meta.json, then {iteration}.pt.zst:
        {"values": [..], "indices_low": [..], "bit_17": [..]}, a tensor a microbatch, each [S, B, K]

id = bit_17 * 65536 + indices_low; -1000 is the value of a place that is not in use. Row s belongs
to token s + 1 of its sample. Sample (iteration i, microbatch m, column b) of rank d is number
((i M + m) DP + d) B + b of the training stream, whose tokens must be given. Rank c of C context
ranks holds the chunks c and 2C - 1 - c of the 2C chunks of a sequence.

Described by Megatron-LM at d98e8a64. Shapes: S rows of a sample, B samples, K entries.
"""

from __future__ import annotations

import io
import pickle
import re
import tarfile
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from logitstore.corpus.sources import reading
from logitstore.errors import CorpusError
from logitstore.exchange.foreign_documents import ForeignDocument, SparseRows, Values
from logitstore.exchange.foreign_files import Foreign, ForeignFile, files_of, refuse_given
from logitstore.exchange.token_files import next_tokens, token_records

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from logitstore.exchange.foreign_files import Request

__all__ = ["open_megatron"]

_NAME = re.compile(r"cp(\d+)_dp(\d+)__(\d+)\.tar")
_MEMBER = re.compile(r"(\d+)\.pt\.zst")
_UNUSED = -1000.0  # and below: what float16 or bfloat16 make of it is the same
_MOST_RANKS, _MOST_PAYLOAD = 4096, 1 << 31
_WHY = "the files hold no tokens and no order of documents"
_KEYS = ("values", "indices_low", "bit_17")


def open_megatron(request: Request) -> Foreign:
    """The files of all ranks in one folder. Raises CorpusError or SettingError.

    request: what was asked for.
    """
    refuse_given(request, "config", "alignment", "bos", what="Megatron-LM's files")
    paths = files_of(request.source, "cp*_dp*__*.tar")
    ranks = _by_rank(paths)
    token_records(request.tokens, why=_WHY)
    return Foreign(
        files=(
            ForeignFile(
                name=request.source.name,
                paths=tuple(paths),
                read=lambda: _documents(ranks, request),
            ),
        ),
        values=Values.LOGPROBS,
        lacks=(
            "the teacher's temperature",
            "the last row of a sample whose next token is not given",
        ),
        settings={"context_ranks": len(ranks), "data_ranks": len(ranks[0])},
    )


def _by_rank(paths: Sequence[Path]) -> list[list[list[Path]]]:
    """The files of context rank c and data rank d at [c][d], in the order of iterations."""
    found: dict[tuple[int, int], list[tuple[int, Path]]] = {}
    for path in paths:
        match = _NAME.fullmatch(path.name)
        if match is None:
            raise CorpusError(
                "the name is none of Megatron-LM's", place=str(path), allowed="cp0_dp0__99.tar"
            )
        context, data, last = (int(one) for one in match.groups())
        if max(context, data) >= _MOST_RANKS:
            raise CorpusError("the rank is out of range", place=str(path), allowed=_MOST_RANKS)
        found.setdefault((context, data), []).append((last, path))
    contexts, datas = (1 + max(rank[axis] for rank in found) for axis in (0, 1))
    missing = [(c, d) for c in range(contexts) for d in range(datas) if (c, d) not in found]
    if missing:
        raise CorpusError(
            "the files of a rank are missing",
            place=str(paths[0].parent),
            found="no cp{}_dp{}".format(*missing[0]),
            allowed=f"{contexts} context ranks and {datas} data ranks",
        )
    return [
        [[path for _, path in sorted(found[c, d])] for d in range(datas)] for c in range(contexts)
    ]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Step:
    """One iteration of one rank: rows of each microbatch, [S, B, K]."""

    place: str
    iteration: int
    ids: list[np.ndarray]
    values: list[np.ndarray]


def _documents(ranks: list[list[list[Path]]], request: Request) -> Iterator[ForeignDocument]:
    tokens = token_records(request.tokens, why=_WHY)
    streams = [_steps(paths) for context in ranks for paths in context]
    datas, passed = len(ranks[0]), 0
    for steps in zip_longest(*streams):
        first = next(one for one in steps if one is not None)
        for one in steps:
            _check_alike(one, first)
        per_step = len(first.values) * datas * first.values[0].shape[1]
        for sample in range(first.iteration * per_step, (first.iteration + 1) * per_step):
            while passed < sample:  # iterations that were not saved
                next_tokens(tokens, place=f"sample {passed}")
                passed += 1
            record = next_tokens(tokens, place=f"{first.place}, sample {sample}")
            passed += 1
            yield _document(steps, sample, sample - first.iteration * per_step, datas, record)


def _check_alike(step: _Step | None, first: _Step) -> None:
    """Raise CorpusError where ranks have other iterations or shapes than the first of them."""
    shapes = [] if step is None else [one.shape[:2] for one in step.values]
    if (
        step is None
        or step.iteration != first.iteration
        or shapes != [first.values[0].shape[:2]] * len(first.values)
    ):
        raise CorpusError(
            "the ranks do not hold the same iterations and shapes",
            place=first.place,
            found="nothing" if step is None else f"{step.place}: {shapes}",
            allowed=f"iteration {first.iteration}, {len(first.values)} microbatches of one shape",
        )


def _document(
    steps: Sequence[_Step], sample: int, at: int, datas: int, record: Any
) -> ForeignDocument:
    """The rows of one sample, its chunks put in order, as a document of the tokens given for it."""
    step = steps[0]
    columns = step.values[0].shape[1]
    microbatch, rest = divmod(at, datas * columns)
    data, column = divmod(rest, columns)
    contexts = len(steps) // datas
    own = [steps[context * datas + data] for context in range(contexts)]
    parts = [(one.ids[microbatch][:, column], one.values[microbatch][:, column]) for one in own]
    place = f"{own[0].place}, microbatch {microbatch}, column {column}"
    width = max(ids.shape[1] for ids, _ in parts)
    ids_SK, values_SK = (
        _in_order([_padded(part[side], width, fill) for part in parts], place=place)
        for side, fill in ((0, 0), (1, _UNUSED))
    )
    ids_L = record.input_ids_L
    if len(ids_L) not in (len(ids_SK), len(ids_SK) + 1):
        raise CorpusError(
            "a sample of --tokens has another length",
            place=record.place,
            found=len(ids_L),
            allowed=f"{len(ids_SK)}, or {len(ids_SK) + 1} with the token behind",
        )
    rows = SparseRows(ids_RK=ids_SK, values_RK=values_SK, used_RK=values_SK > _UNUSED)
    counted_L = np.ones(len(ids_L), dtype=bool)
    counted_L[0] = False
    return ForeignDocument(
        place=place,
        record=sample,
        piece=0,
        input_ids_L=ids_L,
        counted_L=counted_L,
        rows=rows.rows(slice(0, len(ids_L) - 1)),
    )


def _padded(part_SK: np.ndarray, width: int, fill: float) -> np.ndarray:
    room = ((0, 0), (0, width - part_SK.shape[1]))
    return np.pad(part_SK, room, constant_values=fill)


def _in_order(parts: list[np.ndarray], *, place: str) -> np.ndarray:
    """The rows of a sequence from those of its context ranks, each of which has two chunks."""
    if len(parts) == 1:
        return parts[0]
    count = len(parts[0])
    if count % 2 or any(len(one) != count for one in parts):
        raise CorpusError("context ranks have no two equal chunks", place=place, found=count)
    halves = [(one[: count // 2], one[count // 2 :]) for one in parts]
    return np.concatenate([one for one, _ in halves] + [two for _, two in reversed(halves)])


def _steps(paths: Sequence[Path]) -> Iterator[_Step]:
    """The iterations of one rank, which must rise."""
    last = -1
    for path in paths:
        for name, data in _members(path):
            match = _MEMBER.fullmatch(name)
            if match is None:
                continue
            place, iteration = f"{path}: {name}", int(match[1])
            if iteration <= last:
                raise CorpusError("iterations do not rise", place=place, found=iteration)
            last = iteration
            yield _step(data, iteration=iteration, place=place)
        named = _NAME.fullmatch(path.name)
        if named is not None and last != int(named[3]):
            raise CorpusError(
                "the file does not end with the iteration that its name says",
                place=str(path),
                found="none" if last < 0 else last,
                allowed=named[3],
                remedy="It was cut off, or is still being written",
            )


def _members(path: Path) -> Iterator[tuple[str, bytes]]:
    try:
        with reading(str(path)), tarfile.open(path, mode="r:") as tar:
            for member in tar:
                if not member.isfile() or member.size > _MOST_PAYLOAD:
                    raise CorpusError(
                        "a member is no file of a fit size",
                        place=f"{path}: {member.name}",
                        found=member.size,
                    )
                content = tar.extractfile(member)
                data = b"" if content is None else content.read()
                if len(data) != member.size:
                    raise CorpusError("a member is cut off", place=f"{path}: {member.name}")
                yield member.name, data
    except tarfile.TarError as error:
        raise CorpusError(f"this is no sound tar file: {error}", place=str(path)) from error


def _step(data: bytes, *, iteration: int, place: str) -> _Step:
    content = _load(data, place=place)
    parts = content if isinstance(content, dict) else {}
    lists: list[Any] = [parts.get(key) for key in _KEYS]
    if not all(isinstance(one, list) and one for one in lists) or len({*map(len, lists)}) != 1:
        raise CorpusError("there are no lists of tensors", place=place, allowed=", ".join(_KEYS))
    ids, values = [], []
    for value, low, high in zip(*lists, strict=True):
        value_SBK, low_SBK, high_SBK = (_array(one, place=place) for one in (value, low, high))
        if value_SBK.ndim != 3 or not value_SBK.shape == low_SBK.shape == high_SBK.shape:
            raise CorpusError(
                "tensors of a microbatch differ in shape",
                place=place,
                found=f"{value_SBK.shape}, {low_SBK.shape}, {high_SBK.shape}",
            )
        ids.append(high_SBK.astype(np.int64) * 65536 + low_SBK.astype(np.int64))
        values.append(value_SBK.astype(np.float64))
    return _Step(place=place, iteration=iteration, ids=ids, values=values)


def _array(tensor: Any, *, place: str) -> np.ndarray:
    import torch

    if not isinstance(tensor, torch.Tensor) or tensor.is_sparse or tensor.is_quantized:
        raise CorpusError("there is something that is no tensor", place=place)
    if tensor.dtype == torch.bfloat16:
        tensor = tensor.float()
    found: np.ndarray = tensor.detach().contiguous().numpy()
    return found


def _load(data: bytes, *, place: str) -> Any:
    """What `torch.save` has written; nothing in it is run."""
    import torch

    with reading(place), pa.CompressedInputStream(pa.BufferReader(data), "zstd") as stream:
        plain = stream.read(_MOST_PAYLOAD + 1)
    if len(plain) > _MOST_PAYLOAD:
        raise CorpusError("unpacks to too many bytes", place=place, allowed=f"{_MOST_PAYLOAD:,}")
    try:
        return torch.load(io.BytesIO(plain), weights_only=True, map_location="cpu")
    except (
        RuntimeError,
        ValueError,
        EOFError,
        KeyError,
        TypeError,
        pickle.UnpicklingError,
    ) as error:
        problem = " ".join(str(error).split())[:200]
        raise CorpusError(f"torch cannot load it: {problem}", place=place) from error
