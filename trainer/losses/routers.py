"""The load-balancing loss of a student with routed experts, as transformers computes it.

Without it the experts that are chosen most are trained most, and the others starve ("Switch
Transformers", arXiv 2101.03961, equation 4). A class of transformers adds it to its own loss where
its configuration says `output_router_logits`; the function and the numbers that it takes stand
beside the class, and are taken from there.

Shapes: B x W positions of a pass, E experts.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from transformers import PreTrainedModel

    from trainer.data.rows import Batch

__all__ = ["Routers", "has_experts"]

_FUNCTION = "load_balancing_loss_func"
_ASKED = "output_router_logits"
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")


def has_experts(model: PreTrainedModel) -> bool:
    """Whether the configuration of a model counts several experts."""
    config = model.config.get_text_config()
    counts = [getattr(config, name, None) for name in _EXPERTS]
    return any(isinstance(one, int) and one > 1 for one in counts)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Routers:
    """The routers of a model, and what they said in the passes of a forward."""

    model: PreTrainedModel
    weight: float  # of the loss, beside the mean loss of a target
    balance: Callable[..., Any]
    said: list[tuple[torch.Tensor, ...]] = field(default_factory=list)

    @staticmethod
    def of(model: PreTrainedModel, *, weight: float | None) -> Routers | None:
        """Those of `model`; None where it has none, or where their loss weighs nothing.

        Args:
            model: A causal language model of transformers, without wrappers.
            weight: Of the loss; None takes `router_aux_loss_coef` of the model's configuration.
        """
        balance = getattr(sys.modules.get(type(model).__module__), _FUNCTION, None)
        own = getattr(model, "router_aux_loss_coef", None)
        known = hasattr(model, "num_experts") and hasattr(model, "num_experts_per_tok")
        weight = own if weight is None else weight
        if balance is None or not known or not weight:
            return None
        return Routers(model=model, weight=float(weight), balance=balance)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Within it each pass through the model's body leaves what its routers said."""
        configs = [self.model.config, self.model.config.get_text_config()]
        before = [getattr(one, _ASKED, False) for one in configs]
        hook = self.model.base_model.register_forward_hook(self._hear)
        try:
            for one in configs:
                setattr(one, _ASKED, True)
            yield
        finally:
            hook.remove()
            for one, value in zip(configs, before, strict=True):
                setattr(one, _ASKED, value)

    def _hear(self, _module: Any, _inputs: Any, outputs: Any) -> None:
        said = getattr(outputs, "router_logits", None)
        if said is not None:
            self.said.append(tuple(one for one in said if one is not None))

    def loss(self, batch: Batch) -> torch.Tensor | None:
        """The mean over the passes of a batch; None where no router has said a word.

        Args:
            batch: The one that was read; positions without a document's token do not count.
        """
        heard = [one for one in self.said if one]
        if not heard:
            return None
        losses = [
            self.balance(
                logits,
                self.model.num_experts,
                self.model.num_experts_per_tok,
                None if filled_BW is None else filled_BW.to(logits[0].device).long(),
            )
            for logits, filled_BW in zip(self.said, batch.filled, strict=True)
            if logits
        ]
        return torch.stack([one.float() for one in losses]).mean()
