"""What is said of a damaged file of a sealed store: the file, once, its fault, and a way out."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

import logitstore
from logitstore.cli.commands import app
from logitstore.errors import CorruptionError, StoreError
from tools.torture_store import CONTAINERS, Scene, make_scene

DAMAGES: dict[str, Callable[[bytes], bytes | None]] = {
    "a bit": lambda data: (
        data[: len(data) // 3] + bytes([data[len(data) // 3] ^ 1]) + data[len(data) // 3 + 1 :]
    ),
    "cut": lambda data: data[:-1],
    "empty": lambda _: b"",
    "gone": lambda _: None,
}
NOTES = ("README.md",)  # files that nothing is read from


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return make_scene(tmp_path_factory.mktemp("scene"), records=6)


def _read_all(store: Path) -> None:
    opened = logitstore.open(store)
    opened.tokenizer_files()
    for document in opened:
        del document


@pytest.mark.parametrize("container", CONTAINERS)
def test_a_lack_of_memory_is_no_damage(
    container: str, scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.dump(tmp_path / "store", container=container)
    store = logitstore.open(tmp_path / "store")

    def decode(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(type(store.shards.codec), "decode", decode)
    for read in (lambda: store.read_block(0), store.sound):
        with pytest.raises(StoreError, match="there is not enough memory") as caught:
            read()
        assert not isinstance(caught.value, CorruptionError)
        assert "damage" not in str(caught.value)


def test_no_name_of_a_file_begins_a_line_of_what_is_told(scene: Scene, tmp_path: Path) -> None:
    store = tmp_path / "store"
    scene.dump(store, container="parquet")
    (store / "data" / "x\nforged: sound").write_text("a note")
    for command in (["verify"], ["verify", "--strict"], ["gc"], ["verify", "--json"]):
        done = CliRunner().invoke(app, [*command, str(store)])
        assert "forged" in done.output
        assert not any(one.startswith("forged") for one in done.output.splitlines())


@pytest.mark.parametrize("command", ["inspect", "verify"])
def test_a_closed_output_is_no_fault(scene: Scene, tmp_path: Path, command: str) -> None:
    scene.dump(tmp_path / "store", container="parquet")
    words = ["-m", "logitstore", command, str(tmp_path / "store")]
    closed = ["sh", "-c", 'exec "$0" "$@" >&-', sys.executable, *words]
    done = subprocess.run(closed, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("container", CONTAINERS)
def test_each_damaged_file_is_named_once_with_a_way_out(
    container: str, scene: Scene, tmp_path: Path
) -> None:
    store = tmp_path / "a store"
    scene.dump(store, container=container)
    files = [one for one in store.rglob("*") if one.is_file() and one.name not in NOTES]
    for file in sorted(files):
        data = file.read_bytes()
        for damage, change in DAMAGES.items():
            if (file.name, damage) == ("manifest.json", "gone"):
                continue  # a store that is not finished
            changed = change(data)
            if changed is None:
                file.unlink()
            else:
                file.write_bytes(changed)
            with pytest.raises(CorruptionError) as caught:
                _read_all(store)
            told = caught.value.command_line_message
            assert told.startswith(str(file)), (damage, told)
            assert told.count(str(store)) == 1, (damage, told)
            assert ". Put a copy of the file back" in told, (damage, told)
            assert "\\x" not in told, (damage, told)
            file.write_bytes(data)
    _read_all(store)
