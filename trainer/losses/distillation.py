"""The loss of a batch, computed inside the student's own forward.

Taken after the forward, DistributedDataParallel would not see the backward pass (ranks then differ
by 3e-2 after two steps), and FSDP and ZeRO would have released the weights of the output layer. So
inside `loss_inside_forward` the model's `forward` takes one more keyword, `loss_request`; without
that keyword it computes what it always does.

Shapes: R counted targets, N packed tokens, D width.
"""

from __future__ import annotations

import functools
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, cast

import torch

from logitstore import ModelError, SettingError
from logitstore.plumbing import LMHead, sparsifier_of
from trainer.data.answer_files import labels_only, refuse_teacher
from trainer.data.averaged import AveragedTargets
from trainer.data.rows import Batch
from trainer.data.spans import SpanTargets, has_spans
from trainer.losses import LOSSES, SPAN_LOSSES, SpanLoss, choose_view
from trainer.losses.averaged import averaged_distillation_loss
from trainer.losses.base import Loss
from trainer.losses.fused import LossSums, sparse_distillation_loss
from trainer.losses.hints import Hints, HintTargets
from trainer.losses.options import ALPHA, LOSS, ROUTER_WEIGHT, TEMPERATURE, refuse_average
from trainer.losses.routers import Routers
from trainer.losses.samples import refuse_unsampled
from trainer.losses.span_objective import SpanTensors, span_distillation_loss
from trainer.losses.tensors import TargetTensors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from transformers import PreTrainedModel

    from logitstore import SparseTargets
    from logitstore.plumbing import StoredHead

__all__ = [
    "distillation_loss",
    "loss_from_forward",
    "loss_inside_forward",
    "named_loss",
    "refuse_unserved",
]


def distillation_loss(
    model: torch.nn.Module,
    batch: Batch,
    *,
    alpha: float = 0.9,
    temperature: float | None = None,
    loss: str | Loss | SpanLoss = "forward_kl",
    router_weight: float | None = None,
) -> LossSums:
    """The loss of a batch summed over its counted targets, differentiable; no [tokens, V] exists.

    `(1 - alpha)` cross-entropy with the true tokens plus `alpha T^2` divergence from the teacher at
    temperature T, in nats. Divide by `batch.step_targets` and the batches of a step add up to the
    mean of the step; with DistributedDataParallel, which averages gradients, multiply by the number
    of ranks.

    Args:
        model: The student, as transformers made it or wrapped for several processes, by PEFT, or
            both. Wrapped for mixed precision by accelerate, call this under its `autocast()`.
        batch: One of `training_batches`. It is moved to the model's device here.
        alpha: Weight of the teacher's distribution, 0 to 1; the rest is that of the true tokens.
        temperature: T, of both distributions. Default: that of the batches, and no other where
            targets were drawn for one.
        loss: The divergence: a name of the table of losses, or a `Loss` of your own.
        router_weight: Weight of the load-balancing loss of a student with routed experts, beside
            the mean loss of a target. Default: `router_aux_loss_coef` of its configuration.

    Returns sums: `loss` with its gradient, `sums` of the metrics, the `count` of targets. Raises
    SettingError for a value that is out of range, a batch without the targets of its labels, and
    where the store's targets cannot serve the loss or the temperature; ModelError for a model with
    a smaller vocabulary than the store's.
    """
    alpha = ALPHA.check(alpha)
    temperature = None if temperature is None else TEMPERATURE.check(temperature)
    router_weight = ROUTER_WEIGHT.check(router_weight)
    loss = named_loss(loss)
    _refuse_misfits(model, batch)
    with loss_inside_forward(model):
        return loss_from_forward(
            model,
            batch,
            alpha=alpha,
            temperature=temperature,
            loss=loss,
            router_weight=router_weight,
        )


@contextmanager
def loss_inside_forward(model: torch.nn.Module) -> Iterator[None]:
    """A context in which `loss_from_forward` can take the loss of a batch from `model`.

    Its `forward` is replaced on the instance, and put back at the end: the class, and other models
    of it, stay as they are, and so do saving, wrapping and adapters.

    Args:
        model: The student, as `distillation_loss` takes it.
    """
    inner = _transformers_model(model)
    plain, before = inner.forward, inner.__dict__.get("forward")

    @functools.wraps(plain)
    def forward(*args: Any, loss_request: _LossRequest | None = None, **inputs: Any) -> Any:
        if loss_request is None:
            return plain(*args, **inputs)
        return loss_request.answer(inner, **inputs)

    inner.forward = forward
    try:
        yield
    finally:
        # Mixed precision may have wrapped it once more; whatever stands there now goes with it.
        inner.__dict__.pop("forward", None)
        if before is not None:
            inner.forward = before


