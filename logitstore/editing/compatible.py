"""Whether stores can be one: what their specs must have in common, and the spec of the whole."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from logitstore.errors import SpecError
from logitstore.format.spec import CorpusSpec, StoreSpec, TextSpec, written_format

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from logitstore.store.reader import Store

__all__ = ["conflicts", "joined_answers", "merged_spec"]

_MOST_NAMED = 8  # corpora that the name of the whole lists
# Which fields a record was read from is told by what differs not; all else must be the same, for it
# says what the documents and their targets are.
_MAY_DIFFER = (
    "text_field",
    "messages_field",
    "records",
    "tokens_field",
    "mask_field",
    "template_date",
    "sampler_field",
)
_LARGEST = ("max_length", "teacher_messages")  # of the whole: the largest of the parts


def merged_spec(stores: Sequence[Store]) -> StoreSpec:
    """The spec of a store that holds all of `stores`; its corpus has no fingerprint of its own yet.

    stores: at least one, sealed.

    Raises SpecError, which lists all that is in the way.
    """
    first = stores[0]
    found: dict[str, list[str]] = {}
    for other in stores[1:]:
        for name, (one, two) in conflicts(first.spec, other.spec).items():
            found.setdefault(f"{name}: {one} there, {two}", []).append(other.uri)
    if found:
        listed = [f"{conflict} in {', '.join(uris)}" for conflict, uris in found.items()]
        raise SpecError(
            f"the stores cannot be one: {'; '.join(listed)}",
            place=first.uri,
            remedy="`logitstore convert` makes container, codec and heads alike",
        )
    specs = [one.spec for one in stores]
    return replace(
        first.spec,
        format=written_format(first.spec.text, first.spec.states),
        corpus=_corpus([one.corpus for one in specs]),
        text=_text([one.text for one in specs]),
        batch_tokens=max(one.batch_tokens for one in specs),
        block_targets=max(one.block_targets for one in specs),
    )


def conflicts(one: StoreSpec, two: StoreSpec) -> dict[str, tuple[Any, Any]]:
    """What is in the way of two stores being one: field -> what each says of it.

    one, two: their specs.
    """
    parts = ("teacher", "tokenizer", "sparsifier", "codec", "container", "text", "states")
    found = []
    for spec in (one, two):
        content = spec.to_json()
        flat = _flat({name: content[name] for name in parts if name in content})
        # Also what an older format does not write down.
        flat |= {f"text.{each.name}": getattr(spec.text, each.name) for each in fields(TextSpec)}
        for name in ("teacher.name", *(f"text.{each}" for each in (*_MAY_DIFFER, *_LARGEST))):
            flat.pop(name, None)
        found.append(flat)
    left, right = found
    return {
        name: (_told(left.get(name)), _told(right.get(name)))
        for name in sorted({*left, *right})
        if _plain(left.get(name)) != _plain(right.get(name))
    }


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _told(value: Any) -> str:
    return "nothing" if value is None else str(_plain(value))


def _flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in content.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _corpus(parts: Sequence[CorpusSpec]) -> CorpusSpec:
    names = list(dict.fromkeys(one.name for one in parts))
    more = len(names) - _MOST_NAMED
    listed = names[:_MOST_NAMED] + ([f"{more} more"] if more > 0 else [])
    return CorpusSpec(
        name=" + ".join(listed),
        fingerprint="",
        limit=None,
        unit_tokens=max(one.unit_tokens for one in parts),
        answers=joined_answers(parts),
    )


def joined_answers(parts: Sequence[CorpusSpec]) -> tuple[dict[str, Any], ...]:
    """Who gave the answers of several corpora, each once.

    parts: the corpora.
    """
    answers: list[dict[str, Any]] = []
    for part in parts:
        answers += [one for one in part.answers if one not in answers]
    return tuple(answers)


def _text(parts: Sequence[TextSpec]) -> TextSpec:
    """What all say alike; None where they differ in it."""
    first = parts[0]
    differing = {
        name: None
        for name in _MAY_DIFFER
        if any(getattr(one, name) != getattr(first, name) for one in parts)
    }
    largest = {name: max(getattr(one, name) for one in parts) for name in _LARGEST}
    changed: dict[str, Any] = {**differing, **largest}
    return replace(first, **changed)
