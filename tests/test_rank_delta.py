"""The rank-delta codecs: round trips within the steps, frozen bytes, names, hostile columns."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from logitstore.codec import CODECS, FIDELITIES, codec_for, new_codec
from logitstore.codec.rank_delta import RankDeltaCodec
from logitstore.codec.values import Decoded
from logitstore.errors import CorruptionError, SettingError
from logitstore.format.spec import CodecSpec, SparsifierSpec
from logitstore.sparsify import SPARSIFIERS
from logitstore.sparsify.build import sparsifier_spec
from logitstore.targets.documents import DocumentBlock
from logitstore.targets.kinds import Entries, TargetKind
from logitstore.targets.targets import EMPTY_TAIL, SparseTargets, none_sampled
from tests.synthetic import NODES, sparse_targets, store_spec

HEAD = SparsifierSpec(name="topk", k=8, tail_nodes=NODES)
SAMPLED = [
    sparsifier_spec("sample", draws=20),
    sparsifier_spec("unbiased", k=8),
    sparsifier_spec("hybrid", k=3, tail_draws=5),
]


@pytest.fixture(params=sorted(FIDELITIES))
def codec(request: pytest.FixtureRequest) -> RankDeltaCodec:
    return _codec(fidelity=request.param)


def _codec(k: int = 8, fidelity: str = "balanced") -> RankDeltaCodec:
    return new_codec(replace(HEAD, k=k), vocab_size=300, fidelity=fidelity)


def _of_width(codec: RankDeltaCodec, k: int) -> RankDeltaCodec:
    """The same codec for rows of k entries."""
    return codec_for(replace(store_spec(sparsifier=replace(HEAD, k=k)), codec=codec.spec))


def _round_trip(codec: RankDeltaCodec, block: DocumentBlock) -> DocumentBlock:
    if codec.sparsifier.name == "topk":
        codec = _of_width(codec, block.targets.k)
    tables = codec.tables([block])
    return codec.decode(codec.encode(block, tables), tables)


def _block(targets: SparseTargets) -> DocumentBlock:
    """One document that holds `targets`."""
    rows = len(targets)
    counted_N = np.ones(rows + 1, dtype=bool)
    counted_N[0] = False
    return DocumentBlock(
        ids=(bytes(range(16)),),
        records_D=np.array([7]),
        pieces_D=np.array([2]),
        token_lengths_D=np.array([rows + 1]),
        target_lengths_D=np.array([rows]),
        input_ids_N=np.arange(rows + 1, dtype=np.uint32) % 300,
        counted_N=counted_N,
        targets=targets,
    )


def _by_id(targets: SparseTargets, row: int) -> dict[int, float]:
    used = slice(0, int(targets.count_R[row]))
    ids, logprobs = targets.ids_RK[row, used], targets.logprobs_RK[row, used]
    return dict(zip(ids.tolist(), logprobs.tolist(), strict=True))


@pytest.mark.parametrize("sharpness", [0.1, 1.0, 3.0, 12.0])
def test_values_come_back_within_the_stated_steps(codec: RankDeltaCodec, sharpness: float) -> None:
    before = sparse_targets(200, sharpness=sharpness)
    after = _round_trip(codec, _block(before)).targets
    floor_step = 0.5 / codec.parameters["floor_steps"]
    for row in range(len(before)):
        wanted, found = _by_id(before, row), _by_id(after, row)
        assert wanted.keys() == found.keys()
        # The row shifts as a whole to keep its mass; around that shift, half the step of a value,
        # which grows by e over 4 nats below the top of the row.
        values = np.array([*wanted.values()])
        steps = np.exp((values.max() - values) / 4) / codec.parameters["value_steps"]
        allowed = 0.54 * np.minimum(steps, 1 / codec.parameters["least_steps"]) + 1e-4
        errors = np.array([found[one] - wanted[one] for one in wanted])
        assert (errors - allowed).max() <= (errors + allowed).min()
    mass_before = np.log(np.exp(before.logprobs_RK).sum(axis=1))
    mass_after = np.log(np.exp(after.logprobs_RK).sum(axis=1))
    assert np.abs(mass_after - mass_before).max() <= floor_step + 1e-4


def test_scalars_come_back_within_half_a_step(codec: RankDeltaCodec) -> None:
    before = sparse_targets(300)
    after = _round_trip(codec, _block(before)).targets
    for name in ("label_logprob_R", "entropy_R"):
        error = np.abs(getattr(after, name) - getattr(before, name)).max()
        assert error <= 0.5 / codec.parameters["scalar_steps"] + 1e-5, name
    # Of a tail its share is kept: its log-mass moves by as much as that of the rounded head.
    error = np.abs(_tail_odds(after, NODES) - _tail_odds(before, NODES)).max()
    assert error <= 0.5 / codec.parameters["tail_steps"] + 1e-5


def _tail_odds(targets: SparseTargets, nodes: tuple[float, ...]) -> np.ndarray:
    """float64 [R, B], nats: the tail's log-mass less that of the exact entries, at each node."""
    nats_RK = targets.logprobs_RK.astype(np.float64)
    heads = [np.exp(b * nats_RK).sum(axis=1, where=targets.exact_RK()) for b in nodes]
    return np.asarray(targets.tail_logmass_RB - np.log(np.stack(heads, axis=1)))


