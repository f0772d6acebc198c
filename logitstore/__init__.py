"""The public names of logitstore. Importing it costs no torch: that is loaded on first use."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from logitstore import console, files, order
from logitstore.documents import Document, DocumentBlock, StoredDocument
from logitstore.errors import (
    CorpusError,
    CorruptionError,
    LogitStoreError,
    ModelError,
    SettingError,
    SpecError,
    StorageError,
    StoreError,
    TokenizerError,
)
from logitstore.spec import StoreSpec
from logitstore.targets import EMPTY_TAIL, SparseTargets

if TYPE_CHECKING:
    from logitstore.corpus import open_corpus
    from logitstore.dumping import dump
    from logitstore.lm_head import LMHead, check_head, hidden_states
    from logitstore.models import load_model, model_folder
    from logitstore.reader import Store
    from logitstore.reader import open_store as open
    from logitstore.text import TextRules, tokenize
    from logitstore.tokenizer import load_tokenizer, tokenizer_fingerprint, vocab_size

__all__ = [
    "EMPTY_TAIL",
    "CorpusError",
    "CorruptionError",
    "Document",
    "DocumentBlock",
    "LMHead",
    "LogitStoreError",
    "ModelError",
    "SettingError",
    "SparseTargets",
    "SpecError",
    "StorageError",
    "Store",
    "StoreError",
    "StoreSpec",
    "StoredDocument",
    "TextRules",
    "TokenizerError",
    "check_head",
    "console",
    "dump",
    "files",
    "hidden_states",
    "load_model",
    "load_tokenizer",
    "model_folder",
    "open",
    "open_corpus",
    "order",
    "tokenize",
    "tokenizer_fingerprint",
    "vocab_size",
]

_LAZY = {
    "LMHead": "lm_head",
    "Store": "reader",
    "TextRules": "text",
    "check_head": "lm_head",
    "dump": "dumping",
    "hidden_states": "lm_head",
    "load_model": "models",
    "load_tokenizer": "tokenizer",
    "model_folder": "models",
    "open": "reader",
    "open_corpus": "corpus",
    "tokenize": "text",
    "tokenizer_fingerprint": "tokenizer",
    "vocab_size": "tokenizer",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'logitstore' has no attribute {name!r}")
    attribute = "open_store" if name == "open" else name
    return getattr(import_module(f"logitstore.{_LAZY[name]}"), attribute)
