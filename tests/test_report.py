"""The report: what it says of good, partial, broken and hostile folders."""

from __future__ import annotations

import hashlib
import io
import json
import math
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console

from logitstore import SettingError, StorageError, StoreError
from trainer.reporting.page import Report, print_table, render_table
from trainer.reporting.page import report as write_report
from trainer.reporting.summary import COLUMNS
from trainer.training.run_record import FORMAT, write_record
from trainer.training.state_files import EVALUATION, write_state

if TYPE_CHECKING:
    from pathlib import Path

VOID = {"meta", "br", "hr", "img", "input", "link"}


class Page(HTMLParser):
    """Checks nesting and collects what the tests ask for."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        assert self.stack == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.stack.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.stack:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


OTHER = {"store": "beef" * 8}


def evaluation(**changes: Any) -> dict[str, Any]:
    return {
        "parameters": 1234,
        "targets": 5000,
        "temperature": 1.0,
        "loss": 3.0,
        "perplexity": 20.1,
        "kl": 0.5,
        "top1_agreement": 0.61,
        "ece": 0.031,
        "acceptance": 0.72,
        "tokens_per_second": 4567.0,
        "teacher_loss": 2.5,
        "teacher_entropy": 2.4,
        "bounds": {"kl": "lower", "acceptance": "upper"},
        "coding_errors": {"kl": 0.0, "acceptance": 0.0},
        "standard_errors": {},
        "reliability": [
            {"confidence": 0.2, "accuracy": 0.25, "count": 10},
            {"confidence": 0.8, "accuracy": 0.7, "count": 5},
            {"confidence": None, "accuracy": None, "count": 0},
        ],
        "model": "runs/x",
        "store": "feed" * 8,
    } | changes


def trained(**changes: Any) -> dict[str, Any]:
    settings = {"alpha": 0.5, "temperature": 1.0, "steps": 30, "lr": 0.001, "student": "s.json"}
    return {
        "settings": settings | changes,
        "store": "cafe" * 8,
        "teacher": "org/teacher",
        "parameters": 1234,
        "seconds": 12.5,
        "finished": True,
    }


def history(count: int = 3) -> list[dict[str, Any]]:
    return [
        {
            "step": 10 * i,
            "loss": 4 - i / count,
            "ce": 5.0,
            "kl": 1 / i,
            "kl_binary": 0.1,
            "lr": 1e-3,
        }
        for i in range(1, count + 1)
    ]


def folder(root: Path, name: str, **files: Any) -> Path:
    """`root/name` with run.json, history.json, eval.json as given; a str is written as it is."""
    path = root / name
    path.mkdir(parents=True)
    for file, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (path / f"{file}.json").write_text(text)
    return path


def report_of(root: Path, *dirs: Path) -> tuple[Report, Page, str]:
    report = write_report(dirs, out=root / "page.html")
    text = report.path.read_text(encoding="utf-8")
    return report, Page(text), text


@pytest.fixture
def three(tmp_path: Path) -> list[Path]:
    return [
        folder(tmp_path, "teacher", eval=evaluation(loss=2.5, kl=0.0, parameters=9)),
        folder(tmp_path, "hard", run=trained(alpha=0), history=history(), eval=evaluation()),
        folder(
            tmp_path,
            "soft",
            run=trained(alpha=1),
            history=history(500),
            eval=evaluation(loss=2.8, kl=0.3, ece=0.05),
        ),
    ]


def terminal(report: Report, *, width: int = 80) -> str:
    buffer = io.StringIO()
    print_table(report, console=Console(file=buffer, width=width))
    return buffer.getvalue()


def test_rows_hold_the_figures_of_each_folder(tmp_path: Path, three: list[Path]) -> None:
    report, _, _ = report_of(tmp_path, *three)
    assert [row["name"] for row in report.rows] == ["teacher", "hard", "soft"]
    assert [row["reference"] for row in report.rows] == [True, False, False]
    assert [row["alpha"] for row in report.rows] == [None, 0.0, 1.0]
    assert [row["loss"] for row in report.rows] == [2.5, 3.0, 2.8]
    assert [row["seconds"] for row in report.rows] == [None, 12.5, 12.5]
    assert report.rows[1]["bounds"] == {"kl": "≥", "acceptance": "≤"}


def test_best_of_a_column_is_marked_among_students_only(tmp_path: Path, three: list[Path]) -> None:
    report, _, text = report_of(tmp_path, *three)
    lines = {line.split()[0]: line for line in terminal(report).splitlines() if line.strip()}
    assert "*" not in lines["teacher"]  # though its loss is the least
    assert "*2.800" in lines["soft"]
    assert "*≥ 0.300" not in lines["soft"]  # the exact value may be any above it
    assert "*≤" not in lines["soft"]
    assert "*3.1%" in lines["hard"]  # calibration: less is better
    assert "*61.0%" in lines["hard"]  # equal values: both
    assert "*61.0%" in lines["soft"]
    assert '<td class="best">2.800 ★</td>' in text
    assert '<td class="best">2.500' not in text
    assert 'class="best"' not in report_of(tmp_path, *three[:2])[2]  # one student beats nobody


def test_bounds_carry_their_sign_and_a_footnote(tmp_path: Path, three: list[Path]) -> None:
    _, page, _ = report_of(tmp_path, *three)
    assert "≥ 0.300" in page.text
    assert "≤ 72.0%" in page.text
    assert "≥ means: the exact value is at least this" in page.text
    assert "≤ means: the exact value is at most this" in page.text
    exact = folder(tmp_path, "exact", eval=evaluation(bounds={}))
    _, page, _ = report_of(tmp_path, exact)
    assert "≥" not in page.text


def test_a_bound_is_shown_with_its_coding_error(tmp_path: Path) -> None:
    coding = {"kl": 0.02, "acceptance": 0.1}
    run = folder(tmp_path, "run", eval=evaluation(coding_errors=coding))
    report, page, _ = report_of(tmp_path, run)
    assert report.rows[0]["kl"] == pytest.approx(0.48)
    assert "≥ 0.480" in page.text
    assert "≤ 82.0%" in page.text
    # Behind these numbers nothing can be, so they are not passed.
    coding = {"kl": 9.0, "acceptance": 9.0}
    run = folder(tmp_path, "coarse", eval=evaluation(coding_errors=coding))
    _, page, _ = report_of(tmp_path, run)
    assert "≥ 0.000" in page.text
    assert "≤ 100.0%" in page.text


def test_a_bound_of_which_rounding_is_not_known_is_called_so(tmp_path: Path) -> None:
    """An eval.json of an earlier version says nothing of rounding, or of standard errors."""
    content = evaluation()
    del content["coding_errors"], content["standard_errors"]
    _, page, _ = report_of(tmp_path, folder(tmp_path, "old", eval=content))
    assert "≳ 0.500" in page.text
    assert "≲ 72.0%" in page.text
    assert "≥" not in page.text
    assert "≳ means: the exact value is at least about this" in page.text
    assert "±" not in page.text


def test_standard_errors_stand_on_the_page(tmp_path: Path) -> None:
    content = evaluation(standard_errors={"kl": 0.0123, "top1_agreement": 0.004})
    report, page, _ = report_of(tmp_path, folder(tmp_path, "run", eval=content))
    assert "≥ 0.500 ± 0.012" in page.text
    assert "61.0% ± 0.4%" in page.text
    assert "± is one standard error" in page.text
    assert "0.500 ±" not in terminal(report)


@pytest.mark.parametrize(
    ("change", "starred"), [({}, {"loss", "kl"}), ({"temperature": 2.0}, {"loss"}), (OTHER, set())]
)
def test_only_what_was_measured_alike_has_a_best(
    tmp_path: Path, change: dict[str, Any], starred: set[str]
) -> None:
    runs = [
        folder(tmp_path, "one", run={}, eval=evaluation(loss=3.5, kl=0.7, bounds={})),
        folder(tmp_path, "two", run={}, eval=evaluation(**{"bounds": {}} | change)),
    ]
    report, _, _ = report_of(tmp_path, *runs)
    cells = {
        key: [str(cell) for cell in column.cells]
        for key, column in zip(
            ["name", *(key for key, one in COLUMNS.items() if one.short)],
            render_table(report).columns,
            strict=True,
        )
    }
    found = {key for key in ("loss", "kl") if cells[key][1].startswith("*")}
    assert found == starred
    told = any("different temperatures (1, 2)" in note for note in report.notes)
    assert told == ("temperature" in change)


def test_page_stands_alone(tmp_path: Path, three: list[Path]) -> None:
    """No request can leave it: no address but the names of XML's own dialects, no script."""
    _, page, text = report_of(tmp_path, *three)
    kept = text.replace("http://www.w3.org/2000/svg", "").replace(
        "http://www.w3.org/1999/xlink", ""
    )
    assert "http:" not in kept
    assert "https:" not in kept
    assert not {"script", "link", "img", "iframe", "base"} & {tag for tag, _ in page.tags}
    for _, attributes in page.tags:
        for key, value in attributes.items():
            assert not key.startswith("on")
            if key in {"href", "xlink:href", "src"}:
                assert value
                assert value.startswith("#")


