"""How much longer a `tokenizer.json` may make a text, told before anything is tokenised.

Its rules for text may replace a character by many, one rule after another, so that a small file
fills all memory as soon as it is loaded: the content of added tokens goes through them then. Here
each rule is given the most characters that it may make of one, which is an upper bound: the rules
of real tokenizers stay below 200, those of ALBERT, the most, below 2,000.
"""

from __future__ import annotations

import base64
import json
import math
from typing import TYPE_CHECKING, Any

from logitstore.errors import ModelError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["refuse_growth"]

_MOST_OF_ONE = 4096  # characters
_MOST_ADDED = 64 << 20  # characters, of all added tokens after the rules
_MOST_PARTS = 4 << 20  # arrays and objects; Gemma 3's merges are 515,000
# The longest expansions of one character; under NFKC and NFKD it is U+FDFA.
_OF_ONE = {"NFKC": 18, "NFKD": 18, "NFC": 3, "NFD": 4, "Lowercase": 2, "BertNormalizer": 4}
_OF_ONE["ByteLevel"] = 4  # bytes of UTF-8
_RULES = ("normalizer", "pre_tokenizer")  # those that an encoded text goes through, in this order


def refuse_growth(path: Path) -> None:
    """Refuse a `tokenizer.json` whose rules may make far too much of a text.

    path: the file; what is no JSON is left to who loads it.

    Raises ModelError where its rules could make more than 4,096 characters of one, or more than
    64 Mi characters of its added tokens, or where it has more than 4 Mi arrays and objects.
    """
    data = path.read_bytes()
    if (parts := data.count(b"[") + data.count(b"{")) > _MOST_PARTS:
        raise _too_much(path, "holds too many arrays and objects", parts, _MOST_PARTS)
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
