# SPDX-License-Identifier: Apache-2.0
"""How often a token changes when its logits change a little and the noise stays: the race of the law, a race
over single tokens (Gumbel-max), and inverse CDF, on the real rows that the package carries.

    python tests/stability.py [--draws N]      writes docs/evidence-stability.md

Rates are exact, from both laws in float64; `drawn` counts the same of the library's own draws.
"""

import argparse
from pathlib import Path

import fusedraw
import numpy as np
import torch
from engines import BF16, make_params, sample

BLOCK = 256
DATA = Path(fusedraw.__file__).parent / "data" / "real_logits.npz"
PAGE = Path(__file__).resolve().parent.parent / "docs" / "evidence-stability.md"
METHODS = ("race", "gumbel", "inverse_cdf")
MOST = 3.0  # flips of the race over the total variation


def real_rows():
    """float32 [16, 49152]."""
    return torch.from_numpy(np.load(DATA)["logits"].astype(np.float32))


def disturbed(x, seed=0):
    """By name: the same rows with Gaussian noise on the logits, and as bfloat16."""
    g = torch.Generator().manual_seed(seed)
    noise = torch.randn(x.shape, generator=g)
    return {
        "noise of 1e-3": x + 1e-3 * noise,
        "noise of 1e-2": x + 1e-2 * noise,
        "bfloat16": x.to(BF16).float(),
    }


def law(x, temperature=1.0):
    return torch.softmax(x.double() / temperature, -1)


def total_variation(p, q):
    return ((p - q).abs().sum(-1) / 2).item()


def agreements(p, q):
    """P(both draws are i) for each i of two races with shared noise; p, q of one length, masses of any sum.

    1 / sum_j max(p_j / p_i, q_j / q_i): where q_j / p_j is at most q_i / p_i the first is the larger."""
    out = torch.zeros_like(p)
    some = ((p > 0) & (q > 0)).nonzero()[:, 0]  # all others agree on nothing; their mass still counts
    ratio = torch.where(p > 0, q / p, torch.inf)
    order = ratio.argsort()
    below = p[order].cumsum(0)
    above = q[order].flip(0).cumsum(0).flip(0)
    above = torch.cat([above[1:], above.new_zeros(1)])
    # Ties of the ratio may stand on either side: there both terms are equal.
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order))
    at = place[some]
    out[some] = 1 / (below[at] / p[some] + above[at] / q[some])
    return out


def gumbel_flips(p, q):
    return 1 - agreements(p, q).sum().item()


def race_flips(p, q):
    """Of the law: one race over the sums of blocks, then one inside the block, whose noise is independent."""
    pad = -len(p) % BLOCK
    blocks = [torch.cat([t, t.new_zeros(pad)]).view(-1, BLOCK) for t in (p, q)]
    of_blocks = agreements(*(b.sum(1) for b in blocks))
    inside = torch.stack([agreements(a, b).sum() for a, b in zip(*blocks, strict=True)])
    return 1 - (of_blocks * inside).sum().item()


def inverse_cdf_flips(p, q):
    """Where one uniform number falls into different tokens' intervals."""
    ends = [torch.cat([t.new_zeros(1), t.cumsum(0)]) for t in (p, q)]
    common = torch.minimum(ends[0][1:], ends[1][1:]) - torch.maximum(ends[0][:-1], ends[1][:-1])
    return 1 - common.clamp_min(0).sum().item()


def rates(x, y, temperature=1.0):
    """float64 [rows, 4]: total variation, flips of the race, of Gumbel-max, of inverse CDF."""
    out = []
    for p, q in zip(law(x, temperature), law(y, temperature), strict=True):
        out.append([total_variation(p, q), race_flips(p, q), gumbel_flips(p, q), inverse_cdf_flips(p, q)])
    return torch.tensor(out, dtype=torch.float64)


def drawn_flips(x, y, draws, seed=0, temperature=1.0):
    """int64 [rows]: how many of `draws` draws of each row change, keys being the same."""
    counts = []
    for row in range(len(x)):
        keys = fusedraw.derive_keys(seed, row, step=torch.arange(draws)).view(torch.int64)
        first, second = (
            sample(t[row].expand(draws, -1), make_params(temperature), keys, outputs=0)["ids"] for t in (x, y)
        )
        counts.append(int((first != second).sum()))
    return torch.tensor(counts)


HEAD = """# Evidence: draws under noise

Logits of one model differ in their last digits between machines, batch sizes and kernels. A draw should then
change as rarely as it can: no method with the same law can change less often than the total variation (TV) of
the two laws. The table has 16 rows of SmolLM2-135M (49,152 tokens; `pyext/fusedraw/data`), at temperatures 1
and 0.7: Gaussian noise on every logit, and rounding to bfloat16. Rates are exact, computed from both laws in
float64; "drawn" counts {draws:,} pairs of draws of this library with the same keys.

| T | change | TV | fusedraw | drawn | Gumbel-max | inverse CDF |
|---|---|---|---|---|---|---|
"""
TAIL = """
In brackets: the largest ratio to TV of any row. `fusedraw` races 256-token blocks, then tokens, with noise
that belongs to the block and to the token; `tests/test_stability.py` holds every row below {most:g} TV, and
the library's draws to the exact rate. Gumbel-max is the same with one race, below 2 TV. Inverse CDF moves
every boundary behind a token whose probability moves, so its flips grow with the vocabulary.

Repeat: `python tests/stability.py` (about a minute).
"""


def table(draws, temperatures=(1.0, 0.7)):
    x, lines = real_rows(), []
    for temperature in temperatures:
        for name, y in disturbed(x).items():
            r = rates(x, y, temperature)
            flips = int(drawn_flips(x, y, draws, temperature=temperature).sum())
            mean = r.mean(0)
            worst = (r[:, 1:] / r[:, :1]).amax(0)
            race, gumbel, inverse = (f"{m:.3g} ({w:.1f})" for m, w in zip(mean[1:], worst, strict=True))
            drawn = f"{flips / (draws * len(x)):.3g}"
            lines.append(
                f"| {temperature:g} | {name} | {mean[0]:.3g} | {race} | {drawn} | {gumbel} | {inverse} |"
            )
    return lines


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--draws", type=int, default=10_000, help="pairs of draws of each row (10000)")
    draws = parser.parse_args().draws
    lines = table(draws)
    said = {"draws": draws * len(real_rows()), "most": MOST}
    text = HEAD.format(**said) + "\n".join(lines) + "\n" + TAIL.format(**said)
    PAGE.write_text(text)
    print("\n".join(lines))


if __name__ == "__main__":
    main()
