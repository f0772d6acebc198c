"""Whether a narrower student computes what its teacher does with zeros in the other channels.

The student is one that was loaded from its folder. Its tensors must be those that were written, bit
by bit. Then the teacher is given the student's tensors in their places and zeros elsewhere, and on
tokens both must give the same hidden states and logits. The teacher's norms would count the zeros;
in their place the student's are used on the kept channels, so that all but the norms is proved:
what reads and writes the residual stream, heads, rotations, MLPs, routers, scales, output layer.

Shapes: B x L a batch of tokens, D width, V vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from logitstore import ModelError
from logitstore.plumbing import LMHead
from trainer.pruning.agreement import difference_of, outputs, probe, probe_lengths
from trainer.pruning.narrow import embedding_ratio, residual_norms, running

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel

    from trainer.pruning.narrow import Cut
    from trainer.pruning.sizes import Narrowing

__all__ = ["refuse_other_narrow"]

# Of the largest value. Both models add up other numbers of terms, in float32: SmolLM2 135M differs
# by 1e-6 to 2e-5, by 1.4e-4 with neurons taken at random. Another model differs by 1e-2 and more.
_TOLERANCE = 1e-3


def refuse_other_narrow(
    teacher: PreTrainedModel,
    student: PreTrainedModel,
    narrow: Narrowing,
    cut: Cut,
    *,
    place: object,
) -> float:
    """The largest relative difference on the probes, which is 0 or rounding.

    Both models are changed to float32, and the teacher's tensors to the student's.

    Args:
        teacher: The whole model.
        student: The narrower one, loaded from its folder.
        narrow: The axes.
        cut: What is kept.
        place: What an error names as the place.

    Raises ModelError where the student is not that model, or where its output layer is none that
    can be trained on.
    """
    vocabulary = len(student.get_output_embeddings().weight)
    LMHead.checked(student, vocab_size=vocabulary)
    teacher, student = teacher.float(), student.float()
    with torch.no_grad():
        tensors = student.state_dict()
        for name, tensor in teacher.state_dict().items():
            tensor.copy_(cut.spread(name, tensors[name], tensor.shape))
    if cut.channels is not None:
        for name in residual_norms(teacher, narrow.channels):
            teacher.get_submodule(name).register_forward_hook(
                _norm_of_kept(student.get_submodule(name), cut.channels)
            )
        _enter_alike(teacher, student, cut.channels)
    most = 0.0
    for length in probe_lengths(student):
        ids_BL = probe(student, length, vocabulary)
        with running(teacher), running(student):
            hidden_BLD, *logits = outputs(teacher, ids_BL)
            if cut.channels is not None:
                hidden_BLD = hidden_BLD.index_select(-1, cut.channels)
            difference = difference_of(outputs(student, ids_BL), (hidden_BLD, *logits))
        if not difference <= _TOLERANCE:  # a NaN must fail too
            raise ModelError(
                "the student does not compute what the teacher does with zeros in place of what "
                f"was left out, on {length} tokens: sizes enter in a way that is not known here",
                place=place,
                found=f"a relative difference of {difference:.2g}",
                allowed=f"at most {_TOLERANCE:g}",
                remedy="Leave layers out instead (--layers)",
            )
        most = max(most, difference)
    return most


def _norm_of_kept(norm: nn.Module, channels: Tensor) -> Any:
    def replace(_: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> Tensor:
        kept = norm(given[0].index_select(-1, channels))
        return torch.zeros_like(output).index_copy_(-1, channels, kept)

    return replace


def _enter_alike(teacher: PreTrainedModel, student: PreTrainedModel, channels: Tensor) -> None:
    """Undo, in the teacher, what the student's embeddings were multiplied by for their width.

    The scale is a power of sqrt(D / D'), and what enters the first layer tells which.
    """
    ratio = embedding_ratio(teacher, student, channels)
    if abs(ratio - 1) > _TOLERANCE:
        teacher.get_input_embeddings().register_forward_hook(lambda *given: given[2] * ratio)
