"""What an audit is told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from logitstore.dumping.options import TEACHER, system_prompt
from logitstore.options import option, options_of, refuse_uri
from logitstore.progress import ON_PROGRESS
from logitstore.store.options import MAX_MEMORY, STORE
from logitstore.teacher.devices import DEVICE, DTYPE

__all__ = ["AUDIT_OPTIONS", "AuditOptions"]


@dataclass(frozen=True, kw_only=True, slots=True)
class AuditOptions:
    """Which store is compared with which teacher, and by how many documents."""

    store: Any = option(like=STORE)
    teacher: object = option(like=TEACHER)
    documents: int = option(
        32, least=1, help="The number of documents to audit, spread over the store."
    )
    data: object | None = option(
        None,
        refuse=refuse_uri,
        repeated=True,
        help="The corpus of the dump. It is read again where the teacher read more than the store "
        "keeps.",
        in_python="Or records in memory.",
        unset="not needed where the teacher read the documents alone",
    )
    teacher_system: object | None = option(
        None,
        refuse=system_prompt,
        help="The system prompt that only the teacher read: the text, or the file that holds it.",
        unset="none",
    )
    student: object | None = option(
        None,
        refuse=refuse_uri,
        help="The model on whose output layer gradients are compared.",
        in_python="By name or loaded.",
        unset="a student that gives every token the same probability",
    )
    seed: int = option(0, least=0, help="The seed of the choice of documents.")
    device: str = option(like=DEVICE)
    dtype: str = option(
        like=DTYPE, help="The number type of the forward pass; auto is that of the dump."
    )
    batch_tokens: int | None = option(
        None, least=1, help="The most tokens of one batch of the teacher.", unset="that of the dump"
    )
    no_keep: bool = option(
        False,
        help="Do not write the figures beside the store, as audit.json, where its card and a "
        "catalogue find them.",
    )
    max_memory: Any = option(like=MAX_MEMORY)
    on_progress: object | None = option(None, like=ON_PROGRESS)


AUDIT_OPTIONS = options_of(AuditOptions)
