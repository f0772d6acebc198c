"""Whether epochs over one draw of the targets overfit its noise, and how far new draws help.

One text, one student, several epochs: from a store that holds one draw of each target, and from
one that holds a draw for each epoch (`--repeats`). Both are real stores, trained on by
`trainer.fit` and measured on held-out text, in brackets on the training text.

    python -m tools.bench_repeats --teacher FOLDER
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import logitstore
import trainer
from tools.bench_corpus import sources, teacher_folder

STUDENT = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 192,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
}


def main() -> None:
    """Parse, dump, train, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--teacher", type=Path, help="transformers folder; default: train one")
    parser.add_argument("--characters", type=int, default=400_000)
    parser.add_argument("--epochs", default="1,4,8")
    parser.add_argument("--k", default="8,16")
    parser.add_argument("--seeds", type=int, default=2)
    args = parser.parse_args()
    epochs = [int(one) for one in args.epochs.split(",")]
    with tempfile.TemporaryDirectory() as scratch:
        teacher = teacher_folder(args.teacher, Path(scratch))
        experiment = _Experiment(Path(scratch), teacher, args.characters, seeds=args.seeds)
        print("| record | " + " | ".join(f"{one} epochs" for one in epochs) + " |")
        print("|---" * (len(epochs) + 1) + "|")
        for k in map(int, args.k.split(",")):
            for repeats in (1, max(epochs)):
                cells = [experiment.losses(k=k, repeats=repeats, epochs=one) for one in epochs]
                name = "one draw" if repeats == 1 else "a draw an epoch"
                print(f"| unbiased {k}, {name} | " + " | ".join(cells) + " |", flush=True)


class _Experiment:
    """Text, held-out text, and the stores made so far."""

    def __init__(self, folder: Path, teacher: Path, characters: int, *, seeds: int) -> None:
        self.folder, self.teacher, self.seeds = folder, teacher, seeds
        lines = sources(folder / "all.jsonl", characters=characters * 5 // 4).read_text()
        texts = lines.splitlines(keepends=True)
        self.train, self.heldout = folder / "train.jsonl", folder / "heldout.jsonl"
        self.train.write_text("".join(one for n, one in enumerate(texts) if n % 5))
        self.heldout.write_text("".join(texts[::5]))
        (folder / "student.json").write_text(json.dumps(STUDENT))

    def losses(self, *, k: int, repeats: int, epochs: int) -> str:
        """Held-out loss and training loss, means over seeds."""
        found = [self._one(k, repeats, epochs, seed) for seed in range(self.seeds)]
        heldout, training = (sum(one) / len(found) for one in zip(*found, strict=True))
        return f"{heldout:.3f} ({training:.3f})"

    def _one(self, k: int, repeats: int, epochs: int, seed: int) -> tuple[float, float]:
        store = self.folder / f"store_{k}_{repeats}"
        if not store.exists():
            logitstore.dump(
                teacher=str(self.teacher),
                data=str(self.train),
                out=store,
                sparsify="unbiased",
                k=k,
                repeats=repeats,
            )
        run = self.folder / f"run_{k}_{repeats}_{epochs}_{seed}"
        trainer.fit(
            logits=store,
            student=self.folder / "student.json",
            out=run,
            alpha=1.0,
            epochs=epochs,
            batch_tokens=2048,
            lr=5e-3,
            seed=seed,
        )
        heldout, training = (
            trainer.evaluate(run, data=str(text), max_length=512)["loss"]
            for text in (self.heldout, self.train)
        )
        return heldout, training


if __name__ == "__main__":
    main()
