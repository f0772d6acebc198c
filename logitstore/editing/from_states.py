"""Targets of any kind from hidden states, without the teacher: what a dump of them would store.

The logits are formed as the teacher formed them, by its output layer in its own number type, from
the states as they are stored; random numbers depend on the document and the position. So a store
that is made so holds what a dump would hold of a teacher with those states. Where these were
rounded the difference is that of their rounding, and else that of the order of sums.

Shapes: R targets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from logitstore.codec import codec_for, new_codec
from logitstore.dumping.states import block_targets
from logitstore.editing.blocks import EncodedBlock, decoded, some_documents
from logitstore.errors import SettingError
from logitstore.format.spec import written_format
from logitstore.format.states import LAST
from logitstore.sparsify import SPARSIFIERS, sparsifier_of
from logitstore.sparsify.build import sparsifier_spec
from logitstore.store.head import logit_chunks
from logitstore.store.writer import cut_documents
from logitstore.targets.documents import DocumentBlock, StoredDocument
from logitstore.targets.targets import SparseTargets
from logitstore.teacher.devices import choose_device

if TYPE_CHECKING:
    from collections.abc import Iterator

    from logitstore.codec import Codec
    from logitstore.format.spec import SparsifierSpec, StoreSpec
    from logitstore.store.head import StoredHead
    from logitstore.store.reader import Store

__all__ = ["Resparsified", "makes_anew", "resparsified_spec"]


def makes_anew(source: Store, wanted: Mapping[str, Any]) -> bool:
    """Whether other targets are to be made of the hidden states of a store.

    source: the store.
    wanted: the options of `convert` by name.

    Raises SettingError for options of a sparsifier where none is made.
    """
    keeps_state = sparsifier_of(source.spec.sparsifier).targets.keeps_state
    if keeps_state and wanted["sparsify"] not in (None, source.spec.sparsifier.name):
        return True
    given = [name for name in _own_names() if name != "k" and wanted[name] is not None]
    for name in given:
        raise SettingError(
            "only of hidden states targets are made anew"
            if not keeps_state
            else "nothing says which targets are to be made of the hidden states",
            place=f"--{name.replace('_', '-')}",
            found=source.spec.sparsifier.name,
            remedy="Leave it out" if not keeps_state else "Give --sparsify",
        )
    return False


def _own_names() -> list[str]:
    """The options of convert that belong to sparsifiers."""
    return [
        *{one.name: None for kind in SPARSIFIERS.values() for one in kind.options},
        "temperature",
    ]


def resparsified_spec(spec: StoreSpec, wanted: Mapping[str, Any], *, fidelity: str) -> StoreSpec:
    """The spec of the store of the new targets; its container stays.

    spec: of a store with hidden states.
    wanted: the options of `convert` by name.
    fidelity: of the new codec.

    Raises SettingError for a value that does not fit the sparsifier.
    """
    own = {name: wanted[name] for name in _own_names() if name != "temperature"}
    sparsifier = sparsifier_spec(wanted["sparsify"], temperatures=wanted["temperature"], **own)
    size = spec.tokenizer.vocab_size
    SPARSIFIERS[sparsifier.name].check_vocabulary(sparsifier, vocab_size=size)
    states = None if spec.states is None else replace(spec.states, head=None)
    states = states if states is not None and states.layers else None
    return replace(
        spec,
        format=written_format(spec.text, states),
        sparsifier=sparsifier,
        codec=new_codec(sparsifier, vocab_size=size, fidelity=fidelity).spec,
        block_targets=block_targets(states),
        states=states,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Resparsified:
    """A `Recode` that decodes hidden states, and encodes other targets that are made of them."""

    old: Codec
    head: StoredHead
    device: str  # the option of that name

    def recode(self, blocks: Sequence[EncodedBlock], spec: StoreSpec) -> list[EncodedBlock]:
        """See `Recode`; blocks are cut anew, as a dump of the new targets cuts them."""
        documents = [
            stored
            for block in blocks
            for stored in self._made(decoded(block, self.old), spec.sparsifier)
        ]
        new = codec_for(spec)
        parts = cut_documents(documents, block_targets=spec.block_targets)
        made = [DocumentBlock.join(part) for part in parts]
        tables: Mapping[str, Any] = new.tables(made)
        return [
            some_documents(EncodedBlock(new.encode(block, tables), tables), None) for block in made
        ]

    def _made(self, block: DocumentBlock, sparsifier: SparsifierSpec) -> Iterator[StoredDocument]:
        """The documents of a block with other targets; states of other layers stay with them."""
        import torch

        from logitstore.dumping.work import by_document, draw_keys  # which loads torch

        documents = [stored.document for stored in block.split()]
        labels_R = torch.from_numpy(block.input_ids_N[block.counted_N].astype(np.int64))
        keys_R = draw_keys(documents, sparsifier)
        head = self.head.on(choose_device(self.device))
        draw = SPARSIFIERS[sparsifier.name].draw
        parts = [
            draw(logits_RV, labels_R[rows].to(logits_RV.device), keys_R[rows], sparsifier)
            for logits_RV, rows in logit_chunks(block.targets, head)
        ]
        draws = [SparseTargets.concatenate(one) for one in zip(*parts, strict=True)]
        others = {name: one for name, one in block.targets.states.items() if name != LAST}
        draws[0] = replace(draws[0], states=others)
        for document, own in zip(documents, by_document(documents, draws), strict=True):
            yield StoredDocument(document=document, targets=own[0], other_draws=own[1:])
