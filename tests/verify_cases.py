# SPDX-License-Identifier: Apache-2.0
"""Drafts and targets for the tests of `verify`, and the operator and R1 on them, results by name."""

from dataclasses import dataclass

import hypothesis.strategies as st
import torch
from engines import BF16, F16, F32, INF, NAN, ORDERS, TIES, make_keys, make_params, op, sample
from fusedraw import reference as r1
from fusedraw import reference_speculative as rs
from operations_r1 import row_arguments, row_mask
from row_kinds import EDGES, FINITE_IN_F16, KINDS, MASKS, make_mask, make_rows
from strategies import keys_halves, param_rows, seeds

DRAFT_SHIFT = 3


def make_mode(order="sequential", ties="index", draft_order=None, draft_ties=None):
    bits = ORDERS.index(order) | TIES.index(ties) << 2
    of_draft = ORDERS.index(draft_order or order) | TIES.index(draft_ties or ties) << 2
    return bits | of_draft << DRAFT_SHIFT


@dataclass
class Case:
    """Arguments of the operator."""

    draft_ids: torch.Tensor
    draft: torch.Tensor
    target: torch.Tensor
    draft_params: torch.Tensor
    params: torch.Tensor
    keys: torch.Tensor
    draft_mask: torch.Tensor | None = None
    mask: torch.Tensor | None = None
    n_draft: torch.Tensor | None = None
    mode: int = 0
    about: str = ""

    def __repr__(self):
        return self.about


def rows_at(kind, rows, size, seeds, dtype=F32):
    """[rows, positions, size]: one seed a position."""
    return torch.stack([make_rows(kind, rows, size, seed, dtype) for seed in seeds], dim=1)


def masks_at(kind, rows, size, seeds):
    return torch.stack([make_mask(kind, rows, size, seed) for seed in seeds], dim=1)


def position_keys(keys, position):
    return torch.stack([keys[:, 0], keys[:, 1] + position], dim=1)


def mask_at(mask, position):
    """What `sample` takes at a position."""
    if mask is None or mask.dim() < 3:
        return mask
    return mask[:, position if mask.shape[1] > 1 else 0]


def draw_drafts(draft, params, keys, mask=None, mode=0):
    """ids [B, G] as a draft model draws them; -1 in a bad row."""
    of_draft = mode >> DRAFT_SHIFT & 7
    ids = [
        sample(
            draft[:, j],
            params,
            position_keys(keys, j),
            mask_at(mask, j),
            mode=of_draft | 1 << 4,
            outputs=0,
        )["ids"]
        for j in range(draft.shape[1])
    ]
    return torch.stack(ids, dim=1) if ids else torch.empty((len(draft), 0), dtype=torch.int64)


def make_case(draft, target, draft_params=None, params=None, keys=None, **keywords):
    """A case whose drafts are drawn from the draft's law."""
    params = make_params() if params is None else params
    draft_params = params if draft_params is None else draft_params
    keys = make_keys(len(target)) if keys is None else keys
    ids = draw_drafts(draft, draft_params, keys, keywords.get("draft_mask"), keywords.get("mode", 0))
    return Case(ids, draft, target, draft_params, params, keys, **keywords)


def verify(case):
    """The operator on the engine in use."""
    ids, n_accepted, status, logp = op.verify(
        *(case.draft_ids, case.draft, case.target, case.draft_params, case.params, case.keys),
        *(case.draft_mask, case.mask, case.n_draft, case.mode, True),
    )
    return {"ids": ids, "n_accepted": n_accepted, "status": status, "logp": logp}


def _side(x, params, mask, mode, row):
    positions, size = x.shape[1:]
    masks = [row_mask(mask_at(mask, j), row, size) for j in range(positions)]
    return rs.Side(
        x[row].float().tolist(),
        {
            **row_arguments(params, row),
            "filter_order": ORDERS[mode & 3],
            "ties": TIES[mode >> 2 & 1],
        },
        None if mask is None else masks,
    )


def verify_r1(case, forced=None):
    """The same in plain Python."""
    rows = [
        rs.verify_row(
            case.draft_ids[row].tolist(),
            _side(case.draft, case.draft_params, case.draft_mask, case.mode >> DRAFT_SHIFT, row),
            _side(case.target, case.params, case.mask, case.mode, row),
            key=tuple(case.keys[row].tolist()),
            n_draft=None if case.n_draft is None else case.n_draft[row].item(),
            forced=forced,
        )
        for row in range(len(case.target))
    ]
    return {
        "ids": torch.tensor([r.ids for r in rows]),
        "n_accepted": torch.tensor([r.n_accepted for r in rows]),
        "status": torch.tensor([r.status for r in rows], dtype=torch.uint8),
        "logp": torch.tensor([r.logp for r in rows], dtype=F32),
    }


# Generated cases

UNTIL_R1 = st.one_of(st.sampled_from([n for n in EDGES if n < 520]), st.integers(1, 400))
RELATIONS = ("own", "near", "same", "apart")  # of the draft's logits to the target's
MASK_FORMS = ("none", "none", "one", "positions")


def _positions(kind, rows, positions, size, seed, dtype=F32):
    if positions == 0:
        return torch.empty((rows, 0, size), dtype=dtype)
    return rows_at(kind, rows, size, range(seed, seed + 100 * positions, 100), dtype)


