# SPDX-License-Identifier: Apache-2.0
"""A classifier under the audit: is its confidence true, and what changes its answers?

Digits of 5 x 7 dots, shifted and noisy, and a network that has learnt its few training images by heart. Its
confidence is compared with its accuracy on unseen images, a temperature is fitted on other held-out logits,
and the answers are compared over weight seeds, sampling seeds, batch sizes and dtypes.

    python examples/classifier_audit.py [--seed 1] [--out examples/out]

Over three seeds: the expected calibration error falls from at least 0.12 to at most 0.06 by the fitted
temperature, which changes no answer; equal logits and keys give equal labels in every batch; and no answer
changes with the batch size or the dtype whose margin is more than twice what its logits moved.
"""

from copy import deepcopy

import fusedraw
import torch
from _shared import DIGITS, arguments, images_of, save
from fusedraw.audit.calibration import fit_temperature, reliability
from torch import nn

CLASSES, HEIGHT, WIDTH = 10, 10, 8
NOISE = 0.35  # standard deviation; a dot is 1
TRAIN, HELD_OUT, TEST = 800, 2000, 2000
STEPS = 400
BATCHES = (1, 7, 64)
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}
ECE_BEFORE, ECE_AFTER = 0.12, 0.06


def digits(count, generator):
    """Images float32 [count, HEIGHT * WIDTH] and labels int64 [count]."""
    return images_of(DIGITS, count, generator, HEIGHT, WIDTH, NOISE)


def train(images, labels, seed):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(HEIGHT * WIDTH, 256), nn.ReLU(), nn.Linear(256, CLASSES))
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(STEPS):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimiser.step()
    return model.requires_grad_(False)


def calibration(logits, labels, temperature):
    confidence, answers = fusedraw.softmax(logits, temperature=temperature).max(-1)
    return reliability(confidence, answers == labels)


def equal(a, b):
    return (a == b).double().mean().item()


def audit(seed):
    """{figure: number} and {"before", "after": Reliability} of one training and test set."""
    generator = torch.Generator().manual_seed(seed)
    seen, held_out, test = (digits(count, generator) for count in (TRAIN, HELD_OUT, TEST))
    model, other = (train(*seen, seed=1000 * seed + weights) for weights in range(2))
    images, labels = test
    logits = model(images)
    found = {"accuracy, seen": equal(model(seen[0]).argmax(-1), seen[1])}

    fit = fit_temperature(lambda: iter([(model(held_out[0]), held_out[1])]))
    before, after = (calibration(logits, labels, t) for t in (1.0, fit.temperature))
    found |= {"accuracy, unseen": before.accuracy, "temperature": fit.temperature}
    for name in ("mean_confidence", "ece", "mce", "brier"):
        found |= {f"{name}, T = 1": getattr(before, name), f"{name}, fitted T": getattr(after, name)}
    found |= {"accuracy, fitted T": after.accuracy}

    keys = fusedraw.derive_keys(seed, torch.arange(TEST))
    draw = fusedraw.Sampler(temperature=fit.temperature)
    sampled = draw(logits, keys=keys)
    again = draw(logits, keys=fusedraw.derive_keys(seed + 1, torch.arange(TEST)))
    found["answers equal, other weights"] = equal(logits.argmax(-1), other(images).argmax(-1))
    found["draws equal, other key"] = equal(sampled, again)
    found["expected: sum of p^2"] = fusedraw.softmax(logits, fit.temperature).square().sum(-1).mean().item()

    changed = {f"batches of {n}": torch.cat([model(part) for part in images.split(n)]) for n in BATCHES}
    changed |= {name: deepcopy(model).to(dtype)(images.to(dtype)).float() for name, dtype in DTYPES.items()}
    top = logits.topk(2).values
    margin = top[:, 0] - top[:, 1]
    beyond = 0
    for name, moved in changed.items():
        flipped = moved.argmax(-1) != logits.argmax(-1)
        by = (moved - logits).abs().amax(-1)
        beyond += int((flipped & (margin > 2 * by)).sum())
        found[f"answers equal, {name}"] = 1 - flipped.double().mean().item()
        found[f"draws equal, {name}"] = equal(sampled, draw(moved, keys=keys))
        found[f"logits moved by, {name}"] = by.max().item()
    found["flips beyond the margin"] = beyond
    same = [
        torch.cat([draw(x, keys=k) for x, k in zip(logits.split(n), keys.split(n), strict=True)])
        for n in BATCHES
    ]
    found["draws equal, equal logits"] = min(equal(sampled, ids) for ids in same)
    return found, {"before": before, "after": after}


def picture(path, curves):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 4.4), layout="constrained", sharey=True)
    titles = {"before": "as trained, T = 1", "after": "temperature fitted on held-out logits"}
    for axis, (name, title) in zip(axes, titles.items(), strict=True):
        bins = [b for b in curves[name].bins if b.count]
        axis.plot([0, 1], [0, 1], color="0.75", lw=1)
        axis.bar(
            [b.low for b in bins],
            [b.accuracy for b in bins],
            [b.high - b.low for b in bins],
            align="edge",
            color="tab:blue",
            alpha=0.35,
        )
        sizes = [8 + 400 * b.count / TEST for b in bins]
        axis.scatter([b.confidence for b in bins], [b.accuracy for b in bins], s=sizes, color="tab:blue")
        axis.set(title=f"{title}: ECE {curves[name].ece:.3f}", xlabel="confidence", xlim=(0, 1), ylim=(0, 1))
    axes[0].set_ylabel("accuracy")
    figure.savefig(path, dpi=120)


def main():
    seeds, out = arguments(__doc__)
    audits, curves = zip(*map(audit, seeds), strict=True)
    print(f"{'seed':<32}" + "".join(f"{seed:>10}" for seed in seeds))
    for name in audits[0]:
        print(f"{name:<32}" + "".join(f"{found[name]:>10.4g}" for found in audits))
    print(f"\nseed {seeds[0]}, bins of at least 2 % of the images: confidence -> accuracy")
    for name, curve in curves[0].items():
        bins = [b for b in curve.bins if b.count >= 0.02 * TEST]
        print(f"  {name:<7}" + "  ".join(f"{b.confidence:.2f} -> {b.accuracy:.2f}" for b in bins))

    save(picture, out / "classifier_audit.png", curves[0])
    for seed, found in zip(seeds, audits, strict=True):
        before, after = found["ece, T = 1"], found["ece, fitted T"]
        assert before >= ECE_BEFORE and after <= ECE_AFTER, f"seed {seed}: ECE {before:.3f}, then {after:.3f}"
        assert found["accuracy, fitted T"] == found["accuracy, unseen"], f"seed {seed}: T changed an answer"
        assert found["draws equal, equal logits"] == 1, f"seed {seed}: a draw changed with the batch"
        assert found["flips beyond the margin"] == 0, f"seed {seed}: a flip that the margin forbids"
    print("as it should be: the temperature mends the confidence, and answers flip only where logits moved")


if __name__ == "__main__":
    main()
