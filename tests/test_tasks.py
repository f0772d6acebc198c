"""`trainer eval --tasks`: the harness's own figures, what is refused, where results are kept."""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING, Any

import lm_eval
import numpy as np
import pytest
import torch
import yaml
from lm_eval.tasks import TaskManager
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from typer.testing import CliRunner

import trainer
from logitstore import CorpusError, ModelError, SettingError, StoreError
from tests import run_files
from trainer.cli import app
from trainer.evaluation import tasks as tasks_module
from trainer.training.state_files import RunWarning

if TYPE_CHECKING:
    from pathlib import Path

ITEMS: dict[str, list[dict[str, Any]]] = {
    "lambada_openai": [
        {"text": "The teacher reads the text once and the student reads what the teacher wrote"},
        {"text": "A target is the distribution of the next token given the tokens before it"},
        {"text": "He gave the book to the student and went away with the teacher"},
        {"text": "What the teacher wrote the student reads, and reads it once"},
    ],
    "hellaswag": [
        {
            "ind": number,
            "activity_label": "Teaching [title]",
            "ctx_a": f"A teacher reads {number} texts.",
            "ctx_b": "the student",
            "ctx": "A teacher reads. the student",
            "endings": ["reads what is written.", "is a token.", "the the the.", "wrote it once."],
            "label": str(number % 4),
        }
        for number in range(5)
    ],
    "triviaqa": [
        {
            "question": f"What is the {what} of the text",
            "question_id": what,
            "answer": {"value": "token", "aliases": ["token", "the token"], "type": "x"},
        }
        for what in ("first part", "next token", "distribution", "teacher")
    ],
}
EXAMPLES: list[dict[str, Any]] = [
    {
        "question": f"Who reads text {number}",
        "question_id": "e",
        "answer": {"value": "he", "aliases": ["he"], "type": "x"},
    }
    for number in range(6)
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Path:
    """A small Llama whose context has room for answers of 256 tokens, far from uniform."""
    folder = tmp_path_factory.mktemp("model")
    config = LlamaConfig(
        vocab_size=304,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=700,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        made = LlamaForCausalLM(config)
        made.lm_head.weight.data.mul_(20)
    made.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("items")
    for name, items in ITEMS.items():
        write(folder / f"{name}.jsonl", items)
    write(folder / "triviaqa.train.jsonl", EXAMPLES)
    return folder


def write(path: Path, items: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(one) + "\n" for one in items))


def by_the_harness(model: Path, data: Path, root: Path, **options: Any) -> dict[str, Any]:
    """What a plain script of the harness gives, which reads the same files by `datasets`."""
    known = tasks_module._manager().task_index
    names = options.pop("tasks", list(ITEMS))
    for name in names:
        own = known[name].cfg
        splits = {own.get(f"{kind}_split") for kind in ("training", "validation", "test")} - {None}
        files = {split: str(data / f"{name}.jsonl") for split in splits}
        if (examples := data / f"{name}.train.jsonl").is_file():
            files["train"] = str(examples)
        other = {
            "include": str(known[name].yaml_path),
            "task": name,
            "dataset_path": "json",
            "dataset_name": None,
            "dataset_kwargs": {"data_files": files, "cache_dir": str(root / "cache")},
        }
        (root / f"{name}.yaml").write_text(yaml.safe_dump(other))
    found = lm_eval.simple_evaluate(
        model="hf",
        model_args={"pretrained": str(model)},
        tasks=names,
        task_manager=TaskManager(include_path=str(root), include_defaults=False),
        device="cpu",
        **options,
    )
    return {
        task: {key.partition(",")[0]: value for key, value in figures.items() if "," in key}
        for task, figures in found["results"].items()
    }


def measured(model: Any, data: Path | None, **options: Any) -> dict[str, Any]:
    options = {"tasks": list(ITEMS), "device": "cpu"} | options
    found: dict[str, Any] = trainer.evaluate(model, task_data=data, **options)
    return found


@pytest.mark.parametrize("options", [{}, {"limit": 3, "batch_size": 2}], ids=["all", "first"])
def test_the_figures_are_those_of_the_harness(
    model: Path, data: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    wanted = by_the_harness(model, data, tmp_path, **{"batch_size": 8} | options)
    found = measured(model, data, **options)
    assert found["tasks"] == wanted
    assert set(wanted["lambada_openai"]) == {
        *("perplexity", "perplexity_stderr", "acc", "acc_stderr")
    }
    assert wanted["lambada_openai"]["perplexity_stderr"] > 0
    assert set(wanted["triviaqa"]) == {"exact_match", "exact_match_stderr"}
    assert {name: one["count"] for name, one in found["items"].items()} == {
        name: options.get("limit", len(items)) for name, items in ITEMS.items()
    }
    assert found["higher_is_better"]["lambada_openai"] == {"perplexity": False, "acc": True}
    assert found["num_fewshot"] == dict.fromkeys(ITEMS, 0)


def test_solved_examples_come_from_the_file_of_their_split(
    model: Path, data: Path, tmp_path: Path
) -> None:
    heard: dict[str, str] = {}
    for root, shots in ((tmp_path / "0", 0), (tmp_path / "2", 2)):
        root.mkdir()
        options: dict[str, Any] = {"tasks": ["triviaqa"], "num_fewshot": shots}
        wanted = by_the_harness(model, data, root, batch_size=8, **options)
        with pytest.MonkeyPatch.context() as patch:
            _listen(patch, heard)
            found = measured(model, data, **options)
        assert found["tasks"] == wanted
        assert found["num_fewshot"] == {"triviaqa": shots}
    assert sum("Who reads text" in one for one in heard) == len(ITEMS["triviaqa"])
    (data / "triviaqa.train.jsonl").rename(tmp_path / "away")
    try:
        with pytest.raises(SettingError, match=r"solved examples.*triviaqa") as caught:
            measured("/no/model", data, tasks="triviaqa", num_fewshot=2)
        assert str(data / "triviaqa.train.jsonl") in str(caught.value)
        measured(model, data, tasks="triviaqa", limit=1)  # without examples it needs no such file
    finally:
        (tmp_path / "away").rename(data / "triviaqa.train.jsonl")


def _listen(patch: pytest.MonkeyPatch, heard: dict[str, str]) -> None:
    """Note each question that the model is asked, and its answer."""
    from lm_eval.models.huggingface import HFLM

    original = HFLM.generate_until

    def generate_until(self: Any, requests: Any, **more: Any) -> Any:
        answers = original(self, requests, **more)
        heard.update(zip((one.args[0] for one in requests), answers, strict=True))
        return answers

    patch.setattr(HFLM, "generate_until", generate_until)


def test_answers_are_those_of_the_harness_and_a_right_one_counts(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: dict[str, str] = {}
    _listen(monkeypatch, heard)
    items = [one | {"answer": dict(one["answer"])} for one in ITEMS["triviaqa"]]
    write(tmp_path / "triviaqa.jsonl", items)
    assert measured(model, tmp_path, tasks="triviaqa")["tasks"]["triviaqa"]["exact_match"] == 0
    first = dict(heard)
    assert len(first) == len(items)
    assert any(answer.strip() for answer in first.values())
    for one in items[:3]:
        answer = first[f"Question: {one['question']}?\nAnswer:"].strip()
        one["answer"]["aliases"] = ["nothing of the kind", answer]
    write(tmp_path / "triviaqa.jsonl", items)
    found = measured(model, tmp_path, tasks="triviaqa")["tasks"]
    assert found["triviaqa"]["exact_match"] == 0.75
    heard.clear()
    root = tmp_path / "plain"
    root.mkdir()
    options: dict[str, Any] = {"tasks": ["triviaqa"], "batch_size": 8}
    assert by_the_harness(model, tmp_path, root, **options) == found
    assert heard == first


def test_a_loaded_model_gives_the_same_and_is_left_as_it_was(
    model: Path, data: Path, tokenizer: Any
) -> None:
    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).train()
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    names, progress = ["lambada_openai", "hellaswag"], []
    found = trainer.evaluate(
        loaded, tokenizer=tokenizer, tasks=names, task_data=data, on_progress=progress.append
    )
    assert found["tasks"] == measured(model, data, tasks=names)["tasks"]
    assert loaded.training
    assert tokenizer.pad_token is None
    assert random.getstate() == before[0]
    assert str(np.random.get_state()) == str(before[1])
    assert torch.equal(torch.get_rng_state(), before[2])
    asked = [one for one in progress if one.stage == "asking"]
    assert asked[-1].fraction == 1.0
    assert asked[-1].done == len(ITEMS["lambada_openai"]) + 4 * len(ITEMS["hellaswag"])
    with pytest.raises(SettingError, match="a loaded model needs a tokenizer"):
        trainer.evaluate(loaded, tasks=names, task_data=data)


def call(*words: object) -> Any:
    return CliRunner().invoke(app, ["eval", *map(str, words)])


def test_standard_output_is_the_result_alone(model: Path, data: Path) -> None:
    words = [model, "--tasks", "lambada_openai,hellaswag", "--task-data", data, "--device", "cpu"]
    result = call(*words, "--json")
    assert (result.exit_code, _but_progress(result.stderr)) == (0, [])
    found = json.loads(result.stdout)
    assert found["parameters"] > 0
    assert found["tasks"]["hellaswag"].keys() >= {"acc", "acc_stderr", "acc_norm"}
    result = call(*words)
    assert (result.exit_code, _but_progress(result.stderr)) == (0, [])
    lines = result.stdout.splitlines()
    assert "lambada_openai: 4 items, no solved examples" in lines
    value, error = (found["tasks"]["hellaswag"][name] for name in ("acc", "acc_stderr"))
    assert f"  {'acc':16} {value:.4f}  (standard error {error:.4f})" in lines


def _but_progress(text: str) -> list[str]:
    return [line for line in text.splitlines() if not line.startswith("[")]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tasks": "lambada_openia"}, "no such task.*found lambada_openia.*lambada_openai"),
        ({"tasks": "qqqqqqqqqqqqqqqqqqqq"}, "no such task.*lm_eval ls tasks"),
        ({"tasks": "nq_open"}, r"nq_open\.jsonl: there is no file with the items"),
        ({"tasks": "lambada"}, "stands for several tasks.*found lambada"),
        ({"tasks": "mmlu"}, "is a group of tasks.*found mmlu.*one by one"),
        ({"tasks": "squad_completion"}, "reads its own data.*found squad_completion"),
        ({"tasks": "a,,b"}, "a name of a task is missing"),
        ({"tasks": [3]}, "these are no names of tasks"),
        ({"name": "../x"}, "no name to keep a file under"),
        ({"name": "x"}, "there is no folder in which to keep the result.*--out|out"),
    ],
)
def test_what_cannot_be_asked_is_refused_before_a_model_is_looked_for(
    model: Path, data: Path, options: dict[str, Any], message: str
) -> None:
    name = model if options == {"name": "x"} else "/no/model"
    with pytest.raises(SettingError, match=message):
        measured(name, data, **options)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file holds no items"),
        ("{\n", r"jsonl:1: the line is no JSON"),
        ('{"text": "a b"}\n\n[1]\n', r"jsonl:3: the line is no JSON object"),
        ('{"text": "a b"}\n{"text": 3}\n', "values of several types"),
        ('{"words": "a b"}\n', "cannot make a question of the item.*'text' is undefined"),
        ('{"text": "a b"}\n{"words": "a b"}\n', r"item 2: the task cannot make a question"),
    ],
)
def test_items_that_are_none_are_refused_with_their_place(
    tmp_path: Path, text: str, message: str
) -> None:
    (tmp_path / "lambada_openai.jsonl").write_text(text)
    with pytest.raises(CorpusError, match=message) as caught:
        measured("/no/model", tmp_path, tasks="lambada_openai")
    assert str(tmp_path / "lambada_openai.jsonl") in str(caught.value)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, data: Path) -> None:
    monkeypatch.setattr(tasks_module, "find_spec", lambda _: None)
    with pytest.raises(SettingError, match=r"lm_eval.*pip install 'logitstore\[eval\]'"):
        measured("/no/model", data)


