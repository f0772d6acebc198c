"""Changes of bytes: some of them set, left out, doubled or put in."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tools.fuzzing.choices import Choices

__all__ = ["changed_bytes"]

_MOST_CHANGES = 4


def changed_bytes(data: bytes, choices: Choices) -> bytes:
    """`data` with a few changes."""
    for _ in range(1 + choices.below(_MOST_CHANGES)):
        place = choices.below(len(data) + 1)
        kind = choices.below(6)
        if kind == 0:  # all from there on is gone
            data = data[:place]
        elif kind == 1:
            data = data[:place] + choices.take(choices.below(8)) + data[place:]
        elif kind == 2:
            stop = place + choices.below(64)
            data = data[:place] + data[place:stop] * choices.below(4) + data[stop:]
        elif kind == 3:
            width = choices.one_of((1, 2, 4, 8))
            number = choices.integer() % (1 << 8 * width)
            data = data[:place] + number.to_bytes(width, "little") + data[place + width :]
        else:
            part = choices.take(1 + choices.below(4))
            data = data[:place] + part + data[place + len(part) :]
    return data
