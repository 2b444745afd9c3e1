# SPDX-License-Identifier: Apache-2.0
"""replacing_torch_multinomial: torch.multinomial drawn by fusedraw, in code that cannot be edited."""

from __future__ import annotations

import functools
import inspect

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ._checks import dtype_name
from .multinomial import multinomial

_FUNCTION = torch.multinomial
_METHOD = Tensor.multinomial


class replacing_torch_multinomial(TorchFunctionMode):
    """Within the block, torch.multinomial and Tensor.multinomial draw by `fusedraw.multinomial`.

    >>> with fusedraw.replacing_torch_multinomial(seed=7):
    ...     out = model.generate(**inputs, do_sample=True)

    A torch function mode: it sees every call from Python, by whatever name the function was imported and
    whenever, in code that torch.compile compiles too. It holds for the thread that enters it (a worker thread
    enters its own), ends with the block however the block ends, and among nested ones the innermost draws.
    Calls that torch makes in C++, and `torch.ops.aten.multinomial`, are not seen; torch.vmap of a call is
    refused. As a decorator it covers each call of a function as if the block were written in it. Every torch
    call in the block costs about a microsecond more.

    Args:
        seed: an int, taken mod 2^64. Row r of the block's n-th call (from 0) gets the key
            `derive_keys(seed, r, 0, step=n)`.
        generator: a torch.Generator that is asked for one uint64 seed per call.
        With neither, torch's default generator is asked, so torch.manual_seed counts. A generator that the
        replaced call itself names goes before both.

    The laws are those of `fusedraw.multinomial`, the errors torch's kinds: TypeError for an argument of a
    wrong type, else RuntimeError. `out=` is resized to fit, as torch does. On a device other than the CPU a
    bad row gives ids -1, without a wait; torch ends in a device-side assertion there.

    Raises: TypeError, ValueError for a seed or generator of another type, or both. TypeError where it
        decorates a class, a coroutine or a generator function, whose body would run outside the block.
    """

    def __init__(self, *, seed: int | None = None, generator: torch.Generator | None = None):
        super().__init__()
        op = type(self).__name__
        if seed is not None and generator is not None:
            raise ValueError(f"{op}: give one of seed and generator, got both")
        if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int)):
            raise TypeError(f"{op}: seed must be an int, got {type(seed).__name__}")
        if generator is not None and not isinstance(generator, torch.Generator):
            raise TypeError(f"{op}: generator must be a torch.Generator, got {type(generator).__name__}")
        self._seed = seed
        self._generator = generator
        # A tensor, so that a compiled function counts too without being compiled anew for every number.
        self._calls = torch.zeros(1, dtype=torch.int64, device="cpu")

    def __call__(self, function):
        """`function` with the block around each call, counted anew."""
        op = type(self).__name__
        for kind, is_kind in (
            ("a class", inspect.isclass),
            ("a coroutine function", inspect.iscoroutinefunction),
            ("a generator function", inspect.isgeneratorfunction),
            ("an asynchronous generator function", inspect.isasyncgenfunction),
        ):
            if is_kind(function):
                raise TypeError(f"{op}: decorates plain functions, got {kind}; use `with` in its body")
        if not callable(function):
            raise TypeError(f"{op}: decorates functions, got {type(function).__name__}")

        @functools.wraps(function)
        def within(*args, **kwargs):
            with type(self)(seed=self._seed, generator=self._generator):
                return function(*args, **kwargs)

        return within

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is _FUNCTION:
            return self._draw(*args, **(kwargs or {}))
        if func is _METHOD and not (kwargs and "out" in kwargs):  # torch's method takes no out: its own error
            return self._draw(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def _draw(self, input, num_samples, replacement=False, *, generator=None, out=None):
        eager = isinstance(input, Tensor) and not torch.compiler.is_compiling()
        if eager and torch._C._functorch.is_batchedtensor(input):
            raise RuntimeError(
                "multinomial: torch.vmap of it is not replaced: one key would serve all its rows"
            )
        key = {}
        if generator is not None:
            key["generator"] = generator
        elif self._seed is not None:
            key["seed"], key["step"] = self._seed, self._next_call(input)
        elif self._generator is not None:
            key["generator"] = self._generator
        try:
            ids = multinomial(input, num_samples, replacement, **key)
        except ValueError as error:
            raise RuntimeError(str(error)) from error
        except TypeError as error:
            if isinstance(input, Tensor) and str(error).startswith("multinomial: input"):
                raise RuntimeError(str(error)) from error
            raise
        return ids if out is None else _write(out, ids)

    def _next_call(self, input):
        call = self._calls
        self._calls = call + 1  # not in place, which inference mode would forbid afterwards
        return call.to(input.device) if torch.compiler.is_compiling() else int(call)


def _write(out, ids: Tensor) -> Tensor:
    if not isinstance(out, Tensor):
        raise TypeError(f"multinomial: out must be a torch.Tensor, got {type(out).__name__}")
    if out.dtype != torch.int64:
        raise RuntimeError(f"multinomial: out must be int64, got {dtype_name(out.dtype)}")
    if out.device != ids.device:
        raise RuntimeError(f"multinomial: out must be on {ids.device}, got {out.device}")
    if out.shape != ids.shape:
        out.resize_(ids.shape)
    return out.copy_(ids)
