"""SparseTargets <-> integer columns: ids re-ranked and delta-coded, log-probabilities in log space.

Token ids are most of the bytes of such a store. They are replaced by ranks, by how often each id
occurs as an entry of the shard, sorted by rank within each row and stored as differences: small
numbers, which zstd compresses to 3-4 bits. How values become codes depends on the kind of target
(`values.py`). The code and the id of an entry have the same place in their columns.

    id = ranking[cumsum(id_delta)]          ranking: [V], a table of the shard, rank -> id

Where targets have several draws, draw d has the entries d K .. (d + 1) K, and scalars of its own,
which are named `<scalar>_draw<d>` from the second draw on. Scalars that do not depend on random
numbers are stored once for all repeats at one temperature.

The codecs that store ids so, and their parameters, stand in `rank_delta_kinds.py`.

Shapes: R targets, K entries of a draw, V vocabulary, N tokens, D documents.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from logitstore.codec.base import NAME, RESERVED_NAMES
from logitstore.codec.integers import (
    decode_documents,
    encode_documents,
    from_steps,
    scalar,
    whole_steps,
)
from logitstore.codec.reranking import RankedBlock, ranking_of, reranked
from logitstore.errors import CorruptionError, SettingError
from logitstore.format.columns import Columns
from logitstore.targets.documents import DocumentBlock
from logitstore.targets.targets import EMPTY_TAIL, SparseTargets, none_sampled

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from logitstore.codec.values import Values
    from logitstore.format.spec import CodecSpec, SparsifierSpec
    from logitstore.targets.kinds import TargetKind

__all__ = ["RankDeltaCodec"]

_RANKING = "ranking"

# Rows that are coded at once: 4,096 rows of 64 entries are 1 MiB per array. Decoding takes a third
# less time than with all rows at once.
_SLAB_ROWS = 4096
# The scalars of the codec itself: those of every draw, and the one that a target has once. The
# scalars of `Values` may not have these names.
_OF_DRAWS = ("entropy", "count")
_OF_TARGETS = "label_logprob"
_SAMPLER = "sampler_logprob"  # of a block whose documents say how they were drawn
_DRAW = "_draw"


class RankDeltaCodec:
    """A `Codec` that stores ids as differences of ranks, and values as `values` codes them.

    Ids come back in the order of their ranks. With the `Values` of this package, log-probabilities
    are within half a value step, up to a shift of the row that keeps its mass; weights of sampled
    entries are within the step of their sum; scalars are within half their step.

    Args:
        codec: Spec of the codec; its parameters must contain `scalar_steps`.
        values: How log-probabilities, tails and the kinds of entries are coded.
        vocab_size: The number of tokens, V.
        sparsifier: Spec of the sparsifier whose targets are stored.
        kind: The kind of these targets.

    Raises TypeError where a scalar of `values` has a name that the codec or a container uses.
    """

    entries = ("id_delta", "code")  # names of the columns [R, K]
    table_names = (_RANKING,)

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
        # Most entries that are drawn without replacement occur in one row only.
        self.by_entry = not kind.rows_alike
        self._values = values
        self._check_names()
        # What only the whole distribution tells is no column where nobody has seen it.
        of_draws = _OF_DRAWS if kind.knows_whole else ("count",)
        self._of_targets = (_OF_TARGETS,) if kind.knows_whole else ()
        self._names = (*values.names, *of_draws)
        # The entropy is that of the whole distribution, which is the same for all repeats.
        self._shared = {*values.shared, "entropy"}

    @property
    def stated_kl(self) -> float:
        """See `Codec`."""
        return self._values.stated_kl()

    @property
    def stated_drawn_kl(self) -> float:
        """See `Codec`: on top of the values, the entropy is rounded by half a step at most."""
        return self._values.stated_kl() + 0.5 / self.parameters["scalar_steps"]

    def stated_kl_at(self, temperature: float) -> float:
        """See `Codec`. Draws made at a temperature have their own values, as those of T = 1 are."""
        kept = self.kind.keeps_tail
        return self._values.stated_kl(temperature=max(1.0, temperature) if kept else 1.0)

    def scalar_names(self, *, sampler_logprobs: bool) -> tuple[str, ...]:
        """See `Codec`: those of every draw, but what repeats share is of the first of them."""
        own = [
            [
                _name(name, draw)
                for name in self._names
                if draw == self._first(draw) or name not in self._shared
            ]
            for draw in range(self.sparsifier.draw_count)
        ]
        others = [name for names in own[1:] for name in names]
        return (
            *own[0],
            *self._of_targets,
            *others,
            *([_SAMPLER] if sampler_logprobs else []),
        )

    def tables(self, blocks: Sequence[DocumentBlock]) -> dict[str, np.ndarray]:
        """The ranking, uint32 [V]: ids by how often they are entries of `blocks`, ties by id."""
        counts_V = np.zeros(self.vocab_size, dtype=np.int64)
        for block in blocks:
            for targets in block.draws:
                used = targets.ids_RK[targets.used_RK()]
                counts_V += np.bincount(used, minlength=self.vocab_size)
        return {_RANKING: np.argsort(-counts_V, kind="stable").astype(np.uint32)}

    def check_tables(self, tables: Mapping[str, np.ndarray]) -> None:
        """Raise CorruptionError unless the tables are one ranking that holds each id once."""
        if set(tables) != {_RANKING}:
            raise CorruptionError(
                "tables missing or unknown", found=", ".join(sorted(tables)), allowed=_RANKING
            )
        ranking_V = tables[_RANKING]
        # Lengths first: V comes from the same store, and may be any number.
        if len(ranking_V) != self.vocab_size or not _holds_each_once(ranking_V):
            raise CorruptionError(
                "the table of ids is no order of the vocabulary",
                found=f"{len(ranking_V)} ids",
                allowed=f"each of {self.vocab_size} ids once",
            )

    # --- a block ----------------------------------------------------------------------------

    def encode(self, block: DocumentBlock, tables: Mapping[str, np.ndarray]) -> Columns:
        """See `Codec`: the block with all its draws; ids are replaced by their rank."""
        if any(targets.kind != self.kind for targets in block.draws):
            raise SettingError(
                "targets are of another kind than their sparsifier declares",
                place=f"--sparsify {self.sparsifier.name}",
                found=block.targets.kind,
                allowed=self.kind,
                remedy="Correct the sparsifier: its declaration and its targets must agree",
            )
        scalars: dict[str, np.ndarray] = {}
        parts = []
        for number, targets in enumerate(block.draws):
            deltas_RK, codes_RK, own = self._encode_draw(targets, tables[_RANKING])
            parts.append((deltas_RK, codes_RK))
            if number != self._first(number):
                own = self._without_shared(own, scalars, number)
            if number == 0 and self.kind.knows_whole:
                own[_OF_TARGETS] = whole_steps(
                    -targets.label_logprob_R, self.parameters["scalar_steps"], what=_OF_TARGETS
                )
            scalars |= {_name(name, number): values_R for name, values_R in own.items()}
        if block.sampler_logprobs_R is not None:
            scalars[_SAMPLER] = whole_steps(
                -block.sampler_logprobs_R, self.parameters["scalar_steps"], what=_SAMPLER
            )
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
        """See `Codec`: the block with the targets of draw number `draw`."""
        if missing := [name for name in self.entries if name not in columns.entries]:
            raise CorruptionError("a column is missing", place=missing[0])
        _check_lengths(columns)
        return DocumentBlock(
            **decode_documents(columns.documents_DC),
            input_ids_N=self._checked_ids(columns.tokens_N),
            counted_N=columns.counted_N.astype(bool),
            targets=self._decode_draw(columns, tables[_RANKING], draw),
            sampler_logprobs_R=(
                -self._nats(columns.scalars, _SAMPLER) if _SAMPLER in columns.scalars else None
            ),
        )

    def join(
        self, blocks: Sequence[tuple[Columns, Mapping[str, np.ndarray]]]
    ) -> tuple[list[Columns], dict[str, np.ndarray]]:
        """See `JoinsShards`: ids are ranked by how often they are entries of all the blocks."""
        names = [_name("count", draw) for draw in range(self.sparsifier.draw_count)]
        ranked = []
        for columns, tables in blocks:
            _check_lengths(columns)
            counts = [
                _checked_counts(scalar(columns.scalars, name), self.sparsifier.k) for name in names
            ]
            for draw in range(len(names)):
                deltas_RK, _ = self._entries_of(columns, draw)
                self._checked_ranks(deltas_RK)
            ranked.append(RankedBlock(columns, tables[_RANKING], counts))
        ranking_V = ranking_of(ranked)
        return [reranked(one, ranking_V) for one in ranked], {_RANKING: ranking_V}

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
        if self.kind.knows_whole:
            scalars["entropy"] = whole_steps(
                targets.entropy_R, self.parameters["scalar_steps"], what="entropy"
            )
        scalars["count"] = targets.count_R.astype(np.uint32)
        return np.concatenate(deltas), np.concatenate(codes), scalars

    def _encode_slab(
        self, targets: SparseTargets, ranking_V: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
        codes_RK, scalars = self._values.encode(targets)
        if set(scalars) != set(self._values.names):
            raise TypeError(
                f"codec {self.spec.id}: values declare the scalars {', '.join(self._values.names)} "
                f"and encode {', '.join(scalars)}"
            )
        # Rank and code are sorted as one integer, and padding goes to the end. Sorting 32 bits
        # takes half the time of 64.
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
        for name in self._names:
            held = _name(name, self._first(draw) if name in self._shared else draw)
            if held in columns.scalars:
                own[name] = columns.scalars[held]
        deltas_RK, codes_RK = self._entries_of(columns, draw)
        rows, k = deltas_RK.shape
        count_R = _checked_counts(scalar(own, "count"), k)
        ids_RK = np.empty((rows, k), dtype=np.uint32)
        logprobs_RK = np.empty((rows, k), dtype=np.float32)
        sampled, tails = [], []
        # Some rows at a time, so that they stay in the cache.
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
            label_logprob_R=-self._whole(columns.scalars, _OF_TARGETS, rows=rows),
            entropy_R=self._whole(own, "entropy", rows=rows),
        )
        if (count_R != k).any():
            padding_RK = ~targets.used_RK()
            targets.ids_RK[padding_RK] = 0
            targets.logprobs_RK[padding_RK] = EMPTY_TAIL
            if self.kind.drawn:
                targets.sampled_RK[padding_RK] = False
        return targets

    def _without_shared(
        self, own: dict[str, np.ndarray], scalars: Mapping[str, np.ndarray], draw: int
    ) -> dict[str, np.ndarray]:
        """The scalars `own` of a repeat, without those that are stored with the first one."""
        for name in self._shared:
            first_R = scalars[_name(name, self._first(draw))].astype(np.int64)
            if (np.abs(own[name] - first_R) > 1).any():  # the sum of a row may round differently
                raise SettingError(
                    f"{name} differs between the repeats of a draw, and is stored once for all",
                    place=f"--sparsify {self.sparsifier.name}",
                    remedy="Leave the name out of `shared` of the codec's values",
                )
        return {name: values_R for name, values_R in own.items() if name not in self._shared}

    def _check_names(self) -> None:
        """TypeError where the scalars of `values` have names that mean something else."""
        taken = {
            *_OF_DRAWS,
            _OF_TARGETS,
            _SAMPLER,
            *self.entries,
            *(f"{one}s" for one in self.entries),
        }
        names = self._values.names
        wrong = [
            name
            for name in names
            if name in taken | RESERVED_NAMES or not NAME.fullmatch(name) or _DRAW in name
        ]
        if wrong or len(set(names)) < len(names) or not set(self._values.shared) <= set(names):
            raise TypeError(
                f"codec {self.spec.id}: scalars of values are named {', '.join(names)}; each name "
                f"must be there once, in lower case, without {_DRAW!r}, and none of "
                f"{', '.join(sorted(taken | RESERVED_NAMES))}; `shared` must be some of them"
            )

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

    def _whole(self, scalars: Mapping[str, np.ndarray], name: str, *, rows: int) -> np.ndarray:
        """float32 [R], nats: what the whole distribution tells; NaN where nobody has seen it."""
        if not self.kind.knows_whole:
            return np.full(rows, np.nan, dtype=np.float32)
        return self._nats(scalars, name)

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


def _holds_each_once(ranking_V: np.ndarray) -> bool:
    """Whether the numbers are 0 to V - 1 in some order; it takes one byte for each."""
    seen_V = np.zeros(len(ranking_V), dtype=bool)
    if int(ranking_V.max(initial=0)) < len(ranking_V):
        seen_V[ranking_V] = True
    return bool(seen_V.all())


def _name(name: str, draw: int) -> str:
    return name if draw == 0 else f"{name}{_DRAW}{draw}"


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
    """The table of documents, the tokens and every column must be of the same block."""
    tokens, targets = (int(columns.documents_DC[:, column].sum()) for column in (4, 5))
    found = (len(columns.tokens_N), len(columns.counted_N), int(columns.counted_N.sum()))
    if found != (tokens, tokens, targets):
        raise CorruptionError(
            "the table of documents does not add up",
            place="documents",
            found=f"{found[0]} tokens, {found[2]} of {found[1]} counted",
            allowed=f"{tokens} tokens, {targets} targets",
        )
    wide = columns.entries["id_delta"].shape[1]
    shapes = dict.fromkeys(columns.entries, (targets, wide)) | dict.fromkeys(
        columns.scalars, (targets,)
    )
    for name, held in (*columns.entries.items(), *columns.scalars.items()):
        if held.shape != shapes[name]:
            raise CorruptionError(
                "a column is too short or too long",
                place=name,
                found=held.shape,
                allowed=shapes[name],
            )
