"""The programs of docs/training.md do what the page says, as they stand there."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import logitstore

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


def test_the_loop_learns_and_ends_in_the_same_weights_after_a_stop(run, monkeypatch):
    straight = run(LOOP, "straight")
    steps = []
    save = torch.save

    def stopping(content, path):
        save(content, path)
        steps.append(content["batches"]["step"])
        if len(steps) == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", stopping)
    with pytest.raises(KeyboardInterrupt):
        run(LOOP, "stopped")
    stopped = run(LOOP, "stopped")
    assert len(steps) > 8  # so it was stopped in the middle
    first, second = (
        load_file(one / "student" / "model.safetensors") for one in (straight, stopped)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)


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
