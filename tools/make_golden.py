"""Made tests/golden: sealed stores of the format logitstore/1, and a record of what they hold.

    python -m tools.make_golden tests/golden

The files are frozen: a format is what its readers accept, and stores of it lie on disks of users.
So this is a record of how they were made and never needs to run again for `logitstore/1`; bytes of
another layout get another codec id or format, and files of their own. It hooks into modules as they
were in version 0.1.0, by name. On one machine with one set of libraries it makes the same files,
but for the seconds of the run.

    CASE/zarr, CASE/parquet    one dump in one or both containers, a few blocks in a unit or two
    CASE/targets.npz           the documents and their targets as the sparsifier made them
    CASE/columns.npz           the integers that they were encoded to, read by zarr alone: see
                               docs/format.md; keys are UNIT.COLUMN, blocks one after another
    CASE/decoded.npz           what `logitstore.open` gives, in the form of targets.npz
    fingerprints.json          CASE/CONTAINER -> fingerprint
    functions.json             sha256 of what exp, log and logaddexp gave here, see `_functions`
    student.json, run/         an unfinished run of that student on hybrid/zarr, at a checkpoint
    finished_run.json          the reports of that run, gone on with to its end

Shapes: R targets, K entries, B stored temperatures, D documents, N tokens.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import zarr

import logitstore
import trainer
from logitstore import StoredDocument
from tools.tiny_teacher import chats, make_teacher, texts, write_jsonl

__all__ = ["main"]

_FIELDS = (
    "ids_RK",
    "logprobs_RK",
    "count_R",
    "tail_logmass_RB",
    "label_logprob_R",
    "entropy_R",
)
_BLOCK_TARGETS = 60  # instead of 65,536, so that a unit has several blocks
_CREATED = 1_767_225_600  # 2026-01-01, the time that the stores name
# Floors and odds are made with exp and log, whose last bits are those of a machine: 3e-7 nats at
# most. None of them may lie so near to the border of two steps that another machine would round
# it to the other side. Of 8,192 steps a nat 3e-7 nats are 2.5e-3.
_MARGIN = 5e-3  # steps
_STUDENT = {
    "model_type": "llama",
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "tie_word_embeddings": True,
}
_FIT: dict[str, Any] = {
    "logits": "hybrid/zarr",
    "student": "student.json",
    "alpha": 0.5,
    "temperature": 2.0,
    "steps": 8,
    "batch_tokens": 96,
    "micro_tokens": 64,
    "lr": 1e-3,
    "save_steps": 4,
    "log_steps": 1,
    "device": "cpu",
}
_STOPPED_AT = 6  # the checkpoint is that of step 4


@dataclass(frozen=True, kw_only=True, slots=True)
class _Case:
    corpus: str
    options: dict[str, Any]
    unit_tokens: int = 100
    limit: int | None = None
    more: dict[str, Any] = field(default_factory=dict)
    containers: tuple[str, ...] = ("zarr", "parquet")


_CASES = {
    # With a unit whose only record was skipped, so that its commit names no attempt.
    "topk": _Case(corpus="broken", options={"sparsify": "topk", "k": 8}, more={"skip_bad": True}),
    # Every id is kept, so all tails are empty.
    "all_ids": _Case(corpus="short", options={"sparsify": "topk", "k": 300}, containers=("zarr",)),
    # Rows shorter than K.
    "topp": _Case(
        corpus="text",
        options={"sparsify": "topp", "k": 12, "top_p": 0.9},
        more={"fidelity": "compact"},
    ),
    "sample": _Case(
        corpus="text",
        options={"sparsify": "sample", "draws": 10, "temperature": [1, 2], "repeats": 2},
        limit=4,
    ),
    "unbiased": _Case(
        corpus="text",
        options={"sparsify": "unbiased", "k": 6, "temperature": [0.5, 2], "repeats": 2},
        limit=4,
    ),
    "hybrid": _Case(corpus="text", options={"sparsify": "hybrid", "k": 4, "tail_draws": 4}),
    # Masked prompts, and tails at temperatures of its own.
    "chat": _Case(
        corpus="chat",
        options={"sparsify": "topk", "k": 5, "temperature": [1, 2, 4]},
        more={"fidelity": "exact"},
        containers=("zarr",),
    ),
}


def main() -> None:
    """Write everything to the folder that is named."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="new folder")
    out = parser.parse_args().out.resolve()
    out.mkdir()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # so that a store names its teacher and its corpus by short names
        _write_corpora()
        prints = {name: _make_case(out / name, case) for name, case in _CASES.items()}
    _write_json(
        out / "fingerprints.json",
        {f"{name}/{one}": value for name, two in prints.items() for one, value in two.items()},
    )
    _write_json(out / "functions.json", {"sha256": _functions()})
    _make_run(out)


