# SPDX-License-Identifier: Apache-2.0
"""token_logprob, importance_weight: scores of given tokens under the policy that drew them.

The behaviour policy of `sample` is mu = (1 - mix_eps) * pi + mix_eps * uniform(U), with pi the tempered,
filtered and renormalised law. Reinforcement learning needs log mu of the drawn tokens: scoring them under pi,
or under the raw softmax, gives a biased gradient (docs/exploring_scores.md).
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ._checks import (
    PROB_DTYPES,
    call,
    check_check,
    check_device,
    check_id_dtype,
    check_mask,
    check_rows,
    check_tensor,
    dtype_name,
    should_raise,
)
from ._device import is_plain, kernel_device, move
from ._ops import token_logprob as token_logprob_op
from ._params import (
    MODE_RAISE,
    HasTensor,
    cached_plan,
    check_lengths,
    check_value,
    check_values,
    mix_eps_of,
    pack_options,
    pack_values,
    returned_names,
)

_OP = "token_logprob"
_RETURNS = ("entropy", "status")
_EPS32 = 2.0**-23


class TokenScores(NamedTuple):
    """Log-probabilities and what else was asked for, in the shape of `ids`; None where not asked."""

    logp: Tensor  # float32, nats: log mu(id), the exact behaviour policy
    entropy: Tensor | None = None  # float32, nats: of the tempered, untruncated law
    status: Tensor | None = None  # uint8, see Status


def token_logprob(
    logits: Tensor,
    ids: Tensor,
    *,
    temperature=1.0,
    top_k=0,
    top_p=1.0,
    min_p=0.0,
    mix_eps=0.0,
    exploit=None,
    mix_support="kept",
    filter_order="sequential",
    ties="index",
    mask=None,
    kept=None,
    returns=(),
    check=None,
):
    """Log-probability of given tokens under the policy that `sample` draws from, differentiable in `logits`.

    For the logits and parameters of a draw it gives the `logp` that `sample` returned, to the bit, and for
    any other token what `sample` would have returned had it drawn it: -inf outside the support of mu.

    Args:
        logits: [..., V] float32, bfloat16, float16 (the bits of docs/law.md) or float64 (the formula, on the
            CPU wherever the rows are: for gradient checks). Leading dimensions count as rows, N in all; they
            should be viewable as [N, V], or the rows are copied.
        ids: int64 or int32 [...], the leading shape of `logits`: one token per row, in [0, V).
        temperature, top_k, top_p, min_p, mix_eps, exploit: as in `sample`: numbers, or tensors of one value,
            of length N or of the shape of `ids`.
        mix_support, filter_order, ties: as in `sample`.
        mask: as in `sample`: bool [V] or [..., V], or int32 words [ceil(V/32)] or [..., ceil(V/32)].
        kept: (ids int32 [K], offsets int64 [N + 1]), the kept sets that `sample(..., returns=("kept",))`
            recorded. They take the place of the filters, which are then not computed: the set is that of the
            draw also where the logits have moved since. Only the kept tokens are read, unless the entropy or
            mix_support="valid" need the row.
        returns: names out of "entropy" (of the tempered, untruncated law, as in `sample`; differentiable) and
            "status".
        check: "raise" (default on the CPU): a bad row, id or kept set raises ValueError; "status" (default
            elsewhere, no sync): logp and entropy are NaN, the gradient is 0, and the status tells.

    The gradient holds the kept set K fixed. With i the token, x the logits and T the temperature,

        d logp / d x_j = (1 - mix_eps) * pi(i) / mu(i) / T * (1[i = j] - pi(j))     for j in K, else 0,
        d entropy / d x_j = -p(j) * (log p(j) + entropy) / T                        p: before any filter.

    It is 0 at T = 0, at T = inf and for tokens without weight. It has the dtype of `logits` and is written in
    one pass: beside it and the logits, memory is O(N). There are no second derivatives.

    Returns:
        float32 (float64 for float64 logits) log-probabilities in the shape of `ids`, or TokenScores where
        `returns` asks for more.

    Raises:
        TypeError: a wrong type or dtype; ValueError: a wrong shape, device, range or name, a bad row.

    >>> out = fusedraw.sample(logits, keys=keys, top_p=0.9, mix_eps=0.05, returns=("logp", "kept"))
    >>> kept = (out.kept_ids, out.kept_offsets)
    >>> logp = fusedraw.token_logprob(new_logits, out.ids, mix_eps=0.05, kept=kept)
    >>> ratio = torch.exp(logp - out.logp)  # of two behaviour policies: 1 where new_logits are logits
    """
    names = returned_names(_OP, returns, _RETURNS)
    if exploit is not None:
        mix_eps = mix_eps_of(_OP, mix_eps, exploit)
    _check_shapes(logits, ids)
    check_check(_OP, check)
    shape, (rows, vocab) = ids.shape, (ids.numel(), logits.shape[-1])
    x, ids = logits.reshape(rows, vocab), ids.reshape(rows)
    values = [_one_per_row(v, shape) for v in (temperature, top_p, min_p, mix_eps, top_k)]
    mask = _rows_of_mask(mask, shape)
    params, mode = _pack(x, values, (mix_support, filter_order, ties, "target", (), 0, None))
    check_mask(_OP, mask, rows, vocab, x.device)
    kept_ids, kept_offsets = _check_kept(kept, rows, x.device)
    home = x.device
    if should_raise(check, home):
        mode |= MODE_RAISE
    device = kernel_device(home)
    arguments = (x, ids.to(torch.int64), params, mask, kept_ids, kept_offsets)
    if device != home:
        arguments = move(device, *arguments)
    logp, entropy, status, _ = call(_OP, token_logprob_op, *arguments, mode, "entropy" in names)
    if device != home:
        logp, entropy, status = move(home, logp, entropy, status)
    logp = logp.reshape(shape)
    if not names:
        return logp
    return TokenScores(
        logp,
        entropy.reshape(shape) if "entropy" in names else None,
        status.reshape(shape) if "status" in names else None,
    )


def importance_weight(logp_pi: Tensor, logp_mu: Tensor, *, mix_eps=None, check=None) -> Tensor:
    """pi(i) / mu(i) of drawn tokens: what a draw from mu counts for in an expectation under pi.

    E_mu[pi/mu * f] = E_pi[f]. The target pi is the policy to be evaluated or improved, the behaviour policy
    mu the one that drew. Where mu = (1 - mix_eps) * pi + mix_eps * uniform with this very pi, every weight is
    at most 1 / (1 - mix_eps): exploring by a mixture bounds the variance of the correction. A token that pi
    excludes weighs 0. For a pi of other parameters or other logits there is no bound.

    Args:
        logp_pi: floating point [...], log pi(i), e.g. `token_logprob(..., mix_eps=0)` of the drawn tokens.
        logp_mu: [...] likewise, log mu(i): the `logp` of `sample`, or `token_logprob` with its parameters.
        mix_eps: in [0, 1], a number or a tensor that broadcasts with them: the bound is checked.
        check: with `mix_eps`, "raise" (default on the CPU): a weight above the bound, by more than the
            rounding of the logarithms, raises ValueError; "status" (default elsewhere, no sync): it is not
            looked for.

    Returns: [...] in the dtype of the arguments, differentiable in both. NaN where either is NaN or both are
        -inf, +inf where mu alone is 0: neither can happen to a token drawn from mu.

    Raises: TypeError, ValueError: not tensors, wrong dtypes, shapes that do not broadcast, a bad mix_eps.
    """
    op = "importance_weight"
    for name, value in (("logp_pi", logp_pi), ("logp_mu", logp_mu)):
        check_tensor(op, name, value)
        if not value.is_floating_point():
            raise TypeError(f"{op}: {name} must be floating point, got {dtype_name(value.dtype)}")
    check_device(op, "logp_mu", logp_mu, logp_pi.device)
    check_check(op, check)
    try:
        log_weight = logp_pi - logp_mu
    except RuntimeError:
        raise ValueError(
            f"{op}: logp_pi and logp_mu must broadcast, got {list(logp_pi.shape)} and {list(logp_mu.shape)}"
        ) from None
    weight = log_weight.exp()
    if mix_eps is not None:
        mix_eps = check_value(op, "mix_eps", mix_eps)
        _check_broadcast(op, mix_eps, weight)
        if should_raise(check, weight.device) and not torch.compiler.is_compiling():
            _check_bound(op, weight.detach(), logp_pi.detach(), logp_mu.detach(), mix_eps)
    return weight


def _check_broadcast(op, mix_eps, weight) -> None:
    if not isinstance(mix_eps, Tensor):
        return
    check_device(op, "mix_eps", mix_eps, weight.device)
    try:
        torch.broadcast_shapes(mix_eps.shape, weight.shape)
    except RuntimeError:
        raise ValueError(
            f"{op}: mix_eps must broadcast with {list(weight.shape)}, got shape {list(mix_eps.shape)}"
        ) from None


def _check_bound(op, weight, logp_pi, logp_mu, mix_eps):
    eps = torch.as_tensor(mix_eps, dtype=torch.float64, device=weight.device).to(torch.float32).double()
    # Each logarithm is a float32 or finer, so it is off by half a unit in its last place.
    slack = _EPS32 * (1 + logp_pi.double().abs() + logp_mu.double().abs())
    excess = weight.double() * (1 - eps) > 1 + slack
    if excess.any():
        place = excess.nonzero()[0].tolist()
        found, bound = weight.expand_as(excess)[tuple(place)], (1 / (1 - eps)).expand_as(excess)[tuple(place)]
        raise ValueError(
            f"{op}: weights must be at most 1 / (1 - mix_eps) = {float(bound):.6g}, got {float(found):.6g} "
            f"at {place}: logp_pi is not that of the policy that was mixed"
        )


def _check_shapes(logits, ids) -> None:
    if not isinstance(logits, Tensor) or logits.dim() <= 2:
        check_rows(_OP, "logits", logits, PROB_DTYPES)
    else:  # one [S, V] of them; all where there are none
        rows = logits[(0,) * (logits.dim() - 2)] if logits.numel() else logits.flatten(0, -2)
        check_rows(_OP, "logits", rows, PROB_DTYPES)
    check_id_dtype(_OP, "ids", ids)
    if ids.shape != logits.shape[:-1]:
        raise ValueError(
            f"{_OP}: ids must have the leading shape of logits, {list(logits.shape[:-1])}, "
            f"got shape {list(ids.shape)}"
        )
    check_device(_OP, "ids", ids, logits.device)


def _one_per_row(value, shape):
    """A parameter in the shape of the ids, as a vector."""
    return value.reshape(-1) if isinstance(value, Tensor) and value.shape == shape else value


def _rows_of_mask(mask, shape):
    """A mask with the leading dimensions of the ids, as rows."""
    if isinstance(mask, Tensor) and mask.dim() > 2 and mask.shape[:-1] == shape:
        return mask.reshape(-1, mask.shape[-1])
    return mask


def _pack(x, values, options):
    """(params, mode): from the cache where all parameters are numbers and the call is a plain one."""
    if is_plain(x) and not torch.compiler.is_compiling():
        try:
            plan = cached_plan(_OP, *values, *options)
            return plan.params, pack_options(_OP, *options)[0]
        except (HasTensor, TypeError):  # TypeError: something unhashable, or a wrong type named below
            pass
    values = check_values(_OP, values)
    check_lengths(_OP, values, x.shape[0], x.device)
    return pack_values(x, values), pack_options(_OP, *options)[0]


def _check_kept(kept, rows, device):
    """(ids, offsets), or two None."""
    if kept is None:
        return None, None
    if not isinstance(kept, (tuple, list)) or len(kept) != 2:
        raise TypeError(f"{_OP}: kept must be (ids, offsets), got {type(kept).__name__}")
    allowed = (("kept ids", kept[0], torch.int32), ("kept offsets", kept[1], torch.int64))
    for name, value, dtype in allowed:
        check_tensor(_OP, name, value)
        if value.dtype != dtype:
            raise TypeError(f"{_OP}: {name} must be {dtype_name(dtype)}, got {dtype_name(value.dtype)}")
        if value.dim() != 1 or (dtype == torch.int64 and value.shape[0] != rows + 1):
            wanted = "[K]" if dtype == torch.int32 else f"[{rows + 1}], one more than rows"
            raise ValueError(f"{_OP}: {name} must be {wanted}, got shape {list(value.shape)}")
        check_device(_OP, name, value, device)
    return kept[0], kept[1]
