"""The wheel that users install: whole, and with a description that needs no other file."""

import email
import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = ("logitstore", "trainer", "pyproject.toml", "README.md", "LICENSE")
BUILD = "import sys; from setuptools import build_meta; print(build_meta.build_wheel(sys.argv[1]))"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project's wheel, built of a copy of the tree."""
    tree = tmp_path_factory.mktemp("tree")
    for name in SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tree / name)
    out = tmp_path_factory.mktemp("dist")
    call = [sys.executable, "-c", BUILD, str(out)]
    subprocess.run(call, check=True, cwd=tree, stdout=subprocess.DEVNULL)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of packages that holds the wheel alone."""
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def run(site: Path, *words: object) -> str:
    """What a command of the installed packages prints, started outside the tree."""
    found = subprocess.run(
        [sys.executable, *map(str, words)],
        check=True,
        capture_output=True,
        text=True,
        cwd=site,
        env={"PYTHONPATH": str(site), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"},
    )
    return found.stdout


def test_the_wheel_holds_every_module_and_every_file_that_is_read(site: Path) -> None:
    for package in ("logitstore", "trainer"):
        for path in (ROOT / package).rglob("*"):
            if path.suffix in (".py", ".jinja", ".typed"):
                assert (site / path.relative_to(ROOT)).is_file(), path
    assert not list(site.glob("tests*")) + list(site.glob("tools*"))


def test_its_commands_run_outside_the_tree(
    site: Path, teacher_folder: Path, tmp_path: Path
) -> None:
    assert str(site) in run(site, "-c", "import logitstore; print(logitstore.__file__)")
    (tmp_path / "data.txt").write_text("The teacher reads the text once.\n" * 9)
    (tmp_path / "student.json").write_text(
        json.dumps({"model_type": "gpt2", "n_embd": 8, "n_layer": 1, "n_head": 1})
    )
    places = ("--teacher", teacher_folder, "--data", tmp_path / "data.txt")
    run(site, "-m", "logitstore", "dump", *places, "--out", tmp_path / "store")
    run(site, "-m", "logitstore", "verify", tmp_path / "store")
    fit = ("--student", tmp_path / "student.json", "--out", tmp_path / "run", "--steps", 1)
    run(site, "-m", "trainer", "fit", "--logits", tmp_path / "store", *fit)
    run(site, "-m", "trainer", "eval", tmp_path / "run", "--logits", tmp_path / "store")
    run(site, "-m", "trainer", "report", tmp_path / "run", "--out", tmp_path / "page.html")
    assert "<table" in (tmp_path / "page.html").read_text()


def test_its_description_stands_alone(site: Path) -> None:
    (path,) = site.glob("*.dist-info/METADATA")
    metadata = email.message_from_string(path.read_text(encoding="utf-8"))
    labels = {line.partition(",")[0] for line in metadata.get_all("Project-URL", [])}
    assert {"Homepage", "Documentation", "Changelog", "Issues"} <= labels
    text = metadata.get_payload()
    links = re.findall(r"\]\(([^)]+)\)", text) + re.findall(r"(?m)^\[[^]]+\]: (.*)$", text)
    assert len(links) > 5
    assert [link for link in links if not link.startswith("https://")] == []
