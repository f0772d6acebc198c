"""Distil student language models from a store of a teacher's distributions.

`fit` and `evaluate` do what the commands do; the other names are what they are made of, for a loop
of your own. Importing this costs no torch: that is loaded on first use.
"""

from typing import TYPE_CHECKING

from logitstore.plumbing import lazy_names
from trainer.losses import LOSSES, Loss

if TYPE_CHECKING:
    from trainer.data.batches import Batches
    from trainer.data.rows import Batch
    from trainer.data.store import StoreLike
    from trainer.evaluation.measure import evaluate
    from trainer.losses.distillation import distillation_loss
    from trainer.losses.fused import LossSums
    from trainer.training.batching import training_batches
    from trainer.training.fit import fit
    from trainer.training.loop import DistillationTrainer
    from trainer.training.student import load_student

__all__ = [
    "LOSSES",
    "Batch",
    "Batches",
    "DistillationTrainer",
    "Loss",
    "LossSums",
    "StoreLike",
    "distillation_loss",
    "evaluate",
    "fit",
    "load_student",
    "training_batches",
]

__getattr__ = lazy_names(
    __name__,
    {
        "Batch": "trainer.data.rows",
        "Batches": "trainer.data.batches",
        "DistillationTrainer": "trainer.training.loop",
        "LossSums": "trainer.losses.fused",
        "StoreLike": "trainer.data.store",
        "distillation_loss": "trainer.losses.distillation",
        "evaluate": "trainer.evaluation.measure",
        "fit": "trainer.training.fit",
        "load_student": "trainer.training.student",
        "training_batches": "trainer.training.batching",
    },
)
