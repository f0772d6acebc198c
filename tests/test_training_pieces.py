"""The public pieces of training, used as a loop of one's own would: batches, loss, trainer."""

import copy
import json
import pickle
from itertools import islice

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader
from transformers import TrainerCallback, TrainingArguments

import logitstore
import trainer
from logitstore import ModelError, SettingError, StoreError
from logitstore.sparsify.build import sparsifier_spec
from tests.loss_settings import OF_ENTRIES
from tests.memory_store import VOCAB, MemoryStore, teacher_logprobs
from tests.tiny_models import CONFIGS, tiny
from trainer.losses import DenseRows

NUMBERS = {"batch_tokens": 64, "micro_tokens": 16}


def batches_of(store, *, model=None, **settings):
    return trainer.training_batches(store, model=model or tiny(), **NUMBERS | settings)


def content(batch):
    """What a batch holds, comparably."""
    targets = [] if batch.targets is None else batch.targets.logprobs_RK.tolist()
    return (batch.input_ids_BW.tolist(), batch.labels_R.tolist(), targets, batch.after)


# --- batches


def test_batches_end_after_their_epochs_with_every_target():
    store = MemoryStore()
    batches = batches_of(store, epochs=2)
    made = list(batches)
    assert sum(len(one.labels_R) for one in made) == 2 * sum(b.targets for b in store.blocks)
    assert sum(one.ends_step for one in made) == batches.count_steps(2)
    assert len(made) == batches.per_step * batches.count_steps(2)
    assert batches.epoch == 2.0
    assert list(batches) == []


def test_a_batch_says_where_to_go_on_behind_it():
    store = MemoryStore()
    made = list(batches_of(store, epochs=1))
    places = [number for number, one in enumerate(made) if one.ends_step]
    other = batches_of(store, epochs=1)
    other.load_state_dict(json.loads(json.dumps(made[places[2]].after)))
    rest = [content(one) for one in other]
    assert rest == [content(one) for one in made[places[2] + 1 :]]


@pytest.mark.parametrize(
    "settings", [{"seed": 1}, {"batch_tokens": 128}, {"micro_tokens": 32}, {"window": 1}]
)
def test_a_state_of_other_batches_is_refused(settings):
    store = MemoryStore()
    state = batches_of(store).state_dict()
    with pytest.raises(SettingError, match="made otherwise"):
        batches_of(store, **settings).load_state_dict(state)


def test_a_state_of_before_that_does_not_name_its_packing_is_taken():
    batches = batches_of(MemoryStore())
    batches.load_state_dict({"epoch": 1, "step": 2, "consumed": batches.state_dict()["consumed"]})
    assert batches.state_dict()["epoch"] == 1


def test_batches_pickle_where_they_stand():
    batches = batches_of(MemoryStore(sparsifier=sparsifier_spec("unbiased", k=4, repeats=2)))
    iterator = iter(batches)
    for _ in range(2 * batches.per_step):
        next(iterator)
    iterator.close()
    other = pickle.loads(pickle.dumps(batches))
    assert other.state_dict() == batches.state_dict()
    assert content(next(iter(other))) == content(next(iter(batches)))


def test_worker_processes_hand_out_the_same_batches_in_the_same_order():
    batches = batches_of(MemoryStore(blocks=6), epochs=1)
    expected = [content(one) for one in batches_of(MemoryStore(blocks=6), epochs=1)]
    loader = DataLoader(batches, batch_size=None, num_workers=2, multiprocessing_context="spawn")
    assert [content(one) for one in loader] == expected


def test_a_temperature_that_the_store_does_not_serve_is_refused_when_batches_are_made():
    store = MemoryStore(sparsifier=sparsifier_spec("unbiased", k=4))
    with pytest.raises(SettingError, match="not drawn at this temperature"):
        batches_of(store, temperature=2.0)


# --- loss


def dense(model, store, batch, *, temperature):
    """The rows of a batch as whole distributions in float64, teacher and student."""
    ids = batch.input_ids_BW.flatten()[batch.at_R].numpy()
    logits = model(**batch.model_inputs, use_cache=False).logits.flatten(0, 1)[batch.at_R].double()
    teacher = torch.from_numpy(teacher_logprobs()[ids])
    return logits, DenseRows(
        log_student_RV=(logits / temperature).log_softmax(-1),
        log_teacher_RV=(teacher / temperature).log_softmax(-1),
        kept_RV=torch.ones(len(ids), VOCAB, dtype=torch.bool),
        label_ids_R=batch.labels_R,
    )


