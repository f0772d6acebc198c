"""Losses with the values of their options at which the tests run each, its defaults among them."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from trainer.losses import LOSSES, Loss

__all__ = ["OF_ENTRIES", "variants", "variants_of"]

# Those that compare distributions, at any T; losses of sampled tokens look at no entries.
OF_ENTRIES = [name for name, one in LOSSES.items() if not one.of_samples]

_SKEWS = tuple({"skew": one} for one in (0.0, 0.5, 0.9))
_SEVERAL: dict[str, tuple[Mapping[str, Any], ...]] = {
    "jensen_shannon": tuple({"beta": one} for one in (0.0, 0.1, 0.9, 1.0)),
    "skewed_forward_kl": _SKEWS,
    "skewed_reverse_kl": _SKEWS,
    "decoupled": ({"tail_weight": 4.0}, {"tail_weight": 0.25}, {"head_weight": 2.0}),
    "tail_reweighted": ({"tail_weight": 0.25}, {"tail_weight": 1.0}, {"modes": 3}),
}


def variants(names: Iterable[str] = LOSSES) -> dict[str, Loss]:
    """Every loss of those names, by its name and the values that it has."""
    found = [one for name in names for one in variants_of(name)]
    return {" ".join([one.name, *_words(one.values)]): one for one in found}


def variants_of(name: str) -> list[Loss]:
    """A loss at its defaults, and at other values: those above, else the ends of each option."""
    loss = LOSSES[name]
    return [loss, *(loss.with_options(**one) for one in _SEVERAL.get(name, tuple(_ends(loss))))]


def _ends(loss: Loss) -> Iterator[dict[str, Any]]:
    for option in loss.options:
        if option.least is not None:
            yield {option.name: option.kind(option.least)}
        high = 4.0 * max(loss.values[option.name], 1.0)
        yield {option.name: option.kind(high if option.most is None else option.most)}


def _words(values: Mapping[str, Any]) -> Iterator[str]:
    return (f"{name}={value:g}" for name, value in values.items())
