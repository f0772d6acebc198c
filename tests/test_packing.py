"""Packing: whole documents in bins of C tokens, S bins a step, the same for any number of ranks."""

import json

import numpy as np
import pytest

from logitstore.errors import SettingError
from logitstore.format.blocks import BlockCounts
from tests.memory_store import MemoryStore
from trainer.data.order import Shuffle
from trainer.data.packing import (
    Lengths,
    Packing,
    Position,
    choose_packing,
    steps,
    steps_of_epoch,
)
from trainer.data.streams import Mix, Part, shares_of, stream_documents, stream_places


def packing(*, bins=2, bin_tokens=32, lanes=4, window=2, seed=0):
    shuffle = Shuffle(fingerprint="f" * 64, seed=seed, lanes=lanes, window=window)
    return Packing(shuffle=shuffle, bins=bins, bin_tokens=bin_tokens)


def epoch(store, plan, *, number=0):
    return list(steps(plan, Lengths(store), start=Position.start(plan, epoch=number)))


def documents_of(step):
    return [(place.block, place.document) for one in step.bins for place in one.places]


@pytest.mark.parametrize(("bins", "lanes"), [(1, 4), (2, 4), (4, 4), (3, 4), (8, 4)])
def test_every_document_is_in_one_bin_and_no_bin_overflows(bins, lanes):
    store = MemoryStore()
    seen = []
    for step in epoch(store, packing(bins=bins, lanes=lanes)):
        assert len(step.bins) == bins
        assert step.targets == sum(one.targets for one in step.bins)
        for one in step.bins:
            lengths = [store.document_lengths(p.block)[0][p.document] for p in one.places]
            targets = [store.document_lengths(p.block)[1][p.document] for p in one.places]
            assert (one.tokens, one.targets) == (sum(lengths), sum(targets))
            assert one.tokens <= 32
        seen += documents_of(step)
    assert sorted(seen) == [(b, d) for b in range(12) for d in range(5)]


def test_a_slot_owns_its_lanes_where_there_are_enough_and_else_all_share_one_stream():
    assert packing(bins=2, lanes=4).streams == [[0, 2], [1, 3]]
    assert packing(bins=8, lanes=4).streams == [[0, 1, 2, 3]]
    assert packing(bins=3, lanes=4).streams == [[0, 1, 2, 3]]
    for step in epoch(MemoryStore(), packing(bins=2, lanes=4)):
        for slot, one in enumerate(step.bins):
            assert {place.lane % 2 for place in one.places} <= {slot}


@pytest.mark.parametrize("bins", [2, 8])
def test_it_goes_on_from_the_position_of_any_step(bins):
    store, plan = MemoryStore(), packing(bins=bins)
    whole = epoch(store, plan)
    for number, step in enumerate(whole[:-1]):
        position = Position.from_json(
            json.loads(json.dumps(step.after.to_json())),
            packing=plan,
            documents_B=Lengths(store).documents_B,
        )
        rest = list(steps(plan, Lengths(store), start=position))
        assert [documents_of(one) for one in rest] == [
            documents_of(one) for one in whole[number + 1 :]
        ]
    assert whole[-1].after == Position.start(plan, epoch=1)


def test_epochs_differ_and_repeat():
    store, plan = MemoryStore(), packing()
    first, second = epoch(store, plan), epoch(store, plan, number=1)
    assert [documents_of(one) for one in epoch(store, plan)] == [documents_of(o) for o in first]
    assert [documents_of(one) for one in second] != [documents_of(one) for one in first]


def test_a_packing_survives_json():
    plan = packing()
    assert Packing.from_json(json.loads(json.dumps(plan.to_json()))) == plan


@pytest.mark.parametrize(
    ("batch_tokens", "max_length", "micro_tokens", "expected"),
    [
        (16384, 512, None, (4, 4096)),
        (16384, 8192, None, (2, 8192)),
        (100, 512, None, (1, 512)),
        (5000, 512, None, (2, 2500)),
        (16384, 512, 512, (32, 512)),
    ],
)
def test_bins_and_their_size(batch_tokens, max_length, micro_tokens, expected):
    shuffle = Shuffle(fingerprint="f", seed=0, lanes=1, window=1)
    plan = choose_packing(
        shuffle=shuffle,
        max_length=max_length,
        batch_tokens=batch_tokens,
        micro_tokens=micro_tokens,
    )
    assert (plan.bins, plan.bin_tokens) == expected


@pytest.mark.parametrize(
    ("batch_tokens", "micro_tokens", "message"),
    [(16384, 100, "^micro_tokens: .*found 100"), (0, None, "^batch_tokens")],
)
def test_sizes_that_cannot_be_are_refused(batch_tokens, micro_tokens, message):
    shuffle = Shuffle(fingerprint="f", seed=0, lanes=1, window=1)
    with pytest.raises(SettingError, match=message):
        choose_packing(
            shuffle=shuffle, max_length=512, batch_tokens=batch_tokens, micro_tokens=micro_tokens
        )