def test_a_tail_keeps_its_share_where_rounding_makes_the_head_heavier() -> None:
    """One likely entry and 62 unlikely ones, all of which are rounded up: their mass at T = 4."""
    codec = _codec(k=63)
    low = codec.parameters["least_steps"]
    depth = 10.0 + 0.4 / low - 10.0 % (1 / low)
    nats_K = np.full(63, -depth, dtype=np.float32)
    nats_K[0] = -0.01
    before = replace(sparse_targets(1, k=63), logprobs_RK=nats_K[None])
    after = _round_trip(codec, _block(before)).targets
    moved = after.tail_logmass_RB - before.tail_logmass_RB
    assert abs(moved[0, -1]) > 0.01
    np.testing.assert_allclose(_tail_odds(after, NODES), _tail_odds(before, NODES), atol=1e-3)


def test_head_divergence_stays_under_the_stated_bound(codec: RankDeltaCodec) -> None:
    before = sparse_targets(2000, k=64)
    after = _round_trip(codec, _block(before)).targets
    divergence = 0.0
    for row in range(len(before)):
        found = _by_id(after, row)
        divergence += sum(np.exp(p) * (p - found[one]) for one, p in _by_id(before, row).items())
    even = (1 / codec.parameters["least_steps"]) ** 2 / 24
    assert 0 < divergence / len(before) < min(even, codec.stated_kl / 2)


def test_empty_tail_and_whole_vocabulary(codec: RankDeltaCodec) -> None:
    after = _round_trip(codec, _block(sparse_targets(5, k=300))).targets
    assert (after.tail_logmass_RB == np.float32(EMPTY_TAIL)).all()
    assert np.abs(np.exp(after.logprobs_RK).sum(axis=1) - 1).max() < 3e-3


@pytest.mark.parametrize("depth", [300.0, 6_000.0, 1e6])
def test_a_row_of_any_span_keeps_its_top(codec: RankDeltaCodec, depth: float) -> None:
    """Masked ids stand at -1e4 in real vocabularies; 65,534 steps of 1/12 nat are 5,461 nats."""
    logp_RK = np.log(np.array([[0.5, 0.3, 0.2]]))
    before = replace(
        sparse_targets(1, k=5),
        logprobs_RK=np.concatenate([logp_RK, [[-depth, -depth - 3]]], axis=1).astype(np.float32),
    )
    after = _round_trip(codec, _block(before)).targets
    found, wanted = _by_id(after, 0), _by_id(before, 0)
    for one in before.ids_RK[0, :3].tolist():
        assert found[one] == pytest.approx(wanted[one], abs=0.7 / codec.parameters["value_steps"])


