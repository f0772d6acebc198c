"""A model of another tokenizer than the store's: how well it predicts the bytes of the same text.

Losses of tokens do not compare across tokenizers; bits per byte do. Teacher and student are
measured over the same spans, which are the same bytes.

Shapes: R counted tokens, S spans.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from logitstore import ModelError, SettingError
from logitstore.plumbing import LengthClasses, LMHead, Meter, evaluating, tell_stage
from trainer.data.retokenized import retokenize
from trainer.data.rows import RowLayout, choose_layout, lay_out
from trainer.data.spans import SpanTargets
from trainer.losses.alm import binary_kl

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from transformers import PreTrainedModel

    from trainer.data.crossing import CrossedDocument
    from trainer.data.retokenized import RetokenizedStore
    from trainer.evaluation.material import EvalData
    from trainer.evaluation.options import EvalOptions
    from trainer.evaluation.subject import Subject

__all__ = ["measure_spans"]

_CHUNK_BYTES = 256 << 20  # of one float32 [R, V]


def measure_spans(
    subject: Subject, source: EvalData, tokenizer: Any, options: EvalOptions
) -> dict[str, Any]:
    """What `evaluate` gives of a model of another tokenizer.

    Args:
        subject: The model.
        source: The store, in its own tokens.
        tokenizer: The model's.
        options: Those of the evaluation.

    Raises SettingError for a temperature, which spans have none of; ModelError for a loss that is
    no finite number; what `retokenize` raises.
    """
    if options.temperature != 1.0:
        raise SettingError(
            "a model of another tokenizer is measured over spans of text, at temperature 1",
            place="--temperature",
            found=f"{options.temperature:g}",
            allowed="1",
        )
    crossed = retokenize(source.store, tokenizer, on_progress=options.on_progress)
    tell_stage(options.on_progress, f"loading {Path(subject.name).name}")
    spec: Any = crossed.spec
    own = replace(source, spec=spec, store=crossed, tokenizer_files=crossed.tokenizer_files)
    model = subject.open_model(own)
    with evaluating(model), torch.inference_mode():
        return _measured(model, crossed, options)


def _measured(
    model: PreTrainedModel, store: RetokenizedStore, options: EvalOptions
) -> dict[str, Any]:
    vocab_size = store.spec.tokenizer.vocab_size
    head = LMHead.checked(model, vocab_size=vocab_size).whole
    layout = choose_layout(model, vocab_size=vocab_size)
    lengths = LengthClasses(model)
    meter = Meter(options.on_progress, stage="measuring", unit="tokens")
    sums: Counter[str] = Counter()
    began = time.perf_counter()
    for documents in _batches(store, lengths=lengths, batch_tokens=options.batch_tokens):
        lengths.forget()
        sums.update(_sums(model, head, documents, layout))
        meter.tell(int(sums["tokens"]), fraction=min(1.0, sums["documents"] / len(store)))
    return _result(sums, store=store, model=model, seconds=time.perf_counter() - began)


def _batches(
    documents: Iterable[CrossedDocument], *, lengths: LengthClasses, batch_tokens: int
) -> Iterator[list[CrossedDocument]]:
    """Documents for a forward pass each: as many as fit and may meet, at least one."""
    waiting: list[CrossedDocument] = []
    for one in chain(documents, [None]):
        size = sum(len(each.document) for each in waiting)
        if waiting and (one is None or size + len(one.document) > batch_tokens):
            for places in lengths.groups([len(each.document) for each in waiting]):
                yield [waiting[place] for place in places]
            waiting = []
        if one is not None and len(one.targets):
            waiting.append(one)


def _sums(
    model: PreTrainedModel, head: LMHead, documents: list[CrossedDocument], layout: RowLayout
) -> dict[str, float]:
    """What is counted of one forward pass."""
    batch = lay_out(
        [one.document for one in documents],
        layout=layout,
        targets=[one.targets for one in documents],
    )
    inputs = {name: value.to(model.device) for name, value in batch.model_inputs.items()}
    hidden_RD = batch.hidden(model, inputs)[batch.at_R.to(model.device)]
    logprob_R = _logprobs(hidden_RD, head, batch.labels_R.to(model.device))
    spans = batch.targets
    if not isinstance(spans, SpanTargets):  # for the sake of types
        raise SettingError("the batch holds no spans")
    sums_R = np.concatenate([[0.0], np.cumsum(logprob_R)])
    log_q_S = sums_R[spans.starts_S + spans.lengths_S] - sums_R[spans.starts_S]
    kl_S = binary_kl(
        torch.from_numpy(spans.teacher_S).double(), torch.from_numpy(log_q_S).double(), 1.0
    )
    return {
        "documents": len(documents),
        "tokens": batch.tokens,
        "targets": len(logprob_R),
        "loss": -float(logprob_R.sum()),
        "spans": len(log_q_S),
        "bytes": int(spans.bytes_S.sum()),
        "student": -float(log_q_S.sum()),
        "teacher": -float(spans.teacher_S.sum(dtype=np.float64)),
        "kl": float(kl_S.sum()),
    }


def _logprobs(hidden_RD: torch.Tensor, head: LMHead, labels_R: torch.Tensor) -> np.ndarray:
    """float64 [R], nats: the model's log-probability of each true token."""
    rows = max(1, _CHUNK_BYTES // (4 * head.vocab_size))
    parts = []
    for start in range(0, len(labels_R), rows):
        logits_RV = head.logits(hidden_RD[start : start + rows])
        label_R = logits_RV.gather(1, labels_R[start : start + rows, None])[:, 0]
        parts.append((label_R - logits_RV.logsumexp(dim=-1)).double().cpu().numpy())
    found_R = np.concatenate(parts)
    if not np.isfinite(found_R).all():
        raise ModelError(
            "the model's loss of a target is no finite number",
            remedy="Where a run has diverged, train again with a smaller --lr",
        )
    return found_R


def _result(
    sums: Counter[str], *, store: RetokenizedStore, model: PreTrainedModel, seconds: float
) -> dict[str, Any]:
    bits = max(1, sums["bytes"]) * math.log(2)
    loss = sums["loss"] / sums["targets"]
    left_out = store.counts["left_out"]
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "documents": int(sums["documents"]),
        "targets": int(sums["targets"]),
        "temperature": 1.0,
        "loss": loss,
        "spans": int(sums["spans"]),
        "bytes": int(sums["bytes"]),
        "bits_per_byte": sums["student"] / bits,
        "teacher_bits_per_byte": sums["teacher"] / bits,
        "span_kl": sums["kl"] / max(1, sums["spans"]),
        "tokens_per_second": sums["tokens"] / seconds,
        "left_out": sum(left_out.values()),
        "left_out_for": left_out,
        "store": store.source_fingerprint,
        "bounds": {"span_kl": "lower"},
        "coding_errors": {},
        "standard_errors": {},
    }
