# SPDX-License-Identifier: Apache-2.0
"""Label noise and domain shift, as entropy and energy see them.

Six classes of points in sixteen dimensions. Networks are trained with a growing share of wrong labels: they
answer nearly as well, but their entropy rises with the share, and the labels that surprise them are the wrong
ones. Then inputs from elsewhere: each is to be told from test points by its entropy or by its energy,
-logsumexp(logits), and the AUROC says how well that goes. Classes never seen ("foreign") and points measured
at a quarter of their size ("faded") are found. Noise upon points is hardly found, as answers stay right.
Points three times their size ("loud") are missed: far out the network is surer, and both scores believe it.

    python examples/label_noise.py [--seed 1] [--out examples/out]

Over three seeds: the mean entropy rises with every step of the noise and stays within 0.15 nats of that of
the noise itself; wrong labels are told from right ones by their surprise with an AUROC of at least 0.99; of
the network with clean labels, entropy and energy both have an AUROC of at least 0.85 for "foreign" and 0.95
for "faded", and of at most 0.15 for "loud".
"""

import fusedraw
import torch
from _shared import arguments, save
from torch import nn

CLASSES, DIMENSIONS = 6, 16
SPREAD = 0.75  # standard deviation within a class; centres are standard normal
TRAIN, TEST = 3000, 2000
SHARES = (0.0, 0.1, 0.2, 0.4)  # of labels, replaced by any of the six
STEPS, BATCH = 400, 100
SHIFTS = ("foreign", "faded", "noisy", "loud")
WITHIN, FOUND, MISSED = 0.15, {"foreign": 0.85, "faded": 0.95}, {"loud": 0.15}


def points(centres, count, generator):
    labels = torch.randint(len(centres), (count,), generator=generator)
    return centres[labels] + SPREAD * torch.randn(count, DIMENSIONS, generator=generator), labels


def with_noise(labels, share, generator):
    """A share of the labels drawn anew from the uniform law: fusedraw's own mixture, with exact coins."""
    known = 64.0 * nn.functional.one_hot(labels, CLASSES)  # 64 nats below, a weight is 0: only coins err
    seed = int(torch.randint(2**62, (1,), generator=generator))
    return fusedraw.sample(known, mix_eps=share, mix_support="valid", seed=seed)


def train(inputs, labels, seed):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(DIMENSIONS, 64), nn.ReLU(), nn.Linear(64, CLASSES))
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3, weight_decay=1e-4)
    for _ in range(STEPS):
        rows = torch.randint(len(labels), (BATCH,))
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(inputs[rows]), labels[rows]).backward()
        optimiser.step()
    return model.requires_grad_(False)


def entropy_of(logits):
    return fusedraw.sample(logits, seed=0, returns=("entropy",)).entropy


def energy_of(logits):
    return -logits.logsumexp(-1)


SCORES = {"entropy": entropy_of, "energy": energy_of}


def auroc(scores, others):
    """The share of pairs in which the score is above the other; a tie counts half."""
    ahead = scores[:, None] - others
    return ((ahead > 0).double() + 0.5 * (ahead == 0)).mean().item()


def noise_entropy(share):
    """Of the label of a point whose class is plain, in nats: what a perfect network would have."""
    p = torch.full((CLASSES,), share / CLASSES)
    p[0] += 1 - share
    return torch.special.entr(p).sum().item()


def audit(seed):
    """{share of wrong labels: {figure: number}}, and logits of the cleanest network for the picture."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(CLASSES, DIMENSIONS, generator=generator)
    inputs, labels = points(centres, TRAIN, generator)
    test, test_labels = points(centres, TEST, generator)
    foreign, _ = points(torch.randn(CLASSES, DIMENSIONS, generator=generator), TEST, generator)
    noisy = test + 1.5 * torch.randn(test.shape, generator=generator)
    shifted = dict(zip(SHIFTS, (foreign, test / 4, noisy, test * 3), strict=True))
    found, shown = {}, None
    for share in SHARES:
        given = with_noise(labels, share, generator)
        model = train(inputs, given, seed)
        logits = {"test": model(test)} | {name: model(moved) for name, moved in shifted.items()}
        shown = shown or logits
        figures = {"accuracy": (logits["test"].argmax(-1) == test_labels).double().mean().item()}
        figures |= {name: score(logits["test"]).mean().item() for name, score in SCORES.items()}
        surprise, wrong = -fusedraw.token_logprob(model(inputs), given), given != labels
        figures["wrong labels, surprise"] = auroc(surprise[wrong], surprise[~wrong])  # NaN: there are none
        for name in SHIFTS:
            for how, score in SCORES.items():
                figures[f"{name}, {how}"] = auroc(score(logits[name]), score(logits["test"]))
        found[share] = figures
    return found, shown


def picture(path, found, shown):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(14, 4.2), layout="constrained")
    fine = torch.linspace(0, max(SHARES), 100).tolist()
    axes[0].plot(fine, [noise_entropy(share) for share in fine], color="0.7", label="of the noise itself")
    axes[0].plot(SHARES, [found[share]["entropy"] for share in SHARES], marker="o", label="of the network")
    axes[0].set(
        xlabel="share of labels drawn anew", ylabel="entropy (nats)", title="Label noise", ylim=(0, None)
    )
    axes[0].legend(frameon=False)
    for axis, (how, score) in zip(axes[1:], SCORES.items(), strict=True):
        axis.violinplot([score(logits) for logits in shown.values()], showmedians=True, showextrema=False)
        marks = [name if name == "test" else f"{name}\n{found[0.0][f'{name}, {how}']:.2f}" for name in shown]
        axis.set_xticks(range(1, len(marks) + 1), marks)
        axis.set(ylabel=f"{how} (nats)", title=f"Domain shift: {how}, and its AUROC")
    figure.savefig(path, dpi=120)


def main():
    seeds, out = arguments(__doc__)
    audits, shown = zip(*map(audit, seeds), strict=True)
    for seed, found in zip(seeds, audits, strict=True):
        print(f"seed {seed}: share of noise   " + "".join(f"{share:>8.0%}" for share in SHARES))
        print(
            f"  {'entropy of the noise':<23}" + "".join(f"{noise_entropy(share):>8.3f}" for share in SHARES)
        )
        for name in found[0.0]:
            print(f"  {name:<23}" + "".join(f"{found[share][name]:>8.3f}" for share in SHARES))
    save(picture, out / "label_noise.png", audits[0], shown[0])

    for seed, found in zip(seeds, audits, strict=True):
        entropies = [found[share]["entropy"] for share in SHARES]
        off = max(
            abs(entropy - noise_entropy(share)) for entropy, share in zip(entropies, SHARES, strict=True)
        )
        assert entropies == sorted(entropies) and off <= WITHIN, f"seed {seed}: entropies {entropies}"
        surprises = [found[share]["wrong labels, surprise"] for share in SHARES[1:]]
        assert min(surprises) >= 0.99, f"seed {seed}: AUROC of surprise for wrong labels {surprises}"
        for how in SCORES:
            areas = {name: round(found[0.0][f"{name}, {how}"], 3) for name in SHIFTS}
            good = all(areas[name] >= least for name, least in FOUND.items())
            bad = all(areas[name] <= most for name, most in MISSED.items())
            assert good and bad, f"seed {seed}: AUROC of {how} {areas}"
    print("as it should be: entropy tells the noise and the faint, and is blind to what is loud")


if __name__ == "__main__":
    main()
