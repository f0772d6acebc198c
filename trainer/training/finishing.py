"""The end of a run: weights that are looked at once more, the result, and run.json last."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import gather_object

from logitstore import ModelError
from logitstore.plumbing import LocalStorage, tell_stage
from trainer.training import run_folder
from trainer.training.adaptation import without_adapter
from trainer.training.best import forget_best
from trainer.training.callbacks import write_histories
from trainer.training.checkpoints import remove_checkpoints
from trainer.training.metrics import history_of
from trainer.training.pushing import push_result
from trainer.training.run_record import FORMAT, write_record
from trainer.training.run_result import result_hashes, share_weights, write_tokenizer
from trainer.training.sharding import local_part

if TYPE_CHECKING:
    from trainer.training.fit_loop import FitLoop
    from trainer.training.loop import DistillationTrainer
    from trainer.training.options import FitOptions

__all__ = ["finish"]


def finish(
    loop: FitLoop,
    record: dict[str, Any],
    options: FitOptions,
    *,
    tokenizer: dict[str, bytes],
    dtype: torch.dtype,
    remedy: str,
) -> dict[str, Any]:
    """Write the result: model, tokenizer, history, and run.json last; returns its content.

    Args:
        loop: Behind its last step.
        record: The content of run.json so far.
        options: Those of the run.
        tokenizer: The store's, by the names of its files.
        dtype: In which the weights are saved.
        remedy: What an error says of a place that cannot be written.

    Raises ModelError for weights that are no finite numbers, StorageError.
    """
    _refuse_ruined(loop)
    out = options.out
    finished = record | {
        "format": FORMAT,
        "finished": True,
        "seconds": loop.seconds,
        "metrics": history_of(loop.state.log_history)[-1],
    }
    if loop.held_out is not None:
        finished["best"] = asdict(loop.held_out.best) | {"by": loop.held_out.metric}
    with run_folder.explain_failed_write(out, remedy=remedy):
        loop.take_best()
        if options.lora_result == "merged":
            loop.model = without_adapter(loop.model)
        loop.save_result(out, dtype=dtype)
        if loop.args.should_save:
            LocalStorage(out).delete("training_args.bin")  # a pickle that nobody needs
            write_tokenizer(out, tokenizer)
            write_histories(out, loop.state.log_history, remedy=remedy)
            share_weights(out)
            # What transformers wrote, before it is named as the result.
            LocalStorage(out).sync()
            finished["files"] = result_hashes(out, tokenizer=tokenizer)
            write_record(out, finished)
            if not options.keep_checkpoints:
                remove_checkpoints(out)
                forget_best(out)
    loop.accelerator.wait_for_everyone()
    if options.push_to_hub is not None and loop.args.should_save:
        tell_stage(options.on_progress, f"uploading to {options.push_to_hub}")
        push_result(out, options.push_to_hub)
    return finished


def _refuse_ruined(loop: DistillationTrainer) -> None:
    """Raise ModelError for weights that are not finite: no loss follows the last step.

    Of a sharded student each rank looks at its own part, and all of them raise.
    """
    ruined = [
        name
        for name, weight in loop.model.named_parameters()
        if not bool(torch.isfinite(local_part(weight)).all())
    ]
    if loop.args.world_size > 1:
        ruined = sorted({*gather_object(ruined)})
    if ruined:
        raise ModelError(
            "the last step left weights that are no finite numbers; nothing was saved",
            place=ruined[0],
            found=f"{len(ruined)} tensors",
            remedy="Begin a run with a lower --lr in another folder",
        )
