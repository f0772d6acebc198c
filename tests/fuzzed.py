"""What properties are tried on: values of JSON, objects of a store by their fields, odd values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st

from logitstore.errors import LogitStoreError
from logitstore.format.manifest import BlockCounts, Commit, Manifest, StoredObject
from logitstore.format.plan import Plan, WorkUnit
from logitstore.format.spec import FORMATS, CodecSpec, TeacherSpec, TokenizerSpec
from tools.fuzzing.choices import Choices

__all__ = ["CHOICES", "JSON", "KINDS", "ODD", "TEXT", "one_of_kind", "told"]

TEXT = st.text(st.characters(codec="utf-8"), max_size=12)
_COUNT = st.integers(0, (1 << 53) - 1)
_REAL = st.floats(-1e17, 1e17)

# Values of JSON that have a canonical form, nested less deep than JSON of a store may be.
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)
# Decisions by which sound content is changed.
CHOICES = st.binary(max_size=80).map(Choices)
# What a user of Python may give for an option.
ODD = st.one_of(
    JSON,
    st.floats(),
    st.binary(max_size=4),
    st.complex_numbers(),
    st.text(max_size=6),
    st.sampled_from([np.int64(3), np.float32(0.5), np.array([1, 2]), np.bool_(True)]),
    st.sampled_from([Path("a"), Decimal("0.1"), object(), int, {1}, b"", 10**400, range(2)]),
)

_BY_TYPE: dict[str, Any] = {
    "str": TEXT,
    "str | None": st.none() | TEXT,
    "int": _COUNT,
    "int | None": st.none() | _COUNT,
    "bool": st.booleans(),
    "dict[str, str]": st.dictionaries(TEXT, TEXT, max_size=3),
    "dict[str, int]": st.dictionaries(TEXT, _COUNT, max_size=3),
    "dict[str, float]": st.dictionaries(TEXT, _REAL, max_size=3),
}


def one_of_kind(kind: Any, **given: Any) -> Any:
    """Objects of a dataclass: each field of any value of its type, or as the strategy `given`."""
    types = {one.name: str(one.type) for one in fields(kind)}
    return st.builds(
        kind,
        **{name: given[name] if name in given else _BY_TYPE[one] for name, one in types.items()},
    )


def told(read: Callable[[], Any]) -> tuple[Any, str | None]:
    """What `read` gives, or the message with which it refuses to."""
    try:
        return read(), None
    except LogitStoreError as error:
        return None, str(error)


_CHUNKS = st.none() | st.text("0123456789abcdef", min_size=8, max_size=8)
_BLOCKS = st.lists(
    one_of_kind(
        BlockCounts,
        **dict.fromkeys(("documents", "tokens", "targets"), _COUNT.map(lambda n: max(1, n))),
    ),
    max_size=3,
).map(tuple)
_OBJECTS = st.lists(one_of_kind(StoredObject, chunks=_CHUNKS), max_size=3).map(tuple)

# Kind -> any of its objects: what stands in a store as JSON.
KINDS: dict[Any, Any] = {
    Commit: one_of_kind(Commit, objects=_OBJECTS, blocks=_BLOCKS),
    # As older stores have it. That of today's is made of whole stores: the counts must add up.
    Manifest: one_of_kind(
        Manifest,
        format=st.sampled_from(FORMATS[:3]),
        skipped=st.just(0),
        column_bytes=st.builds(dict),
        sums=st.builds(dict),
        units=st.none(),
        blocks=st.none(),
    ),
    Plan: one_of_kind(Plan, units=st.lists(one_of_kind(WorkUnit), max_size=3).map(tuple)),
    TeacherSpec: one_of_kind(TeacherSpec),
    TokenizerSpec: one_of_kind(TokenizerSpec, vocab_size=st.integers(1, 1 << 20)),
    CodecSpec: one_of_kind(CodecSpec),
}
