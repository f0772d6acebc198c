"""The codecs of the rank-delta family: which values each stores, and its presets.

    rank-delta/2             a head of exact entries and its tail
    rank-delta-weighted/2    exact entries, and drawn ones at a common weight
    rank-delta-counted/1     entries drawn with replacement
    rank-delta/1, rank-delta-weighted/1    as older stores have them, with even steps of values

Parameters are steps per nat: `value_steps` of log-probabilities (at the top of a row, where they
fall to `least_steps`), `floor_steps`, `tail_steps` and
`odds_steps` of a row's masses, `scalar_steps` of the label's log-probability and the entropy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from logitstore.codec.base import CodecKind
from logitstore.codec.rank_delta import RankDeltaCodec
from logitstore.codec.values import CountedValues, ExactValues, WeightedValues
from logitstore.targets.kinds import Entries

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from logitstore.codec.values import Values
    from logitstore.format.spec import CodecSpec, SparsifierSpec
    from logitstore.targets.kinds import TargetKind

__all__ = [
    "COUNTED",
    "EVEN_HEADS",
    "EVEN_WEIGHTED",
    "HEADS",
    "WEIGHTED",
    "rank_delta_kind",
]


def rank_delta_kind(
    name: str,
    summary: str,
    *,
    fits: Callable[[TargetKind], bool],
    values_of: Callable[[SparsifierSpec, int, Mapping[str, int]], Values],
    presets: Mapping[str, Mapping[str, int]],
) -> CodecKind:
    """The declaration of a codec that stores ids as `RankDeltaCodec` does.

    Args:
        name: Its id, "name/version".
        summary: What it stores of which targets, in a few words.
        fits: Whether the values can hold targets of a kind. The codec of a sparsifier whose targets
            they cannot hold is refused by a TypeError when it is built.
        values_of: Makes the `Values` from the spec of the sparsifier, the size of the vocabulary
            and the parameters.
        presets: For each name of FIDELITIES the parameters; `scalar_steps` must be among them.
    """

    def build(
        codec: CodecSpec, sparsifier: SparsifierSpec, kind: TargetKind, vocab_size: int
    ) -> RankDeltaCodec:
        if not fits(kind):
            raise TypeError(
                f"codec {name} stores {summary}; it cannot hold the targets of sparsifier "
                f"{sparsifier.name}, which are {kind}"
            )
        return RankDeltaCodec(
            codec=codec,
            values=values_of(sparsifier, vocab_size, codec.parameters),
            vocab_size=vocab_size,
            sparsifier=sparsifier,
            kind=kind,
        )

    return CodecKind(id=name, summary=summary, presets=presets, build=build)


# Preset -> steps per nat. KL of a row that is all head: 2.6e-3, 2.9e-4, 1.0e-5 nats where steps are
# even and errors uniform; falling steps have about the same, in fewer bits.
_STEPS: dict[str, dict[str, int]] = {
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
_HEAD_STEPS: dict[str, dict[str, int]] = {
    "compact": {"value_steps": 4, "least_steps": 2, "tail_steps": 128},
    "balanced": {"value_steps": 24, "least_steps": 4, "tail_steps": 512},
    "exact": {"value_steps": 64, "least_steps": 64, "tail_steps": 8192},
}
_WEIGHTED_STEPS: dict[str, dict[str, int]] = {
    "compact": {"value_steps": 4, "least_steps": 2, "tail_steps": 128},
    "balanced": {"value_steps": 16, "least_steps": 4, "tail_steps": 512},
    "exact": {"value_steps": 64, "least_steps": 64, "tail_steps": 8192},
}


def _presets(
    *parameters: str, changed: Mapping[str, Mapping[str, int]] | None = None
) -> dict[str, dict[str, int]]:
    """Those of the steps that a codec has a use for, some of them `changed`."""
    return {
        fidelity: {one: steps[one] for one in parameters} | dict((changed or {}).get(fidelity, {}))
        for fidelity, steps in _STEPS.items()
    }


def _is_head(kind: TargetKind) -> bool:
    return kind.entries in (Entries.EXACT, Entries.SHARES)


def _is_weighted(kind: TargetKind) -> bool:
    return kind.entries is Entries.WEIGHTED and kind.weights_sum_to_one


EVEN_HEADS = rank_delta_kind(
    "rank-delta/1",
    "a head of exact entries and its tail",
    fits=_is_head,
    values_of=ExactValues.even,
    presets=_presets("value_steps", "floor_steps", "tail_steps", "scalar_steps"),
)
HEADS = rank_delta_kind(
    "rank-delta/2",
    "a head of exact entries and its tail",
    fits=_is_head,
    values_of=ExactValues.falling,
    presets=_presets("floor_steps", "scalar_steps", changed=_HEAD_STEPS),
)
EVEN_WEIGHTED = rank_delta_kind(
    "rank-delta-weighted/1",
    "exact entries, and drawn ones at a common weight",
    fits=_is_weighted,
    values_of=WeightedValues.even,
    presets=_presets("value_steps", "odds_steps", "tail_steps", "scalar_steps"),
)
WEIGHTED = rank_delta_kind(
    "rank-delta-weighted/2",
    "exact entries, and drawn ones at a common weight",
    fits=_is_weighted,
    values_of=WeightedValues.falling,
    presets=_presets("odds_steps", "scalar_steps", changed=_WEIGHTED_STEPS),
)
COUNTED = rank_delta_kind(
    "rank-delta-counted/1",
    "entries drawn with replacement",
    fits=lambda kind: kind.entries is Entries.COUNTED and not kind.keeps_tail,
    values_of=lambda spec, vocab_size, parameters: CountedValues(draws=spec.k),
    presets=_presets("scalar_steps"),
)
