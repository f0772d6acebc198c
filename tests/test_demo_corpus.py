"""The demo's corpus, its teacher, and the folder that it clears."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import torch

from logitstore import SettingError
from tools.demo import MARKER, QUICK, main, run_demo
from tools.demo_corpus import Text, collect, split, write_corpus
from tools.demo_teacher import held_out_loss, llama_config, train_teacher, train_tokenizer

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def documents() -> list[Text]:
    return list(collect())


def characters(documents: list[Text]) -> int:
    return sum(len(document.text) for document in documents)


def test_every_python_has_this_text(documents: list[Text]) -> None:
    assert 1_000_000 < characters(documents) < 5_000_000
    sources = [document.source for document in documents]
    assert len(set(sources)) == len(sources) > 300
    assert "topics/compound" in sources
    assert "argparse.py" in sources
    assert not [source for source in sources if "test" in source.split("/")]


def test_no_long_paragraph_stands_twice(documents: list[Text]) -> None:
    paragraphs = [
        words
        for document in documents
        for paragraph in document.text.split("\n\n")
        if len(words := " ".join(paragraph.split())) >= 60
    ]
    assert len(set(paragraphs)) == len(paragraphs) > 5_000


def test_docstrings_come_from_sources_in_order(tmp_path: Path) -> None:
    """Nothing is imported, short docstrings and test packages are left out."""
    body = "\n    ".join(f"Sentence {i} of a docstring that is long enough." for i in range(5))
    source = (
        f'"""Module. {body}"""\nraise SystemExit("imported")\n'
        f'class A:\n    """Class. {body}"""\n    def f(self):\n        """Short."""\n'
        f'async def g():\n    """Function. {body}"""\n'
    )
    for name in ("b.py", "pkg/a.py", "test/t.py", "site-packages/s.py"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(source.replace("Sentence", name))
    found = [document for document in collect(tmp_path) if not document.source.startswith("topics")]
    assert [document.source for document in found] == ["b.py", "pkg/a.py"]
    text = found[0].text
    assert text.index("Module.") < text.index("Class.") < text.index("Function.")
    assert "Short." not in text


def test_split_takes_whole_documents_by_their_names(documents: list[Text]) -> None:
    train, student, heldout = split(documents)
    sources = [{document.source for document in part} for part in (train, student, heldout)]
    assert not sources[0] & sources[2]
    assert sources[1] < sources[0]
    assert sources[0] | sources[2] == {document.source for document in documents}
    assert 0.04 < characters(heldout) / characters(documents) <= 0.05
    assert 0.13 < characters(student) / characters(train) <= 0.15
    again = split(documents[::-1])
    assert [{document.source for document in part} for part in again] == sources


def test_files_hold_the_split(tmp_path: Path, documents: list[Text]) -> None:
    files = write_corpus(tmp_path / "new" / "folder", documents)
    parts = zip((files.train, files.student, files.heldout), split(documents), strict=True)
    for path, part in parts:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        assert rows == [{"text": one.text, "source": one.source} for one in part]


def test_limit_keeps_a_part(tmp_path: Path, documents: list[Text]) -> None:
    files = write_corpus(tmp_path, documents, limit=100_000)
    size = sum(len(path.read_text(encoding="utf-8")) for path in (files.train, files.heldout))
    assert 80_000 < size < 130_000
    assert files.heldout.stat().st_size > 0


@pytest.fixture
def small(tmp_path: Path) -> dict[str, Path]:
    """Files of a text that even a tiny model learns in a few steps."""
    text = "the teacher reads the text once and the student reads what the teacher wrote. " * 40
    paths = {name: tmp_path / f"{name}.jsonl" for name in ("train", "heldout")}
    for path in paths.values():
        path.write_text("".join(json.dumps({"text": text}) + "\n" for _ in range(8)))
    return paths


def test_teacher_learns_and_a_seed_gives_one_teacher(
    tmp_path: Path, small: dict[str, Path]
) -> None:
    lines: list[str] = []
    sizes = {"width": 32, "layers": 1, "windows": 2, "lr": 2e-2}
    first, again = (
        train_teacher(**small, out=tmp_path / name, steps=8, report=lines.append, **sizes)
        for name in ("first", "again")
    )
    untrained = train_teacher(**small, out=tmp_path / "u", steps=1, report=lines.append, **sizes)
    assert first.loss < untrained.loss - 0.5
    assert again.loss == first.loss
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("first", "again")]
    assert weights[0] == weights[1]
    assert (tmp_path / "first" / "tokenizer.json").is_file()
    assert any("8 of 8" in line for line in lines)


def test_held_out_loss_is_the_mean_over_windows(tmp_path: Path, small: dict[str, Path]) -> None:
    """Against the loss of all windows at once."""
    teacher = train_teacher(
        **small, out=tmp_path / "t", steps=1, width=32, layers=1, report=lambda _: None
    )
    tokens_N = torch.randint(len(teacher.tokenizer), (19 * 256 + 5,))
    windows_BL = tokens_N[: 19 * 256].view(19, 256)
    with torch.no_grad():
        expected = float(teacher.model(input_ids=windows_BL, labels=windows_BL).loss)
    assert held_out_loss(teacher.model, tokens_N) == pytest.approx(expected, rel=1e-5)


def test_tokenizer_spells_every_text() -> None:
    tokenizer = train_tokenizer(["some text " * 50], vocab_size=300)
    text = "naïve\t日本 🎈\r\n  x"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert tokenizer.eos_token_id == 0
    assert len(tokenizer) <= 300


def test_student_configuration_is_plain_json() -> None:
    config = llama_config(vocab_size=2000, width=64, layers=2)
    assert json.loads(json.dumps(config)) == config
    assert config["hidden_size"] % config["num_attention_heads"] == 0


@pytest.mark.parametrize("names", [["notes.txt"], [MARKER, "notes.txt"], ["teacher"]])
def test_a_folder_of_something_else_is_left_alone(
    tmp_path: Path, names: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    for name in names:
        (tmp_path / name).write_text("mine")
    with pytest.raises(SettingError, match="something else than a demo"):
        run_demo(tmp_path, sizes=QUICK)
    assert main(["--quick", "--out", str(tmp_path)]) == 1
    assert "something else than a demo" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)
