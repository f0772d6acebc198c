"""What can be said of a dump without its teacher: the corpus, its targets, roughly its bytes.

The corpus is read once, and evenly spaced samples of it are tokenised. Weights are not read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from logitstore.dumping.job import Job
from logitstore.dumping.states import state_dtype
from logitstore.forecast.rough_bytes import rough_bytes_per_target
from logitstore.forecast.samples import Sample, Slices
from logitstore.format.states import STATE_BYTES
from logitstore.progress import OnProgress, tell_stage
from logitstore.sparsify import sparsifier_of
from logitstore.teacher.opening import state_width, states_by_config, teacher_name

if TYPE_CHECKING:
    from logitstore.dumping.options import JobOptions

__all__ = ["CorpusPlan", "plan_only"]

_SLICE_TOKENS = 4096
_VISIT_TOKENS = 1024
_SECONDS = 2.0  # for tokenising samples
# Of a token whose target is not kept: its id took 1.2 bytes and its mask 0.1 with the teacher of
# `rough_bytes.py`.
_TOKEN_BYTES = 1.3

# What no sample of text tells.
_MISSING = (
    "seconds: the teacher was not run",
    "retained_mass: the teacher was not run",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class CorpusPlan:
    """What would be dumped, without a word of how long it takes."""

    teacher: str | None  # None for an object without a name
    vocab_size: int
    context: int | None  # of the teacher; None where its configuration does not say
    max_length: int  # tokens of a document
    corpus: str
    files: tuple[str, ...]
    unread: tuple[str, ...]
    corpus_bytes: int
    records: int
    shapes: Mapping[str, int]  # of the records that were sampled
    chat_template: str  # which one is used
    turns: str  # which turns of a chat count
    units: int
    documents: int  # this and what follows by the sample
    tokens: int
    targets: int
    bytes: int | None  # roughly
    bytes_per_target: float | None
    sample_documents: int
    missing: tuple[str, ...]  # what is not told, and why


def plan_only(options: Mapping[str, Any], *, on_progress: OnProgress | None) -> CorpusPlan:
    """What `estimate` says without a teacher.

    Args:
        options: Those of `estimate`, checked, without `seconds`.
        on_progress: Is told what is being read.
    """
    job = Job.load(options, on_progress=on_progress, with_weights=False)
    tell_stage(on_progress, f"reading {job.corpus.name}")
    slices = Slices.of(job, slice_tokens=_SLICE_TOKENS)
    tell_stage(on_progress, "tokenising samples")
    sample = Sample(job, slices, visit_tokens=_VISIT_TOKENS)
    sample.count(seconds=_SECONDS)
    sample.refuse_empty()
    targets = round(sample.targets * sample.scale)
    size, once = _rough_bytes(job)
    unmeasured = () if size is not None else ("bytes: no store of this codec was measured",)
    rule = job.positions
    if rule is not None and rule.is_share:
        # Each document rounds up, by half a target in the mean.
        some = rule.value * targets + (1 - rule.value) * sample.documents * sample.scale / 2
        counted, targets = targets, min(targets, round(some))
        size = size and size + _TOKEN_BYTES * (counted / targets - 1)
    elif rule is not None:
        size = None
        unmeasured = (f"bytes, and which of these targets {rule} keeps: the teacher was not run",)
    if once:
        unmeasured = (*unmeasured, f"the output layer, once, of up to {once:,} bytes: in no figure")
    return CorpusPlan(
        teacher=teacher_name(job.options.teacher),
        vocab_size=job.vocab_size,
        context=job.teacher.context,
        max_length=job.rules.max_length,
        corpus=job.corpus.name,
        files=job.corpus.sources,
        unread=job.corpus.unread,
        corpus_bytes=slices.bytes,
        records=slices.records,
        shapes=dict(sample.shapes),
        chat_template=_template(job.options, job.tokenizer, sample),
        turns=job.options.turns,
        units=slices.units,
        documents=round(sample.documents * sample.scale),
        tokens=round(sample.tokens * sample.scale),
        targets=targets,
        bytes=None if size is None else round(size * targets),
        bytes_per_target=size,
        sample_documents=round(sample.documents),
        missing=(*_MISSING, *unmeasured),
    )


def _rough_bytes(job: Job) -> tuple[float | None, int]:
    """Bytes of a target, and of what a store with hidden states has once."""
    keeps_last = sparsifier_of(job.sparsifier).targets.keeps_state
    if not keeps_last and job.layers is None:
        return rough_bytes_per_target(job.sparsifier), 0
    width, asked = state_width(job.options.teacher), job.options.dtype
    state = state_dtype("float32" if asked == "auto" else asked, fidelity=job.options.fidelity)
    once = STATE_BYTES[state] * job.vocab_size * (width or 0) if keeps_last else 0
    layers = 0
    if job.layers is not None:
        known = states_by_config(job.options.teacher)
        if known is None:
            return None, once
        layers = len(job.layers.layers(known.depth))
    each = rough_bytes_per_target(job.sparsifier, width=width, state=state, layers=layers)
    return each, once


def _template(options: JobOptions, tokenizer: Any, sample: Sample) -> str:
    if set(sample.shapes) <= {"text", "tokens"}:
        return "none is needed"
    if options.chat_template is not None:
        return str(options.chat_template)
    return (
        "that of the tokenizer"
        if getattr(tokenizer, "chat_template", None)
        else "none: a prompt and its answer are one text"
    )
