"""Token ids as bytes and as text to read, by what `tokenizer.json` says; nothing of it is run.

A token is a few bytes, and need not be whole characters. Bytes that are no character by themselves
are shown as ⟨E2⟩; the token that completes a character shows the character.
"""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from logitstore.errors import LogitStoreError
from logitstore.format.json import parse_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

__all__ = ["TokenTexts"]

_CORE = "tokenizer.json"
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_MOST_BYTES = 4096  # of one token: a longer one is shown by its beginning
_MOST_RULES = 16


@dataclass(frozen=True, slots=True, eq=False)
class TokenTexts:
    """What each id stands for.

    pieces: of each id its bytes as the tokenizer's files spell them, before `_decode`; None where
        the files name no token.
    special: ids that stand for no text, such as the end of a text.
    note: what a reader must know, where the texts are not to be had.
    """

    pieces: Sequence[str | bytes | None]
    decode: Callable[[str], bytes]
    special: frozenset[int] = frozenset()
    added: frozenset[int] = frozenset()
    note: str | None = None
    _known: dict[int, bytes] = field(default_factory=dict)

    @staticmethod
    def of(files: Mapping[str, bytes], *, vocab_size: int) -> TokenTexts:
        """Those of a store's tokenizer.

        files: as `Store.tokenizer_files` gives them.
        vocab_size: V.

        Ids are shown as numbers where no text can be had of the files; `note` says why.
        """
        try:
            if _CORE in files:
                return _of_core(parse_json(files[_CORE], place=_CORE), vocab_size)
            return _of_transformers(files, vocab_size)
        except (LogitStoreError, ValueError, TypeError, LookupError, AttributeError) as error:
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            note = f"The store's tokenizer gives no texts, so ids are shown ({reason})."
            return TokenTexts([None] * vocab_size, str.encode, note=note)

    def bytes_of(self, number: int) -> bytes:
        """The bytes that an id stands for; its number in brackets where no token has it."""
        found = self._known.get(number)
        if found is None:
            found = self._known[number] = self._bytes(number)[:_MOST_BYTES]
        return found

    def _bytes(self, number: int) -> bytes:
        piece = self.pieces[number] if number < len(self.pieces) else None
        if piece is None:
            return f"⟨{number}⟩".encode()
        if isinstance(piece, bytes):
            return piece
        return piece.encode(errors="replace") if number in self.added else self.decode(piece)

    def text_of(self, number: int) -> str:
        """An id as text, by itself."""
        return shown(self.bytes_of(number))

    def texts_in_place(self, ids: Iterable[int]) -> dict[int, str]:
        """Position -> text of tokens that read otherwise among their neighbours than alone.

        ids: of a document, in order.
        """
        decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        found = {}
        for position, number in enumerate(ids):
            data = self.bytes_of(number)
            text = _escaped(decoder.decode(data))
            begun = decoder.getstate()[0]
            text += _marks(begun[-min(len(begun), len(data)) :] if begun else b"")
            if text != self.text_of(number):
                found[position] = text
        return found

    def whole(self, ids: Iterable[int]) -> str:
        """The text of a document; what is no UTF-8 becomes U+FFFD."""
        return b"".join(map(self.bytes_of, ids)).decode(errors="replace")


def shown(data: bytes) -> str:
    """Bytes as text: characters where they are some, else each byte as ⟨E2⟩.

    data: of a token.
    """
    return _escaped(data.decode("utf-8", "surrogateescape"))


def _escaped(text: str) -> str:
    if text.isascii():
        return text
    return "".join(
        f"⟨{ord(one) - 0xDC00:02X}⟩" if "\udc80" <= one <= "\udcff" else one for one in text
    )


def _marks(data: bytes) -> str:
    return "".join(f"⟨{one:02X}⟩" for one in data)


