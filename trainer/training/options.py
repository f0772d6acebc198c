"""What `fit` takes: declared once, for the command line, the docs and Python alike.

Importing it costs no torch, so a value that cannot be is refused at once.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from logitstore.plumbing import DEVICE, DTYPE, STORE, option, refuse_uri
from trainer.losses import LOSSES

__all__ = ["TRAINER_DEVICE", "FitOptions"]

# They change no weight of the result, so a run may go on with others; `logits` is told by the
# store's fingerprint, `dtype` by what it stood for.
_NOT_OF_THE_RESULT = ("logits", "out", "save_steps", "log_steps", "resume", "device", "report")

# What transformers' own loop can be given; another GPU than the first is not among it.
TRAINER_DEVICE = replace(
    DEVICE,
    help="The device to compute on: auto takes a GPU where there is one. Of several GPUs, "
    "CUDA_VISIBLE_DEVICES chooses.",
    choices=lambda: ("auto", "cpu", "cuda", "mps"),
)

_LOSS_HELP = " ".join(
    [
        "The divergence from the teacher's distribution.",
        *(f"{one.name}: {one.summary}" for one in LOSSES.values()),
    ]
)


@dataclass(frozen=True, kw_only=True)
class FitOptions:
    """The options of a run, each within its bounds."""

    logits: Any = option(like=STORE, positional=False, help="The store to learn from.")
    student: Any = option(
        refuse=refuse_uri,
        help="The student: a transformers folder, a Hub id, or a configuration file .json, from "
        "which one is made with fresh weights.",
    )
    out: Path = option(help="The folder of the run: a new one, or that of a run to go on with.")
    alpha: float = option(
        0.9,
        help="The weight of the teacher's distribution in the loss; the true tokens have the rest.",
        least=0,
        most=1,
    )
    temperature: float = option(
        1.0, help="The temperature T of both distributions in the divergence.", above=0
    )
    loss: str = option("forward_kl", help=_LOSS_HELP, choices=lambda: LOSSES)
    epochs: int | None = option(
        None,
        help="The number of passes over the store.",
        unset="1, where --steps is not given",
        least=1,
        excludes=("steps",),
    )
    steps: int | None = option(
        None,
        help="The number of optimiser steps.",
        unset="as many as --epochs takes",
        least=1,
        excludes=("epochs",),
    )
    batch_tokens: int = option(
        16_384, help="The number of tokens in an optimiser step, over all ranks.", least=1
    )
    micro_tokens: int | None = option(
        None, help="The most tokens in one forward pass.", unset="about 4096", least=1
    )
    lr: float = option(
        3e-4, help="The highest learning rate, which falls to 0 along a cosine.", above=0
    )
    warmup: float = option(
        0.03, help="The share of the steps in which the learning rate rises.", least=0, most=1
    )
    weight_decay: float = option(0.1, help="The weight decay of AdamW.", least=0)
    seed: int = option(
        0,
        help="The seed of the order of documents, of fresh weights and of dropout.",
        least=0,
        most=2**32 - 1,
    )
    window: int | None = option(
        None,
        help="The number of blocks, in each lane, whose documents are shuffled together.",
        unset="what fits into 1 GiB over all lanes",
        least=1,
    )
    save_steps: int = option(500, help="The number of steps between checkpoints.", least=1)
    log_steps: int = option(10, help="The number of steps between reports.", least=1)
    resume: bool = option(
        False,
        help="Go on with an unfinished run from its newest checkpoint, or begin a new one.",
    )
    device: str = option(like=TRAINER_DEVICE)
    dtype: str = option(
        like=DTYPE,
        help="The number type of the forward pass, by autocast: auto is bfloat16 on cuda, else "
        "float32. Weights are float32.",
        choices=lambda: ("auto", "float32", "bfloat16"),
    )
    report: Any = option(
        None, help="A function that is called with each report of the loss.", python_only=True
    )

    def wanted(self, *, store: str, dtype: str) -> dict[str, Any]:
        """What decides the weights of the result, as run.json keeps it.

        `store` is the fingerprint of what `logits` names, `dtype` what "auto" stands for here.
        """
        content = {one.name: getattr(self, one.name) for one in fields(self)}
        for name in _NOT_OF_THE_RESULT:
            del content[name]
        if self.epochs is None and self.steps is None:
            content["epochs"] = 1
        return content | {"student": str(self.student), "dtype": dtype, "store": store}