@pytest.mark.parametrize("name", OF_ENTRIES)
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_loss_of_a_batch_is_the_dense_one(name, temperature):
    store, model, alpha = MemoryStore(), tiny(), 0.7
    batch = next(iter(batches_of(store, model=model, temperature=temperature)))
    result = trainer.distillation_loss(model, batch, alpha=alpha, loss=name)
    result.loss.backward()
    found = {key: value.grad.clone() for key, value in model.named_parameters()}
    model.zero_grad()
    logits, rows = dense(model, store, batch, temperature=temperature)
    loss = trainer.LOSSES[name]
    factor = temperature**2 if loss.times_temperature_squared else 1.0
    ce = torch.nn.functional.cross_entropy(logits, batch.labels_R, reduction="sum")
    expected = (1 - alpha) * ce + alpha * factor * loss.reference(rows).sum()
    expected.backward()
    assert result.count == len(batch.labels_R)
    assert result.loss.item() == pytest.approx(expected.item(), rel=1e-4)
    for key, value in model.named_parameters():
        torch.testing.assert_close(found[key], value.grad, rtol=1e-3, atol=1e-4)


def test_only_counted_tokens_have_a_loss():
    store, model = MemoryStore(), tiny()
    for batch in islice(batches_of(store, model=model), 8):
        result = trainer.distillation_loss(model, batch)
        assert result.count == len(batch.at_R)
        assert batch.targets is None or len(batch.targets) == result.count


def test_a_batch_with_nothing_to_learn_gives_a_zero_with_gradients():
    model = tiny()
    batches = batches_of(MemoryStore(), model=model, batch_tokens=4096, micro_tokens=16)
    empty = next(one for one in batches if one.targets is None)
    result = trainer.distillation_loss(model, empty)
    result.loss.backward()
    assert (result.loss.item(), result.count) == (0.0, 0)
    assert model.model.embed_tokens.weight.grad is not None


class Wrapper(nn.Module):
    """What DistributedDataParallel looks like from outside."""

    def __init__(self, module):
        super().__init__()
        self.module = module
        self.calls = 0

    def forward(self, *args, **kwargs):
        self.calls += 1
        return self.module(*args, **kwargs)


def test_the_loss_passes_through_what_wraps_the_model():
    model = tiny()
    batch = next(iter(batches_of(MemoryStore(), model=model)))
    wrapped = Wrapper(model)
    inside = trainer.distillation_loss(wrapped, batch)
    assert wrapped.calls == 1
    assert torch.equal(inside.loss, trainer.distillation_loss(model, batch).loss)
    assert "forward" not in vars(model)


def test_the_loss_passes_through_distributed_data_parallel(tmp_path):
    """Its gradients are there after backward, and those of the model alone."""
    plain, model = tiny(), tiny()
    batch = next(iter(batches_of(MemoryStore(), model=model)))
    trainer.distillation_loss(plain, batch).loss.backward()
    place = f"file://{tmp_path / 'group'}"
    torch.distributed.init_process_group("gloo", init_method=place, rank=0, world_size=1)
    try:
        wrapped = nn.parallel.DistributedDataParallel(model)
        trainer.distillation_loss(wrapped, batch).loss.backward()
    finally:
        torch.distributed.destroy_process_group()
    for (name, ours), theirs in zip(model.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, msg=name)


def test_a_loss_of_ones_own_is_taken_and_an_unknown_one_refused():
    model = tiny()
    batch = next(iter(batches_of(MemoryStore(), model=model, temperature=2.0)))
    forward = trainer.LOSSES["forward_kl"]
    own = trainer.Loss(
        name="halved",
        summary="Half of forward KL.",
        divergence=lambda inputs: forward.divergence(inputs) / 2,
        reference=lambda rows: forward.reference(rows) / 2,
        linear=True,
        tail="bucket",
        bound="lower",
        times_temperature_squared=False,
    )
    found = trainer.distillation_loss(model, batch, alpha=1.0, loss=own).loss
    whole = trainer.distillation_loss(model, batch, alpha=1.0).loss
    assert found.item() == pytest.approx(whole.item() / 8, rel=1e-5)  # T^2 is 4
    with pytest.raises(SettingError, match=r"loss is unknown .*forward_kl"):
        trainer.distillation_loss(model, batch, loss="hope")


def test_drawn_targets_are_not_taken_for_those_of_another_temperature():
    spec = sparsifier_spec("sample", draws=8, temperatures=(1.0, 2.0))
    model = tiny()
    batch = next(iter(batches_of(MemoryStore(sparsifier=spec), model=model, temperature=2.0)))
    assert trainer.distillation_loss(model, batch, temperature=2.0).count
    with pytest.raises(SettingError, match="drawn for another temperature"):
        trainer.distillation_loss(model, batch, temperature=1.0)
    exact = next(iter(batches_of(MemoryStore(), model=model)))
    assert trainer.distillation_loss(model, exact, temperature=2.0).count


# --- trainer


def loop_of(out, store, *, model=None, arguments=None, **settings):
    model = model or tiny("gpt2").train()
    return trainer.DistillationTrainer(
        model=model,
        args=TrainingArguments(
            str(out),
            use_cpu=True,
            disable_tqdm=True,
            report_to="none",
            **{"max_steps": 8, "save_steps": 3, "logging_steps": 2} | (arguments or {}),
        ),
        train_dataset=batches_of(store, model=model),
        **settings,
    )


