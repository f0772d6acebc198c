"""Audit: a store's targets against the live teacher, and the teacher against itself.

Documents spread over the store are given to the teacher one by one, and once more, each beside its
twin. What the two runs differ by is the noise floor: no store can be nearer to its teacher than
that. Each number and how to read it stands in docs/audit.md.

Shapes: R targets, K entries, V vocabulary, D width.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from logitstore.codec import codec_for
from logitstore.dumping.work import at_document
from logitstore.errors import ModelError, NotFinite, SettingError
from logitstore.fidelity.alignment import SHIFTS, mean_and_error, shift_faults, shift_losses
from logitstore.fidelity.beginnings import beginnings
from logitstore.fidelity.divergence import StoredRows, divergence, live_logprobs
from logitstore.fidelity.gradients import GradientComparison
from logitstore.fidelity.identity import is_stores_teacher, refuse_other_tokenizer
from logitstore.fidelity.layers import LayerStates
from logitstore.fidelity.options import AUDIT_OPTIONS, AuditOptions
from logitstore.fidelity.rereading import Rereading
from logitstore.fidelity.whole import WholeRows, WholeTeacher
from logitstore.format.edits import IMPORT, earlier_codecs
from logitstore.options import takes
from logitstore.progress import Meter, tell_stage
from logitstore.sparsify import sparsifier_of
from logitstore.store.last_audit import keep_audit
from logitstore.store.reader import Store, as_store
from logitstore.targets.documents import StoredDocument
from logitstore.targets.kinds import Entries
from logitstore.targets.tails import tail_logmass_at
from logitstore.targets.targets import SparseTargets
from logitstore.teacher.base import Teacher, batches
from logitstore.teacher.devices import DTYPES
from logitstore.teacher.opening import is_name, open_teacher, teacher_name
from logitstore.teacher.torch_state import neutral_torch_state
from logitstore.teacher.transformers import TransformersTeacher

if TYPE_CHECKING:
    from torch import Tensor

    from logitstore.codec.base import Codec
    from logitstore.format.spec import SparsifierSpec
    from logitstore.progress import OnProgress
    from logitstore.targets.documents import Document

__all__ = ["audit"]

TEMPERATURES = (1.0, 1.25, 1.5, 2.0, 3.0, 5.0, 10.0)
_NOISE_FLOORS = 3  # how many of them a store may be away from its teacher
# nats: what storing in single precision costs, where a teacher repeats itself to the last bit.
_SINGLE_PRECISION = 1e-9
_STANDARD_ERRORS = 3  # beyond which an estimate is taken for more than chance: 1 in 370
# About six arrays [rows, V] in float64 exist at a time.
_CPU_CHUNK_BYTES = 16 << 20
_GPU_CHUNK_BYTES = 512 << 20


@takes(AUDIT_OPTIONS)
def audit(**values: Any) -> dict[str, Any]:
    """Run the teacher over documents of a sealed store: one JSON object of what it finds.

    Of several draws one is audited, at its own temperature: the first, or the one at which an open
    `Store` is read. Losses and divergences in nats per target, angles in degrees; `ok` tells
    whether `faults` is empty, whatever `warnings` says, and `kept` whether the figures now stand
    beside the store, as audit.json. A teacher that is not the store's is judged
    by its numbers alike; one that has no forward of its own (`OwnForward`) cannot tell whether its
    rows were out of line when they were dumped. Raises ModelError for a model that
    cannot be loaded, has fewer logit columns than the store has ids or a shorter context than the
    documents; TokenizerError for a folder with another tokenizer; SettingError; StoreError.
    """
    options = AuditOptions(**values)
    store = as_store(options.store, max_memory=options.max_memory)
    _refuse_shares(store)
    reading = Rereading.of(store, data=options.data, teacher_system=options.teacher_system)
    chosen = reading.as_read(_spread(store, options.documents, seed=options.seed))
    refuse_other_tokenizer(options.teacher, store.spec, place=store.uri)
    on_progress = cast("OnProgress | None", options.on_progress)
    tell_stage(on_progress, f"loading {teacher_name(options.teacher) or 'the teacher'}")
    teacher = _open_model(options.teacher, options, store)
    student = None if options.student is None else _open_student(options, store)
    for model in (teacher, student):
        if model is not None:
            _check_context(model, chosen)
    sums = _Measurements.of(store, teacher, student)
    batch_tokens = options.batch_tokens or store.spec.batch_tokens
    meter = Meter(on_progress, stage="auditing", unit="documents")
    done = 0
    with neutral_torch_state():
        for batch in _batches(chosen, batch_tokens=batch_tokens):
            sums.add(batch)
            done += len(batch)
            meter.tell(done, fraction=done / len(chosen))
    result = {
        "store": store.uri,
        "fingerprint": store.fingerprint,
        "teacher": teacher_name(options.teacher) or teacher.spec.name,
        "teacher_matches": is_stores_teacher(teacher, store.spec),
        "device": teacher.spec.device,
        "dtype": teacher.spec.dtype,
        "student": None if student is None else teacher_name(options.student) or student.spec.name,
        "documents": len(chosen),
        "targets": sum(len(one.targets) for one in chosen),
        "temperature": sums.temperature,
        **beginnings(store, [stored.document for stored in chosen]),
        **sums.results([stored.document for stored in chosen]),
    }
    result["ok"] = not result["faults"]
    return result | {"kept": not options.no_keep and keep_audit(store.layout.storage, result)}


def _refuse_shares(store: Store) -> None:
    """Raise SettingError for a store that does not know the mass of its entries."""
    if sparsifier_of(store.spec.sparsifier).targets.entries is Entries.SHARES:
        raise SettingError(
            "the store was imported without the mass of its entries, so nothing that an audit "
            "measures can be compared with a teacher",
            place=store.uri,
        )


def _open_model(source: object, options: AuditOptions, store: Store) -> Teacher:
    """The model, by name in the number type of the dump unless another is asked for."""
    dtype, dumped = options.dtype, store.spec.teacher.dtype
    if dtype == "auto" and is_name(source) and dumped in DTYPES:
        dtype = dumped
    vocab_size = store.spec.tokenizer.vocab_size
    return open_teacher(source, vocab_size=vocab_size, device=options.device, dtype=dtype)


def _open_student(options: AuditOptions, store: Store) -> TransformersTeacher:
    student = _open_model(options.student, options, store)
    if not isinstance(student, TransformersTeacher):
        raise ModelError(
            "gradients need the student's hidden states and output layer",
            place=f"student {student.spec.name}",
            found=type(options.student).__name__,
            allowed="a transformers model, by name or loaded",
        )
    return student


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Measurements:
    """What has been measured so far: numbers of each row, and gradients summed over all."""

    teacher: Teacher
    student: TransformersTeacher | None
    store: Store
    temperature: float
    served: tuple[float, ...]  # temperatures
    gradients: GradientComparison
    whole: WholeTeacher | None = None  # of a store of hidden states
    layers: LayerStates | None = None  # of one that keeps those behind layers
    rows: dict[str, list[np.ndarray]] = field(default_factory=lambda: defaultdict(list))

    @staticmethod
    def of(store: Store, teacher: Teacher, student: TransformersTeacher | None) -> _Measurements:
        """Nothing yet, of the draw at which `store` is read."""
        vocab_size = store.spec.tokenizer.vocab_size
        return _Measurements(
            teacher=teacher,
            student=student,
            store=store,
            temperature=store.spec.sparsifier.drawn_at[store.draw // store.spec.sparsifier.repeats],
            served=_served(store.spec.sparsifier, vocab_size),
            gradients=GradientComparison(vocab_size),
            whole=_whole(store),
            layers=LayerStates.of(store, teacher),
        )

    def add(self, batch: Sequence[StoredDocument]) -> None:
        """Run the models over `batch` and measure its rows."""
        vocab_size = self.store.spec.tokenizer.vocab_size
        for stored in batch:
            losses = shift_losses(stored, vocab_size=vocab_size)
            self._keep({f"shift {shift}": losses_R for shift, losses_R in losses.items()})
        documents = [stored.document for stored in batch]
        students_RD = None if self.student is None else self.student.hidden(documents)[0]
        targets = SparseTargets.concatenate([stored.targets for stored in batch])
        try:
            self._compare(documents, targets, students_RD)
            if self.layers is not None:
                self.layers.add(documents, targets)
        except NotFinite as error:
            for one in documents:
                if not _is_finite(self.teacher, one):
                    raise at_document(error, one, source=self.store.uri, skips=False) from error
            raise

    def _compare(
        self, documents: Sequence[Document], targets: SparseTargets, students_RD: Tensor | None
    ) -> None:
        vocab_size = self.store.spec.tokenizer.vocab_size
        again = _RowQueue(_again(self.teacher, documents))
        start = 0
        for logits_RV in _alone(self.teacher, documents):
            size = _CPU_CHUNK_BYTES if logits_RV.device.type == "cpu" else _GPU_CHUNK_BYTES
            for part_RV in logits_RV.split(max(1, size // (8 * vocab_size))):
                chunk = slice(start, start + len(part_RV))
                live_RV, own = self._logprobs(part_RV), targets.rows(chunk)
                whole = None
                if self.whole is not None:
                    whole = self.whole.rows(own, live_RV, temperature=self.temperature)
                self._measure(live_RV, self._logprobs(again.take(len(part_RV))), own, whole)
                stored_RV = None if whole is None else whole.stored_RV
                self._pull(live_RV, own, students_RD, chunk, stored_RV)
                start = chunk.stop

    def _measure(
        self, live_RV: Tensor, again_RV: Tensor, targets: SparseTargets, whole: WholeRows | None
    ) -> None:
        nodes = self.store.spec.sparsifier.tail_nodes
        stored = StoredRows.of(targets, live_RV, nodes=nodes)
        measured = {
            "noise_kl": divergence(live_RV, again_RV).sum(-1),
            "head_kl": stored.head_kl_R(),
            "logprob_error": stored.logprob_error_R(),
            "exact": stored.exact_RK.any(-1),
            "mass": stored.exact_mass_R(),
        }
        if whole is not None:
            measured |= {"whole_kl": whole.kl_R, "rounding": whole.rounding_R}
        if targets.kind.drawn:
            measured["drawn_kl"] = stored.drawn_kl_R()
        for temperature in self.served:
            measured[f"tail {temperature:g}"] = stored.tail_error_R(temperature)
        self._keep({name: value.cpu().numpy() for name, value in measured.items()})

    def _pull(
        self,
        live_RV: Tensor,
        targets: SparseTargets,
        students_RD: Tensor | None,
        chunk: slice,
        stored_RV: Tensor | None,
    ) -> None:
        if self.student is None or students_RD is None:
            self.gradients.add(live_RV, targets, stored_RV=stored_RV)
            return
        hidden_RD = students_RD[chunk]
        self.gradients.add(
            live_RV,
            targets,
            hidden_RD=hidden_RD,
            student_logprobs_RV=self._logprobs(self.student.head.logits(hidden_RD)),
            stored_RV=stored_RV,
        )

    def results(self, documents: Sequence[Document]) -> dict[str, Any]:
        """The numbers of an audit of `documents`, and which judgements failed."""
        rows = {name: np.concatenate(parts) for name, parts in self.rows.items()}
        shifts = {shift: rows[f"shift {shift}"] for shift in SHIFTS}
        drawn = None
        if "drawn_kl" in rows:
            mean, error = mean_and_error(rows["drawn_kl"])
            drawn = {"mean": mean, "standard_error": error}
        has_exact = sparsifier_of(self.store.spec.sparsifier).targets.has_exact
        tail_error = {
            f"{one:g}": {
                "mean": float(rows[f"tail {one:g}"].mean()),
                "largest": float(rows[f"tail {one:g}"].max()),
            }
            for one in self.served
        }
        error_R = rows["logprob_error"][rows["exact"]]
        entries_kl = float(rows["head_kl"].mean())
        numbers: dict[str, Any] = {
            "kl": drawn["mean"] if drawn and not has_exact else entries_kl,
            "noise_kl": float(rows["noise_kl"].mean()),
            "stated_kl": _stated(self.store) if has_exact else _stated_drawn(self.store),
            "drawn_kl": drawn,
            "max_logprob_error": float(error_R.max()) if len(error_R) else None,
            "tail_error": tail_error or None,
            "retained_mass": float(rows["mass"].mean()),
            "shift_loss": {str(shift): _known_mean(loss_R) for shift, loss_R in shifts.items()},
            "gradient_angle": self.gradients.angle,
            "gradient_norm_ratio": self.gradients.norm_ratio,
        }
        if self.whole is not None:  # the record is the state, and the entries stand beside it
            numbers |= {
                "kl": float(rows["whole_kl"].mean()),
                "stated_kl": float(rows["rounding"].mean()),
                "entries_kl": entries_kl,
            }
        read = [document.as_read for document in documents]
        faults = [*_kl_faults(numbers, self.store), *shift_faults(shifts, self.teacher, read)]
        if self.layers is not None:
            numbers["states"] = self.layers.results()
            faults += self.layers.faults(numbers["states"])
        return numbers | {"faults": faults}

    def _keep(self, measured: dict[str, np.ndarray]) -> None:
        for name, values_R in measured.items():
            self.rows[name].append(values_R)

    def _logprobs(self, logits_RV: Tensor) -> Tensor:
        return live_logprobs(logits_RV, temperature=self.temperature)


def _alone(teacher: Teacher, documents: Sequence[Document]) -> Iterator[Tensor]:
    """The logits of the documents' rows, each document run by itself."""
    for one in documents:
        for logits_RV, _ in teacher.logits([one.as_read]):
            yield logits_RV


