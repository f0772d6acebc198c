"""The last layer of a language model, so that logits can be formed a few rows at a time.

`logits = softcap(scale * (hidden @ weight.T + bias))`, of the V ids that the tokenizer can produce.
Which scale and cap a model applies stands in its config, under names that differ by family; what
was read there is compared with the model's own logits before it is trusted.

Shapes: N rows, D width, V vocabulary, P >= V logit columns of the model, B x L a batch of tokens.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, replace
from threading import Lock
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.nn import functional

from logitstore.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor
    from transformers import PretrainedConfig, PreTrainedModel

__all__ = ["LMHead", "check_head", "evaluating", "hidden_states", "model_body"]

_MULTIPLIERS = ("logit_scale", "lm_head_multiplier")  # Cohere, Falcon-H1
_DIVISORS = ("logits_scaling",)  # Granite and its relatives
_MULTIPLYING_DIVISORS = ("hyperclovax",)  # uses Granite's name, but multiplies by it
_SOFTCAPS = (
    "final_logit_softcapping",  # Gemma 2, 3, 3n and 4, VaultGemma, NanoChat
    "logits_soft_cap",  # RecurrentGemma
    "output_logit_soft_cap",  # xLSTM
)

# Largest difference, as a part of the largest logit: rounding is 2^-9 of a logit in bfloat16. A
# forgotten scale or bias shows as 1e-1 and more, a soft-cap of 30 on logits of 5 as 1e-2.
_TOLERANCE = {torch.bfloat16: 2e-2, torch.float16: 5e-3}
_TOLERANCE_FLOAT32 = 2e-4
_CHECKED_TOKENS = 64
_PROBE_TOKENS = 8  # the first ids of the vocabulary, where no text is at hand


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LMHead:
    """The output layer of a causal LM, as the model holds it: gradients reach its parameters.

    The parameters may have more rows than the tokenizer has ids. A teacher's are never looked at; a
    student's are columns of its softmax like all others, so its head is taken `whole`.
    """

    weight_PD: Tensor
    bias_P: Tensor | None
    scale: float
    softcap: float | None
    vocab_size: int  # the columns that are formed: V, or P where it is `whole`

    @staticmethod
    def of(model: PreTrainedModel, *, vocab_size: int) -> LMHead:
        """The head of `model`, cut to the `vocab_size` ids that its tokenizer can produce.

        model: a transformers model, with or without an adapter.
        vocab_size: V, of the tokenizer.

        Raises ModelError where the output layer is not a plain linear one (adapted, quantised,
        missing), has fewer columns than `vocab_size`, or belongs to an encoder-decoder.
        """
        inner = _without_adapter(model)
        config = inner.config.get_text_config()
        place = f"model {config.model_type}"
        if inner.config.is_encoder_decoder or config.is_encoder_decoder:
            raise ModelError(
                "an encoder-decoder cannot be used", place=place, allowed="causal language models"
            )
        layer = inner.get_output_embeddings()
        if not isinstance(layer, nn.Linear) or not layer.weight.is_floating_point():
            raise ModelError(
                "the output layer must be a plain linear one",
                place=place,
                found=type(layer).__name__,
                remedy="Leave the output layer out of adapters and quantisation.",
            )
        if len(layer.weight) < vocab_size:
            raise ModelError(
                "the model has fewer logit columns than the tokenizer has ids",
                place=place,
                found=len(layer.weight),
                allowed=f"at least {vocab_size}",
                remedy="Use a model that was trained with this tokenizer.",
            )
        return LMHead(
            weight_PD=layer.weight,
            bias_P=layer.bias,
            scale=_scale(config),
            softcap=_first(config, _SOFTCAPS),
            vocab_size=vocab_size,
        )

    @staticmethod
    def checked(model: PreTrainedModel, *, vocab_size: int) -> LMHead:
        """That of `of`, compared with the model's own logits of a few tokens by `check_head`.

        model: a transformers model, with or without an adapter.
        vocab_size: V, of the tokenizer.

        Raises ModelError where they differ, and for a model whose logits depend on tokens that come
        later. Leaves the model's mode and its gradients alone.
        """
        head = LMHead.of(model, vocab_size=vocab_size)
        context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        tokens = min(_PROBE_TOKENS, vocab_size, context or _PROBE_TOKENS)
        probe_BL = torch.arange(tokens, device=model.device)[None]
        check_head(model, head, probe_BL)
        _refuse_not_causal(model, probe_BL)
        return head

    @property
    def whole(self) -> LMHead:
        """The same head with all P columns of the model, also those behind the tokenizer's ids."""
        return replace(self, vocab_size=len(self.weight_PD))

    @property
    def weight_VD(self) -> Tensor:
        """The rows of the tokenizer's ids, a view."""
        return self.weight_PD[: self.vocab_size]

    @property
    def bias_V(self) -> Tensor | None:
        """The bias of the tokenizer's ids, a view."""
        return None if self.bias_P is None else self.bias_P[: self.vocab_size]

    def logits(self, hidden_ND: Tensor, *, out_NV: Tensor | None = None) -> Tensor:
        """float32 [N, V]; into `out_NV` if given, which saves its allocation but no gradient.

        hidden_ND: what the output layer sees.
        out_NV: where to write them; None allocates.
        """
        logits_NV = self._project(hidden_ND, out_NV)
        if self.scale != 1.0:
            logits_NV.mul_(self.scale)
        if self.softcap is not None:
            logits_NV.div_(self.softcap).tanh_()
            # The gradient of tanh is taken from its value, which must then stay as it is.
            kept = logits_NV.requires_grad
            logits_NV = logits_NV * self.softcap if kept else logits_NV.mul_(self.softcap)
        return logits_NV

    def _project(self, hidden_ND: Tensor, out_NV: Tensor | None) -> Tensor:
        hidden_ND = hidden_ND.to(self.weight_PD.dtype)
        if out_NV is None:
            return functional.linear(hidden_ND, self.weight_VD, self.bias_V).float()
        if out_NV.dtype != hidden_ND.dtype:
            return out_NV.copy_(functional.linear(hidden_ND, self.weight_VD, self.bias_V))
        if self.bias_V is None:
            return torch.mm(hidden_ND, self.weight_VD.t(), out=out_NV)
        return torch.addmm(self.bias_V, hidden_ND, self.weight_VD.t(), out=out_NV)


