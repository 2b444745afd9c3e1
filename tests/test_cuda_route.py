# SPDX-License-Identifier: Apache-2.0
"""The routing kernel, run by the SIMT executor, equals the reference engine bit for bit; bounds of every
buffer, races and unwritten words are checked meanwhile."""

import pytest
import torch
from engines import BF16, EXECUTOR, F16, F32, INF, NAN, engine, forced, make_keys, on_every_engine
from fusedraw import reference as r1
from fusedraw import routing
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
from simt_engine import library, recorded, schedule

BOTH = ("reference", EXECUTOR)


@pytest.fixture(autouse=True, scope="module")
def executor():
    library()


def logits(tokens, experts, dtype=F32, seed=1):
    return torch.randn(tokens, experts, generator=torch.Generator().manual_seed(seed)).mul(2).to(dtype)


@pytest.mark.parametrize("part", range(4))
def test_random_calls(part):
    for seed in range(1000 + 25 * part, 1000 + 25 * (part + 1)):
        case = random_case(seed)
        try:
            on_every_engine(route, case, expected=route_r1(case), engines=(EXECUTOR,))
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from None


@pytest.mark.parametrize("dtype", [F32, BF16, F16])
@pytest.mark.parametrize("mode", [NONE, GUMBEL, JITTER, SIGMOID])
def test_every_dtype(mode, dtype):
    x = logits(9, 130, dtype)
    for weights in (0, RENORMALISE):
        on_every_engine(
            route, Case(x, 6, mode | weights, make_route_params(0.8, 0.2, 0.3), make_keys(9)), engines=BOTH
        )


@pytest.mark.parametrize(
    "experts, k", [(1, 1), (32, 32), (33, 33), (256, 31), (256, 33), (2304, 8), (4096, 3)]
)
@pytest.mark.parametrize("mode", [NONE, GUMBEL])
def test_sizes(experts, k, mode):
    """From one lane's worth to a warp that needs all the shared memory of its thread block."""
    case = Case(logits(3, experts), k, mode | RENORMALISE, make_route_params(), make_keys(3))
    on_every_engine(route, case, engines=BOTH)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_schedules(seed):
    case = Case(logits(40, 70), 5, GUMBEL, make_route_params(mix_eps=0.3), make_keys(40))
    with engine("reference"):
        expected = route(case)
    with schedule(seed):
        on_every_engine(route, case, expected=expected, engines=(EXECUTOR,))


def test_replay_and_bias():
    x = logits(5, 50)
    x[2, 7] = -INF
    replay = torch.randint(50, (5, 4), generator=torch.Generator().manual_seed(2))
    replay[1, 2], replay[2], replay[3, 0] = 50, 7, -1
    for mode in (NONE, RENORMALISE, SIGMOID, SIGMOID | RENORMALISE):
        on_every_engine(route, Case(x, 4, mode, replay=replay), engines=BOTH)
        on_every_engine(route, Case(x, 4, mode, bias=logits(1, 50)[0]), engines=BOTH)


def test_bad_rows():
    x = logits(6, 20)
    x[0, 3], x[1, 19], x[2, 5:], x[3] = NAN, INF, -INF, -INF
    params = make_route_params().repeat(6, 1)
    params[4, 2] = NAN
    out = on_every_engine(route, Case(x, 8, GUMBEL, params, make_keys(6)), engines=BOTH)
    assert out["status"].tolist() == [r1.NAN, r1.POS_INF, r1.EMPTY, r1.EMPTY, r1.BAD_PARAM, r1.OK]
    assert out["counts"].sum() == 8


@pytest.mark.parametrize("word", [0, 2**32 - 1, 2**64 - 1])
def test_noise_at_its_ends(word):
    for ids in ([7], range(40)):
        with forced({(r1.ROUTE, i): word for i in ids}):
            on_every_engine(
                route, Case(logits(1, 40), 5, GUMBEL, make_route_params(), make_keys(1)), engines=BOTH
            )


def test_no_rows():
    with engine(EXECUTOR):
        out = route(Case(logits(0, 6), 2))
    assert out["ids"].shape == (0, 2) and out["counts"].tolist() == [0] * 6


def test_one_launch_and_its_traffic():
    """A row is read for its facts, its scores and its chosen logits; what is written is the results."""
    tokens, experts, k = 64, 256, 8
    case = Case(logits(tokens, experts), k, GUMBEL | RENORMALISE, make_route_params(), make_keys(tokens))
    with engine(EXECUTOR), recorded() as launches:
        route(case)
    assert [launch.name for launch in launches] == ["route_kernel"]
    (launch,) = launches
    assert launch.blocks * launch.threads == tokens * 32
    key, few = 32 * 16, 4 * 8 * k  # by each lane the same 16 bytes; logits of candidates and choices
    assert launch.read <= 2 * case.x.nbytes + tokens * (key + few)
    written = tokens * (k * (8 + 4) + 1 + 1)
    assert written <= launch.written <= written + tokens * k * 8  # and what is added to the counts


def test_through_the_package(monkeypatch):
    x = logits(12, 30).requires_grad_()
    expected = routing.route(x, 3, noise="gumbel", seed=2, mix_eps=0.2)
    monkeypatch.setattr(routing, "route_op", torch.ops.fusedraw_simt.route.default)
    got = routing.route(x, 3, noise="gumbel", seed=2, mix_eps=0.2)
    for a, b in zip(got, expected, strict=True):
        assert torch.equal(a, b)
    x = x.detach()
    x[3, 4] = NAN
    with pytest.raises(ValueError, match="route: row 3 has status NAN"):
        routing.route(x, 3)
