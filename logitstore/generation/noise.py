"""Gumbel noise of each row and token, from the counter-based numbers of `targets/draws.py`.

The same numbers as `uniforms` gives, made on the device of the logits: for 64 rows of 150,000
tokens they would take longer on the host than the model takes on a GPU.

Shapes: B rows, V vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from logitstore.targets.draws import GAMMA, MIXING, draw_states

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["gumbel_noise", "uniforms_on"]

_DOUBLE_BITS = 53


def gumbel_noise(keys_B: np.ndarray, *, count: int, draw: int, device: torch.device) -> Tensor:
    """float64 [B, V]: `-log(-log u)`; the argmax of logits plus noise is a draw of their softmax.

    keys_B: uint64, one key for each row.
    count: V.
    draw: number of the draw, from 0.
    device: of the result.
    """
    noise_BV = uniforms_on(keys_B, count=count, draw=draw, device=device)
    return noise_BV.log_().neg_().log_().neg_()


def uniforms_on(keys_B: np.ndarray, *, count: int, draw: int, device: torch.device) -> Tensor:
    """float64 [B, V] in [0, 1): what `logitstore.targets.draws.uniforms` gives, on a device.

    keys_B: uint64, one key for each row.
    count: V.
    draw: number of the draw, from 0.
    device: of the result.
    """
    states_B = draw_states(keys_B, draw=draw).view(np.int64)
    steps_V = torch.arange(1, count + 1, dtype=torch.int64, device=device) * _signed(GAMMA)
    bits_BV = torch.from_numpy(states_B.copy()).to(device)[:, None] + steps_V
    for shift, factor in MIXING:
        bits_BV = bits_BV.bitwise_xor_(_shifted(bits_BV, shift)).mul_(_signed(factor))
    return _shifted(bits_BV, 64 - _DOUBLE_BITS).double().mul_(2.0**-_DOUBLE_BITS)


def _shifted(bits: Tensor, shift: int) -> Tensor:
    """Shifted to the right as unsigned numbers are, without copies of the sign."""
    return (bits >> shift).bitwise_and_((1 << (64 - shift)) - 1)


def _signed(number: int) -> int:
    """The 64 bits of `number` as torch spells them."""
    return number - (1 << 64) if number >= 1 << 63 else number
