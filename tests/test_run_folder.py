"""A run's folder: what may be begun in it, which checkpoints count, and what has changed."""

import copy
import json
import os
import re
import shutil
from contextlib import suppress
from pathlib import Path

import pytest

from logitstore.errors import CorruptionError, SettingError, SpecError, StorageError, StoreError
from logitstore.plumbing import with_check
from tests.run_files import STORE, WANTED, begun, checkpoint, finished, record, state
from trainer.training import run_folder
from trainer.training.checkpoints import MARKER, find_checkpoints
from trainer.training.run_record import UNHASHED, read_record, run_fingerprint, write_record
from trainer.training.state_files import RunWarning

RUN = run_fingerprint(record())


def begin(out, *, wanted=None, resume=True):
    return run_folder.begin(out, wanted=wanted or WANTED, resume=resume)


def newest(out):
    found = find_checkpoints(out, runs=(RUN,))
    found.refuse_none(out)
    return found


def names(out):
    return sorted(path.name for path in out.iterdir())


# --- begin


def test_a_new_or_empty_folder_begins_a_run(tmp_path):
    assert begin(tmp_path / "new", resume=False) is None
    assert begin(tmp_path, resume=False) is None


def test_resume_where_no_run_is_says_so(tmp_path):
    for out in (tmp_path / "new", tmp_path):
        with pytest.warns(RunWarning, match="there is no run to go on with, so a new one begins"):
            assert begin(out) is None


def test_what_a_killed_writer_leaves_is_no_run_and_nothing_else(tmp_path):
    (tmp_path / ".run.json.0123abcd.tmp").write_text("{")
    assert begin(tmp_path, resume=False) is None


def test_a_folder_that_holds_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(StoreError, match="something else than a run"):
        begin(tmp_path)


def test_checkpoints_without_their_run_are_named(tmp_path):
    checkpoint(tmp_path, 5)
    with pytest.raises(StoreError, match=r"run\.json: file is gone.*Put the file back"):
        begin(tmp_path)


def bad_folders(tmp_path):
    """Places that cannot be the folder of a run, also not for an administrator, and why."""
    (tmp_path / "file").write_text("mine")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere" / "run")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    return {
        tmp_path / "file": "a file is in the way",
        tmp_path / "file" / "run": "a file is in the way",
        tmp_path / "dangling": "it is a link to a folder that is not there",
        tmp_path / "dangling" / "run": "it is a link to a folder that is not there",
        tmp_path / "loop": "it is a link to a folder that is not there",
        tmp_path / ("n" * 300): "File name too long",
        tmp_path / "zero\0byte": "null",
        Path("/proc/nope"): "No such file",
        Path("/proc/nope/deeper"): "No such file",
    }


def test_a_folder_that_cannot_be_written_is_told_and_nothing_is_left(tmp_path):
    for out, reason in bad_folders(tmp_path).items():
        before = sorted(tmp_path.iterdir())
        with pytest.raises(StorageError, match=f"cannot be used: .*{reason}.*another folder"):
            begin(out, resume=False)
        assert sorted(tmp_path.iterdir()) == before


@pytest.mark.skipif(os.getuid() == 0, reason="an administrator may write everywhere")
def test_a_folder_without_permission_is_told(tmp_path):
    begun(tmp_path / "run")
    (tmp_path / "empty").mkdir()
    for name, resume in (("run", True), ("empty", False)):
        (tmp_path / name).chmod(0o555)
        with pytest.raises(StorageError, match="cannot be used: Permission denied"):
            begin(tmp_path / name, resume=resume)
    finished(tmp_path / "done")
    (tmp_path / "done").chmod(0o555)
    assert begin(tmp_path / "done")["finished"]
    (tmp_path / "empty").chmod(0o000)
    with pytest.raises(StorageError, match="cannot be used: Permission denied"):
        begin(tmp_path / "empty" / "run", resume=False)


def test_a_new_folder_is_not_made_before_something_is_written(tmp_path):
    assert begin(tmp_path / "a" / "b", resume=False) is None
    assert list(tmp_path.iterdir()) == []


def test_an_unfinished_run_goes_on_only_when_asked(tmp_path):
    content = begun(tmp_path / "run")
    assert begin(tmp_path / "run") == content
    with pytest.raises(StoreError, match="resume"):
        begin(tmp_path / "run", resume=False)


