"""On-policy distillation in rounds, offline: `python -m tools.on_policy --out FOLDER`.

In each round the student answers prompts, the teacher reads the answers, and the student learns
from what the teacher thinks of them; then it answers anew. No two models are ever in memory
together, and every round leaves its answers, its store and its run in a folder, so that a killed
loop goes on where it stopped. A round costs one pass of the teacher over what the student said.

How far the student is from its teacher is known before it learns, from the store of its answers:
the mean of `log q(y) - log p(y)` over tokens that it drew estimates its reverse KL per token.

Without `--teacher` a small one is trained on text that comes with every Python, as in the demo, and
a student that has learnt from it off-policy: minutes of one core.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import logitstore
from logitstore import LogitStoreError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["Distance", "Rounds", "main", "own_scene", "reverse_kl_of"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Distance:
    """How far whoever gave the answers of a store is from its teacher, nats per token."""

    reverse_kl: float  # estimated from the tokens that were drawn
    error: float  # standard error over answers
    tokens: int


def reverse_kl_of(store: Iterable[logitstore.StoredDocument]) -> Distance:
    """The reverse KL per token of the model that gave the answers of a store.

    Args:
        store: Answers drawn at temperature 1 from all tokens, with their `sampler_logprobs`.
    """
    gaps = [one.document.sampler_logprobs_R - one.targets.label_logprob_R for one in store]
    sums, counts = (np.array([f(one) for one in gaps], dtype=np.float64) for f in (np.sum, len))
    mean = sums.sum() / counts.sum()
    # A ratio of sums over answers: its error is that of the sums about their share of the mean.
    error = np.sqrt(((sums - mean * counts) ** 2).sum()) / counts.sum()
    return Distance(reverse_kl=float(mean), error=float(error), tokens=int(counts.sum()))


@dataclass(frozen=True, kw_only=True, slots=True)
class Rounds:
    """The loop; what it makes lies in `out`, a folder for each round."""

    teacher: str
    prompts: str
    out: Path
    answers: int = 2  # to each prompt
    new_tokens: int = 48
    loss: str = "sampled_reverse_kl"
    lr: float = 1e-3
    batch_tokens: int = 1024
    device: str = "auto"

    def run(self, student: str, *, rounds: int) -> list[Distance]:
        """The distance of the student before each round, and behind the last.

        Args:
            student: The folder of the student of the first round.
            rounds: How often it answers, is judged and learns.
        """
        found = []
        for number in range(1, rounds + 1):
            store = self.judged(student, number)
            found.append(self._told(number, store))
            student = self._learnt(student, store, number)
        found.append(self._told(rounds + 1, self.judged(student, rounds + 1)))
        return found

    def judged(self, student: str, number: int) -> Path:
        """The store of what the student says in a round: new draws in each.

        Args:
            student: Its folder.
            number: The round, from 1.
        """
        folder = self.out / f"round{number}"
        folder.mkdir(parents=True, exist_ok=True)
        summary = logitstore.generate(
            model=student,
            data=self.prompts,
            out=folder / "answers.parquet",
            n=self.answers,
            max_new_tokens=self.new_tokens,
            temperature=1.0,
            seed=number,
            device=self.device,
        )
        logitstore.dump(
            teacher=self.teacher,
            data=str(folder / "answers.parquet"),
            out=folder / "store",
            max_length=summary.longest,
            device=self.device,
        )
        return folder / "store"

    def _learnt(self, student: str, store: Path, number: int) -> str:
        """The folder of the student that has learnt from a round: one epoch, as answers age."""
        import trainer

        run = self.out / f"round{number}" / "run"
        trainer.fit(
            logits=str(store),
            student=student,
            out=run,
            loss=self.loss,
            alpha=1.0,
            epochs=1,
            lr=self.lr,
            batch_tokens=self.batch_tokens,
            seed=number,
            device=self.device,
            resume=run.exists(),
        )
        return str(run)

    def _told(self, number: int, store: Path) -> Distance:
        found = reverse_kl_of(logitstore.open(store))
        print(
            f"before round {number}: reverse KL {found.reverse_kl:.3f} +- {found.error:.3f} nats "
            f"per token, of {found.tokens:,} tokens that the student drew",
            flush=True,
        )
        return found


def own_scene(out: Path, *, quick: bool = False) -> tuple[str, str, str]:
    """A teacher, a student that has learnt from it off-policy, and prompts, all made on the spot.

    Args:
        out: The folder that they lie in; what is there already is taken.
        quick: Whether sizes are so small that nothing is learnt.

    Returns the places of the three.
    """
    from tools.demo_corpus import collect, write_corpus
    from tools.demo_teacher import llama_config, train_teacher

    teacher, run, prompts = out / "teacher", out / "student", out / "prompts.jsonl"
    if (run / "run.json").exists() and json.loads((run / "run.json").read_bytes())["finished"]:
        return str(teacher), str(run), str(prompts)
    corpus = write_corpus(out, list(collect()), limit=60_000 if quick else 800_000)
    made = train_teacher(
        train=corpus.train,
        heldout=corpus.heldout,
        out=teacher,
        steps=5 if quick else 450,
        width=32 if quick else 128,
        layers=1 if quick else 2,
    )
    config = llama_config(vocab_size=len(made.tokenizer), width=32 if quick else 64, layers=1)
    (out / "student.json").write_text(json.dumps(config))
    texts = [json.loads(one)["text"] for one in corpus.train.read_text("utf-8").splitlines()]
    # The beginnings of paragraphs of what the teacher has read: 12 words each.
    parts = [" ".join(one.split()[:12]) for text in texts for one in text.split("\n\n")]
    kept = [one for one in dict.fromkeys(parts) if len(one.split()) == 12]
    step = max(1, len(kept) // (8 if quick else 256))
    prompts.write_text("".join(json.dumps({"text": one}) + "\n" for one in kept[::step]))
    logitstore.dump(teacher=str(teacher), data=str(corpus.student), out=out / "corpus_store")
    import trainer

    trainer.fit(
        logits=str(out / "corpus_store"),
        student=str(out / "student.json"),
        out=run,
        steps=2 if quick else 50,
        batch_tokens=2048,
        lr=3e-3,
        resume=run.exists(),
    )
    return str(teacher), str(run), str(prompts)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, run, and turn expected errors into one message and exit code 1."""
    parser = argparse.ArgumentParser(prog="python -m tools.on_policy", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the rounds")
    parser.add_argument("--teacher", help="a transformers folder or Hub id")
    parser.add_argument("--student", help="the student of the first round")
    parser.add_argument("--prompts", help="what it answers, as logitstore generate takes it")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--answers", type=int, default=2, help="to each prompt in a round")
    parser.add_argument("--new-tokens", type=int, default=48)
    parser.add_argument("--loss", default="sampled_reverse_kl")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--batch-tokens", type=int, default=1024)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--quick", action="store_true", help="own models, tiny ones")
    given: dict[str, Any] = vars(parser.parse_args(arguments))
    rounds, quick = given.pop("rounds"), given.pop("quick")
    named = [given.pop(name) for name in ("teacher", "student", "prompts")]
    if any(named) != all(named):
        parser.error("--teacher, --student and --prompts belong together")
    if rounds < 1:
        parser.error("--rounds is 1 or more")
    try:
        given["out"].mkdir(parents=True, exist_ok=True)
        teacher, student, prompts = named if all(named) else own_scene(given["out"], quick=quick)
        Rounds(teacher=teacher, prompts=prompts, **given).run(student, rounds=rounds)
    except LogitStoreError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
