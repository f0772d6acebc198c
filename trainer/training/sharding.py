"""Students that several processes share: FSDP and DeepSpeed, by the settings of transformers or by
`accelerate launch`.

What wraps the student is theirs. Here is what a run needs beside: the student is whole while it is
checked, its result is whole again, and what would not be sharded, or could not be saved, is refused
before it is loaded.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from accelerate.utils import DistributedType

from logitstore import SettingError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch
    from transformers import TrainingArguments

    from trainer.training.options import FitOptions

__all__ = ["local_part", "one_tensor_of_tied", "refuse_unsharded", "whole_weights"]

_FSDP, _DEEPSPEED = "ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"
_GATHERED = "stage3_gather_16bit_weights_on_model_save"


def refuse_unsharded(options: FitOptions, args: TrainingArguments) -> None:
    """Raise SettingError where a student is to be sharded, and the run could not be as asked.

    Args:
        options: Those of the run.
        args: The settings of transformers that are made of them.
    """
    fsdp = bool(args.fsdp) or _asked(_FSDP)
    if not fsdp and not args.deepspeed and not _asked(_DEEPSPEED):
        return
    served = "" if options.lora is None else options.lora_result
    for flag, given, remedy in (
        ("--keep-best", options.keep_best, "Leave it out: held_out.json says which step was best"),
        (
            "--hint-weight",
            bool(options.hint_weight),
            "Leave it out, or let each process hold the student whole",
        ),
        ("--lora-result merged", served == "merged", "Say --lora-result adapter, and merge later"),
    ):
        if given:
            raise SettingError(
                "this is not served for a student that is sharded over processes",
                place=flag.split()[0],
                found=f"{flag} with {'FSDP' if fsdp else 'DeepSpeed'}",
                remedy=remedy,
            )
    if fsdp:
        _refuse_whole(args)
    config = getattr(args, "hf_deepspeed_config", None)
    gathered = f"zero_optimization.{_GATHERED}"
    if config is not None and config.is_zero3() and not config.get_value(gathered, False):
        raise SettingError(
            "ZeRO stage 3 would save shards in place of the model",
            place="the configuration of DeepSpeed",
            found=f"no {gathered}",
            allowed="true",
        )


def _refuse_whole(args: TrainingArguments) -> None:
    """Raise SettingError where each process would hold all of the student despite FSDP."""
    if args.fsdp and args.world_size == 1:
        raise SettingError(
            "FSDP shares a student out to several processes, and there is one",
            place="--set",
            found="fsdp",
            remedy="Start it by `torchrun --nproc-per-node N -m trainer` or `accelerate launch`",
        )
    kind = args.distributed_state.distributed_type
    if args.world_size > 1 and kind == DistributedType.MULTI_CPU:
        raise SettingError(
            "accelerate shards a student over GPUs alone: on the CPU each process would hold all "
            "of it, though FSDP was asked for",
            place="--device",
            found="cpu",
            remedy="Leave FSDP out: the processes share each step without it",
        )


def _asked(name: str) -> bool:
    """Whether `accelerate launch` asks for it."""
    return os.environ.get(name, "false").lower() in ("true", "1")


@contextmanager
def whole_weights(args: TrainingArguments) -> Iterator[None]:
    """A context in which models are loaded whole, though ZeRO stage 3 is to shard them.

    It would shard them at once otherwise, before anything of them can be checked.

    Args:
        args: The settings of transformers.
    """
    config = getattr(args, "hf_deepspeed_config", None)
    if config is None:
        yield
        return
    from transformers.integrations.deepspeed import (
        set_hf_deepspeed_config,
        unset_hf_deepspeed_config,
    )

    unset_hf_deepspeed_config()
    try:
        yield
    finally:
        set_hf_deepspeed_config(config)


def local_part(weight: torch.Tensor) -> torch.Tensor:
    """What this process holds of a weight; all of one that is not sharded.

    Args:
        weight: A parameter of a model that is wrapped or not.
    """
    # ZeRO stage 3 leaves an empty parameter, and keeps its part beside.
    part = getattr(weight, "ds_tensor", weight)
    whole: torch.Tensor = part.to_local() if hasattr(part, "to_local") else part
    return whole


def one_tensor_of_tied(model: Any, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights of a model, where those that it ties are one tensor, so that they are saved once.

    Gathered from several processes each is a tensor of its own.

    Args:
        model: A model of transformers, or an adapted one.
        state: Its weights, by name.
    """
    tied: dict[str, str] = getattr(model, "all_tied_weights_keys", None) or {}
    return state | {
        name: state[source] for name, source in tied.items() if name in state and source in state
    }
