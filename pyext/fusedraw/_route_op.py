# SPDX-License-Identifier: Apache-2.0
"""The op behind `route` as torch knows it: handle, fake kernel, and the backward of its weights."""

import torch
from torch.library import register_autograd, register_fake

from ._ops import _check_by_value, _check_devices
from ._ops import softmax as softmax_op

route = torch.ops.fusedraw.route.default

NOISES = {"none": 0, "gumbel": 1, "jitter": 2}
SCORES = {"softmax": 0, "sigmoid": 1 << 2}
RENORMALISE = 1 << 3


@register_fake("fusedraw::route")
def _fake_route(logits, params, keys, bias, replay_ids, k, mode):
    _check_devices("route", logits, keys, bias, replay_ids)
    _check_by_value("route", logits, params)
    tokens, experts = logits.shape
    return (
        logits.new_empty((tokens, k), dtype=torch.float32),  # weights
        logits.new_empty((tokens, k), dtype=torch.int64),  # ids
        logits.new_empty((experts,), dtype=torch.int64),  # counts
        logits.new_empty((tokens,), dtype=torch.uint8),  # status
        logits.new_empty((tokens,), dtype=torch.bool),  # explored
    )


def _save_for_route(ctx, inputs, output):
    logits, _, _, _, _, _, mode = inputs
    weights, ids, *_ = output
    ctx.save_for_backward(logits, ids, weights)
    ctx.mode = mode


def _route_backward(ctx, grad, *_):
    """The gradient of the weights at the chosen ids, which are constants. With s the scores of the chosen
    experts, w their weights and g the incoming gradient:

    softmax: dx_j = [j chosen] w_j g_j - p_j <g, w>, p the softmax of the row; renormalised, p is w itself.
    sigmoid: dx_j = w_j (1 - s_j) g_j; renormalised, w_j (1 - s_j) (g_j - <g, w>).

    Zero for bad rows and for experts whose logit is -inf.
    """
    logits, ids, weights = ctx.saved_tensors
    live = ids >= 0
    at = ids.clamp(min=0)
    w, g = torch.where(live, weights, 0.0), torch.where(live, grad, 0.0)
    inner = (w * g).sum(dim=-1, keepdim=True)
    renormalise, sigmoid = bool(ctx.mode & RENORMALISE), bool(ctx.mode & SCORES["sigmoid"])
    chosen = w * (g - inner) if renormalise else w * g
    if sigmoid:
        s = torch.where(live, logits.gather(-1, at), 0.0).to(torch.float32).sigmoid()
        chosen = chosen * (1 - s)
    out = torch.zeros_like(logits, dtype=torch.float32).scatter_add(-1, at, chosen)
    if not (renormalise or sigmoid):
        p, status = softmax_op(logits, logits.new_ones((1,), dtype=torch.float64), None, 0)
        out = out - torch.where((status == 0).unsqueeze(-1), p, 0.0) * inner
    return out.to(logits.dtype), None, None, None, None, None, None


register_autograd("fusedraw::route", _route_backward, setup_context=_save_for_route)
