"""`estimate --plan-only`: what is said of a dump without the teacher's weights."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import logitstore
from logitstore.cli.commands import app
from logitstore.errors import ModelError, SettingError
from logitstore.forecast.plan import CorpusPlan
from logitstore.forecast.rough_bytes import rough_bytes_per_target
from logitstore.sparsify.build import sparsifier_spec
from logitstore.teacher.opening import UnloadedTeacher
from tests.chat_templates import CHATML
from tests.test_dump import TEXTS


@pytest.fixture(scope="module")
def settings(teacher_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A corpus, and a teacher without weights."""
    folder = tmp_path_factory.mktemp("plan")
    (folder / "teacher").mkdir()
    for path in teacher_folder.iterdir():
        if path.suffix != ".safetensors":
            shutil.copy(path, folder / "teacher")
    (folder / "data").mkdir()
    for name in ("a", "b"):
        lines = [json.dumps({"text": f"{n} {text}"}) + "\n" for n, text in enumerate(TEXTS * 4)]
        (folder / "data" / f"{name}.jsonl").write_text("".join(lines))
    (folder / "data" / "notes.md").write_text("notes")
    return {"teacher": str(folder / "teacher"), "data": str(folder / "data"), "unit_tokens": 2000}


def _plan(settings: dict[str, Any], **change: Any) -> CorpusPlan:
    found = logitstore.estimate(**settings | change, plan_only=True)
    assert isinstance(found, CorpusPlan)
    return found


def test_a_corpus_that_is_read_whole_is_counted_exactly(
    settings: dict[str, Any], teacher_folder: Path, tmp_path: Path
) -> None:
    found = _plan(settings)
    dumped = logitstore.dump(
        **settings | {"teacher": str(teacher_folder)}, out=tmp_path / "store", k=4, tail_draws=4
    )
    assert (found.documents, found.targets) == (dumped.documents, dumped.targets)
    assert found.tokens == dumped.targets + dumped.documents  # all but the first of each count
    assert (found.records, found.shapes) == (8 * len(TEXTS), {"text": 8 * len(TEXTS)})
    assert (found.files, found.unread) == (("a.jsonl", "b.jsonl"), ("notes.md",))
    assert (found.vocab_size, found.context, found.max_length) == (300, 64, 64)
    assert found.bytes == round((found.bytes_per_target or 0) * found.targets)
    assert [one.split(":")[0] for one in found.missing] == ["seconds", "retained_mass"]
    assert _plan(settings, limit=3).documents < found.documents


def test_the_chat_template_is_told(settings: dict[str, Any], tmp_path: Path) -> None:
    assert _plan(settings).chat_template == "none is needed"
    chat = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    (tmp_path / "chat.jsonl").write_text(json.dumps({"messages": chat}) + "\n")
    (tmp_path / "template.jinja").write_text(CHATML)
    change = {"data": tmp_path / "chat.jsonl", "turns": "last"}
    found = _plan(settings, **change, chat_template=tmp_path / "template.jinja")
    assert found.chat_template == str(tmp_path / "template.jinja")
    assert (found.turns, found.shapes) == ("last", {"messages": 1})


def test_the_command_prints_both_forms(settings: dict[str, Any]) -> None:
    words = ["estimate", "--plan-only", "--unit-tokens", "2000"]
    words += ["--teacher", settings["teacher"], "--data", settings["data"]]
    told = CliRunner().invoke(app, words)
    assert told.exit_code == 0, told.output
    for part in ("vocabulary 300", "not read: 1", "very roughly", "not told: seconds"):
        assert part in told.stdout
    found = json.loads(CliRunner().invoke(app, [*words, "--json"]).stdout)
    assert found == json.loads(json.dumps(asdict(_plan(settings))))


def test_bytes_grow_with_the_entries_and_the_draws() -> None:
    def size(name: str, **options: Any) -> float:
        return rough_bytes_per_target(sparsifier_spec(name, **options)) or 0.0

    assert size("topk", k=64) == 81.0
    assert size("topk", k=30) == pytest.approx(38.8 + 27.4 / 25 * 5)
    assert size("topk", k=200) > 2 * size("topk", k=64)
    assert size("hybrid", k=8, tail_draws=8) == pytest.approx(31.0)
    assert size("unbiased", k=16, repeats=2) == 2 * size("unbiased", k=16)


def test_what_is_not_loaded_gives_nothing(settings: dict[str, Any]) -> None:
    teacher = UnloadedTeacher.of(settings["teacher"])
    with pytest.raises(ModelError, match="not loaded"):
        _ = teacher.spec
    with pytest.raises(ModelError, match="not loaded"):
        teacher.logits([])
    with pytest.raises(SettingError, match="exclude each other"):
        logitstore.estimate(**settings, plan_only=True, seconds=3.0)
