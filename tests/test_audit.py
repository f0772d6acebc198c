"""Audits of stores that a tiny teacher really dumped: sound, shifted, and another teacher's."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from transformers import PreTrainedTokenizerFast as Tokenizer
from typer.testing import CliRunner, Result

import logitstore
from logitstore.cli.commands import app
from logitstore.codec import codec_for
from logitstore.errors import ModelError, SettingError
from logitstore.sparsify.build import TAIL_NODES
from logitstore.targets.documents import Document, StoredDocument
from logitstore.teacher.transformers import TransformersTeacher
from tests.synthetic import write_store

TEXTS = [
    "The teacher reads the text once.",
    "A target is the distribution of the next token given the tokens before it. " * 4,
    "the student reads what the teacher wrote",
    "A student.",
] * 5
KEYS = {
    "documents",
    "targets",
    "kl",
    "noise_kl",
    "max_logprob_error",
    "tail_error",
    "retained_mass",
    "shift_loss",
    "ok",
}
CASES = {
    "topk": {"k": 8},
    "topp": {"k": 32, "top_p": 0.7},
    "unbiased": {"k": 8},
    "sample": {"draws": 20},
    "hybrid": {"k": 4, "tail_draws": 6},
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("corpus") / "corpus.jsonl"
    path.write_text("".join(json.dumps({"text": f"{n} {t}"}) + "\n" for n, t in enumerate(TEXTS)))
    return path


@pytest.fixture(scope="module")
def teacher(
    teacher_folder: Path, tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory
) -> str:
    """The tiny teacher after 30 steps on the texts: it has begun to know what follows."""
    folder = tmp_path_factory.mktemp("trained")
    model = AutoModelForCausalLM.from_pretrained(teacher_folder)
    model.lm_head.weight.data.div_(20)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
        ids_L = torch.tensor([tokenizer(" ".join(TEXTS[:4]))["input_ids"]])[:, :64]
        for _ in range(30):
            model(input_ids=ids_L, labels=ids_L).loss.backward()
            optimiser.step()
            optimiser.zero_grad()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def stores(teacher: str, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One store of each sparsifier."""
    folder = tmp_path_factory.mktemp("stores")
    for name, options in CASES.items():
        settings: dict[str, Any] = {"teacher": teacher, "data": str(corpus), **options}
        logitstore.dump(**settings, sparsify=name, out=folder / name, batch_tokens=512)
    return {name: folder / name for name in CASES}


def _rewritten(store: Path, out: Path, move: Any) -> Path:
    """The store with each document as `move` makes it."""
    opened = logitstore.open(store)
    write_store(out, [[move(stored) for stored in opened]], spec=opened.spec)
    return out


def _dense(folder: str, stored: StoredDocument) -> tuple[np.ndarray, np.ndarray]:
    """float64 [R, 300] log-probabilities of the live model, and [R, D] hidden states."""
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    ids_L = torch.from_numpy(stored.document.input_ids_L.astype(np.int64))[None]
    with torch.inference_mode():
        out = model(ids_L, output_hidden_states=True)
    logp_RV = out.logits[0, :-1, :300].double().log_softmax(-1)
    return logp_RV.numpy(), out.hidden_states[-1][0, :-1].double().numpy()


@pytest.mark.parametrize("sparsify", CASES)
def test_a_sound_store_is_found_sound(stores: dict[str, Path], teacher: str, sparsify: str) -> None:
    found = logitstore.audit(stores[sparsify], teacher=teacher)
    assert found["ok"], found["faults"]
    assert found["faults"] == []
    assert found["teacher_matches"]
    assert set(found) > KEYS
    kept = logitstore.inspect(stores[sparsify])["last_audit"]
    assert found["kept"]
    assert kept == {name: found[name] for name in kept}
    assert found["documents"] == len(logitstore.open(stores[sparsify]))
    assert found["targets"] == logitstore.open(stores[sparsify]).targets
    assert 0 <= found["noise_kl"] < 1e-10
    assert min(found["shift_loss"], key=found["shift_loss"].get) == "0"
    assert (found["tail_error"] is None) == (sparsify in ("sample", "unbiased"))
    assert (found["max_logprob_error"] is None) == (sparsify == "sample")
    if found["tail_error"]:
        assert list(found["tail_error"]) == ["1", "1.25", "1.5", "2", "3", "5", "10"]
        assert found["tail_error"]["1"]["largest"] < 1e-3


