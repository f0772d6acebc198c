"""What `view` is told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from logitstore.options import Option, option, options_of, refuse_uri
from logitstore.store.options import MAX_MEMORY, STORE
from logitstore.teacher.devices import DEVICE, DTYPE

__all__ = ["PORT", "TELL", "VIEW_OPTIONS", "ViewOptions"]

PORT = Option(
    name="port",
    kind=int,
    default=0,
    least=0,
    most=65535,
    help="The port of this machine on which it is served; 0 takes a free one.",
)

TELL = Option(
    name="tell",
    kind=object,
    default=print,
    python_only=True,
    help="A function that is called with each line that is told.",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class ViewOptions:
    """Which store is shown, what beside it, and where."""

    store: Any = option(like=STORE)
    other: Any = option(
        None,
        like=STORE,
        nullable=True,
        excludes=("student",),
        help="Another store of the same texts, shown beside it.",
        unset="none",
    )
    student: object | None = option(
        None,
        refuse=refuse_uri,
        excludes=("other",),
        help="A model that is run on the documents and shown beside the store: the folder of a "
        "run, or any model of the same tokenizer.",
        unset="none",
    )
    html: Path | None = option(
        None,
        excludes=("port", "open"),
        help="Write some documents as one page into this file, to be sent and opened without a "
        "server.",
        unset="a server is started",
    )
    documents: int | None = option(
        None,
        least=1,
        most=1000,
        needs="html",
        help="How many documents the page holds, spread over the store.",
        unset="20",
    )
    port: int = option(like=PORT, excludes=("html",))
    open: bool = option(False, excludes=("html",), help="Open the page in a browser.")
    device: str = option(like=DEVICE, needs="student")
    dtype: str = option(like=DTYPE, needs="student")
    max_memory: Any = option(like=MAX_MEMORY)
    tell: object = option(like=TELL)


VIEW_OPTIONS = options_of(ViewOptions)
