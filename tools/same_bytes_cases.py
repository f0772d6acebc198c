"""The cases of `same_bytes`: which commands are run, and on which teacher and text.

Every sparsifier is dumped into every container, then students are fitted from those stores with
every loss, then these are evaluated. Paths are relative to the folder that the commands run in.
"""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tools.tiny_teacher import chats, make_teacher, texts, write_jsonl

__all__ = ["Case", "all_cases", "write_inputs"]

_INPUTS = Path("..") / "inputs"
_CONTAINERS = ("zarr", "parquet")

# name -> corpus, options. Two or more work units each, except where the corpus is a single text.
_DUMPS: dict[str, tuple[str, str]] = {
    "topk": ("text.jsonl", "--sparsify topk --k 8"),
    "topk_nodes": ("text.jsonl", "--sparsify topk --k 8 --temperature 1,2,4"),
    "topk_compact": ("text.jsonl", "--sparsify topk --k 8 --fidelity compact"),
    "topk_exact": ("text.jsonl", "--sparsify topk --k 8 --fidelity exact"),
    "topk_all_ids": ("text.jsonl", "--sparsify topk --k 300 --limit 3"),
    "topp": ("text.jsonl", "--sparsify topp --k 12 --top-p 0.9"),
    "sample": ("text.jsonl", "--sparsify sample --draws 10"),
    "sample_draws": (
        "text.jsonl",
        "--sparsify sample --draws 10 --temperature 1,2 --repeats 2 --seed 3",
    ),
    "unbiased": ("text.jsonl", "--sparsify unbiased --k 8"),
    "unbiased_draws": (
        "text.jsonl",
        "--sparsify unbiased --k 6 --temperature 0.5,1,2 --repeats 2 --fidelity exact",
    ),
    "hybrid": ("text.jsonl", "--sparsify hybrid"),
    "hybrid_nodes": (
        "text.jsonl",
        "--sparsify hybrid --k 4 --tail-draws 3 --temperature 1,3 --fidelity compact --seed 7",
    ),
    "chat": ("chat.jsonl", "--sparsify hybrid --k 4 --tail-draws 4"),
    "bad_records": ("bad.jsonl", "--skip-bad --sparsify topk --k 8"),
    "mixed_files": ("mixed", "--max-length 20 --batch-tokens 100 --dtype bfloat16"),
}
_UNIT_TOKENS = "600"
# More targets than the 65,536 of a block, so that a unit has two of them; one dump is 5 s.
_LARGE = {
    "two_blocks.zarr": "--sparsify topk --k 2 --format zarr",
    "two_blocks.parquet": "--sparsify hybrid --k 2 --tail-draws 2 --format parquet",
}

