"""Progress: steady numbers by a clock that is set, lines that fit, real terminals and pipes."""

import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import logitstore
import trainer
from logitstore.cli.progress import LogLines, bar_parts, duration, log_line, show_progress
from logitstore.dumping.progress import Tally
from logitstore.format.plan import Plan, WorkUnit
from logitstore.progress import Meter, Pace, Progress

DUMPING = Progress(
    stage="dumping",
    detail="unit 1,234 of 5,678",
    fraction=0.345,
    done=123_456_789,
    unit="targets",
    rate=123_456.7,
    seconds_left=3753.0,
    facts=("24.1 bytes/target",),
)


class _Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


# --- numbers ------------------------------------------------------------------------------------


def test_the_first_batch_is_forgotten_and_a_short_pause_moves_the_rate_little() -> None:
    pace = Pace()
    assert pace.per_second is None
    pace.add(1000, seconds=10.0)
    assert pace.per_second == pytest.approx(100)
    pace.add(1000, seconds=1.0)
    assert pace.per_second == pytest.approx(1000)
    for _ in range(100):
        pace.add(1000, seconds=1.0)
    pace.add(1000, seconds=6.0)
    assert 890 < (pace.per_second or 0) < 930
    assert pace.seconds_for(910) == pytest.approx(1.0, rel=0.03)


def test_a_slower_machine_shows_within_two_minutes() -> None:
    pace = Pace()
    for _ in range(1000):
        pace.add(1000, seconds=1.0)
    for _ in range(120):
        pace.add(500, seconds=1.0)
    assert pace.per_second == pytest.approx(500, rel=0.15)


def test_a_meter_tells_the_time_left_without_what_was_done_before() -> None:
    told: list[Progress] = []
    clock = _Clock()
    meter = Meter(told.append, stage="training", unit="tokens", fraction=0.5, clock=clock)
    for step in range(1, 5):
        clock.now += 2.0
        meter.tell(step * 1000, fraction=0.5 + step / 10)
    assert [one.rate for one in told] == [None, 500, 500, 500, 500]
    assert [round(one.seconds_left or 0, 6) for one in told[1:]] == [8, 6, 4, 2]


def _tally(units: list[int], committed: list[int], clock: _Clock) -> tuple[Any, list[Progress]]:
    """A tally of units with these numbers of records, some of which are committed."""
    told: list[Progress] = []
    plan = Plan(
        units=tuple(
            WorkUnit(
                name=str(number),
                source="s",
                start=0,
                stop=1,
                first_record=0,
                first_line=1,
                records=records,
                sha256="0" * 64,
            )
            for number, records in enumerate(units)
        )
    )
    commit = SimpleNamespace(
        blocks=[SimpleNamespace(targets=10)], objects=[SimpleNamespace(size=250)]
    )
    layout: Any = SimpleNamespace(
        there=committed,
        read_commit=lambda unit: commit if int(unit.name) in layout.there else None,
    )
    tally = Tally(layout=layout, plan=plan, on_progress=told.append, clock=clock)
    return tally, told


class _Sized:
    def __init__(self, size: int) -> None:
        self.targets = size

    def __len__(self) -> int:
        return self.targets


def _dump_unit(tally: Any, number: int, clock: _Clock, *, reading: float, batch: float) -> None:
    """Four batches of ten documents of 100 tokens."""
    unit, documents = tally.plan.units[number], [_Sized(100)] * 40
    tally.reading(unit)
    clock.now += reading
    tally.read(unit)
    for _ in range(4):
        clock.now += batch
        tally.batch(unit, documents[:10], documents)
    tally.layout.there.append(number)
    tally.unit_done()


def test_a_resumed_dump_counts_only_its_own_work() -> None:
    clock = _Clock()
    tally, told = _tally([10] * 10, list(range(6)), clock)
    assert told[-1].fraction == pytest.approx(0.6)
    assert (told[-1].rate, told[-1].seconds_left) == (None, None)
    assert told[-1].facts == ("25.0 bytes/target",)
    for number in range(6, 10):
        _dump_unit(tally, number, clock, reading=2.0, batch=5.0)
        assert told[-1].rate == pytest.approx(200)  # 1,000 targets in 5 s, without tokenising
        assert told[-1].seconds_left == pytest.approx(22.0 * (9 - number))
        assert told[-1].fraction == pytest.approx((number + 1) / 10)
    assert told[-1].done == tally.targets == 16_000


