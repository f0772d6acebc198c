"""Several teachers of one corpus: each document once, by their mean, compared with dense rows."""

from __future__ import annotations

import json
import math
import pickle
from dataclasses import replace
from itertools import islice
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import logitstore
import trainer
from logitstore.errors import SettingError, SpecError, StoreError
from logitstore.format.blocks import BlockCounts
from logitstore.sparsify.build import sparsifier_spec
from logitstore.targets.documents import DocumentBlock
from tests.fused_scene import TOPK, K, V, fused, make_targets, scene
from tests.memory_store import VOCAB, MemoryStore, _draws, teacher_logprobs
from tests.test_distil import SETTINGS, difference, history, interrupt_at
from tests.tiny_models import CONFIGS, tiny
from tools.tiny_teacher import make_teacher
from tools.torture_store import make_scene
from trainer.cli import app
from trainer.losses import LOSSES
from trainer.losses.averaged import averaged_distillation_loss
from trainer.training.state_files import RunWarning

PACKING = {"batch_tokens": 64, "micro_tokens": 16}


class TeachersStore(MemoryStore):
    """The documents of a `MemoryStore` by the teacher of a seed, `size` of them in a block.

    `change` makes others of the documents.
    """

    def __init__(self, teacher, *, size=5, change=list, k=VOCAB, sparsifier=None, blocks=12):
        super().__init__(k=k, sparsifier=sparsifier, blocks=blocks)
        self._by = teacher_logprobs(teacher)
        documents = change([one.document for block in self._blocks for one in block.split()])
        self._blocks = [
            DocumentBlock.join([self._stored(one) for one in documents[start : start + size]])
            for start in range(0, len(documents), size)
        ]
        self.blocks = tuple(
            BlockCounts(documents=len(one), tokens=len(one.input_ids_N), targets=len(one.targets))
            for one in self._blocks
        )
        self.fingerprint = f"{teacher:064x}"
        self.uri = f"teacher {teacher}"
        self.spec.teacher = SimpleNamespace(name=f"table {teacher}")

    def _stored(self, document):
        at = np.flatnonzero(document.counted_L)
        ids = document.input_ids_L
        draws = _draws(self._by[ids[at - 1]], ids[at], self.spec.sparsifier, number=document.record)
        return logitstore.StoredDocument(
            document=document, targets=draws[0], other_draws=tuple(draws[1:])
        )


def reversed_order(documents):
    return documents[::-1]


def batches_of(store, **settings):
    return trainer.training_batches(store, model=tiny(), **PACKING | settings)


# --- documents


def test_each_document_comes_once_with_the_targets_of_all():
    """Of stores in other blocks, in another order."""
    one, other = TeachersStore(1), TeachersStore(2, size=7, change=reversed_order, k=6)
    store = trainer.average([one, (other, 3.0)])
    assert store.weights == (0.25, 0.75)
    assert [len(read) for read in (store, one, other)] == [len(one)] * 3
    by_id = [{one.document.id: one.targets for one in read} for read in (one, other)]
    seen = 0
    for read, first in zip(store, one, strict=True):
        assert read.document.id == first.document.id
        for part, own in zip(read.targets.parts, by_id, strict=True):
            wanted = own[read.document.id]
            np.testing.assert_array_equal(part.ids_RK, wanted.ids_RK)
            np.testing.assert_array_equal(part.label_logprob_R, wanted.label_logprob_R)
            seen += len(part)
    assert seen == 2 * sum(block.targets for block in one.blocks)
    for number, block in enumerate(store.blocks):
        tokens_D, targets_D = store.document_lengths(number)
        read = list(store.read_block(number).split())
        assert [len(one.document) for one in read] == tokens_D.tolist()
        assert [len(one.targets) for one in read] == targets_D.tolist()
        assert (block.documents, block.tokens) == (len(read), tokens_D.sum())
    epoch = list(batches_of(store, epochs=1))
    assert sum(len(one.labels_R) for one in epoch) == seen // 2
    again = pickle.loads(pickle.dumps(store))
    assert again.fingerprint == store.fingerprint
    assert len(list(again)) == len(one)


class Fetching:
    """A store far away: a block must have been expected before it is read, each time."""

    far = True

    def __init__(self, store, told):
        self.store, self.told, self.expected = store, told, set()

    def expect(self, number):
        assert number not in self.expected
        self.expected.add(number)
        self.told.append((self.store.fingerprint, number))

    def read_block(self, number):
        assert number in self.expected, "read without being expected"
        self.expected.remove(number)
        return self.store.read_block(number)


