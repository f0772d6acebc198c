"""A run on a damaged store: the blocks that are left out, the same on every rank and after a stop.

They are found once, by reading every block, each rank its share, and written into run.json: a
resumed run leaves out the same, and refuses what has been damaged since.
"""

from __future__ import annotations

from dataclasses import astuple
from typing import TYPE_CHECKING, Any

from accelerate.utils import gather_object

from logitstore import LogitStoreError, SettingError
from logitstore.plumbing import (
    DamagedBlock,
    describe_damage,
    find_damaged,
    most_damaged,
    refuse_more_damaged,
)
from trainer.data.mixture import MixedStore
from trainer.training.run_record import read_record
from trainer.training.state_files import warn

if TYPE_CHECKING:
    from transformers import TrainingArguments

    from logitstore.plumbing import OnProgress
    from trainer.training.options import FitOptions

__all__ = ["refuse_no_view", "sound_store", "told"]


def sound_store(store: Any, options: FitOptions, args: TrainingArguments) -> Any:
    """The store without the blocks that a run leaves out; itself where it leaves out none.

    Args:
        store: What `logits` names.
        options: Those of the run.
        args: For the rank and the number of ranks.

    Raises SettingError for what is no store of `logitstore.open`, CorruptionError for more damage
    than is passed over.
    """
    if options.skip_damaged is None:
        return store
    refuse_no_view(store)
    damaged = _recorded(options)
    if damaged is None:
        damaged = _found(store, args, options.on_progress)
        refuse_more_damaged(store, damaged, most=most_damaged(options.skip_damaged))
    if damaged and args.process_index == 0:
        warn(told(store, damaged))
    return store.without(damaged)


def refuse_no_view(store: Any) -> None:
    """Raise SettingError for a store of another kind, of which no blocks can be left out.

    Args:
        store: What is learnt or measured from.
    """
    for one in [part.store for part in store.parts] if isinstance(store, MixedStore) else [store]:
        if not hasattr(one, "without"):
            raise SettingError(
                "--skip-damaged is for stores that `logitstore.open` gives",
                found=type(one).__name__,
            )


def told(store: Any, damaged: tuple[DamagedBlock, ...]) -> str:
    """What a warning says of the blocks that are left out.

    Args:
        store: All of it, or a view of it.
        damaged: They.
    """
    whole, sound = store.without(()), store.without(damaged)
    return (
        f"{store.uri}: {len(damaged)} of {len(whole.blocks)} blocks are damaged and left out, with "
        f"{len(whole) - len(sound):,} of {len(whole):,} documents and "
        f"{whole.targets - sound.targets:,} of {whole.targets:,} targets: "
        f"{describe_damage(damaged)}"
    )


def _recorded(options: FitOptions) -> tuple[DamagedBlock, ...] | None:
    """The blocks that the run in the folder leaves out; None where none was begun with the option.

    What is wrong with run.json is for others to tell.
    """
    try:
        record = read_record(options.out)
    except LogitStoreError:
        return None
    if record is None or record["wanted"].get("skip_damaged") is None:
        return None
    return tuple(DamagedBlock(*one) for one in record["damaged"])


def _found(
    store: Any, args: TrainingArguments, on_progress: OnProgress | None
) -> tuple[DamagedBlock, ...]:
    """The damaged blocks, found by all ranks together."""
    share = range(args.process_index, len(store.blocks), args.world_size)
    try:
        found: list[Any] = [
            astuple(one) for one in find_damaged(store, numbers=share, on_progress=on_progress)
        ]
    except LogitStoreError as error:
        found = [error]
    if args.world_size > 1:
        found = gather_object(found)
    for one in found:
        if isinstance(one, LogitStoreError):
            raise one
    return tuple(DamagedBlock(*one) for one in sorted(found))
