"""`make_student`: a folder with a student that starts as its teacher without some layers.

The folder is written beside the place where it is to be, loaded again, compared with the teacher,
and only then given its name.
"""

from __future__ import annotations

import secrets
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from logitstore import ModelError
from logitstore.plumbing import (
    LocalStorage,
    is_tokenizer_name,
    load_model,
    model_config,
    model_path,
    options_of,
    takes,
    tell_stage,
)
from trainer.pruning.agreement import refuse_other_model, same_tensors
from trainer.pruning.configuration import Kept, kept_configuration, layer_count
from trainer.pruning.cutting import build_student
from trainer.pruning.narrow import build_narrow, choose_cut, neuron_groups, refuse_bare_norms
from trainer.pruning.narrow_agreement import refuse_other_narrow
from trainer.pruning.options import LayerChoice, StudentOptions
from trainer.pruning.places import refuse_bad_teacher, refuse_used
from trainer.pruning.sizes import narrowing
from trainer.training.run_folder import explain_failed_write, refuse_unwritable
from trainer.training.run_result import share_weights

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from transformers import PreTrainedModel

    from trainer.pruning.sizes import Narrowing

__all__ = ["make_student"]

_GENERATION = "generation_config.json"
# Files of models that read more than text; the student is used for text alone.
_PROCESSORS = (
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
)
_ROOM = "Make room, or name another folder (--out)"


@takes(options_of(StudentOptions))
def make_student(**values: Any) -> dict[str, Any]:
    """Make a student of some of its teacher's layers; returns what was taken, and sizes.

    The layers are copied with their weights, as are the embeddings, the last norm and the output
    layer, so that the student starts far better than with fresh weights. Beside them lie the
    teacher's tokenizer, chat template and generation settings. The student is loaded again and
    compared with the teacher before its folder is there: every tensor bit by bit, and what it
    computes with the teacher whose other layers are passed over.

    Raises SettingError for layers that the teacher does not have, StoreError for a folder that
    holds files, StorageError for a place that cannot be written, and ModelError for a teacher that
    cannot be loaded or of which no such student can be made, as where a layer would be of another
    kind under its new number.
    """
    options = StudentOptions(**values)
    refuse_used(options.out)
    refuse_unwritable(options.out)
    refuse_bad_teacher(options.teacher)
    folder = model_path(str(options.teacher))
    refuse_bad_teacher(folder)
    config = _configuration(folder)
    count = layer_count(config)
    every = tuple(range(count))
    layers = every if options.layers is None else LayerChoice.of(options.layers).layers(count)
    kept = Kept(layers, count)
    smaller = kept_configuration(config, kept, place=folder)
    narrow = _narrowing(smaller, options, folder)
    tell_stage(options.on_progress, f"loading {folder.name}")
    dtype = options.save_dtype
    teacher = load_model(folder, dtype=dtype if dtype == "auto" else getattr(torch, dtype))
    whole = _sizes(teacher)
    with _new_folder(options.out) as new:
        if narrow is None:
            student, difference = _without_layers(teacher, smaller, kept, new, folder, options)
            found: dict[str, Any] = {}
        else:
            if options.layers is not None:
                teacher, _ = _without_layers(teacher, smaller, kept, new, folder, options)
            student, difference, found = _narrower(teacher, narrow, new, folder, options)
    return {
        "out": str(options.out),
        "teacher": str(options.teacher),
        "layers": list(kept.layers),
        "teacher_layers": count,
        "difference": difference,
        **found,
        "dtype": str(student.dtype).removeprefix("torch."),
        **_sizes(student),
        **{f"teacher_{name}": size for name, size in whole.items()},
    }


def _narrowing(config: Any, options: StudentOptions, folder: Path) -> Narrowing | None:
    """What is cut besides layers; checked before weights are read."""
    if options.width is None and options.intermediate is None:
        return None
    narrow = narrowing(config, width=options.width, intermediate=options.intermediate, place=folder)
    neuron_groups(config, narrow.neurons, place=folder)
    refuse_bare_norms(config, narrow.channels, place=folder)
    return narrow


