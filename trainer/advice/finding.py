"""A finding: one thing that is likely wrong with a run, the numbers that say so, and what to do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainer.advice.facts import Facts

__all__ = ["Finding", "Rule"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """What a rule found."""

    name: str  # of the rule
    says: str  # a sentence without its full stop, with the numbers
    remedy: str  # a sentence without its full stop, with the options to give
    evidence: Mapping[str, float]  # the numbers by name

    @property
    def line(self) -> str:
        """All of it in one line."""
        return f"{self.says}. {self.remedy}"

    def as_dict(self) -> dict[str, Any]:
        """The fields by name, as JSON has them."""
        return asdict(self) | {"evidence": dict(self.evidence)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """A question about a run.

    `ask` gives a finding, or None where nothing is wrong or too little is known. Rules that are
    `early` mean something at the first step too: `fit` asks these.
    """

    name: str
    ask: Callable[[Facts], Finding | None]
    early: bool = False
