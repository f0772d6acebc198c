"""Hostile stores, one file at a time: what it is, how large it is, and what a tokenizer holds."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from tools.hostile_json import Kind
from tools.reseal import read_json, shard_folder, write_json

__all__ = ["file_kinds"]

_SPARSE = {"1 TB of nothing": 1 << 40, "2 GB of nothing": 2 << 30, "empty": 0}
_DEVICES = {
    "/dev/zero": "/dev/zero",
    "/dev/random": "/dev/urandom",
    "a terminal": "/dev/tty",
    "nothing": "/nowhere",
    "itself": None,
    "a folder": "/tmp",
    "/proc/self/mem": "/proc/self/mem",
}


def file_kinds(store: Path) -> Iterator[Kind]:
    """All kinds for the files of a sound store.

    store: its folder.
    """
    yield from _types(store)
    yield from _folders(store)
    yield from _tokenizers()
    yield from _json_files(store)


def _types(store: Path) -> Iterator[Kind]:
    """Each kind of object as something that is no file, or as a file of another size."""
    shard = shard_folder(store)
    largest = max(shard.rglob("*"), key=lambda path: path.stat().st_size if path.is_file() else 0)
    names = [
        *("store.json", "plan.json", "manifest.json", "README.md"),
        f"commits/{min((store / 'commits').iterdir()).name}",
        "tokenizer/tokenizer.json",
        "tokenizer/tokenizer_config.json",
        largest.relative_to(store).as_posix(),
        *(path.relative_to(store).as_posix() for path in sorted(shard.rglob("zarr.json"))[-1:]),
    ]
    changes: dict[str, Callable[[Path], object] | None] = {
        "a pipe": os.mkfifo,
        "a socket": _socket,
        "a folder": Path.mkdir,
        "missing": None,
        **{f"a link to {what}": _link(target) for what, target in _DEVICES.items()},
        **{what: _sparse(size) for what, size in _SPARSE.items()},
    }
    for name in names:
        short = name if len(Path(name).parts) < 3 else f"data/{Path(name).name}"
        for what, make in changes.items():
            yield Kind(
                area="file types and sizes",
                name=f"{short} is {what}",
                change=partial(_instead, name=name, make=make),
                resealed=False,
            )
        yield Kind(
            area="file types and sizes",
            name=f"{short} is a link to a copy of itself elsewhere",
            change=partial(_linked_copy, name=name),
            resealed=False,
        )


def _folders(store: Path) -> Iterator[Kind]:
    for name in ("data", "commits", "tokenizer", f"data/{shard_folder(store).name}"):
        short = name.split("-")[0]
        changes: dict[str, Callable[[Path], object] | None] = {
            "a file": lambda path: path.write_text("evil"),
            "a pipe": os.mkfifo,
            "missing": None,
            "a link to /proc": lambda path: path.symlink_to("/proc"),
            "a link to itself": lambda path: path.symlink_to(path),
            "a link to the store": lambda path: path.symlink_to(path.parent),
        }
        for what, make in changes.items():
            yield Kind(
                area="file types and sizes",
                name=f"{short}/ is {what}",
                change=partial(_instead, name=name, make=make),
                resealed=False,
            )


def _instead(folder: Path, *, name: str, make: Callable[[Path], object] | None) -> None:
    path = folder / name
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    if make is not None:
        make(path)


def _socket(path: Path) -> None:
    # Its path has 108 characters at most, so it is made where it is.
    before = Path.cwd()
    os.chdir(path.parent)
    try:
        socket.socket(socket.AF_UNIX).bind(path.name)
    finally:
        os.chdir(before)


def _link(target: str | None) -> Callable[[Path], object]:
    return lambda path: path.symlink_to(path.name if target is None else target)


def _sparse(size: int) -> Callable[[Path], object]:
    def make(path: Path) -> None:
        with path.open("wb") as file:
            file.truncate(size)

    return make


def _linked_copy(folder: Path, *, name: str) -> None:
    path, copy = folder / name, folder.parent / "copy"
    shutil.copy(path, copy)
    path.unlink()
    path.symlink_to(copy)


def _tokenizers() -> Iterator[Kind]:
    """Files of a tokenizer that ask for code, plant others, or are none."""

    def kind(what: str, change: Callable[[Path], object]) -> Kind:
        return Kind(
            area="tokenizer",
            name=what,
            change=partial(_changed_tokenizer, change=change),
            objects=True,
        )

    def config(**more: object) -> Callable[[Path], object]:
        def change(folder: Path) -> None:
            path = folder / "tokenizer_config.json"
            path.write_text(json.dumps({**json.loads(path.read_text()), **more}))

        return change

    def text(name: str, data: str | bytes) -> Callable[[Path], object]:
        def change(folder: Path) -> None:
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(data if isinstance(data, bytes) else data.encode())

        return change

    yield kind("auto_map of the configuration", config(auto_map={"AutoTokenizer": "evil.Evil"}))
    yield kind("auto_map of the configuration in escapes", _escaped_auto_map)
    yield kind("auto_map, nested", config(more={"auto_map": {"AutoTokenizer": "evil.Evil"}}))
    yield kind("a class of another name", config(tokenizer_class="EvilTokenizer"))
    yield kind("a context of 10^400", config(model_max_length=10**400))
    yield from (kind(what, _rules(rules)) for what, rules in _growing().items())
    for name in ("evil.py", "eval.json", "pytorch_model.bin", "adapter_config.json", "config.json"):
        yield kind(f"{name} planted", text(name, "{}"))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        for what, data in {
            "no JSON": b"\xff\xfe",
            "a list": b"[]",
            "deep": b"[" * 50_000 + b"]" * 50_000,
            "empty": b"",
            "45 MB of brackets": b"[" + b"[]," * 15_000_000 + b"[]]",
            "null": b"null",
        }.items():
            yield kind(f"{name} is {what}", text(name, data))


def _growing() -> dict[str, dict[str, Any]]:
    """Rules, by name, that make a very long text of a short one."""
    longer = {"type": "Replace", "pattern": {"Regex": "."}, "content": "x" * 1000}
    rules = {"type": "Sequence", "normalizers": [longer] * 4}
    steps = {"type": "Sequence", "decoders": [longer] * 4}
    again = {
        "type": "TemplateProcessing",
        "single": [{"Sequence": {"id": "A", "type_id": 0}}] * 1_000_000,
        "pair": [{"Sequence": {"id": name, "type_id": 0}} for name in "AB"],
        "special_tokens": {},
    }
    token = {"id": 7, "single_word": False, "lstrip": False, "rstrip": False, "special": False}
    added = {**token, "content": "a" * 1_000_000, "normalized": True}
    return {
        "rules that multiply": {"normalizer": rules},
        "rules that multiply added tokens": {"normalizer": rules, "added_tokens": [added]},
        "rules that prepend": {"normalizer": {"type": "Prepend", "prepend": "x" * 10_000_000}},
        "steps of decoding that multiply": {"decoder": steps},
        "a template that repeats": {"post_processor": again},
    }


def _rules(changed: dict[str, Any]) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        path = folder / "tokenizer.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))

    return change


def _escaped_auto_map(folder: Path) -> None:
    path = folder / "tokenizer_config.json"
    content = json.dumps({**json.loads(path.read_text()), "auto_map": {}})
    path.write_text(content.replace("auto_map", "\\u0061uto_map"))


def _changed_tokenizer(folder: Path, *, change: Callable[[Path], object]) -> None:
    change(folder / "tokenizer")
    spec = folder / "store.json"
    content = read_json(spec)
    hashes = content["provenance"].get("tokenizer_sha256", {})
    content["provenance"]["tokenizer_sha256"] = hashes
    write_json(spec, content)


def _json_files(store: Path) -> Iterator[Kind]:
    """Bytes that are no JSON of a store, in each of the files that are read whole."""
    commit = min((store / "commits").iterdir()).name
    for name in ("store.json", "plan.json", f"commits/{commit}", "manifest.json"):
        for what, data in {
            "no UTF-8": b"\xff\xfe{}",
            "cut short": None,
            "deep": b'{"a":' * 60_000 + b"1" + b"}" * 60_000,
            "60 MB of brackets": b"[" + b"[]," * 20_000_000 + b"[]]",
            "60 MB of numbers": b"[" + b"1," * 30_000_000 + b"1]",
            "one name a million times": b"{" + b'"a":1,' * 1_000_000 + b'"a":1}',
            "NaN": b'{"format": NaN}',
            "half of a surrogate": b'{"format": "\\ud800"}',
            "a mark of byte order": b"\xef\xbb\xbf{}",
            "a number of 5,000 digits": b'{"format": ' + b"9" * 5000 + b"}",
        }.items():
            yield Kind(
                area="JSON",
                name=f"{Path(name).name} is {what}",
                change=partial(_overwrite, name=name, data=data),
                resealed=False,
            )
    for what, units in {"100,000 units": 100_000, "no unit": 0}.items():
        yield Kind(
            area="JSON",
            name=f"plan.json has {what}",
            change=partial(_many_units, units=units),
        )
    for what, blocks in {"100,000 blocks": 100_000, "50,000 blocks": 50_000, "no block": 0}.items():
        yield Kind(
            area="JSON",
            name=f"a commit has {what}",
            change=partial(_many_blocks, name=commit, blocks=blocks),
        )
    for what, path in {
        "100,000 characters": "x" * 100_000,
        "10,000 parts": "x/" * 10_000 + "x",
    }.items():
        yield Kind(
            area="JSON",
            name=f"an object's path has {what}",
            change=partial(_path, name=commit, path=path),
        )


def _overwrite(folder: Path, *, name: str, data: bytes | None) -> None:
    path = folder / name
    old = path.read_bytes()
    path.write_bytes(old[: len(old) // 2] if data is None else data)


def _many_units(folder: Path, *, units: int) -> None:
    content = read_json(folder / "plan.json")
    first = content["units"][0]
    content["units"] = [{**first, "name": f"{number:06d}"} for number in range(units)]
    write_json(folder / "plan.json", content)


def _many_blocks(folder: Path, *, name: str, blocks: int) -> None:
    content = read_json(folder / "commits" / name)
    content["blocks"] = content["blocks"][:1] * blocks
    write_json(folder / "commits" / name, content)


def _path(folder: Path, *, name: str, path: str) -> None:
    content = read_json(folder / "commits" / name)
    content["objects"][0]["path"] = path
    write_json(folder / "commits" / name, content)
