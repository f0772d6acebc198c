"""What a model is measured on: a store, a file of answers, or plain text."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from logitstore import SettingError, StoreError
from logitstore.plumbing import (
    Fields,
    TextRules,
    most_damaged,
    open_corpus,
    tokenize,
    vocab_size,
)
from trainer.data.answer_files import labels_only
from trainer.data.averaged import AveragedStore
from trainer.data.mixture import MixedStore, name_of
from trainer.data.spans import has_spans
from trainer.data.store import as_store
from trainer.evaluation.comparison import Comparison
from trainer.evaluation.reading import Counted, without_skipping
from trainer.losses import draw_for
from trainer.training.damage import refuse_no_view, told
from trainer.training.state_files import warn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from logitstore import Document, SparseTargets, StoreSpec
    from trainer.evaluation.options import EvalOptions

    Pair: TypeAlias = tuple[Document, SparseTargets | None]

__all__ = ["EvalData", "Pair", "from_store", "from_text"]

_UNIT_BYTES = 4 << 20
_LONGEST = 1024


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class EvalData:
    """Documents, with targets where there is a teacher."""

    documents: Iterable[Pair]
    read: Counted[Any]  # what the documents are made from
    vocab_size: int
    spec: StoreSpec | None
    comparison: Comparison | None
    fingerprint: str | None
    damaged: tuple[Any, ...] = ()  # blocks of the store that were left out
    tokenizer_files: Callable[[], Mapping[str, bytes]] = dict  # none where a store offers none
    store: Any = None  # what `documents` are read from, unless that is a text


def from_store(options: EvalOptions) -> EvalData:
    """The documents of `logits`, read at the draw of the temperature.

    Args:
        options: Those of the evaluation, with `logits`.

    Raises SettingError or StoreError for a store that cannot serve.
    """
    named = str(options.model) if isinstance(options.model, str | Path) else None
    tokenizer = options.tokenizer if hasattr(options.tokenizer, "get_vocab") else None
    source: Any = options.logits
    store = as_store(source, model=named, tokenizer=tokenizer, max_memory=options.max_memory)
    if isinstance(store, MixedStore | AveragedStore):
        raise SettingError(
            "a model is measured on one store at a time", place="--logits", found=store.uri
        )
    if options.skip_damaged is not None:
        refuse_no_view(store)
        store = store.sound(most_damaged(options.skip_damaged), on_progress=options.on_progress)
        if store.damaged:
            warn(told(store, store.damaged))
    if labels_only(store.spec):
        return _from_answers(store, options)
    positions = getattr(store.spec.text, "positions", None)
    if positions is not None:
        warn(
            f"{name_of(store)}: it holds targets of positions that {positions} chose: loss and "
            "perplexity are over those, not over the text"
        )
    if has_spans(store.spec):
        raise SettingError(
            "an evaluation reads the store in its own tokens",
            place="--logits",
            found=type(store).__name__,
            remedy="Give the store itself: a model of another tokenizer is measured over spans",
        )
    temperature = options.temperature
    sparsifier, size = store.spec.sparsifier, store.spec.tokenizer.vocab_size
    comparison = Comparison.of(store.spec, temperature=temperature)
    if not sum(one.targets for one in store.blocks):
        raise StoreError(
            "the store holds no targets to measure on", place=f"store {store.fingerprint[:12]}"
        )
    draw = draw_for(sparsifier, temperature=temperature, epoch=0)
    if draw != store.draw:
        store = store.with_draw(draw)
    read = Counted(store, total=len(store))
    return EvalData(
        documents=((stored.document, stored.targets) for stored in read),
        read=read,
        vocab_size=size,
        spec=store.spec,
        comparison=comparison,
        fingerprint=store.fingerprint,
        tokenizer_files=getattr(store, "tokenizer_files", dict),
        damaged=getattr(store, "damaged", ()),
        store=store,
    )


def _from_answers(store: Any, options: EvalOptions) -> EvalData:
    """Answers have no teacher to compare with."""
    if options.temperature != 1:
        raise SettingError(
            "these are answers without a teacher's distributions, so --temperature has no effect",
            found=f"{options.temperature:g}",
            remedy="Leave --temperature out",
        )
    read = Counted(store, total=len(store))
    return EvalData(
        documents=((stored.document, None) for stored in read),
        read=read,
        store=store,
        vocab_size=store.spec.tokenizer.vocab_size,
        spec=store.spec,
        comparison=None,
        fingerprint=store.fingerprint,
        tokenizer_files=getattr(store, "tokenizer_files", dict),
    )


def from_text(tokenizer: Any, options: EvalOptions, *, context: int | None) -> EvalData:
    """The documents of `data`.

    Args:
        tokenizer: That of the model.
        options: Those of the evaluation, with `data`.
        context: The most tokens that the model reads, where that is known.

    Raises SettingError for documents that are longer than that.
    """
    corpus = open_corpus(
        str(options.data),
        fields=Fields(text=options.text_field, messages=options.messages_field),
    )
    units = corpus.plan(unit_bytes=_UNIT_BYTES, limit=None).units
    records = Counted(
        (record for unit in units for record in corpus.read(unit, skip_bad=False)),
        total=sum(unit.records for unit in units),
    )
    rules = TextRules(max_length=_max_length(options.max_length, context))
    return EvalData(
        documents=(
            (one, None)
            for one in without_skipping(tokenize(records, tokenizer, rules=rules, skip_bad=False))
        ),
        read=records,
        vocab_size=vocab_size(tokenizer),
        spec=None,
        comparison=None,
        fingerprint=None,
    )


def _max_length(wanted: int | None, context: int | None) -> int:
    """The most tokens of a document: what is asked for, or 1024; never more than `context`."""
    if wanted is None:
        return _LONGEST if context is None else min(_LONGEST, context)
    if context is not None and wanted > context:
        raise SettingError(
            "--max-length is more than the model's context",
            found=wanted,
            allowed=f"up to {context}",
            remedy="Leave it out, or take a smaller one",
        )
    return wanted
