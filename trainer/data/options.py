"""Options of how a store becomes batches, which `training_batches` and `fit` both take.

Importing this costs no torch, so that a command line can refuse a value at once.
"""

from __future__ import annotations

from dataclasses import replace

from logitstore.plumbing import Option

__all__ = [
    "AVERAGE",
    "BATCH_TOKENS",
    "EPOCHS",
    "MICRO_TOKENS",
    "RANKS",
    "SEED",
    "SELECT",
    "SELECT_LABELS",
    "SPAN_ENDS",
    "WEIGHT",
    "WINDOW",
    "rank_option",
]

BATCH_TOKENS = Option(
    name="batch_tokens",
    kind=int,
    default=16_384,
    help="The number of tokens in an optimiser step, over all ranks.",
    least=1,
)
MICRO_TOKENS = Option(
    name="micro_tokens",
    kind=int,
    default=None,
    nullable=True,
    help="The most tokens in one forward pass.",
    unset="about 4096",
    least=1,
)
EPOCHS = Option(
    name="epochs",
    kind=int,
    default=None,
    nullable=True,
    help="The number of passes over the store.",
    least=1,
)
SEED = Option(
    name="seed",
    kind=int,
    default=0,
    help="The seed of the order of documents.",
    least=0,
    most=2**32 - 1,
)
WINDOW = Option(
    name="window",
    kind=int,
    default=None,
    nullable=True,
    help="The number of blocks, in each lane, whose documents are shuffled together.",
    unset="what fits into 1 GiB over all lanes",
    least=1,
)
RANKS = Option(
    name="ranks",
    kind=int,
    default=1,
    help="The number of processes that share each optimiser step.",
    least=1,
    python_only=True,
)
WEIGHT = Option(
    name="weight",
    kind=float,
    default=1.0,
    help="How many times an epoch passes over a store.",
    above=0,
    most=1000,
    python_only=True,
)

SELECT = Option(
    name="select",
    kind=str,
    default=None,
    nullable=True,
    help="Let only some targets count in the divergence from the teacher, by its entropy or by its "
    "loss on the true token: entropy:top:0.2 is the fifth of the store's targets of which it is "
    "least sure, loss:bottom:0.8 all but the fifth of the highest loss; entropy:above:1.5 and "
    "loss:below:3 are in nats.",
    unset="all count",
)
SELECT_LABELS = Option(
    name="select_labels",
    kind=str,
    default="all",
    help="Whose true tokens count in the rest of the loss, beside --select: those of all targets, "
    "or of the selected ones.",
    choices=lambda: ("all", "selected"),
    needs="select",
)
AVERAGE = Option(
    name="average",
    kind=str,
    default=None,
    nullable=True,
    help="Read each document with the targets of all stores, which are of one corpus by several "
    "teachers: the loss is that of their mean, STORE@W weighing each teacher. Either all documents "
    "must be in every store, or those that are not common to them are left out.",
    unset="each document is read with the targets of its own store",
    choices=lambda: ("all", "common"),
)

SPAN_ENDS = Option(
    name="span_ends",
    kind=str,
    default="any",
    help="Where spans of text end, for a student of another tokenizer: at any boundary that both "
    "tokenizers have, or only before white space.",
    choices=lambda: ("any", "words"),
)


def rank_option(ranks: int) -> Option:
    """The option `rank`, the number of a process among `ranks` processes."""
    return replace(
        RANKS,
        name="rank",
        default=0,
        help="The number of this process among `ranks`.",
        least=0,
        most=ranks - 1,
    )
