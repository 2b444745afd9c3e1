# SPDX-License-Identifier: Apache-2.0
"""A discrete VAE: images through four categorical latents, drawn by `fusedraw.Categorical`, straight through.

Images of 8 x 8 pixels show a full row, a full column and one of four corners filled, all chosen at random;
then each pixel flips with probability 0.02. The encoder gives the logits of four latents of 8 values, the
values are drawn, each with a key of its own (image, latent, step), and the decoder gets them one-hot. A draw
has no gradient; two estimates of it are compared, from equal weights, images and keys: that of the
probabilities, passed straight through (Bengio et al., 2013), and ReinMax (Liu et al., 2023), of second order.

The ELBO of test images, in nats, stands between two figures known without training: the log-likelihood of
pixels taken as independent, each with its frequency (the baseline), and that of the process that makes the
images (nothing does better).

    python examples/discrete_vae.py [--seed 1] [--out examples/out]

Needs matplotlib for the picture.

Asserted for each of three seeds: from the baseline to the process, the ELBO goes at least 60 % of the way
with straight-through gradients and 80 % with ReinMax, and at least 5 points more with ReinMax; decoding the
draws leaves at most half of the baseline's wrong pixels; latents drawn again one image at a time from the
same logits are the same.
"""

import math

import fusedraw
import torch
from _shared import arguments, save
from torch import nn

SIZE, FLIP = 8, 0.02
LATENTS, VALUES = 4, 8
STEPS, BATCH, RATE, WIDTH = 1200, 128, 1e-2, 128
TEST, CORNER = 2000, 2
WAY, GAIN, WRONG = {"straight through": 0.6, "ReinMax": 0.8}, 0.05, 0.5


def clean_images():
    """float32 [8 * 8 * 4, 64]: every image before the flips, all equally likely."""
    row, column, corner = torch.meshgrid(*(torch.arange(n) for n in (SIZE, SIZE, 4)), indexing="ij")
    row, column, corner = (x.flatten()[:, None, None] for x in (row, column, corner))
    y, x = torch.arange(SIZE)[None, :, None], torch.arange(SIZE)[None, None]
    low, left = corner // 2, corner % 2
    in_corner = (torch.where(low == 1, SIZE - 1 - y, y) < CORNER) & (
        torch.where(left == 1, x, SIZE - 1 - x) < CORNER
    )
    return ((y == row) | (x == column) | in_corner).flatten(1).float()


def noisy(clean, generator):
    return (clean + (torch.rand(clean.shape, generator=generator) < FLIP)) % 2


def draw_images(clean, count, generator):
    return noisy(clean[torch.randint(len(clean), (count,), generator=generator)], generator)


class DiscreteVAE(nn.Module):
    def __init__(self):
        super().__init__()
        pixels, units = SIZE * SIZE, LATENTS * VALUES
        self.encoder = nn.Sequential(nn.Linear(pixels, WIDTH), nn.ReLU(), nn.Linear(WIDTH, units))
        self.decoder = nn.Sequential(nn.Linear(units, WIDTH), nn.ReLU(), nn.Linear(WIDTH, pixels))

    def law(self, images):
        logits = self.encoder(images).view(-1, LATENTS, VALUES)
        return fusedraw.Categorical(logits=logits, validate_args=False)

    def decode(self, one_hot):
        return self.decoder(one_hot.flatten(1))


def keys_of(numbers, seed, step):
    """uint64 [images, LATENTS, 2]: the sample id tells the latents of an image apart."""
    latents = torch.arange(LATENTS).repeat(len(numbers))
    keys = fusedraw.derive_keys(seed, numbers.repeat_interleave(LATENTS), latents, step)
    return keys.view(len(numbers), LATENTS, 2)


def straight_through(law, one_hot):
    return law.probs


def reinmax(law, one_hot):
    """Heun's second-order step (algorithm 2 of the paper) in place of the first-order one."""
    logits = law.logits
    middle = ((one_hot + law.probs.detach()) / 2).log()
    return 2 * (logits + (middle - logits).detach()).softmax(-1) - law.probs / 2


GRADIENTS = {"straight through": straight_through, "ReinMax": reinmax}


def elbo(model, images, keys, gradient):
    """[images], nats, of one draw each: log p(x | z) - KL(q(z | x) || uniform)."""
    law = model.law(images)
    one_hot = nn.functional.one_hot(law.sample(keys=keys), VALUES).float()
    surrogate = gradient(law, one_hot)
    logits = model.decode(one_hot + (surrogate - surrogate.detach()))
    likelihood = -nn.functional.binary_cross_entropy_with_logits(logits, images, reduction="none").sum(1)
    return likelihood - (math.log(VALUES) - law.entropy()).sum(1)


