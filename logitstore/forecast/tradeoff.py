"""Bytes against error: what settings of a dump were measured at, and which of them to take."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

__all__ = ["Choice", "MeasuredSparsifier", "TradeOff", "recommend"]

# Without a bound the choice is among settings that nobody would call large, and the last third of
# the error is left where it is: on `teacher/` unbiased with 16, 24, 32 entries takes 24, 32, 40
# bytes for an error of 5.4, 4.3, 3.5 %, and 16 already train a student as dense targets do.
_MODEST_BYTES = 40.0
_NEAR = 1.5


@dataclass(frozen=True, kw_only=True, slots=True)
class MeasuredSparsifier:
    """A sparsifier with its options, and what it was measured at."""

    sparsify: str
    options: Mapping[str, float]  # of `logitstore dump`, by their names in Python
    bytes_per_target: float  # in a store of the whole corpus
    error: float  # relative, of the gradient of 2,048 targets
    angle: float  # degrees, between the gradients of the whole sample; NaN where there is none
    norm_ratio: float  # of the sparse one's length to the dense one's
    retained_mass: float  # of a target, in exact entries

    @property
    def command(self) -> str:
        """The options as `logitstore dump` takes them."""
        given = "".join(
            f" --{name.replace('_', '-')} {value:g}" for name, value in self.options.items()
        )
        return f"--sparsify {self.sparsify}{given}"


@dataclass(frozen=True, kw_only=True, slots=True)
class TradeOff:
    """All settings by rising bytes, and the one to take."""

    measured: tuple[MeasuredSparsifier, ...]
    recommended: MeasuredSparsifier
    reason: str
    unmet: str | None  # where no setting is within the bound: what was asked and what there is
    sample_documents: int
    sample_targets: int
    picture: str | None  # the file with the picture

    def to_json(self) -> dict[str, Any]:
        """As one JSON object."""
        rows = [asdict(one) | {"command": one.command} for one in self.measured]
        recommended = rows[self.measured.index(self.recommended)]
        return {
            "rows": rows,
            "recommendation": recommended | {"reason": self.reason},
            "sample_documents": self.sample_documents,
            "sample_targets": self.sample_targets,
            "picture": self.picture,
        } | ({} if self.unmet is None else {"error": self.unmet})


class Choice(NamedTuple):
    """The setting to take, why, and what stands against it: None, or a bound that none keeps."""

    taken: MeasuredSparsifier
    reason: str
    unmet: str | None


def recommend(
    measured: Sequence[MeasuredSparsifier], *, max_bytes: float | None, max_error: float | None
) -> Choice:
    """The setting to take, and why.

    With `max_bytes` (of a target) the least error within it; with `max_error` the fewest bytes
    within it. With neither, the fewest bytes whose error is at most 1.5 times the least that 40
    bytes a target buy, or of all where none is so small. Where nothing is within the bound, the
    nearest that there is.
    """
    if max_bytes is not None:
        reason = f"least error within {max_bytes:g} bytes a target"
        return _bounded(measured, "--max-bytes", max_bytes, _bytes, _error, reason)
    if max_error is not None:
        reason = f"fewest bytes with an error within {max_error:g}"
        return _bounded(measured, "--max-error", max_error, _error, _bytes, reason)
    modest = [one for one in measured if one.bytes_per_target <= _MODEST_BYTES] or measured
    least = min(one.error for one in modest)
    near = [one for one in modest if one.error <= _NEAR * least]
    reason = (
        f"fewest bytes with an error within {_NEAR:g} times the least that "
        f"{_MODEST_BYTES:g} bytes a target buy"
    )
    return Choice(min(near, key=_bytes), reason, None)


def _bounded(
    measured: Sequence[MeasuredSparsifier],
    option: str,
    bound: float,
    bounded: Callable[[MeasuredSparsifier], float],
    wanted: Callable[[MeasuredSparsifier], float],
    reason: str,
) -> Choice:
    """The least of what is wanted among the settings within the bound."""
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
