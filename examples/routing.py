# SPDX-License-Identifier: Apache-2.0
"""Attention heads routed at random: a small character decoder in which every token uses 2 of 16 heads,
trained with and without chance in the choice.

Each block has a router, a linear layer whose 16 logits go to `fusedraw.route`; the two chosen heads are added
with their weights. A head that is not chosen gets no gradient: without chance each head learns only from the
tokens that the router gives it from the start. Three ways to train, with the same data and starting weights:

    none      the two largest logits
    gumbel    two draws without replacement from the router's law
    mixture   the two largest, but for half of the tokens (mix_eps = 0.5) two uniform heads

Evaluation is without noise for all. Printed for each: the loss on held-out text; how many heads were used in
training and are used now (exp of the entropy of their counts, 16 if all alike); and the loss when half of the
heads are taken away (their logits set to -inf). The last is what chance buys here: heads that have learnt to
stand in for each other. Asserted: after the mixture, losing half of the heads costs at most 0.6 of what it
costs without chance, at about the same loss (within 0.08 nats), and training used more of the heads. A
picture shows curves, costs and head counts.

    python examples/routing.py [--seed 0] [--steps 250] [--out examples/out]
"""

import argparse
import math
from pathlib import Path

import fusedraw
import matplotlib
import matplotlib.pyplot as plt
import torch
from torch import nn
from torch.nn import functional as F

HEADS, CHOSEN, WIDTH, HEAD_WIDTH, BLOCKS = 16, 2, 64, 16, 2
CONTEXT, BATCH = 32, 16
MODES = {"none": {}, "gumbel": {"noise": "gumbel"}, "mixture": {"mix_eps": 0.5}}
ROOT = Path(__file__).resolve().parent.parent


