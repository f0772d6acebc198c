"""How far the distributions of stored hidden states are from live ones, and what rounding costs.

A number of a state that is stored with u bits behind its leading one is off by a part of at most
2^-(u + 1), at random: the variance of the error is at most (2^-(u + 1) h)^2 / 3. So logit i, which
is scale * w_i . h, is off with a variance v_i of scale^2 sum_d (w_id h_d)^2 4^-(u + 1) / 3, and to
second order

    KL = 1/2 Var_p(error) <= 1/2 sum_i p_i v_i

A soft-cap only shrinks the error. The bound is of the mean over rows: of one row it is an estimate.

Shapes: R targets, V vocabulary, W width of a hidden state.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from logitstore.fidelity.divergence import divergence, live_logprobs
from logitstore.format.states import LAST

if TYPE_CHECKING:
    from torch import Tensor

    from logitstore.format.states import StatesSpec
    from logitstore.store.head import StoredHead
    from logitstore.targets.targets import SparseTargets
    from logitstore.teacher.lm_head import LMHead

__all__ = ["MANTISSA", "WholeRows", "WholeTeacher"]

MANTISSA = {"bfloat16": 7, "float16": 10, "float32": 23}  # bits behind the leading one


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class WholeRows:
    """Stored distributions of R targets beside the live ones."""

    stored_RV: Tensor  # nats, of all tokens
    kl_R: Tensor  # nats: KL(live || stored)
    rounding_R: Tensor  # nats: what storing the states rounded may have cost


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class WholeTeacher:
    """What makes distributions of the hidden states of a store."""

    stored: StoredHead
    states: StatesSpec

    def rows(self, targets: SparseTargets, live_RV: Tensor, *, temperature: float) -> WholeRows:
        """The stored distributions of targets, and how far they are from live ones.

        targets: with their last states.
        live_RV: Nats: the live log-probabilities of the same rows, by `live_logprobs`.
        temperature: T of both.

        Raises CorruptionError where the store's output layer is not as it was written.
        """
        head = self.stored.on(live_RV.device)
        state_RW = targets.states[LAST].tensor().to(live_RV.device)
        stored_RV = live_logprobs(head.logits(state_RW), temperature=temperature)
        return WholeRows(
            stored_RV=stored_RV,
            kl_R=divergence(live_RV, stored_RV).sum(-1),
            rounding_R=self._rounding_R(head, state_RW.float(), live_RV) / temperature**2,
        )

    def _rounding_R(self, head: LMHead, state_RW: Tensor, live_RV: Tensor) -> Tensor:
        """float32 [R], nats: the bound above; 0 where the teacher's own numbers are stored."""
        if self.states.dtype == self.stored.head.runs_in:
            return state_RW.new_zeros(len(state_RW))
        part = head.scale**2 * 4.0 ** -(MANTISSA[self.states.dtype] + 1) / 3
        squares_RW = live_RV.float().exp() @ head.weight_VD.float().square()
        return part / 2 * (squares_RW * state_RW.square()).sum(-1)
