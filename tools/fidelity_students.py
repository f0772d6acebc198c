"""Students trained together from one teacher, each from another kind of targets.

The teacher runs once for each batch, and all targets go through their codec before training.

Shapes: R targets, V vocabulary, D width, B documents of a batch, L tokens of a document.
"""

from __future__ import annotations

import json
import math
import time
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from logitstore import SparseTargets
from logitstore.codec import new_codec
from logitstore.corpus.tokenizer import load_tokenizer
from logitstore.plumbing import LMHead, hidden_states
from logitstore.sparsify import SPARSIFIERS
from logitstore.targets.documents import Document, DocumentBlock, document_id
from logitstore.targets.draws import row_keys
from trainer.losses import LOSSES
from trainer.losses.fused import TargetTensors, sparse_distillation_loss

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator
    from pathlib import Path

    from torch import Tensor

    from logitstore.format.spec import SparsifierSpec
    from logitstore.teacher.transformers import TransformersTeacher as Teacher

__all__ = ["Recipe", "Windows", "train"]

WINDOW = 256  # targets of a document
HELDOUT_WINDOWS = 128
_ECE_BINS = 15


@dataclass(frozen=True, slots=True)
class Recipe:
    """One way to tell the student of the teacher."""

    name: str
    loss: str = "forward_kl"
    spec: SparsifierSpec | None = None  # None: no record, the labels or the live teacher


@dataclass(frozen=True, kw_only=True, slots=True)
class Windows:
    """Windows of text as documents, one in so many of them held out."""

    train: list[Document]
    heldout: list[Document]

    @staticmethod
    def read(teacher: Path, text: Path) -> Windows:
        """The JSONL file `text` in the tokens of `teacher`."""
        tokenizer = load_tokenizer(str(teacher))
        with text.open() as file:
            texts = [json.loads(line)["text"] for line in file]
        encoded = tokenizer(texts, add_special_tokens=False)["input_ids"]
        ids = np.concatenate([[*one, tokenizer.eos_token_id] for one in encoded])
        count = (len(ids) - 1) // WINDOW
        documents = [_window(ids[n * WINDOW : (n + 1) * WINDOW + 1], n) for n in range(count)]
        every = max(2, count // HELDOUT_WINDOWS)
        return Windows(
            train=[one for number, one in enumerate(documents) if number % every],
            heldout=documents[::every][:HELDOUT_WINDOWS],
        )

    def batches(self, *, seed: int, windows: int, steps: int) -> Iterator[list[Document]]:
        """Epoch after epoch, each in another order."""
        generator, left = np.random.default_rng(seed), np.zeros(0, dtype=np.int64)
        for _ in range(steps):
            if len(left) < windows:
                left = generator.permutation(len(self.train))
            yield [self.train[one] for one in left[:windows]]
            left = left[windows:]


def _window(ids_L: np.ndarray, number: int) -> Document:
    counted_L = np.ones(len(ids_L), dtype=bool)
    counted_L[0] = False
    return Document(
        id=document_id(source="bench", record=number, piece=0),
        record=number,
        piece=0,
        input_ids_L=ids_L.astype(np.uint32),
        counted_L=counted_L,
    )


def teacher_logits(teacher: Teacher, batch: list[Document]) -> Tensor:
    """float32 [R, V] of all targets of `batch`."""
    with torch.inference_mode():
        return torch.cat([logits_RV.clone() for logits_RV, _ in teacher.logits(batch)]).clone()


def labels_of(batch: list[Document]) -> Tensor:
    """int64 [R]."""
    return torch.from_numpy(np.concatenate([one.input_ids_L[1:] for one in batch]).astype(np.int64))


def sparse(logits_RV: Tensor, batch: list[Document], spec: SparsifierSpec) -> SparseTargets:
    """What a reader of a store would see: sparsified, encoded, decoded."""
    keys_R = np.concatenate([row_keys(one, seed=0) for one in batch])
    with torch.inference_mode():
        (targets,) = SPARSIFIERS[spec.name].draw(logits_RV.clone(), labels_of(batch), keys_R, spec)
    codec = new_codec(spec, vocab_size=logits_RV.shape[1])
    lengths_D = np.array([one.targets for one in batch])
    block = DocumentBlock(
        ids=tuple(one.id for one in batch),
        records_D=np.zeros(len(batch), dtype=np.int64),
        pieces_D=np.zeros(len(batch), dtype=np.int64),
        token_lengths_D=lengths_D + 1,
        target_lengths_D=lengths_D,
        input_ids_N=np.concatenate([one.input_ids_L for one in batch]),
        counted_N=np.concatenate([one.counted_L for one in batch]),
        targets=targets,
    )
    tables = {"ranking": np.arange(logits_RV.shape[1], dtype=np.uint32)}
    return codec.decode(codec.encode(block, tables), tables).targets


class Student:
    """A small Llama and its optimiser."""

    def __init__(self, *, vocab_size: int, seed: int, steps: int, lr: float) -> None:
        torch.manual_seed(seed)
        self.model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=vocab_size,
                hidden_size=64,
                intermediate_size=192,
                num_hidden_layers=2,
                num_attention_heads=4,
                max_position_embeddings=WINDOW,
                tie_word_embeddings=True,
            )
        )
        self.head = LMHead.of(self.model, vocab_size=vocab_size)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=lr, betas=(0.9, 0.95))
        warmup = max(1, steps // 20)

        def share(step: int) -> float:
            done = (step - warmup) / max(1, steps - warmup)
            return (step + 1) / warmup if step < warmup else 0.5 * (1 + math.cos(math.pi * done))

        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, share)

    def hidden(self, batch: list[Document]) -> Tensor:
        """float32 [R, D]."""
        ids_BL = np.stack([one.input_ids_L[:-1] for one in batch]).astype(np.int64)
        return hidden_states(self.model, torch.from_numpy(ids_BL)).flatten(0, 1)

    def loss(
        self, batch: list[Document], recipe: Recipe, logits_RV: Tensor, targets: Any
    ) -> Tensor:
        """Mean over the batch's targets."""
        hidden_RD, labels_R = self.hidden(batch), labels_of(batch)
        if recipe.name == "dense teacher":
            return dense_loss(self.head.logits(hidden_RD), logits_RV)
        if recipe.spec is None:
            return torch.nn.functional.cross_entropy(self.head.logits(hidden_RD), labels_R)
        sums = sparse_distillation_loss(
            hidden_RD,
            self.head,
            TargetTensors.of(targets),
            labels_R,
            alpha=1.0,
            temperature=1.0,
            loss=LOSSES[recipe.loss],
            sparsifier=recipe.spec,
            vocab_size=self.head.vocab_size,
        )
        return sums.loss / sums.count

    def step(self, loss: Tensor) -> None:
        """One update."""
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad()

    def gradient(self, loss: Tensor) -> Tensor:
        """All parameters' gradients in one vector."""
        grads = torch.autograd.grad(loss, list(self.model.parameters()))
        return torch.cat([one.flatten() for one in grads])


