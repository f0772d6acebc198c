"""Learning from answers alone: the loss is that of the tokens, and no teacher is pretended."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForCausalLM

import logitstore
import trainer
from logitstore.errors import ModelError, SettingError, TokenizerError
from trainer.data.answers import AnswerStore

PROMPTS = ["The teacher", "A target is the distribution of the", "the", "next token given"]
STUDENT = {
    "model_type": "llama",
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}


@pytest.fixture(scope="module")
def answers(teacher_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("answers")
    data = folder / "prompts.jsonl"
    data.write_text("".join(json.dumps({"prompt": one}) + "\n" for one in PROMPTS))
    logitstore.generate(
        model=str(teacher_folder),
        data=str(data),
        out=folder / "answers.parquet",
        n=4,
        max_new_tokens=16,
        temperature=0.3,
    )
    return folder / "answers.parquet"


@pytest.fixture
def student(tmp_path: Path) -> Path:
    path = tmp_path / "student.json"
    path.write_text(json.dumps(STUDENT))
    return path


def _loss(folder: Path, answers: Path) -> float:
    """nats a token of the answers, by transformers alone."""
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    total, count = 0.0, 0
    for row in pq.read_table(answers).to_pylist():
        ids_L = torch.tensor(row["input_ids"])
        own_L = torch.tensor(row["loss_mask"][1:], dtype=torch.bool)
        with torch.inference_mode():
            logp_LV = model(ids_L[None]).logits[0, :-1].double().log_softmax(dim=-1)
        total -= float(logp_LV[torch.arange(len(ids_L) - 1), ids_L[1:]][own_L].sum())
        count += int(own_L.sum())
    return total / count


def test_a_student_learns_the_answers_and_reports_no_teacher(
    answers: Path, student: Path, tmp_path: Path
) -> None:
    reports: list[dict[str, float]] = []
    run = tmp_path / "run"
    result = trainer.fit(
        logits=str(answers),
        student=str(student),
        out=run,
        alpha=0,
        steps=30,
        lr=1e-2,
        batch_tokens=512,
        report=reports.append,
    )
    assert reports[-1]["loss"] < reports[0]["loss"] - 1
    assert not {"kl", "divergence", "agreement"} & set(reports[-1])
    assert len(json.loads((run / "history.json").read_text())) == len(reports)
    assert result["teacher"] == pq_name(answers)
    measured = trainer.evaluate(str(run), logits=str(answers))
    assert measured["loss"] == pytest.approx(_loss(run, answers), abs=1e-4)
    assert measured["perplexity"] == pytest.approx(np.exp(measured["loss"]))
    assert (measured["kl"], measured["teacher_loss"], measured["bounds"]) == (None, None, {})
    assert not (run / "eval.json").exists()
    again = logitstore.generate(
        model=str(run), data=[{"prompt": "the"}], out=tmp_path / "own.parquet", max_new_tokens=4
    )
    assert again.answers == 1
    page = trainer.report([run], out=tmp_path / "report.html")
    assert page.rows


def pq_name(answers: Path) -> Any:
    return json.loads(pq.read_schema(answers).metadata[b"logitstore"])["model"]["name"]


def test_a_resumed_run_has_the_weights_of_one_without_a_stop(
    answers: Path, student: Path, tmp_path: Path
) -> None:
    given: dict[str, Any] = {
        "logits": str(answers),
        "student": str(student),
        "alpha": 0,
        "steps": 6,
        "batch_tokens": 128,
        "save_steps": 2,
    }
    trainer.fit(**given, out=tmp_path / "whole")

    def stop(one: dict[str, float]) -> None:
        if one["step"] >= 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trainer.fit(**given, out=tmp_path / "cut", report=stop, log_steps=1)
    trainer.fit(**given, out=tmp_path / "cut", resume=True)
    one, two = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "cut"))
    assert one == two


def test_a_teachers_share_is_refused(answers: Path, student: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="answers, and no distributions of a teacher"):
        trainer.fit(logits=str(answers), student=str(student), out=tmp_path / "run")
    command = [sys.executable, "-m", "trainer", "fit", "--logits", str(answers), "--student", "x"]
    done = subprocess.run([*command, "--out", "run"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "--alpha 0" in done.stderr
    store = AnswerStore(answers)
    model = AutoModelForCausalLM.from_pretrained(pq_name(answers))
    batch = next(iter(trainer.training_batches(store, model=model, batch_tokens=256)))
    with pytest.raises(SettingError, match="no distributions of a teacher"):
        trainer.distillation_loss(model, batch, alpha=0.5)
    result = trainer.distillation_loss(model, batch, alpha=0)
    assert set(result.sums) == {"loss", "ce"}
    with pytest.raises(SettingError, match="temperature has no effect"):
        trainer.evaluate(pq_name(answers), logits=str(answers), temperature=2.0)


def test_tokens_without_a_word_of_their_tokenizer_are_of_the_students(
    answers: Path, student: Path, teacher_folder: Path, tmp_path: Path
) -> None:
    table = pq.read_table(answers, columns=["input_ids", "loss_mask"])
    bare = tmp_path / "bare.parquet"
    pq.write_table(table.replace_schema_metadata(None), bare)
    with pytest.raises(SettingError, match="nobody says of which tokenizer the ids are"):
        trainer.fit(logits=str(bare), student=str(student), out=tmp_path / "run", alpha=0)
    measured = trainer.evaluate(str(teacher_folder), logits=str(bare))
    assert measured["loss"] == pytest.approx(_loss(teacher_folder, answers), abs=1e-3)


def test_a_student_with_another_tokenizer_is_refused(
    answers: Path, teacher_folder: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(teacher_folder, other)
    content = json.loads((other / "tokenizer.json").read_text())
    content["model"]["merges"].pop()
    (other / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(TokenizerError, match="whose tokenizer is another"):
        trainer.fit(logits=str(answers), student=str(other), out=tmp_path / "run", alpha=0)


def test_a_context_shorter_than_an_answer_is_refused(answers: Path, tmp_path: Path) -> None:
    path = tmp_path / "short.json"
    path.write_text(json.dumps(STUDENT | {"max_position_embeddings": 8}))
    with pytest.raises(ModelError, match="context is shorter"):
        trainer.fit(logits=str(answers), student=str(path), out=tmp_path / "run", alpha=0)


def test_a_table_without_tokens_is_refused(student: Path, tmp_path: Path) -> None:
    texts = tmp_path / "texts.parquet"
    pq.write_table(pa.table({"text": ["a"]}), texts)
    with pytest.raises(logitstore.CorpusError, match=r"texts\.parquet.*input_ids"):
        trainer.fit(logits=str(texts), student=str(student), out=tmp_path / "run", alpha=0)
