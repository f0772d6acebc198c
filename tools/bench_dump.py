"""A dump beside the bare forward pass, and what it stored beside the teacher run again densely.

    python -m tools.bench_dump [--teacher FOLDER] [--data FILE] [--characters 1100000]

Bare forward: `model(ids).logits` of the very batches that the dump runs, float32, before and after
the dump; start-up and tokenisation are in neither. Prints bytes by column for both containers, the
KL of the stored head against the dense one, and the error of the tail's mass at temperatures
between the stored ones, as stored, also for teachers made sharper by a factor on their logits.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

import logitstore
from logitstore.codec import new_codec
from logitstore.corpus.corpus import open_corpus
from logitstore.corpus.text import tokenize
from logitstore.corpus.text_rules import TextRules
from logitstore.corpus.tokenizer import load_tokenizer, vocab_size
from logitstore.sparsify import SPARSIFIERS
from logitstore.sparsify.build import TAIL_NODES, sparsifier_spec
from logitstore.store.inspect import inspect
from logitstore.store.layout import StoreLayout
from logitstore.targets.documents import Document, DocumentBlock, StoredDocument
from logitstore.targets.targets import SparseTargets
from logitstore.teacher.base import batches
from logitstore.teacher.transformers import TransformersTeacher
from tools.bench_corpus import docstrings, teacher_folder
from trainer.losses import TargetTensors, teacher_head_tail

K = 64
TEMPERATURES = (1.0, 1.1, 1.25, 1.5, 2.0, 3.0, 5.0, 7.0, 10.0)
SHARPENINGS = (1.75, 2.5)
CHECKED_DOCUMENTS = 64
BATCH_TOKENS = 16_384


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--teacher", type=Path, default=None)
    parser.add_argument("--data", type=Path, default=None)
    parser.add_argument("--characters", type=int, default=1_100_000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        teacher = teacher_folder(given.teacher, work)
        data = given.data or docstrings(work / "docstrings.jsonl", characters=given.characters)
        stores = _time_dump(teacher, data, work)
        _print_columns(stores)
        _print_fidelity(teacher, stores["zarr"])


def _time_dump(teacher: Path, data: Path, work: Path) -> dict[str, Path]:
    """Dump into both containers; print times beside those of the bare forwards around each."""
    stores = {container: work / container for container in ("zarr", "parquet")}
    _dump(teacher, data, work / "warm-up", container="zarr")
    bare = [_bare_forward(teacher, data, work / "warm-up")]
    seconds: dict[str, float] = {}
    for container, store in stores.items():
        seconds[container] = _dump(teacher, data, store, container=container)
        bare.append(_bare_forward(teacher, data, store))
    tokenising, targets = min(one[1] for one in bare), bare[0][2]
    print(f"\n{targets:,} targets, tokenisation {tokenising:.1f} s\n")
    print("| container | dump, s | bare forward, s | dump / bare forward |\n|---|---|---|---|")
    for number, (container, whole) in enumerate(seconds.items()):
        around = (bare[number][0] + bare[number + 1][0]) / 2
        ratio = (whole - tokenising) / around
        print(f"| {container} | {whole:.1f} | {around:.1f} | {ratio:.2f} |")
    return stores


def _dump(teacher: Path, data: Path, store: Path, *, container: str) -> float:
    """Seconds from the first batch to the seal: start-up and planning left out."""
    starts: list[float] = []

    def told(now: logitstore.Progress) -> None:
        # The first progress of the dump itself comes when everything is loaded and planned.
        if now.stage == "dumping":
            starts.append(time.perf_counter())

    logitstore.dump(
        teacher=str(teacher),
        data=str(data),
        out=store,
        sparsify="topk",
        k=K,
        format=container,
        device="cpu",
        dtype="float32",
        batch_tokens=BATCH_TOKENS,
        on_progress=told,
    )
    return time.perf_counter() - starts[0]


def _bare_forward(teacher: Path, data: Path, store: Path) -> tuple[float, float, int]:
    """Seconds of `model(ids).logits` over the dump's batches, of tokenisation; targets."""
    tokenizer = load_tokenizer(str(teacher))
    model = _load(teacher)
    corpus, layout = open_corpus(str(data)), StoreLayout.at(store)
    rules = TextRules(max_length=layout.read_spec().text.max_length)
    forward = tokenising = 0.0
    targets = 0
    for unit in layout.read_plan().units:
        started = time.perf_counter()
        records = corpus.read(unit, skip_bad=False)
        documents = list(tokenize(records, tokenizer, rules=rules, skip_bad=False))
        tokenising += time.perf_counter() - started
        targets += sum(document.targets for document in documents)
        for batch in batches(documents, batch_tokens=BATCH_TOKENS):
            ids_BL = _padded([documents[place] for place in batch])
            started = time.perf_counter()
            with torch.inference_mode():
                _ = model.model(ids_BL).logits
            forward += time.perf_counter() - started
    return forward, tokenising, targets


def _load(teacher: Path) -> TransformersTeacher:
    size = vocab_size(load_tokenizer(str(teacher)))
    return TransformersTeacher.load(str(teacher), vocab_size=size, device="cpu", dtype="float32")


def _padded(documents: list[Document]) -> torch.Tensor:
    ids_BL = torch.zeros(len(documents), max(map(len, documents)), dtype=torch.int64)
    for row, document in enumerate(documents):
        ids_BL[row, : len(document)] = torch.from_numpy(document.input_ids_L.astype(np.int64))
    return ids_BL


