"""Dense distribution -> SparseTargets: one function for each sparsifier, one table of them.

A sparsifier also says what spec its options make. To add one: a function in a module of this
folder, and a line in `SPARSIFIERS`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from logitstore.errors import SettingError
from logitstore.sparsify.distribution import Sparsifier
from logitstore.sparsify.heads import topk, topp
from logitstore.sparsify.sampling import hybrid, sample, unbiased
from logitstore.sparsify.settings import sparsifier_spec
from logitstore.sparsify.tail import TAIL_NODES

if TYPE_CHECKING:
    from logitstore.format.spec import SparsifierSpec

__all__ = ["SPARSIFIERS", "TAIL_NODES", "Sparsifier", "check_k", "sparsifier_spec"]

SPARSIFIERS: dict[str, Sparsifier] = {
    "topk": topk,
    "topp": topp,
    "sample": sample,
    "unbiased": unbiased,
    "hybrid": hybrid,
}


def check_k(spec: SparsifierSpec, *, vocab_size: int) -> None:
    """Refuse a row with more entries than there are tokens; with replacement it may have more."""
    if spec.k > vocab_size and spec.name != "sample":
        raise SettingError(
            "a row cannot have more entries than the tokenizer has tokens",
            found=spec.k,
            allowed=f"1..{vocab_size}",
            remedy="Give a smaller --k",
        )