def _without_layers(
    teacher: PreTrainedModel,
    config: Any,
    kept: Kept,
    new: Path,
    folder: Path,
    options: StudentOptions,
) -> tuple[PreTrainedModel, float]:
    """The student of the kept layers, as it was loaded from `new`, and how far off it is."""
    tell_stage(options.on_progress, f"writing {options.out.name}")
    _save(build_student(teacher, config, kept, place=folder), new, folder)
    tell_stage(options.on_progress, "comparing with the teacher")
    student = load_model(new, dtype="auto")
    return student, refuse_other_model(teacher, student, kept, place=folder)


def _narrower(
    teacher: PreTrainedModel, narrow: Narrowing, new: Path, folder: Path, options: StudentOptions
) -> tuple[PreTrainedModel, float, dict[str, Any]]:
    """The narrower student, as it was loaded from `new`, how far off it is, and what it holds.

    `teacher` has the layers of the student.
    """
    tell_stage(options.on_progress, "measuring channels and neurons")
    groups = neuron_groups(teacher.config, narrow.neurons, place=folder)
    cut = choose_cut(teacher, narrow, groups, place=folder)
    tell_stage(options.on_progress, f"writing {options.out.name}")
    built = build_narrow(teacher, narrow, cut, place=folder)
    for path in new.glob("*.safetensors*"):  # of the model that it is cut from
        path.unlink()
    _save(built, new, folder)
    tell_stage(options.on_progress, "comparing with the teacher")
    student = load_model(new, dtype="auto")
    same_tensors(built.state_dict(), student, place=folder)
    dtype = student.dtype
    difference = refuse_other_narrow(teacher, student, narrow, cut, place=folder)
    sizes = {
        name: {"kept": axes.kept, "of": axes.size}
        for name, axes in (("width", narrow.channels), ("intermediate", narrow.neurons))
        if axes is not None
    }
    return (
        student.to(dtype),
        difference,
        sizes | ({} if cut.energy is None else {"kept_energy": cut.energy}),
    )


def _configuration(folder: Path) -> Any:
    """That of the teacher. Raises ModelError for a model of which no student is made."""
    try:
        config = model_config(folder)
    except ModelError:
        raise
    except Exception as error:  # transformers raises what comes
        raise ModelError(
            f"its configuration cannot be read: {' '.join(str(error).split())[:300]}", place=folder
        ) from error
    if config.is_encoder_decoder or config.get_text_config().is_encoder_decoder:
        raise ModelError(
            "an encoder-decoder cannot be used", place=folder, allowed="causal language models"
        )
    if getattr(config, "quantization_config", None) is not None:
        raise ModelError(
            "its weights are quantised, and a student learns in full numbers",
            place=folder,
            remedy="Name the model that it was quantised from",
        )
    return config


def _save(student: PreTrainedModel, new: Path, folder: Path) -> None:
    """Write the student, and copy what lies beside the teacher's weights."""
    with explain_failed_write(new, remedy=_ROOM):
        student.save_pretrained(new)
        share_weights(new)
        (new / _GENERATION).unlink(missing_ok=True)
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(folder).as_posix()
            copied = is_tokenizer_name(name) or name in (_GENERATION, *_PROCESSORS)
            if copied and path.is_file():
                (new / name).parent.mkdir(exist_ok=True)
                (new / name).write_bytes(path.read_bytes())
        LocalStorage(new).sync()


@contextmanager
def _new_folder(out: Path) -> Iterator[Path]:
    """A folder beside `out` that takes its place at the end; after an error there is none."""
    place = out.resolve()  # a link to an empty folder stays one
    new = place.with_name(f".{place.name}.{secrets.token_hex(4)}.tmp")
    try:
        with explain_failed_write(new, remedy=_ROOM):
            new.mkdir(parents=True)
        yield new
        refuse_used(out)
        with explain_failed_write(out, remedy=_ROOM):
            new.rename(place)
            LocalStorage(place).sync()
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _sizes(model: PreTrainedModel) -> dict[str, int]:
    """The parameters, those that are shared once, and the bytes that they take."""
    parameters = list(model.parameters())
    return {
        "parameters": sum(one.numel() for one in parameters),
        "bytes": sum(one.numel() * one.element_size() for one in parameters),
    }
