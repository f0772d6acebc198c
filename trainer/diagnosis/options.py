"""What `diagnose` takes: declared once, for the command line, the docs and Python alike.

Importing this costs no torch, so that a command line can refuse a value at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from logitstore.plumbing import MAX_MEMORY, ON_PROGRESS, STORE, option, refuse_uri
from trainer.evaluation.options import refuse_no_file_name
from trainer.losses import LOSSES
from trainer.training.options import TRAINER_DEVICE

__all__ = ["DiagnoseOptions"]


@dataclass(frozen=True, kw_only=True)
class DiagnoseOptions:
    """The options of a diagnosis, each within its bounds."""

    model: Any = option(
        refuse=refuse_uri,
        help="The folder of a run, whose settings and course are looked at too; or any model: a "
        "transformers folder, a .gguf file, or a Hub id.",
        in_python="Or a loaded transformers model, which stays on its device and in its number "
        "type.",
        positional=True,
    )
    logits: Any = option(
        like=STORE,
        positional=False,
        help="A store with the teacher's targets: of held-out text, or the one that was learnt "
        "from.",
        in_python="Or an open store, a `logitstore.Storage`, or a `trainer.StoreLike`.",
    )
    documents: int | None = option(
        None,
        help="The number of documents to measure, spread evenly over the store.",
        unset="as many as have about 8,192 tokens together, which a model of 135 million "
        "parameters reads in about a minute on a CPU",
        least=1,
    )
    alpha: float | None = option(
        None,
        help="The weight of the teacher's distribution in the loss.",
        unset="that of the run, else 0.9",
        least=0,
        most=1,
    )
    temperature: float | None = option(
        None,
        help="The temperature of both distributions in the divergence.",
        unset="that of the run at its last step, else 1",
        above=0,
    )
    loss: str | None = option(
        None,
        help="The divergence, with its own defaults.",
        unset="that of the run, else forward_kl",
        choices=lambda: tuple(LOSSES),
    )
    out: Path | None = option(
        None,
        help="The folder in which the result is kept, in diagnoses/ by its name.",
        unset="MODEL, where that is a run; else none is written",
    )
    name: str | None = option(
        None,
        refuse=refuse_no_file_name,
        help="The name under which the result is kept, as diagnoses/NAME.json.",
        unset="one made of the store and the temperature",
    )
    device: str = option(like=TRAINER_DEVICE)
    max_memory: Any = option(like=MAX_MEMORY)
    on_progress: Any = option(None, like=ON_PROGRESS)
