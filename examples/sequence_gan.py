# SPDX-License-Identifier: Apache-2.0
"""A sequence GAN: a generator learns a planted rule from what a discriminator says of its drawn sequences.

Sequences are 8 tokens out of 12; in real ones, token t is followed by t + 1, t + 3 or t + 8 (mod 12) with
probability 0.5, 0.3 and 0.2. A GRU generates, after a short warm-up on real sequences; another GRU tells real
prefixes from generated ones. Draws have no gradient, so the generator climbs the policy gradient (SeqGAN, Yu
et al., 2017), with two changes: the discriminator judges every prefix, which takes the place of rollouts, and
each batch is used for two steps with the clipped ratio of PPO. The ratio needs the policy that drew: `logp`
of `fusedraw.sample`, and under newer weights `token_logprob` with the same parameters, 1 % of pure chance
included.

    python examples/sequence_gan.py [--seed 1] [--out examples/out]

Needs matplotlib for the picture.

Asserted for each of three seeds: the share of generated transitions that keep the rule rises by at least 0.3
and to at least 0.9; a discriminator trained afresh tells real from generated prefixes less often than before
training, by at least 0.2; the generator does not collapse to a part of the rule: the steps from token to
token are within 0.12 (total variation) of the planted ones; and before the first step on a batch,
`token_logprob` of whole sequences agrees within 1e-5 with the `logp` of draws made token by token.
"""

import fusedraw
import torch
from _shared import arguments, save
from torch import nn

VOCAB, LENGTH, WIDTH, BATCH = 12, 8, 32, 64
START = VOCAB  # stands before the first token
FOLLOWS = torch.tensor([1, 3, 8])
CHANCES = torch.tensor([0.5, 0.3, 0.2])
DRAW = {"mix_eps": 0.01, "mix_support": "valid"}
WARM_UP, JUDGING = 12, 100  # steps
ROUNDS, TELLING, CLIMBING = 150, 4, 2  # steps of discriminator and generator in each round
RATE, CLIP, DISCOUNT = 3e-3, 0.2, 0.5
BOUND, SCALE = 4.0, 2.0  # of a token's reward, in nats; the reward that counts as one
TEST = 1000
RISE, KEPT, FALL, OFF, APART = 0.3, 0.9, 0.2, 0.12, 1e-5


def real_sequences(count, generator):
    """int64 [count, LENGTH]."""
    first = torch.randint(VOCAB, (count, 1), generator=generator)
    which = torch.multinomial(CHANCES, count * (LENGTH - 1), replacement=True, generator=generator)
    return torch.cat([first, FOLLOWS[which].view(count, -1)], 1).cumsum(1) % VOCAB


def keeps_rule(ids):
    """The share of transitions that do."""
    steps = (ids[:, 1:] - ids[:, :-1]) % VOCAB
    return torch.isin(steps, FOLLOWS).double().mean().item()


def off(ids):
    """Total variation of the steps from token to token against the planted ones."""
    steps = ((ids[:, 1:] - ids[:, :-1]) % VOCAB).flatten().bincount(minlength=VOCAB) / ids[:, 1:].numel()
    steps[FOLLOWS] -= CHANCES
    return steps.abs().sum().item() / 2


class Reader(nn.Module):
    """A GRU over tokens: `outputs` numbers after each of them."""

    def __init__(self, outputs):
        super().__init__()
        self.embed = nn.Embedding(VOCAB + 1, WIDTH)
        self.gru = nn.GRU(WIDTH, WIDTH, batch_first=True)
        self.out = nn.Linear(WIDTH, outputs)

    def forward(self, ids, state=None):
        hidden, state = self.gru(self.embed(ids), state)
        return self.out(hidden), state


def logits_of(generator, ids):
    """[rows, LENGTH, VOCAB]: from which each token of `ids` comes."""
    return generator(nn.functional.pad(ids[:, :-1], (1, 0), value=START))[0]


@torch.no_grad()
def generate(generator, count, seed, round_number):
    """(ids, their log-probabilities under what drew them), [count, LENGTH]."""
    ids, state, steps = torch.full((count,), START), None, []
    for step in range(LENGTH):
        logits, state = generator(ids[:, None], state)
        keys = fusedraw.derive_keys(seed, torch.arange(count), step=round_number * LENGTH + step)
        out = fusedraw.sample(logits[:, 0], keys=keys, returns=("logp",), **DRAW)
        ids = out.ids
        steps.append((out.ids, out.logp))
    return tuple(torch.stack(column, 1) for column in zip(*steps, strict=True))