def test_a_document_longer_than_a_bin_is_refused():
    with pytest.raises(SettingError, match="micro_tokens"):
        epoch(MemoryStore(), packing(bin_tokens=8))


def test_ranks_share_the_bins_or_are_told_how():
    assert packing(bins=4).bins_of_a_rank(2) == 2
    with pytest.raises(SettingError, match="micro_tokens"):
        packing(bins=4).bins_of_a_rank(3)


def test_lengths_are_read_once_a_block():
    store = MemoryStore(blocks=2)
    asked = []
    read = store.document_lengths
    store.document_lengths = lambda block: asked.append(block) or read(block)
    lengths = Lengths(store)
    for _ in range(3):
        tokens_D, targets_D = lengths.of(1)
    assert asked == [1]
    assert tokens_D.dtype == targets_D.dtype == np.int32


@pytest.mark.parametrize(
    "change", [{"bins": 0}, {"bins": "4"}, {"bin_tokens": -1}, {"shuffle": {}}, {"more": 1}]
)
def test_a_packing_that_cannot_be_is_refused(change):
    with pytest.raises(SettingError):
        Packing.from_json(packing().to_json() | change)


class Sized:
    """As much of a store as packing reads: lengths at random, some of them 0."""

    def __init__(self, *, blocks, seed):
        draw = np.random.default_rng(seed)
        counts = draw.integers(0, 9, blocks)
        self._lengths = [draw.integers(0, 13, count) for count in counts]
        self.blocks = [
            BlockCounts(documents=len(one), tokens=int(one.sum()), targets=0)
            for one in self._lengths
        ]

    def document_lengths(self, number):
        return self._lengths[number], self._lengths[number] // 2


def shuffle_of(*, lanes, window, seed=0):
    return Shuffle(fingerprint=f"{seed:x}", seed=seed, lanes=lanes, window=window)


ORDERS = {
    "one": shuffle_of(lanes=4, window=3),
    "few lanes": shuffle_of(lanes=1, window=40),
    "several": Mix(
        parts=(
            Part(shuffle=shuffle_of(lanes=4, window=2), weight=1.5, blocks=30),
            Part(shuffle=shuffle_of(lanes=2, window=1, seed=1), weight=0.3, blocks=10),
        )
    ),
}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("bins", [1, 2, 4])
def test_order_and_steps_that_are_found_at_once_are_those_of_the_walk(order, bins):
    store = Sized(blocks=40, seed=bins)
    lengths = Lengths(store)
    plan = Packing(shuffle=ORDERS[order], bins=bins, bin_tokens=17)
    first_B = np.cumsum(lengths.documents_B) - lengths.documents_B
    for epoch in range(4):
        for lanes in plan.streams:
            shares = shares_of(
                plan.shuffle, lanes=lanes, epoch=epoch, documents_B=lengths.documents_B
            )
            walked = [first_B[place.block] + place.document for place in stream_places(shares)]
            assert stream_documents(shares).tolist() == walked
        walk = list(steps(plan, lengths, start=Position.start(plan, epoch=epoch)))
        assert len(walk) > 5
        assert steps_of_epoch(plan, lengths, epoch=epoch) == len(walk)


def test_a_document_longer_than_a_bin_is_refused_where_steps_are_counted():
    store = Sized(blocks=4, seed=0)
    plan = Packing(shuffle=ORDERS["one"], bins=1, bin_tokens=11)
    with pytest.raises(SettingError, match=r"does not fit into one forward pass.*12 tokens"):
        steps_of_epoch(plan, Lengths(store), epoch=0)


def test_a_position_in_ten_million_documents_asks_for_what_the_first_steps_need_alone():
    counts = BlockCounts(documents=100, tokens=800, targets=400)

    class Large:
        blocks = (counts,) * 100_000
        asked = 0

        def document_lengths(self, number):
            self.asked += 1
            return np.full(100, 8), np.full(100, 4)

    store = Large()
    lengths = Lengths(store)
    plan = Packing(
        shuffle=Shuffle(fingerprint="f", seed=0, lanes=64, window=8), bins=4, bin_tokens=256
    )
    for epoch, share in ((0, 0.0), (0, 0.37), (3, 0.999)):
        store.asked, sizes = 0, plan.stream_documents(lengths.documents_B, epoch=epoch)
        assert sum(sizes) == 10_000_000
        start = Position(epoch=epoch, step=0, consumed=tuple(int(share * one) for one in sizes))
        step = next(iter(steps(plan, lengths, start=start)))
        assert len(documents_of(step)) == 4 * 32
        assert store.asked <= 4 * 33  # one more of each stream is looked at
