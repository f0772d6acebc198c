"""Turns: what a model would have had to say, each turn behind the prompt that it would have seen.

A turn is one message of the assistant. Its rendering is the template's text of the chat up to and
with that message; its words begin where the prompt for it ends and end with the end of the turn.
Where the renderings of a chat's turns begin one another, the chat is one text. Templates that write
the past anew (they drop earlier reasoning, or end the last turn otherwise) give one text for each
turn.

What a template leaves out of a message is found by rendering the chat without it, and refused.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from logitstore.corpus.chats import LINKS, Chat
from logitstore.corpus.records import BadRecord, shortened
from logitstore.corpus.template import MARKS, ChatTemplate

__all__ = ["Rendering", "prompt_text", "renderings"]

# Unicode's noncharacters, put around a content to see what a template makes of it.
_BEFORE, _BEHIND = "\ufdd2", "\ufdd3"


@dataclass(frozen=True, kw_only=True, slots=True)
class Rendering:
    """A chat, or a part of it, as text; the characters between each start and stop count."""

    text: str
    spans: tuple[tuple[int, int], ...]


def renderings(
    chat: Chat, template: ChatTemplate, *, ends: tuple[str, ...], last_turn_only: bool = False
) -> list[Rendering]:
    """The texts of `chat`, each with what the assistant says in it and counts.

    `ends` are the tokenizer's added tokens, one of which may end a turn; white space behind it is
    the template's. With `last_turn_only` only the last turn that counts does. Raises `BadRecord`
    where the template cannot render the chat, or leaves out a part of it.
    """
    _refuse_marks(chat)
    view = _View(_fitted(chat, template), template, ends)
    speaks = chat.speaks()[-1:] if last_turn_only else chat.speaks()
    if not speaks:
        return []
    view.check_nothing_is_left_out(speaks)
    turns = [view.turn(number) for number in speaks]
    whole = view.text(len(chat.messages))
    if not all(whole.startswith(turn.text[: turn.spans[-1][1]]) for turn in turns):
        return turns
    spans = tuple(span for turn in turns for span in turn.spans)
    return [Rendering(text=whole, spans=view.still_marked(spans))]


def prompt_text(chat: Chat, template: ChatTemplate) -> str:
    """The text of `chat` and of the words by which the template asks the assistant to speak.

    Raises `BadRecord` where the template cannot render it, or leaves out a part of it.
    """
    _refuse_marks(chat)
    view = _View(_fitted(chat, template), template, ())
    view.check_nothing_is_left_out(())
    return view.text(len(chat.messages), prompt=True)


class _View:
    """The renderings of one chat, each made once."""

    def __init__(self, chat: Chat, template: ChatTemplate, ends: tuple[str, ...]) -> None:
        self._chat = chat
        self._template = replace(template, variables={**template.variables, **chat.variables})
        self._ends = ends
        self._texts: dict[tuple[int, bool], str] = {}

    def text(self, count: int, *, prompt: bool = False) -> str:
        """The first `count` messages."""
        if (count, prompt) not in self._texts:
            self._texts[count, prompt] = self._rendered(self._chat.messages[:count], prompt=prompt)
        return self._texts[count, prompt]

    def turn(self, number: int) -> Rendering:
        """Message `number`, which is the assistant's, behind all that stands before it."""
        marked = self._marked(number)
        if marked is not None:
            return marked
        text = self.text(number + 1)
        start = self._start(number, text)
        if start is None:
            text, start = self._spliced(number)
        return Rendering(text=text, spans=((start, self._stop(text, start)),))

    def still_marked(self, spans: tuple[tuple[int, int], ...]) -> tuple[tuple[int, int], ...]:
        """Those of `spans` that a template with marks marks in the whole chat too."""
        if not self._template.marked:
            return spans
        _, marks = self._template.render_marked(self._chat.messages, tools=self._chat.tools)
        return tuple(span for span in spans if span in marks) or spans

    def check_nothing_is_left_out(self, speaks: tuple[int, ...]) -> None:
        """Refuse a chat of which a message or a field changes nothing in what is rendered."""
        messages = self._chat.messages
        whole = len(messages)
        if self._chat.tools and self.text(whole) == self._rendered(messages, tools=None):
            raise _left_out("tools", "the record", self._chat.tools)
        heard = [number for number in range(whole) if messages[number]["role"] != "assistant"]
        for number in sorted({*heard, *speaks}):
            for name in _own_fields(messages[number]):
                self._check_field(number, name, whole if number in heard else number + 1)
        self._check_contents([number for number in heard if messages[number]["content"]])

    def _check_contents(self, numbers: list[int]) -> None:
        """Refuse a chat of which the template leaves out what others than the assistant say."""
        contents = {number: self._chat.messages[number]["content"] for number in numbers}
        around = {number: f"{_BEFORE}{text}{_BEHIND}" for number, text in contents.items()}
        text = self._changed(around, len(self._chat.messages)) or ""
        # Nearly always all of them are seen at once.
        if text.count(_BEFORE) >= len(numbers) <= text.count(_BEHIND):
            return
        for number in numbers:
            self._check_ends(number, len(self._chat.messages))

    def _check_ends(self, number: int, count: int) -> None:
        """Refuse a content whose beginning or end changes nothing in the first `count` messages."""
        content = self._chat.messages[number]["content"]
        for other in (_BEFORE + content, content + _BEHIND):
            if self._changed({number: other}, count) == self.text(count):
                raise self._shortened(number)

    def _shortened(self, number: int) -> BadRecord:
        message = self._chat.messages[number]
        return BadRecord(
            f"the chat template leaves out content of message {number}, whose role is "
            f"{message['role']}",
            found=shortened(message["content"]),
        )

    def _check_field(self, number: int, name: str, count: int) -> None:
        message = self._chat.messages[number]
        without = {key: value for key, value in message.items() if key != name}
        messages = [*self._chat.messages[:count]]
        messages[number] = without
        if self._attempt(messages) == self.text(count):
            raise _left_out(name, f"message {number}", message[name])

    def _changed(self, contents: Mapping[int, str], count: int) -> str | None:
        """The first `count` messages with other contents; None where the template refuses them."""
        return self._attempt(
            [
                {**message, "content": contents[number]} if number in contents else message
                for number, message in enumerate(self._chat.messages[:count])
            ]
        )

    def _attempt(self, messages: list[dict[str, Any]]) -> str | None:
        return _attempt(self._template, messages, self._chat)

    def _rendered(
        self, messages: list[dict[str, Any]], *, prompt: bool = False, **variables: object
    ) -> str:
        given: dict[str, Any] = {"tools": self._chat.tools, **variables}
        try:
            return self._template.render(messages, prompt=prompt, **given)
        except Exception as error:  # a template is a program: it may raise anything
            raise BadRecord(
                f"the chat template cannot render the chat: {error}", found=shortened(messages)
            ) from error

    def _marked(self, number: int) -> Rendering | None:
        """The turn as the template's own marks tell it, where they hold its content."""
        if not self._template.marked:
            return None
        messages = self._chat.messages[: number + 1]
        try:
            before = self._template.render_marked(messages[:-1], tools=self._chat.tools)[1]
        except Exception:  # nothing stands before a chat that the assistant begins
            before = []
        text, spans = self._template.render_marked(messages, tools=self._chat.tools)
        own = [(start, stop) for start, stop in spans[len(before) :] if stop > start]
        said = "".join(text[start:stop] for start, stop in own)
        content = self._content(number).strip()
        if not own or content not in said or text != self.text(number + 1):
            return None
        return Rendering(text=text, spans=tuple(own))

    def _start(self, number: int, text: str) -> int | None:
        """Where in its rendering the turn begins: behind the longest prompt that it begins with.

        A prompt may supply what the model then need not say, as an empty block of thoughts. None
        where the template drops the beginning of the content.
        """
        content = self._content(number)
        words = content.strip()
        quoted = words and any(words in self._content(before) for before in range(number))
        if quoted or words not in text:
            if _BEFORE not in (self._changed({number: _BEFORE + content}, number + 1) or ""):
                return None
            self._check_ends(number, number + 1)
        prompts = [prompt for prompt in self._prompts(number) if text.startswith(prompt)]
        return max(map(len, prompts)) if prompts else self._header(number, text)

    def _content(self, number: int) -> str:
        return self._chat.messages[number].get("content") or ""

    def _prompts(self, number: int) -> list[str]:
        try:
            prompts = [self.text(number, prompt=True)]
        except BadRecord:
            return []  # many templates do not render no message at all
        for name in self._template.switches():
            try:
                prompts.append(
                    self._rendered(self._chat.messages[:number], prompt=True, **{name: False})
                )
            except BadRecord:
                continue
        return prompts

    def _header(self, number: int, text: str) -> int:
        """Where the content begins, of a turn that begins with no prompt.

        So it is where the assistant speaks first, and where the prompt opens a block of thoughts
        that the turn does not have. What stands before the content must be the prompt's.
        """
        probed = self._changed({number: _BEFORE + self._content(number)}, number + 1) or ""
        start = probed.find(_BEFORE)
        asked = any(before["role"] == "user" for before in self._chat.messages[:number])
        fits = start >= 0 and text.startswith(probed[:start])
        if not fits or (asked and not self.text(number, prompt=True).startswith(text[:start])):
            raise BadRecord(
                f"the chat template renders what stands before message {number} otherwise than "
                "when it asks for that message, so the assistant's words cannot be told apart",
                found=shortened(self._content(number)),
            )
        return start

    def _spliced(self, number: int) -> tuple[str, int]:
        """A turn whose beginning the template drops, as the model said it; and where it begins.

        That is the prompt, then the content less what the prompt has supplied of it, then what the
        template puts behind a content.
        """
        content = self._content(number).lstrip()
        prompt = self.text(number, prompt=True)
        ended = self._changed({number: content + _BEHIND}, number + 1) or ""
        supplied = next(
            size
            for size in range(min(len(content), len(prompt)), -1, -1)
            if prompt.endswith(content[:size])
        )
        # The model begins with all that the prompt has left open, or the prompt is no beginning.
        if _BEHIND not in ended or not (supplied or ended.startswith(prompt)):
            raise self._shortened(number)
        end = ended[ended.rindex(_BEHIND) + 1 :]
        return prompt + content[supplied:] + end, len(prompt)

    def _stop(self, text: str, start: int) -> int:
        turn = text[start:].rstrip()
        return start + len(turn) if self._ends and turn.endswith(self._ends) else len(text)


