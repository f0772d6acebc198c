"""A job: a loaded teacher, an open corpus, and all options that change the bits of a store.

`Job.load` checks and loads them; what a store says of a job stands in `description.py`, and what is
done with its documents in `work.py`.
"""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from logitstore.codec import Codec, new_codec
from logitstore.corpus.answers import refuse_other_answers
from logitstore.corpus.corpus import Corpus, open_corpus
from logitstore.corpus.text import tokenize
from logitstore.corpus.text_rules import TextRules
from logitstore.corpus.tokenizer import vocab_size
from logitstore.dumping.options import (
    HIDDEN_LAYERS,
    JobOptions,
    split_options,
    system_prompt,
    target_spec,
    template_date,
    template_variables,
)
from logitstore.dumping.states import cost_in_words, fitting_tokens, states_of, states_then
from logitstore.errors import CorpusError, SettingError
from logitstore.format.layers import LayerRule
from logitstore.format.rules import TargetRule
from logitstore.format.spec import SparsifierSpec
from logitstore.progress import OnProgress, tell_stage
from logitstore.sparsify import SPARSIFIERS
from logitstore.teacher.base import Teacher
from logitstore.teacher.opening import (
    UnloadedTeacher,
    logit_columns,
    open_teacher,
    open_tokenizer,
    states_by_config,
    teacher_name,
    with_chat_template,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from logitstore.corpus.corpus import RecordReader
    from logitstore.format.plan import Plan, WorkUnit
    from logitstore.format.spec import StoreSpec, TeacherSpec
    from logitstore.format.states import StatesSpec

__all__ = ["BYTES_PER_TOKEN", "DEFAULT_MAX_LENGTH", "Job"]

# English text runs at 4-4.5 bytes a token with vocabularies of 32k and more.
BYTES_PER_TOKEN = 4
DEFAULT_MAX_LENGTH = 1024
_MUCH_LARGER = 2  # times what was asked for
_NAMED = 5  # files that a note names


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Job:
    """What a dump, an estimate or a comparison of sparsifiers works with."""

    options: JobOptions
    corpus: Corpus
    tokenizer: Any  # a transformers tokenizer
    teacher: Teacher
    rules: TextRules
    sparsifier: SparsifierSpec
    codec: Codec
    positions: TargetRule | None = None  # which targets of a document are kept; None: all
    layers: LayerRule | None = None  # behind which hidden states are kept; None: behind none
    # Which hidden states are kept; None where none are, or as long as the teacher is not known.
    states: StatesSpec | None = None
    reasons: set[str] = field(default_factory=set)  # for which records were skipped, as told

    @staticmethod
    def load(
        values: Mapping[str, Any],
        *,
        begun: StoreSpec | None = None,
        on_progress: OnProgress | None = None,
        with_weights: bool = True,
    ) -> Job:
        """The job by checked options of `dump`; what costs most is loaded last.

        values: the options of `dump` by name, checked.
        begun: the spec of the store that is gone on with, whose date the chat template is told.
        on_progress: told of what is loaded.
        with_weights: without them a named teacher is known by its configuration alone.

        Raises CorpusError, ModelError or SettingError.
        """
        options, targets = split_options(values)
        sparsifier, positions = target_spec(targets), targets.get("positions")
        layers = _layers(options, targets)
        corpus = open_corpus(options.data, fields=options.fields)
        tokenizer = with_chat_template(
            open_tokenizer(options.tokenizer, teacher=options.teacher), options.chat_template
        )
        # Ids of which the teacher knows nothing, as a picture's, are left out of the vocabulary.
        size = min(vocab_size(tokenizer), logit_columns(options.teacher) or sys.maxsize)
        rules = TextRules(
            vocab_size=size,
            max_length=options.max_length or DEFAULT_MAX_LENGTH,
            last_turn_only=options.turns == "last",
            template_variables=template_variables(options.template_kwargs or {}),
            today=_today(options, begun),
            teacher_system=_system(options),
        )
        refuse_other_answers(corpus, tokenizer)
        beside, sampled = _try_first_records(corpus, tokenizer, rules, options)
        rules = replace(rules, sampler_logprobs=sampled)
        SPARSIFIERS[sparsifier.name].check_vocabulary(sparsifier, vocab_size=size)
        codec = new_codec(sparsifier, vocab_size=size, fidelity=options.fidelity)
        teacher = UnloadedTeacher.of(options.teacher)
        rules = _rules_of(rules, tokenizer, options, teacher.context, teacher_messages=beside)
        if callable(options.on_note) and options.batch_tokens < rules.max_length:
            options.on_note(
                f"--batch-tokens {options.batch_tokens} is less than a document of up to "
                f"{rules.max_length:,} tokens: a longer one has a batch of its own"
            )
        job = Job(
            options=options,
            corpus=corpus,
            tokenizer=tokenizer,
            teacher=teacher,
            rules=rules,
            sparsifier=sparsifier,
            codec=codec,
            positions=None if positions is None else TargetRule.parse(positions),
            layers=layers,
        ).begun_as(begun)
        return job.loaded(on_progress) if with_weights else job

    def loaded(self, on_progress: OnProgress | None = None) -> Job:
        """The same job with the weights of its teacher. Raises ModelError or SettingError.

        on_progress: told of what is loaded.
        """
        options = self.options
        tell_stage(on_progress, f"loading {_called(options.teacher)}")
        teacher = open_teacher(
            options.teacher, vocab_size=self.vocab_size, device=options.device, dtype=options.dtype
        )
        rules = _rules_of(
            self.rules,
            self.tokenizer,
            options,
            teacher.context,
            teacher_messages=self.rules.teacher_messages,
        )
        states = states_of(teacher, self.sparsifier, fidelity=options.fidelity, layers=self.layers)
        if states is not None and callable(options.on_note):
            options.on_note(cost_in_words(states))
        return replace(self, teacher=teacher, rules=rules, states=states)

    def begun_as(self, begun: StoreSpec | None) -> Job:
        """The same job with what a store says of its teacher, which is not loaded yet.

        begun: the spec of the store; None where there is none.
        """
        if begun is None:
            return self
        states = states_then(
            begun,
            self.sparsifier,
            fidelity=self.options.fidelity,
            layers=self.layers,
            known=states_by_config(self.options.teacher),
        )
        return replace(self, states=states)

    def not_loaded(self, teacher: TeacherSpec) -> Job:
        """The same job with a teacher that is known, and of which nothing is asked.

        teacher: its spec.
        """
        return replace(self, teacher=UnloadedTeacher(self.teacher.context, teacher))

    def with_sparsifier(self, sparsifier: SparsifierSpec) -> Job:
        """The same job with other targets. Raises SettingError where they have too many entries.

        sparsifier: its spec.
        """
        declared = SPARSIFIERS[sparsifier.name]
        declared.check_vocabulary(sparsifier, vocab_size=self.vocab_size)
        codec = new_codec(sparsifier, vocab_size=self.vocab_size, fidelity=self.options.fidelity)
        return replace(self, sparsifier=sparsifier, codec=codec)

    @property
    def vocab_size(self) -> int:
        """V: ids that the tokenizer can produce."""
        return self.codec.vocab_size

    @property
    def unit_tokens(self) -> int:
        """About the tokens of a work unit: as asked for, or what memory holds the states of."""
        return fitting_tokens(self.states, tokens=self.options.unit_tokens)

    @property
    def unit_bytes(self) -> int:
        """Of the corpus, in a work unit; a record that fills it may overflow it."""
        return self.unit_tokens * BYTES_PER_TOKEN

    def plan(self) -> Plan:
        """The corpus cut into work units."""
        plan = self.corpus.plan(unit_bytes=self.unit_bytes, limit=self.options.limit)
        largest = max((unit.stop - unit.start for unit in plan.units), default=0)
        if largest > _MUCH_LARGER * self.unit_bytes and callable(self.options.on_note):
            self.options.on_note(
                f"--unit-tokens {self.unit_tokens}: a unit has up to some "
                f"{largest // BYTES_PER_TOKEN:,} tokens, because no record is divided"
            )
        return plan

    def read(self, unit: WorkUnit) -> RecordReader:
        """The records of a unit.

        unit: one of the plan.
        """
        return self.corpus.read(unit, skip_bad=self.options.skip_bad)


def _called(model: object) -> str:
    """What progress calls a model, which may be an object."""
    name = teacher_name(model)
    return "the teacher" if name is None else Path(name).name or name


def _layers(options: JobOptions, targets: Mapping[str, Any]) -> LayerRule | None:
    """The layers behind which states are kept, if the teacher's configuration has them.

    Raises SettingError for layers that it says the teacher does not have.
    """
    given = targets.get(HIDDEN_LAYERS.name)
    if given is None:
        return None
    rule, known = LayerRule.parse(given), states_by_config(options.teacher)
    if known is not None and known.depth:
        rule.layers(known.depth)
    return rule


def _today(options: JobOptions, begun: StoreSpec | None) -> date:
    """The date that is asked for, else that of the store that is gone on with, else today's."""
    given = options.template_date or (begun.text.template_date if begun is not None else None)
    return template_date(given) if given is not None else date.today()


def _system(options: JobOptions) -> str | None:
    given = options.teacher_system
    return None if given is None else system_prompt(given)


def _rules_of(
    rules: TextRules,
    tokenizer: Any,
    options: JobOptions,
    context: int | None,
    *,
    teacher_messages: bool,
) -> TextRules:
    """The rules, with what depends on the teacher's context and on what only the teacher reads."""
    system = rules.teacher_system
    room = 0 if system is None else len(tokenizer(system, add_special_tokens=False)["input_ids"])
    return replace(
        rules,
        max_length=_max_length(options.max_length, context, room=room),
        teacher_messages=teacher_messages,
        teacher_context=context if system is not None or teacher_messages else None,
    )


def _try_first_records(
    corpus: Corpus, tokenizer: Any, rules: TextRules, options: JobOptions
) -> tuple[bool, bool]:
    """Make documents of the first records of each file, so that their faults are told early.

    A wrong field, a file with nothing in it, and a chat without a template cost no teacher then.
    Whether one of them has messages that only the teacher reads, and whether the first says with
    which probabilities it was drawn.
    """
    skip_bad = options.skip_bad
    shapes: Counter[str] = Counter()
    beside = 0
    for records in corpus.first_records(limit=options.limit, skip_bad=skip_bad):
        for document in tokenize(records, tokenizer, rules=rules, skip_bad=skip_bad):
            if rules.sampler_logprobs is None:
                sampled = document.sampler_logprobs_R is not None
                rules = replace(rules, sampler_logprobs=sampled)
        beside += records.beside
        shapes[" and ".join(sorted(records.shapes)) or "nothing that can be read"] += 1
    if options.sampler_field is not None and not rules.sampler_logprobs:
        raise CorpusError(
            "--sampler-field has no effect on records that are no tokens",
            place=corpus.name,
            found=options.sampler_field,
            remedy="Leave it out",
        )
    if callable(options.on_note):
        for line in (*_notes(corpus, shapes), *_teachers_notes(rules, beside)):
            options.on_note(line)
    return beside > 0, bool(rules.sampler_logprobs)


def _teachers_notes(rules: TextRules, beside: int) -> Iterator[str]:
    """What only the teacher reads."""
    if rules.teacher_system is not None:
        yield f"the teacher alone reads a system prompt of {len(rules.teacher_system):,} characters"
    if beside:
        yield "the teacher alone reads the field teacher_messages"


def _notes(corpus: Corpus, shapes: Mapping[str, int]) -> Iterator[str]:
    """What the corpus was found to be, and which files beside it are not read."""
    of_files = [
        f"{shape} in {count} file{'s' if count > 1 else ''}" for shape, count in shapes.items()
    ]
    alone = len(shapes) == 1 and sum(shapes.values()) == 1
    yield f"{corpus.name}: records of {next(iter(shapes)) if alone else ', '.join(of_files)}"
    if any(name.lower().endswith(".txt") for name in corpus.sources):
        yield f"{corpus.name}: a record of a .txt file is a section of 16 to 32 KiB"
    if corpus.unread:
        more = len(corpus.unread) - _NAMED
        rest = f" and {more} more" if more > 0 else ""
        yield f"{corpus.name}: not read: {', '.join(corpus.unread[:_NAMED])}{rest}"


def _max_length(max_length: int | None, context: int | None, *, room: int) -> int:
    """The longest document: what is asked for, or 1024 with `room` tokens for a system prompt."""
    if context is not None and context < room + 2:
        raise SettingError(
            "--teacher-system is longer than the teacher's context",
            found=f"{room} tokens",
            allowed=f"up to {context - 2}",
        )
    if max_length is None:
        return min(DEFAULT_MAX_LENGTH, context - room if context else DEFAULT_MAX_LENGTH)
    if context is not None and max_length > context:
        raise SettingError(
            "--max-length does not fit the teacher's context",
            found=max_length,
            allowed=f"2..{context}",
        )
    return max_length
