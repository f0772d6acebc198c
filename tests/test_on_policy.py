"""Rounds of on-policy distillation: distances from stores, a loop that goes on where it stopped."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForCausalLM

import logitstore
from tools.on_policy import Rounds, main, reverse_kl_of
from tools.tiny_teacher import make_teacher, texts, write_jsonl


@pytest.fixture(scope="module")
def rounds(tmp_path_factory: pytest.TempPathFactory) -> tuple[Rounds, str, list[float]]:
    """Two rounds of a student that is another model than its teacher; the distances."""
    folder = tmp_path_factory.mktemp("rounds")
    student = make_teacher(folder / "student", seed=1)
    prompts = write_jsonl(folder / "prompts.jsonl", "text", texts(12, longest=4))
    loop = Rounds(
        teacher=str(make_teacher(folder / "teacher")),
        prompts=str(prompts),
        out=folder / "out",
        new_tokens=8,
        lr=3e-3,
        batch_tokens=128,
        device="cpu",
    )
    return loop, str(student), [one.reverse_kl for one in loop.run(str(student), rounds=2)]


def test_each_round_learns_from_new_answers_of_its_own_student(rounds) -> None:
    loop, student, found = rounds
    assert len(found) == 3
    answerer = student
    seen = []
    for number in (1, 2, 3):
        folder = loop.out / f"round{number}"
        (who,) = logitstore.inspect(folder / "store")["answers"]
        assert (who["name"], who["settings"]["seed"]) == (answerer, number)
        seen.append(pq.read_table(folder / "answers.parquet")["input_ids"].to_pylist())
        answerer = str(folder / "run")
    assert seen[0] != seen[1] != seen[2]
    assert not (loop.out / "round3" / "run").exists()


def test_a_distance_is_that_of_both_models_on_the_drawn_tokens(rounds) -> None:
    loop, student, found = rounds
    models = [AutoModelForCausalLM.from_pretrained(one).double() for one in (student, loop.teacher)]
    gaps = []
    for row in pq.read_table(loop.out / "round1" / "answers.parquet").to_pylist():
        ids, mask = torch.tensor([row["input_ids"]]), np.array(row["loss_mask"], dtype=bool)[1:]
        with torch.no_grad():
            log_q, log_p = (
                model(ids).logits[0, :-1, :300].log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
                for model in models
            )
        gaps.append((log_q - log_p).numpy()[mask])
    assert found[0] == pytest.approx(float(np.concatenate(gaps).mean()), abs=2e-3)
    told = logitstore.inspect(loop.out / "round1" / "store")
    assert found[0] == pytest.approx(told["teacher_loss"] - told["sampler_loss"], abs=1e-3)
    distance = reverse_kl_of(logitstore.open(loop.out / "round1" / "store"))
    assert distance.tokens == told["targets"]
    alike = np.std([one.mean() for one in gaps], ddof=1) / len(gaps) ** 0.5
    assert distance.error == pytest.approx(alike, rel=0.35)  # answers of nearly one length


def test_a_loop_that_was_stopped_goes_on_and_ends_alike(rounds, capsys) -> None:
    loop, student, found = rounds
    before = (loop.out / "round2" / "run" / "run.json").read_bytes()
    (loop.out / "round3" / "answers.parquet").unlink()
    assert [one.reverse_kl for one in loop.run(student, rounds=2)] == pytest.approx(found, abs=1e-9)
    assert (loop.out / "round2" / "run" / "run.json").read_bytes() == before
    assert capsys.readouterr().out.count("before round") == 3


def test_the_command_makes_its_own_models(tmp_path: Path, capsys) -> None:
    words = ["--out", str(tmp_path), "--quick", "--rounds", "1", "--new-tokens", "4"]
    assert main([*words, "--device", "cpu"]) == 0
    assert "before round 2: reverse KL" in capsys.readouterr().out
    assert json.loads((tmp_path / "round1/run/run.json").read_text())["finished"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--teacher", "t"], "belong together"),
        (["--rounds", "0"], "--rounds is 1 or more"),
    ],
)
def test_wrong_usage_is_told(words: list[str], told: str, tmp_path: Path, capsys) -> None:
    with pytest.raises(SystemExit):
        main(["--out", str(tmp_path / "out"), *words])
    assert told in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_error_is_one_line(tmp_path: Path, capsys) -> None:
    words = ["--teacher", "none", "--student", "none", "--prompts", str(tmp_path / "none.jsonl")]
    assert main(["--out", str(tmp_path / "out"), *words]) == 1
    assert capsys.readouterr().err.startswith("error: ")
