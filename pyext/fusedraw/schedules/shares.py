# SPDX-License-Identifier: Apache-2.0
"""From the chance of one token to explore to that of a whole sequence, and back."""

import math

import torch
from torch import Tensor

from .._checks import check_device
from .._settings import device_of, setting


def mix_eps_for_sequence(share, length):
    """The `mix_eps` with which a share of sequences contains at least one token whose coin fired.

    `mix_eps = 1 - (1 - share)^(1 / length)`, computed as -expm1(log1p(-share) / length): the form as it
    is written loses the digits of a small share (it gives 0 for share = 1e-15, length = 1000).

    Args:
        share: in [0, 1], a number or a tensor of length 1 or B.
        length: tokens per sequence, whole, >= 1, a number or a tensor of length 1 or B.

    Returns: a float for two numbers, else float32 [1] or [B].
    """
    return _convert("mix_eps_for_sequence", "share", share, length, inverse=True)


def share_of_sequences(mix_eps, length):
    """The share of sequences of `length` tokens that contain at least one token whose coin fired:
    `1 - (1 - mix_eps)^length`, the inverse of `mix_eps_for_sequence`. Arguments and result as there.
    """
    return _convert("share_of_sequences", "mix_eps", mix_eps, length, inverse=False)


def _convert(op: str, name: str, chance, length, *, inverse: bool):
    device = device_of((chance, length))
    p = setting(op, name, chance, device, 0.0, 1.0)
    n = setting(op, "length", length, device, 1.0, integer=True)
    if not isinstance(chance, Tensor) and not isinstance(length, Tensor):
        if float(chance) == 1.0:
            return 1.0
        exponent = 1.0 / float(length) if inverse else float(length)
        return -math.expm1(math.log1p(-float(chance)) * exponent)
    if p.numel() != 1 and n.numel() not in (1, p.numel()):
        raise ValueError(f"{op}: length must have length 1 or {p.numel()}, got {n.numel()}")
    check_device(op, "length", n, device)
    return -torch.expm1(torch.log1p(-p) * (1.0 / n if inverse else n)).to(torch.float32)
