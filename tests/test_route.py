# SPDX-License-Identifier: Apache-2.0
"""route: R1 = R2 = every instruction set, to the bit; its law against enumerated ones; gradients against
torch's; what torch asks of an operator; bad input. The CUDA kernel: test_cuda_route.py."""

import itertools
import math

import fusedraw
import pytest
import torch
from engines import BF16, F16, F32, INF, NAN, assert_same, forced, make_keys, on_every_engine
from fusedraw import Status
from fusedraw import reference as r1
from fusedraw._route_op import route as route_op
from fusedraw._threads import threads
from laws import ALPHA, g_test
from route_cases import (
    GUMBEL,
    JITTER,
    NONE,
    RENORMALISE,
    SIGMOID,
    Case,
    make_route_params,
    random_case,
    route,
    route_r1,
)
from scipy import stats

TOKENS = 60_000  # of a statistical test


def logits(tokens=6, experts=20, seed=3, dtype=F32):
    return torch.randn(tokens, experts, generator=torch.Generator().manual_seed(seed)).to(dtype)


# The engines


@pytest.mark.parametrize("part", range(8))
def test_engines_equal_the_law(part):
    for seed in range(25 * part, 25 * (part + 1)):
        case = random_case(seed)
        try:
            on_every_engine(route, case, expected=route_r1(case))
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from None


@pytest.mark.parametrize("experts", [2304, 4096])
@pytest.mark.parametrize("mode", [NONE, GUMBEL, JITTER])
def test_many_experts(experts, mode):
    x = torch.cat([logits(2, experts), logits(2, experts).mul(3).round()])
    for k in (1, 8, 33, 600, experts):
        case = Case(x, k, mode | RENORMALISE, make_route_params(mix_eps=0.3), make_keys(4))
        on_every_engine(route, case)
    ids = route(case)["ids"]  # k = E: every expert once
    assert torch.equal(ids.sort().values, torch.arange(experts).expand(4, -1))


@pytest.mark.parametrize("experts, best, k", [(70, 40, 50), (70, 40, 9), (20, 12, 5), (20, 12, 15)])
@pytest.mark.parametrize("mode", [NONE, NONE | SIGMOID, JITTER])
def test_ties_go_to_the_lowest_index(mode, experts, best, k):
    """Among many that contend, which are sorted, and among few, whose places are counted."""
    x = torch.zeros(1, experts)
    x[0, best:] = 1.0
    case = Case(x, k, mode, make_route_params(jitter=0.0), make_keys(1))
    expected = [*range(best, experts), *range(best)][:k]
    assert on_every_engine(route, case)["ids"].tolist() == [expected]


@pytest.mark.parametrize("word", [0, 1, 2**32 - 1, 2**32, 2**63, 2**64 - 2**31, 2**64 - 1])
@pytest.mark.parametrize("mode", [GUMBEL, JITTER])
def test_noise_at_its_ends(word, mode):
    """The ends of the noise, once for one expert and once for all."""
    x = logits(1, 40)
    for ids in ([7], range(40)):
        values = {(r1.ROUTE, i): word for i in ids}
        case = Case(x, 5, mode | RENORMALISE, make_route_params(2.0, 1.0), make_keys(1))
        with forced(values):
            on_every_engine(route, case, expected=route_r1(case, values))


def test_a_token_depends_on_nothing_else():
    x, keys = logits(4000, 65), make_keys(4000)
    for mode in (NONE, GUMBEL, JITTER):
        case = Case(x, 6, mode | RENORMALISE, make_route_params(0.7, 0.3, 0.2), keys)
        with threads(1):
            whole = route(case)
        with threads(2):
            assert_same(route(case), whole)
        order = torch.randperm(4000, generator=torch.Generator().manual_seed(1))
        moved = route(Case(x[order], 6, case.mode, case.params, keys[order]))
        assert torch.equal(moved["ids"], whole["ids"][order])
        assert torch.equal(moved["weights"], whole["weights"][order])
        assert torch.equal(moved["counts"], whole["counts"])


