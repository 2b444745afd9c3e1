# SPDX-License-Identifier: Apache-2.0
"""softmax and log_softmax with a temperature and a mask, differentiable in the logits."""

from functools import lru_cache

import torch
from torch import Tensor

from ._checks import PROB_DTYPES, call, check_check, check_mask, check_rows, should_raise
from ._device import is_plain, kernel_device, move
from ._ops import softmax as softmax_op
from ._params import MODE_RAISE, check_lengths, check_value, pack_values

_MODE_LOG = 1


def softmax(logits: Tensor, temperature=1.0, *, mask=None, check=None) -> Tensor:
    """Probabilities of `sample` without filters: `softmax(logits / temperature)` over the allowed, finite
    logits.

    Args:
        logits: [B, V] or [V] float32, bfloat16, float16 (the bits of docs/law.md) or float64 (within 1e-12 of
            the formula, computed on the CPU wherever the rows are: for gradient checks).
        temperature: number or tensor of length 1 or B, >= 0. 0 gives the one-hot of the first maximum, inf
            the uniform law over the finite logits.
        mask: bool [V] or [B, V], True = allowed, or int32 words with one bit per token. Others get
            probability 0.
        check: "raise" (default on the CPU): a bad row raises ValueError; "status" (default elsewhere): it is
            NaN.

    Returns: float32 (float64 for float64 logits), the shape of `logits`. Differentiable in `logits` only; the
        gradient is 0 at T = 0, at T = inf, for tokens without weight and for bad rows.
    """
    return _softmax("softmax", logits, temperature, mask, check, 0)


def log_softmax(logits: Tensor, temperature=1.0, *, mask=None, check=None) -> Tensor:
    """Natural logarithm of `softmax`, without its underflow: -inf only for tokens that are not allowed or not
    finite.

    Arguments, result and gradient as in `softmax`.
    """
    return _softmax("log_softmax", logits, temperature, mask, check, _MODE_LOG)


def _softmax(op, logits, temperature, mask, check, mode):
    temperature = check_value(op, "temperature", temperature)
    check_check(op, check)
    check_rows(op, "logits", logits, PROB_DTYPES)
    one_row = logits.dim() == 1
    x = logits.unsqueeze(0) if one_row else logits
    check_lengths(op, (temperature,), x.shape[0], x.device, ("temperature",))
    check_mask(op, mask, x.shape[0], x.shape[1], x.device)
    home = x.device
    if should_raise(check, home):
        mode |= MODE_RAISE
    device = kernel_device(home)
    if device != home:
        x, temperature, mask = move(device, x, temperature, mask)
    if is_plain(x) and isinstance(temperature, float) and not torch.compiler.is_compiling():
        params = _packed(temperature)
    else:
        params = pack_values(x, (temperature,)).reshape(-1)
    out, _ = call(op, softmax_op, x, params, mask, mode)
    if device != home:
        out = out.to(home)
    return out[0] if one_row else out


@lru_cache(maxsize=256)
def _packed(temperature: float) -> Tensor:
    # Not an inference tensor, whatever the caller's mode: autograd may have to keep it.
    with torch.inference_mode(False):
        return torch.tensor([temperature], dtype=torch.float64, device="cpu")
