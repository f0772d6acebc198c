"""Distil student language models from a store of a teacher's distributions.

`fit`, `evaluate`, `make_student`, `diagnose` and `report` do what the commands `fit`, `eval`,
`student`, `diagnose` and `report` do. The other names are their parts, for a training loop of your
own. Importing this package does not load torch, which is loaded on first use.
"""

from typing import TYPE_CHECKING

from logitstore.plumbing import lazy_names

if TYPE_CHECKING:
    from trainer.data.batches import Batches
    from trainer.data.mixture import MixedStore
    from trainer.data.retokenized import RetokenizedStore, retokenize
    from trainer.data.rows import Batch
    from trainer.data.store import StoreLike
    from trainer.diagnosis.diagnose import diagnose
    from trainer.evaluation.measure import evaluate
    from trainer.losses import LOSSES, SPAN_LOSSES, Loss, SpanLoss
    from trainer.losses.distillation import distillation_loss
    from trainer.losses.fused import LossSums
    from trainer.pruning.making import make_student
    from trainer.reporting.page import report
    from trainer.sweeping.sweep import sweep
    from trainer.training.batching import training_batches
    from trainer.training.fit import fit
    from trainer.training.loop import DistillationTrainer
    from trainer.training.mixing import average, mix
    from trainer.training.student import load_student

    __version__: str

__all__ = [
    "LOSSES",
    "SPAN_LOSSES",
    "AveragedStore",
    "Batch",
    "Batches",
    "DistillationTrainer",
    "Loss",
    "LossSums",
    "MixedStore",
    "RetokenizedStore",
    "SpanLoss",
    "StoreLike",
    "average",
    "diagnose",
    "distillation_loss",
    "evaluate",
    "fit",
    "load_student",
    "make_student",
    "mix",
    "report",
    "retokenize",
    "sweep",
    "training_batches",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "__version__": "logitstore",
        "AveragedStore": "trainer.data.averaged",
        "Batch": "trainer.data.rows",
        "Batches": "trainer.data.batches",
        "DistillationTrainer": "trainer.training.loop",
        "LOSSES": "trainer.losses",
        "Loss": "trainer.losses",
        "LossSums": "trainer.losses.fused",
        "MixedStore": "trainer.data.mixture",
        "RetokenizedStore": "trainer.data.retokenized",
        "SPAN_LOSSES": "trainer.losses",
        "SpanLoss": "trainer.losses",
        "StoreLike": "trainer.data.store",
        "diagnose": "trainer.diagnosis.diagnose",
        "average": "trainer.training.mixing",
        "distillation_loss": "trainer.losses.distillation",
        "evaluate": "trainer.evaluation.measure",
        "fit": "trainer.training.fit",
        "load_student": "trainer.training.student",
        "make_student": "trainer.pruning.making",
        "mix": "trainer.training.mixing",
        "report": "trainer.reporting.page",
        "retokenize": "trainer.data.retokenized",
        "sweep": "trainer.sweeping.sweep",
        "training_batches": "trainer.training.batching",
    },
)
