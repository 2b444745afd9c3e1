# SPDX-License-Identifier: Apache-2.0
"""What schedules, controllers, comparing and metrics refuse."""

import math

import fusedraw
import torch
from controller_cases import ARMS
from engines import make_keys
from fusedraw import comparing, controllers, metrics, schedules
from fusedraw.controllers import EXP3, UCB1, AdaptiveP, Mirostat2, grid
from fusedraw.schedules import Chained, Choice, Constant, Cosine, Jitter, Linear, Plateau, Schedules, Uniform

from .rows import Refused, refusing

NAN, INF = math.nan, math.inf
X = torch.zeros(2, 9)


def of(module, name, **good):
    """Rows of module.name."""
    function = getattr(module, name)
    return refusing(f"{module.__name__.removeprefix('fusedraw.')}.{name}", function, **good)


def told(function, what, call, error, message):
    return Refused(function, what, call, error, message)


linear = of(schedules, "Linear", start=0.1, end=0.5, steps=10)
cosine = of(schedules, "Cosine", start=0, end=1, steps=3)
exponential = of(schedules, "Exponential", start=1, gamma=0.5)
sigmoid = of(schedules, "InverseSigmoid", start=1, end=0, k=5)
constant = of(schedules, "Constant")
sequential = of(schedules, "Sequential", schedules=[1, 2, 3], milestones=[4, 5])
many = of(schedules, "Schedules")
plateau = of(schedules, "Plateau", value=0.1, factor=0.5)
jitter = of(schedules, "Jitter", seed=1)
SCHEDULES = [
    linear(ValueError, r"mix_eps must be in \[0, 1\]", end=1.5, parameter="mix_eps"),
    linear(ValueError, "Linear: end must be finite, got nan", end=NAN),
    linear(ValueError, "steps must be >= 1, got 0", steps=0),
    linear(ValueError, "end must have length 1 or 2", start=torch.rand(2), end=torch.rand(3)),
    linear(TypeError, "start must be a number or a tensor, got str", start="a"),
    told(
        *("schedules.Linear", "at(-1)", lambda: Linear(0, 1, 5).at(-1)),
        *(ValueError, "step must be >= 0, got -1"),
    ),
    told(
        *("schedules.Linear", "at(1.5)", lambda: Linear(0, 1, 3).at(1.5)),
        *(TypeError, "step must be an int or an integer tensor"),
    ),
    cosine(ValueError, "steps must be whole, got 2.5", steps=2.5),
    cosine(ValueError, "steps must be >= 1", steps=-3),
    exponential(ValueError, "gamma must be > 0, got 0", gamma=0.0),
    exponential(ValueError, "gamma must be <= 1, got 2", gamma=2.0),
    sigmoid(ValueError, "k must be >= 1", k=0.5),
    constant(ValueError, "value must be finite, got nan", value=torch.tensor([0.1, NAN])),
    constant(ValueError, r"exploit must be in \[0, 1\]", value=2.0, parameter="exploit"),
    told(
        *("schedules.Constant", "load_state_dict of another's state"),
        lambda: Constant(1.0).load_state_dict({"epoch": 3}),
        *(ValueError, r"a state must have the keys \['last_step'"),
    ),
    sequential(ValueError, "milestones must be > 0 and increase", milestones=[5, 4]),
    sequential(ValueError, r"milestones must be one fewer than schedules \(3\)", milestones=[5]),
    sequential(TypeError, "milestones must be ints, got float", milestones=[4, 5.5]),
    of(schedules, "Chained")(ValueError, "schedules must not be empty", schedules=[]),
    told(
        *("schedules.Chained", "a product of 2 and 1, for min_p"),
        lambda: Chained([Constant(2.0), Linear(0, 1, 5)], parameter="min_p"),
        *(ValueError, r"min_p must be in \[0, 1\], got 2"),
    ),
    of(schedules, "WarmUp", steps=3)(
        *(TypeError, "must be a schedule of the step alone, got a Plateau", "target=a Plateau"),
        target=Plateau(0.5, 0.5),
    ),
    many(ValueError, "a parameter must be 'temperature'", heat=1.0),
    many(ValueError, r"top_p must be in \[0, 1\], got 1.5", top_p=torch.tensor([0.5, 1.5])),
    many(ValueError, "give at least one parameter", "nothing"),
    many(ValueError, "give one of mix_eps and exploit", mix_eps=0.5, exploit=0.5),
    many(ValueError, r"mix_eps must be in \[0, 1\]", "mix_eps=Cosine(0.1, -0.1, 5)", mix_eps=Cosine(0.1, -0.1, 5)),
    many(ValueError, "temperature must be >= 0", "temperature=Linear(-1, 1, 3)", temperature=Linear(-1, 1, 3)),
    many(
        *(ValueError, "top_p got a schedule made for min_p", 'top_p=Constant(1, parameter="min_p")'),
        top_p=Constant(1, parameter="min_p"),
    ),
    told(
        *("schedules.Schedules", "at(3) with a Plateau"),
        lambda: Schedules(mix_eps=Plateau(0.5, 0.5)).at(3),
        *(TypeError, "mix_eps is a Plateau: no function of the step"),
    ),
    told(
        *("schedules.Schedules", "step() with a Plateau, without a metric"),
        lambda: Schedules(mix_eps=Plateau(0.5, 0.5)).step(),
        *(TypeError, "step needs a metric"),
    ),
    plateau(ValueError, "factor must not be 1", factor=1.0),
    plateau(ValueError, "limit must be >= value for factor > 1", value=0.5, factor=2.0, limit=0.1),
    plateau(ValueError, r"mix_eps must be in \[0, 1\], got inf", factor=2.0, parameter="mix_eps"),
    told(
        *("schedules.Plateau", "step(nan)", lambda: Plateau(0.5, 0.5).step(NAN)),
        *(ValueError, "metric must be finite, got nan"),
    ),
    told(
        *("schedules.Plateau", "step of a NaN in one row"),
        lambda: Plateau(0.5, 0.5, rows=2).step(torch.tensor([1.0, NAN])),
        *(ValueError, "metric must not be NaN"),
    ),
    jitter(ValueError, "give at least one prior", "no prior"),
    jitter(TypeError, r"the prior of top_p must have icdf\(u\), got float", top_p=0.9),
    jitter(ValueError, r"mix_eps must be in \[0, 1\], got 1.5", mix_eps=Uniform(0.5, 1.5)),
    jitter(ValueError, "top_p must have low <= high", top_p=Uniform(0.9, 0.5)),
    jitter(
        *(ValueError, "the prior of temperature must stay finite, it reaches -"),
        temperature=torch.distributions.Normal(1.0, 0.1),
    ),
    jitter(ValueError, "it reaches nan", top_p=Choice((1.0, NAN, 0.5))),
    jitter(TypeError, "seed must be an int", seed=1.5, top_p=Uniform(0.5, 0.9)),
    of(schedules, "Choice")(ValueError, "values must not be empty", values=()),
    of(schedules, "mix_eps_for_sequence", length=10)(ValueError, r"share must be in \[0, 1\]", share=1.5),
    of(schedules, "mix_eps_for_sequence", share=0.5)(ValueError, "length must be >= 1", length=0),
    of(schedules, "share_of_sequences", length=10)(ValueError, "mix_eps must be finite, got nan", mix_eps=NAN),
    of(schedules, "share_of_sequences", mix_eps=0.5)(ValueError, "length must be whole", length=2.5),
]  # fmt: skip

