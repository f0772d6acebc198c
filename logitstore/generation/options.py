"""What `generate` is told; what it has in common with `dump` is declared there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from logitstore.corpus.fields import Fields
from logitstore.corpus.prompts import PROMPT_SHAPES
from logitstore.dumping.options import JOB_OPTIONS, TEACHER
from logitstore.errors import SettingError
from logitstore.options import option, options_of
from logitstore.progress import ON_PROGRESS

__all__ = ["GENERATE_OPTIONS", "GenerateOptions", "check_generate"]

_LEAST_TEMPERATURE = 1e-6
_OF_DUMP = {one.name: one for one in JOB_OPTIONS}


def _refuse_no_parquet(out: Path) -> None:
    """Raise SettingError for a file that `dump` would not read as Parquet."""
    if out.suffix.lower() != ".parquet":
        raise SettingError("answers are written as Parquet", found=out, allowed="FILE.parquet")


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerateOptions:
    """Which model answers which prompts, and how it draws its answers."""

    model: object = option(
        like=TEACHER,
        help="The model that answers: a transformers folder, the folder of a run, or a Hub id.",
        in_python="Or a loaded transformers model.",
    )
    tokenizer: object | None = option(
        like=_OF_DUMP["tokenizer"],
        help="The tokenizer, or its folder or Hub id. A model that is no name needs one.",
        unset="that of the model's folder",
    )
    data: object = option(
        like=_OF_DUMP["data"],
        help="The prompts: a file, a folder, a pattern or a Hub data set, as for `dump`; may be "
        "given several times. An answer that ends a record is left out and made anew.",
    )
    out: Path = option(
        help="The Parquet file of the answers: a new one, or that of a run to go on with.",
        refuse=_refuse_no_parquet,
    )
    n: int = option(1, help="The number of answers to each prompt.", least=1)
    max_new_tokens: int = option(
        256, help="The most tokens of an answer, its end included.", least=1
    )
    temperature: float = option(
        1.0, help="The temperature of the draws; 0 takes the most probable token.", least=0
    )
    top_p: float | None = option(
        None,
        help="Draw from the most probable tokens that hold this mass.",
        unset="all of them",
        above=0,
        most=1,
    )
    top_k: int | None = option(
        None, help="Draw from the K most probable tokens.", unset="all of them", least=1
    )
    min_p: float | None = option(
        None,
        help="Draw from the tokens that are at least this share as probable as the most "
        "probable one.",
        unset="all of them",
        least=0,
        most=1,
    )
    seed: int = option(0, help="The seed of the draws.", least=0)
    records: str = option(
        like=_OF_DUMP["records"],
        choices=lambda: ("auto", *PROMPT_SHAPES),
    )
    text_field: str | None = option(like=_OF_DUMP["text_field"])
    messages_field: str | None = option(like=_OF_DUMP["messages_field"])
    tokens_field: str | None = option(like=_OF_DUMP["tokens_field"])
    mask_field: str | None = option(like=_OF_DUMP["mask_field"])
    ignore_field: list[str] | None = option(like=_OF_DUMP["ignore_field"])
    chat_template: object | None = option(like=_OF_DUMP["chat_template"])
    template_kwargs: object | None = option(like=_OF_DUMP["template_kwargs"])
    template_date: str | None = option(
        like=_OF_DUMP["template_date"], unset="today, or the date on which the file was begun"
    )
    limit: int | None = option(like=_OF_DUMP["limit"])
    skip_bad: bool = option(
        like=_OF_DUMP["skip_bad"],
        help="Skip prompts that cannot be answered, and report how many there were.",
    )
    device: str = option(like=_OF_DUMP["device"])
    dtype: str = option(like=_OF_DUMP["dtype"])
    batch_tokens: int = option(
        like=_OF_DUMP["batch_tokens"],
        help="The most tokens in one batch: prompts, padding, and the most tokens of each answer.",
    )
    part_answers: int = option(
        256,
        help="The number of answers that are written at once; a crash loses at most these.",
        least=1,
    )
    on_note: object | None = option(like=_OF_DUMP["on_note"])
    on_progress: Any = option(like=ON_PROGRESS)

    @property
    def fields(self) -> Fields:
        """Which fields of a record are read, and how."""
        return Fields(
            text=self.text_field,
            messages=self.messages_field,
            tokens=self.tokens_field,
            mask=self.mask_field,
            shape=None if self.records == "auto" else self.records,
            ignored=frozenset(self.ignore_field or ()),
            shapes=PROMPT_SHAPES,
        )


GENERATE_OPTIONS = options_of(GenerateOptions)


def check_generate(**values: object) -> None:
    """Refuse, by a SettingError, settings of the draws that have no effect with greedy choice.

    And a temperature by which logits overflow.
    """
    temperature = float(str(values["temperature"]))
    if 0 < temperature < _LEAST_TEMPERATURE:
        raise SettingError(
            "logits divided by so low a temperature overflow",
            place="--temperature",
            found=temperature,
            allowed=f"0, or {_LEAST_TEMPERATURE:g} and more",
            remedy="Take 0 for the most probable token",
        )
    if temperature != 0:
        return
    for name, flag in (("top_p", "--top-p"), ("top_k", "--top-k"), ("min_p", "--min-p")):
        if values[name] is not None:
            raise SettingError(
                f"{flag} has no effect at temperature 0",
                found=values[name],
                remedy=f"Leave {flag} out",
            )
    if values["n"] != 1:
        raise SettingError(
            "at temperature 0 all answers to a prompt are the same",
            place="--n",
            found=values["n"],
            allowed=1,
        )
