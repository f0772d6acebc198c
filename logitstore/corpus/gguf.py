"""Models and tokenizers in GGUF files: found, and what transformers would lose of them refused.

transformers makes a configuration and a tokenizer out of what such a file says of itself, and
leaves out in silence what it has no name for. So what changes a model's numbers or a text's ids is
looked up in both.
"""

from __future__ import annotations

import math
import re
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from logitstore.errors import ModelError, TokenizerError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "gguf_file",
    "refuse_lost_settings",
    "refuse_lost_splitting",
    "refuse_other_tokens",
    "refuse_unreadable_gguf",
]

_WEIGHTS = ("*.safetensors", "*.bin")
# What a file says, under its architecture's name, and what transformers calls it.
_SETTINGS = {
    "attention.head_count": ("num_attention_heads", "n_head", "num_heads"),
    "attention.layer_norm_epsilon": ("layer_norm_eps", "layer_norm_epsilon", "norm_epsilon"),
    "attention.layer_norm_rms_epsilon": ("rms_norm_eps", "norm_eps", "layer_norm_epsilon"),
    "attention.scale": ("attention_multiplier",),
    "attention.sliding_window": ("sliding_window",),
    "attn_logit_softcapping": ("attn_logit_softcapping",),
    "embedding_scale": ("embedding_multiplier",),
    "expert_used_count": ("num_experts_per_tok",),
    "final_logit_softcapping": ("final_logit_softcapping",),
    "logit_scale": ("logit_scale", "logits_scaling"),
    "residual_scale": ("residual_multiplier",),
    "rope.freq_base": ("rope_theta",),
    "rope.scaling.type": ("rope_type",),
}
# Frequencies of a RoPE that is not the plain one: Llama 3.1 and later, LongRoPE.
_FREQUENCIES = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")
_BLOCK = re.compile(r"blk\.(\d+)\.")
_PLAIN_SPLITTING = ("gpt-2", "gpt2")
_REMEDY = "Give the folder of the model from which the file was made"


def gguf_file(name: str | Path) -> Path | None:
    """The GGUF file that `name` stands for: its path, or a folder of one and no other weights.

    name: a path, or anything.

    Raises ModelError for a folder with several of them.
    """
    path = Path(name)
    try:
        if path.suffix == ".gguf":
            return path if path.is_file() else None
        if not path.is_dir() or any(next(path.glob(one), None) for one in _WEIGHTS):
            return None
    except OSError:  # a name too long, or no permission to look
        return None
    files = sorted(path.glob("*.gguf"))
    if len(files) > 1:
        raise ModelError(
            "the folder holds several .gguf files",
            place=path,
            found=", ".join(file.name for file in files[:4]),
            remedy="Name one of them",
        )
    return files[0] if files else None


def refuse_unreadable_gguf(path: Path) -> None:
    """Raise ModelError where a GGUF file cannot be read as a whole model.

    path: that of the file.
    """
    if find_spec("gguf") is None:
        raise ModelError(
            "a .gguf file needs the package gguf",
            place=path,
            remedy="pip install 'logitstore[gguf]'",
        )
    reader = _reader(path)
    said = reader.fields
    parts = said["split.count"].contents() if "split.count" in said else 1
    if parts > 1:
        raise ModelError(
            "the file is one of several parts of a model, which transformers cannot read",
            place=path,
            found=f"{parts} parts",
            remedy="Join them with gguf-split --merge",
        )
    _refuse_other_layers(reader, path)


def _refuse_other_layers(reader: Any, path: Path) -> None:
    """Raise ModelError where a file has more or fewer layers than it says.

    transformers would leave out those behind the number, or build as many as it says.
    """
    kind = reader.fields.get("general.architecture")
    said = None if kind is None else reader.fields.get(f"{kind.contents()}.block_count")
    if said is None or f"{kind.contents()}.nextn_predict_layers" in reader.fields:
        return
    found = {match[1] for match in map(_BLOCK.match, (one.name for one in reader.tensors)) if match}
    if len(found) != said.contents():
        raise ModelError(
            f"the file has tensors of another number of layers than {said.name} says",
            place=path,
            found=f"{len(found)} layers",
            allowed=said.contents(),
        )


