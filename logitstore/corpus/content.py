"""What a record of a corpus says, whatever form its file had."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from logitstore.corpus.chats import Chat

__all__ = ["Content", "Record", "TokenRecord"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenRecord:
    """Token ids as they are, and which of them count."""

    ids: list[int]
    counted: list[bool]
    sampler_logprobs: list[float] | None = None  # of each, where it counts; 0 elsewhere


@dataclass(frozen=True, kw_only=True, slots=True)
class Content:
    """One of a text, a chat and tokens, and what the teacher reads in its place.

    A chat of a prompt and an answer has a text too, for tokenizers without a chat template, of
    which the characters from `answer` on count. Of a prompt, `replaced` says whether an answer was
    left out behind it, and `following` are what the user says after each answer.
    """

    text: str | None = None
    chat: Chat | None = None
    tokens: TokenRecord | None = None
    answer: int = 0
    prompt: object = None  # of tokens: the text or the messages before the answer
    teacher: Chat | None = None  # in place of the chat; without the last answer, or with it
    replaced: bool = False
    following: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """One record of a corpus."""

    source: str  # the file's path below the corpus folder, or the split of a Hub data set
    record: int  # its number in the source, from 0
    line: int  # the line (or row) on which it begins, from 1
    content: Content
    ends: bool  # a text ends here: False inside a .txt file, whose records are sections

    @property
    def place(self) -> str:
        """Where it stands, for messages."""
        return f"{self.source}:{self.line}"
