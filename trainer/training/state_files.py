"""State files: JSON objects of a run that carry a hash of their own, their fields checked.

A file that has changed since it was written, by as little as a digit, is refused with its name. The
files of earlier versions carry no hash; the types and ranges of their fields are checked alike.
"""

from __future__ import annotations

import json
import math
import re
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from logitstore import StorageError, StoreError
from logitstore.plumbing import LocalStorage, checked_content, parse_json, sha256_of, with_check

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

__all__ = [
    "CHECK",
    "DIAGNOSES",
    "DIAGNOSIS",
    "EVALS",
    "EVALUATION",
    "FLAG",
    "HASHES",
    "NEWEST",
    "NUMBER",
    "NUMBERS",
    "SECONDS",
    "TEXT",
    "Field",
    "FindingWarning",
    "RunWarning",
    "count",
    "read_json",
    "read_state",
    "refuse_changed_file",
    "refuse_odd_fields",
    "same",
    "warn",
    "write_json",
    "write_state",
]

EVALUATION = "trainer-eval/2"  # the format of eval.json; earlier ones name none
NEWEST = "eval.json"  # in the folder of a run: the newest comparison with a store
EVALS = "evals"  # the folder beside it, with one file for each evaluation, by its name
DIAGNOSIS = "trainer-diagnosis/1"  # the format of what `trainer diagnose` keeps
DIAGNOSES = "diagnoses"  # the folder of a run in which that is kept, by its name
CHECK = "sha256"  # the field that holds the hash of the others
_MOST = 1 << 53  # the integers below it are the same in every reader of JSON


class RunWarning(UserWarning):
    """What a user should know of a run that goes on."""


class FindingWarning(RunWarning):
    """What is likely wrong with the settings of a run."""


def warn(message: str, kind: type[RunWarning] = RunWarning) -> None:
    """Tell the user something of a run that goes on: `warnings.warn`, or a line of the command."""
    warnings.warn(message, kind, stacklevel=2)


def write_json(path: Path, content: Any) -> None:
    """Write `content` as JSON to `path`, whole or not at all."""
    text = json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    LocalStorage(path.parent).put(path.name, (text + "\n").encode())


def write_state(path: Path, content: dict[str, Any]) -> None:
    """Write `content` and a hash of it to `path`, whole or not at all."""
    LocalStorage(path.parent).put(path.name, with_check(content))


def read_json(path: Path) -> Any:
    """What `write_json` wrote to `path`; None where there is no such file.

    Raises StoreError where the file cannot be read or holds no JSON.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StoreError("the file cannot be read", place=path, found=error) from error
    return parse_json(data, place=str(path))


def read_state(path: Path, *, kind: str, unhashed: str | None) -> dict[str, Any] | None:
    """What `write_state` wrote to `path`, without the hash; None where there is no such file.

    Args:
        path: The file.
        kind: What its field `format` says.
        unhashed: What it says in files of an earlier version, which carry no hash; None where they
            have no such field.

    Raises CorruptionError where the file has changed since it was written or is no JSON, StoreError
    where it cannot be read or is of another format.
    """
    content = read_json(path)
    if content is None and not path.exists():
        return None
    rest = checked_content(content, place=str(path))
    found = rest.get("format") if isinstance(rest, dict) else type(rest).__name__
    if not isinstance(rest, dict) or found not in (kind, unhashed):
        raise StoreError("is of another format", place=path, found=found, allowed=kind)
    if found == kind and CHECK not in content:
        raise StoreError("lacks the hash of its content", place=path, allowed=f"a field {CHECK}")
    return rest


@dataclass(frozen=True, kw_only=True, slots=True)
class Field:
    """What a field of a state file may hold."""

    allowed: str
    fits: Callable[[Any], bool]


def count(least: int = 0, most: int = _MOST) -> Field:
    """A whole number from `least` to `most`."""
    return Field(
        allowed=f"a whole number from {least} on" if most == _MOST else f"{least} to {most}",
        fits=lambda value: type(value) is int and least <= value <= most,
    )


def _is_number(value: Any) -> bool:
    # An integer of thousands of digits has no float to ask.
    return type(value) in (int, float) and abs(value) < 1e300 and math.isfinite(value)


def _is_name(value: Any) -> bool:
    """Whether it is the name of a file below a folder."""
    return (
        isinstance(value, str) and "\0" not in value and not {"", ".", ".."} & {*value.split("/")}
    )


def _are_hashes(value: Any) -> bool:
    return isinstance(value, dict) and all(
        _is_name(name) and isinstance(one, str) and re.fullmatch("[0-9a-f]{64}", one)
        for name, one in value.items()
    )


FLAG = Field(allowed="true or false", fits=lambda value: isinstance(value, bool))
TEXT = Field(allowed="a text", fits=lambda value: isinstance(value, str))
SECONDS = Field(allowed="a number from 0 on", fits=lambda value: _is_number(value) and value >= 0)
NUMBER = Field(allowed="a number", fits=_is_number)
NUMBERS = Field(
    allowed="numbers by name",
    fits=lambda value: isinstance(value, dict) and all(map(_is_number, value.values())),
)
HASHES = Field(allowed="sha256 by the names of files", fits=_are_hashes)


def refuse_odd_fields(
    content: Any, fields: Mapping[str, Field], *, place: object, of: str = ""
) -> None:
    """Raise StoreError for a field that is missing, unknown, of another type, or out of range.

    Args:
        content: What was read: JSON of any kind.
        fields: What it must be.
        place: The file.
        of: The name of the field that holds `content`, with a dot; empty for the whole file.
    """
    if not isinstance(content, dict):
        raise StoreError(
            f"{of.removesuffix('.') or 'the content'} is no object",
            place=place,
            found=_told(content),
        )
    for problem, names in (
        ("is missing", set(fields) - set(content)),
        ("is unknown", set(content) - set(fields)),
    ):
        if names:
            raise StoreError(f"the field {of}{min(names)} {problem}", place=place)
    for name, value in content.items():
        if not fields[name].fits(value):
            raise StoreError(
                f"the field {of}{name} cannot be",
                place=place,
                found=_told(value),
                allowed=fields[name].allowed,
            )


def refuse_changed_file(path: Path, sha256: str) -> None:
    """Raise StoreError where the file `path` is gone, or has another hash.

    Args:
        path: The file.
        sha256: Of its content, in hex, as it was recorded.
    """
    storage = LocalStorage(path.parent)
    try:
        if storage.size(path.name) is None:
            raise StoreError("file is gone", place=path)
        found = sha256_of(storage, path.name)
    except StorageError as error:
        raise StoreError(error.problem, place=path) from error
    if found != sha256:
        raise StoreError(
            "file has changed since it was written",
            place=path,
            found=f"sha256 {found[:12]}",
            allowed=sha256[:12],
        )


def same(one: Any, other: Any) -> bool:
    """Whether two values of JSON are the same: 1 is 1.0, and not true."""
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)


def _told(value: Any) -> str:
    return repr(value)[:80]