def test_ids_are_unique_and_every_reference_has_one(tmp_path: Path, three: list[Path]) -> None:
    _, page, text = report_of(tmp_path, *three)
    ids = [value for _, attributes in page.tags if (value := attributes.get("id"))]
    assert len(ids) == len(set(ids))
    wanted = [attributes[key] for _, attributes in page.tags for key in attributes if "href" in key]
    wanted += [f"#{part.partition(')')[0]}" for part in text.split("url(#")[1:]]
    wanted += [
        f"#{name}"
        for _, attributes in page.tags
        for name in (attributes.get("aria-labelledby") or "").split()
    ]
    assert wanted
    assert {one.removeprefix("#") for one in wanted if one} <= set(ids)


def test_charts_are_xml_with_a_name_and_a_description(tmp_path: Path, three: list[Path]) -> None:
    _, _, text = report_of(tmp_path, *three)
    charts = [
        f"<svg xmlns='http://www.w3.org/2000/svg' {part.partition('</svg>')[0]}</svg>"
        for part in text.split("<svg role=")[1:]
    ]
    charts = [chart.replace("/svg' ", "/svg' role=") for chart in charts]
    names = []
    for chart in charts:
        root = ET.fromstring(chart)
        assert [child.tag.partition("}")[2] for child in root[:2]] == ["title", "desc"]
        assert root[0].text
        assert root[1].text
        assert "#0102" not in chart  # every marker colour became a variable of the page
        names.append(root[0].text)
    assert names[0] == "Held-out loss"
    assert names[-1] == "Reliability"
    assert "Training loss" in names
    assert "Top-1 agreement with the teacher" not in names  # nobody recorded it
    assert "hard 3.000" in charts[0]
    assert "teacher 2.500" in charts[0]


