"""The bytes that each id of a tokenizer stands for: where a token begins and ends in a text.

Two families of tokenizers say it exactly. Byte-level BPE writes a byte as one of 256 letters.
SentencePiece writes a space as a line of its own (U+2581), and a byte that no token has as
`<0x41>`; some put a space before each text, which is no part of it. Other tokenizers (WordPiece,
for one) lose what was between two tokens, and are refused.

Shapes: L tokens of a text, V vocabulary.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from logitstore.corpus.encoder import beginning
from logitstore.errors import TokenizerError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["TokenBytes", "vocabulary_overlap"]

_SPACE = "\N{LOWER ONE EIGHTH BLOCK}"
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
_SENTENCEPIECE = ("ByteFallback", "Metaspace")


def _letters() -> dict[str, int]:
    """The letter of each byte in byte-level BPE: its own where it can be seen, else one above."""
    seen = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in seen]
    return {chr(one): one for one in seen} | {
        chr(256 + place): one for place, one in enumerate(hidden)
    }


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TokenBytes:
    """The bytes of every id of a tokenizer; a special token has none."""

    table: tuple[bytes | None, ...]  # None for an id that no token has
    lengths_V: np.ndarray  # int64, bytes; -1 for an id that no token has
    special_V: np.ndarray  # bool: BOS, EOS and their like, which stand for no text
    begin: tuple[int, ...]  # the ids that the tokenizer puts before a text
    end: int | None  # the id of its end of text
    prefix: bool  # it puts a space before each text

    @staticmethod
    def of(tokenizer: Any) -> TokenBytes:
        """The table of a transformers tokenizer.

        tokenizer: it needs a Rust core ("fast").

        Raises TokenizerError where its tokens do not say which bytes they stand for.
        """
        if not getattr(tokenizer, "is_fast", False):
            raise _untold(tokenizer, found="a tokenizer without a Rust core")
        core = json.loads(tokenizer.backend_tokenizer.to_str())
        bytes_of = _reading(tokenizer, core)
        vocabulary = tokenizer.get_vocab()
        size = max(vocabulary.values(), default=-1) + 1
        added = {token["content"]: token["special"] for token in core["added_tokens"]}
        unknown = core["model"].get("unk_token")
        table: list[bytes | None] = [None] * size
        special_V = np.zeros(size, dtype=bool)
        for token, number in vocabulary.items():
            special_V[number] = added.get(token, token == unknown)
            table[number] = b"" if special_V[number] else bytes_of(token)
        lengths_V = np.array([-1 if one is None else len(one) for one in table], dtype=np.int64)
        begin = tuple(beginning(tokenizer))
        special_V[list(begin)] = True
        if tokenizer.eos_token_id is not None:
            special_V[tokenizer.eos_token_id] = True
        found = TokenBytes(
            table=tuple(table),
            lengths_V=lengths_V,
            special_V=special_V,
            begin=begin,
            end=tokenizer.eos_token_id,
            prefix=False,
        )
        return found._with_prefix(tokenizer)

    def _with_prefix(self, tokenizer: Any) -> TokenBytes:
        """The same, `prefix` found out: a space before each text shows before a letter."""
        ids = tokenizer("a", add_special_tokens=False)["input_ids"]
        prefix = self.joined(np.array(ids, dtype=np.int64)) == b" a"
        values = {name: getattr(self, name) for name in self.__slots__}
        return TokenBytes(**values | {"prefix": prefix})

    def knows(self, ids_L: np.ndarray) -> bool:
        """Whether each of `ids_L` is the id of a token."""
        size = len(self.table)
        return not len(ids_L) or (int(ids_L.max()) < size and int(self.lengths_V[ids_L].min()) >= 0)

    def joined(self, ids_L: np.ndarray) -> bytes:
        """The bytes of tokens, one after another; ids that no token has give none."""
        return b"".join(self.table[number] or b"" for number in ids_L.tolist())

    def strings(self) -> frozenset[bytes]:
        """The different byte strings of its tokens; of special ones their name."""
        return frozenset(one for one in self.table if one)


def _reading(tokenizer: Any, core: dict[str, Any]) -> Callable[[str], bytes]:
    """The function from a token to its bytes."""
    decoders = list(_parts(core["decoder"]))
    kinds = {one["type"] for one in decoders}
    if "ByteLevel" in kinds:
        letters = _letters()
        known, bytes_of = set(letters), str.maketrans({one: chr(b) for one, b in letters.items()})
        # A token of other letters, as an added one may be, is its own text.
        return lambda token: (
            token.translate(bytes_of).encode("latin-1")
            if known.issuperset(token)
            else token.encode()
        )
    spaces = any(
        one["type"] == "Replace"
        and one.get("pattern") == {"String": _SPACE}
        and one.get("content") == " "
        for one in decoders
    )
    if not spaces and not kinds & set(_SENTENCEPIECE):
        raise _untold(tokenizer, found=f"a decoder of {', '.join(sorted(kinds)) or 'no kind'}")

    def sentencepiece(token: str) -> bytes:
        byte = _BYTE.fullmatch(token)
        return token.replace(_SPACE, " ").encode() if byte is None else bytes([int(byte[1], 16)])

    return sentencepiece


def _parts(decoder: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
    if decoder is not None:
        yield decoder
        for part in decoder.get("decoders", ()):
            yield from _parts(part)


def _untold(tokenizer: Any, *, found: str) -> TokenizerError:
    return TokenizerError(
        "the tokenizer does not say which bytes its tokens stand for",
        place=getattr(tokenizer, "name_or_path", None) or type(tokenizer).__name__,
        found=found,
        allowed="byte-level BPE or SentencePiece, with a Rust core",
        remedy="Take a student that has the store's tokenizer",
    )


def vocabulary_overlap(one: Any, other: Any) -> float:
    """The share of the smaller of two vocabularies whose tokens the other has too, as bytes.

    Special tokens count by their names. It is the definition of NeMo-RL's table ("intersection
    divided by the smaller vocabulary, on canonical token forms"), with bytes as the form.

    one: a transformers tokenizer.
    other: another.
    """
    sides = [_forms(tokenizer) for tokenizer in (one, other)]
    return len(sides[0] & sides[1]) / max(1, min(map(len, sides)))


def _forms(tokenizer: Any) -> frozenset[bytes]:
    found = TokenBytes.of(tokenizer)
    names = tokenizer.convert_ids_to_tokens(np.flatnonzero(found.special_V).tolist())
    return found.strings() | {name.encode() for name in names if name is not None}
