# SPDX-License-Identifier: Apache-2.0
"""What comparing and metrics refuse."""

import math

import torch
from engines import make_keys
from fusedraw import comparing, metrics

from .rows import Refused, of

NAN, INF = math.nan, math.inf
X = torch.zeros(2, 9)


def coupled(*settings, **more):
    return comparing.coupled(torch.zeros(3, 9), *settings, **more)


compare = of(comparing, "compare", a=[1.0, 2.0], b=[2.0, 3.0])
PLAN = comparing.sweep({"mix_eps": [0, 0.5], "top_k": [0, 5]}, rows=3)
sweep = of(comparing, "sweep", grid={"top_k": [5]})
vote = of(comparing, "majority_vote", answers=[["a"]])
best = of(comparing, "best_of_n", scores=torch.zeros(2, 2))
passed = of(comparing, "pass_at_k", correct=torch.zeros(2, 3).bool(), k=1)
draws = of(comparing, "keys_of_draws", seed=5, request_ids=[1], n=2)
COMPARING = [
    *[
        Refused("comparing.coupled", what, lambda s=settings, m=more: coupled(*s, **m), error, message)
        for what, settings, more, error, message in (
            ("one setting", [{}], {}, ValueError, "at least two settings, got 1"),
            (
                "a setting that is 0.5",
                [{}, 0.5],
                {},
                TypeError,
                r"settings\[1\] must be a dict or a Sampler, got float",
            ),
            (
                'a setting {"epsilon": 0.5}',
                [{}, {"epsilon": 0.5}],
                {},
                TypeError,
                "may hold temperature, .* got 'epsilon'",
            ),
            ('a setting {"keys": None}', [{}, {"keys": None}], {}, TypeError, "got 'keys'"),
            (
                "two domains",
                [{}, {"domain": "draft"}],
                {},
                ValueError,
                r"share one domain .* \['draft', 'target'\]",
            ),
            (
                'a setting {"mix_eps": 1.5}',
                [{}, {"mix_eps": 1.5}],
                {},
                ValueError,
                r"mix_eps must be in \[0, 1\], got 1.5",
            ),
            (
                "keys and seed",
                [{}, {}],
                {"seed": 1, "keys": make_keys(3)},
                ValueError,
                "coupled: give one of keys, seed",
            ),
            (
                "keys of 2 rows for 3",
                [{}, {}],
                {"keys": make_keys(2)},
                ValueError,
                r"coupled: keys must be \[3, 2\]",
            ),
            (
                "a mask of 8 for 9 tokens",
                [{}, {}],
                {"mask": torch.ones(8).bool()},
                ValueError,
                "coupled: a bool mask must",
            ),
        )
    ],
    Refused(
        *("comparing.coupled", "float64 logits", lambda: comparing.coupled(X.double(), {}, {})),
        *(TypeError, "coupled: logits must be"),
    ),
    compare(ValueError, r"one shape, got \[2\] and \[1\]", b=[1.0]),
    compare(ValueError, "at least 2 pairs, got 1", a=[1.0], b=[1.0]),
    compare(ValueError, "not empty", a=[], b=[]),
    compare(ValueError, r"must be \[n, ...\]", a=1.0, b=2.0),
    compare(ValueError, "a must be finite, got 1 NaN or infinite", a=[1.0, NAN]),
    compare(ValueError, "b must be finite, got 2 NaN", b=[INF, INF]),
    compare(TypeError, "a must hold numbers", a=[[1.0], [2.0, 3.0]]),
    compare(TypeError, "a must hold numbers", a=["x", "y"]),
    compare(ValueError, "method must be 'BCa', 'percentile' or 'basic', got 'bca'", method="bca"),
    compare(ValueError, r"confidence must be in \(0, 1\), got 95", confidence=95),
    compare(TypeError, "confidence must be a number", confidence="95"),
    compare(ValueError, "resamples must be >= 1", resamples=0),
    compare(ValueError, "seed must be >= 0", seed=-1),
    compare(TypeError, "seed must be an int", seed=None),
    sweep(TypeError, "grid must be a dict of lists, got list", grid=[0.1]),
    sweep(ValueError, "grid must name at least one of temperature, .* got none", grid={}),
    sweep(ValueError, "grid may name temperature, .* or top_k, got 'epsilon'", grid={"epsilon": [0.1]}),
    sweep(ValueError, "got 'filter_order'", grid={"filter_order": ["joint"]}),
    sweep(ValueError, "mix_eps must have at least one value", grid={"mix_eps": []}),
    sweep(TypeError, "mix_eps must be a list of numbers, got float", grid={"mix_eps": 0.5}),
    sweep(TypeError, "mix_eps must be a list of numbers, got str", grid={"mix_eps": "0.5"}),
    sweep(ValueError, r"mix_eps must be in \[0, 1\], got 1.01", grid={"mix_eps": [0.5, 1.01]}),
    sweep(ValueError, r"mix_eps must be in \[0, 1\], got nan", grid={"mix_eps": [NAN]}),
    sweep(TypeError, "top_k must be an int", grid={"top_k": [5.0]}),
    sweep(TypeError, "got a list of tensors", grid={"top_k": [torch.tensor([5])]}),
    sweep(ValueError, "rows must be >= 1, got 0", rows=0),
    sweep(TypeError, "rows must be an int, got float", rows=2.0),
    *[
        Refused("comparing.Sweep", what, call, ValueError, message)
        for what, call, message in (
            (
                "table(x=3 values) of 4 settings",
                lambda: PLAN.table(x=[1, 2, 3]),
                "table needs 4 values of x, one a setting, got 3",
            ),
            (
                "table(top_k=...), which is a parameter",
                lambda: PLAN.table(top_k=[1, 2, 3, 4]),
                "has a parameter 'top_k'",
            ),
            (
                "repeat of 4 rows, made for 3",
                lambda: PLAN.repeat(torch.zeros(4, 2)),
                r"repeat takes \[3, ...\], got shape \[4, 2\]",
            ),
            ("repeat of a list of 1, made for 3", lambda: PLAN.repeat(["a"]), "repeat takes 3 items, got 1"),
            (
                "split of 3 rows, made for 12",
                lambda: PLAN.split(torch.zeros(3)),
                r"split takes \[12, ...\], got shape \[3\]",
            ),
        )
    ],
    vote(TypeError, "answers must be an integer tensor", answers=torch.zeros(2, 3)),
    vote(ValueError, r"must be \[P, n\], n >= 1, got .*\[3\]", answers=torch.zeros(3).long()),
    vote(ValueError, r"got shape \[3, 0\]", answers=torch.zeros(3, 0).long()),
    vote(TypeError, r"answers\[0\] must be a list of answers, got str", answers=["abc"]),
    vote(TypeError, "tensor or lists of answers, got str", answers="abc"),
    vote(TypeError, r"answers\[0\] must hold hashable answers", answers=[[["a"]]]),
    vote(ValueError, r"keys must be \[1, 2\]", keys=make_keys(2)),
    best(TypeError, "scores must be a torch.Tensor, got list", scores=[1.0]),
    best(TypeError, "must be a float tensor, got int64", scores=torch.zeros(2, 2).long()),
    best(ValueError, "not be NaN, got some in row 1", scores=torch.tensor([[0.0], [NAN]])),
    best(ValueError, r"must be \[P, n\]", scores=torch.zeros(2)),
    passed(TypeError, "correct must be a bool tensor, got float32", correct=torch.zeros(2, 3)),
    passed(ValueError, r"k must be in \[1, 3\], .* got 4", k=4),
    passed(TypeError, "k must be an int, got bool", k=True),
    draws(ValueError, r"n must be in \[1, 2\^32\), got 0", n=0),
    draws(TypeError, "n must be an int", n=2.0),
    draws(TypeError, "keys_of_draws: seed must be an int", seed=1.5),
    draws(TypeError, "keys_of_draws: request_ids must be an int", request_ids=[1.0]),
    draws(OverflowError, "keys_of_draws: step must fit", step=2**64),
]

