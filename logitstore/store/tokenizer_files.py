"""The files of a store's tokenizer, which ask for no code to be run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from logitstore.errors import CorruptionError
from logitstore.format.json import parse_json
from logitstore.store.layout import TOKENIZER

if TYPE_CHECKING:
    from logitstore.format.spec import StoreSpec
    from logitstore.store.layout import StoreLayout

__all__ = ["read_tokenizer"]

_TOKENIZER_CONFIG = "tokenizer_config.json"


def read_tokenizer(layout: StoreLayout, spec: StoreSpec) -> dict[str, bytes]:
    """The files that transformers saves, by name.

    layout: of the store.
    spec: of the store.

    Raises CorruptionError where they ask for code of their own.
    """
    names = layout.tokenizer_names(spec)
    files = {name.removeprefix(TOKENIZER): layout.read_small(name) for name in names}
    for name, data in files.items():
        place = layout.place(f"{TOKENIZER}{name}")
        if name == _TOKENIZER_CONFIG and _asks_for_code(data, place=place):
            raise CorruptionError(
                "the tokenizer asks for code of its own to be run",
                place=place,
                found="auto_map",
                remedy="Dump with a tokenizer that transformers knows",
            )
    return files


def _asks_for_code(config: bytes, *, place: str) -> bool:
    """Whether a configuration has a field `auto_map`; CorruptionError where that cannot be told."""
    if b"auto_map" not in config and b"\\u" not in config:  # it may be written in escapes
        return False
    content = parse_json(config, place=place)
    return isinstance(content, dict) and "auto_map" in content
