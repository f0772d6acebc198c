"""Responses of vLLM and of servers that answer as OpenAI's do: a JSON object a line.

    prompt_logprobs      [null, {"id": {logprob, ..}, ..}, ..]; element i is of prompt token i,
                         the prompt's own token first
    echo                 logprobs.tokens, token_logprobs, top_logprobs; element i is of token i
    content              logprobs.content[i] of generated token i: {token, logprob, top_logprobs}

What was generated stands behind a prompt, whose ids are in the response where they were asked for;
else they must be given. Minus infinity is written -9999. Ids are told by keys, by "token_id:N", or
by bytes that exactly one token has; never by text.

Described by vLLM 0.33 and openai 3.57. Shapes: L tokens, R rows.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from logitstore.errors import CorpusError, SettingError
from logitstore.exchange.foreign_documents import ForeignDocument, SparseRows, Values
from logitstore.exchange.foreign_files import Foreign, ForeignFile, files_of, refuse_given
from logitstore.exchange.token_files import TokenRecord, lines_of, next_tokens, token_records
from logitstore.exchange.token_names import BytesOfTokens, id_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from logitstore.exchange.foreign_files import Request

__all__ = ["open_responses"]

_MINUS_INFINITY = -9999.0
_MOST_LOGPROB = 0.01  # above 0 by the rounding of half precision
_ID = re.compile(r"0|[1-9][0-9]{0,9}")
_WHY = "the response does not have the ids of its prompt"


def open_responses(request: Request) -> Foreign:
    """The .jsonl files of a folder, or one of them. Raises CorpusError or SettingError.

    request: what was asked for.
    """
    refuse_given(request, "config", "alignment", "bos", what="responses of a server")
    paths = files_of(request.source, "*.jsonl")

    def documents() -> Iterator[ForeignDocument]:
        tokens = None if request.tokens is None else token_records(request.tokens, why=_WHY)
        record = -1
        for path in paths:
            names = _Names(request.tokenizer, path)
            for place, content in lines_of(path):
                record += 1
                prompt = None if tokens is None else next_tokens(tokens, place=place)
                yield _Response.of(content, place=place).document(record, prompt, names.id_of)

    return Foreign(
        files=(ForeignFile(name=request.source.name, paths=tuple(paths), read=documents),),
        values=Values.LOGPROBS,
        lacks=(
            "the server's temperature, and whether its log-probabilities were processed",
            "how a prompt was made of messages",
        ),
    )


@dataclass(slots=True)
class _Names:
    """Ids by name; the table of bytes is made when a token is first named by its text."""

    tokenizer: Any
    path: Path
    _table: BytesOfTokens | None = field(default=None)

    def id_of(self, entry: Mapping[str, Any], place: str) -> int:
        name = entry.get("token")
        if isinstance(name, str) and name.startswith("token_id:"):
            return id_of(name, place=place)
        if self._table is None:
            self._table = BytesOfTokens(self.tokenizer, place=str(self.path))
        return self._table.id_of(entry, place=place)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Response:
    """The parts of a response that are read."""

    place: str
    prompt_ids: list[int] | None
    prompt_rows: list[Any] | None  # prompt_logprobs
    echo: dict[str, Any] | None
    generated: list[Any] | None  # logprobs.content

    @staticmethod
    def of(content: object, *, place: str) -> _Response:
        choices = content.get("choices") if isinstance(content, dict) else None
        if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], dict):
            raise CorpusError(
                "this is no response with one choice",
                place=place,
                found="no choices" if not isinstance(choices, list) else len(choices),
                allowed="an object whose `choices` has one element",
            )
        both = {**content, **{k: v for k, v in choices[0].items() if v is not None}}  # type: ignore[dict-item]
        logprobs = choices[0].get("logprobs")
        parts = logprobs if isinstance(logprobs, dict) else {}
        return _Response(
            place=place,
            prompt_ids=_list(both.get("prompt_token_ids"), int, place=place),
            prompt_rows=_list(both.get("prompt_logprobs"), object, place=place),
            echo=parts if isinstance(parts.get("top_logprobs"), list) else None,
            generated=_list(parts.get("content"), dict, place=place),
        )

    def document(
        self,
        record: int,
        given: TokenRecord | None,
        name: Callable[[Mapping[str, Any], str], int],
    ) -> ForeignDocument:
        """The prompt and what was generated, with the rows that are there."""
        if self.echo is not None and self.prompt_rows is None:
            ids, rows = self._echoed(self.echo)
            prompt = ids[:1]
        else:
            prompt = self._prompt(given)
            ids, rows = self._prompted(prompt)
            generated_ids, generated_rows = self._generated(name)
            ids, rows = ids + generated_ids, rows + generated_rows
        if self.prompt_ids is not None and self.prompt_ids != ids[: len(self.prompt_ids)]:
            raise CorpusError("prompt_token_ids are other tokens than the rows'", place=self.place)
        if not any(row is not None for row in rows):
            raise CorpusError(
                "the response has no log-probabilities of tokens",
                place=self.place,
                remedy="Ask for prompt_logprobs, or for logprobs and top_logprobs",
            )
        there = [row for row in rows if row is not None]
        return ForeignDocument(
            place=self.place,
            record=record,
            piece=0,
            input_ids_L=np.array(ids, dtype=np.int64),
            counted_L=np.array([row is not None for row in rows], dtype=bool),
            rows=SparseRows.ragged(
                [list(row) for row in there], [[*row.values()] for row in there]
            ),
        )

    def _prompt(self, given: TokenRecord | None) -> list[int]:
        """The ids of the prompt: the response's own, or those of `--tokens`."""
        told = None if given is None else given.input_ids_L.tolist()
        if self.prompt_ids is None and told is None:
            raise SettingError(
                f"--tokens is missing: {_WHY}",
                place=self.place,
                allowed="a .jsonl or .parquet file with the prompt's `input_ids` for each response",
                remedy="Or ask the server for them: return_token_ids with vLLM",
            )
        if self.prompt_ids is not None and told is not None and told != self.prompt_ids:
            raise CorpusError(
                "--tokens has other ids than the response says",
                place=given.place if given else None,
            )
        return self.prompt_ids or told or []

    def _prompted(self, prompt: list[int]) -> tuple[list[int], list[dict[int, float] | None]]:
        """Ids and rows of the prompt."""
        if self.prompt_rows is None:
            return prompt, [None] * len(prompt)
        if len(self.prompt_rows) != len(prompt) or self.prompt_rows[:1] != [None]:
            raise CorpusError(
                "prompt_logprobs do not match the prompt",
                place=self.place,
                found=len(self.prompt_rows),
                allowed=f"null, and then {len(prompt) - 1} objects",
            )
        rows: list[dict[int, float] | None] = [None]
        for number, (token, row) in enumerate(
            zip(prompt[1:], self.prompt_rows[1:], strict=True), start=1
        ):
            place = f"{self.place}, prompt_logprobs {number}"
            if not isinstance(row, dict) or not all(_ID.fullmatch(key) for key in row):
                raise CorpusError("a row is no object of ids", place=place)
            values = {int(key): _value(entry, place=place) for key, entry in row.items()}
            if next(iter(values), None) != token:
                raise CorpusError(
                    "the first entry of a row is not the prompt's own token",
                    place=place,
                    found=next(iter(values), None),
                    allowed=token,
                )
            rows.append(values)
        return prompt, rows

    def _echoed(self, echo: dict[str, Any]) -> tuple[list[int], list[dict[int, float] | None]]:
        tokens = _list(echo.get("tokens"), str, place=self.place) or []
        own = _list(echo.get("token_logprobs"), object, place=self.place) or []
        tops = echo["top_logprobs"]
        if not tokens or not len(tokens) == len(own) == len(tops) or tops[0] is not None:
            raise CorpusError("this is no echo of a prompt", place=self.place, found=len(tokens))
        ids = [id_of(one, place=f"{self.place}, tokens {n}") for n, one in enumerate(tokens)]
        rows: list[dict[int, float] | None] = [None]
        for number in range(1, len(ids)):
            place = f"{self.place}, top_logprobs {number}"
            if not isinstance(tops[number], dict):
                raise CorpusError("a row is no object", place=place)
            row = {
                id_of(key, place=place): _real(one, place=place)
                for key, one in tops[number].items()
            }
            rows.append({ids[number]: _real(own[number], place=place)} | row)
        return ids, rows

    def _generated(
        self, name: Callable[[Mapping[str, Any], str], int]
    ) -> tuple[list[int], list[dict[int, float] | None]]:
        ids: list[int] = []
        rows: list[dict[int, float] | None] = []
        for number, one in enumerate(self.generated or ()):
            place = f"{self.place}, content {number}"
            tops = _list(one.get("top_logprobs"), dict, place=place) or []
            ids.append(name(one, place))
            row = {ids[-1]: _value(one, place=place)}
            for entry in tops:
                row[name(entry, place)] = _value(entry, place=place)
            rows.append(row)
        return ids, rows


def _list(value: object, kind: type, *, place: str) -> list[Any] | None:
    if value is None:
        return None
    wrong = not isinstance(value, list) or (
        kind is not object and not all(type(one) is kind for one in value)
    )
    if wrong:
        raise CorpusError(f"this is no list of {kind.__name__}", place=place, found=repr(value))
    return value  # type: ignore[return-value]


def _value(entry: object, *, place: str) -> float:
    return _real(entry.get("logprob") if isinstance(entry, dict) else None, place=place)


def _real(value: object, *, place: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise CorpusError("a log-probability is no number", place=place, found=repr(value))
    if not value <= _MOST_LOGPROB:
        raise CorpusError(
            "a log-probability is none", place=place, found=value, allowed="0 or less, rounded"
        )
    return float("-inf") if value <= _MINUS_INFINITY else float(value)
