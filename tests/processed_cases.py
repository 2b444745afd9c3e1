# SPDX-License-Identifier: Apache-2.0
"""Edits and rules for `sample_processed`: generated lists, packed rules, the operator and the same in R1."""

import math
import random
from dataclasses import dataclass, field

import engines
import hypothesis.strategies as st
import operations_r1
import torch
from engines import ALL, F32, make_keys, make_params
from fusedraw import reference_rules as r1_rules
from operations_r1 import row_mask

LAST = 512  # mode bit of temperature_last
COLUMNS = (
    *("top_n_sigma", "typical_p", "epsilon_cutoff", "eta_cutoff", "xtc_threshold", "xtc_probability"),
    *("repetition_penalty", "frequency_penalty", "presence_penalty"),
)
NEUTRAL = dict(zip(COLUMNS, (0.0, 1.0, 0.0, 0.0, 0.1, 0.0, 1.0, 0.0, 0.0), strict=True))
LISTS = ("history", "prompt", "suppress")


@dataclass
class Edits:
    """Lists by row: ids, and (id, value) pairs of the bias."""

    history: list = field(default_factory=list)
    prompt: list = field(default_factory=list)
    suppress: list = field(default_factory=list)
    bias: list = field(default_factory=list)

    def of(self, name, row):
        rows = getattr(self, name)
        return rows[row % len(rows)] if rows else []

    def arguments(self, form="csr"):
        """The eight arguments of the operator between mask and mode."""
        out = []
        for name in LISTS:
            rows = getattr(self, name)
            if not rows:
                out += [None, None]
            elif form == "padded":
                length = max(map(len, rows))
                out += [
                    torch.tensor([r + [-1] * (length - len(r)) for r in rows], dtype=torch.int64).reshape(
                        len(rows), -1
                    ),
                    None,
                ]
            else:
                out += _csr(rows, torch.int32 if form == "csr32" else torch.int64)
        if not self.bias:
            return [*out, None, None, None]
        ids, offsets = _csr([[i for i, _ in row] for row in self.bias], torch.int64)
        return [*out, ids, offsets, torch.tensor([b for row in self.bias for _, b in row], dtype=F32)]


def _csr(rows, dtype):
    offsets = torch.tensor([0, *map(len, rows)]).cumsum(0)
    return [torch.tensor([i for row in rows for i in row], dtype=dtype), offsets]


def make_rules(**rules):
    """One packed row, float64 [1, 9]."""
    return torch.tensor([list((NEUTRAL | rules).values())], dtype=torch.float64)


def make_edits(rows, size, seed, dense=False):
    """Lists over a row: few or many ids, padding among them, ids of extreme values not singled out."""
    g = random.Random(seed)

    def ids(most):
        n = g.randrange(most + 1)
        span = size if g.random() < 0.5 else min(size, 40)  # spread, or crowded in one block
        return [g.randrange(-1, span) for _ in range(n)]

    most = 2 * size if dense else 12
    bias_ids = [sorted({i for i in ids(most) if i >= 0}) for _ in range(rows)]
    values = (0.0, 1.5, -3.0, 40.0, -math.inf, 1e-3)
    return Edits(
        [ids(most) for _ in range(rows)],
        [ids(most) for _ in range(rows)] if g.random() < 0.7 else [],
        [ids(3)] if g.random() < 0.7 else [],
        [[(i, g.choice(values)) for i in row] for row in bias_ids] if g.random() < 0.7 else [],
    )


def process(
    x, rules, edits=None, params=None, keys=None, mask=None, mode=0, outputs=ALL, top_n=0, form="csr"
):
    """The operator on the engine in use: a dict of tensors by name, as engines.sample."""
    params = make_params() if params is None else params
    keys = make_keys(x.shape[0]) if keys is None else keys
    lists = (edits or Edits()).arguments(form)
    results = iter(engines.op.sample_processed(x, params, rules, keys, mask, *lists, mode, outputs, top_n))
    return engines.named_outputs(results, outputs, top_n)


def process_r1(
    x, rules, edits=None, params=None, keys=None, mask=None, mode=0, outputs=ALL, top_n=0, forced=None
):
    params = make_params() if params is None else params
    keys = make_keys(x.shape[0]) if keys is None else keys
    edits = edits or Edits()
    results = []
    for row, line in enumerate(x.float().tolist()):
        packed = dict(zip(COLUMNS, rules[row % rules.shape[0]].tolist(), strict=True))
        results.append(
            r1_rules.process_row(
                line,
                **{name: edits.of(name, row) for name in (*LISTS, "bias")},
                rules=r1_rules.Rules(**packed, temperature_last=bool(mode & LAST)),
                mask=row_mask(mask, row, len(line)),
                key=tuple(keys[row].tolist()),
                domain=mode >> 4 & 3,
                top_n=top_n,
                forced=forced,
                **operations_r1.row_arguments(params, row),
                **operations_r1.mode_arguments(mode),
            )
        )
    return operations_r1.tensors_of(results, outputs, top_n)


_shares = st.sampled_from((0.0, 1e-7, 3e-4, 0.01, 0.05, 0.1, 0.3, 0.5, 0.9, 0.95, 0.999, 1.0))


@st.composite
def rule_rows(draw, rows=1):
    """Packed rules: each rule on or off."""

    def one():
        def maybe(name, values):
            return draw(values) if draw(st.booleans()) else NEUTRAL[name]

        return [
            maybe("top_n_sigma", st.sampled_from((0.3, 1.0, 2.0, 3.5, 1e9, math.inf))),
            maybe("typical_p", _shares),
            maybe("epsilon_cutoff", _shares),
            maybe("eta_cutoff", _shares),
            maybe("xtc_threshold", _shares),
            maybe("xtc_probability", st.sampled_from((0.5, 1.0))),
            maybe("repetition_penalty", st.sampled_from((0.7, 1.1, 1.3, 10.0, 1e-3))),
            maybe("frequency_penalty", st.sampled_from((0.5, -0.25, 1e-3, 1e30))),
            maybe("presence_penalty", st.sampled_from((0.5, -1.5, 1e-3))),
        ]

    return torch.tensor([one() for _ in range(rows)], dtype=torch.float64)
