"""The tokenizer: loaded, named by a fingerprint of what decides its ids, and measured.

Two tokenizers with one fingerprint give the same ids for the same text, special tokens apart: what
is added around a text (post-processor, chat template) and what is done to a batch (padding,
truncation) belongs to the text rules or to nobody, and changes when a tokenizer is merely used.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import AutoTokenizer

from logitstore.corpus.gguf import gguf_file, refuse_lost_splitting, refuse_unreadable_gguf
from logitstore.corpus.temporary import temporary_folder
from logitstore.corpus.tokenizer_bounds import refuse_bombs
from logitstore.errors import ModelError, StorageError, no_room
from logitstore.format.tokenizer_names import is_tokenizer_name

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = [
    "holds_tokenizer",
    "load_tokenizer",
    "tokenizer_files",
    "tokenizer_fingerprint",
    "vocab_size",
]

# One of them lies in every folder with a tokenizer.
_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
)
_CONFIG = "tokenizer_config.json"
# The padding token is not among them: training code sets it at will.
_SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "cls_token", "mask_token")


def holds_tokenizer(path: Path) -> bool:
    """Whether a model comes with a tokenizer that can be loaded.

    path: its folder or its GGUF file.
    """
    if not path.is_file():
        return any((path / name).is_file() for name in _FILES)
    try:
        refuse_lost_splitting(path)
    except ModelError:
        return False
    return True


def load_tokenizer(folder_or_id: str) -> PreTrainedTokenizerBase:
    """The tokenizer in a folder or a file, or of a model on the Hub; no code of it is run.

    folder_or_id: the path of a folder or of a GGUF file, or a name on the Hub.

    Raises ModelError where there is none, where transformers would split texts otherwise, or where
    its rules could make far too much of a text.
    """
    source, options, file = folder_or_id, {}, gguf_file(folder_or_id)
    if file is not None and (Path(folder_or_id).is_file() or not holds_tokenizer(Path(source))):
        refuse_unreadable_gguf(file)
        refuse_lost_splitting(file)
        source, options = str(file.parent), {"gguf_file": file.name}
    if file is None and Path(source).is_dir():
        refuse_bombs(Path(source))
    try:
        return AutoTokenizer.from_pretrained(source, trust_remote_code=False, **options)
    except Exception as error:  # a broken tokenizer.json raises a bare Exception
        raise ModelError(
            f"no tokenizer can be loaded: {' '.join(str(error).split())[:300]}",
            place=folder_or_id,
            remedy="Give a transformers folder, a .gguf file or the name of a model on the Hub",
        ) from error


def tokenizer_files(tokenizer: Any) -> dict[str, bytes]:
    """The files that `save_pretrained` writes, by their names; none with code of its own.

    tokenizer: a transformers tokenizer.

    Raises StorageError where no temporary folder can be written, ModelError for a tokenizer that
    cannot be saved.
    """
    with temporary_folder() as folder:
        try:
            tokenizer.save_pretrained(folder)
        except Exception as error:  # each kind of tokenizer raises errors of its own
            full = no_room(error)
            if full is not None or isinstance(error, OSError):
                raise StorageError(
                    f"the tokenizer cannot be saved: {full or error}",
                    place=folder,
                    remedy="Make room, or name another folder for temporary files with TMPDIR",
                ) from error
            raise ModelError(f"the tokenizer cannot be saved: {error}") from error
        paths = sorted(path for path in Path(folder).rglob("*") if path.is_file())
        files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
        vocabulary = set(getattr(tokenizer, "vocab_files_names", {}).values())
        return {
            name: _without_code(content) if name == _CONFIG else content
            for name, content in files.items()
            if is_tokenizer_name(name) or name in vocabulary or "/" in name
        }


def _without_code(config: bytes) -> bytes:
    """A tokenizer's configuration without the names of code that came with it."""
    content = json.loads(config)
    if content.pop("auto_map", None) is None:
        return config
    return json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False).encode() + b"\n"


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """sha256, in hex, of all that decides which ids a text becomes.

    tokenizer: of transformers.

    That is vocabulary, added tokens, merges, normaliser, pre-tokenizer and special ids; for a
    tokenizer without a Rust core vocabulary, class and special ids stand for the rest.
    """
    content: dict[str, Any] = {
        "vocabulary": sorted(tokenizer.get_vocab().items()),
        "special_ids": {name: getattr(tokenizer, f"{name}_id") for name in _SPECIAL_TOKENS},
    }
    if tokenizer.is_fast:
        content |= _core(json.loads(tokenizer.backend_tokenizer.to_str()))
    else:
        content["class"] = type(tokenizer).__name__
    text = json.dumps(_without_defaults(content), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def vocab_size(tokenizer: PreTrainedTokenizerBase) -> int:
    """V: the highest id that the tokenizer can produce, and one; added tokens included.

    tokenizer: a transformers tokenizer. ModelError for one without a single id.
    """
    ids = tokenizer.get_vocab().values()
    if not ids:
        raise ModelError("the tokenizer has no ids", place=tokenizer.name_or_path or None)
    return max(ids) + 1


def _core(description: dict[str, Any]) -> dict[str, Any]:
    model = dict(description["model"])
    if isinstance(model.get("vocab"), dict):
        del model["vocab"]  # `get_vocab` has it; a Unigram's list holds scores besides
    if "merges" in model:
        # Spelled "a b" before tokenizers 0.20, ["a", "b"] since.
        model["merges"] = [
            merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]
        ]
    return {
        "model": model,
        "normalizer": description["normalizer"],
        "pre_tokenizer": description["pre_tokenizer"],
        # Whether one is special decides only what decoding leaves out, and a padding token becomes
        # special when it is set.
        "added_tokens": [
            {name: value for name, value in token.items() if name != "special"}
            for token in sorted(description["added_tokens"], key=lambda token: token["id"])
        ],
    }


def _without_defaults(content: Any) -> Any:
    """Without what is null or off, so an option that a later version adds, off, changes nothing."""
    if isinstance(content, dict):
        return {
            key: _without_defaults(value)
            for key, value in content.items()
            if value is not None and value is not False
        }
    return [_without_defaults(part) for part in content] if isinstance(content, list) else content
