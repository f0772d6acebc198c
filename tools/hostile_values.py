"""Hostile stores, one value of a shard at a time, each laid out by the container itself."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from logitstore.codec import codec_for
from logitstore.format.columns import Columns
from logitstore.store.containers import load_container
from logitstore.store.containers.limits import shard_limits
from logitstore.store.reader import load_store
from tools.hostile_json import Kind
from tools.reseal import shard_folder

__all__ = ["value_kinds"]


def value_kinds(container: str) -> Iterator[Kind]:
    """Columns that are sound as integers, and are no targets or documents.

    container: of the store.
    """
    yield from _extra_kinds()

    large = (0, 1, 299, 300, 65_535, 65_536, (1 << 32) - 1)
    for value in large:
        for name in ("id_delta", "code"):
            yield _columns_kind(f"{name} begins with {value}", _entries(name, value))
        for name in ("count", "label_logprob", "entropy", "tail_0", "odds"):
            yield _columns_kind(f"{name} begins with {value}", _scalars(name, value))
        yield _columns_kind(f"input_ids begin with {value}", _tokens("tokens_N", value))
    for value in (1, 2, 255):
        yield _columns_kind(f"counted begins with {value}", _tokens("counted_N", value))
    most = (1 << 63) - 1 if container == "parquet" else (1 << 64) - 1
    for column, name in enumerate(("id_high", "id_low", "record", "piece", "tokens", "targets")):
        for number in (0, 1, 1 << 31, 1 << 53, 1 << 62, most):
            yield _columns_kind(f"{name} of a document is {number}", _documents(column, number))
    yield _columns_kind("entries are one column less", _narrow)
    yield _columns_kind("entries are one column more", _wide)
    yield _columns_kind("a scalar is left out", lambda one: _one_scalar(one, drop=True))
    yield _columns_kind("a scalar more", lambda one: _one_scalar(one, drop=False))
    for name in ("no_such", "count_draw1", "sampler_logprob", "label_logprob_draw1"):
        yield _columns_kind(
            f"a scalar called {name}",
            partial(_called, name=name),
        )
    yield from _table_kinds()


def _table_kinds() -> Iterator[Kind]:
    """Rankings that are no order of the vocabulary, or have another name."""
    for what, table in {
        "holds an id twice": lambda old: np.where(old == 1, 0, old).astype(np.uint32),
        "is short": lambda old: old[:-1],
        "is long": lambda old: np.append(old, len(old)).astype(np.uint32),
        "reaches beyond": lambda old: (old + 1).astype(np.uint32),
        "is one number": lambda old: old[:1],
        "has 65,536 rows": lambda _: np.arange(65_536, dtype=np.uint32),
        "has 4 million rows": lambda _: np.arange(1 << 22, dtype=np.uint32),
    }.items():
        yield _columns_kind(f"the ranking {what}", None, table=table)
    yield _columns_kind("the ranking is called otherwise", None, rename="other")


def _entries(name: str, value: int) -> Callable[[Columns], Columns]:
    return lambda one: replace(one, entries={**one.entries, name: _first(one.entries[name], value)})


def _scalars(name: str, value: int) -> Callable[[Columns], Columns]:
    return lambda one: replace(one, scalars={**one.scalars, name: _first(one.scalars[name], value)})


def _tokens(name: str, value: int) -> Callable[[Columns], Columns]:
    return lambda one: replace(one, **{name: _first(getattr(one, name), value)})  # type: ignore[arg-type]


def _documents(column: int, value: int) -> Callable[[Columns], Columns]:
    def change(one: Columns) -> Columns:
        table = one.documents_DC.copy()
        table[0, column] = value
        return replace(one, documents_DC=table)

    return change


def _first(values: np.ndarray, value: int) -> np.ndarray:
    changed = values.astype(np.uint32)
    changed.reshape(-1)[0] = value
    return changed


def _narrow(one: Columns) -> Columns:
    return replace(one, entries={name: held[:, :-1] for name, held in one.entries.items()})


def _wide(one: Columns) -> Columns:
    return replace(
        one, entries={name: np.pad(held, ((0, 0), (0, 1))) for name, held in one.entries.items()}
    )


def _one_scalar(one: Columns, *, drop: bool) -> Columns:
    scalars = dict(one.scalars)
    if drop:
        del scalars["entropy"]
    else:
        scalars["zz"] = scalars["count"]
    return replace(one, scalars=scalars)


def _called(one: Columns, *, name: str) -> Columns:
    return replace(one, scalars={**one.scalars, name: one.scalars["count"]})


def _columns_kind(
    what: str,
    change: Callable[[Columns], Columns] | None,
    *,
    table: Callable[[np.ndarray], np.ndarray] | None = None,
    rename: str | None = None,
) -> Kind:
    def rewrite(folder: Path) -> None:
        store = load_store(folder)
        commit, codec = store.commits[0], codec_for(store.spec)
        container = load_container(store.spec.container)
        shard = container.open(
            store.layout.storage,
            store.layout.shard_prefix(commit),
            blocks=commit.blocks,
            objects=commit.objects,
            entries=codec.entries,
            limits=shard_limits(codec, sampler_logprobs=False),
        )
        blocks = [shard.block(number) for number in range(len(commit.blocks))]
        if change is not None and blocks:
            blocks = [change(one) for one in blocks]
        tables = dict(shard.tables)
        if table is not None:
            tables["ranking"] = table(tables["ranking"])
        if rename is not None:
            tables[rename] = tables.pop("ranking")
        where = folder / store.layout.shard_prefix(commit)
        draws = store.spec.sparsifier.draw_count
        if blocks[0].entries["code"].shape[1] % draws:
            draws = 1
        for name, data in container.write(blocks, tables, draw_count=draws).items():
            (where / name).parent.mkdir(parents=True, exist_ok=True)
            (where / name).write_bytes(data)

    return Kind(area="values", name=what, change=rewrite, objects=True)


def _extra_kinds() -> Iterator[Kind]:
    """Objects that a commit names and a shard has no use for."""
    for what, path in {
        "a file": "more",
        "an array": "more/zarr.json",
        "a table": "more.parquet",
        "a file below documents": "documents/c/0/1",
    }.items():
        yield Kind(
            area="values",
            name=f"the commit names {what} more",
            change=partial(_more, path=path),
            objects=True,
        )


def _more(folder: Path, *, path: str) -> None:
    where = shard_folder(folder) / path
    where.parent.mkdir(parents=True, exist_ok=True)
    source = next(one for one in shard_folder(folder).rglob("*") if one.is_file())
    shutil.copy(source, where)
    name = shard_folder(folder).name.split("-")[0]
    commit = folder / "commits" / f"{name}.json"
    content = json.loads(commit.read_text())
    content["objects"].append({"path": path, "size": 0, "sha256": ""})
    commit.write_text(json.dumps(content))
