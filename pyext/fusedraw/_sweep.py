# SPDX-License-Identifier: Apache-2.0
"""sweep: every combination of a grid of parameters as one batch, with parameters per row and common keys."""

import itertools
import math
import numbers
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ._checks import listing
from ._params import COLUMNS, NEUTRAL, check_value

_OP = "sweep"


def sweep(grid: Mapping[str, Sequence], rows: int = 1, *, device=None) -> "Sweep":
    """Every combination of the values of `grid`, each for the same `rows` rows, as one batch.

    >>> plan = sweep({"temperature": [0.7, 1.0], "mix_eps": [0, 0.01, 0.1]}, rows=8)
    >>> ids = fusedraw.sample(plan.repeat(logits), keys=plan.repeat(keys), **plan.parameters)  # [48]
    >>> plan.split(ids).shape
    torch.Size([2, 3, 8])

    Combinations come in the order of the names as given, the last name varying fastest (itertools.product,
    and scikit-learn's ParameterGrid for names in alphabetical order). Row r of the batch is row r % rows of
    the input under combination r // rows. Rows under different combinations have the same key, so the draws
    are coupled (see `coupled`) and scores are paired: `compare` takes them.

    Args:
        grid: from names out of temperature, top_k, top_p, min_p, mix_eps to lists of numbers, each in the
            range that `sample` allows (None: off). What is not named stays out of `parameters`.
        rows: N >= 1, the rows (prompts, or prompts times samples) that each combination gets.
        device: where the parameters lie; None: the CPU.

    Raises:
        TypeError, ValueError: an unknown name (the other arguments of `sample` hold for a whole launch), no
            values, a value out of range; raised before anything is made.
    """
    if not isinstance(grid, Mapping):
        raise TypeError(f"{_OP}: grid must be a dict of lists, got {type(grid).__name__}")
    if not grid:
        raise ValueError(f"{_OP}: grid must name at least one of {listing(COLUMNS)}, got none")
    if isinstance(rows, bool) or not isinstance(rows, numbers.Integral):
        raise TypeError(f"{_OP}: rows must be an int, got {type(rows).__name__}")
    if rows < 1:
        raise ValueError(f"{_OP}: rows must be >= 1, got {rows}")
    return Sweep({name: _values(name, values) for name, values in grid.items()}, int(rows), device)


@dataclass(frozen=True)
class Sweep:
    """What `sweep` returns: S combinations for N rows each, S * N rows in all."""

    grid: dict[str, tuple]
    rows: int  # N
    device: Any = None
    # {name: float64 or, for top_k, int64 [S * N]}: the parameters of each row, as `sample` takes them.
    parameters: dict[str, Tensor] = field(init=False, repr=False, compare=False)

    def __post_init__(self):
        columns = zip(*self._combinations(), strict=True)
        per_row = {}
        for name, column in zip(self.grid, columns, strict=True):
            dtype = torch.int64 if name == "top_k" else torch.float64
            column = [NEUTRAL[name] if value is None else value for value in column]
            per_row[name] = torch.tensor(column, dtype=dtype).repeat_interleave(self.rows).to(self.device)
        object.__setattr__(self, "parameters", per_row)

    @property
    def shape(self) -> tuple[int, ...]:
        """The number of values of each name."""
        return tuple(len(values) for values in self.grid.values())

    @property
    def settings(self) -> list[dict[str, Any]]:
        """The S combinations, as arguments of `sample`."""
        return [dict(zip(self.grid, values, strict=True)) for values in self._combinations()]

    @property
    def labels(self) -> list[str]:
        """'temperature=0.7, mix_eps=0.01' for each of the S combinations."""
        return [", ".join(f"{name}={_number(v)}" for name, v in setting.items()) for setting in self.settings]

    def __len__(self) -> int:
        return math.prod(self.shape)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.settings)

    def repeat(self, x):
        """What belongs to the N rows (logits, keys: [N, ...]; prompts: a list), for all S * N rows."""
        if isinstance(x, Tensor):
            if x.dim() == 0 or x.shape[0] != self.rows:
                raise ValueError(f"{_OP}: repeat takes [{self.rows}, ...], got shape {list(x.shape)}")
            return x.unsqueeze(0).expand(len(self), *x.shape).reshape(-1, *x.shape[1:])
        if not isinstance(x, (list, tuple)):
            raise TypeError(f"{_OP}: repeat takes a tensor or a list, got {type(x).__name__}")
        if len(x) != self.rows:
            raise ValueError(f"{_OP}: repeat takes {self.rows} items, got {len(x)}")
        return list(x) * len(self)

    def split(self, x: Tensor) -> Tensor:
        """Results of the S * N rows, [S * N, ...], by the grid: [*shape, N, ...]. A view where it can be."""
        if not isinstance(x, Tensor):
            raise TypeError(f"{_OP}: split takes a tensor, got {type(x).__name__}")
        if x.dim() == 0 or x.shape[0] != len(self) * self.rows:
            raise ValueError(f"{_OP}: split takes [{len(self) * self.rows}, ...], got shape {list(x.shape)}")
        return x.reshape(*self.shape, self.rows, *x.shape[1:])

    def table(self, **scores) -> "Table":
        """One line for each combination: its parameters, then `scores`, each with S values (a list, or a
        tensor of S elements, such as [*shape])."""
        columns: dict[str, list] = {name: [] for name in self.grid}
        for values in self._combinations():
            for name, value in zip(self.grid, values, strict=True):
                columns[name].append(value)
        for name, score in scores.items():
            if name in columns:
                raise ValueError(f"{_OP}: table has a parameter {name!r}, a score must be called otherwise")
            column = score.reshape(-1).tolist() if hasattr(score, "reshape") else list(score)
            if len(column) != len(self):
                raise ValueError(
                    f"{_OP}: table needs {len(self)} values of {name}, one a setting, got {len(column)}"
                )
            columns[name] = column
        return Table(columns)

    def _combinations(self) -> list[tuple]:
        return list(itertools.product(*self.grid.values()))


@dataclass(frozen=True)
class Table:
    """Columns of equal length. `print` aligns them; `pandas.DataFrame(table.columns)` takes them over."""

    columns: dict[str, list]

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Line by line, as {name: value}."""
        for values in zip(*self.columns.values(), strict=True):
            yield dict(zip(self.columns, values, strict=True))

    def __str__(self) -> str:
        cells = [[name, *map(_number, column)] for name, column in self.columns.items()]
        widths = [max(map(len, column)) for column in cells]
        lines = zip(*cells, strict=True)
        return "\n".join(
            "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines
        )


def _number(value) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _values(name, values) -> tuple:
    """The values of one name as they were given, each within the range that `sample` allows."""
    if name not in COLUMNS:
        raise ValueError(f"{_OP}: grid may name {listing(COLUMNS)}, got {name!r}")
    if isinstance(values, Tensor):
        values = values.tolist()
    if isinstance(values, (str, bytes, Mapping)) or not hasattr(values, "__iter__"):
        raise TypeError(f"{_OP}: {name} must be a list of numbers, got {type(values).__name__}")
    values = tuple(values)
    if not values:
        raise ValueError(f"{_OP}: {name} must have at least one value, got none")
    for value in values:
        if isinstance(value, Tensor):
            raise TypeError(f"{_OP}: {name} must be a list of numbers, got a list of tensors")
        check_value(_OP, name, value)
    return values
