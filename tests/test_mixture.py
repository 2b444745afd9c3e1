# SPDX-License-Identifier: Apache-2.0
"""mixture: R1 = R2 = every engine to the bit on generated rows of several models; the law against formulas in
float64 and against counted draws; what identical, disjoint and bad members give."""

import functools
import math

import fusedraw
import hypothesis.strategies as st
import pytest
import torch
from engines import (
    BF16,
    ENGINES,
    F16,
    F32,
    FLT_MAX,
    INF,
    NAN,
    assert_same,
    engine,
    make_keys,
    make_params,
    on_every_engine,
    same_bits,
)
from fusedraw import reference
from fusedraw import reference_mixture as rm
from fusedraw._threads import threads
from hypothesis import given
from mixture_cases import (
    HOW,
    OUTPUTS,
    make_weights,
    mixture,
    mixture_r1,
    offered,
    several,
)
from row_kinds import EDGES, make_rows
from strategies import examples, modes, param_rows, seeds

ALPHA = 1e-4  # of each statistical test; keys are fixed


# Every engine


@pytest.mark.parametrize("how", HOW)
@examples(70)
@given(data=st.data())
def test_every_engine_equals_r1(how, data):
    members, weights, rows = data.draw(several(how))
    params, mode = data.draw(param_rows(len(rows.x), rows.x.shape[1])), data.draw(modes)
    arguments = (members, weights, how, params, rows.keys, rows.mask, mode)
    on_every_engine(mixture, *arguments, expected=mixture_r1(*arguments))


@pytest.mark.parametrize("how", HOW)
@examples(12)
@given(data=st.data())
def test_engines_agree_on_longer_rows(how, data):
    members, weights, rows = data.draw(several(how, st.integers(1000, 30_000)))
    params, mode = data.draw(param_rows(len(rows.x), rows.x.shape[1])), data.draw(modes)
    on_every_engine(mixture, members, weights, how, params, rows.keys, rows.mask, mode)


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("size", EDGES)
def test_lane_and_block_edges(how, size):
    members = [make_rows("normal", 2, size, i) for i in range(2)]
    weights = make_weights([0.3, 0.7] if how in rm.MEANS else [1.5, 0.05])
    on_every_engine(mixture, members, weights, how, make_params(0.9, 0.95))


@pytest.mark.parametrize("how", HOW)
def test_any_subset_of_outputs_is_the_same(how):
    members = [make_rows("normal", 3, 700, i) for i in range(2)]
    weights = make_weights([0.3, 0.7] if how in rm.MEANS else [1.5, 0.05])
    for name in ENGINES:
        with engine(name):
            everything = mixture(members, weights, how, make_params(0.8, 0.9))
            for only in offered(how):
                for part, value in mixture(
                    members, weights, how, make_params(0.8, 0.9), names=[only]
                ).items():
                    assert same_bits(value, everything[part]), (name, only, part)


@pytest.mark.parametrize("how", HOW)
def test_threads_batches_and_strides_change_nothing(how):
    wide = [torch.randn(4, 2 * 70_001, generator=torch.Generator().manual_seed(i)) for i in range(2)]
    views = [x[:, 1:70_001] for x in wide]
    weights = make_weights([0.3, 0.7] if how in rm.MEANS else [1.5, 0.05])
    keys = make_keys(4)
    expected = mixture([x.contiguous() for x in views], weights, how, make_params(0.8, 0.9), keys)
    for n in (1, 2, 3):
        with threads(n):
            assert_same(mixture(views, weights, how, make_params(0.8, 0.9), keys), expected)
            for row in range(4):
                alone = [x[row : row + 1] for x in views]
                one = mixture(alone, weights, how, make_params(0.8, 0.9), keys[row : row + 1])
                for name in ("ids", "logp", "entropy", "member_logp", "member_entropy"):
                    assert same_bits(one[name], expected[name][..., row : row + 1])
    columns = [x.T.contiguous().T for x in views]
    assert_same(mixture(columns, weights, how, make_params(0.8, 0.9), keys), expected)


