# SPDX-License-Identifier: Apache-2.0
"""Parameters: checking, and packing into what the ops take.

A parameter is a Python number or a tensor of length 1 or B. The ops take one float64 tensor [1 or B, 5] with
the columns of COLUMNS. They round every column but top_k to float32 first (law), which is why the bounds
below are those of numbers that round into the range. Numbers are checked here and raise; tensors are checked
by the kernel, row by row (status BAD_PARAM), because looking at their data here would sync the device.
"""

import functools
import numbers

import torch
from torch import Tensor

from ._checks import as_float, check_check, check_choice, check_device, check_tensor, dtype_name, listing
from ._device import is_plain

COLUMNS = ("temperature", "top_p", "min_p", "mix_eps", "top_k")
NEUTRAL = {"temperature": 1.0, "top_p": 1.0, "min_p": 0.0, "mix_eps": 0.0, "top_k": 0}

FILTER_ORDERS = {"sequential": 0, "joint": 1, "min_p_first": 2}
TIES = {"index": 0, "all": 1 << 2}
MIX_SUPPORTS = {"kept": 0, "valid": 1 << 3}
DOMAINS = {"target": 0, "draft": 1 << 4, "accept": 2 << 4, "recovery": 3 << 4}
MODE_PROBS = 1 << 6
MODE_RAISE = 1 << 7
MODE_KEEP_ZERO_WEIGHT = 1 << 8
# Each takes 12 bytes a row, so a number that was meant for something else would take all memory there is.
MOST_TOP_N = 1 << 20

# Outputs in the order of the op's bits; `kept` is two tensors.
OUTPUTS = (
    *("status", "logp", "logp_full", "logp_raw", "entropy", "varentropy", "margin"),
    *("n_kept", "kept_mass", "rank", "explored", "kept"),
)
OUTPUT_BITS = {name: bit for bit, name in enumerate(OUTPUTS)}
_NOT_FOR_PROBS = ("logp_full", "logp_raw", "entropy", "varentropy")
_PROBS_OUTPUTS = tuple(name for name in OUTPUTS if name not in _NOT_FOR_PROBS)

_FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
NUMBER_DTYPES = _FLOATS + _INTEGERS
ROUNDS_TO_ZERO = 2.0**-150  # a negative number of this size is -0 in float32, and -0 is 0
ROUNDS_TO_ONE = 1.0 + 2.0**-24  # a tie, which goes to the even neighbour: 1
_MANY_TOKENS = 2**40  # more than any V, and exact in float64: larger top_k mean the same


class HasTensor(Exception):
    """A parameter is a tensor: its value must not be cached."""


class Plan:
    """Parameters and options of a call, checked and packed; parameters that are all numbers."""

    __slots__ = ("bare", "cpu_mode", "device_mode", "names", "outputs", "params", "top_n")

    def __init__(self, values, mode, outputs, top_n, names, check):
        self.cpu_mode = mode if check == "status" else mode | MODE_RAISE
        self.device_mode = mode | MODE_RAISE if check == "raise" else mode
        self.outputs = outputs
        self.top_n = top_n
        self.names = names
        self.bare = len(names) == 1
        # On the CPU for every device: one row goes to a kernel by value. Kept for the life of the process,
        # whatever mode the first call runs in.
        with torch.inference_mode(False):
            self.params = torch.tensor([values], dtype=torch.float64, device="cpu")


# typed: True == 1 == 1.0, and they are not the same parameter.
@functools.lru_cache(maxsize=1024, typed=True)
def cached_plan(
    op,
    temperature,
    top_p,
    min_p,
    mix_eps,
    top_k,
    mix_support,
    filter_order,
    ties,
    domain,
    returns,
    top_n,
    check,
) -> Plan:
    """The plan of plain numbers. HasTensor where a parameter is a tensor (exceptions are not cached)."""
    values = (temperature, top_p, min_p, mix_eps, top_k)
    for value in values:
        if isinstance(value, Tensor):
            raise HasTensor
    values = check_values(op, values)
    options = (mix_support, filter_order, ties, domain, returns, top_n, check)
    mode, outputs, names, top_n = pack_options(op, *options)
    plan = Plan(values, mode, outputs, top_n, names, check)
    if type(plan.params) is not Tensor:  # a mode is active that makes fakes: not to be remembered
        raise HasTensor
    return plan


