"""The write side's only composer: corpus -> teacher -> sparsifier -> writer, unit by unit.

The forward pass has the main thread. Encoding, compressing and syncing a finished unit runs beside
it in one other thread, which costs 5-10 us a target against 130 us of a five-million-parameter
teacher on two cores.
"""

from __future__ import annotations

import hashlib
import platform
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from logitstore.codec import RankDeltaCodec
from logitstore.commit import Lease, StoreWriter, refuse_foreign_folder
from logitstore.corpus import Corpus, open_corpus
from logitstore.documents import Document, StoredDocument
from logitstore.errors import CorpusError, SettingError
from logitstore.files import explain_io
from logitstore.layout import Layout
from logitstore.models import model_folder
from logitstore.plan import Plan, WorkUnit
from logitstore.progress import OnProgress, Tally
from logitstore.shards import CONTAINERS
from logitstore.sparsify import SPARSIFIERS, TAIL_NODES, check_k
from logitstore.spec import (
    FORMAT,
    CorpusSpec,
    SparsifierSpec,
    StoreSpec,
    TextSpec,
    TokenizerSpec,
    fingerprint,
)
from logitstore.targets import SparseTargets
from logitstore.teacher import Teacher, batches
from logitstore.text import TextRules, tokenize
from logitstore.tokenizer import load_tokenizer, tokenizer_fingerprint, vocab_size
from logitstore.writer import UnitWriter

__all__ = ["DumpSummary", "dump"]

_DEFAULT_MAX_LENGTH = 1024
# English text runs at 4-4.5 bytes a token with vocabularies of 32k and more.
_BYTES_PER_TOKEN = 4
# 65,536 rows of K = 64 are 4 MB a byte plane: few enough chunks, each worth a request.
_BLOCK_TARGETS = 65_536
_POLL_SECONDS = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class DumpSummary:
    """What a dump left behind."""

    folder: Path
    fingerprint: str
    documents: int
    targets: int
    bytes: int
    skipped: int  # records left out
    seconds: float
    new_targets: int  # dumped by this run; 0 where the store was finished already


