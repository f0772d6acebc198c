"""The codecs by id: SparseTargets as integer columns, and back.

To add a codec, write a module of this folder that declares a `CodecKind`, and add it to `CODECS`.
Each sparsifier names the codec that stores its targets, and those that older stores may have.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from logitstore.codec.base import FIDELITIES, Codec, CodecKind
from logitstore.codec.rank_delta_kinds import (
    COUNTED,
    EVEN_HEADS,
    EVEN_WEIGHTED,
    HEADS,
    WEIGHTED,
)
from logitstore.codec.with_states import StatesCodec
from logitstore.errors import CorruptionError, SettingError
from logitstore.format.spec import CodecSpec
from logitstore.sparsify import sparsifier_of

if TYPE_CHECKING:
    from logitstore.format.spec import SparsifierSpec, StoreSpec

__all__ = ["CODECS", "FIDELITIES", "Codec", "CodecKind", "build_codec", "codec_for", "new_codec"]

_MOST = 1 << 16  # value of a parameter

CODECS: dict[str, CodecKind] = {
    one.id: one
    for one in (
        HEADS,
        WEIGHTED,
        COUNTED,
        EVEN_HEADS,
        EVEN_WEIGHTED,
    )
}


def new_codec(sparsifier: SparsifierSpec, *, vocab_size: int, fidelity: str = "balanced") -> Codec:
    """The codec that a new store is written with.

    Args:
        sparsifier: Spec of the sparsifier whose targets are stored.
        vocab_size: The number of tokens, V.
        fidelity: The preset of the codec's parameters, a name of `FIDELITIES`.

    Raises SettingError for an unknown fidelity.
    """
    if fidelity not in FIDELITIES:
        allowed = ", ".join(FIDELITIES)
        raise SettingError("--fidelity is unknown", found=fidelity, allowed=allowed)
    kind = CODECS[sparsifier_of(sparsifier).codec]
    spec = CodecSpec(id=kind.id, parameters=dict(kind.presets[fidelity]))
    return build_codec(spec, sparsifier, vocab_size=vocab_size)


def build_codec(codec: CodecSpec, sparsifier: SparsifierSpec, *, vocab_size: int) -> Codec:
    """The codec of a store.

    Args:
        codec: Spec of the codec.
        sparsifier: Spec of the sparsifier whose targets are stored.
        vocab_size: The number of tokens, V.

    Raises CorruptionError where the codec is unknown, is not that of the sparsifier, or has
    parameters that are not allowed.
    """
    if codec.id not in CODECS:
        raise CorruptionError(
            "the store was written with a codec this version does not know",
            place="store.json: codec",
            found=codec.id,
            allowed=", ".join(CODECS),
            remedy="Install a newer version of logitstore",
        )
    declared = sparsifier_of(sparsifier)
    if codec.id not in (declared.codec, *declared.older_codecs):
        raise CorruptionError(
            "the codec does not serve the sparsifier",
            place="store.json: sparsifier",
            found=f"{sparsifier.name} with {codec.id}",
            allowed=f"{sparsifier.name} with {declared.codec}",
        )
    names = set(CODECS[codec.id].presets[FIDELITIES[0]])
    if set(codec.parameters) != names or not all(
        type(value) is int and 1 <= value <= _MOST for value in codec.parameters.values()
    ):
        raise CorruptionError(
            "parameters of the codec are missing, unknown or out of range",
            place=f"codec {codec.id}",
            found=codec.parameters,
            allowed=f"{', '.join(sorted(names))}, each 1..{_MOST}",
        )
    return CODECS[codec.id].build(codec, sparsifier, declared.targets, vocab_size)


def codec_for(spec: StoreSpec) -> Codec:
    """The codec of the store that has this spec, which knows its hidden states too.

    Raises CorruptionError as `build_codec` does, and where the sparsifier needs states that the
    store does not keep.
    """
    codec = build_codec(spec.codec, spec.sparsifier, vocab_size=spec.tokenizer.vocab_size)
    has_head = spec.states is not None and spec.states.head is not None
    if sparsifier_of(spec.sparsifier).targets.keeps_state != has_head:
        raise CorruptionError(
            "the sparsifier keeps the last hidden state and the output layer, or neither",
            place="store.json: states",
            found=f"{spec.sparsifier.name} {'with' if has_head else 'without'} an output layer",
        )
    return codec if spec.states is None else StatesCodec(inner=codec, states=spec.states)
