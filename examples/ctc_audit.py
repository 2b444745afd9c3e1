# SPDX-License-Identifier: Apache-2.0
"""A CTC head under the audit: sampled alignments beside the greedy one.

Spoken-digit-like signals: every digit is a contour through twelve frequency bands, digits follow each other
at a varying pace with noise over all. A small convolutional network gives a law over digits and blank for
each frame (torch.nn.CTCLoss). Alignments are drawn with fusedraw.sample, each frame with its key, and
collapsed: repeats merge, blanks go.

    python examples/ctc_audit.py [--seed 1] [--out examples/out]

Over three seeds: the error rate of the greedy labelling is at most 12 %, that of a single sample at least two
points above it, that of the most frequent of 64 samples at most one point above it. Samples say the truth as
often as the CTC likelihood says (within 4 standard errors). Where the samples of an utterance disagree, the
greedy labelling errs: AUROC at least 0.70, above that of the mean entropy of its frames.
"""

from collections import Counter

import fusedraw
import torch
from _shared import arguments, save
from torch import nn

# The band in which a digit starts, that of its middle, and that in which it ends.
VOICES = [(1, 1, 1), (5, 5, 5), (10, 10, 10), (1, 5, 10), (10, 5, 1)]
VOICES += [(1, 10, 1), (10, 1, 10), (5, 10, 5), (5, 1, 5), (1, 10, 10)]
DIGITS, BANDS, BLANK = len(VOICES), 12, 0
SPOKEN = (3, 6)  # digits of an utterance
PACE = (4, 7)  # frames of a digit; up to GAP frames of silence before it
GAP = 2
NOISE = 0.32
FRAMES = SPOKEN[1] * (PACE[1] + GAP)
BATCH, STEPS = 32, 350
TEST, SAMPLES = 300, 64
ERROR, AUROC = 0.12, 0.70


def utterances(count, generator):
    """Signals [count, BANDS, FRAMES], labels (1 to DIGITS) int64 [count, SPOKEN[1]], lengths [count]."""
    lengths = torch.randint(SPOKEN[0], SPOKEN[1] + 1, (count,), generator=generator)
    labels = torch.randint(1, DIGITS + 1, (count, SPOKEN[1]), generator=generator)
    paces = torch.randint(PACE[0], PACE[1] + 1, (count, SPOKEN[1]), generator=generator)
    gaps = torch.randint(GAP + 1, (count, SPOKEN[1]), generator=generator)
    starts = (gaps + torch.cat((torch.zeros(count, 1), (paces + gaps)[:, :-1]), 1).cumsum(1)).long()
    frames = torch.arange(FRAMES)
    at = (frames - starts[..., None]) / (paces[..., None] - 1)  # [count, digit, frame]: 0 to 1 within it
    voiced = (at >= 0) & (at <= 1) & (torch.arange(SPOKEN[1]) < lengths[:, None])[..., None]
    low, mid, high = torch.tensor(VOICES)[labels - 1].unsqueeze(-2).unbind(-1)
    band = torch.where(at < 0.5, low + (mid - low) * 2 * at, mid + (high - mid) * (2 * at - 1))
    energy = (-(((torch.arange(BANDS)[:, None] - band[:, :, None]) / 1.2) ** 2)).exp() * voiced[:, :, None]
    signal = energy.sum(1)
    return signal + NOISE * torch.randn(signal.shape, generator=generator), labels, lengths


def train(seed):
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv1d(BANDS, 48, 7, padding=3),
        nn.BatchNorm1d(48),
        nn.ReLU(),
        nn.Conv1d(48, 48, 5, padding=2),
        nn.BatchNorm1d(48),
        nn.ReLU(),
        nn.Conv1d(48, DIGITS + 1, 1),
    )
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
    loss = nn.CTCLoss(blank=BLANK)
    frames = torch.full((BATCH,), FRAMES)
    for _ in range(STEPS):
        signals, labels, lengths = utterances(BATCH, generator)
        log_probs = model(signals).permute(2, 0, 1).log_softmax(-1)
        optimiser.zero_grad()
        loss(log_probs, labels, frames, lengths).backward()
        optimiser.step()
    return model.eval().requires_grad_(False)


def collapse(alignment):
    """The labelling of an alignment [FRAMES]: runs merge, then blanks go."""
    return tuple(label for label in torch.unique_consecutive(alignment).tolist() if label != BLANK)


def errors(said, meant):
    """Levenshtein distance: insertions, deletions and substitutions."""
    row = list(range(len(meant) + 1))
    for i, a in enumerate(said, 1):
        before, row[0] = row[0], i
        for j, b in enumerate(meant, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (a != b))
    return row[-1]


def auroc(scores, positive):
    """The share of pairs in which the positive one scores higher; a tie counts half."""
    ahead = scores[positive][:, None] - scores[~positive]
    return ((ahead > 0).double() + 0.5 * (ahead == 0)).mean().item()


