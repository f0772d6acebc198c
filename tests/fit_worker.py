"""A process of its own that runs `trainer.fit` on the store in memory.

    python -m tests.fit_worker OUT CONFIG '{"steps": 3}' [STEP]

With "stores" among the settings, pairs of a seed and a weight, it learns from a mix of such stores;
with "folder" from the store that lies there.
One of several ranks where the environment says so; kills itself at the report of step STEP.
"""

import json
import os
import signal
import sys
from pathlib import Path

import torch

import logitstore
import trainer
from tests.memory_store import MemoryStore


def main(out: str, config: str, settings: str, killed_at: str = "-1") -> None:
    torch.set_num_threads(1)
    tokenizer = Path(config).parent / "tokenizer"
    given = json.loads(settings)
    folder = given.pop("folder", None)
    opened = None if folder is None else logitstore.open(folder)
    logitstore.open = lambda name, **__: (
        MemoryStore(blocks=2, seed=1) if name == "held" else MemoryStore(tokenizer=tokenizer)
    )

    def report(one: dict[str, float]) -> None:
        if one["step"] == int(killed_at):
            os.kill(os.getpid(), signal.SIGKILL)

    stores = [(MemoryStore(seed=seed), weight) for seed, weight in given.pop("stores", ())]
    trainer.fit(
        logits=opened or stores or "memory",
        student=config,
        out=out,
        device="cpu",
        report=report,
        **given,
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
