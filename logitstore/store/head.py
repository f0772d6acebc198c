"""The teacher's output layer in a store: written once, and what makes log-probabilities of states.

It is hashed when it is loaded, not when the store is opened: of a large vocabulary it has a
gigabyte. A float32 layer whose numbers all are numbers of a half-precision type lies there as that.

Shapes: R targets, V vocabulary, W width of a hidden state.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, Any

from logitstore.errors import CorruptionError, ModelError, ObjectMissing
from logitstore.format.states import HEAD, LAST, STATE_BYTES, HeadSpec

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from torch import Tensor

    from logitstore.format.spec import StoreSpec
    from logitstore.store.layout import StoreLayout
    from logitstore.targets.targets import SparseTargets
    from logitstore.teacher.lm_head import LMHead

__all__ = ["StoredHead", "head_file", "logit_chunks", "read_head", "refuse_not_finite"]

_RESTORE = "Put a copy of the file back: every target of the store needs it"
# Of a file that is as the store says: it was written so.
_FORGED = "Take the store from someone else, or dump it again: no dump writes this"
_HALVES = ("bfloat16", "float16")
_CHUNK_BYTES = 8 << 20  # of logits on a CPU, as the teacher's
_GPU_CHUNK_BYTES = 512 << 20
_LEAST_ROWS = 128
# (device, all that is said of the head) -> the layer there: of the last that was asked for.
_LOADED: dict[tuple[str, HeadSpec], LMHead] = {}
_LOADING = Lock()


def head_file(head: LMHead) -> tuple[HeadSpec, bytes]:
    """What a store says of an output layer, and the object that holds it.

    head: of the teacher; the columns that are no token are left out.

    Equal layers give equal bytes. Raises ModelError for a number type that no store can hold.
    """
    from safetensors.torch import save

    tensors = {"weight": head.weight_VD} | ({} if head.bias_V is None else {"bias": head.bias_V})
    runs_in = str(head.weight_VD.dtype).removeprefix("torch.")
    if runs_in not in STATE_BYTES or any(
        one.dtype != head.weight_VD.dtype for one in tensors.values()
    ):
        raise ModelError(
            "the teacher's output layer is of a number type that no store holds",
            found=runs_in,
            allowed=", ".join(STATE_BYTES),
            remedy="Load the teacher with --dtype float32 or bfloat16",
        )
    found = {name: one.detach().cpu() for name, one in tensors.items()}
    dtype = _narrowest(found, runs_in)
    data = save({name: one.to(_torch(dtype)).contiguous() for name, one in found.items()})
    spec = HeadSpec(
        sha256=hashlib.sha256(data).hexdigest(),
        size=len(data),
        dtype=dtype,
        runs_in=runs_in,
        bias=head.bias_P is not None,
        scale=float(head.scale),
        softcap=None if head.softcap is None else float(head.softcap),
    )
    return spec, data


def _narrowest(tensors: dict[str, Tensor], runs_in: str) -> str:
    """The smallest number type that holds every number of the tensors as it is."""
    for name in _HALVES if runs_in == "float32" else ():
        half: Any = _torch(name)
        if all(bool((one.to(half).to(one.dtype) == one).all()) for one in tensors.values()):
            return name
    return runs_in


def _torch(dtype: str) -> Any:
    import torch

    return getattr(torch, dtype)


def read_head(layout: StoreLayout, spec: HeadSpec) -> bytes:
    """The object that holds the output layer, which is as it was written.

    layout: where the store lies.
    spec: what the store says of it.

    Raises CorruptionError where it is missing, of another size or has changed.
    """
    place = layout.place(HEAD)
    try:
        (data,) = layout.storage.read_ranges(HEAD, [(0, spec.size + 1)])
    except ObjectMissing as error:
        raise CorruptionError("file is missing", place=place, remedy=_RESTORE) from error
    found = hashlib.sha256(data).hexdigest()
    if len(data) != spec.size or found != spec.sha256:
        raise CorruptionError(
            "file has changed since it was written",
            place=place,
            found=f"{len(data)} bytes, sha256 {found}",
            allowed=f"{spec.size} bytes, sha256 {spec.sha256}",
            remedy=_RESTORE,
        )
    return data


@dataclass(frozen=True, slots=True)
class StoredHead:
    """The output layer of a store's teacher: where it lies. It pickles, and loads once more."""

    layout: StoreLayout
    spec: StoreSpec  # with states, and the last of them

    @property
    def head(self) -> HeadSpec:
        """What the store says of it."""
        if self.spec.states is None or self.spec.states.head is None:
            raise CorruptionError("the store keeps no output layer", place=self.layout.uri)
        return self.spec.states.head

    def on(self, device: Any = "cpu") -> LMHead:
        """The layer on a device, in the number type in which the teacher ran.

        device: of torch.

        It is loaded once for each device. Raises CorruptionError where it is not as it was written.
        """
        key = (str(device), self.head)
        with _LOADING:
            if key not in _LOADED:
                loaded = self._load(device)
                for other in [one for one in _LOADED if one[0] == key[0]]:
                    del _LOADED[other]  # of another store
                _LOADED[key] = loaded
            return _LOADED[key]

    def _load(self, device: Any) -> LMHead:
        from safetensors import SafetensorError
        from safetensors.torch import load

        from logitstore.teacher.lm_head import LMHead

        place, vocab_size = self.layout.place(HEAD), self.spec.tokenizer.vocab_size
        try:
            tensors = load(read_head(self.layout, self.head))
        except (SafetensorError, ValueError, KeyError, TypeError) as error:
            raise CorruptionError(
                f"file holds no tensors: {error}", place=place, remedy=_FORGED
            ) from error
        width = 0 if self.spec.states is None else self.spec.states.width
        bias = {"bias": (vocab_size,)} if self.head.bias else {}
        wanted = {"weight": (vocab_size, width), **bias}
        found = {name: tuple(one.shape) for name, one in tensors.items()}
        dtypes = {str(one.dtype).removeprefix("torch.") for one in tensors.values()}
        if found != wanted or dtypes != {self.head.dtype}:
            raise CorruptionError(
                "the output layer is of another shape or number type than the store says",
                place=place,
                found=f"{found} of {', '.join(sorted(dtypes))}",
                allowed=f"{wanted} of {self.head.dtype}",
                remedy=_FORGED,
            )
        for name, one in tensors.items():
            if not bool(one.isfinite().all()):
                raise CorruptionError(
                    "a number is not finite", place=f"{place}: {name}", remedy=_FORGED
                )
        runs_in = _torch(self.head.runs_in)
        moved = {name: one.to(device=device, dtype=runs_in) for name, one in tensors.items()}
        return LMHead(
            weight_PD=moved["weight"],
            bias_P=moved.get("bias"),
            scale=float(self.head.scale),
            softcap=self.head.softcap,
            vocab_size=vocab_size,
        )

    def log_probs(
        self, targets: SparseTargets, *, temperature: float = 1.0, rows: int | None = None
    ) -> Iterator[np.ndarray]:
        """float32 [R', V], nats: the log-probabilities of all tokens, some rows at a time.

        targets: of this store.
        temperature: T.
        rows: R', at most; None for what takes 8 MiB.

        Raises CorruptionError where the layer is not as it was written.
        """
        for logits_RV, _ in logit_chunks(targets, self.on("cpu"), rows=rows):
            yield logits_RV.div_(temperature).log_softmax(dim=1).numpy()


