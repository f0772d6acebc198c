"""Inspect: what a store holds and where it comes from, read from its small objects alone."""

from __future__ import annotations

from typing import Any

from logitstore.format.answers import told_of_answers
from logitstore.format.edits import edits_of
from logitstore.format.spec import SparsifierSpec, StoreSpec
from logitstore.options import takes
from logitstore.sparsify import sparsifier_of
from logitstore.store.last_audit import last_audit
from logitstore.store.layout import SPEC
from logitstore.store.options import INSPECT_OPTIONS
from logitstore.store.reader import Store, StoreLike, as_store

__all__ = ["inspect"]


@takes(INSPECT_OPTIONS)
def inspect(store: StoreLike) -> dict[str, Any]:
    """A store, sealed or not, as one JSON object. Losses and entropies in nats.

    `bytes` are those of every object but the tokenizer, the README and the manifest. What is told
    per target is None where there are no targets yet, or the store does not know it. Raises
    StoreError where there is no store, CorruptionError where it is damaged.
    """
    return _content(as_store(store, allow_partial=True))


def _content(store: Store) -> dict[str, Any]:
    spec, declared = store.spec, sparsifier_of(store.spec.sparsifier)
    targets = store.targets

    def per_target(total: float) -> float | None:
        return total / targets if targets else None

    def of_sum(name: str, sign: int) -> float | None:
        return per_target(sign * sums[name]) if name in sums else None

    size = store.stored_bytes
    sums, columns = store.totals.sums, dict(store.totals.column_bytes)
    columns["store"] = size - sum(columns.values())
    return {
        "documents": len(store),
        "tokens": store.totals.tokens,
        "targets": targets,
        "bytes": size,
        "bytes_per_target": per_target(size),
        "column_bytes_per_target": {
            name: per_target(value) for name, value in sorted(columns.items())
        },
        "vocab_size": spec.tokenizer.vocab_size,
        "k": next(iter(declared.asked(spec.sparsifier).values())),
        "sparsifier": spec.sparsifier.name,
        "sparsifier_options": _options(spec.sparsifier),
        "serves_temperatures": declared.served(spec.sparsifier),
        "format": spec.container,
        "codec": {"id": spec.codec.id, **spec.codec.parameters},
        "fingerprint": store.fingerprint,
        "teacher": _teacher(spec),
        "tokenizer": _told(spec.tokenizer, "fingerprint bos_token_id eos_token_id"),
        "corpus": _corpus(spec) | {"skipped": store.totals.skipped},
        "answers": [told_of_answers(one) for one in spec.corpus.answers],
        "states": _states(spec),
        "retained_mass": of_sum("head_mass", 1),
        "teacher_loss": of_sum("label_logprob", -1),
        "teacher_entropy": of_sum("entropy", 1),
        "sampler_loss": of_sum("sampler_logprob", -1),
        "units": _units(store),
        "units_done": len(store.commits),
        "blocks": len(store.blocks),
        "sealed": store.manifest is not None,
        "last_audit": None if store.manifest is None else _last_audit(store),
        "imported": spec.provenance.get("import"),
        "created": spec.provenance.get("created"),
        "edits": [one.to_json() for one in edits_of(spec, place=store.layout.place(SPEC))],
    }


def _last_audit(store: Store) -> dict[str, Any] | None:
    found = last_audit(store.layout, store.fingerprint)
    return found and {name: value for name, value in found.items() if name != "fingerprint"}


def _units(store: Store) -> int:
    """How many units its plan has; all of them are committed where it is sealed."""
    if store.manifest is not None:
        return len(store.commits)
    return len(store.layout.read_plan().units)


def _told(part: object, names: str) -> dict[str, Any]:
    """Some fields of a part of the spec."""
    return {name: getattr(part, name) for name in names.split()}


def _teacher(spec: StoreSpec) -> dict[str, Any]:
    """Who gave the distributions; all but the name is None where another system has run it."""
    names = "name fingerprint architecture parameters dtype"
    told = _told(spec.teacher, names)
    return told if spec.teacher.seen else dict.fromkeys(told) | {"name": spec.teacher.name}


def _states(spec: StoreSpec) -> dict[str, Any] | None:
    """Which hidden states each target has, and what the output layer takes; None without any."""
    states = spec.states
    if states is None:
        return None
    head = states.head
    return {
        "layers": list(states.names),
        "width": states.width,
        "dtype": states.dtype,
        "head_bytes": None if head is None else head.size,
        "head_dtype": None if head is None else head.dtype,
    }


def _corpus(spec: StoreSpec) -> dict[str, Any]:
    """Which texts were read, and how."""
    read = "max_length records turns ignored_fields template_date teacher_system teacher_messages"
    told = _told(spec.corpus, "name fingerprint") | _told(spec.text, f"{read} positions")
    return told | {"ignored_fields": list(spec.text.ignored_fields)}


def _options(spec: SparsifierSpec) -> dict[str, Any]:
    """The rest of what dump was asked for, by the names of its options."""
    stored = {name: value for name, value in spec.to_json().items() if name not in ("name", "k")}
    asked = sparsifier_of(spec).asked(spec)
    return stored | {name: value for name, value in asked.items() if name != "k"}
