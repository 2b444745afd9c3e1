# SPDX-License-Identifier: Apache-2.0
"""C4: draws whose keys are neighbours, or whose noise has another purpose, know nothing of each other."""

import laws
import torch
from engines import bits_of, make_mode, make_params, op
from tasks import Case

TOKENS = 16
DOMAINS = ("target", "draft", "accept", "recovery")
PAIRS = {"cpu": 10_000_000, "cuda": 10_000_000}


class Pairs(Case):
    """A 16 x 16 table of two draws from equal logits."""

    slow = 2.0

    def __init__(self, name):
        super().__init__("C4", name, TOKENS, **PAIRS)

    def law(self):
        return torch.full((TOKENS**2,), 1 / TOKENS**2, dtype=torch.float64)

    def binnings(self):
        return {"both": torch.arange(TOKENS**2)}

    def draw(self, keys, domain=0):
        x = torch.zeros(TOKENS, device=keys.device).expand(len(keys), -1)
        return op.sample(x, make_params(), keys, None, make_mode(domain=domain), 0, 0)[0]

    def codes(self, indices, seed):
        first, second = self.both(indices, seed)
        return torch.where((first < 0) | (second < 0), -1, first * TOKENS + second)


class Neighbours(Pairs):
    def __init__(self, axis):
        super().__init__(f"{axis} and the next")
        self.axis = axis

    def both(self, indices, seed):
        return map(self.draw, laws.neighbours(self.axis, 2 * indices, seed))


class Rows(Pairs):
    """Of one batch, by seed and step: row r and row r + 1, or step t and step t + 1."""

    batch = 1024

    def __init__(self, of):
        super().__init__(f"{of} of a seeded batch and the next")
        self.of_steps = of == "step"

    def both(self, indices, seed):
        """`row_keys` is what `sample(x, seed=, step=)` takes its keys from."""
        x = torch.zeros((self.batch * 2, TOKENS), device=indices.device)
        first = int(indices[0]) // self.batch
        batches = []
        for i in range(first, first + -(-len(indices) // self.batch)):
            steps = (2 * i, 2 * i + 1) if self.of_steps else (i,)
            keys = [op.row_keys(x, self.own_seed(seed), step) for step in steps]
            batches.append(torch.stack([k[: self.batch] for k in keys], 1) if self.of_steps else keys[0])
        keys = torch.cat(batches).reshape(-1, 2, 2)
        ids = self.draw(keys.reshape(-1, 2)).view(-1, 2)[: len(indices)]
        return ids[:, 0], ids[:, 1]


class Domains(Pairs):
    def __init__(self, i, j):
        super().__init__(f"domains {DOMAINS[i]} and {DOMAINS[j]}")
        self.domains = i, j

    def both(self, indices, seed):
        keys = self.keys(indices, seed)
        return (self.draw(keys, domain) for domain in self.domains)


class BlockAndPlace(Pairs):
    """The two races of one draw: block b and place in the block, of 16 blocks."""

    def __init__(self):
        super().__init__("block and place of one draw")
        self.size = TOKENS * 256

    def both(self, indices, seed):
        keys = self.keys(indices, seed)
        x = torch.zeros(self.size, device=keys.device).expand(len(keys), -1)
        ids = op.sample(x, make_params(), keys, None, 0, 0, 0)[0]
        return torch.where(ids < 0, -1, ids // 256), ids % TOKENS


class CoinAndToken(Pairs):
    """The coin of mixing at 1/2, beside the token."""

    def __init__(self):
        super().__init__("coin and token of one draw")

    def law(self):
        return torch.full((2 * TOKENS,), 1 / (2 * TOKENS), dtype=torch.float64)

    def binnings(self):
        return {"both": torch.arange(2 * TOKENS)}

    def both(self, indices, seed):
        keys = self.keys(indices, seed)
        x = torch.zeros(TOKENS, device=keys.device).expand(len(keys), -1)
        ids, explored = op.sample(x, make_params(mix_eps=0.5), keys, None, 0, bits_of("explored"), 0)
        return explored.long(), ids


def pairs():
    yield from (Neighbours(axis) for axis in laws.AXES)
    yield from (Rows(of) for of in ("row", "step"))
    yield from (Domains(i, j) for j in range(4) for i in range(j))
    yield BlockAndPlace()
    yield CoinAndToken()
