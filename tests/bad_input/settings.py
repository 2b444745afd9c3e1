# SPDX-License-Identifier: Apache-2.0
"""What schedules and controllers refuse."""

import math

import fusedraw
import torch
from controller_cases import ARMS
from fusedraw import controllers, schedules
from fusedraw.controllers import EXP3, UCB1, AdaptiveP, Mirostat2, grid
from fusedraw.schedules import Chained, Choice, Constant, Cosine, Linear, Plateau, Schedules, Uniform

from .rows import Refused, of

NAN = math.nan
X = torch.zeros(2, 9)

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
    linear(ValueError, "end must have length 1 or 2", start=torch.zeros(2), end=torch.ones(3)),
    linear(TypeError, "start must be a number or a tensor, got str", start="a"),
    Refused(
        *("schedules.Linear", "at(-1)", lambda: Linear(0, 1, 5).at(-1)),
        *(ValueError, "step must be >= 0, got -1"),
    ),
    Refused(
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
    Refused(
        *("schedules.Constant", "load_state_dict of another's state"),
        lambda: Constant(1.0).load_state_dict({"epoch": 3}),
        *(ValueError, r"a state must have the keys \['last_step'"),
    ),
    sequential(ValueError, "milestones must be > 0 and increase", milestones=[5, 4]),
    sequential(ValueError, r"milestones must be one fewer than schedules \(3\)", milestones=[5]),
    sequential(TypeError, "milestones must be ints, got float", milestones=[4, 5.5]),
    of(schedules, "Chained")(ValueError, "schedules must not be empty", schedules=[]),
    Refused(
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
    many(
        ValueError,
        r"mix_eps must be in \[0, 1\]",
        "mix_eps=Cosine(0.1, -0.1, 5)",
        mix_eps=Cosine(0.1, -0.1, 5),
    ),
    many(
        ValueError, "temperature must be >= 0", "temperature=Linear(-1, 1, 3)", temperature=Linear(-1, 1, 3)
    ),
    many(
        *(ValueError, "top_p got a schedule made for min_p", 'top_p=Constant(1, parameter="min_p")'),
        top_p=Constant(1, parameter="min_p"),
    ),
    Refused(
        *("schedules.Schedules", "at(3) with a Plateau"),
        lambda: Schedules(mix_eps=Plateau(0.5, 0.5)).at(3),
        *(TypeError, "mix_eps is a Plateau: no function of the step"),
    ),
    Refused(
        *("schedules.Schedules", "step() with a Plateau, without a metric"),
        lambda: Schedules(mix_eps=Plateau(0.5, 0.5)).step(),
        *(TypeError, "step needs a metric"),
    ),
    plateau(ValueError, "factor must not be 1", factor=1.0),
    plateau(ValueError, "limit must be >= value for factor > 1", value=0.5, factor=2.0, limit=0.1),
    plateau(ValueError, r"mix_eps must be in \[0, 1\], got inf", factor=2.0, parameter="mix_eps"),
    Refused(
        *("schedules.Plateau", "step(nan)", lambda: Plateau(0.5, 0.5).step(NAN)),
        *(ValueError, "metric must be finite, got nan"),
    ),
    Refused(
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
    jitter(TypeError, "Jitter: seed must be an int", seed=1.5, top_p=Uniform(0.5, 0.9)),
    of(schedules, "Choice")(ValueError, "values must not be empty", values=()),
    of(schedules, "mix_eps_for_sequence", length=10)(ValueError, r"share must be in \[0, 1\]", share=1.5),
    of(schedules, "mix_eps_for_sequence", share=0.5)(ValueError, "length must be >= 1", length=0),
    of(schedules, "share_of_sequences", length=10)(
        ValueError, "mix_eps must be finite, got nan", mix_eps=NAN
    ),
    of(schedules, "share_of_sequences", mix_eps=0.5)(ValueError, "length must be whole", length=2.5),
]

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
        *(
            ValueError,
            r"TargetEntropy: a target entropy of 7 nats is infeasible in row 1: it lies in \[0, 6.9",
        ),
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
        Refused("controllers.Mirostat2", what, call, error, message)
        for what, call, error, message in (
            (
                "sample of a batch of another size",
                lambda: Mirostat2(3.0, rows=3).sample(X),
                ValueError,
                r"logits must be \[3, V\], got shape \[2, 9\]",
            ),
            (
                "sample with a parameter of its own",
                lambda: Mirostat2(3.0, rows=2).sample(X, min_p=0.1),
                ValueError,
                "min_p is what the controller decides",
            ),
            (
                "update without what it needs",
                lambda: Mirostat2(3.0, rows=2).update(fusedraw.sample(X, seed=1, returns="logp_full")),
                ValueError,
                "update needs `logp`",
            ),
            (
                "load_state_dict of another's state",
                lambda: Mirostat2(3.0).load_state_dict({"nu": 1}),
                ValueError,
                r"a state must have the keys \['mu'\]",
            ),
            (
                "load_state_dict of other rows",
                lambda: Mirostat2(3.0, rows=2).load_state_dict({"mu": torch.ones(3)}),
                ValueError,
                r"mu of the state must have shape \[2\], got \[3\]",
            ),
            (
                "reset of a row that is none",
                lambda: Mirostat2(3.0, rows=2).reset([5]),
                IndexError,
                r"rows must be in \[0, 2\), got \[5\]",
            ),
        )
    ],
    dynamic(
        ValueError, "min_temperature must be <= max_temperature", min_temperature=2.0, max_temperature=1.0
    ),
    adaptive(ValueError, r"target must be in \[0, 1\], got 1.5", target=1.5),
    adaptive(ValueError, r"decay must be in \[0, 0.99\], got 0.999", decay=0.999),
    Refused(
        *("controllers.AdaptiveP", "parameters()", lambda: AdaptiveP(0.5).parameters(X)),
        *(TypeError, "it changes the logits"),
    ),
    ucb(ValueError, "arms must be at least two, got 1", arms=grid(top_p=(0.5,))),
    ucb(ValueError, r"UCB1: mix_eps must be in \[0, 1\], got 1.5", arms=grid(mix_eps=(0.5, 1.5))),
    ucb(ValueError, r"mix_eps must be in \[0, 1\], got nan", arms=grid(mix_eps=(0.5, NAN))),
    ucb(ValueError, "every arm must set", arms=[{"top_p": 0.5}, {"min_p": 0.5}]),
    ucb(ValueError, "a parameter must be 'temperature'", arms=grid(heat=(1, 2))),
    Refused(
        *("controllers.UCB1", "a reward of 1.5 in row 1"),
        lambda: UCB1(ARMS, rows=2).update(torch.tensor([0.5, 1.5])),
        *(ValueError, r"in \[0, 1\], got 1.5 in row 1"),
    ),
    Refused(
        *("controllers.UCB1", "a reward of NaN", lambda: UCB1(ARMS).update(NAN)),
        *(ValueError, r"reward must be in \[0, 1\], got nan"),
    ),
    Refused(
        *("controllers.UCB1", "one reward for 3 rows", lambda: UCB1(ARMS, rows=3).update(0.5)),
        *(ValueError, r"reward must be \[3\]"),
    ),
    exp3(ValueError, "gamma must be <= 1, got 1.5", gamma=1.5),
    exp3(ValueError, "give one of horizon and gamma", "neither horizon nor gamma"),
    exp3(TypeError, "EXP3: seed must be an int", seed=1.5, gamma=0.5),
    Refused(
        *("controllers.EXP3", "load_state_dict of another's state"),
        lambda: EXP3(ARMS, seed=1, gamma=0.5).load_state_dict({"x": 1}),
        *(ValueError, "a state must have the keys"),
    ),
    of(controllers, "grid")(ValueError, "give at least one parameter", "no parameter"),
    loop(TypeError, "score must be callable, got int", score=3),
    loop(TypeError, r"controller must have parameters\(\), got int", controller=3),
    loop(ValueError, "stop must be >= 0 rounds, got -1", stop=-1),
    loop(TypeError, "stop must be an int or a function, got str", stop="3"),
]

REFUSED = [*SCHEDULES, *CONTROLLERS]
