"""How near a student's distributions are to the ones that a store keeps of its teacher.

What a store does not keep exactly is one bucket: KL over head and bucket is a lower bound of the
KL, and the acceptance an upper bound. Entries that were drawn give an unbiased estimate of KL
instead. The stored values are rounded, so each of these has a coding error, which follows from the
KL that the codec states. With p the teacher over head and bucket, s the same as stored, q the
student, and e the stated mean of KL(p || s):

    KL(p || q) >= D_a(s || q) - a / (1 - a) KL(p || s)   for the Renyi divergence D_a, 0 < a < 1
    |sum min(p, q) - sum min(s, q)| <= |p - s| / 2 <= sqrt(KL(p || s) / 2)

The first is the variational form of the Renyi divergence (van Erven and Harremoes 2014, theorem
30), the second is Pinsker's inequality; the mean over targets of its right side is at most
sqrt(e / 2), for the square root is concave.

Shapes: R rows of a chunk, K entries, V vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from logitstore import EMPTY_TAIL
from logitstore.plumbing import build_codec, sparsifier_of
from trainer.losses import (
    MASKED_LOGIT,
    HeadTail,
    View,
    bucketed,
    choose_view,
    exact_teacher,
    forward_kl,
    kl_terms,
    known_agreement,
    renormalised,
    serves,
    whole_teacher,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from logitstore import SparsifierSpec, StoreSpec
    from trainer.losses import TargetTensors

__all__ = ["Comparison"]

# 1 - a of the Renyi divergences. The best one is about sqrt(2 e / variance of log s / q), from 1/8
# for a student that is near its teacher to 1/500 for one that is far from a finely stored one.
_COMPLEMENTS = tuple(2.0**-power for power in range(1, 11))
_SAME_NODE = 1e-6
# An acceptance that is bounded by this, with most of the teacher's mass in the bucket, may be any.
_SAYS_NOTHING = 0.995
_MOST_MASS = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Student beside teacher at `temperature`, as targets of `sparsifier` know the teacher.

    Entries whose mass is not known tell which token is the likeliest, and no KL or acceptance.

    Raises SettingError where these targets do not serve the temperature.
    """

    sparsifier: SparsifierSpec
    temperature: float
    vocab_size: int
    stated_kl: float  # nats, as the codec states it at `temperature`; see its `Codec`
    stated_drawn_kl: float  # nats, likewise
    _view: View = field(init=False)

    def __post_init__(self) -> None:
        loss = forward_kl if serves(self.sparsifier, loss=forward_kl) else renormalised
        view = choose_view(self.sparsifier, loss=loss, temperature=self.temperature)
        object.__setattr__(self, "_view", view)

    @staticmethod
    def of(spec: StoreSpec, *, temperature: float) -> Comparison:
        """The comparison with the teacher of a store.

        Args:
            spec: The store's.
            temperature: T, of both distributions.

        Raises SettingError where the store does not serve that temperature.
        """
        codec = build_codec(spec.codec, spec.sparsifier, vocab_size=spec.tokenizer.vocab_size)
        whole = sparsifier_of(spec.sparsifier).targets.keeps_state
        return Comparison(
            sparsifier=spec.sparsifier,
            temperature=temperature,
            vocab_size=spec.tokenizer.vocab_size,
            # Of a hidden state what is compared is made anew: no rounded entry is looked at.
            stated_kl=0.0 if whole else codec.stated_kl_at(temperature),
            stated_drawn_kl=0.0 if whole else codec.stated_drawn_kl,
        )

    @property
    def knows_entropy(self) -> bool:
        """Whether entropies are stored, and are those at `temperature` and not only at 1."""
        at_temperature = self.temperature == 1 or self._view in (View.WEIGHTS, View.WHOLE)
        return self.knows_whole and at_temperature

    @property
    def whole(self) -> bool:
        """Whether `rows` wants targets of which all tokens are entries; see `whole_targets`."""
        return self._view is View.WHOLE

    @property
    def knows_whole(self) -> bool:
        """Whether the store knows what only the whole distribution tells."""
        return sparsifier_of(self.sparsifier).targets.knows_whole

    def rows(self, logits_RV: Tensor, targets: TargetTensors) -> dict[str, Tensor]:
        """What each row adds to the sums that the other methods take, each [R].

        "least_kl" is over exact entries and bucket, whatever "kl" is.

        Columns behind the vocabulary hold no token, and of the teacher's mass nothing: what the
        student puts there is missing elsewhere.

        Args:
            logits_RV: The student's logits at T = 1 of P >= V columns, which are overwritten.
            targets: The stored targets of the same rows; where `whole`, with all tokens as entries.
        """
        if self.whole:
            return self._whole_rows(logits_RV, targets)
        ids_RK, exact_RK = targets.ids_NK, targets.exact_NK
        # Values are stored in steps, so the teacher's likeliest may be several: each is agreement.
        stored_RK = targets.logprobs_NK.masked_fill(~exact_RK, EMPTY_TAIL)
        best_RK = exact_RK & (stored_RK == stored_RK.amax(dim=-1, keepdim=True))
        agreed_R = ((ids_RK == logits_RV.argmax(dim=-1, keepdim=True)) & best_RK).any(dim=-1)
        agreement = {
            "agreed": agreed_R,
            "tied": agreed_R & (best_RK.sum(dim=-1) > 1),
            "judged": exact_RK.any(dim=-1),
        }
        if self._view is View.SHARES:
            return agreement
        teacher = self._teacher(targets)
        logits_RV.div_(self.temperature)
        kl_R = self._estimated_kl(logits_RV, targets) if self._view is View.WEIGHTS else None
        student = _student(logits_RV, ids_RK, exact_RK, vocab_size=self.vocab_size)
        bounded = kl_R is None and self.stated_kl  # what rounding may have moved
        renyi = _renyi_divergences(student, teacher) if bounded else {}
        least_R = kl_terms(student, teacher)["kl"]
        kl_R = least_R if kl_R is None else kl_R
        shared_R = torch.minimum(student.log_head_NK, teacher.log_head_NK).exp().sum(dim=-1)
        shared_R += torch.minimum(student.log_tail_N, teacher.log_tail_N).exp()
        return {
            "kl": kl_R.double(),
            "least_kl": least_R.double(),
            "acceptance": shared_R.double(),
            "bucket": teacher.log_tail_N.exp().double(),
            **agreement,
            **renyi,
        }

    def _whole_rows(self, logits_RP: Tensor, targets: TargetTensors) -> dict[str, Tensor]:
        """As `rows`, of targets with all tokens as entries: column i is token i, and no bucket."""
        log_p_RV = self._teacher(targets).log_head_NK
        best_R1 = log_p_RV.amax(dim=-1, keepdim=True)
        likeliest_R = logits_RP.argmax(dim=-1)
        token_R = likeliest_R < self.vocab_size
        own_R1 = log_p_RV.gather(1, likeliest_R.clamp(max=self.vocab_size - 1)[:, None])
        agreed_R = token_R & (own_R1 == best_R1)[:, 0]
        logits_RP.div_(self.temperature)
        logits_RP.sub_(logits_RP.logsumexp(dim=-1, keepdim=True)).clamp_(min=MASKED_LOGIT)
        log_q_RV = logits_RP[:, : self.vocab_size]
        p_RV = log_p_RV.exp()
        kl_R = (p_RV * (log_p_RV - log_q_RV)).sum(dim=-1).double()
        return {
            "kl": kl_R,
            "least_kl": kl_R,
            "acceptance": torch.minimum(p_RV, log_q_RV.exp()).sum(dim=-1).double(),
            "bucket": torch.zeros_like(kl_R),
            "agreed": agreed_R,
            "tied": agreed_R & ((log_p_RV == best_R1).sum(dim=-1) > 1),
            "judged": torch.ones_like(agreed_R),
        }

    def _teacher(self, targets: TargetTensors) -> HeadTail:
        if self.whole:
            return whole_teacher(targets, temperature=self.temperature)
        return exact_teacher(
            targets,
            nodes=self.sparsifier.tail_nodes,
            temperature=self.temperature,
            vocab_size=self.vocab_size,
        )

    def whole_sums(self, targets: TargetTensors, label_ids_R: Tensor) -> dict[str, Tensor]:
        """The teacher's loss of the true token at T = 1 and its entropy at T, float64 [R], nats.

        Args:
            targets: With all tokens as entries.
            label_ids_R: int64: the true tokens.
        """
        label_R = targets.logprobs_NK.gather(1, label_ids_R[:, None])[:, 0]
        log_p_RV = self._teacher(targets).log_head_NK
        entropy_R = -(log_p_RV.exp() * log_p_RV).sum(dim=1)
        return {"teacher_loss": -label_R.double(), "teacher_entropy": entropy_R.double()}

    def means(self, sums: Mapping[str, float], *, targets: int) -> dict[str, float | None]:
        """Per target: kl in nats, acceptance, and top-1 agreement over rows with exact entries.

        A row without one says nothing of the teacher's likeliest token; where fewer than nine of
        ten have one, agreement is None, and acceptance where none has one or where its bound says
        nothing. So are kl and acceptance where the mass of the entries is not known.

        Args:
            sums: The sums over all rows of what `rows` gives.
            targets: How many rows these are.
        """
        agreement = known_agreement(sums["agreed"], judged=sums["judged"], targets=targets)
        if self._view is View.SHARES:
            return {"kl": None, "top1_agreement": agreement, "acceptance": None}
        return {
            "kl": sums["kl"] / targets,
            "top1_agreement": agreement,
            "acceptance": _acceptance(sums, targets),
        }

    def bounds(self, sums: Mapping[str, float], *, targets: int) -> dict[str, str]:
        """Which means are no exact values, and what they are: "lower", "upper" or "estimate".

        A bound holds once its coding error is taken off a lower one or added to an upper one. The
        agreement is an estimate where it is that of most rows, not of all.

        Args:
            sums: The sums over all rows of what `rows` gives.
            targets: How many rows these are.
        """
        agreement = {}
        if known_agreement(0.0, judged=sums["judged"], targets=targets) is not None:
            if sums["judged"] < targets:
                agreement["top1_agreement"] = "estimate"
            elif sums["tied"]:
                agreement["top1_agreement"] = "upper"
        if self._view is View.SHARES:
            return agreement
        estimated, whole = self._view is View.WEIGHTS, not sums["bucket"]
        stated = self.stated_drawn_kl if estimated else self.stated_kl
        found = {}
        if stated or not whole:
            found["kl"] = "estimate" if estimated or whole else "lower"
        known = "acceptance" in sums and _acceptance(sums, targets) is not None
        if known and (self.stated_kl or not whole):
            found["acceptance"] = "estimate" if whole else "upper"
        return found | agreement

    def row_bound(self, sums: Mapping[str, float]) -> str | None:
        """What the "least_kl" of single rows is, as in `bounds`; None for exact values.

        How far rounding may have moved one row, no codec states.

        Args:
            sums: The sums over all rows of what `rows` gives.
        """
        if sums["bucket"]:
            return "lower"
        return "estimate" if self.stated_kl else None

    def coding_errors(self, sums: Mapping[str, float], *, targets: int) -> dict[str, float]:
        """By how much the rounding of stored values may have moved the means that `bounds` names.

        At a temperature between those at which the tail's mass is stored, it is interpolated, with
        an error that nobody states: kl and acceptance are then left out.

        Args:
            sums: The sums over all rows of what `rows` gives.
            targets: How many rows these are.
        """
        errors = {"top1_agreement": 0.0}  # of all that may be the likeliest, every one is counted
        if not self._interpolates and self._view is not View.SHARES:
            errors["kl"] = self._kl_error(sums, targets)
            errors["acceptance"] = math.sqrt(self.stated_kl / 2)
        bounds = self.bounds(sums, targets=targets)
        return {name: errors[name] for name in bounds if name in errors}

    @property
    def _interpolates(self) -> bool:
        nodes = self.sparsifier.tail_nodes
        return bool(nodes) and not any(
            abs(node - 1 / self.temperature) < _SAME_NODE for node in nodes
        )

    def _kl_error(self, sums: Mapping[str, float], targets: int) -> float:
        if self._view is View.WEIGHTS:
            return self.stated_drawn_kl
        if not self.stated_kl:
            return 0.0
        least = max(
            sums[_renyi_name(one)] / targets - (1 - one) / one * self.stated_kl
            for one in _COMPLEMENTS
        )
        return max(0.0, sums["kl"] / targets - max(0.0, least))

    def _estimated_kl(self, scaled_RV: Tensor, targets: TargetTensors) -> Tensor:
        """Cross-entropy with the weights, less the teacher's entropy: [R], unbiased."""
        log_q_RK = scaled_RV.gather(1, targets.ids_NK) - scaled_RV.logsumexp(dim=-1, keepdim=True)
        weights_RK = targets.logprobs_NK.exp().masked_fill(~targets.used_NK, 0.0)
        return -(weights_RK * log_q_RK).sum(dim=-1) - targets.entropy_N