def test_any_number_of_members():
    for n in (1, 2, 5, 31, 32):
        members = [make_rows("peaked", 2, 333, i) for i in range(n)]
        for how in rm.MEANS:
            on_every_engine(mixture, members, make_weights(range(1, n + 1)), how)


def test_log2p():
    for k in range(-44, 1):
        assert rm.log2p(2.0**k) == k
    g = torch.Generator().manual_seed(1)
    for t in (-44 * torch.rand(4000, generator=g, dtype=torch.float64)).tolist():
        y = reference.fl32(2.0**t)
        # Three units in the last place of the larger of the result and 1.
        assert abs(rm.log2p(y) - math.log2(y)) <= 3 * 2.0**-24 * max(1, 2 ** math.ceil(math.log2(-t + 1e-9)))
        assert rm.log2p(y) <= 0


# The law, against formulas in float64


def exact_law(members, weights, how, temperature=1.0):
    """The combined law of one row, float64 [V]."""
    x = torch.stack([m.double() / temperature for m in members])
    logp = x.log_softmax(-1)
    if how == "arithmetic":
        a = torch.tensor(weights, dtype=torch.float64)
        return (a / a.sum()) @ logp.exp()
    if how == "geometric":
        a = torch.tensor(weights, dtype=torch.float64)
        return ((a / a.sum()) @ logp).softmax(-1)
    strength, plausibility = weights
    if how == "cfg":
        return (logp[1] + strength * (logp[0] - logp[1])).softmax(-1)
    score = (1 + strength) * logp[0] - strength * logp[1]
    if how == "contrastive":
        p = members[0].double().softmax(-1)
        score = score.masked_fill(p < plausibility * p.max(), -INF)
    return score.softmax(-1)


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_probabilities_and_entropies_are_those_of_the_formula(how, temperature):
    g = torch.Generator().manual_seed(HOW.index(how))
    members = [torch.randn(64, 50, generator=g) * 2 for _ in range(2)]
    weights = [0.2, 0.8] if how in rm.MEANS else [1.7, 0.05]
    out = mixture(members, make_weights(weights), how, make_params(temperature))
    for row in range(64):
        lines = [m[row] for m in members]
        p = exact_law(lines, weights, how, temperature)
        assert out["logp"][row].item() == pytest.approx(p[out["ids"][row]].log().item(), abs=6e-6)
        assert out["entropy"][row].item() == pytest.approx(torch.special.entr(p).sum().item(), abs=2e-6)
        for m, line in enumerate(lines):
            q = (line.double() / temperature).log_softmax(-1)
            assert out["member_logp"][m, row].item() == pytest.approx(q[out["ids"][row]].item(), abs=6e-6)
            entropy = torch.special.entr(q.exp()).sum().item()
            assert out["member_entropy"][m, row].item() == pytest.approx(entropy, abs=2e-6)


@pytest.mark.parametrize("how", HOW)
def test_frequencies_are_those_of_the_formula(how):
    g = torch.Generator().manual_seed(10 + HOW.index(how))
    n, size = 40_000, 12
    members = [torch.randn(size, generator=g) * 1.5 for _ in range(2)]
    weights = [0.3, 0.7] if how in rm.MEANS else [1.4, 0.1]
    p = exact_law(members, weights, how, 0.8)
    batch = [m.expand(n, size) for m in members]
    ids = mixture(batch, make_weights(weights), how, make_params(0.8), make_keys(n, 5))["ids"]
    counts = ids.bincount(minlength=size).double()
    assert counts[p == 0].sum() == 0
    p, counts = p[p > 0], counts[p > 0]
    g_statistic = 2 * torch.xlogy(counts, counts / (n * p)).sum()
    degrees = torch.tensor((len(p) - 1) / 2, dtype=torch.float64)
    assert torch.special.gammaincc(degrees, g_statistic / 2) > ALPHA


