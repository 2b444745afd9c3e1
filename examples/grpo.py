# SPDX-License-Identifier: Apache-2.0
"""GRPO scored under the policy that drew, and under the model: the gradient, and what training makes of it.

    python examples/grpo.py [--out examples/out] [--seed 0]

A policy answers a prompt with two tokens out of 16 and gets reward 1 if their sum is the prompt's number
modulo 16. It is a table of logits, so every expectation can be enumerated. Answers are drawn by
`fusedraw.sample` with a temperature, top-p and a share of pure chance, from the policy
mu = (1 - mix_eps) * pi + mix_eps * uniform. Advantages are normalised within groups of answers to one prompt
and the ratio to the old policy is clipped (Shao et al., "DeepSeekMath", 2024; the loss of TRL's GRPOTrainer).
Two runs differ in the score alone:

- mu: `token_logprob` with the parameters of the draw;
- pi: `log_softmax` of the model's logits, which is what most code does.

Asserted: along the enumerated gradient the estimate under mu is within 3 standard errors of it and the one
under pi more than 6 away; training under mu ends with the higher chance of success, and under pi, where
tokens drawn by chance push at full strength for ever, with logits at least 1.5 times as large.
"""

import argparse
from pathlib import Path

import fusedraw
import torch

VOCAB, PROMPTS, GROUP = 16, 4, 8
START = VOCAB  # the state before the first token; the others are the token before
# The gradient is checked with all that `sample` offers. A truncated policy has no gradient for the tokens
# that it cuts off, so training goes without.
CHECKED = {"temperature": 0.6, "top_p": 0.9, "mix_eps": 0.25, "mix_support": "valid"}
TRAINED = {"temperature": 1.0, "mix_eps": 0.2, "mix_support": "valid"}
TARGETS = torch.tensor([3, 7, 10, 14])  # of the prompts
CLIP = 0.2


def new_policy(seed):
    """Logits [PROMPTS, VOCAB + 1, VOCAB]: of the next token, given the prompt and the token before."""
    return torch.randn(PROMPTS, VOCAB + 1, VOCAB, generator=torch.Generator().manual_seed(seed))


def reward(prompts, first, second):
    return ((first + second) % VOCAB == TARGETS[prompts]).float()


def draw_answers(policy, draw, prompts, seed, step):
    """Token pairs [N, 2], each token with a key of its own."""
    ids, state = [], torch.full_like(prompts, START)
    for position in range(2):
        keys = fusedraw.derive_keys(seed, torch.arange(len(prompts)), step=2 * step + position)
        state = fusedraw.sample(policy[prompts, state], keys=keys, **draw)
        ids.append(state)
    return torch.stack(ids, 1)


def rows_of(policy, prompts, ids):
    """The logits [N, 2, VOCAB] from which each token of the answers came."""
    first = policy[prompts, START]
    return torch.stack([first, policy[prompts, ids[:, 0]]], 1)


def score_mu(logits, ids, draw):
    return fusedraw.token_logprob(logits, ids, **draw)


def score_pi(logits, ids, draw):
    return torch.log_softmax(logits, -1).gather(-1, ids[..., None])[..., 0]


def advantages(rewards):
    """[groups, GROUP]: less the group's mean, over its standard deviation; 0 where all are alike."""
    spread = rewards.std(1, correction=0, keepdim=True)
    return torch.where(spread > 0, (rewards - rewards.mean(1, keepdim=True)) / spread.clamp(min=1e-6), 0)


# The exact gradient. Rewards are 0 or 1, so an advantage depends on the answer's own reward and on the number
# of successes among the other answers of its group, which is binomial.


def law_of_answers(policy, draw):
    """mu of all pairs, [PROMPTS, VOCAB, VOCAB], differentiable."""
    logits = policy.reshape(-1, VOCAB)
    rows = logits.repeat_interleave(VOCAB, 0)
    ids = torch.arange(VOCAB).repeat(len(logits))
    mu = score_mu(rows, ids, draw).exp().view(PROMPTS, VOCAB + 1, VOCAB)
    return mu[:, START, :, None] * mu[:, :VOCAB]


def rewards_of_answers():
    prompts, first, second = torch.meshgrid(
        *(torch.arange(n) for n in (PROMPTS, VOCAB, VOCAB)), indexing="ij"
    )
    return reward(prompts, first, second)


def success(policy, draw):
    """The chance of a reward under mu, enumerated, mean over the prompts."""
    with torch.no_grad():
        return (law_of_answers(policy, draw) * rewards_of_answers()).sum((1, 2)).mean().item()


def mean_advantage(chance):
    """[PROMPTS, 2]: the expected advantage of an answer with reward 0 and with reward 1."""
    others = torch.arange(GROUP, dtype=torch.float64)
    law = torch.distributions.Binomial(GROUP - 1, chance[:, None]).log_prob(others).exp()
    table = torch.zeros(2, GROUP, dtype=torch.float64)
    for own in range(2):
        for n in range(GROUP):
            table[own, n] = advantages(torch.tensor([[float(own)] + [1.0] * n + [0.0] * (GROUP - 1 - n)]))[
                0, 0
            ]
    return law @ table.T


def exact_gradient(policy, draw):
    """Of the GRPO objective at the policy that drew: the sum over answers of mu * advantage * grad log mu."""
    leaf = policy.double().requires_grad_()
    mu, rewards = law_of_answers(leaf, draw), rewards_of_answers()
    chance = (mu.detach() * rewards).sum((1, 2))
    weight = mean_advantage(chance)
    expected = torch.where(rewards > 0, weight[:, 1, None, None], weight[:, 0, None, None])
    (mu * expected).sum((1, 2)).mean().backward()
    return leaf.grad


