"""An audit warns of documents that do not begin as the tokenizer begins texts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer

import logitstore
from logitstore.cli.audit_lines import audit_lines
from tests.tiny_models import tiny

if TYPE_CHECKING:
    from pathlib import Path

PLAIN = "{% for m in messages %}{{ m.role + ': ' + m.content + eos_token }}{% endfor %}"
CHAT = [
    {"role": "user", "content": "who reads the text"},
    {"role": "assistant", "content": "the teacher"},
]
TEXTS: list[Any] = ["The teacher reads the text once.", "the student reads"]
CORPORA: dict[str, tuple[str | None, list[Any], int]] = {
    "texts": (None, TEXTS, 0),
    "chats with": ("{{ bos_token }}" + PLAIN, [{"messages": CHAT}] * 3, 0),
    "chats without": (PLAIN, [{"messages": CHAT}] * 3, 3),
    "tokens": (None, [{"input_ids": [5, 6, 7]}, {"input_ids": [0, 6, 7, 8]}], 1),
}


@pytest.fixture
def with_bos(tokenizer_folder: Path) -> Any:
    """One that begins texts with BOS."""
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
    )
    assert tokenizer("a")["input_ids"][0] == 0
    return tokenizer


def audited(tokenizer: Any, corpus: list[Any], out: Path) -> dict[str, Any]:
    model = tiny(vocab_size=300, max_position_embeddings=128)
    logitstore.dump(teacher=model, tokenizer=tokenizer, data=corpus, out=out)
    return logitstore.audit(out, teacher=model)


@pytest.mark.parametrize("name", CORPORA)
def test_documents_without_bos_are_counted(name: str, with_bos: Any, tmp_path: Path) -> None:
    template, corpus, lacking = CORPORA[name]
    with_bos.chat_template = template
    found = audited(with_bos, corpus, tmp_path / "store")
    assert found["ok"]
    assert found["without_bos"] == lacking
    warned = [line for line in audit_lines(found) if line.startswith("warning: ")]
    if not lacking:
        assert found["warnings"] == warned == []
        return
    (warning,) = found["warnings"]
    assert warning.startswith(
        f"{lacking} of {found['documents']} documents do not begin with <|endoftext|>"
    )
    assert warned == [f"warning: {warning}"]


def test_a_tokenizer_that_begins_with_none_warns_of_none(
    tokenizer_folder: Path, tmp_path: Path
) -> None:
    found = audited(AutoTokenizer.from_pretrained(tokenizer_folder), TEXTS, tmp_path / "store")
    assert found["without_bos"] is None
    assert found["warnings"] == []
