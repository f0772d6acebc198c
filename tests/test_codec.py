"""Every sparsifier through its codec: what `Codec` promises, for whatever joins the tables.

What one family of codecs promises beyond that stands in its own test, such as test_rank_delta.py.
"""

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch

from logitstore.codec import CODECS, FIDELITIES, Codec, build_codec, new_codec
from logitstore.codec.base import NAME, RESERVED_NAMES
from logitstore.errors import CorruptionError, SettingError
from logitstore.format.columns import Columns
from logitstore.sparsify import SPARSIFIERS
from logitstore.sparsify.build import sparsifier_spec
from logitstore.targets.documents import DocumentBlock
from logitstore.targets.targets import EMPTY_TAIL, SparseTargets
from tests.sparsifier_settings import small
from tests.synthetic import stored_documents

V = 300
NAMES = sorted(SPARSIFIERS)
TARGET_DTYPES = {
    "ids_RK": np.uint32,
    "logprobs_RK": np.float32,
    "sampled_RK": np.bool_,
    "count_R": np.int32,
    "tail_logmass_RB": np.float32,
    "label_logprob_R": np.float32,
    "entropy_R": np.float32,
}
BLOCK_DTYPES = {
    "records_D": np.int64,
    "pieces_D": np.int64,
    "token_lengths_D": np.int64,
    "target_lengths_D": np.int64,
    "input_ids_N": np.uint32,
    "counted_N": np.bool_,
}
# float32 logarithms of weights, and their sums.
FLOAT32 = 2e-5


def _spec(name: str, *, several: bool = True) -> Any:
    """Small rows; with `several`, of as many draws as the sparsifier makes of a target."""
    options: dict[str, Any] = small(name, vocab_size=V)
    if several and "repeats" in SPARSIFIERS[name].defaults:
        options |= {"repeats": 2}
    if several and not SPARSIFIERS[name].targets.keeps_tail:
        options |= {"temperatures": [1.0, 2.0]}
    return sparsifier_spec(name, **options)


def _logits(rows: int) -> torch.Tensor:
    """From uniform to nearly one-hot."""
    generator = torch.Generator().manual_seed(0)
    sharpness_R = torch.linspace(0, 3, rows) ** 3
    return sharpness_R[:, None] * torch.randn(rows, V, generator=generator)


def _block(spec: Any) -> DocumentBlock:
    """Documents of which about half the tokens count, with the sparsifier's targets."""
    block = DocumentBlock.join(stored_documents([150, 2, 250], masked=True))
    rows = len(block.targets)
    keys_R = np.random.default_rng(0).integers(1 << 63, size=rows, dtype=np.uint64)
    labels_R = torch.from_numpy(block.input_ids_N[block.counted_N].astype(np.int64))
    draws = SPARSIFIERS[spec.name].draw(_logits(rows), labels_R, keys_R, spec)
    return replace(block, targets=draws[0], other_draws=draws[1:])


def _encoded(codec: Codec, block: DocumentBlock) -> tuple[Columns, dict[str, np.ndarray]]:
    tables = codec.tables([block])
    codec.check_tables(tables)
    return codec.encode(block, tables), tables


def _rows(targets: SparseTargets) -> list[dict[int, tuple[float, bool]]]:
    """Of each row: id -> log-probability, whether it was sampled."""
    return [
        {
            int(one): (float(logprob), bool(sampled))
            for one, logprob, sampled in zip(
                targets.ids_RK[row, :count],
                targets.logprobs_RK[row, :count],
                targets.sampled_RK[row, :count],
                strict=True,
            )
        }
        for row, count in enumerate(targets.count_R)
    ]


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def test_every_sparsifier_has_a_codec_and_every_codec_a_sparsifier() -> None:
    used = {new_codec(sparsifier_spec(name), vocab_size=V).spec.id for name in SPARSIFIERS}
    older = {one for sparsifier in SPARSIFIERS.values() for one in sparsifier.older_codecs}
    assert used | older == set(CODECS)
    assert not used & older
    with pytest.raises(SettingError, match="compact, balanced, exact"):
        new_codec(sparsifier_spec("topk"), vocab_size=V, fidelity="best")


@pytest.mark.parametrize("fidelity", FIDELITIES)
def test_documents_ids_and_kinds_of_entries_come_back_as_they_were(
    name: str, fidelity: str
) -> None:
    spec = _spec(name)
    before = _block(spec)
    codec = new_codec(spec, vocab_size=V, fidelity=fidelity)
    columns, tables = _encoded(codec, before)
    for draw, wanted in enumerate(before.draws):
        after = codec.decode(columns, tables, draw=draw)
        assert after.ids == before.ids
        for one, dtype in BLOCK_DTYPES.items():
            assert getattr(after, one).dtype == dtype, one
            assert np.array_equal(getattr(after, one), getattr(before, one)), one
        found = after.targets
        assert found.kind == wanted.kind
        assert {one: getattr(found, one).dtype for one in TARGET_DTYPES} == TARGET_DTYPES
        assert np.array_equal(found.count_R, wanted.count_R)
        padding_RK = ~found.used_RK()
        assert (found.ids_RK[padding_RK] == 0).all()
        assert (found.logprobs_RK[padding_RK] == EMPTY_TAIL).all()
        assert not found.sampled_RK[padding_RK].any()
        for mine, theirs in zip(_rows(found), _rows(wanted), strict=True):
            assert {one: sampled for one, (_, sampled) in mine.items()} == {
                one: sampled for one, (_, sampled) in theirs.items()
            }


