"""What a loss over spans of text declares: it learns from a teacher of another tokenizer.

A span is a run of bytes that teacher and student both begin and end a token at
(`trainer/data/spans.py`). A new one is a file and a line of `SPAN_LOSSES`.

Nothing here imports torch, so that a command line can name every loss without the cost of it.

Shapes: S spans, A aligned rows, K entries.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from logitstore import SettingError
from logitstore.plumbing import SPARSIFIERS, sparsifier_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from logitstore import SparsifierSpec

__all__ = ["SpanLoss"]


@dataclass(frozen=True, kw_only=True, slots=True)
class SpanLoss:
    """A divergence between teacher and student over what they say of the same bytes.

    One of the two functions is given. `of_spans(log_p_S, log_q_S, T)` compares the log-probability
    of spans, nats; `of_ranks(p_AK, q_AK, used_AK)` compares the largest probabilities of aligned
    distributions, sorted. Both give float32 [S] or [A], at least 0, 0 for equal sides, and are
    differentiable in the student.
    """

    name: str  # on the command line and in run.json
    summary: str  # a sentence, for help texts and docs
    of_spans: Callable[[Tensor, Tensor, float], Tensor] | None = None
    of_ranks: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None

    def __post_init__(self) -> None:
        """Raise TypeError for a declaration that leaves something open."""
        if (self.of_spans is None) == (self.of_ranks is None):
            raise TypeError(f"loss {self.name!r}: it compares either spans or ranks")

    def refuse_unserved(self, sparsifier: SparsifierSpec, *, temperature: float) -> None:
        """Raise SettingError where targets of `sparsifier` or the temperature cannot serve it.

        Args:
            sparsifier: That of the store. Every store has the log-probability of the true tokens.
            temperature: T.
        """
        if self.of_ranks is None:
            return
        if temperature != 1.0:
            raise SettingError(
                f"{self.name} compares distributions at temperature 1",
                place="--temperature",
                found=f"{temperature:g}",
                allowed="1",
            )
        if not sparsifier_of(sparsifier).targets.keeps_tail:
            keeping = [one.name for one in SPARSIFIERS.values() if one.targets.keeps_tail]
            raise SettingError(
                f"{self.name} needs a head of exact entries, and drawn targets have none for sure",
                place="--loss",
                remedy=f"Take --loss alm, or dump with --sparsify {' or '.join(keeping)}",
            )
