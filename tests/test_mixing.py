"""Several stores at once: what one student may learn from, how it is read, and what is refused."""

import json
import pickle
from collections import Counter
from dataclasses import replace
from itertools import islice
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import trainer
from logitstore.errors import (
    CorruptionError,
    SettingError,
    SpecError,
    StoreError,
    TokenizerError,
)
from logitstore.format.spec import SparsifierSpec
from logitstore.sparsify.build import sparsifier_spec
from logitstore.store.sound import DamagedBlock
from logitstore.targets.targets import EMPTY_TAIL
from tests.memory_store import NODES, VOCAB, MemoryStore
from tests.tiny_models import tiny
from trainer.data.sources import sources_of
from trainer.training.batching import plan_packing

A, B = MemoryStore(seed=1), MemoryStore(seed=2, blocks=6, longest=9, k=5)


def batches(store, **settings):
    given = {"batch_tokens": 64, "micro_tokens": 16, "seed": 3} | settings
    return trainer.training_batches(store, model=tiny("llama"), **given)


def content(batch):
    targets = [] if batch.targets is None else batch.targets.logprobs_RK.tolist()
    return batch.input_ids_BW.tolist(), batch.labels_R.tolist(), targets, batch.step_targets


def take(stream, count):
    iterator = iter(stream)
    found = [content(one) for one in islice(iterator, count)]
    iterator.close()
    return found


def labels(found):
    return Counter(tuple(one[1]) for one in found)


def rows_of(store):
    """What the targets of a store are, by the log-probability of the label: it names a row."""
    return Counter(
        value for one in store for value in one.targets.label_logprob_R.astype(float).tolist()
    )


def test_an_epoch_holds_the_targets_of_every_store_once():
    mixed = trainer.mix([A, B])
    stream = iter(batches(mixed, epochs=1))
    found = Counter(
        value
        for one in stream
        if one.targets is not None
        for value in one.targets.label_logprob_R.astype(float).tolist()
    )
    assert found == rows_of(A) + rows_of(B)


def test_weights_are_passes():
    found = Counter(
        value
        for one in batches(trainer.mix([(A, 2), (B, 0.5)]), epochs=2)
        if one.targets is not None
        for value in one.targets.label_logprob_R.astype(float).tolist()
    )
    four_times = Counter({value: 4 * count for value, count in rows_of(A).items()})
    assert found == four_times + rows_of(B)


def test_rows_of_fewer_entries_are_padded_and_count_as_they_did():
    widened = next(iter(B)).targets.widened(VOCAB)
    plain = next(iter(B)).targets
    assert widened.k == VOCAB
    assert (widened.count_R == plain.count_R).all()
    np.testing.assert_array_equal(widened.ids_RK[:, :5], plain.ids_RK)
    assert (widened.logprobs_RK[:, 5:] == EMPTY_TAIL).all()
    assert widened.used_RK().sum() == plain.used_RK().sum()


def test_the_loss_of_a_mixed_batch_is_that_of_its_documents():
    """Every row has its own teacher: sums over a mix are the sums of its stores."""
    model = tiny("llama").eval()
    sums = [Counter(), Counter()]
    for number, streams in enumerate(([trainer.mix([A, B])], [A, B])):
        for store in streams:
            for batch in trainer.training_batches(store, model=model, batch_tokens=64, epochs=1):
                with torch.no_grad():
                    result = trainer.distillation_loss(model, batch, alpha=0.7, loss="forward_kl")
                sums[number].update({name: float(one) for name, one in result.sums.items()})
                sums[number]["count"] += result.count
    assert sums[0]["count"] == sums[1]["count"] > 0
    for name, value in sums[1].items():
        assert sums[0][name] == pytest.approx(value, rel=1e-4), name


@pytest.mark.parametrize("weights", [(1, 1), (2, 0.5), (0.3, 1.2)])
def test_it_resumes_after_any_step(weights):
    mixed = trainer.mix(list(zip((A, B), weights, strict=True)))
    whole = take(batches(mixed), 4 * 14)
    for step in range(1, 12):
        first = batches(mixed)
        take(first, 4 * step)
        second = batches(trainer.mix(list(zip((A, B), weights, strict=True))))
        second.load_state_dict(json.loads(json.dumps(first.state_dict())))
        assert take(second, 8) == whole[4 * step : 4 * step + 8]