@pytest.mark.parametrize("done", [False, True])
def test_other_settings_are_named(tmp_path, done):
    (finished if done else begun)(tmp_path / "run")
    with pytest.raises(SpecError, match=r"alpha 0\.9 there, 0\.5 here, seed 7 there, 1 here"):
        begin(tmp_path / "run", wanted=WANTED | {"alpha": 0.5, "seed": 1})


@pytest.mark.parametrize(
    "text", ["[]", "3", '{"format": "another"}', '{"format": "trainer-run/1"}', "{}"]
)
def test_a_file_of_another_program_is_refused(tmp_path, text):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(StoreError, match=r"run\.json.*another folder"):
        begin(tmp_path)


@pytest.mark.parametrize("left", [0, 1, 40, 700])
def test_a_first_try_that_left_half_a_record_is_begun_anew_and_says_so(tmp_path, left):
    begun(tmp_path)
    place = tmp_path / "run.json"
    place.write_bytes(place.read_bytes()[:left])
    with pytest.raises(StoreError, match=r"run\.json: .*Begin the run anew \(resume\)"):
        begin(tmp_path, resume=False)
    with pytest.warns(RunWarning, match=r"run\.json: .*the run begins anew"):
        assert begin(tmp_path) is None
    checkpoint(tmp_path, 5)
    with pytest.raises(StoreError, match=r"run\.json: .*Put the file back"):
        begin(tmp_path)


# --- a byte of a state file has flipped


def flips(data):
    """Each byte of `data` with one of its bits flipped, a digit also to another digit."""
    for place, byte in enumerate(data):
        for other in {byte ^ (1 << (place % 8)), *((byte ^ 1,) if chr(byte).isdigit() else ())}:
            yield data[:place] + bytes([other]) + data[place + 1 :]


def test_no_flip_of_a_record_is_taken(tmp_path):
    """What is read is what was written, or is refused by name."""
    content = finished(tmp_path)
    place = tmp_path / "run.json"
    messages = []
    for flipped in flips(place.read_bytes()):
        place.write_bytes(flipped)
        try:
            assert read_record(tmp_path) == content
        except StoreError as error:
            messages.append(str(error))
    assert len(messages) > 1000  # the others are blanks between the fields
    assert all(str(place) in one for one in messages)


def test_no_flip_of_a_marker_is_taken(tmp_path):
    checkpoint(tmp_path, 9)
    place = checkpoint(tmp_path, 10) / MARKER
    refused = 0
    for flipped in flips(place.read_bytes()):
        place.write_bytes(flipped)
        found = find_checkpoints(tmp_path, runs=(RUN,))
        if found.damaged:
            assert str(place) in str(found.damaged[0])
            assert found.newest.state == state(9)
            refused += 1
        else:
            assert found.newest.state == state(10)
    assert refused > 500


def odd_values(value):
    """Values of other types and ranges in the place of `value`."""
    yield from (None, True, -1, 0.5, 10**400, 1e308, "", "x", [], {}, [1], {"x": 1}, "0" * 64)
    yield str(value)
    if isinstance(value, int | float):
        yield from (value + 1, -value, value * 2**60)


def mutations(content, path=()):
    """`content` with each of its fields gone, of another value, or with one more beside it."""
    here = content
    for name in path:
        here = here[name]
    if not isinstance(here, dict):
        return
    for name in [*here, "stranger"]:
        for value in [KeyError, *odd_values(here.get(name))]:
            changed = copy.deepcopy(content)
            inner = changed
            for step in path:
                inner = inner[step]
            inner[name] = value
            if value is KeyError:
                del inner[name]
            yield (*path, name), value, changed
        yield from mutations(content, (*path, name)) if name in here else ()


@pytest.mark.parametrize(
    ("name", "read"), [("run.json", begin), (f"checkpoint-9/{MARKER}", newest)]
)
def test_a_state_file_that_lost_its_hash_is_refused(tmp_path, name, read):
    begun(tmp_path)
    checkpoint(tmp_path, 9)
    content = json.loads((tmp_path / name).read_text())
    del content["sha256"]
    (tmp_path / name).write_text(json.dumps(content))
    with pytest.raises(StoreError, match="lacks the hash of its content"):
        read(tmp_path)


