"""The stream of batches: complete, resumable, the same for any number of ranks, read once."""

import json
import threading
import time
from functools import partial
from itertools import islice
from types import SimpleNamespace

import numpy as np
import pytest

from logitstore.errors import CorruptionError, SettingError, StoreError
from logitstore.sparsify.build import sparsifier_spec
from logitstore.store.ahead import ReadAhead
from tests.memory_store import MemoryStore
from trainer.data.batches import Batches, count_steps
from trainer.data.order import Shuffle
from trainer.data.packing import Lengths, Packing
from trainer.data.rows import RowLayout
from trainer.training.batching import draw_of_epoch


def packing(*, bins=4, lanes=4, window=2, bin_tokens=24):
    shuffle = Shuffle(fingerprint="f" * 64, seed=0, lanes=lanes, window=window)
    return Packing(shuffle=shuffle, bins=bins, bin_tokens=bin_tokens)


def stream(store, *, plan=None, rank=0, ranks=1, temperature=1.0):
    return Batches(
        store,
        packing=plan or packing(),
        lengths=Lengths(store),
        layout=RowLayout.ROWS,
        draw_of_epoch=partial(draw_of_epoch, store.spec.sparsifier, temperature),
        temperature=temperature,
        rank=rank,
        ranks=ranks,
    )


def take(batches, count):
    """What the next `count` batches hold, comparably."""
    iterator = iter(batches)
    content = [_content(batch) for batch in islice(iterator, count)]
    iterator.close()
    return content


def _content(batch):
    return (
        batch.input_ids_BW.tolist(),
        batch.labels_R.tolist(),
        [] if batch.targets is None else batch.targets.logprobs_RK.tolist(),
        batch.step_targets,
    )


