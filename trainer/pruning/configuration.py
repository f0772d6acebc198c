"""The configuration of a model of which some layers are kept.

Families say in many ways which kind a layer is of: by a list with an entry for each layer, by the
numbers of some layers, by how many come first or last, or by a period. Each way is written anew for
the layers that are kept, so that each stays of its kind; where a period cannot say that, the choice
is refused. What is not known here is found by `agreement.py`, which compares what layers compute.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

from logitstore import ModelError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["OTHER_LAYERS", "Kept", "kept_configuration", "layer_count", "text_part"]

OTHER_LAYERS = (
    "Choose other layers (--layers), such as N, which keeps the first and the last, or first:N, "
    "which renumbers none"
)

_COUNTS = ("num_hidden_layers", "num_layers", "n_layer", "n_layers", "num_blocks")
# Lists that may be as long as the model is deep and have no entry for each layer.
_NO_LAYERS = ("token", "multiplier", "limit", "section", "mtp", "architectures")


@dataclass(frozen=True, slots=True)
class Kept:
    """Layers that are kept of `count`, by their numbers, ascending."""

    layers: tuple[int, ...]
    count: int

    @property
    def moves(self) -> bool:
        """Whether one of them is given another number."""
        return self.layers != tuple(range(len(self.layers)))

    def entries(self, values: Any) -> list[Any]:
        """Those of a list with one for each layer."""
        return [values[layer] for layer in self.layers]

    def renumbered(self, numbers: Any) -> list[int]:
        """The new numbers of those layers of `numbers` that are kept."""
        return [new for new, layer in enumerate(self.layers) if layer in numbers]

    def before(self, limit: int) -> int:
        """How many of the layers before `limit` are kept."""
        return sum(layer < limit for layer in self.layers)

    def among_last(self, number: int) -> int:
        """How many of the last `number` layers are kept."""
        return len(self.layers) - self.before(self.count - number)

    def keyed(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """A mapping from numbers of layers, with the new ones."""
        by_layer = {int(layer): value for layer, value in settings.items()}
        return {
            str(new): by_layer[layer] for new, layer in enumerate(self.layers) if layer in by_layer
        }


# How a field is written anew, by its name.
_FIELDS: dict[str, Callable[[Kept, Any], Any]] = {
    "attn_layer_indices": Kept.renumbered,  # Bamba
    "cross_attention_layers": Kept.renumbered,  # Mllama
    "full_attn_idxs": Kept.renumbered,  # LFM2
    "hybrid_layer_ids": Kept.renumbered,  # Zamba 2
    "mlp_only_layers": Kept.renumbered,  # Qwen, mixtures of experts
    "moe_layers": Kept.renumbered,  # Llama 4
    "first_k_dense_replace": Kept.before,  # DeepSeek and its relatives
    "max_window_layers": Kept.before,  # Qwen
    "num_dense_layers": Kept.before,  # LFM2, mixtures of experts
    "num_kv_shared_layers": Kept.among_last,  # Gemma 3n and 4
    "per_layer_config": Kept.keyed,  # Gemma 4
    "num_nextn_predict_layers": lambda _, value: value and 0,  # no causal language model has them
}


def text_part(content: dict[str, Any], config: Any) -> dict[str, Any]:
    """The part of a configuration's content that is about its language model.

    Args:
        content: What `config.to_dict()` gave.
        config: Of transformers.
    """
    text = config.get_text_config()
    for name in () if text is config else config.sub_configs:
        part = getattr(config, name, None)
        if part is not None and part.get_text_config() is text:
            return text_part(content[name], part)
    return content


def layer_count(config: Any) -> int:
    """How many layers a model of that configuration has.

    Args:
        config: Of transformers.

    Raises ModelError where it does not say so.
    """
    text = config.get_text_config()
    found = [getattr(text, name, None) for name in ("num_layers", "num_hidden_layers")]
    counts = [one for one in found if isinstance(one, int) and one > 0]
    if not counts:
        raise ModelError(
            "the configuration does not say how many layers there are",
            place=f"model {config.model_type}",
        )
    return counts[0]


def kept_configuration(config: Any, kept: Kept, *, place: object) -> Any:
    """The configuration with the layers of `kept` alone.

    Args:
        config: That of the teacher, which stays as it is.
        kept: The layers.
        place: What an error names as the place.

    Raises ModelError where it cannot say of what kind each of the layers is.
    """
    content = config.to_dict()
    part = text_part(content, config)
    changed = _changed_lists(part, kept) | {
        name: write(kept, part[name])
        for name, write in _FIELDS.items()
        if part.get(name) is not None
    }
    for name in _COUNTS:
        if part.get(name) == kept.count:
            changed[name] = len(kept.layers)
    for write in (_alternating, _expanded_blocks, _sparse_steps, _periods, _expert_range):
        changed |= write(part, kept, place)
    _refuse_scaled_by_number(part, kept, place)
    part |= changed
    try:
        return type(config).from_dict(content)
    except Exception as error:  # configurations check themselves, with errors of many kinds
        raise ModelError(
            "its configuration refuses to have those layers alone: "
            f"{' '.join(str(error).split())[:300]}",
            place=place,
            found=f"layers {','.join(map(str, kept.layers))}",
            remedy=OTHER_LAYERS,
        ) from error


def _changed_lists(part: dict[str, Any], kept: Kept) -> dict[str, Any]:
    """Every list with an entry for each layer."""
    return {
        name: kept.entries(value)
        for name, value in part.items()
        if isinstance(value, list | tuple)
        and len(value) == kept.count
        and not any(word in name for word in _NO_LAYERS)
    }


def _alternating(part: dict[str, Any], kept: Kept, _: object) -> dict[str, Any]:
    """GPT-Neo: [[kinds, repeats], ...]."""
    kinds = part.get("attention_layers")
    if "attention_types" not in part or not kinds:
        return {}
    return {"attention_types": [[kept.entries(kinds), 1]], "attention_layers": kept.entries(kinds)}


def _expanded_blocks(part: dict[str, Any], kept: Kept, _: object) -> dict[str, Any]:
    """RecurrentGemma: kinds that are repeated until there are enough."""
    kinds = part.get("block_types")
    if not kinds:
        return {}
    return {"block_types": kept.entries([kinds[i % len(kinds)] for i in range(kept.count)])}


def _sparse_steps(part: dict[str, Any], kept: Kept, _: object) -> dict[str, Any]:
    """Qwen: every so many layers has experts, but for some that are named; here all are named."""
    step, named = part.get("decoder_sparse_step"), part.get("mlp_only_layers")
    if step is None or named is None or step <= 1:
        return {}
    dense = [one for one in range(kept.count) if one in named or (one + 1) % step]
    return {"decoder_sparse_step": 1, "mlp_only_layers": kept.renumbered(dense)}


def _periods(part: dict[str, Any], kept: Kept, place: object) -> dict[str, Any]:
    """Jamba: one layer of each period is of another kind."""
    changed: dict[str, int] = {}
    for period, offset in (
        ("attn_layer_period", "attn_layer_offset"),
        ("expert_layer_period", "expert_layer_offset"),
    ):
        if "layers_block_type" in part or period not in part or offset not in part:
            continue
        kinds = [layer % part[period] == part[offset] for layer in kept.layers]
        numbers = range(len(kinds))
        for every, first in product(range(1, len(kinds) + 2), numbers):
            if first < every and [one % every == first for one in numbers] == kinds:
                changed |= {period: every, offset: first}
                break
        else:
            if any(kinds):
                raise _other_kinds(period, kept, place)
            changed |= {period: len(kinds) + 1, offset: len(kinds)}
    return changed


def _expert_range(part: dict[str, Any], kept: Kept, place: object) -> dict[str, Any]:
    """Ernie: from one layer to another, every so many has experts."""
    names = ("moe_layer_start_index", "moe_layer_end_index", "moe_layer_interval")
    if any(part.get(name) is None for name in names):
        return {}
    start, end, interval = (part[name] for name in names)
    end = kept.count - 1 if end == -1 else end
    sparse = [start <= one <= end and (one + 1) % interval == 0 for one in kept.layers]
    numbers = kept.renumbered(
        [one for one, is_sparse in zip(kept.layers, sparse, strict=True) if is_sparse]
    )
    if not numbers:
        return dict(zip(names, (len(sparse), len(sparse), 1), strict=True))
    for every in range(1, len(sparse) + 1):
        if [one for one in range(numbers[0], numbers[-1] + 1) if (one + 1) % every == 0] == numbers:
            return dict(zip(names, (numbers[0], numbers[-1], every), strict=True))
    raise _other_kinds(names[2], kept, place)


def _refuse_scaled_by_number(part: dict[str, Any], kept: Kept, place: object) -> None:
    """Raise ModelError where a layer's number is a factor in what it computes (GPT-2)."""
    name = "scale_attn_by_inverse_layer_idx"
    if part.get(name) and kept.moves:
        raise _other_kinds(name, kept, place)


def _other_kinds(name: str, kept: Kept, place: object) -> ModelError:
    return ModelError(
        f"what a layer computes follows from its number by {name}, which cannot be written for "
        "those layers alone",
        place=place,
        found=f"layers {','.join(map(str, kept.layers))}",
        remedy=OTHER_LAYERS,
    )