def test_rows_of_different_length(codec: RankDeltaCodec) -> None:
    targets = sparse_targets(3, k=4)
    counts = np.array([4, 1, 2], dtype=np.int32)
    padded_RK = np.arange(4)[None, :] >= counts[:, None]
    before = replace(
        targets,
        count_R=counts,
        ids_RK=np.where(padded_RK, 0, targets.ids_RK).astype(np.uint32),
        logprobs_RK=np.where(padded_RK, EMPTY_TAIL, targets.logprobs_RK).astype(np.float32),
    )
    after = _round_trip(codec, _block(before)).targets
    assert after.count_R.tolist() == counts.tolist()
    assert (after.ids_RK[padded_RK] == 0).all()
    assert (after.logprobs_RK[padded_RK] == EMPTY_TAIL).all()
    assert [set(_by_id(after, row)) for row in range(3)] == [
        set(_by_id(before, row)) for row in range(3)
    ]


def _sampled(spec: SparsifierSpec, *, sharpness: float, rows: int = 200) -> SparseTargets:
    generator = torch.Generator().manual_seed(0)
    logits_RV = sharpness * torch.randn(rows, 300, generator=generator)
    keys_R = np.random.default_rng(0).integers(1 << 63, size=rows, dtype=np.uint64)
    labels_R = torch.zeros(rows, dtype=torch.int64)
    return SPARSIFIERS[spec.name].draw(logits_RV, labels_R, keys_R, spec)[0]


@pytest.mark.parametrize("fidelity", sorted(FIDELITIES))
@pytest.mark.parametrize("spec", SAMPLED, ids=lambda spec: spec.name)
@pytest.mark.parametrize("sharpness", [0.0, 0.3, 2.0, 6.0, 40.0])
def test_weights_of_sampled_rows_come_back(
    spec: SparsifierSpec, sharpness: float, fidelity: str
) -> None:
    codec = new_codec(spec, vocab_size=300, fidelity=fidelity)
    before = _sampled(spec, sharpness=sharpness)
    after = _round_trip(codec, _block(before)).targets
    assert np.abs(after.weights_RK.sum(axis=1) - 1).max() < 1e-5
    assert np.array_equal(after.count_R, before.count_R)
    assert np.array_equal(after.sampled_RK.sum(axis=1), before.sampled_RK.sum(axis=1))
    steps = codec.parameters
    # A drawn entry is off by the step of its row's log-odds, an exact one by a value step as well.
    drawn = 0.51 / steps["odds_steps"] if "odds_steps" in steps else 1e-6
    exact = drawn + (1.08 / steps["least_steps"] if "least_steps" in steps else 0)
    for row in range(len(before)):
        found, drawn_ids = _by_id(after, row), set(after.ids_RK[row][after.sampled_RK[row]])
        for one, logprob in _by_id(before, row).items():
            assert abs(found[one] - logprob) < (drawn if one in drawn_ids else exact)
    # Nothing is drawn below 1e-30, e^-69, so what is drawn of such a tail is not all of it.
    if before.tail_logmass_RB.shape[1]:
        tails = [np.maximum(_tail_odds(one, spec.tail_nodes), -65) for one in (after, before)]
        step = max(1 / steps["tail_steps"], 1 / steps["odds_steps"])
        np.testing.assert_allclose(*tails, atol=0.51 * step, rtol=1e-4)


def _drawn(name: str, sampled_RK: np.ndarray) -> SparseTargets:
    """A head that says of itself that some of it was drawn by sparsifier `name`."""
    return replace(
        sparse_targets(1, k=4),
        kind=SPARSIFIERS[name].targets,
        sampled_RK=sampled_RK,
        tail_logmass_RB=np.zeros((1, 0), dtype=np.float32),
    )


def test_targets_of_another_kind_are_refused() -> None:
    codec = new_codec(sparsifier_spec("sample", draws=4), vocab_size=300)
    with pytest.raises(SettingError, match="another kind"):
        _round_trip(codec, _block(sparse_targets(1, k=4)))