def dump(
    *,
    teacher: str,
    data: str,
    out: str | Path,
    text_field: str | None = None,
    messages_field: str | None = None,
    max_length: int | None = None,
    limit: int | None = None,
    skip_bad: bool = False,
    sparsify: str = "topk",
    k: int = 64,
    container: str = "zarr",
    device: str = "auto",
    dtype: str = "auto",
    batch_tokens: int = 16_384,
    unit_tokens: int = 1_000_000,
    on_progress: OnProgress | None = None,
) -> DumpSummary:
    """Run `teacher` over `data` once and leave a sealed store in the folder `out`.

    The same call again takes up an unfinished store where it stopped and leaves a finished one as
    it is; several processes may make it at the same time. Raises CorpusError, ModelError,
    SettingError, SpecError or StoreError, and loses nothing that was committed before.
    """
    started = time.monotonic()
    layout = Layout(Path(out))
    _check_settings(sparsify, container, k=k, batch_tokens=batch_tokens, unit_tokens=unit_tokens)
    refuse_foreign_folder(layout.folder)
    corpus = open_corpus(data, text_field=text_field, messages_field=messages_field)
    tokenizer = load_tokenizer(str(model_folder(teacher)))
    check_k(k, vocab_size=vocab_size(tokenizer))
    model = Teacher.load(teacher, vocab_size=vocab_size(tokenizer), device=device, dtype=dtype)
    text = TextSpec(
        text_field=text_field,
        messages_field=messages_field,
        max_length=_max_length(max_length, model.context),
        chat_template=_hash(getattr(tokenizer, "chat_template", None)),
    )
    plan = _plan(layout, corpus, unit_tokens=unit_tokens, limit=limit)
    spec = StoreSpec(
        format=FORMAT,
        teacher=model.spec,
        tokenizer=_tokenizer_spec(tokenizer),
        corpus=_corpus_spec(data, plan, unit_tokens=unit_tokens, limit=limit),
        text=text,
        sparsifier=SparsifierSpec(name=sparsify, k=k, tail_nodes=TAIL_NODES),
        codec=RankDeltaCodec(vocab_size=vocab_size(tokenizer), tail_nodes=TAIL_NODES).spec,
        container=container,
        batch_tokens=batch_tokens,
        block_targets=_BLOCK_TARGETS,
        provenance=_provenance(),
    )
    work = _Work.begin(layout, spec, plan, corpus, model, tokenizer, skip_bad=skip_bad)
    tally = Tally(layout=layout, plan=plan, on_progress=on_progress)
    work.run(tally)
    with explain_io(layout.folder):
        return _seal(work.store, plan, started=started, new_targets=tally.targets)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Work:
    """One process's share of a dump."""

    store: StoreWriter
    writer: UnitWriter
    corpus: Corpus
    tokenizer: Any
    teacher: Teacher
    spec: StoreSpec
    plan: Plan
    skip_bad: bool

    @staticmethod
    def begin(
        layout: Layout,
        spec: StoreSpec,
        plan: Plan,
        corpus: Corpus,
        teacher: Teacher,
        tokenizer: Any,
        *,
        skip_bad: bool,
    ) -> _Work:
        """The work on a store that now has its spec, its tokenizer and its plan."""
        store = StoreWriter(layout)
        with explain_io(layout.folder):
            store.begin(spec, plan, tokenizer)
        return _Work(
            store=store,
            writer=UnitWriter.of(store, spec),
            corpus=corpus,
            tokenizer=tokenizer,
            teacher=teacher,
            spec=spec,
            plan=plan,
            skip_bad=skip_bad,
        )

    def run(self, tally: Tally) -> None:
        """Dump every unit that nobody else dumps, until all are committed."""
        with ThreadPoolExecutor(max_workers=1) as beside:
            while missing := self._missing():
                dumped = self._pass(missing, beside, tally)
                if not dumped and self._missing():
                    time.sleep(_POLL_SECONDS)  # the rest is in other hands

    def _missing(self) -> list[WorkUnit]:
        layout = self.store.layout
        return [unit for unit in self.plan.units if layout.read_commit(unit) is None]

    def _pass(self, units: list[WorkUnit], beside: ThreadPoolExecutor, tally: Tally) -> int:
        """Go once through `units`; how many of them were ours."""
        writing: Future[None] | None = None
        dumped = 0
        for unit in units:
            lease = Lease(self.store.layout, unit)
            if self.store.layout.read_commit(unit) is not None or not lease.take():
                continue
            with _released_on_error(lease):
                stored, skipped = self._documents(unit, lease, tally)
                if writing is not None:
                    writing.result()
                writing = beside.submit(self._write, unit, stored, skipped, lease, tally)
            dumped += 1
        if writing is not None:
            writing.result()
        return dumped

    def _documents(
        self, unit: WorkUnit, lease: Lease, tally: Tally
    ) -> tuple[list[StoredDocument], int]:
        """The unit's documents with their targets, and how many records were skipped."""
        records = self.corpus.read(unit, skip_bad=self.skip_bad)
        rules = TextRules(max_length=self.spec.text.max_length)
        stream = tokenize(records, self.tokenizer, rules=rules, skip_bad=self.skip_bad)
        documents = list(stream)
        targets: list[SparseTargets | None] = [None] * len(documents)
        for batch in batches(documents, batch_tokens=self.spec.batch_tokens):
            chosen = [documents[place] for place in batch]
            for place, part in zip(batch, self._targets(chosen), strict=True):
                targets[place] = part
            lease.renew()
            tally.batch(unit, chosen, documents)
        stored = [
            StoredDocument(document=document, targets=part)
            for document, part in zip(documents, targets, strict=True)
            if part is not None
        ]
        return stored, records.skipped + stream.skipped

    def _targets(self, batch: list[Document]) -> Iterator[SparseTargets]:
        """The targets of each document of a batch, in its order."""
        sparsify, spec = SPARSIFIERS[self.spec.sparsifier.name], self.spec.sparsifier
        with torch.inference_mode():
            parts = [
                sparsify(logits_RV, labels_R, k=spec.k, tail_nodes=spec.tail_nodes)
                for logits_RV, labels_R in self.teacher.logits(batch)
            ]
        joined = SparseTargets.concatenate(parts)
        stops = np.cumsum([document.targets for document in batch])
        for document, stop in zip(batch, stops, strict=True):
            yield joined.rows(slice(stop - document.targets, stop))

    def _write(
        self,
        unit: WorkUnit,
        stored: list[StoredDocument],
        skipped: int,
        lease: Lease,
        tally: Tally,
    ) -> None:
        with _released_on_error(lease):
            self.writer.write(unit, stored, skipped=skipped)
        lease.release()
        tally.unit_done()


