"""Distil student language models from a store of a teacher's distributions."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainer.distil import fit
    from trainer.evaluation import evaluate

__all__ = ["evaluate", "fit"]

_LAZY = {"evaluate": "evaluation", "fit": "distil"}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'trainer' has no attribute {name!r}")
    return getattr(import_module(f"trainer.{_LAZY[name]}"), name)
