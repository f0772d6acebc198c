"""`diagnose`: why a student is worse than it should be, from a sample of its teacher's targets."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from logitstore import SettingError, TokenizerError
from logitstore.plumbing import evaluating, options_of, takes, tell_stage
from trainer.advice.counting import counting_loss
from trainer.advice.facts import Facts, Recipe, chosen_by_loss
from trainer.advice.rules import findings
from trainer.data.store import teacher_head_of
from trainer.diagnosis.groups import groups_of
from trainer.diagnosis.measures import Objective, measured
from trainer.diagnosis.options import DiagnoseOptions
from trainer.diagnosis.run_files import RunFiles
from trainer.diagnosis.sample import sampled
from trainer.evaluation.keeping import Place, file_name, refuse_nowhere
from trainer.evaluation.material import from_store
from trainer.evaluation.options import EvalOptions
from trainer.evaluation.spread import Spread
from trainer.evaluation.subject import Subject
from trainer.losses import known_agreement
from trainer.losses.distillation import refuse_unserved
from trainer.training.run_result import refuse_changed_weights
from trainer.training.state_files import DIAGNOSES, DIAGNOSIS, warn
from trainer.training.student import refuse_misfits
from trainer.training.tokens import token_differences

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trainer.evaluation.material import EvalData

__all__ = ["diagnose"]

_MEANS = (
    *("student_loss", "teacher_loss", "retained_mass", "tempered_mass", "evenness"),
    *("tempered_evenness", "drawn_evenness", "support_mass", "no_token_mass", "kl"),
)


@takes(options_of(DiagnoseOptions))
def diagnose(**values: Any) -> dict[str, Any]:
    """Say what is likely wrong with a run, the most serious first, and what to do about it.

    A sample of the store's documents is measured, the same each time. Losses and KL are in nats per
    target: `student_loss` and `teacher_loss` with the true tokens; `loss_error`, a standard error
    of their difference by the spread over documents; `counting_loss`, that of one who knows how
    often each token occurs in the sample and nothing else; `kl` to the student at `temperature`,
    for which `bounds` says whether it is a "lower" bound or an "estimate". `retained_mass` and
    `tempered_mass` are what the kept entries hold of the teacher at T = 1 and at `temperature`,
    `evenness` and `tempered_evenness` their entropy among themselves over log K; `drawn_evenness`
    that of the whole teacher over log V, of drawn targets. `support_mass` is the student's mass in
    the same entries at `temperature`, `no_token_mass` that in columns of its head that are no
    token, `top1_agreement` how often the two have the same most probable token, over the `judged`
    targets that tell the teacher's: an "estimate" where not all do, None where one in ten does not.

    `gradient_cosine`, `gradient_angle` (degrees) and `gradient_ratio` compare the gradient of the
    divergence, with its T^2 and without alpha, with that of cross-entropy: on what enters the
    student's output layer, over all targets as one vector. `by_entropy`, `by_position` and
    `by_frequency` hold the means of KL and both losses over parts of the sample.

    `findings` are objects with `name`, `says`, `remedy` and `evidence`, the numbers by name
    (trainer/advice/rules.py; docs/diagnosis.md). A model that is no run has no settings: alpha,
    temperature and loss are then those given. What a store does not know is None. The result is
    kept by its name in `diagnoses/`, with the hashes of the weights.

    Raises SettingError, StoreError (also for a run whose files have changed), ModelError for a
    model that does not fit the store or whose loss is no finite number.
    """
    options = DiagnoseOptions(**values)
    subject = Subject.of(_as_evaluation(options, temperature=1.0))
    if subject.place is not None:
        refuse_changed_weights(subject.place)
    run = RunFiles.read(options, subject.place)
    source = from_store(_as_evaluation(options, temperature=run.temperature))
    if source.comparison is None:
        raise SettingError(
            "these are answers, and no distributions of a teacher",
            place="--logits",
            found=str(options.logits),
            remedy="Let a teacher read them with `logitstore dump` first",
        )
    spec: Any = source.spec
    refuse_unserved(spec, loss=run.loss, temperature=run.temperature)
    for one in run.besides:
        warn(one)
    place = _place(options, run, subject.place, source)
    foreign = _foreign(subject, source)
    tell_stage(options.on_progress, "reading documents")
    documents = sampled(source.store, documents=options.documents)
    tell_stage(options.on_progress, f"loading {Path(subject.name).name}")
    model: Any = subject.open_model(
        source if foreign is None else replace(source, spec=None, store=None)
    )
    if foreign is not None:
        refuse_misfits(model, Path(subject.name), spec=spec, store=source.store)
    objective = Objective(
        loss=run.loss,
        temperature=run.temperature,
        spec=spec,
        comparison=source.comparison,
        teacher_head=teacher_head_of(source.store),
    )
    with evaluating(model):
        figures = measured(model, documents, objective, on_progress=options.on_progress)
    columns = len(model.get_output_embeddings().weight)
    facts = _facts(run, figures, objective, columns=columns, trained_on=_learnt(run, source))
    facts = replace(facts, foreign=foreign)
    result = {"model": subject.name, "store": source.fingerprint} | _result(
        run, facts, figures, objective
    )
    result |= {"documents": len(documents), "tokens": sum(len(one.document) for one in documents)}
    place.keep(result, model=subject.place)
    return result


def _as_evaluation(options: DiagnoseOptions, *, temperature: float) -> EvalOptions:
    """The options of an evaluation of the same model, which opens model and store."""
    return EvalOptions(
        model=options.model,
        logits=options.logits,
        temperature=temperature,
        device=options.device,
        max_memory=options.max_memory,
        on_progress=options.on_progress,
    )


def _place(options: DiagnoseOptions, run: RunFiles, model: Path | None, source: EvalData) -> Place:
    folder = options.out or (model if run.is_run else None)
    refuse_nowhere(folder, name=options.name)
    parts = ["store", str(source.fingerprint)[:12]]
    parts += [] if run.temperature == 1 else [f"T{run.temperature:g}"]
    return Place(
        folder=folder,
        name=options.name or file_name(parts),
        is_newest=False,
        subfolder=DIAGNOSES,
        format=DIAGNOSIS,
    )


def _foreign(subject: Subject, source: EvalData) -> str | None:
    """Which id means another token to the model than to the store, in words; None where none."""
    spec: Any = source.spec
    tokenizer = subject.other_tokenizer(source, spec)
    if tokenizer is None:
        return None
    try:
        token_differences(tokenizer, spec=spec, files=source.tokenizer_files, place=subject.name)
    except TokenizerError as error:
        return f"{error.found} to the student, {error.allowed} in the store"
    return None


def _learnt(run: RunFiles, source: EvalData) -> bool:
    return str(source.fingerprint) in run.stores


def _facts(
    run: RunFiles,
    figures: Mapping[str, np.ndarray],
    objective: Objective,
    *,
    columns: int,
    trained_on: bool,
) -> Facts:
    means: dict[str, Any] = {name: _mean(figures.get(name)) for name in _MEANS}
    ratio = None
    if figures["ce_ce"].sum() > 0:
        ratio = math.sqrt(figures["kd_kd"].sum() / figures["ce_ce"].sum())
    return Facts(
        recipe=Recipe.of(
            run.loss,
            objective.spec.sparsifier,
            alpha=run.alpha,
            temperature=run.temperature,
            epochs=run.epochs,
        ),
        vocab_size=objective.spec.tokenizer.vocab_size,
        columns=columns,
        loss_error=_error(figures) if means["teacher_loss"] is not None else None,
        counting_loss=counting_loss(
            figures["label"], vocab_size=objective.spec.tokenizer.vocab_size
        ),
        gradient_ratio=ratio,
        training=run.training,
        held_out=run.held_out,
        kept_best=run.kept_best,
        chosen_by_loss=chosen_by_loss(objective.spec),
        trained_on=trained_on,
        **means,
    )


def _mean(values_R: np.ndarray | None) -> float | None:
    """The mean of what is known; None where nothing is."""
    if values_R is None or not np.isfinite(values_R).any():
        return None
    return float(values_R[np.isfinite(values_R)].mean())


def _error(figures: Mapping[str, np.ndarray]) -> float | None:
    """A standard error of the mean difference of the two losses, by the spread over documents."""
    document_R = figures["document"].astype(np.int64)
    gap_R = figures["teacher_loss"] - figures["student_loss"]
    spread = Spread(figures={"gap": ("gap", "targets")})
    sums = {"gap": np.bincount(document_R, gap_R), "targets": np.bincount(document_R) * 1.0}
    spread.add({name: torch.from_numpy(one) for name, one in sums.items()})
    return spread.standard_errors().get("gap")


def _result(
    run: RunFiles, facts: Facts, figures: Mapping[str, np.ndarray], objective: Objective
) -> dict[str, Any]:
    sums = {name: float(one.sum()) for name, one in figures.items()}
    targets = len(figures["student_loss"])
    cosine = None
    if sums["ce_ce"] > 0 and sums["kd_kd"] > 0:
        cosine = max(-1.0, min(1.0, sums["ce_kd"] / math.sqrt(sums["ce_ce"] * sums["kd_kd"])))
    judged = sums["judged"]
    agreement = known_agreement(sums["agreed"], judged=judged, targets=targets)
    bounds = objective.comparison.bounds(sums, targets=targets)
    return {
        "trained_on": facts.trained_on,
        "alpha": run.alpha,
        "temperature": run.temperature,
        "loss": run.loss.name,
        "epochs": run.epochs,
        "targets": targets,
        "loss_error": facts.loss_error,
        "counting_loss": facts.counting_loss,
        **{name: getattr(facts, name) for name in _MEANS},
        "top1_agreement": agreement,
        "judged": int(judged),
        "bounds": {name: one for name, one in bounds.items() if name != "acceptance"},
        "gradient_cosine": cosine,
        "gradient_angle": None if cosine is None else math.degrees(math.acos(cosine)),
        "gradient_ratio": facts.gradient_ratio,
        **groups_of(figures),
        "findings": [one.as_dict() for one in findings(facts)],
    }