@contextmanager
def _released_on_error(lease: Lease) -> Iterator[None]:
    try:
        yield
    except BaseException:
        lease.release()
        raise


def _check_settings(
    sparsify: str, container: str, *, k: int, batch_tokens: int, unit_tokens: int
) -> None:
    choices = (("--sparsify", sparsify, SPARSIFIERS), ("--format", container, CONTAINERS))
    for option, value, table in choices:
        if value not in table:
            raise SettingError(f"{option} is unknown", found=value, allowed=", ".join(table))
    numbers = {"--k": k, "--batch-tokens": batch_tokens, "--unit-tokens": unit_tokens}
    for option, number in numbers.items():
        if number < 1:
            raise SettingError(f"{option} must be at least 1", found=number)


def _max_length(max_length: int | None, context: int | None) -> int:
    if max_length is None:
        return min(_DEFAULT_MAX_LENGTH, context or _DEFAULT_MAX_LENGTH)
    if max_length < 2 or (context is not None and max_length > context):
        raise SettingError(
            "--max-length does not fit the teacher's context",
            found=max_length,
            allowed=f"2..{context or 'any'}",
        )
    return max_length


def _plan(layout: Layout, corpus: Corpus, *, unit_tokens: int, limit: int | None) -> Plan:
    """The plan that the store has; for a new one, the corpus cut into units."""
    if layout.plan_path.is_file():
        return layout.read_plan()
    return corpus.plan(unit_bytes=unit_tokens * _BYTES_PER_TOKEN, limit=limit)


def _corpus_spec(data: str, plan: Plan, *, unit_tokens: int, limit: int | None) -> CorpusSpec:
    return CorpusSpec(
        name=Path(data).name if Path(data).exists() else data,
        fingerprint=fingerprint(plan.to_json()),
        limit=limit,
        unit_tokens=unit_tokens,
    )


def _tokenizer_spec(tokenizer: Any) -> TokenizerSpec:
    return TokenizerSpec(
        fingerprint=tokenizer_fingerprint(tokenizer),
        vocab_size=vocab_size(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )


def _provenance() -> dict[str, Any]:
    packages = ("logitstore", "torch", "transformers", "zarr", "pyarrow", "numcodecs")
    return {
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "python": platform.python_version(),
        "machine": platform.machine(),
        **{package: version(package) for package in packages},
    }


def _hash(text: object) -> str | None:
    return hashlib.sha256(text.encode()).hexdigest() if isinstance(text, str) else None


def _seal(store: StoreWriter, plan: Plan, *, started: float, new_targets: int) -> DumpSummary:
    commits = store.committed(plan)
    if not any(commit.blocks for commit in commits):
        raise CorpusError(
            "no record of the corpus gave a target",
            place=store.layout.folder,
            found=f"{sum(commit.skipped for commit in commits)} records skipped",
        )
    manifest = store.seal(plan)
    return DumpSummary(
        folder=store.layout.folder,
        fingerprint=manifest.fingerprint,
        documents=manifest.documents,
        targets=manifest.targets,
        bytes=manifest.bytes + store.layout.manifest_path.stat().st_size,
        skipped=sum(commit.skipped for commit in commits),
        seconds=time.monotonic() - started,
        new_targets=new_targets,
    )
