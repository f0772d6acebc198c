"""What is read of a record: which of its fields, and how they become content."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from logitstore.corpus.content import Content

__all__ = ["Fields", "Shape"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Fields:
    """Which fields of a record are read, where they have names of their own."""

    text: str | None = None
    messages: str | None = None
    tokens: str | None = None
    mask: str | None = None
    sampler: str | None = None
    shape: str | None = None  # that of every record; None for the one that each has
    ignored: frozenset[str] = frozenset()  # fields of messages, and "tools"
    shapes: Mapping[str, Shape] | None = None  # that records may have; None for those of a corpus


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """One way to write a record down."""

    name: str
    help: str
    needs: tuple[frozenset[str], ...]  # a record with all the fields of one of these has it
    content: Callable[[Mapping[str, Any], Fields], Content]
    columns: tuple[str, ...] = field(default=())  # that it reads beside those that it needs
