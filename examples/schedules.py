# SPDX-License-Identifier: Apache-2.0
"""Schedules: how much chance to mix in, and when. No model needed.

Three schedules of mix_eps are scaled so that each text of 64 tokens explores somewhere with the same
probability, 30 %, and differ in where. Texts are drawn with them, all in one batch with parameters per row,
and the coins are counted. Beside it, parameters jittered per row from a prior.

    python examples/schedules.py [--seed 1] [--out examples/out]
"""

import argparse
import math
from pathlib import Path

import fusedraw
import torch
from fusedraw.schedules import (
    Chained,
    Constant,
    Cosine,
    Exponential,
    InverseSigmoid,
    Jitter,
    Linear,
    LogUniform,
    Uniform,
    WarmUp,
    mix_eps_for_sequence,
)

SHARE, LENGTH, TEXTS = 0.30, 64, 4000  # texts of each schedule
VOCAB = 512
TOLERANCE = 0.03  # about four standard deviations of a share of 4000 texts

SHAPES = {
    "Linear(1, 0, 64)": Linear(1, 0, 64),
    "Cosine(1, 0, 64)": Cosine(1, 0, 64),
    "Exponential(1, 0.93)": Exponential(1, 0.93),
    "InverseSigmoid(1, 0, k=10)": InverseSigmoid(1, 0, 10),
    "WarmUp(Cosine(1, 0, 64), 12)": WarmUp(Cosine(1, 0, 64), 12),
}


def scaled_to_share(shape):
    """`shape` times the factor with which a share SHARE of texts explores: 1 - prod(1 - eps_t) = SHARE."""
    values = shape.at(torch.arange(LENGTH)).double() * torch.ones(LENGTH, dtype=torch.float64)
    low, high = 0.0, 1.0 / values.max().item()
    for _ in range(60):
        middle = (low + high) / 2
        share = -math.expm1(torch.log1p(-middle * values).sum().item())
        low, high = (middle, high) if share < SHARE else (low, middle)
    return Chained([Constant(low), shape], parameter="mix_eps")


def explored_tokens(schedules, seed):
    """bool [schedules, TEXTS, LENGTH]: where the coin fired. One batch: each row has its own mix_eps."""
    rows = len(schedules) * TEXTS
    logits = torch.randn(1, VOCAB, generator=torch.Generator().manual_seed(seed)).expand(rows, -1)
    fired = []
    for step in range(LENGTH):
        mix_eps = torch.cat([schedule.at(step).expand(TEXTS) for schedule in schedules])
        keys = fusedraw.derive_keys(seed, torch.arange(rows), step=step)
        fired.append(fusedraw.sample(logits, keys=keys, mix_eps=mix_eps, returns=("explored",)).explored)
    return torch.stack(fired, dim=-1).view(len(schedules), TEXTS, LENGTH)


def picture(path, schedules, fired, jittered):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    steps = torch.arange(LENGTH + 16)
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(15, 4.4), layout="constrained")
    for name, shape in SHAPES.items():
        left.plot(steps, shape.at(steps), label=name)
    left.set(title="Schedules", xlabel="step", ylabel="value")
    left.legend(fontsize=8)
    for number, (name, schedule) in enumerate(schedules.items()):
        (line,) = middle.plot(schedule.at(steps[:LENGTH]).expand(LENGTH), label=name)
        counted = fired[number].double().mean(0).view(-1, 4).mean(-1)
        middle.plot(
            torch.arange(LENGTH).view(-1, 4).double().mean(-1), counted, "o", ms=4, color=line.get_color()
        )
    middle.set(
        title=f"{SHARE:.0%} of texts explore, at different places",
        xlabel="position in the text",
        ylabel="mix_eps (line), coins that fired (dots)",
        ylim=(0, None),
    )
    middle.legend(fontsize=8)
    right.scatter(jittered["temperature"], jittered["top_p"], c=jittered["mix_eps"], s=9, cmap="viridis")
    figure.colorbar(right.collections[0], ax=right, label="mix_eps")
    right.set(title="Jitter: 1500 rows of one step", xlabel="temperature", ylabel="top_p", xscale="log")
    right.set_xticks([0.5, 1, 2], ["0.5", "1", "2"])
    right.minorticks_off()
    figure.savefig(path, dpi=130)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "out")
    arguments = parser.parse_args()

    constant = Constant(mix_eps_for_sequence(SHARE, LENGTH), parameter="mix_eps")
    schedules = {
        "constant": constant,
        "cosine": scaled_to_share(Cosine(1, 0, LENGTH)),
        "exponential": scaled_to_share(Exponential(1, 0.93)),
    }
    fired = explored_tokens(list(schedules.values()), arguments.seed)

    print(f"{TEXTS} texts of {LENGTH} tokens each; asked: {SHARE:.0%} explore somewhere")
    print(f"{'schedule':<12} {'texts':>7} {'tokens':>8} {'first half':>11}")
    shares = fired.any(-1).double().mean(-1)
    for number, name in enumerate(schedules):
        coins = fired[number].double()
        early = coins[:, : LENGTH // 2].sum() / coins.sum()
        print(f"{name:<12} {shares[number]:>7.1%} {coins.mean():>8.2%} {early:>11.0%}")

    jitter = Jitter(
        seed=arguments.seed,
        rows=1500,
        temperature=LogUniform(0.5, 2.0),
        top_p=Uniform(0.8, 1.0),
        mix_eps=Uniform(0.0, mix_eps_for_sequence(0.5, LENGTH)),
    )
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / "schedules.png"
    picture(path, schedules, fired, jitter.get_last_value())
    print(f"picture: {path}")

    worst = (shares - SHARE).abs().max().item()
    assert worst <= TOLERANCE, f"a share is off by {worst:.3f}"
    print(f"every share is within {TOLERANCE:.0%} of {SHARE:.0%} (worst {worst:.1%})")


if __name__ == "__main__":
    main()