mirostat = of(controllers, "Mirostat2", tau=3.0)
entropy = of(controllers, "TargetEntropy", target=1.0, vocab_size=1000)
mean = of(controllers, "TargetMeanEntropy", target=1.0, vocab_size=1000)
solve = of(controllers, "solve_temperature", logits=X, target=1.0)
dynamic = of(controllers, "DynamicTemperature")
adaptive = of(controllers, "AdaptiveP", target=0.5)
ucb = of(controllers, "UCB1", arms=ARMS)
exp3 = of(controllers, "EXP3", arms=ARMS, seed=1)
loop = of(controllers, "FeedbackLoop", generate=print, score=print, controller=UCB1(ARMS), stop=3)
CONTROLLERS = [
    entropy(
        *(ValueError, r"TargetEntropy: a target entropy of 7 nats is infeasible in row 1: it lies in \[0, 6.9"),
        target=torch.tensor([1.0, 7.0]),
        rows=2,
    ),
    entropy(ValueError, "target must be >= 0, got -1", target=-1.0),
    entropy(TypeError, "vocab_size must be an int, got float", vocab_size=10.0),
    entropy(ValueError, "vocab_size must be >= 1, got 0", vocab_size=0),
    mean(ValueError, "TargetMeanEntropy: a target entropy of 12 nats is infeasible", target=12.0),
    solve(ValueError, "target must be finite, got nan", target=NAN),
    solve(ValueError, "target must have length 1 or 2, got 3", target=torch.ones(3)),
    solve(ValueError, r"tolerance must be in \(0, 1\)", tolerance=0.0),
    solve(ValueError, "infeasible must be 'raise' or", infeasible="ok"),
    solve(ValueError, r"logits must be \[B, V\]", logits=X[0]),
    mirostat(ValueError, "Mirostat2: tau must be > 0, got 0", tau=0.0),
    mirostat(ValueError, "eta must be finite, got nan", eta=NAN),
    mirostat(ValueError, "surprise must be 'kept' or 'full'", surprise="bits"),
    mirostat(ValueError, "tau must have length 1 or 2, got 3", tau=torch.ones(3), rows=2),
    mirostat(ValueError, "rows must be >= 1, got 0", rows=0),
    *[
        told("controllers.Mirostat2", what, call, error, message)
        for what, call, error, message in (
            ("sample of a batch of another size", lambda: Mirostat2(3.0, rows=3).sample(X), ValueError,
             r"logits must be \[3, V\], got shape \[2, 9\]"),
            ("sample with a parameter of its own", lambda: Mirostat2(3.0, rows=2).sample(X, min_p=0.1), ValueError,
             "min_p is what the controller decides"),
            ("update without what it needs",
             lambda: Mirostat2(3.0, rows=2).update(fusedraw.sample(X, seed=1, returns="logp_full")), ValueError,
             "update needs `logp`"),
            ("load_state_dict of another's state", lambda: Mirostat2(3.0).load_state_dict({"nu": 1}), ValueError,
             r"a state must have the keys \['mu'\]"),
            ("load_state_dict of other rows",
             lambda: Mirostat2(3.0, rows=2).load_state_dict({"mu": torch.ones(3)}), ValueError,
             r"mu of the state must have shape \[2\], got \[3\]"),
            ("reset of a row that is none", lambda: Mirostat2(3.0, rows=2).reset([5]), IndexError,
             r"rows must be in \[0, 2\), got \[5\]"),
        )
    ],
    dynamic(ValueError, "min_temperature must be <= max_temperature", min_temperature=2.0, max_temperature=1.0),
    adaptive(ValueError, r"target must be in \[0, 1\], got 1.5", target=1.5),
    adaptive(ValueError, r"decay must be in \[0, 0.99\], got 0.999", decay=0.999),
    told(
        *("controllers.AdaptiveP", "parameters()", lambda: AdaptiveP(0.5).parameters(X)),
        *(TypeError, "it changes the logits"),
    ),
    ucb(ValueError, "arms must be at least two, got 1", arms=grid(top_p=(0.5,))),
    ucb(ValueError, r"UCB1: mix_eps must be in \[0, 1\], got 1.5", arms=grid(mix_eps=(0.5, 1.5))),
    ucb(ValueError, r"mix_eps must be in \[0, 1\], got nan", arms=grid(mix_eps=(0.5, NAN))),
    ucb(ValueError, "every arm must set", arms=[{"top_p": 0.5}, {"min_p": 0.5}]),
    ucb(ValueError, "a parameter must be 'temperature'", arms=grid(heat=(1, 2))),
    told(
        *("controllers.UCB1", "a reward of 1.5 in row 1"),
        lambda: UCB1(ARMS, rows=2).update(torch.tensor([0.5, 1.5])),
        *(ValueError, r"in \[0, 1\], got 1.5 in row 1"),
    ),
    told(
        *("controllers.UCB1", "a reward of NaN", lambda: UCB1(ARMS).update(NAN)),
        *(ValueError, r"reward must be in \[0, 1\], got nan"),
    ),
    told(
        *("controllers.UCB1", "one reward for 3 rows", lambda: UCB1(ARMS, rows=3).update(0.5)),
        *(ValueError, r"reward must be \[3\]"),
    ),
    exp3(ValueError, "gamma must be <= 1, got 1.5", gamma=1.5),
    exp3(ValueError, "give one of horizon and gamma", "neither horizon nor gamma"),
    told(
        *("controllers.EXP3", "load_state_dict of another's state"),
        lambda: EXP3(ARMS, seed=1, gamma=0.5).load_state_dict({"x": 1}),
        *(ValueError, "a state must have the keys"),
    ),
    of(controllers, "grid")(ValueError, "give at least one parameter", "no parameter"),
    loop(TypeError, "score must be callable, got int", score=3),
    loop(TypeError, r"controller must have parameters\(\), got int", controller=3),
    loop(ValueError, "stop must be >= 0 rounds, got -1", stop=-1),
    loop(TypeError, "stop must be an int or a function, got str", stop="3"),
]  # fmt: skip