def dense_loss(logits_RV: Tensor, teacher_RV: Tensor) -> Tensor:
    """Soft cross-entropy with the whole distribution."""
    return torch.nn.functional.cross_entropy(logits_RV, teacher_RV.softmax(-1))


def train(
    teacher: Teacher, corpus: Windows, chosen: list[Recipe], *, seed: int, args: argparse.Namespace
) -> Iterator[tuple[Recipe, dict[str, float]]]:
    """The students of one seed, measured on the held-out text."""
    size = teacher.head.vocab_size
    students = {
        one.name: Student(vocab_size=size, seed=seed, steps=args.steps, lr=args.lr)
        for one in chosen
    }
    began = time.monotonic()
    batches = corpus.batches(seed=seed, windows=args.windows, steps=args.steps)
    for number, batch in enumerate(batches, start=1):
        logits_RV = teacher_logits(teacher, batch)
        targets = _all_targets(logits_RV, batch, chosen)
        for one in chosen:
            student = students[one.name]
            student.step(student.loss(batch, one, logits_RV, targets.get(one.spec)))
        if number % 50 == 0:
            print(f"seed {seed}, step {number}, {time.monotonic() - began:.0f} s", flush=True)
    angles = gradient_angles(teacher, corpus, students, chosen)
    for one in chosen:
        yield one, measure(students[one.name], teacher, corpus.heldout) | angles.get(one.name, {})


def _all_targets(
    logits_RV: Tensor, batch: list[Document], chosen: list[Recipe]
) -> dict[SparsifierSpec | None, SparseTargets]:
    specs = {one.spec for one in chosen if one.spec is not None}
    return {spec: sparse(logits_RV, batch, spec) for spec in specs}


def gradient_angles(
    teacher: Teacher, corpus: Windows, students: dict[str, Student], chosen: list[Recipe]
) -> dict[str, dict[str, float]]:
    """Angle and relative length of each record's gradient, against that of the live teacher.

    Of all parameters of the student that learnt from the live teacher, over 2,048 held-out targets.
    """
    if "dense teacher" not in students:
        return {}
    student = students["dense teacher"]
    batch = corpus.heldout[: 2048 // WINDOW]
    logits_RV = teacher_logits(teacher, batch)
    dense = student.gradient(student.loss(batch, Recipe("dense teacher"), logits_RV, None))
    angles = {}
    for one in chosen:
        targets = None if one.spec is None else sparse(logits_RV, batch, one.spec)
        found = student.gradient(student.loss(batch, one, logits_RV, targets))
        cosine = torch.nn.functional.cosine_similarity(dense, found, dim=0).item()
        angles[one.name] = {
            "angle": math.degrees(math.acos(max(-1.0, min(1.0, cosine)))),
            "norm_ratio": float(found.norm() / dense.norm()),
        }
    return angles


def measure(student: Student, teacher: Teacher, heldout: list[Document]) -> dict[str, float]:
    """Held-out cross-entropy, KL to the teacher (nats), acceptance, calibration error."""
    sums: dict[str, float] = defaultdict(float)
    bins_3B = torch.zeros(3, _ECE_BINS, dtype=torch.float64)
    for start in range(0, len(heldout), 4):
        batch = heldout[start : start + 4]
        with torch.no_grad():
            q_RV = student.head.logits(student.hidden(batch)).log_softmax(-1)
        p_RV, labels_R = teacher_logits(teacher, batch).log_softmax(-1), labels_of(batch)
        sums["loss"] += float(-q_RV.gather(1, labels_R[:, None]).sum())
        sums["teacher"] += float(-p_RV.gather(1, labels_R[:, None]).sum())
        sums["kl"] += float((p_RV.exp() * (p_RV - q_RV)).sum())
        sums["acceptance"] += float(torch.minimum(p_RV, q_RV).exp().sum())
        top_R, id_R = q_RV.max(-1)
        bin_R = (top_R.exp() * _ECE_BINS).long().clamp(max=_ECE_BINS - 1)
        for row, value_R in zip(
            bins_3B, (top_R.exp(), (id_R == labels_R).float(), torch.ones_like(top_R)), strict=True
        ):
            row.index_add_(0, bin_R, value_R.double())
    count = len(heldout) * WINDOW
    result = {name: value / count for name, value in sums.items()}
    return result | {"ece": float((bins_3B[0] - bins_3B[1]).abs().sum()) / count}
