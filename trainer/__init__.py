"""Distil student language models from a store of a teacher's distributions."""

from typing import TYPE_CHECKING

from logitstore.plumbing import lazy_names

if TYPE_CHECKING:
    from trainer.evaluation.measure import evaluate
    from trainer.training.fit import fit

__all__ = ["evaluate", "fit"]

__getattr__ = lazy_names(
    __name__, {"evaluate": "trainer.evaluation.measure", "fit": "trainer.training.fit"}
)
