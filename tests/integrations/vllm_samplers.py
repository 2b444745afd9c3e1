# SPDX-License-Identifier: Apache-2.0
"""The plugin beside vLLM's own sampler class, on rows without ties: the same kept sets and log-probs, the law
of the draw, keys, bad rows, and what is left to vLLM."""

import itertools

import fusedraw
import pytest
import torch
import vllm
from fusedraw.vllm import _batch_sampler, register
from scipy import stats
from vllm.v1.sample.logits_processor.interface import LogitsProcessor
from vllm.v1.sample.sampler import Sampler
from vllm_rows import VOCABULARY as V
from vllm_rows import logged, metadata

own_sample = _batch_sampler._own_sample
FILTERS = [
    {},
    {"top_k": 40},
    {"top_p": 0.9},
    {"min_p": 0.02},
    {"top_k": 40, "top_p": 0.9},
    {"top_k": 300, "min_p": 0.05},
    {"top_p": 0.6, "min_p": 0.01},
    {"top_k": 25, "top_p": 0.8, "min_p": 0.03},
    {
        "top_k": [1, V, 3, 77, 5, V],
        "top_p": [1.0, 0.5, 0.9, 0.95, 1.0, 1.0],
        "min_p": [0.0, 0.1, 0.0, 0.01, 0, 0],
    },
]


@pytest.fixture(autouse=True, scope="module")
def plugin():
    register()
    assert Sampler.sample is _batch_sampler.sample


@pytest.fixture
def vllm_draws():
    """A function that gives the sampling back to vLLM for the rest of the test."""
    yield _batch_sampler.give_back
    _batch_sampler.install()


def logits_of(rows, seed=0, width=3.0, vocabulary=V):
    return torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(seed)) * width


def kept(logits):
    return [set(row.isfinite().nonzero().flatten().tolist()) for row in logits]


@pytest.mark.parametrize("filters", FILTERS, ids=str)
@pytest.mark.parametrize("temperature", [0.7, [1.0, 0.0, 1.3, 0.5, 0.0, 2.0]], ids=str)
def test_processed_logits_are_those_of_vllm(filters, temperature):
    """The whole rows: kept sets exactly, values within 1e-5, in both modes; the token comes from the kept."""
    logits = logits_of(6, seed=len(str(filters)))
    for mode in ("processed_logits", "processed_logprobs"):
        sampler = Sampler(mode)
        plan = metadata(6, temperature=temperature, max_num_logprobs=0, **filters)
        ids, ours = sampler.sample(logits.clone(), plan)
        _, theirs = own_sample(sampler, logits.clone(), plan)
        assert kept(ours) == kept(theirs)
        finite = theirs.isfinite()
        torch.testing.assert_close(ours[finite], theirs[finite], rtol=1e-5, atol=1e-5)
        assert ours.gather(1, ids.unsqueeze(1)).isfinite().all()


