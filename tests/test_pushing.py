"""`fit --push-to-hub`: the result of a run in a model repository of the Hub."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import trainer
from logitstore.errors import LogitStoreError
from tests.hub_server import READER, WRITER, HubServer, hub_server
from tests.memory_store import MemoryStore
from tests.tiny_models import CONFIGS

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content:DeprecationWarning")


@pytest.fixture(scope="module")
def _hub() -> Iterator[HubServer]:
    with hub_server() as server:
        yield server


@pytest.fixture
def hub(_hub, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", _hub.url)
    template = f"{_hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", WRITER)
    _hub.fail()
    _hub.log()
    return _hub


def fit(tmp_path, **settings):
    config = tmp_path / "student.json"
    config.write_text(CONFIGS["llama"].to_json_string())
    out = tmp_path / "run"
    trainer.fit(
        logits=MemoryStore(),
        student=config,
        out=out,
        steps=2,
        batch_tokens=64,
        device="cpu",
        **settings,
    )
    return out


def test_the_result_lies_on_the_hub_and_nothing_else_of_the_run(tmp_path, hub):
    from huggingface_hub import HfApi

    out = fit(tmp_path, push_to_hub="team/student", keep_checkpoints=True)
    assert list(out.glob("checkpoint-*"))
    api = HfApi()
    found = {one.path: one for one in api.list_repo_tree("team/student", recursive=True)}
    assert {"model.safetensors", "config.json", "run.json", "history.json"} <= {*found}
    assert not [name for name in found if name.startswith(("checkpoint", "best"))]
    for name in ("model.safetensors", "config.json", "run.json"):
        assert found[name].size == (out / name).stat().st_size


def test_a_repository_that_one_may_not_write_is_told_before_anything_is_trained(
    tmp_path, hub, monkeypatch
):
    monkeypatch.setenv("HF_TOKEN", READER)
    with pytest.raises(LogitStoreError, match="other/student"):
        fit(tmp_path, push_to_hub="other/student")
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_an_upload_that_fails_leaves_the_result_and_says_how_to_send_it(tmp_path, hub):
    hub.fail({"match": "commit", "status": 500, "times": 50})
    with pytest.raises(LogitStoreError, match=r"run has finished in .*run.*hf upload team/late"):
        fit(tmp_path, push_to_hub="team/late")
    assert (tmp_path / "run" / "model.safetensors").is_file()