def test_unequal_sampled_weights_are_refused() -> None:
    spec = sparsifier_spec("unbiased", k=4)
    sampled_RK = np.array([[False, False, True, True]])
    targets = _drawn("unbiased", sampled_RK)
    with pytest.raises(SettingError, match="share one weight"):
        _round_trip(new_codec(spec, vocab_size=300), _block(targets))


def test_weights_that_are_no_share_of_the_draws_are_refused() -> None:
    spec = sparsifier_spec("sample", draws=4)
    targets = _drawn("sample", np.ones((1, 4), dtype=bool))
    with pytest.raises(SettingError, match="no share of the draws"):
        _round_trip(new_codec(spec, vocab_size=300), _block(targets))


def test_several_draws_are_decoded_one_at_a_time() -> None:
    spec = sparsifier_spec("unbiased", k=6, temperatures=[1, 2], repeats=2)
    generator = torch.Generator().manual_seed(0)
    logits_RV = 2 * torch.randn(50, 300, generator=generator)
    keys_R = np.arange(50, dtype=np.uint64)
    draws = SPARSIFIERS["unbiased"].draw(
        logits_RV, torch.zeros(50, dtype=torch.int64), keys_R, spec
    )
    codec = new_codec(spec, vocab_size=300)
    block = replace(_block(draws[0]), other_draws=draws[1:])
    tables = codec.tables([block])
    columns = codec.encode(block, tables)
    assert columns.entries["id_delta"].shape == (50, 24)
    for number, wanted in enumerate(draws):
        found = codec.decode(columns, tables, draw=number).targets
        assert [set(_by_id(found, row)) for row in range(50)] == [
            set(_by_id(wanted, row)) for row in range(50)
        ]
        assert np.abs(found.entropy_R - wanted.entropy_R).max() < 0.51 / 256
        assert np.abs(found.label_logprob_R - draws[0].label_logprob_R).max() < 0.51 / 256


def test_values_that_are_no_numbers_are_refused(codec: RankDeltaCodec) -> None:
    broken = replace(sparse_targets(2), entropy_R=np.array([1.0, np.nan], dtype=np.float32))
    with pytest.raises(SettingError, match="entropy"):
        _round_trip(codec, _block(broken))


def test_the_same_block_twice_gives_the_same_columns(codec: RankDeltaCodec) -> None:
    block = _block(sparse_targets(50))
    tables = codec.tables([block])
    one, two = codec.encode(block, tables), codec.encode(block, tables)
    assert np.array_equal(one.entries["id_delta"], two.entries["id_delta"])
    assert np.array_equal(one.entries["code"], two.entries["code"])


def test_order_of_the_entries_carries_no_meaning(codec: RankDeltaCodec) -> None:
    targets = sparse_targets(20)
    turned = replace(
        targets, ids_RK=targets.ids_RK[:, ::-1], logprobs_RK=targets.logprobs_RK[:, ::-1]
    )
    block = _block(targets)
    tables = codec.tables([block])
    one, two = codec.encode(block, tables), codec.encode(_block(turned), tables)
    assert np.array_equal(one.entries["id_delta"], two.entries["id_delta"])
    assert np.array_equal(one.entries["code"], two.entries["code"])


def test_frequent_ids_come_first_in_the_ranking(codec: RankDeltaCodec) -> None:
    targets = sparse_targets(100)
    counts_V = np.bincount(targets.ids_RK.ravel(), minlength=300)
    ranking_V = codec.tables([_block(targets)])["ranking"]
    assert (np.diff(counts_V[ranking_V]) <= 0).all()
    assert sorted(ranking_V.tolist()) == list(range(300))


def test_the_spec_rebuilds_a_twin(codec: RankDeltaCodec) -> None:
    twin = codec_for(replace(store_spec(sparsifier=HEAD), codec=codec.spec))
    block = _block(sparse_targets(20))
    tables = codec.tables([block])
    columns = codec.encode(block, tables)
    mine, theirs = codec.decode(columns, tables), twin.decode(columns, tables)
    assert np.array_equal(mine.targets.logprobs_RK, theirs.targets.logprobs_RK)