def test_tables_have_captions_and_headers(tmp_path: Path, three: list[Path]) -> None:
    _, page, _ = report_of(tmp_path, *three)
    tags = [tag for tag, _ in page.tags]
    assert tags.count("table") == tags.count("caption") == 2
    assert all(attributes.get("scope") for tag, attributes in page.tags if tag == "th")


def test_same_folders_same_bytes(tmp_path: Path, three: list[Path]) -> None:
    first = write_report(three, out=tmp_path / "1.html").path.read_bytes()
    assert write_report(three, out=tmp_path / "2.html").path.read_bytes() == first


def test_settings_shared_and_differing(tmp_path: Path, three: list[Path]) -> None:
    _, page, text = report_of(tmp_path, *three)
    assert "<dt>lr</dt><dd>0.001</dd>" in text
    assert '<th scope="col">alpha</th>' in text
    assert '<th scope="col">lr</th>' not in text
    assert "cafe" * 8 in page.text
    assert "feed" * 8 in page.text
    assert "org/teacher" in page.text


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    bare = folder(tmp_path, "bare", run=trained() | {"finished": False})
    report, page, _ = report_of(tmp_path, bare)
    assert "Not finished: bare." in report.notes
    for sentence in (
        "Without history.json, so no curves: bare.",
        "Without eval.json, so no held-out figures: bare.",
        "No run was evaluated.",
        "No run has a history.",
        "No evaluation has figures on calibration.",
        "not recorded",
    ):
        assert sentence in page.text
    assert report.rows[0]["loss"] is None
    assert report.rows[0]["parameters"] == 1234  # run.json knows them too
    _, page, _ = report_of(tmp_path, folder(tmp_path, "only", eval=evaluation()))
    assert "No run recorded its settings." in page.text
    assert "Without" not in page.text  # a reference lacks nothing