def plan_of_numbers(op, values, options):
    """The cached plan of a call whose parameters are all numbers; else None."""
    if torch.compiler.is_compiling():
        return None
    try:
        return cached_plan(op, *values, *options)
    except (HasTensor, TypeError):  # TypeError: something unhashable, or a wrong type, named by full checks
        return None


def pack_options(op, mix_support, filter_order, ties, domain, returns, top_n, check):
    """Names -> (mode bits, output bits, fields of SampleOutput in the op's order, top_n)."""
    probs = op == "sample_probs"
    returns = returned_names(op, returns, _PROBS_OUTPUTS if probs else OUTPUTS)
    check_choice(op, "mix_support", mix_support, MIX_SUPPORTS)
    check_choice(op, "filter_order", filter_order, FILTER_ORDERS)
    check_choice(op, "ties", ties, TIES)
    check_choice(op, "domain", domain, DOMAINS)
    check_check(op, check)
    mode = FILTER_ORDERS[filter_order] | TIES[ties] | MIX_SUPPORTS[mix_support] | DOMAINS[domain]
    if probs:
        mode |= MODE_PROBS
    if isinstance(top_n, bool) or not isinstance(top_n, numbers.Integral):
        raise TypeError(f"{op}: top_n must be an int, got {type(top_n).__name__}")
    if top_n < 0:
        raise ValueError(f"{op}: top_n must be >= 0, got {top_n}")
    if top_n > MOST_TOP_N:
        raise ValueError(f"{op}: top_n must be at most {MOST_TOP_N}, got {top_n}")
    outputs, names = output_fields(returns, OUTPUT_BITS)
    if top_n:
        names += ("top_ids", "top_logps")
    return mode, outputs, names, int(top_n)


def names_tuple(op: str, returns) -> tuple:
    """`returns` as a tuple: one name may come as a plain str."""
    if isinstance(returns, str):
        return (returns,)
    try:
        return tuple(returns)
    except TypeError:
        raise TypeError(f"{op}: returns must be a tuple of names, got {type(returns).__name__}") from None


def returned_names(op: str, returns, offered) -> tuple:
    """`returns` as a tuple of names, each of them offered."""
    returns = names_tuple(op, returns)
    for name in returns:
        if not isinstance(name, str):
            raise TypeError(f"{op}: returns must hold names (str), got {type(name).__name__}")
        if name not in offered:
            raise ValueError(f"{op}: returns must be among {listing(offered)}, got {name!r}")
    return returns


def output_fields(returns, bits: dict[str, int]) -> tuple[int, tuple]:
    """(output bits of an op, fields in the order in which it returns them): ids, then by bit; kept is two."""
    outputs, fields = 0, ["ids"]
    for name, bit in bits.items():
        if name in returns:
            outputs |= 1 << bit
            fields += ["kept_ids", "kept_offsets"] if name == "kept" else [name]
    return outputs, tuple(fields)


def check_values(op: str, values) -> tuple:
    """The parameters in the order of COLUMNS, numbers checked and converted, tensors as they are."""
    return tuple([check_value(op, name, value) for name, value in zip(COLUMNS, values, strict=True)])