def test_a_model_that_cannot_answer_is_refused(
    model: Path, data: Path, tokenizer: Any, tmp_path: Path, teacher_folder: Path
) -> None:
    with pytest.raises(SettingError, match=r"no room for the answers.*up to 256.*fewer than 64"):
        measured(teacher_folder, data, tasks="triviaqa")
    broken = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    broken.model.norm.weight.data.fill_(float("nan"))
    with pytest.raises(ModelError, match="no finite number"):
        measured(broken, data, tokenizer=tokenizer, tasks="hellaswag", device="auto")


def test_a_question_that_loses_its_beginning_is_told(teacher_folder: Path, tmp_path: Path) -> None:
    long = " ".join(f"{number} words" for number in range(60))
    texts = [long, f"Other {long}", "a b"]
    write(tmp_path / "lambada_openai.jsonl", [{"text": text} for text in texts])
    with pytest.warns(RunWarning, match=r"exceeds.*\(and 1 more such warnings\)"):
        measured(teacher_folder, tmp_path, tasks="lambada_openai")


@pytest.fixture
def run(model: Path, tmp_path: Path) -> Path:
    """The folder of a finished run with that model in it."""
    out = tmp_path / "run"
    out.mkdir()
    for path in model.iterdir():
        (out / path.name).write_bytes(path.read_bytes())
    run_files.finished(out, made=False)
    return out


