"""The job of `generate`: prompts, a loaded model, and all settings that change the answers."""

from __future__ import annotations

import hashlib
import json
import sys
from collections import Counter
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any

from logitstore.corpus.answers import refuse_other_answers
from logitstore.corpus.corpus import Corpus, open_corpus
from logitstore.corpus.template import uses_clock
from logitstore.corpus.text_rules import TextRules
from logitstore.corpus.tokenizer import tokenizer_fingerprint, vocab_size
from logitstore.dumping.options import template_date, template_variables
from logitstore.errors import CorpusError, SettingError
from logitstore.format.answers import AnswersMetadata
from logitstore.format.json import fingerprint
from logitstore.generation.answering import Answerer, end_ids
from logitstore.generation.prompts import Prompt, PromptReader
from logitstore.generation.sampler import Drawing
from logitstore.progress import tell_stage
from logitstore.teacher.opening import (
    is_name,
    logit_columns,
    model_context,
    open_teacher,
    open_tokenizer,
    teacher_name,
    with_chat_template,
)
from logitstore.teacher.transformers import TransformersTeacher
from logitstore.version import VERSION

if TYPE_CHECKING:
    from logitstore.format.plan import Plan
    from logitstore.generation.options import GenerateOptions

__all__ = ["GenerateJob"]

_UNIT_BYTES = 4 << 20  # of the corpus that is read at once

# Options that decide the answers and stand in the file as they were given.
_SETTINGS = (
    "n",
    "max_new_tokens",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "seed",
    "records",
    "text_field",
    "messages_field",
    "tokens_field",
    "mask_field",
    "limit",
    "batch_tokens",
    "part_answers",
)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class GenerateJob:
    """What a run works with."""

    options: GenerateOptions
    tokenizer: Any
    prompts: list[Prompt]
    reader: PromptReader
    answerer: Answerer
    metadata: AnswersMetadata

    @staticmethod
    def load(options: GenerateOptions, *, begun: AnswersMetadata | None) -> GenerateJob:
        """The job by checked options; the model is loaded last.

        begun: with what the run was begun that is gone on with, whose date the template is told.

        Raises CorpusError, ModelError or SettingError.
        """
        corpus = open_corpus(options.data, fields=options.fields)
        tokenizer = with_chat_template(
            open_tokenizer(options.tokenizer, teacher=options.model), options.chat_template
        )
        refuse_other_answers(corpus, tokenizer)
        size = min(vocab_size(tokenizer), logit_columns(options.model) or sys.maxsize)
        rules = TextRules(
            max_length=sys.maxsize,
            vocab_size=size,
            template_variables=template_variables(options.template_kwargs or {}),
            today=_today(options, begun),
        )
        reader = PromptReader(
            tokenizer, rules=rules, room=_room(options), skip_bad=options.skip_bad
        )
        plan = corpus.plan(unit_bytes=_UNIT_BYTES, limit=options.limit)
        prompts = _prompts(corpus, plan, reader, options)
        tell_stage(options.on_progress, f"loading {teacher_name(options.model) or 'the model'}")
        teacher = open_teacher(
            options.model, vocab_size=size, device=options.device, dtype=options.dtype
        )
        if not isinstance(teacher, TransformersTeacher):
            raise SettingError(
                "such a teacher gives distributions, and no answers",
                place="model",
                found=type(options.model).__name__,
                allowed="a transformers model, or its name",
            )
        ends = end_ids(teacher.model, tokenizer)
        return GenerateJob(
            options=options,
            tokenizer=tokenizer,
            prompts=prompts,
            reader=reader,
            answerer=_answerer(teacher, options, ends),
            metadata=_metadata(
                options, teacher, tokenizer, corpus=corpus, plan=plan, rules=rules, ends=ends
            ),
        )

    @property
    def wanted(self) -> int:
        """How many answers there would be if none were left out."""
        turns = sum(1 + len(prompt.content.following) for prompt in self.prompts)
        return turns * self.options.n


