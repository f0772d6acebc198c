"""The student: a folder, a Hub id, or a configuration from which one with fresh weights is made.

A student fits a store if ids mean the same tokens to both, if it has an output row for every id
(more rows are padding), and a context that is as long as the longest document.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoConfig

from logitstore import ModelError, SettingError, StoreError
from logitstore.plumbing import (
    LMHead,
    auto_class,
    fingerprint,
    load_model,
    model_path,
    parse_json,
)
from trainer.data.options import SEED
from trainer.data.packing import longest_document
from trainer.training.adaptation import base_of, with_adapter
from trainer.training.model_folders import refuse_no_model_yet
from trainer.training.state_files import warn
from trainer.training.tokens import folder_differences, no_files

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from logitstore import StoreSpec
    from trainer.data.store import StoreLike

__all__ = [
    "configuration_hash",
    "load_student",
    "refuse_misfits",
    "refuse_small_vocabulary",
]

_TEXT_CONFIG = "text_config"
_SPECIAL_FLOATS = ("Infinity", "-Infinity", "NaN")


def load_student(
    name: Any,
    *,
    spec: StoreSpec,
    store: StoreLike | None = None,
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> PreTrainedModel:
    """The student called `name`, in training mode, its weights in float32.

    Args:
        name: A transformers folder or a Hub id. Or the path of a transformers configuration, ending
            in .json: the student starts from fresh weights, and with the store's vocabulary where
            the file names none. Or the folder of an adapter, which comes upon the model that it
            belongs to and alone is trained. Or a loaded model, which is changed.
        spec: The spec of the store. A student that does not fit is refused: one to which ids mean
            other tokens, with fewer embeddings than the store has ids, with a shorter context than
            its documents may need, or with an output layer that is not a plain linear one.
        store: The store itself. Its tokenizer then says what ids mean where the student's is not
            the very same, and its documents how long a context must be; the spec names only a
            fingerprint and a limit.
        seed: The seed of fresh weights.
        device: The device that the student is moved to.

    Raises ModelError, which says why it cannot learn from this store; SettingError for an argument
    that is out of range.
    """
    seed = SEED.check(seed)
    loaded = hasattr(name, "get_output_embeddings") and hasattr(name, "config")
    if not isinstance(name, str | Path) and not loaded:
        raise SettingError(
            "the student must be a name or a loaded transformers model", found=type(name).__name__
        )
    if not (hasattr(spec, "tokenizer") and hasattr(spec, "text")):
        raise SettingError(
            "spec must be that of a store", found=type(spec).__name__, allowed="`store.spec`"
        )
    if loaded:
        model = name.float()
        refuse_misfits(model, Path(model.name_or_path or "model"), spec=spec, store=store)
        return _checked(model, None, spec=spec, device=device)
    name = str(name)
    refuse_no_model_yet(name)
    base, adapter = base_of(name)
    if base.endswith(".json"):
        model = _from_config(Path(base), spec=spec, seed=seed)
    else:
        folder = model_path(base)
        if folder.is_file():
            raise ModelError(
                "a .gguf file teaches and is measured, but cannot be trained",
                place=folder,
                allowed="a transformers folder, a Hub id, or a configuration file .json",
            )
        files = getattr(store, "tokenizer_files", no_files)
        differs = folder_differences(folder, spec=spec, files=files)
        if differs is not None:
            warn(
                f"{name}: the student's tokenizer is another than the store's, but ids mean the "
                f"same: {differs}"
            )
        model = load_model(folder, dtype=torch.float32)
    refuse_misfits(model, Path(name), spec=spec, store=store)
    return _checked(model, adapter, spec=spec, device=device)


def _checked(
    model: Any, adapter: Path | None, *, spec: StoreSpec, device: str | torch.device
) -> Any:
    """The model with its adapter, on its device, its logits compared with those formed here."""
    if adapter is not None:
        model = with_adapter(model, adapter, trainable=True)
    model.to(device)
    LMHead.checked(model, vocab_size=spec.tokenizer.vocab_size)
    return model.train()


def configuration_hash(name: Any) -> str:
    """The sha256 of what the configuration of a student says, however its file is laid out.

    Of an adapter it is that of both, its own and its model's.

    Args:
        name: As `load_student` takes it.

    Raises ModelError where it cannot be read.
    """
    if not isinstance(name, str | Path):
        content = {"config": _without_dtype(name.config.to_dict())}
        if hasattr(name, "peft_config"):
            content["adapter"] = {key: str(one) for key, one in name.peft_config.items()}
        return fingerprint(json.loads(json.dumps(content, default=str)))
    base, adapter = base_of(str(name))
    if adapter is not None:
        parts = [configuration_hash(base), (adapter / "adapter_config.json").read_text()]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()
    path = Path(base) if base.endswith(".json") else model_path(base) / "config.json"
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(f"cannot be read: {_in_short(error)}", place=path) from error
    with suppress(StoreError):  # older ones hold infinities, which no JSON has
        return fingerprint(parse_json(data, place=str(path)))
    return hashlib.sha256(data).hexdigest()


def _without_dtype(content: dict[str, Any]) -> dict[str, Any]:
    """A configuration but for its number types: a loaded student is trained in float32 in place."""
    return {
        key: _without_dtype(one) if isinstance(one, dict) else one
        for key, one in content.items()
        if key not in ("dtype", "torch_dtype")
    }


def _from_config(path: Path, *, spec: StoreSpec, seed: int) -> PreTrainedModel:
    content = _read_config(path)
    defaults = {
        "vocab_size": spec.tokenizer.vocab_size,
        "bos_token_id": spec.tokenizer.bos_token_id,
        "eos_token_id": spec.tokenizer.eos_token_id,
    }
    if _TEXT_CONFIG in content:  # the ids are those of the text's part, which names them
        defaults = {}
    settings = defaults | {key: value for key, value in content.items() if key != "model_type"}
    found = settings.get("vocab_size", spec.tokenizer.vocab_size)
    if not isinstance(found, int) or found < spec.tokenizer.vocab_size:
        raise ModelError(
            "vocab_size is smaller than the store's vocabulary",
            place=path,
            found=found,
            allowed=f"{spec.tokenizer.vocab_size} or more, or no vocab_size at all",
        )
    try:
        config = AutoConfig.for_model(content["model_type"], **settings)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return auto_class(config).from_config(config, dtype=torch.float32)
    except Exception as error:  # configurations check themselves, with errors of many kinds
        raise ModelError(
            f"no causal language model can be built from it: {_in_short(error)}", place=path
        ) from error


def _read_config(path: Path) -> dict[str, Any]:
    try:
        content = parse_json(path.read_bytes(), place=str(path))
    except (OSError, StoreError) as error:
        raise ModelError(
            f"cannot be read as JSON: {_in_short(error)}",
            place=path,
            allowed="a transformers configuration",
        ) from error
    if not isinstance(content, dict) or "model_type" not in content:
        raise ModelError(
            "is no transformers configuration: model_type is missing",
            place=path,
            allowed='an object such as {"model_type": "llama", "hidden_size": 256, ...}',
        )
    return _with_special_floats(content)


def _with_special_floats(value: Any) -> Any:
    """As transformers writes numbers that JSON has not: {"__float__": "Infinity"}."""
    if isinstance(value, dict):
        if value.keys() == {"__float__"} and value["__float__"] in _SPECIAL_FLOATS:
            return float(value["__float__"])
        return {key: _with_special_floats(one) for key, one in value.items()}
    return [_with_special_floats(one) for one in value] if isinstance(value, list) else value


def refuse_misfits(
    model: PreTrainedModel, place: Path, *, spec: StoreSpec, store: StoreLike | None = None
) -> None:
    """Raise ModelError where the model lacks ids of the store or cannot read its documents.

    Args:
        model: The student.
        place: How the user named it.
        spec: That of the store.
        store: The store, whose documents may all be shorter than its limit.
    """
    refuse_small_vocabulary(model, place=place, vocab_size=spec.tokenizer.vocab_size)
    _refuse_short_context(model, place=place, most=spec.text.max_length, store=store)


def refuse_small_vocabulary(
    model: PreTrainedModel, *, vocab_size: int, place: Path | None = None
) -> None:
    """Raise ModelError where the model has fewer embeddings than `vocab_size`.

    Args:
        model: The student; its weights may be sharded over processes.
        vocab_size: The number of ids of the store's vocabulary.
        place: How the user named the model; None for an object.
    """
    for what, embeddings in (
        ("input", model.get_input_embeddings()),
        ("output", model.get_output_embeddings()),
    ):
        # ZeRO leaves an empty weight with its shape in an attribute.
        weight = None if embeddings is None else embeddings.weight
        rows = 0 if weight is None else getattr(weight, "ds_shape", weight.shape)[0]
        if rows < vocab_size:
            raise ModelError(
                f"the student has fewer {what} embeddings than the store's vocabulary has ids",
                place=place,
                found=rows,
                allowed=f"{vocab_size} or more",
            )


def _refuse_short_context(
    model: PreTrainedModel, *, place: Path, most: int, store: StoreLike | None
) -> None:
    """`most` is the store's limit; where it is too long the lengths of its documents are read."""
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if context is None or context >= most:
        return
    longest = most if store is None else longest_document(store)
    if context < longest:
        raise ModelError(
            "the student's context is shorter than the store's longest document"
            if store is not None
            else "the student's context is shorter than the store's documents may be",
            place=place,
            found=f"max_position_embeddings {context}",
            allowed=f"{longest} or more",
            remedy="Dump with a smaller --max-length, or take another student",
        )


def _in_short(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
