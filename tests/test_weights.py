"""Weights in one file or several, safetensors or .bin: read, named by a hash, or refused."""

from __future__ import annotations

import json
import os
import shutil
from typing import TYPE_CHECKING, Any

import pytest
import torch

from logitstore.errors import ModelError
from logitstore.teacher.models import load_model
from logitstore.teacher.weights import weights_fingerprint
from tests.tiny_models import tiny

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

INDEX = "model.safetensors.index.json"


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    """A model of five safetensors and their index."""
    tiny().save_pretrained(tmp_path / "parts", max_shard_size="6KB")
    assert len(list((tmp_path / "parts").glob("*.safetensors"))) == 5
    return tmp_path / "parts"


def bins(folder: Path, *, count: int) -> Path:
    """The same model in `count` .bin files, with an index where there are several."""
    tiny().config.save_pretrained(folder)
    state = list(tiny().state_dict().items())
    names = [f"pytorch_model-{one + 1:05}-of-{count:05}.bin" for one in range(count)]
    names = names if count > 1 else ["pytorch_model.bin"]
    for number, name in enumerate(names):
        torch.save(dict(state[number::count]), folder / name)
    if count > 1:
        where = {key: names[number % count] for number, (key, _) in enumerate(state)}
        index = {"metadata": {}, "weight_map": where}
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    return folder


def is_tiny(model: Any) -> bool:
    wanted = tiny().state_dict()
    return all(torch.equal(wanted[name], value) for name, value in model.state_dict().items())


def test_a_model_in_parts_is_the_model(parts: Path) -> None:
    assert is_tiny(load_model(parts, dtype=torch.float32))


@pytest.mark.parametrize("count", [1, 3])
def test_bin_files_are_read_as_tensors_alone(count: int, tmp_path: Path) -> None:
    folder = bins(tmp_path / "bins", count=count)
    assert is_tiny(load_model(folder, dtype=torch.float32))


class _Code:
    def __reduce__(self) -> Any:
        return os.mkdir, ("ran",)


@pytest.mark.parametrize("count", [1, 3])
def test_a_bin_file_with_code_is_refused_and_not_run(
    count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = bins(tmp_path / "bins", count=count)
    name = sorted(folder.glob("*.bin"))[-1]
    torch.save({**torch.load(name), "more": _Code()}, name)
    with pytest.raises(ModelError, match=r"bins: a \.bin file holds more than tensors") as caught:
        load_model(folder, dtype=torch.float32)
    assert "weights_only" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_every_file_and_the_index_are_in_the_fingerprint(
    kind: str, parts: Path, tmp_path: Path
) -> None:
    folder = parts if kind == "safetensors" else bins(tmp_path / "bins", count=3)
    first = weights_fingerprint(folder)
    for path in [*folder.glob(f"*.{kind}"), *folder.glob("*.index.json")]:
        content = path.read_bytes()
        path.write_bytes(content + b" ")
        assert weights_fingerprint(folder) != first
        path.write_bytes(content)
    assert weights_fingerprint(folder) == first


def _elsewhere(folder: Path) -> None:
    shutil.copy(sorted(folder.glob("*.safetensors"))[0], folder.parent / "other.safetensors")
    content = json.loads((folder / INDEX).read_text())
    content["weight_map"][next(iter(content["weight_map"]))] = "../other.safetensors"
    (folder / INDEX).write_text(json.dumps(content))


def _two_models(folder: Path) -> None:
    tiny(seed=1).save_pretrained(folder.parent / "whole")
    shutil.copy(folder.parent / "whole" / "model.safetensors", folder)


def _torn(folder: Path) -> None:
    part = sorted(folder.glob("*.safetensors"))[1]
    part.write_bytes(part.read_bytes()[:-40])


def _fewer_layers(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 1}))


BROKEN: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no part": (
        lambda folder: sorted(folder.glob("*.safetensors"))[1].unlink(),
        r"missing \(found no model-00002-of-00005\.safetensors, which model\.safetensors\.index",
    ),
    "no index": (lambda folder: (folder / INDEX).unlink(), "no file named model.safetensors"),
    "torn index": (lambda folder: (folder / INDEX).write_text("{"), "index cannot be read"),
    "empty index": (lambda folder: (folder / INDEX).write_text("{}"), "has no weight_map"),
    "index of nothing": (
        lambda folder: (folder / INDEX).write_text('{"weight_map": {}}'),
        "has no weight_map",
    ),
    "elsewhere": (_elsewhere, r"outside of the model's folder \(found \.\./other"),
    "two models": (_two_models, "holds two models: model.safetensors, and the parts"),
    "a layer too many": (
        _fewer_layers,
        r"layers that its configuration does not count.*model\.layers\.1\.",
    ),
    "torn part": (_torn, "no causal language model can be loaded"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_folder_that_holds_no_whole_model_is_refused(name: str, parts: Path) -> None:
    spoil, message = BROKEN[name]
    spoil(parts)
    with pytest.raises(ModelError, match=message):
        load_model(parts, dtype=torch.float32)


def test_a_file_that_no_index_names_is_passed_over(parts: Path) -> None:
    part = sorted(parts.glob("*.safetensors"))[1]
    shutil.copy(part, parts / "model-00006-of-00006.safetensors")
    assert is_tiny(load_model(parts, dtype=torch.float32))
