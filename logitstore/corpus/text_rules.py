"""Text rules: how records become documents, as far as the user decides it."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date
from typing import TYPE_CHECKING

from logitstore.errors import SettingError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["TextRules"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TextRules:
    """How records become documents; part of a store's spec."""

    max_length: int  # tokens of a document at most
    vocab_size: int | None = None  # V: what uses an id from there on is refused; None: nothing is
    last_turn_only: bool = False  # of a chat's turns only the last counts
    template_variables: Mapping[str, object] = field(default_factory=dict)  # for every chat
    today: date = field(default_factory=date.today)  # that a chat template is told
    teacher_system: str | None = None  # a system prompt that only the teacher reads
    teacher_messages: bool = True  # whether records may have messages that only the teacher reads
    sampler_logprobs: bool | None = None  # whether all records have them; None: any may
    teacher_context: int | None = None  # tokens that the teacher reads at most

    def __post_init__(self) -> None:
        if self.max_length < 2:
            raise SettingError(
                "a document needs a token to predict and one before it",
                place="--max-length",
                found=self.max_length,
                allowed=">= 2",
            )