def written(root: Path, *, run: dict[str, Any], evaluation: dict[str, Any]) -> Path:
    """The folder of a finished run as `trainer fit` and `trainer eval` write it."""
    out = root / "run"
    out.mkdir()
    (out / "history.json").write_text(json.dumps(history()))
    digest = hashlib.sha256((out / "history.json").read_bytes()).hexdigest()
    files = {"history.json": digest, "model.safetensors": "a" * 64}
    write_record(out, {"format": FORMAT, "files": files} | run)
    write_state(out / "eval.json", {"format": EVALUATION} | evaluation)
    return out


WEIGHTS = {"model.safetensors": "a" * 64}


def test_the_evaluation_of_a_run_names_its_weights(tmp_path: Path) -> None:
    out = written(tmp_path, run=trained(), evaluation=evaluation() | {"weights": WEIGHTS})
    report, _, _ = report_of(tmp_path, out)
    assert report.rows[0]["loss"] == evaluation()["loss"]
    assert not [note for note in report.notes if "eval.json" in note]


@pytest.mark.parametrize(
    ("weights", "run", "reason"),
    [
        ({"model.safetensors": "b" * 64}, {}, "it is of other weights"),
        (WEIGHTS | {"adapter_model.safetensors": "a" * 64}, {}, "it is of other weights"),
        (None, {}, "it names no weights"),
        ({}, {}, "it names no weights"),
        (WEIGHTS, {"finished": False}, "the run has not finished"),
    ],
)
def test_the_evaluation_of_another_model_is_named_and_left_out(
    tmp_path: Path, weights: Any, run: dict[str, Any], reason: str
) -> None:
    content = evaluation() | {"weights": weights}
    report, _, _ = report_of(tmp_path, written(tmp_path, run=trained() | run, evaluation=content))
    assert report.rows[0]["loss"] is None
    assert [note for note in report.notes if f"run is left out: {reason}" in note]


def test_an_evaluation_from_elsewhere_is_left_out_of_a_run_with_hashes(tmp_path: Path) -> None:
    out = written(tmp_path, run=trained(), evaluation={})
    (out / "eval.json").write_text(json.dumps(evaluation()))
    report, _, _ = report_of(tmp_path, out)
    assert report.rows[0]["loss"] is None


@pytest.mark.parametrize("name", ["run.json", "eval.json", "history.json"])
def test_a_digit_that_has_changed_is_refused(tmp_path: Path, name: str) -> None:
    out = written(tmp_path, run=trained(), evaluation=evaluation() | {"weights": WEIGHTS})
    place = out / name
    original = place.read_text()
    for at in [at for at, sign in enumerate(original) if sign.isdigit()][::7]:
        other = "4" if original[at] == "3" else "3"
        place.write_text(original[:at] + other + original[at + 1 :])
        with pytest.raises(StoreError, match=re.escape(str(place))):
            write_report([out], out=tmp_path / "page.html")
    place.write_text(original.replace('"sha256"', '"sha257"').replace("loss", "lost"))
    with pytest.raises(StoreError, match=re.escape(str(place))):
        write_report([out], out=tmp_path / "page.html")


def test_other_stores_do_not_compare(tmp_path: Path, three: list[Path]) -> None:
    other = folder(
        tmp_path, "other", run=trained(), eval=evaluation(store="beef", teacher_loss=2.4)
    )
    report, _, text = report_of(tmp_path, *three, other)
    assert any("do not compare across stores" in note for note in report.notes)
    assert "- - teacher" not in text  # two teachers, no line


def test_a_store_that_was_learnt_from_is_no_held_out_text(tmp_path: Path) -> None:
    learnt = evaluation(loss=1.0, store="cafe" * 8, trained_on=True)
    run = folder(tmp_path, "run", run=trained(), history=history(), eval=learnt)
    report, page, _ = report_of(tmp_path, run)
    assert report.rows[0]["loss"] == 1.0
    assert "On the training text, not on held-out text" in page.text
    keep(run, held=evaluation(trained_on=False), store=learnt)
    report, page, _ = report_of(tmp_path, run)
    assert report.rows[0]["loss"] == evaluation()["loss"]
    assert "(the store that the run learnt from): run: store." in page.text


def test_a_loss_over_other_tokens_is_told(tmp_path: Path, three: list[Path]) -> None:
    measured = {"bits_per_byte": 2.64, "teacher_bits_per_byte": 1.642, "span_kl": 0.242}
    other = folder(tmp_path, "other", eval=evaluation(store="elsewhere", **measured))
    (told,) = [one for one in report_of(tmp_path, *three, other)[0].notes if "bits a byte" in one]
    assert told.startswith("other has another tokenizer than the store")
    assert "2.640 bits a byte, the teacher 1.642; KL 0.242" in told


