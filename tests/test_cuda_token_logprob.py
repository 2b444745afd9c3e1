# SPDX-License-Identifier: Apache-2.0
"""token_logprob's CUDA kernels, run by the SIMT executor, equal the reference engine bit for bit, and with it
what `sample` returned."""

import fusedraw
import pytest
import test_token_logprob_input as scores
import torch
from bad_input.laws import SCORE_DATA, of_scores
from engines import (
    BF16,
    EXECUTOR,
    F16,
    F32,
    bits_of,
    both,
    engine,
    make_keys,
    make_mode,
    make_params,
    same_bits,
    sample,
)
from hypothesis import given
from row_kinds import make_mask, make_rows
from scoring import score, scored_batches
from simt_engine import library, operators, recorded, schedule
from strategies import examples


@pytest.fixture(autouse=True)
def built():
    library()


@examples(60)
@given(scored_batches())
def test_generated_rows(batch):
    arguments, _ = batch
    both(score, *arguments)


LINES = {
    "plain": make_params(0.8),
    "top-p, mixed": make_params(0.8, 0.9, 0.0, 0.25),
    "top-k, top-p, min-p": make_params(1.2, 0.95, 0.01, 0.5, 40),
    "flat": make_params(float("inf"), 1.0, 0.0, 0.1),
    "greedy": make_params(0.0, 1.0, 0.0, 0.1),
}


@pytest.mark.parametrize("dtype", [F32, BF16, F16])
@pytest.mark.parametrize(("rows", "size"), [(2, 1000), (1, 33_001), (1, 40_960)])
def test_long_rows_scored_and_replayed(rows, size, dtype):
    """From 32768 tokens on rows are read in parts; odd sizes are read by element, others in pieces."""
    x = make_rows("normal", rows, size, 3, dtype)
    g, h = torch.full((rows,), 0.7), torch.full((rows,), -0.2)
    for number, params in enumerate(LINES.values()):
        mode = make_mode(support=("kept", "valid")[number % 2])
        mask = make_mask("line-0.9", rows, size, 1) if number % 2 else None
        outputs = bits_of("logp", "entropy", "kept")
        drawn = sample(x, params, make_keys(rows, number), mask, mode, outputs)
        for kept in ((None, None), (drawn["kept_ids"], drawn["kept_offsets"])):
            for entropy, grads in ((True, (g, h)), (False, (g, None))):
                got = both(score, x, drawn["ids"], params, mask, kept, mode, entropy, grads)
                assert same_bits(got["logp"], drawn["logp"])
                assert not entropy or same_bits(got["entropy"], drawn["entropy"])


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_schedules_do_not_count(seed):
    x, params = make_rows("tied", 3, 2000, seed), make_params(0.9, 0.8, 0.0, 0.2)
    drawn = sample(x, params, make_keys(3, seed), None, 0, bits_of("kept"))
    grads = torch.tensor([1.0, -1.0, 0.5]), torch.tensor([0.1, 0.2, 0.3])
    for kept in ((None, None), (drawn["kept_ids"], drawn["kept_offsets"])):
        with schedule(seed):
            both(score, x, drawn["ids"], params, None, kept, 0, True, grads)


def test_malformed_kept_sets_are_not_followed():
    """Every access is checked against the declared buffers meanwhile."""
    x, ids, g = torch.zeros(2, 4), torch.zeros(2, dtype=torch.int64), torch.ones(2)
    for kept in scores.MALFORMED:
        got = both(score, x, ids, make_params(), None, kept, 0, True, (g, None))
        assert got["status"][1].item() == fusedraw.Status.BAD_PARAM.value and not got["grad"][1].any()
    got = both(score, x, torch.tensor([-1, 4]), make_params(), grads=(g, g))
    assert got["status"].tolist() == [fusedraw.Status.BAD_PARAM.value] * 2 and not got["grad"].any()


@pytest.mark.parametrize("dtype", [F32, torch.float64])
@pytest.mark.parametrize("number", range(len(SCORE_DATA)), ids=[row.what for row in SCORE_DATA])
def test_bad_input_is_named(number, dtype, monkeypatch):
    monkeypatch.setattr("fusedraw.scores.token_logprob_op", operators().token_logprob)
    row = of_scores(scores.X.to(dtype))[1][number]
    with pytest.raises(row.error, match=f"^token_logprob: .*{row.message}"):
        row.call()


def test_one_launch_each_and_one_pass_for_the_gradient():
    rows, size = 128, 2048
    x, ids = make_rows("normal", rows, size, 1), torch.arange(rows)
    with engine(EXECUTOR), recorded() as launches:
        score(x, ids, make_params(), entropy=False, grads=(torch.ones(rows), None))
    forward, backward = launches
    assert forward.name == "token_logprob_kernel" and forward.blocks == rows
    assert backward.name == "token_logprob_grad_kernel"
    per_row = 4 * size
    assert backward.written == rows * (per_row + 4)  # the scored token is written again
    assert rows * per_row <= backward.read < 1.1 * rows * per_row
    assert forward.read < 2.1 * rows * per_row and forward.written < 100 * rows


def test_replay_reads_the_kept_tokens_only():
    rows, size = 128, 2048
    x = make_rows("normal", rows, size, 1)
    drawn = sample(x, make_params(top_k=20), make_keys(rows), None, 0, bits_of("logp", "kept"))
    kept = drawn["kept_ids"], drawn["kept_offsets"]
    with engine(EXECUTOR), recorded() as launches:
        got = score(x, drawn["ids"], make_params(), None, kept, 0, False)
    assert same_bits(got["logp"], drawn["logp"])
    assert launches[0].read < 0.15 * rows * 4 * size