@pytest.mark.parametrize("bins", [2, 4])
def test_ranks_share_the_steps_of_one_process(bins):
    """Of two bins each has lanes of its own, of four one stream fills all."""
    mixed = trainer.mix([(A, 2), (MemoryStore(seed=2), 0.5)])
    settings = {"batch_tokens": 16 * bins}
    assert batches(mixed, **settings).packing.pooled == (bins == 4)
    alone = take(batches(mixed, **settings), 4 * bins)
    for ranks in (1, 2, 4)[: bins // 2 + 1]:
        parts = [
            take(batches(mixed, rank=rank, ranks=ranks, **settings), 4 * bins // ranks)
            for rank in range(ranks)
        ]
        together = [None] * (4 * bins)
        for rank, part in enumerate(parts):
            together[rank::ranks] = part
        assert together == alone


def test_it_does_not_matter_in_which_order_stores_are_given():
    one, other = trainer.mix([(A, 2), B]), trainer.mix([B, (A, 2)])
    assert one.fingerprint == other.fingerprint
    assert take(batches(one), 12) == take(batches(other), 12)
    assert one.fingerprint != trainer.mix([A, B]).fingerprint


def test_blocks_are_read_once_a_pass():
    one, other = MemoryStore(seed=1), MemoryStore(seed=2)
    for _ in batches(trainer.mix([one, (other, 2)]), epochs=1, batch_tokens=16):
        pass
    assert Counter(one.reads) == dict.fromkeys(range(12), 1)
    assert Counter(other.reads) == dict.fromkeys(range(12), 2)


def test_every_pass_reads_the_next_draw_of_each_store():
    """Also of stores with different numbers of them."""
    stores = [
        MemoryStore(seed=seed, sparsifier=sparsifier_spec("unbiased", k=6, repeats=repeats))
        for seed, repeats in ((1, 2), (2, 3))
    ]
    mixed = trainer.mix(stores)
    assert mixed.spec.sparsifier.draw_count == 6
    for draw in range(6):
        view = mixed.with_draw(draw)
        assert [one.store.draw for one in view.parts] == [draw % 2, draw % 3]
    with pytest.raises(StoreError, match="do not hold that draw"):
        mixed.with_draw(6)
    # The rows of a block in each draw, by pass.
    found = [
        one.targets.logprobs_RK.sum() for one in batches(mixed, epochs=2) if one.targets is not None
    ]
    expected = sum(
        one.targets.logprobs_RK.sum()
        for draw in range(2)
        for store in stores
        for one in store.with_draw(draw)
    )
    assert sum(found) == pytest.approx(expected, rel=1e-4)


def test_a_mix_is_a_store():
    mixed = trainer.mix([A, B])
    assert len(mixed) == len(A) + len(B) == len(list(mixed))
    assert mixed.targets == sum(one.targets for one in (*A.blocks, *B.blocks))
    assert mixed.spec.text.max_length == 12
    assert mixed.spec.sparsifier.k == VOCAB
    assert mixed.spec.teacher.name == "table"
    for number in range(len(mixed.blocks)):
        tokens_D, targets_D = mixed.document_lengths(number)
        block = mixed.read_block(number)
        counts = mixed.blocks[number]
        assert (len(block), len(block.targets)) == (counts.documents, counts.targets)
        assert (tokens_D.sum(), targets_D.sum()) == (counts.tokens, counts.targets)
    with pytest.raises(IndexError):
        mixed.read_block(len(mixed.blocks))
    assert pickle.loads(pickle.dumps(mixed)).fingerprint == mixed.fingerprint


def test_texts_end_as_those_of_any_of_the_teachers():
    one, other = MemoryStore(seed=1), MemoryStore(seed=2)
    one.spec.provenance = {"generation": {"eos_token_id": [3, 1], "top_p": 0.9, "do_sample": True}}
    other.spec.provenance = {"generation": {"eos_token_id": 2, "top_p": 0.8, "do_sample": True}}
    told = trainer.mix([one, other]).spec.provenance["generation"]
    assert told == {"eos_token_id": [1, 2, 3], "do_sample": True}


def test_windows_of_all_stores_fit_into_the_memory_of_one(monkeypatch):
    monkeypatch.setattr("trainer.data.order.BUDGET_BYTES", 40_000)
    settings = {"seed": 0, "batch_tokens": 64, "micro_tokens": 16, "window": None}
    big, small = MemoryStore(seed=1, blocks=64), MemoryStore(seed=2, blocks=8)

    def held(shuffle, store):
        sizes = [one.targets * VOCAB * 8 + one.tokens * 5 for one in store.blocks]
        return shuffle.lanes * shuffle.window * max(sizes)

    parts = plan_packing(trainer.mix([big, small]), **settings).shuffle.parts
    alone = plan_packing(big, **settings).shuffle
    assert [one.blocks for one in parts] == [64, 8]
    floors = [one.shuffle.lanes * 24 * 8 * 60 for one in parts]
    assert sum(held(one.shuffle, s) for one, s in zip(parts, (big, small), strict=True)) <= max(
        40_000, sum(floors)
    )
    assert all(one.shuffle.window <= alone.window for one in parts)
    given = plan_packing(trainer.mix([big, small]), **settings | {"window": 2}).shuffle.parts
    assert [one.shuffle.window for one in given] == [2, 2]


def other_store(**spec):
    store = MemoryStore(seed=9)
    for name, value in spec.items():
        setattr(store.spec, name, value)
    return store


UNLIKE = {
    "kind": (
        {"sparsifier": sparsifier_spec("hybrid", k=4, tail_draws=2)},
        SpecError,
        r"different kinds.*found hybrid; allowed: topk.*`logitstore convert STORE OUT --sparsify",
    ),
    "draws": (
        {"sparsifier": sparsifier_spec("unbiased", k=4)},
        SpecError,
        "different kinds.*Dump one of them again, with sparsify topk or",
    ),
    "nodes": (
        {"sparsifier": SparsifierSpec(name="topk", k=VOCAB, tail_nodes=(1.0, 0.5))},
        SpecError,
        r"temperatures of its tail: .*different temperatures.*found 1, 2; allowed: 1, 1\.33",
    ),
    "vocabulary": (
        {
            "tokenizer": SimpleNamespace(
                fingerprint="w" * 64, vocab_size=VOCAB + 1, bos_token_id=None, eos_token_id=0
            )
        },
        TokenizerError,
        "different size.*found 25; allowed: 24",
    ),
    "tokenizer": (
        {
            "tokenizer": SimpleNamespace(
                fingerprint="w" * 64, vocab_size=VOCAB, bos_token_id=None, eos_token_id=0
            )
        },
        TokenizerError,
        "ids do not mean the same for sure.*found wwwwwwwwwwww; allowed: vvvvvvvvvvvv",
    ),
    "answers": ({"labels_only": True}, SpecError, "answers and a store cannot be learnt from"),
    "spans": ({"spans": True}, SettingError, "stores in other tokens cannot be mixed"),
}


@pytest.mark.parametrize("case", UNLIKE)
def test_stores_that_do_not_fit_together_are_refused(case):
    spec, error, message = UNLIKE[case]
    with pytest.raises(error, match=message):
        trainer.mix([A, other_store(**spec)])


def test_kinds_that_losses_see_alike_are_mixed():
    """The sparsifier's own options and K do not matter: a head of given mass is a head."""
    topp = sparsifier_spec("topp", k=7, top_p=0.9)
    other = MemoryStore(seed=4, sparsifier=replace(topp, tail_nodes=NODES))
    assert trainer.mix([A, other]).spec.sparsifier.k == VOCAB


def test_a_store_without_targets_or_given_twice_is_refused():
    with pytest.raises(StoreError, match="no targets to learn from"):
        trainer.mix([A, MemoryStore(seed=7, longest=1)])
    with pytest.raises(SettingError, match=r"given twice.*the weight 3"):
        trainer.mix([A, (MemoryStore(seed=1), 2)])
    with pytest.raises(SettingError, match=r"several stores as one.*cannot be mixed"):
        trainer.mix([trainer.mix([A, B]), MemoryStore(seed=3)])
    with pytest.raises(SettingError, match="must be a list"):
        trainer.mix(A)
    with pytest.raises(SettingError, match="no store to learn from"):
        trainer.mix([])


def test_a_weight_too_small_for_an_epoch_is_refused():
    with pytest.raises(SettingError, match=r"leaves an epoch without documents.*Raise the weights"):
        batches(trainer.mix([(A, 0.001), B]))


class Sound(MemoryStore):
    """One that blocks can be left out of."""

    def without(self, damaged):
        left = Sound.__new__(Sound)
        left.__dict__ = dict(self.__dict__)
        gone = {one.number for one in damaged}
        kept = [number for number in range(len(self.blocks)) if number not in gone]
        left.blocks = tuple(self.blocks[number] for number in kept)
        left._blocks = [self._blocks[number] for number in kept]
        left.fingerprint = self.fingerprint if not gone else f"{self.fingerprint[:-2]}{len(gone)}f"
        return left


def test_damaged_blocks_are_left_out_of_the_store_that_they_are_of():
    one, other = Sound(seed=1, blocks=3), Sound(seed=2, blocks=2)
    mixed = trainer.mix([one, other])
    gone = (DamagedBlock(1, "x", "p"), DamagedBlock(3, "y", "p"))
    left = mixed.without(gone)
    assert [len(part.store.blocks) for part in left.parts] == [2, 1]
    assert left.damaged == gone
    assert left.blocks == (one.blocks[0], one.blocks[2], other.blocks[1])
    assert left.fingerprint != mixed.fingerprint
    with pytest.raises(CorruptionError, match="every block is damaged"):
        mixed.without((DamagedBlock(3, "y", "p"), DamagedBlock(4, "z", "p")))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("a", [("a", 1.0)]),
        ("a@2", [("a", 2.0)]),
        ("a@.5", [("a", 0.5)]),
        (["a@2", "b"], [("a", 2.0), ("b", 1.0)]),
        ([("a@2", 0.5)], [("a@2", 0.5)]),
        ("a@2@1", [("a@2", 1.0)]),
        ("s3://bucket/a@b", [("s3://bucket/a@b", 1.0)]),
        ("hf://datasets/o/n@v1.0", [("hf://datasets/o/n@v1.0", 1.0)]),
        ("hf://datasets/o/n@main@0.25", [("hf://datasets/o/n@main", 0.25)]),
        ("a@", [("a@", 1.0)]),
        ("a@2/b", [("a@2/b", 1.0)]),
        ("@2", [("@2", 1.0)]),
    ],
)
def test_a_name_may_end_in_a_weight(given, expected, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert [(one.store, one.weight) for one in sources_of(given)] == expected


def test_a_name_that_is_there_as_it_stands_has_no_weight(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a@2").mkdir()
    assert sources_of("a@2")[0].store == "a@2"
    (tmp_path / "a").mkdir()
    with pytest.raises(SettingError, match=r"Write a@2@1 for the one, a@2\.0 for the other"):
        sources_of("a@2")
    found = [sources_of(one)[0] for one in ("a@2@1", "a@2.0")]
    assert [(one.store, one.weight) for one in found] == [("a@2", 1.0), ("a", 2.0)]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("a@0", "weight is out of range"),
        ("a@1234567", "weight is out of range"),
        ([("a", "2")], "no store with its weight"),
        ([("a", 1, 2)], "no store with its weight"),
        ([2.0], "a store is an open store"),
        (("a", 2.0), "a store is an open store"),
        (["a", ""], "empty"),
        (["nothing://x"], "nothing"),
    ],
)
def test_what_is_no_store_or_no_weight_is_refused(given, message):
    with pytest.raises(SettingError, match=message):
        sources_of(given)


def test_far_stores_are_read_ahead_each_by_its_own_reader():
    told = []

    class Far:
        far = True

        def __init__(self, store):
            self.store = store

        def expect(self, number):
            told.append((self.store.fingerprint, number))

        def expect_lengths(self, number):
            told.append((self.store.fingerprint, "lengths", number))

        def document_lengths(self, number):
            return self.store.document_lengths(number)

        def read_block(self, number):
            return self.store.read_block(number)

    far = MemoryStore(seed=2)
    far.ahead = lambda: Far(far)
    mixed = trainer.mix([A, far])
    assert mixed.ahead().far
    for _ in batches(mixed, epochs=1):
        pass
    expected = [one[1] for one in told if len(one) == 2]
    assert {one[0] for one in told} == {far.fingerprint}
    assert sorted(expected) == list(range(12))
    assert any(len(one) == 3 for one in told)
