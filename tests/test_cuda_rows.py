# SPDX-License-Identifier: Apache-2.0
"""The CUDA kernels, run by the SIMT executor, equal the reference engine bit for bit on rows as long as those
of language models: real ones at V = 49152, real-like, peaked and flat ones at 128256, generated ones, and
rows of more blocks than shared memory holds. Few rows are split over thread blocks, many are not."""

import sys

import pytest
import test_laws_agree as laws
import torch
from engines import (
    ALL,
    BF16,
    EXECUTOR,
    F16,
    F32,
    INF,
    ORDERS,
    TIES,
    assert_same,
    bits_of,
    both,
    engine,
    keep,
    make_keys,
    make_mode,
    make_params,
    multinomial,
    sample,
    softmax,
)
from invariance_cases import check_rows
from row_kinds import make_mask, make_probs, make_rows
from simt_build import ROOT
from simt_engine import library, schedule

sys.path.append(str(ROOT))
from fusedraw.bench import cases, data

REAL, REAL_LIKE, PEAKED, FLAT = ("real", 49152), ("real", 128256), ("peaked", 128256), ("flat", 128256)
BENCHMARKED = {
    name: {k: v for k, v in settings.items() if k != "returns"} for name, settings in cases.CONFIGS.items()
}
FAR = 300_000  # logits whose block maxima do not fit in shared memory
MANY = 130  # rows that are not split


@pytest.fixture(autouse=True, scope="module")
def executor():
    library()


def stacked(configurations):
    return torch.cat([make_params(**c) for c in configurations])


# Rows of language models


@pytest.mark.parametrize("kind, size", [REAL, REAL_LIKE, PEAKED, FLAT], ids=lambda v: str(v))
def test_benchmarked_configurations(kind, size):
    """Each with the outputs of its own and with the token alone, in float32 and bfloat16."""
    params = stacked(BENCHMARKED.values())
    rows = len(params)
    for dtype in (F32, BF16):
        x, keys = data.make(kind, size, rows, dtype), make_keys(rows, size)
        both(sample, x, params, keys, None, 0, bits_of("status"))
        both(sample, x, params, keys, None, 0, bits_of("logp", "entropy", "kept"))


@pytest.mark.parametrize("kind, size", [REAL, REAL_LIKE, PEAKED, FLAT], ids=lambda v: str(v))
def test_every_output(kind, size):
    """With kept ids, top_n, mixtures, orders and ties."""
    for i, (dtype, mix) in enumerate(((F32, 0.0), (BF16, 0.5), (F16, 1.0))):
        params = stacked([make_config(c, mix) for c in list(laws.CONFIGURATIONS.values())[i::3]])
        x = data.make(kind, size, len(params), dtype)
        mask = (None, "words-1", "line-0.9")[i]
        mask = mask and make_mask(mask, len(params), size, 1)
        mode = make_mode(ORDERS[i], TIES[i % 2], ("kept", "valid", "valid")[i])
        both(sample, x, params, make_keys(len(params), i), mask, mode, ALL, 20)


def make_config(configuration, mix):
    return {"mix_eps": mix, **configuration}


@pytest.mark.parametrize("kind, size", [REAL, PEAKED], ids=lambda v: str(v))
def test_whole_rows(kind, size):
    for dtype in (F32, BF16):
        x = data.make(kind, size, 2, dtype)
        for t in (0.7, INF):
            for log in (False, True):
                both(softmax, x, torch.tensor([t], dtype=torch.float64), None, log)
        for params in (make_params(0.8, 0.9), make_params(0.8, top_k=50), make_params(1.0, 0.5, 0.001)):
            for renorm in (False, True):
                both(keep, x, params, None, make_mode(ORDERS[renorm], TIES[renorm]), renorm)


@pytest.mark.parametrize("kind, size", [REAL, FLAT], ids=lambda v: str(v))
def test_probabilities(kind, size):
    p = torch.softmax(data.make(kind, size, 2), -1)
    keys = make_keys(2, 1)
    params = torch.cat([make_params(top_p=0.9), make_params(top_k=50, mix_eps=0.3)])
    asked = bits_of("logp", "n_kept", "rank", "kept")
    for dtype in (F32, BF16, F16):  # in float16 most are subnormal
        both(sample, p.to(dtype), params, keys, None, make_mode(probs=True), asked)
        for n, replacement in ((1, True), (3000, True), (3000, False)):
            both(multinomial, p.to(dtype), keys, n, replacement)