def _is_finite(teacher: Teacher, document: Document) -> bool:
    chunks = _alone(teacher, [document])
    return all(bool(logits_RV.logsumexp(-1).isfinite().all()) for logits_RV in chunks)


def _again(teacher: Teacher, documents: Sequence[Document]) -> Iterator[Tensor]:
    """The logits of the same rows once more, each document beside its own twin.

    So the sums of the forward pass and of the head are grouped in another way, while no document
    is met by one of another length: what that changes would be no noise.
    """
    for one in documents:
        wanted = one.targets
        for logits_RV, _ in teacher.logits([one.as_read, one.as_read]):
            if wanted > 0:
                yield logits_RV[:wanted]
            wanted -= len(logits_RV)


class _RowQueue:
    """Chunks of rows, taken in portions of another size."""

    def __init__(self, chunks: Iterator[Tensor]) -> None:
        self._chunks = chunks
        self._rest: Tensor | None = None

    def take(self, rows: int) -> Tensor:
        """The next `rows` rows, a copy."""
        parts: list[Tensor] = []
        while rows > 0:
            if self._rest is None or not len(self._rest):
                self._rest = next(self._chunks)
            parts.append(self._rest[:rows].clone())
            self._rest = self._rest[rows:]
            rows -= len(parts[-1])
        return torch.cat(parts)


