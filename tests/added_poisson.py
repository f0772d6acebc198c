"""A sparsifier whose drawn weights sum to 1 on average alone, and a codec for its targets.

Poisson sampling: a token below the threshold t is drawn by a number of its own, with the chance
p / t, and weighs t. `tests/test_poisson.py` runs this module in a process of its own, where its two
lines stand in the tables: `python -m tests.added_poisson COMMANDS`.
"""

import json
import sys
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
from logitstore.targets.kinds import Entries, TargetKind
from logitstore.targets.sparsifier import Sparsifier
from logitstore.targets.targets import EMPTY_TAIL, SparseTargets
from tests.several_commands import main

KIND = TargetKind(entries=Entries.WEIGHTED, keeps_tail=False, weights_sum_to_one=False)
_DRAWN = np.uint32(1 << 31)


class DrawnBitsCodec:
    """Ids as they are, and the bits of -log of a weight, with the sign bit for a drawn entry."""

    entries = ("id", "bits")
    table_names = ()
    by_entry = False
    stated_kl = 0.0
    stated_drawn_kl = 0.0

    def __init__(self, spec: Any, sparsifier: Any, kind: TargetKind, vocab_size: int) -> None:
        self.spec, self.sparsifier, self.kind, self.vocab_size = spec, sparsifier, kind, vocab_size

    def stated_kl_at(self, temperature: float) -> float:
        return 0.0

    def scalar_names(self, *, sampler_logprobs: bool) -> tuple[str, ...]:
        return ("count", "label", "entropy")

    def tables(self, blocks: Any) -> dict[str, np.ndarray]:
        return {}

    def check_tables(self, tables: Any) -> None:
        if tables:
            raise CorruptionError("tables unknown", found=", ".join(tables))

    def encode(self, block: DocumentBlock, tables: Any) -> Columns:
        one = block.targets
        nats_RK = np.abs(one.logprobs_RK)  # no weight is above 1
        return Columns(
            entries={
                "id": one.ids_RK,
                "bits": nats_RK.view(np.uint32) | one.sampled_RK * _DRAWN,
            },
            scalars={
                "count": one.count_R.astype(np.uint32),
                "label": one.label_logprob_R.view(np.uint32),
                "entropy": one.entropy_R.view(np.uint32),
            },
            tokens_N=block.input_ids_N,
            counted_N=block.counted_N.astype(np.uint8),
            documents_DC=encode_documents(block),
        )

    def decode(self, columns: Columns, tables: Any, *, draw: int = 0) -> DocumentBlock:
        def floats(values: np.ndarray) -> np.ndarray:
            return np.ascontiguousarray(values, dtype=np.uint32).view(np.float32)

        bits_RK = np.ascontiguousarray(columns.entries["bits"], dtype=np.uint32)
        targets = SparseTargets(
            kind=self.kind,
            ids_RK=np.ascontiguousarray(columns.entries["id"], dtype=np.uint32),
            logprobs_RK=-floats(bits_RK & ~_DRAWN),
            sampled_RK=bits_RK >= _DRAWN,
            count_R=columns.scalars["count"].astype(np.int32),
            tail_logmass_RB=np.zeros((len(bits_RK), 0), dtype=np.float32),
            label_logprob_R=floats(columns.scalars["label"]),
            entropy_R=floats(columns.scalars["entropy"]),
        )
        return DocumentBlock(
            **decode_documents(columns.documents_DC),
            input_ids_N=columns.tokens_N,
            counted_N=columns.counted_N.astype(bool),
            targets=targets,
        )


def draw(logits_RV: Any, labels_R: Any, keys_R: Any, spec: Any) -> tuple[SparseTargets, ...]:
    """The likeliest token and those above the threshold exactly, each other by its own chance."""
    import torch

    from logitstore.sparsify.distribution import targets_of
    from logitstore.targets.draws import uniforms

    threshold = float(spec.options["threshold"])
    logp_RV = logits_RV.double().log_softmax(-1)
    p_RV = logp_RV.exp()
    exact_RV = (p_RV >= threshold) | (p_RV == p_RV.amax(-1, keepdim=True))
    chances_RV = torch.from_numpy(uniforms(keys_R, count=p_RV.shape[1], draw=0)).to(p_RV)
    drawn_RV = ~exact_RV & (chances_RV < p_RV / threshold)
    used_RV = exact_RV | drawn_RV
    # The entries in use first; more than there is room for are some 8 standard deviations away.
    ids_RK = used_RV.int().argsort(dim=-1, descending=True, stable=True)[:, : spec.k]
    assert int(used_RV.sum(-1).max()) <= spec.k
    values_RV = torch.where(exact_RV, logp_RV, float(np.log(threshold)))
    return (
        targets_of(
            ids_RK,
            values_RV.gather(1, ids_RK),
            kind=KIND,
            used_RK=used_RV.gather(1, ids_RK),
            exact_RK=exact_RV.gather(1, ids_RK),
            tail_logmass_RB=p_RV[:, :0],
            label_logprob_R=logp_RV.gather(1, labels_R[:, None])[:, 0].clamp(min=EMPTY_TAIL),
            entropy_R=-(p_RV * logp_RV).sum(-1),
        ),
    )


_THRESHOLD = Option(
    name="threshold", kind=float, help="What is kept exactly, and a draw's weight.", above=0, most=1
)
POISSON = Sparsifier(
    name="poisson",
    summary="the tokens above a threshold, and each other with a chance of its own",
    targets=KIND,
    options={K: 96, _THRESHOLD: 0.03},
    room=("k",),
    codec="drawn-bits/1",
    draw=draw,
)


def add() -> None:
    """The lines in the tables."""
    presets: dict[str, dict[str, int]] = {name: {} for name in FIDELITIES}
    CODECS["drawn-bits/1"] = CodecKind(
        id="drawn-bits/1", summary="as they are", presets=presets, build=DrawnBitsCodec
    )
    SPARSIFIERS["poisson"] = POISSON


if __name__ == "__main__":
    add()
    main(json.loads(sys.argv[1]))
