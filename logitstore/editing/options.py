"""The options of `convert`, `merge`, `subset` and `extend`."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

from logitstore.codec import FIDELITIES
from logitstore.dumping.options import DUMP_TEMPERATURE, JOB_OPTIONS, OWN_OPTIONS
from logitstore.editing.selection import COLUMNS, parse_span, parse_where
from logitstore.errors import SettingError
from logitstore.options import Option, refuse_uri
from logitstore.progress import ON_PROGRESS
from logitstore.sparsify import SPARSIFIERS
from logitstore.sparsify.options import SEED, K
from logitstore.store.containers import CONTAINERS
from logitstore.store.options import STORE
from logitstore.store.sound import SKIP_DAMAGED
from logitstore.store.storage import open_storage
from logitstore.teacher.devices import DEVICE

__all__ = [
    "CONVERT_OPTIONS",
    "DUPLICATES",
    "EXTEND_OPTIONS",
    "MERGE_OPTIONS",
    "SUBSET_OPTIONS",
    "check_choice",
]

DUPLICATES = ("keep", "drop", "refuse")

_OUT = Option(
    name="out",
    kind=object,
    positional=True,
    help="The new store: a new folder or URI, or that of the same command to go on with.",
    in_python="Or an object with the methods of logitstore.Storage.",
    refuse=open_storage,
)
_ON_NOTE = Option(
    name="on_note",
    kind=object,
    default=None,
    nullable=True,
    python_only=True,
    help="A function that is called with each line on what is done to what the stores hold.",
)
_SKIP_DAMAGED = replace(
    SKIP_DAMAGED,
    help="Leave out the blocks of a store that are damaged, named and counted, if there are no "
    "more than N; without a number, however many. Every block is read once to find them.",
)


_OF_STATES = "Of hidden states, with --sparsify: "


def _own_options() -> tuple[Option, ...]:
    """What belongs to single sparsifiers, and serves where targets are made of hidden states."""
    own = [one for one in (*OWN_OPTIONS, DUMP_TEMPERATURE) if one.name != K.name]
    return tuple(
        replace(one, help=f"{_OF_STATES}{one.help[:1].lower()}{one.help[1:]}") for one in own
    )


CONVERT_OPTIONS = (
    STORE,
    _OUT,
    Option(
        name="format",
        kind=str,
        default=None,
        nullable=True,
        choices=lambda: CONTAINERS,
        help="The file format of the shards.",
        unset="that of the store",
    ),
    Option(
        name="fidelity",
        kind=str,
        default=None,
        nullable=True,
        choices=lambda: FIDELITIES,
        help="The precision of the stored values. What was rounded before stays so.",
        unset="that of the store",
    ),
    Option(
        name="sparsify",
        kind=str,
        default=None,
        nullable=True,
        choices=lambda: SPARSIFIERS,
        help="Make other targets: of hidden states any kind, and of targets that have drawn "
        "entries too their heads.",
        unset="the targets stay of their kind",
    ),
    replace(
        K,
        default=None,
        nullable=True,
        help="Keep this many of the most probable entries of each target; the mass of the others "
        "goes to the tail.",
        unset="as many as the store has; where targets are made of hidden states, as a dump",
    ),
    *_own_options(),
    replace(
        DEVICE,
        help=f"{_OF_STATES}where the teacher's output layer runs: cpu, cuda, cuda:1, mps, ...",
    ),
    _SKIP_DAMAGED,
    _ON_NOTE,
    ON_PROGRESS,
)


def _refuse_names(stores: list[Any]) -> None:
    """Raise SettingError for a name that no storage serves."""
    for one in stores:
        if isinstance(one, str | os.PathLike):
            open_storage(one)


MERGE_OPTIONS = (
    _OUT,
    Option(
        name="stores",
        kind=list,
        positional=True,
        places=True,
        spelled="store",
        help="The stores, in the order in which their documents will stand.",
        in_python="Each a path, a URI, an open `Store`, or an object with the methods of "
        "logitstore.Storage.",
        refuse=_refuse_names,
    ),
    Option(
        name="duplicates",
        kind=str,
        default="keep",
        choices=lambda: DUPLICATES,
        help="What is done with a document that has the id and the tokens of an earlier one. They "
        "are counted in any case.",
    ),
    _SKIP_DAMAGED,
    _ON_NOTE,
    ON_PROGRESS,
)

_REST = Option(
    name="rest",
    kind=object,
    default=None,
    nullable=True,
    help="Write all other documents to this store.",
    in_python="Or an object with the methods of logitstore.Storage.",
    unset="no such store",
    refuse=open_storage,
)
SUBSET_OPTIONS = (
    STORE,
    _OUT,
    Option(
        name="documents",
        kind=str,
        default=None,
        nullable=True,
        help="Documents A to B, without B, counted from 0, as in 0:1000 or 5000:.",
        unset="all",
        refuse=parse_span,
    ),
    Option(
        name="ids",
        kind=str,
        default=None,
        nullable=True,
        help="The documents whose ids stand in this file: 32 hex digits on each line.",
        unset="all",
        refuse=refuse_uri,
    ),
    Option(
        name="where",
        kind=str,
        default=None,
        nullable=True,
        help="The documents for which a condition holds, as in 'entropy > 2 and not tokens < 64'. "
        f"Of a document are known: {', '.join(COLUMNS)}.",
        unset="all",
        refuse=parse_where,
    ),
    Option(
        name="sample",
        kind=int,
        default=None,
        nullable=True,
        least=1,
        help="Draw this many of the documents that are chosen otherwise.",
        unset="all of them",
    ),
    replace(SEED, default=0, needs="sample"),
    _REST,
    _SKIP_DAMAGED,
    _ON_NOTE,
    ON_PROGRESS,
)


def check_choice(*, documents: Any, ids: Any, where: Any, sample: Any, **_: Any) -> None:
    """Refuse a subset that is everything, by a SettingError.

    documents, ids, where, sample: the options of those names.
    """
    if documents is ids is where is sample is None:
        raise SettingError(
            "nothing says which documents are wanted",
            allowed="--documents, --ids, --where, --sample, or several of them",
        )


_FROM_JOB = (
    "teacher",
    "data",
    "limit",
    "skip_bad",
    "teacher_system",
    "device",
    "dtype",
    "on_note",
)
EXTEND_OPTIONS = (
    STORE,
    _OUT,
    *(one for one in JOB_OPTIONS if one.name in _FROM_JOB),
    ON_PROGRESS,
)