def test_experts_at_minus_infinity_change_nothing():
    x, keys = logits(30, 20), make_keys(30)
    padded = torch.cat([x, torch.full((30, 300), -INF)], dim=1)
    for mode in (NONE, GUMBEL, JITTER):
        a, b = (route(Case(y, 4, mode, make_route_params(mix_eps=0.5), keys)) for y in (x, padded))
        assert torch.equal(a["ids"], b["ids"]) and torch.equal(a["weights"], b["weights"])


# The law


def plackett_luce(w, k, mix_eps=0.0):
    """Probability of every ordered choice of k."""
    law = {}
    for choice in itertools.permutations(range(len(w)), k):
        p, left = 1.0, sum(w)
        for i in choice:
            p, left = p * w[i] / left, left - w[i]
        law[choice] = (1 - mix_eps) * p + mix_eps / math.perm(len(w), k)
    assert abs(sum(law.values()) - 1) < 1e-12
    return law


def check_choices(ids, law):
    """A G-test of the ordered choices."""
    places = {choice: n for n, choice in enumerate(law)}
    n = len(next(iter(law)))
    code = {sum(c * 64**j for j, c in enumerate(choice)): place for choice, place in places.items()}
    seen = torch.zeros(len(law), dtype=torch.float64)
    values, counts = (ids * 64 ** torch.arange(n)).sum(1).unique(return_counts=True)
    for value, count in zip(values.tolist(), counts.tolist(), strict=True):
        seen[code[value]] += count
    value, df = g_test(seen, torch.tensor(list(law.values()), dtype=torch.float64) * len(ids))
    assert df > 0 and value > ALPHA, value


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("temperature, mix_eps", [(1.0, 0.0), (0.5, 0.0), (1.0, 0.3), (1.0, 1.0), (INF, 0.0)])
def test_gumbel_is_plackett_luce(k, temperature, mix_eps):
    x = torch.tensor([0.3, -1.0, 1.2, 0.0, -0.2])
    keys = fusedraw.derive_keys(k, range(TOKENS))
    out = fusedraw.route(
        x.expand(TOKENS, -1), k, noise="gumbel", temperature=temperature, mix_eps=mix_eps, keys=keys
    )
    check_choices(out.ids, plackett_luce([math.exp(v / temperature) for v in x.tolist()], k, mix_eps))


def test_choices_after_an_overwhelming_one_keep_their_law():
    """An expert hundreds of nats ahead takes the first place and leaves the others theirs."""
    x = torch.tensor([0.0, 300.0, 1.0, -0.5])
    keys = fusedraw.derive_keys(8, range(TOKENS))
    ids = fusedraw.route(x.expand(TOKENS, -1), 3, noise="gumbel", keys=keys).ids
    assert (ids[:, 0] == 1).all()
    rest = torch.tensor([0, -1, 1, 2])[ids[:, 1:]]
    check_choices(rest, plackett_luce([1.0, math.e, math.exp(-0.5)], 2))


@pytest.mark.parametrize("noise", ["none", "gumbel", "jitter"])
def test_all_mixture_is_uniform_balancing(noise):
    x = torch.tensor([9.0, 0.0, -20.0, 3.0, 3.0, 1.0])
    out = fusedraw.route(x.expand(TOKENS, -1), 2, noise=noise, mix_eps=1.0, seed=5)
    assert out.explored.all()
    check_choices(out.ids, plackett_luce([1.0] * 6, 2))
    assert torch.equal(out.counts, torch.bincount(out.ids.flatten(), minlength=6))
    # Chosen or not, 2 of 6: the counts are sums of TOKENS draws without replacement.
    deviation = (out.counts - TOKENS / 3) / math.sqrt(TOKENS * 2 / 9)
    assert stats.chi2.sf((deviation**2).sum().item() * 5 / 6, 5) > ALPHA


def test_fired_sets_are_nested():
    x, keys = logits(3000, 12), make_keys(3000)
    plain = fusedraw.route(x, 3, keys=keys)
    before = torch.zeros(3000, dtype=torch.bool)
    for mix_eps in (0.01, 0.2, 0.5, 0.9, 1.0):
        out = fusedraw.route(x, 3, keys=keys, mix_eps=mix_eps)
        assert (out.explored >= before).all()
        assert torch.equal(out.ids[~out.explored], plain.ids[~out.explored])
        assert stats.binomtest(int(out.explored.sum()), 3000, mix_eps).pvalue > ALPHA
        before = out.explored
    assert before.all()


