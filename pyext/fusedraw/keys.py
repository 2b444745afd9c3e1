# SPDX-License-Identifier: Apache-2.0
"""Keys: who draws what. A row's draw is a function of its logits, its parameters and its key, and of nothing
else.

A key is (seed: uint64, offset: uint64), the [B, 2] layout of torch.func._random; int64 holds the same bits.
"""

import operator

import torch
from torch import Tensor

from ._checks import call, check_device, check_keys, check_tensor, dtype_name
from ._device import kernel_device
from ._ops import derive_keys as derive_keys_op
from ._ops import row_keys as row_keys_op

is_compiling = torch.compiler.is_compiling

_MIN_INT64, _MAX_INT64, _TWO_64 = -(2**63), 2**63 - 1, 2**64


def derive_keys(seed, request_ids, sample_ids=None, step=0) -> Tensor:
    """Keys of a batch of requests: uint64 [B, 2].

    `h = philox(key = seed, counter = (request_lo, request_hi, sample, 0x4B455953))`, key = `(h1:h0, step)`: a
    request keeps its draws wherever it stands in the batch, and whoever shares the batch with it.

    Args:
        seed: int (taken mod 2^64) or int64 / uint64 tensor of length 1 or B.
        request_ids: int64 / uint64 tensor of length B (or 1), an int, or a sequence of ints; 64 bits count.
        sample_ids: the same, below 2^32 (which of several samples of one request); None means 0.
        step: int or tensor of length 1 or B: the position in the text, which the caller advances; 64 bits
            count.

    B is the longest of the four. Raises TypeError for floats, bools and other dtypes, OverflowError for ints
    outside int64 and uint64 (a seed is taken mod 2^64 instead), ValueError for lengths that do not fit and
    for sample ids of 2^32 and more.
    """
    return keys_for("derive_keys", seed, request_ids, sample_ids, step)


def keys_for(op: str, seed, request_ids, sample_ids=None, step=0) -> Tensor:
    """derive_keys for the function `op`, which its errors name."""
    sample_ids = 0 if sample_ids is None else sample_ids
    parts = {"seed": seed, "request_ids": request_ids, "sample_ids": sample_ids, "step": step}
    tensors = [part for part in parts.values() if isinstance(part, Tensor)]
    home = tensors[0].device if tensors else torch.device("cpu")
    device = kernel_device(home)
    words = [_words(op, name, part, home, device) for name, part in parts.items()]
    longest = 1
    for word in words:  # no max(): a symbolic length is never compared with 1, which would pin it
        if not _is_one(word.shape[0]):
            longest = word.shape[0]
    for name, word in zip(parts, words, strict=True):
        if word.shape[0] != 1 and word.shape[0] != longest:
            raise ValueError(f"{op}: {name} must have length 1 or {longest}, got {word.shape[0]}")
    seeds, requests, samples, steps = words
    keys = _derive(seeds, requests, samples, steps, longest)
    return keys.to(home).view(torch.uint64)


def make_keys(op: str, x: Tensor, seed, step, generator) -> Tensor:
    """int64 keys [B, 2] for rows `x` [B, V], from seed and step, or from one uint64 of a generator."""
    if seed.__class__ is int and step.__class__ is int and generator is None and not is_compiling():
        if not _MIN_INT64 <= seed <= _MAX_INT64:
            seed = _seed_word(op, seed)
        if not _MIN_INT64 <= step <= _MAX_INT64:
            step = _int_word(op, "step", step)
        return row_keys_op(x, seed, step)
    if seed is None:
        if step.__class__ is not int or step != 0:
            raise ValueError(f"{op}: step needs seed (keys carry it as their offset), got step={step}")
        word = _draw_seed(op, generator, x.device)
        return _derive(word, torch.arange(x.shape[0], device=x.device), _zero(x), _zero(x), x.shape[0])
    if generator is not None:
        raise ValueError(f"{op}: give one of keys, seed and generator, got seed and generator")
    if isinstance(seed, Tensor) or isinstance(step, Tensor) or is_compiling():
        # A tensor is not read here (no sync), and a compiled graph takes the numbers as inputs of the graph:
        # as constants of the op they would cost a recompilation for each new value.
        rows = x.shape[0]
        words = [
            _words(op, name, part, x.device, x.device) for name, part in (("seed", seed), ("step", step))
        ]
        for name, word in zip(("seed", "step"), words, strict=True):
            if word.shape[0] != 1 and word.shape[0] != rows:
                raise ValueError(f"{op}: {name} must have length 1 or {rows}, got {word.shape[0]}")
        return _derive(words[0], torch.arange(rows, device=x.device), _zero(x), words[1], rows)
    return row_keys_op(x, _seed_word(op, seed), _int_word(op, "step", step))


