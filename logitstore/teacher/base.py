"""What a teacher is: anything that gives the logits of the counted tokens of some documents.

Shapes: B documents of a batch, R counted rows of a chunk, V vocabulary, L tokens of a document.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from logitstore.errors import CorruptionError, ModelError
from logitstore.format.json import build, canonical_json, parse_json
from logitstore.format.spec import TeacherSpec
from logitstore.targets.documents import Document, document_id

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from logitstore.teacher.layers import DecoderLayers
    from logitstore.teacher.lm_head import LMHead

__all__ = [
    "CheckedTeacher",
    "OwnForward",
    "StatesTeacher",
    "Teacher",
    "batches",
    "check_protocol",
    "check_teacher_spec",
]

_PROBE_TOKENS = 8


@runtime_checkable
class Teacher(Protocol):
    """A model, an engine, or anything else that says how likely each next token is.

    Two teachers with one `spec.fingerprint` give the same logits: a dump goes on only with the
    teacher by which it was begun. `logits` has no side effect that a caller could notice; it is
    called again with the same documents, and its iterators may be read in turn or left unfinished.
    """

    @property
    def spec(self) -> TeacherSpec:
        """Who it is, as the store writes it down."""
        ...

    @property
    def context(self) -> int | None:
        """The most tokens of a document; None where there is no limit."""
        ...

    def logits(self, batch: Sequence[Document]) -> Iterator[tuple[Tensor, Tensor]]:
        """Chunks `(logits_RV, labels_R)` of the batch's counted tokens, document after document.

        A counted token at place t of a document has one row: the logits that follow the tokens
        before t; its label is the token at t. `logits_RV` is float32, at temperature 1, of the V
        ids that the tokenizer can produce, not yet a distribution, the caller's to overwrite, and
        valid until the next chunk. `labels_R` is int64. Both are on one device. A chunk may have
        any number of rows; all together have as many as the batch has counted tokens.
        """
        ...


@runtime_checkable
class OwnForward(Protocol):
    """A teacher that can give logits by a second way, which shares no code with `logits`.

    An audit asks it whether rows stand beside the tokens that they predict.
    """

    def own_logits(self, document: Document, *, tokens: int) -> Tensor:
        """float32 [L, V] of the first `tokens` tokens: row t is what follows token t.

        document: what the model reads.
        """
        ...


@runtime_checkable
class StatesTeacher(Protocol):
    """A teacher whose logits are those of an output layer on hidden states, and that gives both.

    `logits` are `logits_of(*hidden(batch))`.
    """

    @property
    def spec(self) -> TeacherSpec:
        """See `Teacher`."""
        ...

    @property
    def head(self) -> LMHead:
        """The output layer."""
        ...

    def hidden(self, batch: Sequence[Document]) -> tuple[Tensor, Tensor]:
        """What the output layer sees of the batch's counted rows, [R, W], and their labels."""
        ...

    def layers(self) -> DecoderLayers:
        """The layers. Raises ModelError where the states behind them cannot be had."""
        ...

    def hidden_behind(
        self, batch: Sequence[Document], layers: Sequence[int]
    ) -> tuple[Tensor, Tensor, dict[int, Tensor]]:
        """What `hidden` gives, and of the same rows the states behind layers counted from 1."""
        ...

    def logits_of(self, hidden_RW: Tensor, labels_R: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Chunks `(logits_RV, labels_R)` of such rows, as `logits` gives them."""
        ...


def batches(documents: Sequence[Document], *, batch_tokens: int) -> Iterator[list[int]]:
    """The places of `documents`, in batches of equal length as nearly as can be.

    A batch holds at most `batch_tokens` tokens, padding included, and at least one document. The
    batches depend on the documents alone, so a unit dumped again meets the same ones.
    """
    places = sorted(range(len(documents)), key=lambda place: -len(documents[place]))
    batch: list[int] = []
    for place in places:
        # The first of a batch is its longest, so it sets the width of all.
        if batch and (len(batch) + 1) * len(documents[batch[0]]) > batch_tokens:
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch


class CheckedTeacher:
    """A teacher from outside, whose chunks are held to the contract of `Teacher`.

    teacher: the object from outside.
    vocab_size: V, of the tokenizer.

    It is asked for the logits of one short document when it is wrapped, so that what it gets wrong
    is told before a corpus is read. Raises ModelError.
    """

    def __init__(self, teacher: Teacher, *, vocab_size: int) -> None:
        check_protocol(teacher)
        self.teacher = teacher
        self.spec = teacher.spec
        self.context = teacher.context
        self._vocab_size = vocab_size
        self._try_out()

    def logits(self, batch: Sequence[Document]) -> Iterator[tuple[Tensor, Tensor]]:
        """The teacher's own chunks, each checked.

        batch: the documents, whose counted tokens are the rows.
        """
        wanted_R = np.concatenate([one.input_ids_L[one.counted_L] for one in batch])
        start = 0
        chunks = self.teacher.logits(batch)
        if not isinstance(chunks, Iterable):
            raise self._fault("they are no chunks", type(chunks).__name__, "an iterator")
        for chunk in chunks:
            logits_RV, labels_R = self._checked(chunk)
            stop = start + len(labels_R)
            if not np.array_equal(labels_R.cpu().numpy(), wanted_R[start:stop]):
                raise self._fault(
                    "labels are not the counted tokens of the documents, in their order"
                )
            yield logits_RV, labels_R
            start = stop
        if start != len(wanted_R):
            raise self._fault("not as many rows as counted tokens", start, len(wanted_R))

    def _try_out(self) -> None:
        """The logits of a short document, which must be numbers, in the state that a dump has."""
        from logitstore.teacher.torch_state import neutral_torch_state

        with neutral_torch_state():
            for logits_RV, _ in self.logits([_probe(self._vocab_size, self.context)]):
                highest_R = logits_RV.amax(dim=1)
                if not bool(highest_R.isfinite().all()):
                    raise self._fault("a row has NaN, +inf, or nothing but -inf")

    def _checked(self, chunk: Any) -> tuple[Tensor, Tensor]:
        import torch

        pair = isinstance(chunk, tuple | list) and len(chunk) == 2
        if not pair or not all(isinstance(one, torch.Tensor) for one in chunk):
            raise self._fault("a chunk is no pair of tensors", type(chunk).__name__)
        logits_RV, labels_R = chunk
        shape = (len(labels_R) if labels_R.ndim else 0, self._vocab_size)
        if labels_R.ndim != 1 or tuple(logits_RV.shape) != shape:
            raise self._fault(
                "logits have another shape than labels and vocabulary ask for",
                list(logits_RV.shape),
                list(shape),
            )
        if logits_RV.dtype != torch.float32:
            raise self._fault("logits are not float32", logits_RV.dtype)
        if labels_R.dtype != torch.int64:
            raise self._fault("labels are not int64", labels_R.dtype)
        devices = {str(logits_RV.device), str(labels_R.device)}
        if len(devices) > 1 or "meta" in devices:
            raise self._fault(
                "logits and labels are on no common device", ", ".join(sorted(devices))
            )
        if 0 in logits_RV.stride():  # rows that share memory cannot be overwritten one by one
            logits_RV = logits_RV.clone(memory_format=torch.contiguous_format)
        return logits_RV.detach(), labels_R

    def _fault(self, problem: str, found: object = None, allowed: object = None) -> ModelError:
        return ModelError(
            f"the teacher's logits cannot be used: {problem}",
            place=f"teacher {self.spec.name}",
            found=found,
            allowed=allowed,
            remedy="logitstore.Teacher.logits says what a teacher gives",
        )


def check_protocol(teacher: object) -> None:
    """Refuse, by a ModelError, an object that lacks what a `Teacher` must have.

    teacher: what was given as one.
    """
    if isinstance(teacher, type):
        raise ModelError(
            "this is no teacher, but a class of them",
            found=teacher.__name__,
            remedy="Give an object of the class",
        )
    lacking = [name for name in ("spec", "context", "logits") if not hasattr(teacher, name)]
    spec, context = getattr(teacher, "spec", None), getattr(teacher, "context", None)
    if lacking:
        problem = f"it lacks {', '.join(lacking)}"
    elif not isinstance(spec, TeacherSpec):
        problem = f"its spec is no logitstore.TeacherSpec but {type(spec).__name__}"
    elif not (context is None or (type(context) is int and context >= 2)):
        problem = f"its context is no number of tokens but {context!r}"
    elif not callable(getattr(teacher, "logits", None)):
        problem = "its logits are no method"
    else:
        check_teacher_spec(spec)
        return
    raise ModelError(
        f"this is no teacher: {problem}",
        found=type(teacher).__name__,
        allowed="a folder, a Hub id, a loaded transformers model, or a logitstore.Teacher",
    )


def check_teacher_spec(spec: TeacherSpec) -> None:
    """Refuse, by a ModelError, a spec that a store could not be read with again.

    spec: what a teacher says of itself.
    """
    place = "spec of the teacher"
    try:
        # As a reader will: what is written, parsed and built.
        build(TeacherSpec, parse_json(canonical_json(asdict(spec)), place=place), place=place)
    except CorruptionError as error:
        raise ModelError(
            error.problem, place=error.place, found=error.found, allowed=error.allowed
        ) from error
    except (TypeError, ValueError) as error:  # JSON has no form for a value
        found = {name: value for name, value in asdict(spec).items() if not _in_json(value)}
        raise ModelError(
            "a field has a value that JSON cannot hold",
            place=place,
            found=", ".join(f"{name} = {value!r}" for name, value in found.items()),
            allowed="valid Unicode text, and a whole number of parameters",
        ) from error


def _in_json(value: object) -> bool:
    try:
        canonical_json(value)
    except (TypeError, ValueError):
        return False
    return True


def _probe(vocab_size: int, context: int | None) -> Document:
    """A document of the first few ids, of which all but the first count."""
    length = min(_PROBE_TOKENS, context or _PROBE_TOKENS)
    counted_L = np.ones(length, dtype=bool)
    counted_L[0] = False
    return Document(
        id=document_id(source="probe", record=0, piece=0),
        record=0,
        piece=0,
        input_ids_L=np.arange(length, dtype=np.uint32) % vocab_size,
        counted_L=counted_L,
    )
