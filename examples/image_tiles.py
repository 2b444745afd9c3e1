# SPDX-License-Identifier: Apache-2.0
"""Maps laid tile by tile: roads and rivers that have to join, drawn by weight among what still fits.

Each of 19 tiles has at its four sides nothing, a road or a river, and neighbours must agree; nothing leaves
the map. As in wave function collapse (Gumin, 2016) the cell with the fewest tiles left is drawn next, and
what that rules out is removed from the cells around it until nothing changes. The tiles left are the `mask=`
of `fusedraw.sample`, the logits are log-weights; all maps of a seed are one batch and choose cells of their
own. A map that comes to a dead end is begun again with other keys (`sample_ids`).

    python examples/image_tiles.py [--seed 1] [--out examples/out]

Needs scipy, and matplotlib for the picture.

Asserted for each of three seeds: no masked tile is drawn (of about 15,000) and all sides agree; the tiles
drawn under each mask are distributed as the weights left in it (chi-square, p > 1e-4), and not as if all
tiles weighed the same (p < 1e-6); whole maps of 3 x 4 cells have the frequencies of the law enumerated
(p > 1e-4, and p < 1e-6 against equal frequencies), and the log-probabilities returned by the draws add up to
it within 1e-5. Right draws fail a test of p > 1e-4 once in 10,000 seeds.
"""

from collections import Counter, defaultdict

import fusedraw
import numpy as np
import torch
from _shared import arguments, save
from scipy import stats

HEIGHT, WIDTH, MAPS = 12, 16, 64
SMALL, SMALL_MAPS = (3, 4), 4000
SIDES = 4  # north, east, south, west; the opposite of s is (s + 2) % 4
NONE, ROAD, RIVER = KINDS = range(3)
MOST_ATTEMPTS = 100  # about half of the large maps come to a dead end
SMALLEST = 5  # expected counts below it are added up, the usual rule for a chi-square test


def turned(sides, times):
    return [tuple(sides[(s - turn) % SIDES] for s in range(SIDES)) for turn in range(times)]


# Kinds at the sides, and the weight of a tile: meadow; road straight, bent, forked; river; bridge.
TILES = [((NONE,) * 4, 3.0)]
TILES += [(sides, 2.0) for sides in turned((ROAD, NONE, ROAD, NONE), 2)]
TILES += [(sides, 0.6) for sides in turned((ROAD, ROAD, NONE, NONE), 4)]
TILES += [(sides, 0.8) for sides in turned((ROAD, ROAD, ROAD, NONE), 4)]
TILES += [(sides, 1.5) for sides in turned((RIVER, NONE, RIVER, NONE), 2)]
TILES += [(sides, 1.0) for sides in turned((RIVER, RIVER, NONE, NONE), 4)]
TILES += [(sides, 1.2) for sides in turned((ROAD, RIVER, ROAD, RIVER), 2)]
WEIGHTS = torch.tensor([weight for _, weight in TILES])
TABLE = torch.tensor([sides for sides, _ in TILES])  # [tiles, SIDES]
HAS = torch.nn.functional.one_hot(TABLE, len(KINDS)).float()  # [tiles, SIDES, kinds]


def propagate(left):
    """What is left of bool [maps, H, W, tiles] when no tile has a side that the neighbour cannot have."""
    while True:
        kinds = torch.einsum("nhwt,tsk->nhwsk", left.float(), HAS) > 0
        seen = torch.zeros_like(kinds)  # what each side may meet; beyond the border: nothing
        seen[..., NONE] = True
        seen[:, 1:, :, 0] = kinds[:, :-1, :, 2]
        seen[:, :-1, :, 2] = kinds[:, 1:, :, 0]
        seen[:, :, :-1, 1] = kinds[:, :, 1:, 3]
        seen[:, :, 1:, 3] = kinds[:, :, :-1, 1]
        fewer = left & (torch.einsum("nhwsk,tsk->nhwt", seen.float(), HAS) == SIDES)
        if torch.equal(fewer, left):
            return left
        left = fewer


def begin(maps, height, width):
    return propagate(torch.ones(maps, height, width, len(TILES), dtype=torch.bool))


