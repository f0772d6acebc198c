"""The spec of a store: everything that changes its bits, and where it came from.

`store.json` is never rewritten; its fields, their types and their ranges are checked when it is
read, for a store may come from anywhere.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from logitstore.errors import CorruptionError, SettingError
from logitstore.format.json import build
from logitstore.format.rules import TargetRule
from logitstore.format.states import StatesSpec

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "FORMAT",
    "FORMATS",
    "UNKNOWN",
    "CodecSpec",
    "CorpusSpec",
    "SparsifierSpec",
    "StoreSpec",
    "TeacherSpec",
    "TextSpec",
    "TokenizerSpec",
    "written_format",
]

FORMAT = "logitstore/4"  # what is written
_CHOSEN = "logitstore/5"  # what is written of a store that needs it: see `written_format`
FORMATS = ("logitstore/1", "logitstore/2", "logitstore/3", FORMAT, _CHOSEN)  # what is read
UNKNOWN = "unknown"  # of a teacher that another system has run
_MOST_TOKENS = 1 << 22  # of a vocabulary: four times that of the largest tokenizers


@dataclass(frozen=True, kw_only=True, slots=True)
class TeacherSpec:
    """Which model gave the distributions."""

    name: str  # as the user wrote it, or the folder's name
    fingerprint: str  # of its configuration and weight files
    architecture: str
    parameters: int
    dtype: str  # in which it ran: "float32", "bfloat16"
    device: str  # kind of device on which it ran: "cpu", "cuda"

    @staticmethod
    def unseen(name: str) -> TeacherSpec:
        """A teacher of which only a name is known, for another system has run it."""
        return TeacherSpec(
            name=name,
            fingerprint=UNKNOWN,
            architecture=UNKNOWN,
            parameters=0,
            dtype=UNKNOWN,
            device=UNKNOWN,
        )

    @property
    def seen(self) -> bool:
        """Whether it was loaded, so that more than its name is known."""
        return self.fingerprint != UNKNOWN

    @property
    def in_words(self) -> str:
        """Its name, and what is known of it."""
        if not self.seen:
            return f"{self.name} (nothing else is known)"
        return f"{self.name} ({self.architecture}, {self.parameters:,} parameters, {self.dtype})"


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizerSpec:
    """Which ids the store speaks of."""

    fingerprint: str
    vocab_size: int  # V: the number of ids the tokenizer can produce, up to 2^22
    bos_token_id: int | None
    eos_token_id: int | None

    @staticmethod
    def from_json(content: Any, *, place: str) -> TokenizerSpec:
        """The spec that stands in store.json; a table of V ids must be small beside a block."""
        spec = build(TokenizerSpec, content, place=place)
        if not 1 <= spec.vocab_size <= _MOST_TOKENS:
            raise CorruptionError(
                "vocab_size is out of range",
                place=place,
                found=spec.vocab_size,
                allowed=f"1..{_MOST_TOKENS}",
            )
        return spec


@dataclass(frozen=True, kw_only=True, slots=True)
class CorpusSpec:
    """Which texts were read."""

    name: str
    fingerprint: str  # of the plan: sources, ranges, hashes
    limit: int | None  # records taken, None for all
    unit_tokens: int  # tokens of a work unit, as estimated from its bytes
    # Since logitstore/3, and there where it is not empty: who gave the answers that it holds, an
    # object for each, with model, tokenizer, settings and corpus as in a file of answers.
    answers: tuple[dict[str, Any], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As the object that stands in store.json."""
        content = asdict(self)
        content["answers"] = list(self.answers)
        if not self.answers:
            del content["answers"]
        return content

    @staticmethod
    def from_json(content: Any, *, version: str, place: str) -> CorpusSpec:
        """The spec that `to_json` gave for a store of this format."""
        spec = build(CorpusSpec, content, place=place)
        wrong = not all(isinstance(one, dict) for one in spec.answers)
        if wrong or (version in FORMATS[:2] and "answers" in content):
            raise CorruptionError("answers are no list of objects", place=place)
        object.__setattr__(spec, "answers", tuple(spec.answers))
        return spec