@pytest.mark.parametrize(
    ("codec", "message"),
    [
        (CodecSpec(id="pickle"), "pickle"),
        (CodecSpec(id="rank-delta-counted/1", parameters={"scalar_steps": 1}), "does not serve"),
        (replace(_codec().spec, parameters=_codec().parameters | {"value_steps": 0}), "65536"),
        (replace(_codec().spec, parameters=_codec().parameters | {"more": 1}), "65536"),
    ],
)
def test_unknown_codecs_and_odd_parameters_are_refused(codec: CodecSpec, message: str) -> None:
    with pytest.raises(CorruptionError, match=message):
        codec_for(replace(store_spec(sparsifier=HEAD), codec=codec))


@pytest.mark.parametrize("column", ["id_delta", "tokens_N", "count", "documents_DC"])
def test_hostile_columns_are_refused(codec: RankDeltaCodec, column: str) -> None:
    block = _block(sparse_targets(4))
    tables = codec.tables([block])
    columns = codec.encode(block, tables)
    if column == "count":
        hostile = replace(columns, scalars={**columns.scalars, "count": np.full(4, 9)})
    elif column == "id_delta":
        array = columns.entries[column].copy()
        array.flat[-1] = 1 << 20
        hostile = replace(columns, entries={**columns.entries, column: array})
    else:
        array = getattr(columns, column).copy()
        array.flat[-1] = 1 << 20
        hostile = replace(columns, **{column: array})
    with pytest.raises(CorruptionError):
        codec.decode(hostile, tables)


@pytest.mark.parametrize(
    "tables",
    [
        {},
        {"ranking": np.arange(299, dtype=np.uint32)},
        {"ranking": np.zeros(300, dtype=np.uint32)},
        {"ranking": np.arange(300, dtype=np.uint32), "other": np.arange(3, dtype=np.uint32)},
    ],
)
def test_hostile_tables_are_refused(codec: RankDeltaCodec, tables: dict[str, np.ndarray]) -> None:
    with pytest.raises(CorruptionError):
        codec.check_tables(tables)


def test_bytes_are_frozen() -> None:
    """If this fails, give the codec a new id, not the test new bytes."""
    codec = _codec(k=3)
    ids = np.array([[5, 9, 250], [9, 1, 0]], dtype=np.uint32)
    logprobs = np.log(np.array([[0.5, 0.25, 0.01], [0.9, 0.05, 0.0]], dtype=np.float32) + 1e-12)
    targets = SparseTargets(
        ids_RK=ids,
        logprobs_RK=logprobs.astype(np.float32),
        kind=SPARSIFIERS["topk"].targets,
        sampled_RK=none_sampled(2, 3),
        count_R=np.array([3, 2], dtype=np.int32),
        tail_logmass_RB=np.array([[-1.4, 0.5, 2.0, 4.0], [-3.0] * 4], dtype=np.float32),
        label_logprob_R=np.array([-0.69, -2.3], dtype=np.float32),
        entropy_R=np.array([1.5, 0.4], dtype=np.float32),
    )
    block = _block(targets)
    columns = codec.encode(block, codec.tables([block]))
    # Ranks by falling count, ties by id: 9, 1, 5, 250, then the ids that never occur.
    assert columns.entries["id_delta"].tolist() == [[0, 2, 1], [0, 1, 0]]
    # log(2), log(50) and log(18) lie 15.3, 59.9 and 49.4 levels of 96 (1 - e^(-x/4)) below the top.
    assert columns.entries["code"].tolist() == [[46, 61, 1], [50, 1, 0]]
    # 1024 steps a nat for the floor. 512 for tails, from 0 for the first, and for each other from
    # the polynomial through those before it and log(297), log(298) at b = 0.
    assert {name: one.tolist() for name, one in columns.scalars.items()} == {
        "floor": [4732, 3035],
        "tail_0": [1434, 3072],
        "tail_1": [131, 2226],
        "tail_2": [324, 1482],
        "tail_3": [439, 2228],
        "label_logprob": [177, 589],
        "entropy": [384, 102],
        "count": [3, 2],
    }
    identity = np.frombuffer(bytes(range(16)), dtype=">u8").tolist()
    assert columns.documents_DC.tolist() == [[*identity, 7, 2, 3, 2]]


