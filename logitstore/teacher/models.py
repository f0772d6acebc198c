"""Causal language models by name: a transformers folder, a GGUF file, or a Hub id.

Weights are read as numbers only, from safetensors, GGUF, or .bin files without any pickled code;
code that a model brings along is never run.
"""

from __future__ import annotations

import pickle
import re
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from logitstore.corpus.gguf import gguf_file, refuse_lost_settings, refuse_unreadable_gguf
from logitstore.errors import ModelError
from logitstore.teacher.weights import check_weight_files, reads_safetensors

if TYPE_CHECKING:
    from collections.abc import Iterable

    import torch

__all__ = ["auto_class", "load_model", "model_config", "model_path"]

_REMEDY = "Name a folder that transformers' save_pretrained wrote, a .gguf file, or a Hub id"
_FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]
_OLDER_FILES = ["pytorch_model*.bin"]
# What loading a damaged or foreign folder has been seen to raise.
_LOADING = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    ImportError,
    RuntimeError,
    SafetensorError,
    EOFError,
)
# A weight of one of the layers in a list of them.
_LAYER = re.compile(r"(?P<layer>(?P<list>[^0-9]*\.)[0-9]+)\.(?P<weight>.+)")
# While it loads, transformers replaces functions of its own and of torch in the whole process. Two
# threads that load at once would leave them so: later models came out untied or with no weights.
_ONE_AT_A_TIME = Lock()


def model_path(name: str) -> Path:
    """The folder of the model `name`, fetched from the Hub where it is a Hub id; or its GGUF file.

    name: the path of a folder or of a .gguf file, or a Hub id.

    A folder with a single GGUF file and no other weights stands for that file. Raises ModelError
    where there is no such model.
    """
    try:
        Path(name).exists()
    except OSError as error:  # a name too long, or no permission to look
        raise ModelError(f"no such model folder: {error.strerror}", place=name) from error
    file = gguf_file(name)
    if file is not None:
        return file
    if Path(name).is_dir():
        if not (Path(name) / "config.json").is_file():
            raise ModelError("the folder holds no config.json", place=name, remedy=_REMEDY)
        return Path(name)
    if Path(name).exists() or name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise ModelError("no such model folder", place=name, remedy=_REMEDY)
    return _from_hub(name)


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(name, allow_patterns=_FILES))
        if not any(folder.glob("*.safetensors")):
            snapshot_download(name, allow_patterns=_OLDER_FILES)
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ModelError(
            f"no such folder, and the Hub gave no model of that name: {_in_short(error)}",
            place=name,
            remedy=_REMEDY,
        ) from error
    return folder


def load_model(path: Path, *, dtype: torch.dtype | str) -> Any:
    """The transformers causal language model in `path`, in evaluation mode, on the CPU.

    path: a folder with config.json and weights, or a GGUF file.
    dtype: a torch dtype, or "auto".

    `dtype` may be "auto": that of the checkpoint. Raises ModelError where there is no model, where
    it is damaged, where the checkpoint lacks weights, or where transformers would read less of a
    GGUF file than it says.
    """
    source = _Source.of(path)
    try:
        with _ONE_AT_A_TIME:
            config = source.config()
            model, report = auto_class(config).from_pretrained(
                source.folder,
                dtype=dtype,
                output_loading_info=True,
                trust_remote_code=False,
                **source.weights,
            )
    except pickle.UnpicklingError as error:
        raise ModelError(
            "a .bin file holds more than tensors: objects that bring code, which is never run",
            place=path,
            remedy="Have its weights saved as safetensors",
        ) from error
    except _LOADING as error:
        raise ModelError(
            f"no causal language model can be loaded: {_in_short(error)}",
            place=path,
            remedy=_REMEDY,
        ) from error
    if path.is_file():
        refuse_lost_settings(path, config)
    # transformers fills what a checkpoint lacks with random numbers and only logs it.
    if report["missing_keys"]:
        raise ModelError(
            "the checkpoint lacks weights",
            place=path,
            found=", ".join(sorted(map(str, report["missing_keys"]))[:4]),
        )
    if not path.is_file() and not getattr(config, "num_nextn_predict_layers", None):
        _refuse_unread_layers(model, report["unexpected_keys"], place=path)
    return model.eval()


def _refuse_unread_layers(model: Any, unread: Iterable[str], *, place: Path) -> None:
    """Raise ModelError for weights of layers that the configuration does not count.

    transformers leaves them out and only logs it. Other weights that it does not read, as of a
    head for another purpose, are no layers of the model.
    """
    own = [found for found in map(_LAYER.fullmatch, model.state_dict()) if found]
    counted = {found["layer"] for found in own}
    alike = {(found["list"], found["weight"]) for found in own}
    layers = sorted(
        found[0]
        for found in map(_LAYER.fullmatch, unread)
        if found and found["layer"] not in counted and (found["list"], found["weight"]) in alike
    )
    if layers:
        raise ModelError(
            "the checkpoint has layers that its configuration does not count, so they would be "
            "left out",
            place=place,
            found=", ".join(layers[:4]),
            remedy="Mend config.json, or save the model again as it is meant to be",
        )


@dataclass(frozen=True, slots=True)
class _Source:
    """How transformers is told to read a model."""

    folder: Path
    weights: dict[str, Any]

    @staticmethod
    def of(path: Path) -> _Source:
        """That of a folder or of a GGUF file. Raises ModelError where it lacks a part."""
        if path.is_file():
            refuse_unreadable_gguf(path)
            return _Source(path.parent, {"gguf_file": path.name})
        if not (path / "config.json").is_file():
            raise ModelError("the folder holds no config.json", place=path, remedy=_REMEDY)
        check_weight_files(path)
        return _Source(path, {"use_safetensors": reads_safetensors(path), "weights_only": True})

    def config(self) -> Any:
        """The configuration, as transformers reads it."""
        from transformers import AutoConfig

        gguf = {key: value for key, value in self.weights.items() if key == "gguf_file"}
        return AutoConfig.from_pretrained(self.folder, trust_remote_code=False, **gguf)


def model_config(path: Path) -> Any:
    """The configuration of a model.

    path: a folder or a GGUF file.

    Raises whatever transformers does, and ModelError for a file that lacks a part.
    """
    return _Source.of(path).config()


def auto_class(config: Any) -> Any:
    """The class of transformers by which a model of that configuration is loaded.

    config: of transformers.

    A language model, or one that reads images or sounds too, of which the text's part is used.
    """
    from transformers import AutoModelForCausalLM, AutoModelForMultimodalLM

    several = {"text_config", "thinker_config"} & set(config.sub_configs)
    if type(config) in AutoModelForMultimodalLM._model_mapping and (
        several or type(config) not in AutoModelForCausalLM._model_mapping
    ):
        return AutoModelForMultimodalLM
    return AutoModelForCausalLM


def _in_short(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
