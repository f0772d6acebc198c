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
from logitstore.spec import SparsifierSpec, StoreSpec
from logitstore.targets import EMPTY_TAIL, SparseTargets

if TYPE_CHECKING:
    from logitstore.auditing.audit import audit
    from logitstore.corpus import open_corpus
    from logitstore.dumping import dump
    from logitstore.forecast.estimate import estimate
    from logitstore.forecast.tune import tune
    from logitstore.lm_head import LMHead, check_head, hidden_states
    from logitstore.models import load_model, model_folder
    from logitstore.reader import Store
    from logitstore.reader import open_store as open
    from logitstore.tails import tail_logmass_at
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
    "SparsifierSpec",
    "SpecError",
    "StorageError",
    "Store",
    "StoreError",
    "StoreSpec",
    "StoredDocument",
    "TextRules",
    "TokenizerError",
    "audit",
    "check_head",
    "console",
    "dump",
    "estimate",
    "files",
    "hidden_states",
    "load_model",
    "load_tokenizer",
    "model_folder",
    "open",
    "open_corpus",
    "order",
    "tail_logmass_at",
    "tokenize",
    "tokenizer_fingerprint",
    "tune",
    "vocab_size",
]

_LAZY = {
    "LMHead": "lm_head",
    "Store": "reader",
    "TextRules": "text",
    "audit": "auditing.audit",
    "check_head": "lm_head",
    "dump": "dumping",
    "estimate": "forecast.estimate",
    "hidden_states": "lm_head",
    "load_model": "models",
    "load_tokenizer": "tokenizer",
    "model_folder": "models",
    "open": "reader",
    "open_corpus": "corpus",
    "tail_logmass_at": "tails",
    "tokenize": "text",
    "tokenizer_fingerprint": "tokenizer",
    "tune": "forecast.tune",
    "vocab_size": "tokenizer",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'logitstore' has no attribute {name!r}")
    attribute = "open_store" if name == "open" else name
    return getattr(import_module(f"logitstore.{_LAZY[name]}"), attribute)