# Generated rows


@pytest.mark.parametrize("kind", ["normal", "tied", "holes", "sunken", "two_values", "equal"])
def test_generated_rows(kind):
    size = 65_537
    params = stacked(laws.CONFIGURATIONS.values())
    rows = len(params)
    for i, dtype in enumerate((F32, BF16)):
        x = make_rows(kind, 1, size, i, dtype).expand(rows, size)
        mode = make_mode(ORDERS[i], TIES[i], "valid" if i else "kept")
        mask = make_mask("none" if i == 0 else "rows-0.5", 1, size, 1)
        both(sample, x, params, make_keys(rows, i), mask, mode, bits_of("logp", "n_kept", "kept_mass"))


@pytest.mark.parametrize("ties", TIES)
def test_top_k_and_top_n_of_every_size(ties):
    """Up to beyond what a list holds, on rows with and without ties."""
    size = 40_000
    ks = [1, 2, 76, 77, 100, 819, 820, 1024, 1025, 2048, 2560, 2561, 39_999, 40_000, 10**9]
    params = make_params(top_k=1).repeat(len(ks), 1)
    params[:, 4] = torch.tensor(ks)
    for kind in ("normal", "tied", "peaked"):
        x = make_rows(kind, 1, size, 9).expand(len(ks), size)
        both(sample, x, params, make_keys(len(ks), 6), None, make_mode(ties=ties), bits_of("n_kept", "logp"))
        for top_n in (300, 3000):
            both(sample, x[:1], make_params(), make_keys(1), None, make_mode(ties=ties), 0, top_n)


@pytest.mark.parametrize("kind", ["normal", "ramp", "tied"])
def test_top_p_on_flat_rows(kind):
    top_ps = [0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 0.999999, 1 - 2.0**-24]
    params = torch.cat([make_params(t, p) for p in top_ps for t in (1.0, 5.0)])
    x = make_rows(kind, 1, 40_000, 4, BF16 if kind == "ramp" else F32).expand(len(params), -1)
    both(sample, x, params, make_keys(len(params)), None, 0, bits_of("n_kept", "kept_mass", "logp"))