def test_bytes_of_sampled_rows_are_frozen() -> None:
    """If this fails, give the codec a new id, not the test new bytes."""
    spec = sparsifier_spec("hybrid", k=2, tail_draws=2, temperatures=[1, 4])
    targets = SparseTargets(
        ids_RK=np.array([[5, 9, 250, 3], [9, 1, 0, 0]], dtype=np.uint32),
        logprobs_RK=np.log(
            np.array([[0.5, 0.25, 0.125, 0.125], [0.75, 0.25, 1, 1]], dtype=np.float32)
        ),
        kind=SPARSIFIERS["hybrid"].targets,
        sampled_RK=np.array([[False, False, True, True], [False] * 4]),
        count_R=np.array([4, 2], dtype=np.int32),
        tail_logmass_RB=np.array([[np.log(0.25), 3.0], [EMPTY_TAIL] * 2], dtype=np.float32),
        label_logprob_R=np.array([-0.69, -2.3], dtype=np.float32),
        entropy_R=np.array([1.5, 0.4], dtype=np.float32),
    )
    codec = new_codec(spec, vocab_size=300)
    columns = codec.encode(_block(targets), codec.tables([_block(targets)]))
    # Ranks by falling count, ties by id: 9, 1, 3, 5, 250.
    assert columns.entries["id_delta"].tolist() == [[0, 2, 1, 1], [0, 1, 0, 0]]
    # 0 is drawn; log 2 and log 3 lie 10.2 and 15.4 levels of 64 (1 - e^(-x/4)) below the top.
    assert columns.entries["code"].tolist() == [[1, 0, 11, 0], [16, 1, 0, 0]]
    # 512 steps a nat for the log-odds of the drawn, log(1/3), below ceil(log 300) = 6, and for the
    # tail at b = 1/4 above the line from log(298) at 0 to log(1/4) at 1, which passes 3.93.
    assert {name: one.tolist() for name, one in columns.scalars.items()} == {
        "odds": [3635, 0],
        "tail_0": [948, 0],
        "label_logprob": [177, 589],
        "entropy": [384, 102],
        "count": [4, 2],
    }


def test_bytes_of_counted_rows_are_frozen() -> None:
    """If this fails, give the codec a new id, not the test new bytes."""
    spec = sparsifier_spec("sample", draws=4)
    targets = SparseTargets(
        ids_RK=np.array([[5, 9, 0, 0], [9, 1, 0, 0]], dtype=np.uint32),
        logprobs_RK=np.log(np.array([[0.75, 0.25, 1, 1], [0.5, 0.5, 1, 1]], dtype=np.float32)),
        kind=SPARSIFIERS["sample"].targets,
        sampled_RK=np.array([[True, True, False, False]] * 2),
        count_R=np.array([2, 2], dtype=np.int32),
        tail_logmass_RB=np.zeros((2, 0), dtype=np.float32),
        label_logprob_R=np.array([-0.69, -2.3], dtype=np.float32),
        entropy_R=np.array([1.5, 0.4], dtype=np.float32),
    )
    codec = new_codec(spec, vocab_size=300)
    columns = codec.encode(_block(targets), codec.tables([_block(targets)]))
    assert columns.entries["id_delta"].tolist() == [[0, 2, 0, 0], [0, 1, 0, 0]]
    assert columns.entries["code"].tolist() == [[1, 3, 0, 0], [2, 2, 0, 0]]
    assert {name: one.tolist() for name, one in columns.scalars.items()} == {
        "label_logprob": [177, 589],
        "entropy": [384, 102],
        "count": [2, 2],
    }


