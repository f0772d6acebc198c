"""Import: files of another system become a store, unit by unit, as a dump makes one.

A first pass reads and checks every row (`survey.py`); the second writes. What is committed stays:
the same call again goes on where it stopped, and a source or setting that has changed meanwhile is
another store. At the end the store is sealed, and every row of it read and checked.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from logitstore.codec import new_codec
from logitstore.corpus.tokenizer import load_tokenizer, tokenizer_files, vocab_size
from logitstore.dumping.description import provenance, tokenizer_spec
from logitstore.dumping.ending import telling_what_is_kept
from logitstore.dumping.options import TARGET_OPTIONS, target_spec
from logitstore.dumping.states import BLOCK_TARGETS
from logitstore.errors import CorpusError, CorruptionError, SettingError, TokenizerError
from logitstore.exchange.foreign_documents import Values, checked_document, targets_of
from logitstore.exchange.foreign_files import Request
from logitstore.exchange.imports import open_foreign
from logitstore.exchange.options import IMPORT_OPTIONS
from logitstore.exchange.survey import (
    decided_values,
    hash_of,
    refuse_other_alignment,
    surveyed,
)
from logitstore.exchange.whole import whole_targets
from logitstore.format.json import fingerprint
from logitstore.format.spec import (
    FORMAT,
    CorpusSpec,
    SparsifierSpec,
    StoreSpec,
    TeacherSpec,
    TextSpec,
)
from logitstore.options import takes
from logitstore.progress import Meter, tell_stage
from logitstore.sparsify.foreign import HEAD, SHARES
from logitstore.store.begin import lease_of
from logitstore.store.commit import StoreWriter, refuse_foreign_storage
from logitstore.store.layout import StoreLayout
from logitstore.store.verify import verify
from logitstore.store.way_out import telling_the_way_out
from logitstore.store.writer import UnitWriter
from logitstore.targets.documents import StoredDocument
from logitstore.targets.targets import EMPTY_TAIL, SparseTargets, none_sampled

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from logitstore.exchange.foreign_documents import ForeignDocument
    from logitstore.exchange.foreign_files import Foreign, ForeignFile
    from logitstore.exchange.survey import Survey
    from logitstore.format.manifest import Manifest
    from logitstore.format.plan import Plan
    from logitstore.progress import OnProgress
    from logitstore.store.storage import StorageLike

__all__ = ["ImportSummary", "import_store"]

_LACKS = {
    Values.LOGPROBS: (
        "the tail's mass at other temperatures than 1",
        "the entropy of the teacher's distribution",
        "the log-probability of a true token that is no entry",
    ),
    Values.SHARES: (
        "the mass of the entries and of the tail",
        "the entropy of the teacher's distribution",
        "the log-probability of the true token",
    ),
    Values.WHOLE: (),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportSummary:
    """What an import left behind."""

    uri: str  # where the store lies
    fingerprint: str
    documents: int
    targets: int
    bytes: int
    values: str  # what the numbers were taken for
    scaled_rows: int  # whose entries added up to more than 1
    lacks: tuple[str, ...]  # what the format could not carry, in words
    seconds: float


@takes(IMPORT_OPTIONS)
def import_store(
    *, out: StorageLike, on_progress: OnProgress | None, on_note: Any, **options: Any
) -> ImportSummary:
    """Make a store of what another system wrote.

    The same call again takes up an unfinished import where it stopped. What the format cannot carry
    is noted, and absent in the store: losses that need it are refused. Raises CorpusError for files
    that are damaged or no such format, SettingError where they do not tell enough, ModelError for a
    tokenizer that cannot be loaded, SpecError, StoreError or StorageError.
    """
    started = time.monotonic()
    layout = StoreLayout.at(out)
    with telling_the_way_out(layout):
        refuse_foreign_storage(layout.storage)
        job = _Import.open(options, on_progress)
        for line in job.notes:
            if callable(on_note):
                on_note(line)
        manifest = job.write(layout, on_progress)
    return ImportSummary(
        uri=layout.uri,
        fingerprint=manifest.fingerprint,
        documents=manifest.documents,
        targets=manifest.targets,
        bytes=manifest.bytes,
        values=job.values.value,
        scaled_rows=job.survey.above_one if job.values is Values.LOGPROBS else 0,
        lacks=job.lacks,
        seconds=time.monotonic() - started,
    )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Import:
    """A source that was read once, and all that the store's spec says."""

    foreign: Foreign
    survey: Survey
    values: Values
    sparsifier: SparsifierSpec
    tokenizer: Any
    options: dict[str, Any]

    @staticmethod
    def open(options: dict[str, Any], on_progress: OnProgress | None) -> _Import:
        tokenizer = options["tokenizer"]
        if isinstance(tokenizer, str | Path):
            tokenizer = load_tokenizer(str(tokenizer))
        size = vocab_size(tokenizer)
        names = ("source", "config", "tokens", "alignment", "bos")
        request = Request(**{name: options[name] for name in names}, tokenizer=tokenizer)
        foreign = open_foreign(options["from_"], request)
        _refuse_larger(tokenizer, foreign.columns, place=str(options["source"]))
        size = min(size, foreign.columns or size)
        whole = foreign.values is Values.WHOLE
        chosen = _chosen(options, whole=whole)
        survey = surveyed(
            foreign,
            vocab_size=size,
            entries=None if chosen is None else chosen.k,
            on_progress=on_progress,
        )
        refuse_other_alignment(survey, place=str(options["source"]))
        values = decided_values(foreign, survey, asked=options["values"])
        return _Import(
            foreign=foreign,
            survey=survey,
            values=values,
            sparsifier=chosen or _sparsifier(values, survey),
            tokenizer=tokenizer,
            options=options,
        )

    @property
    def vocab_size(self) -> int:
        """V: of the tokenizer."""
        return self.survey.vocab_size

    @property
    def lacks(self) -> tuple[str, ...]:
        """What the format cannot carry, in words."""
        return (*_LACKS[self.values], *self.foreign.lacks)

    @property
    def notes(self) -> Iterator[str]:
        """What the user should know."""
        source = self.options["source"]
        yield f"{source}: {self.survey.documents:,} documents, {self.survey.rows:,} rows"
        if self.values is not Values.WHOLE:
            yield f"{source}: the values are {self.values.value}"
        above = self.survey.above_one
        if self.values is Values.LOGPROBS and above:
            yield (
                f"{source}: entries of {above:,} of the rows add up to more than 1, by "
                f"{self.survey.largest_sum - 1:.2g} at most: scaled to 1, with an empty tail"
            )
        for one in self.lacks:
            yield f"not in the store, for the format cannot carry it: {one}"

    def write(self, layout: StoreLayout, on_progress: OnProgress | None) -> Manifest:
        """The sealed store, every row of it read again."""
        plan = self.survey.plan
        spec = self._spec(plan)
        lease = lease_of(layout, spec)
        try:
            lease.take()
            store = StoreWriter(layout)
            store.begin(spec, plan, tokenizer_files(self.tokenizer), lease=lease)
            writer = UnitWriter.of(store, spec)
            with telling_what_is_kept(layout, plan):
                self._write_units(writer, plan, on_progress, lease.renew)
                tell_stage(on_progress, "sealing the store")
                manifest = store.seal(plan)
        finally:
            lease.release()
        for fault in verify(layout.storage, on_progress=on_progress):
            raise CorruptionError(
                fault.problem, place=fault.place, found=fault.found, allowed=fault.allowed
            )
        return manifest

    def _write_units(
        self,
        writer: UnitWriter,
        plan: Plan,
        on_progress: OnProgress | None,
        renew: Callable[[], None],
    ) -> None:
        meter = Meter(on_progress, stage="writing", unit="documents")
        done = 0
        for file in self.foreign.files:
            documents = iter(file.read())
            for unit in (one for one in plan.units if one.source == file.name):
                found = list(islice(documents, unit.records))
                if writer.store.layout.read_commit(unit) is None:
                    renew()
                    stored = [self._stored(one, file) for one in found]
                    with_rows = [one for one in stored if len(one.targets)]
                    writer.write(unit, with_rows, skipped=len(stored) - len(with_rows))
                done += len(found)
                meter.tell(done, fraction=done / self.survey.documents, detail=unit.name)

    def _stored(self, document: ForeignDocument, file: ForeignFile) -> StoredDocument:
        """A document as the store has it; the second time that it is read it is checked again."""
        own = checked_document(document, source=file.name, vocab_size=self.vocab_size)
        if self.values is Values.WHOLE:
            draws = whole_targets(document, own, self.sparsifier, vocab_size=self.vocab_size)
            return StoredDocument(document=own, targets=draws[0], other_draws=draws[1:])
        targets = targets_of(document.rows, self.values)  # type: ignore[arg-type]
        if targets.k > self.sparsifier.k:
            raise CorpusError(
                "the file has changed while it was read",
                place=document.place,
                remedy="Run the same command again",
            )
        return StoredDocument(document=own, targets=_widened(targets, self.sparsifier.k))

    def _spec(self, plan: Plan) -> StoreSpec:
        options = self.options
        given = {"from": options["from_"], "values": self.values.value, **self.foreign.settings}
        if options["tokens"] is not None:
            given["tokens_sha256"] = hash_of([options["tokens"]])
        told = json.loads(json.dumps(given))  # lists for tuples, as it will be read
        shown = ", ".join(f"{name} {told[name]}" for name in ("alignment", "bos") if name in told)
        kind = options["from_"] + (f", {shown}" if shown else "")
        codec = new_codec(self.sparsifier, vocab_size=self.vocab_size, fidelity=options["fidelity"])
        return StoreSpec(
            format=FORMAT,
            teacher=TeacherSpec.unseen(options["teacher"]),
            tokenizer=tokenizer_spec(self.tokenizer, vocab_size=self.vocab_size),
            corpus=CorpusSpec(
                name=f"{options['source'].name} ({kind})",
                fingerprint=fingerprint({"plan": plan.to_json(), "import": told}),
                limit=None,
                unit_tokens=0,
            ),
            text=TextSpec(
                text_field=None,
                messages_field=None,
                max_length=self.survey.longest,
                chat_template=None,
            ),
            sparsifier=self.sparsifier,
            codec=codec.spec,
            container=options["format"],
            batch_tokens=0,
            block_targets=BLOCK_TARGETS,
            provenance=provenance()
            | {
                "import": told
                | {
                    "lacks": list(self.lacks),
                    "rows": self.survey.rows,
                    "rows_above_1": self.survey.above_one,
                    "largest_sum": self.survey.largest_sum,
                }
            },
        )