@pytest.mark.parametrize("filters", FILTERS, ids=str)
def test_processed_logprob_of_the_token_is_the_logp_of_the_draw(filters):
    logits = logits_of(6, seed=5)
    seeds, outputs = {r: 100 + r for r in range(6)}, [[7] * r for r in range(6)]
    plan = metadata(6, temperature=0.8, max_num_logprobs=0, seeds=seeds, outputs=outputs, **filters)
    ids, processed = Sampler("processed_logprobs").sample(logits.clone(), plan)
    tensors = {k: torch.tensor(v) if isinstance(v, list) else v for k, v in filters.items()}
    drawn = fusedraw.sample(
        logits,
        temperature=0.8,
        filter_order="min_p_first",
        keys=torch.tensor([[100 + r, r] for r in range(6)]),
        returns=("logp",),
        **tensors,
    )
    assert ids.tolist() == drawn.ids.tolist()
    torch.testing.assert_close(processed.gather(1, ids.unsqueeze(1))[:, 0], drawn.logp, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mode", ["raw_logprobs", "raw_logits", "processed_logprobs", "processed_logits"])
@pytest.mark.parametrize(
    "wanted", [{"max_num_logprobs": 3}, {"logprob_token_ids": {0: [5, 9], 2: [1]}}], ids=str
)
def test_log_probs_of_a_call_are_those_that_vllm_reports(mode, wanted, vllm_draws):
    """The whole forward, penalties and bans included, where both draw the same tokens."""
    rows = 3
    logits = logits_of(rows, seed=9)
    fields = {
        "no_penalties": False,
        "prompt_token_ids": torch.tensor([[1, 2], [3, 4], [5, V]]),
        "frequency_penalties": torch.tensor([0.5, 0.0, 0.2]),
        "repetition_penalties": torch.tensor([1.2, 1.0, 1.1]),
        "output_token_ids": [[8, 8], [9], [10, 11, 11]],
        "bad_words_token_ids": {1: [[int(logits[1].argmax())]]},
        "max_num_logprobs": None,
        **wanted,
    }
    plan = metadata(rows, temperature=[0.0, 0.9, 0.0], top_p=[1.0, 1e-6, 1.0], **fields)
    ours = Sampler(mode)(logits.clone(), plan)
    vllm_draws()
    theirs = Sampler(mode)(logits.clone(), plan)
    assert ours.sampled_token_ids.tolist() == theirs.sampled_token_ids.tolist()
    assert ours.sampled_token_ids[1] != logits[1].argmax()
    mine, its = ours.logprobs_tensors, theirs.logprobs_tensors
    finite = its.logprobs.isfinite()
    assert finite.equal(mine.logprobs.isfinite())
    torch.testing.assert_close(mine.logprobs[finite], its.logprobs[finite], rtol=1e-5, atol=1e-5)
    assert mine.logprob_token_ids[finite].equal(its.logprob_token_ids[finite])
    assert mine.selected_token_ranks.equal(its.selected_token_ranks)


def test_nothing_is_computed_for_log_probs_that_nobody_wants():
    plan = metadata(2, top_k=5)
    assert Sampler("processed_logprobs").sample(logits_of(2), plan)[1] is None


def test_far_tokens_of_unfiltered_rows_keep_their_log_probs():
    logits = torch.zeros(2, 300)
    logits[:, 7] = 60.0  # e^-60 is no weight, and a log-prob all the same
    plan = metadata(2, max_num_logprobs=-1, top_k=[300, 4])
    _, processed = Sampler("processed_logprobs").sample(logits.clone(), plan)
    torch.testing.assert_close(processed[0], logits[0].log_softmax(-1))
    assert processed[1].isfinite().sum() == 1


@pytest.mark.parametrize(
    "filters",
    [{"temperature": 0.7}, {"top_k": 9}, {"top_p": 0.8}, {"min_p": 0.1, "temperature": 1.5}],
    ids=str,
)
@pytest.mark.parametrize("seeded", [False, True])
def test_draws_follow_the_law_that_vllm_states(filters, seeded):
    """chi-square of 20,000 draws against vLLM's own processed log-probs of the row."""
    rows, size = 20_000, 40
    row = logits_of(1, seed=3, width=2.0, vocabulary=size)
    torch.manual_seed(11)
    seeds = {r: 10**6 + r for r in range(rows)} if seeded else None
    plan = metadata(rows, seeds=seeds, outputs=[[]] * rows if seeded else None, **filters)
    ids, _ = Sampler().sample(row.repeat(rows, 1), plan)
    one = metadata(1, max_num_logprobs=-1, **filters)
    law = own_sample(Sampler("processed_logprobs"), row.clone(), one)[1][0].double().exp()
    counts = torch.bincount(ids, minlength=size)
    inside = law > 0
    assert counts[~inside].sum() == 0
    expected = (law[inside] / law[inside].sum() * rows).numpy()
    big = expected > 5
    observed = counts[inside].numpy()
    cells = [*observed[big]], [*expected[big]]
    if (~big).any():
        cells[0].append(observed[~big].sum())
        cells[1].append(expected[~big].sum())
    assert stats.chisquare(*cells).pvalue > 1e-4


def test_a_seeded_row_draws_the_same_in_every_batch_and_place():
    logits = logits_of(5, seed=4)
    outputs = [[1], [1, 2], [], [3] * 9, [4]]
    together = metadata(
        5,
        temperature=[0.8, 1.0, 0.0, 1.2, 0.8],
        top_p=[0.9, 1.0, 1.0, 0.95, 0.9],
        seeds={0: 7, 1: -1, 3: 2**63 + 5},
        outputs=outputs,
    )
    ids = Sampler().sample(logits, together)[0]
    for row, (temperature, top_p, seed) in {
        0: (0.8, 0.9, 7),
        1: (1.0, 1.0, -1),
        3: (1.2, 0.95, 2**63 + 5),
    }.items():
        alone = metadata(1, temperature=temperature, top_p=top_p, seeds={0: seed}, outputs=[outputs[row]])
        assert Sampler().sample(logits[row : row + 1], alone)[0][0] == ids[row]
    assert ids[2] == logits[2].argmax()


def test_the_key_is_seed_and_number_of_output_tokens():
    logits = logits_of(1, seed=6, width=0.1)  # flat: other noise, other token
    outputs = []
    plan = metadata(1, seeds={0: 99}, outputs=[outputs])
    drawn = []
    for step in range(6):
        ids = Sampler().sample(logits, plan)[0]
        assert ids == fusedraw.sample(logits, keys=torch.tensor([[99, step]]))
        drawn.append(int(ids))
        outputs.append(int(ids))  # as the batch does it: the same list, which grows
    assert len(set(drawn)) > 1


def test_rows_without_a_seed_get_fresh_noise_from_the_default_generator():
    logits = logits_of(1, width=0.1).repeat(50, 1)
    plan = metadata(50, seeds={3: 1}, outputs=[[]] * 50)
    torch.manual_seed(5)
    first, second = Sampler().sample(logits, plan)[0], Sampler().sample(logits, plan)[0]
    torch.manual_seed(5)
    again = Sampler().sample(logits, plan)[0]
    assert first.equal(again)
    assert first[3] == second[3]
    assert len(set(first.tolist())) > 40
    assert (first == second).sum() < 5


def test_greedy_rows_of_a_mixed_call_are_argmax_with_the_lowest_index():
    logits = logits_of(4)
    logits[1, 100] = logits[1, 7] = 50.0
    plan = metadata(4, temperature=[0.9, 0.0, 9e-6, 1.0], top_k=[5, V, V, 5])
    ids = Sampler().sample(logits, plan)[0]
    assert ids[1] == 7
    assert ids[2] == logits[2].argmax()


def test_bad_rows_get_token_0_and_the_log_says_so():
    logits = logits_of(4)
    good = logits[3].clone()
    logits[0, 3], logits[1, 5], logits[2] = float("nan"), float("inf"), float("-inf")
    plan = metadata(4, seeds={3: 1}, outputs=[[]] * 4)
    with logged() as messages:
        ids = Sampler().sample(logits, plan)[0]
    assert ids[:3].tolist() == [0, 0, 0]
    assert ids[3] == fusedraw.sample(good, keys=torch.tensor([1, 0]))
    assert [m for m in messages if "token 0" in m and "EMPTY, NAN, POS_INF" in m]


def penalties(rows, **more):
    """Fields of metadata with penalties of every kind, neutral in the last row."""
    generator = torch.Generator().manual_seed(1)
    prompt = torch.randint(0, V, (rows, 30), generator=generator)
    prompt[0, 10:] = V  # vLLM's padding
    outputs = [torch.randint(0, V, (5 * r,), generator=generator).tolist() * 2 for r in range(rows)]

    def column(low, high, neutral):
        values = torch.rand(rows, generator=generator) * (high - low) + low
        values[-1] = neutral
        return values

    return {
        "no_penalties": False,
        "prompt_token_ids": prompt,
        "repetition_penalties": column(0.5, 3.0, 1.0),
        "frequency_penalties": column(-1.0, 1.0, 0.0),
        "presence_penalties": column(-1.0, 1.0, 0.0),
        "outputs": outputs,
        "seeds": {r: 77 + r for r in range(rows)},
        **more,
    }


def test_penalties_are_part_of_the_draw_and_those_of_vllm(monkeypatch):
    """The same tokens as from logits that vLLM edited: 60 rows, three of them greedy, over three steps."""
    rows = 60
    temperature = [0.0 if r % 20 == 3 else 0.9 for r in range(rows)]
    fields = penalties(rows, temperature=temperature, top_p=0.95)
    fused, edited = metadata(rows, **fields), metadata(rows, **fields)
    for step in range(3):
        logits = logits_of(rows, seed=step)
        for row, ids in enumerate(fields["outputs"]):
            logits[row, ids] += 5  # likely tokens, so that it matters
        ours = Sampler()(logits.clone(), fused).sampled_token_ids.flatten()
        with monkeypatch.context() as patch:
            patch.setattr(Sampler, "apply_penalties", staticmethod(_batch_sampler._own_penalties))
            through = Sampler()(logits.clone(), edited).sampled_token_ids.flatten()
        assert ours.tolist() == through.tolist()
        plain = Sampler()(logits.clone(), metadata(rows, **{**fields, "no_penalties": True}))
        assert (ours != plain.sampled_token_ids.flatten()).sum() > 10
        for row, token in enumerate(ours.tolist()):  # one list per row, which both batches share
            fields["outputs"][row].append(token)


def test_penalties_are_vllms_where_the_edited_logits_are_asked_for():
    rows = 4
    fields = penalties(rows, temperature=0.8, top_k=50, max_num_logprobs=0)
    logits = logits_of(rows)
    ours = Sampler("processed_logprobs")(logits.clone(), metadata(rows, **fields)).logprobs_tensors
    edited = _batch_sampler._own_penalties(logits.clone(), metadata(rows, **fields), fields["outputs"])
    _, law = own_sample(Sampler("processed_logprobs"), edited, metadata(rows, **fields))
    expected = law.gather(1, ours.logprob_token_ids.long())
    torch.testing.assert_close(ours.logprobs, expected, rtol=1e-5, atol=1e-5)


class HalveTheLogits(LogitsProcessor):
    """A custom processor for tempered logits."""

    def __init__(self, *_):
        pass

    def is_argmax_invariant(self):
        return True

    def update_state(self, batch_update):
        pass

    def apply(self, logits):
        return logits.mul_(0.5)


def test_beside_a_custom_processor_vllm_tempers_and_the_log_says_so():
    logits = logits_of(3, seed=8)
    fields = {
        "temperature": [0.8, 0.0, 1.0],
        "top_k": [9, V, V],
        "min_p": [0.0, 0.0, 0.01],
        "max_num_logprobs": 0,
    }
    plan = metadata(3, processors=[HalveTheLogits()], **fields)
    sampler = Sampler("processed_logprobs")
    with logged() as messages:
        ids, ours = sampler.sample(logits.clone(), plan)
        sampler.sample(logits.clone(), plan)
    assert [m for m in messages if "HalveTheLogits" in m] == messages[-1:]
    _, theirs = own_sample(sampler, logits.clone(), plan)
    assert kept(ours) == kept(theirs)
    finite = theirs.isfinite()
    torch.testing.assert_close(ours[finite], theirs[finite], rtol=1e-5, atol=1e-5)
    assert ids[1] == logits[1].argmax()
    assert int(ids[0]) in kept(theirs)[0]


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        ({"predict_bonus_token": True}, "speculative decoding"),
        ({}, "without its output tokens"),
    ],
    ids=str,
)
def test_what_is_left_to_vllm_is_drawn_by_it_and_logged_once(call, reason):
    logits = logits_of(2, width=0.1)
    with logged() as messages:
        ids = Sampler()(logits.clone(), metadata(2, seeds={0: 3, 1: 4}), **call).sampled_token_ids
        Sampler()(logits.clone(), metadata(2, seeds={0: 3, 1: 4}), **call)
    assert len([m for m in messages if reason in m]) == 1
    theirs, _ = own_sample(Sampler(), logits.clone(), metadata(2, seeds={0: 3, 1: 4}))
    assert ids.flatten().tolist() == theirs.tolist()


