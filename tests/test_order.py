"""The order of documents: complete, repeatable, resumable at any position, well mixed."""

from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from logitstore.errors import SettingError
from trainer.data.order import Shuffle, deal, default_window, interleave, lane_count, taken

DOCUMENTS_B = np.array([3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3, 2])

FROZEN_DEAL = [[3, 5], [2, 4], [1, 7], [6, 0]]
FROZEN_DOCUMENTS = [(8, 0), (3, 0), (2, 2), (12, 2), (8, 4), (6, 0)]


def shuffle(**changes):
    return Shuffle(**{"fingerprint": "f" * 64, "seed": 0, "lanes": 4, "window": 2} | changes)


def documents(order, *, epoch=0, lanes=None, documents_B=DOCUMENTS_B, consumed=0):
    lanes = range(order.lanes) if lanes is None else lanes
    places = interleave(order, epoch=epoch, lanes=lanes, documents_B=documents_B, consumed=consumed)
    return [(place.block, place.document) for place in places]


@pytest.mark.parametrize(
    ("blocks", "lanes"), [(0, 1), (1, 1), (7, 1), (8, 2), (100, 16), (256, 64), (10**6, 64)]
)
def test_lanes_are_a_power_of_two_with_four_blocks_each(blocks, lanes):
    assert lane_count(blocks) == lanes


def test_the_window_fills_the_budget_but_never_exceeds_a_lane():
    assert default_window(blocks=1000, lanes=4, block_bytes=10, budget_bytes=200) == 5
    assert default_window(blocks=1000, lanes=4, block_bytes=10, budget_bytes=1) == 1
    assert default_window(blocks=9, lanes=4, block_bytes=10, budget_bytes=10**9) == 3


@pytest.mark.parametrize("name", ["lanes", "window"])
def test_a_shuffle_without_lanes_or_window_is_refused(name):
    with pytest.raises(SettingError, match=name):
        shuffle(**{name: 0})


@given(
    st.lists(st.integers(0, 6), min_size=1, max_size=20),
    st.sampled_from([1, 2, 4]),
    st.integers(1, 5),
)
def test_every_document_comes_exactly_once_an_epoch(counts, lanes, window):
    seen = documents(shuffle(lanes=lanes, window=window), documents_B=np.array(counts))
    everything = [(block, index) for block, count in enumerate(counts) for index in range(count)]
    assert sorted(seen) == everything


def test_it_starts_again_at_any_position():
    whole = documents(shuffle())
    for consumed in range(len(whole) + 1):
        assert documents(shuffle(), consumed=consumed) == whole[consumed:]


@given(st.lists(st.integers(0, 9), min_size=1, max_size=6), st.data())
def test_what_was_taken_follows_from_one_number(sizes, data):
    consumed = data.draw(st.integers(0, sum(sizes)))
    turns = [(turn, lane) for lane, size in enumerate(sizes) for turn in range(size)]
    served = [lane for _, lane in sorted(turns)[:consumed]]
    assert taken(consumed, sizes) == [served.count(lane) for lane in range(len(sizes))]


def test_each_number_changes_the_order():
    plain = documents(shuffle())
    assert documents(shuffle()) == plain
    for other in (
        documents(shuffle(), epoch=1),
        documents(shuffle(seed=1)),
        documents(shuffle(fingerprint="e" * 64)),
        documents(shuffle(window=3)),
        documents(shuffle(lanes=2)),
    ):
        assert other != plain
        assert sorted(other) == sorted(plain)


def test_the_order_is_frozen():
    """If this fails, runs made before can no longer be resumed: give the shuffle another name."""
    assert [blocks.tolist() for blocks in deal(shuffle(), epoch=3, blocks=8)] == FROZEN_DEAL
    assert documents(shuffle(), epoch=3)[:6] == FROZEN_DOCUMENTS


def test_a_lane_keeps_its_documents_whoever_reads_it():
    alone = [documents(shuffle(), lanes=[lane]) for lane in range(4)]
    together = interleave(shuffle(), epoch=0, lanes=range(4), documents_B=DOCUMENTS_B)
    dealt = {lane: [] for lane in range(4)}
    for place in together:
        dealt[place.lane].append((place.block, place.document))
    assert list(dealt.values()) == alone


def test_only_blocks_of_one_window_a_lane_are_open_at_a_time():
    order = shuffle(lanes=2, window=3)
    open_blocks = {0: set(), 1: set()}
    window = {0: 0, 1: 0}
    for place in interleave(order, epoch=0, lanes=range(2), documents_B=DOCUMENTS_B):
        assert place.window in (window[place.lane], window[place.lane] + 1)
        if place.window != window[place.lane]:
            window[place.lane] = place.window
            open_blocks[place.lane] = set()
        open_blocks[place.lane].add(place.block)
        assert len(open_blocks[place.lane]) <= 3


def test_small_blocks_in_windows_mix_nearly_as_well_as_a_permutation():
    """100 sources of 5 blocks each: how many of them do the first 200 documents touch?"""
    documents_B = np.full(500, 20)
    order = shuffle(lanes=lane_count(500), window=2)
    first = islice(documents(order, documents_B=documents_B), 200)
    sources = {block // 5 for block, _ in first}
    # A permutation of all 10,000 documents touches 100 (1 - 0.99^200) = 87 sources on average.
    assert len(sources) > 55
