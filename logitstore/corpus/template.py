"""Chat templates: messages become the text that transformers' `apply_chat_template` makes of them.

They are rendered here for three things that transformers does not offer: a clock that stands still,
a content that is null, and the place of generation marks as characters of the text.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError, TemplateSyntaxError, meta
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.nodes import CallBlock, Node
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from logitstore.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import date

    from jinja2 import Template
    from transformers import PreTrainedTokenizerBase

__all__ = ["MARKS", "ChatTemplate", "template_source", "uses_clock"]

# Unicode's noncharacters, which no text holds: here they stand around what the assistant generates.
_MARK_BEGINS, _MARK_ENDS = "\ufdd0", "\ufdd1"
MARKS = (_MARK_BEGINS, _MARK_ENDS)
_MARKS = re.compile("|".join(MARKS))


@dataclass(frozen=True, kw_only=True, slots=True)
class ChatTemplate:
    """One template, with what it is given beside the messages.

    `variables` are special tokens and the arguments of the corpus or the record; `today` is what
    `strftime_now` knows of the time.
    """

    source: str
    variables: Mapping[str, Any]
    today: date

    @property
    def marked(self) -> bool:
        """Whether the template marks what the assistant generates."""
        return "generation" in _tags(self.source)

    def switches(self) -> tuple[str, ...]:
        """The variables that the template asks for and that switch thinking on or off."""
        return tuple(
            name
            for name in sorted(_undeclared(self.source))
            if re.search("think|reason", name) and name not in self.variables
        )

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: object = None,
        prompt: bool = False,
        **variables: object,
    ) -> str:
        """The text of `messages`, and with `prompt` the words that ask the assistant to speak.

        `variables` stand over those of the template. Raises what the template raises.
        """
        return self._render(False, messages, tools=tools, prompt=prompt, **variables)

    def render_marked(
        self, messages: Sequence[Mapping[str, Any]], *, tools: object = None
    ) -> tuple[str, list[tuple[int, int]]]:
        """The text of `messages`, and the characters from and to which each mark reaches."""
        text = self._render(True, messages, tools=tools, prompt=False)
        starts: list[int] = []
        spans = []
        for shift, mark in enumerate(_MARKS.finditer(text)):
            place = mark.start() - shift
            if mark.group() == _MARK_BEGINS:
                starts.append(place)
            elif starts:
                spans.append((starts.pop(), place))
        return _MARKS.sub("", text), spans

    def _render(
        self,
        with_marks: bool,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: object,
        prompt: bool,
        **variables: object,
    ) -> str:
        given = {**self.variables, "strftime_now": self.today.strftime, **variables}
        return _compiled(self.source, with_marks).render(
            messages=[_with_reasoning(message) for message in messages],
            tools=tools,
            documents=None,
            add_generation_prompt=prompt,
            **given,
        )


def template_source(tokenizer: PreTrainedTokenizerBase, *, tools: bool) -> str:
    """The template that `tokenizer` has for chats, with tools or without.

    Raises ModelError where it has none, or none that Jinja can read.
    """
    try:
        source = tokenizer.get_chat_template(tools=[{}] if tools else None)
        _compiled(source, False)
    except TemplateSyntaxError as error:
        raise ModelError(
            f"the chat template is broken: {error}",
            place=tokenizer.name_or_path or None,
        ) from error
    except ValueError as error:
        raise ModelError(
            "the tokenizer has no chat template, which a corpus of chats needs",
            place=tokenizer.name_or_path or None,
            remedy="Give one with --chat-template, a teacher with one, or texts with --text-field",
        ) from error
    return source


def uses_clock(template: object) -> bool:
    """Whether a tokenizer's template, or one of its several, asks for the date."""
    sources = template.values() if isinstance(template, dict) else [template]
    return any(isinstance(source, str) and "strftime_now" in source for source in sources)


class _Marks(Extension):
    """`{% generation %}` with a mark on either side."""

    tags = {"generation"}  # noqa: RUF012 - Jinja's own way to name them

    def parse(self, parser: Any) -> Node:
        lineno = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return CallBlock(self.call_method("_around"), [], [], body).set_lineno(lineno)

    def _around(self, caller: Any) -> str:
        return f"{_MARK_BEGINS}{caller()}{_MARK_ENDS}"


class _NoMarks(_Marks):
    """`{% generation %}` as if it were not there."""

    def _around(self, caller: Any) -> str:
        return str(caller())


@cache
def _environment(with_marks: bool) -> ImmutableSandboxedEnvironment:
    """Jinja as transformers sets it up: what templates may use is the same there and here."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[_Marks if with_marks else _NoMarks, loopcontrols],
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise
    environment.globals["namespace"] = _Namespace
    return environment


@cache
def _compiled(source: str, with_marks: bool) -> Template:
    return _environment(with_marks).from_string(source)


@cache
def _undeclared(source: str) -> frozenset[str]:
    return frozenset(meta.find_undeclared_variables(_environment(False).parse(source)))


@cache
def _tags(source: str) -> frozenset[str]:
    return frozenset(re.findall(r"\{%[-+]?\s*(\w+)", source))


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _raise(message: str) -> None:
    raise TemplateError(message)


class _Namespace(Namespace):
    """A namespace without names that begin with "_", by which templates have left the sandbox."""

    def __init__(*args: Any, **names: Any) -> None:
        namespace, *pairs = args
        content = dict(*pairs, **names)
        for name in content:
            _check_name(name)
        Namespace.__init__(namespace, content)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a namespace of a chat template has no name {name!r}")


_REASONING = ("reasoning_content", "thinking", "reasoning")


def _with_reasoning(message: Mapping[str, Any]) -> dict[str, Any]:
    """The message with its reasoning under the names that templates read, as transformers does."""
    found = [message[name] for name in _REASONING if message.get(name) is not None]
    if not found:
        return dict(message)
    return {"thinking": found[0], **message, "reasoning_content": found[0]}
