"""The options of a sparsifier -> the spec that a store writes down."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from logitstore.errors import SettingError
from logitstore.format.spec import SparsifierSpec
from logitstore.sparsify import SPARSIFIERS
from logitstore.sparsify.options import TEMPERATURE, check_temperatures

if TYPE_CHECKING:
    from collections.abc import Sequence

    from logitstore.options import Option
    from logitstore.targets.sparsifier import Sparsifier

__all__ = ["TAIL_NODES", "kind_options", "sparsifier_spec"]

# b = 1/T at which the tail's log-mass is stored; at b = 0 it is log(V - n). Interpolation between
# them has a mean error of 3e-4 of the mass at most, for any T in [1, 10], on two real teachers and
# on their logits times 2.5 (docs/decisions/008-tail-nodes.md).
TAIL_NODES = tuple(part / 16 for part in (16, 14, 11, 8, 6, 5, 4, 3, 2))


def kind_options() -> dict[str, dict[str, Option]]:
    """All options of sparsifiers: name of the option -> name of the sparsifier -> declaration."""
    found: dict[str, dict[str, Option]] = {}
    for name, sparsifier in SPARSIFIERS.items():
        for one in sparsifier.options:
            found.setdefault(one.name, {})[name] = one
    return found


def sparsifier_spec(
    name: str, *, temperatures: Sequence[float] | None = None, **options: Any
) -> SparsifierSpec:
    """The spec of a sparsifier and its options, as a store writes it down.

    Args:
        name: A name of `SPARSIFIERS`.
        temperatures: For a sparsifier that keeps the tail, the temperatures at which its mass is
            stored; None stores enough of them for any T from 1 to 10. For the others, the
            temperatures at which draws are made; None is 1 only.
        options: Options of the sparsifier by name. One that is left out or None has its default.

    Raises SettingError for a name, an option or a value that is not allowed, and TypeError for an
    option that no sparsifier takes.
    """
    if name not in SPARSIFIERS:
        raise SettingError("--sparsify is unknown", found=name, allowed=", ".join(SPARSIFIERS))
    sparsifier = SPARSIFIERS[name]
    values = sparsifier.defaults | _checked(sparsifier, options)
    chosen = _checked_temperatures(temperatures)
    keeps_tail = sparsifier.targets.keeps_tail
    spec = SparsifierSpec(
        name=name,
        k=sum(values[one] for one in sparsifier.room),
        tail_nodes=_tail_nodes(chosen) if keeps_tail else (),
        temperatures=() if keeps_tail else chosen or (1.0,),
        options={one: values[one] for one in sorted(sparsifier.stored_options)},
    )
    check_temperatures(spec)
    return spec


def _checked(sparsifier: Sparsifier, options: dict[str, Any]) -> dict[str, Any]:
    """The `options` that are not None, each checked by its declaration."""
    declared = kind_options()
    found = {}
    for option, value in options.items():
        if option not in declared:
            raise TypeError(f"no sparsifier takes an option {option!r}")
        if value is None:
            continue
        takers = declared[option]
        if sparsifier.name not in takers:
            raise SettingError(
                f"--{option.replace('_', '-')} means nothing to --sparsify {sparsifier.name}",
                allowed=f"with --sparsify {' or '.join(takers)}",
                remedy="Leave it out, or choose another sparsifier",
            )
        found[option] = takers[sparsifier.name].check(value)
    return found


def _checked_temperatures(temperatures: Sequence[float] | None) -> tuple[float, ...]:
    """The temperatures as numbers, empty where None is given."""
    values: tuple[float, ...] | None = TEMPERATURE.check(temperatures)
    return values or ()


def _tail_nodes(temperatures: tuple[float, ...]) -> tuple[float, ...]:
    """b = 1/T of each temperature, and always b = 1, at which head and tail sum to 1."""
    if not temperatures:
        return TAIL_NODES
    return tuple(sorted({1.0, *(1 / one for one in temperatures)}, reverse=True))
