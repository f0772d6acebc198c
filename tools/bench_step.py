"""A step of `trainer fit` beside the same step of plain `transformers.Trainer` cross-entropy.

    python -m tools.bench_step [--teacher FOLDER] [--data FILE] [--steps 12] [--tokens 4096]
                               [--loss forward_kl] [--temperature 1,2]

The same student, store, documents, layout of rows and optimiser; the plain one computes its loss as
transformers does. Short runs of all alternate; a ratio is of medians. `--loss all` measures every
loss that learns from texts, `--threads 1` counts the seconds of one core, so that other load counts
little.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import Trainer, TrainerCallback, TrainingArguments

import logitstore
import trainer
from tools.bench_corpus import docstrings, teacher_folder
from tools.demo_teacher import llama_config
from trainer.data.rows import RowLayout, lay_out
from trainer.losses import LOSSES
from trainer.training.student import load_student

K = 64
TOKENS = 4096
ROUNDS = 3


class _Clock(TrainerCallback):
    """Wall time of each optimiser step, its batch included."""

    def __init__(self) -> None:
        self.times = [now()]

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.times.append(now())

    def seconds(self) -> list[float]:
        """Of each step but the first two, which warm up."""
        return np.diff(self.times)[2:].tolist()


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--teacher", type=Path, default=None)
    parser.add_argument("--data", type=Path, default=None)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--tokens", type=int, default=TOKENS)
    parser.add_argument("--loss", choices=[*LOSSES, "all"], default="forward_kl")
    parser.add_argument("--temperature", default="1", help="several, separated by commas")
    parser.add_argument("--threads", type=int, default=None)
    given = parser.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    of_texts = [name for name, one in LOSSES.items() if not one.of_samples]
    losses = of_texts if given.loss == "all" else [given.loss]
    temperatures = [float(one) for one in given.temperature.split(",")]
    sizes = {"steps": given.steps, "tokens": given.tokens}
    plain: list[float] = []
    ours: dict[tuple[str, float], list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        store, student = made(teacher_folder(given.teacher, work), given.data, work)
        for number in range(ROUNDS):
            plain += plain_steps(store, student, work / f"plain-{number}", **sizes)
            for loss in losses:
                for each in temperatures:
                    out = work / f"{loss}-{each:g}-{number}"
                    ours[loss, each] += our_steps(
                        store, student, out, loss=loss, temperature=each, **sizes
                    )
    base = float(np.median(plain))
    print(
        f"\nsteps of {given.tokens:,} tokens, K = {K}; plain cross-entropy {base:.3f} s\n\n"
        f"| loss | {' | '.join(f'T = {one:g}, s | / plain' for one in temperatures)} |\n"
        f"|---|{'---|' * 2 * len(temperatures)}"
    )
    for loss in losses:
        medians = [float(np.median(ours[loss, one])) for one in temperatures]
        print(f"| {loss} | {' | '.join(f'{one:.3f} | {one / base:.3f}' for one in medians)} |")


def now() -> float:
    """The clock, seconds: of this process's core where it has one thread, else of the wall."""
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def made(teacher: Path, data: Path | None, work: Path) -> tuple[Path, Path]:
    """A store of the teacher over `data` or docstrings, and a student's configuration."""
    data = data or docstrings(work / "docstrings.jsonl", characters=260_000)
    store, student = work / "store", work / "student.json"
    logitstore.dump(teacher=str(teacher), data=str(data), out=store, sparsify="topk", k=K)
    size = logitstore.open(store).spec.tokenizer.vocab_size
    config = llama_config(vocab_size=size, width=256, layers=4)
    student.write_text(json.dumps(config | {"max_position_embeddings": 1024}))
    return store, student


def our_steps(
    store: Path,
    student: Path,
    out: Path,
    *,
    steps: int,
    tokens: int,
    loss: str = "forward_kl",
    temperature: float = 1.0,
) -> list[float]:
    """Seconds of each step of `trainer fit` but the first."""
    reports: list[float] = []
    trainer.fit(
        logits=store,
        student=student,
        out=out,
        steps=steps,
        loss=loss,
        temperature=temperature,
        batch_tokens=tokens,
        micro_tokens=tokens,
        log_steps=1,
        save_steps=10**6,
        device="cpu",
        report=lambda _: reports.append(now()),
    )
    return np.diff(reports)[1:].tolist()


def plain_steps(
    store: Path,
    student: Path,
    out: Path,
    *,
    steps: int,
    tokens: int,
    loop: Callable[..., Trainer] = Trainer,
) -> list[float]:
    """Seconds of each step of a `loop` over the same rows, but the first two."""
    model = load_student(student, spec=logitstore.open(store).spec, seed=0)
    clock = _Clock()
    arguments = TrainingArguments(
        output_dir=str(out),
        max_steps=steps,
        per_device_train_batch_size=1,
        learning_rate=3e-4,
        weight_decay=0.1,
        lr_scheduler_type="cosine",
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="no",
        report_to="none",
        remove_unused_columns=False,
        use_cpu=True,
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    rows = list(_rows(store, count=steps, tokens=tokens))
    running = loop(
        model=model,
        args=arguments,
        train_dataset=rows,
        data_collator=lambda batch: batch[0],
        callbacks=[clock],
    )
    running.train()
    return clock.seconds()


def _rows(store: Path, *, count: int, tokens: int) -> Iterator[dict[str, Any]]:
    """Whole documents in steps of at most `tokens` tokens, laid out as `fit` lays them out."""
    documents: list[Any] = []
    for stored in logitstore.open(store):
        if sum(len(one.document) for one in documents) + len(stored.document) > tokens:
            yield _row(documents)
            documents, count = [], count - 1
            if count == 0:
                return
        documents.append(stored)


def _row(documents: list[Any]) -> dict[str, Any]:
    batch = lay_out([one.document for one in documents], layout=RowLayout.ROWS)
    inputs = batch.model_inputs
    labels = torch.full_like(inputs["input_ids"], -100).flatten()
    # `fit` names each target by the row that predicts it; the label stands one place further on.
    labels[batch.at_R + 1] = batch.labels_R
    return inputs | {"labels": labels.view_as(inputs["input_ids"]), "use_cache": False}


if __name__ == "__main__":
    main()
