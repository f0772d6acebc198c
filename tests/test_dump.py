"""Dumps by real processes: against the live teacher, killed, side by side, and with bad input."""

import json
import os
import random
import shutil
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

import logitstore
from logitstore.corpus.tokenizer import load_tokenizer
from logitstore.errors import (
    CorpusError,
    CorruptionError,
    LogitStoreError,
    ModelError,
    SettingError,
    SpecError,
    StorageError,
    StoreError,
)
from logitstore.store.containers import CONTAINERS
from logitstore.store.verify import verify
from logitstore.teacher.transformers import TransformersTeacher
from tests.forked import run, start
from tools.dict_storage import DictStorage

TEXTS = [
    "The teacher reads the text once.",
    "A target is the distribution of the next token given the tokens before it. " * 6,
    "the student reads what the teacher wrote",
    "A student.",
] * 6


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("corpus") / "corpus.jsonl"
    path.write_text("".join(json.dumps({"text": f"{n} {t}"}) + "\n" for n, t in enumerate(TEXTS)))
    return path


@pytest.fixture
def settings(teacher_folder: Path, corpus: Path, tmp_path: Path) -> dict[str, Any]:
    """Five units of work."""
    return {
        "teacher": str(teacher_folder),
        "data": str(corpus),
        "out": tmp_path / "store",
        "sparsify": "topk",
        "k": 8,
        "unit_tokens": 250,
        "batch_tokens": 512,
    }


def _data(folder: Path) -> dict[str, bytes]:
    """The bytes of every shard, by unit and file, whatever the attempts were called."""
    return {
        f"{path.relative_to(folder / 'data').parts[0].split('-')[0]}/"
        f"{Path(*path.relative_to(folder / 'data').parts[1:])}": path.read_bytes()
        for path in sorted((folder / "data").rglob("*"))
        if path.is_file()
    }


def _dense(folder: Path, input_ids_L: np.ndarray) -> np.ndarray:
    """float64 [L - 1, 300] log-probabilities of the live teacher, padding dropped."""
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.inference_mode():
        logits_LV = model(torch.from_numpy(input_ids_L.astype(np.int64))[None]).logits[0, :-1, :300]
    return torch.log_softmax(logits_LV.double(), dim=-1).numpy()


@pytest.mark.parametrize("container", sorted(CONTAINERS))
def test_rows_are_the_live_teachers(
    settings: dict[str, Any], teacher_folder: Path, container: str
) -> None:
    summary = logitstore.dump(**settings, format=container)
    store = logitstore.open(settings["out"])
    assert list(verify(settings["out"])) == []
    assert (summary.documents, summary.targets) == (len(store), store.targets)
    for stored in store[::5]:
        logp_RV = _dense(teacher_folder, stored.document.input_ids_L)
        order_RK = np.argsort(-logp_RV, axis=1)[:, :8]
        labels_R = stored.document.input_ids_L[1:].astype(int)
        rows_R = np.arange(len(labels_R))
        for row in rows_R:
            assert set(stored.targets.ids_RK[row].tolist()) == set(order_RK[row].tolist())
        np.testing.assert_allclose(
            stored.targets.label_logprob_R, logp_RV[rows_R, labels_R], atol=3e-3
        )
        entropy_R = -(np.exp(logp_RV) * logp_RV).sum(axis=1)
        np.testing.assert_allclose(stored.targets.entropy_R, entropy_R, atol=3e-3)
        found_R = np.exp(stored.targets.logprobs_RK).sum(axis=1)
        wanted_R = np.exp(np.take_along_axis(logp_RV, order_RK, axis=1)).sum(axis=1)
        np.testing.assert_allclose(found_R, wanted_R, rtol=1e-3)


def test_every_counted_token_of_the_corpus_is_there_once(
    settings: dict[str, Any], tokenizer: PreTrainedTokenizerFast
) -> None:
    logitstore.dump(**settings)
    store = logitstore.open(settings["out"])
    texts: dict[int, list[int]] = {}
    for stored in store:
        ids = stored.document.input_ids_L.tolist()
        assert len(ids) <= 64
        texts[stored.document.record] = texts.get(stored.document.record, ids[:1]) + ids[1:]
    eos = tokenizer.eos_token_id
    wanted = [[*tokenizer(f"{n} {text}").input_ids, eos] for n, text in enumerate(TEXTS)]
    assert [texts[record] for record in sorted(texts)] == wanted


