"""`trainer diagnose` against a dense computation in float64, and on runs that were spoilt."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import warnings

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import logitstore
import trainer
from logitstore.errors import CorruptionError, SettingError, StoreError
from logitstore.sparsify.build import sparsifier_spec
from tests.memory_store import VOCAB, MemoryStore, teacher_logprobs
from tests.test_averaging import TeachersStore
from tests.tiny_models import CONFIGS, tiny
from trainer.cli import app
from trainer.diagnosis.options import DiagnoseOptions
from trainer.diagnosis.run_files import RunFiles
from trainer.diagnosis.sample import sampled
from trainer.evaluation.signs import lines
from trainer.losses import LOSSES, DenseRows
from trainer.training.run_record import read_record, write_record
from trainer.training.run_result import OF_A_RESULT
from trainer.training.state_files import FindingWarning, RunWarning, write_state

MORE = 24  # columns that hold no token
CALL = {"batch_tokens": 128, "lr": 1e-2, "device": "cpu"}


def dense(store, model, *, k=VOCAB, loss="forward_kl", temperature=1.0):
    """What a diagnosis says of a model, from whole distributions and autograd, in float64."""
    model = model.double()
    head = model.get_output_embeddings().weight.detach()
    p_VV = torch.from_numpy(teacher_logprobs())
    rows = {name: [] for name in ("hidden", "teacher", "label", "position", "document")}
    for number, stored in enumerate(store):
        ids_L = torch.from_numpy(stored.document.input_ids_L.astype(np.int64))
        at = np.flatnonzero(stored.document.counted_L)
        if not len(at):
            continue
        with torch.no_grad():
            hidden_LD = model.model(ids_L[None]).last_hidden_state[0]
        rows["hidden"].append(hidden_LD[at - 1])
        rows["teacher"].append(p_VV[ids_L[at - 1]])
        rows["label"].append(ids_L[at])
        rows["position"].append(torch.from_numpy(at))
        rows["document"].append(torch.full((len(at),), number))
    hidden, log_p, label, position, _ = (torch.cat(one) for one in rows.values())
    hidden.requires_grad_()
    z = hidden @ head.T
    log_q = z.log_softmax(-1)
    tempered_p = (log_p / temperature).log_softmax(-1)
    tempered_q = (z / temperature).log_softmax(-1)
    kept = torch.zeros(len(label), VOCAB, dtype=torch.bool)
    kept.scatter_(1, log_p.topk(k).indices, True)
    inside = tempered_q[:, :VOCAB].exp().sum(-1)
    dense_rows = DenseRows(
        log_student_RV=tempered_q[:, :VOCAB] - inside.log()[:, None],
        log_teacher_RV=tempered_p,
        kept_RV=kept,
        label_ids_R=label,
    )
    one = LOSSES[loss]
    divergence = one.reference(dense_rows) - inside.log()
    kl = LOSSES["forward_kl"].reference(dense_rows) - inside.log()
    factor = temperature**2 if one.times_temperature_squared else 1.0
    ce = -log_q.gather(1, label[:, None])[:, 0]
    g_ce = torch.autograd.grad(ce.sum(), hidden, retain_graph=True)[0]
    g_kd = torch.autograd.grad(factor * divergence.sum(), hidden)[0]
    share = tempered_p.masked_fill(~kept, -math.inf).softmax(-1)
    entropy = -torch.special.xlogy(share, share).sum(-1)
    own = -(log_p.exp() * log_p).sum(-1)
    kl, ce = kl.detach(), ce.detach()
    return {
        "targets": len(label),
        "student_loss": ce.mean(),
        "teacher_loss": -log_p.gather(1, label[:, None]).mean(),
        "retained_mass": log_p.exp().masked_fill(~kept, 0).sum(-1).mean(),
        "tempered_mass": tempered_p.exp().masked_fill(~kept, 0).sum(-1).mean(),
        "tempered_evenness": (entropy / math.log(k)).mean(),
        "support_mass": tempered_q[:, :VOCAB].detach().exp().masked_fill(~kept, 0).sum(-1).mean(),
        "no_token_mass": log_q[:, VOCAB:].detach().exp().sum(-1).mean(),
        "kl": kl.mean(),
        "top1_agreement": (log_p.argmax(-1) == z.detach().argmax(-1)).double().mean(),
        "gradient_cosine": (g_ce * g_kd).sum() / (g_ce.norm() * g_kd.norm()),
        "gradient_ratio": g_kd.norm() / g_ce.norm(),
    }, {"kl": kl, "ce": ce, "entropy": own, "position": position, "label": label}


@pytest.mark.parametrize(
    ("loss", "temperature", "k"),
    [
        ("forward_kl", 1.0, VOCAB),
        ("forward_kl", 2.0, 6),
        ("reverse_kl", 4.0, 6),
        ("total_variation", 2.0, VOCAB),
        ("renormalised", 1.0, 6),
    ],
)
def test_all_figures_equal_the_dense_ones(loss, temperature, k):
    """Those of a padded student, over every document of the store."""
    store = MemoryStore(k=k)
    model = tiny(vocab_size=VOCAB + MORE)
    result = trainer.diagnose(
        model, logits=store, documents=len(store), loss=loss, temperature=temperature, alpha=0.4
    )
    expected, rows = dense(
        store, tiny(vocab_size=VOCAB + MORE), k=k, loss=loss, temperature=temperature
    )
    assert result["documents"] == len(store)
    for name, value in expected.items():
        assert result[name] == pytest.approx(float(value), rel=2e-4, abs=1e-5), name
    angle = math.degrees(math.acos(float(expected["gradient_cosine"])))
    assert result["gradient_angle"] == pytest.approx(angle, abs=0.02)
    assert (result["loss"], result["temperature"], result["alpha"]) == (loss, temperature, 0.4)
    _groups_are_those_of(result, rows)


def _groups_are_those_of(result, rows):
    """Each part of the sample, by its edges."""
    edges = np.quantile(rows["entropy"].numpy().astype(np.float32), [0, 0.25, 0.5, 0.75, 1])
    for number, one in enumerate(result["by_entropy"]):
        assert (one["from"], one["to"]) == pytest.approx(
            (edges[number], edges[number + 1]), rel=1e-5
        )
    for one in result["by_position"]:
        inside = (rows["position"] >= one["from"]) & (rows["position"] < one.get("to", math.inf))
        assert one["targets"] == int(inside.sum())
        assert one["kl"] == pytest.approx(float(rows["kl"][inside].mean()), rel=2e-4)
        assert one["student_loss"] == pytest.approx(float(rows["ce"][inside].mean()), rel=1e-5)
    times = torch.bincount(rows["label"])[rows["label"]]
    for one in result["by_frequency"]:
        inside = (times >= one["from"]) & (times < one.get("to", math.inf))
        assert one["targets"] == int(inside.sum())
        assert one["kl"] == pytest.approx(float(rows["kl"][inside].mean()), rel=2e-4)


def test_the_error_of_the_difference_is_by_the_spread_over_documents():
    store, model = MemoryStore(), tiny()
    result = trainer.diagnose(model, logits=store, documents=len(store))
    gaps, counts = [], []
    for stored in store:
        at = np.flatnonzero(stored.document.counted_L)
        ids_L = torch.from_numpy(stored.document.input_ids_L.astype(np.int64))
        if len(at):
            with torch.no_grad():
                log_q = model(ids_L[None]).logits[0, at - 1].log_softmax(-1)
            ce = -log_q.gather(1, ids_L[at][:, None])[:, 0].double().numpy()
            gaps.append((-stored.targets.label_logprob_R - ce).sum())
            counts.append(len(at))
    gaps, counts = np.array(gaps), np.array(counts)
    mean = gaps.sum() / counts.sum()
    left = ((gaps - mean * counts) ** 2).sum() * len(gaps) / (len(gaps) - 1)
    assert result["loss_error"] == pytest.approx(math.sqrt(left) / counts.sum(), rel=1e-4)


@pytest.mark.parametrize("kind", ["sample", "unbiased", "hybrid"])
def test_a_store_of_draws_is_diagnosed_too(kind):
    spec = sparsifier_spec(kind, **({"draws": 8} if kind == "sample" else {"k": 6}))
    store = MemoryStore(sparsifier=spec)
    result = trainer.diagnose(tiny(), logits=store, documents=len(store))
    assert result["bounds"]["kl"] == "estimate"
    assert (result["retained_mass"] is None) == (kind == "sample")
    exact, _ = dense(store, tiny())
    assert result["kl"] == pytest.approx(float(exact["kl"]), rel=0.25)
    assert result["gradient_cosine"] == pytest.approx(float(exact["gradient_cosine"]), abs=0.1)


# --- runs


BIG = {"blocks": 80}
HELD = {"seed": 9, "blocks": 20}
DRAWS = sparsifier_spec("sample", draws=6)
RUNS = {  # finding -> store, settings, whether fit warns of it
    "padded_head": (BIG | {"k": 8}, {"steps": 15, "student": "padded.json"}, True),
    "teacher_no_better_than_counting": (
        BIG | {"text_seed": 5},
        {"steps": 40, "alpha": 0.5},
        True,
    ),
    "teacher_worse": (BIG | {"teacher_sharpness": 5.0}, {"steps": 60, "alpha": 0.2}, False),
    "no_better_than_counting": (BIG | {"k": 8}, {"steps": 2}, False),
    "diverged": (
        BIG | {"k": 8},
        {"steps": 70, "lr": 2.0, "warmup": 0.5, "lr_schedule": "constant"},
        False,
    ),
    "weak_divergence": (
        BIG,
        {"steps": 20, "loss": "total_variation", "temperature": 10.0, "alpha": 0.3},
        False,
    ),
    "temperature_too_high": (BIG | {"k": 8}, {"steps": 40, "temperature": 10.0}, True),
    "biased_targets": (
        BIG | {"k": 4},
        {"steps": 40, "alpha": 1.0, "loss": "renormalised"},
        True,
    ),
    "small_head": (BIG | {"k": 1}, {"steps": 40}, True),
    "one_draw": ({"blocks": 10, "sparsifier": DRAWS}, {"epochs": 8}, True),
}


def _fit(tmp_path, store, **settings):
    """A run in tmp_path/run, and the names of what it warned of."""
    config = CONFIGS["llama"].to_dict()
    (tmp_path / "student.json").write_text(json.dumps(config))
    (tmp_path / "padded.json").write_text(json.dumps(config | {"vocab_size": VOCAB + MORE}))
    settings = CALL | {"student": "student.json"} | settings
    settings["student"] = tmp_path / settings["student"]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", FindingWarning)
        trainer.fit(logits=store, out=tmp_path / "run", **settings)
    return [str(one.message) for one in caught if issubclass(one.category, FindingWarning)]


@pytest.mark.parametrize("name", RUNS)
def test_a_run_spoilt_on_purpose_has_its_finding_first(tmp_path, name):
    kind, settings, early = RUNS[name]
    warned = _fit(tmp_path, MemoryStore(**kind), **settings)
    held = MemoryStore(**kind | HELD)
    result = trainer.diagnose(tmp_path / "run", logits=held, documents=100)
    first = result["findings"][0]
    assert first["name"] == name
    assert not result["trained_on"]
    if early:
        assert warned[0].startswith(f"{name}: ")
    else:
        assert not any(one.startswith(name) for one in warned)


def test_fit_warns_of_a_teacher_that_is_worse_than_the_student_it_begins_with(tmp_path):
    store = MemoryStore(**BIG, teacher_sharpness=5.0)
    assert _fit(tmp_path, store, steps=60, alpha=0.2) == []
    (tmp_path / "run").rename(tmp_path / "before")
    warned = _fit(tmp_path, store, steps=2, student="before", batch_tokens=1024)
    assert [one.partition(":")[0] for one in warned] == ["teacher_worse"]


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """The folder of a sound run, the store that it learnt from, and what fit warned of."""
    folder = tmp_path_factory.mktemp("sound")
    store = MemoryStore(**BIG, k=8)
    held = MemoryStore(**HELD, k=8)
    warned = _fit(folder, store, steps=60, eval_logits=held, eval_steps=20)
    return folder / "run", store, warned


def test_a_sound_run_has_no_finding_and_no_warning(sound):
    run, store, warned = sound
    assert warned == []
    for one, learnt in ((MemoryStore(**HELD, k=8), False), (store, True)):
        result = trainer.diagnose(run, logits=one, documents=100)
        assert result["findings"] == []
        assert result["trained_on"] is learnt
        assert result["alpha"] == 0.9
        assert result["epochs"] == pytest.approx(2.6, abs=0.5)
        assert result["student_loss"] < result["counting_loss"] - 0.5


def test_an_evaluation_says_that_the_model_has_learnt_from_the_store(sound):
    run, store, _ = sound
    for one, learnt in ((MemoryStore(**HELD, k=8), False), (store, True)):
        result = trainer.evaluate(run, logits=one)
        assert result["trained_on"] is learnt
        said = "\n".join(lines(result))
        assert ("learnt from this very store" in said) is learnt
        assert "True" not in said
        assert "False" not in said


@pytest.mark.parametrize("kind", ["sample", "unbiased"])
def test_draws_enough_for_the_epochs_are_sound(tmp_path, kind):
    spec = sparsifier_spec(kind, repeats=4, **({"draws": 8} if kind == "sample" else {"k": 8}))
    warned = _fit(tmp_path, MemoryStore(blocks=20, sparsifier=spec), epochs=4, alpha=1.0)
    assert warned == []
    held = MemoryStore(**HELD, sparsifier=spec)
    assert trainer.diagnose(tmp_path / "run", logits=held, documents=100)["findings"] == []


def test_a_run_that_went_past_its_best_is_told(sound, tmp_path):
    run = shutil.copytree(sound[0], tmp_path / "run")
    path = run / "held_out.json"
    reports = json.loads(path.read_bytes())
    assert len(reports) == 3
    spoilt = [*reports, reports[-1] | {"step": 80, "eval_loss": reports[-1]["eval_loss"] + 0.2}]
    path.write_text(json.dumps(spoilt))
    record = read_record(run)
    files = record["files"] | {path.name: hashlib.sha256(path.read_bytes()).hexdigest()}
    write_record(run, record | {"files": files})
    result = trainer.diagnose(run, logits=MemoryStore(**HELD, k=8), documents=20)
    assert [one["name"] for one in result["findings"]] == ["past_best"]
    assert f"after step {reports[-1]['step']}" in result["findings"][0]["says"]


def test_fit_warns_before_the_second_step_and_not_again_when_it_goes_on(tmp_path):
    store = MemoryStore(**BIG, k=1)
    warned = _fit(tmp_path, store, steps=2, keep_checkpoints=True)
    assert [one.partition(":")[0] for one in warned] == ["small_head"]
    assert _fit(tmp_path, store, steps=3, resume=True) == []


def test_what_learns_from_labels_alone_is_not_warned_of_its_teacher(tmp_path):
    assert _fit(tmp_path, MemoryStore(**BIG, k=1, text_seed=5), steps=2, alpha=0.0) == []


def test_what_a_diagnosis_does_not_look_at_is_told(tmp_path):
    held = MemoryStore(**HELD, k=8)
    _fit(tmp_path, MemoryStore(**BIG, k=8), steps=2, select="entropy:top:0.5")
    with pytest.warns(RunWarning, match=r"run: .*--select entropy:top:0.5 takes, .*all targets"):
        trainer.diagnose(tmp_path / "run", logits=held, documents=20)
    (tmp_path / "run").rename(tmp_path / "selected")
    two = [TeachersStore(one, k=8) for one in (1, 2)]
    _fit(tmp_path, two, steps=2, average="all")
    with pytest.warns(RunWarning, match=r"mean of several teachers \(teacher 1 and teacher 2\)"):
        trainer.diagnose(tmp_path / "run", logits=held, documents=20)


# --- what is read, kept and refused


def test_documents_are_spread_evenly_and_few_blocks_are_read():
    store = MemoryStore(blocks=40)
    found = sampled(store, documents=16)
    assert len(store.reads) == 8
    assert store.reads == [2, 7, 12, 17, 22, 27, 32, 37]
    assert [int.from_bytes(one.document.id, "big") // 5 for one in found] == sorted(2 * store.reads)
    assert [one.document.id for one in sampled(store, documents=16)] == [
        one.document.id for one in found
    ]
    assert len(sampled(store, documents=150)) == 150
    assert len(sampled(store, documents=10_000)) == len(store)
    few = sampled(MemoryStore(blocks=2), documents=None)  # fewer tokens than would be read
    assert len(few) == 10


def test_a_default_sample_has_about_8192_tokens():
    store = MemoryStore(blocks=400, longest=24)
    tokens = sum(len(one.document) for one in sampled(store, documents=None))
    assert tokens == pytest.approx(8192, rel=0.1)


def test_the_result_is_kept_by_name_with_the_weights(sound):
    run, store, _ = sound
    result = trainer.diagnose(run, logits=store, documents=20)
    trainer.diagnose(run, logits=store, documents=20, temperature=2.0)
    trainer.diagnose(run, logits=store, documents=20, name="mine")
    kept = {path.name: json.loads(path.read_bytes()) for path in (run / "diagnoses").iterdir()}
    short = store.fingerprint[:12]
    assert {f"store-{short}.json", f"store-{short}-T2.json", "mine.json"} <= set(kept)
    content = kept[f"store-{short}.json"]
    assert content["format"] == "trainer-diagnosis/1"
    assert (
        content["weights"].items() <= json.loads((run / "run.json").read_bytes())["files"].items()
    )
    assert {name: content[name] for name in result} == json.loads(json.dumps(result))


def test_a_report_tells_what_was_found_and_of_which_weights(tmp_path):
    _fit(tmp_path, MemoryStore(**BIG, k=1), steps=40)
    run, page = tmp_path / "run", tmp_path / "page.html"
    trainer.diagnose(run, logits=MemoryStore(**HELD, k=1), documents=100, name="first")
    found = trainer.report([run], out=page)
    told = [one for one in found.notes if one.startswith("Found in run (diagnoses/first.json): ")]
    assert len(told) == 1
    assert "the store keeps too little of its teacher" in told[0]
    assert "the store keeps too little of its teacher" in page.read_text()
    assert found.others == []  # it is no evaluation
    path = run / "diagnoses" / "first.json"
    kept = json.loads(path.read_bytes())
    kept.pop("sha256")
    write_state(path, kept | {"weights": {"model.safetensors": "0" * 64}})
    notes = " ".join(trainer.report([run], out=page).notes)
    assert "diagnoses/first.json of run is left out: it is of other weights" in notes
    assert "Measure it anew: `trainer diagnose`" in notes
    assert "Found in run" not in notes
    write_state(path, kept | {"findings": "none"})
    with pytest.raises(StoreError, match=r"diagnoses/first\.json.*findings are no list"):
        trainer.report([run], out=page)


def test_a_model_that_is_no_run_is_diagnosed_by_the_options(tmp_path):
    tiny().save_pretrained(tmp_path / "model")
    result = trainer.diagnose(
        tmp_path / "model", logits=MemoryStore(k=4), documents=50, alpha=1.0, loss="renormalised"
    )
    assert {one["name"] for one in result["findings"]} >= {"biased_targets"}
    assert result["epochs"] is None
    assert not (tmp_path / "model" / "diagnoses").exists()
    trainer.diagnose(tmp_path / "model", logits=MemoryStore(k=4), out=tmp_path / "kept")
    assert len(list((tmp_path / "kept" / "diagnoses").iterdir())) == 1
    with pytest.raises(SettingError, match="there is no folder"):
        trainer.diagnose(tmp_path / "model", logits=MemoryStore(), name="mine")


def test_ids_that_mean_other_tokens_are_the_first_finding(
    tmp_path, tokenizer, tokenizer_folder, monkeypatch
):
    """A permuted vocabulary: the model is measured, and its tokenizer is what is wrong."""
    content = json.loads((tokenizer_folder / "tokenizer.json").read_bytes())
    vocab = content["model"]["vocab"]
    one, other = [name for name, number in vocab.items() if number in (10, 11)]
    vocab[one], vocab[other] = vocab[other], vocab[one]
    folder = tmp_path / "model"
    tiny(vocab_size=300).save_pretrained(folder)
    for path in tokenizer_folder.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "tokenizer.json").write_text(json.dumps(content))
    store = MemoryStore(tokenizer=tokenizer_folder)
    result = trainer.diagnose(folder, logits=store, documents=20)
    first = result["findings"][0]
    assert first["name"] == "foreign_ids"
    assert "id 10 is" in first["says"]
    assert first["evidence"]["student_loss"] == result["student_loss"] > 0


def test_files_of_a_run_that_have_changed_are_refused(tmp_path):
    _fit(tmp_path, MemoryStore(k=8), steps=2)
    run = tmp_path / "run"
    record = (run / "run.json").read_text()
    (run / "run.json").write_text(record.replace('"alpha": 0.9', '"alpha": 0.8'))
    with pytest.raises(CorruptionError, match=r"run\.json"):
        trainer.diagnose(run, logits=MemoryStore(k=8))
    (run / "run.json").write_text(record)
    weights = run / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(StoreError, match="has changed"):
        trainer.diagnose(run, logits=MemoryStore(k=8))


_DAMAGED = ("3", "null", '"text"', "[3]", "[null]", '[{"loss": 1}]', '[{"step": 1, "loss": "a"}]')


@pytest.mark.parametrize("text", [*_DAMAGED, '[{"step": -1}]', '[{"step": 1, "ce": -2.0}]'])
def test_damaged_reports_are_refused_by_hash_and_by_field(sound, tmp_path, text):
    run = shutil.copytree(sound[0], tmp_path / "run")
    place, record = run / "history.json", read_record(run)
    place.write_text(text)
    with pytest.raises(StoreError, match=r"history\.json: file has changed since"):
        RunFiles.read(DiagnoseOptions(model=run, logits="s"), run)
    unfinished = {name: value for name, value in record.items() if name not in OF_A_RESULT}
    write_record(run, unfinished | {"finished": False})
    with pytest.raises(StoreError, match=r"history\.json: "):
        RunFiles.read(DiagnoseOptions(model=run, logits="s"), run)


def test_reports_that_are_gone_and_a_record_of_nothing_are_refused(sound, tmp_path):
    run = shutil.copytree(sound[0], tmp_path / "run")
    (run / "history.json").unlink()
    with pytest.raises(StoreError, match=r"history\.json: file is gone"):
        trainer.diagnose(run, logits=MemoryStore(k=8))
    (run / "run.json").write_text("null")
    with pytest.raises(StoreError, match=r"run\.json"):
        trainer.diagnose(run, logits=MemoryStore(k=8))


def test_a_store_that_does_not_serve_the_loss_is_refused(tmp_path):
    store = MemoryStore(sparsifier=sparsifier_spec("sample", draws=4))
    with pytest.raises(SettingError, match="linear in the teacher"):
        trainer.diagnose(tiny(), logits=store, loss="reverse_kl")
    with pytest.raises(SettingError, match="not drawn at this temperature"):
        trainer.diagnose(tiny(), logits=store, temperature=2.0)


def _call(*words):
    return CliRunner().invoke(app, [str(one) for one in words])


def test_the_command_prints_findings_first_and_one_object_with_json(sound, monkeypatch):
    run, _, _ = sound
    (run.parent / "S").mkdir(exist_ok=True)
    (run.parent / "S" / "store.json").touch()
    monkeypatch.chdir(run.parent)
    monkeypatch.setattr(logitstore, "open", lambda _, **__: MemoryStore(**HELD, k=8), raising=False)
    words = ["diagnose", run, "--logits", "S", "--documents", "30", "--device", "cpu"]
    done = _call(*words)
    assert done.exit_code == 0, done.stderr
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert lines[0] == "nothing found"
    assert lines[1].endswith("--loss forward_kl --alpha 0.9 --temperature 1")
    assert {"student_loss", "kl", "gradient_angle"} <= {line.split()[0] for line in lines[2:]}
    assert max(map(len, lines)) < 100 or lines[-1].startswith(">~")
    done = _call(*words, "--alpha", "1", "--loss", "renormalised", "--json")
    result = json.loads(done.stdout)
    assert [one["name"] for one in result["findings"]] == ["biased_targets"]
    done = _call(*words, "--alpha", "1", "--loss", "renormalised")
    assert done.stdout.startswith("1. biased_targets: soft labels alone (alpha 1)")
    done = _call(*words, "--temperature", "20")
    assert (done.exit_code, done.stdout) == (1, "")
    assert "--temperature" in done.stderr