def _today(options: GenerateOptions, begun: AnswersMetadata | None) -> date:
    found = None if begun is None else begun.settings.get("template_date")
    given = options.template_date or found
    return template_date(given) if given is not None else date.today()


def _room(options: GenerateOptions) -> int | None:
    """The most tokens of a prompt that leaves room for an answer."""
    context = model_context(options.model)
    if context is None:
        return None
    if options.max_new_tokens >= context:
        raise SettingError(
            "--max-new-tokens leaves no room for a prompt in the model's context",
            found=options.max_new_tokens,
            allowed=f"below {context}",
        )
    return context - options.max_new_tokens


def _prompts(
    corpus: Corpus, plan: Plan, reader: PromptReader, options: GenerateOptions
) -> list[Prompt]:
    """All prompts, in the order of the corpus, and what was found told."""
    shapes: Counter[str] = Counter()
    prompts: list[Prompt] = []
    skipped = 0
    for unit in plan.units:
        records = corpus.read(unit, skip_bad=options.skip_bad)
        prompts += reader.prompts(records)
        shapes += records.shapes
        skipped += records.skipped
    reader.skipped += skipped
    if not prompts:
        raise CorpusError(
            "no record of the corpus is a prompt that can be answered",
            place=corpus.name,
            found=f"{reader.skipped} records skipped",
        )
    if callable(options.on_note):
        listed = ", ".join(f"{count:,} of {shape}" for shape, count in shapes.items())
        options.on_note(f"{corpus.name}: prompts: {listed}")
        if reader.replaced:
            options.on_note(
                f"{corpus.name}: the answer at the end of {reader.replaced:,} records is left out "
                "and made anew"
            )
        if corpus.unread:
            options.on_note(f"{corpus.name}: not read: {', '.join(corpus.unread[:5])}")
    return prompts


def _answerer(
    teacher: TransformersTeacher, options: GenerateOptions, ends: tuple[int, ...]
) -> Answerer:
    return Answerer(
        teacher,
        drawing=Drawing(
            temperature=options.temperature,
            top_p=options.top_p,
            top_k=options.top_k,
            min_p=options.min_p,
        ),
        seed=options.seed,
        ends=ends,
        max_new_tokens=options.max_new_tokens,
        batch_tokens=options.batch_tokens,
    )


def _metadata(
    options: GenerateOptions,
    teacher: TransformersTeacher,
    tokenizer: Any,
    *,
    corpus: Corpus,
    plan: Plan,
    rules: TextRules,
    ends: tuple[int, ...],
) -> AnswersMetadata:
    spec, template = teacher.spec, getattr(tokenizer, "chat_template", None)
    return AnswersMetadata(
        model={
            "name": str(options.model) if is_name(options.model) else spec.name,
            "fingerprint": spec.fingerprint,
            "architecture": spec.architecture,
            "parameters": spec.parameters,
            "dtype": spec.dtype,
            "device": spec.device,
        },
        tokenizer={
            "fingerprint": tokenizer_fingerprint(tokenizer),
            "vocab_size": rules.vocab_size,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
        },
        settings={
            **{name: getattr(options, name) for name in _SETTINGS},
            "ignore_field": sorted(options.ignore_field or ()),
            "chat_template": _hash(template),
            "template_kwargs": json.dumps(rules.template_variables, sort_keys=True),
            "template_date": rules.today.isoformat() if uses_clock(template) else None,
            "end_ids": list(ends),
        },
        corpus={"name": corpus.name, "fingerprint": fingerprint(plan.to_json())},
        version=VERSION,
    )


def _hash(template: object) -> str | None:
    """sha256 of a chat template, or of several by their names."""
    text = json.dumps(template, sort_keys=True) if isinstance(template, dict) else template
    return hashlib.sha256(text.encode()).hexdigest() if isinstance(text, str) else None
