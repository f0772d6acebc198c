"""The programs of docs/training.md do what the page says, as they stand there."""

import ast
import json
import random
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import logitstore
import trainer
from logitstore.plumbing import LocalStorage

PAGE = Path(__file__).parent.parent / "docs" / "training.md"
LOOP, DROP_IN = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)


@pytest.fixture(scope="module")
def made(tmp_path_factory, teacher_folder):
    """A folder with a store of some ten steps and a student's configuration."""
    folder = tmp_path_factory.mktemp("page")
    text = "A target is the distribution of the next token given the tokens before it. "
    lines = [json.dumps({"text": f"{number} {text * 4}"}) for number in range(160)]
    (folder / "corpus.jsonl").write_text("\n".join(lines) + "\n")
    logitstore.dump(
        teacher=str(teacher_folder), data=str(folder / "corpus.jsonl"), out=folder / "store"
    )
    student = {"model_type": "llama", "hidden_size": 16, "intermediate_size": 32}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "num_hidden_layers": 1}
    (folder / "student.json").write_text(json.dumps(student | heads))
    return folder


@pytest.fixture
def run(made, tmp_path, monkeypatch):
    """Runs a program in a folder of its own, beside the store."""

    def in_folder(program, name="here"):
        folder = tmp_path / name
        if not folder.exists():
            folder.mkdir()
            for path in ("store", "student.json"):
                (folder / path).symlink_to(made / path)
        monkeypatch.chdir(folder)
        exec(compile(program, f"{PAGE.name}", "exec"), {"__name__": "page"})
        return folder

    return in_folder


def test_the_loop_has_about_twenty_lines():
    assert len([line for line in LOOP.splitlines() if line.strip()]) <= 22


# Runs the program of file 1 in folder 2, in processes that are forked from one that has loaded
# torch: one for each further number, killed so many milliseconds after its first checkpoint, and a
# last one that is not. A negative number is a size of files, in bytes, at which the kernel kills
# from then on: in the middle of the next save. Prints what each has left as checkpoint.
KILLER = """
import os, resource, signal, sys, time
from pathlib import Path
import torch, transformers, trainer, logitstore
from trainer.losses import distillation
from trainer.training import batching
left = Path("checkpoint.pt")
def written():
    return left.stat().st_mtime_ns if left.exists() else None
def ended(child):
    return os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT
program = compile(Path(sys.argv[1]).read_text(), "page", "exec")
torch.set_num_threads(1)
os.chdir(sys.argv[2])
for limit in [*map(int, sys.argv[3:]), None]:
    before = written()
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        exec(program, {"__name__": "page"})
        os._exit(0)
    while limit is not None and written() == before and not os.waitid(*ended(child)):
        time.sleep(0.001)
    if limit is not None and limit < 0:
        resource.prlimit(child, resource.RLIMIT_FSIZE, (-limit, -limit))
    elif limit is not None:
        time.sleep(limit / 1000)
        os.kill(child, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    state = torch.load(left)["batches"]
    place = 1000 * state["epoch"] + state["step"]
    print(code, place, Path("checkpoint.tmp").exists(), flush=True)
    if code == 0:
        break
"""


def killed(folder, *limits):
    """(exit code, place of the checkpoint, whether another is half written) after each process."""
    program = folder / "page.py"
    program.write_text(LOOP)
    done = subprocess.run(
        [sys.executable, "-c", KILLER, program, folder, *map(str, limits)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return [tuple(map(ast.literal_eval, line.split())) for line in done.stdout.splitlines()]


def same_weights(one, other):
    first, second = (load_file(each / "student" / "model.safetensors") for each in (one, other))
    return first.keys() == second.keys() and all(
        torch.equal(first[name], second[name]) for name in first
    )


def test_the_loop_killed_at_any_moment_ends_in_the_same_weights(run):
    """Once in the middle of a save for sure, then wherever it is."""
    straight = run(LOOP, "straight")
    stopped = run("", "stopped")
    size = (straight / "checkpoint.pt").stat().st_size
    draw = random.Random(0)
    torn, *stops, last = killed(stopped, -size // 2, *(draw.randint(0, 60) for _ in range(3)))
    assert torn[0] == -signal.SIGXFSZ
    assert torn[2]
    assert {code for code, *_ in stops} <= {-signal.SIGKILL}
    assert last[0] == 0
    places = [place for _, place, _ in (torn, *stops, last)]
    assert places == sorted(set(places))  # each has made a step
    assert same_weights(straight, stopped)


def test_a_store_is_given_open_or_by_what_opens_it(made, tmp_path):
    """To each function that takes one; the result is the same."""
    opened = logitstore.open(made / "store")
    sources = [made / "store", str(made / "store"), (made / "store").as_uri(), opened]
    sources.append(LocalStorage(made / "store"))
    model = trainer.load_student(made / "student.json", spec=opened.spec)
    common = {"student": made / "student.json", "device": "cpu", "steps": 1}
    found = []
    for number, source in enumerate(sources):
        batches = trainer.training_batches(source, model=model, epochs=1)
        fitted = trainer.fit(logits=source, out=tmp_path / str(number), **common)
        measured = trainer.evaluate(model, logits=source)
        found.append(
            [
                next(iter(batches)).labels_R.tolist(),
                *(fitted["metrics"][name] for name in ("loss", "kl")),
                *(measured[name] for name in ("loss", "kl", "store")),
            ]
        )
    assert all(one == found[0] for one in found)


def test_the_drop_in_trains_saves_and_resumes(run):
    folder = run(DROP_IN, "straight") / "run"
    state = json.loads((folder / "checkpoint-5" / "trainer_state.json").read_text())
    assert {"loss", "kl", "ce", "agreement"} <= set(state["log_history"][0])
    assert (folder / "config.json").is_file()
    whole = load_file(folder / "model.safetensors")
    last = max(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    for path in last.iterdir():
        path.unlink()
    last.rmdir()
    run(DROP_IN.replace("loop.train()", "loop.train(resume_from_checkpoint=True)"), "straight")
    again = load_file(folder / "model.safetensors")
    assert all(torch.equal(whole[name], again[name]) for name in whole)
