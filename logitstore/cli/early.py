"""What a command refuses before torch is imported: local names that stand for nothing usable.

The functions that do the work refuse the same and more. This saves a user the seconds that their
imports take, by the same checks: they cost a tenth of a second for each name.
"""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["refuse_bad_corpus", "refuse_bad_model", "refuse_bad_store", "refuse_early"]

_MOST_FILES = 8  # whose first records are read


def refuse_early(options: Mapping[str, Any]) -> None:
    """Refuse the teacher and the corpus of a job, and a place where no store can lie.

    Args:
        options: The checked options of `dump`, `estimate` or `tune`.
    """
    refuse_bad_model(options["teacher"])
    refuse_bad_corpus(options)
    out = options.get("out")
    if isinstance(out, str | Path) and "sparsify" in options:
        from logitstore.store.commit import refuse_foreign_storage
        from logitstore.store.layout import StoreLayout

        refuse_foreign_storage(StoreLayout.at(out).storage)


def refuse_bad_model(name: object) -> None:
    """Raise ModelError for a path where no model lies; what may be on the Hub is not asked for.

    Args:
        name: As a command takes it.
    """
    if not isinstance(name, str | Path):
        return
    text = str(name)
    try:
        here = Path(text).exists()
    except OSError:
        here = True
    if here or text.startswith((".", "/", "~")) or text.count("/") > 1:
        from logitstore.teacher.models import model_path

        model_path(text)


def refuse_bad_corpus(options: Mapping[str, Any]) -> None:
    """Raise CorpusError for files that are not there, or whose first records lack a named field.

    Args:
        options: Those of a job; `data` that may be a Hub data set is not asked for.
    """
    data = options["data"]
    names = data if isinstance(data, list) else [data]
    if not all(isinstance(one, str | Path) and _is_local(str(one)) for one in names):
        return
    from logitstore.corpus.corpus import open_corpus
    from logitstore.dumping.options import split_options

    job, _ = split_options(options)
    corpus = open_corpus(data, fields=job.fields)
    readers = corpus.first_records(limit=job.limit, skip_bad=job.skip_bad)
    for records in islice(readers, _MOST_FILES):
        for _ in records:
            pass


def refuse_bad_store(store: object) -> None:
    """Raise StoreError where no store lies. What it holds is for the reader to judge.

    Args:
        store: As a command takes it.
    """
    if isinstance(store, str | Path) and not Path(str(store)).is_file():
        from logitstore.store.layout import StoreLayout

        layout = StoreLayout.at(store)
        if not layout.exists():
            layout.read_spec()  # raises


def _is_local(name: str) -> bool:
    """Whether it can be no data set on the Hub, which are called org/name."""
    if any(sign in name for sign in "*?["):
        return True
    try:
        return Path(name).exists() or name.count("/") != 1 or "." in Path(name).name
    except OSError:
        return True
