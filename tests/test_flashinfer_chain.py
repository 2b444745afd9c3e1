# SPDX-License-Identifier: Apache-2.0
"""fusedraw.flashinfer.chain_speculative_sampling."""

import itertools

import fusedraw
import pytest
import torch
from flashinfer_cases import B
from fusedraw.flashinfer import sampling
from scipy.stats import chisquare

DRAFT = torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.2, 0.3, 0.4, 0.1]])
TARGET = torch.tensor([[0.0, 0.1, 0.6, 0.3], [0.5, 0.2, 0.05, 0.25], [0.7, 0.1, 0.1, 0.1]])


def chain(draft, ids, target, **arguments):
    n = len(ids)
    return sampling.chain_speculative_sampling(
        draft.expand(n, -1, -1), ids, target.expand(n, -1, -1), **arguments
    )


def test_documented_chain():
    target = TARGET.clone()
    target[1] = torch.tensor([1.0, 0.0, 0.0, 0.0])
    ids, accepted, emitted = chain(DRAFT, torch.tensor([[2, 1]], dtype=torch.int32), target)
    assert ids.tolist() == [[2, 0, -1]] and ids.dtype == torch.int32
    assert accepted.tolist() == [1] and emitted.tolist() == [1]
    assert accepted.dtype == emitted.dtype == torch.int32


def test_chain_gives_the_law_of_the_target():
    """Tokens drafted from the draft's law, verified: each position that is reached follows the target's."""
    rows = 40000
    drafted = torch.stack([fusedraw.multinomial(DRAFT[i], rows, True, seed=21, step=i) for i in range(2)], 1)
    ids, accepted, emitted = chain(DRAFT, drafted, TARGET, seed=8, offset=3)
    law = torch.zeros(4, 5, 5, dtype=torch.float64)  # the tokens at 0, 1, 2; 4 stands for -1
    first = torch.minimum(DRAFT[0], TARGET[0]).double()
    second = torch.minimum(DRAFT[1], TARGET[1]).double()
    rest0, rest1 = TARGET[0].double() - first, TARGET[1].double() - second
    for a, b, c in itertools.product(range(4), repeat=3):
        law[a, b, c] = first[a] * second[b] * TARGET[2, c]
    law[:, :4, 4] = first[:, None] * rest1[None]
    law[:, 4, 4] = rest0
    counts = torch.zeros_like(law)
    places = torch.where(ids < 0, 4, ids).long()
    counts.index_put_(tuple(places.T), torch.ones(rows, dtype=torch.float64), accumulate=True)
    assert counts[law == 0].sum() == 0
    possible = law > 0
    assert chisquare(counts[possible].numpy(), (law[possible] / law.sum() * rows).numpy()).pvalue > 1e-4
    assert torch.equal(emitted, (ids >= 0).sum(1) - 1) and (accepted >= emitted).all()
    passing = torch.minimum(DRAFT, TARGET[:2]).double().sum(1)  # of each position, on its own
    assert accepted.double().mean() == pytest.approx(passing.sum().item(), abs=0.015)


def test_chain_by_seed():
    ids = torch.randint(0, 4, (B, 2), generator=torch.Generator().manual_seed(2))
    seeds, offsets = torch.arange(B), torch.arange(B)
    whole = chain(DRAFT, ids, TARGET, seed=seeds, offset=offsets)[0]
    for row in range(B):
        one = slice(row, row + 1)
        assert torch.equal(
            chain(DRAFT, ids[one], TARGET, seed=seeds[one], offset=offsets[one])[0], whole[one]
        )
    generated = [chain(DRAFT, ids, TARGET, generator=torch.Generator().manual_seed(s))[0] for s in (1, 1, 2)]
    assert torch.equal(generated[0], generated[1]) and not torch.equal(generated[0], generated[2])
    equal_ids = torch.tensor([[3, 0]]).repeat(200, 1)
    assert len(chain(DRAFT, equal_ids, TARGET, seed=1, offset=0)[0].unique(dim=0)) > 2


def test_chain_counts_are_added():
    ids = torch.tensor([[2, 2], [2, 2]])
    for dtype in (torch.int32, torch.int64):
        counts = [torch.full((2,), 10, dtype=dtype), torch.full((2,), 20, dtype=dtype)]
        plain = chain(DRAFT, ids, TARGET, seed=1, offset=0)
        out = chain(
            DRAFT,
            ids,
            TARGET,
            seed=1,
            offset=0,
            maybe_output_accepted_token_num=counts[0],
            maybe_output_emitted_draft_token_num=counts[1],
        )
        assert out[1] is counts[0] and out[2] is counts[1]
        assert torch.equal(counts[0], plain[1] + 10) and torch.equal(counts[1], plain[2] + 20)


def test_chain_of_no_draft():
    target = TARGET[2:].expand(500, 1, 4)
    ids, accepted, emitted = sampling.chain_speculative_sampling(
        torch.zeros(500, 0, 4), torch.zeros(500, 0, dtype=torch.int32), target, seed=1, offset=0
    )
    assert ids.shape == (500, 1) and accepted.sum() == emitted.sum() == 0
    assert chisquare(torch.bincount(ids[:, 0]).numpy(), (TARGET[2] * 500).double().numpy()).pvalue > 1e-4


def test_chain_of_equal_laws_accepts_all():
    ids = torch.tensor([[2, 1]]).repeat(100, 1)
    out, _, emitted = chain(DRAFT, ids, torch.cat((DRAFT, TARGET[2:])), seed=1, offset=0)
    assert torch.equal(out[:, :2].long(), ids) and (emitted == 2).all()


def test_bad_chain():
    ids, good = torch.zeros(1, 2, dtype=torch.int32), (DRAFT[None], TARGET[None])
    call = sampling.chain_speculative_sampling
    bad = [
        ((DRAFT, ids, TARGET[None]), ValueError),
        ((good[0], ids[:, :1], good[1]), ValueError),
        ((good[0], ids, good[1][:, :2]), ValueError),
        ((good[0], ids.float(), good[1]), TypeError),
        ((good[0].long(), ids, good[1]), TypeError),
        ((good[0], ids + 4, good[1]), ValueError),
        ((good[0], ids - 1, good[1]), ValueError),
        ((good[0], ids, good[1], torch.zeros(2, dtype=torch.int32)), ValueError),
        ((good[0], ids, good[1], torch.zeros(1)), TypeError),
        ((good[0], ids.tolist(), good[1]), TypeError),
    ]
    for arguments, kind in bad:
        with pytest.raises(kind, match="chain_speculative_sampling: "):
            call(*arguments)
    with pytest.raises(ValueError, match="row 0 has status EMPTY at position 0"):
        call(good[0], ids, good[1] * 0)
