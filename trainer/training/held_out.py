"""A held-out store during a run: what is measured on it, the best step so far, and when to stop.

The figures are those of the training loss, taken of the same losses with dropout off, so they lie
beside the curve of the run. `trainer eval` measures more, with standard errors, of the result.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from logitstore import SpecError
from logitstore.plumbing import evaluating
from trainer.data.packing import Lengths
from trainer.data.store import as_store
from trainer.losses.distillation import loss_from_forward, refuse_unserved
from trainer.training.batching import batches_of, plan_packing
from trainer.training.metrics import MetricSums
from trainer.training.mixing import fingerprints_of
from trainer.training.tokens import no_files

if TYPE_CHECKING:
    from collections.abc import Mapping

    from accelerate import Accelerator
    from transformers import PreTrainedModel

    from trainer.data.batches import Batches
    from trainer.losses import Loss
    from trainer.training.options import FitOptions

__all__ = ["PREFIX", "Best", "HeldOut", "held_batches", "open_held_out"]

PREFIX = "eval_"  # before the names of figures in logs


@dataclass(frozen=True, kw_only=True, slots=True)
class Best:
    """The best measurement of a run so far."""

    step: int = 0  # after which it was taken; 0 is none
    value: float = 0.0
    since: int = 0  # measurements behind it, none of which was better

    def after(self, step: int, value: float) -> Best:
        """The best one when another has been taken."""
        if self.step == 0 or value < self.value:
            return Best(step=step, value=value)
        return replace(self, since=self.since + 1)


@dataclass(kw_only=True, slots=True)
class HeldOut:
    """A store that is measured during a run, never learnt from."""

    batches: Batches
    metric: str  # a name of `METRICS` whose least value is the best
    best: Best = Best()

    def measure(
        self,
        model: torch.nn.Module,
        *,
        accelerator: Accelerator,
        objective: Mapping[str, Any],
        temperature: float | None = None,
    ) -> dict[str, float]:
        """The means over all targets of the store, by the names of `METRICS`.

        Args:
            model: The student, inside the context of `loss_inside_forward`; every rank measures a
                share of the batches.
            accelerator: Gathers the sums of all ranks.
            objective: The arguments of the loss.
            temperature: T, where it is another than that of the run's options.
        """
        sums = MetricSums(accelerator, carried={})
        rank, ranks = accelerator.process_index, accelerator.num_processes
        batches = iter(self.batches.of_rank(rank, ranks))
        try:
            with torch.no_grad(), evaluating(model):
                for batch in batches:
                    with accelerator.autocast():
                        result = loss_from_forward(
                            model, batch, temperature=temperature, **objective
                        )
                    sums.add(result)
        finally:
            batches.close()  # type: ignore[attr-defined]
        return sums.take_means()


def open_held_out(options: FitOptions, *, store: Any, loss: Loss) -> Any:
    """The held-out store of a run, checked that the run can be measured on it; None without one.

    Args:
        options: Those of the run.
        store: What the run learns from.
        loss: The divergence.

    Raises SpecError where its ids mean other tokens than those of `store`, or where it holds the
    very same targets; SettingError where it cannot serve the loss or the temperature; what opening
    a store raises.
    """
    if options.eval_logits is None:
        return None
    held = as_store(options.eval_logits, max_memory=options.max_memory)
    if held.fingerprint in fingerprints_of(store):
        raise SpecError(
            "the held-out store is the one that is learnt from",
            place="--eval-logits",
            found=str(options.eval_logits),
            remedy="Split a part off first: `logitstore subset STORE HELD --sample 100 --rest R`",
        )
    theirs, ours = held.spec.tokenizer, store.spec.tokenizer
    if theirs.fingerprint != ours.fingerprint and not _same_ids(held, store):
        raise SpecError(
            "the held-out store has another tokenizer than the store that is learnt from",
            place="--eval-logits",
            found=theirs.fingerprint[:12],
            allowed=ours.fingerprint[:12],
            remedy="Dump both with one teacher",
        )
    refuse_unserved(held.spec, loss=loss, temperature=options.temperature)
    return held


def _same_ids(one: Any, other: Any) -> bool:
    kept = [getattr(store, "tokenizer_files", no_files)() for store in (one, other)]
    return bool(kept[0]) and kept[0].get("tokenizer.json") == kept[1].get("tokenizer.json")


def held_batches(held: Any, options: FitOptions, *, model: PreTrainedModel, ranks: int) -> Batches:
    """One pass over the held-out store.

    Args:
        held: The store.
        options: Those of the run.
        model: The student, before it is wrapped.
        ranks: Processes of the run.
    """
    packing = plan_packing(
        held,
        seed=0,
        batch_tokens=options.batch_tokens,
        micro_tokens=options.micro_tokens,
        window=options.window,
        ranks=ranks,
    )
    return batches_of(
        held,
        model=model,
        packing=packing,
        lengths=Lengths(held),
        temperature=options.temperature,
        epochs=1,
    )