@pytest.mark.parametrize("size", [5, 3, 20])
@pytest.mark.parametrize("change", [list, reversed_order])
def test_blocks_of_far_stores_are_fetched_ahead(size, change):
    """Whatever the blocks and the order of the second store, in which some are needed twice."""
    told, made = [], []

    def far_store(teacher, **more):
        store = TeachersStore(teacher, **more)
        store.ahead = lambda: made.append(Fetching(store, told)) or made[-1]
        return store

    stores = [far_store(1), far_store(2, size=size, change=change)]
    averaged = trainer.average([(one, 1) for one in stores])
    reader = averaged.ahead()
    assert reader.far
    plain = trainer.average(
        [(one, 1) for one in (TeachersStore(1), TeachersStore(2, size=size, change=change))]
    )
    numbers = range(len(averaged.blocks))
    reader.expect(0)
    for number in numbers:
        if number + 1 in numbers:
            reader.expect(number + 1)  # while the last is yet to be read
        for one, other in zip(
            reader.read_block(number).split(), plain.read_block(number).split(), strict=True
        ):
            assert one.document.id == other.document.id
            for mine, theirs in zip(one.targets.parts, other.targets.parts, strict=True):
                assert np.array_equal(mine.ids_RK, theirs.ids_RK)
                assert np.array_equal(mine.logprobs_RK, theirs.logprobs_RK)
    assert all(not one.expected for one in made)  # nothing was fetched in vain
    assert {one[0] for one in told} == {store.fingerprint for store in stores}


def test_a_run_over_far_stores_fetches_all_of_their_blocks():
    told = []
    stores = [TeachersStore(1), TeachersStore(2)]
    for one in stores:
        one.ahead = lambda store=one: Fetching(store, told)
    for _ in batches_of(trainer.average([(one, 1) for one in stores]), epochs=1):
        pass
    assert sorted(told) == sorted(
        (one.fingerprint, number) for one in stores for number in range(12)
    )


def test_the_fingerprint_is_of_stores_and_shares():
    one, other = TeachersStore(1), TeachersStore(2)
    plain = trainer.average([one, other]).fingerprint
    assert trainer.average([(other, 2.0), (one, 2.0)]).fingerprint == plain
    assert trainer.average([one, (other, 2.0)]).fingerprint != plain
    assert trainer.average([one, other], documents="common").fingerprint != plain
    assert trainer.mix([one, other]).fingerprint != plain


def with_other_ids(documents):
    return [replace(one, id=b"x" * 15 + one.id[-1:]) for one in documents]


def without_some(documents):
    return [one for one in documents if one.record % 5 != 2]


def test_documents_that_are_missing_are_refused_or_left_out():
    whole, part = TeachersStore(1), TeachersStore(2, size=4, change=without_some)
    for first, second in ((whole, part), (part, whole)):
        with pytest.raises(SpecError, match=r"teacher 1: .* 12 of 60 documents .* average common"):
            trainer.average([first, second])
    store = trainer.average([whole, part], documents="common")
    assert (len(store), store.left_out) == (48, (12, 0))
    assert all(one.document.record % 5 != 2 for one in store)
    assert store.told_of_left_out() == (
        "documents that are not in all stores are left out: 12 of 60 in teacher 1, "
        "0 of 48 in teacher 2"
    )
    shifted = TeachersStore(
        3, change=lambda all_: [replace(d, id=b"x" * 15 + d.id[-1:]) for d in all_]
    )
    with pytest.raises(StoreError, match="no document is in all of the stores"):
        trainer.average([whole, shifted], documents="common")


def with_another_token(documents):
    ids_L = documents[40].input_ids_L.copy()
    ids_L[-1] = (ids_L[-1] + 1) % VOCAB
    return [*documents[:40], replace(documents[40], input_ids_L=ids_L), *documents[41:]]


def with_another_length(documents):
    longer = np.append(documents[40].input_ids_L, 1).astype(np.uint32)
    counted = np.append(documents[40].counted_L, True)
    changed = replace(documents[40], input_ids_L=longer, counted_L=counted)
    return [*documents[:40], changed, *documents[41:]]


