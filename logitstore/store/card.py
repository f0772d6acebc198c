"""The dataset card: README.md of a store, made from its manifest and what its user says of it.

What is foreign is text: no name from a spec or an audit becomes markup, a link or YAML. Terms are
those that somebody has stated; none is guessed.
"""

from __future__ import annotations

import html
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from logitstore.errors import SettingError, StorageError, printable
from logitstore.format.answers import told_of_answers
from logitstore.format.edits import edits_of
from logitstore.sparsify import sparsifier_of
from logitstore.store.last_audit import FIGURES, MOST_AUDIT_BYTES, last_audit, parse_audit
from logitstore.store.layout import SPEC

if TYPE_CHECKING:
    from pathlib import Path

    from logitstore.format.manifest import Manifest, Totals
    from logitstore.format.spec import StoreSpec
    from logitstore.store.reader import Store

__all__ = ["CardFacts", "store_card"]

_NOT_STATED = "not stated"
_IDENTIFIER = re.compile(r"[a-z0-9]+([.+-][a-z0-9]+)*")
_SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"))


@dataclass(frozen=True, kw_only=True, slots=True)
class CardFacts:
    """What the user says of a store; None for what nobody has stated."""

    license: str | None = None
    teacher_license: str | None = None
    corpus_license: str | None = None
    audit: dict[str, Any] | None = None  # as `audit --json` prints it

    @staticmethod
    def of(store: Store, *, audit: Path | None, **terms: str | None) -> CardFacts:
        """The facts, with what an audit says.

        store: sealed; the audit must be of it.
        audit: the file that `logitstore audit --json` wrote; None for what is kept of the last one.
        terms: license, teacher_license and corpus_license.

        Raises SettingError for a file that is no audit of this store, or of one with faults.
        """
        if audit is None:
            return CardFacts(audit=last_audit(store.layout, store.fingerprint), **terms)
        content = parse_audit(_start_of(audit), place=str(audit), fingerprint=store.fingerprint)
        if not content["ok"]:
            raise SettingError("the audit has found faults", place=audit)
        return CardFacts(audit=content, **terms)


def _start_of(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MOST_AUDIT_BYTES)
    except OSError as error:
        raise StorageError(f"cannot be read: {error.strerror}", place=path) from error


def store_card(
    spec: StoreSpec,
    manifest: Manifest,
    totals: Totals,
    *,
    name: str,
    facts: CardFacts | None = None,
    uri: str | None = None,
) -> str:
    """Markdown with the front matter that dataset hubs read.

    spec: of the store.
    manifest: of the store.
    totals: of its commits.
    name: of the store, as its title.
    facts: what its user says of it.
    uri: where it will lie; None for a folder called `name`.
    """
    facts, place = facts or CardFacts(), _one_word(uri or name)
    table = "\n".join(
        f"| {label} | {_cell(value)} |"
        for label, value in _rows(spec, manifest, totals, facts).items()
    )
    return f"""---
{_front_matter(spec, manifest, facts)}
---
# {_cell(name)}

Next-token distributions of a teacher language model, stored once to distil students from.

| what | value |
|---|---|
{table}

{_fidelity(facts)}

## Use it

    logitstore verify {place}
    trainer fit --logits {place} --student MODEL --out RUN

From Python:

```python
import logitstore
store = logitstore.open({json.dumps(place)})
print(store[0].targets.ids_RK, store[0].targets.logprobs_RK)
```

{_elsewhere(spec, place)}
"""


def _rows(spec: StoreSpec, manifest: Manifest, totals: Totals, facts: CardFacts) -> dict[str, str]:
    targets = max(1, manifest.targets)
    mass = totals.sums.get("head_mass")
    held = "" if mass is None else f"; exact ones hold {mass / targets:.3f} of the mass"
    return {
        "teacher": spec.teacher.in_words,
        "teacher's files": f"sha256 {spec.teacher.fingerprint}"
        if spec.teacher.seen
        else "unknown: another system has run it",
        "terms of the teacher": facts.teacher_license or _NOT_STATED,
        "corpus": spec.corpus.name,
        "corpus, as it was read": f"sha256 {spec.corpus.fingerprint}",
        **_answers(spec),
        "terms of the corpus": facts.corpus_license or _NOT_STATED,
        "terms of this store": facts.license or _NOT_STATED,
        "documents": f"{manifest.documents:,}",
        "targets": f"{manifest.targets:,}{_positions(spec)}",
        "bytes": f"{manifest.bytes:,} ({manifest.bytes / targets:.1f} per target)",
        "sparsifier": f"{spec.sparsifier.name}, "
        f"{sparsifier_of(spec.sparsifier).entries(spec.sparsifier)} a target{held}",
        **_states(spec),
        "temperatures": sparsifier_of(spec.sparsifier).served(spec.sparsifier),
        "vocabulary": f"{spec.tokenizer.vocab_size:,} ids",
        "tokenizer": f"sha256 {spec.tokenizer.fingerprint}; its files lie in tokenizer/",
        "container": spec.container,
        "codec": spec.codec.id,
        "fingerprint": f"`{manifest.fingerprint}`",
        **{
            f"edit {number}": str(one)
            for number, one in enumerate(edits_of(spec, place=SPEC), start=1)
        },
    }


