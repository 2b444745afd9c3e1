# SPDX-License-Identifier: Apache-2.0
"""The CUDA kernels, run by the SIMT executor, equal the reference engine bit for bit: on the generated rows
of the engines' own tests, which are imported and run here with the executor in place of the instruction sets,
fewer of them. Bounds of every buffer, races and unwritten words are checked meanwhile.

Long and real rows: test_cuda_rows.py. What kernels read and write: test_cuda_traffic.py.
"""

import sys
import threading
from itertools import product

import pytest
import test_bad_input_rows as bad_rows
import test_endpoints as endpoints
import test_invariance_batch as invariance_batch
import test_invariance_memory as invariance_memory
import test_laws_agree as laws
import test_odd_input_memory as odd_memory
import test_odd_input_values as odd_values
import torch
from bad_input.bad_rows import SAMPLE
from bad_input.fine import LAW, OTHERS, SHAPES
from engines import (
    ALL,
    BF16,
    EXECUTOR,
    F16,
    F32,
    INF,
    NAN,
    ORDERS,
    TIES,
    assert_same,
    bits_of,
    both,
    engine,
    forced,
    keep,
    make_keys,
    make_mode,
    make_params,
    multinomial,
    op,
    sample,
    softmax,
)
from hypothesis import given
from hypothesis import strategies as st
from invariance_cases import batch
from row_kinds import EDGES, KINDS, make_mask, make_probs, make_rows
from simt_engine import library, schedule
from strategies import examples, modes, row_batches, seeds

# Of the package, where its functions call the operators.
CALLS = {
    "sampling": ("sample",),
    "softmax": ("softmax",),
    "filters": ("filter",),
    "multinomial": ("multinomial",),
    "keys": ("row_keys", "derive_keys"),
}


@pytest.fixture(autouse=True)
def on_the_executor(monkeypatch):
    """The imported tests compare the executor with the reference, and no instruction sets."""
    library()
    for module in (laws, endpoints, invariance_batch, invariance_memory):
        for name, value in (("FAST", [EXECUTOR]), ("on_every_engine", both)):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, value)


@pytest.fixture
def facade_on_the_executor(monkeypatch):
    """The package's functions call the operators of the executor, too."""
    for module, names in CALLS.items():
        for name in names:
            operator = getattr(torch.ops.fusedraw_simt, name).default
            monkeypatch.setattr(sys.modules[f"fusedraw.{module}"], f"{name}_op", operator)


def generated(test, n, *strategies):
    """A generated test of another file with so many examples, always the same ones."""
    return examples(n)(given(*(strategies or (st.data(),)))(test.hypothesis.inner_test))


# The generated corpus

test_sample = generated(laws.test_sample, 150)
test_sample_probs = generated(laws.test_sample_probs, 60)
test_softmax = generated(laws.test_softmax, 60)
test_masks_and_renormalisation = generated(laws.test_masks_and_renormalisation, 60)
test_multinomial = generated(laws.test_multinomial, 40)
test_rows_of_some_length = generated(
    laws.test_generated_long_rows,
    *(30, seeds, st.sampled_from(list(KINDS)), st.integers(5001, 40_000), modes, st.data()),
)


# Systematic small rows


@pytest.mark.parametrize("size", EDGES)
def test_lane_and_block_edges(size):
    laws.test_lane_and_block_edges(size)


@pytest.mark.parametrize("value, size", [*product((NAN, INF), (1, 17, 257)), (-INF, 1), (-INF, 17)])
def test_one_odd_value_at_every_place(size, value):
    laws.test_one_odd_value_at_every_place(size, value)


@pytest.mark.parametrize("size", [1, 33, 300])
def test_single_survivor_at_every_place(size):
    laws.test_single_survivor_at_every_place(size)


@pytest.mark.parametrize("top", [-0.01, -1.5, -7.0, -23.0])
def test_sums_are_exact(top):
    laws.test_sums_are_exact(top)


@pytest.mark.parametrize("offset", [0.0, 900.0, -2500.0, 30_000.0])
@pytest.mark.parametrize("spread", [1.0, 0.05, 5.0])
def test_top_p_at_the_cut(offset, spread):
    laws.test_top_p_at_the_cut(1500, offset, spread)


@pytest.mark.parametrize("ties", TIES)
def test_top_k_from_one_to_beyond(ties):
    size = 700
    ks = [1, 2, 31, 32, 33, 255, 256, 257, 511, 512, 640, 698, 699, 700, 701, 10**12]
    params = make_params().repeat(len(ks), 1)
    params[:, 4] = torch.tensor(ks)
    for kind in ("normal", "tied", "equal", "holes"):
        x = make_rows(kind, 1, size, 5).expand(len(ks), size)
        both(sample, x, params, make_keys(len(ks)), None, make_mode(ties=ties), bits_of("status", "kept"))


# The ends of the noise

