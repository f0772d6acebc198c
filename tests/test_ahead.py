"""Reading ahead: the same blocks, fetched before they are asked for, in bounded memory."""

from __future__ import annotations

import multiprocessing
import pickle
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from torch.utils.data import DataLoader

import logitstore
from logitstore.errors import CorruptionError
from logitstore.store.ahead import ReadAhead
from logitstore.store.storage import open_storage, read_together
from tests.synthetic import store_spec, stored_documents, write_store
from tools.dict_storage import DictStorage
from tools.torture_store import CONTAINERS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from logitstore.store.reader import Store

UNITS = [stored_documents([9, 5, 7, 20], seed=seed) for seed in range(4)]


@dataclass
class FarDict(DictStorage):
    """A storage in memory whose answers take a while, and which counts those on their way."""

    seconds: float = 0.0
    waiting: int = 0
    most: int = 0
    calls: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def read_together(
        self, wanted: Mapping[str, Sequence[tuple[int, int]]]
    ) -> dict[str, list[bytes]]:
        self.calls.append(threading.current_thread().name)
        self.waiting += 1
        self.most = max(self.most, self.waiting)
        time.sleep(self.seconds)
        self.waiting -= 1
        return {name: self.read_ranges(name, ranges) for name, ranges in wanted.items()}


def _far(container: str, *, seconds: float = 0.0) -> tuple[FarDict, Store]:
    storage = FarDict(seconds=seconds)
    write_store(storage, UNITS, spec=store_spec(container=container, block_targets=20))
    storage.calls.clear()
    return storage, logitstore.open(storage)


@pytest.mark.parametrize("container", CONTAINERS)
def test_what_is_expected_is_read_once_and_is_the_same(container: str) -> None:
    storage, store = _far(container)
    plain = [store.read_block(number) for number in range(len(store.blocks))]
    ahead = store.ahead()
    for number in (3, 1, 3):
        ahead.expect(number)
    for fetching in list(ahead._fetching.values()):
        fetching.result(timeout=60)
    storage.ranges.clear()
    for number in (1, 3):
        found, wanted = ahead.read_block(number).split(), plain[number].split()
        assert [one.document.id for one in found] == [one.document.id for one in wanted]
    big = [one for one in storage.ranges if "documents/" not in one[0]]
    assert not big
    storage.ranges.clear()
    ahead.read_block(2)  # nobody said so
    assert storage.ranges


def test_several_blocks_are_on_their_way_at_the_same_time() -> None:
    storage, store = _far("zarr", seconds=0.05)
    ahead = ReadAhead(store, all_draws=True)
    for number in ahead.in_turn(range(len(store.blocks))):
        list(ahead.read_draws(number))
    assert storage.most > 2


def test_blocks_that_wait_take_no_more_than_their_bound() -> None:
    _, store = _far("zarr")
    each = store.stored_bytes // len(store.blocks)
    ahead = ReadAhead(store, most=2 * each + 1)
    for number in range(len(store.blocks)):
        ahead.expect(number)
    assert 1 <= len(ahead._fetching) <= 3
    for number in reversed(range(len(store.blocks))):  # those that wait last come first
        assert len(ahead.read_block(number)) == store.blocks[number].documents
    assert not ahead._fetching
    assert not ahead._queue


def test_what_fails_ahead_is_told_when_it_is_read() -> None:
    storage, store = _far("zarr")
    name = next(one for one in storage.objects if "entries/c/" in one)
    whole, storage.objects[name] = storage.objects[name], b""
    ahead = store.ahead()
    ahead.expect(0)
    with pytest.raises(CorruptionError, match=name):
        ahead.read_block(0)
    storage.objects[name] = whole
    ahead.expect(0)
    assert len(ahead.read_block(0)) == store.blocks[0].documents


@dataclass
class _Watched:
    """A store that knows which threads read its blocks, and how many at the same time."""

    store: Store
    reading: int = 0
    most: int = 0
    calls: list[tuple[int, str]] = field(default_factory=list)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)

    def read_block(self, number: int, **given: Any) -> Any:
        self.calls.append((number, threading.current_thread().name.split("_")[0]))
        self.reading += 1
        self.most = max(self.most, self.reading)
        time.sleep(0.02)
        self.reading -= 1
        return self.store.read_block(number, **given)


