# SPDX-License-Identifier: Apache-2.0
"""R1 (plain Python) = R2 (sorting C++) = every instruction set: tokens, statuses, by-products, whole rows,
bit for bit."""

import math

import fusedraw
import pytest
import torch
from engines import (
    ALL,
    ALL_OF_PROBS,
    BEST,
    BF16,
    ENGINES,
    F16,
    F32,
    FAST,
    HALVING,
    INF,
    NAN,
    ORDERS,
    TIES,
    C,
    assert_same,
    bits_of,
    engine,
    keep,
    make_keys,
    make_mode,
    make_params,
    multinomial,
    on_every_engine,
    sample,
    softmax,
)
from fusedraw import reference as r1
from hypothesis import given
from hypothesis import strategies as st
from operations_r1 import keep_r1, multinomial_r1, sample_r1, softmax_r1
from row_kinds import EDGES, KINDS, make_mask, make_probs, make_rows
from strategies import examples, modes, param_rows, row_batches, seeds, temperatures

LONG = (151936, 1 << 20)
# What a by-product needs decides which passes run: each of these asks for something else.
ASKED = (0, ALL, *(bits_of(n) for n in ("logp", "n_kept", "kept_mass", "kept", "rank", "margin", "entropy")))


def sample_everywhere(rows, params, mode, top_n, r1=True):
    """All outputs at once, from R1 and all engines; then fewer, which must not change what is given."""
    probs = bool(mode & 64)
    outputs, top_n = (ALL_OF_PROBS, 0) if probs else (ALL, top_n)
    arguments = (rows.x, params, rows.keys, rows.mask, mode)
    expected = sample_r1(*arguments, outputs, top_n) if r1 else None
    expected = on_every_engine(sample, *arguments, outputs, top_n, expected=expected)
    for fewer in ASKED:
        if fewer == fewer & outputs:
            for name in FAST:
                with engine(name):
                    got = sample(*arguments, fewer)
                assert_same(got, {part: expected[part] for part in got}, f"{name}, {fewer:#x}")
    return expected


# Generated rows against R1


@examples(1000)
@given(st.data())
def test_sample(data):
    rows = data.draw(row_batches())
    params = data.draw(param_rows(*rows.x.shape))
    sample_everywhere(rows, params, data.draw(modes), data.draw(st.sampled_from([0, 1, 5, 300])))


@examples(300)
@given(st.data())
def test_sample_probs(data):
    rows = data.draw(row_batches(probs=True))
    params = data.draw(param_rows(*rows.x.shape, temperature=st.just(1.0)))
    sample_everywhere(rows, params, data.draw(modes) | make_mode(probs=True), 0)


@examples(150)
@given(st.data())
def test_softmax(data):
    rows = data.draw(row_batches())
    values = data.draw(st.lists(temperatures, min_size=1, max_size=1) | st.just([0.7, 0.0, NAN]))
    if len(values) > 1:
        values = values[: rows.x.shape[0]]
    temperature = torch.tensor(values, dtype=torch.float64)
    for log in (False, True):
        arguments = (rows.x, temperature, rows.mask, log)
        on_every_engine(softmax, *arguments, expected=softmax_r1(*arguments))


@examples(150)
@given(st.data())
def test_masks_and_renormalisation(data):
    probs = data.draw(st.booleans())
    rows = data.draw(row_batches(probs=probs))
    params = data.draw(param_rows(*rows.x.shape, **({"temperature": st.just(1.0)} if probs else {})))
    mode = data.draw(modes) | make_mode(probs=probs)
    calls = [(mode, True)] if probs else [(mode, False), (mode, True)]
    if not probs and not (params[:, 1] < 1).any():
        calls.append((mode | make_mode(keep_weightless=True), False))  # top_k_mask's
    for mode, renorm in calls:
        arguments = (rows.x, params, rows.mask, mode, renorm)
        on_every_engine(keep, *arguments, expected=keep_r1(*arguments))


