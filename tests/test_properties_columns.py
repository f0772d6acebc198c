"""Any targets through their codec, any integers back, any columns through both containers."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from logitstore.codec import FIDELITIES, new_codec
from logitstore.codec.integers import from_steps, whole_steps
from logitstore.errors import CorruptionError
from logitstore.format.columns import Columns
from logitstore.format.manifest import BlockCounts, StoredObject
from logitstore.sparsify import SPARSIFIERS
from logitstore.sparsify.build import sparsifier_spec
from logitstore.store.containers import CONTAINERS, load_container
from logitstore.store.containers.limits import ShardLimits
from logitstore.targets.documents import DocumentBlock
from tests.fuzzed import CHOICES, told
from tests.sparsifier_settings import small
from tests.synthetic import stored_documents
from tools.dict_storage import DictStorage
from tools.fuzzing.byte_changes import changed_bytes
from tools.fuzzing.choices import Choices
from tools.fuzzing.column_changes import changed_columns

V = 12
LENGTHS = [5, 2, 4]  # tokens of the documents
ROWS = sum(LENGTHS) - len(LENGTHS)
NAMES = sorted(SPARSIFIERS)
U32 = (1 << 32) - 1
FLOAT32 = 2e-5


def _block(name: str, logits_RV: np.ndarray) -> tuple[Any, DocumentBlock]:
    """The sparsifier's spec, and a block of its targets."""
    spec = sparsifier_spec(name, **small(name, vocab_size=V))
    block = DocumentBlock.join(stored_documents(LENGTHS, k=2, vocab_size=V))
    labels_R = torch.from_numpy(block.input_ids_N[block.counted_N].astype(np.int64))
    keys_R = np.arange(ROWS, dtype=np.uint64)
    draws = SPARSIFIERS[name].draw(torch.from_numpy(logits_RV), labels_R, keys_R, spec)
    return spec, replace(block, targets=draws[0], other_draws=draws[1:])


# From uniform to one-hot, ties and all.
LOGITS = arrays(np.float32, (ROWS, V), elements=st.floats(-60, 60, width=32), fill=st.just(0.0))


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=25)
@given(LOGITS, st.sampled_from(FIDELITIES))
def test_any_targets_come_back_with_their_ids_and_within_a_step(
    name: str, logits_RV: np.ndarray, fidelity: str
) -> None:
    spec, before = _block(name, logits_RV)
    codec = new_codec(spec, vocab_size=V, fidelity=fidelity)
    tables = codec.tables([before])
    codec.check_tables(tables)
    after = codec.decode(codec.encode(before, tables), tables)
    assert after.ids == before.ids
    assert np.array_equal(after.input_ids_N, before.input_ids_N)
    found, wanted = after.targets, before.targets
    assert np.array_equal(found.count_R, wanted.count_R)
    for row, count in enumerate(wanted.count_R):
        mine, theirs = (
            {*zip(one.ids_RK[row, :count], one.sampled_RK[row, :count], strict=True)}
            for one in (found, wanted)
        )
        assert mine == theirs
    step = codec.stated_drawn_kl + FLOAT32
    np.testing.assert_allclose(found.label_logprob_R, wanted.label_logprob_R, atol=step, rtol=1e-5)
    np.testing.assert_allclose(found.entropy_R, wanted.entropy_R, atol=step, rtol=1e-5)
    if wanted.kind.weights_sum_to_one:
        np.testing.assert_allclose(found.weights_RK.sum(axis=1), 1, atol=1e-5)


@given(
    arrays(np.float32, 6, elements=st.floats(-10, 1000, width=32)), st.sampled_from([1, 24, 8192])
)
def test_steps_are_within_half_a_step(value_R: np.ndarray, steps: int) -> None:
    whole_R, problem = told(lambda: whole_steps(value_R, steps, what="x"))
    if problem is not None:
        assert value_R.max() * steps > 1 << 23
        return
    wanted_R = np.maximum(value_R, 0)
    np.testing.assert_allclose(from_steps(whole_R, steps), wanted_R, atol=0.5001 / steps, rtol=1e-6)


@pytest.mark.parametrize("name", NAMES)
@given(choices=CHOICES)
def test_any_integers_are_refused_or_targets_within_bounds(name: str, choices: Choices) -> None:
    spec, block = _block(name, np.zeros((ROWS, V), dtype=np.float32))
    codec = new_codec(spec, vocab_size=V)
    tables = codec.tables([block])
    columns = changed_columns(codec.encode(block, tables), choices)
    try:
        found = codec.decode(columns, tables).targets
    except CorruptionError:
        return
    assert int(found.ids_RK.max(initial=0)) < V
    assert int(found.count_R.min(initial=1)) >= 1
    assert int(found.count_R.max(initial=1)) <= spec.k


