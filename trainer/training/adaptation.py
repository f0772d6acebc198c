"""What of a student is trained: all of it, all but what is frozen, or a LoRA adapter.

LoRA (arXiv 2106.09685) is PEFT's. Its result is the student with the adapter merged, which loads
like any model, or the adapter alone, which names the student that it belongs to.

Shapes: none; parameters are counted, not read.
"""

from __future__ import annotations

import importlib.util
import re
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from logitstore import ModelError, SettingError, StoreError
from logitstore.plumbing import parse_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from transformers import PreTrainedModel

__all__ = [
    "Lora",
    "adapted",
    "base_of",
    "freeze",
    "refuse_no_peft",
    "with_adapter",
    "without_adapter",
]

_CONFIG = "adapter_config.json"
_ALL = "all-linear"
_KEYS = ("r", "alpha", "dropout", "targets")


@dataclass(frozen=True, kw_only=True, slots=True)
class Lora:
    """The shape of an adapter."""

    r: int
    alpha: float
    dropout: float = 0.0
    targets: str | tuple[str, ...] = _ALL  # the ends of the names of modules

    @staticmethod
    def parse(text: str) -> Lora:
        """The adapter that "r=16,alpha=32,dropout=0.05,targets=q_proj+v_proj" describes.

        Args:
            text: `r` must be given; alpha is 2 r without a word of it, and all linear layers but
                the output layer are adapted.

        Raises SettingError for anything else.
        """
        parts = dict(_pairs(text))
        unknown = parts.keys() - {*_KEYS}
        if unknown or "r" not in parts:
            raise _wrong(text, f"the key {min(unknown)}" if unknown else "no r")
        try:
            r = int(parts["r"])
            alpha = float(parts.get("alpha", 2 * r))
            dropout = float(parts.get("dropout", 0))
        except ValueError as error:
            raise _wrong(text, "a value that is no number") from error
        if r < 1 or not alpha > 0 or not 0 <= dropout < 1:
            raise _wrong(text, "r below 1, alpha of 0 or less, or dropout outside of 0 to 1")
        named = parts.get("targets", _ALL)
        targets = named if named == _ALL else tuple(one for one in named.split("+") if one)
        if not targets:
            raise _wrong(text, "no targets")
        return Lora(r=r, alpha=alpha, dropout=dropout, targets=targets)


def _pairs(text: str) -> list[tuple[str, str]]:
    found = [tuple(part.strip() for part in one.partition("=")[::2]) for one in text.split(",")]
    if any(not key or not value for key, value in found):
        raise _wrong(text, "a part that is not KEY=VALUE")
    keys = [key for key, _ in found]
    if len({*keys}) < len(keys):
        raise _wrong(text, "a key that is given twice")
    return [(key, value) for key, value in found]


def _wrong(text: str, found: str) -> SettingError:
    return SettingError(
        "--lora describes no adapter",
        found=f"{found} in {text!r}",
        allowed="r=16[,alpha=32][,dropout=0.05][,targets=q_proj+v_proj]",
    )


def refuse_no_peft() -> None:
    """Raise SettingError where PEFT is not installed."""
    if importlib.util.find_spec("peft") is None:
        raise SettingError(
            "adapters need the package peft, which is not installed",
            remedy="pip install 'logitstore[lora]'",
        )