@dataclass(frozen=True, kw_only=True, slots=True)
class TextSpec:
    """How a record becomes documents."""

    text_field: str | None
    messages_field: str | None
    max_length: int  # tokens of a document at most
    chat_template: str | None  # sha256 of the template, None where the tokenizer has none
    # Not in every format (`_TEXT_SINCE`). The defaults are what older ones did, or could not do.
    records: str | None = None  # the shape of all records; None where each has its own
    tokens_field: str | None = None
    mask_field: str | None = None
    ignored_fields: tuple[str, ...] = ()  # of messages, in order
    turns: str = "all"  # of a chat: "all" count, or the "last" alone
    template_kwargs: str = "{}"  # JSON: what the chat template is given for every chat
    template_date: str | None = None  # the date that it is told, where it asks; as 2026-01-31
    pieces_begin: bool = False  # each piece of a text begins as the whole does, with BOS
    teacher_system: str | None = None  # sha256 of a system prompt that only the teacher read
    teacher_messages: bool = False  # records had messages that only the teacher read
    sampler_field: str | None = None  # of a record, which holds what the next line speaks of
    sampler_logprobs: bool = False  # there is a column of them: with which tokens were drawn
    # Which targets of a document were kept, as a `TargetRule`; None is all that count. The mask of
    # a document marks those that were kept.
    positions: str | None = None

    def to_json(self, *, version: str) -> dict[str, Any]:
        """As the object that stands in store.json of this format."""
        content = asdict(self)
        content["ignored_fields"] = list(self.ignored_fields)
        if self.positions is not None and "positions" in _unknown_to(version):
            raise TypeError(f"{version} cannot say that positions were chosen")
        for name in _unknown_to(version):
            del content[name]
        return content

    @staticmethod
    def from_json(content: Any, *, version: str, place: str) -> TextSpec:
        """The spec that `to_json` gave for a store of this format."""
        given = set(content) if isinstance(content, dict) else set()
        unknown = _unknown_to(version)
        wrong = (unknown & given) | (_since() - unknown - given if given else set())
        if wrong:
            raise CorruptionError(
                "fields missing or unknown", place=place, found=", ".join(sorted(wrong))
            )
        spec = build(TextSpec, content, place=place)
        listed = spec.ignored_fields
        if not all(isinstance(name, str) for name in listed) or sorted(set(listed)) != list(listed):
            raise CorruptionError("ignored_fields are no sorted names", place=place, found=listed)
        if spec.turns not in ("all", "last"):
            raise CorruptionError(
                "turns are unknown", place=place, found=spec.turns, allowed="all, last"
            )
        object.__setattr__(spec, "ignored_fields", tuple(listed))
        _check_positions(spec.positions, place=place)
        return spec


# Format -> the fields of its text that older ones do not have.
_TEXT_SINCE = {
    "logitstore/2": (
        "records",
        "tokens_field",
        "mask_field",
        "ignored_fields",
        "turns",
        "template_kwargs",
        "template_date",
        "pieces_begin",
    ),
    "logitstore/3": (
        "teacher_system",
        "teacher_messages",
        "sampler_field",
        "sampler_logprobs",
    ),
    "logitstore/5": ("positions",),
}


def _check_positions(positions: str | None, *, place: str) -> None:
    """Raise CorruptionError for what is no rule in its full form."""
    try:
        rule = None if positions is None else str(TargetRule.parse(positions))
    except SettingError as error:
        raise CorruptionError(
            "positions are no rule", place=place, found=error.found, allowed=error.allowed
        ) from error
    if rule != positions:
        raise CorruptionError(
            "positions are no rule in full", place=place, found=positions, allowed=rule
        )


