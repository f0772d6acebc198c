"""Documents: one training sequence, and a block of them with the targets that belong to them.

Row `t` of a document is the distribution of token `t + 1`, so a target belongs to the token it
predicts: a document of L tokens has at most L - 1 targets, and its first token never counts.

Shapes: L tokens of one document, M tokens that its teacher reads, N tokens of a block, D documents,
R targets.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from logitstore.errors import CorruptionError
from logitstore.targets.targets import SparseTargets

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["Document", "DocumentBlock", "StoredDocument", "TeacherText", "document_id"]


def document_id(*, source: str, record: int, piece: int) -> bytes:
    """The 16 bytes that identify a document.

    They depend on its place in the corpus, not on its text, so a sampling sparsifier draws two
    equal texts independently.

    Args:
        source: Name of the corpus file.
        record: Number of the record in that file, from 0.
        piece: Number of the piece of that record, from 0.
    """
    name = f"{source}\0{record}\0{piece}".encode()
    return hashlib.blake2b(name, digest_size=16).digest()


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TeacherText:
    """What a teacher reads in place of a document: the same counted tokens behind more words."""

    input_ids_M: np.ndarray  # uint32
    counted_M: np.ndarray  # bool; the first is False


@dataclass(frozen=True, kw_only=True, slots=True, eq=False, repr=False)
class Document:
    """One training sequence: its tokens and which of them count as targets.

    Raises CorruptionError where the mask has another length than the tokens or counts the first,
    or where the teacher's text has other counted tokens.
    """

    id: bytes  # 16 bytes, see `document_id`
    record: int  # number of the record in its corpus file, from 0
    piece: int  # number of the piece of that record, from 0
    input_ids_L: np.ndarray  # uint32
    counted_L: np.ndarray  # bool; the first is False, because nothing predicts it
    teacher_text: TeacherText | None = None  # read in place of its tokens; no store keeps it
    # float32, nats: with which each counted token was drawn by whoever gave the answer, where that
    # is known. A store rounds it to half a step of `scalar_steps`.
    sampler_logprobs_R: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.input_ids_L.shape != self.counted_L.shape or self.counted_L[:1].any():
            raise CorruptionError(
                "the mask of counted tokens must match the tokens and leave out the first",
                place=f"document {self.id.hex()}",
                found=f"{self.input_ids_L.shape} tokens, mask {self.counted_L.shape}",
            )
        if self.sampler_logprobs_R is not None and self.sampler_logprobs_R.shape != (self.targets,):
            raise CorruptionError(
                "sampler_logprobs_R must have a value for each counted token",
                place=f"document {self.id.hex()}",
                found=self.sampler_logprobs_R.shape,
                allowed=f"{self.targets}",
            )
        read = self.as_read
        if read is not self and not np.array_equal(
            read.input_ids_L[read.counted_L], self.input_ids_L[self.counted_L]
        ):
            raise CorruptionError(
                "the teacher's text must have the same counted tokens",
                place=f"document {self.id.hex()}",
                found=f"{read.targets} counted tokens",
                allowed=f"{self.targets}",
            )

    def __len__(self) -> int:
        return len(self.input_ids_L)

    def __repr__(self) -> str:
        return (
            f"<Document: record {self.record}, piece {self.piece}, {len(self):,} tokens, "
            f"{self.targets:,} targets>"
        )

    @property
    def targets(self) -> int:
        """How many of its tokens count."""
        return int(self.counted_L.sum())

    def only(self, kept_R: np.ndarray) -> Document:
        """The same document, of whose counted tokens only some count.

        Args:
            kept_R: bool, which of them.
        """
        text, sampler_R = self.teacher_text, self.sampler_logprobs_R
        return replace(
            self,
            counted_L=_masked(self.counted_L, kept_R),
            teacher_text=text and replace(text, counted_M=_masked(text.counted_M, kept_R)),
            sampler_logprobs_R=None if sampler_R is None else sampler_R[kept_R],
        )

    @property
    def as_read(self) -> Document:
        """The document whose tokens the teacher reads; itself where it reads nothing else."""
        text = self.teacher_text
        if text is None:
            return self
        return replace(
            self, input_ids_L=text.input_ids_M, counted_L=text.counted_M, teacher_text=None
        )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False, repr=False)
class StoredDocument:
    """A document with the teacher's distribution of each of its counted tokens, in order.

    Raises CorruptionError where the number of targets is not that of the counted tokens.
    """

    document: Document
    targets: SparseTargets  # row r belongs to the r-th counted token
    other_draws: tuple[SparseTargets, ...] = ()  # the draws after the first

    def __post_init__(self) -> None:
        if any(len(one) != self.document.targets for one in (self.targets, *self.other_draws)):
            raise CorruptionError(
                "a document's targets do not match its counted tokens",
                place=f"document {self.document.id.hex()}",
                found=f"{len(self.targets)} targets",
                allowed=f"{self.document.targets}",
            )

    def only(self, kept_R: np.ndarray) -> StoredDocument:
        """The same document with some of its targets.

        Args:
            kept_R: bool, which of them.
        """
        rows = np.flatnonzero(kept_R)
        return StoredDocument(
            document=self.document.only(kept_R),
            targets=self.targets.rows(rows),
            other_draws=tuple(one.rows(rows) for one in self.other_draws),
        )

    def __repr__(self) -> str:
        return f"<StoredDocument: {self.document!r}>"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False, repr=False)
class DocumentBlock:
    """A run of whole documents, laid end to end, with their targets: the unit of I/O."""

    ids: tuple[bytes, ...]  # D ids of 16 bytes
    records_D: np.ndarray  # int64
    pieces_D: np.ndarray  # int64
    token_lengths_D: np.ndarray  # int64, tokens of each document
    target_lengths_D: np.ndarray  # int64, targets of each document
    input_ids_N: np.ndarray  # uint32
    counted_N: np.ndarray  # bool
    targets: SparseTargets
    other_draws: tuple[SparseTargets, ...] = ()  # as in StoredDocument; empty after reading
    sampler_logprobs_R: np.ndarray | None = None  # float32, as in Document
    # Where each document ends, summed once: in a block of tiny documents it is asked for often.
    _token_stops_D: np.ndarray = field(init=False)
    _target_stops_D: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_token_stops_D", np.cumsum(self.token_lengths_D))
        object.__setattr__(self, "_target_stops_D", np.cumsum(self.target_lengths_D))

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        return (
            f"<DocumentBlock: {len(self):,} documents, {len(self.input_ids_N):,} tokens, "
            f"{len(self.targets):,} targets>"
        )

    @property
    def draws(self) -> tuple[SparseTargets, ...]:
        """All draws of its targets."""
        return (self.targets, *self.other_draws)

    @staticmethod
    def join(stored: Sequence[StoredDocument]) -> DocumentBlock:
        """The block that holds the documents `stored` in their order."""
        documents = [one.document for one in stored]
        return DocumentBlock(
            ids=tuple(document.id for document in documents),
            records_D=np.array([document.record for document in documents], dtype=np.int64),
            pieces_D=np.array([document.piece for document in documents], dtype=np.int64),
            token_lengths_D=np.array([len(document) for document in documents], dtype=np.int64),
            target_lengths_D=np.array([len(one.targets) for one in stored], dtype=np.int64),
            input_ids_N=np.concatenate([document.input_ids_L for document in documents]),
            counted_N=np.concatenate([document.counted_L for document in documents]),
            targets=SparseTargets.concatenate([one.targets for one in stored]),
            other_draws=tuple(
                SparseTargets.concatenate(parts)
                for parts in zip(*(one.other_draws for one in stored), strict=True)
            ),
            sampler_logprobs_R=_joined([one.sampler_logprobs_R for one in documents]),
        )

    def split(self) -> Iterator[StoredDocument]:
        """The documents of the block in their order, as views of its arrays."""
        return (self.document(number) for number in range(len(self)))

    def document(self, number: int) -> StoredDocument:
        """Document `number` of the block, from 0, as views of its arrays."""
        tokens = _span(self._token_stops_D, self.token_lengths_D, number)
        rows = _span(self._target_stops_D, self.target_lengths_D, number)
        sampler_R = self.sampler_logprobs_R
        return StoredDocument(
            document=Document(
                id=self.ids[number],
                record=int(self.records_D[number]),
                piece=int(self.pieces_D[number]),
                input_ids_L=self.input_ids_N[tokens],
                counted_L=self.counted_N[tokens],
                sampler_logprobs_R=None if sampler_R is None else sampler_R[rows],
            ),
            targets=self.targets.rows(rows),
            other_draws=tuple(one.rows(rows) for one in self.other_draws),
        )


def _masked(counted_L: np.ndarray, kept_R: np.ndarray) -> np.ndarray:
    found_L = np.zeros_like(counted_L)
    found_L[np.flatnonzero(counted_L)[kept_R]] = True
    return found_L


def _joined(parts: Sequence[np.ndarray | None]) -> np.ndarray | None:
    """The values of all documents; None where none has any."""
    there = [part for part in parts if part is not None]
    if len(there) not in (0, len(parts)):
        raise CorruptionError(
            "some documents have log-probabilities of their sampler, and others have none",
            found=f"{len(there)} of {len(parts)}",
        )
    return np.concatenate(there) if there else None


def _span(stops_D: np.ndarray, lengths_D: np.ndarray, number: int) -> slice:
    stop = int(stops_D[number])
    return slice(stop - int(lengths_D[number]), stop)
