"""From a store and a model to batches: packing, layout and draws are chosen here."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from logitstore import SettingError
from logitstore.plumbing import TargetRule, checked_options, sparsifier_of
from trainer.data import order
from trainer.data.batches import Batches
from trainer.data.mixture import MixedStore
from trainer.data.options import (
    BATCH_TOKENS,
    EPOCHS,
    MICRO_TOKENS,
    RANKS,
    SEED,
    SELECT,
    SELECT_LABELS,
    WINDOW,
    rank_option,
)
from trainer.data.packing import Lengths, Packing, choose_packing, longest_document
from trainer.data.rows import choose_border, choose_layout
from trainer.data.selection import measure_selection, refuse_unselectable, uneven_shares
from trainer.data.spans import has_spans
from trainer.data.store import as_store
from trainer.data.streams import Mix, Part, refuse_empty_epochs
from trainer.losses import choose_view, draw_for, forward_kl
from trainer.losses.options import TEMPERATURE
from trainer.training.state_files import warn
from trainer.training.student import refuse_small_vocabulary

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transformers import PreTrainedModel

    from logitstore import SparsifierSpec
    from trainer.data.selection import Selection
    from trainer.data.store import StoreLike, StoreSource
    from trainer.data.streams import Order

__all__ = ["batches_of", "draw_of_epoch", "plan_packing", "selection_of", "training_batches"]

_OPTIONS = (
    *(BATCH_TOKENS, MICRO_TOKENS, TEMPERATURE, EPOCHS, SEED, WINDOW, RANKS),
    *(SELECT, SELECT_LABELS),
)


def training_batches(
    store: StoreSource,
    *,
    model: PreTrainedModel,
    batch_tokens: int = 16_384,
    micro_tokens: int | None = None,
    temperature: float = 1.0,
    epochs: int | None = None,
    seed: int = 0,
    window: int | None = None,
    select: str | None = None,
    select_labels: str = "all",
    rank: int = 0,
    ranks: int = 1,
) -> Batches:
    """The documents of `store` as batches for `model`: shuffled, packed, prefetched by a thread.

    Args:
        store: The store to read: an open one, or what `logitstore.open` takes; or what
            `trainer.mix` gives of several, or `trainer.retokenize` for a model of another
            tokenizer.
        model: The student, before it is wrapped for several processes. A short forward pass finds
            out whether documents may share a row; the model is not kept.
        batch_tokens: The number of tokens in an optimiser step, over all ranks.
        micro_tokens: The most tokens in one batch. Default: about 4096, and no fewer than the
            longest document of the store may have.
        temperature: The temperature of the loss. Where targets were drawn for several temperatures,
            those of this one are read, and each epoch reads the next of their repeats.
        epochs: Passes over the store after which the batches end. Default: they never end.
        seed: The seed of the order of documents.
        window: The number of blocks, in each lane, whose documents are shuffled together. Default:
            as many as fit into 1 GiB over all lanes.
        select: Which targets count in the divergence, as `fit` takes it; all ranks read the same
            blocks to find where they are cut off. `DistillationTrainer` weighs them.
        select_labels: Whose true tokens count beside `select`: "all", or those of "selected" ones.
        rank: The number of this process among `ranks`.
        ranks: The number of processes that share each optimiser step.

    Raises SettingError for a value that is out of range or that the store cannot serve, before
    anything is read; ModelError for a model with a smaller vocabulary than the store's; StoreError
    for a store without targets.
    """
    numbers = checked_options(
        "training_batches",
        _OPTIONS,
        {
            "batch_tokens": batch_tokens,
            "micro_tokens": micro_tokens,
            "temperature": temperature,
            "epochs": epochs,
            "seed": seed,
            "window": window,
            "ranks": ranks,
            "select": select,
            "select_labels": select_labels,
        },
    )
    rank = rank_option(numbers["ranks"]).check(rank)
    _refuse_no_model(model)
    opened = as_store(store)
    # A loss that is linear in the teacher is served wherever any loss is.
    if not has_spans(opened.spec):
        choose_view(opened.spec.sparsifier, loss=forward_kl, temperature=numbers["temperature"])
    packing = plan_packing(
        opened,
        seed=numbers["seed"],
        batch_tokens=numbers["batch_tokens"],
        micro_tokens=numbers["micro_tokens"],
        window=numbers["window"],
        ranks=numbers["ranks"],
    )
    packing.bins_of_a_rank(numbers["ranks"])
    refuse_small_vocabulary(model, vocab_size=opened.spec.tokenizer.vocab_size)
    batches = batches_of(
        opened,
        model=model,
        packing=packing,
        lengths=Lengths(opened),
        temperature=numbers["temperature"],
        epochs=numbers["epochs"],
        selection=selection_of(
            opened, select, labels=numbers["select_labels"], temperature=numbers["temperature"]
        ),
    )
    return batches.of_rank(rank, numbers["ranks"])


def selection_of(
    store: StoreLike, select: str | None, *, labels: str, temperature: float
) -> Selection | None:
    """Which targets of a store count in the soft part of a loss, measured on it; None is all.

    Args:
        store: One store, or several as one.
        select: The rule as a text.
        labels: Whose true tokens count.
        temperature: The temperature of the loss.

    Warns where another share is taken than was asked for. Raises SettingError where the store does
    not know what targets are selected by, or where none would be; StoreError where single targets
    have nothing to be selected by.
    """
    if select is None:
        return None
    rule = TargetRule.parse(select, flag=SELECT.flag)
    refuse_unselectable(store, rule)
    draw = draw_of_epoch(store.spec.sparsifier, temperature, 0)
    read = store.with_draw(draw) if draw != store.draw else store
    selection = measure_selection(read, rule, labels=labels)
    for one in uneven_shares(store, selection):
        warn(one)
    return selection


def _refuse_no_model(model: object) -> None:
    if not isinstance(model, torch.nn.Module) or not hasattr(model, "get_input_embeddings"):
        raise SettingError(
            "model must be a transformers model that is not wrapped for several processes",
            found=type(model).__name__,
            remedy="Load one with `trainer.load_student`",
        )


def batches_of(
    store: StoreLike,
    *,
    model: PreTrainedModel,
    packing: Packing,
    lengths: Lengths,
    temperature: float,
    epochs: int | None = None,
    selection: Selection | None = None,
    layers: tuple[str, ...] = (),
) -> Batches:
    """The batches of a packing, for a run of one process.

    Args:
        store: What the batches are read from.
        model: The student.
        packing: How the store becomes steps.
        lengths: Tokens and targets of the store's documents.
        temperature: The temperature of the loss.
        epochs: Passes over the store; None is without end.
        selection: Which targets count in the soft part of the loss; None is all.
        layers: The names of the teacher's layers whose states are read with the targets.
    """
    spec = store.spec
    return Batches(
        store,
        packing=packing,
        lengths=lengths,
        layout=choose_layout(model, vocab_size=spec.tokenizer.vocab_size),
        draw_of_epoch=_first_draw
        if has_spans(spec)
        else partial(draw_of_epoch, spec.sparsifier, temperature),
        border=choose_border(model, max_length=spec.text.max_length),
        temperature=temperature,
        epochs=epochs,
        selection=selection,
        layers=layers,
    )


def plan_packing(
    store: StoreLike,
    *,
    seed: int,
    batch_tokens: int,
    micro_tokens: int | None,
    window: int | None,
    ranks: int = 1,
) -> Packing:
    """How a store becomes steps of about `batch_tokens` tokens.

    Args:
        store: The store that is read, or several as one.
        seed: The seed of the order of documents.
        batch_tokens: Tokens of an optimiser step, over all ranks.
        micro_tokens: The most tokens of a forward pass; None chooses about 4096.
        window: Blocks of a lane that are shuffled together; None chooses what fits into 1 GiB.
        ranks: The number of processes that are to share each step.

    Raises SettingError where a document would not fit into a forward pass, and where the weight of
    one of several stores leaves an epoch without documents of it.
    """
    shuffle: Any = _shuffle(store, seed=seed, window=window)
    max_length = store.spec.text.max_length
    if micro_tokens is not None and micro_tokens < max_length:  # all documents may be shorter
        max_length = longest_document(store)
    packing = choose_packing(
        shuffle=shuffle,
        max_length=max_length,
        batch_tokens=batch_tokens,
        micro_tokens=micro_tokens,
        ranks=ranks,
    )
    if isinstance(store, MixedStore):
        refuse_empty_epochs(
            shuffle.parts,
            documents=[sum(one.documents for one in part.store.blocks) for part in store.parts],
            streams=len(packing.streams),
            names=[one["name"] for one in store.describe()],
        )
    return packing


def _shuffle(store: Any, *, seed: int, window: int | None) -> Order:
    """What the order depends on, but the epoch. The windows of all stores fit into 1 GiB."""
    if not isinstance(store, MixedStore):
        return _shuffle_of(store, seed=seed, window=window, budget_bytes=order.BUDGET_BYTES)
    sizes = [sum(_block_bytes(part.store)) for part in store.parts]
    return Mix(
        parts=tuple(
            Part(
                shuffle=_shuffle_of(
                    part.store,
                    seed=seed,
                    window=window,
                    budget_bytes=order.BUDGET_BYTES * size // sum(sizes),
                ),
                weight=part.weight,
                blocks=len(part.store.blocks),
            )
            for part, size in zip(store.parts, sizes, strict=True)
        )
    )


def _shuffle_of(
    store: StoreLike, *, seed: int, window: int | None, budget_bytes: int
) -> order.Shuffle:
    lanes = order.lane_count(len(store.blocks))
    window = window or order.default_window(
        blocks=len(store.blocks),
        lanes=lanes,
        block_bytes=max(_block_bytes(store), default=0),
        budget_bytes=budget_bytes,
    )
    return order.Shuffle(fingerprint=store.fingerprint, seed=seed, lanes=lanes, window=window)


def _block_bytes(store: StoreLike) -> Iterator[int]:
    """The bytes of each block when it is decoded, hidden states included.

    An entry is held as uint32, float32 and, of one draw at a time, bool; a token as uint32 and
    bool.
    """
    several = getattr(store.spec, "averaged", ()) or (store.spec.sparsifier,)
    each = sum(one.k * (9 if sparsifier_of(one).targets.drawn else 8) for one in several)
    states = getattr(store.spec, "states", None)
    each += 0 if states is None else states.row_bytes
    return (one.targets * each + one.tokens * 5 for one in store.blocks)


def _first_draw(_epoch: int) -> int:
    """The draw whose spans are read: what they are made of is the same in each."""
    return 0


def draw_of_epoch(sparsifier: SparsifierSpec, temperature: float, epoch: int) -> int:
    """The draw that an epoch reads: the repeats of its temperature in turn.

    It is a function of the module, so that batches can be sent to worker processes.

    Args:
        sparsifier: That of the store.
        temperature: The temperature of the loss.
        epoch: The number of the epoch, from 0.
    """
    return draw_for(sparsifier, temperature=temperature, epoch=epoch)