@pytest.mark.parametrize("container", CONTAINERS)
def test_blocks_that_are_begun_are_read_once_by_two_threads(container: str, tmp_path: Path) -> None:
    spec = store_spec(container=container, block_targets=20)
    store = logitstore.open(write_store(tmp_path, UNITS, spec=spec).uri)
    numbers, watched = range(len(store.blocks)), _Watched(store)
    ahead = ReadAhead(watched)
    for number in (*numbers, *numbers):
        ahead.begin(number)
    for number in numbers:
        found, wanted = ahead.read_block(number), store.read_block(number)
        assert found.ids == wanted.ids
        assert found.targets.logprobs_RK.tobytes() == wanted.targets.logprobs_RK.tobytes()
        assert found.targets.ids_RK.tobytes() == wanted.targets.ids_RK.tobytes()
    assert sorted(watched.calls) == [(number, "readers") for number in numbers]
    assert watched.most == 2
    assert not ahead._reading
    ahead.read_block(0)  # nobody said so: it is read now, by who asks
    assert watched.calls[-1] == (0, threading.current_thread().name)


def test_damage_of_a_block_that_was_begun_is_told_where_it_is_read_in_the_same_words() -> None:
    storage, store = _far("zarr", seconds=0.02)
    name = next(one for one in storage.objects if "entries/c/" in one)
    storage.objects[name] = b""
    broken = next(number for number in range(len(store.blocks)) if _told(store, number))
    ahead = ReadAhead(store)
    for number in range(len(store.blocks)):
        ahead.begin(number)
    for number in range(broken):
        assert len(ahead.read_block(number)) == store.blocks[number].documents
    assert _told(ahead, broken) == _told(store, broken)
    assert not ahead._reading  # what nobody will ask for is not read


def _told(reader: Store | ReadAhead, number: int) -> str:
    """What reading a block raises; empty where it raises nothing."""
    try:
        reader.read_block(number)
    except CorruptionError as error:
        return str(error)
    return ""


def test_where_no_thread_is_to_be_had_who_asks_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    _, store = _far("zarr")
    monkeypatch.setattr("logitstore.store.ahead._begun", lambda *_, **__: refused())
    ahead = ReadAhead(store)
    ahead.begin(0)
    assert len(ahead.read_block(0)) == store.blocks[0].documents


def test_a_near_store_is_told_nothing(tmp_path) -> None:
    store = logitstore.open(write_store(tmp_path, UNITS, spec=store_spec()).uri)
    ahead = store.ahead()
    ahead.expect(0)
    ahead.expect_lengths(0)
    assert not ahead.far
    assert not ahead._queue
    assert not ahead._fetching
    assert not ahead._lengths


def test_a_copy_begins_anew() -> None:
    _, store = _far("zarr")
    ahead = store.ahead()
    ahead.expect(0)
    again = pickle.loads(pickle.dumps(ahead))
    assert not again._fetching
    assert len(again.read_block(0)) == store.blocks[0].documents


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("seconds", [0, 0.001, 0.002, 0.004, 0.008])
def test_a_fork_amid_what_is_read_begins_anew(container: str, seconds: float) -> None:
    """A lock that a thread held at the fork would never be free in the child."""
    _, store = _far(container)
    ahead = store.ahead()
    context = multiprocessing.get_context("fork")
    lengths = context.Queue()
    child = context.Process(
        target=lambda: lengths.put(
            (len(ahead.read_block(0)), len(ahead.document_lengths(2)[0])),
        )
    )
    ahead.expect(0)
    ahead.begin(3)
    ahead.expect_lengths(1)
    ahead.expect_lengths(2)
    time.sleep(seconds)
    child.start()
    assert lengths.get(timeout=60) == (store.blocks[0].documents, store.blocks[2].documents)
    child.join()
    assert len(ahead.read_block(0)) == store.blocks[0].documents


def test_a_bucket_is_read_by_forked_workers(bucket: str) -> None:
    """obstore was used before the fork, and its threads are not in the children."""
    write_store(open_storage(bucket), UNITS, spec=store_spec(block_targets=20))
    store = logitstore.open(bucket)
    wanted = [int(store.read_block(0).input_ids_N.sum())]
    loader = DataLoader(
        _Blocks(store), batch_size=None, num_workers=1, multiprocessing_context="fork"
    )
    assert [int(one) for one in loader][:1] == wanted


class _Blocks:
    def __init__(self, store: Store) -> None:
        self.store = store

    def __len__(self) -> int:
        return len(self.store.blocks)

    def __getitem__(self, number: int) -> int:
        if number >= len(self):
            raise IndexError(number)
        return int(self.store.read_block(number).input_ids_N.sum())


def test_a_near_storage_is_asked_for_one_object_after_another() -> None:
    storage = DictStorage()
    storage.objects = {"a": b"12345", "b": b"67890"}
    assert read_together(storage, {"b": [(0, 2), (3, 9)], "a": []}) == {
        "b": [b"67", b"90"],
        "a": [],
    }
