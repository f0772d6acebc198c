"""Ways to store the entries of real rows: bytes, loss, and what writing and reading them costs.

Every layout holds the same targets of a teacher over real text: ids as they are or by rank, in the
order of probability or sorted, by row or by entry, packed by zstd or pcodec. A second table is of
the steps in which values are stored, rounded to the nearest or, so that their mean is right, at
random. Entries alone are counted: no scalars, tokens or container.

    python -m tools.bench_codec --teacher FOLDER [--teacher FOLDER ...]
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from numcodecs.zstd import Zstd
from pcodec import ChunkConfig, standalone

from logitstore.corpus.tokenizer import load_tokenizer, vocab_size
from logitstore.sparsify import SPARSIFIERS
from logitstore.sparsify.build import sparsifier_spec
from logitstore.targets.documents import Document, document_id
from logitstore.targets.draws import row_keys
from logitstore.targets.targets import SparseTargets
from logitstore.teacher.transformers import TransformersTeacher
from tools.bench_corpus import sources, teacher_folder, wide_teacher

WINDOW = 256
SPECS = {
    "topk 64": sparsifier_spec("topk", k=64),
    "unbiased 16": sparsifier_spec("unbiased", k=16),
    "hybrid 8 + 16": sparsifier_spec("hybrid", k=8, tail_draws=16),
    "sample 50": sparsifier_spec("sample", draws=50),
}
VALUE_STEPS = (1, 2, 4, 8, 12, 16, 32, 64)

_Packer: TypeAlias = Callable[[np.ndarray], bytes]
_Unpacker: TypeAlias = Callable[[bytes], object]


@dataclass(frozen=True, slots=True)
class Rows:
    """Entries of one kind, a row's in use first."""

    targets: SparseTargets
    codes_RK: np.ndarray  # steps of 1/12 nat above the row's least, 0 for drawn ones and padding
    rank_V: np.ndarray  # id -> rank


def rows_of(teacher: TransformersTeacher, documents: list[Document], name: str) -> SparseTargets:
    """The targets of all documents."""
    spec, parts = SPECS[name], []
    for document in documents:
        keys_R, start = row_keys(document, seed=0), 0
        with torch.inference_mode():
            for logits_RV, labels_R in teacher.logits([document]):
                keys = keys_R[start : start + len(labels_R)]
                parts.append(SPARSIFIERS[spec.name].draw(logits_RV, labels_R, keys, spec)[0])
                start += len(labels_R)
    return SparseTargets.concatenate(parts)


def coded(targets: SparseTargets, vocab_size: int, *, counted: bool) -> Rows:
    """Values as codes, and the table of ranks."""
    exact_RK = targets.exact_RK()
    counts_V = np.bincount(targets.ids_RK[targets.used_RK()], minlength=vocab_size)
    rank_V = np.empty(vocab_size, dtype=np.uint32)
    rank_V[np.argsort(-counts_V, kind="stable")] = np.arange(vocab_size, dtype=np.uint32)
    if counted:
        codes_RK = np.rint(targets.weights_RK * targets.k) * targets.used_RK()
        return Rows(targets, codes_RK.astype(np.uint32), rank_V)
    return Rows(targets, _codes(targets.logprobs_RK, exact_RK, 12), rank_V)


def _codes(
    logprobs_RK: np.ndarray, exact_RK: np.ndarray, steps: int, *, dither: bool = False
) -> np.ndarray:
    least_R = logprobs_RK.min(axis=1, where=exact_RK, initial=np.inf)
    above_RK = np.where(exact_RK, logprobs_RK - least_R[:, None], 0) * steps
    if dither:
        # Up with the chance that makes the mean of e^(code / steps) right.
        low_RK = np.floor(above_RK)
        chance_RK = np.expm1((above_RK - low_RK) / steps) / math.expm1(1 / steps)
        draw_RK = np.random.default_rng(0).random(above_RK.shape)
        whole_RK = low_RK + (draw_RK < chance_RK)
    else:
        whole_RK = np.rint(above_RK)
    return ((whole_RK + 1) * exact_RK).astype(np.uint32)