def written_format(text: TextSpec, states: StatesSpec | None) -> str:
    """The format in which a store is written: an older one where older versions can read it.

    text: of the store.
    states: of the store; None where it keeps no hidden states.
    """
    return FORMAT if text.positions is None and states is None else _CHOSEN


def _since() -> set[str]:
    """The fields of a text spec that not every format has."""
    return {name for names in _TEXT_SINCE.values() for name in names}


def _unknown_to(version: str) -> set[str]:
    """Those that a store of this format does not have."""
    newer = FORMATS[FORMATS.index(version) + 1 :]
    return {name for one in newer for name in _TEXT_SINCE.get(one, ())}


@dataclass(frozen=True, kw_only=True, slots=True)
class SparsifierSpec:
    """How a distribution becomes entries, as a store writes it down.

    What it means is for the sparsifier of that name to say, whose own options stand in `options`.
    A target that is sampled anew for several temperatures or repeats has several draws, numbered
    with the repeats of one temperature side by side.
    """

    name: str
    k: int  # entries a row has room for, of every kind
    tail_nodes: tuple[float, ...] = ()  # b = 1/T at which the tail's log-mass is stored, falling
    temperatures: tuple[float, ...] = ()  # at which draws were made, where no tail is kept
    options: Mapping[str, float] = field(default_factory=dict)  # of the sparsifier, by name

    def __hash__(self) -> int:
        return hash((self.name, self.k, self.tail_nodes, self.temperatures, *self.options.items()))

    @property
    def drawn_at(self) -> tuple[float, ...]:
        """The temperatures of its draws: those that were asked for, else 1 alone."""
        return self.temperatures or (1.0,)

    @property
    def repeats(self) -> int:
        """Draws at each temperature."""
        return int(self.options.get("repeats", 1))

    @property
    def seed(self) -> int:
        """Of the draws; 0 where nothing is drawn."""
        return int(self.options.get("seed", 0))

    @property
    def draw_count(self) -> int:
        """How many draws of each target the store holds."""
        return len(self.drawn_at) * self.repeats

    def draw_number(self, *, temperature: float, repeat: int) -> int:
        """Which draw serves `temperature` in repetition `repeat`, counted round and round.

        temperature: one that the store serves.
        repeat: from 0.

        Where targets are not drawn at given temperatures there is one draw, which serves any.
        """
        place = self.temperatures.index(temperature) if self.temperatures else 0
        return place * self.repeats + repeat % self.repeats

    def to_json(self) -> dict[str, Any]:
        """As the object that stands in store.json: its options beside its own fields."""
        content = {"name": self.name, "k": self.k, "tail_nodes": list(self.tail_nodes)}
        drawn = {"temperatures": list(self.temperatures)} if self.temperatures else {}
        return {**content, **drawn, **self.options}

    @staticmethod
    def from_json(content: Any, *, place: str) -> SparsifierSpec:
        """The spec that `to_json` gave. Options are numbers; their ranges are the sparsifier's.

        content: JSON of any kind; CorruptionError unless it is a spec.
        place: what an error names.
        """
        if not isinstance(content, dict):
            raise CorruptionError("an object is missing", place=place, found=type(content).__name__)
        own = {name: content[name] for name in _OWN_FIELDS if name in content}
        options = {name: value for name, value in content.items() if name not in _OWN_FIELDS}
        spec = build(SparsifierSpec, {**own, "options": options}, place=place)
        for name, value in options.items():
            if not isinstance(value, int | float) or isinstance(value, bool):
                raise CorruptionError(
                    f"option {name} is no number", place=place, found=repr(value)[:80]
                )
        for name in ("tail_nodes", "temperatures"):
            numbers = getattr(spec, name)
            if not all(_above_zero(one) for one in numbers):
                raise CorruptionError(
                    f"{name} are no list of numbers above 0", place=place, found=numbers
                )
            object.__setattr__(spec, name, tuple(map(float, numbers)))
        _check_numbers(spec, place=place)
        return spec


