"""The number type in which the weights of a result are saved: by default that of the student.

Training keeps float32 weights, whatever the student's were: steps smaller than half of a bfloat16
digit would be lost. Saved in the student's own type they take the room that its users expect.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import safe_open

from logitstore.plumbing import model_config, model_path, parse_json
from trainer.training.adaptation import base_of
from trainer.training.options import FitOptions

__all__ = ["saved_dtype"]

_TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_FIELDS = ("dtype", "torch_dtype")


def saved_dtype(options: FitOptions, own: torch.dtype | None) -> torch.dtype:
    """The type of the saved weights.

    Args:
        options: Those of the run.
        own: That of a student that was given loaded, before it was trained.
    """
    if options.save_dtype in _TYPES:
        return _TYPES[options.save_dtype]
    if own is not None:
        return own
    student = base_of(options.student_name)[0]
    if student.endswith(".json"):
        content = parse_json(Path(student).read_bytes(), place=student)
        named = [str(content.get(name)).removeprefix("torch.") for name in _FIELDS]
        return next((_TYPES[one] for one in named if one in _TYPES), torch.float32)
    folder = model_path(student)
    config = model_config(folder)
    for one in (config, config.get_text_config()):
        found = getattr(one, "dtype", None)
        if isinstance(found, torch.dtype) and found in _TYPES.values():
            return found
    return _type_of_weights(folder)


def _type_of_weights(folder: Path) -> torch.dtype:
    """That of the first weights of a folder; float32 where it has no safetensors."""
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118  (it has no iteration of its own)
                dtype = file.get_slice(name).get_dtype()
                if dtype in ("F32", "BF16", "F16"):
                    return {"F32": torch.float32, "BF16": torch.bfloat16}.get(dtype, torch.float16)
    return torch.float32
