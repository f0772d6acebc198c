"""Convert: the same documents in another container, by another codec, with smaller heads.

Where the container alone is another, the integers are the same. Where the codec is another, or
heads get smaller, blocks are decoded and encoded again; otherwise units are copied. Of hidden
states targets of any kind are made (`from_states.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, overload

from logitstore.codec import CODECS, codec_for, new_codec
from logitstore.editing.blocks import EncodedBlock, decoded, some_documents
from logitstore.editing.from_states import Resparsified, makes_anew, resparsified_spec
from logitstore.editing.heads import lowered
from logitstore.editing.options import CONVERT_OPTIONS
from logitstore.editing.planning import numbered, plan_of, refuse_nothing, whole_units
from logitstore.editing.sources import all_edits, open_source, out_layout, telling_of_sources
from logitstore.editing.work import Edited, NewStore
from logitstore.errors import SettingError
from logitstore.format.json import fingerprint
from logitstore.format.spec import SparsifierSpec, StoreSpec, written_format
from logitstore.options import takes
from logitstore.progress import OnProgress
from logitstore.sparsify import SPARSIFIERS, sparsifier_of
from logitstore.store.reader import Store, StoreLike
from logitstore.store.storage import StorageLike, open_storage
from logitstore.targets.documents import DocumentBlock

if TYPE_CHECKING:
    from collections.abc import Mapping

    from logitstore.codec import Codec

__all__ = ["convert", "fidelity_of"]


@takes(CONVERT_OPTIONS)
@telling_of_sources()
def convert(
    store: StoreLike,
    out: StorageLike,
    *,
    skip_damaged: object,
    device: str,
    on_note: Any,
    on_progress: OnProgress | None,
    **wanted: Any,
) -> Edited:
    """Write a sealed store's documents to a new store, in another format.

    The same call again takes up an unfinished store where it stopped, and leaves a finished one as
    it is. Codecs of older versions become the current ones. Raises StoreError, SpecError,
    SettingError, CorruptionError or StorageError.
    """
    source = open_source(store, skip_damaged=skip_damaged, on_progress=on_progress)
    layout = out_layout(open_storage(out), [source])
    anew = makes_anew(source, wanted)
    if anew:
        fidelity = wanted["fidelity"] or fidelity_of(source.spec)
        spec = resparsified_spec(source.spec, wanted, fidelity=fidelity)
        spec = replace(spec, container=wanted["format"] or spec.container)
    else:
        sparsifier = _sparsifier(source, wanted["sparsify"], wanted["k"])
        spec = _converted(source.spec, sparsifier, wanted["format"], wanted["fidelity"])
    values_stay = (spec.codec, spec.sparsifier) == (source.spec.codec, source.spec.sparsifier)
    copies = values_stay and spec.container == source.spec.container
    planned = numbered(list(whole_units(source, 0, copies=copies, encoded=not values_stay)))
    refuse_nothing(planned, place=source.uri, problem="the store holds nothing")
    arguments = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in wanted.items()
        if value is not None
    }
    edits = all_edits("convert", arguments, [source])
    if source.damaged or len(planned) != len(source.commits):
        corpus = replace(
            spec.corpus, fingerprint=fingerprint([edits[-1].to_json(), plan_of(planned).to_json()])
        )
        spec = replace(spec, corpus=corpus)
    if callable(on_note):
        for line in _notes(source, spec, copies=copies, anew=anew):
            on_note(line)
    recode = _as_integers if values_stay else _Reencoding(codec_for(source.spec)).recode
    if anew:
        old = codec_for(source.spec)
        recode = Resparsified(old=old, head=source.head, device=device).recode
    return NewStore(
        layout=layout,
        spec=spec,
        planned=planned,
        sources=[source],
        edits=edits,
        recode=recode,
    ).write(on_progress=on_progress)


def _sparsifier(source: Store, name: str | None, k: int | None) -> SparsifierSpec:
    """What the new store's targets are. Raises SettingError for what the old ones cannot become."""
    spec = source.spec.sparsifier
    declared = sparsifier_of(spec)
    wanted = name or spec.name
    if k is None and wanted == spec.name:
        return spec
    if not declared.targets.knows_whole:
        raise SettingError(
            "these targets do not know the whole distribution, so they become no others",
            place="--k" if name is None else "--sparsify",
            found=spec.name,
            remedy="Leave it out",
        )
    if not declared.targets.keeps_tail or (declared.targets.drawn and wanted == spec.name):
        heads = " or ".join(
            one
            for one, kind in SPARSIFIERS.items()
            if not (kind.targets.drawn or kind.targets.keeps_state)
        )
        raise SettingError(
            "these targets cannot get fewer entries: which would have been drawn is not known"
            if wanted == spec.name
            else "these targets keep no head with its tail that others could be made of",
            place="--k" if name is None else "--sparsify",
            found=spec.name,
            allowed=f"{heads}, and the heads of hybrid by --sparsify topk",
        )
    kind = SPARSIFIERS[wanted].targets if wanted != spec.name else declared.targets
    if wanted != spec.name and (kind.drawn or kind.keeps_state):
        raise SettingError(
            "only of hidden states such targets can be made",
            place="--sparsify",
            found=f"{spec.name} to {wanted}",
            remedy=f"Dump with --sparsify {wanted}",
        )
    if wanted != spec.name and not declared.targets.drawn:
        raise SettingError(
            "these targets may have fewer entries than others of that kind have",
            place="--sparsify",
            found=f"{spec.name} to {wanted}",
            remedy="Leave it out: --k makes their heads smaller",
        )
    exact = declared.asked(spec)[declared.room[0]]
    if wanted != spec.name and SPARSIFIERS[wanted].stored_options - set(spec.options):
        raise SettingError(
            "these targets cannot become others of that kind",
            place="--sparsify",
            found=f"{spec.name} to {wanted}",
            allowed="topk",
        )
    if k is not None and k > exact:
        raise SettingError(
            "the store keeps fewer entries", place="--k", found=k, allowed=f"1..{exact}"
        )
    options = {one: spec.options[one] for one in sorted(SPARSIFIERS[wanted].stored_options)}
    return replace(spec, name=wanted, k=exact if k is None else k, temperatures=(), options=options)


