# SPDX-License-Identifier: Apache-2.0
"""Categorical: torch's distribution, drawn by `sample` and `sample_probs`."""

import torch
from torch import Tensor
from torch.distributions import Categorical as TorchCategorical
from torch.distributions import Distribution
from torch.distributions.utils import lazy_property, logits_to_probs, probs_to_logits

from ._checks import check_keys
from ._device import kernel_device
from .keys import make_keys, reject_beside_keys
from .sampling import sample, sample_probs

_COPIED_TOGETHER = (
    2**22
)  # numbers: up to here, rows that are drawn from several times are copied for one call


class Categorical(TorchCategorical):
    """torch.distributions.Categorical with the draws of `fusedraw.sample`: exact, seeded, at its speed.

    >>> law = fusedraw.Categorical(logits=model(x))
    >>> action = law.sample(seed=7, step=t)
    >>> loss = -law.log_prob(action) * advantage

    A subclass: log_prob, entropy, mode, enumerate_support, kl_divergence and what else is not a draw are
    torch's, to the bit, differentiable as there. Normalised `logits` and `probs` are computed when they are
    asked for, and drawing does not ask.

    Args:
        probs: [..., V] weights >= 0 of any positive sum, of any floating dtype (float64 counts as float32 in
            the draw, after division by the largest of the row).
        logits: [..., V] log-weights, the other choice, -inf for what is never drawn (float64 counts as
            float32 in the draw, after subtraction of the largest of the row).
        validate_args: whether to check parameters and values; None: as torch's distributions do by default.

    Raises: ValueError for none or both of the two, for a 0-D one and, if arguments are validated, for a row
        with no positive weight, a negative one, NaN or +inf.
    """

    def __init__(self, probs=None, logits=None, validate_args=None):
        if (probs is None) == (logits is None):
            raise ValueError("Categorical: give one of probs and logits")
        name, given = ("logits", logits) if probs is None else ("probs", probs)
        if not isinstance(given, Tensor):
            raise TypeError(f"Categorical: {name} must be a torch.Tensor, got {type(given).__name__}")
        if given.dim() < 1:
            raise ValueError(f"Categorical: {name} must be [..., V], got a 0-D tensor")
        if not given.is_floating_point():
            given = given.to(torch.get_default_dtype())
        self._given_as = name
        self._param = given  # not normalised: what is drawn from
        self._num_events = given.shape[-1]
        Distribution.__init__(self, given.shape[:-1], validate_args=validate_args)
        if self._validate_args:
            self._check_param()

    def _check_param(self) -> None:
        with torch.no_grad():  # the largest: NaN wins, so one pass finds it, +inf and empty rows
            top = self._param.amax(-1)
            good = torch.isfinite(top)
            if self._given_as == "probs":
                good &= (top > 0) & (self._param.amin(-1) >= 0)
        if not torch._is_all_true(good):
            need = "finite numbers or -inf, at least one finite"
            if self._given_as == "probs":
                need = "finite weights >= 0, at least one above 0"
            raise ValueError(
                f"Categorical: each row of {self._given_as} must hold {need}, got {int((~good).sum())} of "
                f"{good.numel()} rows that do not"
            )

    @lazy_property
    def logits(self) -> Tensor:
        """Natural logarithms of the probabilities, [..., V]."""
        if self._given_as == "logits":
            return self._param - self._param.logsumexp(dim=-1, keepdim=True)
        return probs_to_logits(self.probs)

    @lazy_property
    def probs(self) -> Tensor:
        """Probabilities, [..., V], of sum 1."""
        if self._given_as == "probs":
            return self._param / self._param.sum(-1, keepdim=True)
        return logits_to_probs(self.logits)

    @property
    def mean(self) -> Tensor:
        """NaN, as there are no numbers to average: [batch_shape]."""
        return self._param.new_full(self._extended_shape(), torch.nan)

    @property
    def variance(self) -> Tensor:
        """NaN, like the mean."""
        return self.mean

    def expand(self, batch_shape, _instance=None):
        new = self._get_checked_instance(Categorical, _instance)
        batch_shape = torch.Size(batch_shape)
        shape = (*batch_shape, self._num_events)
        new._given_as = self._given_as
        new._param = self._param.expand(shape)
        new._num_events = self._num_events
        for name in ("logits", "probs"):  # computed already
            if name in self.__dict__:
                setattr(new, name, self.__dict__[name].expand(shape))
        Distribution.__init__(new, batch_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def sample(self, sample_shape=torch.Size(), *, keys=None, seed=None, step=0, generator=None) -> Tensor:  # noqa: B008
        """Draw ids: int64 [*sample_shape, *batch_shape].

        Args:
            sample_shape: of independent draws.
            keys: uint64 or int64 [*sample_shape, *batch_shape, 2] = (seed, offset) of each draw (see
                derive_keys). Or, instead of keys:
            seed, step: ints; draw number r, counted through [*sample_shape, *batch_shape], gets the key
                `derive_keys(seed, r, 0, step)`.
            generator: a torch.Generator that is asked for one uint64 seed per call. With none of the three,
                torch's default generator is.

        The first draw of each row is, to the bit, `fusedraw.sample(logits)` or `fusedraw.sample_probs(probs)`
        of what the distribution was made of, with these keys. A bad row raises ValueError on the CPU and
        gives ids -1 elsewhere. Each draw costs one of `sample`; thousands from one short row are cheaper
        by `multinomial` with replacement.
        """
        shape = self._extended_shape(sample_shape)
        with torch.no_grad():
            rows = self._rows()
            total = shape.numel()
            if keys is None:
                numbered = torch.empty((), device=kernel_device(rows.device)).expand(total, 1)
                keys = make_keys("Categorical", numbered, seed, step, generator).to(rows.device)
            else:
                reject_beside_keys("Categorical", seed, step, generator)
                keys = self._flat_keys(keys, shape, rows.device)
            return self._draw(rows, keys).reshape(shape)

    def _flat_keys(self, keys, shape, device) -> Tensor:
        if isinstance(keys, Tensor) and tuple(keys.shape) != (*shape, 2):
            raise ValueError(f"Categorical: keys must be {[*shape, 2]}, got shape {list(keys.shape)}")
        keys = keys.reshape(-1, 2) if isinstance(keys, Tensor) else keys
        check_keys("Categorical", keys, shape.numel(), device)
        return keys

    def _rows(self) -> Tensor:
        """What is drawn from: [rows, V], of a dtype that the kernels read."""
        rows = self._param.detach().reshape(-1, self._num_events)
        if rows.dtype == torch.float64:
            top = rows.amax(-1, keepdim=True)
            rows = (rows - top if self._given_as == "logits" else rows / top).to(torch.float32)
        return rows

    def _draw(self, rows: Tensor, keys: Tensor) -> Tensor:
        """Ids [draws * rows] with these keys, all rows once, then all again."""
        draw = sample if self._given_as == "logits" else sample_probs
        count, vocab = rows.shape
        if len(keys) == count or count == 0:
            return draw(rows, keys=keys)
        draws = len(keys) // count
        if len(keys) * vocab <= _COPIED_TOGETHER:
            return draw(rows.expand(draws, count, vocab).reshape(-1, vocab), keys=keys)
        keys = keys.view(draws, count, 2)
        if count < draws:  # one row many times is a view of it
            columns = [draw(rows[r].expand(draws, vocab), keys=keys[:, r]) for r in range(count)]
            return torch.stack(columns, 1).reshape(-1)
        return torch.cat([draw(rows, keys=keys[d]) for d in range(draws)])

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._given_as}: {list(self._param.shape)})"
