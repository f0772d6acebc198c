"""What `generate` has left behind, in lines for people."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from logitstore.cli.console import say

if TYPE_CHECKING:
    from logitstore.generation.run import GenerateSummary

__all__ = ["print_answers"]


def print_answers(summary: GenerateSummary) -> None:
    """What a run left behind."""
    if summary.new_answers == 0:
        say(f"{summary.out}: finished already, left as it is")
    say(
        f"{summary.out}: {summary.answers:,} answers to {summary.prompts:,} prompts, "
        f"{summary.tokens:,} tokens; the longest row has {summary.longest:,}"
    )
    for line in _warnings(summary):
        say(line)
    if summary.new_answers:
        rate: Any = summary.new_tokens / max(summary.seconds, 1e-3)
        say(f"{summary.seconds:.1f} s, {rate:,.0f} tokens/s")


def _warnings(summary: GenerateSummary) -> Iterator[str]:
    from logitstore.dumping.job import DEFAULT_MAX_LENGTH  # which costs torch

    if summary.cut:
        yield f"cut at --max-new-tokens, without an end: {summary.cut:,} answers"
    if summary.empty:
        yield f"empty, an end token alone: {summary.empty:,} answers"
    if summary.longest > DEFAULT_MAX_LENGTH:
        yield (
            f"dump it with --max-length {summary.longest}: what is cut off has no prompt before it"
        )
    if summary.skipped:
        yield f"skipped {summary.skipped:,} records that could not be used"
    if summary.left_out:
        yield f"left out: {summary.left_out:,} answers"
