"""Causal language models by name: a transformers folder, or what the Hub has under an id.

Only safetensors and configuration are read; code that a model brings along is never run.
"""

from __future__ import annotations

from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from logitstore.errors import ModelError

if TYPE_CHECKING:
    import torch

__all__ = ["auto_class", "load_model", "model_folder"]

_REMEDY = "Name a folder that transformers' save_pretrained wrote, or a Hub id"
_FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]
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
)
# While it loads, transformers replaces functions of its own and of torch in the whole process. Two
# threads that load at once would leave them so: later models came out untied or with no weights.
_ONE_AT_A_TIME = Lock()


def model_folder(name: str) -> Path:
    """The folder of the model `name`, fetched from the Hub where it is no folder.

    name: a folder's path or a Hub id. Raises ModelError where there is no such model.
    """
    try:
        Path(name).exists()
    except OSError as error:  # a name too long, or no permission to look
        raise ModelError(f"no such model folder: {error.strerror}", place=name) from error
    if Path(name).is_dir():
        if not (Path(name) / "config.json").is_file():
            raise ModelError("the folder holds no config.json", place=name, remedy=_REMEDY)
        return Path(name)
    if Path(name).exists() or name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise ModelError("no such model folder", place=name, remedy=_REMEDY)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=_FILES))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ModelError(
            f"no such folder, and the Hub gave no model of that name: {_in_short(error)}",
            place=name,
            remedy=_REMEDY,
        ) from error


def load_model(folder: Path, *, dtype: torch.dtype | str) -> Any:
    """The transformers causal language model in `folder`, in evaluation mode, on the CPU.

    folder: with config.json and safetensors.
    dtype: a torch dtype, or "auto".

    `dtype` may be "auto": that of the checkpoint. Raises ModelError where there is no model, where
    it is damaged, or where the checkpoint lacks weights.
    """
    from transformers import AutoConfig

    if not (folder / "config.json").is_file():
        raise ModelError("the folder holds no config.json", place=folder, remedy=_REMEDY)
    try:
        with _ONE_AT_A_TIME:
            config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
            model, report = auto_class(config).from_pretrained(
                folder,
                dtype=dtype,
                output_loading_info=True,
                trust_remote_code=False,
                use_safetensors=True,
            )
    except _LOADING as error:
        raise ModelError(
            f"no causal language model can be loaded: {_in_short(error)}",
            place=folder,
            remedy=_REMEDY,
        ) from error
    # transformers fills what a checkpoint lacks with random numbers and only logs it.
    if report["missing_keys"]:
        raise ModelError(
            "the checkpoint lacks weights",
            place=folder,
            found=", ".join(sorted(map(str, report["missing_keys"]))[:4]),
        )
    return model.eval()


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
