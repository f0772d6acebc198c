"""Audit: a store's targets against the live teacher, and the teacher against itself.

Documents spread over the store are given to the teacher twice, batched in two ways. What the two
runs differ by is the noise floor: no store can be nearer to its teacher than that. Each number and
how to read it stands in docs/audit.md.

Shapes: R targets, K entries, V vocabulary, D width.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from logitstore.errors import ModelError, SettingError
from logitstore.fidelity.alignment import SHIFTS, mean_and_error, shift_faults, shift_losses
from logitstore.fidelity.divergence import StoredRows, divergence, live_logprobs
from logitstore.fidelity.gradients import GradientComparison
from logitstore.store.reader import Store, open_store
from logitstore.store.storage import StorageLike
from logitstore.targets.documents import StoredDocument
from logitstore.targets.tails import tail_logmass_at
from logitstore.targets.targets import SparseTargets
from logitstore.teacher.base import batches
from logitstore.teacher.transformers import Teacher

if TYPE_CHECKING:
    from torch import Tensor

    from logitstore.format.spec import SparsifierSpec
    from logitstore.targets.documents import Document

__all__ = ["audit"]

TEMPERATURES = (1.0, 1.25, 1.5, 2.0, 3.0, 5.0, 10.0)
_NOISE_FLOORS = 3  # how many of them a store may be away from its teacher
_STANDARD_ERRORS = 3  # beyond which an estimate is taken for more than chance: 1 in 370
# About six arrays [rows, V] in float64 exist at a time.
_CPU_CHUNK_BYTES = 16 << 20
_GPU_CHUNK_BYTES = 512 << 20
_DTYPES = ("float32", "bfloat16", "float16")


def audit(
    store: StorageLike,
    *,
    teacher: str,
    documents: int = 32,
    student: str | None = None,
    seed: int = 0,
    device: str = "auto",
    dtype: str = "auto",
    batch_tokens: int | None = None,
) -> dict[str, Any]:
    """Run `teacher` over `documents` of the sealed store `store`: one JSON object of what it finds.

    `dtype` "auto" is that of the dump, `batch_tokens` None likewise. Of several draws the first is
    audited, at its own temperature. Losses and divergences in nats per target, angles in degrees;
    `ok` tells whether `faults` is empty. A teacher that is not the store's is judged by its numbers
    alike. Raises ModelError for a model that cannot be loaded, has fewer logit columns than the
    store has ids or a shorter context than the documents; SettingError; StoreError.
    """
    _check_settings(documents=documents, seed=seed, batch_tokens=batch_tokens)
    opened = open_store(store)
    spec = opened.spec
    if dtype == "auto" and spec.teacher.dtype in _DTYPES:
        dtype = spec.teacher.dtype
    chosen = _spread(opened, documents, seed=seed)
    vocab_size = spec.tokenizer.vocab_size
    models = [
        Teacher.load(name, vocab_size=vocab_size, device=device, dtype=dtype)
        for name in (teacher, student)
        if name is not None
    ]
    for model in models:
        _check_context(model, chosen)
    sums = _Sums.of(opened, models)
    with torch.inference_mode():
        for batch in _batches(chosen, batch_tokens=batch_tokens or spec.batch_tokens):
            sums.add(batch)
    live = models[0].spec
    result = {
        "store": str(store),
        "teacher": teacher,
        "teacher_matches": live.fingerprint == spec.teacher.fingerprint,
        "device": live.device,
        "dtype": live.dtype,
        "student": student,
        "documents": len(chosen),
        "targets": sum(len(one.targets) for one in chosen),
        "temperature": sums.temperature,
        **sums.results([stored.document for stored in chosen]),
    }
    return result | {"ok": not result["faults"]}


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Sums:
    """What has been measured so far: numbers of each row, and gradients summed over all."""

    teacher: Teacher
    student: Teacher | None
    store: Store
    temperature: float
    served: tuple[float, ...]  # temperatures
    gradients: GradientComparison
    rows: dict[str, list[np.ndarray]] = field(default_factory=lambda: defaultdict(list))

    @staticmethod
    def of(store: Store, models: Sequence[Teacher]) -> _Sums:
        """Nothing yet, of the first draw of `store`."""
        vocab_size = store.spec.tokenizer.vocab_size
        return _Sums(
            teacher=models[0],
            student=models[1] if len(models) > 1 else None,
            store=store,
            temperature=(store.spec.sparsifier.temperatures or (1.0,))[0],
            served=_served(store.spec.sparsifier, vocab_size),
            gradients=GradientComparison(vocab_size),
        )

    def add(self, batch: Sequence[StoredDocument]) -> None:
        """Run the models over `batch` and measure its rows."""
        vocab_size = self.store.spec.tokenizer.vocab_size
        for stored in batch:
            losses = shift_losses(stored, vocab_size=vocab_size)
            self._keep({f"shift {shift}": losses_R for shift, losses_R in losses.items()})
        documents = [stored.document for stored in batch]
        hidden_RD, _ = self.teacher.hidden(documents)
        # Another composition: one document alone, or two where it was alone.
        again_RD = torch.cat(
            [
                self.teacher.hidden([one] if len(batch) > 1 else [one, one])[0][: one.targets]
                for one in documents
            ]
        )
        students_RD = None if self.student is None else self.student.hidden(documents)[0]
        targets = SparseTargets.concatenate([stored.targets for stored in batch])
        size = _CPU_CHUNK_BYTES if hidden_RD.device.type == "cpu" else _GPU_CHUNK_BYTES
        step = max(1, size // (8 * vocab_size))
        for start in range(0, len(targets), step):
            chunk = slice(start, start + step)
            # The head's own sums are regrouped too.
            halves = again_RD[chunk].chunk(2)
            live_RV = self._logprobs(self.teacher, hidden_RD[chunk])
            again_RV = torch.cat([self._logprobs(self.teacher, half) for half in halves])
            self._measure(live_RV, again_RV, targets.rows(chunk))
            self._pull(live_RV, targets.rows(chunk), students_RD, chunk)

    def _measure(self, live_RV: Tensor, again_RV: Tensor, targets: SparseTargets) -> None:
        nodes = self.store.spec.sparsifier.tail_nodes
        stored = StoredRows.of(targets, live_RV, nodes=nodes)
        measured = {
            "noise_kl": divergence(live_RV, again_RV).sum(-1),
            "head_kl": stored.head_kl_R(),
            "logprob_error": stored.logprob_error_R(),
            "exact": stored.exact_RK.any(-1),
            "mass": stored.exact_mass_R(),
        }
        if targets.sampled_RK is not None:
            measured["drawn_kl"] = stored.drawn_kl_R()
        for temperature in self.served:
            measured[f"tail {temperature:g}"] = stored.tail_error_R(temperature)
        self._keep({name: value.cpu().numpy() for name, value in measured.items()})

    def _pull(
        self, live_RV: Tensor, targets: SparseTargets, students_RD: Tensor | None, chunk: slice
    ) -> None:
        if self.student is None or students_RD is None:
            self.gradients.add(live_RV, targets)
            return
        hidden_RD = students_RD[chunk]
        self.gradients.add(
            live_RV,
            targets,
            hidden_RD=hidden_RD,
            student_logprobs_RV=self._logprobs(self.student, hidden_RD),
        )

    def results(self, documents: Sequence[Document]) -> dict[str, Any]:
        """The numbers of an audit of `documents`, and which judgements failed."""
        rows = {name: np.concatenate(parts) for name, parts in self.rows.items()}
        shifts = {shift: rows[f"shift {shift}"] for shift in SHIFTS}
        drawn = None
        if "drawn_kl" in rows:
            mean, error = mean_and_error(rows["drawn_kl"])
            drawn = {"mean": mean, "standard_error": error}
        only_drawn = self.store.spec.sparsifier.name == "sample"
        tail_error = {
            f"{one:g}": {
                "mean": float(rows[f"tail {one:g}"].mean()),
                "largest": float(rows[f"tail {one:g}"].max()),
            }
            for one in self.served
        }
        error_R = rows["logprob_error"][rows["exact"]]
        numbers: dict[str, Any] = {
            "kl": drawn["mean"] if drawn and only_drawn else float(rows["head_kl"].mean()),
            "noise_kl": float(rows["noise_kl"].mean()),
            "stated_kl": _stated_kl(self.store),
            "drawn_kl": drawn,
            "max_logprob_error": float(error_R.max()) if len(error_R) else None,
            "tail_error": tail_error or None,
            "retained_mass": float(rows["mass"].mean()),
            "shift_loss": {str(shift): _known_mean(loss_R) for shift, loss_R in shifts.items()},
            "gradient_angle": self.gradients.angle,
            "gradient_norm_ratio": self.gradients.norm_ratio,
        }
        faults = [*_kl_faults(numbers, self.store), *shift_faults(shifts, self.teacher, documents)]
        return numbers | {"faults": faults}

    def _keep(self, measured: dict[str, np.ndarray]) -> None:
        for name, values_R in measured.items():
            self.rows[name].append(values_R)

    def _logprobs(self, model: Teacher, hidden_RD: Tensor) -> Tensor:
        return live_logprobs(model.head.logits(hidden_RD), temperature=self.temperature)


def _kl_faults(numbers: dict[str, Any], store: Store) -> Iterator[str]:
    stated, noise, drawn = numbers["stated_kl"], numbers["noise_kl"], numbers["drawn_kl"]
    allowed = stated + _NOISE_FLOORS * noise
    if store.spec.sparsifier.name != "sample" and not numbers["kl"] <= allowed:
        yield (
            f"kl is {numbers['kl']:.3g}, above {allowed:.3g} (stated {stated:.3g} + "
            f"{_NOISE_FLOORS} x noise {noise:.3g}): the stored probabilities are not this teacher's"
        )
    if drawn is None:
        return
    allowed += _STANDARD_ERRORS * drawn["standard_error"]
    if "value_steps" in store.spec.codec.parameters:
        allowed += _entropy_rounding(store)
    if not abs(drawn["mean"]) <= allowed:
        yield (
            f"drawn_kl is {drawn['mean']:.3g}, further from 0 than {allowed:.3g} "
            f"({_STANDARD_ERRORS} standard errors and what steps and noise cost): "
            "the entries were not drawn from this teacher's distributions"
        )


def _stated_kl(store: Store) -> float:
    """nats: the head KL that the codec's steps cost a row that is all head, (1 / steps)^2 / 24.

    Counts of draws cost nothing. There it is what the rounding of the stored entropy, from which
    the KL is estimated, can shift it by.
    """
    steps = store.spec.codec.parameters.get("value_steps")
    return _entropy_rounding(store) if steps is None else (1 / steps) ** 2 / 24


def _entropy_rounding(store: Store) -> float:
    """nats: half a step."""
    return 0.5 / store.spec.codec.parameters["scalar_steps"]


def _known_mean(values_R: np.ndarray) -> float | None:
    known_R = values_R[~np.isnan(values_R)]
    return float(known_R.mean()) if len(known_R) else None


def _served(spec: SparsifierSpec, vocab_size: int) -> tuple[float, ...]:
    """Those of TEMPERATURES at which a store of that spec knows its tails' mass."""

    def serves(temperature: float) -> bool:
        none_RB, none_R = torch.zeros(0, len(spec.tail_nodes)), torch.zeros(0)
        nodes = spec.tail_nodes
        try:
            tail_logmass_at(
                temperature, none_RB, nodes=nodes, vocab_size=vocab_size, count_R=none_R
            )
        except SettingError:
            return False
        return True

    return tuple(one for one in TEMPERATURES if serves(one))