def _acceptance(sums: Mapping[str, float], targets: int) -> float | None:
    """The mean acceptance over head and bucket; None where it says nothing of the one over V.

    What is in the bucket may all be shared or none of it.
    """
    value, bucket = sums["acceptance"] / targets, sums["bucket"] / targets
    idle = value >= _SAYS_NOTHING and bucket >= _MOST_MASS
    return value if sums["judged"] and not idle else None


def _student(scaled_RP: Tensor, ids_RK: Tensor, exact_RK: Tensor, *, vocab_size: int) -> HeadTail:
    """The student over the exact entries and the bucket of all other tokens.

    Its probabilities sum to 1 less the mass of columns that are no token. Overwrites `scaled_RP`.
    """
    scaled_RV, padding_RX = scaled_RP[:, :vocab_size], scaled_RP[:, vocab_size:]
    total_R = scaled_RV.logsumexp(dim=-1)
    inside_R = total_R - torch.logaddexp(total_R, padding_RX.logsumexp(dim=-1))
    entries_RK = scaled_RV.gather(1, ids_RK)
    # What is no exact entry may be padding, which names any id: the row's first one stands in, and
    # in a row without one that id keeps its logit.
    first_R1 = exact_RK.int().argmax(dim=-1, keepdim=True)
    inside_RK = torch.where(exact_RK, ids_RK, ids_RK.gather(1, first_R1))
    out_RK = torch.where(
        exact_RK.any(dim=-1, keepdim=True), MASKED_LOGIT, entries_RK.gather(1, first_R1)
    )
    rest_R = scaled_RV.scatter_(1, inside_RK, out_RK.expand_as(inside_RK)).logsumexp(dim=-1)
    student = bucketed(entries_RK, rest_R, exact_RK)
    return HeadTail(
        log_head_NK=student.log_head_NK + inside_R[:, None],
        log_tail_N=student.log_tail_N + inside_R,
    )


def _renyi_name(complement: float) -> str:
    return f"renyi {1 - complement}"


def _renyi_divergences(student: HeadTail, teacher: HeadTail) -> dict[str, Tensor]:
    """D_a(teacher || student) = log(sum s^a q^(1 - a)) / (a - 1) of each order a, [R], nats."""
    log_s_RK1, log_q_RK1 = (
        torch.cat((side.log_head_NK, side.log_tail_N[:, None]), dim=1).double()
        for side in (teacher, student)
    )
    return {
        _renyi_name(one): torch.logsumexp((1 - one) * log_s_RK1 + one * log_q_RK1, dim=1) / -one
        for one in _COMPLEMENTS
    }
