# SPDX-License-Identifier: Apache-2.0
"""verify as callers see it: arguments by name, shapes, errors before any work, and what torch asks of an
operator."""

import inspect

import fusedraw
import pytest
import torch
from engines import BF16, F16, INF, NAN, make_keys, make_params
from fusedraw import Status
from fusedraw._verify_op import verify as verify_op
from verify_cases import make_case, make_mode, verify

B, G, V = 3, 2, 8


def logits(*shape, seed=3):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


TARGET = logits(B, G + 1, V)
DRAFT = TARGET[:, :G] + 0.5 * logits(B, G, V, seed=4)


def drafts(draft=DRAFT, seed=1, step=0, **params):
    """As the docstring draws them."""
    steps = [step + j for j in range(draft.shape[1])]
    ids = [
        fusedraw.sample(draft[:, j], seed=seed, step=t, domain="draft", **params) for j, t in enumerate(steps)
    ]
    return torch.stack(ids, dim=1)


IDS = drafts()


def assert_equal(a, b):
    for x, y in zip(a, b, strict=True):
        assert (x is None and y is None) or torch.equal(x.nan_to_num(7), y.nan_to_num(7))


# Arguments


def test_by_name_as_packed():
    """Every argument reaches its place in the operator."""
    params = {"temperature": 0.8, "top_k": 5, "top_p": 0.9, "min_p": 0.01}
    of_draft = {"draft_temperature": 1.3, "draft_top_k": 6, "draft_top_p": 0.95, "draft_min_p": 0.02}
    names = {
        "filter_order": "joint",
        "ties": "all",
        "draft_filter_order": "min_p_first",
        "draft_ties": "index",
    }
    keys, n_draft = make_keys(40), torch.arange(40) % 3
    target, draft = logits(40, 3, 30).mul(2).round(), logits(40, 2, 30, seed=8).mul(2).round()
    case = make_case(
        *(draft, target, make_params(1.3, 0.95, 0.02, top_k=6), make_params(0.8, 0.9, 0.01, top_k=5), keys),
        mode=make_mode("joint", "all", "min_p_first", "index"),
        n_draft=n_draft,
    )
    expected = verify(case)
    out = fusedraw.verify(
        *(case.draft_ids, draft, target),
        **params,
        **of_draft,
        **names,
        n_draft=n_draft,
        keys=keys,
        returns=("logp", "status", "n_accepted"),
    )
    assert_equal(out, expected.values())
    tensors = {name: torch.full((40,), value) for name, value in {**params, **of_draft}.items()}
    again = fusedraw.verify(
        *(case.draft_ids.int(), draft, target), **tensors, **names, n_draft=n_draft.int(), keys=keys
    )
    assert torch.equal(again.ids, out.ids) and again.logp is None
    for name in (*params, *of_draft, *names):  # and none is left out
        changed = {**params, **of_draft, **names, name: {"ties": "index", "draft_ties": "all"}.get(name, 0.3)}
        if "top_k" in name:
            changed[name] = 2
        if "order" in name:
            changed[name] = "sequential"
        other = fusedraw.verify(
            *(case.draft_ids, draft, target), **changed, n_draft=n_draft, keys=keys, check="status"
        )
        if name not in ("ties", "draft_ties", "filter_order", "draft_filter_order"):
            assert not torch.equal(other.ids, out.ids), name


def test_the_draft_takes_after_the_target():
    params = {
        "temperature": 0.7,
        "top_k": 4,
        "top_p": 0.9,
        "min_p": 0.05,
        "filter_order": "joint",
        "ties": "all",
    }
    ids = drafts(**params)
    out = fusedraw.verify(ids, DRAFT, TARGET, seed=1, **params)
    assert_equal(
        out,
        fusedraw.verify(ids, DRAFT, TARGET, seed=1, **params, **{f"draft_{n}": v for n, v in params.items()}),
    )
    mask = torch.ones(V, dtype=torch.bool).index_fill(0, torch.tensor([2, 5]), False)
    ids = drafts(mask=mask)
    out = fusedraw.verify(ids, DRAFT, TARGET, seed=1, mask=mask)
    assert_equal(out, fusedraw.verify(ids, DRAFT, TARGET, seed=1, mask=mask, draft_mask=mask))
    everywhere = mask.expand(B, G + 1, V)
    assert_equal(out, fusedraw.verify(ids, DRAFT, TARGET, seed=1, mask=everywhere))
    assert_equal(out, fusedraw.verify(ids, DRAFT, TARGET, seed=1, mask=everywhere[:, :1]))
    ids = drafts()
    out = fusedraw.verify(ids, DRAFT, TARGET, seed=1, mask=mask, draft_mask=torch.ones_like(mask))
    assert (out.ids != 2).all() and (out.ids != 5).all()