def coupled(*settings, **more):
    return comparing.coupled(torch.zeros(3, 9), *settings, **more)


compare = of(comparing, "compare", a=[1.0, 2.0], b=[2.0, 3.0])
sweep = of(comparing, "sweep", grid={"top_k": [5]})
vote = of(comparing, "majority_vote", answers=[["a"]])
best = of(comparing, "best_of_n", scores=torch.zeros(2, 2))
passed = of(comparing, "pass_at_k", correct=torch.zeros(2, 3).bool(), k=1)
draws = of(comparing, "keys_of_draws", seed=5, request_ids=[1], n=2)
COMPARING = [
    *[
        told("comparing.coupled", what, lambda s=settings, m=more: coupled(*s, **m), error, message)
        for what, settings, more, error, message in (
            ("one setting", [{}], {}, ValueError, "at least two settings, got 1"),
            ("a setting that is 0.5", [{}, 0.5], {}, TypeError, r"settings\[1\] must be a dict or a Sampler, got float"),
            ('a setting {"epsilon": 0.5}', [{}, {"epsilon": 0.5}], {}, TypeError, "may hold temperature, .* got 'epsilon'"),
            ('a setting {"keys": None}', [{}, {"keys": None}], {}, TypeError, "got 'keys'"),
            ("two domains", [{}, {"domain": "draft"}], {}, ValueError, r"share one domain .* \['draft', 'target'\]"),
            ('a setting {"mix_eps": 1.5}', [{}, {"mix_eps": 1.5}], {}, ValueError, r"mix_eps must be in \[0, 1\], got 1.5"),
            ("keys and seed", [{}, {}], {"seed": 1, "keys": make_keys(3)}, ValueError, "coupled: give one of keys, seed"),
            ("keys of 2 rows for 3", [{}, {}], {"keys": make_keys(2)}, ValueError, r"coupled: keys must be \[3, 2\]"),
            ("a mask of 8 for 9 tokens", [{}, {}], {"mask": torch.ones(8).bool()}, ValueError, "coupled: a bool mask must"),
        )
    ],
    told(
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
]  # fmt: skip

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
        *(ValueError, r"relevance: embed must give \[2, D\], got shape \[1, 2\]", "embed gives one row for 2 texts"),
        prompts=["p"],
        embed=lambda texts: torch.ones(1, 2),
    ),
    of(metrics, "relevance", texts=["a", "b", "c"])(
        *(ValueError, "relevance: prompts must be 1 or 3, got 2", "2 prompts for 3 texts"),
        prompts=["p", "q"],
        embed=lambda texts: torch.ones(len(texts), 2),
    ),
]  # fmt: skip

REFUSED = [*SCHEDULES, *CONTROLLERS, *COMPARING, *METRICS]