def refuse_lost_settings(path: Path, config: Any) -> None:
    """Raise ModelError where a file says what the configuration made from it does not.

    path: that of the file.
    config: of transformers.
    """
    reader = _reader(path)
    kind = reader.fields["general.architecture"].contents()
    said = {
        name.removeprefix(f"{kind}."): field.contents()
        for name, field in reader.fields.items()
        if name.startswith(f"{kind}.") and name.removeprefix(f"{kind}.") in _SETTINGS
    }
    context = reader.fields.get(f"{kind}.context_length")
    window = said.get("attention.sliding_window")
    if context is not None and window is not None and window >= context.contents():
        del said["attention.sliding_window"]  # no document is longer
    known = _leaves(config.to_dict())
    for name, value in said.items():
        values = [one for key in _SETTINGS[name] for one in known.get(key, [])]
        if value != "none" and not any(_same(value, one) for one in values):
            raise ModelError(
                f"transformers does not take over {kind}.{name} from the file",
                place=path,
                found=values[0] if values else "nothing",
                allowed=value,
                remedy=_REMEDY,
            )
    tensors = {tensor.name for tensor in reader.tensors}.intersection(_FREQUENCIES)
    if tensors and set(known.get("rope_type", ["default"])) <= {"default"}:
        raise ModelError(
            "transformers does not take over the file's scaled rotary frequencies",
            place=path,
            found=", ".join(sorted(tensors)),
            remedy=_REMEDY,
        )


def refuse_lost_splitting(path: Path) -> None:
    """Raise ModelError where transformers would split texts otherwise than the file's tokenizer.

    path: that of the file.
    """
    said = _reader(path).fields
    if "tokenizer.ggml.model" not in said or said["tokenizer.ggml.model"].contents() != "gpt2":
        return
    name = said["tokenizer.ggml.pre"].contents() if "tokenizer.ggml.pre" in said else "none"
    if name not in (*_PLAIN_SPLITTING, *_known_splittings()):
        raise ModelError(
            "transformers cannot split texts as the file's tokenizer does",
            place=path,
            found=f"tokenizer.ggml.pre {name}",
            remedy="Give the model's own tokenizer by --tokenizer",
        )


def refuse_other_tokens(path: Path, vocabulary: Mapping[str, int]) -> None:
    """Raise TokenizerError where an id stands for another token in a GGUF file.

    That is enough where ids are read and no text: how texts are split does not matter then.

    path: that of the file.
    vocabulary: the ids of the tokens, by which the other side means them.
    """
    field = _reader(path).fields.get("tokenizer.ggml.tokens")
    if field is None:
        raise TokenizerError("the file names no tokens, so ids may mean others", place=path)
    tokens = field.contents()
    for token, number in sorted(vocabulary.items(), key=lambda one: one[1]):
        found = tokens[number] if number < len(tokens) else None
        # What writes such files spells the spaces of added tokens out.
        if found is None or found.replace("▁", " ") != token.replace("▁", " "):
            raise TokenizerError(
                f"id {number} of the file is another token",
                place=path,
                found="none" if found is None else found,
                allowed=token,
                remedy="Measure a file that was made from the teacher, or with its tokenizer",
            )


def _known_splittings() -> tuple[str, ...]:
    try:
        from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS
    except ImportError:  # of another version
        return ()
    return tuple(GGUF_PRE_TOKENIZER_SPLITS)


def _reader(path: Path) -> Any:
    from gguf import GGUFReader

    try:
        return GGUFReader(path)
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise ModelError(
            f"the file cannot be read as GGUF: {' '.join(str(error).split())[:200]}", place=path
        ) from error


def _leaves(content: Any, name: str = "") -> dict[str, list[Any]]:
    """The values of a configuration by their names, however deep they lie."""
    found: dict[str, list[Any]] = {}
    parts = content.items() if isinstance(content, dict) else [(name, one) for one in content]
    for key, value in parts:
        if isinstance(value, dict | list | tuple):
            for inner, values in _leaves(value, key).items():
                found.setdefault(inner, []).extend(values)
        else:
            found.setdefault(key, []).append(value)
    return found


def _same(said: object, known: object) -> bool:
    if isinstance(said, int | float) and isinstance(known, int | float):
        return math.isclose(said, known, rel_tol=1e-5)  # the file holds float32
    return said == known