@examples(150)
@given(st.data())
def test_multinomial(data):
    rows = data.draw(row_batches(probs=True, masked=False))
    n = data.draw(st.sampled_from([1, 2, 3, 40, 300, rows.x.shape[1] + 3]))
    replacement = data.draw(st.booleans())
    arguments = (rows.x, rows.keys, n, replacement)
    on_every_engine(multinomial, *arguments, expected=multinomial_r1(*arguments))


# Systematic rows against R1


@pytest.mark.parametrize("size", EDGES)
def test_lane_and_block_edges(size):
    """Every dtype, sizes around the edges of lanes, groups and blocks."""
    keys = make_keys(2, size)
    for i, kind in enumerate(("normal", "tied", "holes")):
        for j, dtype in enumerate((F32, BF16, F16)):
            x = make_rows(kind, 2, size, 10 * i + j, dtype)
            mask = make_mask(("none", "rows-0.5", "words-1")[(i + j) % 3], 2, size, i)
            arguments = (x, make_params(0.9, 0.8, 0.01, 0.5), keys, mask, make_mode(support="valid"), ALL, 3)
            on_every_engine(sample, *arguments, expected=sample_r1(*arguments))


@pytest.mark.parametrize("size", [1, 17, 257])
@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_one_odd_value_at_every_place(size, value):
    """No lane overlooks a NaN or an infinity, and no status comes from anywhere else."""
    places = torch.arange(size)
    x = torch.zeros(1, size).repeat(size, 1)
    x[places, places] = value
    for dtype in (F32, BF16, F16):
        arguments = (x.to(dtype), make_params(), make_keys(size), None, 0, bits_of("status"))
        out = on_every_engine(sample, *arguments, expected=sample_r1(*arguments))
        if value == -INF and size > 1:
            assert (out["status"] == 0).all() and (out["ids"] != places).all()
        else:
            assert (out["status"] == {NAN: 2, INF: 3, -INF: 4}[value]).all()


@pytest.mark.parametrize("size", [1, 33, 300, 513])
def test_single_survivor_at_every_place(size):
    """One finite logit, or one token that a mask allows: it is drawn, whatever the noise."""
    places = torch.arange(size)
    keys = make_keys(size, size)
    alone = torch.full((size, size), -INF)
    alone[places, places] = -3.0
    dense = make_rows("normal", size, size, 3)
    for x, mask in ((alone, None), (dense, torch.eye(size, dtype=torch.bool))):
        out = on_every_engine(
            sample, x, make_params(0.7, mix_eps=0.5), keys, mask, make_mode(support="valid")
        )
        assert torch.equal(out["ids"], places) and (out["n_kept"] == 1).all() and (out["logp"] == 0).all()


@pytest.mark.parametrize("ties", TIES)
def test_top_k_from_one_to_beyond(ties):
    size = 700
    ks = torch.arange(1, size + 3)
    params = make_params().repeat(len(ks), 1)
    params[:, 4] = ks
    for kind in ("normal", "tied", "equal", "holes"):
        x = make_rows(kind, 1, size, 5).expand(len(ks), size)
        arguments = (x, params, make_keys(len(ks)), None, make_mode(ties=ties), bits_of("status", "kept"))
        out = on_every_engine(sample, *arguments)
        few = torch.tensor([0, 1, 7, 63, 64, 255, 256, 300, 698, 699, 700, 701])
        picked = (x[few], params[few], make_keys(len(ks))[few], None, make_mode(ties=ties))
        plain = sample_r1(*picked, bits_of("n_kept", "kept"))
        n = (out["kept_offsets"][1:] - out["kept_offsets"][:-1])[few]
        assert torch.equal(n, plain["n_kept"])
        ids = [out["kept_ids"][out["kept_offsets"][i] : out["kept_offsets"][i + 1]] for i in few]
        assert torch.equal(torch.cat(ids), plain["kept_ids"])


def with_exact_sum(bulk, total):
    """`bulk`, gaps in bits (logits at T = HALVING), and whole gaps that fill the weights up to `total`."""
    missing = total - sum(r1.weight(t) for t in bulk)
    assert missing >= 0
    powers = [float(j - 43) for j in range(43) if missing >> j & 1]
    return bulk + powers + [0.0] * (missing >> 43)