def check_value(op: str, name: str, value):
    """A number checked against its range (None: off), or a tensor whose dtype fits."""
    if value is None and name != "temperature":
        return NEUTRAL[name]
    if isinstance(value, Tensor):
        allowed = _INTEGERS if name == "top_k" else NUMBER_DTYPES
        if value.dtype not in allowed:
            names = listing(dtype_name(dtype) for dtype in allowed)
            raise TypeError(f"{op}: {name} tensor must be {names}, got {dtype_name(value.dtype)}")
        check_tensor(op, name, value)
        return value
    if name == "top_k":
        if isinstance(value, bool) or not isinstance(value, (int, numbers.Integral)):
            raise TypeError(f"{op}: top_k must be an int or an integer tensor, got {type(value).__name__}")
        if value < -1:
            raise ValueError(f"{op}: top_k must be >= 1, or 0, -1 or None for off, got {value}")
        return min(int(value), _MANY_TOKENS)
    if isinstance(value, bool) or not isinstance(value, (int, float, numbers.Real)):
        raise TypeError(f"{op}: {name} must be a number or a tensor, got {type(value).__name__}")
    number = as_float(value)
    # Written so that NaN fails.
    if name == "temperature":
        if not number >= -ROUNDS_TO_ZERO:
            raise ValueError(f"{op}: temperature must be >= 0, got {value}")
    elif not (number >= -ROUNDS_TO_ZERO and number <= ROUNDS_TO_ONE):
        raise ValueError(f"{op}: {name} must be in [0, 1], got {value}")
    return number


def mix_eps_of(op: str, mix_eps, exploit):
    """mix_eps = 1 - exploit, where a caller gives that alias; both at once are an error.

    The difference is taken in float64 and rounded to float32 with the other parameters.
    """
    if isinstance(mix_eps, Tensor) or (mix_eps is not None and mix_eps != NEUTRAL["mix_eps"]):
        raise ValueError(f"{op}: give one of mix_eps and exploit, which is 1 - mix_eps")
    try:
        exploit = check_value(op, "mix_eps", exploit)
    except (TypeError, ValueError) as error:  # one range and one type for both names
        raise type(error)(str(error).replace("mix_eps", "exploit")) from None
    return 1.0 - (exploit.to(torch.float64) if isinstance(exploit, Tensor) else exploit)


def check_lengths(op: str, values, rows: int, device: torch.device, names=COLUMNS) -> None:
    """Tensor parameters have length 1 or B and lie where the rows lie."""
    for name, value in zip(names, values, strict=True):
        if isinstance(value, Tensor):
            if value.dim() > 1 or (value.numel() != 1 and value.numel() != rows):
                raise ValueError(f"{op}: {name} must have length 1 or {rows}, got shape {list(value.shape)}")
            check_device(op, name, value, device)


def pack_values(x: Tensor, values) -> Tensor:
    """float64 [1 or B, len(values)] from checked numbers and tensors, on the device of `x` [B, V], or one
    row on the CPU for CUDA rows: a copy of numbers to the device would wait for it.
    """
    length, tensors = 1, False
    for value in values:
        if isinstance(value, Tensor):
            tensors = True
            if value.numel() != 1:
                length = x.shape[0]
    if is_plain(x) and not torch.compiler.is_compiling() and (x.is_cpu or not tensors):
        numbers_only = [0.0 if isinstance(value, Tensor) else value for value in values]
        packed = torch.tensor([numbers_only], dtype=torch.float64, device="cpu")
        if length != 1:
            packed = packed.repeat(length, 1)
        for column, value in enumerate(values):
            if isinstance(value, Tensor):
                packed.select(1, column).copy_(value.detach().reshape(-1))
        return packed
    # By methods of `x`, so that fake and subclass tensors get parameters of their own kind, without a sync. A
    # product, not new_full: a number that torch.compile made symbolic would be a constant of the graph there,
    # and each new temperature a recompilation.
    columns = [
        value.detach().reshape(-1).to(torch.float64).expand(length)
        if isinstance(value, Tensor)
        else x.new_ones((length,), dtype=torch.float64) * value
        for value in values
    ]
    return torch.stack(columns, dim=1)
