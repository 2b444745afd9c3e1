# SPDX-License-Identifier: Apache-2.0
"""Metadata checks shared by every public function, and the errors that they raise.

They look at type, layout, dtype, shape and device only, never at data, so they cost no device sync. The fast
paths run the op first and come here only when it refuses: the ops make the same checks, but can raise only
RuntimeError.
"""

import math

import torch
from torch import Tensor

LOGIT_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
PROB_DTYPES = (*LOGIT_DTYPES, torch.float64)
ID_DTYPES = (torch.int64, torch.int32)
MAX_VOCAB = 2**33  # law: token ids of one row fit 33 bits
BAD_ROW = "fusedraw-bad-row: "  # how the ops mark a data error that they were told to raise


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def listing(words) -> str:
    """'a, b or c'."""
    words = [str(word) for word in words]
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " or " + words[-1]


def check_tensor(op: str, name: str, x) -> None:
    """`x` is a dense tensor: others may have no shape to look at, or no memory."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{op}: {name} must be a torch.Tensor, got {type(x).__name__}")
    if x.layout is not torch.strided or x.is_nested:
        got = "a nested tensor" if x.is_nested else x.layout
        raise TypeError(f"{op}: {name} must be dense (torch.strided), got {got}")


def check_dense(op: str, name: str, x, dtypes) -> None:
    """`x` is a dense tensor of one of `dtypes`."""
    check_tensor(op, name, x)
    if x.dtype not in dtypes:
        allowed = listing(dtype_name(dtype) for dtype in dtypes)
        raise TypeError(f"{op}: {name} must be {allowed}, got {dtype_name(x.dtype)}")


def as_float(number) -> float:
    """The float64 of a number; infinite where an int or a fraction lies beyond."""
    try:
        return float(number)
    except OverflowError:
        return math.copysign(math.inf, number > 0 or -1)


def check_rows(op: str, name: str, x, dtypes=LOGIT_DTYPES) -> None:
    """`x` is a dense [V] or [B, V] tensor of one of `dtypes`, 1 <= V <= 2^33."""
    check_dense(op, name, x, dtypes)
    if x.dim() not in (1, 2):
        raise ValueError(f"{op}: {name} must be [V] or [B, V], got shape {list(x.shape)}")
    if x.shape[-1] == 0:
        raise ValueError(f"{op}: {name} must have at least one token per row, got shape {list(x.shape)}")
    if x.shape[-1] > MAX_VOCAB:
        raise ValueError(f"{op}: {name} must have at most 2^33 tokens per row, got {x.shape[-1]}")


def check_device(op: str, name: str, x: Tensor, device: torch.device) -> None:
    if x.device != device:
        raise ValueError(f"{op}: {name} must be on {device} like the rest, got {x.device}")


def check_id_dtype(op: str, name: str, ids) -> None:
    """`ids` is an int64 or int32 tensor."""
    check_tensor(op, name, ids)
    if ids.dtype not in ID_DTYPES:
        raise TypeError(f"{op}: {name} must be int64 or int32, got {dtype_name(ids.dtype)}")


def mask_width(op: str, name: str, mask, vocab: int) -> int:
    """The last size that a mask of this dtype has: V bools, or ceil(V / 32) words of int32."""
    check_tensor(op, name, mask)
    if mask.dtype not in (torch.bool, torch.int32):
        raise TypeError(f"{op}: {name} must be bool or int32, got {dtype_name(mask.dtype)}")
    return vocab if mask.dtype == torch.bool else (vocab + 31) // 32


def check_mask(op: str, mask, rows: int, vocab: int, device: torch.device) -> None:
    """`mask` is None, bool [V] | [1 or B, V], or int32 words [ceil(V/32)] | [1 or B, ceil(V/32)]."""
    if mask is None:
        return
    width = mask_width(op, "mask", mask, vocab)
    fits = mask.dim() in (1, 2) and mask.shape[-1] == width
    if not fits or (mask.dim() == 2 and mask.shape[0] != 1 and mask.shape[0] != rows):
        raise ValueError(
            f"{op}: a {dtype_name(mask.dtype)} mask must be [{width}], [1, {width}] or [{rows}, {width}], "
            f"got shape {list(mask.shape)}"
        )
    check_device(op, "mask", mask, device)


def check_keys(op: str, keys, rows: int, device: torch.device, one_row: bool = False) -> None:
    """`keys` is int64 or uint64 [B, 2]; a single row may also bring [2]."""
    check_tensor(op, "keys", keys)
    if keys.dtype not in (torch.int64, torch.uint64):
        raise TypeError(f"{op}: keys must be int64 or uint64, got {dtype_name(keys.dtype)}")
    if tuple(keys.shape) != (rows, 2) and not (one_row and tuple(keys.shape) == (2,)):
        raise ValueError(
            f"{op}: keys must be [{rows}, 2], (seed, offset) per row, got shape {list(keys.shape)}"
        )
    check_device(op, "keys", keys, device)


def check_choice(op: str, name: str, value, choices) -> None:
    if not isinstance(value, str):
        raise TypeError(f"{op}: {name} must be a str, got {type(value).__name__}")
    if value not in choices:
        raise ValueError(f"{op}: {name} must be {listing(map(repr, choices))}, got {value!r}")


def check_check(op: str, check) -> None:
    if check is not None:
        check_choice(op, "check", check, ("raise", "status"))


def should_raise(check, device: torch.device) -> bool:
    """check=None means "raise" where finding out costs no sync: on the CPU."""
    return check == "raise" or (check is None and device.type == "cpu")


def bad_row(op: str, error: RuntimeError):
    """The ValueError of a bad row that the kernel of `op` was told to raise; None for any other error."""
    text = str(error)
    at = text.find(BAD_ROW)
    if at < 0:
        return None
    # One kernel serves several functions: the name is that of the function that was called.
    _, _, reason = text[at + len(BAD_ROW) :].partition(":")
    return ValueError(op + ":" + reason.split("\n", 1)[0])


def refusal(op: str, error: RuntimeError):
    """The error to raise when a kernel refuses what the checks above let pass."""
    text = str(error)
    return bad_row(op, error) or (ValueError(text) if text.startswith(op + ": ") else error)


def explain(op: str, error: RuntimeError, check, *arguments):
    """What a fast path raises when its kernel refused; check(*arguments) are the full checks, which may know
    better. (Not a closure: that would slow the path that needs none.)"""
    failure = bad_row(op, error)
    if failure is None:
        check(*arguments)
        failure = refusal(op, error)
    return failure


def call(op: str, kernel, *arguments):
    """Run a kernel. A bad row raises ValueError (a compiled graph gives the RuntimeError)."""
    if torch.compiler.is_compiling():
        return kernel(*arguments)
    try:
        return kernel(*arguments)
    except RuntimeError as error:
        failure = refusal(op, error)
    raise failure
