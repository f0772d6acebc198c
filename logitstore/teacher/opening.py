"""A teacher by what the user gives for it: a name, a loaded model, or an object of the Protocol."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from logitstore.corpus.template import template_source
from logitstore.corpus.tokenizer import load_tokenizer
from logitstore.errors import ModelError, SettingError
from logitstore.format.states import StatesSpec
from logitstore.teacher.base import CheckedTeacher, check_protocol
from logitstore.teacher.devices import choose_device, choose_dtype
from logitstore.teacher.layers import layer_count
from logitstore.teacher.models import model_config, model_path
from logitstore.teacher.transformers import TransformersTeacher
from logitstore.teacher.weights import weights_fingerprint

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from logitstore.format.spec import TeacherSpec
    from logitstore.targets.documents import Document
    from logitstore.teacher.base import Teacher

__all__ = [
    "UnloadedTeacher",
    "is_name",
    "is_teacher",
    "logit_columns",
    "model_context",
    "open_teacher",
    "open_tokenizer",
    "state_width",
    "states_by_config",
    "teacher_name",
    "with_chat_template",
]


def is_name(teacher: object) -> bool:
    """Whether `teacher` names a model, and is none itself.

    teacher: what was given as one.
    """
    return isinstance(teacher, str | Path)


def teacher_name(teacher: object) -> str | None:
    """How the user named the teacher; None where it is an object.

    teacher: what was given as one.
    """
    return str(teacher) if is_name(teacher) else None


def open_tokenizer(tokenizer: object | None, *, teacher: object) -> Any:
    """The tokenizer that the user gave, by name or loaded, or else that of a named teacher.

    tokenizer: a folder, a Hub id, a transformers tokenizer, or None.
    teacher: what was given as the teacher.

    Raises ModelError where it cannot be loaded, SettingError where there is none to be had.
    """
    if tokenizer is None:
        if not is_name(teacher):
            raise SettingError(
                "a teacher that is no name needs a tokenizer", remedy="Give it as tokenizer="
            )
        return load_tokenizer(str(model_path(str(teacher))))
    if is_name(tokenizer):
        return load_tokenizer(str(tokenizer))
    from transformers import PreTrainedTokenizerBase

    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise SettingError("tokenizer is no transformers tokenizer", found=type(tokenizer).__name__)
    return tokenizer


def with_chat_template(tokenizer: Any, template: object | None) -> Any:
    """The tokenizer with the chat template of a file; as it is without one.

    tokenizer: a transformers tokenizer, which stays as it is.
    template: the file's path, or None.

    Raises ModelError where the file cannot be read or holds no template.
    """
    if template is None:
        return tokenizer
    try:
        text = Path(str(template)).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ModelError(
            f"the chat template cannot be read: {getattr(error, 'strerror', None) or error}",
            place=template,
        ) from error
    changed = copy.deepcopy(tokenizer)
    changed.chat_template = text
    template_source(changed, tools=False)
    return changed


def logit_columns(source: Any) -> int | None:
    """The ids that the output layer of a teacher has columns for; None where it does not say.

    source: a model's name, whose configuration is read, or a loaded model.

    Raises ModelError where there is no such model.
    """
    if isinstance(source, nn.Module):
        find: Any = getattr(source, "get_output_embeddings", None)
        head = find() if find is not None else None
        return None if head is None else len(head.weight)
    if not is_name(source):
        return None
    config = _config_of(source)
    if config is None:
        return None
    size = getattr(config.get_text_config(), "vocab_size", None)
    return size if isinstance(size, int) and size > 0 else None


def state_width(source: Any) -> int | None:
    """The numbers of a hidden state of a teacher, by its configuration; None where it is not said.

    source: a model's name, or a loaded model.

    Raises ModelError where there is no such model.
    """
    config: Any = getattr(source, "config", None) if isinstance(source, nn.Module) else None
    if is_name(source):
        config = _config_of(source)
    size = None if config is None else getattr(config.get_text_config(), "hidden_size", None)
    return size if isinstance(size, int) and size > 0 else None


def states_by_config(source: Any) -> StatesSpec | None:
    """Width and depth of a teacher by its configuration; None where it does not say.

    source: a model's name, or a loaded model.

    Of float32, and of no layer yet. Raises ModelError where there is no such model.
    """
    config: Any = getattr(source, "config", None) if isinstance(source, nn.Module) else None
    if is_name(source):
        config = _config_of(source)
    width, depth = state_width(source), None if config is None else layer_count(config)
    if width is None or depth is None:
        return None
    return StatesSpec(width=width, dtype="float32", head=None, depth=depth)


def model_context(source: Any) -> int | None:
    """The most tokens that a model reads, by its configuration; None where it does not say.

    source: a model's name, or a loaded model.

    Raises ModelError where there is no such model.
    """
    config: Any = getattr(source, "config", None) if isinstance(source, nn.Module) else None
    if is_name(source):
        config = _config_of(source)
    if config is None:
        return None
    context = getattr(config.get_text_config(), "max_position_embeddings", None)
    return context if isinstance(context, int) and context > 0 else None


@dataclass(frozen=True, slots=True)
class UnloadedTeacher:
    """A teacher whose context is known and whose weights are not read."""

    context: int | None
    known: TeacherSpec | None = None

    @staticmethod
    def of(source: Any) -> UnloadedTeacher:
        """That of a name, of a loaded model, or of a `Teacher`.

        source: what was given as the teacher.
        """
        if is_name(source) or isinstance(source, nn.Module):
            return UnloadedTeacher(model_context(source))
        context = getattr(source, "context", None)
        # What else it may be is told when the teacher is opened.
        return UnloadedTeacher(context if isinstance(context, int) and context > 0 else None)

    @property
    def spec(self) -> TeacherSpec:
        """As it is known. Raises ModelError where nobody knows it yet."""
        if self.known is None:
            raise ModelError("the teacher is not loaded")
        return self.known

    def logits(self, batch: Sequence[Document]) -> Iterator[tuple[Tensor, Tensor]]:
        """It gives none."""
        raise ModelError("the teacher is not loaded", found=f"{len(batch)} documents")


def _config_of(name: object) -> Any:
    """The configuration of a named model; None where it cannot be read."""
    path = model_path(str(name))
    try:
        return model_config(path)
    except Exception:  # what is wrong with the model is told when it is loaded
        return None


def is_teacher(source: object, spec: TeacherSpec, *, device: str, dtype: str) -> bool:
    """Whether a named teacher would be that of `spec`; False also where its files do not tell.

    source: what was given as the teacher.
    spec: of the teacher of a store.
    device: the option of that name.
    dtype: the option of that name.

    Its weights are hashed, not loaded. Raises SettingError for a device that is not there.
    """
    if not is_name(source):
        return False
    place = choose_device(device)
    found = str(choose_dtype(dtype, device=place)).removeprefix("torch.")
    if (place.split(":")[0], found) != (spec.device, spec.dtype):
        return False
    return weights_fingerprint(model_path(str(source))) == spec.fingerprint


def open_teacher(source: Any, *, vocab_size: int, device: str, dtype: str) -> Teacher:
    """The teacher that `source` names or is, of the `vocab_size` ids of its tokenizer.

    source: a folder, a .gguf file, a Hub id, a loaded model, or a `Teacher`.
    vocab_size: V, of the tokenizer.
    device: the option of that name.
    dtype: the option of that name.

    A loaded model stays on its device and in its number type. Raises ModelError for what cannot be
    a teacher, SettingError for a device that is not there.
    """
    if is_name(source):
        return TransformersTeacher.load(
            str(source), vocab_size=vocab_size, device=device, dtype=dtype
        )
    for flag, value in (("--device", device), ("--dtype", dtype)):
        if value != "auto":
            raise SettingError(
                f"{flag} means nothing to a teacher that is loaded already",
                found=value,
                remedy="Leave it out, and move the model before",
            )
    if isinstance(source, nn.Module) and hasattr(source, "config"):
        return TransformersTeacher.of(source, vocab_size=vocab_size)
    if isinstance(source, TransformersTeacher):
        return source
    check_protocol(source)
    return CheckedTeacher(source, vocab_size=vocab_size)
