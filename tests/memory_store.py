"""A store in memory, its teacher a table of distributions: what tests of `trainer` read."""

import copy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from logitstore.codec import new_codec
from logitstore.errors import StoreError
from logitstore.format.blocks import BlockCounts
from logitstore.format.spec import SparsifierSpec
from logitstore.sparsify import SPARSIFIERS, sparsifier_of
from logitstore.targets.documents import Document, DocumentBlock, StoredDocument
from logitstore.targets.targets import EMPTY_TAIL, SparseTargets, none_sampled

VOCAB = 24
NODES = (1.0, 0.75, 0.5, 0.25)


def teacher_logprobs(seed=0, vocab=VOCAB, sharpness=2.0):
    """float64 [V, V]: row i is the teacher's distribution of the token behind token i."""
    logits = sharpness * np.random.default_rng(seed).normal(size=(vocab, vocab))
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def targets_of(logprobs_RV, labels_R, *, k):
    """The k largest entries of each row, the tail's log-masses, the label's log-probability."""
    order_RK = np.argsort(-logprobs_RV, axis=1)[:, :k]
    tail_RV = logprobs_RV.copy()
    np.put_along_axis(tail_RV, order_RK, -np.inf, axis=1)
    with np.errstate(divide="ignore"):
        tail_RB = np.stack([np.log(np.exp(node * tail_RV).sum(axis=1)) for node in NODES], axis=1)
    return SparseTargets(
        ids_RK=order_RK.astype(np.uint32),
        logprobs_RK=np.take_along_axis(logprobs_RV, order_RK, axis=1).astype(np.float32),
        kind=SPARSIFIERS["topk"].targets,
        sampled_RK=none_sampled(*order_RK.shape),
        count_R=np.full(len(labels_R), order_RK.shape[1], dtype=np.int32),
        tail_logmass_RB=np.maximum(tail_RB, EMPTY_TAIL).astype(np.float32),
        label_logprob_R=logprobs_RV[np.arange(len(labels_R)), labels_R].astype(np.float32),
        entropy_R=-(np.exp(logprobs_RV) * logprobs_RV).sum(axis=1).astype(np.float32),
    )


class MemoryStore:
    """`blocks` blocks of short documents; about one token in eight does not count.

    Its targets are the top `k`, or those that `sparsifier` makes; as they are, or, with a
    `fidelity`, as they come back from the codec. The text is that of a teacher of another seed,
    where there is a `text_seed`: this one then knows nothing of it. With a `teacher_sharpness` it
    knows which tokens are likely, and is more or less sure of them than it should be.
    """

    def __init__(
        self,
        *,
        blocks=12,
        documents=5,
        longest=12,
        k=VOCAB,
        seed=0,
        tokenizer=None,
        sparsifier=None,
        fidelity=None,
        text_seed=0,
        sharpness=2.0,
        teacher_sharpness=None,
    ):
        self.draw = 0
        self._text_VV = teacher_logprobs(text_seed, sharpness=sharpness)
        self._teacher_VV = teacher_logprobs(sharpness=teacher_sharpness or sharpness)
        sparsifier = sparsifier or SparsifierSpec(name="topk", k=k, tail_nodes=NODES)
        self._blocks = [
            self._block(number, documents, longest=longest, sparsifier=sparsifier, seed=seed)
            for number in range(blocks)
        ]
        codec = new_codec(sparsifier, vocab_size=VOCAB, fidelity=fidelity or "balanced")
        if fidelity is not None:
            self._blocks = [_coded(block, codec) for block in self._blocks]
        self.blocks = tuple(
            BlockCounts(
                documents=len(block),
                tokens=len(block.input_ids_N),
                targets=len(block.targets),
            )
            for block in self._blocks
        )
        self.fingerprint = f"{seed:064x}"
        self.uri = "memory"
        self.tokenizer = tokenizer
        self.reads = []
        self.spec = SimpleNamespace(
            teacher=SimpleNamespace(name="table"),
            tokenizer=SimpleNamespace(
                fingerprint="v" * 64, vocab_size=VOCAB, bos_token_id=None, eos_token_id=0
            ),
            text=SimpleNamespace(max_length=longest),
            sparsifier=sparsifier,
            codec=codec.spec,
        )

    def tokenizer_files(self):
        if self.tokenizer is None:
            return {}
        return {path.name: path.read_bytes() for path in Path(self.tokenizer).iterdir()}

    def with_draw(self, draw):
        if not 0 <= draw < self.spec.sparsifier.draw_count:
            raise StoreError("no such draw", found=draw)
        other = copy.copy(self)  # `reads` is the same list
        other.draw = draw
        return other

    def __len__(self):
        return sum(len(block) for block in self._blocks)

    def __iter__(self):
        for number in range(len(self._blocks)):
            yield from self._read(number).split()

    def document_lengths(self, number):
        block = self._blocks[number]
        return block.token_lengths_D, block.target_lengths_D

    def read_block(self, number):
        self.reads.append(number)
        return self._read(number)

    def _read(self, number):
        block = self._blocks[number]
        return replace(block, targets=block.draws[self.draw], other_draws=())

    def _block(self, number, documents, *, longest, sparsifier, seed):
        draw = np.random.default_rng([seed, number])
        return DocumentBlock.join(
            [
                _document(
                    draw,
                    number=number * documents + place,
                    longest=longest,
                    sparsifier=sparsifier,
                    text_VV=self._text_VV,
                    teacher_VV=self._teacher_VV,
                )
                for place in range(documents)
            ]
        )


def _coded(block, codec):
    tables = codec.tables([block])
    columns = codec.encode(block, tables)
    draws = [
        codec.decode(columns, tables, draw=number).targets for number in range(len(block.draws))
    ]
    return replace(block, targets=draws[0], other_draws=tuple(draws[1:]))


def _document(draw, *, number, longest, sparsifier, text_VV, teacher_VV):
    length = int(draw.integers(1, longest + 1))
    ids = [int(draw.integers(VOCAB))]
    while len(ids) < length:
        chances = np.exp(text_VV[ids[-1]])
        ids.append(int(draw.choice(VOCAB, p=chances / chances.sum())))
    input_ids_L = np.array(ids, dtype=np.uint32)
    counted_L = draw.random(length) > 1 / 8
    counted_L[0] = False
    at = np.flatnonzero(counted_L)
    draws = _draws(teacher_VV[input_ids_L[at - 1]], input_ids_L[at], sparsifier, number=number)
    return StoredDocument(
        document=Document(
            id=number.to_bytes(16, "big"),
            record=number,
            piece=0,
            input_ids_L=input_ids_L,
            counted_L=counted_L,
        ),
        targets=draws[0],
        other_draws=tuple(draws[1:]),
    )


def _draws(logprobs_RV, labels_R, sparsifier, *, number):
    """Each draw of the targets; the top k in float64, all others as a dump makes them."""
    if sparsifier.name == "topk":
        return (targets_of(logprobs_RV, labels_R, k=sparsifier.k),)
    return sparsifier_of(sparsifier).draw(
        torch.from_numpy(logprobs_RV.astype(np.float32)),
        torch.from_numpy(labels_R.astype(np.int64)),
        1000 * np.uint64(number) + np.arange(len(labels_R), dtype=np.uint64),
        sparsifier,
    )