test_block_noise_at_its_ends = endpoints.test_block_noise_at_its_ends
test_token_noise_at_its_ends = endpoints.test_token_noise_at_its_ends
test_a_weight_of_one_unit_can_win = endpoints.test_a_weight_of_one_unit_can_win
test_all_noise_at_one_end = endpoints.test_all_noise_at_one_end
test_equal_values_go_to_the_lower_index = endpoints.test_equal_values_go_to_the_lower_index
test_equal_quotients_of_unequal_blocks = endpoints.test_equal_quotients_of_unequal_blocks
test_ties_of_distant_blocks = endpoints.test_ties_on_long_rows_and_threads
test_equal_logits_by_index = endpoints.test_equal_logits_by_index
test_coin = endpoints.test_coin
test_with_replacement_at_the_ends = endpoints.test_with_replacement_at_the_ends
test_with_replacement_at_the_thresholds = endpoints.test_with_replacement_at_the_thresholds
test_without_replacement_at_the_ends = endpoints.test_without_replacement_at_the_ends


def test_forced_noise_ends():
    x, keys = torch.zeros(50, 16), make_keys(50, 2)
    with engine(EXECUTOR):
        free = sample(x, None, keys, outputs=0)["ids"]
        with forced({(endpoints.TOKEN, 5): endpoints.LEAST}):
            assert (sample(x, None, keys, outputs=0)["ids"] == 5).all()
        assert torch.equal(sample(x, None, keys, outputs=0)["ids"], free)


# Invariance: of the batch, of memory, of the order in which threads run


@pytest.mark.parametrize("size", [1, 3, 70, 1100])
@pytest.mark.parametrize("rows", [1, 130])
def test_few_and_many_rows(rows, size):
    x, params, keys = batch(rows, size)
    both(sample, x, params, keys, None, make_mode("joint", "all", "valid"), ALL, 4)
    both(softmax, x, params[:, 0].contiguous(), make_mask("rows-0.5", rows, size))
    both(keep, x, params, None, 0, True)
    p = make_probs("peaked", rows, size)
    for n, replacement in ((1, False), (3, True), (3, False)):
        both(multinomial, p, keys, n, replacement)


def seventy_thousand_rows():
    """x, params, keys: rows of both ends and around 65535, the most blocks in a grid's y, between rows of
    which little is asked, since they are refused."""
    rows = 70_000
    refused = torch.ones(rows, dtype=torch.bool)
    for asked in (slice(0, 20), slice(65_520, 65_560), slice(-20, None)):
        refused[asked] = False
    params = make_params(0.7, 0.9, top_k=2).repeat(rows, 1)
    params[refused, 0] = -1.0
    return make_rows("normal", rows, 3, 1), params, make_keys(rows)


def test_seventy_thousand_rows():
    both(sample, *seventy_thousand_rows(), None, 0, ALL, 1)


@pytest.mark.slow
def test_seventy_thousand_rows_of_every_operator():
    x, params, keys = seventy_thousand_rows()
    both(softmax, x, params[:, 0].contiguous())
    both(keep, x, params, None, 0, True)
    p = torch.where(params[:, :1] < 0, -1.0, x.abs())
    for replacement in (True, False):
        both(multinomial, p, keys, 2, replacement)


def test_batch_size_position_and_order():
    invariance_batch.test_batch_size_position_and_order(EXECUTOR)


test_mates_do_not_matter = generated(
    invariance_batch.test_mates_do_not_matter, 15, row_batches(), st.data(), modes
)
test_appended_minus_infinities_never_matter = generated(
    invariance_memory.test_appended_minus_infinities_never_matter,
    *(15, seeds, st.integers(1, 600), st.integers(1, 600), modes, st.data()),
)


@pytest.mark.parametrize("dtype", [F32, BF16, F16])
def test_strides_offsets_and_alignments(dtype):
    invariance_memory.test_strides_and_offsets(EXECUTOR, dtype)
    invariance_memory.test_every_alignment(EXECUTOR, dtype)


def test_expanded_rows():
    invariance_memory.test_expanded_rows(EXECUTOR)


@pytest.mark.parametrize("dtype", [BF16, F16])
def test_widened_values_give_the_same(dtype):
    invariance_memory.test_widened_values_give_the_same(EXECUTOR, dtype)


test_masked_out_is_minus_infinity = invariance_memory.test_masked_out_is_minus_infinity


def everything(seed):
    """Rows of all kinds through every operator; sizes with a partial block."""
    x, params, keys = batch(10, 1100, (F32, BF16, F16)[seed % 3])
    mask = make_mask("rows-0.95", 10, 1100, 1)
    p = make_probs("peaked", 3, 1100, 1)
    mode = make_mode(ORDERS[seed % 3], TIES[seed % 2])
    return {
        **sample(x, params, keys, mask, mode, top_n=4),
        "token": sample(x, params, keys, outputs=0)["ids"],
        "softmax": softmax(x, params[:, 0].contiguous(), mask)["out"],
        "mask": keep(x, params, mask, mode)["out"],
        "renorm": keep(x, params, None, mode, True)["out"],
        "one": multinomial(p, keys[:3], 1, False)["ids"],
        "many": multinomial(p, keys[:3], 40, True)["ids"],
        "distinct": multinomial(p, keys[:3], 40, False)["ids"],
        "row keys": op.row_keys(x, 5, -1),
    }


