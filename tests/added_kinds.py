"""A sparsifier and a codec as somebody else would add them, and the lines that they take.

`tests/test_kinds.py` runs this module in a process of its own, where its two lines stand in the
tables before anything else is imported: `python -m tests.added_kinds CODEC COMMANDS`.
"""

import json
import sys
from dataclasses import replace
from typing import Any

import numpy as np

from logitstore.codec import CODECS
from logitstore.codec.base import FIDELITIES, CodecKind
from logitstore.codec.integers import decode_documents, encode_documents
from logitstore.errors import CorruptionError
from logitstore.format.columns import Columns
from logitstore.options import Option
from logitstore.sparsify import SPARSIFIERS
from logitstore.sparsify.options import K
from logitstore.targets.documents import DocumentBlock
from logitstore.targets.kinds import TargetKind
from logitstore.targets.sparsifier import Sparsifier
from logitstore.targets.targets import EMPTY_TAIL, SparseTargets, none_sampled
from tests.several_commands import main


class RawCodec:
    """Ids and the bits of float32 log-probabilities as they are: no ranking, no table, no step."""

    entries = ("entry", "bits")
    table_names = ()
    by_entry = False
    stated_kl = 0.0
    stated_drawn_kl = 0.0

    def __init__(self, spec: Any, sparsifier: Any, kind: TargetKind, vocab_size: int) -> None:
        self.spec, self.sparsifier, self.kind, self.vocab_size = spec, sparsifier, kind, vocab_size

    def stated_kl_at(self, temperature: float) -> float:
        return 0.0

    def scalar_names(self, *, sampler_logprobs: bool) -> tuple[str, ...]:
        tails = [f"tail_{node}" for node in range(len(self.sparsifier.tail_nodes))]
        return ("count", "label", "entropy", *tails)

    def tables(self, blocks: Any) -> dict[str, np.ndarray]:
        return {}

    def check_tables(self, tables: Any) -> None:
        if tables:
            raise CorruptionError("tables unknown", found=", ".join(tables))

    def encode(self, block: DocumentBlock, tables: Any) -> Columns:
        one = block.targets
        scalars = {
            "count": one.count_R.astype(np.uint32),
            "label": one.label_logprob_R.view(np.uint32),
            "entropy": one.entropy_R.view(np.uint32),
        }
        tails = np.ascontiguousarray(one.tail_logmass_RB.T).view(np.uint32)
        return Columns(
            entries={"entry": one.ids_RK, "bits": one.logprobs_RK.view(np.uint32)},
            scalars=scalars | {f"tail_{node}": tail_R for node, tail_R in enumerate(tails)},
            tokens_N=block.input_ids_N,
            counted_N=block.counted_N.astype(np.uint8),
            documents_DC=encode_documents(block),
        )

    def decode(self, columns: Columns, tables: Any, *, draw: int = 0) -> DocumentBlock:
        def floats(values: np.ndarray) -> np.ndarray:
            return np.ascontiguousarray(values, dtype=np.uint32).view(np.float32)

        self._check(columns)
        tails = [columns.scalars[f"tail_{n}"] for n in range(len(self.sparsifier.tail_nodes))]
        ids_RK = np.ascontiguousarray(columns.entries["entry"], dtype=np.uint32)
        targets = SparseTargets(
            kind=self.kind,
            ids_RK=ids_RK,
            logprobs_RK=floats(columns.entries["bits"]),
            sampled_RK=none_sampled(*ids_RK.shape),
            count_R=columns.scalars["count"].astype(np.int32),
            tail_logmass_RB=np.stack([floats(one) for one in tails], axis=1),
            label_logprob_R=floats(columns.scalars["label"]),
            entropy_R=floats(columns.scalars["entropy"]),
        )
        return DocumentBlock(
            **decode_documents(columns.documents_DC),
            input_ids_N=columns.tokens_N,
            counted_N=columns.counted_N.astype(bool),
            targets=targets,
        )

    def _check(self, columns: Columns) -> None:
        """A store may come from anywhere: nothing about its integers is taken for granted."""
        tokens, targets = (int(columns.documents_DC[:, column].sum()) for column in (4, 5))
        shapes: dict[str, tuple[int, ...]] = dict.fromkeys(
            self.entries, (targets, self.sparsifier.k)
        )
        tails = [f"tail_{node}" for node in range(len(self.sparsifier.tail_nodes))]
        shapes |= dict.fromkeys(("count", "label", "entropy", *tails), (targets,))
        held = {**columns.entries, **columns.scalars}
        for name, shape in shapes.items():
            found = held[name].shape if name in held else None
            if found != shape:
                raise CorruptionError("a column is missing", place=name, found=found, allowed=shape)
        if (len(columns.tokens_N), int(columns.counted_N.sum())) != (tokens, targets):
            raise CorruptionError("the table of documents does not add up", place="documents")
        for name, ids in (("entry", columns.entries["entry"]), ("tokens", columns.tokens_N)):
            if ids.max(initial=0) >= self.vocab_size:
                raise CorruptionError("an id is beyond the vocabulary", place=name)
        count_R = columns.scalars["count"]
        if targets and not (count_R.min() >= 1 and count_R.max() <= self.sparsifier.k):
            raise CorruptionError("a count is out of range", place="count")


def _draw(logits_RV: Any, labels_R: Any, keys_R: Any, spec: Any) -> Any:
    """The tokens of at least `made_up_share` times the highest probability (min-p), at most K."""
    from logitstore.sparsify.heads import head_targets

    whole = head_targets(logits_RV, labels_R, spec, kind=MADE_UP.targets)
    floor_R1 = whole.logprobs_RK[:, :1] + np.log(spec.options["made_up_share"])
    count_R = (whole.used_RK() & (whole.logprobs_RK >= floor_R1)).sum(axis=1).astype(np.int32)
    cut_RK = whole.used_RK() & (np.arange(whole.k) >= count_R[:, None])
    tails = []
    for column, node in enumerate(spec.tail_nodes):
        left_R = np.where(cut_RK, np.exp(node * whole.logprobs_RK), 0).sum(axis=1)
        tails.append(np.log(np.exp(whole.tail_logmass_RB[:, column]) + left_R))
    return (
        replace(
            whole,
            ids_RK=np.where(cut_RK, 0, whole.ids_RK),
            logprobs_RK=np.where(cut_RK, np.float32(EMPTY_TAIL), whole.logprobs_RK),
            count_R=count_R,
            tail_logmass_RB=np.stack(tails, axis=1).astype(np.float32),
        ),
    )


_SHARE = Option(
    name="made_up_share",
    kind=float,
    help="Least share of the highest probability.",
    above=0,
    most=1,
)
MADE_UP = Sparsifier(
    name="made_up",
    summary="the tokens of a share of the highest probability",
    targets=SPARSIFIERS["topk"].targets,
    options={K: 64, _SHARE: 0.01},
    room=("k",),
    codec="rank-delta/1",
    draw=_draw,
    compared=({"k": 64, "made_up_share": 0.01},),
)


def add(codec: str) -> None:
    """The lines in the tables; `codec` is that of the new sparsifier."""
    presets: dict[str, dict[str, int]] = {name: {} for name in FIDELITIES}
    CODECS["made-up/1"] = CodecKind(
        id="made-up/1", summary="as they are", presets=presets, build=RawCodec
    )
    SPARSIFIERS["made_up"] = replace(MADE_UP, codec=codec)


if __name__ == "__main__":
    add(sys.argv[1])
    main(json.loads(sys.argv[2]))