def test_every_field_of_a_record_is_checked(tmp_path):
    """Also of those of earlier versions, whose content carries no hash."""
    out = tmp_path / "run"
    original = begun(out)
    del original["configuration"]
    original["format"] = UNHASHED
    taken = set()
    for path, _value, changed in mutations(original):
        (out / "run.json").write_text(json.dumps(changed))
        with suppress(StoreError):
            begin(out)
            if changed != original:
                taken.add(path)
    # They do not decide the weights, or nothing says how many there ought to be.
    assert taken <= {
        ("teacher",),
        ("parameters",),
        ("packing", "bin_tokens"),
        ("packing", "shuffle", "lanes"),
        ("packing", "shuffle", "window"),
    }


def test_every_field_of_a_finished_record_is_checked(tmp_path):
    content = finished(tmp_path)
    for name, values in {
        "files": [None, [], {"model.safetensors": 3}, {"../x": "0" * 64}, {"x": "0" * 63}],
        "seconds": [None, -1.0, True, "1", float(10**301)],
        "metrics": [None, [], {"loss": "1"}, {"loss": True}],
        "finished": [1, "true", None],
    }.items():
        for value in values:
            write_record(tmp_path, content | {name: value})
            with pytest.raises(StoreError, match=rf"field \w*{name}|field .* is (unknown|missing)"):
                read_record(tmp_path)


def test_every_field_of_a_marker_is_checked(tmp_path):
    checkpoint(tmp_path, 9)
    place = checkpoint(tmp_path, 10) / MARKER
    written = json.loads(place.read_text())
    del written["sha256"]
    taken = set()
    for path, _value, changed in mutations(written):
        for data in (with_check(changed), json.dumps(changed).encode()):
            place.write_bytes(data)
            found = find_checkpoints(tmp_path, runs=(RUN,))
            if found.newest.step == 10 and changed != written:
                taken.add(path)
    # Sums are numbers, and the position is checked against the store, which is not open here.
    assert all(
        path[:2] in {("state", "sums"), ("state", "seconds"), ("state", "stream")} for path in taken
    )


# --- checkpoints


def test_the_newest_whole_checkpoint_counts(tmp_path):
    for step in (9, 10):
        checkpoint(tmp_path, step)
    checkpoint(tmp_path, 11, complete=False)
    found = newest(tmp_path)
    assert (found.newest.folder, found.newest.state) == (tmp_path / "checkpoint-10", state(10))
    assert found.damaged == ()
    found.clear(tmp_path)
    assert names(tmp_path) == ["checkpoint-10", "checkpoint-9"]


def harm(folder, how):
    """Damage a checkpoint; gives the name of the file that is damaged."""
    weights = folder / "model.safetensors"
    if how == "cut":
        weights.write_bytes(b"x")
    elif how == "flipped":
        weights.write_bytes(b"x" * 9 + b"y")
    elif how == "gone":
        weights.unlink()
    elif how == "another file":
        weights = folder / "adapter_config.json"
        weights.write_text("{}")
    elif how == "a folder":
        weights.unlink()
        weights.mkdir()
    elif how == "of another step":
        shutil.rmtree(folder)
        shutil.copytree(folder.parent / "checkpoint-9", folder)
        weights = folder / MARKER
    else:
        weights = folder / MARKER
        weights.write_text(how)
    return weights


@pytest.mark.parametrize(
    "how",
    ["cut", "flipped", "gone", "another file", "a folder", "of another step", "[]", "{", "", "{}"],
)
def test_a_damaged_checkpoint_is_named_and_passed_over(tmp_path, how):
    checkpoint(tmp_path, 9)
    place = harm(checkpoint(tmp_path, 10), how)
    found = newest(tmp_path)
    assert found.newest.state == state(9)
    kept = found.clear(tmp_path)
    told = f"^{re.escape(str(place))}: .*kept as damaged-checkpoint-10; going on from checkpoint-9"
    with pytest.warns(RunWarning, match=told):
        found.tell(kept)
    assert names(tmp_path) == ["checkpoint-9", "damaged-checkpoint-10"]
    shutil.copytree(tmp_path / "damaged-checkpoint-10", tmp_path / "checkpoint-10")
    newest(tmp_path).clear(tmp_path)
    assert names(tmp_path)[1:] == ["damaged-checkpoint-10", "damaged-checkpoint-10-2"]


