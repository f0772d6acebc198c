"""Where a model runs, and in which number type: the options, and what "auto" stands for.

torch is loaded when a choice is made, not when the options are declared.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from logitstore.errors import SettingError
from logitstore.options import Option

if TYPE_CHECKING:
    import torch

__all__ = ["DEVICE", "DTYPE", "DTYPES", "choose_device", "choose_dtype"]

DTYPES = ("float32", "bfloat16", "float16")

_DEVICE_NAME = re.compile(r"auto|(cpu|cuda|mps|xpu)(:[0-9]+)?")


def _refuse_device(name: str) -> None:
    """Raise SettingError for what names no device, whether or not this machine has it."""
    if not _DEVICE_NAME.fullmatch(name):
        raise SettingError(
            "there is no such kind of device",
            found=name,
            allowed="auto, cpu, cuda, cuda:N, mps, xpu, xpu:N",
        )


DEVICE = Option(
    name="device",
    kind=str,
    default="auto",
    refuse=_refuse_device,
    help="The device to compute on: cpu, cuda, cuda:1 or mps; auto takes a GPU where there is one.",
)
DTYPE = Option(
    name="dtype",
    kind=str,
    default="auto",
    choices=lambda: ("auto", *DTYPES),
    help="The number type of the forward pass; auto is float32 on a CPU, elsewhere that of the "
    "checkpoint.",
)


def choose_device(device: str) -> str:
    """`device` as torch spells it, after a look whether it is there; a GPU or the CPU for "auto".

    device: a device of torch, or "auto".

    Raises SettingError for a device that cannot be used here.
    """
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=device)
        if torch.device(device).type == "meta":
            raise RuntimeError("the meta device computes nothing")
    except (RuntimeError, AssertionError) as error:
        raise SettingError(
            "--device is not to be had here", found=device, remedy="Leave it out, or say cpu"
        ) from error
    return device


def choose_dtype(dtype: str, *, device: str) -> torch.dtype | str:
    """The torch dtype that `dtype` names; "auto", which is the checkpoint's own, on a GPU only.

    dtype: one of DTYPE's choices.
    device: where the model will run, as torch spells it.

    Raises SettingError for a name that is none of DTYPE's choices.
    """
    import torch

    if DTYPE.check(dtype) == "auto":
        return torch.float32 if torch.device(device).type == "cpu" else "auto"
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    return known[dtype]
