"""What `fit` warns of: findings of its settings, and of the first step's targets.

Only what costs next to nothing is looked at: what the batches of the first step hold and what their
loss has summed anyway. A student with more columns than there are tokens also reads one row of at
most 64 tokens. `trainer diagnose` looks at everything.

Shapes: R targets of a batch, P columns of the student's head.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import TrainerCallback

from logitstore.plumbing import evaluating
from trainer.advice.counting import counting_loss
from trainer.advice.facts import Facts, Recipe, chosen_by_loss
from trainer.advice.kept import kept_of
from trainer.advice.rules import RULES, findings
from trainer.data.answer_files import labels_only
from trainer.data.averaged import AveragedTargets
from trainer.data.mixture import MixedStore
from trainer.losses import Loss, TargetTensors
from trainer.training.state_files import FindingWarning, warn

if TYPE_CHECKING:
    from transformers import TrainerControl, TrainerState, TrainingArguments

    from trainer.data.rows import Batch
    from trainer.losses.fused import LossSums
    from trainer.training.options import FitOptions

__all__ = ["FirstStep", "recipe_of_run"]

_EARLY = tuple(rule for rule in RULES if rule.early)
_PROBE_TOKENS = 64
_KEPT = ("retained_mass", "tempered_mass", "evenness", "tempered_evenness", "drawn_evenness")


def recipe_of_run(options: FitOptions, store: Any, *, steps: int) -> Recipe | None:
    """How a run is going to learn from the targets of a store; None where it asks no teacher.

    Args:
        options: Those of the run.
        store: What it learns from.
        steps: Of the whole run.
    """
    loss = options.chosen_loss()
    alphas = options.schedule("alpha").values
    if not isinstance(loss, Loss) or labels_only(store.spec) or max(alphas) == 0:
        return None
    weights = [one.weight for one in store.parts] if isinstance(store, MixedStore) else [1.0]
    epochs: float | None = options.epochs
    if options.steps is not None:
        parts = [one.store for one in store.parts] if isinstance(store, MixedStore) else [store]
        tokens = sum(
            weight * sum(block.tokens for block in part.blocks)
            for weight, part in zip(weights, parts, strict=True)
        )
        epochs = steps * options.batch_tokens / max(1.0, tokens)
    return Recipe.of(
        loss,
        store.spec.sparsifier,
        alpha=min(alphas),
        temperature=options.schedule("temperature").at(0, steps=steps),
        epochs=max(weights) * (epochs or 1),
    )


class FirstStep(TrainerCallback):
    """Counts the batches of the first step, and warns after it.

    Args:
        recipe: How the run learns.
        spec: That of the store.
        columns: Of the student's head.
    """

    def __init__(self, recipe: Recipe, *, spec: Any, columns: int) -> None:
        self._recipe, self._spec, self._columns = recipe, spec, columns
        self._sums: Counter[str] = Counter()
        self._counts: Counter[str] = Counter()
        self._labels: list[np.ndarray] = []
        self._no_token: float | None = None
        self.over = False

    def on_step_end(
        self, _args: TrainingArguments, state: TrainerState, _control: TrainerControl, **_: Any
    ) -> None:
        """Warns once, in the first process."""
        if not self.over and state.is_world_process_zero:
            for one in findings(self.facts, rules=_EARLY):
                warn(f"{one.name}: {one.line}", FindingWarning)
        self.over = True

    def add(self, model: torch.nn.Module, batch: Batch, result: LossSums) -> None:
        """Count a batch of the first step.

        Args:
            model: The student, as the loss was taken from it; all ranks call this alike.
            batch: The batch.
            result: The sums of its loss.
        """
        if self._columns > self._spec.tokenizer.vocab_size and self._no_token is None:
            self._no_token = self._mass_of_no_token(model, batch)
        stored: Any = batch.targets
        if stored is None or not result.count or isinstance(stored, AveragedTargets):
            return  # the rules are of one teacher's targets
        self._add("student_loss", float(result.sums["ce"]), result.count)
        self._labels.append(batch.labels_R.cpu().numpy())
        log_p_R = torch.from_numpy(stored.label_logprob_R).double()
        for name, value_R in {"teacher_loss": -log_p_R, "squares": log_p_R**2}.items():
            self._add(name, float(value_R.sum()), len(value_R))
        kept = kept_of(
            TargetTensors.of(stored),
            sparsifier=self._spec.sparsifier,
            temperature=self._recipe.temperature,
            vocab_size=self._spec.tokenizer.vocab_size,
        )
        for name, value_R in kept.items():
            known_R = value_R[value_R.isfinite()]
            self._add(name, float(known_R.sum()), len(known_R))

    @property
    def facts(self) -> Facts:
        """What the batches so far have told."""
        kept: dict[str, Any] = {name: self._mean(name) for name in _KEPT}
        facts = Facts(
            recipe=self._recipe,
            vocab_size=self._spec.tokenizer.vocab_size,
            columns=self._columns,
            student_loss=self._mean("student_loss"),
            no_token_mass=self._no_token,
            counting_loss=self._counting_loss(),
            chosen_by_loss=chosen_by_loss(self._spec),
            **kept,
        )
        teacher, squares = self._mean("teacher_loss"), self._mean("squares")
        if teacher is None or squares is None:
            return facts
        # The student's losses are known as a sum alone. They vary as much as the teacher's, and
        # with them, so that twice the variance of the teacher's is more than the difference has.
        variance = max(0.0, squares - teacher**2)
        error = math.sqrt(2 * variance / self._counts["teacher_loss"])
        return replace(facts, teacher_loss=teacher, loss_error=error)

    def _counting_loss(self) -> float | None:
        if not self._labels:
            return None
        label_R = np.concatenate(self._labels)
        return counting_loss(label_R, vocab_size=self._spec.tokenizer.vocab_size)

    def _add(self, name: str, value: float, count: int) -> None:
        self._sums[name] += value  # type: ignore[assignment]
        self._counts[name] += count

    def _mean(self, name: str) -> float | None:
        """The mean over what was counted; None where there is nothing, or no number."""
        count = self._counts[name]
        mean = self._sums[name] / count if count else math.nan
        return mean if math.isfinite(mean) else None

    def _mass_of_no_token(self, model: torch.nn.Module, batch: Batch) -> float:
        """What the student gives to columns that are no token, in the mean over a few tokens."""
        device = next(model.parameters()).device
        with torch.no_grad(), evaluating(model):
            ids_1W = batch.input_ids_BW[:1, :_PROBE_TOKENS].to(device)
            q_WP = model(input_ids=ids_1W, use_cache=False).logits[0].float().softmax(dim=-1)
        return float(q_WP[:, self._spec.tokenizer.vocab_size :].sum(dim=-1).mean())
