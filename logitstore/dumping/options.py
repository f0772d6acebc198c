"""What a dump is told: its options, declared once for `dump`, `estimate` and `tune` alike.

    JobOptions       which teacher, which text, and how a dump works through it; all three take them
    TARGET_OPTIONS   what is kept of each distribution: `dump` and `estimate` take them too
    DUMP_OPTIONS     all of `dump`

What belongs to one sparsifier, such as `draws`, is declared by that sparsifier, with a default of
its own; here these options only get their place in the signature, and values that the chosen
sparsifier has no use for are refused.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from logitstore.codec import FIDELITIES
from logitstore.errors import SettingError
from logitstore.options import Option, option, options_of
from logitstore.store.containers import CONTAINERS
from logitstore.teacher.devices import DEVICE, DTYPE

__all__ = [
    "DUMP_OPTIONS",
    "JOB_OPTIONS",
    "TARGET_OPTIONS",
    "TEACHER",
    "JobOptions",
    "check_fields",
    "check_targets",
    "own_options",
    "split_options",
    "target_values",
]


TEACHER = Option(
    name="teacher",
    kind=object,
    help="The teacher: a transformers folder or a Hub id.",
    in_python="Or a loaded transformers model, or any object that is a logitstore.Teacher.",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class JobOptions:
    """Which teacher reads which text, and how: everything but what is kept of a distribution."""

    teacher: object = option(like=TEACHER)
    tokenizer: object | None = option(
        None,
        help="The tokenizer, or its folder or Hub id. A teacher that is no name needs one.",
        unset="that of the teacher's folder",
        python_only=True,
    )
    data: object = option(
        help="The corpus: a .txt, .jsonl, .jsonl.gz or .parquet file, a folder of them, or a Hub "
        "data set.",
        in_python="Or strings, or dicts with the fields of a JSONL line: any iterable, read once.",
    )
    text_field: str | None = option(
        None, help="The field of a record that holds its text.", unset="'text' where there is one"
    )
    messages_field: str | None = option(
        None,
        help="The field of a record that holds its chat.",
        unset="'messages' where there is one",
    )
    max_length: int | None = option(
        None,
        least=2,
        help="The most tokens of a document; longer ones are split.",
        unset="the teacher's context, 1024 at most",
    )
    limit: int | None = option(
        None, least=1, help="Take the first N records of the corpus only.", unset="all of them"
    )
    skip_bad: bool = option(False, help="Count broken records and go on without them.")
    fidelity: str = option(
        "balanced", choices=lambda: FIDELITIES, help="How finely values are stored."
    )
    container: str = option(
        "zarr",
        choices=lambda: CONTAINERS,
        spelled="format",
        help="How shards are laid out in files.",
    )
    device: str = option(like=DEVICE)
    dtype: str = option(like=DTYPE)
    batch_tokens: int = option(
        16_384, least=1, help="The most tokens of one batch of the teacher, padding included."
    )
    unit_tokens: int = option(
        1_000_000,
        least=1,
        help="The tokens of a unit of work, about: what a crash can cost at most.",
    )


_MOST = 4096  # entries of a row, draws of a target

_K = Option(
    name="k",
    kind=int,
    least=1,
    most=_MOST,
    help="The entries of a target; those of its head for hybrid, the most for topp.",
)
_TOP_P = Option(
    name="top_p", kind=float, above=0, most=1, help="The mass that a head covers at least."
)
_DRAWS = Option(
    name="draws", kind=int, least=1, most=_MOST, help="The draws of a target, with replacement."
)
_TAIL_DRAWS = Option(
    name="tail_draws",
    kind=int,
    least=1,
    most=_MOST,
    help="The entries that are drawn from the tail.",
)
_REPEATS = Option(
    name="repeats",
    kind=int,
    least=1,
    most=_MOST,
    help="How often each target is drawn anew, for so many epochs.",
)
_SEED = Option(name="seed", kind=int, least=0, most=2**53 - 1, help="The seed of the draws.")

# Sparsifier -> the options that it takes, and what they are where nobody sets them.
KINDS: Mapping[str, Mapping[Option, Any]] = {
    "topk": {_K: 64},
    "topp": {_K: 64, _TOP_P: 0.98},
    "sample": {_DRAWS: 50, _REPEATS: 1, _SEED: 0},
    "unbiased": {_K: 16, _REPEATS: 1, _SEED: 0},
    "hybrid": {_K: 8, _TAIL_DRAWS: 8, _SEED: 0},
}


def own_options(kinds: Mapping[str, Mapping[Option, Any]]) -> tuple[Option, ...]:
    """The options of all sparsifiers, each once, with the default that each gives it in words."""
    declared: dict[str, Option] = {}
    defaults: dict[str, dict[Any, list[str]]] = defaultdict(lambda: defaultdict(list))
    for kind, options in kinds.items():
        for one, default in options.items():
            declared.setdefault(one.name, one)
            defaults[one.name][default].append(kind)
    return tuple(
        replace(one, default=None, nullable=True, unset=_in_words(defaults[name]))
        for name, one in declared.items()
    )


def _in_words(kinds_of: Mapping[Any, list[str]]) -> str:
    """Defaults and the sparsifiers that have them: "8 for hybrid, 64 for topk and topp"."""
    return ", ".join(
        f"{default} for {', '.join(kinds[:-1])}{' and ' if kinds[:-1] else ''}{kinds[-1]}"
        for default, kinds in kinds_of.items()
    )


_SPARSIFY = Option(
    name="sparsify",
    kind=str,
    default="hybrid",
    choices=lambda: KINDS,
    help="The sparsifier: how a distribution becomes entries.",
)
_TEMPERATURE = Option(
    name="temperature",
    kind=tuple,
    default=None,
    nullable=True,
    least=0.1,
    most=100,
    help="The temperatures to serve, as in 1,2,4: sample and unbiased draw once for each, the "
    "others keep the tail's mass at each.",
    unset="1; for the others, all from 1 to 10",
)
_OUT = Option(
    name="out", kind=object, help="The folder of the store: a new one, or one to take up again."
)
_ON_PROGRESS = Option(
    name="on_progress",
    kind=object,
    default=None,
    nullable=True,
    python_only=True,
    help="A function that is called with a DumpProgress after each batch and each unit.",
)

JOB_OPTIONS = options_of(JobOptions)
OWN_OPTIONS = own_options(KINDS)
TARGET_OPTIONS = (_SPARSIFY, *OWN_OPTIONS, _TEMPERATURE)
DUMP_OPTIONS = (*JOB_OPTIONS, *TARGET_OPTIONS, _OUT, _ON_PROGRESS)


def split_options(values: Mapping[str, Any]) -> tuple[JobOptions, dict[str, Any]]:
    """The options of a job, and the rest of `values`."""
    names = {one.name for one in JOB_OPTIONS}
    job = JobOptions(**{name: value for name, value in values.items() if name in names})
    return job, {name: value for name, value in values.items() if name not in names}


def target_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """The options that the chosen sparsifier takes, by name: those that are set, or its defaults.

    Raises SettingError for one that is set but means nothing to it.
    """
    kind = values["sparsify"]
    for one in OWN_OPTIONS:
        takers = [name for name, options in KINDS.items() if one.name in _names(options)]
        if values.get(one.name) is not None and kind not in takers:
            raise SettingError(
                f"{one.flag} means nothing to --sparsify {kind}",
                allowed=f"with --sparsify {' or '.join(takers)}",
                remedy="Leave it out, or choose another sparsifier",
            )
    return {
        one.name: default if values.get(one.name) is None else one.check(values[one.name])
        for one, default in KINDS[kind].items()
    }


def check_fields(*, text_field: str | None, messages_field: str | None, **_: Any) -> None:
    """Refuse, by a SettingError, two fields named at once."""
    if text_field is not None and messages_field is not None:
        raise SettingError(
            "--text-field and --messages-field exclude each other", remedy="Give one of them"
        )


def check_targets(**values: Any) -> None:
    """Refuse options that do not fit each other, by a SettingError, before anything is loaded."""
    own = target_values(values)
    if not isinstance(values.get("out", ""), str | Path):
        raise SettingError("--out must be a path", found=repr(values["out"])[:80])
    check_fields(**values)
    from logitstore.sparsify import sparsifier_spec

    sparsifier_spec(values["sparsify"], temperatures=values["temperature"], **own)


def _names(options: Mapping[Option, Any]) -> set[str]:
    return {one.name for one in options}
