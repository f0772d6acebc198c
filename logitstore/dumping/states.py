"""The hidden states of a dump: which are kept, in which number type, and how many fit into memory.

Shapes: R targets, W width of a hidden state.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from logitstore.errors import ModelError, SettingError
from logitstore.format.states import STATE_BYTES, StatesSpec
from logitstore.sparsify import sparsifier_of
from logitstore.store.head import head_file
from logitstore.targets.states import States

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from logitstore.format.layers import LayerRule
    from logitstore.format.spec import SparsifierSpec, StoreSpec
    from logitstore.teacher.base import StatesTeacher, Teacher

__all__ = [
    "BLOCK_TARGETS",
    "block_targets",
    "cost_in_words",
    "fitting_tokens",
    "head_of",
    "rounded",
    "state_dtype",
    "states_of",
    "states_teacher",
    "states_then",
]

# --fidelity -> the number type of the states of a float32 teacher. Half-precision teachers keep
# their own, in which nothing is rounded (docs/decisions/023-hidden-states-as-the-record.md).
_DTYPES = {"compact": "bfloat16", "balanced": "float16", "exact": "float32"}
# Of the states of a unit, which is in memory while it is written: as values, planes and objects.
_UNIT_BYTES = 256 << 20

# 65,536 rows of K = 64 are 4 MB a byte plane: few enough chunks, each worth a request.
BLOCK_TARGETS = 65_536
# Hidden states of 16 MiB are a block: two planes of 8 MiB in half precision.
_BLOCK_STATES, _LEAST_BLOCK = 16 << 20, 64


def state_dtype(runs_in: str, *, fidelity: str) -> str:
    """The number type in which the states of a teacher are stored.

    runs_in: in which its output layer computes.
    fidelity: the option of that name.
    """
    return _DTYPES[fidelity] if runs_in == "float32" else runs_in


def states_teacher(teacher: Teacher, *, asking: str = "--sparsify hidden") -> StatesTeacher:
    """The same teacher, which gives hidden states.

    teacher: loaded.
    asking: which option needs them.

    Raises ModelError where it does not give them.
    """
    from logitstore.teacher.base import StatesTeacher

    if isinstance(teacher, StatesTeacher):
        return teacher
    raise ModelError(
        f"the teacher gives no hidden states and no output layer, and {asking} keeps them",
        place=f"teacher {teacher.spec.name}",
        found=type(teacher).__name__,
        allowed="a transformers model, by name or loaded",
        remedy="Take another --sparsify" if asking.startswith("--sparsify") else "Leave it out",
    )


def states_of(
    teacher: Teacher,
    sparsifier: SparsifierSpec,
    *,
    fidelity: str,
    layers: LayerRule | None = None,
) -> StatesSpec | None:
    """Which hidden states a dump keeps; None where it keeps none.

    teacher: loaded.
    sparsifier: of the dump.
    fidelity: the option of that name.
    layers: the option `hidden_layers`.

    Raises ModelError for a teacher that does not give them, SettingError for layers that it does
    not have.
    """
    keeps_last = sparsifier_of(sparsifier).targets.keeps_state
    if not keeps_last and layers is None:
        return None
    own = states_teacher(teacher, asking="--sparsify hidden" if keeps_last else "--hidden-layers")
    head = head_file(own.head)[0] if keeps_last else None
    width = own.head.weight_PD.shape[1]
    found = StatesSpec(
        width=width,
        dtype=state_dtype(_runs_in(own), fidelity=fidelity),
        head=head,
    )
    if layers is None:
        return found
    behind = own.layers()
    if keeps_last and behind.width != width:
        raise ModelError(
            "the states behind the layers are of another width than the last one, and a store "
            "keeps states of one width",
            place=f"teacher {teacher.spec.name}",
            found=f"{behind.width} and {width}",
            remedy="Leave out --hidden-layers, or take another --sparsify than hidden",
        )
    named = layers.layers(behind.depth)
    return replace(found, width=behind.width, layers=named, depth=behind.depth)


def _runs_in(teacher: StatesTeacher) -> str:
    """In which number type a teacher's output layer computes, if a store can hold that."""
    runs_in = str(teacher.head.weight_PD.dtype).removeprefix("torch.")
    if runs_in not in STATE_BYTES:
        raise ModelError(
            "the teacher computes in a number type that no store holds",
            found=runs_in,
            allowed=", ".join(STATE_BYTES),
            remedy="Load the teacher with --dtype float32 or bfloat16",
        )
    return runs_in


def states_then(
    begun: StoreSpec,
    sparsifier: SparsifierSpec,
    *,
    fidelity: str,
    layers: LayerRule | None = None,
    known: StatesSpec | None = None,
) -> StatesSpec | None:
    """What `states_of` gives of the teacher of a store, whose weights need not be read.

    begun: the spec of the store.
    sparsifier: of the dump.
    fidelity: the option of that name.
    layers: the option `hidden_layers`.
    known: depth and width by the teacher's configuration, for a store that does not say them.
    """
    keeps_last = sparsifier_of(sparsifier).targets.keeps_state
    then = begun.states or known
    if then is None or (keeps_last and then.head is None) or not (keeps_last or layers):
        return None
    depth = then.depth or (known.depth if known is not None else 0)
    named = () if layers is None else layers.layers(depth) if depth else layers.listed
    runs_in = then.head.runs_in if then.head is not None else begun.teacher.dtype
    return replace(
        then,
        head=then.head if keeps_last else None,
        dtype=state_dtype(runs_in, fidelity=fidelity),
        layers=named,
        depth=depth if named else 0,
    )


def head_of(teacher: Any) -> Callable[[], bytes] | None:
    """What gives the object of the teacher's output layer; None where it is not loaded.

    teacher: of a job.
    """
    head = getattr(teacher, "head", None)
    return None if head is None else lambda: head_file(head)[1]


def fitting_tokens(states: StatesSpec | None, *, tokens: int) -> int:
    """The tokens of a unit whose states fit into memory, at most as many as were asked for.

    states: of the dump.
    tokens: the option `unit_tokens`.
    """
    return tokens if states is None else min(tokens, max(1, _UNIT_BYTES // states.row_bytes))


def cost_in_words(states: StatesSpec) -> str:
    """What hidden states take before they are compressed, and what the store has once.

    states: of the dump.
    """
    once = "" if states.head is None else f", and {states.head.size:,} once for the output layer"
    kept = ", ".join(states.names)
    return (
        f"hidden states ({kept}): {states.width:,} numbers of {states.dtype} each, which are "
        f"{states.row_bytes:,} bytes a target before they are compressed{once}"
    )


def rounded(states_RW: Tensor, *, dtype: str, layer: str) -> States:
    """The states as they are stored.

    states_RW: as the teacher gives them.
    dtype: in which they are stored.
    layer: the name of their column.

    Raises SettingError where a finite number becomes infinite.
    """
    found = States.of(states_RW, dtype=dtype)
    if not found.finite_R().all() and bool(states_RW.isfinite().all()):
        raise SettingError(
            f"a hidden state of the teacher is too large for {dtype}",
            place=f"states {layer}",
            found=float(states_RW.abs().max()),
            remedy="Give --fidelity exact, which keeps the teacher's own number type, or compact",
        )
    return found


def block_targets(states: StatesSpec | None) -> int:
    """Rows of a block, about: fewer where hidden states make them wide.

    states: which are kept.
    """
    if states is None:
        return BLOCK_TARGETS
    return min(BLOCK_TARGETS, max(_LEAST_BLOCK, _BLOCK_STATES // states.row_bytes))