def test_the_drafts_mask_is_the_targets_where_it_is_left_out():
    """On rows enough that another mask, or none, accepts other drafts."""
    draft, target = logits(300, 1, V, seed=8), logits(300, 2, V, seed=9)
    mask = torch.arange(V) % 2 == 0
    ids = drafts(draft, mask=mask)
    out = fusedraw.verify(ids, draft, target, seed=1, mask=mask)
    assert_equal(out, fusedraw.verify(ids, draft, target, seed=1, mask=mask, draft_mask=mask))
    free = fusedraw.verify(ids, draft, target, seed=1, mask=mask, draft_mask=torch.ones_like(mask))
    assert (free.n_accepted != out.n_accepted).sum() > 10


def test_the_example_of_the_docstring():
    """A round after a round: the steps of the rows go on by what they emitted."""
    out = fusedraw.verify(IDS, DRAFT, TARGET, seed=1, step=0)
    step = 0 + out.n_accepted + 1
    ids = drafts(step=step)
    more = fusedraw.verify(ids, DRAFT, TARGET, seed=1, step=step)
    keys = fusedraw.derive_keys(1, range(B), step=step)
    assert_equal(more, fusedraw.verify(ids, DRAFT, TARGET, keys=keys))
    same = fusedraw.verify(drafts(TARGET[:, :G]), TARGET[:, :G], TARGET, seed=1)
    assert torch.equal(same.ids[:, G], fusedraw.sample(TARGET[:, G], seed=1, step=G))


def test_one_row():
    whole = fusedraw.verify(IDS, DRAFT, TARGET, keys=make_keys(B), returns="logp")
    mask = torch.ones(G + 1, V, dtype=torch.bool)
    for row in range(B):
        for more in ({}, {"mask": mask}, {"mask": mask[0]}, {"n_draft": torch.tensor(G)}):
            out = fusedraw.verify(
                IDS[row], DRAFT[row], TARGET[row], keys=make_keys(B)[row], returns="logp", **more
            )
            assert out.ids.shape == (G + 1,) and out.n_accepted.shape == out.status.shape == ()
            assert_equal(out, [t[row] for t in whole])


def test_no_drafts_is_sample():
    out = fusedraw.verify(IDS[:, :0], DRAFT[:, :0], TARGET[:, :1], seed=1, top_p=0.8, returns="logp")
    expected = fusedraw.sample(TARGET[:, 0], seed=1, top_p=0.8, returns="logp")
    assert torch.equal(out.ids[:, 0], expected.ids) and torch.equal(out.logp[:, 0], expected.logp)
    assert out.n_accepted.tolist() == [0] * B


def test_generators():
    outs = [
        fusedraw.verify(IDS[:, :0], DRAFT[:, :0], TARGET[:, :1], generator=torch.Generator().manual_seed(n))
        for n in (1, 1)
    ]
    assert_equal(*outs)
    before = torch.get_rng_state()
    fusedraw.verify(IDS[:, :0], DRAFT[:, :0], TARGET[:, :1])
    assert not torch.equal(torch.get_rng_state(), before)


def test_signature_names_every_parameter_of_the_draft():
    names = list(inspect.signature(fusedraw.verify).parameters)
    for name in ("temperature", "top_k", "top_p", "min_p", "filter_order", "ties", "mask"):
        assert f"draft_{name}" in names


# Bad input


def test_a_bad_row_raises_or_tells():
    ids = IDS.clone()
    ids[1, 0] = V
    with pytest.raises(ValueError, match=r"verify: row 1 has status BAD_PARAM: .* a draft is no token"):
        fusedraw.verify(ids, DRAFT, TARGET, seed=1)
    out = fusedraw.verify(ids, DRAFT, TARGET, seed=1, check="status")
    assert out.status.tolist() == [Status.OK, Status.BAD_PARAM, Status.OK]
    assert (out.ids[1] == -1).all() and out.n_accepted[1] == 0
    target = TARGET.clone()
    target[2, 0, 3] = INF
    with pytest.raises(ValueError, match="verify: row 2 has status POS_INF: an allowed value is"):
        fusedraw.verify(IDS, DRAFT, target, seed=1)