def test_what_has_the_same_id_must_be_the_same_text():
    whole = TeachersStore(1)
    number = (40).to_bytes(16, "big").hex()
    with pytest.raises(SpecError, match=f"different texts under one id.*document {number}"):
        trainer.average([whole, TeachersStore(2, change=with_another_length)])
    store = trainer.average([whole, TeachersStore(2, change=with_another_token)])
    with pytest.raises(SpecError, match=f"different texts under one id.*document {number}"):
        list(store)
    twice = TeachersStore(2, change=lambda documents: [*documents, documents[3]])
    with pytest.raises(StoreError, match="teacher 2: a document stands twice"):
        trainer.average([whole, twice])


@pytest.mark.parametrize(
    ("stores", "settings", "message"),
    [
        ([TeachersStore(1)], {}, "one store alone"),
        ([TeachersStore(1), TeachersStore(1)], {}, "given twice"),
        ([TeachersStore(1), TeachersStore(2)], {"documents": "some"}, "average is unknown"),
        (TeachersStore(1), {}, "stores must be a list"),
        (
            [TeachersStore(1), TeachersStore(2, sparsifier=sparsifier_spec("unbiased", k=4))],
            {},
            "different kinds",
        ),
    ],
)
def test_what_cannot_be_averaged_is_refused(stores, settings, message):
    with pytest.raises((SettingError, SpecError), match=message):
        trainer.average(stores, **settings)


def test_what_is_made_of_one_store_refuses_the_mean():
    store = trainer.average([TeachersStore(1), TeachersStore(2)])
    with pytest.raises(SettingError, match="a model is measured on one store"):
        trainer.evaluate(tiny(), logits=store)
    with pytest.raises(SettingError, match="cannot be mixed"):
        trainer.mix([store, TeachersStore(3)])
    with pytest.raises(SettingError, match="teachers' mean are not known"):
        batches_of(store, select="entropy:top:0.2")


# --- the loss


def dense(model, batch, weights, seeds, *, temperature):
    """Student's logits and the teachers' mean, in float64, of the rows of a batch."""
    ids = batch.input_ids_BW.flatten()[batch.at_R].numpy()
    z_RV = model(**batch.model_inputs, use_cache=False).logits.flatten(0, 1)[batch.at_R].double()
    parts = [
        (torch.from_numpy(teacher_logprobs(seed)[ids]) / temperature).log_softmax(-1)
        for seed in seeds
    ]
    mean_RV = sum(weight * one.exp() for weight, one in zip(weights, parts, strict=True))
    return z_RV, mean_RV, parts


def gradients(model):
    return {name: one.grad.clone() for name, one in model.named_parameters()}


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("alpha", [0.4, 1.0])
def test_gradients_are_those_of_dense_kl_from_the_teachers_mean(temperature, alpha):
    """Where all tokens are kept; the value is above that KL by what the teachers differ."""
    store = trainer.average([TeachersStore(1), (TeachersStore(2), 2.0)])
    model = tiny()
    batch = next(iter(batches_of(store, temperature=temperature)))
    found = trainer.distillation_loss(model, batch, alpha=alpha)
    found.loss.backward()
    ours = gradients(model)
    model.zero_grad()
    z_RV, mean_RV, parts = dense(model, batch, store.weights, (1, 2), temperature=temperature)
    log_q_RV = (z_RV / temperature).log_softmax(-1)
    kl = (mean_RV * (mean_RV.log() - log_q_RV)).sum()
    apart = sum(
        weight * (one.exp() * (one - mean_RV.log())).sum()
        for weight, one in zip(store.weights, parts, strict=True)
    )
    ce = torch.nn.functional.cross_entropy(z_RV, batch.labels_R, reduction="sum")
    ((1 - alpha) * ce + alpha * temperature**2 * kl).backward()
    for name, value in model.named_parameters():
        torch.testing.assert_close(ours[name], value.grad, rtol=1e-3, atol=1e-4)
    assert float(found.sums["kl"]) == pytest.approx(float((kl + apart).detach()), rel=1e-5)
    assert apart > 1  # and no rounding
    assert float(found.sums["ce"]) == pytest.approx(float(ce.detach()), rel=1e-5)
    expected = (1 - alpha) * ce + alpha * temperature**2 * (kl + apart)
    assert float(found.loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)


