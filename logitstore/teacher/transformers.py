"""A causal language model -> full-vocabulary logits of counted rows, chunk by chunk.

Only hidden states of a whole batch ever exist. The head is applied to counted rows alone and to a
few of them at a time, so the logits of a masked prompt are never computed and `[B, L, V]` never
stands in memory.

Shapes: B documents of a batch, L tokens, D width, R counted rows of a chunk, V vocabulary.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from logitstore.errors import ModelError
from logitstore.format.spec import TeacherSpec
from logitstore.teacher.devices import choose_device, choose_dtype
from logitstore.teacher.layers import DecoderLayers
from logitstore.teacher.lengths import LengthClasses
from logitstore.teacher.lm_head import LMHead, evaluating, hidden_states
from logitstore.teacher.models import load_model, model_path
from logitstore.teacher.torch_state import neutral_torch_state, without_autocast
from logitstore.teacher.weights import weights_fingerprint

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from transformers import PreTrainedModel

    from logitstore.targets.documents import Document

__all__ = ["TransformersTeacher", "model_fingerprint"]

# On a CPU a chunk's logits should stay near the cache, yet feed the product: beside a forward of
# 111 us a row (V = 8,192) chunks of 64, 128, 256, 1,024 rows cost 175, 150, 137, 200 with top-k.
_CPU_CHUNK_BYTES = 8 << 20
_GPU_CHUNK_BYTES = 512 << 20
_LEAST_ROWS = 128

# Of a configuration: what says where it came from or how a forward is carried out.
_NO_CONTENT = ("transformers_version", "name_or_path", "use_cache", "dtype", "torch_dtype")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TransformersTeacher:
    """A causal language model of transformers: who it is, how long its context is, its logits."""

    model: Any  # its mode, its device and its gradients are left as they are
    head: LMHead
    lengths: LengthClasses  # which documents may share a forward pass
    spec: TeacherSpec
    context: int | None  # tokens; None where the configuration states none
    _layers: list[DecoderLayers] = field(default_factory=list)  # once they were asked for

    @staticmethod
    def load(name: str, *, vocab_size: int, device: str, dtype: str) -> TransformersTeacher:
        """The model `name`, checked to be one that this program can serve.

        name: a folder, a .gguf file or a Hub id.
        vocab_size: V, of the tokenizer.
        device: the option of that name.
        dtype: the option of that name.

        `device` and `dtype` may be "auto": a GPU where there is one; float32 on a CPU, elsewhere
        the type of the checkpoint.
        """
        path = model_path(name)
        device = choose_device(device)
        with without_autocast():
            model = load_model(path, dtype=choose_dtype(dtype, device=device)).to(device)
        return TransformersTeacher._checked(
            model.requires_grad_(False),
            vocab_size=vocab_size,
            name=Path(name).name if Path(name).exists() else name,
            fingerprint=weights_fingerprint(path),
        )

    @staticmethod
    def of(model: PreTrainedModel, *, vocab_size: int) -> TransformersTeacher:
        """The teacher that a loaded `model` is, on its device and in its number type.

        model: a transformers model.
        vocab_size: V, of the tokenizer.

        It has no files, so its fingerprint is a hash of its configuration and of its weights; its
        name is the one it was loaded by, or that of its class. Raises ModelError.
        """
        name = str(getattr(model.config, "name_or_path", "") or type(model).__name__)
        if any(parameter.is_meta for parameter in model.parameters()):
            raise ModelError(
                "the model has no weights: it is on the meta device",
                place=f"teacher {name}",
                remedy="Load it onto a CPU or a GPU",
            )
        return TransformersTeacher._checked(
            model,
            vocab_size=vocab_size,
            name=Path(name).name if Path(name).is_dir() else name,
            fingerprint=model_fingerprint(model),
        )

    @staticmethod
    def _checked(model: Any, *, vocab_size: int, name: str, fingerprint: str) -> Any:
        with neutral_torch_state():
            head = LMHead.checked(model, vocab_size=vocab_size)
            with evaluating(model), torch.inference_mode():
                lengths = LengthClasses(model)
        return TransformersTeacher(
            model=model,
            head=head,
            lengths=lengths,
            context=getattr(model.config.get_text_config(), "max_position_embeddings", None),
            spec=TeacherSpec(
                name=name,
                fingerprint=fingerprint,
                architecture=type(model).__name__,
                parameters=sum(parameter.numel() for parameter in model.parameters()),
                dtype=str(model.dtype).removeprefix("torch."),
                device=model.device.type,
            ),
        )

    @property
    def generation(self) -> dict[str, Any]:
        """Its generation configuration, as far as it says more than the default."""
        config = getattr(self.model, "generation_config", None)
        return {} if config is None else dict(config.to_diff_dict())

    def logits(self, batch: Sequence[Document]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Chunks `(logits_RV, labels_R)` of the batch's counted rows, as `Teacher` says.

        batch: the documents.
        """
        yield from self.logits_of(*self.hidden(batch))

    def logits_of(
        self, hidden_RD: torch.Tensor, labels_R: torch.Tensor
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Chunks `(logits_RV, labels_R)` of rows of which the hidden states are known.

        hidden_RD: what the head sees.
        labels_R: int64, the tokens that follow.
        """
        rows = self._chunk_rows()
        # One buffer for all chunks: its pages are touched once.
        shape = (min(rows, len(labels_R)), self.head.vocab_size)
        buffer_RV = torch.empty(shape, dtype=torch.float32, device=hidden_RD.device)
        for start in range(0, len(labels_R), rows):
            chunk = slice(start, start + rows)
            out_RV = buffer_RV[: len(labels_R[chunk])]
            with neutral_torch_state():
                logits_RV = self.head.logits(hidden_RD[chunk], out_NV=out_RV)
            yield logits_RV, labels_R[chunk]

    def hidden(self, batch: Sequence[Document]) -> tuple[torch.Tensor, torch.Tensor]:
        """What the head sees of the batch's counted rows, [R, D], and the tokens that follow.

        batch: the documents.
        """
        hidden_RD, labels_R, _ = self.hidden_behind(batch, ())
        return hidden_RD, labels_R

    def layers(self) -> DecoderLayers:
        """The layers, found and checked. Raises ModelError where that fails."""
        if not self._layers:
            with neutral_torch_state():
                self._layers.append(DecoderLayers.of(self.model))
        return self._layers[0]

    def hidden_behind(
        self, batch: Sequence[Document], layers: Sequence[int]
    ) -> tuple[torch.Tensor, torch.Tensor, dict[int, torch.Tensor]]:
        """What `hidden` gives, and of the same rows the states behind some layers, [R, W] each.

        batch: the documents.
        layers: counted from 1.

        There is a forward pass for each group of documents whose lengths may meet. Padding stands
        to the right, where a causal model cannot see it: no mask is needed. Of each pass the
        counted rows alone are kept.
        """
        device = self.model.device
        input_ids_BL, counted_BL = _pad(batch)
        ids_BL = torch.from_numpy(input_ids_BL).to(device)
        groups = self.lengths.groups([len(document) for document in batch])
        heard: dict[int, list[torch.Tensor]] = {layer: [] for layer in layers}
        parts = []
        with neutral_torch_state(), evaluating(self.model):
            own = self.layers() if layers else None
            for places in groups:
                longest = max(len(batch[place]) for place in places)
                rows_R = _rows(counted_BL[places], device)
                self.lengths.forget()
                with nullcontext() if own is None else own.listening(layers, _keep(heard, rows_R)):
                    part_BLD = hidden_states(self.model, ids_BL[places, :longest])
                parts.append(part_BLD[rows_R])
        document_R, position_R = np.nonzero(counted_BL)
        labels_R = torch.from_numpy(input_ids_BL[document_R, position_R]).to(device)
        order_R = _order(groups, counted_BL, device)
        return (
            _in_order(parts, order_R),
            labels_R,
            {layer: _in_order(one, order_R) for layer, one in heard.items()},
        )

    def own_logits(self, document: Document, *, tokens: int) -> torch.Tensor:
        """float32 [L, V] of the first `tokens` tokens, by the model's own forward.

        document: what the model reads.
        tokens: how many of its tokens.
        """
        ids_L = torch.from_numpy(document.input_ids_L[:tokens].astype(np.int64))
        with neutral_torch_state(), evaluating(self.model):
            outputs = self.model(input_ids=ids_L[None].to(self.model.device), use_cache=False)
        return outputs.logits[0, :, : self.head.vocab_size].float()

    def _chunk_rows(self) -> int:
        size = _CPU_CHUNK_BYTES if self.spec.device == "cpu" else _GPU_CHUNK_BYTES
        return max(_LEAST_ROWS, size // (4 * self.head.vocab_size))


def model_fingerprint(model: PreTrainedModel) -> str:
    """A hash of what a loaded model computes: its configuration, and each weight by its name.

    model: a transformers model.

    It hangs on no device, mode or file. It is another than that of the folder from which the model
    was loaded, whose files are hashed as they are.
    """
    config = {
        key: value
        for key, value in model.config.to_dict().items()
        if key not in _NO_CONTENT and not key.startswith("_")
    }
    digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _keep(heard: dict[int, list[torch.Tensor]], rows_R: Any) -> Any:
    """What keeps the rows of the states behind a layer that has run."""

    def hear(layer: int, states_BLD: torch.Tensor) -> None:
        heard[layer].append(states_BLD[rows_R])

    return hear


def _rows(counted_BL: np.ndarray, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Where the rows stand that predict counted tokens: documents, and places in them."""
    document_R, position_R = np.nonzero(counted_BL)
    return torch.from_numpy(document_R).to(device), torch.from_numpy(position_R - 1).to(device)


def _order(
    groups: list[list[int]], counted_BL: np.ndarray, device: torch.device
) -> torch.Tensor | None:
    """int64 [R]: where the rows stand among those of all groups; None where there is one group."""
    if len(groups) == 1:
        return None
    targets_B = counted_BL.sum(axis=1)
    document_R = np.concatenate([np.repeat(places, targets_B[places]) for places in groups])
    return torch.from_numpy(np.argsort(document_R, kind="stable")).to(device)


def _in_order(parts: list[torch.Tensor], order_R: torch.Tensor | None) -> torch.Tensor:
    return parts[0] if order_R is None else torch.cat(parts)[order_R]


def _pad(batch: Sequence[Document]) -> tuple[np.ndarray, np.ndarray]:
    """int64 [B, L] token ids, padded to the right with id 0, and bool [B, L] of counted ones."""
    length = max(len(document) for document in batch)
    input_ids_BL = np.zeros((len(batch), length), dtype=np.int64)
    counted_BL = np.zeros((len(batch), length), dtype=bool)
    for row, document in enumerate(batch):
        input_ids_BL[row, : len(document)] = document.input_ids_L
        counted_BL[row, : len(document)] = document.counted_L
    return input_ids_BL, counted_BL
