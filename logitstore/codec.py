"""SparseTargets <-> integer columns: ids re-ranked and delta-coded, log-probabilities in log space.

Token ids are most of the bytes of a store of this kind, so they are re-ranked by how often each
occurs as an entry of the shard, sorted by that rank within a row and stored as differences: small
numbers, which zstd packs to 3-4 bits. Log-probabilities are whole steps above the row's floor, and
the floor is chosen so that the row keeps the mass it had.

    id      = ranking[cumsum(id_delta)]                      ranking: [V] per shard, rank -> id
    logprob = code - 1 steps above the row's floor           code >= 1
    code 0  = sampled: the entry weighs `common_weight`      (and padding, beyond `count`)

Shapes: R targets, K entries, V vocabulary, B stored temperatures, N tokens, D documents.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from logitstore.columns import DOCUMENT_COLUMNS, Columns
from logitstore.documents import DocumentBlock
from logitstore.errors import CorruptionError, SettingError
from logitstore.spec import CodecSpec
from logitstore.targets import EMPTY_TAIL, SparseTargets

if TYPE_CHECKING:
    from collections.abc import Sequence

    from logitstore.spec import StoreSpec

__all__ = ["CODECS", "RankDeltaCodec", "codec_for"]

_MAX_CODE = (1 << 16) - 1
_MAX_SCALAR = (1 << 24) - 1
# 4,096 rows of 64 entries are 1 MiB an array: decoding takes a third less time than all at once.
_SLAB_ROWS = 4096


class RankDeltaCodec:
    """Rank-delta ids and log-space codes. All steps are stated as steps per nat.

    Contract: `decode(encode(block))` gives the same documents, the same set of ids in each row (in
    rank order), log-probabilities within half a value step of the originals, up to a shift of the
    row that keeps its mass to within half a floor step; and the scalars within half their step.
    Equal blocks give equal columns.

    The defaults: at 12 value steps per nat the error is uniform in +-1/24 nat and the row's mass is
    kept, so its KL is half the error's variance at most, (1/12)^2 / 24 = 2.9e-4 nats for a row that
    is all head. 1024 floor and tail steps per nat keep head and tail mass to 0.05 %.
    """

    id = "rank-delta/1"
    defaults: ClassVar = {
        "value_steps": 12,
        "floor_steps": 1024,
        "tail_steps": 1024,
        "scalar_steps": 256,
    }

    def __init__(
        self,
        *,
        vocab_size: int,
        tail_nodes: Sequence[float],
        parameters: dict[str, int] | None = None,
    ) -> None:
        parameters = self.defaults if parameters is None else parameters
        if set(parameters) != set(self.defaults) or not all(
            isinstance(steps, int) and 1 <= steps <= 1 << 16 for steps in parameters.values()
        ):
            raise CorruptionError(
                "parameters of the codec are not as they should be",
                place=f"codec {self.id}",
                found=parameters,
                allowed=f"{', '.join(self.defaults)}, each 1..65536",
            )
        self.parameters = dict(parameters)
        self.vocab_size = vocab_size
        self.tail_nodes = tuple(tail_nodes)
        # sum over the tail of p^b is at most V^(1 - b): the largest log-mass any tail can have.
        self._tail_top_B = [math.ceil((1 - node) * math.log(vocab_size)) for node in tail_nodes]

    @property
    def spec(self) -> CodecSpec:
        """What a store writes down to build this codec again."""
        return CodecSpec(id=self.id, parameters=self.parameters)

    # --- ids --------------------------------------------------------------------------------

    def rank(self, blocks: Sequence[DocumentBlock]) -> np.ndarray:
        """uint32 [V]: the ids by falling count as entries of `blocks`, ties by id."""
        counts_V = np.zeros(self.vocab_size, dtype=np.int64)
        for block in blocks:
            used = block.targets.ids_RK[block.targets.used_RK()]
            counts_V += np.bincount(used, minlength=self.vocab_size)
        return np.argsort(-counts_V, kind="stable").astype(np.uint32)

    # --- a block ----------------------------------------------------------------------------

    def encode(self, block: DocumentBlock, ranking_V: np.ndarray) -> Columns:
        """`block` as integers, its ids by their place in `ranking_V`."""
        targets = block.targets
        slabs = [
            self._encode_slab(targets.rows(slice(start, start + _SLAB_ROWS)), ranking_V)
            for start in range(0, len(targets), _SLAB_ROWS)
        ]
        deltas, codes, floors, commons = zip(*slabs, strict=True)
        sampled = targets.weights_RK is not None
        return Columns(
            id_deltas_RK=np.concatenate(deltas),
            codes_RK=np.concatenate(codes),
            scalars=self._encode_scalars(
                targets, np.concatenate(floors), np.concatenate(commons) if sampled else None
            ),
            tokens_N=block.input_ids_N.astype(np.uint32),
            counted_N=block.counted_N.astype(np.uint8),
            documents_DC=_encode_documents(block),
        )

    def decode(self, columns: Columns, ranking_V: np.ndarray) -> DocumentBlock:
        """The block that `encode` was given, to within the steps; refused if it cannot be one."""
        _check_lengths(columns)
        return DocumentBlock(
            **_decode_documents(columns.documents_DC),
            input_ids_N=self._checked_ids(columns.tokens_N, what="input ids"),
            counted_N=columns.counted_N.astype(bool),
            targets=self._decode_targets(columns, ranking_V),
        )

    # --- values -----------------------------------------------------------------------------

    def _encode_slab(
        self, targets: SparseTargets, ranking_V: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Deltas and codes [R, K] in the order of rank; floors and log common weights [R]."""
        codes_RK, floor_R, common_R = self._encode_values(targets)
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
        return deltas_RK, codes_RK, floor_R, common_R

    def _encode_values(self, targets: SparseTargets) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Codes [R, K], the floors [R] that keep each row's mass, log common weights [R]."""
        exact_RK, common_R = _split_sampled(targets)
        steps = np.float32(self.parameters["value_steps"])
        logprobs_RK = targets.logprobs_RK
        least_R = logprobs_RK.min(axis=1, where=exact_RK, initial=np.inf)
        least_R[np.isinf(least_R)] = 0.0
        # Where a row spans more than 65,534 steps its least entries, which weigh nothing, are
        # raised to the lowest code; its top must never be lowered to the highest.
        top_R = logprobs_RK.max(axis=1, where=exact_RK, initial=-np.inf)
        least_R = np.maximum(
            least_R, np.where(np.isinf(top_R), 0.0, top_R - (_MAX_CODE - 1) / steps)
        )
        codes_RK = np.rint((logprobs_RK - least_R[:, None]) * steps)
        codes_RK = np.clip(codes_RK + 1, 1, _MAX_CODE, out=codes_RK)
        # The floor moves so that the coded row holds the mass of the row it stands for.
        mass_R = _logsumexp(logprobs_RK, exact_RK)
        coded_R = _logsumexp((codes_RK - 1) / steps, exact_RK)
        return (codes_RK * exact_RK).astype(np.uint16), mass_R - coded_R, common_R

    def _decode_targets(self, columns: Columns, ranking_V: np.ndarray) -> SparseTargets:
        ids_RK, logprobs_RK = self._decode_entries(columns, ranking_V)
        targets = SparseTargets(
            ids_RK=ids_RK,
            logprobs_RK=logprobs_RK,
            weights_RK=self._decode_weights(columns, logprobs_RK),
            count_R=_counts(columns),
            tail_logmass_RB=self._decode_tails(columns),
            label_logprob_R=-self._unsigned(columns, "label_logprob", "scalar_steps"),
            entropy_R=self._unsigned(columns, "entropy", "scalar_steps"),
        )
        if (targets.count_R != targets.k).any():
            padding_RK = ~targets.used_RK()
            targets.ids_RK[padding_RK] = 0
            targets.logprobs_RK[padding_RK] = EMPTY_TAIL
        return targets

    def _decode_entries(
        self, columns: Columns, ranking_V: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Ids and log-probabilities [R, K], a slab of rows at a time so that it stays in cache."""
        step = np.float32(1 / self.parameters["value_steps"])
        base_R = -self._unsigned(columns, "floor", "floor_steps") - step
        ids_RK = np.empty(columns.id_deltas_RK.shape, dtype=np.uint32)
        logprobs_RK = np.empty(columns.codes_RK.shape, dtype=np.float32)
        for start in range(0, len(ids_RK), _SLAB_ROWS):
            slab = slice(start, start + _SLAB_ROWS)
            ranks_RK = np.cumsum(columns.id_deltas_RK[slab], axis=1, dtype=np.uint32)
            if int(ranks_RK.max()) >= self.vocab_size:
                raise CorruptionError(
                    "an entry's rank is beyond the vocabulary",
                    place="id_delta",
                    found=int(ranks_RK.max()),
                    allowed=f"below {self.vocab_size}",
                )
            ids_RK[slab] = ranking_V[ranks_RK]
            np.multiply(columns.codes_RK[slab], step, out=logprobs_RK[slab])
            logprobs_RK[slab] += base_R[slab, None]
        return ids_RK, logprobs_RK

    def _decode_weights(self, columns: Columns, logprobs_RK: np.ndarray) -> np.ndarray | None:
        if "common_weight" not in columns.scalars:
            return None
        common_R = -self._unsigned(columns, "common_weight", "floor_steps")
        sampled_RK = columns.codes_RK == 0
        # The teacher's probability of a sampled entry is not kept; its log-weight stands there.
        logprobs_RK[sampled_RK] = np.broadcast_to(common_R[:, None], sampled_RK.shape)[sampled_RK]
        weights_RK = np.exp(logprobs_RK)
        weights_RK[~(np.arange(weights_RK.shape[1]) < _counts(columns)[:, None])] = 0
        return weights_RK

    # --- scalars ----------------------------------------------------------------------------

    def _encode_scalars(
        self, targets: SparseTargets, floor_R: np.ndarray, common_R: np.ndarray | None
    ) -> dict[str, np.ndarray]:
        parameters = self.parameters
        scalars = {"floor": _whole_steps(-floor_R, parameters["floor_steps"], what="floor")}
        for column, top in enumerate(self._tail_top_B):
            tail_R = targets.tail_logmass_RB[:, column].astype(np.float64)
            below_R = _whole_steps(top - tail_R, parameters["tail_steps"], what="tail") + 1
            scalars[f"tail_{column}"] = np.where(tail_R <= EMPTY_TAIL, 0, below_R)
        scalars["label_logprob"] = _whole_steps(
            -targets.label_logprob_R, parameters["scalar_steps"], what="label_logprob"
        )
        scalars["entropy"] = _whole_steps(
            targets.entropy_R, parameters["scalar_steps"], what="entropy"
        )
        if common_R is not None:
            scalars["common_weight"] = _whole_steps(
                -common_R, parameters["floor_steps"], what="common_weight"
            )
        scalars["count"] = targets.count_R
        return {name: column.astype(np.uint32) for name, column in scalars.items()}

    def _decode_tails(self, columns: Columns) -> np.ndarray:
        steps = np.float32(self.parameters["tail_steps"])
        tails = []
        for column, top in enumerate(self._tail_top_B):
            code_R = _column(columns, f"tail_{column}")
            tail_R = np.float32(top) - (code_R.astype(np.float32) - 1) / steps
            tails.append(np.where(code_R == 0, np.float32(EMPTY_TAIL), tail_R))
        return np.stack(tails, axis=1)

    def _unsigned(self, columns: Columns, name: str, steps: str) -> np.ndarray:
        return _column(columns, name).astype(np.float32) / np.float32(self.parameters[steps])

    def _checked_ids(self, ids: np.ndarray, *, what: str) -> np.ndarray:
        if ids.size and int(ids.max()) >= self.vocab_size:
            raise CorruptionError(
                f"{what} reach beyond the vocabulary",
                found=int(ids.max()),
                allowed=f"below {self.vocab_size}",
            )
        return ids


CODECS = {RankDeltaCodec.id: RankDeltaCodec}


def codec_for(spec: StoreSpec) -> RankDeltaCodec:
    """The codec that a store names, from the ones this version knows."""
    if spec.codec.id not in CODECS:
        raise CorruptionError(
            "the store was written with a codec this version does not know",
            place="store.json: codec",
            found=spec.codec.id,
            allowed=", ".join(CODECS),
            remedy="Install a newer version of logitstore",
        )
    return CODECS[spec.codec.id](
        vocab_size=spec.tokenizer.vocab_size,
        tail_nodes=spec.sparsifier.tail_nodes,
        parameters=spec.codec.parameters,
    )


def _whole_steps(value_R: np.ndarray, steps: int, *, what: str) -> np.ndarray:
    """`value_R` nats, at least 0, in whole steps."""
    whole_R = np.rint(np.maximum(value_R.astype(np.float64), 0) * steps)
    # An empty tail stands at +1e4 nats here and is replaced by its own code.
    highest = whole_R[whole_R < -EMPTY_TAIL * steps].max(initial=0)
    if not np.isfinite(whole_R).all() or highest > _MAX_SCALAR:
        raise SettingError(
            f"{what} is not a number that the codec can hold",
            place="teacher's distribution",
            found=float(value_R[~np.isfinite(whole_R)][0]) if highest <= _MAX_SCALAR else highest,
            allowed=f"finite, up to {_MAX_SCALAR / steps:.0f} nats",
        )
    return np.minimum(whole_R, _MAX_SCALAR)


def _split_sampled(targets: SparseTargets) -> tuple[np.ndarray, np.ndarray]:
    """Which entries weigh their own probability, and the log-weight of the others in each row."""
    used_RK, weights_RK = targets.used_RK(), targets.weights_RK
    if weights_RK is None:
        return used_RK, np.zeros(len(targets))
    exact_RK = used_RK & np.isclose(weights_RK, np.exp(targets.logprobs_RK), rtol=1e-5, atol=0)
    sampled_RK = used_RK & ~exact_RK
    highest_R = np.where(sampled_RK, weights_RK, 0).max(axis=1)
    lowest_R = np.where(sampled_RK, weights_RK, np.inf).min(axis=1)
    if (highest_R > lowest_R * (1 + 1e-5)).any():
        raise SettingError(
            "sampled entries of one row must share one weight",
            found=float(highest_R.max()),
            allowed="one common weight a row",
        )
    return exact_RK, np.log(np.where(highest_R > 0, highest_R, 1.0))


def _logsumexp(values_RK: np.ndarray, mask_RK: np.ndarray) -> np.ndarray:
    """float64 log sum exp over the masked entries of each row; 0 for a row without any."""
    highest_R = values_RK.max(axis=1, where=mask_RK, initial=-np.inf)
    highest_R[np.isinf(highest_R)] = 0.0
    shifted_RK = np.minimum(values_RK - highest_R[:, None], 0)
    total_R = np.exp(shifted_RK).sum(axis=1, where=mask_RK, dtype=np.float64)
    return np.where(total_R > 0, highest_R + np.log(np.maximum(total_R, 1e-300)), 0.0)


def _column(columns: Columns, name: str) -> np.ndarray:
    if name not in columns.scalars:
        raise CorruptionError(
            "a column is missing", place=name, allowed="one value for each target"
        )
    return columns.scalars[name]


def _counts(columns: Columns) -> np.ndarray:
    counts_R = _column(columns, "count").astype(np.int32)
    k = columns.id_deltas_RK.shape[1]
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
    found = (len(columns.tokens_N), len(columns.id_deltas_RK), int(columns.counted_N.sum()))
    if found != (tokens, targets, targets):
        raise CorruptionError(
            "the table of documents does not add up",
            place="documents",
            found=f"{found[0]} tokens, {found[1]} targets, {found[2]} counted tokens",
            allowed=f"{tokens} tokens, {targets} targets",
        )


def _encode_documents(block: DocumentBlock) -> np.ndarray:
    halves_D2 = np.frombuffer(b"".join(block.ids), dtype=">u8").reshape(-1, 2)
    columns = {
        "id_high": halves_D2[:, 0],
        "id_low": halves_D2[:, 1],
        "record": block.records_D,
        "piece": block.pieces_D,
        "tokens": block.token_lengths_D,
        "targets": block.target_lengths_D,
    }
    return np.stack([columns[name].astype(np.uint64) for name in DOCUMENT_COLUMNS], axis=1)


def _decode_documents(documents_DC: np.ndarray) -> dict[str, Any]:
    columns = dict(zip(DOCUMENT_COLUMNS, documents_DC.T, strict=True))
    halves_D2 = documents_DC[:, :2].astype(">u8")
    return {
        "ids": tuple(row.tobytes() for row in halves_D2),
        "records_D": columns["record"].astype(np.int64),
        "pieces_D": columns["piece"].astype(np.int64),
        "token_lengths_D": columns["tokens"].astype(np.int64),
        "target_lengths_D": columns["targets"].astype(np.int64),
    }
