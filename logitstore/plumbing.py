"""What `trainer` and the tools need of logitstore beside its public names. It may change.

Nothing is imported before it is asked for, so no name costs what another one needs.
"""

from typing import TYPE_CHECKING

from logitstore.lazy import lazy_names

if TYPE_CHECKING:
    from logitstore.cli.console import (
        announce_hub,
        print_json,
        quiet_libraries,
        reporting_errors,
        say,
    )
    from logitstore.cli.early import refuse_bad_model, refuse_bad_store
    from logitstore.cli.interruption import AGAIN, run_program
    from logitstore.cli.program import JSON, command, command_signature, new_program
    from logitstore.cli.progress import show_progress
    from logitstore.codec import build_codec, codec_for
    from logitstore.corpus.answers import refuse_other_answers
    from logitstore.corpus.corpus import open_corpus
    from logitstore.corpus.fields import Fields
    from logitstore.corpus.gguf import gguf_file, refuse_other_tokens
    from logitstore.corpus.text import tokenize
    from logitstore.corpus.text_rules import TextRules
    from logitstore.corpus.token_bytes import TokenBytes, vocabulary_overlap
    from logitstore.corpus.tokenizer import (
        holds_tokenizer,
        load_tokenizer,
        tokenizer_files,
        tokenizer_fingerprint,
        vocab_size,
    )
    from logitstore.errors import printable
    from logitstore.fidelity.rereading import stored_tokenizer
    from logitstore.format.generation import GENERATION, generation_of
    from logitstore.format.json import checked_content, fingerprint, parse_json, with_check
    from logitstore.format.rules import TargetRule
    from logitstore.format.states import LAST, layer_name
    from logitstore.format.tokenizer_names import is_tokenizer_name
    from logitstore.options import (
        REQUIRED,
        Option,
        checked_options,
        option,
        options_of,
        refuse_uri,
        signature_of,
        takes,
    )
    from logitstore.own_options import listed, own_options
    from logitstore.progress import ON_PROGRESS, Meter, OnProgress, tell_stage
    from logitstore.sharing.hub import explained as hub_errors
    from logitstore.sparsify import SPARSIFIERS, sparsifier_of
    from logitstore.store.head import StoredHead, refuse_not_finite
    from logitstore.store.liveness import is_alive
    from logitstore.store.local import LocalStorage
    from logitstore.store.options import MAX_MEMORY, STORE
    from logitstore.store.reader import StoreLike, as_store
    from logitstore.store.sound import (
        SKIP_DAMAGED,
        DamagedBlock,
        describe_damage,
        find_damaged,
        most_damaged,
        refuse_more_damaged,
    )
    from logitstore.store.storage import sha256_of
    from logitstore.targets.kinds import Entries, TargetKind
    from logitstore.targets.sparsifier import Sparsifier
    from logitstore.targets.tails import TAIL_TEMPERATURES, rest_logmass, tail_logmass_at
    from logitstore.teacher.devices import DEVICE, DTYPE, choose_device, choose_dtype
    from logitstore.teacher.layers import DecoderLayers
    from logitstore.teacher.lengths import LengthClasses
    from logitstore.teacher.lm_head import (
        LMHead,
        check_head,
        evaluating,
        hidden_states,
        model_body,
    )
    from logitstore.teacher.models import auto_class, load_model, model_config, model_path
    from logitstore.teacher.opening import model_context