def hidden_states(model: PreTrainedModel, input_ids: Tensor, **kwargs: Any) -> Tensor:
    """What the output layer sees, [B, L, D]; `kwargs` go to the model's forward.

    model: a transformers model, with or without an adapter.
    input_ids: int64 [B, L].
    kwargs: more arguments of the model's forward.

    Raises ModelError for a model whose body does not name its last hidden state.
    """
    inner = _without_adapter(model)
    outputs = _body(inner)(input_ids=input_ids, use_cache=False, **kwargs)
    last_BLD = getattr(outputs, "last_hidden_state", None)
    if last_BLD is None:
        raise ModelError(
            "the model does not give its last hidden state",
            place=f"model {inner.config.model_type}",
            found=type(outputs).__name__,
        )
    return last_BLD


def model_body(model: PreTrainedModel) -> nn.Module:
    """The part of a model that `hidden_states` runs.

    model: a transformers model, with or without an adapter.
    """
    return _body(_without_adapter(model))


def _body(model: PreTrainedModel) -> nn.Module:
    """The part of a transformers model that ends where its output layer begins.

    It stands under the name that the class gives. Where no part has that name (Llama 4), it is the
    one model beside the output layer, wherever that is.
    """
    from transformers import PreTrainedModel

    if model.base_model is not model:
        return model.base_model
    layer = model.get_output_embeddings()
    for owner in model.modules():
        parts = list(owner.children())
        if any(part is layer for part in parts):
            bodies = [part for part in parts if isinstance(part, PreTrainedModel)]
            return bodies[0] if len(bodies) == 1 else model
    return model