# name -> store, student, options
_FITS: dict[str, tuple[str, str, str]] = {
    **{
        f"{loss}_{temperature}": (
            f"topk.{_CONTAINERS[temperature % 2]}",
            "llama.json",
            f"--loss {loss} --temperature {temperature}",
        )
        for loss in ("forward_kl", "reverse_kl", "renormalised", "residual_to_label")
        for temperature in (1, 2)
    },
    "topp": ("topp.zarr", "llama.json", "--window 2"),
    "sample_draws": ("sample_draws.parquet", "llama.json", "--temperature 2 --epochs 2"),
    "unbiased": ("unbiased.zarr", "llama.json", ""),
    "unbiased_draws": ("unbiased_draws.zarr", "llama.json", "--temperature 2 --epochs 2"),
    "hybrid": ("hybrid.parquet", "llama.json", ""),
    "hybrid_2": ("hybrid.zarr", "llama.json", "--temperature 2"),
    "masked": ("chat.zarr", "llama.json", "--epochs 2"),
    "dropout": ("hybrid.zarr", "gpt2.json", "--seed 5"),
    "from_weights": ("topk.zarr", "teacher", "--lr 1e-4"),
}
_STUDENTS = {
    "llama.json": {
        "model_type": "llama",
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
    },
    "gpt2.json": {
        "model_type": "gpt2",
        "n_embd": 16,
        "n_layer": 1,
        "n_head": 2,
        "n_positions": 64,
    },
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One command, and the folder below which it writes all its files."""

    program: str  # "logitstore" or "trainer"
    arguments: tuple[str, ...]
    out: str

    @property
    def name(self) -> str:
        """What the table calls it."""
        return f"{self.arguments[0]} {Path(self.out).name}"


def write_inputs(work: Path) -> None:
    """Write the teachers, the corpora and the students to the folder that all commands read."""
    folder = work / _INPUTS.name
    folder.mkdir()
    make_teacher(folder / "teacher")
    make_teacher(folder / "chat_teacher", chat=True)
    write_jsonl(folder / "text.jsonl", "text", texts(40))
    write_jsonl(folder / "chat.jsonl", "messages", chats(40))
    write_jsonl(folder / "large.jsonl", "text", texts(1100, seed=1))
    lines = (folder / "text.jsonl").read_text().splitlines(keepends=True)
    (folder / "bad.jsonl").write_text("".join([*lines[:10], '{"text": "no end\n', *lines[10:]]))
    _write_mixed(folder / "mixed")
    for name, student in _STUDENTS.items():
        (folder / name).write_text(json.dumps(student))


def _write_mixed(folder: Path) -> None:
    """A corpus of one file of each kind."""
    folder.mkdir()
    (folder / "a.txt").write_text("\n".join(texts(10, seed=2)))
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts(10, seed=3))
    (folder / "b.jsonl.gz").write_bytes(gzip.compress(lines.encode(), mtime=0))
    pq.write_table(pa.table({"text": texts(10, seed=4)}), folder / "c.parquet")


def all_cases() -> list[Case]:
    """Every case, each after those whose files it reads."""
    dumps = [
        _dump(f"{name}.{container}", corpus, f"{options} --format {container}")
        for name, (corpus, options) in _DUMPS.items()
        for container in _CONTAINERS
    ]
    large = [
        _dump(name, "large.jsonl", options, unit_tokens="1000000")
        for name, options in _LARGE.items()
    ]
    evaluations = [_evaluation(name) for name in _FITS]
    return [*dumps, *large, *map(_fit, _FITS), *evaluations, _evaluation_of_text()]


def _dump(out: str, corpus: str, options: str, unit_tokens: str = _UNIT_TOKENS) -> Case:
    teacher = "chat_teacher" if corpus.startswith("chat") else "teacher"
    places = f"--teacher {_INPUTS / teacher} --data {_INPUTS / corpus} --out {out}"
    rest = f"--unit-tokens {unit_tokens} --device cpu"
    arguments = ("dump", *places.split(), *options.split(), *rest.split())
    return Case(program="logitstore", arguments=arguments, out=out)


def _fit(name: str) -> Case:
    store, student, options = _FITS[name]
    length = "" if "--epochs" in options else "--steps 6"
    places = f"--logits {store} --student {_INPUTS / student} --out runs/{name}"
    rest = "--alpha 0.5 --batch-tokens 512 --micro-tokens 160 --log-steps 1 --save-steps 3"
    defaults = f"{rest} --device cpu" if "--lr" in options else f"{rest} --device cpu --lr 3e-3"
    arguments = ("fit", *places.split(), *defaults.split(), *length.split(), *options.split())
    return Case(program="trainer", arguments=arguments, out=f"runs/{name}")


def _evaluation(name: str) -> Case:
    store, _, options = _FITS[name]
    words = options.split()
    at = words[words.index("--temperature") + 1] if "--temperature" in words else "1"
    places = f"runs/{name} --logits {store} --out evaluations/{name} --device cpu"
    arguments = ("eval", *places.split(), "--temperature", at, "--batch-tokens", "256")
    return Case(program="trainer", arguments=arguments, out=f"evaluations/{name}")


def _evaluation_of_text() -> Case:
    places = f"runs/hybrid --data {_INPUTS / 'text.jsonl'} --out evaluations/plain_text"
    arguments = ("eval", *places.split(), "--device", "cpu", "--max-length", "64")
    return Case(program="trainer", arguments=arguments, out="evaluations/plain_text")
