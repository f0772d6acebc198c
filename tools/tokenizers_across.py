"""How far the tokenizers of two models are apart: shared tokens, and spans of a text.

    python -m tools.tokenizers_across FOLDER FOLDER... --text FILE

For each pair: the share of the smaller vocabulary that the other has too, as bytes; and, each in
turn as the teacher of the other, how many spans the student's tokens form, how many of the tokens
are in one, documents that are left out, and the time beside that of the student's tokenizer alone.
"""

from __future__ import annotations

import argparse
import itertools
import time
from pathlib import Path
from typing import Any

import numpy as np

from logitstore import EMPTY_TAIL, Document, SparseTargets, StoredDocument
from logitstore.plumbing import SPARSIFIERS, load_tokenizer, vocabulary_overlap
from trainer.data.crossing import Crossing

_PIECE = 4000  # letters of a document


def main() -> None:
    """Print a table of all pairs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--text", type=Path, required=True)
    given = parser.parse_args()
    text = given.text.read_text(encoding="utf-8")
    texts = [text[start : start + _PIECE] for start in range(0, len(text), _PIECE)]
    loaded = {folder.name: load_tokenizer(str(folder)) for folder in given.folders}
    for one, two in itertools.combinations(loaded, 2):
        print(f"{one} and {two}: overlap {vocabulary_overlap(loaded[one], loaded[two]):.4f}")
    for one, two in itertools.permutations(loaded, 2):
        print(f"{one} -> {two}: {_spans(loaded[one], loaded[two], texts)}")


def _spans(teacher: Any, student: Any, texts: list[str]) -> str:
    documents = [_document(ids) for ids in teacher(texts)["input_ids"]]
    crossing = Crossing(teacher, student)
    began = time.perf_counter()
    student(texts)
    alone = time.perf_counter() - began
    found = crossing.cross(documents)
    seconds = time.perf_counter() - began - alone
    rows = sum(one.targets.rows for one in found)
    spans = sum(len(one.targets.starts_S) for one in found)
    inside = sum(int(one.targets.lengths_S.sum()) for one in found)
    left_out = sum(one.left_out is not None for one in found)
    return (
        f"{spans / rows:.3f} spans a token, {inside / rows:.2%} of {rows:,} tokens in one, "
        f"{left_out} of {len(found)} documents left out, {rows / seconds:,.0f} tokens/s "
        f"({rows / alone:,.0f} by the tokenizer alone)"
    )


def _document(ids: list[int]) -> StoredDocument:
    """A document whose teacher gives each true token a probability of 1."""
    counted_L = np.ones(len(ids), dtype=bool)
    counted_L[:1] = False
    rows = int(counted_L.sum())
    nothing_R = np.zeros(rows, dtype=np.float32)
    ids_L = np.array(ids, dtype=np.uint32)
    targets = SparseTargets(
        kind=SPARSIFIERS["topk"].targets,
        ids_RK=ids_L[counted_L][:, None],
        logprobs_RK=nothing_R[:, None],
        sampled_RK=np.zeros((rows, 1), dtype=bool),
        count_R=np.ones(rows, dtype=np.int32),
        tail_logmass_RB=np.full((rows, 1), EMPTY_TAIL, dtype=np.float32),
        label_logprob_R=nothing_R,
        entropy_R=nothing_R,
    )
    document = Document(id=bytes(16), record=0, piece=0, input_ids_L=ids_L, counted_L=counted_L)
    return StoredDocument(document=document, targets=targets)


if __name__ == "__main__":
    main()
