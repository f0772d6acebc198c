"""Storages: one contract for each, and files that survive kills, lost replies and full disks."""

import errno
import fcntl
import itertools
import multiprocessing
import os
import pickle
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from logitstore.errors import ObjectMissing, SettingError, StorageError
from logitstore.store.local import LocalStorage
from logitstore.store.storage import (
    STORAGES,
    Storage,
    base_name,
    open_storage,
    place_of,
    sha256_of,
)
from tools.dict_storage import DictStorage
from tools.torture_calls import Call, calling

NO_LINKS = [
    errno.EPERM,
    errno.EXDEV,
    errno.EACCES,
    errno.ENOTSUP,
    errno.EOPNOTSUPP,
    errno.ENOSYS,
    errno.EMLINK,
]


@pytest.fixture(
    params=["files", "files without links", "files without links or locks", "memory", "s3", "az"]
)
def storage(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Storage:
    if request.param == "s3":
        return open_storage(request.getfixturevalue("bucket"))
    if request.param == "az":
        return open_storage(request.getfixturevalue("azure"))
    if "links" in request.param:
        monkeypatch.setattr(os, "link", failing(errno.EPERM))
    if "locks" in request.param:
        monkeypatch.setattr(fcntl, "flock", failing(errno.ENOTSUP))
    return DictStorage() if request.param == "memory" else LocalStorage(tmp_path / "new" / "store")


def failing(code: int) -> Callable[..., None]:
    """In the place of a call of the file system that is refused."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    return refuse


# --- what every storage must do -----------------------------------------------------------------


def test_what_is_put_is_read(storage: Storage) -> None:
    assert isinstance(storage, Storage)
    for name, data in (("one", b"1"), ("a/b/c.json", b"{}"), ("a/b/empty", b""), ("one", b"two")):
        storage.put(name, data)
        assert (storage.read(name), storage.size(name)) == (data, len(data))


def test_ranges_end_where_the_object_ends(storage: Storage) -> None:
    storage.put("a", bytes(range(100)))
    assert storage.read_ranges("a", [(10, 12), (0, 0), (98, 1 << 40), (10, 11), (200, 300)]) == [
        b"\x0a\x0b",
        b"",
        b"\x62\x63",
        b"\x0a",
        b"",
    ]
    assert storage.read_ranges("a", []) == []


def test_an_object_that_is_not_there(storage: Storage) -> None:
    storage.put("folder/one", b"1")
    for name in ("none", "none/at/all", "folder", "folder/one/two"):
        assert storage.size(name) is None
        with pytest.raises(ObjectMissing, match=place_of(storage, name)):
            storage.read(name)
        with pytest.raises(ObjectMissing):
            storage.read_ranges(name, [(0, 1)])
        storage.delete(name) if not name.startswith("folder") else None
    assert storage.read("folder/one") == b"1"


def test_names_are_listed_by_what_they_begin_with(storage: Storage) -> None:
    assert list(storage.list("")) == []
    names = ["a", "ab", "b/a", "b/c/d", "bc"]
    for name in names:
        storage.put(name, b"x")
    assert sorted(storage.list("")) == names
    assert sorted(storage.list("a")) == ["a", "ab"]
    assert sorted(storage.list("b/")) == ["b/a", "b/c/d"]
    assert sorted(storage.list("b/c")) == ["b/c/d"]
    assert list(storage.list("none/")) == []


def test_the_first_of_two_is_kept(storage: Storage) -> None:
    assert storage.put_if_absent("a/one", b"first")
    assert not storage.put_if_absent("a/one", b"second")
    assert not storage.put_if_absent("a/one", b"first")
    assert storage.read("a/one") == b"first"
    storage.delete("a/one")
    assert storage.put_if_absent("a/one", b"third")


def test_a_deleted_object_is_gone(storage: Storage) -> None:
    storage.put("a/b/one", b"1")
    storage.put("a/two", b"2")
    storage.delete("a/b/one")
    storage.delete("a/b/one")
    assert sorted(storage.list("")) == ["a/two"]
    storage.delete("a/two")
    assert list(storage.list("")) == []
    storage.put("a/b/one", b"again")
    assert storage.read("a/b/one") == b"again"


def test_one_of_many_racing_threads_wins(storage: Storage) -> None:
    def race(number: int) -> list[bool]:
        return [storage.put_if_absent(f"r/{n}", b"%d" % number) for n in range(25)]

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(race, range(8)))
    assert [sum(column) for column in zip(*won, strict=True)] == [1] * 25
    winners = [next(n for n, own in enumerate(won) if own[round_]) for round_ in range(25)]
    assert [int(storage.read(f"r/{n}")) for n in range(25)] == winners


def test_threads_put_and_delete_side_by_side(storage: Storage) -> None:
    """Deleting the last file of a folder must not take the folder from under another's feet."""

    def work(number: int) -> None:
        for _ in range(50):
            storage.put(f"a/b/{number}", b"x")
            assert storage.read(f"a/b/{number}") == b"x"
            storage.delete(f"a/b/{number}")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    storage.sweep()
    assert list(storage.list("")) == []


def test_hashes_are_of_the_whole(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("logitstore.store.storage._PIECE_BYTES", 4)
    for data in (b"", b"abcd", b"abcdefghij"):
        storage.put("a", data)
        digest = sha256_of(storage, "a")
        storage.put("a", data + b"!")
        assert sha256_of(storage, "a") != digest
    storage.put("a", b"abc")
    assert sha256_of(storage, "a").startswith("ba7816bf8f01cfea")


def test_sweeping_leaves_every_object(storage: Storage) -> None:
    storage.put(".gitattributes", b"x")
    storage.put("a/one.tmp", b"1")
    storage.sweep()
    assert sorted(storage.list("")) == [".gitattributes", "a/one.tmp"]


# --- where a storage is found -------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a:b", "C:x", "s3:/b/x", "weird://"[:7], "new folder"])
def test_odd_names_are_folders(name: str) -> None:
    assert open_storage(name) == LocalStorage(name)
    assert open_storage(Path(name)) == LocalStorage(name)


def test_a_file_uri_is_a_folder() -> None:
    for uri in ("file:///a/b%20c", "FILE://localhost/a/b%20c"):
        assert open_storage(uri) == LocalStorage("/a/b c")
    for uri in ("file://host/a", "file://"):
        with pytest.raises(SettingError, match=uri):
            open_storage(uri)


def test_a_storage_is_itself() -> None:
    storage = DictStorage()
    assert open_storage(storage) is storage


@pytest.mark.parametrize("uri", ["ftp://host/a", "s4://b", "x+y://"])
def test_a_uri_that_nothing_serves_is_refused(uri: str) -> None:
    with pytest.raises(SettingError) as caught:
        open_storage(uri)
    message = str(caught.value)
    assert uri in message
    assert all(f"{name}://" in message for name in STORAGES)
    assert "Copy or mount" in message


@pytest.mark.parametrize("name", ["../x", "a//b", "/etc/passwd", "a/./b", "a/..", "", "a\0b"])
def test_a_name_does_not_leave_the_folder(tmp_path: Path, name: str) -> None:
    for call in (LocalStorage(tmp_path).read, LocalStorage(tmp_path).size):
        with pytest.raises(ValueError, match="no name"):
            call(name)


def test_names_and_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert place_of(LocalStorage("a/b/"), "store.json") == "a/b/store.json"
    assert place_of(LocalStorage("."), "store.json") == "store.json"
    assert base_name(LocalStorage(".")) == tmp_path.name
    assert base_name(LocalStorage("a/b")) == "b"
    assert pickle.loads(pickle.dumps(LocalStorage("a"))) == LocalStorage("a")


def test_a_folder_stays_where_it_was_when_it_was_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    storage = LocalStorage("a/store")
    storage.put("one", b"1")
    pickled = pickle.dumps(storage)
    monkeypatch.chdir(tmp_path / "elsewhere")
    for opened in (storage, pickle.loads(pickled)):
        assert opened.read("one") == b"1"
        assert "one" in opened.list("")
        assert (opened.uri, base_name(opened)) == ("a/store", "store")
        opened.put("b/two", b"2")
        with pytest.raises(ObjectMissing, match=r"^a/store/three: "):
            opened.read("three")
        with pytest.raises(StorageError, match=r"^a/store/b: the file system refused: Is a direc"):
            opened.delete("b")
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_working_directory_that_is_gone_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(StorageError, match=r"store: .*working directory is gone"):
        LocalStorage("store")


@pytest.mark.parametrize("where", [LocalStorage, DictStorage, 3, b"folder", "", "a\0b", None])
def test_what_names_no_store_is_refused(where: object) -> None:
    with pytest.raises(SettingError):
        open_storage(where)  # type: ignore[arg-type]


def test_a_file_to_write_is_a_folder_and_a_name(tmp_path: Path) -> None:
    storage, name = LocalStorage.of_file(tmp_path / "tune.png")
    assert (storage, name) == (LocalStorage(tmp_path), "tune.png")
    for path in (tmp_path, tmp_path / "none" / "tune.png", tmp_path / "tune\0.png"):
        with pytest.raises(StorageError, match="Name a file in a folder that is there"):
            LocalStorage.of_file(path)


# --- what the file system refuses ---------------------------------------------------------------


FULL = {
    errno.ENOSPC: "no space left",
    errno.EDQUOT: "no space left: the disk quota is used up",
    errno.EFBIG: "the file is larger than is allowed: see `ulimit -f`",
}


@pytest.mark.parametrize("code", FULL)
def test_a_full_disk_is_told_with_a_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    storage = LocalStorage(tmp_path)
    storage.put("one", b"old")
    monkeypatch.setattr(os, "fsync", failing(code))
    for put in (storage.put, storage.put_if_absent):
        with pytest.raises(StorageError, match=rf"two: {FULL[code]}.*Make room.*resumes") as told:
            put("two", b"new")
        assert told.value.allowed == "3 or more for this file"
        assert (told.value.found is None) == (code != errno.ENOSPC)  # those are other limits
    monkeypatch.undo()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one"]


def test_a_refusal_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = LocalStorage(tmp_path)
    monkeypatch.setattr(os, "fsync", failing(errno.EIO))
    with pytest.raises(StorageError, match=r"a/one: the file system refused.*Input"):
        storage.put("a/one", b"1")
    monkeypatch.undo()
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"the file system refused.*Not a directory"):
        storage.put("file/one", b"1")


def test_new_folders_are_durable_in_their_parents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    sync = os.fsync

    def note(descriptor: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    LocalStorage(tmp_path / "x" / "store").put("data/000000-aa/one", b"1")
    folders = [tmp_path, tmp_path / "x", tmp_path / "x/store", tmp_path / "x/store/data"]
    assert {str(folder) for folder in folders} <= set(synced)
    assert synced[-1] == str(tmp_path / "x/store/data/000000-aa")
    synced.clear()
    LocalStorage(tmp_path / "x" / "store").put("data/000000-aa/two", b"2")
    assert len(synced) == 2  # the file and its folder


def test_a_file_system_that_cannot_sync_folders_is_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync = os.fsync

    def refuse_folders(descriptor: int) -> None:
        if Path(f"/proc/self/fd/{descriptor}").is_dir():
            raise OSError(errno.EINVAL, "Invalid argument")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", refuse_folders)
    assert LocalStorage(tmp_path / "store").put_if_absent("a", b"1")


def test_a_lost_reply_to_a_link_is_a_win(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NFS sends a request again whose answer was lost, and is told that the name is taken."""
    link = os.link

    def twice(source: Path, target: Path) -> None:
        link(source, target)
        link(source, target)

    monkeypatch.setattr(os, "link", twice)
    assert LocalStorage(tmp_path).put_if_absent("a", b"1")
    assert not LocalStorage(tmp_path).put_if_absent("a", b"1")


def test_a_temporary_file_that_stays_is_hidden_and_swept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = LocalStorage(tmp_path)
    monkeypatch.setattr(Path, "unlink", failing(errno.EIO))
    assert storage.put_if_absent("a/one", b"1")
    monkeypatch.undo()
    assert len(list((tmp_path / "a").iterdir())) == 2
    assert list(storage.list("")) == ["a/one"]
    storage.sweep()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["one"]


def test_a_write_goes_on_where_its_temporary_file_was_swept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that seals the store takes it for a killed one's."""
    link, storage = os.link, LocalStorage(tmp_path)
    swept: list[bool] = []

    def sweep_first(source: Path, target: Path) -> None:
        if not swept:
            swept.append(True)
            LocalStorage(tmp_path).sweep()
        link(source, target)

    monkeypatch.setattr(os, "link", sweep_first)
    assert storage.put_if_absent("a/one", b"1")
    assert storage.read("a/one") == b"1"


def test_one_of_many_racing_processes_wins(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    with context.Pool(4) as pool:
        for links in (True, False):
            jobs = [(str(tmp_path / str(links)), number, links) for number in range(4)]
            won = pool.starmap(_race, jobs)
            assert [sum(column) for column in zip(*won, strict=True)] == [1] * 50


def _race(folder: str, number: int, links: bool) -> list[bool]:
    link = os.link
    if not links:
        os.link = failing(errno.EPERM)
    try:
        storage = LocalStorage(folder)
        return [storage.put_if_absent(f"{n}.json", b"%d" % number) for n in range(50)]
    finally:
        os.link = link


# --- without hard links -------------------------------------------------------------------------


@pytest.fixture
def unlinked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalStorage:
    monkeypatch.setattr(os, "link", failing(errno.EPERM))
    return LocalStorage(tmp_path / "store")


@pytest.mark.parametrize("code", NO_LINKS)
def test_files_are_created_once_where_links_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    monkeypatch.setattr(os, "link", failing(code))
    storage = LocalStorage(tmp_path)
    assert storage.put_if_absent("one", b"first")
    assert not storage.put_if_absent("one", b"second")
    assert storage.read("one") == b"first"
    storage.sweep()
    assert [path.name for path in tmp_path.iterdir()] == ["one"]


def test_another_error_of_a_link_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "link", failing(errno.EIO))
    with pytest.raises(StorageError, match="refused"):
        LocalStorage(tmp_path).put_if_absent("one", b"1")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("call", ["ftruncate", "pwrite", "utime", "replace"])
def test_an_error_while_a_name_is_claimed_leaves_it_free(
    unlinked: LocalStorage, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Path if call == "replace" else os, call, failing(errno.EIO))
        try:
            unlinked.put_if_absent("a/one", b"1")
        except StorageError:
            assert unlinked.size("a/one") is None
    started = time.monotonic()
    unlinked.put_if_absent("a/one", b"1")
    assert unlinked.read("a/one") == b"1"
    assert time.monotonic() - started < 5


def _interrupting(number: int, *, made: bool) -> Callable[[Call], Any]:
    calls = itertools.count()

    def hook(call: Call) -> Any:
        if next(calls) != number:
            return call.made()
        with suppress(OSError):
            if made:
                call.made()
        raise KeyboardInterrupt

    return hook


@pytest.mark.parametrize("made", [False, True])
def test_ctrl_c_at_any_call_leaves_the_lock_free(unlinked: LocalStorage, made: bool) -> None:
    """The process may go on, as a notebook does, and would wait for a lock of its own."""
    for number in itertools.count():
        try:
            with calling(unlinked.folder, _interrupting(number, made=made)):
                unlinked.put_if_absent(str(number), b"1")
            break
        except KeyboardInterrupt:
            for lock in unlinked.folder.glob(".*.lock"):
                with lock.open("rb") as file:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert number > 20


def test_a_claim_of_another_machine_is_waited_for_until_it_is_a_minute_old(
    unlinked: LocalStorage,
) -> None:
    claim = unlinked.folder / "a" / ".one.claim"
    claim.parent.mkdir(parents=True)
    claim.touch()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(unlinked.put_if_absent, "a/one", b"1")
        time.sleep(0.3)
        assert not waiting.done()
        assert unlinked.size("a/one") is None
        assert list(unlinked.list("")) == []
        os.utime(claim, (time.time() - 61,) * 2)
        assert waiting.result(timeout=10)
    assert unlinked.read("a/one") == b"1"
    assert not claim.exists()


def test_who_waits_for_a_claim_loses_to_the_file_that_comes(unlinked: LocalStorage) -> None:
    claim = unlinked.folder / ".one.claim"
    unlinked.folder.mkdir()
    claim.touch()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(unlinked.put_if_absent, "one", b"mine")
        time.sleep(0.2)
        (unlinked.folder / "one").write_bytes(b"theirs")
        assert waiting.result(timeout=10) is False
    assert unlinked.read("one") == b"theirs"


def test_the_claim_of_a_killed_process_of_this_machine_goes_at_once(
    unlinked: LocalStorage,
) -> None:
    """It names the claim in the lock's file before it makes it."""
    claim = unlinked.folder / "a" / ".one.claim"
    claim.parent.mkdir(parents=True)
    claim.touch()
    lock = unlinked.folder / f".{socket.gethostname()}.lock"
    lock.write_text("a/.one.claim")
    started = time.monotonic()
    assert unlinked.put_if_absent("a/one", b"1")
    assert time.monotonic() - started < 5
    assert lock.read_text() == ""


_KILLED = """
import errno, os, pathlib, signal, sys
from logitstore.store.local import LocalStorage

def refuse(*_):
    raise PermissionError(errno.EPERM, "Operation not permitted")

os.link = refuse
pathlib.Path.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
LocalStorage(sys.argv[1]).put_if_absent("a/one", b"theirs")
"""


def test_a_process_that_is_killed_while_it_holds_a_claim_keeps_nobody_waiting(
    unlinked: LocalStorage,
) -> None:
    words = [sys.executable, "-c", _KILLED, str(unlinked.folder)]
    assert subprocess.run(words, check=False).returncode == -signal.SIGKILL
    assert (unlinked.folder / "a" / ".one.claim").exists()
    started = time.monotonic()
    assert unlinked.put_if_absent("a/one", b"ours")
    assert time.monotonic() - started < 5
    assert unlinked.read("a/one") == b"ours"


def test_a_lock_file_of_a_stranger_removes_nothing_else(unlinked: LocalStorage) -> None:
    precious = unlinked.folder.parent / ".precious.claim"
    unlinked.put("thesis", b"mine")
    precious.touch()
    lock = unlinked.folder / f".{socket.gethostname()}.lock"
    for named in ("../.precious.claim", str(precious), "thesis", "", "\udcff"):
        lock.write_bytes(os.fsencode(named))
        unlinked.put_if_absent(f"new{len(named)}", b"1")
    assert precious.exists()
    assert unlinked.read("thesis") == b"mine"


ROOT = Path(__file__).parent.parent
WRITER = [sys.executable, "-m", "tests.test_storage"]  # this module, see its end


def _killed_writers(folder: Path, *, kills: int) -> Iterator[None]:
    """Processes that create files one after another, each killed at a random moment."""
    generator = random.Random(0)
    for _ in range(kills):
        process = subprocess.Popen(
            [*WRITER, str(folder)], stdout=subprocess.PIPE, text=True, cwd=ROOT
        )
        assert process.stdout is not None
        process.stdout.readline()  # it is at work
        time.sleep(generator.uniform(0, 0.05))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        yield


def test_writers_killed_at_any_moment_leave_whole_files_and_free_names(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    for _ in _killed_writers(folder, kills=16):
        for path in folder.glob("*/*.json"):
            assert path.read_bytes() == path.name.encode() * 1000
    started = time.monotonic()
    command = [*WRITER, str(folder), "1000"]
    subprocess.run(command, check=True, timeout=100, stdout=subprocess.DEVNULL, cwd=ROOT)
    assert time.monotonic() - started < 30  # nobody waits for the minute of a stale claim
    storage = LocalStorage(folder)
    storage.sweep()
    assert not [path for path in folder.rglob("*") if path.name.startswith(".")]
    assert len(list(storage.list(""))) == 1000


def write_files(folder: Path, *, rounds: int) -> None:
    os.link = failing(errno.EPERM)
    storage = LocalStorage(folder)
    for number in range(rounds):
        name = f"{number % 5}/{number}.json"
        data = Path(name).name.encode() * 1000
        storage.put_if_absent(name, data)
        assert storage.read(name) == data


if __name__ == "__main__":
    print("at work", flush=True)
    for last in map(int, sys.argv[2:] or range(1, 1000)):
        write_files(Path(sys.argv[1]), rounds=last)


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: Path(path).symlink_to("/dev/zero")])
def test_a_pipe_or_a_device_is_not_read_nor_replaced(make: Any, tmp_path: Path) -> None:
    """Neither may end; and a device's name is not for a file."""
    storage = LocalStorage(tmp_path)
    make(tmp_path / "plan.json")
    for read in (
        lambda: storage.read("plan.json"),
        lambda: storage.read_ranges("plan.json", [(0, 10)]),
        lambda: storage.put("plan.json", b"{}"),
    ):
        with pytest.raises(StorageError, match=r"plan\.json: this is no file"):
            read()
    with pytest.raises(StorageError, match="no file but a device or a pipe"):
        LocalStorage.of_file(tmp_path / "plan.json")
    assert not (tmp_path / "plan.json").is_file()


def test_nothing_behind_a_linked_folder_is_listed_or_changed(tmp_path: Path) -> None:
    """A stranger's store may hold a link to one's own files: sweeping it would remove these."""
    mine, store = tmp_path / "mine" / "photos", LocalStorage(tmp_path / "store")
    mine.mkdir(parents=True)
    (mine / "a.jpg").write_bytes(b"mine")
    store.put("store.json", b"{}")
    (tmp_path / "store" / "data").symlink_to(tmp_path / "mine")
    for act in (
        lambda: list(store.list("data/")),
        lambda: list(store.list("data/photos/")),
        lambda: store.delete("data/photos/a.jpg"),
        lambda: store.put("data/photos/a.jpg", b"yours"),
        lambda: store.put_if_absent("data/photos/b.jpg", b"yours"),
    ):
        with pytest.raises(StorageError, match="a folder of a store is a link"):
            act()
    assert list(store.list("")) == ["store.json"]
    store.sweep()
    assert [one.name for one in mine.iterdir()] == ["a.jpg"]
    assert (mine / "a.jpg").read_bytes() == b"mine"
    assert store.read("data/photos/a.jpg") == b"mine"  # what is read is compared with its hash


def test_a_storage_may_be_reached_by_a_link_and_so_may_its_files(tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(b"content")
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a").symlink_to(tmp_path / "blob")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    storage = LocalStorage(tmp_path / "link")
    assert storage.read("a") == b"content"
    assert list(storage.list("")) == ["a"]
    storage.put("a", b"new")  # in place of the link
    assert (tmp_path / "blob").read_bytes() == b"content"
    storage.delete("a")
    assert list(storage.list("")) == []


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_what_is_no_file_is_not_taken_for_an_object_that_was_first(
    make: Any, links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path / "x")
    if not links:
        monkeypatch.setattr(os, "link", failing(errno.EPERM))
    with pytest.raises(StorageError, match=r"this is no file\. Remove it"):
        LocalStorage(tmp_path).put_if_absent("x", b"")


def test_a_link_that_leads_nowhere_is_told(tmp_path: Path) -> None:
    (tmp_path / "x").symlink_to("nowhere")
    with pytest.raises(StorageError, match=r"a link that leads nowhere\. Remove it"):
        LocalStorage(tmp_path).put_if_absent("x", b"")


@pytest.mark.parametrize("length", [300, 100_000])
def test_a_name_that_no_file_system_takes_is_told(tmp_path: Path, length: int) -> None:
    storage, name = LocalStorage(tmp_path), "x" * length
    for use in (
        lambda: storage.read(name),
        lambda: storage.read_ranges(name, [(0, 1)]),
        lambda: storage.size(name),
        lambda: list(storage.list(f"{name}/")),
        lambda: storage.put(name, b""),
        lambda: storage.put_if_absent(name, b""),
        lambda: storage.delete(name),
    ):
        with pytest.raises(StorageError, match="File name too long"):
            use()
