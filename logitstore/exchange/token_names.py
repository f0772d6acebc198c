"""Tokens by their names in an engine's answers: "token_id:N", a key of digits, or bytes.

Several ids may have the same string, so a string alone never names an id.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from logitstore.errors import CorpusError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["BytesOfTokens", "id_of"]

_NAMED = re.compile(r"token_id:(\d{1,9})")
_WAY_OUT = (
    "Ask the server for ids: return_tokens_as_token_ids with vLLM, or prompt_logprobs, which has "
    "them as keys"
)
_REPLACED = "�".encode()


def id_of(name: object, *, place: str) -> int:
    """The id that a name tells. Raises CorpusError for a string that is only a token's text.

    name: "token_id:N".
    place: what an error names.
    """
    match = _NAMED.fullmatch(name) if isinstance(name, str) else None
    if match is None:
        raise CorpusError(
            "a token is named by its text, and several ids may have the same",
            place=place,
            found=repr(name),
            allowed="token_id:N",
            remedy=_WAY_OUT,
        )
    return int(match[1])


class BytesOfTokens:
    """The ids of a byte-level tokenizer by the bytes of their tokens.

    tokenizer: of transformers; CorpusError where its tokens are not made of bytes.
    """

    def __init__(self, tokenizer: Any, *, place: str) -> None:
        vocabulary: Mapping[str, int] = tokenizer.get_vocab()
        added = {token.content for token in tokenizer.added_tokens_decoder.values()}
        byte_of = {sign: byte for byte, sign in _signs().items()}
        self._ids: dict[bytes, list[int]] = {}
        for token, number in vocabulary.items():
            if token in added:
                data = token.encode()
            elif all(sign in byte_of for sign in token):
                data = bytes(byte_of[sign] for sign in token)
            else:
                raise CorpusError(
                    "tokens are named by their text, and this tokenizer's are not made of bytes",
                    place=place,
                    found=repr(token),
                    remedy=_WAY_OUT,
                )
            self._ids.setdefault(data, []).append(number)

    def id_of(self, entry: Mapping[str, Any], *, place: str) -> int:
        """The one id whose token has the entry's bytes.

        entry: with `token` and `bytes`.
        place: what an error names.

        Raises CorpusError where there is none, or several, or where the bytes are those of a
        replaced character, so that the token's own are lost.
        """
        name, listed = entry.get("token"), entry.get("bytes")
        if isinstance(name, str) and _NAMED.fullmatch(name):
            return id_of(name, place=place)
        whole = isinstance(listed, list) and all(
            type(one) is int and 0 <= one < 256 for one in listed
        )
        data = bytes(listed) if whole and listed is not None else b""
        ids = self._ids.get(data, [])
        if not data or _REPLACED in data or len(ids) != 1:
            raise CorpusError(
                "the bytes of a token do not name one id",
                place=place,
                found=f"{name!r}, {len(ids)} ids",
                allowed="bytes of exactly one token",
                remedy=_WAY_OUT,
            )
        return ids[0]


def _signs() -> dict[int, str]:
    """The sign that stands for each byte in a byte-level vocabulary, as GPT-2 defined it."""
    shown = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    signs = {byte: chr(byte) for byte in shown}
    hidden = (byte for byte in range(256) if byte not in signs)
    return signs | {byte: chr(256 + place) for place, byte in enumerate(hidden)}
