"""What a store says of the hidden states that it keeps, and of the output layer beside them.

Since logitstore/5, in `states` of store.json; a store without hidden states has an older format, so
that older readers go on reading it. The output layer of the teacher is one object,
`head/head.safetensors`: `weight` [V, W], and `bias` [V] where there is one.

Shapes: V vocabulary, W width of a hidden state.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from logitstore.errors import CorruptionError
from logitstore.format.json import build

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "HEAD",
    "LAST",
    "MOST_LAYERS",
    "STATE_BYTES",
    "HeadSpec",
    "StatesSpec",
    "layer_name",
]

HEAD = "head/head.safetensors"
LAST = "last"  # the state that enters the output layer; others are named by their layer
STATE_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}  # number type -> bytes of a number
MOST_LAYERS = 64  # whose states one store keeps
_MOST_DEPTH = 1 << 16
_MOST_WIDTH = 1 << 17  # eight times that of the largest models
_HEADER_BYTES = 1 << 16  # of a safetensors file of two tensors: some 200
_LEAST_FACTOR, _MOST_FACTOR = 1e-6, 1e6  # of a scale or a soft-cap: those of models are 0.03 to 100
_SHA256 = re.compile("[0-9a-f]{64}")


def layer_name(layer: int) -> str:
    """The name of the column that holds the states behind a layer, counted from 1."""
    return f"layer_{layer}"


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadSpec:
    """The teacher's output layer: `softcap(scale * (state @ weight.T + bias))`, of V tokens.

    The numbers of `weight` and `bias` are computed with in `runs_in`, of which each is a number.
    """

    sha256: str  # of the object HEAD
    size: int  # bytes of that object
    dtype: str  # in which the numbers lie there
    runs_in: str  # in which the teacher multiplies with them
    bias: bool
    scale: float
    softcap: float | None

    @staticmethod
    def from_json(content: Any, *, place: str) -> HeadSpec:
        """The head that stands in store.json."""
        spec = build(HeadSpec, content, place=place)
        numbers = [spec.scale, *([] if spec.softcap is None else [spec.softcap])]
        for good, name in (
            (_SHA256.fullmatch(spec.sha256) is not None, "sha256"),
            (spec.dtype in STATE_BYTES, "dtype"),
            (spec.runs_in in STATE_BYTES, "runs_in"),
            (all(_is_number(one) for one in numbers), "scale or softcap"),
            (spec.softcap is None or spec.softcap > 0, "softcap"),
        ):
            if not good:
                raise CorruptionError(
                    f"{name} of the output layer is out of range", place=place, found=content
                )
        return spec

    def check_size(self, *, vocab_size: int, width: int, place: str) -> None:
        """Raise CorruptionError where the object cannot hold a head of V tokens.

        vocab_size: V.
        width: W.
        place: what the error names.
        """
        least = STATE_BYTES[self.dtype] * vocab_size * (width + self.bias)
        if not least <= self.size <= least + _HEADER_BYTES:
            raise CorruptionError(
                "the output layer is of another size than its vocabulary and width have",
                place=place,
                found=f"{self.size:,} bytes",
                allowed=f"{least:,} and a header",
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class StatesSpec:
    """Which hidden states of the teacher each target has, and how they are rounded."""

    width: int  # W
    dtype: str  # in which they are stored
    head: HeadSpec | None  # with the last state; None where that is not kept
    layers: tuple[int, ...] = ()  # whose states are kept besides, counted from 1
    depth: int = 0  # layers of the teacher; 0 where nobody needs to know

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the columns, in order."""
        last = () if self.head is None else (LAST,)
        return (*last, *(layer_name(one) for one in self.layers))

    @property
    def row_bytes(self) -> int:
        """Bytes of the states of a target, before they are compressed."""
        return STATE_BYTES[self.dtype] * self.width * len(self.names)

    def to_json(self) -> dict[str, Any]:
        """As the object that stands in store.json."""
        return asdict(self) | {"layers": list(self.layers)}

    @staticmethod
    def from_json(content: Any, *, vocab_size: int, place: str) -> StatesSpec:
        """The spec that `to_json` gave.

        content: JSON of any kind; CorruptionError unless it is such a spec.
        vocab_size: V, of the store.
        place: what an error names.
        """
        spec = build(StatesSpec, content, place=place)
        if spec.head is not None:
            head = HeadSpec.from_json(spec.head, place=f"{place}: head")
            head.check_size(vocab_size=vocab_size, width=spec.width, place=f"{place}: head")
            object.__setattr__(spec, "head", head)
        object.__setattr__(spec, "layers", tuple(spec.layers))
        for good, name, found in (
            (1 <= spec.width <= _MOST_WIDTH, "width", spec.width),
            (spec.dtype in STATE_BYTES, "dtype", spec.dtype),
            (_are_layers(spec.layers, spec.depth), "layers", spec.layers),
            (0 <= spec.depth <= _MOST_DEPTH, "depth", spec.depth),
            (bool(spec.names), "layers", "none, and no output layer"),
        ):
            if not good:
                raise CorruptionError(
                    f"{name} of hidden states is out of range", place=place, found=found
                )
        return spec


def _are_layers(layers: Iterable[Any], depth: int) -> bool:
    listed = list(layers)
    return (
        len(listed) <= MOST_LAYERS
        and all(type(one) is int and 1 <= one <= depth for one in listed)
        and listed == sorted(set(listed))
    )


def _is_number(value: Any) -> bool:
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    return plain and _LEAST_FACTOR <= abs(value) <= _MOST_FACTOR
