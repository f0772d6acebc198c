"""Which documents of a store are chosen: by place, by id, by what it holds of them, by lot.

Shapes: D documents of a store or of a block, R targets.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from logitstore.editing.expression import Condition, parse_condition
from logitstore.errors import SettingError, StoreError
from logitstore.format.columns import DOCUMENT_COLUMNS
from logitstore.progress import Meter
from logitstore.sparsify import sparsifier_of
from logitstore.targets.draws import uniforms

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from logitstore.progress import OnProgress
    from logitstore.store.reader import Store
    from logitstore.targets.documents import DocumentBlock
    from logitstore.targets.kinds import TargetKind

__all__ = ["COLUMNS", "Choice", "parse_span", "parse_where"]

# Of a document, as --where names them.
COLUMNS = {
    "tokens": "its tokens",
    "targets": "its targets",
    "record": "the number of its record in the corpus file",
    "piece": "the number of the piece of that record",
    "entropy": "the mean of the teacher's entropy, nats, at the first temperature",
    "loss": "minus the mean log-probability of the tokens that follow, nats",
    "retained_mass": "the mean mass of its exact entries, of the first draw",
    "sampler_loss": "as loss, of whoever drew the tokens; only where the store knows it",
}
_FROM_TABLE = ("record", "piece", "tokens", "targets")  # which need no row
_SPAN = re.compile(r"(\d{0,15}):(\d{0,15})")
_ID = re.compile(r"[0-9a-fA-F]{32}")
_MOST_LINE = 200  # characters
_NAMED = 3  # ids, in a message


def parse_span(text: object) -> tuple[int, int | None]:
    """The places that `A:B` names, as Python slices do; None for all to the end.

    text: as the user wrote it. Raises SettingError for anything else, and for none.
    """
    match = _SPAN.fullmatch(text.strip()) if isinstance(text, str) else None
    if match is None:
        raise SettingError(
            "these are no places of documents", found=repr(text)[:80], allowed="as 0:1000 or 500:"
        )
    start, stop = int(match[1] or 0), int(match[2]) if match[2] else None
    if stop is not None and start >= stop:
        raise SettingError("these places hold no document", found=text, allowed="A below B")
    return start, stop


def parse_where(text: object) -> Condition:
    """The condition of `--where`. Raises SettingError where it is none.

    text: as the user wrote it.
    """
    if not isinstance(text, str):
        raise SettingError("this is no condition", found=repr(text)[:80])
    return parse_condition(text, names=COLUMNS)


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """What a user asked for: a document is chosen that fits all of it.

    documents: places in the store.
    ids: a file with an id on each line, 32 hex digits.
    where: a condition.
    sample: how many of those that fit are drawn.
    seed: of that draw.
    """

    documents: tuple[int, int | None] | None = None
    ids: str | None = None
    where: Condition | None = None
    sample: int | None = None
    seed: int = 0

    def of(self, store: Store, *, on_progress: OnProgress | None = None) -> np.ndarray:
        """bool [D]: which documents of a store are chosen; some are, and not all need be.

        store: open.
        on_progress: told how far it is.

        Raises SettingError for places and ids that the store does not have, and StoreError where
        no document fits.
        """
        chosen_D = np.ones(len(store), dtype=bool)
        if self.documents is not None:
            chosen_D &= _at_places(store, *self.documents)
        if self.ids is not None:
            chosen_D &= _with_ids(store, self.ids, on_progress)
        if self.where is not None:
            chosen_D &= _where(store, self.where, on_progress)
        if not chosen_D.any():
            raise StoreError("no document of the store is chosen", place=store.uri)
        if self.sample is not None:
            _keep_some(chosen_D, self.sample, seed=self.seed, place=store.uri)
        return chosen_D


def _at_places(store: Store, start: int, stop: int | None) -> np.ndarray:
    size = len(store)
    if start >= size or (stop is not None and stop > size):
        raise SettingError(
            "the store has no documents at these places",
            place="--documents",
            found=f"{start}:{'' if stop is None else stop}",
            allowed=f"0:{size}",
        )
    found_D = np.zeros(size, dtype=bool)
    found_D[start:stop] = True
    return found_D


def _with_ids(store: Store, path: str, on_progress: OnProgress | None) -> np.ndarray:
    """bool [D]: documents whose id is in the file, each id of which the store must have."""
    wanted, lines = _read_ids(path)
    missing = np.ones(len(wanted), dtype=bool)
    found = []
    for documents_DC in _tables(store, on_progress):
        own = _id_bytes(documents_DC)
        place_D = np.searchsorted(wanted, own).clip(max=len(wanted) - 1)
        there_D = wanted[place_D] == own
        missing[place_D[there_D]] = False
        found.append(there_D)
    if missing.any():
        shown = ", ".join(bytes(one)[:16].hex() for one in wanted[missing][:_NAMED])
        raise SettingError(
            f"the store does not have {int(missing.sum()):,} of the {lines:,} ids of the file",
            place=path,
            found=shown,
        )
    return np.concatenate(found)


def _read_ids(path: str) -> tuple[np.ndarray, int]:
    """The ids of a file, sorted, each once, as `_comparable` has them; and how many there are."""
    found = bytearray()
    try:
        with Path(path).open(encoding="utf-8") as file:
            for number, line in enumerate(iter(lambda: file.readline(_MOST_LINE), ""), start=1):
                text = line.strip()
                if text and not text.startswith("#"):
                    if not _ID.fullmatch(text):
                        raise SettingError(
                            "this is no id of a document",
                            place=f"{path}:{number}",
                            found=text,
                            allowed="32 hex digits",
                        )
                    found += bytes.fromhex(text)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SettingError(
            f"the file cannot be read: {reason}", place="--ids", found=path
        ) from error
    if not found:
        raise SettingError("the file holds no id", place="--ids", found=path)
    ids = _comparable(np.frombuffer(bytes(found), dtype=">u8").reshape(-1, 2))
    return np.unique(ids), len(ids)


def _id_bytes(documents_DC: np.ndarray) -> np.ndarray:
    return _comparable(documents_DC[:, :2])


def _comparable(halves_D2: np.ndarray) -> np.ndarray:
    """Ids as texts of 17 bytes: numpy compares these as bytes, up to their last that is not 0."""
    found_D17 = np.ones((len(halves_D2), 17), dtype=np.uint8)
    found_D17[:, :16] = halves_D2.astype(">u8").view(np.uint8).reshape(-1, 16)
    return found_D17.view("S17")[:, 0]


def _tables(store: Store, on_progress: OnProgress | None) -> Iterator[np.ndarray]:
    """The table of documents of each block."""
    meter = Meter(on_progress, stage="reading ids", unit="documents")
    done = 0
    for number in range(len(store.blocks)):
        documents_DC = store.read_documents(number)
        yield documents_DC
        done += len(documents_DC)
        meter.tell(done, fraction=done / max(1, len(store)))


def _where(store: Store, condition: Condition, on_progress: OnProgress | None) -> np.ndarray:
    if "sampler_loss" in condition.names and not store.spec.text.sampler_logprobs:
        raise SettingError(
            "the store does not know with which probabilities its tokens were drawn",
            place="--where",
            found="sampler_loss",
            remedy="Leave it out",
        )
    unknown = condition.names & _unknown(sparsifier_of(store.spec.sparsifier).targets)
    if unknown:
        raise SettingError(
            "the targets of the store do not know the whole distribution, so it has no such column",
            place="--where",
            found=", ".join(sorted(unknown)),
            remedy="Leave it out",
        )
    meter = Meter(on_progress, stage="looking for documents", unit="documents")
    found, done = [], 0
    for number in range(len(store.blocks)):
        documents_DC = store.read_documents(number)
        columns = {
            name: documents_DC[:, DOCUMENT_COLUMNS.index(name)].astype(np.float64)
            for name in _FROM_TABLE
        }
        if condition.names - set(_FROM_TABLE):
            columns |= _means(store.read_block(number))
        found.append(condition.of(columns))
        done += len(documents_DC)
        meter.tell(done, fraction=done / max(1, len(store)))
    return np.concatenate(found)


def _unknown(kind: TargetKind) -> set[str]:
    """The columns that targets of a kind do not have."""
    if kind.knows_whole:
        return set()
    return {"entropy", "loss"} | (set() if kind.has_exact else {"retained_mass"})


def _means(block: DocumentBlock) -> Mapping[str, np.ndarray]:
    """float64 [D]: the means over each document's targets; NaN for one without any."""
    targets = block.targets
    mass_R = np.exp(targets.logprobs_RK).sum(axis=1, where=targets.exact_RK(), dtype=np.float64)
    values = {
        "entropy": targets.entropy_R,
        "loss": -targets.label_logprob_R,
        "retained_mass": mass_R,
    }
    if block.sampler_logprobs_R is not None:
        values["sampler_loss"] = -block.sampler_logprobs_R
    document_R = np.repeat(np.arange(len(block)), block.target_lengths_D)
    count_D = block.target_lengths_D.astype(np.float64)
    with np.errstate(invalid="ignore"):
        return {
            name: np.bincount(document_R, weights=value_R, minlength=len(block)) / count_D
            for name, value_R in values.items()
        }


def _keep_some(chosen_D: np.ndarray, count: int, *, seed: int, place: str) -> None:
    """Draw `count` of the chosen documents, without replacement; the others are chosen no more.

    Each document has a number that depends on the seed and on its place; the smallest are drawn.
    """
    places = np.flatnonzero(chosen_D)
    if count > len(places):
        raise SettingError(
            "fewer documents can be drawn from",
            place="--sample",
            found=count,
            allowed=f"1..{len(places)} of {place}",
        )
    start = hashlib.blake2b(f"{seed}\0sample".encode(), digest_size=8).digest()
    keys = np.uint64(int.from_bytes(start, "big")) ^ places.astype(np.uint64)
    lots = uniforms(keys, count=1, draw=1)[:, 0]
    chosen_D[places[np.argsort(lots, kind="stable")[count:]]] = False
