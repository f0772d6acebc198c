"""How a store is begun: faults are told before it is, and one without rows is in nobody's way."""

import copy
import json
import os
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

import logitstore
from logitstore.errors import CorpusError, LogitStoreError, ModelError, SettingError, SpecError
from logitstore.format.json import canonical_json
from logitstore.store.begin import begin_store, lease_of, settle
from logitstore.store.commit import StoreWriter
from logitstore.store.layout import PLAN, SPEC, StoreLayout
from logitstore.store.local import LocalStorage
from logitstore.store.storage import Storage
from logitstore.store.verify import verify
from tests.synthetic import NO_TOKENIZER, plan_of, store_spec, stored_documents, write_store
from tests.test_teacher import TEXTS, Lines
from tools.dict_storage import DictStorage

FIRST = store_spec()
OTHER = replace(FIRST, batch_tokens=2048)
CHAT = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}


class _Loud(Lines):
    """Must not be asked: what it costs comes after what the corpus can tell."""

    @property
    def spec(self) -> Any:
        raise AssertionError("the teacher was looked at")

    @spec.setter
    def spec(self, value: Any) -> None: ...


@pytest.fixture(params=["files", "memory"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    return DictStorage() if request.param == "memory" else LocalStorage(tmp_path / "store")


@pytest.fixture
def settings(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> dict[str, Any]:
    return {"teacher": Lines(), "tokenizer": tokenizer, "data": TEXTS, "out": tmp_path / "store"}


def _write_all(folder: Path, files: dict[str, list[Any]]) -> Path:
    folder.mkdir()
    for name, records in files.items():
        (folder / name).write_text("".join(json.dumps(one) + "\n" for one in records))
    return folder


GOOD = [{"text": text} for text in TEXTS]
FAULTS: dict[str, tuple[dict[str, list[Any]], dict[str, Any], type[Exception], str]] = {
    "field": ({"a.jsonl": GOOD}, {"text_field": "nope"}, CorpusError, r"a\.jsonl:1: .*nope"),
    "field of the second": (
        {"a.jsonl": GOOD, "b.jsonl": [{"body": "c"}]},
        {},
        CorpusError,
        r"b\.jsonl:1: ",
    ),
    "chat": ({"a.jsonl": [CHAT]}, {}, ModelError, "no chat template"),
    "chat, bad ones skipped": ({"a.jsonl": [CHAT]}, {"skip_bad": True}, ModelError, "template"),
    "empty": ({"a.jsonl": []}, {}, CorpusError, r"a\.jsonl: there is nothing in it"),
    "blank": ({"a.jsonl": [{"text": " "}]}, {}, CorpusError, r"a\.jsonl:1: text is empty"),
    "table": ({"a.jsonl": [[1]]}, {}, CorpusError, "no JSON object"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_corpus_that_cannot_be_used_costs_no_teacher_and_leaves_no_store(
    settings: dict[str, Any], tmp_path: Path, name: str
) -> None:
    files, options, error, message = FAULTS[name]
    settings["data"] = _write_all(tmp_path / "corpus", files)
    with pytest.raises(error, match=message):
        logitstore.dump(**settings | options | {"teacher": _Loud()})
    assert not settings["out"].exists()


def test_a_limit_keeps_later_files_unread(settings: dict[str, Any], tmp_path: Path) -> None:
    settings["data"] = _write_all(tmp_path / "corpus", {"a.jsonl": GOOD, "b.jsonl": []})
    assert logitstore.dump(**settings, limit=2).documents == 2


def test_a_try_that_wrote_no_row_is_in_nobodys_way(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    """The fault stands so far behind that it is met after the store was begun."""
    records = [{"text": ""}] * 9
    settings["data"] = _write_all(tmp_path / "corpus", {"a.jsonl": records}) / "a.jsonl"
    with pytest.raises(CorpusError, match="no record of the corpus gave a target"):
        logitstore.dump(**settings, skip_bad=True)
    assert (settings["out"] / SPEC).exists()
    (tmp_path / "corpus" / "a.jsonl").write_text("".join(json.dumps(one) + "\n" for one in GOOD))
    done = logitstore.dump(**settings, sparsify="topk", k=8, max_length=16)
    assert list(verify(settings["out"])) == []
    assert logitstore.open(settings["out"]).spec.text.max_length == 16
    fresh = settings | {"out": tmp_path / "fresh"}
    again = logitstore.dump(**fresh, sparsify="topk", k=8, max_length=16)
    assert again.fingerprint == done.fingerprint
    with pytest.raises(SpecError, match="max_length 16 there"):
        logitstore.dump(**settings, sparsify="topk", k=8)


def test_a_store_without_rows_is_begun_anew(storage: Storage) -> None:
    layout = write_store(storage, [[], [], []], spec=FIRST, seal=False)
    storage.put("tokenizer/old.json", b"{}")
    storage.put("data/000000-00000000/entries/zarr.json", b"{}")
    StoreWriter(layout).begin(OTHER, plan_of(2), NO_TOKENIZER)
    assert layout.read_spec().identity() == OTHER.identity()
    assert layout.read_plan() == plan_of(2)
    assert set(storage.list("")) == {SPEC, PLAN, "tokenizer/tokenizer.json"}


def test_a_store_with_rows_is_not(storage: Storage) -> None:
    layout = write_store(storage, [stored_documents([9]), []], spec=FIRST, seal=False)
    before = {name: storage.read(name) for name in storage.list("")}
    with pytest.raises(SpecError, match="batch_tokens 1024 there, 2048 here"):
        StoreWriter(layout).begin(OTHER, plan_of(2), NO_TOKENIZER)
    assert {name: storage.read(name) for name in storage.list("")} == before


OWNERS = {
    "a unit's": ("leases/000000.json", {}),
    "a store's": ("leases/store-0000000000000000.json", {"key": "0" * 16, "settings": "0" * 64}),
}


@pytest.mark.parametrize("name", OWNERS)
def test_a_store_on_which_another_process_works_is_not_begun_anew(
    storage: Storage, name: str
) -> None:
    layout = write_store(storage, [], spec=FIRST, seal=False)
    lease, more = OWNERS[name]
    owner = {"host": socket.gethostname(), "pid": os.getppid(), "time": time.time(), **more}
    storage.put(lease, json.dumps(owner).encode())
    with pytest.raises(SpecError, match="batch_tokens"):
        StoreWriter(layout).begin(OTHER, plan_of(2), NO_TOKENIZER)
    assert layout.read_spec().identity() == FIRST.identity()
    storage.put(lease, json.dumps(owner | {"time": time.time() - 61}).encode())
    StoreWriter(layout).begin(OTHER, plan_of(2), NO_TOKENIZER)
    assert layout.read_spec().identity() == OTHER.identity()


def test_a_store_on_which_another_thread_works_is_not_begun_anew(storage: Storage) -> None:
    layout = write_store(storage, [], spec=FIRST, seal=False)
    lease = lease_of(layout, FIRST)
    lease.take()
    with pytest.raises(SpecError, match="batch_tokens"):
        StoreWriter(layout).begin(OTHER, plan_of(2), NO_TOKENIZER)
    lease.release()
    StoreWriter(layout).begin(OTHER, plan_of(2), NO_TOKENIZER)
    assert not list(storage.list("leases/"))


def test_one_process_at_a_time_may_begin_a_store_anew(storage: Storage) -> None:
    layout = write_store(storage, [], spec=FIRST, seal=False)
    one, two = lease_of(layout, OTHER), lease_of(layout, OTHER)
    for lease in (one, two):
        lease.take()
    assert one.claim()
    assert not two.claim()
    one.release_claim()
    assert two.claim()


def test_whose_note_is_gone_is_not_alone(storage: Storage) -> None:
    """Another process, which does not see it, may begin the store anew."""
    lease = lease_of(write_store(storage, [], spec=FIRST, seal=False), OTHER)
    lease.take()
    assert lease.is_alone()
    storage.delete(lease.name)
    assert not lease.is_alone()


def test_many_begin_one_store_anew(storage: Storage) -> None:
    layout = write_store(storage, [[], []], spec=FIRST, seal=False)

    def begin(_: int) -> None:
        StoreWriter(layout).begin(OTHER, plan_of(3), NO_TOKENIZER)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(begin, range(8)))
    assert layout.read_spec().identity() == OTHER.identity()
    assert layout.read_plan() == plan_of(3)
    assert set(storage.list("")) == {SPEC, PLAN, "tokenizer/tokenizer.json"}


def test_who_finds_the_store_begun_anew_stops_and_takes_back_what_it_wrote(
    settings: dict[str, Any],
) -> None:
    """Leases are notes: where they fail, no row may stand in a store of other settings."""
    layout = StoreLayout.at(settings["out"])

    def replace_spec(now: logitstore.Progress) -> None:
        if now.stage != "dumping":
            return
        spec = layout.read_spec()
        layout.storage.put(SPEC, canonical_json(replace(spec, batch_tokens=7).to_json()))

    with pytest.raises(SpecError, match="batch_tokens 7 there"):
        logitstore.dump(**settings, on_progress=replace_spec)
    assert not list(layout.storage.list("commits/"))


@pytest.mark.parametrize("option", ["limit", "unit_tokens", "batch_tokens"])
def test_a_number_that_no_reader_takes_is_not_written(
    settings: dict[str, Any], option: str
) -> None:
    with pytest.raises(SettingError, match=f"could not be read again.*{option}.*{1 << 60}"):
        logitstore.dump(**settings, **{option: 1 << 60})
    assert not (settings["out"] / SPEC).exists()
    logitstore.dump(**settings)


def test_a_folder_whose_name_is_no_text_is_told(settings: dict[str, Any], tmp_path: Path) -> None:
    folder = os.fsdecode(os.fsencode(tmp_path) + b"/corpus\xff")
    settings["data"] = str(_write_all(Path(folder), {"a.jsonl": GOOD}))
    with pytest.raises(CorpusError, match="name is no text"):
        logitstore.dump(**settings)
    assert not settings["out"].exists()


def test_a_file_of_the_tokenizer_that_no_store_can_hold_is_told(settings: dict[str, Any]) -> None:
    tokenizer = copy.deepcopy(settings["tokenizer"])
    tokenizer.chat_template = {"default": "{{ messages }}", "with a space": "{{ messages }}"}
    with pytest.raises(SettingError, match=r"could not be read again.*with a space"):
        logitstore.dump(**settings | {"tokenizer": tokenizer})
    assert not (settings["out"] / SPEC).exists()


@pytest.mark.parametrize("change", [{"architecture": 3}, {"parameters": -1}, {"name": "\ud800"}])
def test_a_spec_that_could_not_be_read_again_is_not_written(
    storage: Storage, change: dict[str, Any]
) -> None:
    spec = replace(FIRST, teacher=replace(FIRST.teacher, **change))
    with pytest.raises(SettingError, match="could not be read again"):
        StoreWriter(StoreLayout(storage)).begin(spec, plan_of(1), NO_TOKENIZER)
    assert not [name for name in storage.list("") if not name.startswith("leases/")]


@pytest.mark.parametrize(
    "change", [{"start": -1}, {"records": "3"}, {"source": None}, {"name": 3}, {"sha256": 0.5}]
)
def test_a_plan_of_other_types_is_refused(storage: Storage, change: dict[str, Any]) -> None:
    layout = write_store(storage, [stored_documents([9])], spec=FIRST)
    plan = json.loads(storage.read(PLAN))
    plan["units"][0] |= change
    del plan["sha256"]
    storage.put(PLAN, canonical_json(plan))
    with pytest.raises(LogitStoreError, match=r"plan\.json"):
        logitstore.open(layout.storage)


class _Meeting(DictStorage):
    """In which another process begins while the plan of an abandoned try is taken away."""

    def __init__(self) -> None:
        super().__init__()
        self.meanwhile: Any = None

    def delete(self, name: str) -> None:
        super().delete(name)
        if name == PLAN and self.meanwhile is not None:
            callback, self.meanwhile = self.meanwhile, None
            callback()


def test_a_store_has_the_plan_of_its_spec_whoever_begins_meanwhile() -> None:
    storage = _Meeting()
    layout = StoreLayout.at(storage)
    first, other = plan_of(1), plan_of(2)
    StoreWriter(layout).begin(FIRST, first, NO_TOKENIZER)

    def begin_as_before() -> None:
        lease = lease_of(layout, FIRST)  # not taken: it has not come so far
        begin_store(layout, FIRST, first, {"tokenizer.json": b"{ }"}, lease=lease)

    storage.meanwhile = begin_as_before
    StoreWriter(layout).begin(OTHER, other, NO_TOKENIZER)
    assert storage.meanwhile is None
    assert layout.read_spec().identity() == OTHER.identity()
    assert layout.read_plan() == other
    assert storage.read("tokenizer/tokenizer.json") == NO_TOKENIZER["tokenizer.json"]
    with pytest.raises(SpecError, match="begun with other settings"):
        settle(layout, FIRST, first)
    settle(layout, OTHER, other)
