"""A student that reads the documents of a store when they are looked at.

Shapes: R targets of a chunk, V vocabulary.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from logitstore.errors import TokenizerError
from logitstore.targets.documents import StoredDocument
from logitstore.viewing.comparison import Beside, exact_entries, pooled_kl, temperature_of

if TYPE_CHECKING:
    from logitstore.store.reader import Store
    from logitstore.targets.targets import SparseTargets

__all__ = ["Student", "open_student"]

_STUDENT_ENTRIES = 32  # the most that are shown of a student


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Student:
    """A model that reads the documents of a store when they are looked at.

    temperature: T, at which the store's targets are.
    entries: how many of its most probable tokens are shown.
    """

    teacher: Any  # it has the methods of a teacher
    name: str
    temperature: float
    entries: int
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def info(self) -> dict[str, Any]:
        """See `Second`."""
        spec = self.teacher.spec
        return {
            "kind": "student",
            "name": Path(self.name).name or self.name,
            "architecture": spec.architecture,
            "parameters": spec.parameters,
            "k": self.entries,
            "whole": True,
        }

    def to_draw_of(self, first: Store) -> Student:
        """See `Second`."""
        return replace(self, temperature=temperature_of(first))

    def beside(self, first: StoredDocument, number: int) -> Beside:  # noqa: ARG002
        """See `Second`: one forward pass over the document."""
        document, context = first.document, self.teacher.context
        if context is not None and len(document) > context:
            note = f"The student reads {context:,} tokens; this document has {len(document):,}."
            return Beside(stored=None, note=note)
        if not len(first.targets):
            return Beside(stored=first, kl_R=np.zeros(0))
        with self._lock:
            targets, kl_R = self._read(first)
        return Beside(stored=StoredDocument(document=document, targets=targets), kl_R=kl_R)

    def _read(self, first: StoredDocument) -> tuple[SparseTargets, np.ndarray]:
        from logitstore.sparsify import SPARSIFIERS
        from logitstore.sparsify.build import sparsifier_spec
        from logitstore.targets.targets import SparseTargets

        spec = sparsifier_spec("topk", k=self.entries)
        parts, bounds, start = [], [], 0
        for logits_RV, labels_R in self.teacher.logits([first.document]):
            logp_RV = (logits_RV.double() / self.temperature).log_softmax(-1)
            label_R = logits_RV.double().log_softmax(-1).gather(1, labels_R[:, None])[:, 0]
            rows = slice(start, start + len(labels_R))
            start = rows.stop
            bounds.append(self._bound(first.targets.rows(rows), logp_RV))
            keys_R = np.zeros(len(labels_R), dtype=np.uint64)
            scaled_RV = logits_RV / self.temperature
            (drawn,) = SPARSIFIERS["topk"].draw(scaled_RV, labels_R, keys_R, spec)
            parts.append(replace(drawn, label_logprob_R=label_R.float().cpu().numpy()))
        return SparseTargets.concatenate(parts), np.concatenate(bounds)

    @staticmethod
    def _bound(targets: SparseTargets, logp_RV: Any) -> np.ndarray:
        if not targets.kind.has_exact:
            return np.full(len(targets), np.nan)
        keys, p = exact_entries(targets)
        row_of, ids = keys >> 32, keys & 0xFFFFFFFF
        q = logp_RV.cpu().numpy()[row_of, ids]
        return pooled_kl(row_of, p, q, rows=len(targets))


def open_student(name: str, store: Store, *, device: str, dtype: str) -> Student:
    """The model `name`, to be compared with a store at its draw's temperature.

    name: a folder that transformers loads, such as that of a run, a .gguf file or a Hub id.
    store: whose documents it reads.
    device: the option of that name.
    dtype: the option of that name.

    Raises ModelError where there is no such model, TokenizerError where its tokenizer is another
    than the store's.
    """
    from logitstore.corpus.tokenizer import holds_tokenizer, load_tokenizer, tokenizer_fingerprint
    from logitstore.teacher.models import model_path
    from logitstore.teacher.opening import open_teacher

    path = model_path(name)
    allowed = store.spec.tokenizer.fingerprint
    if holds_tokenizer(path):
        found = tokenizer_fingerprint(load_tokenizer(str(path)))
        if found != allowed:
            raise TokenizerError(
                "the student's tokenizer is another than the store's, so ids would mean other "
                "tokens",
                place=name,
                found=found[:12],
                allowed=allowed[:12],
                remedy="View the store alone, or a student with the teacher's tokenizer",
            )
    size = store.spec.tokenizer.vocab_size
    teacher = open_teacher(name, vocab_size=size, device=device, dtype=dtype)
    entries = min(_STUDENT_ENTRIES, max(store.spec.sparsifier.k, 1), size)
    return Student(teacher=teacher, name=name, temperature=temperature_of(store), entries=entries)
