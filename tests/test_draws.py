"""The counter-based generator: known values, independence of everything but its key."""

import numpy as np
import pytest
from scipy import stats

from logitstore.targets.documents import Document, document_id
from logitstore.targets.draws import row_keys, uniforms


def _document(record: int, counted: list[bool]) -> Document:
    return Document(
        id=document_id(source="text", record=record, piece=0),
        record=record,
        piece=0,
        input_ids_L=np.arange(len(counted), dtype=np.uint32),
        counted_L=np.array(counted),
    )


def test_the_stream_is_splitmix64() -> None:
    """The first outputs of seed 1234567, as its authors' reference implementation prints them."""
    wanted = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    found_N = uniforms(np.array([1234567], dtype=np.uint64), count=4, draw=0)[0]
    assert found_N.tolist() == [(value >> 11) * 2.0**-53 for value in wanted]


def test_a_key_depends_on_seed_document_and_position_alone() -> None:
    whole = row_keys(_document(3, [False, True, True, True]), seed=5)
    masked = row_keys(_document(3, [False, False, True, True]), seed=5)
    assert whole[1:].tolist() == masked.tolist()
    assert not set(whole) & set(row_keys(_document(3, [False, True, True, True]), seed=6))
    assert not set(whole) & set(row_keys(_document(4, [False, True, True, True]), seed=5))


@pytest.mark.parametrize("draw", [0, 1, 7])
def test_numbers_are_uniform_and_uncorrelated(draw: int) -> None:
    keys_R = row_keys(_document(0, [False] + [True] * 50_000), seed=0)
    numbers_RN = uniforms(keys_R, count=2, draw=draw)
    assert numbers_RN.min() >= 0
    assert numbers_RN.max() < 1
    # The keys are fixed, so a correct generator passes always; a broken one fails far below 1e-4.
    assert stats.kstest(numbers_RN[:, 0], "uniform").pvalue > 1e-4
    assert abs(np.corrcoef(numbers_RN[:, 0], numbers_RN[:, 1])[0, 1]) < 0.02
    assert abs(np.corrcoef(numbers_RN[1:, 0], numbers_RN[:-1, 0])[0, 1]) < 0.02


def test_draws_differ() -> None:
    keys_R = row_keys(_document(0, [False] + [True] * 2_000), seed=0)
    draws = [uniforms(keys_R, count=1, draw=draw)[:, 0] for draw in range(3)]
    for one in range(3):
        for other in range(one):
            assert abs(np.corrcoef(draws[one], draws[other])[0, 1]) < 0.1