def test_the_same_command_again_leaves_a_finished_store_as_it_is(settings: dict[str, Any]) -> None:
    first = logitstore.dump(**settings)
    before = {path: path.stat().st_mtime_ns for path in settings["out"].rglob("*")}
    second = logitstore.dump(**settings)
    assert second.new_targets == 0
    assert second.fingerprint == first.fingerprint
    changed = [path for path, when in before.items() if path.stat().st_mtime_ns != when]
    assert [path for path in changed if path.is_file()] == []


def test_no_teacher_is_loaded_in_vain(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not for a store that is whole, sealed or not, nor for one with other settings."""
    first = logitstore.dump(**settings)

    def load(*_: Any, **__: Any) -> None:
        raise AssertionError("the teacher is loaded")

    monkeypatch.setattr(TransformersTeacher, "load", load)
    with pytest.raises(SpecError, match="format zarr there, parquet here"):
        logitstore.dump(**settings | {"format": "parquet"})
    assert logitstore.dump(**settings).new_targets == 0
    (settings["out"] / "manifest.json").unlink()
    assert logitstore.dump(**settings).fingerprint == first.fingerprint
    with pytest.raises(AssertionError):  # another teacher: only loaded it tells what differs
        logitstore.dump(**settings | {"dtype": "bfloat16"})


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"k": 9}, "k 8 there, 9 here"),
        ({"format": "parquet"}, "format zarr there, parquet here"),
        ({"max_length": 32}, "max_length 64 there, 32 here"),
        ({"unit_tokens": 300}, r"unit_tokens \d+ there, 300 here"),
        ({"batch_tokens": 256}, "batch_tokens 512 there, 256 here"),
    ],
)
def test_other_settings_are_refused_on_resume(
    settings: dict[str, Any], change: dict[str, Any], field: str
) -> None:
    logitstore.dump(**settings)
    with pytest.raises(SpecError, match=field):
        logitstore.dump(**settings | change)


def test_other_settings_are_told_as_the_user_gave_them(settings: dict[str, Any]) -> None:
    """Not as the spec writes them down: K of a hybrid is the sum of two options."""
    settings |= {"sparsify": "hybrid"}
    logitstore.dump(**settings)
    changes: dict[str, dict[str, Any]] = {
        "--k 8 there, 9 here": {"k": 9},
        "--tail-draws 8 there, 4 here": {"tail_draws": 4},
        "--k 8 there, 9 here, --seed 0 there, 1 here": {"k": 9, "seed": 1},
        "--temperature 1, 1.14286, 1.45455, 2, 2.66667, 3.2, 4, 5.33333, 8 there, 1, 3 here": {
            "temperature": (1, 3)
        },
        "--sparsify hybrid there, topk here": {"sparsify": "topk"},
        "--fidelity balanced there, exact here": {"fidelity": "exact"},
        "--format zarr there, parquet here": {"format": "parquet"},
        "--limit not given there, 3 here": {"limit": 3},
    }
    for told, change in changes.items():
        with pytest.raises(SpecError) as caught:
            logitstore.dump(**settings | change)
        assert f"begun with other settings: {told}" in caught.value.command_line_message
        assert "--" not in str(caught.value)
    assert "format zarr there" in str(_refused(settings | {"format": "parquet"}))


def _refused(settings: dict[str, Any]) -> SpecError:
    with pytest.raises(SpecError) as caught:
        logitstore.dump(**settings)
    return caught.value


def test_a_card_names_the_entries_as_the_sparsifier_declares_them(settings: dict[str, Any]) -> None:
    expected = {
        "hybrid": "hybrid, 8 exact + 8 drawn entries a target;",
        "topk": "topk, 8 entries a target;",
        "sample": "sample, 50 draws a target;",
    }
    for name, words in expected.items():
        given = settings | {"sparsify": name, "out": settings["out"].with_name(name)}
        if name == "sample":
            del given["k"]
        logitstore.dump(**given)
        assert f"| sparsifier | {words} " in (given["out"] / "README.md").read_text()


@pytest.mark.parametrize(
    "change",
    [{"batch_tokens": 100.5}, {"unit_tokens": "9"}, {"max_length": 20.0}, {"limit": 2.5}],
)
def test_numbers_of_another_kind_are_refused_before_anything_is_written(
    settings: dict[str, Any], change: dict[str, Any]
) -> None:
    with pytest.raises(SettingError, match="must be a whole number"):
        logitstore.dump(**settings | change)
    assert not settings["out"].exists()


def test_another_teacher_is_refused_on_resume(
    settings: dict[str, Any], teacher_folder: Path, tmp_path: Path
) -> None:
    logitstore.dump(**settings)
    model = AutoModelForCausalLM.from_pretrained(teacher_folder)
    model.lm_head.weight.data.mul_(1.01)
    model.save_pretrained(tmp_path / "other")
    load_tokenizer(str(teacher_folder)).save_pretrained(tmp_path / "other")
    with pytest.raises(SpecError, match=r"teacher\.fingerprint"):
        logitstore.dump(**settings | {"teacher": str(tmp_path / "other")})


def test_a_teacher_is_who_its_fingerprint_says(
    settings: dict[str, Any], teacher_folder: Path, tmp_path: Path
) -> None:
    first = logitstore.dump(**settings)
    shutil.copytree(teacher_folder, tmp_path / "moved")
    second = logitstore.dump(**settings | {"teacher": str(tmp_path / "moved")})
    assert (second.fingerprint, second.new_targets) == (first.fingerprint, 0)


def test_a_changed_corpus_is_noticed_on_resume(settings: dict[str, Any], tmp_path: Path) -> None:
    corpus = tmp_path / "mine.jsonl"
    lines = Path(settings["data"]).read_text().splitlines(keepends=True)
    corpus.write_text("".join(lines))
    settings["data"] = str(corpus)
    logitstore.dump(**settings)
    (settings["out"] / "manifest.json").unlink()
    (settings["out"] / "commits" / "000001.json").unlink()
    lines[8] = lines[8].replace("e", "E", 1)
    corpus.write_text("".join(lines))
    with pytest.raises(CorpusError, match="changed since the plan"):
        logitstore.dump(**settings)


def _words(settings: dict[str, Any]) -> list[str]:
    return ["dump", *(f"--{name.replace('_', '-')}={value}" for name, value in settings.items())]


def _run(settings: dict[str, Any], *more: str) -> subprocess.CompletedProcess[str]:
    return run("logitstore", *_words(settings), *more)


def test_killed_at_any_moment_the_same_command_ends_in_the_same_bytes(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    whole = logitstore.dump(**settings)
    wanted = _data(settings["out"])
    settings["out"] = tmp_path / "killed"
    for commits in (0, 2):
        process = start("logitstore", *_words(settings))
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and process.poll() is None:
            done = len(list((tmp_path / "killed" / "commits").glob("0*.json")))
            if (tmp_path / "killed" / "plan.json").exists() and done >= commits:
                break
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
    again = logitstore.dump(**settings)
    assert again.fingerprint == whole.fingerprint
    assert _data(settings["out"]) == wanted
    assert list(verify(settings["out"])) == []
    assert not list(settings["out"].rglob("*.tmp"))


@pytest.mark.parametrize("container", sorted(CONTAINERS))
def test_killed_where_there_are_no_hard_links_it_ends_in_the_same_bytes(
    settings: dict[str, Any], tmp_path: Path, container: str
) -> None:
    whole = logitstore.dump(**settings, format=container)
    wanted = _data(settings["out"])
    settings["out"] = out = tmp_path / "killed"
    command = ("tests.without_links", *_words(settings), f"--format={container}")
    generator = random.Random(0)
    for commits in (0, 3):
        process = start(*command)
        while process.poll() is None and not (
            out.is_dir() and len(list((out / "commits").glob("0*.json"))) >= commits
        ):
            time.sleep(0.001)
        time.sleep(generator.uniform(0, 0.02))
        process.send_signal(signal.SIGKILL)
        process.wait()
        for path in out.glob("*.json"):
            json.loads(path.read_bytes())  # whole, or not there
    done = run(*command)
    assert done.returncode == 0, done.stderr
    assert logitstore.open(out).fingerprint == whole.fingerprint
    assert _data(out) == wanted
    assert list(verify(out)) == []
    assert not [path for path in out.rglob("*") if path.name.startswith(".")]


@pytest.mark.parametrize("container", sorted(CONTAINERS))
def test_a_storage_in_memory_holds_the_same_store(settings: dict[str, Any], container: str) -> None:
    """Through a failure on the way, and made by several threads at the same time."""
    whole = logitstore.dump(**settings, format=container)
    wanted = _data(settings["out"])

    class Failing(DictStorage):
        refused = "data/000003-"

        def put(self, name: str, data: bytes) -> None:
            if name.startswith(self.refused):
                raise StorageError("no connection", place=name)
            super().put(name, data)

    storage = Failing()
    settings["out"] = storage
    with pytest.raises(StorageError, match="no connection"):
        logitstore.dump(**settings, format=container)
    assert len(logitstore.open(storage, allow_partial=True).commits) == 3
    storage.refused = "nothing"
    with ThreadPoolExecutor(3) as pool:
        dumps = [pool.submit(logitstore.dump, **settings, format=container) for _ in range(3)]
    assert {one.result().fingerprint for one in dumps} == {whole.fingerprint}
    assert dumps[0].result().uri == "memory://store"
    store = logitstore.open(storage)
    assert list(verify(storage)) == []
    assert len(store) == whole.documents
    found = {name.removeprefix("data/"): storage.read(name) for name in storage.list("data/")}
    assert {f"{name[:6]}/{name.split('/', 1)[1]}": data for name, data in found.items()} == wanted
    assert not list(storage.list("leases/"))


@pytest.mark.parametrize("uri", ["ftp://host/store", "s4://b/x"])
def test_a_uri_that_nothing_serves_is_refused_before_anything_is_loaded(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("logitstore.dumping.job.Job.load", None)
    with pytest.raises(SettingError, match=rf"{uri}.*Copy or mount"):
        logitstore.dump(**settings | {"out": uri})
    with pytest.raises(SettingError, match=uri):
        logitstore.audit(uri, teacher="/no/such/teacher")
    assert not list(tmp_path.iterdir())


def test_commands_refuse_a_uri_that_nothing_serves(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    uri = "ftp://host/store"
    commands = [
        ["logitstore", *_words(settings | {"out": uri})],
        ["logitstore", "verify", uri],
        ["logitstore", "inspect", uri],
        ["trainer", "fit", f"--logits={uri}", "--student=none", "--out=run"],
        ["trainer", "eval", "none", f"--logits={uri}"],
    ]
    running = [start(*command, cwd=tmp_path) for command in commands]
    for process in running:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 2
        assert uri in errors
        assert "Copy or mount" in errors
        assert "Traceback" not in errors
    assert not list(tmp_path.iterdir())


def test_several_processes_make_one_store(settings: dict[str, Any], tmp_path: Path) -> None:
    whole = logitstore.dump(**settings)
    wanted = _data(settings["out"])
    settings["out"] = tmp_path / "shared"
    workers = [start("logitstore", *_words(settings)) for _ in range(3)]
    assert [worker.wait(timeout=300) for worker in workers] == [0, 0, 0]
    assert logitstore.open(settings["out"]).fingerprint == whole.fingerprint
    assert _data(settings["out"]) == wanted


def test_interrupted_it_says_how_to_go_on(settings: dict[str, Any]) -> None:
    process = start("logitstore", *_words(settings | {"unit_tokens": 20}))
    while not list((settings["out"] / "commits").glob("0*.json")) and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "resumes" in errors
    assert "Traceback" not in errors


BAD_LINES = {
    "binary": b'{"text": "\x00\xff\xfe"}\n',
    "broken": b'{"text": "no end\n',
    "without the field": b'{"body": "text"}\n',
    "of no text": b'{"text": ""}\n',
}


@pytest.mark.parametrize("name", sorted(BAD_LINES))
def test_a_bad_line_is_named_or_skipped(
    settings: dict[str, Any], tmp_path: Path, name: str
) -> None:
    lines = [json.dumps({"text": text}).encode() + b"\n" for text in TEXTS[:4]]
    corpus = tmp_path / "bad.jsonl"
    corpus.write_bytes(b"".join([*lines[:2], BAD_LINES[name], *lines[2:]]))
    settings["data"] = str(corpus)
    with pytest.raises(CorpusError, match=r"bad\.jsonl:3: .*skip_bad"):
        logitstore.dump(**settings)
    summary = logitstore.dump(**settings, skip_bad=True)
    assert summary.skipped == 1
    assert {one.document.record for one in logitstore.open(settings["out"])} == {0, 1, 3, 4}


def test_a_corpus_of_nothing_but_bad_records_makes_no_store(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "bad.jsonl").write_bytes(b"{}\n{}\n")
    settings["data"] = str(tmp_path / "bad.jsonl")
    with pytest.raises(LogitStoreError):
        logitstore.dump(**settings, skip_bad=True)
    assert not (settings["out"] / "manifest.json").exists()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"teacher": "/no/such/model"}, ModelError, "/no/such/model"),
        ({"data": "/no/such/corpus.jsonl"}, CorpusError, r"/no/such/corpus\.jsonl"),
        ({"k": 301}, SettingError, "301.*1..300"),
        ({"k": 0}, SettingError, "found 0"),
        ({"max_length": 65}, SettingError, "found 65.*64"),
        ({"max_length": 1}, SettingError, "found 1"),
        ({"sparsify": "magic"}, SettingError, "found magic.*topk"),
        ({"format": "hdf5"}, SettingError, "found hdf5.*zarr"),
        ({"unit_tokens": 0}, SettingError, "^unit_tokens"),
        ({"dtype": "int4"}, SettingError, "found int4"),
        ({"text_field": "body"}, CorpusError, "body"),
        ({"on_progress": 3}, SettingError, "on_progress: this is no function"),
    ],
)
def test_bad_settings_are_told_and_leave_nothing(
    settings: dict[str, Any], change: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        logitstore.dump(**settings | change)
    assert not (settings["out"] / "data").exists()


def test_an_output_folder_that_holds_something_else(settings: dict[str, Any]) -> None:
    settings["out"].mkdir()
    (settings["out"] / "thesis.tex").write_text("precious")
    with pytest.raises(StoreError, match=r"thesis\.tex"):
        logitstore.dump(**settings)


@pytest.mark.parametrize("change", ["commit gone", "another commit", "shard gone", "shard cut"])
def test_a_sealed_store_that_lost_a_file_is_not_made_another(
    settings: dict[str, Any], change: str
) -> None:
    first = logitstore.dump(**settings)
    commit, manifest = (settings["out"] / one for one in ("commits/000001.json", "manifest.json"))
    shard = next((settings["out"] / "data").glob("000001-*/entries/c/0/0/0"))
    lost = shard if "shard" in change else commit
    if "gone" in change:
        lost.unlink()
    elif change == "shard cut":
        lost.write_bytes(lost.read_bytes()[:-1])
    else:
        lost.write_bytes((settings["out"] / "commits/000002.json").read_bytes())
    with pytest.raises(CorruptionError, match=f"^{lost}: .*delete {commit}, if .* and {manifest}"):
        logitstore.dump(**settings)
    commit.unlink(missing_ok=True)
    manifest.unlink()
    again = logitstore.dump(**settings)
    assert (again.fingerprint, list(verify(settings["out"]))) == (first.fingerprint, [])


@pytest.mark.parametrize("unfinished", [True, False])
def test_another_corpus_of_the_same_name_is_noticed(
    settings: dict[str, Any], tmp_path: Path, unfinished: bool
) -> None:
    """Before the teacher is loaded, whether or not a unit is left to be dumped."""
    text = Path(settings["data"]).read_text()
    (tmp_path / "mine.jsonl").write_text(text)
    settings |= {"data": str(tmp_path / "mine.jsonl"), "teacher": Path(settings["teacher"])}
    logitstore.dump(**settings)
    if unfinished:
        (settings["out"] / "manifest.json").unlink()
        (settings["out"] / "commits" / "000001.json").unlink()
    lines = text.splitlines(keepends=True)
    for other in (lines[1:], lines[:-1], [lines[1], *lines[1:]]):
        (tmp_path / "mine.jsonl").write_text("".join(other))
        with pytest.raises(CorpusError, match="the corpus changed since the plan was made"):
            logitstore.dump(**settings)
    (tmp_path / "mine.jsonl").write_text(text)
    logitstore.dump(**settings)


def test_a_record_larger_than_a_unit_is_told(teacher_folder: Path, tmp_path: Path) -> None:
    notes: list[str] = []
    (tmp_path / "corpus.txt").write_text("the teacher reads a line of some words\n" * 100)
    options: dict[str, Any] = {
        "teacher": str(teacher_folder),
        "data": str(tmp_path / "corpus.txt"),
        "on_note": notes.append,
    }
    logitstore.dump(**options, out=tmp_path / "fits", unit_tokens=1000)
    assert [one for one in notes if "no record is divided" in one] == []
    logitstore.dump(**options, out=tmp_path / "small", unit_tokens=300)
    (told,) = [one for one in notes if "no record is divided" in one]
    assert told.startswith("--unit-tokens 300: a unit has up to some 975 tokens")


def test_masked_tokens_cost_nothing(
    settings: dict[str, Any], teacher_folder: Path, tmp_path: Path
) -> None:
    tokenizer = load_tokenizer(str(teacher_folder))
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.role + ': ' + m.content + eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    chat_teacher = tmp_path / "chat"
    AutoModelForCausalLM.from_pretrained(teacher_folder).save_pretrained(chat_teacher)
    tokenizer.save_pretrained(chat_teacher)
    messages = [
        {"role": "user", "content": "the next token"},
        {"role": "assistant", "content": "the teacher"},
    ]
    corpus = tmp_path / "chat.jsonl"
    corpus.write_text(json.dumps({"messages": messages}) + "\n")
    logitstore.dump(**settings | {"teacher": str(chat_teacher), "data": str(corpus)})
    stored = logitstore.open(settings["out"])[0]
    ids_L = stored.document.input_ids_L
    counted = tokenizer.decode(ids_L[stored.document.counted_L])
    assert counted in ("the teacher<|endoftext|>", " the teacher<|endoftext|>")
    logp_RV = _dense(chat_teacher, ids_L)[stored.document.counted_L[1:]]
    labels_R = ids_L[stored.document.counted_L].astype(int)
    np.testing.assert_allclose(
        stored.targets.label_logprob_R, logp_RV[np.arange(len(labels_R)), labels_R], atol=3e-3
    )


def test_the_command_line_tells_what_it_did(settings: dict[str, Any]) -> None:
    done = _run(settings)
    assert done.returncode == 0
    assert "targets/s" in done.stdout
    assert "fingerprint" in done.stdout
    assert "every unit was stored already" in _run(settings).stdout
    store = str(settings["out"])
    shown = run("logitstore", "inspect", store, "--json")
    assert shown.returncode == 0
    content = json.loads(shown.stdout)
    assert content["targets"] == logitstore.open(store).targets
    assert content["teacher"]["architecture"] == "LlamaForCausalLM"
    sound = run("logitstore", "verify", store)
    assert sound.returncode == 0
    assert "sound" in sound.stdout
    path = max((settings["out"] / "data").rglob("*"), key=lambda one: one.stat().st_size)
    os.truncate(path, path.stat().st_size // 2)
    broken = run("logitstore", "verify", store, "--json")
    assert broken.returncode == 1
    assert json.loads(broken.stdout)["ok"] is False
    assert str(path) in broken.stderr


@pytest.mark.parametrize(
    ("more", "code"),
    [
        (["--k", "many"], 2),
        (["--no-such-option"], 2),
        (["--k", "9999"], 2),
        (["--k", "301"], 1),
        (["--max-length", "65"], 1),
    ],
)
def test_exit_codes_tell_wrong_usage_from_faults(
    settings: dict[str, Any], more: list[str], code: int
) -> None:
    others = {name: one for name, one in settings.items() if f"--{name}" not in more}
    done = _run(others, *more)
    assert done.returncode == code
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "options",
    [
        {"sparsify": "unbiased", "k": 8, "temperature": [1, 2], "repeats": 2},
        {"sparsify": "sample", "k": None, "draws": 20},
        {"sparsify": "hybrid", "k": 4, "tail_draws": 4},
    ],
    ids=lambda options: options["sparsify"],
)
def test_draws_depend_on_no_batch_and_no_unit(
    settings: dict[str, Any], options: dict[str, Any], tmp_path: Path
) -> None:
    settings |= options
    logitstore.dump(**settings)
    other = {"out": tmp_path / "other", "unit_tokens": 2000, "batch_tokens": 100}
    logitstore.dump(**settings | other, format="parquet")
    assert list(verify(settings["out"])) == list(verify(other["out"])) == []
    one, two = logitstore.open(settings["out"]), logitstore.open(other["out"])
    rows = same = 0
    for draw in range(one.spec.sparsifier.draw_count):
        second = {stored.document.id: stored for stored in two.with_draw(draw)}
        for stored in one.with_draw(draw):
            twin = second[stored.document.id].targets
            assert np.abs(stored.targets.weights_RK.sum(axis=1) - 1).max() < 1e-4
            rows += len(twin)
            # Each shard has its own ranking, and rows stand in its order.
            mine, theirs = (np.sort(each.ids_RK, axis=1) for each in (stored.targets, twin))
            same += int((mine == theirs).all(axis=1).sum())
    # The forward itself rounds otherwise in another batch, which may tip a draw now and then.
    assert same >= 0.99 * rows