@pytest.mark.parametrize("seed", range(1, 13))
def test_schedules(seed):
    """The order in which blocks, warps and lanes run changes nothing."""
    with engine("reference"):
        expected = everything(seed)
    with engine(EXECUTOR), schedule(seed):
        assert_same(everything(seed), expected)


# Keys


@pytest.mark.parametrize("rows", [1, 5, 300])
def test_keys(rows):
    g = torch.Generator().manual_seed(rows)

    def words(n):
        return torch.randint(-(2**63), 2**63 - 1, (n,), generator=g)

    samples = torch.randint(0, 2**32, (rows,), generator=g)
    calls = [(words(n), words(rows), samples[:m], words(k)) for n, m, k in ((1, 1, 1), (rows, rows, rows))]
    calls.append((words(1), words(1), samples, words(rows)))
    for call in calls:
        both(lambda call=call: {"keys": op.derive_keys(*call)})
    for seed, step in ((0, 0), (-(2**63), 2**63 - 1), (77, -1)):
        both(lambda seed=seed, step=step: {"keys": op.row_keys(torch.zeros(rows, 1), seed, step)})


# Bad and odd input, through the package's functions

AMONG_BAD_ROWS = [row for row in SAMPLE if " at " not in row.what or row.what.endswith((" 0", " 69"))]


def named(rows):
    return [pytest.param(row, id=row.what) for row in rows]


@pytest.mark.parametrize("row", named(AMONG_BAD_ROWS))
def test_bad_row(facade_on_the_executor, row):
    bad_rows.test_bad_row(row)


@pytest.mark.parametrize("value, status", [(NAN, "NAN"), (INF, "POS_INF")])
@pytest.mark.parametrize("name, call", bad_rows.BAD_EVERYWHERE)
def test_bad_row_raises_by_name(facade_on_the_executor, name, call, value, status):
    bad_rows.test_bad_row_raises_by_name(name, call, value, status)


@pytest.mark.parametrize(
    "test",
    [
        bad_rows.test_bad_row_of_softmax_is_nan,
        bad_rows.test_multinomial_runs_dry,
    ],
)
def test_bad_rows_of_other_operators(facade_on_the_executor, test):
    test()


@pytest.mark.parametrize(
    "value, status", [(-0.5, "BAD_PARAM"), (NAN, "NAN"), (INF, "POS_INF"), (None, "EMPTY")]
)
def test_bad_probabilities(facade_on_the_executor, value, status):
    bad_rows.test_bad_probabilities(value, status)


EMPTY_BATCHES = [row for row in (*SHAPES, *OTHERS) if row.what == "logits [0, V]"]


@pytest.mark.parametrize("row", [*named(LAW), *named(EMPTY_BATCHES)])
def test_exact(facade_on_the_executor, row):
    odd_values.test_works(row)


def test_rows_beyond_32_bit_offsets(facade_on_the_executor):
    odd_memory.test_rows_beyond_32_bit_offsets()


def test_operators_refuse_what_is_no_row():
    """Checks of metadata are those of every device: a few, to see that they stand before a launch."""
    x, params, keys = torch.zeros(2, 9), make_params(), make_keys(2)
    for arguments, message in (
        ((x[0], params, keys), r"must be"),
        ((x.double(), params, keys), r"float32, bfloat16 or float16"),
        ((x, params.expand(3, 5), keys), r"params"),
        ((x, params, keys[:1]), r"keys"),
        ((x, params, keys, torch.ones(9)), r"mask"),
        ((x, params, keys, torch.ones(8, dtype=torch.bool)), r"mask"),
    ):
        with engine(EXECUTOR), pytest.raises(RuntimeError, match=message):
            sample(*arguments)


def test_logits_that_change_meanwhile():
    """Undefined tokens, but of the row or -1, and no access that is out of bounds."""
    x, stop = torch.randn(3, 5000), threading.Event()

    def disturb():
        g = torch.Generator().manual_seed(1)
        while not stop.is_set():
            x.copy_(torch.randn(3, 5000, generator=g) * 3)
            x[0, 7] = NAN

    thread = threading.Thread(target=disturb)
    thread.start()
    try:
        with engine(EXECUTOR):
            for i in range(40):
                params = make_params(0.7, (1.0, 0.9, 0.5)[i % 3], top_k=(0, 40, 2000)[i // 3 % 3])
                ids = sample(x, params, make_keys(3, i), top_n=3)["ids"]
                assert ((ids >= -1) & (ids < 5000)).all()
    finally:
        stop.set()
        thread.join()