@pytest.mark.parametrize("top", [-0.01, -1.5, -7.0, -23.0])
def test_sums_are_exact(top):
    """S decides by one unit: with top_p = 2^-n the best token is the nucleus if S = 2^(43 + n), and not if
    S = 2^(43 + n) + 1. `top` puts the blocks of the bulk in each of the three ways to sum."""
    g = torch.Generator().manual_seed(int(-top * 100))
    for trial in range(40):
        size = 2300 + 100 * trial
        bulk = (top - 20 * torch.rand(size, generator=g) ** 2).tolist()
        n = max(2, (sum(2.0**t for t in bulk) + 1).__ceil__().bit_length())
        for extra, kept in ((0, 1), (1, 2), (-1, 1)):
            rest = with_exact_sum(bulk, (1 << 43 + n) - (1 << 43) + extra)
            head = torch.tensor(rest[size:])
            x = torch.cat([torch.zeros(1), torch.tensor(bulk), head])[None]
            arguments = (x, make_params(HALVING, 2.0**-n), make_keys(1, trial), None, 0, bits_of("n_kept"))
            expected = sample_r1(*arguments) if trial < 2 else None
            out = on_every_engine(sample, *arguments, expected=expected)
            assert out["n_kept"].item() == kept


# Long rows: R2 against the instruction sets, R1 now and then

CONFIGURATIONS = {
    "plain": {},
    "greedy": {"temperature": 0.0},
    "flat": {"temperature": INF},
    "cold": {"temperature": 1e-3},
    "top_k 50": {"top_k": 50},
    "top_k 5000": {"top_k": 5000},
    "top_p 0.9": {"top_p": 0.9},
    "top_p 0.3": {"top_p": 0.3},
    "top_p 1e-9": {"top_p": 1e-9},
    "top_k 50, top_p 0.95": {"top_k": 50, "top_p": 0.95},
    "top_k 40000, top_p 0.7": {"top_k": 40000, "top_p": 0.7},
    "min_p 0.05": {"min_p": 0.05, "temperature": 0.8},
    "all of them": {"top_k": 3000, "top_p": 0.9, "min_p": 0.001, "mix_eps": 0.5, "temperature": 0.8},
}


@pytest.mark.parametrize("kind", ["normal", "peaked", "tied", "holes", "sunken", "two_values"])
def test_long_rows(kind):
    """All configurations as the rows of one batch."""
    size = LONG[0]
    params = torch.cat([make_params(**c) for c in CONFIGURATIONS.values()])
    rows = len(params)
    for i, dtype in enumerate((F32, BF16)):
        x = make_rows(kind, 1, size, i, dtype).expand(rows, size)
        mask = make_mask("none" if i == 0 else "rows-0.5", 1, size, 1)
        mode = make_mode(ORDERS[i], TIES[i], "valid" if i else "kept")
        on_every_engine(sample, x, params, make_keys(rows, i), mask, mode, ALL, 5)


@pytest.mark.parametrize("kind", ["normal", "peaked", "tied"])
def test_very_long_rows(kind):
    size = LONG[1]
    params = torch.cat(
        [make_params(0.9, 0.9, 0.0, 0.0, 0), make_params(1.0, 1.0, 0.01, 0.3, 200_000), make_params()]
    )
    x = make_rows(kind, 1, size, 2).expand(3, size)
    on_every_engine(sample, x, params, make_keys(3), None, 0, ALL, 100)
    temperature = torch.tensor([0.7], dtype=torch.float64)
    for log in (False, True):
        on_every_engine(softmax, x[:1], temperature, None, log)
    p = torch.softmax(x[:1], -1)
    for n, replacement in ((1, False), (1000, True), (1000, False)):
        on_every_engine(multinomial, p, make_keys(1), n, replacement)


def test_plain_python_at_151936():
    x = make_rows("normal", 1, LONG[0], 7, BF16)
    params = make_params(0.8, 0.95, 0.001, 0.05, 20_000)
    arguments = (x, params, make_keys(1, 3), None, make_mode("joint"), ALL, 5)
    on_every_engine(sample, *arguments, expected=sample_r1(*arguments))