def test_figures_that_are_not_finite(tmp_path: Path) -> None:
    """A run that diverged is shown as one, and wins nothing."""
    broken = [{"step": 1, "loss": math.nan}, {"step": 2, "loss": math.inf}]
    worst = evaluation(loss=math.nan, perplexity=10**400, kl=math.inf)
    runs = [
        folder(tmp_path, "nan", run=trained(), history=broken, eval=worst),
        folder(tmp_path, "a", run=trained(), eval=evaluation()),
        folder(tmp_path, "b", run=trained(), eval=evaluation(loss=4.0)),
    ]
    _, page, text = report_of(tmp_path, *runs)
    assert page.text.count("not finite") >= 3
    assert '<td class="best">3.000 ★</td>' in text
    assert "No run has a history." in page.text


HOSTILE = '</svg><script>alert("x")</script>$\\frac{ &amp; \x1b[31m \u202e [red]'


def test_hostile_strings_are_text(tmp_path: Path) -> None:
    run = trained(student=HOSTILE) | {"teacher": HOSTILE, "command": [HOSTILE]}
    run["settings"][HOSTILE] = {"nested": HOSTILE}
    name = "$x^ [bold] <b> & 'q'"
    path = folder(tmp_path, name, run=run, history=history(), eval=evaluation(model=HOSTILE))
    report, page, text = report_of(tmp_path, path)
    assert "script" not in {tag for tag, _ in page.tags}
    assert '</svg><script>alert("x")' in page.text
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert name in page.text
    assert name in terminal(report, width=120)
    report, _, _ = report_of(tmp_path, folder(tmp_path, "a\x1b[2Jb", eval=evaluation()))
    assert report.rows[0]["name"] == "a\\x1b[2Jb"  # nor may a name steer the terminal


def test_equal_names_become_paths(tmp_path: Path) -> None:
    runs = [folder(tmp_path, f"{i}/run", eval=evaluation()) for i in (1, 2)]
    report, _, _ = report_of(tmp_path, *runs)
    assert [row["name"] for row in report.rows] == [str(path) for path in runs]


def test_many_runs_differ_by_dash_too(tmp_path: Path) -> None:
    runs = [
        folder(tmp_path, f"r{i}", run=trained(), history=history(1), eval=evaluation())
        for i in range(10)
    ]
    _, _, text = report_of(tmp_path, *runs)
    assert 'stroke-dasharray="6 2"' in text
    assert "stroke-dasharray: " in text.partition("curve-loss-title")[2]


def test_long_histories_are_averaged(tmp_path: Path) -> None:
    small = folder(tmp_path, "small", run=trained(), history=history(240))
    large = folder(tmp_path, "large", run=trained(), history=history(24_000))
    sizes = []
    for path in (small, large):
        _, _, text = report_of(tmp_path, path)
        sizes.append(len(text))
    assert sizes[1] < 1.2 * sizes[0]


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        ({"eval": "{"}, "eval.json: not valid JSON"),
        ({"eval": "[" * 100_000}, "eval.json: not valid JSON"),
        ({"eval": "[]"}, "eval.json: unexpected JSON"),
        ({"run": "3"}, "run.json: unexpected JSON"),
        ({"history": "{}"}, "history.json: unexpected JSON"),
        ({"history": "[1]"}, "history.json: unexpected JSON"),
        ({"eval": {"loss": "low"}}, "eval.json: loss: not a number"),
        ({"eval": {"loss": True}}, "eval.json: loss: not a number"),
        ({"run": {"settings": {"alpha": [1]}}}, "run.json: settings.alpha: not a number"),
        ({"history": [{"step": "x", "loss": 1}]}, "history.json: not a number"),
        ({"eval": {"reliability": [{"count": "many"}]}}, "reliability: not a number"),
        ({}, "a folder without results"),
    ],
)
def test_broken_folders_are_named(tmp_path: Path, files: dict[str, Any], problem: str) -> None:
    path = folder(tmp_path, "run", **files)
    with pytest.raises(StoreError) as caught:
        write_report([path], out=tmp_path / "page.html")
    assert problem in str(caught.value)
    assert str(path) in str(caught.value)
    assert not (tmp_path / "page.html").exists()