class RoutedAttention(nn.Module):
    """Causal attention with HEADS heads, of which each token uses CHOSEN."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer
        self.router = nn.Linear(WIDTH, HEADS, bias=False)
        self.qkv = nn.Linear(WIDTH, 3 * HEADS * HEAD_WIDTH, bias=False)
        self.out = nn.Linear(HEADS * HEAD_WIDTH, WIDTH, bias=False)

    def forward(self, x, routing):
        batch, length, _ = x.shape
        logits = self.router(x).reshape(-1, HEADS)
        if routing.removed is not None:
            logits = logits.masked_fill(routing.removed, -math.inf)
        route = routing(logits, self.layer)
        gates = torch.zeros_like(logits).scatter(1, route.ids, route.weights).reshape(batch, length, HEADS)
        # All heads are computed here and the gates pick: a model of size would gather by route.ids.
        q, k, v = self.qkv(x).reshape(batch, length, 3, HEADS, HEAD_WIDTH).permute(2, 0, 3, 1, 4)
        heads = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        gated = heads.transpose(1, 2) * gates[..., None]
        return self.out(gated.flatten(2))


class Decoder(nn.Module):
    def __init__(self, vocabulary):
        super().__init__()
        self.token = nn.Embedding(vocabulary, WIDTH)
        self.place = nn.Parameter(torch.randn(CONTEXT, WIDTH) * 0.1)
        self.attention = nn.ModuleList(RoutedAttention(layer) for layer in range(BLOCKS))
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(BLOCKS + 1))
        self.read = nn.Linear(WIDTH, vocabulary)

    def forward(self, ids, routing):
        x = self.token(ids) + self.place
        for norm, attention in zip(self.norms, self.attention, strict=False):
            x = x + attention(norm(x), routing)
        return self.read(self.norms[-1](x))


class Routing:
    """How heads are chosen at a step; adds up how often each was."""

    def __init__(self, seed, noise="none", mix_eps=0.0, step=0, removed=None):
        self.seed, self.noise, self.mix_eps, self.step, self.removed = seed, noise, mix_eps, step, removed
        self.counts = torch.zeros(BLOCKS, HEADS, dtype=torch.int64)

    def __call__(self, logits, layer):
        # A key of its own for every layer, token and step.
        keys = fusedraw.derive_keys(self.seed, range(len(logits)), [layer] * len(logits), step=self.step)
        route = fusedraw.route(
            logits, CHOSEN, noise=self.noise, mix_eps=self.mix_eps, keys=keys, renormalise=False
        )
        self.counts[layer] += route.counts
        return route


def effective_heads(counts):
    """exp of the entropy of the shares, per block."""
    p = counts / counts.sum(-1, keepdim=True)
    return torch.special.entr(p).sum(-1).exp()


def corpus():
    """(training ids, held-out ids, vocabulary): the licence by characters, 11,000 that never change."""
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    symbols = sorted(set(text))
    ids = torch.tensor([symbols.index(c) for c in text])
    return ids[: len(ids) * 9 // 10], ids[len(ids) * 9 // 10 :], len(symbols)


def windows(ids, starts):
    at = starts[:, None] + torch.arange(CONTEXT + 1)
    return ids[at[:, :-1]], ids[at[:, 1:]]


@torch.no_grad()
def held_out(model, ids, seed, removed=None):
    """(loss in nats, counts) without noise."""
    routing = Routing(seed, removed=removed)
    x, y = windows(ids, torch.arange(0, len(ids) - CONTEXT - 1, CONTEXT))
    return F.cross_entropy(model(x, routing).flatten(0, 1), y.flatten()).item(), routing.counts


def train(mode, seed, steps, data):
    training, test, vocabulary = data
    torch.manual_seed(seed)
    model = Decoder(vocabulary)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.01)
    generator = torch.Generator().manual_seed(seed)
    curve, trained = [], torch.zeros(BLOCKS, HEADS, dtype=torch.int64)
    for step in range(steps):
        routing = Routing(seed, **MODES[mode], step=step)
        starts = torch.randint(len(training) - CONTEXT - 1, (BATCH,), generator=generator)
        x, y = windows(training, starts)
        loss = F.cross_entropy(model(x, routing).flatten(0, 1), y.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        trained += routing.counts
        if step % 25 == 24:
            curve.append((step + 1, held_out(model, test, seed)[0]))
    loss, used = held_out(model, test, seed)
    half = torch.arange(HEADS) % 2 == 0
    without = sum(held_out(model, test, seed, removed)[0] for removed in (half, ~half)) / 2
    return {"curve": curve, "loss": loss, "trained": trained, "used": used, "cost of half": without - loss}


def draw(results, path):
    matplotlib.use("Agg")
    figure, (curves, costs, heads) = plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
    for n, (mode, r) in enumerate(results.items()):
        curves.plot(*zip(*r["curve"], strict=True), label=mode, color=f"C{n}")
        costs.bar(n, r["cost of half"], color=f"C{n}", width=0.6)
        shares = (r["trained"].sum(0) / r["trained"].sum()).sort(descending=True).values
        heads.plot(range(1, HEADS + 1), shares, marker="o", markersize=4, color=f"C{n}")
    curves.set(xlabel="step", ylabel="nats per character", title="loss on held-out text")
    curves.legend(title="noise in training", frameon=False)
    costs.set(ylabel="nats per character", title="cost of taking half of the heads away")
    costs.set_xticks(range(len(results)), results)
    heads.axhline(1 / HEADS, color="gray", linewidth=1, linestyle="dashed")
    heads.set(
        xlabel="head, most used first",
        ylabel="share of the choices",
        title="heads used in training, both blocks",
    )
    heads.set(ylim=(0, None), xticks=(1, 4, 8, 12, 16))
    for axes in (curves, costs, heads):
        axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent / "out")
    options = parser.parse_args()
    torch.set_num_threads(1)  # steps are small, and rounding is then the same on every machine
    data = corpus()
    results = {mode: train(mode, options.seed, options.steps, data) for mode in MODES}
    print(f"{'noise':8} {'loss':>6} {'half of the heads':>18} {'heads in training':>18} {'heads in use':>13}")
    for mode, r in results.items():
        trained, used = (effective_heads(r[name]).mean().item() for name in ("trained", "used"))
        half = f"+{r['cost of half']:.3f}"
        print(f"{mode:8} {r['loss']:6.3f} {half:>18} {trained:18.1f} {used:13.1f}")
    draw(results, options.out / "routing.png")
    print(f"saved {options.out / 'routing.png'}")
    plain, mixed = results["none"], results["mixture"]
    assert mixed["cost of half"] <= 0.6 * plain["cost of half"]
    assert mixed["loss"] <= plain["loss"] + 0.08
    assert effective_heads(mixed["trained"]).mean() > effective_heads(plain["trained"]).mean() + 1


if __name__ == "__main__":
    main()
