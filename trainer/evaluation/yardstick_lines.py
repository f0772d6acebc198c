"""The yardstick's figures as lines to read, in the order of the tool that people know them from.

Nothing here imports torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trainer.evaluation.signs import SIGNS, shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["yardstick_lines"]

_PERCENT = 100.0
_TITLES = {
    "perplexity": "model's perplexity",
    "teacher_perplexity": "teacher's perplexity",
    "perplexity_ratio": "ratio",
    "log_perplexity_ratio": "ln ratio",
    "p_change": "change of p, mean",
    "p_change_rms": "change of p, RMS",
}
_IN_PERCENT = ("p_change", "p_change_rms")


def yardstick_lines(result: dict[str, Any]) -> Iterator[str]:
    """What the command line prints of a comparison with the teacher; nothing where there is none.

    Args:
        result: What `evaluate` gives.
    """
    found = result.get("yardstick")
    if found is None:
        return
    yield f"{'beside the teacher':22}{'value':>13}{'standard error':>17}{'rounding':>12}"
    values = {"perplexity": result["perplexity"]} | found
    errors = result["standard_errors"] | found["standard_errors"]
    for name, title in _TITLES.items():
        row = [values[name], errors.get(name), found["coding_errors"].get(name)]
        yield _row(title, row, percent=name in _IN_PERCENT)
    if result["top1_agreement"] is not None:
        sign, agreement = shown(
            "top1_agreement",
            result["top1_agreement"],
            bound=result["bounds"].get("top1_agreement"),
            coding_error=result["coding_errors"].get("top1_agreement"),
        )
        row = [agreement, errors.get("top1_agreement"), None]
        title = f"same top token {SIGNS[sign].ascii if sign else ''}".rstrip()
        yield _row(title, row, percent=True)
    yield from _quantiles(found, estimated=result["bounds"].get("kl") == "estimate")
    yield "p: the probability of the true token. rounding: the most that the store's steps may do."


def _row(title: str, row: list[float | None], *, percent: bool) -> str:
    number, error, rounding = (
        "" if one is None else f"{_PERCENT * one:.4f} %" if percent else f"{one:.5f}" for one in row
    )
    return f"{title:22}{number or 'too large':>13}{error:>17}{rounding:>12}".rstrip()


def _quantiles(found: Mapping[str, Any], *, estimated: bool) -> Iterator[str]:
    """A line for each level: KL where the store tells of it, and the change of p.

    KL of a single target is over its exact entries and one bucket. It is called so where there is
    a bucket, for the mean above may be another quantity: `estimated` from draws of all tokens.
    """
    kl = found["kl_quantiles"] or {}
    bound = found["bounds"].get("kl_quantiles")
    sign = SIGNS["lower, about" if bound == "lower" else bound].ascii if bound else ""
    title = "bucketed KL" if bound == "lower" else "KL"
    errors = found["standard_errors"]
    kl_errors = errors.get("kl_quantiles") or {}
    change_errors = errors.get("p_change_quantiles") or {}
    columns = [f"{'of targets':14}"]
    columns += [f"{f'{title} {sign}'.rstrip():>14}{'+-':>11}"] if kl else []
    yield "".join([*columns, f"{'change of p':>16}{'+-':>12}"])
    if kl and found["bucketed_kl"] is not None:
        yield f"{'mean':14}{found['bucketed_kl']:14.6f}"
    for name, change in found["p_change_quantiles"].items():
        columns = [f"{name:14}"]
        if kl:
            columns += [f"{kl[name]:14.6f}{_error(kl_errors.get(name), '.6f'):>11}"]
        columns += [f"{_PERCENT * change:14.4f} %", _percent(change_errors.get(name))]
        yield "".join(columns).rstrip()
    if not kl:
        yield "no quantiles of KL: the store keeps no entry exactly, and its draws scatter"
    elif sign:
        key = "lower, about" if bound == "lower" else str(bound)
        yield f"{title} {sign}: {SIGNS[key].meaning}."
    if kl and bound == "lower":
        yield "bucketed KL: over the kept tokens and one bucket of all others, " + (
            "target by target; kl above is another quantity, estimated from draws of all tokens."
            if estimated
            else "as kl above."
        )
    if not found["quantiles_exact"]:
        yield "quantiles are within 0.03 % of themselves: there are too many targets to keep"


def _error(error: float | None, show: str) -> str:
    return "" if error is None else f"{error:{show}}"


def _percent(error: float | None) -> str:
    return f"{'' if error is None else f'{_PERCENT * error:.4f} %':>12}"