def estimate(policy, score, groups, seed):
    """(exact gradient, mean estimate, distance in standard errors along the exact one)."""
    exact = exact_gradient(policy, CHECKED)
    prompts = torch.arange(groups).remainder(PROMPTS).repeat_interleave(GROUP)
    ids = draw_answers(policy, CHECKED, prompts, seed, 0)
    rows = rows_of(policy, prompts, ids).requires_grad_()
    weights = advantages(reward(prompts, *ids.T).view(-1, GROUP)).view(-1, 1)
    (weights * score(rows, ids, CHECKED)).sum().backward()  # each row gets its own gradient
    gradients = rows.grad.double()
    state = torch.stack([torch.full_like(prompts, START), ids[:, 0]], 1)
    direction = exact / exact.norm()
    along = (gradients * direction[prompts[:, None], state]).sum((1, 2)).view(-1, GROUP).mean(1)
    distance = (along.mean() - exact.norm()) / (along.std() / groups**0.5)
    mean = torch.zeros(PROMPTS * (VOCAB + 1), VOCAB, dtype=torch.float64)
    mean.index_add_(0, (prompts[:, None] * (VOCAB + 1) + state).flatten(), gradients.flatten(0, 1))
    return exact, (mean / len(prompts)).view_as(exact), distance.item()


def train(policy, score, steps, seed, rate=0.1, groups=16, epochs=2):
    """Chance of success under mu and largest logit, [steps, 2], before each step."""
    policy = policy.clone().requires_grad_()
    optimizer = torch.optim.Adam([policy], lr=rate)
    curve = []
    for step in range(steps):
        curve.append((success(policy, TRAINED), policy.detach().abs().max().item()))
        prompts = torch.arange(groups).remainder(PROMPTS).repeat_interleave(GROUP)
        ids = draw_answers(policy.detach(), TRAINED, prompts, seed, step)
        weights = advantages(reward(prompts, *ids.T).view(-1, GROUP)).view(-1, 1)
        old = score(rows_of(policy.detach(), prompts, ids), ids, TRAINED)
        for _ in range(epochs):
            ratio = torch.exp(score(rows_of(policy, prompts, ids), ids, TRAINED) - old)
            clipped = ratio.clamp(1 - CLIP, 1 + CLIP)
            loss = -torch.minimum(ratio * weights, clipped * weights).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return torch.tensor(curve)


def draw_picture(path, gradients, curves):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(13, 4.2), constrained_layout=True)
    colors = {"mu": "#1f6fb4", "pi": "#d1542c"}
    for name, (exact, mean, distance) in reversed(gradients.items()):
        label = f"scored under {name}: {abs(distance):.1f} standard errors off"
        left.scatter(exact.flatten(), mean.flatten(), s=9, alpha=0.7, color=colors[name], label=label)
    limits = [exact.min().item() * 1.1, exact.max().item() * 1.1]
    left.plot(limits, limits, color="black", lw=0.8)
    left.set(xlabel="enumerated gradient", ylabel="estimate", title="Components of the policy gradient")
    left.legend(frameon=False, fontsize=8, loc="upper left")
    for name, curve in curves.items():
        middle.plot(curve[:, 0], color=colors[name], label=f"scored under {name}")
        right.plot(curve[:, 1], color=colors[name], label=f"scored under {name}")
    best = (1 - TRAINED["mix_eps"]) + TRAINED["mix_eps"] / VOCAB
    middle.axhline(best, color="black", lw=0.8, ls=":")
    middle.annotate(
        "best possible under mu", (0, best), xytext=(3, 3), textcoords="offset points", fontsize=8
    )
    middle.set(xlabel="step", title="Chance of success under mu", ylim=(0, 0.9))
    right.set(xlabel="step", title="Largest logit")
    for axes in (middle, right):
        axes.legend(frameon=False, loc="lower right")
    for axes in (left, middle, right):
        axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "out")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--groups", type=int, default=32_768, help="of the estimate")
    parser.add_argument("--steps", type=int, default=150, help="of training")
    args = parser.parse_args()
    policy, scores = new_policy(args.seed), {"mu": score_mu, "pi": score_pi}
    gradients = {name: estimate(policy, score, args.groups, args.seed) for name, score in scores.items()}
    curves = {name: train(policy, score, args.steps, args.seed) for name, score in scores.items()}
    print(f"{'scored under':14}{'gradient':>28}{'success':>12}{'largest logit':>16}")
    for name in scores:
        distance, (chance, logit) = gradients[name][2], curves[name][-1].tolist()
        print(f"{name:14}{distance:+14.1f} st. errors off{chance:12.3f}{logit:16.1f}")
    draw_picture(args.out / "grpo.png", gradients, curves)

    assert abs(gradients["mu"][2]) < 3, "scored under mu, the gradient is not the enumerated one"
    assert abs(gradients["pi"][2]) > 6, "scored under pi, the gradient should be biased"
    (chance_mu, logit_mu), (chance_pi, logit_pi) = curves["mu"][-1].tolist(), curves["pi"][-1].tolist()
    assert chance_mu > chance_pi, "training under mu should earn more"
    assert logit_pi > 1.5 * logit_mu, "under pi the logits should run away"


if __name__ == "__main__":
    main()
