"""Which store is read, and how far it is checked: the options of `verify` and `inspect`."""

from __future__ import annotations

import os

from logitstore.options import Option
from logitstore.progress import ON_PROGRESS
from logitstore.store.memory_limit import parse_bytes
from logitstore.store.storage import open_storage

__all__ = ["GC_OPTIONS", "INSPECT_OPTIONS", "MAX_MEMORY", "STORE", "VERIFY_OPTIONS"]


def _refuse_name(store: object) -> None:
    """Raise SettingError for a name that no storage serves; objects are for the reader to judge."""
    if isinstance(store, str | os.PathLike):
        open_storage(store)


STORE = Option(
    name="store",
    kind=object,
    positional=True,
    help="The store: its folder or its URI, as in s3://bucket/store.",
    in_python="Or an open `Store`, or an object with the methods of logitstore.Storage.",
    refuse=_refuse_name,
)
MAX_MEMORY = Option(
    name="max_memory",
    kind=object,
    default=None,
    nullable=True,
    help="The most memory that a block may take while it is read, as in 8G. What a store says to "
    "be larger is refused.",
    in_python="Or a number of bytes. An open store keeps its own.",
    unset="half of the machine's",
    refuse=parse_bytes,
)
_FAST = Option(
    name="fast",
    kind=bool,
    default=False,
    help="Check names, sizes and the seal; do not read the contents.",
    excludes=("hashes",),
)
_HASHES = Option(
    name="hashes",
    kind=bool,
    default=False,
    help="Check the hash of every object too; do not decode the contents.",
    excludes=("fast",),
)

_STRICT = Option(
    name="strict",
    kind=bool,
    default=False,
    help="Take files that the store does not name for faults, instead of only naming them.",
)
_YES = Option(
    name="yes",
    kind=bool,
    default=False,
    help="Remove what is listed. Without it nothing is removed.",
)
_GRACE = Option(
    name="grace",
    kind=float,
    default=3600.0,
    least=0,
    help="In an unfinished store, keep what was written in the last N seconds.",
)

VERIFY_OPTIONS = (STORE, _FAST, _HASHES, _STRICT, MAX_MEMORY, ON_PROGRESS)
GC_OPTIONS = (STORE, _YES, _GRACE)
INSPECT_OPTIONS = (STORE,)
