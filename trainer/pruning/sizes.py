"""Where the sizes of a model stand: which axes of which tensors are its channels or neurons.

No family's names are known here. The configuration is written once more with one size changed, both
models are built on torch's meta device, and each axis that became shorter is an axis of that size.
What else became another with the size (heads, states, scales) is refused: a narrower model would
compute something else.

Shapes: D width, the channels of the residual stream; I neurons of an MLP.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

from logitstore import ModelError, SettingError
from trainer.pruning.configuration import text_part
from trainer.pruning.cutting import empty_model

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Axes", "Narrowing", "narrowing"]

_OTHER_WAY = "Choose another size, or leave layers out instead (--layers)"
# Which of these a family reads is found by trying.
_NEURONS = (
    "intermediate_size",
    "n_inner",
    "ffn_dim",
    "ffn_hidden_size",
    "moe_intermediate_size",
    "shared_expert_intermediate_size",
    "shared_intermediate_size",
    "block_ff_dim",
)


@dataclass(frozen=True, slots=True)
class Axes:
    """One size of a model: the axes that have it, by the names of tensors.

    An axis may hold the size several times, one part after the other, as where gate and up of an
    MLP are one matrix.
    """

    flag: str
    size: int
    kept: int
    parts: Mapping[str, Mapping[int, int]]  # by tensor and axis, how often the size is in it


@dataclass(frozen=True, slots=True)
class Narrowing:
    """What a narrower student is: its configuration, and the axes that are cut for it."""

    config: Any
    channels: Axes | None
    neurons: Axes | None


def narrowing(
    config: Any, *, width: int | None, intermediate: int | None, place: object
) -> Narrowing:
    """The student of that width and with so many neurons in each MLP.

    Args:
        config: That of the teacher, which stays as it is.
        width: Channels that are kept; None for all.
        intermediate: Neurons that are kept of each MLP; None for all.
        place: What an error names as the place.

    Raises SettingError for a size that the teacher does not exceed, and ModelError where the size
    cannot be changed alone.
    """
    smaller, channels, neurons = config, None, None
    if width is not None:
        whole = _with_head_dim(config, place)
        name = _field(whole, "hidden_size")
        smaller = _changed(whole, {name: width}, "--width", place)
        channels = _axes(
            whole, smaller, ("--width", whole.get_text_config().hidden_size, width), place
        )
    if intermediate is not None:
        found = []
        for name in _neuron_fields(config):
            changes = {name: _as_before(getattr(config.get_text_config(), name), intermediate)}
            try:
                other = _changed(config, changes, "--intermediate", place)
                axes = _neuron_axes(config, other, intermediate, place)
            except _NothingChanges:
                continue
            found.append((changes, axes))
        if len(found) != 1:
            raise ModelError(
                "its MLPs have no size that one number says",
                place=place,
                found=", ".join(name for changes, _ in found for name in changes) or "none",
                allowed="one field of the configuration",
                remedy="Leave out --intermediate",
            )
        ((changes, neurons),) = found
        smaller = _changed(smaller, changes, "--intermediate", place)
    return Narrowing(smaller, channels, neurons)


class _NothingChanges(Exception):
    """No tensor has an axis of that size."""


def _field(config: Any, name: str) -> str:
    return config.get_text_config().attribute_map.get(name, name)


def _neuron_fields(config: Any) -> list[str]:
    text = config.get_text_config()
    names = dict.fromkeys(_field(config, name) for name in _NEURONS)
    return [name for name in names if name in text.to_dict()]


def _as_before(value: Any, size: int) -> Any:
    """A list with an entry for each layer stays one (Gemma 3n)."""
    return [size] * len(value) if isinstance(value, list | tuple) else size


def _with_head_dim(config: Any, place: object) -> Any:
    """The configuration that says how wide a head is, which otherwise follows from the width."""
    text = config.get_text_config()
    if text is not config:
        raise ModelError(
            "the model reads more than text, which enters at its width",
            place=place,
            found=config.model_type,
            remedy=_OTHER_WAY,
        )
    heads = getattr(text, "num_attention_heads", None)
    if not isinstance(heads, int) or getattr(text, "head_dim", None) is not None:
        return config
    return _changed(config, {"head_dim": text.hidden_size // heads}, "--width", place)


def _changed(config: Any, changes: dict[str, Any], flag: str, place: object) -> Any:
    content = config.to_dict()
    part = text_part(content, config)
    part |= changes
    try:
        return type(config).from_dict(content)
    except Exception as error:  # configurations check themselves, with errors of many kinds
        heads = getattr(config.get_text_config(), "num_attention_heads", None)
        multiple = f"a multiple of its {heads} heads" if isinstance(heads, int) else "another size"
        raise ModelError(
            f"its configuration refuses that size: {' '.join(str(error).split())[:300]}",
            place=place,
            found=f"{flag} {changes}",
            remedy=f"Choose {multiple}",
        ) from error


def _neuron_axes(config: Any, smaller: Any, intermediate: int, place: object) -> Axes:
    """Of the size that becomes `intermediate`; raises _NothingChanges where none does."""
    whole, part = (_empty(one, place) for one in (config, smaller))
    pairs = {
        (old, new)
        for _, old_shape, new_shape in _shapes(whole, part, "--intermediate", place)
        for old, new in zip(old_shape, new_shape, strict=True)
        if old != new
    }
    if not pairs:
        raise _NothingChanges
    sizes = [old for old, new in pairs if new == intermediate]
    if len(sizes) != 1:
        raise ModelError(
            "its MLPs are of several sizes",
            place=place,
            found=", ".join(str(one) for one in sorted(sizes)) or str(sorted(pairs)[0]),
            remedy="Leave out --intermediate",
        )
    return _axes(config, smaller, ("--intermediate", sizes[0], intermediate), place)


def _axes(config: Any, smaller: Any, sizes: tuple[str, int, int], place: object) -> Axes:
    flag, size, kept = sizes
    if kept >= size:
        raise SettingError(
            "the teacher is not larger", place=flag, found=kept, allowed=f"1 to {size - 1}"
        )
    whole, part = _empty(config, place), _empty(smaller, place)
    parts: dict[str, dict[int, int]] = {}
    for name, old_shape, new_shape in _shapes(whole, part, flag, place):
        for axis, (old, new) in enumerate(zip(old_shape, new_shape, strict=True)):
            if old == new:
                continue
            times = old // size if flag == "--intermediate" else 1
            if (old, new) != (times * size, times * kept) or times not in (1, 2):
                raise _follows(f"{name} {tuple(old_shape)}", flag, place)
            parts.setdefault(name, {})[axis] = times
    _refuse_other_facts(whole, part, sizes, place)
    return Axes(flag, size, kept, parts)


def _empty(config: Any, place: object) -> Any:
    return empty_model(config, dtype=None, place=place, remedy=_OTHER_WAY)


def _shapes(
    whole: nn.Module, part: nn.Module, flag: str, place: object
) -> list[tuple[str, Any, Any]]:
    """Name and both shapes of every tensor. Raises ModelError where there are others."""
    old, new = whole.state_dict(), part.state_dict()
    odd = sorted(old.keys() ^ new.keys())
    odd = odd or [name for name in old if old[name].ndim != new[name].ndim]
    if odd:
        raise _follows(odd[0], flag, place)
    return [(name, tensor.shape, new[name].shape) for name, tensor in old.items()]


def _refuse_other_facts(
    whole: nn.Module, part: nn.Module, sizes: tuple[str, int, int], place: object
) -> None:
    """Raise ModelError where a number that modules hold follows from the size."""
    flag, size, kept = sizes
    others = dict(part.named_modules())
    for name, module in whole.named_modules():
        new = vars(others[name])
        for fact, value in vars(module).items():
            if not isinstance(value, int | float | tuple) or value == new.get(fact):
                continue
            if _follows_plainly(value, new.get(fact), size, kept):
                continue
            scaled = (value, new.get(fact))
            if isinstance(module, nn.Embedding) and _is_root(scaled, size, kept):
                continue  # the student's embeddings are rescaled
            raise _follows(f"{name}.{fact} {value}, {new.get(fact)}", flag, place)


def _follows_plainly(old: Any, new: Any, size: int, kept: int) -> bool:
    """Whether a fact is the size itself, or twice that."""
    if isinstance(old, tuple):
        return (
            isinstance(new, tuple)
            and len(old) == len(new)
            and all(
                one == other or _follows_plainly(one, other, size, kept)
                for one, other in zip(old, new, strict=True)
            )
        )
    return (old, new) in {(size, kept), (2 * size, 2 * kept)}


def _is_root(values: tuple[Any, Any], size: int, kept: int) -> bool:
    return all(
        isinstance(one, float) and math.isclose(one, math.sqrt(of), rel_tol=1e-6)
        for one, of in zip(values, (size, kept), strict=True)
    )


def _follows(what: str, flag: str, place: object) -> ModelError:
    field = "hidden_size" if flag == "--width" else "the size of an MLP"
    return ModelError(
        f"more than {field} would become another: {flag} cannot cut this family",
        place=place,
        found=what,
        remedy=_OTHER_WAY if flag == "--width" else "Leave out --intermediate",
    )
