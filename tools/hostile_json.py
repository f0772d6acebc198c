"""Hostile stores, one field of JSON at a time: store.json, plan.json, commits, manifest, Zarr."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tools.reseal import read_json, shard_folder, write_json

__all__ = ["Kind", "json_kinds"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Kind:
    """One fault of one field, or file, of a store."""

    area: str
    name: str
    change: Callable[[Path], None]  # of the store's folder
    resealed: bool = True  # after the change
    objects: bool = False  # whether it changes shards or the tokenizer


_LONG = "x" * 100_000
_ANY: dict[str, Any] = {
    "null": None,
    "a list": [],
    "an object": {},
    "true": True,
    "a text": "evil",
    "a long text": _LONG,
    "codes of a terminal": "\x1b]0;evil\x07\u202e[/nope]",
    "minus one": -1,
    "a fraction": 0.5,
    "2^50": 1 << 50,
    "2^63": 1 << 63,
    "10^400": 10**400,
    "1e308": 1e308,
}
_FEW = ("null", "a text", "true", "minus one", "a fraction", "2^50", "10^400")  # for Zarr
_TEXTS = {
    "empty": "",
    "a way out": "../../../../etc/passwd",
    "a path": "/etc/passwd",
    "a zero byte": "a\0b",
}


def json_kinds(store: Path) -> Iterator[Kind]:
    """All kinds for the JSON of a sound store.

    store: its folder.
    """
    commit = min((store / "commits").iterdir()).name
    for area, name, resealed in (
        ("store.json", "store.json", True),
        ("plan.json", "plan.json", True),
        ("commit", f"commits/{commit}", True),
        ("manifest.json", "manifest.json", False),
    ):
        yield from _of_file(store, name, area=area, resealed=resealed)
    shard = shard_folder(store)
    for array in ("", "entries", "documents", "ranking"):
        path = shard / array / "zarr.json"
        if not path.is_file():
            continue
        name = path.relative_to(store).as_posix()
        yield from _of_file(store, name, area="Zarr metadata", resealed=True, objects=True)


def _of_file(
    store: Path, name: str, *, area: str, resealed: bool, objects: bool = False
) -> Iterator[Kind]:
    content = read_json(store / name)
    short = "/".join(Path(name).parts[-2:]) if objects else Path(name).name

    def kind(what: str, make: Callable[[Any], Any]) -> Kind:
        def change(folder: Path) -> None:
            path = folder / name
            before = read_json(path)
            after = make(deepcopy(before))
            if objects or name == "manifest.json":
                text = json.dumps(after, sort_keys=True, indent=2, ensure_ascii=False)
                path.write_bytes((text + "\n").encode("utf-8", "surrogatepass"))
            else:
                write_json(path, after)

        told = f"{short}: {what}"
        return Kind(area=area, name=told, change=change, resealed=resealed, objects=objects)

    yield kind("no object", lambda _: [])
    yield kind("an unknown field", lambda old: {**old, "more": 1})
    for way in _ways(content):
        value = _get(content, way)
        where = ".".join(map(str, way))
        yield kind(f"{where} left out", partial(_without, way=way))
        for what, fault in _faults(value).items():
            if objects and what in _ANY and what not in _FEW:
                continue
            yield kind(f"{where} is {what}", partial(_set, way=way, value=fault))


def _faults(value: Any) -> dict[str, Any]:
    """What a value becomes: wrong types first, then wrong values of its own type."""
    if isinstance(value, dict | list):
        few = ("null", "a text", "minus one", "true")
        other: Any = [] if isinstance(value, dict) else {}
        found = {"the other kind": other, **{name: _ANY[name] for name in few}}
        if isinstance(value, list) and value:
            found |= {"empty": [], "twice as long": value * 2, "backwards": value[::-1]}
            found |= {"100,000 times": value * 100_000} if len(value) == 1 else {}
        return {name: one for name, one in found.items() if one != value}
    found = dict(_ANY)
    if isinstance(value, str):
        found |= _TEXTS
    elif isinstance(value, int | float) and not isinstance(value, bool):
        found |= {
            "zero": 0,
            "one less": value - 1,
            "one more": value + 1,
            "a thousand times as much": value * 1000,
        }
    return {name: one for name, one in found.items() if repr(one) != repr(value)}


def _ways(content: Any, before: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Each field; of a list its first element alone, of many like names the first."""
    if before:
        yield before
    if isinstance(content, dict):
        hashes = [name for name in content if "/" in name or "." in name]
        names = [name for name in content if name not in hashes[1:]]
        for name in names:
            yield from _ways(content[name], (*before, name))
    elif isinstance(content, list) and content:
        yield from _ways(content[0], (*before, 0))


def _get(content: Any, way: tuple[str | int, ...]) -> Any:
    for step in way:
        content = content[step]
    return content


def _set(content: Any, *, way: tuple[str | int, ...], value: Any) -> Any:
    _get(content, way[:-1])[way[-1]] = value
    return content


def _without(content: Any, *, way: tuple[str | int, ...]) -> Any:
    del _get(content, way[:-1])[way[-1]]
    return content
