"""Bytes and error of the settings that were measured, and the choice of one of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from logitstore.forecast.serving import Lack, lacks
from logitstore.sparsify import SPARSIFIERS

__all__ = ["Choice", "MeasuredSparsifier", "TradeOff", "recommend"]

# Without a bound, an error of up to 1.5 times the least one within 40 bytes is accepted: on
# `teacher/` unbiased with 16, 24, 32 entries takes 24, 32, 40 bytes for an error of 5.4, 4.3 and
# 3.5 %, and a student learns from 16 entries as well as from dense targets.
_MODEST_BYTES = 40.0
_NEAR = 1.5


@dataclass(frozen=True, kw_only=True, slots=True)
class MeasuredSparsifier:
    """A sparsifier with its options, and its measurements."""

    sparsify: str
    options: Mapping[str, float]  # of `logitstore dump`, by their names in Python
    bytes_per_target: float  # in a store of the whole corpus
    error: float  # relative error of the gradient of 2,048 targets
    angle: float  # degrees, between the gradients of the whole sample; NaN where there is none
    norm_ratio: float  # length of the sparse gradient / length of the dense gradient
    retained_mass: float  # mean mass of the exact entries of a target

    @property
    def serves(self) -> str:
        """Which losses at which temperatures, in words, as the kind of its targets declares."""
        return SPARSIFIERS[self.sparsify].targets.serves

    @property
    def lacks(self) -> tuple[Lack, ...]:
        """What it cannot serve, and the options of a dump that can."""
        return lacks(SPARSIFIERS[self.sparsify])

    @property
    def command(self) -> str:
        """The options as `logitstore dump` takes them."""
        given = "".join(
            f" --{name.replace('_', '-')} {value:g}" for name, value in self.options.items()
        )
        return f"--sparsify {self.sparsify}{given}"


@dataclass(frozen=True, kw_only=True, slots=True)
class TradeOff:
    """All settings in ascending order of bytes, and the recommended one."""

    measured: tuple[MeasuredSparsifier, ...]
    recommended: MeasuredSparsifier
    reason: str
    unmet: str | None  # an error message where no setting is within the bound
    sample_documents: int
    sample_targets: int
    picture: str | None  # the file with the picture

    def to_json(self) -> dict[str, Any]:
        """The content of the object that `logitstore tune --json` prints."""
        rows = [asdict(one) | {"command": one.command} for one in self.measured]
        recommended = rows[self.measured.index(self.recommended)]
        return {
            "rows": rows,
            "recommendation": recommended
            | {
                "reason": self.reason,
                "serves": self.recommended.serves,
                "lacks": [asdict(one) for one in self.recommended.lacks],
            },
            "sample_documents": self.sample_documents,
            "sample_targets": self.sample_targets,
            "picture": self.picture,
        } | ({} if self.unmet is None else {"error": self.unmet})


class Choice(NamedTuple):
    """The recommended setting, the reason, and a message where no setting is within the bound."""

    taken: MeasuredSparsifier
    reason: str
    unmet: str | None


def recommend(
    measured: Sequence[MeasuredSparsifier], *, max_bytes: float | None, max_error: float | None
) -> Choice:
    """The recommended setting, and the reason.

    Where no setting is within the bound, it is the nearest one.

    Args:
        measured: The settings; at least one.
        max_bytes: Take the least error within this many bytes per target.
        max_error: Take the fewest bytes within this error. With neither bound, take the fewest
            bytes with an error of at most 1.5 times the least error of the settings within 40 bytes
            per target, or of all settings where none is within 40 bytes.
    """
    if max_bytes is not None:
        reason = f"least error within {max_bytes:g} bytes a target"
        return _bounded(measured, "--max-bytes", max_bytes, _bytes, _error, reason)
    if max_error is not None:
        reason = f"fewest bytes with an error within {max_error:g}"
        return _bounded(measured, "--max-error", max_error, _error, _bytes, reason)
    modest = [one for one in measured if one.bytes_per_target <= _MODEST_BYTES]
    least = min(one.error for one in modest or measured)
    near = [one for one in modest or measured if one.error <= _NEAR * least]
    reason = f"fewest bytes with an error within {_NEAR:g} times the least"
    if modest:
        reason += f" that {_MODEST_BYTES:g} bytes a target buy"
    else:
        reason += f": no setting takes {_MODEST_BYTES:g} bytes a target or fewer"
    return Choice(min(near, key=_bytes), reason, None)


def _bounded(
    measured: Sequence[MeasuredSparsifier],
    option: str,
    bound: float,
    bounded: Callable[[MeasuredSparsifier], float],
    wanted: Callable[[MeasuredSparsifier], float],
    reason: str,
) -> Choice:
    """The setting within the bound with the least `wanted`."""
    within = [one for one in measured if bounded(one) <= bound]
    if within:
        return Choice(min(within, key=wanted), reason, None)
    nearest = min(measured, key=bounded)
    unmet = (
        f"no setting is within {option} (found {bound:g}; allowed: {bounded(nearest):.3g} or more)"
    )
    return Choice(nearest, f"nearest to {option} {bound:g}", unmet)


def _bytes(one: MeasuredSparsifier) -> float:
    return one.bytes_per_target


def _error(one: MeasuredSparsifier) -> float:
    return one.error
