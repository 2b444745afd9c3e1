# SPDX-License-Identifier: Apache-2.0
"""fusedraw.flashinfer: the examples of flashinfer's documentation; its rules of filters, written out here."""

import math

import pytest
import torch
from flashinfer_cases import LOGITS, PER_ROW, PROBS, B, V, each_draw, rows_of, values
from fusedraw.flashinfer import sampling
from scipy.stats import chisquare


def kept(p, top_k=None, top_p=None, min_p=None, joint=False):
    """What flashinfer's rules leave of one row of probabilities, written out: {id}."""
    p = [float(x) for x in p]
    total = sum(p)
    above = [sum(y for y in p if y > x) for x in p]
    ids = set(range(len(p)))
    if min_p is not None:
        ids = {i for i in ids if p[i] >= max(p) * min_p}
    if top_k is not None:
        ids = {i for i in ids if sum(y > p[i] for y in p) < top_k}
    if top_p is not None:
        mass = total if joint else sum(p[i] for i in ids)
        ids = {i for i in ids if above[i] < top_p * mass}
    return ids


# The examples of its documentation: renormalisation of one table of probabilities

EXAMPLE = torch.tensor(
    [
        [0.2499, 0.2592, 0.1085, 0.2718, 0.1106],
        [0.2205, 0.0942, 0.2912, 0.3452, 0.0489],
        [0.2522, 0.1602, 0.2346, 0.1532, 0.2000],
        [0.1543, 0.3182, 0.2062, 0.0958, 0.2255],
    ]
)


DOCUMENTED = {
    "top_p": (
        lambda: sampling.top_p_renorm_probs(EXAMPLE, 0.3),
        [
            [0.0000, 0.4882, 0.0000, 0.5118, 0.0000],
            [0.0000, 0.0000, 0.0000, 1.0000, 0.0000],
            [0.5181, 0.0000, 0.4819, 0.0000, 0.0000],
            [0.0000, 1.0000, 0.0000, 0.0000, 0.0000],
        ],
    ),
    "top_k": (
        lambda: sampling.top_k_renorm_probs(EXAMPLE, 3),
        [
            [0.3201, 0.3319, 0.0000, 0.3480, 0.0000],
            [0.2573, 0.0000, 0.3398, 0.4028, 0.0000],
            [0.3672, 0.0000, 0.3416, 0.0000, 0.2912],
            [0.0000, 0.4243, 0.2750, 0.0000, 0.3007],
        ],
    ),
}


@pytest.mark.parametrize("rule", DOCUMENTED)
def test_documented_renorm(rule):
    call, expected = DOCUMENTED[rule]
    assert torch.allclose(call(), torch.tensor(expected), atol=1.5e-4)


def test_documented_top_k_mask():
    x = torch.tensor([[1.9269, 1.4873, 0.9007, -2.1055, -0.7581], [1.0783, 0.8008, 1.6806, 0.3559, -0.6866]])
    expected = [
        [1.9269, 1.4873, 0.9007, -math.inf, -math.inf],
        [1.0783, 0.8008, 1.6806, -math.inf, -math.inf],
    ]
    assert torch.equal(sampling.top_k_mask_logits(x, 3), torch.tensor(expected))


# Rules


@pytest.mark.parametrize("row", range(B))
def test_filters_keep_what_the_rules_say(row):
    """Rows with ties included: all of them stay."""
    p = PROBS[row].double()
    k, threshold = PER_ROW["top_k"][row].item(), PER_ROW["top_p"][row].item()
    threshold = torch.tensor(threshold).item()  # the float32 of it

    def support(x):
        return set(x.nonzero().flatten().tolist())

    assert support(sampling.top_k_renorm_probs(PROBS, PER_ROW["top_k"])[row]) == kept(p, top_k=k)
    assert support(sampling.top_k_mask_logits(LOGITS, PER_ROW["top_k"])[row].exp()) == kept(p, top_k=k)
    assert support(sampling.top_p_renorm_probs(PROBS, PER_ROW["top_p"])[row]) == kept(p, top_p=threshold)


def test_renorm_of_other_types():
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        p = PROBS.to(dtype)
        assert sampling.top_k_renorm_probs(p, 5).dtype == dtype
        assert sampling.top_p_renorm_probs(p, 0.5).dtype == torch.float32
        assert torch.equal(
            sampling.top_k_renorm_probs(p, 5), sampling.top_k_renorm_probs(p.float(), 5).to(dtype)
        )
    for dtype in (torch.float16, torch.bfloat16):
        assert sampling.top_k_mask_logits(LOGITS.to(dtype), 5).dtype == dtype
    with pytest.raises(TypeError, match="top_k_mask_logits: logits must be"):
        sampling.top_k_mask_logits(LOGITS.double(), 5)


@each_draw
@pytest.mark.parametrize("order", ["top_k_first", "joint"])
def test_draws_follow_the_rules(function, rules, logits, order):
    if order == "joint" and len(rules) < 2:
        return  # no order to choose
    draws = 3000
    order_given = {"filter_apply_order": order} if len(rules) == 2 else {}
    for row in range(B):
        given = values(rules, row)
        ids = function(
            rows_of(logits)[row : row + 1],
            *given,
            torch.zeros(draws, dtype=torch.int64),
            **order_given,
            seed=row,
            offset=5,
        )
        p = PROBS[row].double()
        exact = {name: torch.tensor(value).item() for name, value in zip(rules, given, strict=True)}
        expected_ids = sorted(kept(p, **exact, joint=order == "joint"))
        counts = torch.bincount(ids, minlength=V)
        assert set(counts.nonzero().flatten().tolist()) <= set(expected_ids)
        if len(expected_ids) > 1:
            law = p[expected_ids] / p[expected_ids].sum() * draws
            seen = counts[expected_ids].double()
            few = law < 5  # together, as the test wants counts that are not small
            law, seen = (torch.cat((x[~few], x[few].sum(0, keepdim=True))) for x in (law, seen))
            law, seen = (law[:-1], seen[:-1]) if law[-1] == 0 else (law, seen)
            assert chisquare(seen.numpy(), (law * seen.sum() / law.sum()).numpy()).pvalue > 1e-5


def test_order_matters():
    p = torch.tensor([[0.4, 0.3, 0.2, 0.1]])
    one = torch.zeros(500, dtype=torch.int32)
    first = sampling.top_k_top_p_sampling_from_probs(p, 2, 0.5, one, seed=1, offset=0)
    joint = sampling.top_k_top_p_sampling_from_probs(p, 2, 0.5, one, "joint", seed=1, offset=0)
    assert set(first.tolist()) == {0}  # 0.4 of 0.7 is enough
    assert set(joint.tolist()) == {0, 1}  # 0.4 of 1 is not
    for function, x in (
        (sampling.top_k_top_p_sampling_from_probs, PROBS),
        (sampling.top_k_top_p_sampling_from_logits, LOGITS),
    ):
        with pytest.raises(ValueError, match="filter_apply_order must be"):
            function(x, 2, 0.5, filter_apply_order="top_p_first")