def test_every_number_is_that_of_a_dense_reference(stores: dict[str, Path], teacher: str) -> None:
    found = logitstore.audit(stores["topk"], teacher=teacher, student=None, batch_tokens=100)
    half = TAIL_NODES.index(0.5)
    kl, error, tail_error, loss, dense, sparse = [], [], [], [], np.zeros(300), np.zeros(300)
    for stored in logitstore.open(stores["topk"]):
        logp_RV, _ = _dense(teacher, stored)
        for row, logp_V in enumerate(logp_RV):
            ids_K = stored.targets.ids_RK[row].astype(int)
            stored_K = stored.targets.logprobs_RK[row].astype(np.float64)
            rest_V = np.ones(300, dtype=bool)
            rest_V[ids_K] = False
            live = np.append(np.exp(logp_V[ids_K]), np.exp(logp_V[rest_V]).sum())
            tail_B = np.exp(stored.targets.tail_logmass_RB[row].astype(np.float64))
            told = np.append(np.exp(stored_K), tail_B[0])
            kl.append((live * np.log(live / told)).sum() - live.sum() + told.sum())
            error.append(np.abs(logp_V[ids_K] - stored_K).max())
            scaled_V = np.exp(logp_V / 2)
            head = np.exp(stored_K / 2).sum()
            true = scaled_V[rest_V].sum() / scaled_V.sum()
            tail_error.append(abs(tail_B[half] / (head + tail_B[half]) - true))
            spread_V = np.full(300, tail_B[0] / 292)
            spread_V[ids_K] = np.exp(stored_K)
            label = stored.document.input_ids_L[row + 1]
            loss.append(-np.log(0.9 * spread_V[label] + 0.1 / 300))
            dense += 1 / 300 - np.exp(logp_V)
            sparse += 1 / 300 - spread_V
    cosine = dense @ sparse / np.linalg.norm(dense) / np.linalg.norm(sparse)
    assert found["kl"] == pytest.approx(np.mean(kl), rel=1e-3)
    assert found["max_logprob_error"] == pytest.approx(max(error), abs=1e-5)
    assert found["tail_error"]["2"]["mean"] == pytest.approx(np.mean(tail_error), abs=1e-6)
    assert found["tail_error"]["2"]["largest"] == pytest.approx(max(tail_error), abs=1e-6)
    assert found["shift_loss"]["0"] == pytest.approx(np.mean(loss), rel=1e-5)
    assert found["gradient_angle"] == pytest.approx(np.degrees(np.arccos(cosine)), abs=1e-3)
    assert found["gradient_norm_ratio"] == pytest.approx(
        np.linalg.norm(sparse) / np.linalg.norm(dense), rel=1e-5
    )


def test_gradients_of_a_student_are_those_on_its_output_layer(
    stores: dict[str, Path], teacher: str, teacher_folder: Path
) -> None:
    found = logitstore.audit(stores["unbiased"], teacher=teacher, student=str(teacher_folder))
    dense, sparse = np.zeros((300, 32)), np.zeros((300, 32))
    for stored in logitstore.open(stores["unbiased"]):
        (logp_RV, _), (logq_RV, hidden_RD) = (
            _dense(teacher, stored),
            _dense(str(teacher_folder), stored),
        )
        target_RV = np.zeros_like(logp_RV)
        np.put_along_axis(
            target_RV, stored.targets.ids_RK.astype(int), stored.targets.weights_RK, axis=1
        )
        dense += (np.exp(logq_RV) - np.exp(logp_RV)).T @ hidden_RD
        sparse += (np.exp(logq_RV) - target_RV).T @ hidden_RD
    cosine = (dense * sparse).sum() / np.linalg.norm(dense) / np.linalg.norm(sparse)
    assert found["gradient_angle"] == pytest.approx(np.degrees(np.arccos(cosine)), abs=2e-3)


@pytest.mark.parametrize("fidelity", ["compact", "exact"])
def test_a_store_is_held_to_the_error_it_states(
    teacher: str, corpus: Path, tmp_path: Path, stores: dict[str, Path], fidelity: str
) -> None:
    out = tmp_path / "store"
    logitstore.dump(teacher=teacher, data=str(corpus), out=out, k=8, fidelity=fidelity)
    found = logitstore.audit(out, teacher=teacher)
    assert found["ok"], found["faults"]
    assert found["stated_kl"] == codec_for(logitstore.open(out).spec).stated_kl
    balanced = logitstore.audit(stores["topk"], teacher=teacher)
    assert (found["kl"] > balanced["stated_kl"]) == (fidelity == "compact")
    # Of a store that is rounded once more, by whichever steps, those of before count as well.
    logitstore.convert(stores["topk"], tmp_path / "again", fidelity=fidelity)
    again = logitstore.audit(tmp_path / "again", teacher=teacher)
    assert again["ok"], again["faults"]
    assert again["stated_kl"] > max(found["stated_kl"], balanced["stated_kl"])
    logitstore.convert(stores["sample"], tmp_path / "drawn", fidelity=fidelity)
    parts = [codec_for(logitstore.open(one).spec) for one in (stores["sample"], tmp_path / "drawn")]
    drawn = logitstore.audit(tmp_path / "drawn", teacher=teacher)
    assert drawn["ok"], drawn["faults"]
    assert drawn["stated_kl"] == pytest.approx(sum(one.stated_drawn_kl for one in parts))


def test_of_several_draws_the_first_is_audited_at_its_temperature(
    teacher: str, corpus: Path, tmp_path: Path
) -> None:
    out, options = tmp_path / "store", {"sparsify": "unbiased", "k": 8, "repeats": 2}
    logitstore.dump(teacher=teacher, data=str(corpus), out=out, temperature=[2, 1], **options)
    found = logitstore.audit(out, teacher=teacher, documents=5, seed=3)
    assert found["ok"], found["faults"]
    assert (found["temperature"], found["documents"]) == (2.0, 5)