@pytest.mark.parametrize("name", [one.name for one in LOSSES.values() if one.serves_mean])
@pytest.mark.parametrize("softcap", [None, 3.0])
def test_heads_of_other_tokens_and_sizes_add_up_as_their_losses_do(name, softcap):
    """From one projection, in chunks; padded heads and drawn entries take the same way."""
    loss, weights = LOSSES[name], (0.3, 0.7)

    def of(chunk_rows):
        hidden, head, teacher, labels, counts = scene(softcap=softcap)
        other = scene(seed=5)[2]
        targets = [make_targets(teacher, counts=counts), make_targets(other, k=K + 3)]
        specs = [TOPK, replace(TOPK, k=K + 3)]
        settings = {"alpha": 0.6, "temperature": 2.0, "loss": loss, "vocab_size": V}
        if loss.of_samples:  # both teachers give the true token the same, and so does their mean
            known = {"label_logprob_N": torch.full((len(labels),), -2.5)}
            targets = [replace(one, **known) for one in targets]
            drawn = torch.full((len(labels),), -3.0)
            settings |= {"temperature": 1.0, "sampler_logprobs_N": drawn}
        return hidden, head, targets, specs, labels, settings | {"chunk_rows": chunk_rows}

    hidden, head, targets, specs, labels, settings = of(5)
    found = averaged_distillation_loss(
        hidden,
        head.whole,
        targets=targets,
        teacher_weights=weights,
        sparsifiers=specs,
        label_ids_N=labels,
        **settings,
    )
    found.loss.backward()
    theirs, other_head, targets, specs, labels, settings = of(None)
    sums = [
        fused(theirs, other_head.whole, one, labels, **settings | {"sparsifier": spec})
        for one, spec in zip(targets, specs, strict=True)
    ]
    sum(weight * one.loss for weight, one in zip(weights, sums, strict=True)).backward()
    torch.testing.assert_close(hidden.grad, theirs.grad, rtol=1e-4, atol=1e-5)
    for ours, expected in zip(
        (head.weight_PD, head.bias_P), (other_head.weight_PD, other_head.bias_P), strict=True
    ):
        torch.testing.assert_close(ours.grad, expected.grad, rtol=1e-4, atol=2e-5)
    for key in found.sums:
        mean = sum(w * float(one.sums[key]) for w, one in zip(weights, sums, strict=True))
        assert float(found.sums[key]) == pytest.approx(mean, rel=1e-5), key


def test_sampled_tokens_are_judged_by_the_teachers_mean():
    hidden, head, teacher, labels, _ = scene()
    other = scene(seed=5)[2]
    rows = torch.arange(len(labels))
    logs = [one.double().log_softmax(-1)[rows, labels] for one in (teacher, other)]
    mean = torch.logaddexp(logs[0] + math.log(0.3), logs[1] + math.log(0.7)).float()
    targets = [
        replace(make_targets(whole), label_logprob_N=log.float())
        for whole, log in zip((teacher, other), logs, strict=True)
    ]
    settings = {"loss": LOSSES["sampled_reverse_kl"], "alpha": 1.0, "temperature": 1.0}
    settings |= {"vocab_size": V, "sampler_logprobs_N": torch.full((len(labels),), -3.0)}
    found = averaged_distillation_loss(
        hidden,
        head,
        targets=targets,
        teacher_weights=(0.3, 0.7),
        sparsifiers=(TOPK, TOPK),
        label_ids_N=labels,
        **settings,
    )
    alone = replace(targets[0], label_logprob_N=mean)
    expected = fused(hidden, head, alone, labels, **settings)
    assert found.loss.item() == pytest.approx(expected.loss.item(), rel=1e-5)


@pytest.mark.parametrize("name", [one.name for one in LOSSES.values() if not one.serves_mean])
def test_other_losses_are_refused_before_a_store_is_opened(name, tmp_path):
    settings = {"logits": ["a", "b"], "student": "s.json", "out": tmp_path / "run"}
    with pytest.raises(SettingError, match="of the teachers' mean is not the mean of its values"):
        trainer.fit(**settings, loss=name, average="all")
    store = trainer.average([TeachersStore(1), TeachersStore(2)])
    batch = next(iter(batches_of(store)))
    with pytest.raises(SettingError, match="of the teachers' mean is not the mean of its values"):
        trainer.distillation_loss(tiny(), batch, loss=name)