def _write_corpora() -> None:
    short = texts(6, longest=7)
    long = texts(1, seed=1, longest=40)  # cut into pieces
    write_jsonl(Path("text.jsonl"), "text", short[:2] + long + short[2:])
    write_jsonl(Path("short.jsonl"), "text", ["a teacher", "4 rows"])
    write_jsonl(Path("chat.jsonl"), "messages", chats(4))
    broken = json.dumps({"body": "no text here " * 40}) + "\n"  # fills a unit of its own
    Path("broken.jsonl").write_text(broken + Path("text.jsonl").read_text())


# --- stores


def _make_case(folder: Path, case: _Case) -> dict[str, str]:
    """The stores of a case and its records; container -> fingerprint."""
    for seed in itertools.count():
        shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree("teacher", ignore_errors=True)
        make_teacher(Path("teacher"), seed=seed, chat=case.corpus == "chat")
        targets = _agreed([_arrays(_dump(folder / one, case)) for one in case.containers])
        columns = dict(_columns(folder / "zarr"))
        if _margin(folder / "zarr", targets, columns) > _MARGIN:
            break
    decoded = _agreed([_arrays(_open(folder / one)) for one in case.containers])
    records = {"targets": targets, "columns": columns, "decoded": decoded}
    for name, arrays in records.items():
        np.savez_compressed(folder / name, allow_pickle=False, **arrays)
    return {one: logitstore.open(folder / one).fingerprint for one in case.containers}