def _spread(store: Store, documents: int, *, seed: int) -> list[StoredDocument]:
    """One document out of each of `documents` equal parts of the store."""
    generator = np.random.default_rng(seed)
    edges = np.linspace(0, len(store), min(documents, len(store)) + 1).astype(np.int64)
    places = generator.integers(edges[:-1], edges[1:])
    chosen = []
    for place in places.tolist():
        one = store[place]
        # A copy, or each document would keep its whole block in memory.
        targets = one.targets.rows(np.arange(len(one.targets)))
        chosen.append(StoredDocument(document=one.document, targets=targets))
    return chosen


def _batches(
    chosen: Sequence[StoredDocument], *, batch_tokens: int
) -> Iterator[list[StoredDocument]]:
    documents = [stored.document for stored in chosen]
    for places in batches(documents, batch_tokens=batch_tokens):
        yield [chosen[place] for place in places]


def _check_context(model: Teacher, chosen: Sequence[StoredDocument]) -> None:
    longest = max(len(stored.document) for stored in chosen)
    if model.context is not None and longest > model.context:
        raise ModelError(
            "the store's documents are longer than the model's context",
            place=model.spec.name,
            found=f"{longest} tokens",
            allowed=f"up to {model.context}",
        )


def _check_settings(*, documents: int, seed: int, batch_tokens: int | None) -> None:
    numbers = {
        "--documents": (documents, 1),
        "--seed": (seed, 0),
        "--batch-tokens": (batch_tokens, 1),
    }
    for option, (number, least) in numbers.items():
        if number is not None and number < least:
            raise SettingError(f"{option} must be at least {least}", found=number)
