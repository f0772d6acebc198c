"""Seal a changed store again, so that no checksum tells that it was changed.

Hashes and sizes of objects in commits, checksums of chunks, hashes of the tokenizer, the hashes
that JSON carries of itself, and the manifest: all become those of what is there. What the project's
own functions refuse to seal gets a manifest whose hashes are right as far as they can be.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from logitstore.format.json import canonical_json, with_check
from logitstore.store.commit import StoreWriter
from logitstore.store.containers import load_container
from logitstore.store.layout import MANIFEST, SPEC, TOKENIZER, StoreLayout

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["container_of", "read_json", "reseal", "shard_folder", "write_json"]


def read_json(path: Path) -> Any:
    """The JSON of a store without the hash that it carries of itself."""
    content = json.loads(path.read_text())
    if isinstance(content, dict):
        content.pop("sha256", None)
    return content


def write_json(path: Path, content: Any) -> None:
    """Write JSON with the hash of itself, where it is an object that can have one."""
    if not isinstance(content, dict):
        path.write_text(json.dumps(content))
        return
    try:
        path.write_bytes(with_check(content))
    except (TypeError, ValueError):  # NaN, or half of a surrogate pair
        path.write_text(json.dumps(content))


def container_of(store: Path) -> str:
    """The container of a sound store."""
    name: str = read_json(store / SPEC)["container"]
    return name


def shard_folder(store: Path) -> Path:
    """The folder of the first shard of a sound store."""
    return min(path for path in (store / "data").iterdir() if path.is_dir())


def reseal(store: Path, *, container: str, objects: bool) -> None:
    """Make every hash and size of the store that of what is there.

    store: its folder.
    container: what its shards are laid out by.
    objects: whether shards and the tokenizer have changed; else only JSON has, which carries the
        hash of itself already.
    """
    if objects:
        for path in sorted((store / "commits").glob("*.json")):
            _commit(store, path, container=container)
        spec = read_json(store / SPEC)
        _tokenizer(store, spec)
        write_json(store / SPEC, spec)
    _manifest(store)


def _commit(store: Path, path: Path, *, container: str) -> None:
    content = read_json(path)
    folder = store / "data" / f"{content['unit']}-{content['attempt']}"
    found = {
        one.relative_to(folder).as_posix(): one.read_bytes()
        for one in folder.rglob("*")
        if one.is_file()
    }
    sums: dict[str, str] = {}
    with suppress(Exception):  # of what is no array any more
        sums = dict(load_container(container).chunk_sums(found))
    for one in content["objects"]:
        if one["path"] in found:
            data = found[one["path"]]
            one |= {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            if one["path"] in sums:
                one["chunks"] = sums[one["path"]]
    write_json(path, content)


def _tokenizer(store: Path, content: Any) -> None:
    hashes = content["provenance"]["tokenizer_sha256"]
    for name in hashes:
        path = store / TOKENIZER / name
        if path.is_file():
            hashes[name] = hashlib.sha256(path.read_bytes()).hexdigest()


def _manifest(store: Path) -> None:
    """By the project itself, or as it was with other hashes where it refuses to seal the store."""
    path = store / MANIFEST
    before = path.read_bytes()
    path.unlink()
    layout = StoreLayout.at(store)
    with suppress(Exception):
        StoreWriter(layout).seal(layout.read_plan(), check=False)
    if not path.is_file():
        content = json.loads(before)
        for name in content.get("objects", {}):
            if (store / name).is_file():
                digest = hashlib.sha256((store / name).read_bytes()).hexdigest()
                content["objects"][name] = digest
        path.write_bytes(canonical_json(content))
