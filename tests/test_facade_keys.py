# SPDX-License-Identifier: Apache-2.0
"""The Python face: keys, seeds and generators."""

import fusedraw
import torch
from facade_cases import KEYS, PROBS, RULES, B, X
from fusedraw import Sampler, reference, sample


def test_seed_is_a_convenience_for_keys():
    for seed, step in ((0, 0), (7, 3), (-1, 0), (2**64 - 1, 0), (2**63, 2**40), (5, 2**64 - 1), (5, -1)):
        keys = fusedraw.derive_keys(seed, range(B), 0, step)
        expected = sample(X, keys=keys)
        assert torch.equal(sample(X, seed=seed, step=step), expected)
        assert torch.equal(Sampler()(X, seed=seed, step=step), expected)
        signed = torch.tensor([(seed + 2**63) % 2**64 - 2**63]), torch.tensor((step + 2**63) % 2**64 - 2**63)
        assert torch.equal(sample(X, seed=signed[0], step=signed[1]), expected)
        unsigned = (
            torch.tensor(seed % 2**64, dtype=torch.uint64),
            torch.tensor([step % 2**64], dtype=torch.uint64),
        )
        assert torch.equal(sample(X, seed=unsigned[0], step=unsigned[1]), expected)
    assert torch.equal(sample(X, seed=7), sample(X, seed=7, step=0))


def test_seed_and_step_per_row():
    seeds, steps = torch.tensor([4, 9, 4, -3, 0]), torch.arange(B) * 7
    expected = [
        sample(X, seed=int(s), step=int(t))[row] for row, (s, t) in enumerate(zip(seeds, steps, strict=True))
    ]
    assert sample(X, seed=seeds, step=steps).tolist() == [int(i) for i in expected]


def test_derive_keys():
    keys = fusedraw.derive_keys(3, range(4), step=9)
    assert keys.dtype == torch.uint64 and keys.shape == (4, 2) and keys[:, 1].tolist() == [9] * 4
    for row in range(4):
        assert tuple(keys[row].tolist()) == reference.derive_key(3, row, 0, 9)
    big = fusedraw.derive_keys(2**64 - 1, [2**64 - 1, -1, 2**63], [0, 2**32 - 1, 5], -1)
    assert tuple(big[0].tolist()) == reference.derive_key(2**64 - 1, 2**64 - 1, 0, 2**64 - 1)
    assert tuple(big[1].tolist()) == reference.derive_key(2**64 - 1, 2**64 - 1, 2**32 - 1, 2**64 - 1)
    for ids in (
        range(4),
        [0, 1, 2, 3],
        torch.arange(4),
        torch.arange(4, dtype=torch.int32),
        torch.arange(4).to(torch.uint64),
    ):
        assert torch.equal(fusedraw.derive_keys(3, ids, step=9), keys)
    assert torch.equal(
        fusedraw.derive_keys(torch.tensor(3), torch.arange(4), step=torch.tensor([9] * 4)), keys
    )
    one = fusedraw.derive_keys(3, 2, torch.arange(6), 1)  # six samples of one request
    assert one.shape == (6, 2) and len({tuple(k) for k in one.tolist()}) == 6
    assert fusedraw.derive_keys(3, []).shape == (0, 2)
    assert torch.equal(fusedraw.derive_keys(3, 7), fusedraw.derive_keys(3, [7], None, 0))


def test_keys_signed_and_unsigned():
    for function in (sample, Sampler(**RULES)):
        assert torch.equal(function(X, keys=KEYS), function(X, keys=KEYS.view(torch.int64)))
    assert torch.equal(
        fusedraw.multinomial(PROBS, 3, keys=KEYS), fusedraw.multinomial(PROBS, 3, keys=KEYS.view(torch.int64))
    )


def test_keys_make_the_position_irrelevant():
    order = torch.tensor([3, 0, 4, 2, 1])
    assert torch.equal(sample(X[order], keys=KEYS[order]), sample(X, keys=KEYS)[order])


def test_domains_are_disjoint():
    flat = torch.zeros(64, 4096)
    draws = [sample(flat, seed=1, domain=domain) for domain in ("target", "draft", "accept", "recovery")]
    assert max((a == b).sum() for i, a in enumerate(draws) for b in draws[:i]) <= 2


def test_generators():
    def draws(generator, function=sample):
        return [function(X, generator=generator).tolist() for _ in range(4)]

    first = draws(torch.Generator().manual_seed(5))
    assert draws(torch.Generator().manual_seed(5)) == first
    assert draws(torch.Generator().manual_seed(5), Sampler()) == first
    assert draws(torch.Generator().manual_seed(6)) != first
    assert len(set(map(tuple, first))) == 4
    torch.manual_seed(5)
    assert [sample(X).tolist() for _ in range(4)] == first  # the default generator
    torch.manual_seed(5)
    assert [Sampler()(X).tolist() for _ in range(4)] == first
    generator = torch.Generator().manual_seed(5)
    seed = torch.empty(1, dtype=torch.int64).random_(-(2**63), None, generator=generator)  # one uint64 a call
    assert sample(X, seed=int(seed)).tolist() == first[0]
    assert sample(X, generator=generator).tolist() == first[1]
    state = generator.get_state()
    sample(X, seed=1), sample(X, keys=KEYS)
    assert torch.equal(generator.get_state(), state)
    for function in (
        fusedraw.sample_probs,
        lambda x, generator: fusedraw.multinomial(x, 3, generator=generator),
    ):
        a, b = (function(PROBS, generator=torch.Generator().manual_seed(5)) for _ in range(2))
        assert torch.equal(a, b)