@pytest.mark.slow
def test_plain_python_at_2_to_the_20():
    x = make_rows("normal", 1, LONG[1], 8)
    arguments = (x, make_params(0.9, 0.9), make_keys(1, 4), None, 0, ALL, 5)
    on_every_engine(sample, *arguments, expected=sample_r1(*arguments))


# Top-k and top-p where candidates do not fit a short list


@pytest.mark.parametrize("size", [2048, 32768, 40000, 70000, 131072])
def test_top_p_on_flat_rows(size):
    """The nucleus is most of the vocabulary: by a pivot near the cut, in a zone beside it, or by counting."""
    top_ps = [0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 0.999, 0.999999, 1 - 2.0**-24]
    params = torch.cat([make_params(t, p) for p in top_ps for t in (1.0, 5.0)])
    rows = len(params)
    for kind, ties in (("normal", "index"), ("ramp", "all"), ("tied", "index"), ("denormal", "all")):
        x = make_rows(kind, 1, size, size, BF16 if kind == "ramp" else F32).expand(rows, size)
        outputs = bits_of("n_kept", "kept_mass", "logp")
        on_every_engine(sample, x, params, make_keys(rows), None, make_mode(ties=ties), outputs)


def check_cuts(x, ends):
    """top_p at the mass of each of these prefixes and one float32 to either side, on every engine."""
    ordered = x.sort(descending=True).values
    gaps = (ordered - ordered[0]) * r1.fl32(r1.LOG2E)
    weights = torch.tensor([C.weight(t) for t in gaps.tolist()])
    prefix = weights.cumsum(0)  # below 2^61
    at = (prefix[ends].double() / prefix[-1].double()).float()
    top_ps = torch.cat([at, at.nextafter(torch.tensor(0.0)), at.nextafter(torch.tensor(2.0))])
    top_ps = top_ps[top_ps < 1]
    targets = torch.tensor([r1.ceil_mul(p, int(prefix[-1])) for p in top_ps.tolist()])
    last = ordered[torch.searchsorted(prefix, targets)]
    expected = (ordered >= last[:, None]).sum(1)  # with ties="all", lest their order matters
    expected = expected.clamp_max((weights > 0).sum())
    params = make_params().repeat(len(top_ps), 1)
    params[:, 1] = top_ps.double()
    arguments = (x.expand(len(top_ps), -1), params, None, None, make_mode(ties="all"), bits_of("n_kept"))
    for name in FAST:
        with engine(name):
            assert torch.equal(sample(*arguments)["n_kept"], expected), name


@pytest.mark.parametrize("size", [1500, 5000, 70_000])
@pytest.mark.parametrize("offset", [0.0, 900.0, -2500.0, 30_000.0])
@pytest.mark.parametrize("spread", [1.0, 0.05, 5.0])
def test_top_p_at_the_cut(size, offset, spread):
    """An estimate of a sum must not decide."""
    g = torch.Generator().manual_seed(size)
    x = offset + spread * torch.randn(size, generator=g)
    check_cuts(x, torch.cat([torch.arange(3), torch.randint(0, size, (20,), generator=g)]))


@pytest.mark.parametrize("step", range(16))
def test_top_p_beneath_the_head(step):
    """The same where the cut lies among some hundred tokens below the heaviest, and nearly all weight beyond
    it: in tokens of one value, so that a polynomial is off by the same for each of them."""
    g = torch.Generator().manual_seed(step)
    x = torch.full((70_000,), (step / 16 - 7) * math.log(2))
    places = torch.randperm(len(x), generator=g)
    x[places[:100]] = -0.1 * torch.rand(100, generator=g)
    x[places[100:700]] = -3 - torch.rand(600, generator=g)
    check_cuts(x, torch.randint(90, 700, (24,), generator=g))


