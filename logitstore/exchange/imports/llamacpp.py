"""llama.cpp's `--kl-divergence-base` file: the whole distribution of every second token.

Little endian: `_logits_`; int32 n_ctx, n_vocab, n_chunk; int32 tokens [n_chunk, n_ctx]; then for
each chunk n_ctx - 1 - n_ctx / 2 rows of float32 scale, float32 min_log_prob and V codes of 16 bits:
log p = scale * code + min_log_prob. Row r of a chunk belongs to its token n_ctx / 2 + r + 1.

Shapes: C chunks, L tokens of a chunk, R rows, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from logitstore.errors import CorpusError, SettingError
from logitstore.exchange.foreign_documents import ForeignDocument, Values, WholeRows
from logitstore.exchange.foreign_files import Foreign, ForeignFile, files_of, refuse_given

if TYPE_CHECKING:
    from collections.abc import Iterator

    from logitstore.exchange.foreign_files import Request

__all__ = ["open_llamacpp"]

_MAGIC = b"_logits_"
_HEADER = len(_MAGIC) + 12
_MOST_IDS, _MOST_CONTEXT = 1 << 22, 1 << 24
_CHUNK_BYTES = 32 << 20  # of float32 that are alive at once


def open_llamacpp(request: Request) -> Foreign:
    """One file. Raises CorpusError or SettingError.

    request: what was asked for.
    """
    refuse_given(request, "tokens", "config", "alignment", what="llama.cpp's files")
    bos = _bos(request.bos)
    (path,) = files_of(request.source, "*.kld")[:1]
    base = _Base.of(path)
    return Foreign(
        files=(ForeignFile(name=path.name, paths=(path,), read=lambda: base.documents(bos)),),
        values=Values.WHOLE,
        lacks=(
            "probabilities below e^-16 of the likeliest token's, which were raised to that",
            "targets of the first half of each chunk",
        ),
        settings={"bos": request.bos},
        columns=base.vocab_size,
    )


def _bos(given: str | None) -> int | None:
    """The id that was fed in place of each chunk's first token; None where none was."""
    if given is None:
        raise SettingError(
            "--bos is missing: the file does not say whether each chunk's first token was replaced "
            "by BOS when the model read it",
            allowed="none, or the id of the BOS token",
            remedy="llama-perplexity does so where the model's tokenizer adds BOS",
        )
    if given != "none" and not given.isdecimal():
        raise SettingError("--bos is no id", found=given, allowed="none, or the id of BOS")
    return None if given == "none" else int(given)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Base:
    path: Path
    context: int
    vocab_size: int
    chunks: int

    @staticmethod
    def of(path: Path) -> _Base:
        try:
            size = path.stat().st_size
            with path.open("rb") as file:
                head = file.read(_HEADER)
        except OSError as error:
            raise CorpusError(
                f"the file cannot be read: {error.strerror}", place=str(path)
            ) from error
        if len(head) < _HEADER or not head.startswith(_MAGIC):
            raise CorpusError(
                "this is no file of llama-perplexity --kl-divergence-base",
                place=str(path),
                found=repr(head[:8]),
                allowed=repr(_MAGIC),
            )
        context, vocab_size, chunks = (int(one) for one in np.frombuffer(head[8:], dtype="<i4"))
        for name, value, most in (
            ("n_ctx", context, _MOST_CONTEXT),
            ("n_vocab", vocab_size, _MOST_IDS),
            ("n_chunk", chunks, 1 << 31),
        ):
            if not (4 if name == "n_ctx" else 1) <= value <= most:
                raise CorpusError(f"{name} is out of range", place=str(path), found=value)
        base = _Base(path=path, context=context, vocab_size=vocab_size, chunks=chunks)
        if size != base.size:
            raise CorpusError(
                "the file has another size than its header says",
                place=str(path),
                found=f"{size:,} bytes",
                allowed=f"{base.size:,} bytes",
                remedy="It was cut off, or is still being written",
            )
        return base

    @property
    def rows(self) -> int:
        """Of a chunk."""
        return self.context - 1 - self.context // 2

    @property
    def row_words(self) -> int:
        """uint16 of a row: one is unused where V is odd."""
        return 2 * ((self.vocab_size + 1) // 2) + 4

    @property
    def size(self) -> int:
        """Of the whole file, in bytes."""
        return (
            _HEADER + 4 * self.chunks * self.context + 2 * self.chunks * self.rows * self.row_words
        )

    def documents(self, bos: int | None) -> Iterator[ForeignDocument]:
        start = _HEADER + 4 * self.chunks * self.context
        tokens_CL = np.memmap(
            self.path, dtype="<i4", mode="r", offset=_HEADER, shape=(self.chunks, self.context)
        )
        for chunk in range(self.chunks):
            place = f"{self.path}, chunk {chunk}"
            ids_L = tokens_CL[chunk].astype(np.int64)
            if bos is not None:
                ids_L[0] = bos
            counted_L = np.arange(self.context) > self.context // 2
            words_RW = np.memmap(
                self.path,
                dtype="<u2",
                mode="r",
                offset=start + 2 * chunk * self.rows * self.row_words,
                shape=(self.rows, self.row_words),
            )
            yield ForeignDocument(
                place=place,
                record=chunk,
                piece=0,
                input_ids_L=ids_L,
                counted_L=counted_L,
                rows=WholeRows(
                    count=self.rows,
                    chunks=partial(self._logprobs, words_RW, place),
                ),
            )

    def _logprobs(self, words_RW: np.ndarray, place: str) -> Iterator[np.ndarray]:
        step = max(1, _CHUNK_BYTES // (4 * self.vocab_size))
        for first in range(0, len(words_RW), step):
            part_RW = np.ascontiguousarray(words_RW[first : first + step])
            ends_R2 = part_RW[:, :4].copy().view("<f4")
            scale_R, least_R = ends_R2[:, 0], ends_R2[:, 1]
            sound_R = np.isfinite(ends_R2).all(axis=1) & (scale_R >= 0) & (least_R <= 1e-3)
            if not sound_R.all():
                row = int(np.argmin(sound_R))
                raise CorpusError(
                    "scale and least log-probability of a row are none",
                    place=f"{place}, row {first + row}",
                    found=f"{scale_R[row]:g}, {least_R[row]:g}",
                )
            codes_RV = part_RW[:, 4 : 4 + self.vocab_size].astype(np.float32)
            with np.errstate(over="ignore"):  # checked as a mass
                logprobs_RV = codes_RV * scale_R[:, None] + least_R[:, None]
                mass_R = np.exp(logprobs_RV, dtype=np.float64).sum(axis=1)
            top_R = logprobs_RV.max(axis=1)
            # Each token that was raised to the floor may add e^-16 = 1.1e-7.
            if not (np.abs(mass_R - 1) < 0.02 + 1.2e-7 * self.vocab_size).all():
                row = int(np.argmax(np.abs(mass_R - 1)))
                raise CorpusError(
                    "a row's probabilities do not add up to about 1",
                    place=f"{place}, row {first + row}",
                    found=f"{mass_R[row]:g}, the largest at {top_R[row]:g}",
                )
            yield logprobs_RV