def test_a_draft_from_another_law_is_named():
    """What the draft's own filters exclude cannot have been drawn by them."""
    ids = DRAFT.argmin(dim=-1)
    with pytest.raises(ValueError, match="a draft is no token that the draft's law can give"):
        fusedraw.verify(ids, DRAFT, TARGET, seed=1, draft_top_k=2)


def test_tensor_parameters_out_of_range_are_of_their_row():
    for name in ("temperature", "top_p", "draft_min_p", "draft_temperature"):
        value = torch.tensor([1.0, NAN, 1.0])
        out = fusedraw.verify(DRAFT.argmax(-1), DRAFT, TARGET, seed=1, **{name: value}, check="status")
        assert out.status.tolist() == [Status.OK, Status.BAD_PARAM, Status.OK]


# What torch asks


@pytest.mark.parametrize("dtype", [torch.float32, BF16, F16])
def test_opcheck(dtype):
    target, keys = TARGET.to(dtype), make_keys(B)
    draft = target[:, :G].contiguous()  # accepted throughout: opcheck takes no NaN for equal
    params = make_params(0.8, 0.9)
    mask = torch.ones(B, G + 1, V, dtype=torch.bool)
    n_draft = torch.tensor([0, 1, 2])
    for mode, logp in ((0, True), (make_mode("joint", "all", "min_p_first"), False)):
        ids = make_case(draft, target, params, params, keys).draft_ids
        arguments = (ids, draft, target, params.repeat(B, 1), params, keys)
        torch.library.opcheck(verify_op, (*arguments, None, None, None, mode, logp))
        torch.library.opcheck(verify_op, (*arguments, mask[:, :G], mask, n_draft, mode, False))


def test_operator_refuses():
    keys, params = make_keys(B), make_params()
    arguments = [IDS, DRAFT, TARGET, params, params, keys, None, None, None, 0, False]
    for place, value, message in (
        (0, IDS.int(), "draft_ids must be int64"),
        (1, DRAFT[:, :1], "draft_logits must be"),
        (2, TARGET.double(), "target_logits must be float32"),
        (3, params[:, :4], "params must be float64"),
        (5, keys[:2], "keys must be"),
        (6, torch.ones(V), "draft_mask must be bool"),
        (7, torch.ones(V + 1).bool(), "mask must be"),
        (8, torch.ones(B), "n_draft must be int64"),
        (9, 3, "mode bits out of range"),
        (9, 64, "mode bits out of range"),
    ):
        with pytest.raises(RuntimeError, match="verify: " + message):
            verify_op(*[value if i == place else a for i, a in enumerate(arguments)])


def test_no_gradient():
    out = fusedraw.verify(
        IDS, DRAFT.clone().requires_grad_(), TARGET.clone().requires_grad_(), seed=1, returns="logp"
    )
    assert not out.logp.requires_grad


def test_compiled():
    def step(ids, draft, target, top_p, at):
        out = fusedraw.verify(
            ids, draft, target, top_p=top_p, draft_top_p=1.0, seed=4, step=at, returns="logp", check="status"
        )
        return out.ids, out.n_accepted, out.logp

    compiled = torch.compile(step, backend="aot_eager", fullgraph=True, dynamic=True)
    for rows in (4, 7):
        target = logits(rows, G + 1, V, seed=rows)
        draft = target[:, :G] + 0.3
        arguments = (draft.argmax(-1), draft, target, torch.full((rows,), 0.8), torch.arange(rows))
        assert_equal(compiled(*arguments), step(*arguments))


def test_meta_and_fakes():
    out = fusedraw.verify(*(t.to("meta") for t in (IDS, DRAFT, TARGET)), seed=1, returns="logp")
    assert out.ids.shape == (B, G + 1) and out.ids.dtype == torch.int64 and out.ids.is_meta
    assert out.n_accepted.shape == out.status.shape == (B,) and out.logp.shape == (B, G + 1)
    with pytest.raises(RuntimeError, match="must be on meta, got one on cpu"):
        verify_op(
            IDS,
            DRAFT,
            TARGET.to("meta"),
            make_params(),
            make_params(),
            make_keys(B),
            None,
            None,
            None,
            0,
            True,
        )