def loss_from_forward(
    model: torch.nn.Module,
    batch: Batch,
    *,
    alpha: float,
    temperature: float | None,
    loss: str | Loss | SpanLoss,
    router_weight: float | None = None,
    hints: Hints | None = None,
) -> LossSums:
    """`distillation_loss` of a model that is inside the context of `loss_inside_forward`.

    Args:
        model: See `distillation_loss`, as for all arguments.
        batch: One of `training_batches`.
        alpha: Weight of the teacher's distribution.
        temperature: T; None for that of the batch.
        loss: The divergence.
        router_weight: Weight of the load-balancing loss.
        hints: Those of the run, whose maps are attached to the model.
    """
    device = next(model.parameters()).device
    request = _LossRequest(
        batch,
        alpha=alpha,
        temperature=temperature,
        loss=named_loss(loss),
        router_weight=router_weight,
        hints=hints,
        device=device,
    )
    inputs = {name: value.to(device) for name, value in batch.model_inputs.items()}
    return LossSums(**model(**inputs, loss_request=request))


class _LossRequest:
    """What a forward needs for the loss of a batch, on the model's device.

    No dataclass: FSDP looks into those, and would round the teacher's log-probabilities to the
    student's precision.
    """

    def __init__(
        self,
        batch: Batch,
        *,
        alpha: float,
        temperature: float | None,
        loss: Loss | SpanLoss,
        router_weight: float | None,
        hints: Hints | None,
        device: torch.device,
    ) -> None:
        self._batch = batch
        self._router_weight = router_weight
        self._hints = hints
        self._hinted = None if hints is None else HintTargets.of(batch, hints, device=device)
        self._at_R = batch.at_R.to(device)
        self._labels_R = batch.labels_R.to(device)
        self._spec = _spec_of(batch)
        if labels_only(self._spec):
            refuse_teacher(self._spec.teacher.name, alpha=alpha)
        temperature = _temperature(batch, temperature, loss=loss)
        self._sums_of = None
        if batch.targets is not None:
            self._sums_of = _sums_of(
                batch,
                self._spec,
                device=device,
                head=batch.teacher_head,
                objective={"alpha": alpha, "temperature": temperature, "loss": loss},
            )

    def answer(
        self, model: PreTrainedModel, input_ids: torch.Tensor, **inputs: torch.Tensor
    ) -> dict[str, Any]:
        """The fields of `LossSums`; a dict, for the sake of what wraps the model."""
        routers = Routers.of(model, weight=self._router_weight)
        hints, heard = self._hints, {}
        with ExitStack() as listening:
            if routers is not None:
                listening.enter_context(routers.listening())
            if hints is not None:
                heard = listening.enter_context(hints.listening())
            hidden_ND = self._batch.hidden(model, {"input_ids": input_ids, **inputs})
        if self._sums_of is None:
            # Nothing counts, yet every rank must take part in the exchange of gradients.
            nothing = hidden_ND.float().sum() * 0.0
            nothing = nothing if hints is None else nothing + hints.nothing()
            return {"loss": nothing, "sums": {}, "count": 0}
        result = self._sums_of(
            hidden_ND[self._at_R],
            LMHead.of(model, vocab_size=self._spec.tokenizer.vocab_size).whole,
            label_ids_N=self._labels_R,
        )
        sums = result.sums
        if labels_only(self._spec):  # what the rest compares with is no teacher
            sums = {name: sums[name] for name in ("loss", "ce")}
        if self._batch.selected_R is not None:
            sums = sums | {"selected": self._batch.selected_R.sum()}
        loss, balance = result.loss, None if routers is None else routers.loss(self._batch)
        if routers is not None and balance is not None:
            # The loop divides by the targets of the step: each batch counts by its share of them.
            loss = loss + routers.weight * result.count * balance
            sums = sums | {"loss": loss.detach(), "router_loss": result.count * balance.detach()}
        if hints is not None and self._hinted is not None:
            hint = hints.sum(heard, self._batch, self._hinted)
            loss = loss + hints.weight * hint
            sums = sums | {"loss": loss.detach(), "hint": hint.detach()}
        return {"loss": loss, "sums": sums, "count": result.count}


def _sums_of(
    batch: Batch,
    spec: Any,
    *,
    device: torch.device,
    head: StoredHead | None,
    objective: dict[str, Any],
) -> Callable[..., LossSums]:
    """The loss of rows with the targets of a batch, which are moved to `device`.

    Raises SettingError where it cannot be had from them.
    """
    targets = cast("SparseTargets | SpanTargets | AveragedTargets", batch.targets)
    spans = isinstance(objective["loss"], SpanLoss)
    if spans != isinstance(targets, SpanTargets) or isinstance(targets, AveragedTargets):
        refuse_unserved(spec, loss=objective["loss"], temperature=objective["temperature"])
    if isinstance(targets, SpanTargets):
        return functools.partial(
            span_distillation_loss,
            targets=SpanTensors.of(targets).to(device),
            nodes=spec.sparsifier.tail_nodes,
            teacher_vocab_size=spec.teacher_vocab_size,
            **objective,
        )
    sampler_R = batch.sampler_logprobs_R
    objective = objective | {
        "vocab_size": spec.tokenizer.vocab_size,
        "sampler_logprobs_N": None if sampler_R is None else sampler_R.to(device),
    }
    if isinstance(targets, AveragedTargets):
        return functools.partial(
            averaged_distillation_loss,
            targets=[TargetTensors.of(one).to(device) for one in targets.parts],
            teacher_weights=targets.weights,
            sparsifiers=spec.averaged,
            **objective,
        )
    return functools.partial(
        sparse_distillation_loss,
        targets=TargetTensors.of(targets).to(device),
        sparsifier=spec.sparsifier,
        weights=None if batch.weights is None else batch.weights.to(device),
        teacher=None if head is None else head.on(device),
        **objective,
    )


