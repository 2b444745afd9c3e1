# SPDX-License-Identifier: Apache-2.0
"""What a row of the table is, how a call becomes words, and rows made from a good call and what is wrong."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from fusedraw import Status
from input_cases import B

BAD = 2  # the row of a batch of B that is bad
REST = [row for row in range(B) if row != BAD]
PER_BATCH = ("counts", "kept_ids", "kept_offsets")  # outputs that have no row of their own


class Refused(NamedTuple):
    """Metadata: raises before any work, whatever the data are."""

    function: str  # as a caller writes it after `fusedraw.`
    what: str  # the input in words
    call: Callable[[], object]
    error: type[Exception]
    message: str  # a pattern that is searched for


class BadRow(NamedTuple):
    """Data: row BAD of a batch gets a status and no result; the others are as without it."""

    function: str
    what: str
    status: Status
    call: Callable[[list[int] | None, str], object]  # of these rows (None: all) with this `check`
    message: str  # how the error of check="raise" begins, a pattern


class Works(NamedTuple):
    """Odd, and no error."""

    function: str
    what: str
    result: str  # in words
    holds: Callable[[], bool]
    slow: bool = False


def words(value) -> str:
    """A value as the page shows it: tensors by dtype, shape and what is odd about them."""
    if isinstance(value, torch.Tensor):
        dtype = str(value.dtype).removeprefix("torch.")
        parts = [f"{dtype} {list(value.shape)}"]
        if value.layout is not torch.strided:
            parts.insert(0, "sparse")
        if value.device.type != "cpu":
            parts.append(f"on {value.device.type}")
        few = value.layout is torch.strided and value.device.type == "cpu" and 0 < value.numel() <= 4
        return " ".join(parts) + (f" {value.tolist()}" if few and value.dim() == 1 else "")
    if isinstance(value, torch.Generator):
        return "a generator"
    if isinstance(value, (list, tuple)) and any(isinstance(v, torch.Tensor) for v in value):
        if len(value) > 4:
            return f"{len(value)} x {words(value[0])}"
        inner = ", ".join(map(words, value))
        return f"[{inner}]" if isinstance(value, list) else f"({inner})"
    if isinstance(value, (list, tuple, range)) and len(value) > 8:
        return f"{type(value).__name__} of {len(value)}: {words(value[0])} ..."
    if callable(value) and hasattr(value, "__name__"):
        return value.__name__
    if type(value).__module__ == "numpy":
        return f"numpy {value.dtype} " + (f"{value}" if value.ndim == 0 else f"{list(value.shape)}")
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 2**62:
        return power(value)
    return repr(value)


def power(number: int) -> str:
    """A huge int by the power of two or ten beside it."""
    size, sign = abs(number), "-" if number < 0 else ""
    if size % 10**9 == 0:
        return f"{sign}10^{len(str(size)) - 1}"
    bits = round(size.bit_length() - 1 if size < 2 ** (size.bit_length() - 1) * 1.5 else size.bit_length())
    rest = size - 2**bits
    return f"{sign}2^{bits}" + (f" {'+' if rest > 0 else '-'} {abs(rest)}" if rest else "")


def arguments_in_words(arguments: dict) -> str:
    return ", ".join(f"{name}={words(value)}" for name, value in arguments.items())


def refusing(name: str, function: Callable, /, **good) -> Callable[..., Refused]:
    """Makes rows of `function`: each changes some arguments of a good call."""

    def row(error: type[Exception], message: str, /, _what: str = "", _without=(), **changed) -> Refused:
        given = {**{k: v for k, v in good.items() if k not in _without}, **changed}
        return Refused(name, _what or arguments_in_words(changed), lambda: function(**given), error, message)

    return row


def of(module, name: str, **good) -> Callable[..., Refused]:
    """Makes rows of module.name."""
    return refusing(f"{module.__name__.removeprefix('fusedraw.')}.{name}", getattr(module, name), **good)


def part_of(value, rows):
    """Those rows of a per-row argument; anything else as it is."""
    if isinstance(value, torch.Tensor):
        return value[rows] if value.dim() and value.shape[0] == B else value
    if isinstance(value, list) and value and all(isinstance(v, torch.Tensor) for v in value):
        return [v[rows] for v in value]
    if isinstance(value, list) and len(value) == B:
        return [value[row] for row in rows]
    return value


def spoiling(name: str, function: Callable, /, **good) -> Callable[..., BadRow]:
    """Makes rows of `function`, whose arguments that have B rows are per row."""

    def row(status: Status, what: str, /, _message: str = "", **changed) -> BadRow:
        given = {**good, **changed}

        def call(rows, check):
            some = given if rows is None else {k: part_of(v, rows) for k, v in given.items()}
            return function(**some, check=check)

        return BadRow(name, what, status, call, _message or status_message(name, status))

    return row


def status_message(op: str, status: Status) -> str:
    return f"{op}: row {BAD} has status {status.name}"


def outputs(out) -> dict:
    """name -> tensor of everything that a call returned for its rows."""
    if isinstance(out, torch.Tensor):
        return {"ids": out}
    found = {name: value for name, value in out._asdict().items() if isinstance(value, torch.Tensor)}
    return {name: value for name, value in found.items() if name not in PER_BATCH}


def one_bad(good, bad, dtype=torch.float32):
    """A per-row parameter that is good but in row BAD."""
    value = torch.full((B,), good, dtype=dtype)
    value[BAD] = bad
    return value
