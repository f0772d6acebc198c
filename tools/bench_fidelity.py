"""How much of the gap to the teacher a student closes with each kind of target, on a small scale.

Teacher, student, text, order and steps are the same: only the targets that the student learns from
differ (`tools/fidelity_students.py`). Results are kept in a JSON file, a line
a seed and recipe, so that the work can be done in pieces.

    python -m tools.bench_fidelity --teacher FOLDER --seeds 0,1,2,3,4,5
    python -m tools.bench_fidelity --table
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scipy import stats

import logitstore
from logitstore.corpus.tokenizer import load_tokenizer, vocab_size
from logitstore.sparsify import SPARSIFIERS
from logitstore.sparsify.build import sparsifier_spec
from logitstore.teacher.transformers import TransformersTeacher
from tools.bench_corpus import sources, teacher_folder
from tools.fidelity_students import Recipe, Windows, train

if TYPE_CHECKING:
    from logitstore.format.spec import SparsifierSpec

CHARACTERS = 3_000_000
BYTES_CHARACTERS = 300_000  # of the text whose stores are weighed


def recipes() -> list[Recipe]:
    """All of them; the first two bound the gap that the others are measured against."""
    return [
        Recipe("hard labels"),
        Recipe("dense teacher"),
        *(Recipe(f"unbiased {k}", spec=sparsifier_spec("unbiased", k=k)) for k in (8, 12, 16, 24)),
        *(
            Recipe(f"hybrid {k} + {tail}", spec=sparsifier_spec("hybrid", k=k, tail_draws=tail))
            for k, tail in ((8, 8), (8, 16), (4, 8))
        ),
        *(
            Recipe(f"sample {draws}", spec=sparsifier_spec("sample", draws=draws))
            for draws in (13, 50, 150)
        ),
        *(
            Recipe(f"topk {k}, {what}", loss, sparsifier_spec("topk", k=k))
            for k in (12, 50, 100)
            for what, loss in (
                ("bucket", "forward_kl"),
                ("residual to label", "residual_to_label"),
                ("renormalised", "renormalised"),
            )
        ),
    ]


def weigh(teacher: Path, chosen: list[Recipe]) -> dict[str, float]:
    """Bytes per counted target of really dumped stores, all columns."""
    sizes: dict[SparsifierSpec, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        text = sources(Path(folder) / "text.jsonl", characters=BYTES_CHARACTERS)
        for number, spec in enumerate({one.spec for one in chosen if one.spec is not None}):
            summary = logitstore.dump(
                teacher=str(teacher),
                data=str(text),
                out=Path(folder) / f"store{number}",
                sparsify=spec.name,
                **SPARSIFIERS[spec.name].asked(spec),
            )
            sizes[spec] = summary.bytes / summary.targets
    return {one.name: sizes[one.spec] for one in chosen if one.spec is not None}


def table(results: list[dict[str, Any]], bytes_of: dict[str, float]) -> str:
    """Markdown: means over seeds, with 95 % intervals of the shares of the gaps (Student's t)."""
    by_seed: dict[int, dict[str, dict[str, float]]] = defaultdict(dict)
    for line in results:
        by_seed[line["seed"]][line["setting"]] = line["result"]
    lines = [
        "| record | bytes | seeds | loss | closed | KL | closed | accepted | ECE | angle | norm |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for recipe in recipes():
        one = recipe.name
        seeds = [found for found in by_seed.values() if one in found]
        if not seeds:
            continue
        mean = {
            name: statistics.fmean(found[one].get(name, math.nan) for found in seeds)
            for name in ("loss", "kl", "acceptance", "ece", "angle", "norm_ratio")
        }
        size = f"{bytes_of[one]:.1f}" if one in bytes_of else ""
        lines.append(
            f"| {one} | {size} | {len(seeds)} | {mean['loss']:.3f} | "
            f"{_closed(seeds, one, 'loss')} | {mean['kl']:.3f} | {_closed(seeds, one, 'kl')} | "
            f"{mean['acceptance']:.1%} | {mean['ece']:.1%} | "
            f"{mean['angle']:.1f} | {mean['norm_ratio']:.2f} |"
        )
    return "\n".join(lines)


def _closed(seeds: list[dict[str, dict[str, float]]], name: str, figure: str) -> str:
    """Share of the mean gap from hard labels to the live teacher, with its 95 % interval.

    A ratio of means, its error by linearisation (Cochran 1977, 6.4): gaps differ several times over
    from seed to seed, and a mean of ratios would be the small ones' noise.
    """
    hard = [found["hard labels"][figure] for found in seeds]
    gaps = [one - found["dense teacher"][figure] for one, found in zip(hard, seeds, strict=True)]
    closed = [one - found[name][figure] for one, found in zip(hard, seeds, strict=True)]
    gap = statistics.fmean(gaps)
    share = statistics.fmean(closed) / gap
    if len(seeds) < 2:
        return f"{share:.0%}"
    left = [one - share * whole for one, whole in zip(closed, gaps, strict=True)]
    error = statistics.stdev(left) / math.sqrt(len(left)) / gap
    return f"{share:.0%} ± {100 * error * stats.t.ppf(0.975, len(left) - 1):.0f}"


def main() -> None:
    """Parse, train what is missing, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--teacher", type=Path, help="transformers folder; default: train one")
    parser.add_argument("--seeds", default="0,1,2,3,4")
    parser.add_argument("--only", default="", help="recipes that begin with one of these, by ';'")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--windows", type=int, default=8, help="of 256 targets, a step")
    parser.add_argument("--lr", type=float, default=5e-3)
    parser.add_argument("--results", type=Path, default=Path("bench_fidelity.jsonl"))
    parser.add_argument("--table", action="store_true", help="print what is there, train nothing")
    args = parser.parse_args()
    starts = tuple(one for one in args.only.split(";") if one)
    # Hard labels and the live teacher bound the gap, so they are trained with any choice.
    chosen = [one for one in recipes() if one.spec is None or one.name.startswith(starts or "")]
    with tempfile.TemporaryDirectory() as scratch:
        if not args.table:
            folder = teacher_folder(args.teacher, Path(scratch))
            _run(folder, Path(scratch), chosen, args)
        results = [json.loads(line) for line in args.results.read_text().splitlines()]
        bytes_of = {one["setting"]: one["bytes"] for one in results if "bytes" in one}
        print(table([one for one in results if "result" in one], bytes_of))


def _run(folder: Path, scratch: Path, chosen: list[Recipe], args: argparse.Namespace) -> None:
    text = sources(scratch / "text.jsonl", characters=CHARACTERS)
    corpus = Windows.read(folder, text)
    size = vocab_size(load_tokenizer(str(folder)))
    teacher = TransformersTeacher.load(str(folder), vocab_size=size, device="cpu", dtype="float32")
    for seed in map(int, args.seeds.split(",")):
        _append(
            args.results,
            [
                {"seed": seed, "setting": one.name, "result": result}
                for one, result in train(teacher, corpus, chosen, seed=seed, args=args)
            ],
        )
    weighed = weigh(folder, chosen)
    _append(args.results, [{"setting": name, "bytes": size} for name, size in weighed.items()])


def _append(path: Path, lines: list[dict[str, Any]]) -> None:
    with path.open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)


if __name__ == "__main__":
    main()