class Stop(TrainerCallback):
    """Interrupts the training at the end of a step."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **_):
        if state.global_step == self.step:
            raise KeyboardInterrupt


def weights(model):
    return copy.deepcopy(model.state_dict())


def test_the_trainer_resumes_bit_by_bit_and_logs_what_it_logs(tmp_path):
    """With dropout; stopped two steps behind a checkpoint, in the middle of a report."""
    store = MemoryStore()
    straight = loop_of(tmp_path / "straight", store)
    straight.train()
    with pytest.raises(KeyboardInterrupt):
        loop_of(tmp_path / "stopped", store, callbacks=[Stop(5)]).train()
    resumed = loop_of(tmp_path / "stopped", store)
    resumed.train(resume_from_checkpoint=True)
    first, second = weights(straight.model), weights(resumed.model)
    assert all(torch.equal(first[name], second[name]) for name in first)
    logs = [
        [{k: v for k, v in one.items() if k != "seconds"} for one in loop.state.log_history[:-1]]
        for loop in (straight, resumed)
    ]
    assert logs[0] == logs[1]
    assert {"loss", "kl", "ce", "divergence", "agreement", "targets"} <= set(logs[0][0])


def test_the_trainer_takes_a_named_checkpoint_and_refuses_one_that_is_not_whole(tmp_path):
    store = MemoryStore()
    loop_of(tmp_path, store, arguments={"max_steps": 6}).train()
    named = loop_of(tmp_path, store, arguments={"max_steps": 6})
    named.train(resume_from_checkpoint=tmp_path / "checkpoint-3")
    assert named.state.global_step == 6
    (tmp_path / "checkpoint-3" / "optimizer.pt").write_bytes(b"half")
    with pytest.raises(StoreError, match=r"optimizer\.pt: file has changed"):
        loop_of(tmp_path, store).train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    with pytest.raises(StoreError, match="no whole checkpoint"):
        loop_of(tmp_path / "empty", store).train(resume_from_checkpoint=True)


def test_the_trainer_makes_the_passes_that_are_asked_for_and_leaves_the_arguments_alone(tmp_path):
    store = MemoryStore()
    loop = loop_of(
        tmp_path, store, arguments={"max_steps": -1, "num_train_epochs": 2, "save_strategy": "no"}
    )
    args = TrainingArguments(str(tmp_path), use_cpu=True)
    trainer.DistillationTrainer(model=tiny(), args=args, train_dataset=batches_of(store))
    assert (args.max_steps, args.gradient_accumulation_steps) == (-1, 1)
    loop.train()
    assert loop.state.global_step == batches_of(store).count_steps(2)
    assert loop.state.log_history[-2]["epoch"] == pytest.approx(2.0, abs=0.2)


def test_evaluation_callbacks_and_saving_are_those_of_transformers(tmp_path):
    seen = []

    class Watch(TrainerCallback):
        def on_evaluate(self, args, state, control, metrics, **_):
            seen.append(metrics["eval_loss"])

    rows = [{"input_ids": np.arange(6), "labels": np.arange(6)} for _ in range(4)]
    loop = loop_of(
        tmp_path,
        MemoryStore(),
        arguments={"eval_strategy": "steps", "eval_steps": 4, "dataloader_pin_memory": False},
        eval_dataset=rows,
        callbacks=[Watch()],
    )
    loop.train()
    assert len(seen) == 2
    with torch.no_grad():
        expected = loop.model.eval()(torch.arange(6)[None], labels=torch.arange(6)[None]).loss
    assert loop.evaluate()["eval_loss"] == pytest.approx(expected.item(), rel=1e-5)
    loop.save_model(str(tmp_path / "saved"))
    assert (tmp_path / "saved" / "model.safetensors").is_file()


def test_a_loss_that_is_no_number_stops_the_trainer(tmp_path):
    arguments = {"learning_rate": 1e30, "max_steps": 5}
    with pytest.raises(ModelError, match="no finite number"):
        loop_of(tmp_path, MemoryStore(), arguments=arguments).train()


def test_fit_is_made_of_the_pieces(tmp_path, monkeypatch):
    """The same arguments by hand give the weights of `fit`, bit by bit."""
    (tmp_path / "tokenizer").mkdir()
    store = MemoryStore(tokenizer=tmp_path / "tokenizer")
    monkeypatch.setattr(logitstore, "open", lambda _, **__: store, raising=False)
    path = tmp_path / "student.json"
    path.write_text(CONFIGS["llama"].to_json_string())
    common = {"logits": "memory", "student": path, "out": tmp_path / "run", "device": "cpu"}
    trainer.fit(**common, **NUMBERS, steps=5, lr=1e-3, warmup=0.0)
    model = trainer.load_student(path, spec=store.spec)
    arguments = {"max_steps": 5, "learning_rate": 1e-3, "seed": 0, "save_strategy": "no"}
    arguments |= {"weight_decay": 0.1, "adam_beta2": 0.95, "lr_scheduler_type": "cosine"}
    loop = loop_of(tmp_path / "hand", store, model=model, arguments=arguments)
    loop.train()
    expected = trainer.load_student(tmp_path / "run", spec=store.spec).state_dict()
    found = loop.model.state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
