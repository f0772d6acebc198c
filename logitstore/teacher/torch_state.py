"""What torch keeps for the caller's thread and must not change what a teacher computes.

autocast would round float32 numbers to bfloat16, a default device would move tensors that a model
makes, and gradients would cost memory.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["neutral_torch_state", "without_autocast"]

_AUTOCAST_DEVICES = ("cpu", "cuda", "mps", "xpu")


@contextmanager
def neutral_torch_state() -> Iterator[None]:
    """Inside: inference mode, no autocast, and the CPU as default device. After: as it was.

    The default number type belongs to the whole process, so it is left alone: what runs inside
    names the type of each tensor that it makes.
    """
    with without_autocast(), torch.inference_mode():
        yield


@contextmanager
def without_autocast() -> Iterator[None]:
    """Inside: no autocast, and the CPU as default device, as a model is loaded. After: as it was.

    A setting that is as it should be is not touched.
    """
    with ExitStack() as stack:
        for device in _AUTOCAST_DEVICES:
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        yield
