"""The order over several stores: every pass complete, evenly spread, resumable at any position."""

import json
from collections import Counter
from fractions import Fraction
from itertools import islice, pairwise
from math import ceil, floor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from logitstore.errors import SettingError
from trainer.data.order import Shuffle, interleave
from trainer.data.packing import Packing
from trainer.data.streams import (
    Mix,
    Part,
    order_from_json,
    order_to_json,
    refuse_empty_epochs,
    shares_of,
    stream_places,
)

A_B = np.array([3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3])
B_B = np.array([7, 7, 6, 7, 5, 7, 7, 8])
BOTH_B = np.concatenate([A_B, B_B])
FROZEN = [(13, 0), (22, 4), (14, 1), (5, 3), (20, 1), (4, 1), (10, 0), (14, 0)]


def mix(*weights, lanes=(4, 2), counts=(A_B, B_B)):
    return Mix(
        parts=tuple(
            Part(
                shuffle=Shuffle(fingerprint=name * 64, seed=0, lanes=own, window=2),
                weight=weight,
                blocks=len(count_B),
            )
            for name, weight, own, count_B in zip("ab", weights, lanes, counts, strict=True)
        )
    )


def documents(order, *, epoch=0, lanes=None, consumed=0, documents_B=BOTH_B):
    lanes = range(sum(one.shuffle.lanes for one in order.parts)) if lanes is None else lanes
    shares = shares_of(order, lanes=lanes, epoch=epoch, documents_B=documents_B)
    places = stream_places(shares, consumed=consumed)
    return [(place.block, place.document) for place in places]


def everything(documents_B=BOTH_B):
    return [(block, one) for block, count in enumerate(documents_B) for one in range(count)]


def test_one_store_has_the_order_that_it_has_alone():
    alone = Shuffle(fingerprint="a" * 64, seed=0, lanes=4, window=2)
    for epoch in range(3):
        shares = shares_of(alone, lanes=range(4), epoch=epoch, documents_B=A_B)
        for consumed in (0, 7, 80):
            found = list(stream_places(shares, consumed=consumed))
            assert found == list(
                interleave(alone, epoch=epoch, lanes=range(4), documents_B=A_B, consumed=consumed)
            )


def test_without_weights_an_epoch_has_every_document_once():
    for epoch in range(3):
        assert sorted(documents(mix(1, 1), epoch=epoch)) == everything()


@pytest.mark.parametrize("pooled", [True, False])
@pytest.mark.parametrize("weights", [(2, 1), (0.5, 1), (1.5, 0.3), (0.1, 3), (1, 0.7)])
def test_after_any_epoch_each_document_was_read_as_often_as_its_weight_says(weights, pooled):
    order = mix(*weights)
    streams = [range(6)] if pooled else [[0, 2, 4], [1, 3, 5]]
    seen = Counter()
    for epoch in range(12):
        for lanes in streams:
            seen.update(documents(order, epoch=epoch, lanes=lanes))
        for place in everything():
            passes = Fraction(str(weights[place[0] >= len(A_B)])) * (epoch + 1)
            assert floor(passes) <= seen[place] <= ceil(passes)


@pytest.mark.parametrize("weights", [(1, 1), (2, 1), (0.5, 1), (0.1, 3)])
def test_every_store_is_spread_evenly_over_an_epoch(weights):
    """Anywhere in an epoch a store has given its share, to within one document."""
    for epoch in range(3):
        found = [block >= len(A_B) for block, _ in documents(mix(*weights), epoch=epoch)]
        for number in (False, True):
            total = found.count(number)
            so_far = np.cumsum([one is number for one in found])
            expected = total * np.arange(1, len(found) + 1) / len(found)
            assert np.abs(so_far - expected).max() <= 1


def test_a_store_of_one_block_is_spread_over_all_of_another():
    """A permutation of blocks would put its documents into one place of the epoch."""
    big_B, small_B = np.full(400, 20), np.array([80])
    order = mix(1, 1, lanes=(64, 1), counts=(big_B, small_B))
    found = documents(order, documents_B=np.concatenate([big_B, small_B]))
    at = [number for number, (block, _) in enumerate(found) if block == 400]
    assert len(at) == 80
    assert {later - earlier for earlier, later in pairwise(at)} == {101}


