"""All options of `fit`: those of `FitOptions`, and those that belong to one loss of the table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from logitstore.plumbing import options_of
from trainer.losses.options import LOSS, LOSS_OPTIONS
from trainer.training.options import FitOptions

if TYPE_CHECKING:
    from collections.abc import Iterator

    from logitstore.plumbing import Option

__all__ = ["FIT_OPTIONS", "fit_options"]


def _all_options() -> Iterator[Option]:
    """Those of `FitOptions`, and behind the loss those of single losses."""
    for one in options_of(FitOptions):
        yield one
        if one.name == LOSS.name:
            yield from LOSS_OPTIONS


FIT_OPTIONS = tuple(_all_options())


def fit_options(**values: Any) -> FitOptions:
    """`FitOptions` from the values of `FIT_OPTIONS` by name.

    Raises SettingError for what does not fit together.
    """
    own = {one.name for one in LOSS_OPTIONS}
    return FitOptions(
        loss_values={name: value for name, value in values.items() if name in own},
        **{name: value for name, value in values.items() if name not in own},
    )
