"""Small sound stores in memory, the change of one object of them, and the use of what came of it.

A changed object is hashed again, with all that hashes it: in its commit and in the manifest, which
the project's own writer seals anew. So what is tried is not the hash but what stands behind it.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import logitstore
from logitstore.errors import LogitStoreError
from logitstore.format.json import checked_content, parse_json, with_check
from logitstore.format.manifest import Totals
from logitstore.store.card import store_card
from logitstore.store.commit import StoreWriter
from logitstore.store.containers import load_container
from logitstore.store.inspect import inspect
from logitstore.store.layout import MANIFEST, StoreLayout
from logitstore.store.verify import verify
from tools.dict_storage import DictStorage
from tools.tiny_teacher import make_teacher, texts

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

__all__ = ["Objects", "content_of", "make_stores", "rehashed", "sealed_anew", "storage_of", "use"]

Objects = dict[str, bytes]  # of a store, by name

_KINDS: dict[str, dict[str, Any]] = {
    "topk": {"sparsify": "topk", "k": 4},
    "hybrid": {"sparsify": "hybrid", "k": 3, "tail_draws": 2},
    "unbiased": {"sparsify": "unbiased", "k": 4, "temperature": (1.0, 2.0), "repeats": 2},
    "sample": {"sparsify": "sample", "draws": 6},
}
_MOST_BLOCKS = 4


def make_stores(work: Path, *, kinds: Iterable[str] = tuple(_KINDS)) -> dict[str, Objects]:
    """Sealed stores of two units by "container/sparsifier"; a tiny teacher is made in `work`."""
    teacher = make_teacher(work / "teacher")
    stores = {}
    for container in ("zarr", "parquet"):
        for name in kinds:
            storage = DictStorage()
            logitstore.dump(
                teacher=str(teacher),
                data=texts(6, longest=6),
                out=storage,
                format=container,
                device="cpu",
                unit_tokens=40,
                **_KINDS[name],
            )
            stores[f"{container}/{name}"] = storage.objects
    return stores


def storage_of(objects: Objects) -> DictStorage:
    """A storage that holds a copy of `objects`."""
    storage = DictStorage()
    storage.objects = dict(objects)
    return storage


def content_of(objects: Objects, name: str) -> Any:
    """The JSON of an object, without the hash that it carries."""
    return checked_content(parse_json(objects[name], place=name), place=name)


def rehashed(objects: Objects, commit_name: str, shard: Objects) -> Objects:
    """`objects` with the objects of the commit's shard replaced by `shard`, by their paths in it.

    The commit then tells their sizes, their hashes and, where chunks can be found, those of chunks.
    """
    commit = content_of(objects, commit_name)
    prefix = f"data/{commit['unit']}-{commit['attempt']}/"
    sums: dict[str, str] = {}
    with suppress(Exception):  # of what is no container any more
        name = content_of(objects, "store.json")["container"]
        sums = dict(load_container(name).chunk_sums(shard))
    commit["objects"] = [
        {"path": path, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        | ({"chunks": sums[path]} if path in sums else {})
        for path, data in sorted(shard.items())
    ]
    kept = {name: data for name, data in objects.items() if not name.startswith(prefix)}
    stored = {f"{prefix}{path}": data for path, data in shard.items()}
    return kept | stored | {commit_name: with_check(commit)}


def sealed_anew(objects: Objects) -> DictStorage:
    """A storage of `objects`, sealed again; with the manifest as it is where that is refused."""
    storage = storage_of({name: data for name, data in objects.items() if name != MANIFEST})
    writer = StoreWriter(StoreLayout(storage))
    try:
        writer.seal(writer.layout.read_plan(), check=False)
    except LogitStoreError:
        storage.objects = dict(objects)
    return storage


def use(storage: DictStorage, *, thoroughly: bool) -> None:
    """Read of a store what its readers read; the project's errors pass through.

    Raises AssertionError where values are out of the bounds that their readers rely on.
    """
    store = logitstore.open(storage)
    str(store)
    inspect(store=store)
    store.tokenizer_files()
    vocab_size = store.spec.tokenizer.vocab_size
    for number in range(min(len(store.blocks), _MOST_BLOCKS)):
        tokens_D, targets_D = store.document_lengths(number)
        block = store.read_block(number)
        targets = block.targets
        sound = (
            int(targets.ids_RK.max(initial=0)) < vocab_size
            and int(block.input_ids_N.max(initial=0)) < vocab_size
            and int(targets.count_R.min(initial=1)) >= 1
            and int(targets.count_R.max(initial=1)) <= targets.k
            and len(block.input_ids_N) == int(tokens_D.sum())
            and len(targets) == int(targets_D.sum())
        )
        if not sound:
            raise AssertionError("a block holds what no block can")
        for _ in block.split():
            pass
    if thoroughly:
        for fault in verify(storage):
            str(fault)
        if store.manifest is not None:
            store_card(store.spec, store.manifest, Totals.of(store.commits), name="store")