IDS = torch.tensor([[1, 2, 3, 4], [1, 2, 1, 2]])
distinct = of(metrics, "distinct_n", ids=IDS)
METRICS = [
    distinct(TypeError, "ids must be an integer tensor, got float32", ids=IDS.float()),
    distinct(ValueError, r"ids must be \[N, L\], got shape \[4\]", ids=IDS[0]),
    distinct(TypeError, "ids must hold integers, text 0 does not", ids=[[1, 2.5]]),
    distinct(TypeError, "ids must hold integers, text 0 does not", ids=[[1, True]]),
    distinct(TypeError, r"ids\[0\] must be a list, got int", ids=[1, 2]),
    distinct(TypeError, "must be .* got str", ids="12"),
    distinct(ValueError, "at least one text", ids=[]),
    distinct(ValueError, "text 0 holds -1: give lengths", ids=[[1, -1]]),
    distinct(ValueError, "n must be >= 1, got 0", n=0),
    distinct(TypeError, "n must be an int, got float", n=1.0),
    distinct(ValueError, "lengths must be 2, one for each text, got 1", lengths=[1]),
    distinct(ValueError, r"lengths must be ints in \[0, 4\], got 5", lengths=[1, 5]),
    distinct(ValueError, "lengths goes with a tensor", ids=[[1]], lengths=[1]),
    of(metrics, "repetition", ids=IDS)(ValueError, "n must be >= 1", n=0),
    of(metrics, "self_repetition", ids=IDS)(TypeError, "ids must be an integer tensor", ids=IDS.float()),
    of(metrics, "self_bleu", ids=IDS)(ValueError, "needs at least 2 texts, got 1", ids=IDS[:1]),
    of(metrics, "self_bleu", ids=IDS)(ValueError, "max_n must be >= 1", max_n=0),
    of(metrics, "vendi_score", ids=IDS)(ValueError, "at least 5 tokens, text 0 has 4", ns=[5]),
    of(metrics, "vendi_score", ids=IDS)(ValueError, "ns must be a list", ns=[]),
    of(metrics, "compression_ratio", ids=IDS)(TypeError, "decode must return str, got bytes", decode=bytes),
    of(metrics, "perplexity")(TypeError, "logps must be a float tensor, got int64", logps=IDS),
    of(metrics, "perplexity")(ValueError, "at least 1 token, text 0 has none", logps=[[]]),
    of(metrics, "perplexity")(ValueError, "must be <= 0 and not NaN, text 0 holds 0.5", logps=[[-1.0, 0.5]]),
    of(metrics, "perplexity")(ValueError, "not NaN, text 0", logps=[[-1.0, NAN]]),
    of(metrics, "relevance", texts=["a", "b"])(
        *(
            ValueError,
            r"relevance: embed must give \[2, D\], got shape \[1, 2\]",
            "embed gives one row for 2 texts",
        ),
        prompts=["p"],
        embed=lambda texts: torch.ones(1, 2),
    ),
    of(metrics, "relevance", texts=["a", "b", "c"])(
        *(ValueError, "relevance: prompts must be 1 or 3, got 2", "2 prompts for 3 texts"),
        prompts=["p", "q"],
        embed=lambda texts: torch.ones(len(texts), 2),
    ),
]

REFUSED = [*COMPARING, *METRICS]