def test_mixture_per_token_and_zero():
    x, keys = logits(400, 12), make_keys(400)
    eps = torch.where(torch.arange(400) % 2 == 0, 0.0, 1.0)
    mixed = fusedraw.route(x, 3, keys=keys, mix_eps=eps)
    assert torch.equal(mixed.explored, eps == 1)
    for got, expected in zip(
        fusedraw.route(x, 3, keys=keys, mix_eps=torch.zeros(1)), fusedraw.route(x, 3), strict=True
    ):
        assert torch.equal(got, expected)


def test_jitter_law():
    """P(x1 u1 > x0 u0) for independent uniform factors, by a fine grid."""
    a, x = 0.1, (1.0, 0.95)
    u = 1 - a + 2 * a * (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000
    wins = ((u * x[1] / x[0] - (1 - a)) / (2 * a)).clamp(0, 1).mean().item()
    out = fusedraw.route(torch.tensor(x).expand(TOKENS, -1), 1, noise="jitter", jitter=a, seed=2)
    assert stats.binomtest(int(out.counts[1]), TOKENS, wins).pvalue > ALPHA
    none = fusedraw.route(torch.tensor(x).expand(TOKENS, -1), 1, noise="jitter", jitter=0.0, seed=2)
    assert none.counts.tolist() == [TOKENS, 0]


# Weights


SETTINGS = [(s, r) for s in ("softmax", "sigmoid") for r in (True, False)]
each_setting = pytest.mark.parametrize("score, renormalise", SETTINGS)


def recipe(x, ids, score, renormalise):
    """The weights as models write them."""
    s = x.softmax(-1) if score == "softmax" else x.sigmoid()
    w = s.gather(-1, ids)
    return w / w.sum(-1, keepdim=True) if renormalise else w


@each_setting
@pytest.mark.parametrize("replay", [False, True])
@pytest.mark.parametrize("dtype", [F32, BF16, F16])
def test_weights_and_gradient_equal_torch(score, renormalise, replay, dtype):
    x = logits(50, 30, dtype=dtype).requires_grad_()
    g = torch.randn(50, 5, generator=torch.Generator().manual_seed(1))
    old = fusedraw.route(x.detach(), 5, noise="gumbel", seed=1).ids
    arguments = {"score": score, "renormalise": renormalise}
    if replay:
        out = fusedraw.route(x, 5, replay_ids=old, **arguments)
    else:
        out = fusedraw.route(x, 5, noise="gumbel", seed=1, mix_eps=0.2, **arguments)
    y = x.detach().double().requires_grad_()
    expected = recipe(y, out.ids, score, renormalise)
    torch.testing.assert_close(out.weights.double(), expected, rtol=1e-6, atol=1e-9)
    (out.weights * g).sum().backward()
    (expected * g).sum().backward()
    assert x.grad.dtype == dtype
    tolerance = {F32: 1e-6, BF16: 1e-2, F16: 2e-3}[dtype]
    torch.testing.assert_close(x.grad.double(), y.grad, rtol=tolerance, atol=1e-6)


@each_setting
def test_gradient_equals_finite_differences(score, renormalise):
    x = logits(3, 6).requires_grad_()
    ids = fusedraw.route(x, 3).ids
    g = torch.tensor([1.0, -2.0, 0.5])

    def loss(y):
        out = fusedraw.route(y, 3, replay_ids=ids, score=score, renormalise=renormalise)
        return (out.weights.double() * g).sum()

    loss(x).backward()
    h = 2.0**-8
    for t, i in itertools.product(range(3), range(6)):
        step = torch.zeros(3, 6)
        step[t, i] = h
        slope = (loss(x.detach() + step) - loss(x.detach() - step)) / (2 * h)
        assert abs(slope - x.grad[t, i]) < 1e-4


@each_setting
def test_second_derivative(score, renormalise):
    x = logits(4, 7).requires_grad_()
    y = x.detach().double().requires_grad_()
    out = fusedraw.route(x, 3, score=score, renormalise=renormalise)
    second = []
    for z, w in ((x, out.weights), (y, recipe(y, out.ids, score, renormalise))):
        (first,) = torch.autograd.grad((w**2).sum(), z, create_graph=True)
        second += torch.autograd.grad((first**2).sum(), z)
    torch.testing.assert_close(second[0].double(), second[1], rtol=1e-4, atol=1e-6)


def test_gradient_of_bad_rows_and_missing_experts_is_zero():
    x = logits(3, 6)
    x[0, 2], x[1, 3] = NAN, -INF
    for score, renormalise in SETTINGS:
        y = x.clone().requires_grad_()
        out = fusedraw.route(y, 5, score=score, renormalise=renormalise, check="status")
        out.weights.nan_to_num().sum().add(out.weights[1:, 0].sum()).backward()
        assert (y.grad[0] == 0).all() and y.grad[1, 3] == 0 and y.grad.isfinite().all()


def test_noise_does_not_enter_the_weights():
    x = logits(40, 9)
    for arguments in ({"noise": "gumbel", "temperature": 3.0}, {"noise": "jitter", "jitter": 0.9}):
        out = fusedraw.route(x, 9, seed=4, renormalise=False, **arguments)
        expected = fusedraw.softmax(x)
        assert torch.equal(torch.zeros(40, 9).scatter(1, out.ids, out.weights), expected)


def test_bias_chooses_and_does_not_weigh():
    x = logits(200, 16)
    bias = torch.zeros(16)
    bias[3], bias[5] = 2.0, -2.0
    out = fusedraw.route(x, 4, score="sigmoid", bias=bias)
    assert (out.ids[:, 0] == 3).all() and out.counts[5] == 0
    order = (x.sigmoid() + bias).topk(4).indices
    assert torch.equal(order, out.ids)
    torch.testing.assert_close(out.weights, recipe(x, order, "sigmoid", True))
    soft = fusedraw.route(x, 4, bias=bias)
    assert torch.equal((x.softmax(-1) + bias).topk(4).indices, soft.ids)


# Replay


def test_replay():
    x, keys = logits(60, 20), make_keys(60)
    first = fusedraw.route(x, 4, noise="gumbel", keys=keys, mix_eps=0.1)
    for ids in (first.ids, first.ids.int()):
        again = fusedraw.route(x, 4, noise="gumbel", replay_ids=ids)
        assert torch.equal(again.ids, first.ids) and torch.equal(again.weights, first.weights)
        assert torch.equal(again.counts, first.counts) and not again.explored.any()
    later = fusedraw.route(x * 2, 4, replay_ids=first.ids)
    assert torch.equal(later.ids, first.ids)
    torch.testing.assert_close(later.weights, recipe(x * 2, first.ids, "softmax", True))


def test_replay_of_ids_that_cannot_be():
    x = torch.tensor([[0.0, 1.0, -INF]] * 5)
    ids = torch.tensor([[0, 1], [0, 3], [-1, 0], [2, 1], [2, 2]])
    out = fusedraw.route(x, 2, replay_ids=ids, check="status")
    bad, empty = Status.BAD_PARAM, Status.EMPTY
    assert out.status.tolist() == [Status.OK, bad, bad, Status.OK, empty]
    assert out.ids.tolist() == [[0, 1], [-1, -1], [-1, -1], [2, 1], [-1, -1]]
    assert out.weights[3].tolist() == [0.0, 1.0] and out.counts.tolist() == [1, 2, 1]


# Bad input


def test_bad_rows_stay_in_their_row():
    x = logits(6, 8)
    x[1, 2], x[2, 0], x[3, :5], x[4] = NAN, INF, -INF, -INF
    out = fusedraw.route(x, 4, noise="gumbel", seed=1, check="status")
    empty = Status.EMPTY
    assert out.status.tolist() == [Status.OK, Status.NAN, Status.POS_INF, empty, empty, Status.OK]
    good = out.status == Status.OK
    assert (out.ids[~good] == -1).all() and out.weights[~good].isnan().all()
    assert out.weights[good].isfinite().all() and out.counts.sum() == 8
    with pytest.raises(ValueError, match="route: row 1 has status NAN"):
        fusedraw.route(x, 4, noise="gumbel", seed=1)


@pytest.mark.parametrize(
    "arguments",
    [
        {"noise": "gumbel", "temperature": torch.tensor([1.0, -1.0])},
        {"noise": "gumbel", "temperature": torch.tensor([1.0, NAN])},
        {"noise": "jitter", "jitter": torch.tensor([0.5, 1.5])},
        {"mix_eps": torch.tensor([0.5, -0.1])},
        {"mix_eps": torch.tensor([0.5, NAN])},
    ],
)
def test_bad_parameters_of_a_token(arguments):
    out = fusedraw.route(logits(2), 3, seed=1, check="status", **arguments)
    assert out.status.tolist() == [Status.OK, Status.BAD_PARAM] and (out.ids[1] == -1).all()


def test_bad_bias():
    for value in (NAN, INF, -INF):
        out = fusedraw.route(logits(2, 3), 1, bias=torch.tensor([0.0, value, 0.0]), check="status")
        assert out.status.tolist() == [Status.BAD_PARAM] * 2


# Shapes, and what torch asks


def test_one_row_and_no_rows():
    x = logits(1, 8)
    whole = fusedraw.route(x, 3, seed=1, noise="gumbel")
    row = fusedraw.route(x[0], 3, seed=1, noise="gumbel")
    assert torch.equal(row.ids, whole.ids[0]) and torch.equal(row.weights, whole.weights[0])
    assert row.status.shape == () and torch.equal(row.counts, whole.counts)
    none = fusedraw.route(x[:0], 3, seed=1, noise="gumbel")
    assert none.ids.shape == (0, 3) and none.counts.tolist() == [0] * 8


def test_keys_of_seed_step_and_generator():
    x = logits(5, 16)
    keys = fusedraw.derive_keys(7, range(5), step=3)
    a = fusedraw.route(x, 4, noise="gumbel", keys=keys)
    b = fusedraw.route(x, 4, noise="gumbel", seed=7, step=3)
    assert torch.equal(a.ids, b.ids)
    draws = [
        fusedraw.route(x, 4, noise="gumbel", generator=torch.Generator().manual_seed(n)).ids
        for n in (1, 1, 2)
    ]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])


