"""An audit's numbers as lines to read, each with what it means."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["audit_lines"]


def audit_lines(result: dict[str, Any]) -> Iterator[str]:
    """What `audit` returned, but for its faults."""
    yield (
        f"{result['store']}: {result['documents']:,} documents, {result['targets']:,} targets, "
        f"temperature {result['temperature']:g}"
    )
    yield f"teacher {result['teacher']}, {result['dtype']} on {result['device']}"
    for name, value, meaning in _numbers(result):
        yield f"{name:20} {value:>12}  {meaning}"
    for warning in result["warnings"]:
        yield f"warning: {warning}"


def _numbers(result: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    drawn, tail, shift = result["drawn_kl"], result["tail_error"], result["shift_loss"]
    yield "kl", _short(result["kl"]), "nats a target, stored from live"
    yield "noise_kl", _short(result["noise_kl"]), "nats a target, live from live batched otherwise"
    yield "stated_kl", _short(result["stated_kl"]), "nats a target, what the store's steps cost"
    if "entries_kl" in result:
        yield "entries_kl", _short(result["entries_kl"]), "nats a target, the entries beside states"
    for layer, one in result.get("states", {}).items():
        told = f"of {layer}, stored from live; noise {_short(one['noise'])}"
        yield "states", _short(one["error"]), f"{told}, rounding up to {_short(one['stated'])}"
    if drawn is not None:
        error = f"nats a target, +- {_short(drawn['standard_error'])}; 0 for the right teacher"
        yield "drawn_kl", _short(drawn["mean"]), error
    if result["max_logprob_error"] is not None:
        yield "max_logprob_error", _short(result["max_logprob_error"]), "nats, of one exact entry"
    yield "retained_mass", _short(result["retained_mass"]), "of the exact entries"
    for temperature, error in (tail or {}).items():
        name = f"tail_error at {temperature}"
        yield name, _short(error["mean"]), f"of the mass; largest {_short(error['largest'])}"
    for place, loss in shift.items():
        yield f"shift_loss at {place}", _short(loss), "nats, lowest at 0 where rows are in line"
    of = "a uniform student" if result["student"] is None else result["student"]
    yield "gradient_angle", _short(result["gradient_angle"]), f"degrees from dense, {of}"
    yield "gradient_norm_ratio", _short(result["gradient_norm_ratio"]), f"of dense, {of}"


def _short(number: float | None) -> str:
    return "none" if number is None else f"{number:.3g}"