@pytest.mark.parametrize("ties", TIES)
@pytest.mark.parametrize("order", ORDERS)
def test_long_lists_of_ties(order, ties):
    """More than 65536 equal candidates: the cut is found by counting, at every place of the ties."""
    size = 200_003
    shapes = {
        "equal": torch.zeros(size),
        "two values": torch.where(torch.arange(size) % 3 == 0, 0.0, -1.0),
        "best among equals": torch.zeros(size).index_fill(0, torch.tensor([199_990]), 2.0),
        "few bfloat16 values": make_rows("normal", 1, size, 4, BF16)[0].float() / 8,
    }
    lines = [
        make_params(HALVING, top_p, min_p, eps, k)
        for top_p, k in (
            (1.0, 70_000),
            (0.5, 0),
            (0.9999, 100_001),
            (0.25, 150_000),
            (1e-7, 199_999),
            (1.0, 5),
        )
        for min_p, eps in ((0.0, 0.0), (0.6, 1.0))
    ]
    params = torch.cat(lines)
    for x in shapes.values():
        batch = x[None].expand(len(params), size)
        mode = make_mode(order, ties)
        outputs = bits_of("n_kept", "kept_mass", "logp", "rank", "kept")
        on_every_engine(sample, batch, params, make_keys(len(params), 5), None, mode, outputs)


@pytest.mark.parametrize("ties", TIES)
def test_top_k_on_long_rows(ties):
    size = 100_000
    ks = [1, 2, 100, 390, 391, 3000, 6250, 6251, 32768, 32769, 50_000, 65536, 65537, 99_999, 100_000, 10**9]
    params = torch.cat([make_params(top_k=k) for k in ks])
    for kind in ("normal", "tied", "holes", "peaked"):
        x = make_rows(kind, 1, size, 9).expand(len(ks), size)
        mode = make_mode(ties=ties)
        outputs = bits_of("n_kept", "kept", "logp")
        on_every_engine(sample, x, params, make_keys(len(ks), 6), None, mode, outputs, 3)


@pytest.mark.parametrize("top_n", [1, 20, 32768, 50_000, 70_001])
def test_top_n_of_long_rows(top_n):
    for kind in ("normal", "tied", "equal"):
        x = make_rows(kind, 2, 70_000, 3)
        on_every_engine(sample, x, make_params(0.5), make_keys(2), None, 0, 0, top_n)


@pytest.mark.parametrize("kind", KINDS)
def test_whole_rows_of_70000(kind):
    x = make_rows(kind, 1, 70_000, 11)
    for t in (1.0, 0.31, INF):
        for log in (False, True):
            on_every_engine(softmax, x, torch.tensor([t], dtype=torch.float64), None, log)
    for params in (make_params(0.8, 0.9), make_params(0.8, top_k=40_000), make_params(1.0, 0.5, 0.001)):
        for renorm in (False, True):
            for order in ORDERS:
                on_every_engine(keep, x, params, None, make_mode(order, TIES[renorm]), renorm)


@pytest.mark.parametrize("kind", ["normal", "peaked", "equal", "two_values", "integers"])
def test_long_probabilities(kind):
    p = make_probs(kind, 1, 131072, 2)
    lines = [make_params(top_p=t, top_k=k, mix_eps=0.2) for t in (1.0, 0.5, 0.99) for k in (0, 9, 70_000)]
    params = torch.cat(lines)
    mode = make_mode(probs=True)
    batch = p.expand(len(params), -1)
    on_every_engine(sample, batch, params, make_keys(len(params)), None, mode, ALL_OF_PROBS)
    for renorm_params in params[1::3]:
        on_every_engine(keep, p, renorm_params[None], None, mode, True)
    for n, replacement in ((1, True), (500, True), (500, False), (140_000, False)):
        on_every_engine(multinomial, p, make_keys(1), n, replacement)


@examples(100)
@given(seeds, st.sampled_from(list(KINDS)), st.integers(5001, 140_000), modes, st.data())
def test_generated_long_rows(seed, kind, size, mode, data):
    x = make_rows(kind, 2, size, seed)
    params = data.draw(param_rows(2, size))
    asked = data.draw(st.sampled_from(ASKED))
    on_every_engine(
        sample, x, params, make_keys(2, seed), None, mode, asked, data.draw(st.sampled_from([0, 4]))
    )


def test_engines_are_what_they_say():
    assert ENGINES[:2] == ["reference", "scalar"] and ENGINES[-1] == BEST
    for name in ENGINES:
        with engine(name):
            assert fusedraw.isa() == name
