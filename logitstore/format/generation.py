"""How a teacher generates: what its generation configuration says, in the provenance of its store.

A student that learns from the store stops and samples as the teacher does. It changes no target, so
it is no part of what a store's fingerprint names.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from logitstore.errors import CorruptionError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from logitstore.format.spec import StoreSpec

__all__ = ["GENERATION", "generation_of", "told_of_generation"]

GENERATION = "generation"  # in the provenance of a spec
_MOST_IDS = 1024  # of the tokens that end a text


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _are_ids(value: Any) -> bool:
    return _is_id(value) or (
        isinstance(value, list) and 0 < len(value) <= _MOST_IDS and all(map(_is_id, value))
    )


def _is_share(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


def _is_above_0(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value) and value > 0


# The fields that are kept, by the names of transformers, and what each may be.
_FIELDS: dict[str, Callable[[Any], bool]] = {
    "bos_token_id": _is_id,
    "eos_token_id": _are_ids,
    "pad_token_id": _is_id,
    "do_sample": lambda value: isinstance(value, bool),
    "temperature": _is_above_0,
    "top_k": _is_id,
    "top_p": _is_share,
    "min_p": _is_share,
    "typical_p": _is_share,
    "repetition_penalty": _is_above_0,
}


def told_of_generation(config: Mapping[str, Any], *, vocab_size: int) -> dict[str, Any]:
    """What of a generation configuration is kept.

    config: as transformers writes it. Fields whose values are none that they may have are left out,
        and so are ids that the tokenizer has not.
    vocab_size: V, of the tokenizer.
    """
    found = {name: config[name] for name, fits in _FIELDS.items() if fits(config.get(name))}
    for name in [one for one in found if one.endswith("_token_id")]:
        ids = found[name] if isinstance(found[name], list) else [found[name]]
        known = [one for one in ids if one < vocab_size]
        if not known:
            del found[name]
        elif len(known) < len(ids):
            found[name] = known
    return found


def generation_of(spec: StoreSpec, *, place: str) -> dict[str, Any]:
    """How the teacher of a store generates; empty where the store does not tell.

    spec: of the store.
    place: what an error names.

    Raises CorruptionError where its provenance tells something else.
    """
    content = getattr(spec, "provenance", {}).get(GENERATION, {})
    size = spec.tokenizer.vocab_size
    if not isinstance(content, dict) or told_of_generation(content, vocab_size=size) != content:
        raise CorruptionError(
            "the teacher's generation configuration is none, or names ids that no token has",
            place=f"{place}: provenance.{GENERATION}",
            found=repr(content)[:80],
        )
    return content