def _refuse_marks(chat: Chat) -> None:
    """Refuse a chat with a character by which the assistant's words are found."""
    text = json.dumps([chat.messages, chat.tools, dict(chat.variables)], ensure_ascii=False)
    for mark in (*MARKS, _BEFORE, _BEHIND):
        if mark in text:
            raise BadRecord(
                "the chat holds a noncharacter of Unicode, with which the program marks contents",
                found=f"U+{ord(mark):04X}",
            )


def _left_out(name: str, place: str, value: object) -> BadRecord:
    return BadRecord(
        f"the chat template leaves out {name} of {place}; --ignore-field {name} leaves it out too",
        found=shortened(value),
    )


def _own_fields(message: Mapping[str, Any]) -> list[str]:
    return [name for name in message if name not in ("role", "content", *LINKS)]


def _fitted(chat: Chat, template: ChatTemplate) -> Chat:
    """The chat with each tool call in the form that the template reads.

    Templates differ in two things: whether a message that calls has a content that is null, empty
    or missing, and whether arguments are an object or its JSON.
    """
    if not any("tool_calls" in message for message in chat.messages):
        return chat
    template = replace(template, variables={**template.variables, **chat.variables})
    messages: list[dict[str, Any]] = []
    for number, message in enumerate(chat.messages):
        if "tool_calls" in message:
            message = _fitted_call([*messages], message, chat, template, number)
        messages.append(message)
    return replace(chat, messages=messages)