def train(model, clean, seed, gradient):
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=STEPS)
    curve = []
    for step in range(STEPS):
        keys = keys_of(torch.arange(BATCH), seed, step)
        loss = -elbo(model, draw_images(clean, BATCH, generator), keys, gradient).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        curve.append(-loss.item())
    return curve


def baseline(clean, images):
    """(log-likelihood [images], share of wrong pixels) of independent pixels with their true frequencies."""
    p = (1 - FLIP) * clean.mean(0) + FLIP * (1 - clean.mean(0))
    likelihood = (images * p.log() + (1 - images) * (1 - p).log()).sum(1)
    return likelihood, ((p > 0.5).float() != images).float().mean().item()


def process(clean, images):
    """log-likelihood [images] under the process that makes them."""
    flips = torch.cdist(images, clean, p=1)
    each = flips * math.log(FLIP) + (SIZE * SIZE - flips) * math.log(1 - FLIP)
    return each.logsumexp(1) - math.log(len(clean))


@torch.no_grad()
def test(model, clean, seed):
    """(images, decoded images, figures)."""
    images = draw_images(clean, TEST, torch.Generator().manual_seed(2**32 + seed))
    keys = keys_of(torch.arange(TEST), seed, STEPS)
    low, wrong_low = baseline(clean, images)
    low, high = low.mean().item(), process(clean, images).mean().item()
    logits = model.encoder(images).view(-1, LATENTS, VALUES)
    drawn = fusedraw.Categorical(logits=logits).sample(keys=keys)
    alone = [fusedraw.sample(row, keys=row_keys) for row, row_keys in zip(logits, keys, strict=True)]
    decoded = model.decode(nn.functional.one_hot(drawn, VALUES).float()).sigmoid()
    wrong = ((decoded > 0.5).float() != images).float().mean().item()
    reached = elbo(model, images, keys, straight_through).mean().item()
    return (
        images,
        decoded,
        {
            "baseline": low,
            "ELBO": reached,
            "process": high,
            "way": (reached - low) / (high - low),
            "wrong": wrong,
            "baseline's": wrong_low,
            "moved": int((torch.stack(alone) != drawn).sum()),
        },
    )


def picture(path, images, decoded, curves, bounds):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(13, 4), layout="constrained")
    pairs = torch.stack([images, decoded]).view(2, -1, SIZE, SIZE)
    pairs = nn.functional.pad(pairs, (1, 1, 1, 1), value=0.5)
    left.imshow(pairs.permute(0, 2, 1, 3).flatten(2).flatten(0, 1), cmap="gray_r", vmin=0, vmax=1)
    left.set(title="Test images and what their latents decode to")
    left.axis("off")
    for name, curve in curves.items():
        means = torch.tensor(curve).view(-1, 10).mean(1)
        right.plot(torch.arange(len(means)) * 10, means, label=name, lw=1)
    for bound, name in zip(bounds, ("independent pixels", "the process itself"), strict=True):
        right.axhline(bound, color="black", lw=0.8, ls=":")
        right.annotate(name, (2, bound), xytext=(0, 3), textcoords="offset points", fontsize=8)
    right.set(title="ELBO (nats)", xlabel="step", ylim=(-45, 0))
    right.legend(frameon=False)
    figure.savefig(path, dpi=120)


def main():
    seeds, out = arguments(__doc__)
    clean, rows = clean_images(), []
    print(
        "seed gradient          baseline    ELBO  process   way  wrong pixels, baseline's  moved when alone"
    )
    for seed in seeds:
        curves, row = {}, {}
        for name, gradient in GRADIENTS.items():
            torch.manual_seed(seed)
            model = DiscreteVAE()
            curves[name] = train(model, clean, seed, gradient)
            images, decoded, row[name] = test(model, clean, seed)
            low, reached, high, way, wrong, wrong_low, moved = row[name].values()
            print(f"{seed:4} {name:<16}{low:10.2f}{reached:8.2f}{high:9.2f}{way:6.0%}", end="")
            print(f"{wrong:14.1%}{wrong_low:12.1%}{moved:18}")
        rows.append(row)
    save(picture, out / "discrete_vae.png", images[:10], decoded[:10], curves, (low, high))

    for row in rows:
        for name, figures in row.items():
            assert figures["way"] >= WAY[name], f"{name}: the ELBO goes only {figures['way']:.0%} of the way"
            assert figures["wrong"] <= WRONG * figures["baseline's"], f"{name}: too many wrong pixels"
            assert figures["moved"] == 0, f"{figures['moved']} latents depend on the batch"
        gain = row["ReinMax"]["way"] - row["straight through"]["way"]
        assert gain >= GAIN, f"ReinMax gains only {gain:.0%}"
    print("every ELBO is far above that of independent pixels, with ReinMax farther")


if __name__ == "__main__":
    main()
