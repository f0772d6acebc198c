"""The options of a sweep: its grid, and what every run of it has alike.

Importing this costs no torch, so that a command line can refuse a value at once.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from logitstore import SettingError
from logitstore.plumbing import ON_PROGRESS, STORE, option, options_of, refuse_uri
from trainer.data.sources import sources_of
from trainer.losses import LOSSES
from trainer.losses.options import ALPHA, TEMPERATURE
from trainer.training.fit_options import FIT_OPTIONS

__all__ = ["NAMES", "PASSED", "SweepOptions", "presets"]

# Options of `fit` that a sweep gives each run by itself, or that mean nothing to a run of many.
_OF_A_RUN = (
    *("logits", "student", "out", "alpha", "temperature", "loss", "lr", "seed", "resume"),
    *("report", "on_note", "on_progress", "average", "eval_logits", "eval_steps", "best_by"),
    *("keep_best", "patience"),
    *("student_tokenizer", "span_ends", "push_to_hub", "report_to", "skip_damaged"),
)
PASSED = tuple(one for one in FIT_OPTIONS if one.name not in _OF_A_RUN)


@cache
def presets() -> dict[str, dict[str, Any]]:
    """The experiments that have a name: values of the grid, and what they ask, as "asks"."""
    content = (Path(__file__).parent / "presets.json").read_bytes()
    found: dict[str, dict[str, Any]] = json.loads(content)
    return found


@dataclass(frozen=True, kw_only=True)
class SweepOptions:
    """The grid of a sweep and how it is carried out, each value within its bounds."""

    logits: list[str] = option(
        help="The store to learn from; given several times, each is one more value of the grid.",
        places=True,
        refuse=lambda stores: [STORE.refuse(one) for one in stores if STORE.refuse],
        in_python="Or open stores.",
    )
    student: list[str] = option(
        help="The student, as `fit` takes it; given several times, each is one more value of the "
        "grid.",
    )
    out: Path = option(help="The folder of the sweep: a new one, or that of a sweep to go on with.")
    eval_logits: Any = option(
        like=STORE, positional=False, help="The held-out store that every run is measured on."
    )
    preset: str | None = option(
        None,
        help="An experiment of the paper (arXiv 2310.02421) as a grid: "
        + "; ".join(f"{name}: {one['asks']}" for name, one in presets().items())
        + ". What is given beside it goes before it.",
        unset="none",
        choices=lambda: tuple(presets()),
    )
    alpha: tuple[float, ...] | None = option(
        None,
        help="The weights of the teacher's distribution, separated by commas; 0 is hard labels.",
        unset=f"that of the preset, else {ALPHA.default}",
        least=0,
        most=1,
    )
    temperature: tuple[float, ...] | None = option(
        None,
        help="The temperatures, separated by commas.",
        unset=f"those of the preset, else {TEMPERATURE.default:g}",
        above=0,
    )
    loss: list[str] | None = option(
        None,
        help="The divergence, as `fit` takes it; given several times, each is one more value.",
        unset="forward_kl",
    )
    lr: tuple[float, ...] | None = option(
        None, help="The highest learning rates, separated by commas.", unset="3e-4", above=0
    )
    seeds: int = option(
        3, help="The number of runs of each setting, which differ by their seeds.", least=1
    )
    jobs: int = option(
        1, help="The number of runs at the same time, each in a process of its own.", least=1
    )
    teacher: str | None = option(
        None,
        refuse=refuse_uri,
        help="The teacher, to be measured beside the students on the held-out store.",
        unset="its speed and memory are not measured",
    )
    on_progress: Any = option(None, like=ON_PROGRESS)
    dry_run: bool = option(
        False, help="Say what runs there would be, and by a short trial how long they would take."
    )

    def __post_init__(self) -> None:
        """Raise SettingError for a value that is given twice, or for no loss."""
        for name in ("logits", "student", "loss"):
            values = [str(one) for one in getattr(self, name) or ()]
            if len({*values}) < len(values):
                raise SettingError(f"--{name} is given twice with one value", found=values[0])
        for one in self.logits:
            if sources_of(one)[0].store is not one:
                raise SettingError(
                    "--logits of a sweep takes no weight: each store is a value of the grid",
                    found=str(one),
                    remedy="Name the store alone",
                )
        for name in self.loss or ():
            if name not in LOSSES:
                raise SettingError("--loss is unknown", found=name, allowed=", ".join(LOSSES))

    def axis(self, name: str, default: Any) -> tuple[Any, ...]:
        """The values of one axis of the grid.

        Args:
            name: Of the option.
            default: The value where neither the option nor the preset gives any.
        """
        given = getattr(self, name)
        if given is not None:
            return tuple(given)
        preset = presets().get(self.preset or "", {})
        return tuple(preset.get(name, (default,)))


NAMES = tuple(one.name for one in options_of(SweepOptions) if not one.python_only)