def _sparsifier(values: Values, survey: Survey) -> SparsifierSpec:
    if values is Values.SHARES:
        return SparsifierSpec(name=SHARES.name, k=survey.entries)
    return SparsifierSpec(name=HEAD.name, k=survey.entries, tail_nodes=(1.0,))


def _chosen(options: dict[str, Any], *, whole: bool) -> SparsifierSpec | None:
    """What is kept of whole distributions; None where the files have chosen already."""
    if whole:
        return target_spec({one.name: options[one.name] for one in TARGET_OPTIONS})
    for one in TARGET_OPTIONS:
        if one.given(options[one.name]):
            raise SettingError(
                f"{one.flag} means nothing where the files say what is kept of a distribution",
                found=options[one.name],
                allowed="with --from llamacpp, whose distributions are whole",
                remedy="Leave it out",
            )
    return None


def _widened(targets: SparseTargets, k: int) -> SparseTargets:
    """The same targets with room for `k` entries."""
    more = ((0, 0), (0, k - targets.k))
    return replace(
        targets,
        ids_RK=np.pad(targets.ids_RK, more),
        logprobs_RK=np.pad(targets.logprobs_RK, more, constant_values=EMPTY_TAIL),
        sampled_RK=none_sampled(len(targets), k),
    )


def _refuse_larger(tokenizer: Any, columns: int | None, *, place: str) -> None:
    """Raise TokenizerError where a tokenizer has more ids than the teacher had columns.

    Tokens that were added to it do not count: some teachers have no column for the last of them.
    """
    own = int(tokenizer.vocab_size)
    if columns is not None and own > columns:
        raise TokenizerError(
            "the tokenizer has more ids than the files say the teacher had, so it is another's",
            place=place,
            found=f"{own:,} ids for {columns:,}",
            remedy="Give the teacher's own with --tokenizer",
        )
