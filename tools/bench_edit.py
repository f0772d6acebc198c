"""Convert, merge and subset: bytes, MB a second of one core, and the most memory.

    python -m tools.bench_edit [--gigabytes 2] [--teacher FOLDER --data FILE] [--folder DIR]

Each edit runs in a process of its own. Its seconds are those of its own CPU, so that they do not
depend on what else the machine does; a disk that is slower than that sets the pace. The large store
has units of a million targets, all the same shard, as hard links. With a teacher the edits also run
over a store of its targets.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

import logitstore
from logitstore.codec import new_codec
from logitstore.format.plan import Plan, WorkUnit
from logitstore.format.spec import (
    FORMAT,
    CorpusSpec,
    StoreSpec,
    TeacherSpec,
    TextSpec,
    TokenizerSpec,
)
from logitstore.sparsify import SPARSIFIERS
from logitstore.sparsify.build import sparsifier_spec
from logitstore.store.commit import StoreWriter
from logitstore.store.layout import StoreLayout
from logitstore.store.writer import UnitWriter
from logitstore.targets.documents import Document, StoredDocument, document_id
from logitstore.targets.targets import SparseTargets, none_sampled
from tools.linked_units import link_units

_VOCAB, _K, _LENGTH = 49_152, 64, 500
_UNIT_TARGETS = 1_000_000
_DISTINCT_UNITS = 4
_UNIT = WorkUnit(
    name="000000",
    source="synthetic",
    start=0,
    stop=1,
    first_record=0,
    first_line=1,
    records=_UNIT_TARGETS // _LENGTH,
    sha256="3" * 64,
)


def main() -> int:
    """Make the stores, run each edit in a child, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--teacher", default=None)
    parser.add_argument("--data", default=None)
    parser.add_argument("--records", type=int, default=2)
    parser.add_argument("--folder", default=None, help="where the stores lie meanwhile")
    parser.add_argument("--child", nargs=2, default=None, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        return _child(*given.child)
    print(
        "| store | edit | bytes written | copied | CPU, s | MB/s of a core | memory, MB |\n"
        "|---|---|---|---|---|---|---|"
    )
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        root = Path(folder)
        if given.teacher:
            data, name = given.data or _texts(root), Path(given.teacher).name
            for kind in ("hybrid", "topk"):
                store = root / kind
                logitstore.dump(
                    teacher=given.teacher,
                    data=data,
                    out=store,
                    sparsify=kind,
                    limit=given.records,
                    unit_tokens=5000,
                )
                _measure(root, store, f"{name}, {kind}", (*_COPIES, *_RECODED))
        _large(root / "small", gigabytes=0)
        _measure(root, root / "small", f"synthetic, topk {_K}", _RECODED)
        shutil.rmtree(root / "small")
        _large(root / "large", gigabytes=given.gigabytes)
        _measure(root, root / "large", f"synthetic, topk {_K}", _COPIES)
        shutil.rmtree(root / "large")
        for number, name in enumerate(("one", "two")):
            _distinct(root / name, first=number * _DISTINCT_UNITS)
        other = str(root / "two")
        edit = ("merge, no id twice", "merge", lambda store, _: {"stores": [store, other]})
        _measure(root, root / "one", f"synthetic, topk {_K}", (edit,))
    return 0


# An edit: how it is called, its command, its arguments from the store and its number of documents.
_Edit: TypeAlias = tuple[str, str, Callable[[str, int], dict[str, Any]]]
_COPIES: tuple[_Edit, ...] = (
    ("convert, nothing changes", "convert", lambda store, _: {"store": store}),
    ("subset --documents", "subset", lambda store, n: {"store": store, "documents": f"{n // 3}:"}),
    ("merge with itself", "merge", lambda store, _: {"stores": [store, store]}),
)
_RECODED: tuple[_Edit, ...] = (
    ("subset --sample", "subset", lambda store, n: {"store": store, "sample": n // 2}),
    (
        "subset --where",
        "subset",
        lambda store, _: {
            "store": store,
            "where": f"entropy > {logitstore.inspect(store)['teacher_entropy']}",
        },
    ),
    ("convert --format", "convert", lambda store, _: {"store": store, "format": "parquet"}),
    ("convert --fidelity", "convert", lambda store, _: {"store": store, "fidelity": "compact"}),
)


def _measure(root: Path, store: Path, name: str, edits: Sequence[_Edit]) -> None:
    """A line of the table for each edit of a store."""
    documents = len(logitstore.open(store))
    for label, command, arguments_of in edits:
        arguments = arguments_of(str(store), documents) | {"out": str(root / "out")}
        words = [sys.executable, "-m", "tools.bench_edit", "--child", command]
        done = subprocess.run(
            [*words, json.dumps(arguments)], check=True, stdout=subprocess.PIPE, text=True
        )
        told = json.loads(done.stdout)
        print(
            f"| {name} | {label} | {told['bytes']:,} | {told['copied']:,} | {told['cpu']:.1f} "
            f"| {told['bytes'] / told['cpu'] / 1e6:,.0f} | {told['memory'] / 1e6:,.0f} |",
            flush=True,
        )
        shutil.rmtree(root / "out")


def _child(command: str, arguments: str) -> int:
    """Run one edit, and print what it took as JSON."""
    run = getattr(logitstore, command)
    started = time.process_time()
    edited = run(**json.loads(arguments))
    parts = edited if isinstance(edited, tuple) else (edited,)
    peak = re.search(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())
    told = {
        "bytes": sum(one.bytes for one in parts),
        "copied": sum(one.copied_bytes for one in parts),
        "cpu": time.process_time() - started,
        "memory": 1024 * int(peak[1]) if peak is not None else 0,
    }
    print(json.dumps(told))
    return 0


def _texts(root: Path) -> str:
    path = root / "texts.txt"
    folder = Path(os.__file__).parent
    path.write_text("\n\n".join(one.read_text(errors="ignore") for one in folder.glob("a*.py")))
    return str(path)


def _large(out: Path, *, gigabytes: float) -> None:
    """A sealed store of that size: one unit is written, the others are hard links to it."""
    writer, _ = _written(out, (_UNIT,))
    commit = writer.layout.read_commit(_UNIT)
    if commit is None:
        raise RuntimeError("the unit was not committed")
    size = sum(each.size for each in commit.objects)
    writer.seal(link_units(out, max(2, round(gigabytes * 1e9 / size))), check=False)


def _distinct(out: Path, *, first: int) -> None:
    """A sealed store of a few units, whose documents are those of no other number."""
    units = tuple(
        replace(_UNIT, name=f"{one:06d}", source=f"synthetic {first + one}")
        for one in range(_DISTINCT_UNITS)
    )
    writer, plan = _written(out, units)
    writer.seal(plan)


def _written(out: Path, units: tuple[WorkUnit, ...]) -> tuple[StoreWriter, Plan]:
    """A store with its units committed."""
    spec, plan = _spec(), Plan(units=units)
    writer = StoreWriter(StoreLayout.at(out))
    writer.begin(spec, plan, {"tokenizer.json": b"{}"})
    for unit in units:
        UnitWriter.of(writer, spec).write(unit, _documents(unit.source), skipped=0)
    return writer, plan


def _documents(source: str) -> list[StoredDocument]:
    """Documents of rows that take turns, so that a unit is made in seconds."""
    generator = np.random.default_rng(0)
    rows = _LENGTH - 1
    found = []
    drawn = [_targets(generator, rows) for _ in range(20)]
    for record in range(_UNIT_TARGETS // rows):
        counted_L = np.ones(_LENGTH, dtype=bool)
        counted_L[0] = False
        document = Document(
            id=document_id(source=source, record=record, piece=0),
            record=record,
            piece=0,
            input_ids_L=generator.integers(_VOCAB, size=_LENGTH).astype(np.uint32),
            counted_L=counted_L,
        )
        order = generator.permutation(rows)
        found.append(StoredDocument(document=document, targets=drawn[record % 20].rows(order)))
    return found


def _targets(generator: np.random.Generator, rows: int) -> SparseTargets:
    # Some of 256 ids from a place of each row's own, far fewer than there are.
    near_RK = np.argsort(generator.random((rows, 4 * _K)), axis=1)[:, :_K] * 17
    ids_RK = near_RK + generator.integers(_VOCAB - 17 * 4 * _K, size=(rows, 1))
    logp_RK = -np.sort(generator.exponential(2.0, size=(rows, _K)), axis=1)
    logp_RK -= np.log(np.exp(logp_RK).sum(axis=1, keepdims=True)) + 0.2
    tail_R = np.log1p(-np.exp(logp_RK).sum(axis=1))
    nodes = np.array(_spec().sparsifier.tail_nodes)
    return SparseTargets(
        kind=SPARSIFIERS["topk"].targets,
        ids_RK=ids_RK.astype(np.uint32),
        logprobs_RK=logp_RK.astype(np.float32),
        sampled_RK=none_sampled(rows, _K),
        count_R=np.full(rows, _K, dtype=np.int32),
        tail_logmass_RB=(tail_R[:, None] + (1 - nodes) * 9).astype(np.float32),
        label_logprob_R=logp_RK[:, 0].astype(np.float32),
        entropy_R=generator.uniform(1, 4, size=rows).astype(np.float32),
    )


def _spec() -> StoreSpec:
    sparsifier = sparsifier_spec("topk", k=_K)
    nothing = "0" * 64
    return StoreSpec(
        format=FORMAT,
        teacher=TeacherSpec(
            name="synthetic",
            fingerprint=nothing,
            architecture="None",
            parameters=0,
            dtype="float32",
            device="cpu",
        ),
        tokenizer=TokenizerSpec(
            fingerprint=nothing, vocab_size=_VOCAB, bos_token_id=None, eos_token_id=0
        ),
        corpus=CorpusSpec(
            name="synthetic", fingerprint=nothing, limit=None, unit_tokens=_UNIT_TARGETS
        ),
        text=TextSpec(text_field=None, messages_field=None, max_length=_LENGTH, chat_template=None),
        sparsifier=sparsifier,
        codec=new_codec(sparsifier, vocab_size=_VOCAB).spec,
        container="zarr",
        batch_tokens=1024,
        block_targets=65_536,
    )


if __name__ == "__main__":
    sys.exit(main())