def adapted(student: PreTrainedModel, lora: Lora, *, name: str, seed: int) -> Any:
    """The student with a new adapter, which alone is trained.

    Args:
        student: It is changed: its linear layers get an adapter beside them.
        lora: The adapter's shape.
        name: How the user named the student.
        seed: Of the adapter's fresh weights.

    Raises ModelError where the names of targets fit no layer of the student; SettingError where the
    output layer is among them, whose logits the loss forms by itself.
    """
    import torch
    from peft import LoraConfig, TaskType, get_peft_model

    if not isinstance(lora.targets, str):
        _refuse_odd_targets(student, lora.targets, name=name)
    config = LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.targets if isinstance(lora.targets, str) else list(lora.targets),
    )
    try:
        with _quiet_peft(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return get_peft_model(student, config)
    except ValueError as error:
        raise ModelError(
            f"the student cannot be adapted: {' '.join(str(error).split())[:300]}", place=name
        ) from error


@contextmanager
def _quiet_peft() -> Iterator[None]:
    """It reads names of transformers that are about to go."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield


def _refuse_odd_targets(student: PreTrainedModel, targets: Sequence[str], *, name: str) -> None:
    head = student.get_output_embeddings()
    modules = dict(student.named_modules())
    for target in targets:
        fitting = [key for key in modules if key == target or key.endswith(f".{target}")]
        if any(modules[key] is head for key in fitting):
            raise SettingError(
                "an adapter on the output layer is not served: the loss forms the logits from its "
                "plain weight",
                place="--lora",
                found=target,
                remedy="Leave it out of targets: by default all other linear layers are adapted",
            )
        if not fitting:
            ends = sorted({key.rpartition(".")[2] for key in modules if _is_linear(modules[key])})
            raise ModelError(
                "the student has no layer of that name",
                place=f"{name}: --lora targets",
                found=target,
                allowed=", ".join(ends[:12]),
            )


def _is_linear(module: Any) -> bool:
    weight = getattr(module, "weight", None)
    return weight is not None and weight.ndim == 2 and hasattr(module, "in_features")


def base_of(name: str) -> tuple[str, Path | None]:
    """The model that a student is or adapts, and the folder of its adapter; None without one.

    Args:
        name: How the user named the student.

    Raises ModelError for an adapter that does not say which model it belongs to.
    """
    folder = Path(name)
    place = folder / _CONFIG
    if not place.is_file() or (folder / "config.json").is_file():
        return name, None
    try:
        content = parse_json(place.read_bytes(), place=str(place))
    except (OSError, StoreError) as error:
        raise ModelError(f"the adapter cannot be read: {error}", place=place) from error
    base = content.get("base_model_name_or_path") if isinstance(content, dict) else None
    if not isinstance(base, str) or not base:
        raise ModelError("the adapter does not say which model it belongs to", place=place)
    refuse_no_peft()
    return base, folder


def with_adapter(student: PreTrainedModel, folder: Path, *, trainable: bool) -> Any:
    """The student with the adapter of a folder.

    Args:
        student: The model that the adapter belongs to.
        folder: Holds the adapter as PEFT saves it.
        trainable: Whether it is trained on; else it is merged into the student.

    Raises ModelError where it cannot be read or does not fit.
    """
    from peft import PeftModel

    refuse_no_peft()
    try:
        with _quiet_peft():
            model = PeftModel.from_pretrained(student, str(folder), is_trainable=trainable)
    except (ValueError, RuntimeError, KeyError, OSError) as error:
        raise ModelError(
            f"the adapter does not load: {' '.join(str(error).split())[:300]}", place=folder
        ) from error
    return model if trainable else without_adapter(model)


def without_adapter(model: Any) -> Any:
    """The model with its adapter merged into it; as it is where it has none.

    Args:
        model: It is changed.
    """
    with _quiet_peft():
        return model.merge_and_unload() if hasattr(model, "merge_and_unload") else model


def freeze(student: Any, patterns: Sequence[str], *, name: str) -> int:
    """Let parameters as they are whose names match; gives how many numbers are trained then.

    Args:
        student: It is changed.
        patterns: As shells have them: `model.embed_tokens.*`, `*.layers.[0-3].*`.
        name: How the user named the student.

    Raises ModelError for a pattern that matches nothing, or where nothing is left to train.
    """
    parameters = dict(student.named_parameters())
    for pattern in patterns:
        found = [one for one in parameters if fnmatchcase(one, pattern)]
        if not found:
            near = sorted({re.sub(r"\.\d+\.", ".0.", one) for one in parameters})
            raise ModelError(
                "no parameter of the student matches",
                place=f"{name}: --freeze",
                found=pattern,
                allowed=", ".join(near[:8]),
            )
        for one in found:
            parameters[one].requires_grad_(False)
    trained = sum(one.numel() for one in parameters.values() if one.requires_grad)
    if not trained:
        raise ModelError("--freeze leaves nothing to train", place=name, found=", ".join(patterns))
    return trained
