"""Stores that one student learns from together, opened, and checked that they fit together.

What the losses see must be of one kind, and ids must mean the same tokens. Documents are not
compared: stores of one corpus by several teachers may be mixed as well as stores of several ones.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

from logitstore import SettingError, SpecError, StoreError, TokenizerError
from logitstore.plumbing import SPARSIFIERS, Entries, sparsifier_of, stored_tokenizer
from trainer.data.answer_files import labels_only
from trainer.data.averaged import AveragedStore
from trainer.data.mixture import MixedStore, WeightedStore, name_of
from trainer.data.options import AVERAGE
from trainer.data.sources import sources_of
from trainer.data.spans import has_spans
from trainer.data.store import as_store
from trainer.training.state_files import warn
from trainer.training.tokens import no_files, token_differences

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from trainer.data.store import StoreSource

__all__ = ["average", "fingerprints_of", "mix", "mixed", "open_sources"]


def mix(stores: Sequence[StoreSource | tuple[StoreSource, float]]) -> MixedStore:
    """Several stores as one, for `fit`, `training_batches` and whatever else reads documents.

    Args:
        stores: Open stores or what `logitstore.open` takes, each alone or in a pair with its
            weight: how many times an epoch passes over it. A name may end in `@` and the weight.

    The documents of each store are spread evenly over the epoch. With weight w each was read
    floor(w e) or ceil(w e) times after e epochs. Their order depends on what the stores hold, not
    on the order in which they are given.

    Raises SettingError for what is no store and for weights that are out of range; SpecError where
    the stores' targets cannot be learnt from together; TokenizerError where ids mean other tokens;
    what opening a store raises.
    """
    if not isinstance(stores, list | tuple):
        raise SettingError("stores must be a list", found=type(stores).__name__)
    return mixed(
        WeightedStore(store=as_store(one.store), weight=one.weight) for one in sources_of(stores)
    )


def average(
    stores: Sequence[StoreSource | tuple[StoreSource, float]],
    *,
    documents: Literal["all", "common"] = "all",
) -> AveragedStore:
    """Stores of one corpus by several teachers as one: each document once, by the teachers' mean.

    Args:
        stores: Open stores or what `logitstore.open` takes, each alone or in a pair with the weight
            of its teacher; weights are divided by their sum. A name may end in `@` and the weight.
        documents: Whether "all" documents must be in every store, or those that are not "common" to
            them are left out.

    Documents are found by their ids, and what has the same id must have the same tokens. The loss
    is the weighted mean of those of the single teachers, for losses that are linear in the teacher
    that of the teachers' mean.

    Raises as `mix` does; SpecError where documents are missing or differ; StoreError where an id
    stands twice in a store, or the stores have none in common.
    """
    if not isinstance(stores, list | tuple):
        raise SettingError("stores must be a list", found=type(stores).__name__)
    AVERAGE.check(documents)
    return averaged(
        [WeightedStore(store=as_store(one.store), weight=one.weight) for one in sources_of(stores)],
        documents=documents,
    )


def averaged(parts: Iterable[WeightedStore], *, documents: str) -> AveragedStore:
    """The stores as one, in the order of the one whose fingerprint is the first.

    Args:
        parts: Open stores with the weights of their teachers.
        documents: "all" or "common", as `average` takes it.

    Raises as `average` does.
    """
    ordered = _checked(parts)
    if len(ordered) < 2:
        raise SettingError("one store alone has no other teacher to be averaged with")
    for one in ordered:
        if labels_only(one.store.spec):
            raise SpecError("answers have no teacher to be averaged", place=name_of(one.store))
        if sparsifier_of(one.store.spec.sparsifier).targets.keeps_state:
            raise SpecError(
                "hidden states are not averaged",
                place=name_of(one.store),
                remedy=f"Make a head of them: `logitstore convert STORE OUT --sparsify {_HEAD}`",
            )
    return AveragedStore(ordered, common=documents == "common")


def open_sources(
    given: Any, *, model: str | None, max_memory: Any, documents: str | None = None
) -> Any:
    """The store that a run learns from: the one that is given, or several as one.

    Args:
        given: As `sources_of` takes it.
        model: The name of the student, whose tokenizer the ids of answers are of.
        max_memory: As `logitstore.open` takes it.
        documents: Which documents of several stores are read with the targets of all, "all" or
            "common"; None for each document with those of its own store.

    Raises what `mix` and `average` raise.
    """
    parts = [
        WeightedStore(
            store=as_store(one.store, model=model, max_memory=max_memory), weight=one.weight
        )
        for one in sources_of(given)
    ]
    if documents is not None:
        found = averaged(parts, documents=documents)
        if (told := found.told_of_left_out()) is not None:
            warn(told)
        return found
    if len(parts) == 1 and parts[0].weight == 1:
        return parts[0].store
    return mixed(parts)


def mixed(parts: Iterable[WeightedStore]) -> MixedStore:
    """The stores as one, in an order that depends on what they hold.

    Args:
        parts: Open stores with their weights.

    Raises as `mix` does.
    """
    return MixedStore(_checked(parts))


def _checked(parts: Iterable[WeightedStore]) -> list[WeightedStore]:
    """The stores by their fingerprints, all of one kind and of tokens that mean the same."""
    ordered = sorted(parts, key=lambda one: str(one.store.fingerprint))
    first = ordered[0].store
    for one in ordered:
        _refuse_unmixed(one.store)
    for before, one in pairwise(ordered):
        if before.store.fingerprint == one.store.fingerprint:
            raise SettingError(
                "a store is given twice",
                place=name_of(one.store),
                remedy=f"Give it once, with the weight {before.weight + one.weight:g}",
            )
        _refuse_other_targets(one.store, first)
        _refuse_other_ids(one.store, first)
    return ordered


def fingerprints_of(store: Any) -> tuple[str, ...]:
    """The fingerprint of each store that is read.

    Args:
        store: One store, or several as one.
    """
    several = isinstance(store, MixedStore | AveragedStore)
    parts = [one.store for one in store.parts] if several else [store]
    return tuple(str(one.fingerprint) for one in parts)


def _refuse_unmixed(store: Any) -> None:
    """Refuse what has its own way from documents to batches, or nothing to learn from."""
    if isinstance(store, MixedStore | AveragedStore) or has_spans(store.spec):
        raise SettingError(
            "several stores as one and stores in other tokens cannot be mixed",
            place=name_of(store),
            remedy="Mix the stores that it is made of, for a student with their tokenizer",
        )
    if not sum(one.targets for one in store.blocks):
        raise StoreError("the store holds no targets to learn from", place=name_of(store))


def _refuse_other_targets(store: Any, first: Any) -> None:
    """Raise SpecError where no loss sees the targets of both stores alike."""
    if labels_only(store.spec) != labels_only(first.spec):
        raise SpecError(
            "answers and a store cannot be learnt from together",
            place=name_of(store),
            found="answers" if labels_only(store.spec) else "a store",
            allowed=f"as {name_of(first)}",
            remedy="Let a teacher read the answers with `logitstore dump` first",
        )
    ours, theirs = store.spec.sparsifier, first.spec.sparsifier
    kinds = [sparsifier_of(one).targets for one in (ours, theirs)]
    heads = all(one.keeps_tail and one.has_exact for one in kinds)
    if kinds[0] != kinds[1]:
        raise SpecError(
            "the stores' targets are of different kinds, which no loss sees alike",
            place=name_of(store),
            found=ours.name,
            allowed=f"{theirs.name}, as in {name_of(first)}",
            remedy=f"Make heads of both with `logitstore convert STORE OUT --sparsify {_HEAD}`"
            if heads
            else f"Dump one of them again, with --sparsify {theirs.name} or {ours.name}",
        )
    if kinds[0].keeps_state and _states(store) != _states(first):
        raise SpecError(
            "the stores hold hidden states of different teachers, or in different number types",
            place=name_of(store),
            found=_states(store),
            allowed=f"{_states(first)}, as in {name_of(first)}",
            remedy=f"Make heads of both with `logitstore convert STORE OUT --sparsify {_HEAD}`",
        )
    for what, name in (("tail_nodes", "temperatures of its tail"), ("temperatures", "draws")):
        own, other = getattr(ours, what), getattr(theirs, what)
        if own != other:
            raise SpecError(
                "the stores' targets are of different temperatures, which no loss sees alike",
                place=f"{name_of(store)}: {name}",
                found=_temperatures(own, nodes=what == "tail_nodes"),
                allowed=f"{_temperatures(other, nodes=what == 'tail_nodes')}, "
                f"as in {name_of(first)}",
                remedy="Dump one of them again with the --temperature of the other",
            )


def _states(store: Any) -> str:
    """The output layer and the number type of the hidden states of a store, in words."""
    states = store.spec.states
    return f"output layer {states.head.sha256[:12]}, {states.dtype}"


_HEAD = next(name for name, one in SPARSIFIERS.items() if one.targets.entries is Entries.EXACT)


def _temperatures(values: Sequence[float], *, nodes: bool) -> str:
    return ", ".join(f"{1 / one if nodes else one:g}" for one in values) or "none"


def _refuse_other_ids(store: Any, first: Any) -> None:
    """Raise TokenizerError where an id means another token in one store than in the other."""
    own, other = store.spec.tokenizer, first.spec.tokenizer
    if own.vocab_size != other.vocab_size:
        raise TokenizerError(
            "the stores have vocabularies of different size",
            place=name_of(store),
            found=own.vocab_size,
            allowed=f"{other.vocab_size}, as in {name_of(first)}",
            remedy=_ALONE,
        )
    if own.fingerprint == other.fingerprint:
        return
    files = getattr(store, "tokenizer_files", no_files)()
    kept = getattr(first, "tokenizer_files", no_files)
    try:
        if not files:
            raise TokenizerError("", found=own.fingerprint[:12], allowed=other.fingerprint[:12])
        differs = token_differences(
            stored_tokenizer(files), spec=first.spec, files=kept, place=name_of(store)
        )
    except TokenizerError as error:
        raise TokenizerError(
            "the stores have different tokenizers, and ids do not mean the same for sure",
            place=name_of(store),
            found=error.found,
            allowed=f"{error.allowed}, as in {name_of(first)}",
            remedy=_ALONE,
        ) from error
    if differs is not None:
        warn(
            f"{name_of(store)}: its tokenizer is another than that of {name_of(first)}, but ids "
            f"mean the same: {differs}"
        )


_ALONE = "Mix stores of teachers that share a tokenizer"