def test_the_time_left_holds_from_the_first_batch_on() -> None:
    clock = _Clock()
    tally, told = _tally([10] * 10, [], clock)
    began = clock.now
    for number in range(10):
        _dump_unit(tally, number, clock, reading=2.0, batch=5.0)
    ends = [one.seconds_left for one in told if one.rate is not None]
    assert ends[0] == pytest.approx(220 - 7)
    assert clock.now - began == 220
    assert all(later <= sooner + 1e-6 for sooner, later in pairwise(ends))


def test_what_others_commit_shortens_the_time_left() -> None:
    clock = _Clock()
    tally, told = _tally([10] * 10, [], clock)
    _dump_unit(tally, 0, clock, reading=2.0, batch=5.0)
    alone = told[-1].seconds_left
    tally.layout.there.append(9)
    tally.unit_done()
    assert told[-1].fraction == pytest.approx(0.2)
    assert told[-1].seconds_left == pytest.approx((alone or 0) / 9 * 8 / 2)


# --- lines --------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [59, 79])
@pytest.mark.parametrize(
    "detail", ["unit 1 of 3", "unit 1,234 of 5,678", "step 120,000 of 1,000,000", "a" * 200]
)
def test_a_line_fits_and_keeps_share_and_time_left(width: int, detail: str) -> None:
    shown = replace(DUMPING, detail=detail, facts=("loss 2.3456", "24.1 bytes/target"))
    parts, bar = bar_parts(shown, width=width, seconds=1.0)
    assert len("  ".join(parts)) + (bar + 2 if bar else 0) <= width
    assert "34%" in parts
    assert parts[-1] == "1:02:33 left"
    if len(detail) < 20:
        assert "123,457 targets/s" in parts
        assert ("loss 2.3456" in parts) == (width > 60)


