"""Which layers of a model are meant, counted from 1 whatever their number is.

6,12        those behind which the states are kept: after six layers, and after twelve
every:4     4, 8, 12 and so on
middle      the one behind which half of the layers have run: 6 of 12, and 7 of 13
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from logitstore.errors import SettingError
from logitstore.format.states import MOST_LAYERS

__all__ = ["LayerRule"]

_FLAG = "--hidden-layers"
_FORMS = "numbers from 1 such as 6,12, every:K, or middle"
_LISTED = re.compile(r"[0-9]{1,5}(?:,[0-9]{1,5})*")
_AROUND = re.compile(r"\s*([,:])\s*")  # spaces elsewhere are none of these forms
_EVERY = re.compile(r"every:([0-9]{1,5})")


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerRule:
    """Some layers of a model."""

    text: str  # without spaces
    listed: tuple[int, ...] = ()
    every: int = 0  # 0 where layers are listed, or the middle one is meant

    @staticmethod
    def parse(text: str) -> LayerRule:
        """The layers that a text describes; see the module.

        text: what the user gave.

        Raises SettingError for anything else.
        """
        short = _AROUND.sub(r"\1", str(text).strip())
        if short == "middle":
            return LayerRule(text=short)
        if (found := _EVERY.fullmatch(short)) is not None and int(found[1]) > 0:
            return LayerRule(text=short, every=int(found[1]))
        numbers = [int(one) for one in short.split(",")] if _LISTED.fullmatch(short) else []
        if not numbers or numbers[0] < 1 or numbers != sorted(set(numbers)):
            raise SettingError(
                "this names no layers"
                if not numbers or 0 in numbers
                else "layers are named in their order, each once",
                found=repr(text)[:80],
                allowed=_FORMS,
            )
        return LayerRule(text=short, listed=tuple(numbers))

    def layers(self, depth: int) -> tuple[int, ...]:
        """The numbers of the layers, ascending.

        depth: how many layers the model has.

        Raises SettingError where it has no such layer, or where they are too many for a store.
        """
        if self.listed:
            found = self.listed
        elif self.every:
            found = tuple(range(self.every, depth + 1, self.every))
        else:
            found = ((depth + 1) // 2,)
        if not found or found[-1] > depth:
            raise SettingError(
                "the teacher has no such layer",
                place=_FLAG,
                found=self.text,
                allowed=f"1 to {depth}, counted from 1",
            )
        if len(found) > MOST_LAYERS:
            raise SettingError(
                "these are more layers than a store keeps",
                place=_FLAG,
                found=f"{self.text}, which are {len(found)}",
                allowed=f"up to {MOST_LAYERS}",
            )
        return found
