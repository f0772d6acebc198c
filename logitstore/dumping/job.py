"""A job: one teacher over one corpus by one set of options, everything of a dump but its folder.

It plans, says what the store's spec is, and makes the documents of a work unit and their targets.
What is done with them is for others: a dump stores them all, an estimate stores a few, a comparison
of sparsifiers puts several through the same logits.

Shapes: R targets, V vocabulary.
"""

from __future__ import annotations

import hashlib
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Required, TypedDict

import numpy as np
import torch

from logitstore.codec import Codec, new_codec
from logitstore.corpus.corpus import Corpus, RecordReader, open_corpus
from logitstore.corpus.text import TextRules, tokenize
from logitstore.corpus.tokenizer import load_tokenizer, tokenizer_fingerprint, vocab_size
from logitstore.errors import SettingError
from logitstore.format.json import fingerprint
from logitstore.format.numbers import whole
from logitstore.format.spec import (
    FORMAT,
    CorpusSpec,
    SparsifierSpec,
    StoreSpec,
    TextSpec,
    TokenizerSpec,
)
from logitstore.sparsify import SPARSIFIERS
from logitstore.sparsify.build import sparsifier_spec
from logitstore.store.containers import CONTAINERS
from logitstore.targets.draws import row_keys
from logitstore.targets.targets import SparseTargets
from logitstore.teacher.models import model_folder
from logitstore.teacher.transformers import Teacher

if TYPE_CHECKING:
    from logitstore.format.plan import Plan, WorkUnit
    from logitstore.targets.documents import Document

__all__ = ["BYTES_PER_TOKEN", "Job", "TargetOptions", "TeachingOptions", "refuse_unknown"]

# English text runs at 4-4.5 bytes a token with vocabularies of 32k and more.
BYTES_PER_TOKEN = 4
_DEFAULT_MAX_LENGTH = 1024
# 65,536 rows of K = 64 are 4 MB a byte plane: few enough chunks, each worth a request.
_BLOCK_TARGETS = 65_536


class TeachingOptions(TypedDict, total=False):
    """Options of `logitstore.dump` that say who teaches what text, and how it is worked through."""

    teacher: Required[str]
    data: Required[str]
    text_field: str | None
    messages_field: str | None
    max_length: int | None
    limit: int | None
    skip_bad: bool
    fidelity: str
    container: str
    device: str
    dtype: str
    batch_tokens: int
    unit_tokens: int


class TargetOptions(TeachingOptions, total=False):
    """Those, and the options that say what is kept of a distribution."""

    sparsify: str
    k: int | None
    top_p: float | None
    draws: int | None
    tail_draws: int | None
    temperature: Sequence[float] | None
    repeats: int | None
    seed: int | None


