"""The losses by name. Naming them costs no torch: what computes is imported on first use."""

from typing import TYPE_CHECKING

from logitstore.plumbing import lazy_names
from trainer.losses.acceptance import acceptance
from trainer.losses.alm import alm
from trainer.losses.base import DenseRows, HeadTail, Loss, LossInputs, SampledTokens
from trainer.losses.decoupled import decoupled
from trainer.losses.forward_kl import forward_kl
from trainer.losses.jensen_shannon import jensen_shannon
from trainer.losses.renormalised import renormalised
from trainer.losses.residual_to_label import residual_to_label
from trainer.losses.reverse_kl import reverse_kl
from trainer.losses.sampled_reverse_kl import sampled_reverse_kl
from trainer.losses.skewed_forward_kl import skewed_forward_kl
from trainer.losses.skewed_reverse_kl import skewed_reverse_kl
from trainer.losses.span_loss import SpanLoss
from trainer.losses.tail_reweighted import tail_reweighted
from trainer.losses.total_variation import total_variation
from trainer.losses.uld import uld

if TYPE_CHECKING:
    from trainer.losses.head_tail import MASKED_LOGIT, bucketed, kl_terms
    from trainer.losses.row_loss import RowLoss, known_agreement
    from trainer.losses.teacher import (
        exact_teacher,
        teacher_head_tail,
        weighted_teacher,
        whole_teacher,
    )
    from trainer.losses.tensors import TargetTensors
    from trainer.losses.views import View, choose_view, draw_for, serves
    from trainer.losses.whole import whole_rows, whole_targets

__all__ = [
    "LOSSES",
    "MASKED_LOGIT",
    "SPAN_LOSSES",
    "DenseRows",
    "HeadTail",
    "Loss",
    "LossInputs",
    "RowLoss",
    "SampledTokens",
    "SpanLoss",
    "TargetTensors",
    "View",
    "bucketed",
    "choose_view",
    "draw_for",
    "exact_teacher",
    "forward_kl",
    "kl_terms",
    "known_agreement",
    "renormalised",
    "serves",
    "teacher_head_tail",
    "weighted_teacher",
    "whole_rows",
    "whole_targets",
    "whole_teacher",
]

LOSSES: dict[str, Loss] = {
    one.name: one
    for one in (
        forward_kl,
        reverse_kl,
        sampled_reverse_kl,
        jensen_shannon,
        skewed_forward_kl,
        skewed_reverse_kl,
        total_variation,
        acceptance,
        decoupled,
        tail_reweighted,
        renormalised,
        residual_to_label,
    )
}

# Over spans of text, for a student of another tokenizer than the store's.
SPAN_LOSSES: dict[str, SpanLoss] = {one.name: one for one in (alm, uld)}

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "MASKED_LOGIT": "trainer.losses.head_tail",
        "RowLoss": "trainer.losses.row_loss",
        "TargetTensors": "trainer.losses.tensors",
        "View": "trainer.losses.views",
        "bucketed": "trainer.losses.head_tail",
        "choose_view": "trainer.losses.views",
        "draw_for": "trainer.losses.views",
        "exact_teacher": "trainer.losses.teacher",
        "kl_terms": "trainer.losses.head_tail",
        "known_agreement": "trainer.losses.row_loss",
        "serves": "trainer.losses.views",
        "teacher_head_tail": "trainer.losses.teacher",
        "weighted_teacher": "trainer.losses.teacher",
        "whole_rows": "trainer.losses.whole",
        "whole_targets": "trainer.losses.whole",
        "whole_teacher": "trainer.losses.teacher",
    },
)
