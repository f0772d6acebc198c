"""The work of a job: records become documents, documents become batches, batches become targets.

What is done with the targets is for others: a dump stores them all, an estimate stores a few, a
comparison of sparsifiers puts several through the same logits.

Shapes: R targets, V vocabulary.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from logitstore.corpus.text import tokenize
from logitstore.dumping.states import rounded, states_teacher
from logitstore.errors import NotFinite
from logitstore.format.states import LAST, layer_name
from logitstore.sparsify import SPARSIFIERS
from logitstore.targets.documents import StoredDocument
from logitstore.targets.draws import row_keys
from logitstore.targets.targets import SparseTargets
from logitstore.teacher.base import batches
from logitstore.teacher.torch_state import neutral_torch_state

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from torch import Tensor

    from logitstore.corpus.corpus import RecordReader
    from logitstore.dumping.job import Job
    from logitstore.format.spec import SparsifierSpec
    from logitstore.targets.documents import Document
    from logitstore.targets.states import States

_MOST_REASONS = 8  # that are told of one job

__all__ = [
    "at_document",
    "by_document",
    "draw_keys",
    "is_finite",
    "read_documents",
    "states_and_logits",
    "stored_documents",
]


def read_documents(job: Job, records: RecordReader) -> tuple[list[Document], int]:
    """The documents that the records of a unit make, and how many records were skipped.

    job: with its tokenizer and its rules.
    records: of one unit.
    """
    stream = tokenize(records, job.tokenizer, rules=job.rules, skip_bad=job.options.skip_bad)
    documents = list(stream)
    _note_skipped(job, records.first_skipped | stream.first_skipped)
    return documents, records.skipped + stream.skipped


def _note_skipped(job: Job, first_skipped: Mapping[str, str]) -> None:
    """Say why records are skipped: each reason once, at the first record that has it."""
    note = job.options.on_note
    for problem, place in first_skipped.items():
        if problem not in job.reasons and len(job.reasons) < _MOST_REASONS and callable(note):
            job.reasons.add(problem)
            note(f"{place}: skipped: {problem}")


def stored_documents(
    job: Job,
    documents: Sequence[Document],
    *,
    source: str,
    on_batch: Callable[[Sequence[Document]], None] | None = None,
) -> list[StoredDocument | None]:
    """The documents with their targets, in their order, after one pass of the teacher.

    job: with its teacher and its sparsifier.
    documents: of one unit.
    source: where they come from, for messages.
    on_batch: called with each batch that is done.

    The teacher sees them in batches of like length; `on_batch` is told of each that is done. A
    document for which the teacher's numbers are no distribution is NotFinite, and None where the
    job passes over what is bad. Where the job keeps some positions alone, the documents have those
    targets, or none.
    """
    stored: list[StoredDocument | None] = [None] * len(documents)
    read = [document.as_read for document in documents]
    for places in batches(read, batch_tokens=job.options.batch_tokens):
        batch = [documents[place] for place in places]
        finite = places
        try:
            targets = list(_batch_targets(job, batch))
        except NotFinite as error:
            finite = _finite(job, documents, places, source=source, error=error)
            targets = list(_batch_targets(job, [documents[place] for place in finite]))
        for place, draws in zip(finite, targets, strict=True):
            one = StoredDocument(document=documents[place], targets=draws[0], other_draws=draws[1:])
            rule = job.positions
            stored[place] = one if rule is None else one.only(rule.kept_R(one.targets))
        if on_batch is not None:
            found = [stored[place] for place in places]
            on_batch(
                [
                    own if one is None else one.document
                    for own, one in zip(batch, found, strict=True)
                ]
            )
    return stored


def _finite(
    job: Job, documents: Sequence[Document], places: list[int], *, source: str, error: NotFinite
) -> list[int]:
    """Those of `places` at which the teacher's numbers are distributions.

    Raises `error` with the first other document's name, unless the job passes over what is bad.
    """
    finite = []
    for place in places:
        document = documents[place]
        if is_finite(job, document):
            finite.append(place)
        elif not job.options.skip_bad:
            raise at_document(error, document, source=source) from error
    if len(finite) == len(places):  # alone none is bad, so none can be left out
        raise error
    return finite


def is_finite(job: Job, document: Document) -> bool:
    """Whether the teacher's numbers for a document, read by itself, are distributions.

    job: with its teacher.
    document: to be read.
    """
    with neutral_torch_state():
        chunks = job.teacher.logits([document.as_read])
        return all(bool(logits_RV.logsumexp(-1).isfinite().all()) for logits_RV, _ in chunks)


def at_document(
    error: NotFinite, document: Document, *, source: str, skips: bool = True
) -> NotFinite:
    """The same error, which names the document.

    error: of a batch that it is in.
    document: the one whose numbers are no distributions.
    source: where it comes from.
    skips: whether the command could leave it out.
    """
    leave_out = ", or leave such documents out with --skip-bad" if skips else ""
    return NotFinite(
        error.problem,
        place=f"{source}, record {document.record}, piece {document.piece}",
        found=error.found,
        allowed=error.allowed,
        remedy=f"Try --dtype float32, for half precision can overflow{leave_out}",
    )


def _batch_targets(job: Job, batch: Sequence[Document]) -> Iterator[tuple[SparseTargets, ...]]:
    """The targets of each document of a batch, in its order, in every draw."""
    if not batch:
        return iter(())
    spec = job.sparsifier
    keys_R = draw_keys(batch, spec)
    parts, start = [], 0
    with neutral_torch_state():
        states, chunks = states_and_logits(job, [one.as_read for one in batch])
        for logits_RV, labels_R in chunks:
            chunk = slice(start, start + len(labels_R))
            parts.append(SPARSIFIERS[spec.name].draw(logits_RV, labels_R, keys_R[chunk], spec))
            start = chunk.stop
    joined = [SparseTargets.concatenate(draw) for draw in zip(*parts, strict=True)]
    return by_document(batch, [replace(joined[0], states=states), *joined[1:]])


def states_and_logits(
    job: Job, batch: Sequence[Document]
) -> tuple[dict[str, States], Iterator[tuple[Tensor, Tensor]]]:
    """The hidden states that the job keeps of a batch's rows, and the chunks of its logits.

    Where the last state is kept, the logits are those of the state as it is stored.

    job: with its teacher.
    batch: what the teacher reads.
    """
    if job.states is None:
        return {}, job.teacher.logits(batch)
    teacher = states_teacher(
        job.teacher, asking="--hidden-layers" if job.states.head is None else "--sparsify hidden"
    )
    hidden_RW, labels_R, behind = teacher.hidden_behind(batch, job.states.layers)
    dtype, states = job.states.dtype, {}
    if job.states.head is not None:
        hidden_RW = hidden_RW.to(teacher.head.weight_PD.dtype)  # what the output layer takes
        states[LAST] = rounded(hidden_RW, dtype=dtype, layer=LAST)
        # The numbers that are stored, in the teacher's type.
        hidden_RW = states[LAST].tensor().to(hidden_RW)
    for layer, state_RW in behind.items():
        name = layer_name(layer)
        states[name] = rounded(state_RW, dtype=dtype, layer=name)
    return states, teacher.logits_of(hidden_RW, labels_R)


def draw_keys(batch: Sequence[Document], sparsifier: SparsifierSpec) -> np.ndarray:
    """uint64 [R]: what the draws of each target depend on, document by document.

    batch: the documents.
    sparsifier: its spec, for the seed.
    """
    return np.concatenate([row_keys(document, seed=sparsifier.seed) for document in batch])


def by_document(
    batch: Sequence[Document], draws: Sequence[SparseTargets]
) -> Iterator[tuple[SparseTargets, ...]]:
    """The draws of a batch's targets, document after document, cut where documents end.

    batch: the documents.
    draws: each draw of all their targets.
    """
    stops = np.cumsum([document.targets for document in batch])
    for document, stop in zip(batch, stops, strict=True):
        yield tuple(one.rows(slice(stop - document.targets, stop)) for one in draws)