def _of_core(content: Any, vocab_size: int) -> TokenTexts:
    """Those of a `tokenizer.json`: the ids of its vocabulary, spelled as its decoder says."""
    vocabulary = content["model"]["vocab"]
    listed: Iterable[tuple[str, Any]] = (
        vocabulary.items()
        if isinstance(vocabulary, dict)
        else ((one[0], number) for number, one in enumerate(vocabulary))
    )
    pieces: list[str | bytes | None] = [None] * vocab_size
    for text, number in listed:
        if isinstance(text, str) and type(number) is int and 0 <= number < vocab_size:
            pieces[number] = text
    special, added = set(), set()
    for one in content.get("added_tokens") or []:
        number = one["id"]
        if type(number) is int and 0 <= number < vocab_size and isinstance(one["content"], str):
            pieces[number] = one["content"]
            added.add(number)
            if one.get("special"):
                special.add(number)
    return TokenTexts(pieces, _decoder(content), special=frozenset(special), added=frozenset(added))


def _of_transformers(files: Mapping[str, bytes], vocab_size: int) -> TokenTexts:
    """Those of a tokenizer that has no `tokenizer.json`, as transformers loads it."""
    from logitstore.fidelity.rereading import stored_tokenizer

    tokenizer = stored_tokenizer(files)
    pieces = [tokenizer.convert_ids_to_tokens(number) for number in range(vocab_size)]
    special = frozenset(map(int, tokenizer.all_special_ids))
    byte_level = any(isinstance(one, str) and one.startswith("Ġ") for one in pieces)
    decode = _byte_level if byte_level else _in_turn([_replacing("▁", " ")])
    return TokenTexts(pieces, decode, special=special, added=special)


def _decoder(content: Mapping[str, Any]) -> Callable[[str], bytes]:
    """How a token of the vocabulary is spelled out, by the rules of the decoder."""
    rules = _rules(content.get("decoder")) or _rules(content.get("pre_tokenizer"))
    if any(one.get("type") == "ByteLevel" for one in rules):
        return _byte_level
    steps = []
    for one in rules[:_MOST_RULES]:
        if one.get("type") == "Metaspace":
            steps.append(_replacing(_text(one.get("replacement"), "▁"), " "))
        elif one.get("type") == "Replace" and isinstance(one.get("pattern"), dict):
            steps.append(_replacing(_text(one["pattern"].get("String")), _text(one.get("content"))))
        elif one.get("type") == "BPEDecoder":
            steps.append(_replacing(_text(one.get("suffix"), "</w>"), " "))
        elif one.get("type") == "WordPiece":
            steps.append(_word_piece(_text(one.get("prefix"), "##")))
    return _in_turn(steps)


def _text(found: object, otherwise: str = "") -> str:
    return found[:64] if isinstance(found, str) else otherwise


def _rules(rule: Any) -> list[dict[str, Any]]:
    """A rule, or those that a sequence of them is made of."""
    if not isinstance(rule, dict):
        return []
    parts = rule.get("decoders") or rule.get("pretokenizers")
    if isinstance(parts, list):
        return [one for one in parts if isinstance(one, dict)]
    return [rule]


def _replacing(old: str, new: str) -> Callable[[str], str]:
    return lambda text: text.replace(old, new) if old else text


def _word_piece(prefix: str) -> Callable[[str], str]:
    return lambda text: text[len(prefix) :] if text.startswith(prefix) else f" {text}"


def _in_turn(steps: Sequence[Callable[[str], str]]) -> Callable[[str], bytes]:
    """The rules one after another; <0xE2> is a byte."""

    def decode(text: str) -> bytes:
        if (byte := _BYTE.fullmatch(text)) is not None:
            return bytes([int(byte[1], 16)])
        for step in steps:
            text = step(text[:_MOST_BYTES])
        return text.encode(errors="replace")

    return decode


def _byte_level(text: str) -> bytes:
    """A token whose characters stand for bytes, as in GPT-2."""
    try:
        return bytes(_BYTES[one] for one in text)
    except KeyError:
        return text.encode(errors="replace")


def _byte_characters() -> dict[str, int]:
    """Character -> byte: printable bytes stand for themselves, the others from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    found = {chr(byte): byte for byte in printable}
    others = (byte for byte in range(256) if byte not in set(printable))
    return found | {chr(0x100 + number): byte for number, byte in enumerate(others)}


_BYTES = _byte_characters()