def test_folders_and_pages_that_cannot_be(tmp_path: Path) -> None:
    path = folder(tmp_path, "run", eval=evaluation())
    with pytest.raises(SettingError, match="no such folder"):
        write_report([path, tmp_path / "none"])
    with pytest.raises(SettingError, match="named twice"):
        write_report([path, tmp_path / "x" / ".." / "run"])
    with pytest.raises(SettingError, match="at least one folder"):
        write_report([])
    with pytest.raises(StorageError, match="cannot be written"):
        write_report([path], out=path)


JUNK = (None, True, "x", [[]], [{}], {"a": []}, 1e400)


@pytest.mark.parametrize("key", sorted(evaluation()))
def test_anything_may_stand_where_a_figure_should(tmp_path: Path, key: str) -> None:
    """A page or an expected message, never another exception."""
    ends = set()
    for number, junk in enumerate(JUNK):
        content = evaluation(reliability=[]) | {key: junk}
        run = {"settings": junk, "store": junk}
        path = folder(tmp_path, str(number), eval=content, run=run)
        try:
            ends.add(write_report([path], out=tmp_path / "page.html").rows[0]["name"])
        except StoreError as error:
            ends.add(error.problem)
    assert ends <= {"not a number", *map(str, range(len(JUNK)))}
    assert {"0", "6"} <= ends  # what is missing and what is infinite both make a page


def test_default_page_is_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder(tmp_path, "run", eval=evaluation())
    monkeypatch.chdir(tmp_path)
    assert write_report([path]).path.name == "report.html"
    assert (tmp_path / "report.html").is_file()


def by_tasks(**changes: Any) -> dict[str, Any]:
    """What `trainer eval --tasks` gives, as far as a report reads it."""
    return {
        "parameters": 77,
        "tasks": {
            "lambada": {
                "perplexity": 12.5,
                "perplexity_stderr": 1.25,
                "acc": 0.5,
                "acc_stderr": 0.05,
            },
            "gsm": {"exact,strict": 0.25, "exact_stderr,strict": None},
        },
        "items": {
            "lambada": {"count": 100, "sha256": "ab" * 32},
            "gsm": {"count": 1, "sha256": "cd" * 32},
        },
        "num_fewshot": {"lambada": 0, "gsm": 5},
        "higher_is_better": {"lambada": {"perplexity": False, "acc": True}, "gsm": {"exact": True}},
        "task_versions": {"lambada": "1.0", "gsm": "3"},
        "harness": "lm_eval 1",
        "model": "runs/x",
    } | changes


def keep(root: Path, **kept: dict[str, Any]) -> Path:
    """The folder `root` with these evaluations in evals/."""
    (root / "evals").mkdir(parents=True)
    for name, content in kept.items():
        (root / "evals" / f"{name}.json").write_text(json.dumps(content))
    return root


def better(**figures: float) -> dict[str, Any]:
    return by_tasks(tasks={"lambada": figures | {"acc_stderr": 0.04}})


def test_tasks_stand_side_by_side_with_their_errors(tmp_path: Path) -> None:
    teacher = keep(tmp_path / "teacher", tasks=better(acc=0.75, perplexity=4.0))
    hard = keep(folder(tmp_path, "hard", run=trained(), history=history()), tasks=by_tasks())
    soft = keep(
        folder(tmp_path, "soft", run=trained(), history=history(), eval=evaluation()),
        tasks=better(acc=0.625, perplexity=13.0),
    )
    report, page, text = report_of(tmp_path, teacher, hard, soft)
    rows = {(row.task, row.metric): row for row in report.tasks}
    assert list(rows) == [("lambada", "acc"), ("lambada", "perplexity"), ("gsm", "exact,strict")]
    acc = rows["lambada", "acc"]
    assert acc.values == {"teacher": 0.75, "hard": 0.5, "soft": 0.625}
    assert acc.errors == {"teacher": 0.04, "hard": 0.05, "soft": 0.04}
    assert acc.asked == "100 items"
    assert rows["gsm", "exact,strict"].asked == "1 item, 5-shot"
    assert rows["gsm", "exact,strict"].errors == {}
    assert '<td class="best">0.625 ± 0.040 ★</td>' in text
    assert '<td class="best">12.500 ± 1.250 ★</td>' in text  # of perplexity less is better
    assert '<td class="best">0.750' not in text  # the teacher does not compete
    assert "0.750 ± 0.040" in page.text
    shown = terminal(report, width=120)
    assert "*0.625 ± 0.040" in shown
    assert "lambada acc (100 items)" in shown
    assert report.rows[0]["parameters"] == 77
    assert "Without eval.json, so no held-out figures: teacher, hard." in report.notes
    assert any("± behind a figure of a task" in note for note in report.notes)


