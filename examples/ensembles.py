# SPDX-License-Identifier: Apache-2.0
"""Ensembles and MC dropout against over-confidence, and mutual information against the unknown.

A network that has learnt its few training digits by heart is too sure of unseen ones. Less so is the mean of
the laws of eight networks with weight seeds of their own, and that of one network, trained with dropout,
under 32 dropout masks. Letters, which none has seen, are told from digits by how much the members disagree
(mutual information, MI), or by the entropy of the mean: fusedraw.mixture gives both in the call that draws.

    python examples/ensembles.py [--seed 1] [--out examples/out]

Over three seeds: the ensemble's expected calibration error is at most 0.8 times that of its first member,
and that of MC dropout at most 0.6 times; the negative log-likelihood of both is lower; letters have at least
1.8 times (ensemble) and 1.3 times (MC dropout) the mutual information of digits. Its AUROC for letters is at
least 0.65 in the ensemble, above that of one network's entropy.
"""

import math

import fusedraw
import torch
from _shared import DIGITS, arguments, images_of, save
from fusedraw.audit.calibration import reliability
from fusedraw.audit.dropout import mc_dropout
from torch import nn

# Five columns of seven dots for each character, the lowest bit on top.
LETTERS = "7E1111117E 3E41414122 7F09090901 7F0808087F 7F08142241 "
LETTERS += "7F0204027F 7F0408107F 01017F0101 3F4040403F 6314081463"
CLASSES, HEIGHT, WIDTH = 10, 9, 7
NOISE = 0.25  # standard deviation; a dot is 1
TRAIN, TEST, UNKNOWN = 300, 2000, 1000
STEPS, HIDDEN = 200, 128
MEMBERS, MASKS, RATE = 8, 32, 0.2
AIMS = {"ensemble": (0.8, 1.8), "MC dropout": (0.6, 1.3)}  # ECE of a single one's, MI of that of digits
AUROC = 0.65


def train(images, labels, seed, dropout=0.0):
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Linear(HEIGHT * WIDTH, HIDDEN),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(HIDDEN, HIDDEN),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(HIDDEN, CLASSES),
    )
    optimiser = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(STEPS):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimiser.step()
    return model.eval().requires_grad_(False)


def auroc(scores, others):
    """The share of pairs in which the score is above the other; a tie counts half."""
    ahead = scores[:, None] - others
    return ((ahead > 0).double() + 0.5 * (ahead == 0)).mean().item()


def laws(seed, seen, inputs):
    """{way: logits [M, B, CLASSES]} of each input, by name: one network, its dropout masks, an ensemble."""
    networks = [train(*seen, seed=1000 * seed + member) for member in range(MEMBERS)]
    with_dropout = train(*seen, seed=1000 * seed, dropout=RATE)
    masked = []
    for mask in range(MASKS):
        with mc_dropout(with_dropout, RATE, seed=1000 * seed + mask, layers=is_relu):
            masked.append({name: with_dropout(images) for name, images in inputs.items()})
    members = {
        "single": [{name: networks[0](images) for name, images in inputs.items()}],
        "MC dropout": masked,
        "ensemble": [{name: network(images) for name, images in inputs.items()} for network in networks],
    }
    return {
        way: {name: torch.stack([m[name] for m in each]) for name in inputs} for way, each in members.items()
    }


def is_relu(name, module):
    return isinstance(module, nn.ReLU)


def audit(seed):
    """{way: {figure: number}}, and {way: what the picture shows}."""
    generator = torch.Generator().manual_seed(seed)
    seen, (images, labels) = (
        images_of(DIGITS, count, generator, HEIGHT, WIDTH, NOISE) for count in (TRAIN, TEST)
    )
    letters, _ = images_of(LETTERS, UNKNOWN, generator, HEIGHT, WIDTH, NOISE)
    found, shown = {}, {}
    for way, logits in laws(seed, seen, {"digits": images, "letters": letters}).items():
        mean = fusedraw.softmax(logits["digits"].flatten(0, 1)).view_as(logits["digits"]).mean(0)
        confidence, answers = mean.max(-1)
        true = reliability(confidence, answers == labels)
        # One call draws from the mean of the laws and says how sure it is and how much the members disagree.
        returns = ("entropy", "mutual_information")
        known, unknown = (fusedraw.mixture(logits[name], seed=seed, returns=returns) for name in logits)
        found[way] = {
            "accuracy": true.accuracy,
            "confidence": true.mean_confidence,
            "ECE": true.ece,
            "NLL": -mean.gather(-1, labels[:, None]).log().mean().item(),
            "draws right": (known.ids == labels).double().mean().item(),
            "MI, digits": known.mutual_information.mean().item(),
            "MI, letters": unknown.mutual_information.mean().item(),
            "AUROC, MI": auroc(unknown.mutual_information, known.mutual_information),
            "AUROC, entropy": auroc(unknown.entropy, known.entropy),
        }
        if len(logits["digits"]) == 1:
            found[way] |= dict.fromkeys(("MI, digits", "MI, letters", "AUROC, MI"), math.nan)  # alone
        shown[way] = {"digits": known.mutual_information, "letters": unknown.mutual_information, "true": true}
    return found, shown


def picture(path, shown):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.4), layout="constrained")
    left.plot([0, 1], [0, 1], color="0.75", lw=1)
    for way, each in shown.items():
        bins = [b for b in each["true"].bins if b.count >= 20]  # fewer say little
        xs, ys = [b.confidence for b in bins], [b.accuracy for b in bins]
        left.plot(xs, ys, marker="o", ms=4, label=f"{way}: ECE {each['true'].ece:.3f}")
    left.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1), title="Unseen digits")
    left.legend(frameon=False)
    for name in ("digits", "letters"):
        right.hist(shown["ensemble"][name], bins=40, range=(0, 0.7), density=True, alpha=0.55, label=name)
    right.set(
        xlabel="mutual information (nats)", ylabel="density", title=f"Disagreement of {MEMBERS} networks"
    )
    right.legend(frameon=False)
    figure.savefig(path, dpi=120)


def main():
    seeds, out = arguments(__doc__)
    audits, shown = zip(*map(audit, seeds), strict=True)
    for seed, found in zip(seeds, audits, strict=True):
        print(f"{'seed ' + str(seed):<12}" + "".join(f"{name:>15}" for name in found["single"]))
        for way, figures in found.items():
            print(f"{way:<12}" + "".join(f"{value:>15.3g}" for value in figures.values()))
    save(picture, out / "ensembles.png", shown[0])

    for seed, found in zip(seeds, audits, strict=True):
        single = found["single"]
        for way, (share, times) in AIMS.items():
            it = found[way]
            assert it["ECE"] <= share * single["ECE"], f"seed {seed}: ECE of {way} {it['ECE']:.3f}"
            assert it["NLL"] < single["NLL"], f"seed {seed}: NLL of {way} {it['NLL']:.3f}"
            assert it["MI, letters"] >= times * it["MI, digits"], f"seed {seed}: {way} knows letters"
        area, alone = found["ensemble"]["AUROC, MI"], single["AUROC, entropy"]
        assert area >= AUROC and area > alone, f"seed {seed}: AUROC {area:.3f}, of one network {alone:.3f}"
    print("as it should be: many are less sure than one, and disagree where they know nothing")


if __name__ == "__main__":
    main()
