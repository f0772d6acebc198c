"""`--compile`: the student's layers below its output layer through torch.compile.

The loss applies the output layer itself, chunk by chunk, and is not compiled. Numbers of rows and
positions differ between batches, so shapes are symbols: there is one graph for batches of one row,
one for the others, and one more of each for measurements with dropout off.

The module is compiled in place: parameters keep their names, so checkpoints and results are those
of a run without it.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from logitstore import ModelError, SettingError
from logitstore.plumbing import model_body

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["compiled_layers"]

_REMEDY = "Leave out --compile, or name another of --set torch_compile_backend=NAME"


@contextmanager
def compiled_layers(student: Any, *, settings: Mapping[str, Any] | None) -> Iterator[None]:
    """A context in which the student's layers are compiled when they are first run.

    Args:
        student: As it is trained, before it is wrapped for several processes.
        settings: `backend` and `mode` of torch.compile; None compiles nothing.

    Raises SettingError for a backend or a mode that torch does not know; ModelError where compiling
    fails, as it does without a C++ compiler.
    """
    if settings is None:
        yield
        return
    body = model_body(student)
    try:
        body.compile(dynamic=True, **settings)
    except (RuntimeError, ValueError) as error:  # InvalidBackend is one
        raise SettingError(
            "torch.compile does not take these settings",
            place="--set",
            found=", ".join(f"{name}={value}" for name, value in settings.items()),
            allowed=f"backends: {', '.join(torch.compiler.list_backends())}",
        ) from error
    try:
        yield
    except torch._dynamo.exc.TorchDynamoException as error:
        raise ModelError(
            f"torch.compile fails: {' '.join(str(error).split())[:300]}",
            place="--compile",
            remedy=_REMEDY,
        ) from error
    finally:
        body._compiled_call_impl = None  # a student that was given loaded is as before