def _kl_faults(numbers: dict[str, Any], store: Store) -> Iterator[str]:
    stated, noise, drawn = numbers["stated_kl"], numbers["noise_kl"], numbers["drawn_kl"]
    allowed = stated + _NOISE_FLOORS * noise + _SINGLE_PRECISION
    has_exact = sparsifier_of(store.spec.sparsifier).targets.has_exact
    entries_kl = numbers.get("entries_kl")
    if entries_kl is not None and not entries_kl <= allowed + _stated(store):
        yield (
            f"entries_kl is {entries_kl:.3g}, above {allowed + _stated(store):.3g}: the entries "
            "beside the hidden states are not this teacher's"
        )
    if has_exact and not numbers["kl"] <= allowed:
        yield (
            f"kl is {numbers['kl']:.3g}, above {allowed:.3g} (stated {stated:.3g} + "
            f"{_NOISE_FLOORS} x noise {noise:.3g}): the stored probabilities are not this teacher's"
            + _imported(store)
        )
    if drawn is None:
        return
    allowed = _stated_drawn(store) + _NOISE_FLOORS * noise + _SINGLE_PRECISION
    allowed += _STANDARD_ERRORS * drawn["standard_error"]
    if not abs(drawn["mean"]) <= allowed:
        yield (
            f"drawn_kl is {drawn['mean']:.3g}, further from 0 than {allowed:.3g} "
            f"({_STANDARD_ERRORS} standard errors and what steps and noise cost): "
            "the entries were not drawn from this teacher's distributions"
        )