@given(
    st.lists(st.integers(1, 6), min_size=1, max_size=9),
    st.lists(st.integers(1, 6), min_size=1, max_size=9),
    st.sampled_from([0.25, 0.3, 1, 2, 2.5]),
    st.integers(0, 4),
    st.data(),
)
def test_it_starts_again_at_any_position(one, other, weight, epoch, data):
    counts = (np.array(one), np.array(other))
    both_B = np.concatenate(counts)
    order = mix(weight, 1, lanes=(2, 1), counts=counts)
    whole = documents(order, epoch=epoch, documents_B=both_B)
    consumed = data.draw(st.integers(0, len(whole)))
    rest = documents(order, epoch=epoch, documents_B=both_B, consumed=consumed)
    assert rest == whole[consumed:]


def test_streams_share_the_lanes_of_every_store():
    plan = Packing(shuffle=mix(1, 1), bins=2, bin_tokens=32)
    assert plan.streams == [[0, 2, 4], [1, 3, 5]]
    assert sum(plan.stream_documents(BOTH_B, epoch=0)) == len(everything())
    assert (
        sorted(one for lanes in plan.streams for one in documents(plan.shuffle, lanes=lanes))
        == everything()
    )
    pooled = Packing(shuffle=mix(1, 1), bins=4, bin_tokens=32)  # the second has two lanes
    assert pooled.streams == [[0, 1, 2, 3, 4, 5]]


def test_the_lanes_and_blocks_of_a_later_store_are_numbered_behind_those_of_an_earlier():
    shares = shares_of(mix(1, 1), lanes=range(6), epoch=0, documents_B=BOTH_B)
    for place in stream_places(shares):
        assert (place.lane >= 4) == (place.block >= len(A_B))
        assert place.document < BOTH_B[place.block]
    assert [len(one.blocks()) for one in shares] == [4, 2]
    assert sorted(np.concatenate(shares[1].blocks())) == list(range(16, 24))


def test_a_pass_is_that_of_the_store_and_not_of_the_epoch():
    """So that each pass reads the next draw of a store that holds several."""
    shares = shares_of(mix(2, 0.5), lanes=range(6), epoch=3, documents_B=BOTH_B)
    places = list(stream_places(shares))
    assert {one.epoch for one in places if one.block < 16} == {6, 7}
    assert {one.epoch for one in places if one.block >= 16} == {1}


def test_the_order_is_frozen():
    """If this fails, runs made before can no longer be resumed."""
    assert list(islice(documents(mix(1.5, 1), epoch=3), 8)) == FROZEN
    assert mix(2, 0.5).fingerprint == mix(2.0, 0.5).fingerprint
    assert mix(2, 0.5).fingerprint[:12] == "a29360bd7382"


def test_the_fingerprint_tells_stores_and_weights():
    found = {mix(*weights).fingerprint for weights in ((1, 1), (2, 1), (1, 2))}
    assert len(found) == 3


@pytest.mark.parametrize("order", [mix(2, 0.1), mix(1, 1).parts[0].shuffle])
def test_an_order_survives_json(order):
    assert order_from_json(json.loads(json.dumps(order_to_json(order)))) == order


@pytest.mark.parametrize("content", [{"parts": []}, {"parts": [{}]}, {"parts": [1], "seed": 2}])
def test_an_order_that_cannot_be_is_refused(content):
    with pytest.raises(SettingError):
        Packing.from_json({"shuffle": content, "bins": 1, "bin_tokens": 32})


@pytest.mark.parametrize("weight", [0, -1, 1001, float("nan"), "2"])
def test_weights_out_of_range_are_refused(weight):
    with pytest.raises(SettingError, match="weight"):
        mix(weight, 1)


def test_a_weight_that_leaves_an_epoch_without_a_document_is_refused():
    parts = mix(0.01, 1).parts
    with pytest.raises(SettingError, match=r"an epoch without documents.*found 0\.01 of 80.*0\.05"):
        refuse_empty_epochs(parts, documents=(80, 54), streams=4, names="ab")
    refuse_empty_epochs(mix(0.05, 1).parts, documents=(80, 54), streams=4, names="ab")
    order = mix(0.05, 1, lanes=(4, 4))
    for epoch in range(40):
        found = [documents(order, epoch=epoch, lanes=[one, one + 4]) for one in range(4)]
        assert any(block < len(A_B) for stream in found for block, _ in stream)


def test_an_order_of_other_stores_is_refused():
    with pytest.raises(SettingError, match="the order is of other stores"):
        documents(mix(1, 1), documents_B=A_B)