def audit(seed):
    """{figure: number}, and what the picture shows of the utterance on which the samples agree least."""
    generator = torch.Generator().manual_seed(seed)
    model = train(seed)
    signals, labels, lengths = utterances(TEST, generator)
    logits = model(signals).transpose(1, 2)  # [TEST, FRAMES, DIGITS + 1]
    rows = logits.flatten(0, 1)
    utterance, frame = (
        x.flatten() for x in torch.meshgrid(torch.arange(TEST), torch.arange(FRAMES), indexing="ij")
    )

    def draw(sample, temperature=1.0):
        keys = fusedraw.derive_keys(seed, utterance, sample_ids=sample, step=frame)
        return fusedraw.sample(rows, temperature=temperature, keys=keys).view(TEST, FRAMES)

    alignments = torch.stack([draw(sample) for sample in range(SAMPLES)])
    entropy = fusedraw.sample(rows, seed=seed, returns=("entropy",)).entropy.view(TEST, FRAMES)
    truth = [tuple(row[:n]) for row, n in zip(labels.tolist(), lengths.tolist(), strict=True)]
    greedy = [collapse(alignment) for alignment in draw(0, temperature=0.0)]
    sampled = [[collapse(alignment) for alignment in alignments[:, i]] for i in range(TEST)]
    counts = [Counter(labellings) for labellings in sampled]
    vote = [count.most_common(1)[0][0] for count in counts]

    def rate(said):
        return sum(map(errors, said, truth)) / sum(map(len, truth))

    pairs = SAMPLES * (SAMPLES - 1)
    agreement = torch.tensor([sum(n * (n - 1) for n in count.values()) / pairs for count in counts])
    wrong = torch.tensor([said != meant for said, meant in zip(greedy, truth, strict=True)])
    # The probability of a labelling is that of all alignments that collapse to it: exp(-CTC loss).
    loss = nn.CTCLoss(blank=BLANK, reduction="none")
    log_probs = logits.transpose(0, 1).double().log_softmax(-1)
    likely = (-loss(log_probs, labels, torch.full((TEST,), FRAMES), lengths)).exp()
    hits = torch.tensor([count[meant] for count, meant in zip(counts, truth, strict=True)])
    deviation = (hits - SAMPLES * likely).sum() / (SAMPLES * likely * (1 - likely)).sum().sqrt()
    spoken = alignments != BLANK
    found = {
        "error rate, greedy": rate(greedy),
        "error rate, one sample": rate([labellings[0] for labellings in sampled]),
        f"error rate, most frequent of {SAMPLES}": rate(vote),
        "greedy equal to the most frequent": sum(a == b for a, b in zip(greedy, vote, strict=True)) / TEST,
        "agreement of two samples": agreement.mean().item(),
        "  greedy right": agreement[~wrong].mean().item(),
        "  greedy wrong": agreement[wrong].mean().item(),
        "entropy of a frame (nats)": entropy.mean().item(),
        "  where samples say a digit": (entropy * spoken.double().mean(0)).sum().item()
        / spoken.double().mean(0).sum().item(),
        "samples that say the truth": hits.double().mean().item() / SAMPLES,
        "  by the CTC likelihood": likely.mean().item(),
        "  standard errors between": deviation.item(),
        "AUROC of disagreement for errors": auroc(-agreement, wrong),
        "AUROC of mean entropy for errors": auroc(entropy.mean(1), wrong),
    }
    worst = int(agreement.argmin())
    shown = {"signal": signals[worst], "alignments": alignments[:, worst], "entropy": entropy[worst]}
    return found, shown | {"truth": truth[worst], "counts": counts[worst]}


def picture(path, shown):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(
        3, 1, figsize=(10, 7), layout="constrained", sharex=True, height_ratios=(1, 1.4, 0.8)
    )
    axes[0].imshow(shown["signal"], aspect="auto", origin="lower", cmap="Greys")
    axes[0].set(ylabel="band", title=f"said: {' '.join(str(d - 1) for d in shown['truth'])}")
    drawn = shown["alignments"].float()
    axes[1].imshow(
        drawn.masked_fill(drawn == BLANK, torch.nan), aspect="auto", cmap="tab10", interpolation="none"
    )
    best = ", ".join(f"{' '.join(str(d - 1) for d in s)} ({n})" for s, n in shown["counts"].most_common(3))
    axes[1].set(ylabel="sample", title=f"{SAMPLES} alignments drawn; most frequent: {best}")
    axes[2].fill_between(range(FRAMES), shown["entropy"], step="mid", color="tab:blue", alpha=0.5)
    axes[2].set(xlabel="frame", ylabel="entropy (nats)", ylim=(0, None))
    figure.savefig(path, dpi=120)


def main():
    seeds, out = arguments(__doc__)
    audits, shown = zip(*map(audit, seeds), strict=True)
    print(f"{'seed':<36}" + "".join(f"{seed:>9}" for seed in seeds))
    for name in audits[0]:
        print(f"{name:<36}" + "".join(f"{found[name]:>9.3f}" for found in audits))
    save(picture, out / "ctc_audit.png", shown[0])

    for seed, found in zip(seeds, audits, strict=True):
        greedy, vote = found["error rate, greedy"], found[f"error rate, most frequent of {SAMPLES}"]
        single = found["error rate, one sample"]
        rates = f"seed {seed}: error rates {greedy:.3f}, {single:.3f}, {vote:.3f}"
        assert greedy <= ERROR and single >= greedy + 0.02 and vote <= greedy + 0.01, rates
        off, area = found["  standard errors between"], found["AUROC of disagreement for errors"]
        assert abs(off) <= 4, f"seed {seed}: samples are {off:.1f} standard errors from the likelihood"
        entropies = found["AUROC of mean entropy for errors"]
        assert area >= AUROC and area > entropies, f"seed {seed}: AUROC {area:.3f}, {entropies:.3f}"
    print("as it should be: samples follow the CTC likelihood, and disagree where the greedy labelling errs")


if __name__ == "__main__":
    main()
