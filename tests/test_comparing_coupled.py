# SPDX-License-Identifier: Apache-2.0
"""Coupled draws: coupling as a property, settings as `sample` takes them, texts that part at a coin."""

import itertools

import fusedraw
import pytest
import torch
from comparing_cases import ALPHA, random_rows
from engines import make_keys
from fusedraw.comparing import (
    coupled,
)
from hypothesis import given
from hypothesis import strategies as st
from row_kinds import make_rows
from scipy import stats
from strategies import epsilons, examples, min_ps, seeds, temperatures, top_ps


@examples(60)
@given(
    kind=st.sampled_from(["normal", "peaked", "tied", "holes"]),
    seed=seeds,
    size=st.integers(1, 900),
    common=st.fixed_dictionaries(
        {
            "temperature": temperatures,
            "top_k": st.integers(0, 60),
            "top_p": top_ps,
            "min_p": min_ps,
            "mix_support": st.sampled_from(["kept", "valid"]),
        }
    ),
    shares=st.lists(epsilons, min_size=2, max_size=4),
)
def test_a_step_differs_only_where_a_coin_fired(kind, seed, size, common, shares):
    x, keys = make_rows(kind, 16, size, seed), make_keys(16, seed)
    got = coupled(x, *[{**common, "mix_eps": share} for share in shares], keys=keys, mask=x.isfinite())
    for a, b in itertools.combinations(range(len(shares)), 2):
        other, once = got.ids[a] != got.ids[b], got.explored[a] != got.explored[b]
        assert not (other & ~once).any()
        fewer, more = (a, b) if shares[a] <= shares[b] else (b, a)
        assert not (got.explored[fewer] & ~got.explored[more]).any()
    assert torch.equal(got.differs, got.ids != got.ids[0])


def test_coins_make_a_difference():
    """The property above is not empty: on peaked rows nearly every coin that fires shows; where the law is
    uniform already none does, since exploring is the same race."""
    for scale, least, most in ((8.0, 0.95, 1.0), (0.0, 0.0, 0.0)):
        got = coupled(scale * random_rows(1, 5000).expand(4000, -1), {}, {"mix_eps": 0.25}, seed=3)
        fired = int(got.explored[1].sum())
        assert stats.binomtest(fired, 4000, 0.25).pvalue > ALPHA
        assert least * fired <= int(got.differs[1].sum()) <= most * fired


def test_coupling_makes_equal_tokens_likelier():
    """Two temperatures: coupled draws agree more often than draws with other keys."""
    x = random_rows(1, 300).expand(4000, -1)
    got = coupled(x, {"temperature": 0.8}, {"temperature": 1.0}, seed=1)
    apart = fusedraw.sample(x, temperature=1.0, seed=2)
    assert (~got.differs[1]).sum() > 3 * (got.ids[0] == apart).sum()


def test_settings_are_those_of_sample():
    """Each setting gives what `sample` gives, whether it comes as a dict or as a Sampler."""
    x, keys = random_rows(6, 200), make_keys(6)
    first = {"temperature": 0.7, "top_k": 40, "top_p": 0.9, "min_p": 0.01, "mix_eps": torch.full((6,), 0.5)}
    options = {"mix_support": "valid", "filter_order": "joint", "ties": "all", "check": "status", "top_n": 3}
    first |= {**options, "returns": ("logp", "entropy")}
    second = {"mix_eps": 0.3, "returns": "explored"}
    got = coupled(x, first, fusedraw.Sampler(**first), second, keys=keys)
    expected = fusedraw.sample(x, **{**first, "returns": ("logp", "entropy", "explored")}, keys=keys)
    for out in got.outs[:2]:
        for name, value in expected._asdict().items():
            mine = getattr(out, name)
            assert (mine is None) if value is None else torch.equal(mine, value), name
    assert torch.equal(got.outs[2].ids, fusedraw.sample(x, mix_eps=0.3, keys=keys))
    assert got.ids.shape == got.explored.shape == got.differs.shape == (3, 6)
    assert not got.differs[:2].any()


def test_rules_of_a_sampler_are_kept():
    """Also where no list comes with the call: a neutral penalty needs none."""
    x, keys = random_rows(6, 200), make_keys(6)
    rules = {"typical_p": 0.6, "top_n_sigma": 2.0, "temperature_last": True, "temperature": 1.5}
    got = coupled(x, rules, fusedraw.Sampler(**rules), keys=keys)
    assert torch.equal(got.ids[0], fusedraw.sample(x, keys=keys, **rules)) and not got.differs.any()


def test_where_keys_come_from():
    x, settings = random_rows(5, 50), ({}, {"mix_eps": 0.5})
    generator, again = (torch.Generator().manual_seed(4) for _ in range(2))
    got = coupled(x, *settings, generator=generator)
    assert torch.equal(got.ids[0], fusedraw.sample(x, generator=again))
    assert torch.equal(generator.get_state(), again.get_state())  # asked once for both settings
    assert torch.equal(
        coupled(x, *settings, seed=3, step=2).ids[1], fusedraw.sample(x, mix_eps=0.5, seed=3, step=2)
    )
    row = coupled(x[0], *settings, keys=make_keys(1)[0])
    assert row.ids.shape == (2,) and row.ids[0] == fusedraw.sample(x[0], keys=make_keys(1)[0])
    assert coupled(x[0], *settings, seed=3).ids[0] == fusedraw.sample(x[0], seed=3)


def test_coupled_refuses_before_the_generator_moves():
    generator = torch.Generator().manual_seed(1)
    before = generator.get_state()
    with pytest.raises(TypeError, match="coupled: logits must be"):
        coupled(torch.zeros(3, 9, dtype=torch.float64), {}, {}, generator=generator)
    with pytest.raises(ValueError, match="top_p must be in"):
        coupled(torch.zeros(3, 9), {}, {"top_p": 2}, generator=generator)
    with pytest.raises(ValueError, match="coupled: a bool mask must be"):
        coupled(torch.zeros(3, 9), {}, {}, generator=generator, mask=torch.ones(8, dtype=torch.bool))
    assert torch.equal(generator.get_state(), before)


def chain(table, setting, keys, length):
    """Texts of a Markov chain [rows, length] and where its coins fired; keys [rows, 2], offset = position."""
    token, ids, fired = torch.zeros(len(keys), dtype=torch.int64), [], []
    for step in range(length):
        keys = torch.stack([keys[:, 0], torch.full_like(keys[:, 0], step)], 1)
        out = fusedraw.sample(table[token], keys=keys, returns=("explored",), **setting)
        token = out.ids
        ids.append(token)
        fired.append(out.explored)
    return torch.stack(ids, 1), torch.stack(fired, 1)


def test_texts_part_where_a_coin_fired():
    """Generated texts agree up to the first coin that shows; later they may differ for their contexts."""
    table, keys = random_rows(60, 60, 2), make_keys(500, 3)
    plain, _ = chain(table, {}, keys, 20)
    mixed, fired = chain(table, {"mix_eps": 0.05}, keys, 20)
    parted = (plain != mixed).any(1)
    first = (plain != mixed).int().argmax(1)
    assert 0.4 < parted.double().mean() < 1 - (1 - 0.05) ** 20 + 0.05
    assert fired[parted, first[parted]].all()
    assert ((plain != mixed).sum(1) > 1).any()