def test_the_draw_is_that_of_the_combined_row():
    """By sample_probs or sample, filters and exploring included."""
    params = {"top_p": 0.9, "min_p": 0.02, "mix_eps": 0.3}
    for how, probs in (("arithmetic", True), ("geometric", False)):
        members = [make_rows("normal", 6, 300, i) for i in range(3)]
        keys = make_keys(6)
        out = mixture(members, make_weights([1, 2, 3]), how, make_params(**params), keys)
        for row in range(6):
            lines = [m[row].tolist() for m in members]
            combined = torch.tensor(rm.mixture_row(lines, [1, 2, 3], how).combined)
            draw = fusedraw.sample_probs if probs else fusedraw.sample
            again = draw(combined[None], keys=keys[row : row + 1], returns=("logp", "n_kept"), **params)
            assert again.ids == out["ids"][row] and again.n_kept == out["n_kept"][row]
            assert same_bits(again.logp[0], out["logp"][row])


# Members that are the same, or have nothing in common


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("dtype", [F32, BF16, F16])
@examples(25)
@given(data=st.data())
def test_identical_members_draw_as_one(how, dtype, data):
    """Same tokens and kept sets, same bits of logp and entropy: for rows whose equal weights are equal x."""
    kind = data.draw(st.sampled_from(["normal", "peaked", "tied", "holes", "sunken", "integers"]))
    x = make_rows(kind, 3, data.draw(st.integers(1, 600)), data.draw(seeds)).to(BF16).to(dtype)
    settings = {
        "temperature": data.draw(st.sampled_from([1.0, 0.8, 0.0, 3.0])),
        **data.draw(st.sampled_from([{}, {"top_k": 5}, {"top_p": 0.9}, {"min_p": 0.1}, {"mix_eps": 0.5}])),
        "keys": make_keys(3, data.draw(seeds)),
    }
    law = {"members": [x, x]}
    if how in rm.MEANS:
        n = data.draw(st.integers(1, 4))
        weights = data.draw(st.lists(st.floats(0.01, 5), min_size=n, max_size=n))
        law = {"members": [x] * n, "weights": weights}
    else:
        law["strength"] = data.draw(st.floats(-3, 3))
    if how == "contrastive":
        law["plausibility"] = 0.0
    returns = ("status", "logp", "n_kept", "kept_mass", "explored", "kept")
    got = fusedraw.mixture(mode=how, returns=(*returns, "member_logp", "member_entropy"), **law, **settings)
    one = fusedraw.sample(x, returns=(*returns, "logp_full", "entropy"), **settings)
    for name in ("ids", "status", "logp", "n_kept", "kept_mass", "explored", "kept_ids", "kept_offsets"):
        assert same_bits(getattr(got, name), getattr(one, name)), name
    for m in range(len(law["members"])):
        assert same_bits(got.member_logp[m], one.logp_full)
        assert same_bits(got.member_entropy[m], one.entropy)


def test_identical_float32_members_draw_as_one():
    """Without a filter nothing depends on the order of the row."""
    x = torch.randn(200, 5000, generator=torch.Generator().manual_seed(3)) * 3
    keys = make_keys(200)
    got = fusedraw.mixture([x, x, x], [0.2, 0.5, 0.3], keys=keys, returns=("logp", "mutual_information"))
    one = fusedraw.sample(x, keys=keys, returns=("logp",))
    assert torch.equal(got.ids, one.ids) and same_bits(got.logp, one.logp)
    assert got.mutual_information.max() <= 2e-6


def test_mutual_information_has_known_values():
    def of(rows, weights):
        members = [torch.tensor([row], dtype=F32).log() for row in rows]
        out = fusedraw.mixture(
            members, weights, seed=1, returns=("mutual_information", "entropy", "mean_entropy")
        )
        assert out.mutual_information.item() == pytest.approx(
            out.entropy.item() - out.mean_entropy.item(), abs=1e-6
        )
        return out.mutual_information.item()

    # Which member it was is all that there is to know: ln 2, ln 4, and the entropy of the weights.
    assert of([[1, 0], [0, 1]], None) == pytest.approx(math.log(2), abs=1e-7)
    assert of(torch.eye(4).tolist(), None) == pytest.approx(math.log(4), abs=1e-7)
    binary = -0.1 * math.log(0.1) - 0.9 * math.log(0.9)
    assert of([[0.5, 0.5, 0, 0], [0, 0, 0.2, 0.8]], [1, 9]) == pytest.approx(binary, abs=1e-6)
    # One of two members decides, the other tosses a coin: ln 2 - (3/4 ln 4/3 ...) by hand.
    mean = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert of([[1, 0], [0.5, 0.5]], None) == pytest.approx(mean - 0.5 * math.log(2), abs=1e-6)
    assert of([[0.3, 0.7]] * 3, [1, 2, 3]) == pytest.approx(0, abs=1e-6)
    assert of([[0.3, 0.7], [1, 0]], [1, 0]) == pytest.approx(0, abs=1e-6)