# --- containers -----------------------------------------------------------------------------------


@st.composite
def _columns(draw: Any, entries: tuple[str, ...], scalars: tuple[str, ...], k: int) -> Columns:
    """A block of one to three documents, with any integers."""
    tokens_D = np.array(draw(st.lists(st.integers(1, 5), min_size=1, max_size=3)))
    targets_D = np.array([draw(st.integers(1, one)) for one in tokens_D])
    rows, tokens = int(targets_D.sum()), int(tokens_D.sum())
    u32, u63 = st.integers(0, U32), st.integers(0, (1 << 63) - 1)
    documents_DC = draw(arrays(np.uint64, (len(tokens_D), 6), elements=u63))
    documents_DC[:, 4], documents_DC[:, 5] = tokens_D, targets_D
    return Columns(
        entries={one: draw(arrays(np.uint32, (rows, k), elements=u32)) for one in entries},
        scalars={one: draw(arrays(np.uint32, rows, elements=u32)) for one in scalars},
        tokens_N=draw(arrays(np.uint32, tokens, elements=u32)),
        counted_N=draw(arrays(np.uint8, tokens, elements=st.integers(0, 1))),
        documents_DC=documents_DC,
    )


@st.composite
def _shards(draw: Any) -> tuple[list[Columns], dict[str, np.ndarray]]:
    """Blocks of one shape, and a table."""
    scalars = draw(st.sets(st.sampled_from(["floor", "odds", "tail_0", "count"]), min_size=1))
    one = _columns(("id_delta", "code"), tuple(sorted(scalars)), draw(st.integers(1, 3)))
    table = draw(arrays(np.uint32, st.integers(1, 9), elements=st.integers(0, U32)))
    return draw(st.lists(one, min_size=1, max_size=3)), {"ranking": table}


def _counts(blocks: list[Columns]) -> list[BlockCounts]:
    return [
        BlockCounts(
            documents=len(one.documents_DC),
            tokens=len(one.tokens_N),
            targets=int(one.documents_DC[:, 5].sum()),
        )
        for one in blocks
    ]


def _opened(container: str, objects: dict[str, bytes], blocks: list[Columns]) -> Any:
    storage = DictStorage()
    storage.objects = objects
    named = [
        StoredObject(path=name, size=len(data), sha256=hashlib.sha256(data).hexdigest())
        for name, data in sorted(objects.items())
    ]
    opener = load_container(container)
    limits = ShardLimits(
        entries=blocks[0].entries["code"].shape[1],
        draws=1,
        scalars=frozenset(blocks[0].scalars),
        tables=frozenset(["ranking"]),
        table=V,
    )
    return opener.open(
        storage,
        "",
        blocks=_counts(blocks),
        objects=named,
        entries=("id_delta", "code"),
        limits=limits,
    )


def _values(columns: Columns) -> list[Any]:
    arrays = [columns.tokens_N, columns.counted_N, columns.documents_DC]
    named = [*columns.entries.items(), *columns.scalars.items()]
    return [one.tolist() for one in arrays] + sorted((name, one.tolist()) for name, one in named)


@pytest.mark.parametrize("container", CONTAINERS)
@settings(max_examples=10)
@given(_shards(), st.booleans())
def test_any_columns_come_back_as_they_were(container: str, shard: Any, by_entry: bool) -> None:
    blocks, tables = shard
    objects = dict(load_container(container).write(blocks, tables, by_entry=by_entry))
    reader = _opened(container, objects, blocks)
    assert {name: one.tolist() for name, one in reader.tables.items()} == {
        name: one.tolist() for name, one in tables.items()
    }
    for number, one in enumerate(blocks):
        assert _values(reader.block(number)) == _values(one)
        assert reader.documents(number).tolist() == one.documents_DC.tolist()


@pytest.mark.parametrize("container", CONTAINERS)
@settings(max_examples=20)
@given(choices=CHOICES)
def test_changed_bytes_are_refused_or_change_no_value(container: str, choices: Choices) -> None:
    spec, block = _block("topk", np.zeros((ROWS, V), dtype=np.float32))
    codec = new_codec(spec, vocab_size=V)
    tables = codec.tables([block])
    blocks = [codec.encode(block, tables)]
    objects = dict(load_container(container).write(blocks, tables))
    name = choices.one_of([one for one in sorted(objects) if not one.endswith("zarr.json")])
    data = changed_bytes(objects[name], choices)
    changed = data != objects[name]
    reader = _opened(container, objects, blocks)
    objects[name] = data  # behind the hashes: checksums of chunks and pages are left
    try:
        found = _values(reader.block(0))
    except CorruptionError:
        assert changed
    else:
        assert found == _values(blocks[0])