def _positions(spec: StoreSpec) -> str:
    rule = spec.text.positions
    return "" if rule is None else f", at positions chosen by {rule} alone"


def _answers(spec: StoreSpec) -> dict[str, str]:
    """A row for each model whose answers the store holds."""
    rows = {}
    for number, content in enumerate(spec.corpus.answers, start=1):
        told = told_of_answers(content)
        words = [f"{name.replace('_', '-')} {value}" for name, value in told["settings"].items()]
        rows[f"answers {number}"] = (
            f"of {told['name']}, sha256 {told['fingerprint']}; drawn with {', '.join(words)}"
        )
    return rows


def _states(spec: StoreSpec) -> dict[str, str]:
    """The hidden states of a store, where it keeps any."""
    states = spec.states
    if states is None:
        return {}
    own = f"{', '.join(states.names)}: {states.width:,} numbers of {states.dtype} each"
    if states.head is None:
        return {"hidden states": own}
    head = f"{states.head.size:,} bytes of {states.head.dtype} in head/, hashed in store.json"
    return {"hidden states": own, "teacher's output layer": head}


def _front_matter(spec: StoreSpec, manifest: Manifest, facts: CardFacts) -> str:
    """YAML as huggingface_hub writes it; terms without an identifier stand there by their name."""
    from huggingface_hub import DatasetCardData

    known: dict[str, Any] = {
        "tags": ["knowledge-distillation", "logitstore", *_parquet_tag(spec)],
        "task_categories": ["text-generation"],
        "size_categories": [
            next((name for size, name in _SIZES if manifest.documents < size), "n>1M")
        ],
    }
    if facts.license is not None:
        if _IDENTIFIER.fullmatch(facts.license):
            known["license"] = facts.license
        else:
            known |= {"license": "other", "license_name": printable(facts.license)}
    if spec.container == "parquet":
        known["configs"] = [
            {"config_name": "default", "data_files": "data/*/documents.parquet"},
        ]
    return str(DatasetCardData(**known).to_yaml(line_break="\n")).rstrip()


def _parquet_tag(spec: StoreSpec) -> tuple[str, ...]:
    return ("parquet",) if spec.container == "parquet" else ()


def _fidelity(facts: CardFacts) -> str:
    """What the last audit has found, or that none is known."""
    if facts.audit is None:
        return "Fidelity: not audited when this card was made; `logitstore audit` does so."
    found = facts.audit
    judged = "Fidelity" if found["ok"] else "**The last audit found faults**"
    head = (
        f"{judged}, by `logitstore audit` with {_cell(str(found['documents']))} documents and "
        f"{_cell(str(found.get('targets')))} targets:"
    )
    rows = [
        f"| {meaning} | {_cell(_number(found.get(name)))} |" for name, meaning in FIGURES.items()
    ]
    return "\n".join([head, "", "| what | value |", "|---|---|", *rows])


def _number(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, int | float) else "none"


def _elsewhere(spec: StoreSpec, place: str) -> str:
    """How other tools read the files."""
    if spec.container != "parquet":
        return (
            "The shards are Zarr v3 groups of integers, which zarr and tensorstore open; "
            "docs/format.md of logitstore says what they mean. `datasets`, DuckDB and Polars read "
            "stores whose container is parquet: `logitstore dump --format parquet`."
        )
    files = json.dumps(f"{place.rstrip('/')}/data/*/documents.parquet")
    return f"""In other tools, documents with their tokens and the codes of their targets, which
docs/format.md of logitstore makes probabilities of:

```python
import datasets
rows = datasets.load_dataset("parquet", data_files={files}, split="train")
print(rows[0]["tokens"], rows[0]["input_ids"][:8])
```

```python
import duckdb
print(duckdb.sql({json.dumps(_documents_query(files))}))
```

```python
import polars
print(polars.scan_parquet({files}).select("record", "tokens", "targets").collect())
```"""


def _documents_query(files: str) -> str:
    return f"SELECT record, tokens, targets FROM '{json.loads(files)}'"


def _one_word(place: str) -> str:
    """A place as it may stand in a command and in a string: what could end either is escaped."""
    return re.sub(r"[^A-Za-z0-9_./:@+~-]", "_", printable(place))


def _cell(text: str) -> str:
    """A text from elsewhere as a cell: no HTML, no link, no other cell, nothing unseen."""
    escaped = html.escape(printable(text), quote=False)
    return re.sub(r"([\\|\[\]*])", r"\\\1", escaped)
