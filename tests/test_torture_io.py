"""A short form of `tools.torture_io`: calls to the file system fail, one after another."""

from tools.torture_io import COMMANDS, Attacked, Fault, fail
from tools.torture_store import make_scene


def test_a_call_that_fails_is_told_or_gone_round(tmp_path):
    outcomes = fail(make_scene(tmp_path), faults=16, seed=0, containers=["parquet"])
    assert outcomes.total >= 2 * len(COMMANDS)
    assert outcomes.wrong == 0
    assert outcomes.of("told") >= 5


def test_reads_and_writes_may_do_a_part_of_what_they_are_asked_for(tmp_path):
    attacked = Attacked.of(make_scene(tmp_path), "parquet")
    for command in ("dump", "read"):
        fault = Fault(number=0, code="nothing", how="short", links=True)
        assert attacked.outcome(command, fault)[0] == "went on"


def test_the_tool_sees_an_error_that_is_not_told(tmp_path, monkeypatch):
    attacked = Attacked.of(make_scene(tmp_path), "parquet")
    at = attacked.calls("dump", links=True).index("write") + 1
    monkeypatch.setattr("logitstore.store.local.no_room", None)  # so that telling it fails
    fault = Fault(number=at + 12, code="EIO", how="from then on", links=True)
    assert attacked.outcome("dump", fault)[0] == "wrong"
