"""A run whose student may have another tokenizer than the store: its tokens, on every rank."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from accelerate.utils import gather_object

from logitstore.plumbing import holds_tokenizer, load_tokenizer, model_path, stored_tokenizer
from trainer.data.retokenized import RetokenizedStore
from trainer.losses import SPAN_LOSSES
from trainer.training.state_files import warn

if TYPE_CHECKING:
    from transformers import TrainingArguments

    from logitstore.plumbing import OnProgress
    from trainer.training.options import FitOptions

__all__ = ["in_students_tokens", "prepare"]


def in_students_tokens(store: Any, options: FitOptions) -> RetokenizedStore:
    """The store in the tokens of the student; nothing of it is read yet.

    Args:
        store: What is learnt from; one that is in a student's tokens already stays as it is.
        options: Those of the run, with a loss over spans.

    Raises TokenizerError where a tokenizer does not say which bytes its tokens stand for, or the
    store keeps none; ModelError where the student's cannot be loaded.
    """
    if isinstance(store, RetokenizedStore):
        return store
    return RetokenizedStore(
        store,
        _tokenizer(store, options),
        words=options.span_ends == "words",
        with_targets=SPAN_LOSSES[options.loss].of_ranks is not None and options.alpha > 0,
    )


def _tokenizer(store: Any, options: FitOptions) -> Any:
    """The student's: the one that is named, else that of its folder, else the store's."""
    if options.student_tokenizer is not None:
        return load_tokenizer(str(options.student_tokenizer))
    name = str(options.student)
    if not name.endswith(".json"):
        folder = model_path(name)
        if holds_tokenizer(folder):
            return load_tokenizer(str(folder))
    return stored_tokenizer(getattr(store, "tokenizer_files", dict)())


def prepare(store: Any, *, args: TrainingArguments, on_progress: OnProgress | None) -> None:
    """Read all texts in the student's tokens, each rank its share, and tell what is left out.

    Args:
        store: What is learnt from; only one in the student's tokens is read.
        args: For the rank and the number of ranks.
        on_progress: Is told how far it is.

    Raises on every rank what one of them met.
    """
    if not isinstance(store, RetokenizedStore):
        return
    store.prepare(
        numbers=range(args.process_index, len(store.blocks), args.world_size),
        gather=gather_object if args.world_size > 1 else list,
        on_progress=on_progress,
    )
    left_out = store.counts["left_out"]
    if left_out and args.process_index == 0:
        reasons = "; ".join(f"{times:,}: {reason}" for reason, times in left_out.items())
        warn(
            f"{store.uri}: {sum(left_out.values()):,} of {len(store):,} documents are left out, "
            f"for they cannot be read in the student's tokens ({reasons})"
        )
