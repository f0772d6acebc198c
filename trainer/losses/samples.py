"""Whether the tokens of a store are samples whose probabilities are known, and of what they are.

A loss of sampled tokens needs the log-probability with which each was drawn. What a file of answers
says of its sampler, a store keeps, so a sampler that leaves tokens out is told of, and one that
draws none is refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from logitstore import SettingError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trainer.losses.base import Loss

__all__ = ["refuse_unsampled", "told_of_sampler", "unsampled"]


def refuse_unsampled(spec: Any, *, loss: Loss) -> None:
    """Raise SettingError where the tokens of a store are no samples that a loss can learn from.

    Args:
        spec: Of the store that is read.
        loss: The loss; any that is not one of sampled tokens passes.
    """
    if not loss.of_samples:
        return
    if not getattr(spec.text, "sampler_logprobs", False):
        raise unsampled(loss)
    for model, settings in _samplers(spec):
        if settings.get("temperature") == 0:
            raise SettingError(
                f"--loss {loss.name} learns from tokens that were drawn, and {model} gave its "
                "likeliest token each time",
                place="--loss",
                found="answers at --temperature 0",
                allowed="answers at a temperature above 0",
                remedy="Generate answers with --temperature 1, or take --loss reverse_kl",
            )


def unsampled(loss: Loss) -> SettingError:
    """The error of a loss that lacks the probabilities with which tokens were drawn."""
    return SettingError(
        f"--loss {loss.name} needs the log-probabilities with which tokens were drawn, and what is "
        "learnt from does not hold them for all",
        place="--loss",
        found=loss.name,
        remedy="Dump answers of `logitstore generate`, which has them, or take --loss reverse_kl",
    )


def told_of_sampler(spec: Any, *, loss: Loss) -> str | None:
    """In what way the samples of a store are not those of plain sampling; None where they are.

    Args:
        spec: Of the store that is read.
        loss: The loss; there is nothing to tell of any that is not one of sampled tokens.
    """
    if not loss.of_samples:
        return None
    told = []
    for model, settings in _samplers(spec):
        cut = [f"{name.replace('_', '-')} {settings[name]:g}" for name in _cuts(settings)]
        if cut:
            told.append(
                f"{model} drew with {', '.join(cut)}: the estimate of reverse KL lacks the tokens "
                "that it could not draw"
            )
    return "; ".join(told) or None


def _samplers(spec: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """The models that gave the answers of a store, as far as it says, and their settings."""
    for one in getattr(getattr(spec, "corpus", None), "answers", ()):
        model, settings = (
            one[name] if isinstance(one.get(name), dict) else {} for name in ("model", "settings")
        )
        yield str(model.get("name")), settings


def _cuts(settings: dict[str, Any]) -> list[str]:
    """The settings that leave tokens out of what is drawn from."""
    off = {"top_p": 1, "top_k": 0, "min_p": 0}
    return [
        name
        for name, value in off.items()
        if isinstance(settings.get(name), int | float) and settings[name] != value
    ]
