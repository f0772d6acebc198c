"""What `trainer` and the tools need of logitstore beside its public names. It may change.

Nothing is imported before it is asked for, so no name costs what another one needs.
"""

from typing import TYPE_CHECKING

from logitstore.lazy import lazy_names

if TYPE_CHECKING:
    from logitstore.cli.console import print_json, quiet_libraries, reporting_errors
    from logitstore.corpus.corpus import open_corpus
    from logitstore.corpus.text import TextRules, tokenize
    from logitstore.corpus.tokenizer import load_tokenizer, tokenizer_fingerprint, vocab_size
    from logitstore.options import Option, checked_options, option, options_of, signature_of
    from logitstore.store.local import LocalStorage
    from logitstore.store.storage import sha256_of
    from logitstore.targets.tails import tail_logmass_at
    from logitstore.teacher.lm_head import LMHead, check_head, hidden_states
    from logitstore.teacher.models import load_model, model_folder

__all__ = [
    "LMHead",
    "LocalStorage",
    "Option",
    "TextRules",
    "check_head",
    "checked_options",
    "hidden_states",
    "lazy_names",
    "load_model",
    "load_tokenizer",
    "model_folder",
    "open_corpus",
    "option",
    "options_of",
    "print_json",
    "quiet_libraries",
    "reporting_errors",
    "sha256_of",
    "signature_of",
    "tail_logmass_at",
    "tokenize",
    "tokenizer_fingerprint",
    "vocab_size",
]

__getattr__ = lazy_names(
    __name__,
    {
        "LMHead": "logitstore.teacher.lm_head",
        "LocalStorage": "logitstore.store.local",
        "Option": "logitstore.options",
        "TextRules": "logitstore.corpus.text",
        "check_head": "logitstore.teacher.lm_head",
        "checked_options": "logitstore.options",
        "hidden_states": "logitstore.teacher.lm_head",
        "load_model": "logitstore.teacher.models",
        "load_tokenizer": "logitstore.corpus.tokenizer",
        "model_folder": "logitstore.teacher.models",
        "open_corpus": "logitstore.corpus.corpus",
        "option": "logitstore.options",
        "options_of": "logitstore.options",
        "print_json": "logitstore.cli.console",
        "quiet_libraries": "logitstore.cli.console",
        "reporting_errors": "logitstore.cli.console",
        "sha256_of": "logitstore.store.storage",
        "signature_of": "logitstore.options",
        "tail_logmass_at": "logitstore.targets.tails",
        "tokenize": "logitstore.corpus.text",
        "tokenizer_fingerprint": "logitstore.corpus.tokenizer",
        "vocab_size": "logitstore.corpus.tokenizer",
    },
)
