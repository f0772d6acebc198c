"""What binds the columns of a Parquet file to their places: a crc32c of each, and of its footer.

Page checksums cover pages, but nothing says that a page is of this file, and nothing covers the
footer. With these sums a block is read without hashing the whole file first.
"""

from __future__ import annotations

import google_crc32c

from logitstore.errors import CorruptionError
from logitstore.store.containers.thrift_compact import read_struct

__all__ = ["END_BYTES", "check_sum", "column_sums", "end_guess"]

END_BYTES = 8  # the length of the footer and the name of the format
_SUM_BYTES = 4
_COLUMN_BYTES, _REST_BYTES = 96, 8192  # of a footer: each column of a row group takes some 60


def column_sums(data: bytes) -> str:
    """What `StoredObject.chunks` says of a file: of each column of each row group, then its end.

    data: of a sound file.
    """
    end = len(data) - END_BYTES - int.from_bytes(data[-END_BYTES:-4], "little")
    tree, _ = read_struct(data[end:-END_BYTES])
    sums = []
    for group in tree[4].value[1]:
        for column in group.value[1].value[1]:
            meaning = column.value[3].value
            start = meaning[9].value
            sums.append(_sum(data[start : start + meaning[7].value]))
    return b"".join([*sums, _sum(data[end:])]).hex()


def end_guess(sums: str) -> int:
    """Bytes of the end of a file that hold its footer, most likely.

    sums: of the file.
    """
    return _REST_BYTES + _COLUMN_BYTES * (len(sums) // (2 * _SUM_BYTES))


def check_sum(data: bytes | memoryview, sums: str, number: int, *, place: str) -> None:
    """Raise CorruptionError unless the bytes are those that were committed.

    data: of a column, or of the end of a file.
    sums: of the file.
    number: of the column, counted over all row groups; -1 for the end.
    place: what an error names.
    """
    all_sums = bytes.fromhex(sums)
    count = len(all_sums) // _SUM_BYTES
    at = number % count if -count <= number < count else count
    if _sum(data) != all_sums[_SUM_BYTES * at : _SUM_BYTES * (at + 1)]:
        raise CorruptionError("the bytes are others than those that were committed", place=place)


def _sum(data: bytes | memoryview) -> bytes:
    return google_crc32c.value(bytes(data)).to_bytes(_SUM_BYTES, "little")