def resolve_keys(op: str, x: Tensor, keys, seed, step, generator, one_row: bool) -> Tensor:
    """Fully checked keys for the rows `x` [B, V]: the given ones, or made ones."""
    if keys is None:
        return make_keys(op, x, seed, step, generator)
    reject_beside_keys(op, seed, step, generator)
    check_keys(op, keys, x.shape[0], x.device, one_row)
    return keys.unsqueeze(0) if keys.dim() == 1 else keys


def reject_beside_keys(op: str, seed, step, generator) -> None:
    for name, value in (("seed", seed), ("generator", generator)):
        if value is not None:
            raise ValueError(f"{op}: give one of keys, seed and generator, got keys and {name}")
    if isinstance(step, Tensor) or step != 0:
        raise ValueError(f"{op}: step needs seed (keys carry it as their offset), got step={step}")


def _derive(seed: Tensor, requests: Tensor, samples: Tensor, step: Tensor, rows) -> Tensor:
    if not _is_one(rows) and rows == 0:
        return requests.new_empty((0, 2))
    return call("derive_keys", derive_keys_op, seed, requests, samples, step)


def _zero(x: Tensor) -> Tensor:
    return torch.zeros(1, dtype=torch.int64, device=x.device)


def _is_one(length) -> bool:
    return isinstance(length, int) and length == 1


def _draw_seed(op: str, generator, device: torch.device) -> Tensor:
    """One uint64 (as int64 [1]) from `generator`, or from torch's default generator of the device."""
    if generator is None:
        if (
            torch.compiler.is_compiling()
        ):  # random_ does not trace; a draw of 64 bits overflows in some backends
            high, low = torch.randint(0, 2**32, (2, 1), device=device)
            return high << 32 | low
        word = torch.empty(1, dtype=torch.int64, device=device)
        return word.random_(_MIN_INT64, None)
    if not isinstance(generator, torch.Generator):
        raise TypeError(f"{op}: generator must be a torch.Generator, got {type(generator).__name__}")
    word = torch.empty(1, dtype=torch.int64, device=generator.device)
    return word.random_(_MIN_INT64, None, generator=generator).to(device)


def _words(op: str, name: str, value, home: torch.device, device: torch.device) -> Tensor:
    """int64 [n] on `device` with the 64 bits of each number of `value`, which if a tensor lies on `home`."""
    if isinstance(value, Tensor):
        if value.dtype not in (torch.int64, torch.uint64, torch.int32):
            raise TypeError(f"{op}: {name} must be int64, uint64 or int32, got {dtype_name(value.dtype)}")
        check_tensor(op, name, value)
        if value.dim() > 1:
            raise ValueError(f"{op}: {name} must be 0-D or 1-D, got shape {list(value.shape)}")
        check_device(op, name, value, home)
        value = value.reshape(-1).to(device)
        return value.view(torch.int64) if value.dtype == torch.uint64 else value.to(torch.int64)
    if name in ("request_ids", "sample_ids") and isinstance(value, (list, tuple, range)):
        words = [_int_word(op, name, number) for number in value]
        return torch.tensor(words, dtype=torch.int64, device=device)
    word = _seed_word(op, value) if name == "seed" else _int_word(op, name, value)
    return torch.full((1,), word, dtype=torch.int64, device=device)


def _seed_word(op: str, seed) -> int:
    """Any int mod 2^64, as the int64 of the same bits."""
    seed = _index(op, "seed", seed)
    if _MIN_INT64 <= seed <= _MAX_INT64:
        return seed
    if is_compiling():
        {}.get(seed)  # pins a symbolic int: a graph input beyond int64 would overflow in generated code
    return wrapped(seed)


def wrapped(number: int) -> int:
    """The int64 with the low 64 bits of an int."""
    number %= _TWO_64
    return number - _TWO_64 if number > _MAX_INT64 else number


def _int_word(op: str, name: str, value) -> int:
    """An int of int64 or uint64, as the int64 of the same bits."""
    value = _index(op, name, value)
    if name == "sample_ids" and not 0 <= value < 2**32:
        raise ValueError(f"{op}: sample_ids must be in [0, 2^32), got {value}")
    if not _MIN_INT64 <= value < _TWO_64:
        raise OverflowError(f"{op}: {name} must fit int64 or uint64, got {value}")
    if value <= _MAX_INT64:
        return value
    if is_compiling():
        {}.get(value)  # as for seeds
    return value - _TWO_64


def _index(op: str, name: str, value) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    try:
        if isinstance(value, bool) or type(value).__name__ in ("bool", "bool_"):
            raise TypeError
        return operator.index(value)
    except TypeError:
        got = type(value).__name__
        raise TypeError(f"{op}: {name} must be an int or an int64 tensor, got {got}") from None