def _print_columns(stores: dict[str, Path]) -> None:
    shown = {name: inspect(folder) for name, folder in stores.items()}
    columns = sorted({c for one in shown.values() for c in one["column_bytes_per_target"]})
    print("\n| bytes per counted target | " + " | ".join(shown) + " |")
    print("|---|" + "---|" * len(shown))
    for column in columns:
        cells = [one["column_bytes_per_target"].get(column, 0.0) for one in shown.values()]
        print(f"| {column} | " + " | ".join(f"{cell:.2f}" for cell in cells) + " |")
    totals = " | ".join(f"{one['bytes_per_target']:.2f}" for one in shown.values())
    print(f"| **all** | {totals} |")


def _print_fidelity(teacher: Path, folder: Path) -> None:
    """The stored rows against the teacher run again densely, and sharper rows likewise."""
    store, model = logitstore.open(folder), _load(teacher)
    step = max(1, len(store) // CHECKED_DOCUMENTS)
    sample = store[::step]
    divergences_R = np.concatenate([_head_kl(one, dense) for one, dense in _dense(model, sample)])
    print(
        f"\nKL on the head, stored against dense, {len(divergences_R):,} targets: "
        f"mean {divergences_R.mean():.2e}, largest {divergences_R.max():.2e} nats\n"
    )
    print("| error of the tail's mass | " + " | ".join(f"T={t:g}" for t in TEMPERATURES) + " |")
    print("|---|" + "---|" * len(TEMPERATURES))
    stored = _tail_errors(model, sample, lambda one, _: one.targets, factor=1.0)
    print("| as stored | " + " | ".join(stored) + " |")
    for factor in SHARPENINGS:
        cells = _tail_errors(model, sample, _sharpened(factor), factor=factor)
        print(f"| as stored, logits times {factor:g} | " + " | ".join(cells) + " |")
    print("\nEach cell: mean, largest.")


def _dense(
    model: TransformersTeacher, sample: list[StoredDocument]
) -> Iterator[tuple[StoredDocument, torch.Tensor]]:
    """Each document with its dense logits [R, V]."""
    for stored in sample:
        with torch.inference_mode():
            parts = [logits_RV.clone() for logits_RV, _ in model.logits([stored.document])]
        yield stored, torch.cat(parts)


def _head_kl(stored: StoredDocument, logits_RV: torch.Tensor) -> np.ndarray:
    """sum over the head of p log(p / stored p), [R]."""
    logp_RV = torch.log_softmax(logits_RV.double(), dim=-1)
    ids_RK = torch.from_numpy(stored.targets.ids_RK.astype(np.int64))
    logp_RK = logp_RV.gather(1, ids_RK)
    found_RK = torch.from_numpy(stored.targets.logprobs_RK)
    return (logp_RK.exp() * (logp_RK - found_RK)).sum(dim=-1).numpy()


def _sharpened(factor: float) -> Callable[[StoredDocument, torch.Tensor], SparseTargets]:
    """What a store would hold of a teacher whose logits are `factor` times as large."""
    spec = sparsifier_spec("topk", k=K)

    def sparsify(stored: StoredDocument, logits_RV: torch.Tensor) -> SparseTargets:
        labels_R = stored.document.input_ids_L[stored.document.counted_L].astype(np.int64)
        keys_R = np.zeros(len(labels_R), dtype=np.uint64)
        codec = new_codec(spec, vocab_size=logits_RV.shape[1])
        (targets,) = SPARSIFIERS["topk"].draw(
            logits_RV * factor, torch.from_numpy(labels_R), keys_R, spec
        )
        block = DocumentBlock.join([replace(stored, targets=targets)])
        tables = codec.tables([block])
        return codec.decode(codec.encode(block, tables), tables).targets

    return sparsify


def _tail_errors(
    model: TransformersTeacher,
    sample: list[StoredDocument],
    targets_of: Callable[[StoredDocument, torch.Tensor], SparseTargets],
    *,
    factor: float,
) -> list[str]:
    """mean and largest |stored tail mass - dense tail mass| at each temperature."""
    errors: dict[float, list[torch.Tensor]] = {t: [] for t in TEMPERATURES}
    for stored, logits_RV in _dense(model, sample):
        targets = targets_of(stored, logits_RV)
        ids_RK = torch.from_numpy(targets.ids_RK.astype(np.int64))
        for temperature, parts in errors.items():
            p_RV = torch.softmax(logits_RV.double() * factor / temperature, dim=-1)
            wanted_R = p_RV.scatter(1, ids_RK, 0.0).sum(dim=-1)
            parts.append((_tail_mass(targets, temperature, model) - wanted_R).abs())
    joined = [torch.cat(parts) for parts in errors.values()]
    return [f"{float(one.mean()):.1e}, {float(one.max()):.1e}" for one in joined]


def _tail_mass(
    targets: SparseTargets, temperature: float, model: TransformersTeacher
) -> torch.Tensor:
    tensors = TargetTensors.of(targets)
    teacher = teacher_head_tail(
        logprobs_NK=tensors.logprobs_NK,
        used_NK=tensors.used_NK,
        tail_logmass_NB=tensors.tail_logmass_NB,
        nodes=TAIL_NODES,
        temperature=temperature,
        vocab_size=model.head.vocab_size,
        count_N=tensors.count_N,
    )
    return teacher.log_tail_N.exp().double()


if __name__ == "__main__":
    main()
