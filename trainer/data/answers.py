"""Answers as a store: a Parquet file of tokens, to learn what was said and nothing beside it.

A file that `logitstore generate` wrote, or any Parquet file of token ids with a mask, has the true
tokens and no distributions. It keeps the contract of a store, so that order, packing and resume are
those of one; each target holds its label alone, and losses of a teacher are refused.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from logitstore import (
    EMPTY_TAIL,
    DocumentBlock,
    ModelError,
    SettingError,
    SparseTargets,
    SparsifierSpec,
    StoredDocument,
)
from logitstore.plumbing import (
    SPARSIFIERS,
    Fields,
    TextRules,
    load_tokenizer,
    open_corpus,
    refuse_other_answers,
    tokenize,
    tokenizer_files,
    tokenizer_fingerprint,
    vocab_size,
)

if TYPE_CHECKING:
    from logitstore import Document

__all__ = ["AnswerStore"]

_UNIT_BYTES = 4 << 20  # of the file that is read at once
_BLOCK_TARGETS = 4096  # few, so that a small file has many to shuffle
_MOST_TOKENS = 1 << 30  # of an answer: none is cut in pieces
_NODES = (1.0, 0.5)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Tokenizer:
    fingerprint: str
    vocab_size: int
    bos_token_id: int | None
    eos_token_id: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Text:
    max_length: int  # tokens of the longest document


@dataclass(frozen=True, kw_only=True, slots=True)
class _Answerer:
    name: str


@dataclass(frozen=True, kw_only=True, slots=True)
class _Spec:
    """What a trainer reads of the spec of a store."""

    teacher: _Answerer
    tokenizer: _Tokenizer
    text: _Text
    sparsifier: SparsifierSpec
    labels_only: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class _Block:
    documents: int
    tokens: int
    targets: int


class AnswerStore:
    """The answers of one Parquet file, read whole; a `StoreLike` without a teacher.

    Args:
        path: The file.
        model: The folder or the name of the model whose tokenizer made the ids, where the file does
            not say; the file's own word comes first.
        tokenizer: That tokenizer, loaded; the file's fingerprint is compared with it.

    Raises CorpusError for a file that holds no tokens, TokenizerError where its ids are those of
    another tokenizer, SettingError where nobody says of which they are.
    """

    draw = 0

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        model: str | None = None,
        tokenizer: Any | None = None,
    ) -> None:
        self.uri = str(path)
        corpus = open_corpus([Path(path)], fields=Fields(tokens="input_ids"))
        own = corpus.answers[0] if corpus.answers else None
        if tokenizer is None:
            tokenizer = _tokenizer(model, None if own is None else own.model["name"], self.uri)
        refuse_other_answers(corpus, tokenizer)
        self._tokenizer = tokenizer
        size = vocab_size(tokenizer)
        self._documents = _documents(corpus, tokenizer, size=size)
        self._runs = _runs(self._documents)
        self.blocks: Sequence[_Block] = [
            _Block(
                documents=len(run),
                tokens=sum(map(len, run)),
                targets=sum(one.targets for one in run),
            )
            for run in self._runs
        ]
        found = hashlib.sha256(Path(path).read_bytes())
        found.update(f"answers\0{tokenizer_fingerprint(tokenizer)}".encode())
        self.fingerprint = found.hexdigest()
        self.spec: Any = _Spec(
            teacher=_Answerer(name=self.uri if own is None else own.model["name"]),
            tokenizer=_Tokenizer(
                fingerprint=tokenizer_fingerprint(tokenizer),
                vocab_size=size if own is None else min(size, own.tokenizer["vocab_size"]),
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
            ),
            text=_Text(max_length=max(map(len, self._documents))),
            sparsifier=SparsifierSpec(name="topk", k=1, tail_nodes=_NODES),
        )

    def with_draw(self, draw: int) -> AnswerStore:
        """The store itself: nothing in it is drawn."""
        if draw:
            raise SettingError("answers have one draw", found=draw, allowed="0")
        return self

    def document_lengths(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Tokens and targets of each document of block `number`."""
        run = self._runs[number]
        return np.array([len(one) for one in run]), np.array([one.targets for one in run])

    def read_block(self, number: int) -> DocumentBlock:
        """Block `number`, each of whose targets is its label."""
        return DocumentBlock.join([_labelled(one) for one in self._runs[number]])

    def __iter__(self) -> Iterator[StoredDocument]:
        return map(_labelled, self._documents)

    def __len__(self) -> int:
        return len(self._documents)

    def tokenizer_files(self) -> dict[str, bytes]:
        """The files of the tokenizer, by name, for the folder of a run."""
        files: dict[str, bytes] = tokenizer_files(self._tokenizer)
        return files


def _tokenizer(model: str | None, answerer: str | None, place: str) -> Any:
    """The tokenizer of the model that answered, else of the model that learns."""
    named = [one for one in (model, answerer) if one is not None and not one.endswith(".json")]
    for name in named:
        try:
            return load_tokenizer(name)
        except ModelError:
            continue  # a model's folder may hold none
    raise SettingError(
        "nobody says of which tokenizer the ids are: no model that is named holds one",
        place=place,
        found=", ".join(named) or "no model's name",
        remedy="Take a student whose folder holds the tokenizer",
    )


def _documents(corpus: Any, tokenizer: Any, *, size: int) -> list[Document]:
    rules = TextRules(max_length=_MOST_TOKENS, vocab_size=size)
    documents: list[Document] = []
    for unit in corpus.plan(unit_bytes=_UNIT_BYTES, limit=None).units:
        records = corpus.read(unit, skip_bad=False)
        documents += tokenize(records, tokenizer, rules=rules, skip_bad=False)
    return documents


def _runs(documents: Sequence[Document]) -> list[list[Document]]:
    """Runs of whole documents of about `_BLOCK_TARGETS` targets."""
    runs: list[list[Document]] = []
    room = 0
    for document in documents:
        if room < document.targets or not runs:
            runs.append([])
            room = _BLOCK_TARGETS
        runs[-1].append(document)
        room -= document.targets
    return runs


def _labelled(document: Document) -> StoredDocument:
    """A document whose targets are its labels, with all their mass."""
    labels_R1 = document.input_ids_L[document.counted_L][:, None]
    rows = len(labels_R1)
    zeros_R = np.zeros(rows, dtype=np.float32)
    targets = SparseTargets(
        kind=SPARSIFIERS["topk"].targets,
        ids_RK=labels_R1.astype(np.uint32),
        logprobs_RK=zeros_R[:, None],
        sampled_RK=np.zeros((rows, 1), dtype=bool),
        count_R=np.ones(rows, dtype=np.int32),
        tail_logmass_RB=np.full((rows, len(_NODES)), EMPTY_TAIL, dtype=np.float32),
        label_logprob_R=zeros_R,
        entropy_R=zeros_R,
    )
    own = replace(document, sampler_logprobs_R=None)
    return StoredDocument(document=own, targets=targets)