def refuse_not_finite(logits_RV: Tensor) -> None:
    """Raise CorruptionError for logits of stored states that are no finite numbers.

    logits_RV: as the stored output layer makes them.
    """
    if not bool(logits_RV.isfinite().all()):
        raise CorruptionError(
            "the output layer makes of the store's hidden states what is no finite number",
            place=f"{HEAD}, or `states` of store.json",
            remedy=_FORGED,
        )


def logit_chunks(
    targets: SparseTargets, head: LMHead, *, rows: int | None = None
) -> Iterator[tuple[Tensor, slice]]:
    """float32 [R', V] logits at T = 1 from the last hidden states, and which rows they are.

    targets: with their last states.
    head: the output layer, on the device on which the logits are wanted; as the teacher computes.
    rows: R', at most; None for as many as a teacher forms at a time.
    """
    import torch

    states = targets.states[LAST]
    device = head.weight_PD.device
    size = _CHUNK_BYTES if device.type == "cpu" else _GPU_CHUNK_BYTES
    step = rows or max(_LEAST_ROWS, size // (4 * head.vocab_size))
    for start in range(0, len(states), step):
        chunk = slice(start, min(start + step, len(states)))
        # Nothing is yielded inside: the caller's own modes must not change.
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            logits_RV = head.logits(states.rows(chunk).tensor().to(device))
            refuse_not_finite(logits_RV)
        yield logits_RV, chunk
