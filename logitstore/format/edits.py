"""Edits: how a store was made from others, as the provenance in its store.json tells it.

Each edit is one command over sealed stores, which are named by their fingerprints. A store carries
all edits of the stores that it was made from, in an order in which none stands before what it was
made from, and its own last.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from logitstore.errors import CorruptionError
from logitstore.format.json import build
from logitstore.format.spec import CodecSpec

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from logitstore.format.spec import StoreSpec

__all__ = [
    "EDITS",
    "IMPORT",
    "ROUNDED",
    "Edit",
    "EditSource",
    "earlier_codecs",
    "edits_of",
    "with_edit",
]

# In the provenance of a spec:
EDITS = "edits"
IMPORT = "import"  # what files of another system it was made of, and what they lacked
ROUNDED = "rounded_before"  # the codecs by whose steps values were rounded before the store's own
_MOST_SHOWN = 4  # sources of an edit, in words


@dataclass(frozen=True, kw_only=True, slots=True)
class EditSource:
    """A store that an edit read, as it was then."""

    name: str  # the last part of where it lay
    fingerprint: str
    corpus: str  # its name
    documents: int
    targets: int
    damaged: tuple[int, ...] = ()  # the numbers of its blocks that were left out


@dataclass(frozen=True, kw_only=True, slots=True)
class Edit:
    """One command, what it was told, and what it read."""

    command: str
    arguments: Mapping[str, Any] = field(default_factory=dict)  # those that were given, as JSON
    sources: tuple[EditSource, ...] = ()
    gave: str | None = None  # the fingerprint of what came of it; None for the store's own edit

    def to_json(self) -> dict[str, Any]:
        """As it stands in a provenance."""
        content = asdict(self)
        content["sources"] = [
            {name: list(one) if name == "damaged" else one for name, one in source.items()}
            for source in content["sources"]
        ]
        return content

    @staticmethod
    def from_json(content: Any, *, place: str) -> Edit:
        """The edit that `to_json` gave.

        content: JSON of any kind; CorruptionError unless it is an edit.
        place: what an error names.
        """
        edit = build(Edit, content, place=place)
        sources = tuple(build(EditSource, one, place=place) for one in edit.sources)
        for one in sources:
            if not all(type(number) is int for number in one.damaged):
                raise CorruptionError("damaged are no numbers", place=place, found=one.damaged)
            object.__setattr__(one, "damaged", tuple(one.damaged))
        return replace(edit, sources=sources)

    def __str__(self) -> str:
        """In a line: the command, its arguments, what it read."""
        words = [self.command, *(f"{name}={value}" for name, value in self.arguments.items())]
        named = [f"{one.name} ({one.fingerprint[:12]})" for one in self.sources[:_MOST_SHOWN]]
        more = len(self.sources) - _MOST_SHOWN
        return f"{' '.join(words)} of {', '.join(named)}" + (
            f" and {more} more" if more > 0 else ""
        )


def edits_of(spec: StoreSpec, *, place: str) -> tuple[Edit, ...]:
    """How the store came from others; none where a dump made it.

    spec: of the store.
    place: what an error names.

    Raises CorruptionError where its provenance tells no such thing.
    """
    content = spec.provenance.get(EDITS, [])
    if not isinstance(content, list):
        raise CorruptionError("the edits are no list", place=f"{place}: provenance", found=content)
    return tuple(Edit.from_json(one, place=f"{place}: provenance.{EDITS}") for one in content)


def earlier_codecs(*specs: StoreSpec, place: str) -> list[CodecSpec]:
    """The codecs by whose steps the values of stores were rounded before their own, each once.

    specs: of the stores.
    place: what an error names.

    Raises CorruptionError where a provenance tells no such thing.
    """
    found: list[CodecSpec] = []
    for spec in specs:
        content = spec.provenance.get(ROUNDED, [])
        if not isinstance(content, list):
            raise CorruptionError("the codecs are no list", place=place, found=content)
        told = [build(CodecSpec, one, place=f"{place}: provenance.{ROUNDED}") for one in content]
        found += [one for one in told if one not in found]
    return found


def with_edit(edit: Edit, before: Iterable[tuple[tuple[Edit, ...], str]]) -> tuple[Edit, ...]:
    """All edits of a store that `edit` makes: those of its sources, then itself.

    edit: the new one.
    before: of each source its own edits, and its fingerprint.
    """
    found: list[Edit] = []
    for edits, fingerprint in before:
        told = (*edits[:-1], *(replace(one, gave=fingerprint) for one in edits[-1:]))
        found += [one for one in told if one not in found]
    return (*found, edit)