def check_head(model: PreTrainedModel, head: LMHead, input_ids: Tensor, **kwargs: Any) -> None:
    """Compare `head` with the model's own logits on the first tokens of one sequence of a batch.

    model: a transformers model, with or without an adapter.
    head: the head that was made for it.
    input_ids: int64 [B, L].
    kwargs: more arguments of the model's forward, of the same batch.

    Raises ModelError where they differ by more than rounding.
    """
    few = {
        name: value[:1, :_CHECKED_TOKENS] if _is_like(value, input_ids) else value
        for name, value in kwargs.items()
    }
    ids = input_ids[:1, :_CHECKED_TOKENS]
    with torch.no_grad(), evaluating(model):
        own = model(input_ids=ids, use_cache=False, **few).logits[..., : head.vocab_size].float()
        ours = head.logits(hidden_states(model, ids, **few).flatten(0, 1)).view_as(own)
    _refuse_no_numbers(own, model)
    difference = float((own - ours).abs().max() / own.abs().max().clamp(min=1e-30))
    dtype = torch.get_autocast_dtype(ids.device.type)
    if not torch.is_autocast_enabled(ids.device.type):
        dtype = head.weight_PD.dtype
    allowed = _TOLERANCE.get(dtype, _TOLERANCE_FLOAT32)
    if not difference <= allowed:  # a NaN must fail too
        raise ModelError(
            "the logits formed here are not the model's own",
            place=f"output layer of {_without_adapter(model).config.model_type}",
            found=f"a relative difference of {difference:.2g}",
            allowed=f"at most {allowed:g}",
            remedy="Such a model treats its logits in a way that is not known here.",
        )


def _refuse_not_causal(model: PreTrainedModel, input_ids_BL: Tensor) -> None:
    """Raise ModelError where the hidden states of tokens change with the last token of the text."""
    first = input_ids_BL.shape[1] - 1
    if first < 1:
        return
    changed_BL = input_ids_BL.clone()
    changed_BL[:, -1] = 0
    with torch.no_grad(), evaluating(model):
        before_BLD = hidden_states(model, input_ids_BL)[:, :first].float()
        after_BLD = hidden_states(model, changed_BL)[:, :first].float()
    difference = float((before_BLD - after_BLD).abs().max())
    allowed = _TOLERANCE.get(model.dtype, _TOLERANCE_FLOAT32) * float(before_BLD.abs().max())
    if difference > allowed:
        raise ModelError(
            "the model is not causal: it reads the token that it has to predict",
            place=f"model {_without_adapter(model).config.model_type}",
            found=f"hidden states that change by {difference:.2g} with a token after them",
            allowed="causal language models",
        )


def _refuse_no_numbers(logits: Tensor, model: PreTrainedModel) -> None:
    if not bool(torch.isfinite(logits).any(dim=-1).all()) or bool(torch.isnan(logits).any()):
        raise ModelError(
            "the model's own logits are no numbers: its weights are damaged or overflow",
            place=f"output layer of {_without_adapter(model).config.model_type}",
            remedy="Check the checkpoint; try --dtype float32",
        )


# Module in training mode -> how many threads run it in evaluation mode now.
_EVALUATED: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()
_EVALUATED_LOCK = Lock()


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Dropout off inside; every module's own mode restored after.

    model: in any mode.

    Several threads may run one model: a module's mode is restored by the last one that leaves.
    """
    with _EVALUATED_LOCK:
        changed = [one for one in model.modules() if one.training or one in _EVALUATED]
        for module in changed:
            _EVALUATED[module] = _EVALUATED.get(module, 0) + 1
            module.training = False
    try:
        yield
    finally:
        with _EVALUATED_LOCK:
            for module in changed:
                _EVALUATED[module] -= 1
                if not _EVALUATED[module]:
                    del _EVALUATED[module]
                    module.training = True


def _without_adapter(model: PreTrainedModel) -> PreTrainedModel:
    """The transformers model inside a PEFT one, its adapters still in place."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _is_like(value: object, input_ids: Tensor) -> bool:
    return isinstance(value, torch.Tensor) and value.shape[:2] == input_ids.shape


def _scale(config: PretrainedConfig) -> float:
    divisor = _first(config, _DIVISORS) or 1.0
    factor = divisor if config.model_type in _MULTIPLYING_DIVISORS else 1.0 / divisor
    return factor * (_first(config, _MULTIPLIERS) or 1.0)


def _first(config: PretrainedConfig, names: tuple[str, ...]) -> float | None:
    values = (getattr(config, name, None) for name in names)
    return next((float(value) for value in values if isinstance(value, int | float)), None)
