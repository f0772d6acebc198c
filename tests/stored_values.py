"""What a store says of each document, in a form in which two stores can be compared."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from logitstore.store.reader import Store

__all__ = ["assert_same_values", "values_of"]

# Decoding sums in an order that depends on how many rows a block has: the last bits of float32.
_LAST_BITS = 4e-6
_ROWS = ("count_R", "tail_logmass_RB", "label_logprob_R", "entropy_R")
_ENTRIES = ("ids_RK", "logprobs_RK", "sampled_RK")


def values_of(store: Store) -> dict[bytes, list[np.ndarray]]:
    """Id of a document -> its tokens, its mask and the columns of all draws of its targets.

    The entries of a row stand in the order of their ids, those that are padding last.
    """
    found: dict[bytes, list[np.ndarray]] = {}
    for draw in range(store.spec.sparsifier.draw_count):
        for stored in store.with_draw(draw):
            document, targets = stored.document, stored.targets
            order_RK = np.lexsort((targets.ids_RK, ~targets.used_RK()), axis=1)
            entries = [
                np.take_along_axis(np.asarray(getattr(targets, name)), order_RK, axis=1)
                for name in _ENTRIES
            ]
            own = found.setdefault(document.id, [document.input_ids_L, document.counted_L])
            if document.sampler_logprobs_R is not None:
                own.append(document.sampler_logprobs_R)
            own += [*entries, *(getattr(targets, name) for name in _ROWS)]
    return found


def assert_same_values(
    found: dict[bytes, list[np.ndarray]], wanted: dict[bytes, list[np.ndarray]]
) -> None:
    """Both have the same documents, with the same values but for the last bits of a sum."""
    assert found.keys() == wanted.keys()
    for key, arrays in wanted.items():
        for one, two in zip(found[key], arrays, strict=True):
            assert one.shape == two.shape
            assert np.array_equal(one, two) or float(np.abs(one - two).max()) < _LAST_BITS
