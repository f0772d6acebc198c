"""The options of `import` and `export`."""

from __future__ import annotations

from pathlib import Path

from logitstore.dumping.options import JOB_OPTIONS, TARGET_OPTIONS
from logitstore.exchange.exports import EXPORTS
from logitstore.exchange.foreign_files import ALIGNMENTS
from logitstore.exchange.imports import IMPORTS
from logitstore.options import Option, refuse_uri
from logitstore.progress import ON_PROGRESS
from logitstore.store.options import MAX_MEMORY, STORE
from logitstore.store.storage import open_storage

__all__ = ["EXPORT_OPTIONS", "IMPORT_OPTIONS"]

_OF_JOB = {one.name: one for one in JOB_OPTIONS}


def _listed(names: dict[str, str]) -> str:
    return "; ".join(f"{name}: {summary}" for name, summary in names.items())


IMPORT_OPTIONS = (
    Option(
        name="source",
        kind=Path,
        positional=True,
        help="What is imported: a file of another system, or the folder of its files.",
    ),
    Option(
        name="out",
        kind=object,
        positional=True,
        help="The folder of the store: a new one, or that of an import to go on with.",
        in_python="Or an object with the methods of logitstore.Storage.",
        refuse=open_storage,
    ),
    Option(
        name="from_",
        spelled="from",
        kind=str,
        choices=lambda: IMPORTS,
        help=f"The format. {_listed({name: one.summary for name, one in IMPORTS.items()})}.",
    ),
    Option(
        name="tokenizer",
        kind=object,
        help="The teacher's tokenizer: its folder, or a model on the Hub.",
        in_python="Or a loaded tokenizer of transformers.",
        refuse=refuse_uri,
    ),
    Option(
        name="config",
        kind=Path,
        default=None,
        nullable=True,
        help="DistillKit's settings of its codec, in YAML.",
        unset="compression_config.yaml beside the files",
    ),
    Option(
        name="tokens",
        kind=Path,
        default=None,
        nullable=True,
        help="A .jsonl or .parquet file with the token ids that the files leave out: `input_ids` "
        "of each record, in order, and for axolotl's raw data `counted`.",
    ),
    Option(
        name="alignment",
        kind=str,
        default=None,
        nullable=True,
        choices=lambda: ALIGNMENTS,
        help="Of axolotl's prepared data: whether row t is for the same token or for the next.",
    ),
    Option(
        name="bos",
        kind=str,
        default=None,
        nullable=True,
        help="Of llama.cpp's files: the id that was read in place of each chunk's first token, or "
        "none.",
    ),
    Option(
        name="values",
        kind=str,
        default=None,
        nullable=True,
        choices=lambda: ("logprobs", "shares"),
        help="What the numbers are: log-probabilities over the vocabulary, or known up to a "
        "constant of each row.",
        unset="as the format says, tested by their sums",
    ),
    Option(
        name="teacher",
        kind=str,
        default="unknown",
        help="The name of the teacher, for the store to tell.",
    ),
    Option(
        name="fidelity",
        kind=str,
        default="exact",
        choices=_OF_JOB["fidelity"].choices,
        help=_OF_JOB["fidelity"].help,
    ),
    _OF_JOB["format"],
    *TARGET_OPTIONS,
    _OF_JOB["on_note"],
    ON_PROGRESS,
)
EXPORT_OPTIONS = (
    STORE,
    Option(
        name="out",
        kind=Path,
        positional=True,
        help="The folder that is written; it must not be there yet.",
    ),
    Option(
        name="to",
        kind=str,
        choices=lambda: EXPORTS,
        help=f"The format. {_listed({name: one.summary for name, one in EXPORTS.items()})}.",
    ),
    MAX_MEMORY,
    _OF_JOB["on_note"],
    ON_PROGRESS,
)