def test_nothing_is_asked_of_the_default_generator_where_nothing_is_drawn():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    fusedraw.route(logits(), 2)
    fusedraw.route(logits(), 2, noise="gumbel", replay_ids=torch.zeros(6, 2, dtype=torch.int64))
    assert torch.equal(torch.get_rng_state(), before)
    fusedraw.route(logits(), 2, mix_eps=0.5)
    assert not torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    "mode", [NONE, GUMBEL | RENORMALISE, JITTER | SIGMOID, GUMBEL | SIGMOID | RENORMALISE]
)
@pytest.mark.parametrize("dtype", [F32, BF16])
def test_opcheck(mode, dtype):
    x = logits(3, 9, dtype=dtype)
    replay = torch.randint(9, (3, 2), generator=torch.Generator().manual_seed(1))
    params = make_route_params(mix_eps=0.3)
    torch.library.opcheck(route_op, (x, params.repeat(3, 1), make_keys(3), None, None, 2, mode))
    torch.library.opcheck(route_op, (x.clone().requires_grad_(), params, None, None, replay, 2, mode))
    if mode == NONE:
        torch.library.opcheck(route_op, (x, params, None, torch.zeros(9), None, 2, mode))


def test_compiled():
    def layer(x, mix_eps):
        out = fusedraw.route(x, 3, noise="gumbel", mix_eps=mix_eps, seed=4, step=2)
        return out.weights, out.ids, out.counts

    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True, dynamic=True)
    for tokens in (4, 7):
        x = logits(tokens, 12).requires_grad_()
        y = x.detach().clone().requires_grad_()
        eps = torch.full((tokens,), 0.2)
        got, expected = compiled(x, eps), layer(y, eps)
        for a, b in zip(got, expected, strict=True):
            assert torch.equal(a, b)
        (got[0] ** 2).sum().backward()
        (expected[0] ** 2).sum().backward()
        torch.testing.assert_close(x.grad, y.grad)


def test_meta():
    out = fusedraw.route(torch.zeros(5, 9, device="meta"), 3, noise="gumbel", seed=1)
    assert out.ids.shape == (5, 3) and out.ids.dtype == torch.int64 and out.ids.is_meta
    assert out.weights.dtype == F32 and out.counts.shape == (9,) and out.explored.dtype == torch.bool
