"""What a store says of the job that made it."""

from __future__ import annotations

import hashlib
import json
import platform
import time
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from logitstore.corpus.encoder import beginning
from logitstore.corpus.template import uses_clock
from logitstore.corpus.tokenizer import tokenizer_fingerprint
from logitstore.dumping.states import block_targets
from logitstore.format.generation import GENERATION, told_of_generation
from logitstore.format.json import fingerprint
from logitstore.format.spec import CorpusSpec, StoreSpec, TextSpec, TokenizerSpec, written_format

if TYPE_CHECKING:
    from logitstore.dumping.job import Job
    from logitstore.format.plan import Plan
    from logitstore.format.spec import TeacherSpec

__all__ = ["provenance", "store_spec", "tokenizer_spec"]


def store_spec(job: Job, plan: Plan, *, teacher: TeacherSpec | None = None) -> StoreSpec:
    """The spec of the store that `job` makes by `plan`.

    job: with its teacher, tokenizer and corpus.
    plan: the work units of the corpus.
    teacher: taken for that of a job whose teacher is not loaded.
    """
    text = _text_spec(job)
    return StoreSpec(
        format=written_format(text, job.states),
        teacher=job.teacher.spec if teacher is None else teacher,
        tokenizer=tokenizer_spec(job.tokenizer, vocab_size=job.vocab_size),
        corpus=CorpusSpec(
            name=job.corpus.name,
            fingerprint=fingerprint(plan.to_json()),
            limit=job.options.limit,
            unit_tokens=job.unit_tokens,
            answers=tuple(one.identity() | {"model": one.model} for one in job.corpus.answers),
        ),
        text=text,
        sparsifier=job.sparsifier,
        codec=job.codec.spec,
        container=job.options.format,
        batch_tokens=job.options.batch_tokens,
        block_targets=block_targets(job.states),
        provenance=provenance() | _generation(job),
        states=job.states,
    )


def _text_spec(job: Job) -> TextSpec:
    """How the records become documents."""
    fields, template = job.corpus.fields, getattr(job.tokenizer, "chat_template", None)
    return TextSpec(
        text_field=fields.text,
        messages_field=fields.messages,
        max_length=job.rules.max_length,
        chat_template=_hash(template),
        records=fields.shape,
        tokens_field=fields.tokens,
        mask_field=fields.mask,
        ignored_fields=tuple(sorted(fields.ignored)),
        turns="last" if job.rules.last_turn_only else "all",
        template_kwargs=json.dumps(job.rules.template_variables, sort_keys=True),
        template_date=job.rules.today.isoformat() if uses_clock(template) else None,
        pieces_begin=bool(beginning(job.tokenizer)),
        teacher_system=_hash(job.rules.teacher_system),
        teacher_messages=job.rules.teacher_messages,
        sampler_field=fields.sampler,
        sampler_logprobs=bool(job.rules.sampler_logprobs),
        positions=None if job.positions is None else str(job.positions),
    )


def _generation(job: Job) -> dict[str, Any]:
    """How the teacher generates, where it tells."""
    config = getattr(job.teacher, "generation", None)
    if not isinstance(config, dict):
        return {}
    told = told_of_generation(config, vocab_size=job.vocab_size)
    return {GENERATION: told} if told else {}


def tokenizer_spec(tokenizer: Any, *, vocab_size: int) -> TokenizerSpec:
    """Which ids a store speaks of.

    tokenizer: of transformers.
    vocab_size: V.
    """
    return TokenizerSpec(
        fingerprint=tokenizer_fingerprint(tokenizer),
        vocab_size=vocab_size,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )


def provenance() -> dict[str, Any]:
    """When a store was begun, where, and by which versions; it changes no bits."""
    packages = ("logitstore", "torch", "transformers", "zarr", "pyarrow", "numcodecs")
    return {
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "python": platform.python_version(),
        "machine": platform.machine(),
        **{package: version(package) for package in packages},
    }


def _hash(template: object) -> str | None:
    """Of a template, or of several by their names."""
    text = json.dumps(template, sort_keys=True) if isinstance(template, dict) else template
    return hashlib.sha256(text.encode()).hexdigest() if isinstance(text, str) else None
