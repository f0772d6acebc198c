"""Tokenizers that would fill memory, refused before transformers loads them.

The rules for text in a `tokenizer.json` may replace a character by many, one rule after another, so
that a small file fills all memory as soon as it is loaded: the content of added tokens goes through
them then. Here each rule is given the most characters that it may make of one, which is an upper
bound; the rules of ALBERT, the most known, stay below 2,000.
"""

from __future__ import annotations

import base64
import json
import math
from typing import TYPE_CHECKING, Any

from logitstore.errors import ModelError
from logitstore.format.tokenizer_names import is_tokenizer_name

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["refuse_bombs"]

_MOST_OF_ONE = 4096  # characters
_MOST_ADDED = 64 << 20  # characters, of all added tokens after the rules
# Gemma 3 has 515,000 merges, each an array, and 6,242 added tokens, each an object.
_MOST_PARTS = {b"[": ("arrays", 2 << 20), b"{": ("objects", 1 << 18), b",": ("values", 16 << 20)}
# The longest expansions of one character; under NFKC and NFKD it is U+FDFA.
_OF_ONE = {"NFKC": 18, "NFKD": 18, "NFC": 3, "NFD": 4, "Lowercase": 2, "BertNormalizer": 4}
_OF_ONE["ByteLevel"] = 4  # bytes of UTF-8
_RULES = ("normalizer", "pre_tokenizer")  # those that an encoded text goes through, in this order


def refuse_bombs(folder: Path) -> None:
    """Refuse a tokenizer that would fill memory when it is loaded, or used on a short text.

    folder: with its files; what is no JSON is left to who loads it.

    Raises ModelError where a file has more arrays or objects than any real one, or where the rules
    of `tokenizer.json` could make more than 4,096 characters of one, or more than 64 Mi characters
    of its added tokens.
    """
    for path in sorted(folder.glob("*.json")):
        if is_tokenizer_name(path.name) and path.is_file():
            data = path.read_bytes()
            for mark, (what, most) in _MOST_PARTS.items():
                if (found := data.count(mark)) > most:
                    raise _too_much(path, f"holds too many {what}", found, most)
            if path.name == "tokenizer.json":
                _refuse_growth(data, path)


def _refuse_growth(data: bytes, path: Path) -> None:
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        return
    if not isinstance(content, dict):
        return
    encoding = math.prod(_most(content.get(name)) for name in _RULES)
    model = content.get("model")
    model = model if isinstance(model, dict) else {}
    around = 1 + sum(
        _length(model.get(name)) for name in ("continuing_subword_prefix", "end_of_word_suffix")
    )
    for most in (
        encoding * around * _most(content.get("post_processor")),
        _most(content.get("decoder")),
    ):
        if most > _MOST_OF_ONE:
            raise _too_much(path, "may make too many characters of one", most, _MOST_OF_ONE)
    added = content.get("added_tokens")
    contents = [one.get("content") for one in added or [] if isinstance(one, dict)]
    if (most := encoding * sum(map(_length, contents))) > _MOST_ADDED:
        raise _too_much(path, "makes too many characters of its tokens", most, _MOST_ADDED)


def _too_much(path: Path, problem: str, found: int, allowed: int) -> ModelError:
    return ModelError(
        f"the tokenizer {problem}",
        place=path,
        found=f"up to {found:,}" if found < 10**12 else "more than a trillion",
        allowed=f"{allowed:,}",
        remedy="It is made to fill memory, or broken: take another copy of it",
    )


def _most(rule: Any) -> int:
    """The most characters, or ids, that a rule makes of one; a sequence multiplies."""
    if isinstance(rule, list):
        return math.prod(map(_most, rule))
    if not isinstance(rule, dict):
        return 1
    own = _OWN.get(str(rule.get("type")))
    if own is not None:
        return max(1, own(rule))
    # Whatever it is called, what it consists of applies one after another.
    return _OF_ONE.get(str(rule.get("type")), 1) * _most(
        [value for value in rule.values() if isinstance(value, list)]
    )


def _replaced(rule: dict[str, Any]) -> int:
    pattern = rule.get("pattern")
    literal = pattern.get("String") if isinstance(pattern, dict) else None
    if isinstance(literal, str) and literal:
        return math.ceil(_length(rule.get("content")) / len(literal))
    return 1 + _length(rule.get("content"))  # an expression may match nothing, anywhere


def _prepended(rule: dict[str, Any]) -> int:
    return 1 + _length(rule.get("prepend"))


def _mapped(rule: dict[str, Any]) -> int:
    """SentencePiece's map: the size of a trie in four bytes, the trie, texts that end with NUL."""
    try:
        data = base64.b64decode(rule.get("precompiled_charsmap") or "")
    except (ValueError, TypeError):
        return 1
    texts = data[4 + int.from_bytes(data[:4], "little") :]
    return max(len(text.decode(errors="replace")) for text in texts.split(b"\0"))


def _from_template(rule: dict[str, Any]) -> int:
    """Each place for the text repeats it; each special token adds its ids."""
    special = rule.get("special_tokens")
    of_token = special if isinstance(special, dict) else {}
    most = 1
    for template in (rule.get("single"), rule.get("pair")):
        ids = 0
        for piece in template if isinstance(template, list) else []:
            token = piece.get("SpecialToken") if isinstance(piece, dict) else None
            own = of_token.get(token.get("id")) if isinstance(token, dict) else None
            ids += _length(own.get("ids")) if isinstance(own, dict) else 1
        most = max(most, ids)
    return most


def _length(content: Any) -> int:
    return len(content) if isinstance(content, str | list) else 0


_OWN = {
    "Replace": _replaced,
    "Prepend": _prepended,
    "Precompiled": _mapped,
    "TemplateProcessing": _from_template,
}
