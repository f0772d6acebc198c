"""Teachers that look at the longest document of a batch give each document its own numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from logitstore.targets.documents import Document, document_id
from logitstore.teacher.lengths import LengthClasses
from logitstore.teacher.transformers import TransformersTeacher
from tests.memory_store import VOCAB
from tests.tiny_models import tiny

ORIGINAL = 12
ROPES: dict[str, dict[str, Any]] = {
    "longrope": {
        "rope_type": "longrope",
        "rope_theta": 100.0,
        "short_factor": [1.0, 1.0, 1.0, 1.0],
        "long_factor": [2.0, 3.0, 5.0, 8.0],
        "factor": 4.0,
        "original_max_position_embeddings": ORIGINAL,
    },
    "dynamic": {"rope_type": "dynamic", "rope_theta": 100.0, "factor": 4.0},
}
# Of dynamic RoPE the context is the original one; longer documents stretch it.
CONTEXTS = {"longrope": 64, "dynamic": ORIGINAL}


def roped(kind: str) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=CONTEXTS[kind],
        rope_parameters=ROPES[kind],
        initializer_range=0.5,
    )
    return LlamaForCausalLM(config).eval()


def document(number: int, length: int) -> Document:
    ids_L = np.random.default_rng(number).integers(0, VOCAB, length).astype(np.uint32)
    counted_L = np.ones(length, dtype=bool)
    counted_L[0] = False
    return Document(
        id=document_id(source="a", record=number, piece=0),
        record=number,
        piece=0,
        input_ids_L=ids_L,
        counted_L=counted_L,
    )


LENGTHS = [5, 30, 12, 13, 20, 30, 8]


@pytest.mark.parametrize("kind", ROPES)
def test_a_documents_logits_depend_on_no_other_document(kind: str) -> None:
    teacher = TransformersTeacher.of(roped(kind), vocab_size=VOCAB)
    documents = [document(number, length) for number, length in enumerate(LENGTHS)]
    for batch in (documents, documents[::-1], documents[:2]):
        with torch.inference_mode():
            rows = torch.cat([logits_RV.clone() for logits_RV, _ in teacher.logits(batch)])
        wanted = []
        for one in batch:
            fresh = roped(kind)  # one that has met no other length
            ids_L = torch.from_numpy(one.input_ids_L.astype(np.int64))
            with torch.inference_mode():
                wanted.append(fresh(input_ids=ids_L[None], use_cache=False).logits[0, :-1])
        torch.testing.assert_close(rows, torch.cat(wanted), atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("kind", ROPES)
def test_the_plain_way_would_be_wrong(kind: str) -> None:
    """What the test above would catch is far above its tolerance."""
    model = roped(kind)
    short, long = document(0, 5), document(1, 30)
    padded_BL = torch.zeros((2, 30), dtype=torch.long)
    for row, one in enumerate((short, long)):
        padded_BL[row, : len(one)] = torch.from_numpy(one.input_ids_L.astype(np.int64))
    with torch.inference_mode():
        beside = model(input_ids=padded_BL, use_cache=False).logits[0, :5]
        alone = roped(kind)(input_ids=padded_BL[:1, :5], use_cache=False).logits[0]
    assert float((beside - alone).abs().max()) > 1e-2


def test_other_models_run_their_batches_whole() -> None:
    for name in ("llama", "gpt2", "mamba"):
        with torch.inference_mode():
            assert LengthClasses(tiny(name)).groups([3, 30, 7]) == [[0, 1, 2]]


def test_a_model_that_is_not_known_to_look_at_lengths_is_found_by_trying() -> None:
    model = tiny("llama")
    plain = model.model.forward

    def forward(*args: Any, **values: Any) -> Any:
        outputs = plain(*args, **values)
        width = (args[0] if args else values["input_ids"]).shape[1]
        outputs.last_hidden_state = outputs.last_hidden_state * (1 + width / 10)
        return outputs

    model.model.forward = forward
    with torch.inference_mode():
        assert LengthClasses(model).groups([3, 7, 3]) == [[0, 2], [1]]
