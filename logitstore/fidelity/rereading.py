"""Documents as the teacher read them, where it read more than a store keeps of them.

A store keeps the student's tokens. What stood before them in the teacher's own text is made anew
from the corpus, by the rules that the store's spec tells; the store's tokens must come out.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from dataclasses import dataclass, replace
from datetime import date
from typing import TYPE_CHECKING, Any

import numpy as np

from logitstore.corpus.corpus import Corpus, open_corpus
from logitstore.corpus.fields import Fields
from logitstore.corpus.temporary import temporary_folder
from logitstore.corpus.text import tokenize
from logitstore.corpus.text_rules import TextRules
from logitstore.corpus.tokenizer import load_tokenizer
from logitstore.dumping.options import system_prompt
from logitstore.errors import CorpusError, SettingError
from logitstore.store.local import LocalStorage
from logitstore.targets.documents import document_id

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from logitstore.format.plan import WorkUnit
    from logitstore.format.spec import TextSpec
    from logitstore.store.reader import Store
    from logitstore.targets.documents import Document, StoredDocument

__all__ = ["Rereading", "stored_tokenizer"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Rereading:
    """What the teacher of a store read, made again from the corpus."""

    store: Store
    corpus: Corpus | None  # None where the teacher read no more than the store keeps
    system: str | None  # the system prompt that only the teacher read

    @staticmethod
    def of(store: Store, *, data: object, teacher_system: object) -> Rereading:
        """What is needed to read the documents of `store` again, before a model is loaded.

        store: open.
        data: the corpus of the dump, or None.
        teacher_system: the system prompt of the dump, or None.

        Raises SettingError where one of them is missing or another, or has no use; CorpusError
        where there is no such corpus.
        """
        text = store.spec.text
        system = _checked_system(teacher_system, text, place=store.uri)
        reads_more = text.teacher_system is not None or text.teacher_messages
        if reads_more != (data is not None):
            raise SettingError(
                "the teacher of this store read more than the store keeps of its documents"
                if reads_more
                else "the teacher of this store read its documents alone",
                place=store.uri,
                remedy="Give the corpus of the dump with --data, so that it is read again"
                if reads_more
                else "Leave out --data",
            )
        corpus = open_corpus(data, fields=_fields(text)) if reads_more else None
        return Rereading(store=store, corpus=corpus, system=system)

    def as_read(self, chosen: Sequence[StoredDocument]) -> list[StoredDocument]:
        """The documents with what the teacher read in their place.

        chosen: of the store.

        Raises CorpusError where the corpus has changed, or gives other tokens than the store's.
        """
        if self.corpus is None:
            return list(chosen)
        made = self._made([one.document for one in chosen], self.corpus)
        some = self.store.spec.text.positions is not None
        return [
            replace(one, document=_same(one.document, made, chosen=some, place=self.store.uri))
            for one in chosen
        ]

    def _made(self, wanted: Sequence[Document], corpus: Corpus) -> dict[bytes, Document]:
        """The documents of the records of `wanted`, by their ids."""
        records: dict[WorkUnit, set[int]] = defaultdict(set)
        for document in wanted:
            records[self._unit(document)].add(document.record)
        tokenizer, rules = (
            stored_tokenizer(self.store.tokenizer_files()),
            _rules(self.store, self.system),
        )
        made: dict[bytes, Document] = {}
        for unit, numbers in records.items():
            read = corpus.read(unit, skip_bad=True)
            some = (record for record in read if record.record in numbers)
            stream = tokenize(some, tokenizer, rules=rules, skip_bad=False)
            made |= {document.id: document for document in stream}
        return made

    def _unit(self, document: Document) -> WorkUnit:
        """The work unit that the document came from."""
        for unit in self.store.layout.read_plan().units:
            if 0 <= document.record - unit.first_record < unit.records and (
                document.id
                == document_id(source=unit.source, record=document.record, piece=document.piece)
            ):
                return unit
        raise CorpusError(
            "no work unit of the store has the document",
            place=self.store.uri,
            found=document.id.hex(),
        )


def _checked_system(given: object, text: TextSpec, *, place: str) -> str | None:
    """The system prompt, which must be that of the dump."""
    system = None if given is None else system_prompt(given)
    found = None if system is None else hashlib.sha256(system.encode()).hexdigest()
    if found == text.teacher_system:
        return system
    if text.teacher_system is None:
        problem, remedy = "the teacher of this store read no system prompt", "Leave it out"
    elif system is None:
        problem = "the teacher of this store read a system prompt"
        remedy = "Give it with --teacher-system"
    else:
        problem = "the teacher of this store read another system prompt"
        remedy = "Give the text or the file that the dump was given"
    raise SettingError(
        problem, place=place, found=found, allowed=text.teacher_system, remedy=remedy
    )


def _fields(text: TextSpec) -> Fields:
    return Fields(
        text=text.text_field,
        messages=text.messages_field,
        tokens=text.tokens_field,
        mask=text.mask_field,
        shape=text.records,
        ignored=frozenset(text.ignored_fields),
    )


def _rules(store: Store, system: str | None) -> TextRules:
    text = store.spec.text
    variables = json.loads(text.template_kwargs)
    return TextRules(
        max_length=text.max_length,
        vocab_size=store.spec.tokenizer.vocab_size,
        last_turn_only=text.turns == "last",
        template_variables=variables,
        today=date.fromisoformat(text.template_date) if text.template_date else date.today(),
        teacher_system=system,
        teacher_messages=text.teacher_messages,
    )


def stored_tokenizer(files: Mapping[str, bytes]) -> Any:
    """The tokenizer of a store.

    files: those of `Store.tokenizer_files`.
    """
    with temporary_folder() as folder:
        storage = LocalStorage(folder)
        for name, content in files.items():
            storage.put(name, content)
        return load_tokenizer(folder)


def _same(
    stored: Document, made: Mapping[bytes, Document], *, chosen: bool, place: str
) -> Document:
    """The document that the corpus gives now, which must be the stored one."""
    found = made.get(stored.id)
    if found is not None and chosen and len(found) == len(stored):
        # The store says which positions were kept of those that count.
        found = found.only(stored.counted_L[found.counted_L])
    if (
        found is None
        or not np.array_equal(found.input_ids_L, stored.input_ids_L)
        or not np.array_equal(found.counted_L, stored.counted_L)
    ):
        raise CorpusError(
            "the corpus gives other tokens than the store holds",
            place=f"{place}, record {stored.record}, piece {stored.piece}",
            remedy="Give the corpus of the dump, and audit with the version that dumped it",
        )
    return found
