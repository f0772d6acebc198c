"""Ranges of an object that are wanted together, as the requests that are made for them."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from logitstore.store.remote.requests import together

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from logitstore.store.remote.calls import Got

__all__ = ["cut_out", "read_spans", "spans_of"]

# Bytes between two ranges that are fetched with them: less than what a request costs in time, and
# at most a share of the bytes that are wanted.
_GAP, _GAP_SHARE = 1 << 20, 16


def spans_of(ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The spans to fetch for some ranges, in order: what lies close together is one.

    ranges: pairs of `start` and `stop`, in any order; empty ones need nothing.

    A gap is read over where it is below 1 MiB and a sixteenth of the bytes that are wanted around
    it, so that at most a tenth more is read than is wanted.
    """
    spans: list[list[int]] = []  # start, stop, bytes read in vain
    for start, stop in sorted(one for one in ranges if one[0] < one[1]):
        if spans:
            first, last, wasted = spans[-1]
            gap = max(0, start - last)
            wanted = max(stop, last) - first - wasted - gap
            if gap <= _GAP and (wasted + gap) * _GAP_SHARE <= wanted:
                spans[-1] = [first, max(stop, last), wasted + gap]
                continue
        spans.append([start, stop, 0])
    return [(start, stop) for start, stop, _ in spans]


def cut_out(
    ranges: Sequence[tuple[int, int]], read: Mapping[tuple[int, int], bytes]
) -> Iterator[bytes]:
    """The bytes of each range, of the spans that were read for them.

    ranges: as `spans_of` took them.
    read: span -> its bytes; fewer where the object ends before.
    """
    for start, stop in ranges:
        span = next((one for one in read if one[0] <= start < stop <= one[1]), None)
        if span is None:
            yield b""
        elif span == (start, stop):
            yield read[span]
        else:
            yield read[span][start - span[0] : stop - span[0]]


def read_spans(
    got: Callable[[str, int, int], Got],
    size: Callable[[str], int | None],
    wanted: Mapping[str, Sequence[tuple[int, int]]],
) -> dict[str, list[bytes]]:
    """Ranges of several objects: one request for each span, all at the same time.

    got: reads a range of an object.
    size: tells its bytes; None where there is none.
    wanted: object -> pairs of `start` and `stop`.

    Raises what `got` raises for an object that is missing.
    """
    spans = [(name, span) for name, ranges in wanted.items() for span in spans_of(ranges)]
    asked = {name for name, _ in spans}
    for name, ranges in wanted.items():
        if ranges and name not in asked and size(name) is None:
            got(name, 0, 1)  # says so
    answers = together([partial(got, name, *span) for name, span in spans])
    read: dict[str, dict[tuple[int, int], bytes]] = {name: {} for name in wanted}
    for (name, span), answer in zip(spans, answers, strict=True):
        read[name][span] = answer.data
    return {name: [*cut_out(ranges, read[name])] for name, ranges in wanted.items()}
