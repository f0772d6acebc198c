"""A tokenizer that would make far too much of a text is refused, and no real one."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import pytest
from tokenizers import Tokenizer, models, normalizers

from logitstore.corpus.tokenizer import load_tokenizer
from logitstore.corpus.tokenizer_bounds import refuse_bombs
from logitstore.errors import ModelError

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedTokenizerFast

LIMIT = 4096
CHARACTERS = [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000]


def _replace(content: str, **pattern: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern or {"String": "a"}, "content": content}


def _sequence(*rules: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", "normalizers": list(rules)}


def _charsmap(*texts: str) -> str:
    trie = bytes(1024)
    joined = b"".join(text.encode() + b"\0" for text in texts)
    return base64.b64encode(len(trie).to_bytes(4, "little") + trie + joined).decode()


def _template(ids: int, repeats: int) -> dict[str, Any]:
    token = {"SpecialToken": {"id": "<s>", "type_id": 0}}
    text = {"Sequence": {"id": "A", "type_id": 0}}
    special = {"<s>": {"id": "<s>", "ids": [0] * ids, "tokens": ["<s>"] * ids}}
    return {
        "type": "TemplateProcessing",
        "single": [token, *[text] * repeats],
        "pair": [],
        "special_tokens": special,
    }


FORMS = {"type": "NFKC"}
# What of a tokenizer.json, with rules that make up to 4,096 characters of one; with rules that
# make more.
RULES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "literal": (
        {"normalizer": _replace("a" * LIMIT)},
        {"normalizer": _replace("a" * (LIMIT + 1))},
    ),
    "long literal": (
        {"normalizer": _replace("a" * 2 * LIMIT, String="ab")},
        {"normalizer": _replace("a" * (2 * LIMIT + 1), String="ab")},
    ),
    "expression": (
        {"normalizer": _replace("a" * (LIMIT - 1), Regex=".*")},
        {"normalizer": _replace("a" * LIMIT, Regex=".*")},
    ),
    "one after another": (
        {"normalizer": _sequence(*[_replace("aa")] * 12)},
        {"normalizer": _sequence(*[_replace("aa")] * 13)},
    ),
    "nested": (
        {"normalizer": _sequence(_sequence(_replace("a" * 64)), _replace("a" * 64))},
        {"normalizer": _sequence(_sequence(_replace("a" * 65)), _replace("a" * 64))},
    ),
    "forms": (
        {"normalizer": _sequence(FORMS, _replace("a" * 227))},
        {"normalizer": _sequence(FORMS, _replace("a" * 228))},
    ),
    "prepended": (
        {"normalizer": {"type": "Prepend", "prepend": "a" * (LIMIT - 1)}},
        {"normalizer": {"type": "Prepend", "prepend": "a" * LIMIT}},
    ),
    "mapped": (
        {"normalizer": {"type": "Precompiled", "precompiled_charsmap": _charsmap("é" * LIMIT)}},
        {
            "normalizer": {
                "type": "Precompiled",
                "precompiled_charsmap": _charsmap("a", "é" * (LIMIT + 1)),
            }
        },
    ),
    "both steps": (
        {"normalizer": _replace("a" * 64), "pre_tokenizer": _replace("a" * 64)},
        {"normalizer": _replace("a" * 64), "pre_tokenizer": _replace("a" * 65)},
    ),
    "ids of a template": (
        {"post_processor": _template(LIMIT - 1, 1)},
        {"post_processor": _template(LIMIT, 1)},
    ),
    "repeats of a template": (
        {"post_processor": _template(1, LIMIT - 1)},
        {"post_processor": _template(1, LIMIT)},
    ),
    "suffix": (
        {"model": {"end_of_word_suffix": "a" * (LIMIT - 1)}},
        {"model": {"end_of_word_suffix": "a" * LIMIT}},
    ),
    "decoder": (
        {"decoder": _sequence(*[_replace("aa")] * 12)},
        {"decoder": _sequence(*[_replace("aa")] * 13)},
    ),
    "added tokens": (
        {"normalizer": _replace("a" * LIMIT), "added_tokens": [{"content": "a" * (16 << 10)}]},
        {
            "normalizer": _replace("a" * LIMIT),
            "added_tokens": [{"content": "a" * (16 << 10)}, {"content": "b"}],
        },
    ),
    "arrays": ({"x": [[]] * 100}, {"x": [[]] * (2 << 20)}),
    "objects": ({"x": [{}] * 100}, {"x": [{}] * (1 << 18)}),
    "no rules": ({"normalizer": [1, None, {"type": 3}], "model": [], "added_tokens": {}}, {}),
}
REFUSED = [name for name, (_, more) in RULES.items() if more]


@pytest.mark.parametrize("name", RULES)
def test_what_is_within_the_bound_is_taken(tmp_path: Path, name: str) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps(RULES[name][0]))
    refuse_bombs(tmp_path)


@pytest.mark.parametrize("name", REFUSED)
def test_what_makes_more_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps(RULES[name][1]))
    with pytest.raises(ModelError, match=r"tokenizer\.json: .*too many.*allowed"):
        refuse_bombs(tmp_path)


@pytest.mark.parametrize("name", ["tokenizer_config.json", "added_tokens.json", "vocab.json"])
@pytest.mark.parametrize("mark", ["[]", "{}", "0"])
def test_no_file_may_have_more_parts_than_real_ones(tmp_path: Path, name: str, mark: str) -> None:
    (tmp_path / name).write_text(f"[{','.join([mark] * ((16 << 20) + 2))}]")
    with pytest.raises(ModelError, match=rf"{name}: the tokenizer holds too many"):
        refuse_bombs(tmp_path)


@pytest.mark.parametrize("content", [b"", b"[]", b"[" * 10_000, b"\xff", b"null"])
def test_what_is_no_tokenizer_is_left_to_who_loads_it(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "tokenizer.json").write_bytes(content)
    refuse_bombs(tmp_path)


@pytest.mark.parametrize(
    "rule", ["NFC", "NFD", "NFKC", "NFKD", "Lowercase", "BertNormalizer", "ByteLevel", "Nmt"]
)
def test_no_character_becomes_more_than_the_bound_says(tmp_path: Path, rule: str) -> None:
    """Of all characters, by the library that applies the rules."""
    applied = getattr(normalizers, rule)()
    longest = max(len(applied.normalize_str(character)) for character in CHARACTERS)
    # A rule whose bound is less would be taken together with this one.
    (tmp_path / "tokenizer.json").write_text(
        json.dumps(
            {"normalizer": _sequence({"type": rule}, _replace("a" * (LIMIT // longest + 1)))}
        )
    )
    with pytest.raises(ModelError, match="too many characters of one"):
        refuse_bombs(tmp_path)


def test_rules_that_are_in_use_are_taken(tmp_path: Path) -> None:
    """Those of ALBERT, the longest known, with a map whose longest text has 18 characters."""
    core = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    core.normalizer = normalizers.Sequence(
        [
            normalizers.Replace("``", '"'),
            normalizers.NFKD(),
            normalizers.StripAccents(),
            normalizers.Lowercase(),
        ]
    )
    content = json.loads(core.to_str())
    charsmap = {"type": "Precompiled", "precompiled_charsmap": _charsmap("a" * 18)}
    content["normalizer"]["normalizers"] += [charsmap, _replace("\u2581", Regex=" {2,}")]
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    refuse_bombs(tmp_path)


def test_a_folder_with_such_a_tokenizer_is_not_loaded(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    tokenizer.save_pretrained(tmp_path)
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    content["normalizer"] = _sequence(*[_replace("a" * 1000)] * 4)
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(ModelError, match=r"too many characters of one .found more than a trillion"):
        load_tokenizer(str(tmp_path))
