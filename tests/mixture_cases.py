# SPDX-License-Identifier: Apache-2.0
"""Rows of several models for the tests of `mixture`, and the operator and R1 on them, results by name."""

import hypothesis.strategies as st
import torch
from engines import BF16, DTYPES, F16, F32, INF, NAN, make_keys, make_params, op
from fusedraw import reference_mixture as rm
from operations_r1 import mode_arguments, row_arguments, row_mask
from row_kinds import EDGES, FINITE_IN_F16, KINDS, MASKS, make_mask, make_rows
from strategies import Rows, seeds

HOW = rm.COMBINATIONS
# By bit of the operator's outputs, in the order in which it returns them; kept comes as two tensors.
OUTPUTS = {
    **{"status": 0, "logp": 1, "entropy": 4, "n_kept": 7, "kept_mass": 8, "rank": 9, "explored": 10},
    **{"kept": 11, "member_logp": 12, "member_entropy": 13, "mean_entropy": 14, "mutual_information": 15},
}


def offered(how):
    """Names of the outputs that a combination has."""
    names = list(OUTPUTS)
    if how != rm.ARITHMETIC:
        names.remove("mutual_information")
    if how not in rm.MEANS:
        names.remove("mean_entropy")
    return names


def make_weights(*rows):
    """float64 [1 or B, columns]."""
    return torch.tensor(rows, dtype=torch.float64)


def mixture(members, weights, how, params=None, keys=None, mask=None, mode=0, names=None):
    """The operator on the engine in use."""
    names = offered(how) if names is None else names
    bits = sum(1 << OUTPUTS[name] for name in names)
    params = make_params() if params is None else params
    keys = make_keys(members[0].shape[0]) if keys is None else keys
    results = iter(op.mixture(list(members), weights, params, keys, mask, HOW.index(how), mode, bits))
    named = {"ids": next(results)}
    for name in OUTPUTS:
        if name in names:
            for part in ("kept_ids", "kept_offsets") if name == "kept" else (name,):
                named[part] = next(results)
    assert not list(results)
    return named


def mixture_r1(members, weights, how, params=None, keys=None, mask=None, mode=0, names=None):
    """The same in plain Python."""
    names = offered(how) if names is None else names
    params = make_params() if params is None else params
    keys = make_keys(members[0].shape[0]) if keys is None else keys
    rows = range(members[0].shape[0])
    results = [
        rm.mixture_row(
            [x[row].float().tolist() for x in members],
            weights[row % weights.shape[0]].tolist(),
            how,
            mask=row_mask(mask, row, members[0].shape[1]),
            key=tuple(keys[row].tolist()),
            domain=mode >> 4 & 3,
            **row_arguments(params, row),
            **mode_arguments(mode),
        )
        for row in rows
    ]
    named = {"ids": torch.tensor([r.draw.id for r in results])}
    for name in OUTPUTS:
        if name not in names:
            continue
        if name == "kept":
            named["kept_ids"] = torch.tensor([i for r in results for i in r.draw.kept], dtype=torch.int32)
            named["kept_offsets"] = torch.tensor([0, *(len(r.draw.kept) for r in results)]).cumsum(0)
        elif name in ("member_logp", "member_entropy"):
            named[name] = torch.tensor([getattr(r, name) for r in results], dtype=F32).T.contiguous()
        elif name in ("entropy", "mean_entropy", "mutual_information"):
            named[name] = torch.tensor([getattr(r, name) for r in results], dtype=F32)
        else:
            values = [getattr(r.draw, name) for r in results]
            named[name] = torch.tensor(values, dtype=DTYPES.get(name, F32))
    return named


UNTIL_R1 = st.one_of(st.sampled_from([n for n in EDGES if n < 400]), st.integers(1, 300))
STRENGTHS = st.one_of(st.sampled_from([0.0, 1.0, 1.5, -2.0, 1e-30, 3e38]), st.floats(-4, 8))


@st.composite
def several(draw, how, size=UNTIL_R1):
    """Members of one shape and dtype, alike or not, and how they are weighted."""
    n = draw(st.integers(1, 4)) if how in rm.MEANS else 2
    rows, v, seed = draw(st.integers(1, 2)), draw(size), draw(seeds)
    dtype = draw(st.sampled_from([F32, F32, BF16, F16]))
    kinds = [draw(st.sampled_from(list(KINDS) if dtype == F32 else FINITE_IN_F16)) for _ in range(n)]
    alike = draw(st.integers(0, 4)) == 0
    members = [
        make_rows(kinds[0 if alike else i], rows, v, seed + (0 if alike else i), dtype) for i in range(n)
    ]
    if draw(st.integers(0, 19)) == 0:
        spoiled = members[draw(st.integers(0, n - 1))]
        spoiled[draw(st.integers(0, rows - 1)), draw(st.integers(0, v - 1))] = draw(
            st.sampled_from([NAN, INF])
        )
    if how in rm.MEANS:
        a = st.one_of(st.sampled_from([0.0, 1.0, 0.5, 1e-20, 3e30]), st.floats(0.01, 2))
        line = st.lists(a, min_size=n, max_size=n)
    else:
        line = st.tuples(STRENGTHS, st.one_of(st.sampled_from([0.0, 0.1, 1.0]), st.floats(0, 1)))
    weights = torch.tensor([draw(line) for _ in range(draw(st.sampled_from([1, rows])))], dtype=torch.float64)
    if draw(st.integers(0, 29)) == 0:
        weights[0, 0] = draw(st.sampled_from([NAN, -1.0, INF]))
    mask = make_mask(draw(st.sampled_from(["none", *MASKS])), rows, v, seed + 9)
    about = f"{how}: {kinds}, {rows=}, size={v}, {seed=}, {dtype}, {alike=}, {weights.tolist()}"
    return members, weights, Rows(members[0], mask, make_keys(rows, seed), about)
