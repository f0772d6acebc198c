"""Extend: the documents of a store, and more that the same teacher reads by the same rules.

A sealed store never changes: who trains from it, or serves it, goes on doing so. So the result is a
new store, into which the units of the old one are copied.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from logitstore.corpus.tokenizer import tokenizer_fingerprint
from logitstore.dumping.description import store_spec
from logitstore.dumping.job import Job
from logitstore.dumping.options import JOB_OPTIONS, TARGET_OPTIONS
from logitstore.dumping.progress import Tally
from logitstore.dumping.run import Work
from logitstore.editing.compatible import joined_answers
from logitstore.editing.convert import fidelity_of
from logitstore.editing.options import EXTEND_OPTIONS
from logitstore.editing.planning import numbered, whole_units
from logitstore.editing.sources import (
    all_edits,
    is_made,
    open_source,
    out_layout,
    telling_of_sources,
)
from logitstore.editing.work import Begun, Dumping, Edited, NewStore, as_they_are
from logitstore.errors import CorpusError, SpecError, TokenizerError
from logitstore.fidelity.identity import refuse_other_tokenizer
from logitstore.fidelity.rereading import stored_tokenizer
from logitstore.format.json import fingerprint
from logitstore.format.plan import Plan
from logitstore.format.spec import written_format
from logitstore.options import takes
from logitstore.progress import OnProgress, tell_stage
from logitstore.store.layout import SPEC
from logitstore.store.reader import Store, StoreLike
from logitstore.store.settings import refuse_other_spec
from logitstore.store.storage import StorageLike, open_storage

if TYPE_CHECKING:
    from collections.abc import Mapping

    from logitstore.format.edits import Edit
    from logitstore.format.plan import WorkUnit
    from logitstore.format.spec import StoreSpec, TeacherSpec

__all__ = ["extend"]

_RECORDED = ("limit", "skip_bad")  # of the options, in the provenance


@takes(EXTEND_OPTIONS)
@telling_of_sources()
def extend(
    store: StoreLike, out: StorageLike, *, on_progress: OnProgress | None, **options: Any
) -> Edited:
    """Write a sealed store and the targets of more documents to a new store.

    The documents are dumped by the settings of the store: its tokenizer, text rules, sparsifier,
    precision and container; its teacher must be given, and be the same. The same call again takes
    up an unfinished store where it stopped, and leaves a finished one as it is. Raises what `dump`
    raises, and SpecError for what differs from the store.
    """
    source = open_source(store)
    layout = out_layout(open_storage(out), [source])
    refuse_other_tokenizer(options["teacher"], source.spec, place=source.uri)
    job = _job(source, options, on_progress)
    _refuse_other_settings(source, job, source.spec.teacher)
    tell_stage(on_progress, f"reading {job.corpus.name}")
    old = numbered(list(whole_units(source, 0, copies=True)))
    units = _more_units(source, job, first=len(old))
    arguments = {"data": job.corpus.name}
    arguments |= {name: options[name] for name in _RECORDED if options[name]}
    edits = all_edits("extend", arguments, [source])
    spec = _extended(source, job, units, edits[-1])
    if not is_made(layout, spec, edits):
        job = job.loaded(on_progress)
        _refuse_other_settings(source, job, job.teacher.spec)

    def dump(begun: Begun) -> int:
        plan = Plan(units=units)
        tally = Tally(layout=layout, plan=begun.plan, on_progress=on_progress)
        Work(
            store=begun.store,
            writer=begun.writer,
            job=job,
            plan=plan,
            spec=begun.spec,
            lease=begun.lease,
        ).run(tally)
        return tally.targets

    return NewStore(
        layout=layout,
        spec=spec,
        planned=old,
        sources=[source],
        edits=edits,
        recode=as_they_are(job.codec),
        dumping=Dumping(units, dump),
    ).write(on_progress=on_progress)


def _job(source: Store, options: Mapping[str, Any], on_progress: OnProgress | None) -> Job:
    """The job of the new documents, its teacher not loaded, by the settings of the store."""
    spec, text = source.spec, source.spec.text
    tokenizer = stored_tokenizer(source.tokenizer_files())
    found = tokenizer_fingerprint(tokenizer)
    if found != spec.tokenizer.fingerprint:
        raise TokenizerError(
            "the tokenizer of the store makes other ids than it did",
            place=source.uri,
            found=found,
            allowed=spec.tokenizer.fingerprint,
            remedy="Extend with the version of transformers that the store was dumped with",
        )
    values = {one.name: one.default for one in (*JOB_OPTIONS, *TARGET_OPTIONS)}
    values |= {
        "tokenizer": tokenizer,
        "records": text.records or "auto",
        "text_field": text.text_field,
        "messages_field": text.messages_field,
        "tokens_field": text.tokens_field,
        "mask_field": text.mask_field,
        "sampler_field": text.sampler_field,
        "ignore_field": list(text.ignored_fields) or None,
        "turns": text.turns,
        "positions": text.positions,
        "hidden_layers": None if spec.states is None else _listed(spec.states.layers),
        "template_kwargs": text.template_kwargs,
        "template_date": text.template_date,
        "max_length": text.max_length,
        "fidelity": fidelity_of(spec),
        "format": spec.container,
        "batch_tokens": spec.batch_tokens,
        "unit_tokens": spec.corpus.unit_tokens,
    }
    given = {name: value for name, value in options.items() if name in values}
    job = Job.load(values | given, on_progress=on_progress, with_weights=False)
    return job.with_sparsifier(spec.sparsifier).begun_as(spec)


def _listed(layers: tuple[int, ...]) -> str | None:
    return ",".join(map(str, layers)) or None


def _refuse_other_settings(source: Store, job: Job, teacher: TeacherSpec) -> None:
    """Raise SpecError where the new documents would not be dumped as those of the store were."""
    spec = source.spec
    own = store_spec(job, Plan(units=()), teacher=teacher)
    own = replace(own, corpus=spec.corpus, format=spec.format, block_targets=spec.block_targets)
    written = written_format(spec.text, spec.states)
    if spec.format != written:  # older ones say less of their text
        own = replace(own, format=written)
        spec = replace(spec, format=written)
    try:
        refuse_other_spec(spec, own, place=source.layout.place(SPEC))
    except SpecError as error:
        error.problem = error.problem.replace(
            "the store was begun with", "the store was dumped with"
        )
        error.remedy = (
            "Give the teacher of the store, on the same kind of device; `logitstore convert` "
            "brings a codec of an older version up to date"
        )
        raise


def _more_units(source: Store, job: Job, *, first: int) -> tuple[WorkUnit, ...]:
    """The units of the new documents, numbered on. Raises CorpusError for what is there already."""
    held = {unit.sha256 for unit in source.layout.read_plan().units}
    units = job.plan().units
    for unit in units:
        if unit.sha256 in held:
            raise CorpusError(
                "the store holds these documents already",
                place=f"{unit.source}, {unit.start} to {unit.stop}",
                found=f"sha256 {unit.sha256}",
                remedy="Name with --data what is new alone",
            )
    return tuple(
        replace(unit, name=f"{number:06d}") for number, unit in enumerate(units, start=first)
    )


def _extended(source: Store, job: Job, units: tuple[WorkUnit, ...], edit: Edit) -> StoreSpec:
    own = store_spec(job, Plan(units=units), teacher=source.spec.teacher)
    corpus = replace(
        source.spec.corpus,
        name=f"{source.spec.corpus.name} + {own.corpus.name}",
        fingerprint=fingerprint([edit.to_json(), own.corpus.fingerprint]),
        limit=None,
        answers=joined_answers([source.spec.corpus, own.corpus]),
    )
    written = written_format(source.spec.text, source.spec.states)
    return replace(source.spec, format=written, corpus=corpus)
