# SPDX-License-Identifier: Apache-2.0
"""The op behind `verify` as torch knows it: handle and fake kernel. It has no gradient."""

import torch
from torch.library import Library, fallthrough_kernel, register_fake

from ._ops import _check_by_value, _check_devices

verify = torch.ops.fusedraw.verify.default

DRAFT_SHIFT = 3  # from a mode bit of the target's options to the draft's


@register_fake("fusedraw::verify")
def _fake_verify(
    draft_ids, draft_logits, target_logits, draft_params, params, keys, draft_mask, mask, n_draft, mode, logp
):
    _check_devices("verify", target_logits, draft_ids, draft_logits, keys, draft_mask, mask, n_draft)
    _check_by_value("verify", target_logits, draft_params)
    _check_by_value("verify", target_logits, params)
    rows, positions = target_logits.shape[:2]
    return (
        target_logits.new_empty((rows, positions), dtype=torch.int64),  # ids
        target_logits.new_empty((rows,), dtype=torch.int64),  # n_accepted
        target_logits.new_empty((rows,), dtype=torch.uint8),  # status
        target_logits.new_empty((rows if logp else 0, positions), dtype=torch.float32),  # logp
    )


# As in _ops: under autograd, plain tensors without a node. Kept alive here.
_autograd = Library("fusedraw", "IMPL", "Autograd")
_autograd.impl("verify", fallthrough_kernel)