def _fitted_call(
    before: list[dict[str, Any]],
    message: dict[str, Any],
    chat: Chat,
    template: ChatTemplate,
    number: int,
) -> dict[str, Any]:
    without = {name: value for name, value in message.items() if name != "tool_calls"}
    refusal: Exception | None = None
    ignored = False  # in a form in which the template renders the message
    plain = _attempt(template, [*before, {**without, "content": message["content"] or ""}], chat)
    for form in _forms(message):
        try:
            text = template.render([*before, form], tools=chat.tools)
        except Exception as error:  # a template may raise anything
            refusal = refusal or error
            continue
        if text != plain and _shows_calls(text, form):
            return form
        ignored = True
    if refusal is not None and not ignored:
        raise BadRecord(
            f"the chat template cannot render the tool calls of message {number}: {refusal}",
            found=shortened(message["tool_calls"]),
        ) from refusal
    raise _left_out("tool_calls", f"message {number}", message["tool_calls"])


def _attempt(template: ChatTemplate, messages: list[dict[str, Any]], chat: Chat) -> str | None:
    try:
        return template.render(messages, tools=chat.tools)
    except Exception:  # a template may raise anything
        return None


def _forms(message: dict[str, Any]) -> list[dict[str, Any]]:
    """The message as given, and then in the other forms, likeliest first."""
    content = message["content"]
    rest = {name: value for name, value in message.items() if name != "content"}
    contents: list[dict[str, Any]] = (
        # Null comes last, for templates print it as "None".
        [{"content": content}] if content else [{"content": ""}, {}, {"content": None}]
    )
    return [
        {**rest, **one, "tool_calls": calls}
        for calls in (_with_arguments(message, change) for change in (_same, _as_object, _as_json))
        for one in contents
    ]


def _with_arguments(message: dict[str, Any], change: Callable[[Any], Any]) -> list[dict[str, Any]]:
    calls = []
    for call in message["tool_calls"]:
        function = call.get("function", call)
        changed = {**function, "arguments": change(function.get("arguments", {}))}
        calls.append({**call, "function": changed} if "function" in call else changed)
    return calls


def _same(arguments: Any) -> Any:
    return arguments


def _as_object(arguments: Any) -> Any:
    try:
        return json.loads(arguments) if isinstance(arguments, str) else arguments
    except ValueError:
        return arguments


def _as_json(arguments: Any) -> Any:
    return arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)


def _shows_calls(text: str, message: Mapping[str, Any]) -> bool:
    """Whether names stand in the text, and arguments that are a string without another quoting."""
    functions = [call.get("function", call) for call in message["tool_calls"]]
    return all(
        function["name"] in text
        and not (
            isinstance(function["arguments"], str) and function["arguments"].strip() not in text
        )
        for function in functions
    )
