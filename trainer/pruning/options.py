"""The options of `make_student`, and which layers of a teacher `layers` stands for.

Importing this costs no torch, so that a command line can refuse a value at once.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from logitstore import SettingError
from logitstore.plumbing import ON_PROGRESS, option, refuse_uri

__all__ = ["LayerChoice", "StudentOptions"]

_FORMS = "N, every:K, first:N, last:N, or numbers from 0 such as 0,3,7"
_RULE = re.compile(r"(?:(every|first|last):)?([0-9]{1,6})")
_LISTED = re.compile(r"[0-9]{1,6}(?:,[0-9]{1,6})+")


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerChoice:
    """Which layers are kept of a model, whatever their number is."""

    rule: str  # spread, every, first, last, or listed
    number: int = 0
    listed: tuple[int, ...] = ()

    @staticmethod
    def of(value: Any) -> LayerChoice:
        """That of the option `layers`. Raises SettingError for what is none of its forms.

        Args:
            value: A string of one of the forms, a number, or a list of numbers.
        """
        if isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        if isinstance(value, list | tuple):
            return LayerChoice._of_list(value)
        text = "".join(value.split()) if isinstance(value, str) else ""
        if _LISTED.fullmatch(text):
            return LayerChoice._of_list([int(one) for one in text.split(",")])
        found = _RULE.fullmatch(text)
        if found is None:
            raise SettingError("this names no layers", found=repr(value)[:80], allowed=_FORMS)
        if int(found[2]) < 1:
            raise SettingError("no layer would be kept", found=text, allowed="1 or more")
        return LayerChoice(rule=found[1] or "spread", number=int(found[2]))

    @staticmethod
    def _of_list(values: Any) -> LayerChoice:
        whole = [one for one in values if isinstance(one, int) and not isinstance(one, bool)]
        if not whole or len(whole) < len(values) or min(whole) < 0:
            raise SettingError("this names no layers", found=repr(values)[:80], allowed=_FORMS)
        if any(after <= before for before, after in pairwise(whole)):
            raise SettingError(
                "layers are kept in their order, each once",
                found=",".join(map(str, whole)),
                allowed=",".join(map(str, sorted(set(whole)))),
            )
        return LayerChoice(rule="listed", listed=tuple(whole))

    def layers(self, count: int) -> tuple[int, ...]:
        """The numbers of the layers that are kept, ascending.

        Args:
            count: How many layers the model has.

        Raises SettingError where it has too few.
        """
        if self.rule == "listed":
            if self.listed[-1] >= count:
                raise SettingError(
                    "the teacher has no such layer",
                    place="--layers",
                    found=self.listed[-1],
                    allowed=f"0 to {count - 1}",
                )
            return self.listed
        if self.rule == "every":
            return tuple(range(0, count, self.number))
        if self.number > count:
            raise SettingError(
                "the teacher has fewer layers",
                place="--layers",
                found=self.number,
                allowed=f"1 to {count}",
            )
        if self.rule == "first":
            return tuple(range(self.number))
        if self.rule == "last":
            return tuple(range(count - self.number, count))
        return _spread(self.number, count)


def _spread(number: int, count: int) -> tuple[int, ...]:
    """`number` of `count` layers at distances as even as can be, the first and the last with them.

    Of 12 layers 6 are 0, 2, 4, 7, 9 and 11, which is the start of DistilBERT and DistilGPT2 (Sanh
    et al., arXiv 1910.01108).
    """
    if number == 1:
        return (0,)
    # Halves are rounded up, so that no layer is met twice.
    steps = number - 1
    return tuple((2 * place * (count - 1) + steps) // (2 * steps) for place in range(number))


@dataclass(frozen=True, kw_only=True)
class StudentOptions:
    """What a student is made of, and where it is written."""

    teacher: Any = option(
        spelled="from",
        refuse=refuse_uri,
        help="The teacher: a transformers folder or a Hub id.",
    )
    layers: Any | None = option(
        None,
        unset="all",
        refuse=LayerChoice.of,
        help="Which of the teacher's layers the student keeps: N, as many at even distances, the "
        "first and the last with them; every:K, those at 0, K, 2 K and so on; first:N; last:N; or "
        "their numbers from 0, such as 0,3,7.",
        in_python="Or a number, or a list of numbers.",
    )
    width: int | None = option(
        None,
        least=1,
        unset="the teacher's",
        help="How many channels of the residual stream (hidden_size) are kept: those that hold "
        "most of its energy. The attention keeps its heads and their size.",
    )
    intermediate: int | None = option(
        None,
        least=1,
        unset="the teacher's",
        help="How many neurons are kept of each layer's MLP (intermediate_size): those that write "
        "the most.",
    )
    out: Path = option(help="The folder of the student: a new one, or one without files.")
    save_dtype: str = option(
        "auto",
        help="The number type of the weights; auto is the teacher's.",
        choices=lambda: ("auto", "float32", "bfloat16", "float16"),
    )
    on_progress: Any = option(None, like=ON_PROGRESS)

    def __post_init__(self) -> None:
        """Raise SettingError for a teacher that is no name, or where nothing would be cut."""
        if not isinstance(self.teacher, str | Path):
            raise SettingError(
                "--from must be a name",
                found=type(self.teacher).__name__,
                allowed="a transformers folder or a Hub id",
                remedy="Save the model with save_pretrained and name the folder",
            )
        if self.layers is None and self.width is None and self.intermediate is None:
            raise SettingError(
                "nothing says what the student leaves out",
                allowed="--layers, --width, --intermediate, or several of them",
            )
