"""Decoding a store from disk: uint32 ids and float32 log-probabilities, every checksum checked.

    python -m tools.bench_decode [--targets 131072] [--against FOLDER]

CPU time, all threads counted, of reading blocks whose files the system has in its cache; the best
of several rounds, for the machine may be shared. Rows are drawn to look like a teacher's: ids by a
Zipf law whose exponent gives about 3 bits an id, K = 64. With `--against`, the same is measured of
another checkout of this project by turns, and the ratio of the two rates is printed: what a change
costs, on a machine whose speed changes. The C library then keeps freed memory: whether it gives a
block's back to the system, and takes it page by page again, changes with how the program before was
laid out, and by up to 15 % of the time.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from logitstore.codec import new_codec
from logitstore.format.blocks import BlockCounts
from logitstore.format.manifest import StoredObject
from logitstore.plumbing import LocalStorage
from logitstore.sparsify import SPARSIFIERS
from logitstore.sparsify.build import TAIL_NODES, sparsifier_spec
from logitstore.store.containers import CONTAINERS, load_container
from logitstore.store.containers.limits import shard_limits
from logitstore.targets.documents import Document, DocumentBlock, StoredDocument, document_id
from logitstore.targets.targets import SparseTargets, none_sampled

K = 64
ROWS_OF_A_BLOCK = 65_536
ROUNDS = 7
TURNS = 4
_KEPT_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str(1 << 32)}
_ROW = re.compile(r"\| ([\d,]+) \| (\w+) \| ([\d,]+) \| ([\d.]+) \|")
VOCABULARIES = (8_192, 131_072)


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--targets", type=int, default=2 * ROWS_OF_A_BLOCK)
    parser.add_argument("--against", type=Path, help="the folder of another checkout")
    given = parser.parse_args()
    targets = given.targets
    if given.against is not None:
        _compare(given.against, targets)
        return
    print("\n| vocabulary | container | targets/s/core | bytes/target |\n|---|---|---|---|")
    for vocab_size in VOCABULARIES:
        blocks = [
            _block(min(ROWS_OF_A_BLOCK, targets - start), vocab_size, seed=start)
            for start in range(0, targets, ROWS_OF_A_BLOCK)
        ]
        for container in CONTAINERS:
            with tempfile.TemporaryDirectory() as folder:
                rate, size = _measure(container, blocks, vocab_size, Path(folder))
            print(f"| {vocab_size:,} | {container} | {rate:,.0f} | {size:.1f} |")


def _compare(other: Path, targets: int) -> None:
    """Print the best rates of this checkout and of another, which are measured by turns."""
    best: dict[Path, dict[str, float]] = {Path.cwd(): {}, other.resolve(): {}}
    for _ in range(TURNS):
        for folder, rates in best.items():
            command = [sys.executable, "-m", "tools.bench_decode", f"--targets={targets}"]
            environment = {**os.environ, **_KEPT_MEMORY, "PYTHONPATH": str(folder)}
            done = subprocess.run(
                command, cwd=folder, env=environment, check=True, capture_output=True, text=True
            )
            for vocabulary, container, rate, _ in re.findall(_ROW, done.stdout):
                name = f"{vocabulary} | {container}"
                rates[name] = max(rates.get(name, 0.0), float(rate.replace(",", "")))
    here, there = best.values()
    print("\n| vocabulary | container | targets/s/core | there | here / there |")
    print("|---|---|---|---|---|")
    for name, rate in here.items():
        print(f"| {name} | {rate:,.0f} | {there[name]:,.0f} | {rate / there[name]:.3f} |")


def _measure(
    container: str, blocks: list[DocumentBlock], vocab_size: int, folder: Path
) -> tuple[float, float]:
    codec = new_codec(sparsifier_spec("topk", k=K), vocab_size=vocab_size)
    tables = codec.tables(blocks)
    columns = [codec.encode(block, tables) for block in blocks]
    storage = LocalStorage(folder)
    objects = []
    written = load_container(container).write(columns, tables)
    sums = load_container(container).chunk_sums(written)
    for name, data in written.items():
        storage.put(name, data)
        digest = hashlib.sha256(data).hexdigest()
        one = StoredObject(path=name, size=len(data), sha256=digest, chunks=sums.get(name))
        objects.append(one)
    counts = [
        BlockCounts(documents=len(one), tokens=len(one.input_ids_N), targets=len(one.targets))
        for one in blocks
    ]
    shard = load_container(container).open(
        storage,
        "",
        blocks=counts,
        objects=objects,
        entries=codec.entries,
        limits=shard_limits(codec, sampler_logprobs=False),
    )
    targets = sum(one.targets for one in counts)
    best = float("inf")
    for _ in range(ROUNDS):
        started = time.process_time()
        for number in range(len(blocks)):
            codec.decode(shard.block(number), shard.tables)
        best = min(best, time.process_time() - started)
    return targets / best, sum(one.size for one in objects) / targets


def _block(rows: int, vocab_size: int, *, seed: int) -> DocumentBlock:
    """Documents of 512 tokens whose targets have Zipf-distributed ids."""
    generator = np.random.default_rng(seed)
    targets = _targets(rows, vocab_size, generator)
    stored = []
    for start in range(0, rows, 511):
        part = targets.rows(slice(start, start + 511))
        counted_L = np.ones(len(part) + 1, dtype=bool)
        counted_L[0] = False
        document = Document(
            id=document_id(source="bench", record=seed + start, piece=0),
            record=seed + start,
            piece=0,
            input_ids_L=generator.integers(vocab_size, size=len(part) + 1).astype(np.uint32),
            counted_L=counted_L,
        )
        stored.append(StoredDocument(document=document, targets=part))
    return DocumentBlock.join(stored)


def _targets(rows: int, vocab_size: int, generator: np.random.Generator) -> SparseTargets:
    # K distinct ids a row: more are drawn from the law than are kept, the first K new ones stay.
    drawn_RX = np.minimum(generator.zipf(1.25, size=(rows, 4 * K)) - 1, vocab_size - 1)
    fill_RX = np.tile(np.arange(K), (rows, 1))
    ids_RK = np.stack([_first_distinct(row) for row in np.concatenate([drawn_RX, fill_RX], axis=1)])
    logits_RK = -np.sort(generator.exponential(2.0, size=(rows, K)), axis=1)
    logprobs_RK = logits_RK - np.log(np.exp(logits_RK).sum(axis=1, keepdims=True)) - 0.4
    return SparseTargets(
        ids_RK=ids_RK.astype(np.uint32),
        logprobs_RK=logprobs_RK.astype(np.float32),
        kind=SPARSIFIERS["topk"].targets,
        sampled_RK=none_sampled(rows, K),
        count_R=np.full(rows, K, dtype=np.int32),
        tail_logmass_RB=generator.normal(-1, 0.3, size=(rows, len(TAIL_NODES))).astype(np.float32),
        label_logprob_R=-generator.exponential(4, size=rows).astype(np.float32),
        entropy_R=generator.gamma(5, 1, size=rows).astype(np.float32),
    )


def _first_distinct(ids_X: np.ndarray) -> np.ndarray:
    _, first = np.unique(ids_X, return_index=True)
    return ids_X[np.sort(first)[:K]]


if __name__ == "__main__":
    main()
