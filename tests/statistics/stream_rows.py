# SPDX-License-Identifier: Apache-2.0
"""A1, A5: tests of their own, run as they are. A2: every engine's noise is Philox's. A3: no streams meet."""

import itertools
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import fusedraw
import torch
from engines import ENGINES, engine, make_mode, make_params, op
from fusedraw import reference as r1
from fusedraw._noise import _philox4x32_10 as philox
from tasks import Check

TESTS = Path(__file__).resolve().parent.parent
WORD = 0xFFFFFFFF
SIGN = -(2**63)
EDGES = (0, 1, 2, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**32 + 1, 2**63 - 1, -(2**63), -(2**32), -1)


class TestFiles(Check):
    """Tests of `make test`, in a process of their own. draws: how many passed."""

    def __init__(self, row, name, *arguments):
        super().__init__(row, name, 1, 1, 0)
        self.arguments = arguments

    def measure(self, number, device, seed):
        if find_spec("pytest") is None:
            return {"draws": 0, "forbidden": 0, "counts": {}, "note": "not run: pytest is not installed"}
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *self.arguments]
        done = subprocess.run(command, capture_output=True, text=True, cwd=TESTS)
        passed, failed = (sum(map(int, re.findall(rf"(\d+) {w}", done.stdout))) for w in ("passed", "failed"))
        wrong = failed or int(done.returncode != 0)
        return {"draws": passed, "forbidden": wrong, "counts": {}, "note": f"{passed} tests passed"}

    def seconds(self, device, draws):
        return 60.0

    def power(self, draws, tests, counts):
        return "", None

    def piece(self, device):
        return 1


def r64(keys, purpose, domain, ids):
    """The law's noise, int64 of the same bits: keys [n, 2], ids [n, k]."""
    seed, offset = keys[:, :1], keys[:, 1:]
    second = torch.full_like(ids, purpose | domain << 8)
    words = (seed & WORD, seed >> 32 & WORD)
    counter = (ids // 2, second, (offset & WORD).expand_as(ids), (offset >> 32 & WORD).expand_as(ids))
    o0, o1, o2, o3 = philox(*words, *counter)
    return torch.where(ids % 2 == 1, o3 << 32 | o2, o1 << 32 | o0)


class Lanes(Check):
    """Equal logits are won by the least noise: of the blocks, then of the tokens of that block. So a row's
    token is an argmin of noise that this file computes. Half of the keys are carry edges."""

    sizes = (256, 512, 1280, 16_384, 1 << 20)

    def __init__(self, name):
        self.slow_engine = name == "reference"
        draws = 2048 if self.slow_engine else 500_000
        super().__init__("A2", f"noise in the lanes of {name}", 512, draws, draws)
        self.engine = name

    def piece(self, device):
        return 1 << (10 if self.slow_engine else 14)

    def seconds(self, device, draws):
        return 2e-4 * draws

    def keys(self, indices, seed):
        keys = super().keys(indices, seed)
        keys[:, 1] = keys[:, 0] * 3
        edges = torch.tensor(EDGES, device=keys.device)
        at = torch.stack([indices % len(EDGES), indices // len(EDGES) % len(EDGES)], 1)
        return torch.where((indices % 2 == 0)[:, None], edges[at] + (indices // 288)[:, None], keys)

    def codes(self, indices, seed):
        keys, codes = self.keys(indices, seed), []
        for i, part in enumerate(keys.split(len(keys) // 32)):
            size, domain = self.sizes[i % (len(self.sizes) - self.slow_engine)], i // 2 % 4
            part = part[: max(2**26 // size, 1)]
            x = torch.zeros(size, device=part.device).expand(len(part), -1)
            ids = self.draw(x, part, domain)
            codes.append(torch.where(ids == winners(part, domain, size), 0, -1))
        return torch.cat(codes)

    def power(self, draws, tests, counts):
        return f"{draws * 257:.1g} noise values, at least", None

    def draw(self, x, keys, domain):
        arguments = x, make_params(), keys, None, make_mode(domain=domain), 0, 0
        if self.engine == "cuda":
            return op.sample(*arguments)[0]
        with engine(self.engine):
            return op.sample(*arguments)[0]


def winners(keys, domain, size):
    blocks = torch.arange(size // 256, device=keys.device).expand(len(keys), -1)
    block = (r64(keys, r1.BLOCK, domain, blocks) ^ SIGN).argmin(1)
    tokens = block[:, None] * 256 + torch.arange(256, device=keys.device)
    return block * 256 + (r64(keys, r1.TOKEN, domain, tokens) ^ SIGN).argmin(1)


class Distinct(Check):
    """Values of which no two may be equal. Each piece is checked by itself; 2^20 random words of 64 bits
    hold two that are equal with probability 3e-8."""

    def piece(self, device):
        return 1 << 20

    def measure(self, number, device, seed):
        words = self.words(torch.arange(self.piece(device.type), device=device), number, seed)
        return {"draws": len(words), "forbidden": len(words) - len(words.unique(dim=0)), "counts": {}}


class DerivedKeys(Distinct):
    """(seed, request, sample, step) -> key, with all combinations of edges."""

    def __init__(self):
        super().__init__("A3", "keys of requests", 64, 4_000_000, 20_000_000)

    def words(self, indices, number, seed):
        edges = torch.tensor(list(itertools.product(EDGES, EDGES, (0, 1, 2**31, 2**32 - 1), EDGES[::3])))
        edges = edges.to(indices.device)
        i = indices + number * len(indices)
        fields = [
            torch.cat([first, second])
            for first, second in zip(
                (i // 4096 % 64 + self.own_seed(seed), i // 16 % 256, i % 16, i // (4096 * 64)),
                edges.T,
                strict=True,
            )
        ]
        return fusedraw.derive_keys(*fields).view(torch.int64)


class NoiseWords(Distinct):
    """(key, domain, purpose, id) -> noise: keys of neighbouring requests and steps, all purposes."""

    requests = 8

    def __init__(self):
        super().__init__("A3", "noise of keys, domains, purposes, ids", 64, 4_000_000, 20_000_000)

    def words(self, indices, number, seed):
        both = torch.arange(8 * self.requests, device=indices.device)
        requests, steps = both // 8, both % 8 + 8 * number
        keys = fusedraw.derive_keys(self.own_seed(seed), requests, step=steps).view(torch.int64)
        ids = torch.arange(496, device=indices.device)
        ids = torch.cat([ids, torch.tensor([2**20, 2**31 - 1, 2**31, 2**32, 2**33 - 1]).to(ids.device)])
        ids = ids.expand(len(keys), -1)
        words = [r64(keys, p, d, ids) for p in range(r1.BLOCK, r1.CONTROL + 1) for d in range(4)]
        return torch.stack(words).flatten()


def streams(device):
    if device == "cpu":
        yield TestFiles("A1", "known answers of Philox, of the variate", "test_reference_noise.py")
        only = "philox or exponential or noise_in_lanes"
        yield TestFiles("A1", "the same of every engine", "test_weights.py", "-k", only)
        yield TestFiles("A5", "ends of the noise, on every engine", "test_endpoints.py")
    yield from (Lanes(name) for name in (ENGINES if device == "cpu" else ["cuda"]))
    yield DerivedKeys()
    yield NoiseWords()
