"""JSON of a store: one canonical form, caps on size and depth, and typed objects made from it.

Equal content is equal bytes, so a hash of the bytes is a hash of the content. What is read may come
from anywhere: its size, depth, names and plain types are checked before anything is made of it.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import MISSING, fields
from functools import cache
from typing import Any, TypeVar

from logitstore.errors import CorruptionError, shown

__all__ = [
    "MAX_JSON_BYTES",
    "build",
    "canonical_json",
    "checked_content",
    "fingerprint",
    "is_checked",
    "parse_checked",
    "parse_json",
    "with_check",
]

# plan.json is the largest object: about 250 bytes a unit of a million tokens, so 64 MiB of it
# plans 250 billion tokens.
MAX_JSON_BYTES = 64 << 20

_MAX_JSON_DEPTH = 16
# A unit of a plan is one object of eight values. What has more is made to fill memory: 60 MB of
# brackets would take 1.6 GB.
_MAX_JSON_OBJECTS = 1 << 20
_MAX_JSON_VALUES = 8 << 20

T = TypeVar("T")

_JSON_KINDS: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "str | None": (str, type(None)),
    "int": (int,),
    "int | None": (int, type(None)),
    "bool": (bool,),
    "dict": (dict,),
    "Mapping": (dict,),
    "tuple": (list, tuple),
    "float | None": (int, float, type(None)),
}


def canonical_json(content: Any) -> bytes:
    """UTF-8 JSON with sorted keys, two-space indents and a final newline: one content, one form.

    content: what JSON can hold; ValueError or TypeError for anything else.
    """
    text = json.dumps(content, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False)
    return (text + "\n").encode()


def fingerprint(content: Any) -> str:
    """sha256, in hex, of the canonical JSON of `content`."""
    return hashlib.sha256(canonical_json(content)).hexdigest()


_CHECK = "sha256"  # the key under which an object carries the hash of the rest of it
# Its line in canonical JSON. No other key follows with such an indent, and none stands last: every
# object of a store has one that sorts behind it.
_CHECK_LINE = re.compile(rb'\n  "sha256": "[0-9a-f]{64}",(?=\n)')


def with_check(content: dict[str, Any]) -> bytes:
    """The canonical JSON of an object that carries the hash of the rest of it."""
    return canonical_json({**content, _CHECK: fingerprint(content)})


def checked_content(content: Any, *, place: str) -> Any:
    """The object without the hash that it carries; as it is where it carries none, as old ones.

    content: JSON of any kind.
    place: what an error names.

    Raises CorruptionError where the hash is that of something else.
    """
    if not isinstance(content, dict) or _CHECK not in content:
        return content
    rest = {name: value for name, value in content.items() if name != _CHECK}
    found = fingerprint(rest)
    if content[_CHECK] != found:
        raise _changed(content[_CHECK], found, place=place)
    return rest


def _changed(written: Any, found: str, *, place: str) -> CorruptionError:
    return CorruptionError(
        "file has changed since it was written",
        place=place,
        found=f"{_CHECK} {found}",
        allowed=shown(written, most=80),
    )


def parse_json(data: bytes, *, place: str) -> Any:
    """The JSON in `data`, refused when it is too large, too deep or no JSON.

    data: from anywhere.
    place: what an error names.
    """
    if len(data) > MAX_JSON_BYTES:
        raise CorruptionError(
            "file is too large", place=place, found=f"{len(data)} bytes", allowed=MAX_JSON_BYTES
        )
    if data.count(b"[") + data.count(b"{") > _MAX_JSON_OBJECTS or (
        data.count(b",") > _MAX_JSON_VALUES
    ):
        raise CorruptionError(
            "JSON holds too much",
            place=place,
            allowed=f"{_MAX_JSON_OBJECTS:,} objects and {_MAX_JSON_VALUES:,} values",
        )
    try:
        content = json.loads(data)
        # Refuses NaN, infinities and halves of surrogate pairs. Without indents, which are slow.
        json.dumps(content, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError) as error:
        raise CorruptionError(f"file is no JSON: {error}", place=place) from error
    if _is_deeper(content, _MAX_JSON_DEPTH):
        raise CorruptionError("JSON is nested too deep", place=place, allowed=_MAX_JSON_DEPTH)
    return content


def parse_checked(data: bytes, *, place: str) -> Any:
    """The object that `with_check` wrote, without its hash; as it is where it carries none.

    data: from anywhere.
    place: what an error names.

    The bytes are hashed without the line of the hash: objects of a whole store are large, and
    writing their content once more takes ten times as long as reading it. Raises CorruptionError
    where the hash is that of something else.
    """
    content = parse_json(data, place=place)
    if not isinstance(content, dict) or _CHECK not in content:
        return content
    found = hashlib.sha256(_CHECK_LINE.sub(b"", data, count=1)).hexdigest()
    written = content.pop(_CHECK)
    if written != found:
        raise _changed(written, found, place=place)
    return content


def is_checked(data: bytes) -> bool:
    """Whether the bytes of an object carry the hash of the rest of it.

    data: canonical JSON.
    """
    return _CHECK_LINE.search(data) is not None


def _is_deeper(content: Any, most: int) -> bool:
    """Whether objects and lists stand within each other to more than `most` levels."""
    level = [content] if isinstance(content, dict | list) else []
    for _ in range(most):
        insides = [one.values() if isinstance(one, dict) else one for one in level]
        level = [one for inside in insides for one in inside if isinstance(one, dict | list)]
    return bool(level)


def build(kind: type[T], content: Any, *, place: str) -> T:
    """`kind(**content)`, after a check of the names and the plain types of its fields.

    kind: a dataclass.
    content: JSON of any kind.
    place: what an error names.
    """
    if not isinstance(content, dict):
        raise CorruptionError("an object is missing", place=place, found=type(content).__name__)
    wanted, required = _fields_of(kind)  # type: ignore[arg-type]
    if not required <= set(content) <= set(wanted):
        odd = sorted((required - set(content)) | (set(content) - set(wanted)))
        raise CorruptionError("fields missing or unknown", place=place, found=", ".join(odd))
    for name, value in content.items():
        allowed = _JSON_KINDS.get(wanted[name].split("[")[0])
        negative = isinstance(value, int) and not 0 <= value < 1 << 53
        odd_bool = isinstance(value, bool) and allowed != (bool,)
        if allowed and (not isinstance(value, allowed) or odd_bool or negative):
            raise CorruptionError(
                f"field {name} is of another type",
                place=place,
                found=repr(value)[:80],
                allowed=wanted[name],
            )
    return kind(**content)


@cache
def _fields_of(kind: type) -> tuple[dict[str, str], frozenset[str]]:
    """The type of each field of a dataclass, and which fields have no default."""
    declared = fields(kind)
    required = frozenset(
        one.name for one in declared if one.default is one.default_factory is MISSING
    )
    return {one.name: str(one.type) for one in declared}, required