def next_cells(left):
    """int64 [maps]: the undecided cell with the fewest tiles left, the first of several."""
    count = left.sum(-1).flatten(1)
    return count.masked_fill(count < 2, len(TILES) + 1).argmin(1)


def place(left, cells, tiles):
    """`left` once these tiles are in these cells."""
    left = left.flatten(1, 2).clone()
    left[torch.arange(len(left)), cells] = torch.nn.functional.one_hot(tiles, len(TILES)).bool()
    return left


def lay(seed, first, maps, height, width):
    """(tiles [maps, height, width], their log-probability [maps], draws [(mask, tile)], dead ends).

    Maps are numbered from `first`, for their keys.
    """
    left, attempts = begin(maps, height, width), torch.zeros(maps, dtype=torch.int64)
    empty, numbers = left[0].clone(), torch.arange(maps)
    steps, logps = torch.zeros(maps, dtype=torch.int64), torch.zeros(maps, dtype=torch.float64)
    draws = []
    while True:
        count = left.sum(-1).flatten(1)
        dead = (count == 0).any(1)
        left[dead], steps[dead], logps[dead] = empty, 0, 0.0
        attempts += dead
        assert attempts.max() < MOST_ATTEMPTS, "one dead end after the other: are masked tiles drawn?"
        alive = numbers[(count != 1).any(1)]
        if len(alive) == 0:
            return left.int().argmax(-1), logps, draws, int(attempts.sum())
        cells = next_cells(left[alive])
        masks = left[alive].flatten(1, 2)[torch.arange(len(alive)), cells]
        keys = fusedraw.derive_keys(seed, first + alive, attempts[alive], steps[alive])
        logits = WEIGHTS.log().expand(len(alive), -1)
        out = fusedraw.sample(logits, mask=masks, keys=keys, returns=("logp",))
        draws.append((masks, out.ids))
        logps[alive] += out.logp
        steps[alive] += 1
        left[alive] = propagate(place(left[alive], cells, out.ids).view(-1, height, width, len(TILES)))


def enumerate_law(height, width):
    """{tiles of a map, as a tuple: probability}: every way that the draws can take, all side by side.

    Maps come to dead ends here too, and are begun again: what is not lost is divided by its sum.
    """
    left, chance, law = begin(1, height, width), torch.ones(1, dtype=torch.float64), defaultdict(float)
    while len(left):
        done = (left.sum(-1) == 1).flatten(1).all(1)
        for tiles, p in zip(left[done].int().argmax(-1).flatten(1).tolist(), chance[done], strict=True):
            law[tuple(tiles)] += p.item()
        left, chance = left[~done], chance[~done]
        cells = next_cells(left)
        masks = left.flatten(1, 2)[torch.arange(len(left)), cells]
        p = masks * WEIGHTS.double()
        p /= p.sum(1, keepdim=True)
        way, tile = masks.nonzero().T
        left = propagate(place(left[way], cells[way], tile).view(-1, height, width, len(TILES)))
        chance = chance[way] * p[way, tile]
        alive = (left.sum(-1) > 0).flatten(1).all(1)
        left, chance = left[alive], chance[alive]
    kept = sum(law.values())
    return {tiles: p / kept for tiles, p in law.items()}, kept


def p_value(groups):
    """Of a chi-square test over groups of (counts, probabilities); rare outcomes of a group count as one."""
    statistic, freedom = 0.0, 0
    for counts, p in groups:
        counts, p = np.asarray(counts, float), np.asarray(p)
        order = np.argsort(-p)
        counts, expected = counts[order], p[order] * counts.sum()
        common = (expected >= SMALLEST).sum()
        if expected[common:].sum() < SMALLEST:  # even together; or there are none
            common = max(common - 1, 0)
        counts = np.append(counts[:common], counts[common:].sum())
        expected = np.append(expected[:common], expected[common:].sum())
        statistic += ((counts - expected) ** 2 / expected).sum()
        freedom += common
    return float(stats.chi2.sf(statistic, freedom))