def _whole(store: Store) -> WholeTeacher | None:
    """What makes distributions of the store's hidden states, where it has them."""
    states = store.spec.states
    if states is None or states.head is None:
        return None
    return WholeTeacher(stored=store.head, states=states)


def _imported(store: Store) -> str:
    if IMPORT not in store.spec.provenance:
        return ""
    return ", or the files that were imported had rounded them: by which steps, nobody states"


def _codecs(store: Store) -> list[Codec]:
    """Those by whose steps the values were rounded, one after another; the store's own last."""
    spec = store.spec
    earlier = earlier_codecs(spec, place=store.uri)
    return [codec_for(replace(spec, codec=one)) for one in (*earlier, spec.codec)]


def _stated(store: Store) -> float:
    """nats: the most that all steps cost. A shift e costs about e^2 / 2, and shifts add up."""
    *earlier, own = (one.stated_kl for one in _codecs(store))
    total: float = sum(one**0.5 for one in (*earlier, own))
    return total**2 if earlier else own


def _stated_drawn(store: Store) -> float:
    """nats: by how much all steps may shift a KL that is estimated from drawn weights."""
    return sum(one.stated_drawn_kl for one in _codecs(store))


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
    longest = max(len(stored.document.as_read) for stored in chosen)
    if model.context is not None and longest > model.context:
        raise ModelError(
            "the store's documents are longer than the model's context",
            place=model.spec.name,
            found=f"{longest} tokens",
            allowed=f"up to {model.context}",
        )
