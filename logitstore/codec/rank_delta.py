"""SparseTargets <-> integer columns: ids re-ranked and delta-coded, log-probabilities in log space.

Token ids are most of the bytes of a store of this kind, so they are re-ranked by how often each
occurs as an entry of the shard, sorted by that rank within a row and stored as differences: small
numbers, which zstd packs to 3-4 bits. How values become codes depends on the kind of target
(`values.py`); code and id of an entry stand at the same place.

    id = ranking[cumsum(id_delta)]          ranking: [V], a table of the shard, rank -> id

Where targets have several draws, these lie side by side: draw d has entries d K .. (d + 1) K, and
scalars of its own, of the name `<scalar>_draw<d>` from the second draw on. Repeats at one
temperature share what does not depend on random numbers.

    rank-delta/1             a head of exact entries and its tail
    rank-delta-weighted/1    exact entries, and drawn ones at a common weight
    rank-delta-counted/1     entries drawn with replacement

Parameters are steps per nat: `value_steps` of log-probabilities, `floor_steps`, `tail_steps` and
`odds_steps` of a row's masses, `scalar_steps` of the label's log-probability and the entropy.

Shapes: R targets, K entries of a draw, V vocabulary, N tokens, D documents.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from logitstore.codec.base import CodecKind
from logitstore.codec.integers import (
    decode_documents,
    encode_documents,
    from_steps,
    scalar,
    whole_steps,
)
from logitstore.codec.values import CountedValues, ExactValues, WeightedValues
from logitstore.errors import CorruptionError, SettingError
from logitstore.format.columns import Columns
from logitstore.targets.documents import DocumentBlock
from logitstore.targets.targets import EMPTY_TAIL, SparseTargets, none_sampled

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from logitstore.codec.values import Values
    from logitstore.format.spec import CodecSpec, SparsifierSpec
    from logitstore.targets.kinds import TargetKind

__all__ = ["COUNTED", "HEADS", "WEIGHTED", "RankDeltaCodec"]

_RANKING = "ranking"

# 4,096 rows of 64 entries are 1 MiB an array: decoding takes a third less time than all at once.
_SLAB_ROWS = 4096
# Scalars that do not depend on random numbers: repeats of a draw share them.
_SHARED = ("odds", "entropy")


class RankDeltaCodec:
    """Rank-delta ids and values in whole steps: a `Codec`.

    What it keeps beyond that contract: ids come back in the order of rank, log-probabilities within
    half a value step of the originals, up to a shift of the row that keeps its mass, weights of
    sampled entries as they were, to the step of their sum, and scalars within half their step.
    """

    entries = ("id_delta", "code")  # names of the columns [R, K]

    def __init__(
        self,
        *,
        codec: CodecSpec,
        values: Values,
        vocab_size: int,
        sparsifier: SparsifierSpec,
        kind: TargetKind,
    ) -> None:
        self.spec = codec  # what a store writes down to build this codec again
        self.parameters = codec.parameters
        self.vocab_size = vocab_size
        self.sparsifier = sparsifier
        self.kind = kind
        # Most entries that are drawn without replacement occur in one row alone: a container had
        # better lay the n-th entries of all rows side by side.
        self.by_entry = not kind.rows_alike
        self._values = values

    @property
    def stated_kl(self) -> float:
        """See `Codec`."""
        return self._values.stated_kl

    @property
    def stated_drawn_kl(self) -> float:
        """See `Codec`: on top of the values, the entropy is rounded by half a step at most."""
        return self._values.stated_kl + 0.5 / self.parameters["scalar_steps"]

    def tables(self, blocks: Sequence[DocumentBlock]) -> dict[str, np.ndarray]:
        """The shard's ranking, uint32 [V]: ids by falling count as entries, ties by id."""
        counts_V = np.zeros(self.vocab_size, dtype=np.int64)
        for block in blocks:
            for targets in block.draws:
                used = targets.ids_RK[targets.used_RK()]
                counts_V += np.bincount(used, minlength=self.vocab_size)
        return {_RANKING: np.argsort(-counts_V, kind="stable").astype(np.uint32)}

    def check_tables(self, tables: Mapping[str, np.ndarray]) -> None:
        """CorruptionError unless a shard's tables are a ranking that holds each id once."""
        if set(tables) != {_RANKING}:
            raise CorruptionError(
                "tables missing or unknown", found=", ".join(sorted(tables)), allowed=_RANKING
            )
        ranking_V = tables[_RANKING]
        # Lengths first: V comes from the same store, and may be any number.
        if len(ranking_V) != self.vocab_size or not np.array_equal(
            np.sort(ranking_V), np.arange(self.vocab_size)
        ):
            raise CorruptionError(
                "the table of ids is no order of the vocabulary",
                found=f"{len(ranking_V)} ids",
                allowed=f"each of {self.vocab_size} ids once",
            )

    # --- a block ----------------------------------------------------------------------------

    def encode(self, block: DocumentBlock, tables: Mapping[str, np.ndarray]) -> Columns:
        """`block`, all its draws, as integers, its ids by their place in the ranking."""
        if any(targets.kind != self.kind for targets in block.draws):
            raise SettingError(
                "targets are of another kind than their sparsifier declares",
                place=f"--sparsify {self.sparsifier.name}",
                found=block.targets.kind,
                allowed=self.kind,
                remedy="Mend the sparsifier: its declaration and its targets must agree",
            )
        scalars: dict[str, np.ndarray] = {}
        parts = []
        for number, targets in enumerate(block.draws):
            deltas_RK, codes_RK, own = self._encode_draw(targets, tables[_RANKING])
            parts.append((deltas_RK, codes_RK))
            if number != self._first(number):
                own = {name: values_R for name, values_R in own.items() if name not in _SHARED}
            if number == 0:
                own["label_logprob"] = whole_steps(
                    -targets.label_logprob_R, self.parameters["scalar_steps"], what="label_logprob"
                )
            scalars |= {_name(name, number): values_R for name, values_R in own.items()}
        deltas, codes = zip(*parts, strict=True)
        return Columns(
            entries={
                "id_delta": np.concatenate(deltas, axis=1),
                "code": np.concatenate(codes, axis=1),
            },
            scalars=scalars,
            tokens_N=block.input_ids_N.astype(np.uint32),
            counted_N=block.counted_N.astype(np.uint8),
            documents_DC=encode_documents(block),
        )

    def decode(
        self, columns: Columns, tables: Mapping[str, np.ndarray], *, draw: int = 0
    ) -> DocumentBlock:
        """The block that `encode` was given, to within the steps; refused if it cannot be one.

        `tables` have passed `check_tables`. Of the draws only number `draw` is decoded, and
        `columns` may hold the entries of that draw alone.
        """
        if missing := [name for name in self.entries if name not in columns.entries]:
            raise CorruptionError("a column is missing", place=missing[0])
        _check_lengths(columns)
        return DocumentBlock(
            **decode_documents(columns.documents_DC),
            input_ids_N=self._checked_ids(columns.tokens_N),
            counted_N=columns.counted_N.astype(bool),
            targets=self._decode_draw(columns, tables[_RANKING], draw),
        )

    # --- a draw -----------------------------------------------------------------------------

    def _encode_draw(
        self, targets: SparseTargets, ranking_V: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
        """Deltas and codes [R, K] in the order of rank; the draw's scalars [R]."""
        slabs = [
            self._encode_slab(targets.rows(slice(start, start + _SLAB_ROWS)), ranking_V)
            for start in range(0, len(targets), _SLAB_ROWS)
        ]
        deltas, codes, parts = zip(*slabs, strict=True)
        scalars = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        scalars["entropy"] = whole_steps(
            targets.entropy_R, self.parameters["scalar_steps"], what="entropy"
        )
        scalars["count"] = targets.count_R.astype(np.uint32)
        return np.concatenate(deltas), np.concatenate(codes), scalars

    def _encode_slab(
        self, targets: SparseTargets, ranking_V: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
        codes_RK, scalars = self._values.encode(targets)
        # Rank and code travel through one sort as one integer; padding sorts to the end. Sorting
        # 32 bits takes half the time of 64.
        width: Any = np.uint32 if self.vocab_size < 1 << 16 else np.uint64
        key_of_V = np.empty(self.vocab_size, dtype=width)
        key_of_V[ranking_V] = np.arange(self.vocab_size, dtype=width) << width(16)
        keys_RK = key_of_V[targets.ids_RK]
        keys_RK |= codes_RK
        unused_RK = ~targets.used_RK()
        padded = bool(unused_RK.any())
        if padded:
            keys_RK[unused_RK] = np.iinfo(width).max
        keys_RK.sort(axis=1)
        codes_RK = keys_RK.astype(np.uint16)
        keys_RK >>= width(16)
        deltas_RK = keys_RK.astype(np.uint32)
        deltas_RK[:, 1:] -= keys_RK[:, :-1].astype(np.uint32)
        if padded:
            deltas_RK[unused_RK] = 0
            codes_RK[unused_RK] = 0
        return deltas_RK, codes_RK, scalars

    def _decode_draw(self, columns: Columns, ranking_V: np.ndarray, draw: int) -> SparseTargets:
        own = {}
        for name in _names_of(columns.scalars):
            held = _name(name, self._first(draw) if name in _SHARED else draw)
            if held in columns.scalars:
                own[name] = columns.scalars[held]
        deltas_RK, codes_RK = self._entries_of(columns, draw)
        rows, k = deltas_RK.shape
        count_R = _checked_counts(scalar(own, "count"), k)
        ids_RK = np.empty((rows, k), dtype=np.uint32)
        logprobs_RK = np.empty((rows, k), dtype=np.float32)
        sampled, tails = [], []
        # A slab of rows at a time, so that it stays in cache.
        for start in range(0, rows, _SLAB_ROWS):
            slab = slice(start, start + _SLAB_ROWS)
            ids_RK[slab] = ranking_V[self._checked_ranks(deltas_RK[slab])]
            part = {name: values_R[slab] for name, values_R in own.items()}
            codes_SK = codes_RK[slab].astype(np.uint16, copy=False)
            decoded = self._values.decode(codes_SK, part)
            logprobs_RK[slab] = decoded.logprobs_RK
            sampled.append(decoded.sampled_RK)
            tails.append(decoded.tail_logmass_RB)
        sampled_RK = none_sampled(rows, k)
        if self.kind.drawn:
            sampled_RK = np.concatenate(sampled) if sampled else np.zeros((0, k), dtype=bool)
        targets = SparseTargets(
            kind=self.kind,
            ids_RK=ids_RK,
            logprobs_RK=logprobs_RK,
            sampled_RK=sampled_RK,
            count_R=count_R,
            tail_logmass_RB=np.concatenate(tails),
            label_logprob_R=-self._nats(columns.scalars, "label_logprob"),
            entropy_R=self._nats(own, "entropy"),
        )
        if (count_R != k).any():
            padding_RK = ~targets.used_RK()
            targets.ids_RK[padding_RK] = 0
            targets.logprobs_RK[padding_RK] = EMPTY_TAIL
            if self.kind.drawn:
                targets.sampled_RK[padding_RK] = False
        return targets

    def _first(self, draw: int) -> int:
        """The first draw at the temperature of `draw`."""
        return draw - draw % self.sparsifier.repeats

    def _entries_of(self, columns: Columns, draw: int) -> tuple[np.ndarray, np.ndarray]:
        """Deltas and codes [R, K] of one draw."""
        deltas_RK, codes_RK = (columns.entries[name] for name in self.entries)
        k, wide = self.sparsifier.k, deltas_RK.shape[1]
        draws = self.sparsifier.draw_count
        if wide == k:  # the entries of the wanted draw alone
            return deltas_RK, codes_RK
        if wide != k * draws:
            raise CorruptionError(
                "rows have another number of entries than the spec says",
                place="id_delta",
                found=wide,
                allowed=f"{k} for each of {draws} draws",
            )
        own = slice(draw * k, (draw + 1) * k)
        return deltas_RK[:, own], codes_RK[:, own]

    def _nats(self, scalars: Mapping[str, np.ndarray], name: str) -> np.ndarray:
        return from_steps(scalar(scalars, name), self.parameters["scalar_steps"])

    def _checked_ranks(self, deltas_RK: np.ndarray) -> np.ndarray:
        ranks_RK = np.cumsum(deltas_RK, axis=1, dtype=np.uint32)
        if int(ranks_RK.max()) >= self.vocab_size:
            raise CorruptionError(
                "an entry's rank is beyond the vocabulary",
                place="id_delta",
                found=int(ranks_RK.max()),
                allowed=f"below {self.vocab_size}",
            )
        return ranks_RK

    def _checked_ids(self, ids: np.ndarray) -> np.ndarray:
        if ids.size and int(ids.max()) >= self.vocab_size:
            raise CorruptionError(
                "input ids reach beyond the vocabulary",
                found=int(ids.max()),
                allowed=f"below {self.vocab_size}",
            )
        return ids


def _kind(
    name: str,
    summary: str,
    values_of: Callable[[SparsifierSpec, int, Mapping[str, int]], Values],
    *parameters: str,
) -> CodecKind:
    """The codec `name` with those of the steps that it has use for."""

    def build(
        codec: CodecSpec, sparsifier: SparsifierSpec, kind: TargetKind, vocab_size: int
    ) -> RankDeltaCodec:
        return RankDeltaCodec(
            codec=codec,
            values=values_of(sparsifier, vocab_size, codec.parameters),
            vocab_size=vocab_size,
            sparsifier=sparsifier,
            kind=kind,
        )

    presets = {
        fidelity: {one: steps[one] for one in parameters} for fidelity, steps in _STEPS.items()
    }
    return CodecKind(id=name, summary=summary, presets=presets, build=build)


# Preset -> steps per nat. KL of a row that is all head: 2.6e-3, 2.9e-4, 1.0e-5 nats.
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

HEADS = _kind(
    "rank-delta/1",
    "a head of exact entries and its tail",
    ExactValues.of,
    *("value_steps", "floor_steps", "tail_steps", "scalar_steps"),
)
WEIGHTED = _kind(
    "rank-delta-weighted/1",
    "exact entries, and drawn ones at a common weight",
    WeightedValues.of,
    *("value_steps", "odds_steps", "tail_steps", "scalar_steps"),
)
COUNTED = _kind(
    "rank-delta-counted/1", "entries drawn with replacement", CountedValues.of, "scalar_steps"
)


def _name(name: str, draw: int) -> str:
    return name if draw == 0 else f"{name}_draw{draw}"


def _names_of(scalars: Mapping[str, np.ndarray]) -> list[str]:
    return [name for name in scalars if "_draw" not in name]


def _checked_counts(count_R: np.ndarray, k: int) -> np.ndarray:
    counts_R = count_R.astype(np.int32)
    if counts_R.size and not (counts_R.min() >= 1 and counts_R.max() <= k):
        raise CorruptionError(
            "a row's count is out of range",
            place="count",
            found=f"{counts_R.min()}..{counts_R.max()}",
            allowed=f"1..{k}",
        )
    return counts_R


def _check_lengths(columns: Columns) -> None:
    """The table of documents, the tokens and the targets must tell of the same block."""
    tokens, targets = (int(columns.documents_DC[:, column].sum()) for column in (4, 5))
    found = (len(columns.tokens_N), len(columns.entries["id_delta"]), int(columns.counted_N.sum()))
    if found != (tokens, targets, targets):
        raise CorruptionError(
            "the table of documents does not add up",
            place="documents",
            found=f"{found[0]} tokens, {found[1]} targets, {found[2]} counted tokens",
            allowed=f"{tokens} tokens, {targets} targets",
        )