def _agreed(found: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """What all containers hold; a ValueError where they do not hold the same."""
    for other in found[1:]:
        same = [other[name].tobytes() == values.tobytes() for name, values in found[0].items()]
        if other.keys() != found[0].keys() or not all(same):
            raise ValueError("two containers were given the same and do not hold the same")
    return found[0]


def _dump(out: Path, case: _Case) -> list[StoredDocument]:
    """Dump a store, and give what went into it, in the order of the store."""
    written: dict[str, Sequence[StoredDocument]] = {}
    with _frozen(written):
        logitstore.dump(
            teacher="teacher",
            data=f"{case.corpus}.jsonl",
            out=out,
            container=out.name,
            limit=case.limit,
            unit_tokens=case.unit_tokens,
            device="cpu",
            **case.options,
            **case.more,
        )
    return [stored for unit in sorted(written) for stored in written[unit]]


@contextmanager
def _frozen(written: dict[str, Sequence[StoredDocument]]) -> Iterator[None]:
    """Let a dump write the same names and times always, and keep its documents in `written`."""
    write = import_module("logitstore.writer").UnitWriter.write

    def spy(self: Any, unit: Any, documents: Sequence[StoredDocument], *, skipped: int) -> bool:
        written[unit.name] = documents
        return write(self, unit, documents, skipped=skipped)

    def attempt(self: Any, unit: Any) -> tuple[str, Path]:
        name = hashlib.sha256(unit.name.encode()).hexdigest()[:8]
        return name, self.layout.data / f"{unit.name}-{name}"

    created = time.gmtime(_CREATED)
    with ExitStack() as patches:
        for name, value in {
            "logitstore.writer.UnitWriter.write": spy,
            "logitstore.commit.StoreWriter.new_attempt": attempt,
            "logitstore.job._BLOCK_TARGETS": _BLOCK_TARGETS,
            "time.gmtime": lambda: created,
        }.items():
            patches.enter_context(mock.patch(name, value))
        yield


def _open(folder: Path) -> list[StoredDocument]:
    """Every document of the store with all its draws, as a reader gives them."""
    store = logitstore.open(folder)
    draws = [list(store.with_draw(draw)) for draw in range(store.spec.sparsifier.draws)]
    return [
        StoredDocument(
            document=same[0].document,
            targets=same[0].targets,
            further=tuple(one.targets for one in same[1:]),
        )
        for same in zip(*draws, strict=True)
    ]


def _arrays(documents: list[StoredDocument]) -> dict[str, np.ndarray]:
    """Documents end to end, a key for each field, and draw<d>.FIELD for each draw of targets."""
    own = [stored.document for stored in documents]
    arrays = {
        "id_D16": np.frombuffer(b"".join(one.id for one in own), dtype=np.uint8).reshape(-1, 16),
        "record_D": np.array([one.record for one in own]),
        "piece_D": np.array([one.piece for one in own]),
        "tokens_D": np.array([len(one) for one in own]),
        "input_ids_N": np.concatenate([one.input_ids_L for one in own]),
        "counted_N": np.concatenate([one.counted_L for one in own]),
    }
    for draw in range(1 + len(documents[0].further)):
        parts = [(stored.targets, *stored.further)[draw] for stored in documents]
        for name in _FIELDS:
            arrays[f"draw{draw}.{name}"] = np.concatenate([getattr(one, name) for one in parts])
        arrays[f"draw{draw}.exact_RK"] = np.concatenate([one.exact_RK() for one in parts])
    return arrays


def _functions() -> str:
    """Which exp, log and logaddexp this machine has: their last bits are not the same on all."""
    digest = hashlib.sha256()
    for kind in (np.float32, np.float64):
        x_N = (np.arange(-20_000, 20_001) / 1000).astype(kind)
        for values_N in (np.exp(x_N), np.log(np.exp2(x_N)), np.logaddexp(kind(0), x_N)):
            digest.update(values_N.tobytes())
    return digest.hexdigest()


# --- integers, by zarr alone


def _columns(store: Path) -> Iterator[tuple[str, np.ndarray]]:
    """UNIT.COLUMN -> the integers of a unit's blocks, one after another, without the padding."""
    for unit in json.loads((store / "plan.json").read_text())["units"]:
        commit = json.loads((store / "commits" / f"{unit['name']}.json").read_text())
        if commit["attempt"] is None:
            continue
        group = zarr.open_group(store / "data" / f"{unit['name']}-{commit['attempt']}", mode="r")
        lengths = {name: [one[name] for one in commit["blocks"]] for name in commit["blocks"][0]}
        found = {"ranking": _planes(group["ranking"])["id"]}
        for name in ("entries", "scalars"):
            for column, values in _planes(group[name]).items():
                found[column] = _unpadded(values, lengths["targets"])
        for column, values in _planes(group["tokens"]).items():
            name = "tokens" if column == "id" else column
            found[name] = _unpadded(values, lengths["tokens"])
        documents: Any = group["documents"]
        found["documents"] = _unpadded(np.asarray(documents[...]), lengths["documents"])
        yield from ((f"{unit['name']}.{name}", values) for name, values in found.items())


def _planes(array: Any) -> dict[str, np.ndarray]:
    """The integers of an array of byte planes."""
    columns: dict[str, np.ndarray] = {}
    for plane, values in zip(array.attrs["planes"], array[...], strict=True):
        name, _, byte = plane.partition(".")
        wide = values.astype(np.uint32) << np.uint32(8 * int(byte or 0))
        columns[name] = columns.get(name, np.uint32(0)) + wide
    return columns


def _unpadded(values: np.ndarray, lengths: list[int]) -> np.ndarray:
    width = len(values) // len(lengths)
    return np.concatenate(
        [values[number * width :][:length] for number, length in enumerate(lengths)]
    )


# --- how near to the border of two steps


def _margin(store: Path, arrays: dict[str, np.ndarray], columns: dict[str, np.ndarray]) -> float:
    """The least distance, in steps, of a row's floor or odds to the border of two steps."""
    spec = json.loads((store / "store.json").read_text())
    steps = spec["codec"]["parameters"]
    by_name = _joined(columns)
    if spec["sparsifier"]["name"] == "sample":
        return 1.0  # counts are whole numbers, whatever exp says
    distances = [1.0]
    for draw in range(sum(name.endswith(".ids_RK") for name in arrays)):
        own = {name: arrays[f"draw{draw}.{name}_RK"] for name in ("logprobs", "exact")}
        used_RK = np.arange(own["exact"].shape[1]) < arrays[f"draw{draw}.count_R"][:, None]
        head_R = _logsumexp(own["logprobs"], own["exact"])
        if "floor" in by_name:
            codes_RK = by_name["code"].astype(np.float64)
            coded_R = _logsumexp((codes_RK - 1) / steps["value_steps"], codes_RK > 0)
            value_R = (coded_R - head_R) * steps["floor_steps"]
        else:
            rest_R = _logsumexp(own["logprobs"], used_RK & ~own["exact"])
            tail_RB = arrays[f"draw{draw}.tail_logmass_RB"]
            if tail_RB.shape[1]:
                rest_R = np.where(np.isinf(rest_R), tail_RB[:, 0], rest_R)
            value_R = (rest_R - head_R) * steps["odds_steps"]
            value_R = value_R[np.isfinite(value_R)]
        distances.append(float(np.abs(value_R - np.floor(value_R) - 0.5).min(initial=1.0)))
    return min(distances)


def _joined(columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The columns of all units as one."""
    names = sorted({name.partition(".")[2] for name in columns})
    return {
        name: np.concatenate([columns[key] for key in sorted(columns) if key[7:] == name])
        for name in names
    }


def _logsumexp(values_RK: np.ndarray, mask_RK: np.ndarray) -> np.ndarray:
    weights_RK = np.exp(values_RK.astype(np.float64)) * mask_RK
    with np.errstate(divide="ignore"):
        return np.log(weights_RK.sum(axis=1))


# --- the run


def _make_run(out: Path) -> None:
    """A run stopped between its checkpoint and its end, and the reports of its whole way."""
    os.chdir(out)  # so that the run names its student by a path that is the same anywhere
    _write_json(Path("student.json"), _STUDENT)

    def stop(report: dict[str, float]) -> None:
        if report["step"] == _STOPPED_AT:
            raise KeyboardInterrupt

    with suppress(KeyboardInterrupt):
        trainer.fit(**_FIT, out="run", report=stop)
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree("run", Path(folder) / "run")
        trainer.fit(**_FIT, out=Path(folder) / "run", resume=True)
        history = json.loads((Path(folder) / "run" / "history.json").read_text())
    timeless = [{key: one[key] for key in one if key != "seconds"} for one in history]
    _write_json(Path("finished_run.json"), {"settings": _FIT, "reports": timeless})


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
