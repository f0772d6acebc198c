"""The codecs by id, their parameters, and the presets of `--fidelity`.

    rank-delta/1             topk, topp: a head and its tail
    rank-delta-weighted/1    unbiased, hybrid: exact entries, and drawn ones at a common weight
    rank-delta-counted/1     sample: entries drawn with replacement

Parameters are steps per nat: `value_steps` of log-probabilities, `floor_steps`, `tail_steps` and
`odds_steps` of a row's masses, `scalar_steps` of the label's log-probability and the entropy. The
error of a value is uniform in half a step to either side and the row's mass is kept, so the head's
KL is half the error's variance at most: (1 / value_steps)^2 / 24 nats for a row that is all head.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from logitstore.codec.rank_delta import RankDeltaCodec
from logitstore.codec.values import CountedValues, ExactValues, WeightedValues
from logitstore.errors import CorruptionError, SettingError
from logitstore.format.spec import CodecSpec
from logitstore.sparsify import sparsifier_of

if TYPE_CHECKING:
    from logitstore.format.spec import SparsifierSpec, StoreSpec

__all__ = ["CODECS", "FIDELITIES", "RankDeltaCodec", "build_codec", "codec_for", "new_codec"]

_MOST_STEPS = 1 << 16

# codec -> how it stores values, and the names of its parameters.
CODECS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "rank-delta/1": (
        ExactValues.of,
        ("value_steps", "floor_steps", "tail_steps", "scalar_steps"),
    ),
    "rank-delta-weighted/1": (
        WeightedValues.of,
        ("value_steps", "odds_steps", "tail_steps", "scalar_steps"),
    ),
    "rank-delta-counted/1": (CountedValues.of, ("scalar_steps",)),
}

# preset -> steps per nat. KL of a row that is all head: 2.6e-3, 2.9e-4, 1.0e-5 nats.
FIDELITIES: dict[str, dict[str, int]] = {
    "compact": {
        "value_steps": 4,
        "floor_steps": 256,
        "odds_steps": 128,
        "tail_steps": 256,
        "scalar_steps": 64,
    },
    "balanced": {
        "value_steps": 12,
        "floor_steps": 1024,
        "odds_steps": 512,
        "tail_steps": 1024,
        "scalar_steps": 256,
    },
    "exact": {
        "value_steps": 64,
        "floor_steps": 8192,
        "odds_steps": 8192,
        "tail_steps": 8192,
        "scalar_steps": 1024,
    },
}


def new_codec(
    sparsifier: SparsifierSpec, *, vocab_size: int, fidelity: str = "balanced"
) -> RankDeltaCodec:
    """The codec that a new store of such targets is written with."""
    if fidelity not in FIDELITIES:
        allowed = ", ".join(FIDELITIES)
        raise SettingError("--fidelity is unknown", found=fidelity, allowed=allowed)
    name = sparsifier_of(sparsifier).codec
    parameters = {step: FIDELITIES[fidelity][step] for step in CODECS[name][1]}
    return build_codec(CodecSpec(id=name, parameters=parameters), sparsifier, vocab_size=vocab_size)


def build_codec(codec: CodecSpec, sparsifier: SparsifierSpec, *, vocab_size: int) -> RankDeltaCodec:
    """The codec of that spec; CorruptionError if it is unknown or its parameters are no steps."""
    if codec.id not in CODECS:
        raise CorruptionError(
            "the store was written with a codec this version does not know",
            place="store.json: codec",
            found=codec.id,
            allowed=", ".join(CODECS),
            remedy="Install a newer version of logitstore",
        )
    declared = sparsifier_of(sparsifier)
    if declared.codec != codec.id:
        raise CorruptionError(
            "the codec does not serve the sparsifier",
            place="store.json: sparsifier",
            found=f"{sparsifier.name} with {codec.id}",
            allowed=f"{sparsifier.name} with {declared.codec}",
        )
    values_of, names = CODECS[codec.id]
    if set(codec.parameters) != set(names) or not all(
        type(steps) is int and 1 <= steps <= _MOST_STEPS for steps in codec.parameters.values()
    ):
        raise CorruptionError(
            "parameters of the codec are not as they should be",
            place=f"codec {codec.id}",
            found=codec.parameters,
            allowed=f"{', '.join(names)}, each 1..{_MOST_STEPS}",
        )
    return RankDeltaCodec(
        codec=codec,
        values_of=values_of,
        vocab_size=vocab_size,
        sparsifier=sparsifier,
        kind=declared.targets,
    )


def codec_for(spec: StoreSpec) -> RankDeltaCodec:
    """The codec that a store names, from the ones this version knows."""
    return build_codec(spec.codec, spec.sparsifier, vocab_size=spec.tokenizer.vocab_size)
