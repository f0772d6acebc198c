"""The grid of a sweep: its settings, each of which is run with several seeds.

Hard labels know no temperature and no divergence: with alpha 0 the values of these axes are one
setting, which all others are compared with.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.losses.options import ALPHA, LOSS, TEMPERATURE

if TYPE_CHECKING:
    from trainer.sweeping.options import SweepOptions

__all__ = ["AXES", "Setting", "settings_of"]

AXES = ("logits", "student", "loss", "lr", "alpha", "temperature")
_LR = 3e-4
_ODD = re.compile(r"[^A-Za-z0-9.+-]+")


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """One point of the grid."""

    logits: int  # the number of the store among those of the sweep
    student: int  # likewise
    loss: str
    lr: float
    alpha: float
    temperature: float
    name: str  # of its runs' folders, before the seed: the axes that have several values

    @property
    def hard(self) -> bool:
        """Whether it learns from the true tokens alone."""
        return self.alpha == 0

    def apart_from(self, *axes: str) -> tuple[Any, ...]:
        """Its values on all axes but these, by which settings are compared."""
        return tuple(getattr(self, name) for name in AXES if name not in axes)


def settings_of(options: SweepOptions) -> list[Setting]:
    """The settings of a sweep, hard labels first.

    Args:
        options: Those of the sweep.
    """
    axes = {
        "logits": tuple(range(len(options.logits))),
        "student": tuple(range(len(options.student))),
        "loss": options.axis("loss", LOSS.default),
        "lr": options.axis("lr", _LR),
        "alpha": tuple(map(float, sorted(options.axis("alpha", ALPHA.default)))),
        "temperature": tuple(map(float, options.axis("temperature", TEMPERATURE.default))),
    }
    words = {
        "logits": short_names([str(one) for one in options.logits]),
        "student": short_names([str(one) for one in options.student]),
    }
    found: dict[str, Setting] = {}
    for values in product(*(axes[name] for name in AXES)):
        point = dict(zip(AXES, values, strict=True))
        several = {name for name in AXES if len(axes[name]) > 1}
        if point["alpha"] == 0:
            point |= {"loss": axes["loss"][0], "temperature": axes["temperature"][0]}
            several -= {"loss", "temperature"}
        name = "_".join(
            words[axis][point[axis]]
            if axis in words
            else f"{axis}-{point[axis]:g}"
            if isinstance(point[axis], float)
            else str(point[axis])
            for axis in AXES
            if axis in several
        )
        found.setdefault(name or "run", Setting(**point, name=name or "run"))
    return sorted(found.values(), key=lambda one: not one.hard)


def short_names(paths: list[str]) -> list[str]:
    """The last part of each path, told apart by a number where two are alike."""
    names = [_ODD.sub("-", Path(one.rstrip("/")).stem).strip("-") or "one" for one in paths]
    return [
        name if names.count(name) == 1 else f"{name}-{number}" for number, name in enumerate(names)
    ]
