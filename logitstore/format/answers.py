"""What a file of answers says of itself: which model gave them, to what, and how they were drawn.

It is a JSON object under `KEY` in the metadata of the Parquet schema:

    format      "logitstore-answers/1"
    model       name, fingerprint, architecture, dtype, device
    tokenizer   fingerprint, vocab_size, bos_token_id, eos_token_id
    settings    n, max_new_tokens, temperature, top_p, top_k, min_p, seed, and what else was asked
    corpus      name and fingerprint of the prompts
    version     of logitstore
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from logitstore.errors import CorruptionError
from logitstore.format.json import parse_json

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["ANSWERS_FORMAT", "ANSWER_COLUMNS", "KEY", "AnswersMetadata", "told_of_answers"]

KEY = b"logitstore"
ANSWER_COLUMNS = ("input_ids", "loss_mask", "sampler_logprobs")  # that tokens are read from
ANSWERS_FORMAT = "logitstore-answers/1"
_PARTS = ("model", "tokenizer", "settings", "corpus")
_OFF: tuple[Any, ...] = (None, [], "auto", "{}")  # values of settings that do nothing


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswersMetadata:
    """Who answered, and how; the objects are those of the module's docstring."""

    model: dict[str, Any]
    tokenizer: dict[str, Any]
    settings: dict[str, Any]
    corpus: dict[str, Any]
    version: str

    def to_schema(self) -> dict[bytes, bytes]:
        """As the metadata of a schema."""
        content = {
            "format": ANSWERS_FORMAT,
            "version": self.version,
            **{name: getattr(self, name) for name in _PARTS},
        }
        return {KEY: json.dumps(content, sort_keys=True, ensure_ascii=False).encode()}

    @staticmethod
    def of_schema(metadata: Mapping[bytes, bytes] | None, *, place: str) -> AnswersMetadata | None:
        """What the metadata of a schema says; None where it is no file of answers.

        metadata: of a schema, from anywhere.
        place: what an error names.

        Raises CorruptionError for a format that this version does not read.
        """
        if not metadata or KEY not in metadata:
            return None
        content = parse_json(metadata[KEY], place=place)
        known = isinstance(content, dict) and content.get("format") == ANSWERS_FORMAT
        if not known or not all(isinstance(content.get(name), dict) for name in _PARTS):
            raise CorruptionError(
                "this is no file of answers that this version reads",
                place=place,
                found=content.get("format") if isinstance(content, dict) else None,
                allowed=ANSWERS_FORMAT,
            )
        _check_strings(content, place)
        _check_vocab_size(content["tokenizer"].get("vocab_size"), place)
        return AnswersMetadata(
            version=str(content.get("version")), **{name: content[name] for name in _PARTS}
        )

    def identity(self) -> dict[str, Any]:
        """What two runs must have in common to make one file: all but names and the version."""
        model = {name: value for name, value in self.model.items() if name != "name"}
        corpus = {name: value for name, value in self.corpus.items() if name != "name"}
        return {
            "model": model,
            "tokenizer": self.tokenizer,
            "settings": self.settings,
            "corpus": corpus,
        }


def told_of_answers(content: Mapping[str, Any]) -> dict[str, Any]:
    """Who gave answers, and by which settings, but for those that are off.

    content: of a store's spec: the objects of `AnswersMetadata`, from anywhere.
    """
    model, settings = (
        content[name] if isinstance(content.get(name), dict) else {}
        for name in ("model", "settings")
    )
    return {
        **{name: model.get(name) for name in ("name", "fingerprint", "architecture", "dtype")},
        "settings": {name: value for name, value in settings.items() if value not in _OFF},
    }


def _check_vocab_size(found: object, place: str) -> None:
    if isinstance(found, bool) or not isinstance(found, int) or found < 1:
        raise CorruptionError(
            "tokenizer.vocab_size is no size", place=place, found=found, allowed=">= 1"
        )


def _check_strings(content: dict[str, Any], place: str) -> None:
    for part, name in (
        ("model", "name"),
        ("model", "fingerprint"),
        ("tokenizer", "fingerprint"),
        ("corpus", "name"),
    ):
        if not isinstance(content[part].get(name), str):
            raise CorruptionError(
                f"{part}.{name} is no text", place=place, found=content[part].get(name)
            )