@pytest.mark.parametrize("terminal", [True, False])
def test_what_is_worked_on_steers_no_terminal(
    terminal: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = "\x1b]0;title\x07\x9b31m\u202e"
    if terminal:
        shown = "  ".join(bar_parts(replace(DUMPING, detail=odd), width=200, seconds=1.0)[0])
    else:
        monkeypatch.setattr("logitstore.cli.progress._FIRST_SECONDS", 0.0)
        with show_progress("starting") as tell:
            tell(replace(DUMPING, stage=odd, detail="", fraction=1.0, seconds_left=0.0))
        shown = capsys.readouterr().err
    assert "title" in shown
    assert not set(odd) & set(shown) - set("]0;title31m")


def test_durations_in_words() -> None:
    assert [duration(one) for one in (0.2, 59.4, 59.6, 61, 3600, 360_000)] == [
        "0 s", "59 s", "1:00", "1:01", "1:00:00", "4 d 4 h",
    ]  # fmt: skip


def test_a_log_has_a_line_after_five_seconds_one_a_minute_and_a_last_one() -> None:
    lines: list[str] = []
    clock = _Clock()
    log = LogLines(Progress(stage="loading gpt2"), write=lines.append, clock=clock)
    for _ in range(130):
        clock.now += 1.0
        log.tick()
    assert lines == [
        "[5 s] loading gpt2: 5 s",
        "[1:05] loading gpt2: 1:05",
        "[2:05] loading gpt2: 2:05",
    ]
    for second in range(1, 71):
        log.tell(replace(DUMPING, done=second, seconds_left=100.0 - second))
        clock.now += 1.0
        log.tick()
    log.tell(replace(DUMPING, done=71, fraction=1.0, seconds_left=0.0))
    log.close()
    tail = "123,457 targets/s, 24.1 bytes/target"
    assert lines[3:] == [
        f"[2:15] dumping unit 1,234 of 5,678: 34%, 5 targets, {tail}, 1:35 left",
        f"[3:15] dumping unit 1,234 of 5,678: 34%, 65 targets, {tail}, 35 s left",
        f"[3:20] dumping unit 1,234 of 5,678: 100%, 71 targets, {tail}",
    ]


def test_short_work_has_no_line() -> None:
    lines: list[str] = []
    clock = _Clock()
    log = LogLines(Progress(stage="verifying"), write=lines.append, clock=clock)
    for _ in range(4):
        clock.now += 1.0
        log.tell(DUMPING)
    log.close()
    assert lines == []


def test_bytes_are_shown_by_their_size() -> None:
    now = Progress(stage="hashing", fraction=0.5, done=10, unit="bytes", rate=123_456_789.0)
    line = log_line(now, seconds=5.0, of_stage=5.0)
    assert line == "[5 s] hashing: 50%, 10 bytes, 123 MB/s"


def test_a_rate_that_would_read_nought_is_not_shown() -> None:
    now = Progress(stage="sweeping", fraction=0.5, done=4, unit="runs", rate=0.04)
    assert log_line(now, seconds=5.0, of_stage=5.0) == "[5 s] sweeping: 50%, 4 runs"


# --- real terminals and pipes -------------------------------------------------------------------

_SCRIPT = """
import sys, time
from logitstore.cli import progress
from logitstore.cli.console import note
from logitstore.progress import Progress
progress._FIRST_SECONDS = 0.01
with progress.show_progress("starting") as tell:
    time.sleep(0.3)
    tell(Progress(stage="starting"))
    note("a note")
    for step in range(1, 4):
        tell(Progress(stage="dumping", detail=f"unit {step} of 3", fraction=step / 3, done=step,
                      unit="targets", rate=12345.6, seconds_left=3753.0,
                      facts=("24.1 bytes/target",)))
        time.sleep(0.3)
print("done")
"""
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def _on_a_terminal(command: list[str], *, columns: int) -> str:
    """What a command writes to a pseudo-terminal of so many columns."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    hidden = ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR")
    environment = {name: one for name, one in os.environ.items() if name not in hidden}
    child = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment | {"TERM": "xterm"}
    )
    os.close(theirs)
    written = b""
    while True:
        try:
            part = os.read(ours, 1 << 16)
        except OSError:  # the other side is closed
            break
        if not part:
            break
        written += part
    os.close(ours)
    assert child.wait() == 0, written.decode()
    return written.decode()


def _drawn(written: str) -> list[str]:
    """Every line that was drawn, without what moves the cursor."""
    return [
        one for one in re.split(r"[\r\n]+", _CONTROL.sub("", written).replace("\x1b", "")) if one
    ]


@pytest.mark.parametrize("columns", [80, 60])
def test_a_terminal_shows_one_line_that_is_not_cut(columns: int) -> None:
    written = _on_a_terminal([sys.executable, "-c", _SCRIPT], columns=columns)
    lines = _drawn(written)
    bars = [one for one in lines if "targets/s" in one]
    assert len({one.split("  ")[0] for one in bars}) == 3
    assert all(len(one) < columns for one in lines)
    assert all("12,346 targets/s" in one and "left" in one for one in bars if "100%" not in one)
    assert all("…" not in one for one in bars)
    assert any("━" in one for one in bars)
    assert any(one.startswith("starting") for one in lines)
    assert "a note" in lines
    assert lines[-1] == "done"
    # Every line that is drawn is wiped before the next, and the last one too.
    assert written.count("\x1b[2K") >= len(bars)


def test_without_a_terminal_there_are_lines_and_no_control_characters() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT], capture_output=True, text=True, check=True
    )
    assert done.stdout == "done\n"
    assert "\x1b" not in done.stderr
    assert "\r" not in done.stderr
    lines = done.stderr.splitlines()
    assert lines[0].startswith("[0 s] starting")
    assert lines[-1].startswith("[1 s] dumping unit 3 of 3: 100%, 3 targets, 12,346 targets/s")


@pytest.fixture(scope="module")
def store(teacher_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A store, and what was told while it was made."""
    folder = tmp_path_factory.mktemp("progress")
    told: list[Progress] = []
    logitstore.dump(
        teacher=str(teacher_folder),
        data=["the teacher reads the text once"] * 20,
        out=folder / "store",
        unit_tokens=20,
        k=4,
        tail_draws=4,
        on_progress=told.append,
    )
    return folder / "store", told


def _stages(told: list[Progress]) -> list[str]:
    return list(dict.fromkeys(one.stage for one in told))


def test_a_dump_tells_what_it_does(store: tuple[Path, list[Progress]]) -> None:
    told = store[1]
    assert _stages(told) == [
        *("loading teacher0", "reading memory", "dumping", "sealing the store")
    ]
    dumping = [one for one in told if one.stage == "dumping"]
    shares = [one.fraction or 0.0 for one in dumping]
    assert (shares[0], shares[-1]) == (0.0, 1.0)
    assert shares == sorted(shares)
    assert dumping[-1].done == logitstore.inspect(store[0])["targets"]
    assert any(one.detail.endswith(", tokenising") for one in dumping)


@pytest.mark.parametrize(
    ("call", "stages", "unit"),
    [
        (logitstore.verify, ["hashing", "reading every row"], "targets"),
        (logitstore.audit, ["loading the teacher", "auditing"], "documents"),
    ],
)
def test_a_check_tells_what_it_does(
    store: tuple[Path, Any], teacher_folder: Path, call: Callable[..., Any], stages: Any, unit: str
) -> None:
    told: list[Progress] = []
    given = {"teacher": str(teacher_folder)} if call is logitstore.audit else {}
    list(call(store[0], **given, on_progress=told.append))
    assert [one.replace(str(teacher_folder), "the teacher") for one in _stages(told)] == stages
    assert (told[-1].fraction, told[-1].unit) == (1.0, unit)


def test_python_is_silent(store: tuple[Path, Any], capfd: pytest.CaptureFixture[str]) -> None:
    list(logitstore.verify(store[0]))
    assert capfd.readouterr() == ("", "")


def test_json_is_alone_on_standard_output(store: tuple[Path, Any]) -> None:
    command = [sys.executable, "-m", "logitstore", "verify", str(store[0]), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["ok"] is True


def test_a_run_tells_its_steps_and_an_evaluation_its_tokens(
    store: tuple[Path, Any], tmp_path: Path
) -> None:
    told: list[Progress] = []
    student = tmp_path / "student.json"
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 1, "num_key_value_heads": 1, "max_position_embeddings": 64}
    student.write_text(json.dumps({"model_type": "llama", **sizes, **heads}))
    settings = {"logits": store[0], "student": student, "out": tmp_path / "run", "steps": 3}
    trainer.fit(**settings, batch_tokens=64, log_steps=1, on_progress=told.append)
    assert _stages(told) == ["loading student.json", "packing documents", "training"]
    steps = [one for one in told if one.detail]
    assert [one.detail for one in steps] == [f"step {step} of 3" for step in (1, 2, 3)]
    assert [one.fraction for one in steps] == pytest.approx([1 / 3, 2 / 3, 1])
    assert all((one.rate or 0) > 0 for one in steps)
    assert 3 * 32 < steps[-1].done <= 3 * 64
    assert re.fullmatch(r"loss \d\.\d{4}", steps[-1].facts[0])
    for source in ({"logits": store[0]}, {"data": str(_texts(tmp_path))}):
        told.clear()
        found = trainer.evaluate(tmp_path / "run", **source, on_progress=told.append)
        assert _stages(told) == ["loading run", "measuring"]
        assert (told[-1].fraction, told[-1].unit) == (1.0, "tokens")
        assert told[-1].done > found["targets"]


def _texts(folder: Path) -> Path:
    path = folder / "texts.jsonl"
    path.write_text('{"text": "the teacher reads"}\n' * 3 + '{"text": "a target"}\n')
    return path


def test_an_evaluation_names_no_option_that_it_lacks(
    store: tuple[Path, Any], tmp_path: Path, tokenizer: Any, teacher_folder: Path
) -> None:
    (tmp_path / "bad.jsonl").write_text('{"text": "a"}\n{"text": 3}\n')
    with pytest.raises(logitstore.CorpusError, match=r"bad\.jsonl:2: text is no text") as caught:
        trainer.evaluate(str(teacher_folder), data=str(tmp_path / "bad.jsonl"))
    assert "skip" not in str(caught.value)
