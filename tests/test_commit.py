"""Commits under faults of the file system: what a commit names stays, and what failed leaves."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

import logitstore
from logitstore.errors import CorruptionError, StorageError
from logitstore.store.commit import StoreWriter
from logitstore.store.containers import CONTAINERS
from logitstore.store.layout import MANIFEST, StoreLayout
from logitstore.store.lease import Lease
from logitstore.store.local import LocalStorage
from logitstore.store.verify import verify
from logitstore.store.writer import UnitWriter
from tests.synthetic import NO_TOKENIZER, plan_of, store_spec, stored_documents
from tools.dict_storage import DictStorage

DOCUMENTS = stored_documents([30, 60], masked=True)
PLAN = plan_of(1)
(UNIT,) = PLAN.units


@pytest.fixture(params=sorted(CONTAINERS))
def layout(request: pytest.FixtureRequest, tmp_path: Path) -> StoreLayout:
    """A store that was begun and holds nothing yet."""
    layout = StoreLayout.at(tmp_path / "store")
    StoreWriter(layout).begin(store_spec(container=request.param), PLAN, NO_TOKENIZER)
    return layout


def _write(layout: StoreLayout) -> bool:
    writer = UnitWriter.of(StoreWriter(layout), layout.read_spec())
    return writer.write(UNIT, DOCUMENTS, skipped=0)


def _assert_sound(layout: StoreLayout) -> None:
    StoreWriter(layout).seal(PLAN)
    assert list(verify(layout.storage)) == []
    assert len(logitstore.open(layout.storage)) == len(DOCUMENTS)
    assert len({name.split("/")[1] for name in layout.storage.list("data/")}) == 1


# --- the commit is there, and then an error comes -----------------------------------------------


def _fail_to_sync_commits(patch: pytest.MonkeyPatch, code: int) -> None:
    sync = os.fsync

    def fsync(descriptor: int) -> None:
        if Path(f"/proc/self/fd/{descriptor}").readlink().name == "commits":
            raise OSError(code, os.strerror(code))
        sync(descriptor)

    patch.setattr(os, "fsync", fsync)


def _fail_to_remove_temporaries(patch: pytest.MonkeyPatch, code: int) -> None:
    def unlink(path: Path, missing_ok: bool = False) -> None:
        raise OSError(code, os.strerror(code), str(path))

    patch.setattr(Path, "unlink", unlink)


def _fail_behind_the_link(patch: pytest.MonkeyPatch, code: int) -> None:
    link = os.link

    def link_then_fail(source: Path, target: Path) -> None:
        link(source, target)
        raise OSError(code, os.strerror(code))

    patch.setattr(os, "link", link_then_fail)


def _fail_behind_the_rename(patch: pytest.MonkeyPatch, code: int) -> None:
    """Without hard links."""
    replace = Path.replace

    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    def replace_then_fail(source: Path, target: Path) -> None:
        replace(source, target)
        if target.parent.name == "commits":
            raise OSError(code, os.strerror(code))

    patch.setattr(os, "link", refuse)
    patch.setattr(Path, "replace", replace_then_fail)


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize(
    "fault",
    [
        _fail_to_sync_commits,
        _fail_to_remove_temporaries,
        _fail_behind_the_link,
        _fail_behind_the_rename,
    ],
)
def test_an_error_behind_the_commit_leaves_the_shard(
    layout: StoreLayout,
    monkeypatch: pytest.MonkeyPatch,
    fault: Callable[[pytest.MonkeyPatch, int], None],
    code: int,
) -> None:
    with monkeypatch.context() as patch:
        fault(patch, code)
        assert _write(layout) is True
    _assert_sound(layout)


@pytest.mark.parametrize("fault", [_fail_to_sync_commits, _fail_behind_the_link])
def test_an_error_behind_the_commit_of_a_unit_without_rows_is_none(
    layout: StoreLayout,
    monkeypatch: pytest.MonkeyPatch,
    fault: Callable[[pytest.MonkeyPatch, int], None],
) -> None:
    writer = UnitWriter.of(StoreWriter(layout), layout.read_spec())
    with monkeypatch.context() as patch:
        fault(patch, errno.EIO)
        assert writer.write(UNIT, [], skipped=3) is True
    assert StoreWriter(layout).seal(PLAN).skipped == 3


def test_an_interrupt_behind_the_commit_leaves_the_shard(
    layout: StoreLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = os.link

    def link_then_interrupt(source: Path, target: Path) -> None:
        link(source, target)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "link", link_then_interrupt)
        with pytest.raises(KeyboardInterrupt):
            _write(layout)
    _assert_sound(layout)


class LostReplies(DictStorage):
    """Creates an object and then finds it there: a conditional put that was sent twice."""

    def put_if_absent(self, name: str, data: bytes) -> bool:
        return super().put_if_absent(name, data) and super().put_if_absent(name, data)


def test_our_own_commit_in_place_is_a_win() -> None:
    layout = StoreLayout(LostReplies())
    StoreWriter(layout).begin(store_spec(), PLAN, NO_TOKENIZER)
    assert _write(layout) is True
    _assert_sound(layout)


def test_a_commit_that_cannot_be_read_keeps_every_attempt(
    layout: StoreLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody knows which one it names."""
    read = Path.read_bytes

    def refuse_commits(path: Path) -> bytes:
        if path.parent.name == "commits":
            raise OSError(errno.EIO, "Input/output error", str(path))
        return read(path)

    with monkeypatch.context() as patch:
        _fail_to_sync_commits(patch, errno.EIO)
        patch.setattr(Path, "read_bytes", refuse_commits)
        with pytest.raises(StorageError, match="commits"):
            _write(layout)
    _assert_sound(layout)


