"""Options that more than one command of the command line takes."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = [
    "BatchTokensOption",
    "DataOption",
    "DeviceOption",
    "DrawsOption",
    "DtypeOption",
    "FidelityOption",
    "FormatOption",
    "JsonOption",
    "KOption",
    "LimitOption",
    "MaxLengthOption",
    "MessagesFieldOption",
    "RepeatsOption",
    "SecondsOption",
    "SeedOption",
    "SkipBadOption",
    "SparsifyOption",
    "StoreArgument",
    "TailDrawsOption",
    "TeacherOption",
    "TemperatureOption",
    "TextFieldOption",
    "TopPOption",
    "UnitTokensOption",
]

StoreArgument = Annotated[str, typer.Argument(metavar="STORE", help="Folder of the store.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object, nothing else.")]
SparsifyOption = Annotated[
    str,
    typer.Option(help="How a distribution becomes entries: hybrid, unbiased, sample, topk, topp."),
]
KOption = Annotated[
    int | None,
    typer.Option(
        help="Entries of a target; of a hybrid's head. Default: 8 for hybrid, 16 for unbiased, "
        "64 for topk and topp."
    ),
]
TopPOption = Annotated[
    float | None, typer.Option(help="Mass of a topp head, of at most --k entries. Default: 0.98.")
]
DrawsOption = Annotated[
    int | None, typer.Option(help="Draws with replacement of sample. Default: 50.")
]
TailDrawsOption = Annotated[
    int | None, typer.Option(help="Entries that hybrid draws from the tail. Default: 8.")
]
TemperatureOption = Annotated[
    str | None,
    typer.Option(
        help="Temperatures to serve, as in 1,2,4: sample and unbiased draw once for each, the "
        "others keep the tail's mass at each. Default: 1; for the others, all from 1 to 10."
    ),
]
RepeatsOption = Annotated[
    int | None,
    typer.Option(help="Draws of each target, one for each epoch, of sample and unbiased."),
]
SeedOption = Annotated[int | None, typer.Option(help="Of the draws. Default: 0.")]
FidelityOption = Annotated[
    str, typer.Option(help="How finely values are stored: compact, balanced or exact.")
]
TeacherOption = Annotated[str, typer.Option(help="Transformers folder or Hub id.")]
DataOption = Annotated[
    str,
    typer.Option(help=".txt, .jsonl, .jsonl.gz, .parquet, a folder of them, or a Hub data set."),
]
TextFieldOption = Annotated[
    str | None, typer.Option(help="Field of the text. Default: 'text' where there is one.")
]
MessagesFieldOption = Annotated[
    str | None, typer.Option(help="Field of a chat. Default: 'messages' where there is one.")
]
MaxLengthOption = Annotated[
    int | None,
    typer.Option(
        help="Tokens of a document; longer ones are split. Default: the teacher's context, "
        "1024 at most."
    ),
]
LimitOption = Annotated[int | None, typer.Option(help="Use the first N records only.")]
SkipBadOption = Annotated[bool, typer.Option("--skip-bad", help="Count broken records and go on.")]
FormatOption = Annotated[
    str, typer.Option("--format", help="How shards lie in files: zarr or parquet.")
]
DeviceOption = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps, or auto.")]
DtypeOption = Annotated[str, typer.Option(help="float32, bfloat16, float16, or auto.")]
BatchTokensOption = Annotated[
    int, typer.Option(help="Tokens of one teacher batch, padding included.")
]
UnitTokensOption = Annotated[
    int, typer.Option(help="Tokens, about, of a unit of work: what a crash can cost.")
]
SecondsOption = Annotated[
    float, typer.Option(help="Seconds to spend on a sample, about, beside loading the teacher.")
]