def test_where_all_are_damaged_nothing_is_removed(tmp_path):
    for step in (9, 10):
        harm(checkpoint(tmp_path, step), "cut")
    with pytest.raises(StoreError, match=r"checkpoint-10/model.*checkpoint-9/model.*nothing was"):
        newest(tmp_path)
    assert names(tmp_path) == ["checkpoint-10", "checkpoint-9"]


def test_a_checkpoint_of_another_run_is_passed_over(tmp_path):
    checkpoint(tmp_path, 9)
    checkpoint(tmp_path, 10, run="0" * 64)
    found = newest(tmp_path)
    assert found.newest.step == 9
    assert "is of another run" in str(found.damaged[0])


def test_a_position_that_the_store_cannot_have_is_passed_over(tmp_path):
    for step in (9, 10):
        checkpoint(tmp_path, step)

    def fits(stream):
        if stream["step"] == 10:
            raise SettingError("too far")

    found = find_checkpoints(tmp_path, runs=(RUN,), fits=fits)
    assert found.newest.step == 9
    assert "too far" in str(found.damaged[0])


def test_other_names_are_no_checkpoints_and_stay(tmp_path):
    for name in ("checkpoint-best", "checkpoint-", "checkpoint-1.5"):
        (tmp_path / name).mkdir()
    found = newest(tmp_path)
    found.clear(tmp_path)
    assert found.newest is None
    assert len(names(tmp_path)) == 3


def test_what_an_operating_system_adds_does_no_harm(tmp_path):
    (checkpoint(tmp_path, 9) / ".DS_Store").write_text("x")
    assert newest(tmp_path).newest.step == 9


def test_a_marker_of_an_earlier_version_counts_with_a_warning(tmp_path):
    place = checkpoint(tmp_path, 9) / MARKER
    content = json.loads(place.read_text())
    place.write_text(json.dumps({name: content[name] for name in ("files", "state")}))
    found = newest(tmp_path)
    assert found.newest.state == state(9)
    with pytest.warns(RunWarning, match="earlier version, without a hash") as told:
        found.tell(found.clear(tmp_path))
    assert len(told) == 1


# --- a finished run


def test_a_finished_run_is_given_back(tmp_path):
    content = finished(tmp_path)
    assert begin(tmp_path, resume=False) == begin(tmp_path) == content


@pytest.mark.parametrize(
    "name", ["model.safetensors", "config.json", "tokenizer.json", "history.json"]
)
def test_a_finished_run_without_a_file_is_finished_once_more(tmp_path, name):
    content = finished(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(StoreError, match=rf"{name}: .* is gone.*checkpoint-20 .*\(?resume"):
        begin(tmp_path, resume=False)
    with pytest.warns(RunWarning, match=f"{name}: .*written anew from checkpoint-20"):
        again = begin(tmp_path)
    assert again == record()
    assert read_record(tmp_path) == content


@pytest.mark.parametrize("resume", [False, True])
def test_a_finished_run_with_a_changed_file_is_refused(tmp_path, resume):
    finished(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"Weights")
    with pytest.raises(StoreError, match=r"model.*has changed.*Move it.*checkpoint-20 .*resume"):
        begin(tmp_path, resume=resume)


def test_a_finished_run_that_cannot_be_made_anew_is_told(tmp_path):
    finished(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    harm(tmp_path / "checkpoint-20", "cut")
    with pytest.raises(StoreError, match=r"model.*gone.*No whole checkpoint is left"):
        begin(tmp_path)


def test_a_finished_run_of_an_earlier_version_needs_its_model(tmp_path):
    content = finished(tmp_path)
    del content["files"], content["configuration"]
    (tmp_path / "run.json").write_text(json.dumps(content | {"format": UNHASHED}))
    assert begin(tmp_path)["finished"]
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(StoreError, match=r"model\.safetensors: file of a finished run is gone"):
        begin(tmp_path, resume=False)


def test_errors_are_of_the_tree(tmp_path):
    begun(tmp_path)
    place = tmp_path / "run.json"
    place.write_text(place.read_text().replace(STORE, "6" * 64))
    checkpoint(tmp_path, 5)
    with pytest.raises(CorruptionError, match="has changed since it was written"):
        begin(tmp_path)
