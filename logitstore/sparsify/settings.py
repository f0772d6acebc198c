"""The options of the sparsifiers -> the spec that a store writes down."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from logitstore.errors import SettingError
from logitstore.format.numbers import real, reals, whole
from logitstore.format.spec import SparsifierSpec
from logitstore.sparsify.tail import TAIL_NODES

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["sparsifier_spec"]

# Which options each sparsifier takes, and what they are where the user says nothing.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "topk": {"k": 64},
    "topp": {"k": 64, "top_p": 0.98},
    "sample": {"draws": 50, "repeats": 1, "seed": 0},
    "unbiased": {"k": 16, "repeats": 1, "seed": 0},
    "hybrid": {"k": 8, "tail_draws": 8, "seed": 0},
}
_MOST = 4096  # entries of a row, draws of a target
_MOST_DRAWS = 64  # of one target, over temperatures and repeats


def sparsifier_spec(
    name: str,
    *,
    k: int | None = None,
    top_p: float | None = None,
    draws: int | None = None,
    tail_draws: int | None = None,
    temperatures: Sequence[float] | None = None,
    repeats: int | None = None,
    seed: int | None = None,
) -> SparsifierSpec:
    """The spec of sparsifier `name`; options that are None take its defaults.

    `temperatures` are those at which draws are made (1 where None); for a sparsifier that keeps the
    tail's mass, those at which it is kept, where None says: enough of them to serve 1 to 10.
    Raises SettingError for a name, an option or a value that does not fit.
    """
    if name not in _DEFAULTS:
        raise SettingError("--sparsify is unknown", found=name, allowed=", ".join(_DEFAULTS))
    given = {"k": k, "draws": draws, "tail_draws": tail_draws, "repeats": repeats, "seed": seed}
    wanted: dict[str, Any] = {
        option: whole(_flag(option), value) for option, value in given.items() if value is not None
    }
    if top_p is not None:
        wanted["top_p"] = real("--top-p", top_p)
    for option in wanted:
        if option not in _DEFAULTS[name]:
            takers = [one for one, options in _DEFAULTS.items() if option in options]
            raise SettingError(
                f"{_flag(option)} means nothing to --sparsify {name}",
                allowed=f"with --sparsify {' or '.join(takers)}",
                remedy="Leave it out, or choose another sparsifier",
            )
    options = _DEFAULTS[name] | wanted
    _check(options)
    warm = _checked_temperatures(temperatures)
    if name in ("sample", "unbiased"):
        spec = SparsifierSpec(
            name=name,
            k=options["draws"] if name == "sample" else options["k"],
            tail_nodes=(),
            temperatures=warm or (1.0,),
            repeats=options["repeats"],
            seed=options["seed"],
        )
        if spec.draws > _MOST_DRAWS:
            raise SettingError(
                "too many draws of one target",
                found=f"{spec.draws}, temperatures times --repeats",
                allowed=f"up to {_MOST_DRAWS}",
            )
        return spec
    return SparsifierSpec(
        name=name,
        k=options["k"] + options.get("tail_draws", 0),
        tail_nodes=_tail_nodes(warm),
        top_p=options.get("top_p"),
        tail_draws=options.get("tail_draws"),
        seed=options.get("seed"),
    )


def _flag(option: str) -> str:
    return f"--{option.replace('_', '-')}"


def _tail_nodes(temperatures: tuple[float, ...] | None) -> tuple[float, ...]:
    """b = 1/T of each temperature, and always b = 1: that is what head and tail add up to 1 at."""
    if temperatures is None:
        return TAIL_NODES
    if min(temperatures) < 1:
        raise SettingError(
            "a tail's mass is kept for temperatures from 1 up",
            place="--temperature",
            found=f"{min(temperatures):g}",
            allowed="1 or more",
            remedy="Dump with --sparsify unbiased for lower ones",
        )
    return tuple(sorted({1.0, *(1 / one for one in temperatures)}, reverse=True))


def _check(options: dict[str, Any]) -> None:
    for option in ("k", "draws", "tail_draws", "repeats"):
        if option in options and not 1 <= options[option] <= _MOST:
            raise SettingError(
                f"{_flag(option)} is out of range",
                found=options[option],
                allowed=f"1 to {_MOST}",
            )
    if "top_p" in options and not 0 < options["top_p"] <= 1:
        raise SettingError("--top-p is a mass", found=options["top_p"], allowed="above 0, up to 1")
    if "seed" in options and not 0 <= options["seed"] < 1 << 53:
        raise SettingError("--seed is out of range", found=options["seed"], allowed="0 to 2^53 - 1")


def _checked_temperatures(temperatures: Sequence[float] | None) -> tuple[float, ...] | None:
    if temperatures is None:
        return None
    warm = reals("--temperature", temperatures)
    if not warm or len(set(warm)) != len(warm):
        raise SettingError("--temperature needs different values", found=list(warm))
    for one in warm:
        if not 0.1 <= one <= 100 or not math.isfinite(one):
            raise SettingError("--temperature is out of range", found=one, allowed="0.1 to 100")
    return warm
