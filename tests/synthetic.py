"""Documents with targets that look like a teacher's, and stores made of them without a teacher."""

from __future__ import annotations

import numpy as np

from logitstore.codec import new_codec
from logitstore.format.plan import Plan, WorkUnit
from logitstore.format.spec import (
    FORMAT,
    CorpusSpec,
    SparsifierSpec,
    StoreSpec,
    TeacherSpec,
    TextSpec,
    TokenizerSpec,
)
from logitstore.sparsify import SPARSIFIERS
from logitstore.store.commit import StoreWriter
from logitstore.store.layout import StoreLayout
from logitstore.store.storage import StorageLike
from logitstore.store.writer import UnitWriter
from logitstore.targets.documents import Document, StoredDocument, document_id
from logitstore.targets.targets import EMPTY_TAIL, SparseTargets, none_sampled

NODES = (1.0, 0.75, 0.5, 0.25)


def sparse_targets(
    rows: int, *, k: int = 8, vocab_size: int = 300, seed: int = 0, sharpness: float = 2.0
) -> SparseTargets:
    """The top `k` of random softmaxes, with everything that belongs to them, in float64."""
    generator = np.random.default_rng(seed)
    logits_RV = generator.normal(size=(rows, vocab_size)) * sharpness
    logits_RV -= np.log(np.arange(1, vocab_size + 1))  # low ids are frequent, as in text
    logp_RV = logits_RV - np.log(np.exp(logits_RV).sum(axis=1, keepdims=True))
    order_RV = np.argsort(-logp_RV, axis=1)
    ids_RK = order_RV[:, :k]
    tail_RV = np.take_along_axis(logp_RV, order_RV[:, k:], axis=1)
    if k < vocab_size:
        tails = [np.log(np.exp(tail_RV * b).sum(axis=1)) for b in NODES]
    else:
        tails = [np.full(rows, EMPTY_TAIL)] * len(NODES)
    labels_R = generator.integers(vocab_size, size=rows)
    return SparseTargets(
        ids_RK=ids_RK.astype(np.uint32),
        logprobs_RK=np.take_along_axis(logp_RV, ids_RK, axis=1).astype(np.float32),
        kind=SPARSIFIERS["topk"].targets,
        sampled_RK=none_sampled(rows, k),
        count_R=np.full(rows, k, dtype=np.int32),
        tail_logmass_RB=np.stack(tails, axis=1).astype(np.float32),
        label_logprob_R=logp_RV[np.arange(rows), labels_R].astype(np.float32),
        entropy_R=-(np.exp(logp_RV) * logp_RV).sum(axis=1).astype(np.float32),
    )


def stored_documents(
    lengths: list[int], *, k: int = 8, vocab_size: int = 300, seed: int = 0, masked: bool = False
) -> list[StoredDocument]:
    """Documents of `lengths` tokens; with `masked`, only about half of the tokens count."""
    generator = np.random.default_rng(seed)
    documents = []
    for number, length in enumerate(lengths):
        counted_L = np.ones(length, dtype=bool)
        if masked:
            counted_L = generator.random(length) < 0.5
            counted_L[-1] = True
        counted_L[0] = False
        document = Document(
            id=document_id(source="synthetic", record=number, piece=0),
            record=number,
            piece=0,
            input_ids_L=generator.integers(vocab_size, size=length).astype(np.uint32),
            counted_L=counted_L,
        )
        targets = sparse_targets(document.targets, k=k, vocab_size=vocab_size, seed=seed + number)
        documents.append(StoredDocument(document=document, targets=targets))
    return documents


def store_spec(
    *,
    k: int = 8,
    vocab_size: int = 300,
    container: str = "zarr",
    block_targets: int = 100,
    sparsifier: SparsifierSpec | None = None,
) -> StoreSpec:
    sparsifier = sparsifier or SparsifierSpec(name="topk", k=k, tail_nodes=NODES)
    return StoreSpec(
        format=FORMAT,
        teacher=TeacherSpec(
            name="synthetic",
            fingerprint="0" * 64,
            architecture="None",
            parameters=0,
            dtype="float32",
            device="cpu",
        ),
        tokenizer=TokenizerSpec(
            fingerprint="1" * 64, vocab_size=vocab_size, bos_token_id=None, eos_token_id=0
        ),
        corpus=CorpusSpec(name="synthetic", fingerprint="2" * 64, limit=None, unit_tokens=1000),
        text=TextSpec(text_field=None, messages_field=None, max_length=64, chat_template=None),
        sparsifier=sparsifier,
        codec=new_codec(sparsifier, vocab_size=vocab_size).spec,
        container=container,
        batch_tokens=1024,
        block_targets=block_targets,
        provenance={"created": "2000-01-01T00:00:00Z"},
    )


NO_TOKENIZER = {"tokenizer.json": b"{}"}  # stands where a store's tokenizer stands


def plan_of(units: int) -> Plan:
    return Plan(
        units=tuple(
            WorkUnit(
                name=f"{number:06d}",
                source="synthetic",
                start=number,
                stop=number + 1,
                first_record=number,
                first_line=number + 1,
                records=1,
                sha256="3" * 64,
            )
            for number in range(units)
        )
    )


def write_store(
    where: StorageLike, units: list[list[StoredDocument]], *, spec: StoreSpec, seal: bool = True
) -> StoreLayout:
    """A store whose units hold the given documents."""
    writer, plan = StoreWriter(StoreLayout.at(where)), plan_of(len(units))
    writer.begin(spec, plan, NO_TOKENIZER)
    unit_writer = UnitWriter.of(writer, spec)
    for unit, documents in zip(plan.units, units, strict=True):
        unit_writer.write(unit, documents, skipped=0)
    if seal:
        writer.seal(plan)
    return writer.layout
