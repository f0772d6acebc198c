"""`tools.torture_signals` in short: signals while a command imports what it needs."""

import signal
import sys

import pytest

from tools.torture_signals import Scene, interrupt
from tools.torture_store import make_scene


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    small = make_scene(tmp_path_factory.mktemp("signals"))
    small.dump(small.folder / "store", container="zarr")
    words = [sys.executable, "-m", "logitstore"]
    return Scene(
        work=small.folder,
        commands={
            "verify": [*words, "verify", str(small.folder / "store")],
            "dump": [
                *(*words, "dump", "--teacher", str(small.teacher), "--data", str(small.data)),
                *("--out", str(small.folder / "dumped"), "--unit-tokens", "100"),
            ],
        },
    )


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(("terminal", "twice"), [(False, None), (True, 0.02)])
def test_a_signal_during_the_imports_is_clean(
    made: Scene, signum: int, terminal: bool, twice: float | None
) -> None:
    for name, after in (("verify", 0.02), ("verify", 0.2), ("dump", 0.6)):
        found = interrupt(made, name, signum=signum, after=after, twice=twice, terminal=terminal)
        assert found == "clean"