def warm_up(generator, optimizer, chance):
    for _ in range(WARM_UP):
        ids = real_sequences(BATCH, chance)
        loss = nn.functional.cross_entropy(logits_of(generator, ids).flatten(0, 1), ids.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def learn_to_tell(discriminator, optimizer, real, generated):
    logits = discriminator(torch.cat([real, generated]))[0][..., 0]
    target = torch.cat([torch.ones(real.shape), torch.zeros(generated.shape)])
    loss = nn.functional.binary_cross_entropy_with_logits(logits, target)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


@torch.no_grad()
def advantages(discriminator, ids):
    """[rows, LENGTH]: discounted sums of rewards from each token on, against the batch's mean of that place.

    The logit of a good discriminator is log p / q of the prefix, so what a token adds to it is the token's
    own log p / q, and its mean under q, which the generator climbs, is minus the divergence KL(q || p).
    """
    logits = discriminator(ids)[0][..., 0]
    rewards = logits.diff(dim=1, prepend=torch.zeros(len(ids), 1)).clamp(-BOUND, BOUND)
    value, values = torch.zeros(len(ids)), []
    for step in reversed(range(LENGTH)):
        value = rewards[:, step] + DISCOUNT * value
        values.append(value)
    values = torch.stack(values[::-1], 1)
    return (values - values.mean(0)) / SCALE


def improve(generator, optimizer, ids, logp, weights):
    """CLIMBING steps on one batch; how far `token_logprob` was from `logp` before the first."""
    for step in range(CLIMBING):
        new = fusedraw.token_logprob(logits_of(generator, ids), ids, **DRAW)
        ratio = (new - logp).exp()
        if step == 0:
            apart = (new - logp).abs().max().item()
        gain = torch.minimum(ratio * weights, ratio.clamp(1 - CLIP, 1 + CLIP) * weights)
        loss = -gain.mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(generator.parameters(), 1.0)
        optimizer.step()
    return apart


def judge(generator, seed, chance):
    """Share of unseen prefixes that a discriminator trained afresh gets right; `keeps_rule`, `off`."""
    judging = Reader(1)
    optimizer = torch.optim.Adam(judging.parameters(), lr=5e-3)
    for step in range(JUDGING):
        generated, _ = generate(generator, BATCH, seed, step)
        learn_to_tell(judging, optimizer, real_sequences(BATCH, chance), generated)
    generated, _ = generate(generator, TEST, seed, JUDGING)
    real = real_sequences(TEST, chance)
    with torch.no_grad():
        says_real = [(judging(ids)[0] > 0).double().mean().item() for ids in (real, generated)]
    return (says_real[0] + 1 - says_real[1]) / 2, keeps_rule(generated), off(generated)


def run(seed):
    """(judged before, judged after, curve of the rule, largest difference of token_logprob and logp)."""
    torch.manual_seed(seed)
    chance = torch.Generator().manual_seed(seed)
    generator, discriminator = Reader(VOCAB), Reader(1)
    climbing = torch.optim.Adam(generator.parameters(), lr=5e-3)
    telling = torch.optim.Adam(discriminator.parameters(), lr=5e-3)
    warm_up(generator, climbing, chance)
    before = judge(generator, 3 * seed, chance)
    climbing = torch.optim.Adam(generator.parameters(), lr=RATE)
    slower = torch.optim.lr_scheduler.LinearLR(climbing, 1.0, 0.0, total_iters=ROUNDS)
    curve, apart = [], 0.0
    for number in range(ROUNDS):
        ids, logp = generate(generator, BATCH, 3 * seed + 1, number)
        curve.append(keeps_rule(ids))
        for _ in range(TELLING):
            learn_to_tell(discriminator, telling, real_sequences(BATCH, chance), ids)
        apart = max(apart, improve(generator, climbing, ids, logp, advantages(discriminator, ids)))
        slower.step()
    return before, judge(generator, 3 * seed + 2, chance), curve, apart


def picture(path, curves):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for seed, curve in curves.items():
        means = torch.tensor(curve).view(-1, 5).mean(1)
        axes.plot(torch.arange(len(means)) * 5, means, label=f"seed {seed}")
    axes.axhline(len(FOLLOWS) / VOCAB, color="black", lw=0.8, ls=":")
    axes.annotate("pure chance", (0, len(FOLLOWS) / VOCAB), xytext=(0, 3), textcoords="offset points")
    axes.set(title="Transitions that keep the rule", xlabel="round", ylim=(0, 1))
    axes.legend(frameon=False, loc="lower right")
    figure.savefig(path, dpi=120)


def main():
    seeds, out = arguments(__doc__)
    print("          keeps rule   told from real   off the steps    token_logprob")
    print("seed   before  after    before  after   before  after   and logp apart")
    found, curves = [], {}
    for seed in seeds:
        (told, kept, off_before), (told_after, kept_after, off_after), curves[seed], apart = run(seed)
        print(f"{seed:4}{kept:9.3f}{kept_after:7.3f}{told:10.3f}{told_after:7.3f}", end="")
        print(f"{off_before:9.3f}{off_after:7.3f}{apart:17.1e}")
        found.append((kept_after - kept, kept_after, told - told_after, off_after, apart))
    save(picture, out / "sequence_gan.png", curves)

    for rise, kept, fall, off_after, apart in found:
        assert rise >= RISE and kept >= KEPT, f"the rule is kept by {kept:.2f} of transitions, {rise:+.2f}"
        assert fall >= FALL, f"the discriminator's accuracy falls by {fall:.2f} only"
        assert off_after <= OFF, f"a part of the rule is lost: the steps are {off_after:.2f} off"
        assert apart <= APART, f"token_logprob and logp are {apart:.1e} apart"
    print("the rule is kept more often, and generated sequences are harder to tell from real ones")


if __name__ == "__main__":
    main()
