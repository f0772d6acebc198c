"""Every error raised on purpose, as one drawn tree.

    LogitStoreError
    ├── CorpusError        the text that goes in: no such file, a broken line, a missing field
    ├── ModelError         a teacher or student that cannot be loaded or does not fit
    │   ├── TokenizerError     its tokenizer is another than the store's
    │   └── NotFinite          its numbers are no distribution
    ├── SettingError       a setting that this corpus, model or store cannot serve
    ├── StoreError         a store that is not there, not sealed, or in the way
    │   ├── SpecError          it was begun with other settings
    │   └── CorruptionError    its bytes are not the ones that were written
    ├── StorageError       the storage refused: no space, no permission
    │   └── ObjectMissing      there is no such object
    └── WorkerError        a thread or another process that worked for this one has died

A message carries the place, the problem, the value found, the value allowed and the way out; this
module owns the wording, so that every message reads alike: one line, in which no value takes more
than 200 characters. Where a message is made, it names options as the command line does:
`--batch-tokens`. `str(error)` names the argument of the Python function instead: `batch_tokens`.
"""

import errno
import re
from collections.abc import Callable, Mapping

__all__ = [
    "CorpusError",
    "CorruptionError",
    "LogitStoreError",
    "ModelError",
    "NotFinite",
    "ObjectMissing",
    "SettingError",
    "SpecError",
    "StorageError",
    "StoreError",
    "TokenizerError",
    "WorkerError",
    "no_room",
    "printable",
    "shown",
]

_VALUE_CHARACTERS = 200
_NO_ROOM = {
    errno.ENOSPC: "no space left",
    errno.EDQUOT: "no space left: the disk quota is used up",
    errno.EFBIG: "the file is larger than is allowed: see `ulimit -f`, or the file system",
}
# As libraries tell it that raise errors of their own.
_ERRNO = re.compile(r"(?:errno|os error) (\d+)", re.IGNORECASE)
_PROBLEM_CHARACTERS = 2000  # it may quote another library, or list several values


def no_room(error: BaseException) -> str | None:
    """How the file system refused a write for lack of room; None if that was not the reason.

    error: of Python, or of a library that tells the number in its text.
    """
    number = error.errno if isinstance(error, OSError) else None
    found = _ERRNO.search(str(error)) if number is None else None
    return _NO_ROOM.get(number or (int(found.group(1)) if found else 0))


def shown(value: object, *, most: int = _VALUE_CHARACTERS) -> str:
    """`str(value)` in one line of a message, with its length where it is too long to be shown.

    value: anything, from anywhere; what cannot be printed is escaped.
    most: the characters that it may take, before what is escaped.
    """
    text = str(value)
    if len(text) > most:
        text = f"{text[: most - 40]}... ({len(text):,} characters)"
    return printable(text)


def printable(text: str, *, keep: str = "") -> str:
    """`text` with every character escaped that does more, or less, than to be seen.

    text: from anywhere. Codes that move a cursor, set a title or turn the direction of writing
        around would make a terminal or a page show something else than what is there.
    keep: characters that stay as they are, such as line ends.
    """
    if text.isprintable():
        return text
    return "".join(
        one if one.isprintable() or one in keep else one.encode("unicode_escape").decode()
        for one in text
    )


# A flag, or what stands between backticks: that is a command to type, and stays as it is.
_FLAG = re.compile(r"`[^`]*`|(?<![\w/-])--[a-z][a-z0-9-]*")


class LogitStoreError(Exception):
    """`place: problem (found X; allowed Y). remedy`, each part but the problem optional.

    problem: what is wrong, in a few words.
    place: where: a file, a line, an option.
    found: the value that is wrong.
    allowed: what it may be.
    remedy: what to do about it, as a sentence without its full stop.

    `arguments` maps words of the message to the arguments that they stand for, where an option's
    name in Python does not follow from its flag.
    """

    def __init__(
        self,
        problem: str,
        *,
        place: object = None,
        found: object = None,
        allowed: object = None,
        remedy: str | None = None,
    ) -> None:
        self.problem = problem
        self.place = place
        self.found = found
        self.allowed = allowed
        self.remedy = remedy
        self.arguments: Mapping[str, str] = {}
        super().__init__(problem)

    def __str__(self) -> str:
        return self._message(self._with_arguments)

    @property
    def command_line_message(self) -> str:
        """The message to a user of the command line: it names options by their flags."""
        return self._message(_words)

    def _message(self, named: Callable[[object], str]) -> str:
        """The parts in one sentence; `named` writes those that may name options."""
        values = [
            f"{name} {value}"
            for name, value in (
                ("found", None if self.found is None else shown(self.found)),
                ("allowed:", None if self.allowed is None else named(self.allowed)),
            )
            if value is not None
        ]
        head = f"{named(self.place)}: " if self.place is not None else ""
        middle = f" ({'; '.join(values)})" if values else ""
        tail = f". {named(self.remedy)}" if self.remedy else ""
        return f"{head}{named(self.problem)}{middle}{tail}"

    def _with_arguments(self, part: object) -> str:
        text = _words(part)
        for word, argument in self.arguments.items():
            text = re.sub(rf"(?<![\w-]){re.escape(word)}(?![\w-])", argument, text)
        return _FLAG.sub(_argument, text)


def _words(part: object) -> str:
    return shown(part, most=_PROBLEM_CHARACTERS)


def _argument(match: re.Match[str]) -> str:
    found = match[0]
    return found if found.startswith("`") else found[2:].rstrip("-").replace("-", "_")


class CorpusError(LogitStoreError):
    """The corpus, or one record of it, cannot be used."""


class ModelError(LogitStoreError):
    """A teacher or a student cannot be loaded, or is of a kind that this program cannot serve."""


class TokenizerError(ModelError):
    """A tokenizer is another than the one the store was written with."""


class NotFinite(ModelError):
    """A row of a teacher's logits is no distribution: it has NaN, infinity, or nothing else."""


class SettingError(LogitStoreError):
    """A setting is out of the range that this model, corpus or store can serve."""


class StoreError(LogitStoreError):
    """A store is missing, unfinished, or its folder holds something else."""


class SpecError(StoreError):
    """A store exists and was begun with other settings."""


class CorruptionError(StoreError):
    """Stored bytes are not the ones that were written, or break an invariant of the format."""


class StorageError(LogitStoreError):
    """The storage refused to read or write: no space, no permission."""


class ObjectMissing(StorageError):
    """An object is read that is not there."""


class WorkerError(LogitStoreError):
    """A thread, or another process of the same work, has died; the message names it."""