_OWN_FIELDS = ("name", "k", "tail_nodes", "temperatures")


def _check_numbers(spec: SparsifierSpec, *, place: str) -> None:
    nodes, drawn = spec.tail_nodes, spec.temperatures
    if len(set(drawn)) != len(drawn):
        raise CorruptionError("temperatures are not different", place=place, found=drawn)
    if nodes and (nodes[0] != 1.0 or sorted(set(nodes), reverse=True) != list(nodes)):
        raise CorruptionError("tail_nodes do not fall from 1", place=place, found=nodes)


def _above_zero(number: Any) -> bool:
    return isinstance(number, int | float) and not isinstance(number, bool) and number > 0


@dataclass(frozen=True, kw_only=True, slots=True)
class CodecSpec:
    """How targets become integers."""

    id: str
    parameters: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class StoreSpec:
    """Everything that changes the bits of a store; apart from it, where the store came from."""

    format: str
    teacher: TeacherSpec
    tokenizer: TokenizerSpec
    corpus: CorpusSpec
    text: TextSpec
    sparsifier: SparsifierSpec
    codec: CodecSpec
    container: str  # "zarr", "parquet"
    batch_tokens: int  # tokens of one teacher batch, padding included
    block_targets: int  # rows of a block, about
    provenance: dict[str, Any] = field(default_factory=dict)  # changes no bits
    states: StatesSpec | None = None  # since logitstore/5, and there where there are any

    def to_json(self) -> dict[str, Any]:
        """As the object that stands in store.json."""
        content = asdict(self)
        del content["states"]
        if self.states is not None:
            content["states"] = self.states.to_json()
        content["sparsifier"] = self.sparsifier.to_json()
        content["corpus"] = self.corpus.to_json()
        content["text"] = self.text.to_json(version=self.format)
        return content

    @staticmethod
    def from_json(content: Any, *, place: str) -> StoreSpec:
        """The spec that `to_json` gave; a missing, unknown or mistyped field is an error.

        content: JSON of any kind; CorruptionError unless it is a spec.
        place: what an error names.
        """
        found_format = content.get("format") if isinstance(content, dict) else None
        if found_format not in FORMATS:
            raise CorruptionError(
                "not a format this version reads",
                place=place,
                found=found_format,
                allowed=", ".join(FORMATS),
                remedy="Install the version of logitstore that wrote the store, or a newer one",
            )
        parts = {"teacher": TeacherSpec, "codec": CodecSpec}
        built = dict(content)
        for name, kind in parts.items():
            built[name] = build(kind, built.get(name), place=f"{place}: {name}")
        built["tokenizer"] = TokenizerSpec.from_json(
            built.get("tokenizer"), place=f"{place}: tokenizer"
        )
        built["corpus"] = CorpusSpec.from_json(
            built.get("corpus"), version=found_format, place=f"{place}: corpus"
        )
        built["text"] = TextSpec.from_json(
            built.get("text"), version=found_format, place=f"{place}: text"
        )
        built["sparsifier"] = SparsifierSpec.from_json(
            built.get("sparsifier"), place=f"{place}: sparsifier"
        )
        if "states" in built:
            if found_format != _CHOSEN:
                raise CorruptionError("fields missing or unknown", place=place, found="states")
            built["states"] = StatesSpec.from_json(
                built["states"],
                vocab_size=built["tokenizer"].vocab_size,
                place=f"{place}: states",
            )
        return build(StoreSpec, built, place=place)

    def identity(self) -> dict[str, Any]:
        """What two dumps must have in common to be one store.

        That is the spec less its provenance and the teacher's name: a teacher is who its
        fingerprint says, wherever its folder lies.
        """
        content = replace(self, provenance={}).to_json()  # which may be long: it is not copied
        del content["provenance"]
        del content["teacher"]["name"]
        return content
