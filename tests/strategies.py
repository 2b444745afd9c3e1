# SPDX-License-Identifier: Apache-2.0
"""Hypothesis strategies: rows, parameters, masks and modes; and how many examples a test takes."""

import os
from dataclasses import dataclass

import hypothesis.strategies as st
import torch
from engines import BF16, F16, F32, HALVING, INF, NAN, ORDERS, SUPPORTS, TIES, make_mode
from hypothesis import HealthCheck, settings
from row_kinds import EDGES, FINITE_IN_F16, KINDS, MASKS, make_mask, make_probs, make_rows

FUZZ = int(os.environ.get("FUSEDRAW_FUZZ", "0"))  # > 0: that many times the examples, freshly seeded


def examples(n):
    """Settings of a generated test: fixed examples, always the same ones, unless fuzzing."""
    return settings(
        max_examples=n * max(FUZZ, 1),
        derandomize=not FUZZ,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


seeds = st.integers(0, 2**31 - 1)
keys_halves = st.one_of(
    st.integers(-(2**63), 2**63 - 1), st.sampled_from([0, 1, 2**32 - 1, 2**32, 2**63 - 1, -(2**63), -1])
)
sizes = st.one_of(st.sampled_from(EDGES), st.integers(1, 700), st.integers(1, 5000))
temperatures = st.one_of(
    st.sampled_from([1.0, 0.8, HALVING, 0.0, 2.0, 1e-30, 1e-45, 2.0**64, 1e30, INF]), st.floats(0.05, 20)
)
shares = st.sampled_from([0.5, 0.9, 0.95, 0.99, 0.1, 1e-9, 0.0, 1 - 2.0**-24, 0.75])
top_ps = st.one_of(st.just(1.0), shares, st.floats(0, 1))
min_ps = st.one_of(st.just(0.0), st.sampled_from([0.05, 0.5, 1.0, 0.001, 2.0**-43, 1e-30]), st.floats(0, 1))
epsilons = st.one_of(st.just(0.0), st.sampled_from([0.5, 1.0, 0.05, 1e-6]), st.floats(0, 1))
modes = st.builds(
    make_mode, st.sampled_from(ORDERS), st.sampled_from(TIES), st.sampled_from(SUPPORTS), st.integers(0, 3)
)


@st.composite
def param_rows(draw, rows, size, temperature=temperatures):
    """float64 [1 or rows, 5]; now and then a row that is not allowed."""
    n = draw(st.sampled_from([1, rows]))
    top_ks = st.one_of(st.just(0), st.sampled_from([1, 2, 5, 50, -1, 10**12]), st.integers(1, size + 2))
    lines = [[draw(temperature), draw(top_ps), draw(min_ps), draw(epsilons), draw(top_ks)] for _ in range(n)]
    if draw(st.integers(0, 39)) == 0:
        lines[-1][draw(st.integers(0, 3))] = draw(st.sampled_from([NAN, -1.0, INF]))
    return torch.tensor(lines, dtype=torch.float64)


@dataclass
class Rows:
    """Arguments that every operation on rows takes."""

    x: torch.Tensor
    mask: torch.Tensor | None
    keys: torch.Tensor
    about: str

    def __repr__(self):
        return self.about


@st.composite
def row_batches(draw, size=sizes, probs=False, masked=True):
    rows, v, seed = draw(st.integers(1, 3)), draw(size), draw(seeds)
    dtype = draw(st.sampled_from([F32, F32, BF16, F16]))
    kind = draw(st.sampled_from(list(KINDS) if dtype == F32 else FINITE_IN_F16))
    x = (make_probs if probs else make_rows)(kind, rows, v, seed, dtype)
    spoiled = ""
    if draw(st.integers(0, 29)) == 0:
        spoiled = draw(st.sampled_from([NAN, INF, -INF, -1.0] if probs else [NAN, INF]))
        x[draw(st.integers(0, rows - 1)), draw(st.integers(0, v - 1))] = spoiled
    mask_kind = draw(st.sampled_from(MASKS)) if masked and draw(st.booleans()) else "none"
    keys = torch.tensor([[draw(keys_halves), draw(keys_halves)] for _ in range(rows)])
    about = f"Rows(kind={kind}, rows={rows}, size={v}, seed={seed}, {dtype}, {mask_kind}, {spoiled=})"
    return Rows(x, make_mask(mask_kind, rows, v, seed + 1), keys, about)
