"""What a target is: the kind of its entries, and whether it has a tail.

Everything that depends on how a target came to be asks its kind: losses, verification, audits,
codecs. Every `SparseTargets` carries one; the sparsifier that made it declares it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

__all__ = ["Entries", "TargetKind"]


class Entries(Enum):
    """What the entries of a target are."""

    EXACT = "exact"  # each has the teacher's probability
    WEIGHTED = "weighted"  # some have; the others were drawn, and their weights are unbiased
    COUNTED = "counted"  # all were drawn, with replacement; the weight is the share of the draws
    SHARES = "shares"  # each has its share of what they have together, which is not known


@dataclass(frozen=True, kw_only=True, slots=True)
class TargetKind:
    """What is known of a target, independently of the sparsifier that made it.

    Where entries were drawn, the mean over draws of a token's weight is its probability under the
    teacher, so losses that are linear in the teacher are unbiased. Where the tail is kept, all
    tokens that are not exact entries are pooled in one bucket, whose mass is known at several
    temperatures, so any loss can be bounded.

    Shares say how the teacher divides the mass of the entries among them, and nothing else: they
    serve losses that renormalise.

    Raises TypeError where none of these holds, because no loss could be computed from such targets.
    """

    entries: Entries
    keeps_tail: bool  # the log-mass of all tokens that are not exact entries is stored
    weights_sum_to_one: bool  # the weights of each row's entries sum to 1
    # The entropy and the true token's log-probability are stored, which only somebody knows who has
    # seen the whole distribution. Otherwise both are NaN.
    knows_whole: bool = True
    # The teacher's last hidden state is kept beside the entries, and its output layer once for all
    # targets: the whole distribution can be had.
    keeps_state: bool = False

    def __post_init__(self) -> None:
        if self.entries is Entries.SHARES:
            if self.keeps_tail or not self.weights_sum_to_one:
                raise TypeError("shares have no tail, and sum to 1")
        elif not (self.drawn or self.keeps_tail):
            raise TypeError("targets of exact entries must keep their tail's mass")
        if self.drawn and not self.knows_whole:
            raise TypeError("drawn targets must have the entropy, which a KL from weights needs")
        if self.keeps_state and (self.entries is not Entries.EXACT or not self.knows_whole):
            raise TypeError("beside a hidden state entries are exact, for it tells all others")

    @property
    def drawn(self) -> bool:
        """Whether some entries were drawn, so that the weights of all are an unbiased target."""
        return self.entries in (Entries.WEIGHTED, Entries.COUNTED)

    @property
    def has_exact(self) -> bool:
        """Whether some entries have the teacher's own probability."""
        return self.entries in (Entries.EXACT, Entries.WEIGHTED)

    @property
    def serves(self) -> str:
        """Which losses at which temperatures, in words."""
        if self.keeps_state:
            return "any loss at any T, exactly: from the whole distribution"
        if self.entries is Entries.SHARES:
            return "losses that renormalise the entries, at any T"
        linear = "losses that are linear in the teacher, without bias"
        if not self.keeps_tail:
            return f"{linear}, at the temperatures drawn"
        bounded = "any loss at T from 1 to 10, from the exact entries and one bucket"
        return f"{linear}, at T = 1; {bounded}" if self.drawn else bounded

    @property
    def rows_alike(self) -> bool:
        """Whether neighbouring rows tend to have the same ids, as heads and repeated draws do.

        A codec can lay out the entries accordingly.
        """
        return self.entries is not Entries.WEIGHTED
