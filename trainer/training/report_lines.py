"""The line that a person reads of each report of a run.

The loss holds its divergence times T^2 where the loss declares so, while KL and divergence are
reported as they are at T: at T = 30 a loss of 6 may stand beside a KL of 0.007. So their names say
T where it is not 1, they are shown to three digits however small they are, and one note says it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from trainer.losses import LOSSES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trainer.training.options import FitOptions

__all__ = ["report_words", "shown_as", "shown_nats", "temperature_note"]

_DECIMALS_FROM = 0.1  # nats; below it four decimals are fewer than three digits
_SAME = 1e-4  # of a value: what sums of float32 of one loss may differ by


def shown_nats(value: float, *, decimals: int = 4) -> str:
    """A value in nats with so many decimals, and below 0.1 with three digits."""
    few = value and abs(value) < _DECIMALS_FROM
    return f"{value:.3g}" if few else f"{value:.{decimals}f}"


def shown_as(value: float, show: str) -> str:
    """A value as it stands in a table.

    Args:
        value: The value.
        show: A format specification, or "nats": three decimals, and below 0.1 three digits.
    """
    return shown_nats(value, decimals=3) if show == "nats" else f"{value:{show}}"


def temperature_note(options: FitOptions) -> str | None:
    """What is said once of figures that are taken at T; None where T is 1 or the loss lacks T^2.

    Args:
        options: Those of the run.
    """
    schedule = options.schedule("temperature")
    loss = LOSSES.get(options.loss)
    taken = loss is not None and loss.times_temperature_squared
    if not taken or set(schedule.values) == {1.0} or not any(options.schedule("alpha").values):
        return None
    one = len(set(schedule.values)) == 1
    at = f"T = {options.temperature:g}" if one else "the T of their step"
    squared = f"T^2 = {options.temperature**2:g}" if one else "T^2"
    return f"kl and divergence are at {at}; the loss holds its divergence times {squared}"


def report_words(one: Mapping[str, float], *, temperature: float = 1.0, parts: bool = True) -> str:
    """The figures of a report, as one line shows them.

    Args:
        one: The report, by the names of history.json.
        temperature: T of its divergence, where the report itself does not say it.
        parts: Whether the two parts of KL are shown.
    """
    loss = f"loss {shown_nats(one['loss'])}"
    if "divergence" not in one:  # learnt from answers, without a teacher
        return loss
    temperature = one.get("temperature", temperature)
    at = "" if temperature == 1 else f"(T={temperature:.4g})"
    words = [loss, f"ce {shown_nats(one['ce'])}"]
    if "kl" in one:
        inner = "kl_head" in one and parts
        words.append(f"kl{at} {shown_nats(one['kl'])}{_inner(one) if inner else ''}")
    # A store that does not know the mass of its entries has no KL.
    if "kl" not in one or not math.isclose(one["divergence"], one["kl"], rel_tol=_SAME):
        words.append(f"divergence{at} {shown_nats(one['divergence'])}")
    if "agreement" in one:
        words.append(f"top-1 {one['agreement']:.1%}")
    if "hint" in one:
        words.append(f"hint {shown_nats(one['hint'])}")
    if "selected" in one:
        words.append(f"selected {one['selected']:.1%}")
    return "  ".join(words)


def _inner(one: Mapping[str, float]) -> str:
    return f" (binary {shown_nats(one['kl_binary'])}, head {shown_nats(one['kl_head'])})"