def test_float16_maxima_of_blocks():
    """Subnormal, infinite and zero ones, which thread blocks hand on in float16."""
    size, g = 40_000, torch.Generator().manual_seed(3)
    scale = torch.tensor([2.0**-20, 2.0**-14, 0.0, -(2.0**-22), INF])[torch.arange(size) // 256 % 5]
    x = (torch.randn(3, size, generator=g).abs() * -scale).half()
    x[1, 20_000] = x[2, 30_000] = 2.0**-24
    x[2, 39_999] = INF
    for params in (make_params(1e-6), make_params(1e-6, top_k=900), make_params(1e-7, 0.3, 0.0, 0.5)):
        both(sample, x, params, make_keys(3), None, make_mode(support="valid"), ALL, 9)


# More blocks than shared memory holds


@pytest.mark.parametrize("rows", [1, MANY])
def test_more_blocks_than_shared_memory_holds(rows):
    configurations = ({}, {"top_k": 50}, {"top_p": 0.9, "mix_eps": 0.5}, {"min_p": 0.05}, {"top_k": 5000})
    for kind, dtype in (("normal", BF16), ("tied", F32)):
        x = make_rows(kind, 1, FAR, 3, dtype)
        if rows == 1:
            for i, c in enumerate(configurations):
                both(sample, x, make_params(0.8, **c), make_keys(1, i), None, 0, ALL, 2)
        elif dtype == BF16:
            params = stacked([configurations[i % len(configurations)] for i in range(rows)])
            params[len(configurations) :, 0] = -1.0  # refused: only there to be many
            both(sample, x.expand(rows, FAR), params, make_keys(rows), None, 0, bits_of("logp", "rank"))


def test_whole_rows_of_more_blocks_than_shared_memory_holds():
    x = make_rows("normal", 1, FAR, 5, BF16)
    both(softmax, x, torch.tensor([0.7], dtype=torch.float64))
    both(keep, x, make_params(top_p=0.9), None, 0, True)
    p = make_probs("normal", 1, FAR, 3)
    for n, replacement in ((1, False), (100, True), (100, False)):
        both(multinomial, p, make_keys(1), n, replacement)


# Invariance


def test_split_rows_equal_whole_rows():
    """Alone a row is split over thread blocks, among many it is not; nor does its place matter."""
    size = 49152
    params = stacked(list(BENCHMARKED.values()) * 17)[:MANY]
    x = data.make("real", size, 16, BF16)[torch.arange(MANY) * 5 % 16]
    params[24:-3, 0] = -1.0  # refused: only there to be many
    keys = make_keys(MANY, 1)
    outputs = ALL & ~bits_of("entropy", "varentropy", "logp_full", "logp_raw")
    whole = both(sample, x, params, keys, None, 0, outputs)
    with engine(EXECUTOR):
        for index in (*([i] for i in (0, 1, 2, 3, 4, 5, 6, 13, 127, 129)), [129, 0, 25], [7, 7, 8]):
            part = sample(x[index], params[index], keys[index], None, 0, outputs)
            check_rows(whole, index, part, f"rows {index}")


@pytest.mark.parametrize("bad", [float("nan"), INF])
def test_bad_values_anywhere_in_a_split_row(bad):
    size = 70_000
    places = [0, 255, 256, 16_383, 16_384, 32_767, 32_768, 65_535, 65_536, size - 1]
    x = make_rows("normal", 1, size, 1, BF16).repeat(len(places) + 1, 1)
    x[torch.arange(len(places)), torch.tensor(places)] = bad
    out = both(sample, x, make_params(top_k=9), make_keys(len(x)), None, 0, bits_of("status", "logp"))
    assert out["status"].tolist() == [2 if bad != bad else 3] * len(places) + [0]


@pytest.mark.parametrize("seed", range(1, 7))
def test_schedules_of_split_rows(seed):
    params = stacked(list(BENCHMARKED.values()))[seed % 2 :: 2]
    x = data.make("real", 49152, len(params), BF16)
    arguments = (x, params, make_keys(len(params), seed), None, 0, ALL, 3)
    with engine("reference"):
        expected = sample(*arguments)
    with engine(EXECUTOR), schedule(seed):
        assert_same(sample(*arguments), expected)


def test_strides_and_alignments_of_long_rows():
    size, params = 40_001, torch.cat([make_params(top_k=50), make_params(0.8), make_params(top_p=0.9)])
    for dtype in (F32, BF16):
        x = make_rows("normal", 3, size, 2, dtype)
        with engine("reference"):
            expected = sample(x, params, make_keys(3))
        for offset, stride in ((1, size), (0, size + 7), (8, size + 8), (3, size + 1)):
            room = torch.full((offset + 3 * stride,), float("nan"), dtype=dtype)
            view = room[offset:].as_strided((3, size), (stride, 1), offset)
            view.copy_(x)
            with engine(EXECUTOR):
                assert_same(sample(view, params, make_keys(3)), expected, f"{offset=} {stride=}")


# The engines' own tests of long rows, as they are: minutes


@pytest.fixture
def engines_are_the_executor(monkeypatch):
    monkeypatch.setattr(laws, "on_every_engine", both)
    monkeypatch.setattr(laws, "FAST", [EXECUTOR])


LONG = [
    *((laws.test_long_rows, kind) for kind in ("normal", "peaked", "tied", "holes", "sunken", "two_values")),
    *((laws.test_top_p_at_the_cut, 5000, offset, 1.0) for offset in (0.0, 900.0)),
    *((laws.test_top_p_on_flat_rows, size) for size in (2048, 32_768, 70_000)),
    *((laws.test_long_lists_of_ties, order, ties) for order in ORDERS for ties in TIES),
    *((laws.test_top_k_on_long_rows, ties) for ties in TIES),
    *((laws.test_top_n_of_long_rows, top_n) for top_n in (20, 32_768)),
    *((laws.test_whole_rows_of_70000, kind) for kind in ("normal", "tied", "cliff", "denormal", "huge")),
    *((laws.test_long_probabilities, kind) for kind in ("normal", "peaked", "equal", "integers")),
]


@pytest.mark.slow
@pytest.mark.parametrize("call", LONG, ids=lambda call: "-".join([call[0].__name__, *map(str, call[1:])]))
def test_long_rows_of_the_engines(engines_are_the_executor, call):
    test, *arguments = call
    test(*arguments)
