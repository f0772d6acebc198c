"""From a checkpoint's position to the first batch, in a store of ten million documents.

    python -m tools.bench_resume [--documents 10000000] [--words 400] [--count]

The store is one real store, dumped here, whose blocks are there many times under numbers of their
own: each block that a position needs is read from the disk, checked and decoded as ever. A position
is taken in a process of its own. Seconds are from an open store and a loaded model to the first
batch, with order, lengths and blocks; memory is what the process has grown by. With --count
the steps of an epoch are counted beside, as a run does once where it begins with --epochs.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import sys
import tempfile
import time
from itertools import chain, repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoModelForCausalLM

import logitstore
import trainer
from logitstore.store.ahead import ReadAhead
from tools.tiny_teacher import make_teacher, texts
from trainer.data.packing import Position

if TYPE_CHECKING:
    import numpy as np

_POSITIONS = ((0, 0.0), (0, 0.37), (0, 0.999), (7, 0.5))


class RepeatedStore:
    """The blocks of a store, again and again, up to so many documents."""

    def __init__(self, store: Any, *, documents: int) -> None:
        self._store = store
        self.spec, self.draw, self.uri = store.spec, store.draw, store.uri
        self.fingerprint = store.fingerprint
        own = store.blocks
        times = -(-documents // sum(one.documents for one in own))
        self.blocks = tuple(chain.from_iterable(repeat(tuple(own), times)))
        self.layout, self.stored_bytes = store.layout, store.stored_bytes * times

    def with_draw(self, draw: int) -> Any:
        """Another draw of the same targets."""
        raise NotImplementedError(draw)

    def document_lengths(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """As the store that is repeated gives them."""
        found: tuple[np.ndarray, np.ndarray] = self._store.document_lengths(
            number % len(self._store.blocks)
        )
        return found

    def fetch_block(self, number: int, *, all_draws: bool = False) -> Any:
        """As the store that is repeated gives it."""
        return self._store.fetch_block(number % len(self._store.blocks), all_draws=all_draws)

    def read_block(self, number: int, *, fetched: Any = None) -> Any:
        """As the store that is repeated gives it."""
        return self._store.read_block(number % len(self._store.blocks), fetched=fetched)

    def ahead(self) -> Any:
        """As a store has it: blocks that are needed at once are read by two threads."""
        own: Any = self  # what is asked of a store here, it has
        return ReadAhead(own)

    def __iter__(self) -> Any:
        for number in range(len(self.blocks)):
            yield from self.read_block(number).split()


def main() -> int:
    """Parse, write the store, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=10_000_000)
    parser.add_argument("--dumped", type=int, default=160, help="documents of the real store")
    parser.add_argument("--words", type=int, default=400, help="the most of a document")
    parser.add_argument("--count", action="store_true", help="count the steps of an epoch, too")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = make_teacher(Path(folder) / "teacher")
        config = model / "config.json"
        content = json.loads(config.read_text()) | {"max_position_embeddings": 1024}
        config.write_text(json.dumps(content))
        logitstore.dump(
            teacher=str(model),
            data=texts(given.dumped, longest=given.words),
            out=Path(folder) / "store",
            device="cpu",
        )
        real = logitstore.open(Path(folder) / "store").blocks[0]
        print(
            f"blocks of {real.documents:,} documents, {real.tokens:,} tokens and {real.targets:,} "
            "targets\n"
        )
        print("| what | seconds | of a core | memory, MiB |\n|---|---|---|---|", flush=True)
        jobs: list[tuple[int, float] | None] = [*_POSITIONS, *([None] if given.count else [])]
        for job in jobs:
            context = multiprocessing.get_context("spawn")
            process = context.Process(target=_measure, args=(folder, given.documents, job))
            process.start()
            process.join()
            if process.exitcode:
                return 1
    return 0


def _measure(folder: str, documents: int, job: tuple[int, float] | None) -> None:
    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(Path(folder) / "teacher")
    opened = logitstore.open(Path(folder) / "store")
    store = RepeatedStore(opened, documents=documents)
    trainer.training_batches(opened, model=model)  # imports and the check of the model
    before, began, cpu = _peak_bytes(), time.perf_counter(), time.process_time()
    batches = trainer.training_batches(store, model=model)
    if job is None:
        steps = batches.count_steps(1)
        told = f"steps of one epoch counted: {steps:,}"
    else:
        epoch, share = job
        sizes = batches.packing.stream_documents(batches._lengths.documents_B, epoch=epoch)
        position = Position(
            epoch=epoch, step=0, consumed=tuple(int(share * size) for size in sizes)
        )
        batches.load_state_dict(batches._state(position))
        ahead = iter(batches)  # closed behind the clock: it waits for the batch after the first
        next(ahead)
        told = f"first batch at {share:.1%} of epoch {epoch}"
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    print(
        f"| {told}, {len(store.blocks):,} blocks | {seconds:.2f} "
        f"| {cpu:.2f} | {(_peak_bytes() - before) / 2**20:,.0f} |",
        flush=True,
    )


def _peak_bytes() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


if __name__ == "__main__":
    sys.exit(main())
