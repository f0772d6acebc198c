"""A run's folder as `trainer fit` leaves it, without training: what tests of its files read."""

import json

from trainer.training.checkpoints import complete_checkpoint
from trainer.training.options import FitOptions
from trainer.training.run_record import FORMAT, run_fingerprint, write_record
from trainer.training.run_result import result_hashes, weight_hashes
from trainer.training.state_files import EVALS, EVALUATION, write_json, write_state

STORE = "5" * 64
WANTED = FitOptions(logits="store", student="student.json", out="run", steps=20, seed=7).wanted(
    store=STORE, dtype="float32"
)
PACKING = {
    "shuffle": {"fingerprint": STORE, "seed": 7, "lanes": 2, "window": 3},
    "bins": 16,
    "bin_tokens": 4096,
}

TASKS = {  # as an evaluation by tasks has them
    "format": EVALUATION,
    "tasks": {"lambada": {"acc": 0.25, "acc_stderr": 0.25, "exact,strict": 0.5}},
    "items": {"lambada": {"count": 4, "sha256": "feed"}},
    "num_fewshot": {"lambada": 2},
    "higher_is_better": {"lambada": {"acc": True}},
    "task_versions": {"lambada": "1.0"},
    "harness": "lm_eval 0.4",
}


def record(**changes):
    """The content of run.json of a run that has begun."""
    return {
        "format": FORMAT,
        "wanted": WANTED,
        "settings": WANTED | {"steps": 20},
        "packing": PACKING | {"bins": -(-WANTED["batch_tokens"] // 4096)},
        "store": STORE,
        "teacher": "teacher",
        "parameters": 3064,
        "configuration": "c" * 64,
        "finished": False,
    } | changes


def state(step):
    """What a checkpoint says of the run after `step` steps."""
    stream = {"epoch": 0, "step": step, "consumed": [10 * step]}
    return {"step": step, "stream": stream, "seconds": 1.5, "sums": {"loss": 2.5, "targets": 8.0}}


def checkpoint(out, step, *, complete=True, run=None):
    """A checkpoint of that run after `step` steps, its weights `step` bytes."""
    folder = out / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"x" * step)
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    if complete:
        complete_checkpoint(folder, state(step), run=run or run_fingerprint(record()))
    return folder


def begun(out, **changes):
    """An unfinished run in `out`: its run.json alone."""
    out.mkdir(exist_ok=True)
    write_record(out, record(**changes))
    return record(**changes)


def finished(out, *, made=True):
    """A finished run in `out` with its last checkpoint; its model is there, unless it is `made`."""
    out.mkdir(exist_ok=True)
    checkpoint(out, 20)
    if made:
        (out / "model.safetensors").write_bytes(b"weights")
        (out / "config.json").write_text("{}")
        (out / "tokenizer.json").write_text("{}")
        write_state(out / EVALS / "tasks.json", {"weights": weight_hashes(out)} | TASKS)
    write_json(out / "history.json", [{"loss": 1.0, "step": 20}])
    files = result_hashes(out, tokenizer={"tokenizer.json": b"{}"})
    content = record(finished=True, seconds=2.5, metrics={"loss": 1.0, "step": 20}, files=files)
    write_record(out, content)
    return content