def test_evaluations_are_kept_by_name(run: Path, data: Path, tmp_path: Path) -> None:
    def names() -> set[str]:
        return {path.name for path in (run / "evals").iterdir()}

    first = measured(run, data, tasks="lambada_openai", limit=2)
    measured(run, data, tasks="hellaswag,lambada_openai")
    assert names() == {"lambada_openai-first2.json", "hellaswag+lambada_openai.json"}
    measured(run, data, tasks="lambada_openai", limit=2)  # the same again
    measured(run, data, tasks="lambada_openai", name="mine")
    assert len(names()) == 3
    kept = json.loads((run / "evals" / "lambada_openai-first2.json").read_text())
    assert kept["tasks"] == first["tasks"]
    assert set(kept["weights"]) == {"model.safetensors"}
    assert not (run / "eval.json").exists()
    teacher = tmp_path / "teacher"
    measured(run, data, tasks="lambada_openai,hellaswag", out=teacher)
    assert [path.name for path in teacher.iterdir()] == ["evals"]
    found = trainer.report([run, teacher], out=tmp_path / "page.html")
    rows = {(row.metric, row.asked): row for row in found.tasks if row.task == "lambada_openai"}
    assert set(rows) == {
        (metric, asked) for metric in ("perplexity", "acc") for asked in ("2 items", "4 items")
    }
    assert set(rows["acc", "4 items"].values) == {"run", "teacher"}
    assert set(rows["acc", "2 items"].errors) == {"run"}
    page = (tmp_path / "page.html").read_text()
    assert "lambada_openai perplexity" in page
    (run / "model.safetensors").write_bytes(b"other")
    with pytest.raises(StoreError, match="changed since it was written"):
        measured(run, data, tasks="lambada_openai")


def test_text_is_kept_in_a_run_where_it_has_a_name(run: Path, tmp_path: Path) -> None:
    (tmp_path / "held.txt").write_text("The teacher reads the text once.\n")
    options: dict[str, Any] = {"data": str(tmp_path / "held.txt"), "device": "cpu"}
    trainer.evaluate(run, **options)
    assert not (run / "evals").exists()
    trainer.evaluate(run, name="mine", **options)
    assert [path.name for path in (run / "evals").iterdir()] == ["mine.json"]
    assert not (run / "eval.json").exists()
    trainer.evaluate(run, out=tmp_path / "out", **options)
    assert (tmp_path / "out" / "eval.json").is_file()
    assert (tmp_path / "out" / "evals" / "text-held.txt.json").is_file()
    found = trainer.report([run], out=tmp_path / "page.html")
    assert [row["name"] for row in found.others] == ["run: mine"]
    assert found.others[0]["loss"] > 0
