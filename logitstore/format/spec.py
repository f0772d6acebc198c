"""The spec of a store: everything that changes its bits, and where it came from.

`store.json` is never rewritten; its fields, their types and their ranges are checked when it is
read, for a store may come from anywhere.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from logitstore.errors import CorruptionError, SpecError
from logitstore.format.json import build

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "FORMAT",
    "CodecSpec",
    "CorpusSpec",
    "SparsifierSpec",
    "StoreSpec",
    "TeacherSpec",
    "TextSpec",
    "TokenizerSpec",
    "refuse_other_spec",
]

FORMAT = "logitstore/1"

_MAX_DRAWS = 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class TeacherSpec:
    """Which model gave the distributions."""

    name: str  # as the user wrote it, or the folder's name
    fingerprint: str  # of its configuration and weight files
    architecture: str
    parameters: int
    dtype: str  # in which it ran: "float32", "bfloat16"
    device: str  # kind of device on which it ran: "cpu", "cuda"


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizerSpec:
    """Which ids the store speaks of."""

    fingerprint: str
    vocab_size: int  # V: the number of ids the tokenizer can produce
    bos_token_id: int | None
    eos_token_id: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class CorpusSpec:
    """Which texts were read."""

    name: str
    fingerprint: str  # of the plan: sources, ranges, hashes
    limit: int | None  # records taken, None for all
    unit_tokens: int  # tokens of a work unit, as estimated from its bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class TextSpec:
    """How a record becomes documents."""

    text_field: str | None
    messages_field: str | None
    max_length: int  # tokens of a document at most
    chat_template: str | None  # sha256 of the template, None where the tokenizer has none


@dataclass(frozen=True, kw_only=True, slots=True)
class SparsifierSpec:
    """How a distribution becomes entries. Fields that a sparsifier does not use are None.

    A target that is sampled anew for several temperatures or repeats has several draws, numbered
    with the repeats of one temperature side by side.
    """

    name: str
    k: int  # entries a row has room for, of every kind
    tail_nodes: tuple[float, ...]  # b = 1/T at which the tail's log-mass is stored, falling
    top_p: float | None = None  # mass of a head at least
    tail_draws: int | None = None  # how many of the k entries are drawn from the tail
    temperatures: tuple[float, ...] | None = None  # at which draws were made
    repeats: int | None = None  # draws at each temperature
    seed: int | None = None  # of the draws

    @property
    def draws(self) -> int:
        """How many draws of each target the store holds."""
        temperatures = 1 if self.temperatures is None else len(self.temperatures)
        return temperatures * (1 if self.repeats is None else self.repeats)

    def draw_number(self, *, temperature: float, repeat: int) -> int:
        """Which draw serves `temperature` in repetition `repeat`, counted round and round."""
        temperatures, repeats = self.temperatures or (1.0,), self.repeats or 1
        return temperatures.index(temperature) * repeats + repeat % repeats

    @property
    def head(self) -> int:
        """What `--k` asked for: entries of a hybrid's head, else all that a row has room for."""
        return self.k - (self.tail_draws or 0)

    @property
    def served(self) -> str:
        """The temperatures that targets serve, in words."""
        if self.temperatures is not None:
            return ", ".join(f"{one:g}" for one in self.temperatures)
        highest = max(10.0, *(1 / node for node in self.tail_nodes))
        return "1 to 10" if highest == 10.0 else f"1 to 10, {highest:g}"

    def to_json(self) -> dict[str, Any]:
        """The fields that are used."""
        content = {name: value for name, value in asdict(self).items() if value is not None}
        return {key: list(one) if isinstance(one, tuple) else one for key, one in content.items()}

    @staticmethod
    def from_json(content: Any, *, place: str) -> SparsifierSpec:
        """The spec that `to_json` gave, every number in its range."""
        spec = build(SparsifierSpec, content, place=place)
        for name in ("tail_nodes", "temperatures"):
            numbers = getattr(spec, name)
            if numbers is not None and not all(_above_zero(one) for one in numbers):
                raise CorruptionError(
                    f"{name} are no list of numbers above 0", place=place, found=numbers
                )
            if numbers is not None:
                object.__setattr__(spec, name, tuple(map(float, numbers)))
        nodes, drawn = spec.tail_nodes, spec.temperatures
        if (drawn is None) != bool(nodes) or (drawn is not None and len(set(drawn)) != len(drawn)):
            raise CorruptionError(
                "a store keeps the tail's mass at some nodes, or draws at different temperatures",
                place=place,
                found=f"tail_nodes {nodes}, temperatures {drawn}",
            )
        if nodes and (nodes[0] != 1.0 or sorted(set(nodes), reverse=True) != list(nodes)):
            raise CorruptionError("tail_nodes do not fall from 1", place=place, found=nodes)
        if spec.tail_draws is not None and not 1 <= spec.tail_draws < spec.k:
            raise CorruptionError("tail_draws fits no row", place=place, found=spec.tail_draws)
        if spec.top_p is not None and not (_above_zero(spec.top_p) and spec.top_p <= 1):
            raise CorruptionError("top_p is out of range", place=place, found=spec.top_p)
        if not 1 <= spec.draws <= _MAX_DRAWS:
            raise CorruptionError("too many draws", place=place, found=spec.draws)
        return spec


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

    def to_json(self) -> dict[str, Any]:
        """As the object that stands in store.json."""
        content = asdict(self)
        content["sparsifier"] = self.sparsifier.to_json()
        return content

    @staticmethod
    def from_json(content: Any, *, place: str) -> StoreSpec:
        """The spec that `to_json` gave; a missing, unknown or mistyped field is an error."""
        found_format = content.get("format") if isinstance(content, dict) else None
        if found_format != FORMAT:
            raise CorruptionError(
                "not a format this version reads",
                place=place,
                found=found_format,
                allowed=FORMAT,
                remedy="Install the version of logitstore that wrote the store, or a newer one",
            )
        parts = {
            "teacher": TeacherSpec,
            "tokenizer": TokenizerSpec,
            "corpus": CorpusSpec,
            "text": TextSpec,
            "codec": CodecSpec,
        }
        built = dict(content)
        for name, kind in parts.items():
            built[name] = build(kind, built.get(name), place=f"{place}: {name}")
        built["sparsifier"] = SparsifierSpec.from_json(
            built.get("sparsifier"), place=f"{place}: sparsifier"
        )
        return build(StoreSpec, built, place=place)

    def identity(self) -> dict[str, Any]:
        """What two dumps must have in common to be one store.

        That is the spec less its provenance and the teacher's name: a teacher is who its
        fingerprint says, wherever its folder lies.
        """
        content = self.to_json()
        del content["provenance"]
        del content["teacher"]["name"]
        return content


def refuse_other_spec(found: StoreSpec, wanted: StoreSpec, *, place: str) -> None:
    """Raise SpecError, naming every field that differs, unless both specs say the same."""
    old, new = _flat(found.identity()), _flat(wanted.identity())
    different = [key for key in sorted(old | new) if old.get(key) != new.get(key)]
    if different:
        listed = ", ".join(
            f"{key}: {old.get(key)!r} there, {new.get(key)!r} here" for key in different
        )
        raise SpecError(
            f"the store was begun with other settings: {listed}",
            place=place,
            remedy="Repeat the settings it was begun with, or name another folder with --out",
        )


def _flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