def test_a_batch_without_randomness_is_vllms_own():
    logits = logits_of(3)
    plan = metadata(3, temperature=0.0)
    assert Sampler().sample(logits, plan)[0].equal(logits.argmax(-1))
    assert not hasattr(plan, "fusedraw_plan")


@pytest.mark.parametrize(
    ("environment", "version", "message"),
    [
        ("0", vllm.__version__, "FUSEDRAW_VLLM=0"),
        ("1", "0.31.9", "0.31.9 is not among"),
        ("1", "0.33.0rc1", "0.33.0rc1"),
    ],
)
def test_the_switch_and_other_versions_leave_vllm_alone(
    environment, version, message, monkeypatch, vllm_draws
):
    monkeypatch.setenv("FUSEDRAW_VLLM", environment)
    monkeypatch.setattr(vllm, "__version__", version)
    vllm_draws()
    with logged() as messages:
        register()
    assert Sampler.sample is own_sample
    assert len(messages) == 1 and message in messages[0]


def test_every_filter_case_differs_from_no_filter():
    """So that the comparisons above compare something."""
    logits = logits_of(6)
    plain = kept(logits)
    for filters in itertools.islice(FILTERS, 1, None):
        plan = metadata(6, max_num_logprobs=0, **filters)
        assert kept(Sampler("processed_logits").sample(logits.clone(), plan)[1]) != plain
