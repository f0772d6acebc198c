"""Students whose numbers depend on the longest document of a pass learn and are measured alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

import logitstore
import trainer
from logitstore import ModelError
from tests.test_lengths import ORIGINAL, ROPES
from tests.tiny_models import tiny
from tools.tiny_teacher import texts
from trainer.data.batches import Batches
from trainer.data.rows import choose_border, lay_out

if TYPE_CHECKING:
    from pathlib import Path


def longrope() -> Any:
    return tiny(
        vocab_size=300,
        max_position_embeddings=64,
        num_attention_heads=2,
        rope_parameters=ROPES["longrope"],
        initializer_range=0.5,
    )


@pytest.fixture
def store(tokenizer: Any, tmp_path: Path) -> logitstore.Store:
    logitstore.dump(
        teacher=longrope(),
        tokenizer=tokenizer,
        data=texts(40, longest=14),
        out=tmp_path / "store",
        sparsify="topk",
        k=16,
        fidelity="exact",
    )
    store = logitstore.open(tmp_path / "store")
    long = [len(one.document) > ORIGINAL for one in store]
    assert 5 < sum(long) < 35
    return store


def plain_loss(model: Any, store: logitstore.Store) -> torch.Tensor:
    """The summed loss of the labels, each document by itself."""
    total = torch.zeros(())
    for stored in store:
        ids_L = torch.from_numpy(stored.document.input_ids_L.astype(np.int64))
        logits_LV = model(input_ids=ids_L[None], use_cache=False).logits[0, :-1]
        counted_L = torch.from_numpy(stored.document.counted_L[1:])
        total = total + torch.nn.functional.cross_entropy(
            logits_LV[counted_L], ids_L[1:][counted_L], reduction="sum"
        )
    return total


def learnt_loss(model: Any, batches: Batches) -> torch.Tensor:
    return sum(
        (trainer.distillation_loss(model, batch, alpha=0.0).loss for batch in batches),
        start=torch.zeros(()),
    )


def test_a_student_with_longrope_learns_each_document_as_if_alone(store: logitstore.Store) -> None:
    model, twin = longrope(), longrope()
    batches = trainer.training_batches(store, model=model, epochs=1, batch_tokens=400)
    found, wanted = learnt_loss(model, batches), plain_loss(twin, store)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-3)
    found.backward()
    wanted.backward()
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-3)


def test_one_pass_for_all_would_be_wrong(store: logitstore.Store) -> None:
    """What the test above would catch is far above its tolerance."""
    model = longrope()
    batches = trainer.training_batches(store, model=model, epochs=1, batch_tokens=400)
    batches._border = None
    with torch.no_grad():
        results = [trainer.distillation_loss(model, batch, alpha=1.0) for batch in batches]
    # The model is the teacher itself, so its KL is that of the wrong rotary frequencies.
    assert sum(float(one.loss) for one in results) / sum(one.count for one in results) > 5e-3


def test_it_is_measured_as_plain_transformers_says(store: logitstore.Store) -> None:
    targets = sum(len(one.targets) for one in store)
    for batch_tokens in (40, 4096):
        found = trainer.evaluate(longrope(), logits=store, batch_tokens=batch_tokens)
        with torch.no_grad():
            wanted = float(plain_loss(longrope(), store)) / targets
        assert found["loss"] == pytest.approx(wanted, abs=1e-5)
        assert found["kl"] < 1e-4  # it is the teacher


def test_every_rank_makes_both_passes(store: logitstore.Store) -> None:
    """Or ranks whose weights are sharded would wait for one another for ever."""
    model = longrope()
    assert choose_border(model, max_length=64) == ORIGINAL
    assert choose_border(model, max_length=ORIGINAL) is None
    layout = trainer.training_batches(store, model=model)._layout
    for documents in ([], [store[0].document], [one.document for one in store]):
        batch = lay_out(documents, layout=layout, border=ORIGINAL)
        assert len(batch.passes) == 2
        assert sum(rows for rows, _ in batch.passes) == len(batch.input_ids_BW)
        assert batch.passes[0][1] <= ORIGINAL


def test_a_student_of_other_numbers_for_each_length_is_refused(store: logitstore.Store) -> None:
    model = tiny(vocab_size=300, max_position_embeddings=64)
    plain = model.model.forward

    def forward(*args: Any, **values: Any) -> Any:
        outputs = plain(*args, **values)
        outputs.last_hidden_state = outputs.last_hidden_state * (1 + values["input_ids"].shape[1])
        return outputs

    model.model.forward = forward
    with pytest.raises(
        ModelError, match=r"other numbers for each length.*found documents of up to"
    ):
        trainer.training_batches(store, model=model)
