# SPDX-License-Identifier: Apache-2.0
"""The calls whose instructions perf_check.py counts: one row each, through the torch-free engine."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from fusedraw.bench import cases, data

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from engines import bits_of, make_keys, make_mode, make_params
from golden_rows import Call
from processed_cases import make_rules

# (data, V) of a row; real rows are those of the language model.
ROWS = (("real", 49152), ("flat", 32000), ("peaked", 32000))
DTYPES = ("float32", "bfloat16")


def sample_call(config: str, x: torch.Tensor) -> Call:
    settings = dict(cases.CONFIGS[config])
    outputs = bits_of("status", *settings.pop("returns", ()))
    arguments = [x, make_params(**settings), make_keys(1, 1), None, make_mode(), outputs, 0]
    return Call("", "sample", 1, arguments, lambda: None)


def penalised_call(x: torch.Tensor) -> Call:
    """Top-k and top-p behind a repetition penalty of 64 ids and a mask in words."""
    size = x.shape[1]
    ids = torch.randint(size, (64,), generator=torch.Generator().manual_seed(3))
    mask = torch.full((1, (size + 31) // 32), -1, dtype=torch.int32)
    mask[0, ::3] = 0x55555555
    lists = [ids, torch.tensor([0, 64]), *[None] * 7]
    rules = make_rules(repetition_penalty=1.2)
    params = make_params(top_k=50, top_p=0.95)
    arguments = [x, params, rules, make_keys(1, 1), mask, *lists, make_mode(), bits_of("status"), 0]
    return Call("", "sample_processed", 1, arguments, lambda: None)


def softmax_call(x: torch.Tensor) -> Call:
    return Call("", "softmax", 1, [x, torch.ones(1, dtype=torch.float64), None, False], lambda: None)


def multinomial_call(x: torch.Tensor) -> Call:
    p = torch.softmax(x.float(), -1)
    return Call("", "multinomial", 1, [p, make_keys(1, 1), 64, True], lambda: None)


def all_cases() -> dict[str, Call]:
    """By name, in the order in which they run."""
    out = {}
    for kind, vocab in ROWS:
        for dtype in DTYPES:
            x = data.make(kind, vocab, 1, cases.DTYPES[dtype])
            for config in cases.CONFIGS:
                out[f"{config}, {kind}, {dtype}"] = sample_call(config, x)
            if kind == "real":
                out[f"penalties and mask, {kind}, {dtype}"] = penalised_call(x)
                out[f"softmax, {kind}, {dtype}"] = softmax_call(x)
        if kind == "real":
            out["multinomial of 64, real, float32"] = multinomial_call(
                data.make(kind, vocab, 1, torch.float32)
            )
    return out
