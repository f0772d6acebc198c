"""A dataclass from the JSON object it was written as, its fields' names and plain types checked."""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import Any, TypeVar

from logitstore.errors import CorruptionError

__all__ = ["build"]

T = TypeVar("T")

_JSON_KINDS: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "str | None": (str, type(None)),
    "int": (int,),
    "int | None": (int, type(None)),
    "dict": (dict,),
    "tuple": (list, tuple),
    "float | None": (int, float, type(None)),
}


def build(kind: type[T], content: Any, *, place: str) -> T:
    """`kind(**content)`, after a check of the names and the plain types of its fields."""
    if not isinstance(content, dict):
        raise CorruptionError("an object is missing", place=place, found=type(content).__name__)
    wanted = {one.name: str(one.type) for one in fields(kind)}  # type: ignore[arg-type]
    required = {one.name for one in fields(kind) if one.default is MISSING}  # type: ignore[arg-type]
    if not required <= set(content) <= set(wanted):
        odd = sorted((required - set(content)) | (set(content) - set(wanted)))
        raise CorruptionError("fields missing or unknown", place=place, found=", ".join(odd))
    for name, value in content.items():
        allowed = _JSON_KINDS.get(wanted[name].split("[")[0])
        negative = isinstance(value, int) and not 0 <= value < 1 << 53
        if allowed and (not isinstance(value, allowed) or isinstance(value, bool) or negative):
            raise CorruptionError(
                f"field {name} is of another type",
                place=place,
                found=repr(value)[:80],
                allowed=wanted[name],
            )
    return kind(**content)