# --- an error before the commit -----------------------------------------------------------------


@pytest.mark.parametrize("place", ["data", "commits"])
def test_a_disk_that_is_full_before_the_commit_leaves_nothing(
    layout: StoreLayout, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    sync = os.fsync

    def full(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        if place in path.parts and path.suffix == ".tmp":
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(descriptor)

    before = sorted(layout.storage.list(""))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StorageError, match=rf"{place}.*no space left.*resumes"):
            _write(layout)
    assert sorted(layout.storage.list("")) == before
    assert isinstance(layout.storage, LocalStorage)
    assert not list(layout.storage.folder.rglob("*.tmp"))
    assert _write(layout) is True
    _assert_sound(layout)


def test_what_cannot_be_removed_after_a_loss_is_swept_at_the_seal(
    layout: StoreLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _write(layout) is True
    with monkeypatch.context() as patch:
        _fail_to_remove_temporaries(patch, errno.EIO)
        assert _write(layout) is False
    assert len({name.split("/")[1] for name in layout.storage.list("data/")}) == 2
    _assert_sound(layout)


# --- the seal -----------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["gone", "cut short"])
def test_a_store_is_not_sealed_over_a_file_that_is_not_there(
    layout: StoreLayout, damage: str
) -> None:
    _write(layout)
    storage = layout.storage
    for name in sorted(storage.list("data/")):
        whole = storage.read(name)
        storage.delete(name) if damage == "gone" else storage.put(name, whole[:-1])
        with pytest.raises(CorruptionError) as caught:
            StoreWriter(layout).seal(PLAN)
        commit = layout.place("commits/000000.json")
        assert str(caught.value).startswith(f"{layout.place(name)}: file is ")
        assert f"Delete {commit} and run the same command again" in str(caught.value)
        assert storage.size(MANIFEST) is None
        storage.put(name, whole)
    storage.delete(name)
    storage.delete("commits/000000.json")  # the way out
    assert _write(layout) is True
    _assert_sound(layout)


# --- leases -------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EACCES])
@pytest.mark.parametrize("call", ["fsync", "replace", "read_bytes", "unlink"])
def test_a_lease_that_is_refused_stops_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int
) -> None:
    lease = Lease(LocalStorage(tmp_path), UNIT)
    lease.take()

    def refuse(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os if call == "fsync" else Path, call, refuse)
    monkeypatch.setattr(lease, "_renewed", -100.0)
    assert lease.take()
    lease.renew()
    lease.release()


def test_a_lease_that_has_no_place_stops_nobody(tmp_path: Path) -> None:
    (tmp_path / "leases").touch()
    lease = Lease(LocalStorage(tmp_path), UNIT)
    assert lease.take()
    lease.renew()
    lease.release()


@pytest.mark.parametrize("make", [Path.mkdir, lambda path: path.symlink_to("nowhere")])
def test_what_stands_where_a_commit_should_be_is_told(
    layout: StoreLayout, make: Callable[[Path], None]
) -> None:
    place = Path(layout.uri) / "commits" / "000000.json"
    place.parent.mkdir(exist_ok=True)
    make(place)
    with pytest.raises(StorageError, match="Remove it and run the same command again"):
        _write(layout)
    assert not list(layout.storage.list("data/"))


def test_a_folder_of_leases_that_cannot_be_read_does_not_stop_the_seal(
    layout: StoreLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout.storage.put("leases/000000.json", b"{}")
    scandir = os.scandir

    def refuse(path: str | Path) -> object:
        if Path(path).name == "leases":
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return scandir(path)

    assert _write(layout)
    monkeypatch.setattr(os, "scandir", refuse)
    StoreWriter(layout).seal(PLAN)