@pytest.mark.parametrize("lanes", [1, 4])
def test_ranks_share_the_bins_of_one_process(lanes):
    store = MemoryStore()
    plan = packing(lanes=lanes)
    per_epoch = count_steps(plan, Lengths(store), epochs=1)
    alone = take(stream(store, plan=plan), 4 * per_epoch)
    for ranks in (2, 4):
        parts = [
            take(stream(store, plan=plan, rank=rank, ranks=ranks), 4 * per_epoch // ranks)
            for rank in range(ranks)
        ]
        share = 4 // ranks
        for step in range(per_epoch):
            together = [None] * 4
            for rank, part in enumerate(parts):
                together[rank::ranks] = part[step * share : (step + 1) * share]
            assert together == alone[4 * step : 4 * step + 4]


def test_a_rank_reads_only_its_own_lanes_and_each_block_once():
    store = MemoryStore()
    plan = packing()
    steps = count_steps(plan, Lengths(store), epochs=1)
    reads = []
    for rank in range(2):
        store.reads.clear()
        produced = stream(store, plan=plan, rank=rank, ranks=2)._produce(
            stream(store, plan=plan).position
        )
        for _ in islice(produced, 2 * steps):
            pass
        reads += store.reads
    assert sorted(reads) == list(range(12))


def test_it_resumes_after_any_step_whatever_was_made_ahead():
    store = MemoryStore()
    whole = take(stream(store), 4 * 12)
    for step in range(1, 10):
        first = stream(store)
        assert take(first, 4 * step) == whole[: 4 * step]
        state = json.loads(json.dumps(first.state_dict()))
        second = stream(store)
        second.load_state_dict(state)
        assert take(second, 12) == whole[4 * step : 4 * step + 12]


def test_in_the_middle_of_a_step_nothing_of_it_counts_as_consumed():
    one = stream(MemoryStore())
    take(one, 3)
    start = {"epoch": 0, "step": 0, "consumed": [0, 0, 0, 0]}
    assert one.state_dict() == start | {"packing": packing().to_json()}
    take(one, 4)
    assert one.state_dict()["step"] == 1


def test_resuming_reads_no_more_than_the_open_windows():
    store = MemoryStore(blocks=64)
    plan = packing(lanes=4, window=2)
    steps = count_steps(plan, Lengths(store), epochs=1)
    first = stream(store, plan=plan)
    take(first, 4 * (steps // 2))
    store.reads.clear()
    second = stream(store, plan=plan)
    second.load_state_dict(first.state_dict())
    next(second._produce(second.position))
    # The first bin is filled from one lane of four, whose window has two blocks.
    assert len(set(store.reads)) <= 2


def test_the_denominator_counts_the_whole_step():
    store = MemoryStore()
    batches = list(islice(stream(store)._produce(stream(store).position), 40))
    for start in range(0, 40, 4):
        step = [batch for batch, _ in batches[start : start + 4]]
        assert {batch.step_targets for batch in step} == {sum(len(b.labels_R) for b in step)}


def test_epochs_follow_each_other_with_every_document():
    store = MemoryStore()
    steps = [count_steps(packing(), Lengths(store), epochs=number) for number in (1, 2)]
    tokens = sum(one.targets for one in store.blocks)
    content = take(stream(store), 4 * steps[1])
    for epoch in (content[: 4 * steps[0]], content[4 * steps[0] :]):
        assert sum(len(labels) for _, labels, _, _ in epoch) == tokens
    assert content[: 4 * steps[0]] != content[4 * steps[0] :]


DRAWS = sparsifier_spec("sample", draws=6, temperatures=(1.0, 2.0), repeats=2)


def test_each_epoch_reads_the_next_draw_of_the_temperature_and_nothing_else_changes():
    """Four epochs, of draws 2, 3, 2, 3; documents and their order are those of a top-k store."""
    store = MemoryStore(sparsifier=DRAWS)
    ends = [4 * count_steps(packing(), Lengths(store), epochs=number) for number in range(5)]
    found = take(stream(store, temperature=2.0), ends[-1])
    plain = take(stream(MemoryStore()), ends[-1])
    assert [one[:2] + one[3:] for one in found] == [one[:2] + one[3:] for one in plain]
    one_draw = {}
    for draw in (2, 3):
        only = stream(store)
        only._draw_of_epoch = lambda _, draw=draw: draw
        one_draw[draw] = take(only, ends[-1])
    assert one_draw[2] != one_draw[3]
    for epoch in range(4):
        part = slice(ends[epoch], ends[epoch + 1])
        assert found[part] == one_draw[2 + epoch % 2][part]


def test_a_resumed_stream_reads_the_draw_of_its_epoch():
    store = MemoryStore(sparsifier=DRAWS)
    one = 4 * count_steps(packing(), Lengths(store), epochs=1)
    whole = take(stream(store), 2 * one)
    for done in (one - 4, one, one + 8):  # before, at and behind the end of the first epoch
        first = stream(store)
        take(first, done)
        second = stream(store)
        second.load_state_dict(json.loads(json.dumps(first.state_dict())))
        assert take(second, 2 * one - done) == whole[done:]


class BegunStore(MemoryStore):
    """The same store, of which two threads read the blocks that are needed at once."""

    layout = SimpleNamespace(storage=None)

    def __init__(self, **given):
        super().__init__(**given)
        self.begun = []

    def ahead(self):
        store, reader = self, ReadAhead(self)
        begin = reader.begin

        def noted(number):
            store.begun.append(number)
            begin(number)

        reader.begin = noted
        return reader

    def read_block(self, number, *, fetched=None):
        return super().read_block(number)


@pytest.mark.parametrize("lanes", [1, 4, 8])
@pytest.mark.parametrize("window", [1, 2])
def test_blocks_that_two_threads_read_give_the_same_batches_each_read_once(lanes, window):
    plain, begun = MemoryStore(blocks=32), BegunStore(blocks=32)
    plan = packing(bins=1, lanes=lanes, window=window, bin_tokens=60)
    whole = _epoch(stream(plain, plan=plan))
    assert sorted(plain.reads) == list(range(32))
    for done in range(0, len(whole), 1 + len(whole) // 5):
        begun.reads.clear()
        batches = stream(begun, plan=plan)
        if done:
            batches.load_state_dict(whole[done - 1].after)
        found = _epoch(batches)
        assert [_content(one) for one in found] == [_content(one) for one in whole[done:]]
        assert [one.after for one in found] == [one.after for one in whole[done:]]
        assert len(set(begun.reads)) == len(begun.reads)
    assert bool(begun.begun) == (lanes * window > 1)


def _epoch(batches):
    """The batches that are left of the first epoch."""
    found = []
    for batch, after in batches._produce(batches.position):
        found.append(batch)
        if after is not None and after.epoch:
            break
    return found


@pytest.mark.parametrize("window", [1, 2])
def test_no_more_blocks_are_begun_than_the_windows_hold(window):
    store = BegunStore(blocks=32)
    plan = packing(bins=1, lanes=4, window=window, bin_tokens=1000)  # a bin needs many windows
    next(stream(store, plan=plan)._produce(stream(store, plan=plan).position))
    assert len(set(store.reads)) > 4 * window
    assert 1 < len(set(store.begun)) <= 4 * window


def test_the_first_damaged_block_of_a_batch_is_the_one_that_is_named():
    plan = packing(bins=1, lanes=8, window=1, bin_tokens=60)
    sound = MemoryStore(blocks=32)
    next(stream(sound, plan=plan)._produce(stream(sound, plan=plan).position))
    broken = sound.reads[2:5]
    for kind in (MemoryStore, BegunStore):
        store = kind(blocks=32)
        read = store._read
        store._read = partial(_or_damaged, read, broken)
        with pytest.raises(CorruptionError, match=f"^block {broken[0]}: a bit flipped$"):
            next(iter(stream(store, plan=plan)))


def _or_damaged(read, broken, number):
    if number in broken:
        raise CorruptionError("a bit flipped", place=f"block {number}")
    return read(number)


def test_an_error_of_the_reading_thread_arrives_and_the_thread_ends():
    store = MemoryStore()

    def broken(number):
        raise CorruptionError("a bit flipped", place=f"block {number}")

    store.read_block = broken
    with pytest.raises(CorruptionError, match="a bit flipped"):
        next(iter(stream(store)))
    assert not [one for one in threading.enumerate() if one.name == "batches"]


def test_the_thread_stops_when_nobody_wants_more():
    iterator = iter(stream(MemoryStore()))
    next(iterator)
    iterator.close()
    time.sleep(0)
    assert not [one for one in threading.enumerate() if one.name == "batches"]


def test_a_store_without_targets_is_refused():
    store = MemoryStore(longest=1)
    assert np.sum([one.targets for one in store.blocks]) == 0
    with pytest.raises(StoreError, match="no targets"):
        stream(store)


def test_bins_that_ranks_cannot_share_are_refused():
    with pytest.raises(SettingError, match="micro_tokens"):
        stream(MemoryStore(), ranks=3)
