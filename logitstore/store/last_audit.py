"""The last audit of a store: figures beside what is sealed, for its card and for a catalogue.

`audit.json` is no part of the store, as its card is none: it names the fingerprint of the store
that it is of, and holds for no other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from logitstore.errors import LogitStoreError, SettingError
from logitstore.format.json import canonical_json, parse_json
from logitstore.store.layout import AUDIT, StoreLayout

if TYPE_CHECKING:
    from collections.abc import Mapping

    from logitstore.store.storage import Storage

__all__ = ["FIGURES", "MOST_AUDIT_BYTES", "audit_json", "keep_audit", "last_audit", "parse_audit"]

MOST_AUDIT_BYTES = 1 << 20
_MOST_NUMBER = 1 << 53
FIGURES = {
    "kl": "KL of the exact entries and the rest, nats a target",
    "noise_kl": "the same of the teacher from itself",
    "stated_kl": "what the store's steps may cost",
    "retained_mass": "mass of the exact entries",
    "gradient_angle": "angle to the dense gradient, degrees",
}
# Neither paths nor names: what is said of the machine of an audit is nobody's business.
_KEPT = ("fingerprint", "ok", "documents", "targets", "temperature", "dtype", *FIGURES)


def parse_audit(data: bytes, *, place: str, fingerprint: str) -> dict[str, Any]:
    """What an audit has found, of its JSON.

    data: what `logitstore audit --json` printed, or what was kept of it.
    place: for messages.
    fingerprint: of the store that it must be of.

    Raises SettingError for another text, for an audit of another store, and for figures that are no
    numbers.
    """
    content = parse_json(data, place=place)
    wrong = None
    if not isinstance(content, dict) or not _is_audit(content):
        wrong = "this is nothing that `logitstore audit --json` wrote"
    elif content.get("fingerprint") != fingerprint:
        wrong = "this is the audit of another store"
    if wrong is not None:
        found = content.get("fingerprint") if isinstance(content, dict) else None
        raise SettingError(wrong, place=place, found=found, allowed=fingerprint)
    return {name: content.get(name) for name in _KEPT}


def _is_audit(content: Mapping[str, Any]) -> bool:
    counts = (content.get(name) for name in ("documents", "targets"))
    figures = (content.get(name) for name in (*FIGURES, "temperature"))
    return (
        type(content.get("ok")) is bool
        and isinstance(content.get("dtype", ""), str | None)
        and content.get("kl") is not None
        and all(type(one) is int and 0 < one < _MOST_NUMBER for one in counts)
        and all(one is None or _is_number(one) for one in figures)
    )


def _is_number(value: object) -> bool:
    """Whether it is a number such as figures are; a drawn KL may be below 0."""
    return type(value) in (int, float) and -_MOST_NUMBER < value < _MOST_NUMBER  # type: ignore[operator]


def audit_json(result: Mapping[str, Any]) -> bytes:
    """What is kept of an audit: its figures, and which store they are of.

    result: as `audit` or `parse_audit` returns it.
    """
    return canonical_json({name: result[name] for name in _KEPT}) + b"\n"


def keep_audit(storage: Storage, result: Mapping[str, Any]) -> bool:
    """Write what an audit has found beside its store, instead of what was there.

    Faults are kept where they were found with the store's own teacher: any other has them.

    storage: of the store.
    result: as `audit` returns it.

    Gives whether it is kept: nothing can be written to a web server, for one.
    """
    if not (result["ok"] or result["teacher_matches"]):
        return False
    try:
        storage.put(AUDIT, audit_json(result))
    except (LogitStoreError, OSError):
        return False
    return True


def last_audit(layout: StoreLayout, fingerprint: str) -> dict[str, Any] | None:
    """What the last audit has found; None where none is kept that can be read and is of the store.

    layout: where the store lies.
    fingerprint: of the store.
    """
    try:
        size = layout.storage.size(AUDIT)
        if size is None or size > MOST_AUDIT_BYTES:
            return None
        data = layout.storage.read(AUDIT)
        return parse_audit(data, place=layout.place(AUDIT), fingerprint=fingerprint)
    except LogitStoreError:
        return None  # also where a web server denies what it does not have