def refuse_unknown(function: str, options: Mapping[str, Any], known: type) -> None:
    """TypeError, as Python raises it, where `options` are not those of the TypedDict `known`."""
    for name in options:
        if name not in known.__annotations__:
            raise TypeError(f"{function}() got an unexpected keyword argument {name!r}")
    for name in ("teacher", "data"):
        if name not in options:
            raise TypeError(f"{function}() missing 1 required keyword-only argument: {name!r}")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Job:
    """A loaded teacher, an open corpus, and every option that changes the bits of a store."""

    data: str
    corpus: Corpus
    tokenizer: Any
    teacher: Teacher
    text: TextSpec
    sparsifier: SparsifierSpec
    codec: Codec
    fidelity: str
    container: str
    limit: int | None
    skip_bad: bool
    batch_tokens: int
    unit_tokens: int

    @staticmethod
    def load(
        *,
        teacher: str,
        data: str,
        text_field: str | None = None,
        messages_field: str | None = None,
        max_length: int | None = None,
        limit: int | None = None,
        skip_bad: bool = False,
        sparsify: str = "hybrid",
        k: int | None = None,
        top_p: float | None = None,
        draws: int | None = None,
        tail_draws: int | None = None,
        temperature: Sequence[float] | None = None,
        repeats: int | None = None,
        seed: int | None = None,
        fidelity: str = "balanced",
        container: str = "zarr",
        device: str = "auto",
        dtype: str = "auto",
        batch_tokens: int = 16_384,
        unit_tokens: int = 1_000_000,
    ) -> Job:
        """The job by the options of `logitstore.dump`; what costs most is done last.

        Raises CorpusError, ModelError or SettingError.
        """
        sparsifier = sparsifier_spec(
            sparsify,
            k=k,
            top_p=top_p,
            draws=draws,
            tail_draws=tail_draws,
            temperatures=temperature,
            repeats=repeats,
            seed=seed,
        )
        if container not in CONTAINERS:
            allowed = ", ".join(CONTAINERS)
            raise SettingError("--format is unknown", found=container, allowed=allowed)
        batch_tokens = _at_least(1, "--batch-tokens", batch_tokens)
        unit_tokens = _at_least(1, "--unit-tokens", unit_tokens)
        limit = None if limit is None else whole("--limit", limit)
        corpus = open_corpus(data, text_field=text_field, messages_field=messages_field)
        tokenizer = load_tokenizer(str(model_folder(teacher)))
        size = vocab_size(tokenizer)
        SPARSIFIERS[sparsify].check_vocabulary(sparsifier, vocab_size=size)
        codec = new_codec(sparsifier, vocab_size=size, fidelity=fidelity)
        model = Teacher.load(teacher, vocab_size=size, device=device, dtype=dtype)
        return Job(
            data=data,
            corpus=corpus,
            tokenizer=tokenizer,
            teacher=model,
            text=TextSpec(
                text_field=text_field,
                messages_field=messages_field,
                max_length=_max_length(max_length, model.context),
                chat_template=_hash(getattr(tokenizer, "chat_template", None)),
            ),
            sparsifier=sparsifier,
            codec=codec,
            fidelity=fidelity,
            container=container,
            limit=limit,
            skip_bad=skip_bad,
            batch_tokens=batch_tokens,
            unit_tokens=unit_tokens,
        )

    def with_sparsifier(self, sparsifier: SparsifierSpec) -> Job:
        """The same job with other targets. Raises SettingError where they have too many entries."""
        declared = SPARSIFIERS[sparsifier.name]
        declared.check_vocabulary(sparsifier, vocab_size=self.vocab_size)
        codec = new_codec(sparsifier, vocab_size=self.vocab_size, fidelity=self.fidelity)
        return replace(self, sparsifier=sparsifier, codec=codec)

    @property
    def vocab_size(self) -> int:
        """V: ids that the tokenizer can produce."""
        return self.codec.vocab_size

    @property
    def unit_bytes(self) -> int:
        """Of the corpus, in a work unit; a record that fills it may overflow it."""
        return self.unit_tokens * BYTES_PER_TOKEN

    def plan(self) -> Plan:
        """The corpus cut into work units."""
        return self.corpus.plan(unit_bytes=self.unit_bytes, limit=self.limit)

    def spec(self, plan: Plan) -> StoreSpec:
        """What a store with that plan says of itself."""
        return StoreSpec(
            format=FORMAT,
            teacher=self.teacher.spec,
            tokenizer=_tokenizer_spec(self.tokenizer),
            corpus=CorpusSpec(
                name=Path(self.data).name if Path(self.data).exists() else self.data,
                fingerprint=fingerprint(plan.to_json()),
                limit=self.limit,
                unit_tokens=self.unit_tokens,
            ),
            text=self.text,
            sparsifier=self.sparsifier,
            codec=self.codec.spec,
            container=self.container,
            batch_tokens=self.batch_tokens,
            block_targets=_BLOCK_TARGETS,
            provenance=_provenance(),
        )

    def read(self, unit: WorkUnit) -> RecordReader:
        """The records of a unit."""
        return self.corpus.read(unit, skip_bad=self.skip_bad)

    def documents(self, records: RecordReader) -> tuple[list[Document], int]:
        """The documents that records of the corpus make, and how many records were skipped."""
        rules = TextRules(max_length=self.text.max_length)
        stream = tokenize(records, self.tokenizer, rules=rules, skip_bad=self.skip_bad)
        documents = list(stream)
        return documents, records.skipped + stream.skipped

    def targets(self, batch: Sequence[Document]) -> Iterator[tuple[SparseTargets, ...]]:
        """The targets of each document of a batch, in its order, in every draw."""
        spec = self.sparsifier
        keys_R = self.keys(batch)
        parts, start = [], 0
        with torch.inference_mode():
            for logits_RV, labels_R in self.teacher.logits(batch):
                chunk = slice(start, start + len(labels_R))
                parts.append(SPARSIFIERS[spec.name].draw(logits_RV, labels_R, keys_R[chunk], spec))
                start = chunk.stop
        joined = [SparseTargets.concatenate(draw) for draw in zip(*parts, strict=True)]
        return by_document(batch, joined)

    def keys(self, batch: Sequence[Document]) -> np.ndarray:
        """uint64 [R]: the key of the random numbers of each target, document by document."""
        seed = self.sparsifier.seed
        return np.concatenate([row_keys(document, seed=seed) for document in batch])


def by_document(
    batch: Sequence[Document], draws: Sequence[SparseTargets]
) -> Iterator[tuple[SparseTargets, ...]]:
    """The draws of a batch's targets, document after document, cut where documents end."""
    stops = np.cumsum([document.targets for document in batch])
    for document, stop in zip(batch, stops, strict=True):
        yield tuple(one.rows(slice(stop - document.targets, stop)) for one in draws)


def _at_least(least: int, option: str, value: int) -> int:
    number = whole(option, value)
    if number < least:
        raise SettingError(f"{option} must be at least {least}", found=number)
    return number


def _max_length(max_length: int | None, context: int | None) -> int:
    if max_length is None:
        return min(_DEFAULT_MAX_LENGTH, context or _DEFAULT_MAX_LENGTH)
    max_length = whole("--max-length", max_length)
    if max_length < 2 or (context is not None and max_length > context):
        raise SettingError(
            "--max-length does not fit the teacher's context",
            found=max_length,
            allowed=f"2..{context or 'any'}",
        )
    return max_length


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
