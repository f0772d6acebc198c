"""A student that is its teacher is told the floor of the record, in bfloat16 too."""

from __future__ import annotations

import pytest

from tools.bench_bfloat16 import RECORDS, difference


@pytest.mark.parametrize("record", RECORDS)
@pytest.mark.parametrize("autocast", [False, True])
def test_kl_in_bfloat16_is_that_of_the_record(record, autocast):
    ours, floor = difference(record, rows=32, width=64, vocab_size=8192, autocast=autocast)
    assert abs(ours - floor) < 1e-3
    assert (floor > 0.01) == (record == "unbiased")
