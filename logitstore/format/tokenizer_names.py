"""The names that files of a tokenizer have: no other file belongs into a store's `tokenizer/`.

A store may come from anywhere, and its tokenizer is copied beside a student's weights. There a file
of another name would be taken for a part of the model, or of the run.
"""

from __future__ import annotations

import re

__all__ = ["is_tokenizer_name"]

# What transformers saves for all tokenizers, and the vocabularies of those without a Rust core.
_NAMES = frozenset(
    (
        *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
        *("added_tokens.json", "chat_template.jinja", "chat_template.json"),
        *("vocab.json", "vocab.txt", "merges.txt", "tokenizer.model", "spiece.model"),
        *("spm.model", "spm_char.model", "sentencepiece.model", "sentencepiece.bpe.model"),
        *("tekken.json", "bpe.codes", "dict.txt", "normalizer.json", "source.spm"),
        *("target.spm", "target_vocab.json", "vocab-src.json", "vocab-tgt.json"),
        *("entity_vocab.json", "emoji.json", "byte_maps.json", "word_shape.json"),
        *("word_pronunciation.json", "prophetnet.tokenizer"),
    )
)
_TEMPLATE = re.compile(r"additional_chat_templates/[A-Za-z0-9_.-]+\.jinja")


def is_tokenizer_name(name: str) -> bool:
    """Whether a file of a tokenizer may have that name, below the tokenizer's folder."""
    return name in _NAMES or _TEMPLATE.fullmatch(name) is not None
