"""What `push` and `pull` take: declared once, for the command line, the docs and Python alike."""

from __future__ import annotations

from pathlib import Path

from logitstore.errors import SettingError
from logitstore.options import Option
from logitstore.progress import ON_PROGRESS
from logitstore.sharing.addresses import HubAddress
from logitstore.store.options import STORE
from logitstore.store.storage import open_storage

__all__ = ["PULL_OPTIONS", "PUSH_OPTIONS"]


def _refuse_target(remote: object) -> None:
    address = HubAddress.of(remote)
    if address is None:
        open_storage(remote)  # type: ignore[arg-type]
    elif address.revision is not None:
        raise SettingError(
            "a store is pushed to the main branch, and its revision is told after",
            found=str(remote),
            allowed=address.uri(None),
        )


def _refuse_source(remote: object) -> None:
    if HubAddress.of(remote) is None:
        open_storage(remote)  # type: ignore[arg-type]


def _term(name: str, whose: str) -> Option:
    return Option(
        name=name,
        kind=str,
        default=None,
        nullable=True,
        help=f"The terms of {whose}, for the card: an identifier such as apache-2.0, or a name.",
        unset="the card says that they are not stated",
    )


_REMOTE = "hf://datasets/ORG/NAME, a folder, or the URI of a storage such as s3://bucket/path"

PUSH_OPTIONS = (
    STORE,
    Option(
        name="remote",
        kind=object,
        positional=True,
        help=f"Where to: {_REMOTE}.",
        in_python="Or an object with the methods of logitstore.Storage.",
        refuse=_refuse_target,
    ),
    Option(
        name="public",
        kind=bool,
        default=False,
        help="Let everybody read the repository on the Hub. Without it a new one is private, and "
        "one that is public is refused.",
    ),
    _term("license", "the store itself"),
    _term("teacher_license", "the teacher"),
    _term("corpus_license", "the corpus"),
    Option(
        name="audit",
        kind=Path,
        default=None,
        nullable=True,
        help="What `logitstore audit --json` wrote of this store: the card shows its figures.",
        unset="what `logitstore audit` has kept beside the store",
    ),
    ON_PROGRESS,
)
PULL_OPTIONS = (
    Option(
        name="remote",
        kind=object,
        positional=True,
        help="Where from: hf://datasets/ORG/NAME[@REVISION], http(s)://host/path, a folder, or the "
        "URI of a storage such as s3://bucket/path.",
        in_python="Or an object with the methods of logitstore.Storage.",
        refuse=_refuse_source,
    ),
    Option(
        name="out",
        kind=object,
        positional=True,
        spelled="folder",
        help="The folder, which is empty or holds a part of the same store.",
        in_python="Or a URI, or an object with the methods of logitstore.Storage.",
        refuse=lambda out: open_storage(out),
    ),
    ON_PROGRESS,
)