@pytest.mark.parametrize("sparsify", ["topk", "unbiased", "sample"])
@pytest.mark.parametrize("shift", [-1, 1])
def test_targets_out_of_line_are_found(
    stores: dict[str, Path], teacher: str, tmp_path: Path, sparsify: str, shift: int
) -> None:
    def move(stored: StoredDocument) -> StoredDocument:
        """Row r holds what row r + shift held, so it predicts a token further on or back."""
        return replace(
            stored, targets=stored.targets.rows(np.roll(np.arange(len(stored.targets)), -shift))
        )

    shifted = _rewritten(stores[sparsify], tmp_path / "shifted", move)
    found = logitstore.audit(shifted, teacher=teacher)
    assert not found["ok"]
    assert min(found["shift_loss"], key=found["shift_loss"].get) == str(shift)
    assert any("out of line" in fault for fault in found["faults"])
    assert len(found["faults"]) > 1  # the divergence tells too


def test_a_fault_that_dump_and_audit_share_is_found_too(
    teacher: str, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = TransformersTeacher.hidden

    def wrong(
        self: TransformersTeacher, batch: list[Document]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Row t of each document is what the model says after token t + 1."""
        parts = [right(self, [one])[0].roll(-1, dims=0) for one in batch]
        return torch.cat(parts), right(self, batch)[1]

    monkeypatch.setattr(TransformersTeacher, "hidden", wrong)
    logitstore.dump(teacher=teacher, data=str(corpus), out=tmp_path / "store", k=8)
    found = logitstore.audit(tmp_path / "store", teacher=teacher)
    assert found["kl"] < found["stated_kl"]
    assert ["out of line" in fault for fault in found["faults"]] == [True]


def _run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["audit", *map(str, arguments)])


@pytest.mark.parametrize("sparsify", CASES)
def test_another_teacher_is_told_by_its_numbers(
    stores: dict[str, Path], teacher_folder: Path, sparsify: str
) -> None:
    found = _run(stores[sparsify], "--teacher", teacher_folder, "--json")
    assert found.exit_code == 1
    content = json.loads(found.stdout)
    assert not content["ok"]
    assert not content["teacher_matches"]
    assert "not this teacher's" in found.stderr or "not drawn from this teacher's" in found.stderr
    shown = _run(stores[sparsify], "--teacher", teacher_folder)
    assert shown.exit_code == 1
    assert "another teacher" in shown.stderr
    assert "noise_kl" in shown.stdout


def test_a_teacher_that_only_calls_itself_another_passes(
    stores: dict[str, Path], teacher: str, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    model = AutoModelForCausalLM.from_pretrained(teacher)
    model.config.name_of_the_day = "another"
    model.save_pretrained(tmp_path / "copy")
    found = _run(stores["hybrid"], "--teacher", tmp_path / "copy", "--json")
    content = json.loads(found.stdout)
    assert (found.exit_code, content["ok"], content["teacher_matches"]) == (0, True, False)


def test_a_teacher_that_knows_nothing_of_the_text_is_no_fault(
    teacher_folder: Path, corpus: Path, tmp_path: Path
) -> None:
    logitstore.dump(teacher=str(teacher_folder), data=str(corpus), out=tmp_path / "s", k=8)
    assert logitstore.audit(tmp_path / "s", teacher=str(teacher_folder))["ok"]


def test_one_document_has_a_noise_floor_too(stores: dict[str, Path], teacher: str) -> None:
    found = logitstore.audit(stores["topk"], teacher=teacher, documents=1)
    assert found["ok"], found["faults"]
    assert found["documents"] == 1


def test_a_model_that_does_not_fit_is_a_clear_error(
    stores: dict[str, Path], teacher: str, tmp_path: Path
) -> None:
    missing = _run(stores["topk"], "--teacher", tmp_path / "none", "--json")
    assert missing.exit_code == 1
    assert "no such model folder" in json.loads(missing.stdout)["error"]
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    small = LlamaConfig(vocab_size=299, **sizes, **heads)
    LlamaForCausalLM(small).save_pretrained(tmp_path / "small")
    with pytest.raises(ModelError, match="fewer logit columns"):
        logitstore.audit(stores["topk"], teacher=str(tmp_path / "small"))
    short = LlamaConfig(vocab_size=300, max_position_embeddings=8, **sizes, **heads)
    LlamaForCausalLM(short).save_pretrained(tmp_path / "short")
    with pytest.raises(ModelError, match="longer than the model's context"):
        logitstore.audit(stores["topk"], teacher=teacher, student=str(tmp_path / "short"))
    for wrong in ({"documents": 0}, {"seed": -1}, {"batch_tokens": 0}):
        with pytest.raises(SettingError, match="out of range"):
            logitstore.audit(stores["topk"], teacher=teacher, **wrong)