def test_mutual_information_lies_between_zero_and_the_entropy_of_the_weights():
    g = torch.Generator().manual_seed(7)
    for scale in (0.01, 1.0, 30.0):
        members = torch.randn(3, 100, 400, generator=g) * scale
        out = fusedraw.mixture(members, [1, 1, 2], seed=3, returns=("mutual_information",))
        assert out.mutual_information.min() >= 0
        assert out.mutual_information.max() <= 1.5 * math.log(2) + 1e-6


def test_greedy_members_vote():
    a, b = torch.tensor([[0.0, 2.0, 1.0]]), torch.tensor([[0.0, 1.0, 5.0]])
    n = 4000
    batch = [a.expand(n, 3), b.expand(n, 3)]
    out = fusedraw.mixture(batch, [1, 3], temperature=0, seed=2, returns=("logp", "member_logp"))
    assert set(out.ids.tolist()) == {1, 2}
    assert (out.ids == 2).float().mean().item() == pytest.approx(0.75, abs=4 * math.sqrt(0.75 * 0.25 / n))
    assert torch.equal(out.logp.exp().round(decimals=5), torch.where(out.ids == 2, 0.75, 0.25))
    assert torch.equal(out.member_logp[0], torch.where(out.ids == 1, 0.0, -INF))
    geometric = fusedraw.mixture([a, b], mode="geometric", temperature=0, seed=2)
    assert geometric.item() == 2  # the first of the combination


def test_a_strength_that_says_nothing():
    x, y = make_rows("normal", 20, 500, 1), make_rows("normal", 20, 500, 2)
    keys = make_keys(20)
    one = fusedraw.sample(x, keys=keys)
    for mode, strength in (("cfg", 1), ("context_aware", 0), ("contrastive", 0)):
        extra = {"plausibility": 0} if mode == "contrastive" else {}
        got = fusedraw.mixture([x, y], mode=mode, strength=strength, keys=keys, **extra)
        assert torch.equal(got, one), mode
        # The second member then excludes nothing.
        nowhere = torch.full_like(y, -INF)
        nowhere[:, 0] = 0
        got = fusedraw.mixture([x, nowhere], mode=mode, strength=strength, keys=keys, **extra)
        assert torch.equal(got, one), mode


def test_contrastive_draws_what_the_expert_finds_plausible():
    expert = torch.tensor([1.0, 0.5, 0.09, 0.11, 0.0]).log().expand(3000, 5)
    amateur = torch.tensor([1.0, 0.5, 1e-3, 1e-3, 1e-3]).log().expand(3000, 5)
    draw = functools.partial(fusedraw.mixture, [expert, amateur], mode="contrastive", strength=0.2, seed=1)
    assert set(draw().tolist()) == {0, 1, 3}  # 0.11 is above a tenth of the best, 0.09 is not
    assert set(draw(plausibility=0.0).tolist()) == {0, 1, 2, 3}
    assert set(draw(plausibility=1.0).tolist()) == {0}
    each = torch.tensor([0.0, 1.0, 0.6]).repeat_interleave(1000)
    ids = draw(plausibility=each)
    assert [set(part.tolist()) for part in ids.split(1000)] == [{0, 1, 2, 3}, {0}, {0}]


