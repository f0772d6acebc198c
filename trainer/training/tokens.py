"""Whether ids mean the same tokens to a model and to a store; what else differs is only told.

A model is trained and measured on ids, so how its tokenizer splits texts does not matter, nor which
id it takes for the end of one: the base model of an instructed teacher may learn from it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from logitstore import TokenizerError
from logitstore.plumbing import (
    holds_tokenizer,
    load_tokenizer,
    stored_tokenizer,
    tokenizer_fingerprint,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from logitstore import StoreSpec

__all__ = ["folder_differences", "no_files", "token_differences"]

_SPECIAL = ("bos_token", "eos_token", "pad_token", "unk_token")
_MOST_TOLD = 3


def no_files() -> Mapping[str, bytes]:
    """The files of a store's tokenizer where it keeps none."""
    return {}


def folder_differences(
    folder: Path, *, spec: StoreSpec, files: Callable[[], Mapping[str, bytes]]
) -> str | None:
    """As `token_differences`, of the tokenizer in a model's folder; None where it holds none.

    Args:
        folder: That of the model.
        spec: That of the store.
        files: Gives the files of the store's tokenizer, by their names.
    """
    if not holds_tokenizer(folder):
        return None
    return token_differences(load_tokenizer(str(folder)), spec=spec, files=files, place=folder)


def token_differences(
    tokenizer: Any,
    *,
    spec: StoreSpec,
    files: Callable[[], Mapping[str, bytes]],
    place: object,
) -> str | None:
    """In what a model's tokenizer differs from the store's though ids mean the same, in words.

    Args:
        tokenizer: That of the model which is trained or measured.
        spec: That of the store.
        files: Gives the files of the store's tokenizer, by their names.
        place: What an error names as the place.

    None where they are the same. Raises TokenizerError where an id means another token, or where
    nobody can tell because the store keeps no tokenizer.
    """
    fingerprint = tokenizer_fingerprint(tokenizer)
    if fingerprint == spec.tokenizer.fingerprint:
        return None
    kept = files()
    if not kept:
        raise TokenizerError(
            "the model's tokenizer is another than the store's, and the store keeps no tokenizer "
            "that says whether ids mean the same",
            place=place,
            found=fingerprint[:12],
            allowed=spec.tokenizer.fingerprint[:12],
            remedy=_REMEDY,
        )
    stored = stored_tokenizer(kept)
    renamed = _renamed(stored, tokenizer, vocab_size=spec.tokenizer.vocab_size, place=place)
    return "; ".join([*_special(stored, tokenizer), *renamed]) or "how texts are split"


_REMEDY = (
    "Take a model with the teacher's tokenizer, or its config.json to start from nothing; or learn "
    "from spans of text with `trainer fit --loss alm`"
)


def _renamed(stored: Any, own: Any, *, vocab_size: int, place: object) -> list[str]:
    """What is told of ids that have a name in the store and another one, or none, in the model.

    An added token of the one that the other has nowhere is such a name: a reserved one that was
    given a meaning. Raises TokenizerError for any other id that differs.
    """
    theirs, ours = stored.get_vocab(), own.get_vocab()
    by_id = {number: token for token, number in ours.items()}
    names, unknown = [], []
    for token, number in sorted(theirs.items(), key=lambda one: one[1]):
        found = by_id.get(number)
        if number >= vocab_size or found == token:
            continue
        if found is None and token not in ours:
            unknown.append(f"{number} {token!r}")
        elif token in ours or found in theirs or not _both_added(stored, own, number):
            raise TokenizerError(
                "the model's tokenizer is another than the store's: ids mean other tokens",
                place=place,
                found=f"id {number} is {'no token' if found is None else repr(found)}",
                allowed=f"{token!r}",
                remedy=_REMEDY,
            )
        else:
            names.append(f"{number} {found!r}, {token!r} in the store")
    told = []
    if names:
        told.append(f"ids with another name: {_first(names)}")
    if unknown:
        told.append(f"ids that it has no token for: {_first(unknown)}")
    return told


def _both_added(stored: Any, own: Any, number: int) -> bool:
    return all(number in getattr(one, "added_tokens_decoder", {}) for one in (stored, own))


def _first(names: list[str]) -> str:
    more = len(names) - _MOST_TOLD
    return ", ".join(names[:_MOST_TOLD]) + (f" and {more} more" if more > 0 else "")


def _special(stored: Any, own: Any) -> list[str]:
    """The special tokens that differ."""
    found = []
    for name in _SPECIAL:
        theirs, ours = getattr(stored, name, None), getattr(own, name, None)
        if theirs != ours:
            found.append(f"{name} {ours}, {theirs} in the store")
    return found
