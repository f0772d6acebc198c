"""What a dump is told: its options, declared once for `dump`, `estimate` and `tune` alike.

    JobOptions       which teacher, which text, and how a dump works through it; all three take them
    TARGET_OPTIONS   what is kept of each distribution: `dump` and `estimate` take them too
    DUMP_OPTIONS     all of `dump`

What belongs to one sparsifier, such as `draws`, is declared by that sparsifier, with a default of
its own; here these options only get their place in the signature, and values that the chosen
sparsifier has no use for are refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from logitstore.codec import FIDELITIES
from logitstore.corpus.fields import Fields
from logitstore.corpus.shapes import SHAPES
from logitstore.errors import SettingError
from logitstore.format.layers import LayerRule
from logitstore.format.rules import TargetRule
from logitstore.options import Option, option, options_of, refuse_uri
from logitstore.own_options import listed, own_options
from logitstore.progress import ON_PROGRESS
from logitstore.sparsify import DEFAULT_SPARSIFIER, SPARSIFIERS
from logitstore.sparsify.build import sparsifier_spec
from logitstore.sparsify.options import TEMPERATURE
from logitstore.store.containers import CONTAINERS
from logitstore.store.storage import open_storage
from logitstore.teacher.devices import DEVICE, DTYPE

if TYPE_CHECKING:
    from logitstore.format.spec import SparsifierSpec

__all__ = [
    "DUMP_OPTIONS",
    "DUMP_TEMPERATURE",
    "HIDDEN_LAYERS",
    "JOB_OPTIONS",
    "OWN_OPTIONS",
    "TARGET_OPTIONS",
    "TEACHER",
    "JobOptions",
    "check_targets",
    "split_options",
    "system_prompt",
    "target_spec",
    "template_date",
    "template_variables",
]


def template_variables(given: object) -> dict[str, Any]:
    """The variables of a chat template that an option gives, as JSON or as a mapping.

    Raises SettingError where they are none.
    """
    try:
        found = json.loads(given) if isinstance(given, str) else given
        if isinstance(found, Mapping):
            return dict(json.loads(json.dumps(dict(found), allow_nan=False)))
    except (TypeError, ValueError, RecursionError):
        pass
    raise SettingError("this is no JSON object", found=repr(given)[:80], allowed='as {"a": true}')


def system_prompt(given: object) -> str:
    """The system prompt that an option gives: a text, or the file that holds it.

    Raises SettingError for a file that cannot be read, for an empty one, and for a text of one
    word, which is rather the name of a file that is not there.
    """
    text = str(given)
    if isinstance(given, Path) or _is_file(text):
        try:
            text = Path(text).read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            problem = getattr(error, "strerror", None) or error
            raise SettingError(f"the file cannot be read: {problem}", found=text) from error
    elif len(text.split()) == 1:
        raise SettingError(
            "there is no such file, and a system prompt has more than a word",
            found=text[:80],
            allowed="a file of UTF-8 text, or the text itself",
        )
    if not text.strip():
        raise SettingError("the system prompt is empty", found=repr(str(given))[:80])
    return text.strip()


def _is_file(name: str) -> bool:
    try:
        return Path(name).is_file()
    except (OSError, ValueError):  # a text that is too long for a name, or holds a zero byte
        return False


def template_date(given: str) -> date:
    """The date that an option gives. Raises SettingError where it is none."""
    try:
        return date.fromisoformat(given)
    except ValueError as error:
        raise SettingError("this is no date", found=given, allowed="as 2026-01-31") from error


TEACHER = Option(
    name="teacher",
    kind=object,
    refuse=refuse_uri,
    help="The teacher: a transformers folder, a .gguf file or a Hub id.",
    in_python="Or a loaded transformers model, or any object that is a logitstore.Teacher.",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class JobOptions:
    """Which teacher reads which text, and how: everything but what is kept of a distribution."""

    teacher: object = option(like=TEACHER)
    tokenizer: object | None = option(
        None,
        refuse=refuse_uri,
        help="The tokenizer, or its folder or Hub id. A teacher that is no name needs one.",
        unset="that of the teacher's folder",
        python_only=True,
    )
    data: object = option(
        refuse=refuse_uri,
        repeated=True,
        help="The corpus: a file, a folder, a pattern such as 'data/*.jsonl', or a Hub data set; "
        "may be given several times. Files of text, JSON, CSV, Parquet and Arrow are read.",
        in_python="Or a list of `Path`; or strings, or dicts with the fields of a JSONL line: any "
        "iterable, read once.",
    )
    records: str = option(
        "auto",
        choices=lambda: ("auto", *SHAPES),
        help="The shape of the records; auto finds that of each by its fields.",
        excludes=("text_field", "messages_field", "tokens_field"),
    )
    text_field: str | None = option(
        None,
        help="The field of a record that holds its text.",
        unset="'text', where there is one",
        excludes=("messages_field", "tokens_field", "records"),
    )
    messages_field: str | None = option(
        None,
        help="The field of a record that holds its chat.",
        unset="'messages', where there is one",
        excludes=("text_field", "tokens_field", "records"),
    )
    tokens_field: str | None = option(
        None,
        help="The field of a record that holds token ids, which are taken as they are.",
        unset="'input_ids', where there is one",
        excludes=("text_field", "messages_field", "records"),
    )
    mask_field: str | None = option(
        None,
        needs="tokens_field",
        help="The field that says which tokens count: 1 or 0, or labels that are -100 elsewhere.",
        unset="'loss_mask' or 'labels', where there is one; else all count",
    )
    sampler_field: str | None = option(
        None,
        help="The field of a record of tokens that holds the log-probabilities with which they "
        "were drawn; the store keeps them.",
        unset="'sampler_logprobs', where there is one",
    )
    ignore_field: list[str] | None = option(
        None,
        help="A field of messages, or tools, to leave out; may be given several times.",
        unset="none: a field that the chat template leaves out is refused",
    )
    turns: str = option(
        "all",
        choices=lambda: ("all", "last"),
        help="Which turns of a chat count: all of the assistant's, or the last alone.",
    )
    chat_template: object | None = option(
        None,
        help="The file of a chat template to take instead of the tokenizer's own.",
        unset="that of the tokenizer",
        refuse=refuse_uri,
    )
    template_kwargs: object | None = option(
        None,
        help="Variables for the chat template, as a JSON object.",
        in_python="Or a dict.",
        unset="none",
        refuse=template_variables,
    )
    template_date: str | None = option(
        None,
        help="The date that a chat template is told where it asks, as 2026-01-31.",
        unset="today, or the date with which the store was begun",
        refuse=template_date,
    )
    teacher_system: object | None = option(
        None,
        help="A system prompt that only the teacher reads: a text, or the file that holds it.",
        in_python="Or the `Path` of the file.",
        unset="none",
        refuse=system_prompt,
    )
    max_length: int | None = option(
        None,
        least=2,
        help="The most tokens of a document; longer ones are split.",
        unset="the teacher's context, 1024 at most",
    )
    limit: int | None = option(
        None,
        least=1,
        help="Take the first N records of the corpus only. In a .txt file a record is a "
        "section of 16 to 32 KiB.",
        unset="all of them",
    )
    skip_bad: bool = option(False, help="Skip broken records, and report how many there were.")
    fidelity: str = option(
        "balanced", choices=lambda: FIDELITIES, help="The precision of the stored values."
    )
    format: str = option("zarr", choices=lambda: CONTAINERS, help="The file format of the shards.")
    device: str = option(like=DEVICE)
    dtype: str = option(like=DTYPE)
    batch_tokens: int = option(
        16_384,
        least=1,
        help="The most tokens in one batch of the teacher, padding included; a longer "
        "document has a batch of its own.",
    )
    unit_tokens: int = option(
        1_000_000,
        least=1,
        help="The approximate number of tokens in a work unit. A crash loses at most the work on "
        "one unit.",
    )
    on_note: object | None = option(
        None,
        python_only=True,
        help="A function that is called with each line on what is read of the corpus and how.",
    )

    @property
    def fields(self) -> Fields:
        """Which fields of a record are read, and how."""
        return Fields(
            text=self.text_field,
            messages=self.messages_field,
            tokens=self.tokens_field,
            mask=self.mask_field,
            sampler=self.sampler_field,
            shape=None if self.records == "auto" else self.records,
            ignored=frozenset(self.ignore_field or ()),
        )


def _options_by_kind() -> dict[str, Mapping[Option, Any]]:
    """Sparsifier -> the options that it takes, and what they are where nobody sets them."""
    return {name: one.options for name, one in SPARSIFIERS.items()}


_SPARSIFY = Option(
    name="sparsify",
    kind=str,
    default=DEFAULT_SPARSIFIER,
    choices=lambda: SPARSIFIERS,
    help="The method that chooses which tokens of a distribution are stored.",
)


def _temperature() -> Option:
    """The option that all sparsifiers take, each in the way of its kind."""
    drawn = [name for name, one in SPARSIFIERS.items() if not one.targets.keeps_tail]
    return replace(
        TEMPERATURE,
        help=f"The temperatures that the store serves, as in 1,2,4. {listed(drawn)} draw once for "
        "each; the others store the mass of the tail at each.",
        unset="1; for the others, all from 1 to 10",
    )


_POSITIONS = Option(
    name="positions",
    kind=str,
    default=None,
    nullable=True,
    refuse=TargetRule.parse,
    help="Keep targets of some positions alone, by the teacher's entropy or by its loss on the "
    "true token: entropy:top:0.2 is the fifth of each document of which it is least sure, "
    "loss:bottom:0.8 all but the fifth of the highest loss; entropy:above:1.5 and loss:below:3 are "
    "in nats.",
    unset="all that count",
)
HIDDEN_LAYERS = Option(
    name="hidden_layers",
    kind=str,
    default=None,
    nullable=True,
    refuse=LayerRule.parse,
    help="Keep the teacher's hidden states behind these layers too, for `trainer fit "
    "--hint-weight`: numbers counted from 1, as 6,12; or every:4, which is 4, 8, 12 and so on; or "
    "middle. Each takes the teacher's width times two bytes a target, or four, before compression.",
    unset="none",
)
_OUT = Option(
    name="out",
    kind=object,
    help="The folder of the store: a new one, or that of a dump to go on with.",
    in_python="Or an object with the methods of logitstore.Storage.",
    refuse=open_storage,
)

JOB_OPTIONS = options_of(JobOptions)
OWN_OPTIONS = own_options(_options_by_kind())
DUMP_TEMPERATURE = _temperature()
TARGET_OPTIONS = (_SPARSIFY, *OWN_OPTIONS, DUMP_TEMPERATURE, _POSITIONS)
_NO_CHECK = Option(
    name="no_check",
    kind=bool,
    default=False,
    help="Seal the store without reading every object once more to compare its hash.",
)
DUMP_OPTIONS = (*JOB_OPTIONS, *TARGET_OPTIONS, HIDDEN_LAYERS, _OUT, _NO_CHECK, ON_PROGRESS)


def split_options(values: Mapping[str, Any]) -> tuple[JobOptions, dict[str, Any]]:
    """The options of a job, and the rest of `values`.

    values: all options of a command, by name.
    """
    names = {one.name for one in JOB_OPTIONS}
    job = JobOptions(**{name: value for name, value in values.items() if name in names})
    return job, {name: value for name, value in values.items() if name not in names}


def target_spec(values: Mapping[str, Any]) -> SparsifierSpec:
    """The spec of the chosen sparsifier with the options that are set, or its defaults.

    values: options by name; of those that are no sparsifier's, `sparsify` and `temperature`.

    Raises SettingError for one that is set but means nothing to it, and for a value that does not
    fit.
    """
    own = {one.name: values.get(one.name) for one in OWN_OPTIONS}
    return sparsifier_spec(values["sparsify"], temperatures=values["temperature"], **own)


def check_targets(**values: Any) -> None:
    """Refuse options that do not fit the sparsifier, by a SettingError, before a model is loaded.

    `values` are the checked options of `dump` or `estimate`.
    """
    target_spec(values)
