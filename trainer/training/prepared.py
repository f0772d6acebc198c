"""The student of a run as it is trained: loaded, checked, adapted, frozen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from logitstore import ModelError
from trainer.losses.routers import Routers, has_experts
from trainer.training.adaptation import Lora, adapted, freeze
from trainer.training.ending import end_as_teacher
from trainer.training.state_files import warn
from trainer.training.student import load_student

if TYPE_CHECKING:
    import torch

    from trainer.training.options import FitOptions

__all__ = ["prepared_student"]


def prepared_student(options: FitOptions, *, store: Any, device: str | torch.device) -> Any:
    """The student that the options of a run describe, in training mode, on its device.

    Args:
        options: Those of the run.
        store: What it learns from.
        device: A device of torch.

    Raises ModelError where it cannot learn from the store, or lacks what the options ask of it.
    """
    name = options.student_name
    student: Any = load_student(
        options.student, spec=store.spec, store=store, seed=options.seed, device=device
    )
    inner = student.get_base_model() if hasattr(student, "get_base_model") else student
    if options.attn is not None:
        _set_attention(inner, options.attn, name=name)
    if options.gradient_checkpointing and not inner.supports_gradient_checkpointing:
        raise ModelError(
            "the student's class cannot compute activations a second time",
            place=name,
            found=type(inner).__name__,
            remedy="Leave out --gradient-checkpointing, and take smaller --micro-tokens",
        )
    _tell_of(inner, options, store=store)
    if options.lora is not None:
        if inner is not student:
            raise ModelError(
                "the student is an adapter already, which is trained on as it is",
                place=name,
                remedy="Leave out --lora, or name the student that the adapter belongs to",
            )
        student = adapted(student, Lora.parse(options.lora), name=name, seed=options.seed)
    if options.freeze is not None:
        freeze(student, options.freeze, name=name)
    if options.gradient_checkpointing:
        # Without the reentrant kind, for which what is computed anew must have a gradient to begin
        # with: under an adapter the embeddings have none.
        enable = getattr(inner, "activation_checkpointing_enable", None)  # since transformers 5.23
        (enable or inner.gradient_checkpointing_enable)({"use_reentrant": False})
    student.train()
    return student


def _set_attention(model: Any, attention: str, *, name: str) -> None:
    try:
        model.set_attn_implementation(attention)
    except (ImportError, ValueError, KeyError) as error:
        raise ModelError(
            f"the student cannot use this attention: {' '.join(str(error).split())[:300]}",
            place=f"{name}: --attn",
            found=attention,
            allowed="eager, sdpa, and what transformers knows and is installed",
        ) from error


def _tell_of(student: Any, options: FitOptions, *, store: Any) -> None:
    """Let the student end as its teacher does, and warn of what it is trained without."""
    name = options.student_name
    end_as_teacher(student, spec=store.spec, name=name, fresh=name.endswith(".json"))
    weight = options.router_weight
    if weight != 0 and has_experts(student) and Routers.of(student, weight=weight) is None:
        warn(
            f"{name}: the student has routed experts, and transformers knows no load-balancing "
            f"loss of {type(student).__name__}: it is trained without one"
        )
