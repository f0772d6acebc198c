"""The targets: what is fuzzed, each a function of bytes, and the modules that it should reach.

A target raises an error of the project, or nothing; all else is a finding. `Seeds` are made once,
by a teacher and a training; a target needs neither.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import logitstore
from logitstore.codec import codec_for
from logitstore.errors import CorruptionError
from logitstore.format.json import canonical_json, parse_json, with_check
from logitstore.format.tokenizer_names import is_tokenizer_name
from logitstore.store.containers import load_container
from logitstore.store.containers.limits import shard_limits
from logitstore.store.layout import COMMITS, MANIFEST, PLAN, SPEC, TOKENIZER, StoreLayout
from tools.fuzzing import parquet_changes, zarr_changes
from tools.fuzzing.byte_changes import changed_bytes
from tools.fuzzing.choices import Choices
from tools.fuzzing.column_changes import changed_columns, changed_tables
from tools.fuzzing.json_changes import changed, json_bytes
from tools.fuzzing.runs import RunFiles, make_run
from tools.fuzzing.stores import (
    Objects,
    content_of,
    make_stores,
    rehashed,
    sealed_anew,
    storage_of,
    use,
)
from trainer.training.run_result import tokenizer_of, write_tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["TARGETS", "Seeds", "Target", "make_seeds"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Seeds:
    """The sound content that is changed."""

    stores: dict[str, Objects]  # by "container/sparsifier"
    run: dict[str, bytes]  # the files of a run

    @staticmethod
    def read(path: Path) -> Seeds:
        """What `write` wrote."""
        seeds: Seeds = pickle.loads(path.read_bytes())
        return seeds

    def write(self, path: Path) -> None:
        """Write them to a file, for the processes that try targets."""
        path.write_bytes(pickle.dumps(self))


def make_seeds() -> Seeds:
    """Small stores of a tiny teacher, and the run of a tiny student."""
    with tempfile.TemporaryDirectory() as folder:
        return Seeds(stores=make_stores(Path(folder)), run=make_run(Path(folder)))


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """Something that reads what may come from anywhere."""

    make: Callable[[Seeds, Path], Callable[[bytes], None]]  # the second is a folder to write in
    modules: tuple[str, ...]  # files of the project, as patterns
    share: float  # of all executions: more where one is quick


# --- objects of a store ---------------------------------------------------------------------------


def _of_object(
    name: str, read: Callable[[StoreLayout, str], object]
) -> Callable[[Seeds, Path], Callable[[bytes], None]]:
    """The target of a store's small object: `name`, or a commit where it ends with "/".

    What `read` does not refuse is sealed, and the store is used.
    """

    def make(seeds: Seeds, _: Path) -> Callable[[bytes], None]:
        sound = [
            (objects, one, content_of(objects, one))
            for _, objects in sorted(seeds.stores.items(), reverse=True)
            for one in sorted(objects)
            if one.startswith(name)
        ]

        def one(data: bytes) -> None:
            choices = Choices(data)
            objects, chosen, content = choices.one_of(sound)
            text = json_bytes(changed(content, choices), choices, check=True)
            objects = objects | {chosen: text}
            read(StoreLayout(storage_of(objects)), chosen)
            storage = storage_of(objects) if name == MANIFEST else sealed_anew(objects)
            use(storage, thoroughly=choices.chance(0.1))

        return one

    return make


def _json(seeds: Seeds, _: Path) -> Callable[[bytes], None]:
    """Bytes that are nearly JSON: read, or refused; what is read has one form."""
    (first, *_rest) = seeds.stores.values()
    documents = [first[name] for name in (SPEC, PLAN, MANIFEST)]
    spec = json.loads(first[SPEC])

    def one(data: bytes) -> None:
        choices = Choices(data)
        kind = choices.below(3)
        if kind == 0:
            text = data[1:]
        elif kind == 1:
            text = changed_bytes(choices.one_of(documents), choices)
        else:
            text = json_bytes(changed(spec, choices), choices, check=True)
        content = parse_json(text, place="x")
        if parse_json(canonical_json(content), place="x") != content:
            raise AssertionError("a second reading gives other content")

    return one


# --- columns and containers -----------------------------------------------------------------------


def _codec(seeds: Seeds, _: Path) -> Callable[[bytes], None]:
    """Columns of every sparsifier, changed behind the container."""
    sound = []
    for objects in seeds.stores.values():
        store = logitstore.open(storage_of(objects))
        codec = codec_for(store.spec)
        commit = store.commits[0]
        shard = load_container(store.spec.container).open(
            store.layout.storage,
            store.layout.shard_prefix(commit),
            blocks=commit.blocks,
            objects=commit.objects,
            entries=codec.entries,
            limits=shard_limits(codec, sampler_logprobs=False),
        )
        sound.append((codec, shard.block(0), dict(shard.tables)))

    def one(data: bytes) -> None:
        choices = Choices(data)
        codec, columns, tables = choices.one_of(sound)
        tables = changed_tables(tables, choices)
        codec.check_tables(tables)
        draw = choices.below(codec.sparsifier.draw_count)
        block = codec.decode(changed_columns(columns, choices), tables, draw=draw)
        targets = block.targets
        if int(targets.ids_RK.max(initial=0)) >= codec.vocab_size:
            raise AssertionError("an id is beyond the vocabulary")
        if not 1 <= int(targets.count_R.min(initial=1)) <= targets.k:
            raise AssertionError("a count is beyond K")
        for _ in block.split():
            pass

    return one


def _container(kind: str, change: Any) -> Callable[[Seeds, Path], Callable[[bytes], None]]:
    """The shards of a container, changed behind the hashes and the checksums."""

    def make(seeds: Seeds, _: Path) -> Callable[[bytes], None]:
        stores = [seeds.stores[one] for one in sorted(seeds.stores) if one.startswith(kind)]

        def one(data: bytes) -> None:
            choices = Choices(data)
            objects = choices.one_of(stores)
            name = choices.one_of(sorted(one for one in objects if one.startswith("commits/")))
            commit = content_of(objects, name)
            prefix = f"data/{commit['unit']}-{commit['attempt']}/"
            shard = {
                one.removeprefix(prefix): data
                for one, data in objects.items()
                if one.startswith(prefix)
            }
            found = rehashed(objects, name, change(shard, choices))
            if choices.chance(0.1):
                found[name] = with_check(_recounted(content_of(found, name), choices))
            use(sealed_anew(found), thoroughly=choices.chance(0.1))

        return one

    return make


def _recounted(commit: dict[str, Any], choices: Choices) -> dict[str, Any]:
    """A commit whose blocks hold another number of something."""
    block = choices.one_of(commit["blocks"])
    name = choices.one_of(sorted(block))
    block[name] = max(1, choices.integer(block[name]) % (1 << 40))
    return commit


# --- names of files, runs -------------------------------------------------------------------------


def _tokenizer(seeds: Seeds, work: Path) -> Callable[[bytes], None]:
    """Files that a store has in its tokenizer, of any names, and their way into a run."""
    base = seeds.stores["parquet/topk"]
    out = work / "tokenizer"
    out.mkdir()

    def one(data: bytes) -> None:
        choices = Choices(data)
        objects = dict(base)
        names = [one for one in base if one.startswith(TOKENIZER)]
        for _ in range(1 + choices.below(3)):
            name = choices.one_of(names)
            near = choices.one_of((name.removeprefix(TOKENIZER), "eval.json", "../a", "x/y.jinja"))
            objects[f"{TOKENIZER}{choices.text(near)}"] = changed_bytes(b'{"a": 1}', choices)
        spec = content_of(objects, SPEC)
        spec["provenance"]["tokenizer_sha256"] = {
            one.removeprefix(TOKENIZER): hashlib.sha256(objects[one]).hexdigest()
            for one in objects
            if one.startswith(TOKENIZER) and choices.below(4)
        }
        try:
            objects[SPEC] = with_check(spec)
            storage = sealed_anew(objects)
        except ValueError as error:  # a name that no storage has
            raise CorruptionError("no name") from error
        files = tokenizer_of(logitstore.open(storage))
        try:
            write_tokenizer(out, files)
            for path in [one for one in work.rglob("*") if one.is_file()]:
                if not is_tokenizer_name(str(path.relative_to(out))):
                    raise AssertionError(f"{path} was written")
        finally:
            for path in [one for one in out.rglob("*") if one.is_file()]:
                path.unlink()

    return one


def _run_files(seeds: Seeds, work: Path) -> Callable[[bytes], None]:
    files = RunFiles(work / "run", seeds.run)
    return lambda data: files.try_one(Choices(data))


_STORE = ("logitstore/store/reader.py", "logitstore/store/seal.py", "logitstore/store/layout.py")
_ZARR, _PARQUET = (f"logitstore/store/containers/{one}*.py" for one in ("zarr", "parquet"))

TARGETS: dict[str, Target] = {
    "json": Target(make=_json, modules=("logitstore/format/json.py",), share=0.3),
    "manifest": Target(
        make=_of_object(MANIFEST, lambda layout, _: layout.read_manifest()),
        modules=("logitstore/format/manifest.py", *_STORE),
        share=0.075,
    ),
    "commit": Target(
        make=_of_object(COMMITS, lambda layout, name: layout.read_commit_named(name)),
        modules=("logitstore/format/manifest.py", *_STORE),
        share=0.075,
    ),
    "plan": Target(
        make=_of_object(PLAN, lambda layout, _: layout.read_plan()),
        modules=("logitstore/format/plan.py", *_STORE),
        share=0.075,
    ),
    "spec": Target(
        make=_of_object(SPEC, lambda layout, _: layout.read_spec()),
        modules=("logitstore/format/spec.py", "logitstore/sparsify/build.py", *_STORE),
        share=0.075,
    ),
    "codec": Target(make=_codec, modules=("logitstore/codec/*.py",), share=0.3),
    "zarr": Target(
        make=_container("zarr", zarr_changes.changed_shard), modules=(_ZARR,), share=0.02
    ),
    "parquet": Target(
        make=_container("parquet", parquet_changes.changed_shard), modules=(_PARQUET,), share=0.03
    ),
    "runs": Target(
        make=_run_files,
        modules=(
            *("trainer/training/run_record.py", "trainer/training/run_folder.py"),
            *("trainer/training/run_result.py", "trainer/training/checkpoints.py"),
            *("trainer/training/state_files.py", "trainer/reporting/data.py"),
        ),
        share=0.02,
    ),
    "tokenizer": Target(
        make=_tokenizer, modules=("logitstore/format/tokenizer_names.py",), share=0.03
    ),
}
