"""The nouns: shapes are checked at birth, blocks split into what they were joined from."""

from dataclasses import replace

import numpy as np
import pytest

from logitstore import CorruptionError, SparseTargets
from logitstore.targets.documents import Document, DocumentBlock, StoredDocument, document_id
from tests.synthetic import sparse_targets, stored_documents


def test_columns_of_unequal_length_are_refused() -> None:
    with pytest.raises(CorruptionError, match="entropy_R"):
        replace(sparse_targets(4), entropy_R=np.zeros(3, dtype=np.float32))


def test_concatenate_undoes_rows() -> None:
    targets = sparse_targets(10)
    parts = [targets.rows(slice(0, 3)), targets.rows(slice(3, 10))]
    joined = SparseTargets.concatenate(parts)
    assert np.array_equal(joined.ids_RK, targets.ids_RK)
    assert np.array_equal(joined.tail_logmass_RB, targets.tail_logmass_RB)
    assert not joined.sampled_RK.any()


def test_used_entries_are_the_first_of_each_row() -> None:
    targets = replace(sparse_targets(2, k=3), count_R=np.array([1, 3], dtype=np.int32))
    assert targets.used_RK().tolist() == [[True, False, False], [True, True, True]]


def test_the_first_token_never_counts() -> None:
    with pytest.raises(CorruptionError, match="leave out the first"):
        Document(
            id=bytes(16),
            record=0,
            piece=0,
            input_ids_L=np.zeros(2, dtype=np.uint32),
            counted_L=np.array([True, True]),
        )


def test_a_document_has_one_target_for_each_counted_token() -> None:
    stored = stored_documents([5])[0]
    with pytest.raises(CorruptionError, match="do not match"):
        StoredDocument(document=stored.document, targets=stored.targets.rows(slice(0, 2)))


def test_block_splits_into_what_it_was_joined_from() -> None:
    documents = stored_documents([5, 2, 9], masked=True)
    for before, after in zip(documents, DocumentBlock.join(documents).split(), strict=True):
        assert after.document.id == before.document.id
        assert np.array_equal(after.document.input_ids_L, before.document.input_ids_L)
        assert np.array_equal(after.document.counted_L, before.document.counted_L)
        assert np.array_equal(after.targets.ids_RK, before.targets.ids_RK)


def test_document_ids_tell_sources_records_and_pieces_apart() -> None:
    names = [("a", 1, 2), ("a", 2, 1), ("a", 12, 0), ("b", 1, 2), ("a", 1, 20)]
    ids = {document_id(source=s, record=r, piece=p) for s, r, p in names}
    assert len(ids) == len(names)
    assert {len(one) for one in ids} == {16}