def test_figures_of_other_items_have_rows_of_their_own(tmp_path: Path) -> None:
    other = by_tasks(
        items={"lambada": {"count": 100, "sha256": "ef" * 32}, "gsm": by_tasks()["items"]["gsm"]},
        harness="lm_eval 2",
    )
    one = keep(tmp_path / "one", tasks=by_tasks())
    report, _, _ = report_of(tmp_path, one, keep(tmp_path / "two", tasks=other))
    rows = [row for row in report.tasks if (row.task, row.metric) == ("lambada", "acc")]
    assert [set(row.values) for row in rows] == [{"one"}, {"two"}]
    assert [row.asked for row in rows] == [
        "100 items, items abababab, version 1.0",
        "100 items, items efefefef, version 1.0",
    ]
    assert [set(row.values) for row in report.tasks if row.task == "gsm"] == [{"one", "two"}]
    assert any("compare within a row" in note for note in report.notes)
    assert "Tasks were asked by different versions: lm_eval 1, lm_eval 2." in report.notes


def test_all_that_a_folder_keeps_is_shown_once(tmp_path: Path) -> None:
    far = evaluation(loss=4.25, store="aa" * 16, weights={"m.safetensors": "a"})
    run = folder(tmp_path, "run", run=trained(), history=history(), eval=evaluation())
    keep(run, near=evaluation(), far=far)
    report, page, _ = report_of(tmp_path, run)
    assert [row["name"] for row in report.others] == ["run: far"]
    assert "4.250" in page.text
    assert not [note for note in report.notes if "several models" in note]
    mixed = keep(tmp_path / "mixed", far=far, tasks=by_tasks(weights={"m.safetensors": "b"}))
    report, _, _ = report_of(tmp_path, mixed)
    assert "Of several models, by the weights they name: mixed." in report.notes


def test_a_kept_evaluation_of_other_weights_is_left_out(tmp_path: Path) -> None:
    out = written(tmp_path, run=trained(), evaluation=evaluation() | {"weights": WEIGHTS})
    (out / "evals").mkdir()
    mine = {"format": EVALUATION, "weights": WEIGHTS}
    other = mine | {"weights": {"model.safetensors": "b" * 64}}
    write_state(out / "evals" / "mine.json", mine | by_tasks())
    write_state(out / "evals" / "other.json", other | better(acc=0.9))
    report, _, _ = report_of(tmp_path, out)
    assert [row.values for row in report.tasks if row.metric == "acc"] == [{"run": 0.5}]
    assert any(
        "evals/other.json of run is left out: it is of other weights" in note
        for note in report.notes
    )
    place = out / "evals" / "mine.json"
    place.write_text(place.read_text().replace("0.05", "0.06"))
    with pytest.raises(StoreError, match=re.escape(str(place))):
        report_of(tmp_path, out)


@pytest.mark.parametrize(
    "changes",
    [
        {"tasks": {"lambada": {"acc": "high"}}},
        {"tasks": {"lambada": {"acc": 0.5, "acc_stderr": True}}},
        {"num_fewshot": {"lambada": []}},
        {"items": {"lambada": {"count": "x"}}},
    ],
)
def test_figures_of_tasks_that_are_no_numbers_are_refused(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    with pytest.raises(StoreError, match=r"evals/tasks\.json.*lambada.*not a number"):
        report_of(tmp_path, keep(tmp_path / "run", tasks=by_tasks(**changes)))


def test_odd_names_of_tasks_are_text_on_the_page(tmp_path: Path) -> None:
    odd = by_tasks(tasks={"<b>x\u202e": {"acc": 0.5}, "y": 3}, items=[], higher_is_better={"y": 1})
    _, page, text = report_of(tmp_path, keep(tmp_path / "run", tasks=odd))
    assert "<b>x" not in text
    assert "\u202e" not in text
    assert "<b>x" in page.text