def check_draws(draws):
    """(draws, masked tiles drawn, p-value of the weights, p-value of equal weights)."""
    masks, tiles = (torch.cat(column) for column in zip(*draws, strict=True))
    forbidden = int((~masks[torch.arange(len(tiles)), tiles]).sum())
    kinds, which = masks.unique(dim=0, return_inverse=True)
    groups = {"weights": [], "equal": []}
    for number, mask in enumerate(kinds):
        counts = tiles[which == number].bincount(minlength=len(TILES))[mask].numpy()
        p = WEIGHTS.double()[mask].numpy()
        groups["weights"].append((counts, p / p.sum()))
        groups["equal"].append((counts, np.full_like(p, 1 / len(p))))
    return len(tiles), forbidden, p_value(groups["weights"]), p_value(groups["equal"])


def disagreements(maps):
    """Pairs of neighbours, and of cells and the border, whose sides differ."""
    sides = torch.nn.functional.pad(TABLE[maps], (0, 0, 1, 1, 1, 1))  # NONE around
    down = sides[:, :-1, :, 2] != sides[:, 1:, :, 0]
    across = sides[:, :, :-1, 1] != sides[:, :, 1:, 3]
    return int(down.sum() + across.sum())


def picture(path, maps):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.colors import ListedColormap

    pixels = torch.zeros(len(TILES), 5, 5, dtype=torch.int64)
    arms = ((slice(0, 3), 2), (2, slice(2, 5)), (slice(2, 5), 2), (2, slice(0, 3)))
    for kind in (RIVER, ROAD):  # a road goes over
        for tile, sides in enumerate(TABLE.tolist()):
            for side in range(SIDES):
                if sides[side] == kind:
                    pixels[tile][arms[side]] = kind
    figure, axes = plt.subplots(1, len(maps), figsize=(15, 4), layout="constrained")
    colors = ListedColormap(["#a9cf8f", "#6b5b4b", "#4f8fc4"])
    for axis, one in zip(axes, maps, strict=True):
        image = pixels[one].permute(0, 2, 1, 3).reshape(one.shape[0] * 5, -1)
        axis.imshow(image, cmap=colors, vmin=0, vmax=2)
        axis.axis("off")
    figure.savefig(path, dpi=120)


def main():
    seeds, out = arguments(__doc__)
    law, kept = enumerate_law(*SMALL)
    print(f"{len(law)} maps of {SMALL[0]} x {SMALL[1]}, {1 - kept:.1%} of the ways are dead ends\n")
    print("seed  draws masked disagree dead ends  p weights  p equal  p maps  p equal  logp off by")
    shown, rows = [], []
    for seed in seeds:
        maps, _, draws, dead = lay(seed, 0, MAPS, HEIGHT, WIDTH)
        small, logps, _, _ = lay(seed, MAPS, SMALL_MAPS, *SMALL)
        small = list(map(tuple, small.flatten(1).tolist()))
        counted = Counter(small)
        counts = [counted.pop(tiles, 0) for tiles in law]
        assert not counted, "a map that the law does not have"
        equal = np.full(len(law), 1 / len(law))
        p_maps, p_equal_maps = p_value([(counts, list(law.values()))]), p_value([(counts, equal)])
        off = max(abs(logp - np.log(law[t] * kept)) for t, logp in zip(small, logps.tolist(), strict=True))
        total, forbidden, p, p_equal = check_draws(draws)
        wrong = disagreements(maps)
        print(f"{seed:4}{total:7}{forbidden:7}{wrong:9}{dead:10}{p:11.3f}{p_equal:9.0e}", end="")
        print(f"{p_maps:8.3f}{p_equal_maps:9.0e}{off:14.1e}")
        shown.append(maps[0])
        rows.append((forbidden, wrong, p, p_equal, p_maps, p_equal_maps, off))
    save(picture, out / "image_tiles.png", shown)

    for forbidden, wrong, p, p_equal, p_maps, p_equal_maps, off in rows:
        assert forbidden == 0, f"{forbidden} masked tiles were drawn"
        assert wrong == 0, f"{wrong} sides disagree"
        assert p > 1e-4 and p_maps > 1e-4, f"not the law: p = {p:.1e} of draws, {p_maps:.1e} of maps"
        assert p_equal < 1e-6 and p_equal_maps < 1e-6, "the tests do not tell the weights from equal ones"
        assert off < 1e-5, f"log-probabilities are off by {off:.1e}"
    print("no masked tile, all sides agree, and the frequencies are those of the law")


if __name__ == "__main__":
    main()
