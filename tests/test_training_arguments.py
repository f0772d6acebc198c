"""What the public pieces of training refuse: by SettingError, before anything is read."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import TrainingArguments

import trainer
from logitstore import ModelError, SettingError
from logitstore.plumbing import options_of
from logitstore.sparsify.build import sparsifier_spec
from tests.memory_store import MemoryStore
from tests.tiny_models import CONFIGS, tiny
from trainer.data.options import BATCH_TOKENS, EPOCHS, MICRO_TOKENS, SEED, WINDOW
from trainer.losses.options import ALPHA, LOSS, TEMPERATURE
from trainer.training.options import FitOptions

NUMBERS = {"batch_tokens": 64, "micro_tokens": 16}


class Unread(MemoryStore):
    """A store that nobody may read."""

    def document_lengths(self, number):
        raise AssertionError(f"the lengths of block {number} are read")

    def _read(self, number):
        raise AssertionError(f"block {number} is read")


def batches_of(store=None, *, model=None, **settings):
    return trainer.training_batches(
        store or MemoryStore(), model=model or tiny(), **NUMBERS | settings
    )


# Of each argument values that cannot be: of another type, and beyond both bounds.
NO_COUNT = (0, -1, 1.5, True, "x", math.nan)
WRONG = {
    "batch_tokens": (*NO_COUNT, None),
    "micro_tokens": NO_COUNT,
    "epochs": NO_COUNT,
    "window": NO_COUNT,
    "ranks": (*NO_COUNT, None, 3),
    "seed": (-1, 2**32, 1.5, True, "x", None),
    "temperature": (0, -1.0, math.nan, math.inf, "1", True, None, 20.0),
    "rank": (1, -1, 1.5, True, "x", None),
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in WRONG.items() for value in values]
)
def test_a_number_out_of_range_is_refused_before_anything_is_read(name, value):
    with pytest.raises(SettingError, match=rf"^(the bins .*)?{name}\b|^the bins|this store") as one:
        batches_of(Unread(), **{name: value})
    assert "found" in str(one.value)


@pytest.mark.parametrize("rank", [2, -1])
def test_a_rank_is_one_of_the_ranks(rank):
    with pytest.raises(SettingError, match=rf"^rank .*found {rank}; allowed: 0 to 1"):
        batches_of(Unread(), rank=rank, ranks=2)
    with pytest.raises(SettingError, match=rf"^rank .*found {rank}; allowed: 0 to 1"):
        batches_of().of_rank(rank, 2)


def test_the_bounds_are_those_of_the_command_line():
    declared = {one.name: one for one in options_of(FitOptions)}
    for one in (BATCH_TOKENS, MICRO_TOKENS, EPOCHS, SEED, WINDOW, ALPHA, TEMPERATURE, LOSS):
        other = declared[one.name]
        for part in ("kind", "default", "nullable", "least", "above", "most"):
            assert getattr(one, part) == getattr(other, part)


@pytest.mark.parametrize("epochs", [0, -1, 1.5, None, True])
def test_steps_are_counted_of_whole_epochs(epochs, tmp_path):
    batches = batches_of()
    with pytest.raises(SettingError, match=r"^epochs"):
        batches.count_steps(epochs)
    with pytest.raises(SettingError, match=r"^epochs"):
        trainer.DistillationTrainer(
            model=tiny(),
            args=TrainingArguments(str(tmp_path), use_cpu=True, num_train_epochs=0),
            train_dataset=batches,
        )


@pytest.mark.parametrize("model", [None, "gpt2", torch.nn.Linear(2, 2)])
def test_a_model_is_one_of_transformers(model):
    with pytest.raises(SettingError, match=r"^model must be a transformers model"):
        trainer.training_batches(Unread(), model=model)
    batch = next(iter(batches_of()))
    with pytest.raises(SettingError, match=r"^model is"):
        trainer.distillation_loss(model, batch)


def test_a_model_of_a_smaller_vocabulary_is_refused():
    small = tiny(vocab_size=12)
    with pytest.raises(ModelError, match=r"fewer input embeddings.*found 12; allowed: 24 or more"):
        batches_of(model=small)
    with pytest.raises(ModelError, match=r"fewer input embeddings.*found 12; allowed: 24 or more"):
        trainer.distillation_loss(small, next(iter(batches_of())))


# --- state


def state_of(**changes):
    return batches_of().state_dict() | changes


def without(name):
    state = state_of()
    del state[name]
    return state


STATES = {
    "none": None,
    "empty": {},
    "a list": [0, 0, []],
    "no epoch": without("epoch"),
    "no consumed": without("consumed"),
    "another key": state_of(extra=1),
    "epoch below 0": state_of(epoch=-1),
    "epoch no whole number": state_of(epoch=0.5),
    "epoch a bool": state_of(epoch=True),
    "epoch behind the last": state_of(epoch=3),
    "within an epoch behind the last": state_of(epoch=2, consumed=[1]),
    "step below 0": state_of(step=-1),
    "step beyond the documents": state_of(step=61),
    "step no number": state_of(step="1"),
    "consumed below 0": state_of(consumed=[-1]),
    "consumed beyond the stream": state_of(consumed=[10**9]),
    "consumed no whole number": state_of(consumed=[1.0]),
    "consumed a bool": state_of(consumed=[True]),
    "consumed no list": state_of(consumed=3),
    "too few streams": state_of(consumed=[]),
    "too many streams": state_of(consumed=[0, 0]),
    "everything consumed": state_of(consumed=[60]),
    "packing no object": state_of(packing=3),
}


@pytest.mark.parametrize("case", STATES)
def test_a_state_that_cannot_be_is_refused_and_changes_nothing(case):
    batches = batches_of(epochs=2)
    before = batches.state_dict()
    with pytest.raises(SettingError, match="state"):
        batches.load_state_dict(STATES[case])
    assert batches.state_dict() == before


def test_a_state_at_the_end_is_taken_and_gives_nothing_more():
    batches = batches_of(epochs=2)
    list(batches)
    other = batches_of(epochs=2)
    other.load_state_dict(batches.state_dict())
    assert list(other) == []
    other = batches_of(epochs=3)
    other.load_state_dict(batches.state_dict())
    assert list(other)


# --- loss


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        *(("alpha", one) for one in (-1, 2, 1.01, math.nan, "0.5", None, True)),
        *(("temperature", one) for one in (0, -1, math.nan, math.inf, "1", True)),
        *(("loss", one) for one in ("hope", 3, None, ["forward_kl"])),
    ],
)
def test_an_argument_of_the_loss_out_of_range_is_refused(argument, value, tmp_path):
    batches = batches_of()
    with pytest.raises(SettingError, match=rf"^{argument}\b.*found"):
        trainer.distillation_loss(tiny(), next(iter(batches)), **{argument: value})
    if argument != "temperature":
        with pytest.raises(SettingError, match=rf"^{argument}\b.*found"):
            trainer.DistillationTrainer(
                model=tiny(),
                args=TrainingArguments(str(tmp_path), use_cpu=True, max_steps=1),
                train_dataset=batches,
                **{argument: value},
            )


def test_whole_numbers_are_taken_for_numbers():
    batch = next(iter(batches_of(temperature=2)))
    result = trainer.distillation_loss(tiny(), batch, alpha=1, temperature=np.int64(2))
    expected = trainer.distillation_loss(tiny(), batch, alpha=1.0, temperature=2.0)
    assert torch.equal(result.loss, expected.loss)


def test_parts_of_a_batch_that_do_not_belong_together_are_refused():
    batch = next(iter(batches_of()))
    rows = len(batch.labels_R)
    other = next(iter(batches_of(MemoryStore(sparsifier=sparsifier_spec("unbiased", k=4)))))
    nodes = next(iter(batches_of(MemoryStore(sparsifier=sparsifier_spec("topp", k=4)))))
    small = SimpleNamespace(
        tokenizer=SimpleNamespace(vocab_size=3), sparsifier=batch.spec.sparsifier
    )
    wrong = {
        "at_R and labels_R": {"at_R": batch.at_R[1:]},
        "at_R and": {"labels_R": batch.labels_R[None]},
        "targets and labels_R": {"targets": batch.targets.rows(slice(0, rows - 1))},
        "at_R points outside": {"at_R": batch.at_R + batch.input_ids_BW.numel()},
        "at_R points out": {"at_R": batch.at_R - 100},
        "position_ids_BW": {"position_ids_BW": batch.position_ids_BW[:, 1:]},
        "labels_R holds ids": {"labels_R": batch.labels_R + 24},
        "another kind": {"targets": other.targets.rows(slice(0, 1)), **first_row(batch)},
        "tail log-masses": {"targets": nodes.targets.rows(slice(0, 1)), **first_row(batch)},
        "vocabulary has not": {"spec": small},
    }
    for problem, change in wrong.items():
        with pytest.raises(SettingError, match=f"^batch: .*{problem}"):
            replace(batch, **change)
    with pytest.raises(SettingError, match="no targets to learn them from"):
        trainer.distillation_loss(tiny(), replace(batch, targets=None))
    with pytest.raises(SettingError, match="batch is of another type"):
        trainer.distillation_loss(tiny(), {"input_ids": batch.input_ids_BW})


def first_row(batch):
    return {"at_R": batch.at_R[:1], "labels_R": batch.labels_R[:1]}


def test_a_trainer_takes_batches_and_a_loss_that_they_serve(tmp_path):
    args = TrainingArguments(str(tmp_path), use_cpu=True, max_steps=1)
    with pytest.raises(SettingError, match="train_dataset must be what"):
        trainer.DistillationTrainer(model=tiny(), args=args, train_dataset=[1, 2])
    drawn = batches_of(MemoryStore(sparsifier=sparsifier_spec("unbiased", k=4)))
    with pytest.raises(SettingError, match="linear in the teacher"):
        trainer.DistillationTrainer(model=tiny(), args=args, train_dataset=drawn, loss="reverse_kl")


# --- stores and students


@pytest.mark.parametrize("store", [None, 3, b"store", [["a"]], torch.nn.Linear(1, 1), ""])
def test_what_is_no_store_is_refused(store, tmp_path):
    with pytest.raises(SettingError, match=r"^a store is"):
        trainer.training_batches(store, model=tiny())
    with pytest.raises(SettingError, match=r"^(logits: )?(a store is|logits is empty)"):
        trainer.fit(logits=store, student="S", out=tmp_path / "run", device="cpu")


def test_a_student_of_a_run_is_a_name_or_a_model(tmp_path):
    with pytest.raises(SettingError, match=r"^student is neither a name nor a loaded"):
        trainer.fit(logits=Unread(), student=3, out=tmp_path / "run")
    with pytest.raises(SettingError, match="student must be a name or a loaded"):
        trainer.load_student(torch.nn.Linear(2, 2), spec=Unread().spec)
    with pytest.raises(SettingError, match=r"^spec .*`store\.spec`"):
        trainer.load_student("S", spec=Unread())
    with pytest.raises(SettingError, match=r"^seed"):
        trainer.load_student("S", spec=Unread().spec, seed=None)
    with pytest.raises(SettingError, match=r"^report must be a function"):
        trainer.fit(logits=Unread(), student="S", out=tmp_path / "run", report=3)
    assert not (tmp_path / "run").exists()


def test_an_open_store_is_learnt_from(tmp_path):
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "student.json").write_text(CONFIGS["llama"].to_json_string())
    common = {"student": tmp_path / "student.json", "device": "cpu", "steps": 1, **NUMBERS}
    store = MemoryStore(tokenizer=tmp_path / "tokenizer")
    assert trainer.fit(logits=store, out=tmp_path / "run", **common)["finished"]