@dataclass(frozen=True, kw_only=True)
class _Renamed:
    """The values of heads under another name of their scalar."""

    names: tuple[str, ...]
    shared: tuple[str, ...] = ()

    def stated_kl(self, *, temperature: float = 1.0) -> float:
        return 0.0

    def encode(self, targets: SparseTargets) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        codes_RK = np.ones(targets.ids_RK.shape, dtype=np.uint16)
        return codes_RK, {"mine": np.arange(len(targets), dtype=np.uint32)}

    def decode(self, codes_RK: np.ndarray, scalars: Mapping[str, np.ndarray]) -> Decoded:
        raise NotImplementedError


def _reused(values: _Renamed, sparsifier: SparsifierSpec = HEAD) -> RankDeltaCodec:
    return RankDeltaCodec(
        codec=CodecSpec(id="mine/1", parameters={"scalar_steps": 256}),
        values=values,
        vocab_size=300,
        sparsifier=sparsifier,
        kind=SPARSIFIERS[sparsifier.name].targets,
    )


@pytest.mark.parametrize(
    "name",
    ["count", "entropy", "label_logprob", "id_delta", "codes", "x_draw", "x_draw1", "tokens", "X"],
)
def test_names_of_scalars_that_mean_something_else_are_refused(name: str) -> None:
    _reused(_Renamed(names=("mine",)))
    with pytest.raises(TypeError, match=rf"mine/1: scalars of values are named {name}"):
        _reused(_Renamed(names=(name,)))
    with pytest.raises(TypeError, match="shared"):
        _reused(_Renamed(names=("mine",), shared=("other",)))


def test_scalars_that_were_not_declared_are_refused() -> None:
    block = _block(sparse_targets(4))
    codec = _reused(_Renamed(names=("mine", "more")))
    with pytest.raises(TypeError, match="declare the scalars mine, more and encode mine"):
        codec.encode(block, codec.tables([block]))


def test_what_differs_between_repeats_cannot_be_shared() -> None:
    spec = sparsifier_spec("unbiased", k=6, repeats=2)
    draws = SPARSIFIERS["unbiased"].draw(
        torch.randn(9, 300, generator=torch.Generator().manual_seed(0)),
        torch.zeros(9, dtype=torch.int64),
        np.arange(9, dtype=np.uint64),
        spec,
    )
    other = replace(draws[1], entropy_R=draws[1].entropy_R + 1)
    codec = new_codec(spec, vocab_size=300)
    block = replace(_block(draws[0]), other_draws=(other,))
    with pytest.raises(SettingError, match="entropy differs between the repeats"):
        codec.encode(block, codec.tables([block]))


def test_weights_that_do_not_sum_to_one_are_refused() -> None:
    """All that is stored of the masses of a row is how they are shared."""
    spec = sparsifier_spec("unbiased", k=8)
    targets = _sampled(spec, sharpness=2.0)
    half = replace(targets, logprobs_RK=targets.logprobs_RK - np.float32(np.log(2)))
    with pytest.raises(SettingError, match=r"must sum to 1 \(found 0\.5"):
        _round_trip(new_codec(spec, vocab_size=300), _block(half))


@pytest.mark.parametrize("codec", sorted(CODECS))
@pytest.mark.parametrize(
    "kind",
    [
        TargetKind(entries=Entries.WEIGHTED, keeps_tail=False, weights_sum_to_one=False),
        TargetKind(entries=Entries.COUNTED, keeps_tail=True, weights_sum_to_one=True),
    ],
)
def test_a_kind_that_a_codec_cannot_hold_is_refused(codec: str, kind: TargetKind) -> None:
    spec = CodecSpec(id=codec, parameters=CODECS[codec].presets["balanced"])
    with pytest.raises(TypeError, match="cannot hold the targets"):
        CODECS[codec].build(spec, sparsifier_spec("sample"), kind, 300)
