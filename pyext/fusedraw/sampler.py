# SPDX-License-Identifier: Apache-2.0
"""Sampler: `sample` with its parameters checked and packed once, as a module."""

import torch
from torch import Tensor
from torch.nn.modules.module import _global_forward_hooks, _global_forward_pre_hooks

from ._checks import explain
from ._device import HAS_CUDA, is_plain, move
from ._drawing import Extras, SampleOutput, check_call, draw_any
from ._ops import sample_now as sample_op
from ._params import (
    COLUMNS,
    MODE_RAISE,
    HasTensor,
    cached_plan,
    check_lengths,
    check_values,
    mix_eps_of,
    names_tuple,
    pack_options,
    pack_values,
)
from ._rules import NAMES as RULE_NAMES
from ._rules import OFF, check_rules
from .keys import make_keys, reject_beside_keys

is_compiling = torch.compiler.is_compiling
_OPTIONS = ("mix_support", "filter_order", "ties", "domain", "returns", "top_n", "check")


class Sampler(torch.nn.Module):
    """`sample` with its parameters checked and packed once, as a module without weights: to call, or to put
    into a model.

    >>> draw = Sampler(top_p=0.9)
    >>> ids = draw(logits, keys=keys)

    The arguments are those of `sample`; what belongs to a step (keys, masks, history, prompt, logit_bias,
    suppress) comes with each call. A tensor parameter is copied here; one of length B > 1 binds the
    sampler to batches of B rows. `.to(device)` moves tensor parameters and `.to(dtype)` leaves them as they
    are; `state_dict()` is empty.
    """

    def __init__(
        self,
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
        domain="target",
        returns=(),
        top_n=0,
        check=None,
        repetition_penalty=None,
        frequency_penalty=None,
        presence_penalty=None,
        top_n_sigma=None,
        typical_p=None,
        epsilon_cutoff=None,
        eta_cutoff=None,
        xtc_threshold=None,
        xtc_probability=None,
        temperature_last=None,
    ):
        super().__init__()
        if exploit is not None:
            mix_eps = mix_eps_of("Sampler", mix_eps, exploit)
        rules = (
            *(top_n_sigma, typical_p, epsilon_cutoff, eta_cutoff, xtc_threshold, xtc_probability),
            *(repetition_penalty, frequency_penalty, presence_penalty),
        )
        self._rules = copied(check_rules("Sampler", rules)) if any(r is not None for r in rules) else None
        self._last = temperature_last
        values = check_values("Sampler", (temperature, top_p, min_p, mix_eps, top_k))
        self._values = copied(values)
        returns = names_tuple("Sampler", returns)
        self._options = (mix_support, filter_order, ties, domain, returns, top_n, check)
        mode, self._outputs, self._names, self._top_n = pack_options("Sampler", *self._options)
        self._cpu_mode = mode if check == "status" else mode | MODE_RAISE
        self._device_mode = mode | MODE_RAISE if check == "raise" else mode
        self._bare = len(self._names) == 1
        # Packed for the fast path: numbers, for rows on any device, or tensors, for rows beside them.
        self._params = self._home = None
        tensors = [v for v in self._values if isinstance(v, Tensor)]
        if not tensors:
            try:
                self._params = cached_plan("sample", *values, *self._options).params
            except HasTensor:  # fakes are being made: packed anew in each call
                self._params = None
        elif all(is_plain(v) for v in tensors):
            lengths = {v.numel() for v in tensors} - {1}
            if len(lengths) > 1:
                raise ValueError(
                    f"Sampler: tensors must have length 1 or one common B, got {sorted(lengths)}"
                )
            rows = lengths.pop() if lengths else 1
            self._home = tensors[0].device
            check_lengths("Sampler", self._values, rows, self._home)
            self._params = pack_values(torch.empty((rows, 1), device=self._home), self._values)

    def __call__(
        self,
        logits: Tensor,
        *,
        keys=None,
        mask=None,
        seed=None,
        step=0,
        generator=None,
        **edits,
    ):
        """What `sample` gives for these arguments and the sampler's own; edits: as in `forward`."""
        if (
            is_compiling()
            or edits
            # Read where they lie: a module's own attribute look-up takes longer than all these tests.
            or (own := self.__dict__)["_rules"] is not None
            or own["_last"] is not None
            # What torch's own __call__ is for; without these it would cost a microsecond for nothing.
            or own["_forward_hooks"]
            or own["_forward_pre_hooks"]
            or own.get("_compiled_call_impl")
            or _global_forward_hooks
            or _global_forward_pre_hooks
        ):
            return super().__call__(
                logits, keys=keys, mask=mask, seed=seed, step=step, generator=generator, **edits
            )
        params, home = own["_params"], own["_home"]
        if (
            params is not None
            and logits.__class__ is Tensor
            and (keys.__class__ is Tensor or keys is None)
            and (mask is None or mask.__class__ is Tensor)
            and ((on_cpu := logits.is_cpu) or (HAS_CUDA and logits.is_cuda))
            and logits.dim() == 2
            and (home is None or home == logits.device)
        ):
            try:
                if keys is None:
                    if seed is None:  # a refused call must not advance the generator
                        check_call("sample", logits, self._values, mask, None)
                    keys = make_keys("sample", logits, seed, step, generator)
                elif seed is not None or generator is not None or step.__class__ is not int or step:
                    reject_beside_keys("sample", seed, step, generator)
                mode = own["_cpu_mode" if on_cpu else "_device_mode"]
                out = sample_op(logits, params, keys, mask, mode, own["_outputs"], own["_top_n"])
            except RuntimeError as error:
                failure = error
            else:
                if own["_bare"]:
                    return out[0]
                return SampleOutput(**dict(zip(own["_names"], out, strict=True)))
            raise explain("sample", failure, check_call, "sample", logits, self._values, mask, keys)
        return draw_any("sample", logits, self._values, self._options, mask, keys, seed, step, generator)

    def forward(
        self,
        logits: Tensor,
        *,
        keys=None,
        mask=None,
        seed=None,
        step=0,
        generator=None,
        history=None,
        prompt=None,
        logit_bias=None,
        suppress=None,
        deny_mask=None,
    ):
        """As a call, without the hooks of the module and without the fast path."""
        given = (self._last, history, prompt, suppress, logit_bias, deny_mask)
        plain = self._rules is None and all(value is None for value in given)
        extras = None if plain else Extras(self._rules or OFF, *given)
        return draw_any(
            "sample", logits, self._values, self._options, mask, keys, seed, step, generator, extras
        )

    def _apply(self, fn, recurse=True):
        """What .to(), .cuda() and the like do to tensors: of it, the change of device."""
        super()._apply(fn, recurse)
        tensors = [v for v in (*self._values, *(self._rules or ())) if isinstance(v, Tensor)]
        if tensors:
            device = fn(torch.empty(0, device=tensors[0].device)).device
            self._values = tuple(move(device, *self._values))
            if self._rules is not None:
                self._rules = tuple(move(device, *self._rules))
            if self._home is not None:
                self._params, self._home = self._params.to(device), device
        return self

    def settings(self) -> dict:
        """The arguments that make a sampler like this one; rules only if any was given."""
        settings = {
            **dict(zip(COLUMNS, self._values, strict=True)),
            **dict(zip(_OPTIONS, self._options, strict=True)),
        }
        if self._rules is not None:
            settings |= zip(RULE_NAMES, self._rules, strict=True)
            if not isinstance(settings["xtc_probability"], Tensor) and settings["xtc_probability"] == 0:
                del settings["xtc_threshold"], settings["xtc_probability"]
        if self._last is not None:
            settings["temperature_last"] = self._last
        return settings

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in self.settings().items())


def copied(values) -> tuple:
    """Tensors copied: what the caller does to them later does not reach the copies."""
    return tuple([v.detach().clone() if isinstance(v, Tensor) else v for v in values])
