# SPDX-License-Identifier: Apache-2.0
"""Noise of the law (docs/law.md, Noise) as torch tensors, for what is drawn beside the kernels.

For a handful of values per row: the parameters of a jittered row, the arm of a bandit. Purpose CONTROL keeps
them independent of every token drawn with the same keys. No device sync, no generator.
"""

import torch
from torch import Tensor

CONTROL = 8  # purpose of a noise value (docs/law.md)

# Ids of the CONTROL values: 0..4 are the parameters in the order of _params.COLUMNS.
ARM_ID = 5

_M0, _M1 = 0xD2511F53, 0xCD9E8D57
_W0, _W1 = 0x9E3779B9, 0xBB67AE85
_LOW = 0xFFFFFFFF
_BELOW_ONE = 1.0 - 2.0**-53  # the largest v of the law


def control_uniform(keys: Tensor, ids) -> Tensor:
    """`v` of the law for purpose CONTROL, in (0, 1): float64 [B, len(ids)].

    `v = min((D(r64) + 0.5) * 2^-64, 1 - 2^-53)`: never 0, never 1, the same bits on every device.

    Args:
        keys: uint64 or int64 [B, 2] = (seed, offset) per row.
        ids: ints >= 0, one per column.
    """
    high, low = _control_words(keys, ids)
    # high * 2^32 is exact and the sum is rounded once: D(r64).
    return ((high.to(torch.float64) * 2.0**32 + low.to(torch.float64) + 0.5) * 2.0**-64).clamp(max=_BELOW_ONE)


def _control_words(keys: Tensor, ids) -> tuple[Tensor, Tensor]:
    """The high and the low 32 bits of r64(CONTROL, id), int64 [B, len(ids)] each."""
    words = keys.view(torch.int64) if keys.dtype == torch.uint64 else keys
    seed, offset = words[:, :1], words[:, 1:]
    # Made by a fill per id: a list copied to the device would wait for it.
    pairs = torch.cat([torch.full_like(seed, i // 2) for i in ids], dim=1)
    counter = (pairs, torch.full_like(seed, CONTROL), offset & _LOW, offset >> 32 & _LOW)
    o0, o1, o2, o3 = _philox4x32_10(seed & _LOW, seed >> 32 & _LOW, *counter)
    odd = torch.cat([torch.full_like(seed, i % 2) for i in ids], dim=1).bool()
    return torch.where(odd, o3, o1), torch.where(odd, o2, o0)


def _philox4x32_10(k0, k1, c0, c1, c2, c3):
    """Ten rounds of Philox 4x32 (Salmon et al., SC'11) on int64 tensors that hold 32-bit words."""
    for _ in range(10):
        high0, low0 = _multiply(_M0, c0)
        high1, low1 = _multiply(_M1, c2)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + _W0) & _LOW, (k1 + _W1) & _LOW
    return c0, c1, c2, c3


def _multiply(factor: int, word: Tensor) -> tuple[Tensor, Tensor]:
    """High and low 32 bits of a 32 x 32 bit product, by halves: nothing leaves int64."""
    low = word * (factor & 0xFFFF)
    upper = word * (factor >> 16) + (low >> 16)
    return upper >> 16, (upper & 0xFFFF) << 16 | low & 0xFFFF