def layouts(rows: Rows) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Name -> ids and codes, as they would be packed."""
    targets, codes_RK = rows.targets, rows.codes_RK
    used_RK = targets.used_RK()
    by_probability_RK = np.argsort(np.where(used_RK, -targets.logprobs_RK, np.inf), axis=1)
    falling = [
        np.take_along_axis(one, by_probability_RK, axis=1)
        for one in (targets.ids_RK, rows.rank_V[targets.ids_RK], codes_RK)
    ]
    by_id, by_id_codes = _sorted_deltas(targets.ids_RK, codes_RK, used_RK)
    by_rank, by_rank_codes = _sorted_deltas(rows.rank_V[targets.ids_RK], codes_RK, used_RK)
    return {
        "ids by falling probability": (falling[0], falling[2]),
        "ranks by falling probability": (falling[1], falling[2]),
        "sorted ids, deltas": (by_id, by_id_codes),
        "sorted ranks, deltas": (by_rank, by_rank_codes),
        "sorted ranks, deltas, by entry": (by_rank.T, by_rank_codes.T),
    }


def _sorted_deltas(
    keys_RK: np.ndarray, codes_RK: np.ndarray, used_RK: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    order_RK = np.argsort(np.where(used_RK, keys_RK, np.iinfo(np.uint32).max), axis=1)
    sorted_RK = np.take_along_axis(keys_RK, order_RK, axis=1)
    deltas_RK = np.diff(sorted_RK, axis=1, prepend=0)
    deltas_RK[~used_RK] = 0
    return deltas_RK, np.take_along_axis(codes_RK, order_RK, axis=1)


def packers() -> dict[str, tuple[_Packer, _Unpacker]]:
    """Name -> pack, unpack."""
    found: dict[str, tuple[_Packer, _Unpacker]] = {}
    for level in (1, 3, 9, 17, 19):
        zstd = Zstd(level=level)
        found[f"byte planes, zstd {level}"] = (zstd.encode, zstd.decode)
    found["pcodec"] = (
        lambda one: standalone.simple_compress(one, ChunkConfig()),
        standalone.simple_decompress,
    )
    return found


def measure(
    array: np.ndarray, name: str, pack: _Packer, unpack: _Unpacker
) -> tuple[int, float, float]:
    """Bytes, seconds of CPU to pack, and to unpack."""
    values = np.ascontiguousarray(array.astype("<u4"))
    parts = [values.ravel()]
    if name != "pcodec":
        bytes_X4 = values.view(np.uint8).reshape(-1, 4)
        parts = [np.ascontiguousarray(one) for one in bytes_X4.T if one.any()]
    began = time.process_time()
    packed = [pack(part) for part in parts]
    middle = time.process_time()
    for one in packed:
        unpack(one)
    return sum(map(len, packed)), middle - began, time.process_time() - middle


def step_rows(rows: Rows) -> list[str]:
    """Bytes of the codes and KL of the head, for value steps rounded in two ways."""
    targets, lines = rows.targets, []
    exact_RK, order = targets.exact_RK(), np.argsort(rows.rank_V[targets.ids_RK], axis=1)
    p_RK = np.where(exact_RK, targets.weights_RK, 0).astype(np.float64)
    pack = Zstd(level=9).encode
    for steps in VALUE_STEPS:
        cells = []
        for dither in (False, True):
            codes_RK = _codes(targets.logprobs_RK, exact_RK, steps, dither=dither)
            size, _, _ = measure(
                np.take_along_axis(codes_RK, order, axis=1), "zstd", pack, Zstd().decode
            )
            q_RK = np.where(exact_RK, np.exp((codes_RK - 1.0) / steps), 0)
            # A row keeps its mass.
            q_RK *= (p_RK.sum(axis=1) / np.maximum(q_RK.sum(axis=1), 1e-300))[:, None]
            ratio_RK = np.where(exact_RK, p_RK / np.maximum(q_RK, 1e-300), 1)
            divergence = (p_RK * np.log(ratio_RK)).sum(axis=1).mean()
            cells += [f"{size / len(targets):.1f}", f"{divergence:.1e}"]
        lines.append(f"| 1/{steps} | " + " | ".join(cells) + " |")
    return lines


def report(folder: Path, text: Path, *, targets: int) -> None:
    """The tables of one teacher."""
    size = vocab_size(load_tokenizer(str(folder)))
    teacher = TransformersTeacher.load(str(folder), vocab_size=size, device="cpu", dtype="float32")
    documents = _documents(folder, text, targets=targets)
    for name in SPECS:
        found = rows_of(teacher, documents, name)
        rows = coded(found, size, counted=name.startswith("sample"))
        entropy = float(found.entropy_R.mean())
        print(f"\n{name}, V = {size:,}, {len(found):,} targets, entropy {entropy:.2f} nats\n")
        print("| layout | packed by | ids | codes | bytes | write, us | read, us |")
        print("|---|---|---|---|---|---|---|")
        for layout, arrays in layouts(rows).items():
            for packer, (pack, unpack) in packers().items():
                (ids, *a), (codes, *b) = (measure(one, packer, pack, unpack) for one in arrays)
                seconds = [(x + y) / len(found) * 1e6 for x, y in zip(a, b, strict=True)]
                per = [one / len(found) for one in (ids, codes, ids + codes)]
                print(
                    f"| {layout} | {packer} | {per[0]:.1f} | {per[1]:.1f} | {per[2]:.1f} | "
                    f"{seconds[0]:.1f} | {seconds[1]:.2f} |"
                )
        if not name.startswith("sample"):
            print("\n| value step, nats | nearest: bytes | KL | at random: bytes | KL |")
            print("|---|---|---|---|---|")
            print("\n".join(step_rows(rows)))


def _documents(folder: Path, text: Path, *, targets: int) -> list[Document]:
    tokenizer = load_tokenizer(str(folder))
    with text.open() as file:
        texts = [json.loads(line)["text"] for line in file]
    ids = np.concatenate(tokenizer(texts, add_special_tokens=False)["input_ids"]).astype(np.uint32)
    counted_L = np.arange(WINDOW + 1) > 0
    return [
        Document(
            id=document_id(source="bench", record=number, piece=0),
            record=number,
            piece=0,
            input_ids_L=ids[number * WINDOW : (number + 1) * WINDOW + 1],
            counted_L=counted_L,
        )
        for number in range(min(targets, len(ids) - 1) // WINDOW)
    ]


def _teachers(scratch: Path) -> list[Path]:
    return [teacher_folder(None, scratch), wide_teacher(scratch)]


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--teacher", type=Path, action="append", help="default: train two")
    parser.add_argument("--targets", type=int, default=65_536)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        text = sources(Path(scratch) / "text.jsonl", characters=8 * args.targets)
        for folder in args.teacher or _teachers(Path(scratch)):
            report(folder, text, targets=args.targets)


if __name__ == "__main__":
    main()
