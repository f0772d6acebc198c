"""A store in the tokens of a student whose tokenizer is another than the store's.

It keeps the contract of a store, so order, packing, ranks and resume are those of one. Every
document stays in its place, those that cannot be crossed without a token. How long each is in the
student's tokens must be known before a step is packed, so one pass reads the whole store: every
rank its share.
"""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from logitstore import LogitStoreError, SettingError, StoreError, TokenizerError
from logitstore.plumbing import (
    Meter,
    fingerprint,
    sparsifier_of,
    stored_tokenizer,
    tokenizer_files,
    tokenizer_fingerprint,
    vocab_size,
)
from trainer.data.averaged import AveragedStore
from trainer.data.crossing import CrossedDocument, Crossing
from trainer.data.mixture import MixedStore
from trainer.data.options import SPAN_ENDS
from trainer.data.store import as_store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from logitstore import SparsifierSpec
    from logitstore.plumbing import OnProgress
    from trainer.data.store import BlockSize, StoreSource

__all__ = ["RetokenizedStore", "retokenize"]

_WAY_OUT = (
    "Take a student with the store's tokenizer; or, where these are chats, dump their texts as "
    "plain text"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Tokenizer:
    fingerprint: str
    vocab_size: int
    bos_token_id: int | None
    eos_token_id: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Text:
    max_length: int  # tokens of the longest document, in the student's


@dataclass(frozen=True, kw_only=True, slots=True)
class _Spec:
    """What a trainer reads of the spec of a store; `tokenizer` and `text` are the student's."""

    teacher: Any
    tokenizer: _Tokenizer
    text: _Text
    sparsifier: SparsifierSpec
    teacher_vocab_size: int
    spans: bool = True


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Block:
    """A block of crossed documents."""

    documents: list[CrossedDocument]

    def split(self) -> Iterator[CrossedDocument]:
        return iter(self.documents)

    def document(self, number: int) -> CrossedDocument:
        return self.documents[number]


@dataclass(kw_only=True, slots=True)
class _Found:
    """What the pass over the blocks has found, of one rank or of all."""

    lengths: dict[int, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    longest: int = 0
    sums: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)

    def add(self, number: int, documents: Sequence[CrossedDocument]) -> None:
        """Count block `number`."""
        tokens = [len(one.document) for one in documents]
        targets = [len(one.targets) for one in documents]
        self.lengths[number] = (np.array(tokens, np.int32), np.array(targets, np.int32))
        self.longest = max([self.longest, *tokens])
        self.left_out.update(one.left_out for one in documents if one.left_out is not None)
        self.sums.update(
            documents=len(documents),
            tokens=sum(tokens),
            targets=sum(targets),
            spans=sum(len(one.targets.starts_S) for one in documents),
            rows_in_spans=sum(int(one.targets.lengths_S.sum()) for one in documents),
            aligned=sum(len(one.targets.aligned_A) for one in documents),
            text_bytes=sum(one.text_bytes for one in documents),
        )

    def join(self, other: _Found) -> None:
        """Add what another rank has found."""
        self.lengths |= other.lengths
        self.longest = max(self.longest, other.longest)
        self.sums.update(other.sums)
        self.left_out.update(other.left_out)


class RetokenizedStore:
    """A store in the tokens of a student; `prepare` it before anything is packed.

    Args:
        store: The store.
        tokenizer: The student's.
        words: Whether spans end before white space only.
        with_targets: Whether the teacher's distributions are kept, as ULD needs.

    Raises TokenizerError where a tokenizer does not say which bytes its tokens stand for, or the
    store keeps none; StoreError where the store does not know the log-probabilities of true tokens;
    SettingError for several stores as one.
    """

    def __init__(
        self, store: Any, tokenizer: Any, *, words: bool = False, with_targets: bool = False
    ) -> None:
        if isinstance(store, MixedStore | AveragedStore):
            raise SettingError(
                "several stores as one are not served in other tokens",
                place=store.uri,
                remedy="Take one of them, or make one with `logitstore merge`",
            )
        if not sparsifier_of(store.spec.sparsifier).targets.knows_whole:
            raise StoreError(
                "the store does not know the teacher's log-probabilities of the true tokens, of "
                "which spans are made",
                place=getattr(store, "uri", store.fingerprint[:12]),
                remedy="Take a student with the store's tokenizer",
            )
        files: dict[str, bytes] = getattr(store, "tokenizer_files", dict)()
        if not files:
            raise TokenizerError(
                "the store keeps no tokenizer, so its text is not known",
                place=getattr(store, "uri", store.fingerprint[:12]),
                remedy="Take a student with the store's tokenizer",
            )
        self._store, self._tokenizer = store, tokenizer
        self._crossing = Crossing(
            stored_tokenizer(files), tokenizer, words=words, with_targets=with_targets
        )
        self._found = _Found()
        # It is asked for with every batch, and a fingerprint takes seconds.
        self._tokenizer_spec = _Tokenizer(
            fingerprint=tokenizer_fingerprint(tokenizer),
            vocab_size=vocab_size(tokenizer),
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
        self.draw = store.draw
        self.uri = getattr(store, "uri", store.fingerprint[:12])
        self.fingerprint = fingerprint(
            {
                "store": store.fingerprint,
                "tokenizer": self._tokenizer_spec.fingerprint,
                "words": words,
            }
        )

    @property
    def source_fingerprint(self) -> str:
        """That of the store itself; `fingerprint` is of it in these tokens."""
        found: str = self._store.fingerprint
        return found

    @property
    def spec(self) -> Any:
        """The store's, with the student's tokenizer and lengths."""
        own = self._store.spec
        return _Spec(
            teacher=own.teacher,
            tokenizer=self._tokenizer_spec,
            text=_Text(max_length=max(2, self._found.longest)),
            sparsifier=own.sparsifier,
            teacher_vocab_size=own.tokenizer.vocab_size,
        )

    @property
    def blocks(self) -> Sequence[BlockSize]:
        """Those of the store: tokens and targets are the teacher's."""
        found: Sequence[BlockSize] = self._store.blocks
        return found

    @property
    def damaged(self) -> tuple[Any, ...]:
        """Blocks of the store that are left out."""
        found: tuple[Any, ...] = self._store.damaged
        return found

    @property
    def counts(self) -> dict[str, Any]:
        """What the pass has found: documents, tokens, targets, spans, and what is left out."""
        return {**self._found.sums, "left_out": dict(sorted(self._found.left_out.items()))}

    def prepare(
        self,
        *,
        numbers: Iterable[int] | None = None,
        gather: Callable[[list[Any]], list[Any]] = list,
        on_progress: OnProgress | None = None,
    ) -> None:
        """Read every block once, to know how long its documents are in the student's tokens.

        Args:
            numbers: The blocks that this process reads. Default: all.
            gather: Gives what all processes have found, of what each has.
            on_progress: Is told how far it is.

        Raises what reading a block raises, on every rank; StoreError where no document of the store
        can be crossed.
        """
        wanted = list(range(len(self.blocks)) if numbers is None else numbers)
        try:
            found: _Found | LogitStoreError = self._find(wanted, on_progress)
        except LogitStoreError as error:
            found = error  # every rank is told
        whole = _Found()
        for one in gather([found]):
            if isinstance(one, LogitStoreError):
                raise one
            whole.join(one)
        self._found = whole
        if not self._found.sums["targets"]:
            reasons = "; ".join(
                f"{times}: {reason}" for reason, times in self._found.left_out.most_common(3)
            )
            raise StoreError(
                "no document can be read in the student's tokens",
                place=self.uri,
                found=reasons or "no documents",
                remedy=_WAY_OUT,
            )

    def _find(self, numbers: Sequence[int], on_progress: OnProgress | None) -> _Found:
        """What the blocks `numbers` hold."""
        meter = Meter(on_progress, stage="reading texts in the student's tokens", unit="tokens")
        found = _Found()
        for place, number in enumerate(numbers, start=1):
            found.add(number, self.read_block(number).documents)
            meter.tell(found.sums["tokens"], fraction=place / len(numbers))
        return found

    def with_draw(self, draw: int) -> RetokenizedStore:
        """The same, read at draw number `draw`."""
        other = copy.copy(self)
        other._store, other.draw = self._store.with_draw(draw), draw
        return other

    def document_lengths(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Tokens and targets of each document of block `number`, in the student's tokens."""
        return self._found.lengths[number]

    def read_block(self, number: int) -> Any:
        """Block `number` in the student's tokens."""
        stored = list(self._store.read_block(number).split())
        return _Block(documents=self._crossing.cross(stored))

    def __iter__(self) -> Iterator[Any]:
        for number in range(len(self.blocks)):
            yield from self.read_block(number).split()

    def __len__(self) -> int:
        return sum(one.documents for one in self.blocks)

    def tokenizer_files(self) -> dict[str, bytes]:
        """The files of the student's tokenizer, by name."""
        files: dict[str, bytes] = tokenizer_files(self._tokenizer)
        return files


def retokenize(
    store: StoreSource,
    tokenizer: Any,
    *,
    span_ends: Literal["any", "words"] = "any",
    on_progress: OnProgress | None = None,
) -> RetokenizedStore:
    """A store in the tokens of another tokenizer, to be learnt from with the losses alm and uld.

    It reads the whole store once, to know how long each document becomes.

    Args:
        store: An open store, or what `logitstore.open` takes.
        tokenizer: The student's, a transformers tokenizer.
        span_ends: "any" boundary that both tokenizers have, or before white space only: "words".
        on_progress: Is told how far it is.

    `counts` of the result says what was found and what was left out. Raises TokenizerError where
    tokens do not say which bytes they stand for, StoreError where no document can be crossed.
    """
    if not hasattr(tokenizer, "get_vocab"):
        raise SettingError("tokenizer is no transformers tokenizer", found=type(tokenizer).__name__)
    words = SPAN_ENDS.check(span_ends) == "words"
    crossed = RetokenizedStore(as_store(store), tokenizer, words=words, with_targets=True)
    crossed.prepare(on_progress=on_progress)
    return crossed
