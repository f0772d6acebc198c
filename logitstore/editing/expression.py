"""Conditions on documents, as in `entropy > 2 and not (tokens < 32 or loss >= 4.5)`.

    condition   = alternative {"or" alternative}
    alternative = term {"and" term}
    term        = "not" term | "(" condition ")" | operand comparison operand
    comparison  = "<" | "<=" | ">" | ">=" | "==" | "!="
    operand     = number | name

A condition is parsed by this grammar into functions of columns, and nothing else: no Python is
evaluated.

Shapes: D documents.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, TypeAlias

import numpy as np

from logitstore.errors import SettingError

if TYPE_CHECKING:
    from collections.abc import Collection

__all__ = ["Condition", "parse_condition"]

_MOST_CHARACTERS = 4000
_MOST_DEPTH = 50  # of brackets and negations
_TOKEN = re.compile(
    r"\s*(?:(?P<number>[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)(?![\w.])"
    r"|(?P<word>[A-Za-z_]\w*)|(?P<sign><=|>=|==|!=|<|>|\(|\)))"
)
_COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}
_RESERVED = ("and", "or", "not")

_Columns: TypeAlias = Mapping[str, np.ndarray]
_Test: TypeAlias = Callable[[_Columns], np.ndarray]  # bool [D]
_Operand: TypeAlias = Callable[[_Columns], Any]


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition that was parsed.

    names: of the columns that it asks for.
    """

    text: str
    names: frozenset[str]
    _test: _Test

    def of(self, columns_D: _Columns) -> np.ndarray:
        """bool [D]: for which documents it holds.

        columns_D: float64, each of `names`. A comparison with what is no number does not hold.
        """
        return self._test(columns_D)


class _Token(NamedTuple):
    kind: str  # "number", "word", "sign", "end"
    text: str
    place: int  # its first character, from 1


def parse_condition(text: str, *, names: Collection[str]) -> Condition:
    """The condition in `text`.

    text: as the grammar above has it.
    names: of the columns that there are.

    Raises SettingError, which names the place, for anything else.
    """
    if len(text) > _MOST_CHARACTERS:
        raise SettingError(
            "the condition is too long",
            found=f"{len(text):,} characters",
            allowed=f"up to {_MOST_CHARACTERS:,}",
        )
    parser = _Parser(text=text, names=tuple(names), tokens=_tokens(text))
    test = parser.condition(0)
    parser.refuse_rest()
    return Condition(text=text, names=frozenset(parser.used), _test=test)


def _tokens(text: str) -> list[_Token]:
    found, place = [], 0
    while text[place:].strip():
        match = _TOKEN.match(text, place)
        if match is None or match.lastgroup is None:
            start = place + len(text[place:]) - len(text[place:].lstrip())
            raise _refusal("this is no part of a condition", text[start : start + 20], start + 1)
        kind = match.lastgroup
        found.append(_Token(kind, match[kind], match.start(kind) + 1))
        place = match.end()
    return [*found, _Token("end", "", len(text) + 1)]


@dataclass(slots=True)
class _Parser:
    """Recursive descent, a method for each line of the grammar."""

    text: str
    names: tuple[str, ...]
    tokens: list[_Token]
    at: int = 0
    used: set[str] = field(default_factory=set)

    def condition(self, depth: int) -> _Test:
        return self._chain("or", np.logical_or, lambda: self._alternative(depth))

    def refuse_rest(self) -> None:
        if self._next.kind != "end":
            self._refuse("a condition ends here, or goes on with and, or")

    def _alternative(self, depth: int) -> _Test:
        return self._chain("and", np.logical_and, lambda: self._term(depth))

    def _chain(self, word: str, joined: Callable[..., Any], part: Callable[[], _Test]) -> _Test:
        tests = [part()]
        while self._next.text == word:
            self.at += 1
            tests.append(part())
        return lambda columns: joined.reduce([one(columns) for one in tests])  # type: ignore[attr-defined]

    def _term(self, depth: int) -> _Test:
        if depth > _MOST_DEPTH:
            self._refuse(f"the condition is nested deeper than {_MOST_DEPTH} levels")
        if self._next.text == "not":
            self.at += 1
            inner = self._term(depth + 1)
            return lambda columns: ~inner(columns)
        if self._next.text == "(":
            self.at += 1
            within = self.condition(depth + 1)
            if self._next.text != ")":
                self._refuse("a bracket is not closed")
            self.at += 1
            return within
        return self._comparison()

    def _comparison(self) -> _Test:
        left = self._operand()
        if self._next.text not in _COMPARISONS:
            self._refuse(f"a comparison is missing, one of {' '.join(_COMPARISONS)}")
        compare = _COMPARISONS[self._next.text]
        self.at += 1
        right = self._operand()

        def test(columns: _Columns) -> np.ndarray:
            one, two = np.broadcast_arrays(left(columns), right(columns))
            known = ~(np.isnan(one) | np.isnan(two))
            holds: np.ndarray = compare(one, two) & known
            return holds

        return test

    def _operand(self) -> _Operand:
        token = self._next
        if token.kind == "number":
            value = np.float64(token.text)
            if not np.isfinite(value):
                self._refuse("a number is larger than any value")
            self.at += 1
            return lambda columns: np.full(_length(columns), value)
        if token.kind != "word" or token.text in _RESERVED:
            self._refuse("a number or the name of a column is missing")
        if token.text not in self.names:
            raise _refusal(
                "there is no such column", token.text, token.place, allowed=", ".join(self.names)
            )
        self.at += 1
        self.used.add(token.text)
        return lambda columns: columns[token.text]

    @property
    def _next(self) -> _Token:
        return self.tokens[self.at]

    def _refuse(self, problem: str) -> NoReturn:
        raise _refusal(problem, self._next.text or "the end", self._next.place)


def _length(columns: _Columns) -> int:
    return len(next(iter(columns.values())))


def _refusal(problem: str, found: str, place: int, *, allowed: str | None = None) -> SettingError:
    return SettingError(
        f"{problem}, at character {place}", place="--where", found=found, allowed=allowed
    )