def _converted(
    spec: StoreSpec, sparsifier: SparsifierSpec, container: str | None, fidelity: str | None
) -> StoreSpec:
    current = sparsifier_of(sparsifier).codec
    codec = spec.codec
    if fidelity is not None or codec.id != current:
        chosen = fidelity or fidelity_of(spec)
        codec = new_codec(sparsifier, vocab_size=spec.tokenizer.vocab_size, fidelity=chosen).spec
    return replace(
        spec,
        format=written_format(spec.text, spec.states),
        sparsifier=sparsifier,
        codec=codec,
        container=container or spec.container,
    )


def fidelity_of(spec: StoreSpec) -> str:
    """The preset that a store was written with.

    spec: of the store.

    Raises SettingError where it was none.
    """
    for name, values in CODECS[spec.codec.id].presets.items():
        if dict(values) == spec.codec.parameters:
            return name
    raise SettingError(
        "the store's codec has parameters of its own, which the new codec does not have",
        place="--fidelity",
        found=f"{spec.codec.id} {spec.codec.parameters}",
        remedy="Give --fidelity",
    )


def _notes(source: Store, spec: StoreSpec, *, copies: bool, anew: bool) -> list[str]:
    """What happens to the values, in words."""
    if copies:
        newer = "" if source.spec.format == spec.format else " but the version of the format"
        return [f"nothing changes{newer}: units are copied as they are"]
    if anew:
        entries = sparsifier_of(spec.sparsifier).entries(spec.sparsifier)
        others = () if spec.states is None else spec.states.names
        stay = f"; those of {', '.join(others)} stay" if others else ""
        return [f"hidden states become {spec.sparsifier.name}, {entries} a target{stay}"]
    lines = []
    if spec.sparsifier != source.spec.sparsifier:
        lines.append(
            f"{source.spec.sparsifier.name} of {source.spec.sparsifier.k} entries becomes "
            f"{spec.sparsifier.name} of {spec.sparsifier.k}"
        )
    if spec.codec != source.spec.codec:
        lines.append(
            f"values are rounded once more: from {_in_words(source.spec)} to {_in_words(spec)}"
        )
    return lines


def _in_words(spec: StoreSpec) -> str:
    """The codec, with the fidelity that it has if that is a known one."""
    try:
        return f"{spec.codec.id}, {fidelity_of(spec)}"
    except SettingError:
        return spec.codec.id


def _as_integers(blocks: Sequence[EncodedBlock], spec: StoreSpec) -> list[EncodedBlock]:
    """The blocks of a shard as they are."""
    del spec
    return list(blocks)


@dataclass(frozen=True, slots=True)
class _Reencoding:
    """Decodes with the codec of the source, and encodes with that of the new store."""

    old: Codec

    def recode(self, blocks: Sequence[EncodedBlock], spec: StoreSpec) -> list[EncodedBlock]:
        """See `Recode`. Each block is decoded twice: first to rank its ids, then to be encoded."""
        new = codec_for(spec)
        read = _Decoded(blocks, self.old, spec.sparsifier)
        tables: Mapping[str, Any] = new.tables(read)
        return [
            some_documents(EncodedBlock(new.encode(block, tables), tables), None) for block in read
        ]


@dataclass(frozen=True, slots=True)
class _Decoded(Sequence[DocumentBlock]):
    """Blocks that are decoded each time that one is asked for: one is in memory at once."""

    blocks: Sequence[EncodedBlock]
    codec: Codec
    sparsifier: SparsifierSpec  # of the targets that they are to have

    def __len__(self) -> int:
        return len(self.blocks)

    @overload
    def __getitem__(self, index: int) -> DocumentBlock: ...
    @overload
    def __getitem__(self, index: slice) -> list[DocumentBlock]: ...

    def __getitem__(self, index: int | slice) -> DocumentBlock | list[DocumentBlock]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        block = decoded(self.blocks[index], self.codec)
        if self.sparsifier == self.codec.sparsifier:
            return block
        kind = sparsifier_of(self.sparsifier).targets
        nodes, k = self.sparsifier.tail_nodes, self.sparsifier.k
        return replace(
            block, targets=lowered(block.targets, k, nodes=nodes, kind=kind), other_draws=()
        )