@pytest.mark.parametrize("fidelity", FIDELITIES)
def test_values_come_back_within_what_the_codec_states(name: str, fidelity: str) -> None:
    spec = _spec(name)
    before = _block(spec)
    codec = new_codec(spec, vocab_size=V, fidelity=fidelity)
    columns, tables = _encoded(codec, before)
    step = codec.stated_drawn_kl + FLOAT32
    for draw, wanted in enumerate(before.draws):
        found = codec.decode(columns, tables, draw=draw).targets
        # One label for all draws of a target, its log-probability that of T = 1.
        np.testing.assert_allclose(
            found.label_logprob_R, wanted.label_logprob_R, atol=step, rtol=1e-5
        )
        np.testing.assert_allclose(found.entropy_R, wanted.entropy_R, atol=step, rtol=1e-5)
        # Nothing is drawn below 1e-30, e^-69, so what is drawn of such a tail is not all of it.
        tails = [np.maximum(_tail_odds_RB(one, spec), -65) for one in (found, wanted)]
        np.testing.assert_allclose(*tails, atol=step, rtol=1e-4)
        if wanted.kind.weights_sum_to_one:
            assert np.abs(found.weights_RK.sum(axis=1) - 1).max() < 1e-5
        if wanted.kind.has_exact:
            assert -1e-6 <= _head_kl_R(found, wanted).mean() <= codec.stated_kl + FLOAT32
        if wanted.kind.drawn:
            temperature = spec.drawn_at[draw // spec.repeats]
            shift_R = _cross_entropy_R(found, temperature) - _cross_entropy_R(wanted, temperature)
            assert abs(shift_R.mean()) <= codec.stated_drawn_kl + FLOAT32


def _tail_odds_RB(targets: SparseTargets, spec: Any) -> np.ndarray:
    """float64 [R, B], nats: the tail's log-mass less that of the exact entries, at each node."""
    exact_RK, logprobs_RK = targets.exact_RK(), targets.logprobs_RK.astype(np.float64)
    heads = [
        np.log(np.exp(node * logprobs_RK).sum(axis=1, where=exact_RK)) for node in spec.tail_nodes
    ]
    return targets.tail_logmass_RB - np.stack([*heads], axis=1) if heads else np.zeros((1, 0))


def _head_kl_R(found: SparseTargets, wanted: SparseTargets) -> np.ndarray:
    """float64 [R], nats: KL(wanted || found) over the exact entries and one bucket of the rest."""
    kl_R = []
    for row, (mine, theirs) in enumerate(zip(_rows(found), _rows(wanted), strict=True)):
        pairs = [(p, mine[one][0]) for one, (p, sampled) in theirs.items() if not sampled]
        pairs.append((_rest(wanted, row), _rest(found, row)))
        p_N, q_N = np.array(pairs).T
        kl_R.append((np.exp(p_N) * (p_N - q_N) - np.exp(p_N) + np.exp(q_N)).sum())
    return np.array(kl_R)


def _rest(targets: SparseTargets, row: int) -> float:
    """log of the mass of all that is not exact: the tail's, else that of what was drawn."""
    if targets.kind.keeps_tail:
        return float(targets.tail_logmass_RB[row, 0])
    drawn = [p for p, sampled in _rows(targets.rows(slice(row, row + 1)))[0].values() if sampled]
    return float(np.logaddexp.reduce(drawn)) if drawn else EMPTY_TAIL


def _cross_entropy_R(targets: SparseTargets, temperature: float) -> np.ndarray:
    """float64 [R]: of the dense distribution under the weights, less the entropy that is stored."""
    logp_RV = (_logits(len(targets)).double() / temperature).log_softmax(-1).numpy()
    logp_RK = np.take_along_axis(logp_RV, targets.ids_RK.astype(np.int64), axis=1)
    weights_RK = np.where(targets.used_RK(), targets.weights_RK, 0.0)
    return -(weights_RK * logp_RK).sum(axis=1) - targets.entropy_R


def test_columns_and_tables_are_of_the_declared_types_and_names(name: str) -> None:
    spec = _spec(name)
    block = _block(spec)
    codec = new_codec(spec, vocab_size=V)
    columns, tables = _encoded(codec, block)
    rows = len(block.targets)
    assert tuple(columns.entries) == codec.entries
    (shape,) = {one.shape for one in columns.entries.values()}
    assert shape == (rows, spec.k * spec.draw_count)
    assert {one.dtype.kind for one in columns.entries.values()} == {"u"}
    assert max(one.dtype.itemsize for one in columns.entries.values()) <= 4
    for scalar in columns.scalars.values():
        assert (scalar.dtype, scalar.shape) == (np.uint32, (rows,))
    for table in tables.values():
        assert (table.dtype, table.ndim) == (np.uint32, 1)
    dtypes = [getattr(columns, one).dtype for one in ("tokens_N", "counted_N", "documents_DC")]
    assert dtypes == [np.uint32, np.uint8, np.uint64]
    names = [*columns.entries, *(f"{one}s" for one in columns.entries), *columns.scalars, *tables]
    assert len(set(names)) == len(names)
    assert not set(names) & RESERVED_NAMES
    assert all(NAME.fullmatch(one) for one in names)


def test_equal_blocks_give_equal_columns_and_the_spec_rebuilds_a_twin(name: str) -> None:
    spec = _spec(name)
    codec = new_codec(spec, vocab_size=V)
    twin = build_codec(codec.spec, spec, vocab_size=V)
    columns, tables = _encoded(codec, _block(spec))
    others, other_tables = _encoded(twin, _block(spec))
    for one in fields(Columns):
        found, wanted = getattr(others, one.name), getattr(columns, one.name)
        pairs = (
            [(found[key], wanted[key]) for key in wanted]
            if isinstance(wanted, dict)
            else [(found, wanted)]
        )
        assert all(np.array_equal(*pair) for pair in pairs), one.name
    assert all(np.array_equal(other_tables[one], tables[one]) for one in tables)
    mine, theirs = codec.decode(columns, tables), twin.decode(columns, tables)
    assert np.array_equal(mine.targets.logprobs_RK, theirs.targets.logprobs_RK)


def test_the_entries_of_one_draw_suffice(name: str) -> None:
    spec = _spec(name)
    codec = new_codec(spec, vocab_size=V)
    columns, tables = _encoded(codec, _block(spec))
    for draw in range(spec.draw_count):
        own = slice(draw * spec.k, (draw + 1) * spec.k)
        part = replace(
            columns, entries={one: array[:, own] for one, array in columns.entries.items()}
        )
        found, wanted = (codec.decode(one, tables, draw=draw).targets for one in (part, columns))
        assert np.array_equal(found.ids_RK, wanted.ids_RK)
        assert np.array_equal(found.logprobs_RK, wanted.logprobs_RK)


def test_columns_that_are_missing_or_too_short_are_refused(name: str) -> None:
    spec = _spec(name, several=False)
    codec = new_codec(spec, vocab_size=V)
    columns, tables = _encoded(codec, _block(spec))
    for group in ("entries", "scalars"):
        held = getattr(columns, group)
        for one in held:
            rest = {key: array for key, array in held.items() if key != one}
            with pytest.raises(CorruptionError, match=one):
                codec.decode(replace(columns, **{group: rest}), tables)
            short = replace(columns, **{group: rest | {one: held[one][:-1]}})
            with pytest.raises(CorruptionError, match=one):
                codec.decode(short, tables)
    narrow = {one: array[:, :-1] for one, array in columns.entries.items()}
    with pytest.raises(CorruptionError):
        codec.decode(replace(columns, entries=narrow), tables)


def test_tokens_beyond_the_vocabulary_and_lengths_that_do_not_add_up_are_refused(name: str) -> None:
    spec = _spec(name, several=False)
    codec = new_codec(spec, vocab_size=V)
    columns, tables = _encoded(codec, _block(spec))
    for field in ("tokens_N", "documents_DC"):
        array = getattr(columns, field).copy()
        array.flat[-1] = 1 << 20
        with pytest.raises(CorruptionError):
            codec.decode(replace(columns, **{field: array}), tables)


def test_no_column_of_an_entry_can_give_an_id_beyond_the_vocabulary(name: str) -> None:
    """Whatever the integers are: refused, or targets that are within bounds."""
    spec = _spec(name, several=False)
    codec = new_codec(spec, vocab_size=V)
    columns, tables = _encoded(codec, _block(spec))
    for group in ("entries", "scalars"):
        for one, array in getattr(columns, group).items():
            for value in (0, V, np.iinfo(array.dtype).max):
                hostile = array.copy()
                hostile[-1] = min(value, np.iinfo(array.dtype).max)
                changed = replace(columns, **{group: getattr(columns, group) | {one: hostile}})
                try:
                    found = codec.decode(changed, tables).targets
                except CorruptionError:
                    continue
                assert int(found.ids_RK.max()) < V
                assert found.count_R.min() >= 1
                assert found.count_R.max() <= spec.k


def test_tables_that_are_missing_or_unknown_are_refused(name: str) -> None:
    spec = _spec(name, several=False)
    codec = new_codec(spec, vocab_size=V)
    _, tables = _encoded(codec, _block(spec))
    wrong = [{**tables, "no_such": np.arange(3, dtype=np.uint32)}]
    wrong += [{key: one for key, one in tables.items() if key != other} for other in tables]
    for one in wrong:
        with pytest.raises(CorruptionError):
            codec.check_tables(one)