def test_drawn_targets_take_turns_in_each_store():
    """A store of two repeats beside one of three: six epochs read each pair."""
    specs = [sparsifier_spec("unbiased", k=4, repeats=repeats) for repeats in (2, 3)]
    stores = [TeachersStore(n, sparsifier=spec) for n, spec in enumerate(specs, start=1)]
    store = trainer.average(stores)
    assert store.spec.sparsifier.repeats == 6
    for draw in range(6):
        read = next(iter(store.with_draw(draw))).targets.parts
        for part, own, repeats in zip(read, stores, (2, 3), strict=True):
            wanted = next(iter(own.with_draw(draw % repeats))).targets
            np.testing.assert_array_equal(part.ids_RK, wanted.ids_RK)
    result = trainer.distillation_loss(tiny(), next(iter(batches_of(store))))
    assert torch.isfinite(result.loss)


# --- runs


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "student.json"
    path.write_text(CONFIGS["llama"].to_json_string())
    return path


def fit(out, config, **settings):
    stores = [(TeachersStore(1), 2), TeachersStore(2, size=4, change=without_some)]
    wanted = {"logits": stores, "average": "common", "student": config, "out": out}
    with pytest.warns(RunWarning, match="left out: 12 of 60 in teacher 1, 0 of 48 in teacher 2"):
        return trainer.fit(**SETTINGS | wanted | {"device": "cpu"} | settings)


def test_a_run_learns_from_both_and_names_them(tmp_path, config):
    result = fit(tmp_path / "run", config, epochs=5, lr=1e-2)
    reports = history(tmp_path / "run")
    assert reports[-1]["kl"] < 0.95 * reports[0]["kl"]
    assert result["settings"]["average"] == "common"
    assert [(one["teacher"], one["weight"]) for one in result["averaged"]] == [
        ("table 1", 2 / 3),
        ("table 2", 1 / 3),
    ]
    assert result["left_out"] == [12, 0]
    common = TeachersStore(2, change=without_some)
    assert sum(one["targets"] for one in reports) == 5 * sum(b.targets for b in common.blocks)


@pytest.mark.parametrize("stop", [5, 11])
def test_a_stopped_run_ends_as_one_without_a_stop(tmp_path, config, stop):
    settings = {"steps": 14, "save_steps": 4}
    fit(tmp_path / "straight", config, **settings)
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "stopped", config, **settings, report=interrupt_at(stop))
    fit(tmp_path / "stopped", config, **settings, resume=True)
    assert difference(tmp_path / "straight", tmp_path / "stopped") == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"logits": ["a"]}, "the mean of several teachers' targets, and one store is given"),
        ({"select": "entropy:top:0.2"}, "select is not served with average"),
        ({"loss": "alm"}, "not served for losses over spans"),
        ({"skip_damaged": 2}, "skip_damaged is not served with average"),
        ({"average": "some"}, "average is unknown"),
    ],
)
def test_what_does_not_go_together_is_refused(tmp_path, settings, message):
    wanted = {"logits": ["a", "b"], "student": "s.json", "out": tmp_path, "average": "all"}
    with pytest.raises(SettingError, match=message):
        trainer.fit(**wanted | settings)


def test_the_command_averages_stores_on_the_disk(tmp_path):
    scene_ = make_scene(tmp_path, records=12)
    other = make_teacher(tmp_path / "other", seed=3)
    for teacher, name, k in ((scene_.teacher, "one", 6), (other, "two", 4)):
        data, out = str(scene_.data), tmp_path / name
        logitstore.dump(teacher=str(teacher), data=data, out=out, k=k, sparsify="topk")
    words = ["--logits", f"{tmp_path / 'one'}@3", "--logits", tmp_path / "two", "--average", "all"]
    words += ["--student", scene_.teacher, "--out", tmp_path / "run", "--steps", 2]
    words += ["--batch-tokens", 128, "--micro-tokens", 64, "--device", "cpu", "--json"]
    done = CliRunner().invoke(app, ["fit", *map(str, words)])
    assert done.exit_code == 0, done.stderr
    averaged = {one["name"]: one["weight"] for one in json.loads(done.stdout)["averaged"]}
    assert averaged == {str(tmp_path / "one"): 0.75, str(tmp_path / "two"): 0.25}
    assert len(list(islice(trainer.average([tmp_path / "one", tmp_path / "two"]), 3))) == 3
