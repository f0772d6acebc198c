"""What the arrays of a Zarr shard may be: their metadata, compared before Zarr reads it.

A store may come from anywhere, and Zarr would run any codec, read any order of memory and set aside
any room that the metadata of an array asks for. So an array has the metadata that this format gives
an array of its shape, and a shape that the commit and the spec imply.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from logitstore.errors import CorruptionError
from logitstore.format.columns import DOCUMENT_COLUMNS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from logitstore.format.blocks import BlockCounts
    from logitstore.store.containers.limits import ShardLimits

__all__ = [
    "BLOCKED",
    "BY_ENTRY",
    "CHUNKED",
    "ArrayPlan",
    "array_plans",
    "check_group",
    "check_metadata",
    "chunked",
    "object_names",
]

BY_ENTRY = (0, 2, 1)  # the order of axes in which the n-th entries of all rows are neighbours
CHUNKED = ("entries", "scalars", "tokens", "states")
BLOCKED = (*CHUNKED, "documents")  # every other array is a table
_STATES = "states"
_GROUP = {"attributes": {}, "zarr_format": 3, "node_type": "group"}
_WIDTH = 4  # bytes of an integer, at most
_MASK = "counted"  # a column of one plane, whose name is that of the column
_ZSTD_LEVELS = range(-131072, 23)


@dataclass(frozen=True, kw_only=True, slots=True)
class ArrayPlan:
    """What an array must be: all but how many byte planes each of its columns has."""

    columns: frozenset[str]  # of which the planes are; empty for the documents
    rest: tuple[int, ...]  # the axes behind that of the planes; all axes of the documents
    chunk: tuple[int, ...]  # of a chunk, along these axes


def array_plans(
    blocks: Sequence[BlockCounts], names: Sequence[str], limits: ShardLimits
) -> dict[str, ArrayPlan]:
    """Array -> what it must be, in a shard of these blocks; a table may be shorter.

    blocks: the counts of each.
    names: of the columns of entries.
    limits: of the shard.
    """
    targets, tokens, documents = (
        max((getattr(block, name) for block in blocks), default=1)
        for name in ("targets", "tokens", "documents")
    )
    count, wide = len(blocks), limits.entries
    return {
        "entries": ArrayPlan(
            columns=frozenset(names),
            rest=(count * targets, wide),
            chunk=(targets, wide // limits.draws),
        ),
        "scalars": ArrayPlan(columns=limits.scalars, rest=(count * targets,), chunk=(targets,)),
        "tokens": ArrayPlan(
            columns=frozenset(("id", _MASK)), rest=(count * tokens,), chunk=(tokens,)
        ),
        "documents": ArrayPlan(
            columns=frozenset(),
            rest=(count * documents, len(DOCUMENT_COLUMNS)),
            chunk=(documents, len(DOCUMENT_COLUMNS)),
        ),
        **_of_states(limits, count=count, targets=targets),
        **{
            name: ArrayPlan(columns=frozenset(("id",)), rest=(limits.table,), chunk=(limits.table,))
            for name in limits.tables
        },
    }


def chunked(limits: ShardLimits) -> tuple[str, ...]:
    """The arrays of a shard that have chunks of their own for each block, but the documents.

    limits: of the shard.
    """
    return CHUNKED if limits.states else tuple(one for one in CHUNKED if one != _STATES)


def _of_states(limits: ShardLimits, *, count: int, targets: int) -> dict[str, ArrayPlan]:
    """The array of hidden states, where there are any."""
    if not limits.states:
        return {}
    return {
        _STATES: ArrayPlan(
            columns=frozenset(limits.states),
            rest=(count * targets, limits.width),
            chunk=(targets, limits.width),
        )
    }


def object_names(limits: ShardLimits) -> set[str]:
    """The objects of a shard: metadata and one file for each array.

    limits: of the shard.
    """
    axes = {"entries": 3, **dict.fromkeys(("scalars", "tokens", "documents", *limits.tables), 2)}
    axes |= {_STATES: 3} if limits.states else {}
    files = {f"{name}/c/{'/'.join('0' * number)}" for name, number in axes.items()}
    return {"zarr.json", *(f"{name}/zarr.json" for name in axes), *files}


def check_group(content: Any, *, place: str) -> None:
    """Raise CorruptionError unless the metadata of a shard's group is as this format writes it.

    content: JSON of any kind.
    place: what an error names.
    """
    _refuse_other(content, _GROUP, place=place)


def check_metadata(content: Any, name: str, plan: ArrayPlan, *, place: str) -> None:
    """Raise CorruptionError unless the metadata of an array is as this format writes it.

    content: JSON of any kind.
    name: of the array.
    plan: what the array must be.
    place: what an error names.
    """
    if name not in BLOCKED:
        rows = _at(content, "shape", 1)
        if type(rows) is int and 0 < rows < plan.rest[0]:
            plan = replace(plan, rest=(rows,), chunk=(rows,))
    planes = _planes(content, plan, place=place) if plan.columns else None
    count = () if planes is None else (len(planes),)
    shape, chunk = [*count, *plan.rest], [*(1 for _ in count), *plan.chunk]
    attributes = {"columns": list(DOCUMENT_COLUMNS)} if planes is None else {"planes": planes}
    wanted = {
        "shape": shape,
        "data_type": "uint64" if planes is None else "uint8",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": shape}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": 0,
        "codecs": [_sharding(content, name, chunk, wide=planes is None)],
        "attributes": attributes,
        "zarr_format": 3,
        "node_type": "array",
        "storage_transformers": [],
    }
    _refuse_other(content, wanted, place=place)


def _refuse_other(content: Any, wanted: dict[str, Any], *, place: str) -> None:
    """Compare each part; a float or a bool is no integer, though Python says they are equal."""
    if not isinstance(content, dict) or set(content) != set(wanted):
        odd = set(content) ^ set(wanted) if isinstance(content, dict) else {type(content).__name__}
        raise CorruptionError(
            "metadata of Zarr is missing or unknown", place=place, found=", ".join(sorted(odd))
        )
    for name, value in wanted.items():
        if repr(content[name]) != repr(value) and _sorted(content[name]) != _sorted(value):
            raise CorruptionError(
                f"the {name} of an array is another than this format's",
                place=place,
                found=content[name],
                allowed=value,
            )


def _sorted(value: Any) -> str:
    if isinstance(value, dict):
        return repr({name: _sorted(value[name]) for name in sorted(value)})
    return repr([_sorted(one) for one in value]) if isinstance(value, list) else repr(value)


def _sharding(content: Any, name: str, chunk: list[int], *, wide: bool) -> dict[str, Any]:
    """The codec that such an array has; the level of zstd and the order of axes are its own."""
    found = _at(content, "codecs", 0, "configuration", "codecs")
    names = [_at(one, "name") for one in found] if isinstance(found, list) else []
    chain: list[dict[str, Any]] = []
    if name == "entries" and names[:1] == ["transpose"]:
        chain.append({"name": "transpose", "configuration": {"order": list(BY_ENTRY)}})
    little = {"name": "bytes", "configuration": {"endian": "little"}}
    # Bytes have no order; some versions of Zarr write one for them.
    plain = {"name": "bytes"} if {"name": "bytes"} in (found or ()) else little
    zstd = found[names.index("zstd")] if "zstd" in names else None
    level, checksum = _at(zstd, "configuration", "level"), _at(zstd, "configuration", "checksum")
    if type(level) is not int or level not in _ZSTD_LEVELS or type(checksum) is not bool:
        level, checksum = 9, False
    return {
        "name": "sharding_indexed",
        "configuration": {
            "chunk_shape": chunk,
            "codecs": [
                *chain,
                little if wide else plain,
                {"name": "zstd", "configuration": {"level": level, "checksum": checksum}},
                {"name": "crc32c"},
            ],
            "index_codecs": [little, {"name": "crc32c"}],
            "index_location": "end",
        },
    }


def _at(content: Any, *way: str | int) -> Any:
    """What stands in JSON at the end of a way; None where it does not lead so far."""
    for step in way:
        if isinstance(step, str):
            content = content.get(step) if isinstance(content, dict) else None
        else:
            content = content[step] if isinstance(content, list) and len(content) > step else None
    return content


def _planes(content: Any, plan: ArrayPlan, *, place: str) -> list[str]:
    """The names of an array's planes: those of each of its columns, least significant first."""
    planes = _at(content, "attributes", "planes")
    most = _WIDTH * len(plan.columns)
    if isinstance(planes, list) and len(planes) <= most and all(type(o) is str for o in planes):
        held: dict[str, int] = {}
        for plane in planes:
            column, _, byte = plane.partition(".")
            due = "" if column == _MASK else str(held.get(column, 0))
            if byte != due or (column == _MASK and column in held):
                break
            held[column] = held.get(column, 0) + 1
        else:
            if set(held) == plan.columns and max(held.values()) <= _WIDTH:
                return planes
    raise CorruptionError(
        "planes are missing, unknown or not in order",
        place=place,
        found=planes,
        allowed=f"bytes of {', '.join(sorted(plan.columns))}",
    )
