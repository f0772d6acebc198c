"""Teachers by name, loaded, and from outside: the same stores, and plain words for faults."""

import copy
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

import logitstore
from logitstore.corpus.tokenizer import tokenizer_fingerprint
from logitstore.errors import ModelError, SettingError, SpecError, TokenizerError
from logitstore.store.verify import verify
from logitstore.targets.documents import Document
from logitstore.teacher.base import OwnForward, Teacher
from logitstore.teacher.models import load_model
from logitstore.teacher.transformers import TransformersTeacher, model_fingerprint
from tests.tiny_models import tiny

TEXTS = ["The teacher reads the text once.", "the student reads what the teacher wrote"] * 4
VOCAB = 300


class Lines:
    """A teacher that is no transformers model: the logits of a table, by the token before."""

    def __init__(self, *, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.table_VV = torch.randn(VOCAB, VOCAB, generator=generator) * 3
        self.spec = logitstore.TeacherSpec(
            name="lines",
            fingerprint=f"lines of seed {seed}",
            architecture="Bigram",
            parameters=VOCAB * VOCAB,
            dtype="float32",
            device="cpu",
        )
        self.context: int | None = 64

    def logits(self, batch: Sequence[Document]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for document in batch:
            ids_L = torch.from_numpy(document.input_ids_L.astype(np.int64))
            place_R = torch.from_numpy(np.flatnonzero(document.counted_L))
            yield self.table_VV[ids_L[place_R - 1]].clone(), ids_L[place_R]


@pytest.fixture
def model(teacher_folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(teacher_folder)


@pytest.fixture
def settings(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> dict[str, Any]:
    return {
        "teacher": Lines(),
        "tokenizer": tokenizer,
        "data": TEXTS,
        "out": tmp_path / "store",
        "sparsify": "topk",
        "k": 8,
    }


def test_a_loaded_model_teaches_as_its_folder_does_and_is_left_as_it_was(
    settings: dict[str, Any], teacher_folder: Path, model: Any, tmp_path: Path
) -> None:
    model.train()
    model.lm_head.weight.requires_grad_(False)
    logitstore.dump(**settings | {"teacher": model})
    assert all(module.training for module in model.modules())
    wants = {name for name, one in model.named_parameters() if not one.requires_grad}
    assert wants == {"lm_head.weight"}
    assert all(one.grad is None for one in model.parameters())
    other = settings | {"teacher": teacher_folder, "tokenizer": None, "out": tmp_path / "other"}
    logitstore.dump(**other)
    one, two = logitstore.open(settings["out"]), logitstore.open(other["out"])
    for mine, theirs in zip(one, two, strict=True):
        np.testing.assert_array_equal(mine.targets.ids_RK, theirs.targets.ids_RK)
        np.testing.assert_array_equal(mine.targets.logprobs_RK, theirs.targets.logprobs_RK)
    assert one.spec.teacher.name == two.spec.teacher.name == teacher_folder.name
    assert one.spec.teacher.fingerprint == model_fingerprint(model)


def test_a_loaded_model_is_who_its_weights_say(model: Any, teacher_folder: Path) -> None:
    first = model_fingerprint(model)
    model.train().requires_grad_(False).config.use_cache = False
    assert model_fingerprint(model) == first
    assert model_fingerprint(AutoModelForCausalLM.from_pretrained(teacher_folder)) == first
    assert model_fingerprint(model.to(torch.bfloat16)) != first
    model = AutoModelForCausalLM.from_pretrained(teacher_folder)
    model.model.norm.weight.data[3] += 1e-3
    assert model_fingerprint(model) != first


def test_a_changed_model_is_refused_on_resume(settings: dict[str, Any], model: Any) -> None:
    settings["teacher"] = model
    logitstore.dump(**settings)
    assert logitstore.dump(**settings).new_targets == 0
    model.lm_head.weight.data.mul_(1.01)
    with pytest.raises(SpecError, match=r"teacher\.fingerprint"):
        logitstore.dump(**settings)


def test_a_teacher_from_outside_is_dumped_as_it_speaks(settings: dict[str, Any]) -> None:
    teacher = settings["teacher"]
    assert isinstance(teacher, Teacher)
    logitstore.dump(**settings)
    assert list(verify(settings["out"])) == []
    store = logitstore.open(settings["out"])
    assert store.spec.teacher == teacher.spec
    for stored in store:
        before_R = stored.document.input_ids_L[:-1].astype(np.int64)
        logp_RV = teacher.table_VV[before_R].double().log_softmax(-1).numpy()
        order_RK = np.sort(np.argsort(-logp_RV, axis=1)[:, :8], axis=1)
        np.testing.assert_array_equal(np.sort(stored.targets.ids_RK, axis=1), order_RK)
    assert logitstore.dump(**settings).new_targets == 0
    with pytest.raises(SpecError, match=r"teacher\.fingerprint"):
        logitstore.dump(**settings | {"teacher": Lines(seed=1)})


@pytest.mark.parametrize("sparsify", ["hybrid", "sample"])
def test_it_is_audited_by_its_logits_alone(settings: dict[str, Any], sparsify: str) -> None:
    assert not isinstance(settings["teacher"], OwnForward)
    logitstore.dump(**settings | {"sparsify": sparsify, "k": None})
    found = logitstore.audit(settings["out"], teacher=settings["teacher"])
    assert found["ok"], found["faults"]
    assert (found["teacher"], found["teacher_matches"]) == ("lines", True)
    store = logitstore.open(settings["out"])
    assert logitstore.audit(store, teacher=settings["teacher"]) == found
    wrong = logitstore.audit(settings["out"], teacher=Lines(seed=1))
    assert not wrong["ok"]


def test_a_loaded_model_is_audited_with_a_loaded_student(
    settings: dict[str, Any], model: Any
) -> None:
    logitstore.dump(**settings | {"teacher": model})
    student = copy.deepcopy(model).train()
    student.lm_head.weight.data.mul_(0.5)
    found = logitstore.audit(settings["out"], teacher=model, student=student)
    assert found["ok"], found["faults"]
    assert student.training
    assert found["gradient_angle"] > 0
    with pytest.raises(SettingError, match="dtype means nothing"):
        logitstore.audit(settings["out"], teacher=model, dtype="bfloat16")
    with pytest.raises(ModelError, match=r"student's hidden states.*a transformers model"):
        logitstore.audit(settings["out"], teacher=model, student=Lines())


def test_a_loaded_model_and_its_folder_are_one_teacher(
    settings: dict[str, Any], model: Any, teacher_folder: Path, tmp_path: Path
) -> None:
    logitstore.dump(**settings | {"teacher": model})
    assert logitstore.audit(settings["out"], teacher=teacher_folder)["teacher_matches"] is True
    other = tmp_path / "other"
    logitstore.dump(**settings | {"teacher": teacher_folder, "out": other})
    assert logitstore.audit(other, teacher=teacher_folder)["teacher_matches"] is True
    assert logitstore.audit(other, teacher=model)["teacher_matches"] is None
    model.model.norm.weight.data[3] += 1e-3
    model.save_pretrained(tmp_path / "changed")
    for store in (settings["out"], other):
        found = logitstore.audit(store, teacher=tmp_path / "changed")
        assert found["teacher_matches"] is False


def test_a_folder_with_another_tokenizer_is_refused_before_it_is_loaded(
    settings: dict[str, Any], model: Any, teacher_folder: Path, tmp_path: Path
) -> None:
    logitstore.dump(**settings | {"teacher": model})
    other = AutoTokenizer.from_pretrained(teacher_folder)
    other.add_tokens(["another"])
    folder = tmp_path / "another"
    model.save_pretrained(folder)
    other.save_pretrained(folder)
    (folder / "model.safetensors").write_bytes(b"not read")
    prints = f"found {tokenizer_fingerprint(other)}; allowed: "
    prints += tokenizer_fingerprint(settings["tokenizer"])
    with pytest.raises(TokenizerError, match=prints):
        logitstore.audit(settings["out"], teacher=folder)


def test_a_store_made_with_another_tokenizer_is_audited_by_its_teacher(
    settings: dict[str, Any], teacher_folder: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(teacher_folder)
    tokenizer.add_tokens(["another"])
    logitstore.dump(**settings | {"teacher": teacher_folder, "tokenizer": tokenizer})
    assert logitstore.audit(settings["out"], teacher=teacher_folder)["ok"]


def test_estimate_and_tune_take_it_too(settings: dict[str, Any]) -> None:
    dumped = logitstore.dump(**settings)
    del settings["out"]
    assert logitstore.estimate(**settings, seconds=60).targets == dumped.targets
    for name in ("sparsify", "k"):
        del settings[name]
    assert logitstore.tune(**settings, seconds=60).sample_targets == dumped.targets


class _Wrong(Lines):
    """Gives chunks that `spoil` has been at."""

    def __init__(self, spoil: Any) -> None:
        super().__init__()
        self.spoil = spoil

    def logits(self, batch: Sequence[Document]) -> Iterator[Any]:
        for chunk in super().logits(batch):
            yield self.spoil(*chunk)


WRONG = {
    "rows": (lambda logits, labels: (logits[1:], labels[1:]), "labels are not the counted tokens"),
    "fewer": (lambda logits, labels: (logits[:-1], labels[:-1]), "not as many rows as counted"),
    "shape": (lambda logits, labels: (logits[:, :-1], labels), r"found \[7, 299\].*\[7, 300\]"),
    "width": (lambda logits, labels: (logits.double(), labels), "not float32"),
    "pair": (lambda logits, labels: logits, "no pair of tensors"),
    "numpy": (lambda logits, labels: (logits.numpy(), labels), "no pair of tensors"),
    "labels": (lambda logits, labels: (logits, labels + 1), "labels are not the counted tokens"),
    "int32": (lambda logits, labels: (logits, labels.int()), "labels are not int64"),
    "real labels": (lambda logits, labels: (logits, labels.double()), "labels are not int64"),
    "meta": (lambda logits, labels: (logits.to("meta"), labels), "no common device"),
    "all meta": (lambda logits, labels: (logits.to("meta"), labels.to("meta")), "no common device"),
    "numbers": (lambda logits, labels: (logits * torch.nan, labels), "a row has NaN"),
    "infinity": (lambda logits, labels: (logits + torch.inf, labels), "a row has NaN"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_teacher_that_breaks_the_contract_is_told_so(settings: dict[str, Any], name: str) -> None:
    spoil, message = WRONG[name]
    with pytest.raises(ModelError, match=f"teacher lines: .*{message}"):
        logitstore.dump(**settings | {"teacher": _Wrong(spoil)})
    assert not settings["out"].exists()


def test_a_teacher_without_chunks_is_told_so(settings: dict[str, Any]) -> None:
    settings["teacher"].logits = lambda batch: None
    with pytest.raises(ModelError, match=r"no chunks.*NoneType.*an iterator"):
        logitstore.dump(**settings)


@pytest.mark.parametrize("sparsify", ["topk", "hybrid", "sample"])
def test_rows_that_share_memory_are_dumped(settings: dict[str, Any], sparsify: str) -> None:
    """A uniform teacher, whose rows are all one: not to be overwritten one by one."""

    def alike(logits: torch.Tensor, labels: torch.Tensor) -> Any:
        return torch.zeros(1, VOCAB).expand(len(labels), VOCAB), labels

    logitstore.dump(**settings | {"teacher": _Wrong(alike), "sparsify": sparsify, "k": None})
    for stored in logitstore.open(settings["out"]):
        np.testing.assert_allclose(stored.targets.entropy_R, np.log(VOCAB), atol=0.01)


BAD_SPECS: dict[str, Any] = {
    "parameters": [-1, 1.0, True, float("nan"), None, 1 << 53, np.int64(3)],
    "name": [None, 3, "half a pair: \ud800", Path("lines")],
    "fingerprint": [None, b"00", "\udfff"],
    "architecture": [None, str],
    "dtype": [torch.float32, None],
    "device": [torch.device("cpu"), None],
}


@pytest.mark.parametrize(
    ("field", "value"), [(field, value) for field, some in BAD_SPECS.items() for value in some]
)
def test_a_spec_that_could_not_be_read_again_is_refused_before_anything_is_written(
    settings: dict[str, Any], field: str, value: Any
) -> None:
    teacher = settings["teacher"]
    teacher.spec = replace(teacher.spec, **{field: value})
    with pytest.raises(ModelError, match=f"spec of the teacher: .*{field}"):
        logitstore.dump(**settings)
    assert not settings["out"].exists()
    logitstore.dump(**settings | {"teacher": Lines()})


def test_a_model_without_weights_is_refused(settings: dict[str, Any], model: Any) -> None:
    with pytest.raises(ModelError, match="on the meta device"):
        logitstore.dump(**settings | {"teacher": model.to("meta")})
    assert not settings["out"].exists()


def test_a_class_is_no_teacher(settings: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match="a class of them"):
        logitstore.dump(**settings | {"teacher": Lines})


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextmanager
def _deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


CALLERS: dict[str, Any] = {
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "float64": lambda: _default_dtype(torch.float64),
    "bfloat16": lambda: _default_dtype(torch.bfloat16),
    "meta": lambda: torch.device("meta"),
    "deterministic": _deterministic,
}


@pytest.mark.parametrize("caller", CALLERS)
@pytest.mark.parametrize("kind", ["name", "loaded", "outside"])
@pytest.mark.parametrize("sparsify", ["hybrid", "sample"])
def test_settings_of_torch_that_the_caller_made_change_nothing(
    settings: dict[str, Any],
    teacher_folder: Path,
    model: Any,
    caller: str,
    kind: str,
    sparsify: str,
    tmp_path: Path,
) -> None:
    teachers = {"name": teacher_folder, "loaded": model, "outside": Lines()}
    settings |= {"teacher": teachers[kind], "sparsify": sparsify, "k": None}
    plain = logitstore.dump(**settings)
    with CALLERS[caller]():
        found = logitstore.dump(**settings | {"out": tmp_path / "other"})
        audited = logitstore.audit(settings["out"], teacher=settings["teacher"])
    assert found.fingerprint == plain.fingerprint
    assert audited == logitstore.audit(settings["out"], teacher=settings["teacher"])


def test_threads_that_load_models_leave_transformers_as_it_was(tmp_path: Path) -> None:
    """It replaces its own functions while it loads; left so, later models were untied."""
    tiny(tie_word_embeddings=True).save_pretrained(tmp_path)
    before = (PreTrainedModel.tie_weights, PreTrainedModel.init_weights, torch.nn.init.normal_)

    def tied(_: int) -> bool:
        model = load_model(tmp_path, dtype=torch.float32)
        return model.lm_head.weight is model.model.embed_tokens.weight

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(tied, range(64)))
    after = (PreTrainedModel.tie_weights, PreTrainedModel.init_weights, torch.nn.init.normal_)
    assert after == before


def test_threads_that_share_a_model_in_training_mode_get_no_dropout(
    settings: dict[str, Any], tokenizer_folder: Path, tmp_path: Path
) -> None:
    model = tiny("gpt2", vocab_size=VOCAB, resid_pdrop=0.5, embd_pdrop=0.5, attn_pdrop=0.5).train()
    settings |= {"teacher": model, "batch_tokens": 32}
    plain = logitstore.dump(**settings)

    def dumped(number: int) -> str:
        tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
        own = {"tokenizer": tokenizer, "out": tmp_path / f"store{number}"}
        return logitstore.dump(**settings | own).fingerprint

    with ThreadPoolExecutor(6) as pool:
        assert set(pool.map(dumped, range(18))) == {plain.fingerprint}
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"teacher": object()}, ModelError, "no teacher: it lacks spec, context, logits"),
        ({"teacher": 3}, ModelError, "no teacher"),
        ({"tokenizer": None}, SettingError, "needs a tokenizer"),
        ({"tokenizer": 3}, SettingError, "no transformers tokenizer"),
        ({"device": "cpu"}, SettingError, "device means nothing to a teacher that is loaded"),
        ({"dtype": "bfloat16"}, SettingError, "dtype means nothing to a teacher that is loaded"),
        ({"max_length": 65}, SettingError, "found 65.*2..64"),
    ],
)
def test_what_cannot_be_a_teacher_is_told(
    settings: dict[str, Any], change: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        logitstore.dump(**settings | change)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("spec", {"name": "lines"}, "spec is no logitstore.TeacherSpec but dict"),
        ("context", "64", "context is no number of tokens but '64'"),
        ("logits", None, "logits are no method"),
    ],
)
def test_what_a_teacher_lacks_is_named(
    settings: dict[str, Any], name: str, value: object, message: str
) -> None:
    setattr(settings["teacher"], name, value)
    with pytest.raises(ModelError, match=message):
        logitstore.dump(**settings)


def test_two_ways_to_a_models_logits_agree(model: Any) -> None:
    teacher = TransformersTeacher.of(model, vocab_size=VOCAB)
    assert isinstance(teacher, Teacher)
    assert isinstance(teacher, OwnForward)
    ids_L = np.arange(9, dtype=np.uint32)
    document = Document(
        id=bytes(16), record=0, piece=0, input_ids_L=ids_L, counted_L=np.arange(9) > 2
    )
    ((logits_RV, labels_R),) = teacher.logits([document])
    assert labels_R.tolist() == list(range(3, 9))
    own_LV = teacher.own_logits(document, tokens=9)
    torch.testing.assert_close(logits_RV, own_LV[2:8], rtol=1e-4, atol=1e-4)