def test_excluded_tokens():
    x, y = torch.zeros(500, 4), torch.zeros(500, 4)
    x[:, 0], y[:, 1] = -INF, -INF
    assert set(fusedraw.mixture([x, y], seed=1).tolist()) == {0, 1, 2, 3}
    for mode, more in (("geometric", {}), ("cfg", {"strength": 2}), ("context_aware", {"strength": 1})):
        assert set(fusedraw.mixture([x, y], mode=mode, seed=1, **more).tolist()) == {2, 3}, mode
    assert set(fusedraw.mixture([x, y], [1, 0], seed=1).tolist()) == {1, 2, 3}
    assert set(fusedraw.mixture([x, y], [0, 1], "geometric", seed=1).tolist()) == {0, 2, 3}
    out = fusedraw.mixture([x, y], seed=1, returns=("member_logp",))
    assert torch.equal(out.member_logp[0] == -INF, out.ids == 0)


# Bad rows


def statuses(members, weights=None, mode="arithmetic", **more):
    out = fusedraw.mixture(
        members, weights, mode, seed=1, check="status", returns=tuple(offered(mode)), **more
    )
    bad = out.status != 0
    assert (out.ids[bad] == -1).all() and (out.n_kept[bad] == 0).all()
    for name in OUTPUTS:
        value = getattr(out, name, None)
        if value is not None and value.dtype == F32:
            assert torch.equal(value.isnan().reshape(-1, len(bad)).all(0), bad), name
    return out.status.tolist()


def test_a_bad_member_makes_its_row_bad():
    x, y = torch.zeros(5, 300), torch.zeros(5, 300)
    x[0, 7], y[1, 299], x[2] = NAN, INF, -INF
    x[3, 0], y[3, 0] = INF, NAN
    for mode, law in (("arithmetic", {}), ("geometric", {}), ("cfg", {"strength": 1.0})):
        assert statuses([x, y], mode=mode, **law) == [2, 3, 4, 3, 0]
        assert statuses([x, y], mode=mode, temperature=torch.tensor([NAN, 1, 1, -1, 1]), **law) == [
            *(1, 3, 4, 1, 0),
        ]
    assert statuses([x, y], [0, 1]) == [2, 3, 4, 3, 0]
    mask = torch.ones(300, dtype=torch.bool)
    mask[[0, 7, 299]] = False
    assert statuses([x, y], mask=mask) == [0, 0, 4, 0, 0]


def test_bad_weights_of_a_tensor():
    x = torch.zeros(5, 10)
    weights = torch.tensor([[1, 1], [NAN, 1], [-1, 2], [0, 0], [INF, 1]])
    for mode in rm.MEANS:
        assert statuses([x, x], weights, mode) == [0, 1, 1, 1, 1]
    for mode in HOW[2:]:
        assert statuses([x] * 2, mode=mode, strength=weights[:, 0]) == [0, 1, 0, 0, 1]
    p = torch.tensor([0.5, NAN, -0.1, 1.1, 0.0])
    assert statuses([x] * 2, mode="contrastive", strength=1.0, plausibility=p) == [0, 1, 1, 1, 0]


def test_combinations_that_leave_the_range():
    nothing, low, high = torch.full((1, 3), -INF), torch.full((1, 3), -FLT_MAX), torch.full((1, 3), FLT_MAX)
    one, other = nothing.clone(), nothing.clone()
    one[0, 0], other[0, 1] = 0, 0
    assert statuses([one, other], mode="geometric") == [4]  # nothing in common
    assert statuses([one, other]) == [0]
    assert statuses([high, low], mode="context_aware", strength=1.0) == [3]
    assert statuses([low, high], mode="context_aware", strength=1.0) == [4]
    for name in ENGINES:
        with engine(name):
            assert statuses([high, low], mode="context_aware", strength=1.0) == [3]
            assert statuses([low, high], mode="context_aware", strength=1.0) == [4]
            assert statuses([low, high, low], [1, 1, 1], mode="geometric") in ([2], [3])


def test_a_bad_row_raises_on_the_cpu():
    x = torch.zeros(3, 5)
    x[1, 2] = NAN
    with pytest.raises(ValueError, match=r"^mixture: row 1 has status NAN"):
        fusedraw.mixture([torch.zeros(3, 5), x], seed=1)
