"""Layout: documents share rows and stay apart, and every target meets the row that predicts it."""

import numpy as np
import pytest
import torch

from logitstore.plumbing import hidden_states
from tests.memory_store import VOCAB, MemoryStore
from tests.tiny_models import tiny
from trainer.data.rows import RowLayout, choose_layout, lay_out

KINDS = [
    ("llama", "sdpa", RowLayout.ROWS),
    ("llama", "eager", RowLayout.ROWS),
    ("gpt2", "sdpa", RowLayout.ROWS),
    ("gpt2", "eager", RowLayout.ROWS),
    ("mamba", None, RowLayout.PADDED),
]


@pytest.fixture
def stored():
    return list(MemoryStore(blocks=2, documents=6))


def batch_of(stored, layout, **settings):
    return lay_out(
        [one.document for one in stored],
        targets=[one.targets for one in stored],
        layout=layout,
        **settings,
    )


@pytest.mark.parametrize(("name", "attention", "expected"), KINDS)
def test_hidden_states_are_those_of_each_document_alone(name, attention, expected, stored):
    model = tiny(name, attention=attention)
    layout = choose_layout(model, vocab_size=VOCAB)
    assert layout is expected
    batch = batch_of(stored, layout)
    with torch.no_grad():
        inputs = dict(batch.model_inputs)
        found_RD = hidden_states(model, inputs.pop("input_ids"), **inputs).flatten(0, 1)[batch.at_R]
        alone = []
        for one in stored:
            ids_L = torch.from_numpy(one.document.input_ids_L.astype(np.int64))
            before = torch.from_numpy(np.flatnonzero(one.document.counted_L) - 1)
            alone.append(hidden_states(model, ids_L[None])[0][before])
    torch.testing.assert_close(found_RD, torch.cat(alone), atol=2e-6, rtol=1e-5)


def test_a_model_that_lets_documents_meet_would_be_noticed(stored):
    model = tiny("mamba")
    batch = batch_of(stored, RowLayout.ONE_ROW)
    padded = batch_of(stored, RowLayout.PADDED)
    with torch.no_grad():
        together = hidden_states(model, batch.input_ids_BW).flatten(0, 1)[batch.at_R]
        apart = hidden_states(model, padded.input_ids_BW).flatten(0, 1)[padded.at_R]
    assert (together - apart).abs().max() > 1e-3 * apart.abs().max()


def test_probing_leaves_the_model_in_its_mode():
    model = tiny().train()
    choose_layout(model, vocab_size=VOCAB)
    assert model.training


@pytest.mark.parametrize("layout", RowLayout)
def test_labels_and_targets_follow_the_documents(layout, stored):
    batch = batch_of(stored, layout, step_targets=1000)
    flat = batch.input_ids_BW.flatten()
    expected = [one.document.input_ids_L[one.document.counted_L] for one in stored]
    before = [
        one.document.input_ids_L[np.flatnonzero(one.document.counted_L) - 1] for one in stored
    ]
    assert batch.labels_R.tolist() == np.concatenate(expected).tolist()
    assert flat[batch.at_R].tolist() == np.concatenate(before).tolist()
    assert len(batch.targets) == len(batch.labels_R)
    np.testing.assert_array_equal(
        batch.targets.label_logprob_R, np.concatenate([s.targets.label_logprob_R for s in stored])
    )
    assert batch.step_targets == 1000


def test_rows_are_no_wider_than_the_longest_document(stored):
    batch = batch_of(stored, RowLayout.ROWS)
    lengths = [len(one.document) for one in stored]
    assert batch.input_ids_BW.shape[1] == max(lengths)
    assert len(batch.input_ids_BW) < len(stored)
    assert batch_of(stored, RowLayout.ONE_ROW).input_ids_BW.shape == (1, sum(lengths))
    assert batch_of(stored, RowLayout.PADDED).input_ids_BW.shape == (len(stored), max(lengths))


def test_documents_of_one_length_fill_rows_that_need_no_mask(stored):
    document = max((one.document for one in stored), key=len)
    batch = lay_out([document] * 3, layout=RowLayout.ROWS)
    assert torch.equal(batch.position_ids_BW, torch.arange(len(document)).repeat(3, 1))


@pytest.mark.parametrize("layout", RowLayout)
def test_no_documents_are_a_batch_without_targets(layout):
    batch = lay_out([], layout=layout, step_targets=7)
    assert batch.input_ids_BW.shape == (1, 1)
    assert len(batch.at_R) == len(batch.labels_R) == 0
    assert batch.targets is None
    assert batch.step_targets == 7