def _spec_of(batch: Batch) -> Any:
    if batch.spec is None:
        raise SettingError("the batch does not say of which store its targets are")
    return batch.spec


def _temperature(batch: Batch, temperature: float | None, *, loss: Loss | SpanLoss) -> float:
    """The temperature of the loss. Drawn targets know one alone, which nothing else would check."""
    if temperature is None or temperature == batch.temperature:
        return batch.temperature
    if isinstance(loss, SpanLoss):
        return temperature
    sparsifier = _spec_of(batch).sparsifier
    keeps_tail = sparsifier_of(sparsifier).targets.keeps_tail
    # Beside a tail draws are looked at where T is 1 alone.
    if sparsifier.temperatures and not (keeps_tail and sparsifier.temperatures == (1.0,)):
        raise SettingError(
            "the batch holds targets that were drawn for another temperature",
            found=f"{temperature:g}",
            allowed=f"{batch.temperature:g}",
            remedy="Give the temperature of the loss to `training_batches`",
        )
    return temperature


def named_loss(loss: str | Loss | SpanLoss) -> Loss | SpanLoss:
    """The loss of that name, or the one that is given. Raises SettingError for an unknown name."""
    if isinstance(loss, Loss | SpanLoss):
        return loss
    name = LOSS.check(loss)
    return SPAN_LOSSES[name] if name in SPAN_LOSSES else LOSSES[name]


def refuse_unserved(spec: Any, *, loss: Loss | SpanLoss, temperature: float) -> None:
    """Raise SettingError where the targets of a store cannot serve a loss at a temperature.

    Args:
        spec: Of the store that is read, or of one in other tokens.
        loss: The loss.
        temperature: T.
    """
    if isinstance(loss, SpanLoss) != has_spans(spec):
        raise SettingError(
            "the loss compares spans of text, and the store is in tokens of its own"
            if isinstance(loss, SpanLoss)
            else "the store is in the tokens of another tokenizer, where targets are spans of text",
            place="--loss",
            found=loss.name,
            allowed=", ".join(LOSSES if isinstance(loss, SpanLoss) else SPAN_LOSSES),
            remedy="Take `trainer.retokenize(store, tokenizer)` for the losses "
            f"{' and '.join(SPAN_LOSSES)}, the store itself for others",
        )
    if isinstance(loss, SpanLoss):
        loss.refuse_unserved(spec.sparsifier, temperature=temperature)
    else:
        refuse_unsampled(spec, loss=loss)
        if getattr(spec, "averaged", ()):
            refuse_average(loss)
        choose_view(spec.sparsifier, loss=loss, temperature=temperature)


def _refuse_misfits(model: torch.nn.Module, batch: Batch) -> None:
    """Raise SettingError or ModelError where there is no loss of `batch` for `model`."""
    for name, value, kind in (("model", model, torch.nn.Module), ("batch", batch, Batch)):
        if not isinstance(value, kind):
            raise SettingError(
                f"{name} is of another type", found=type(value).__name__, allowed=kind.__name__
            )
    if batch.targets is None and len(batch.labels_R):
        raise SettingError("the batch has labels, and no targets to learn them from", place="batch")
    if batch.selected_R is not None and batch.weights is None:
        raise SettingError(
            "the batch has selected targets, and how many the step has is not known from it",
            place="batch",
            remedy="Train with `trainer.DistillationTrainer`, or make batches without `select`",
        )
    inner = _transformers_model(model)
    if not hasattr(inner, "get_input_embeddings"):
        raise SettingError("model is no transformers model", found=type(inner).__name__)
    size = _spec_of(batch).tokenizer.vocab_size
    embeddings = inner.get_input_embeddings()
    rows = getattr(embeddings, "num_embeddings", size)  # the weight itself may be sharded
    if rows < size:
        raise ModelError(
            "the model has fewer input embeddings than the store's vocabulary has ids",
            found=rows,
            allowed=f"{size} or more",
        )


def _transformers_model(model: Any) -> PreTrainedModel:
    """The model of transformers inside wrappers of other libraries."""
    while not hasattr(model, "get_output_embeddings") and hasattr(model, "module"):
        model = model.module
    return model.get_base_model() if hasattr(model, "get_base_model") else model
