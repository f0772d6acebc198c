"""Records that are token ids already, with a mask or labels that say which of them count."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from logitstore.corpus.content import TokenRecord
from logitstore.corpus.records import BadRecord, missing_field, shortened

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["MASKS", "PADDING", "SAMPLER", "token_record"]

# The first that a record has is taken.
MASKS = ("loss_mask", "labels", "completion_mask", "assistant_masks")
PADDING = "attention_mask"  # 0 where a token is no token of the record

SAMPLER = "sampler_logprobs"  # of each token, under whoever gave the answer

_ROUNDING = 1e-3  # nats by which a log-probability may be above 0
_LEAST_LOGPROB = -10_000.0  # nats; no sampler draws what is less probable

_ID_LIMIT = 1 << 32  # ids are kept in 32 bits


def token_record(
    row: Mapping[str, Any], *, name: str, mask: str | None, sampler: str | None = None
) -> TokenRecord:
    """The tokens of a record; `BadRecord` where they are none.

    row: its fields.
    name: the field of the ids.
    mask: the field of the mask or the labels; None for the first of `MASKS` that is there. Without
        any, all tokens count.
    sampler: the field of the log-probabilities with which the tokens were drawn; None for
        `SAMPLER`, where it is there.
    """
    ids = _integers(row.get(name), name)
    _refuse_padding(row.get(PADDING))
    counted = _mask(row, ids, name=name, mask=mask)
    if sampler is not None and row.get(sampler) is None:
        raise BadRecord("the record has no log-probabilities of its sampler", allowed=sampler)
    found = row.get(sampler or SAMPLER)
    logprobs = None if found is None else _logprobs(found, counted, sampler or SAMPLER)
    return TokenRecord(ids=ids, counted=counted, sampler_logprobs=logprobs)


def _refuse_padding(attention: object) -> None:
    """Refuse tokens of which the attention mask hides some: a model would read these here."""
    if isinstance(attention, list | tuple) and not all(attention):
        raise BadRecord(
            f"{PADDING} hides tokens, and here a model reads all of them",
            found=f"{sum(not one for one in attention)} hidden of {len(attention)}",
            allowed="tokens without padding",
        )


def _mask(row: Mapping[str, Any], ids: list[int], *, name: str, mask: str | None) -> list[bool]:
    mask = mask or next((one for one in MASKS if row.get(one) is not None), None)
    if mask is None:
        return [True] * len(ids)
    if mask not in row:
        raise missing_field(mask, list(row), flag="--mask-field")
    values = _integers(row.get(mask), mask, least=-100)
    if len(values) != len(ids):
        raise BadRecord(f"{mask} and {name} differ in length", found=len(values), allowed=len(ids))
    return _counted(ids, values, mask)


def _logprobs(found: object, counted: list[bool], name: str) -> list[float]:
    """One number a token, 0 where it does not count, whatever stands there."""
    if not isinstance(found, list | tuple) or len(found) != len(counted):
        raise BadRecord(
            f"{name} is no list as long as the tokens",
            found=len(found) if isinstance(found, list | tuple) else shortened(found),
            allowed=len(counted),
        )
    numbers = []
    for place, (number, counts) in enumerate(zip(found, counted, strict=True)):
        if not counts or place == 0:  # nothing predicts the first
            numbers.append(0.0)
        elif not _is_logprob(number):
            raise _no_logprob(name, place, number)
        else:
            numbers.append(min(float(number), 0.0))
    return numbers


def _is_logprob(number: object) -> bool:
    if isinstance(number, bool) or not isinstance(number, int | float):
        return False
    return _LEAST_LOGPROB <= number <= _ROUNDING  # NaN is not


def _no_logprob(name: str, place: int, number: object) -> BadRecord:
    return BadRecord(
        f"{name} holds no log-probability at place {place}, whose token counts",
        found=shortened(number),
        allowed=f"{_LEAST_LOGPROB:g} to 0",
    )


def _integers(value: object, name: str, *, least: int = 0) -> list[int]:
    if not isinstance(value, list | tuple) or not value:
        raise BadRecord(f"{name} is no list", found=shortened(value), allowed="a list of integers")
    numbers = []
    for number in value:
        no_token = isinstance(number, bool) and least == 0  # a mask may hold them, ids do not
        if no_token or not isinstance(number, int) or not least <= number < _ID_LIMIT:
            raise BadRecord(
                f"{name} holds what is no token",
                found=shortened(number),
                allowed=f"{least} to {_ID_LIMIT - 1}",
            )
        numbers.append(int(number))
    return numbers


def _counted(ids: list[int], mask: list[int], name: str) -> list[bool]:
    """Which tokens count, by a mask of 0 and 1 or by labels, which are -100 where none does."""
    if name != "labels" and all(value in (0, 1) for value in mask):
        return [value == 1 for value in mask]
    for place, (token, label) in enumerate(zip(ids, mask, strict=True)):
        if label not in (-100, token):
            raise BadRecord(
                f"{name} are no labels of these tokens: they differ at place {place}",
                found=label,
                allowed=f"-100 or {token}",
            )
    return [label != -100 for label in mask]