def _mask(draw, rows, positions, size, seed):
    form, kind = draw(st.sampled_from(MASK_FORMS)), draw(st.sampled_from(MASKS[1:]))
    if form == "none":
        return None
    mask = make_mask(kind, rows, size, seed)
    if form == "one" or mask.dim() == 1:
        return mask
    return masks_at(kind, rows, size, range(seed, seed + 10 * positions, 10))


@st.composite
def cases(draw, size=UNTIL_R1):
    rows, drafts, v, seed = (
        draw(st.integers(1, 2)),
        draw(st.sampled_from([3, 2, 1, 0])),
        draw(size),
        draw(seeds),
    )
    dtypes = [draw(st.sampled_from([F32, F32, BF16, F16])) for _ in range(2)]
    kinds = [draw(st.sampled_from(list(KINDS) if t == F32 else FINITE_IN_F16)) for t in dtypes]
    relation = draw(st.sampled_from(RELATIONS))
    target = _positions(kinds[0], rows, drafts + 1, v, seed)
    draft = target[:, :drafts].clone()
    if relation == "own":
        draft = _positions(kinds[1], rows, drafts, v, seed + 7)
    elif relation == "near":
        g = torch.Generator().manual_seed(seed)
        draft = draft + torch.randn(draft.shape, generator=g) * 0.3
    elif relation == "apart" and v > 1:  # no token of one is one of the other's
        draft[:, :, : v // 2] = -INF
        target[:, :drafts, v // 2 :] = -INF
    target, draft = target.to(dtypes[0]), draft.to(dtypes[1])
    if draw(st.sampled_from([False] * 14 + [True])):
        spoiled = draw(st.sampled_from([target, draft]))
        if spoiled.shape[1]:
            j = draw(st.integers(0, spoiled.shape[1] - 1))
            spoiled[draw(st.integers(0, rows - 1)), j, draw(st.integers(0, v - 1))] = draw(
                st.sampled_from([NAN, INF])
            )
    params = draw(param_rows(rows, v))
    params[:, 3] = 0
    draft_params = params
    if draw(st.booleans()):
        draft_params = draw(param_rows(rows, v))
        if draw(st.sampled_from([True] * 19 + [False])):  # what mixes is no law that can be verified
            draft_params[:, 3] = 0
    mask = _mask(draw, rows, drafts + 1, v, seed + 1)
    draft_mask = mask if mask is None or mask.dim() < 3 else mask[:, :drafts]
    if draw(st.sampled_from([False, False, True])):
        draft_mask = _mask(draw, rows, max(drafts, 1), v, seed + 2)
        if draft_mask is not None and draft_mask.dim() == 3:
            draft_mask = draft_mask[:, :drafts]
    mode = draw(st.integers(0, 63).filter(lambda m: m & 3 != 3 and m >> 3 & 3 != 3))
    if draw(st.booleans()):
        mode = (mode & 7) * 9
    keys = torch.tensor([[draw(keys_halves), draw(keys_halves)] for _ in range(rows)])
    ids = draw_drafts(draft, draft_params, keys, draft_mask, mode)
    how = draw(st.sampled_from(["drawn"] * 8 + ["any", "wild"]))
    if drafts and how != "drawn":
        g = torch.Generator().manual_seed(seed)
        ids = torch.randint(v if how == "any" else 2**40, ids.shape, generator=g)
        ids = ids if how == "any" else ids - 2**39
    n_draft = None
    if draw(st.booleans()):
        n_draft = torch.tensor([draw(st.integers(0, drafts)) for _ in range(rows)])
        if draw(st.sampled_from([False] * 19 + [True])):
            n_draft[0] = draw(st.sampled_from([-1, drafts + 1, 2**62]))
    shape = None if mask is None else list(mask.shape)
    about = (
        f"{kinds}, {relation}, {rows=}, {drafts=}, size={v}, {seed=}, {dtypes}, {mode=}, {shape}, ids {how}, "
        f"params={params.tolist()}, draft={draft_params.tolist()}, {n_draft=}, keys={keys.tolist()}"
    )
    return Case(ids, draft, target, draft_params, params, keys, draft_mask, mask, n_draft, mode, about)


def tied_case():
    """(case, noise): all that is left has the same residual and the same noise, in blocks and tokens, but for
    token 0 and the draft. So the winner is token 1."""
    target, draft = torch.zeros(1, 2, 768), torch.zeros(1, 1, 768)
    draft[0, 0, 0], draft[0, 0, 700] = 3.0, 9.0
    draft[0, 0, 256], draft[0, 0, 512] = 3.0, 3.0  # one token is missing in each block
    noise = {(r1.BLOCK, b): 2**60 for b in range(3)} | {(r1.TOKEN, i): 2**61 for i in range(768)}
    noise[r1.COIN, 0] = 2**64 - 1
    ids = torch.tensor([[700]])
    return Case(ids, draft, target, make_params(), make_params(), make_keys(1)), noise


def spread_case(rows=3, drafts=3, size=20_000, seed=0, dtype=F32, noise=0.5, **params):
    """Long rows of a target and a draft that is near it."""
    g = torch.Generator().manual_seed(seed)
    target = torch.randn(rows, drafts + 1, size, generator=g) * 2
    draft = target[:, :drafts] + torch.randn(rows, drafts, size, generator=g) * noise
    return make_case(draft.to(dtype), target.to(dtype), None, make_params(**params), make_keys(rows, seed))