__all__ = [
    "AGAIN",
    "DEVICE",
    "DTYPE",
    "GENERATION",
    "JSON",
    "LAST",
    "MAX_MEMORY",
    "ON_PROGRESS",
    "REQUIRED",
    "SKIP_DAMAGED",
    "SPARSIFIERS",
    "STORE",
    "TAIL_TEMPERATURES",
    "DamagedBlock",
    "DecoderLayers",
    "Entries",
    "Fields",
    "LMHead",
    "LengthClasses",
    "LocalStorage",
    "Meter",
    "OnProgress",
    "Option",
    "Sparsifier",
    "StoreLike",
    "StoredHead",
    "TargetKind",
    "TargetRule",
    "TextRules",
    "TokenBytes",
    "announce_hub",
    "as_store",
    "auto_class",
    "build_codec",
    "check_head",
    "checked_content",
    "checked_options",
    "choose_device",
    "choose_dtype",
    "codec_for",
    "command",
    "command_signature",
    "describe_damage",
    "evaluating",
    "find_damaged",
    "fingerprint",
    "generation_of",
    "gguf_file",
    "hidden_states",
    "holds_tokenizer",
    "hub_errors",
    "is_alive",
    "is_tokenizer_name",
    "layer_name",
    "lazy_names",
    "listed",
    "load_model",
    "load_tokenizer",
    "model_body",
    "model_config",
    "model_context",
    "model_path",
    "most_damaged",
    "new_program",
    "open_corpus",
    "option",
    "options_of",
    "own_options",
    "parse_json",
    "print_json",
    "printable",
    "quiet_libraries",
    "refuse_bad_model",
    "refuse_bad_store",
    "refuse_more_damaged",
    "refuse_not_finite",
    "refuse_other_answers",
    "refuse_other_tokens",
    "refuse_uri",
    "reporting_errors",
    "rest_logmass",
    "run_program",
    "say",
    "sha256_of",
    "show_progress",
    "signature_of",
    "sparsifier_of",
    "stored_tokenizer",
    "tail_logmass_at",
    "takes",
    "tell_stage",
    "tokenize",
    "tokenizer_files",
    "tokenizer_fingerprint",
    "vocab_size",
    "vocabulary_overlap",
    "with_check",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "AGAIN": "logitstore.cli.interruption",
        "hub_errors": "logitstore.sharing.hub:explained",
        "DEVICE": "logitstore.teacher.devices",
        "DTYPE": "logitstore.teacher.devices",
        "JSON": "logitstore.cli.program",
        "Meter": "logitstore.progress",
        "MAX_MEMORY": "logitstore.store.options",
        "ON_PROGRESS": "logitstore.progress",
        "OnProgress": "logitstore.progress",
        "show_progress": "logitstore.cli.progress",
        "tell_stage": "logitstore.progress",
        "REQUIRED": "logitstore.options",
        "DamagedBlock": "logitstore.store.sound",
        "SKIP_DAMAGED": "logitstore.store.sound",
        "describe_damage": "logitstore.store.sound",
        "find_damaged": "logitstore.store.sound",
        "most_damaged": "logitstore.store.sound",
        "refuse_more_damaged": "logitstore.store.sound",
        "SPARSIFIERS": "logitstore.sparsify",
        "STORE": "logitstore.store.options",
        "TAIL_TEMPERATURES": "logitstore.targets.tails",
        "Entries": "logitstore.targets.kinds",
        "Fields": "logitstore.corpus.fields",
        "Sparsifier": "logitstore.targets.sparsifier",
        "TargetKind": "logitstore.targets.kinds",
        "TargetRule": "logitstore.format.rules",
        "sparsifier_of": "logitstore.sparsify",
        "StoreLike": "logitstore.store.reader",
        "as_store": "logitstore.store.reader",
        "DecoderLayers": "logitstore.teacher.layers",
        "LengthClasses": "logitstore.teacher.lengths",
        "LMHead": "logitstore.teacher.lm_head",
        "LocalStorage": "logitstore.store.local",
        "Option": "logitstore.options",
        "TextRules": "logitstore.corpus.text_rules",
        "TokenBytes": "logitstore.corpus.token_bytes",
        "auto_class": "logitstore.teacher.models",
        "announce_hub": "logitstore.cli.console",
        "check_head": "logitstore.teacher.lm_head",
        "checked_options": "logitstore.options",
        "choose_device": "logitstore.teacher.devices",
        "choose_dtype": "logitstore.teacher.devices",
        "build_codec": "logitstore.codec",
        "codec_for": "logitstore.codec",
        "command": "logitstore.cli.program",
        "command_signature": "logitstore.cli.program",
        "evaluating": "logitstore.teacher.lm_head",
        "hidden_states": "logitstore.teacher.lm_head",
        "holds_tokenizer": "logitstore.corpus.tokenizer",
        "load_model": "logitstore.teacher.models",
        "load_tokenizer": "logitstore.corpus.tokenizer",
        "model_body": "logitstore.teacher.lm_head",
        "model_config": "logitstore.teacher.models",
        "model_context": "logitstore.teacher.opening",
        "model_path": "logitstore.teacher.models",
        "new_program": "logitstore.cli.program",
        "open_corpus": "logitstore.corpus.corpus",
        "option": "logitstore.options",
        "options_of": "logitstore.options",
        "listed": "logitstore.own_options",
        "own_options": "logitstore.own_options",
        "checked_content": "logitstore.format.json",
        "fingerprint": "logitstore.format.json",
        "parse_json": "logitstore.format.json",
        "with_check": "logitstore.format.json",
        "LAST": "logitstore.format.states",
        "layer_name": "logitstore.format.states",
        "StoredHead": "logitstore.store.head",
        "refuse_not_finite": "logitstore.store.head",
        "is_alive": "logitstore.store.liveness",
        "is_tokenizer_name": "logitstore.format.tokenizer_names",
        "print_json": "logitstore.cli.console",
        "printable": "logitstore.errors",
        "quiet_libraries": "logitstore.cli.console",
        "refuse_other_answers": "logitstore.corpus.answers",
        "GENERATION": "logitstore.format.generation",
        "generation_of": "logitstore.format.generation",
        "gguf_file": "logitstore.corpus.gguf",
        "refuse_other_tokens": "logitstore.corpus.gguf",
        "stored_tokenizer": "logitstore.fidelity.rereading",
        "refuse_bad_model": "logitstore.cli.early",
        "refuse_bad_store": "logitstore.cli.early",
        "refuse_uri": "logitstore.options",
        "reporting_errors": "logitstore.cli.console",
        "run_program": "logitstore.cli.interruption",
        "say": "logitstore.cli.console",
        "sha256_of": "logitstore.store.storage",
        "signature_of": "logitstore.options",
        "rest_logmass": "logitstore.targets.tails",
        "tail_logmass_at": "logitstore.targets.tails",
        "takes": "logitstore.options",
        "tokenize": "logitstore.corpus.text",
        "tokenizer_files": "logitstore.corpus.tokenizer",
        "tokenizer_fingerprint": "logitstore.corpus.tokenizer",
        "vocab_size": "logitstore.corpus.tokenizer",
        "vocabulary_overlap": "logitstore.corpus.token_bytes",
    },
)
