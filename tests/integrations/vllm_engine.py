# SPDX-License-Identifier: Apache-2.0
"""The plugin in a running engine: offline generation with SmolLM2 on vLLM's CPU build, found by entry point.

FUSEDRAW_VLLM_MODEL names the folder that convert_model.py writes.
"""

import math
import os

# In this process, so that the tests can look inside; read when vLLM is imported.
os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"

import pytest
import torch
from vllm import LLM, SamplingParams
from vllm.v1.sample.sampler import Sampler
from vllm_process import MODEL, SEEDED, SMALL, generate, ids_of, run_script
from vllm_rows import logged

PROMPTS = ["The sea at night is", "My name is", "Once upon a time, there was", "The best food in Italy is"]
TOKENS = 10
MIXED = [
    SamplingParams(max_tokens=TOKENS, temperature=0.8, seed=3, top_p=0.9, logprobs=3),
    SamplingParams(max_tokens=TOKENS, temperature=0.0, logprobs=1),
    SamplingParams(max_tokens=TOKENS, temperature=1.0, seed=4, min_p=0.02, top_k=30, frequency_penalty=0.5),
    SamplingParams(
        max_tokens=TOKENS, temperature=0.9, seed=5, repetition_penalty=1.2, logit_bias={253: -5.0}
    ),
]


@pytest.fixture(scope="module")
def llm():
    return LLM(MODEL, logprobs_mode="processed_logprobs", **SMALL)


@pytest.fixture
def vllm_draws(llm):
    """A function that gives the sampling back to vLLM for the rest of the test."""
    from fusedraw.vllm import _batch_sampler

    yield _batch_sampler.give_back
    _batch_sampler.install()


def test_the_engine_loads_the_plugin_and_draws_with_it(llm, monkeypatch):
    from fusedraw.vllm import _batch_sampler

    assert Sampler.sample is _batch_sampler.sample
    calls = []
    draw = _batch_sampler.Draw.__call__
    monkeypatch.setattr(
        _batch_sampler.Draw,
        "__call__",
        lambda self, logits, **rest: calls.append(len(logits)) or draw(self, logits, **rest),
    )
    with logged() as messages:
        out = generate(
            llm, PROMPTS[0], SamplingParams(max_tokens=5, temperature=0.8, seed=1, ignore_eos=True)
        )
    assert calls == [1] * 5
    assert len(out[0].token_ids) == 5
    assert [m for m in messages if "draws for vLLM" in m] == messages, "something was left to vLLM"


def test_a_seeded_request_gets_the_same_tokens_alone_and_in_a_mixed_batch(llm):
    together = ids_of(generate(llm, PROMPTS, MIXED))
    backwards = ids_of(generate(llm, PROMPTS[::-1], MIXED[::-1]))[::-1]
    alone = [ids_of(generate(llm, prompt, p))[0] for prompt, p in zip(PROMPTS, MIXED, strict=True)]
    assert together == alone
    assert together == backwards


def test_another_seed_gives_another_text(llm):
    texts = {
        tuple(ids_of(generate(llm, PROMPTS[0], SamplingParams(max_tokens=8, temperature=1.0, seed=s)))[0])
        for s in range(5)
    }
    assert len(texts) == 5


def test_samples_of_one_seeded_request_differ_and_repeat(llm):
    parameters = SamplingParams(n=3, max_tokens=8, temperature=1.0, seed=9)
    first, second = (
        [tuple(o.token_ids) for o in llm.generate(PROMPTS[0], parameters, use_tqdm=False)[0].outputs]
        for _ in range(2)
    )
    assert first == second
    assert len(set(first)) == 3


def test_greedy_requests_get_vllms_own_tokens(llm, vllm_draws):
    greedy = SamplingParams(max_tokens=TOKENS, temperature=0.0)
    beside = SamplingParams(max_tokens=TOKENS, temperature=1.0)
    ours = ids_of(generate(llm, PROMPTS, [greedy, beside, greedy, greedy]))
    vllm_draws()
    theirs = ids_of(generate(llm, PROMPTS, [greedy, beside, greedy, greedy]))
    assert [ours[i] for i in (0, 2, 3)] == [theirs[i] for i in (0, 2, 3)]


def test_greedy_requests_with_penalties_get_vllms_own_tokens(llm, vllm_draws):
    """Beside a random one, so that the penalties are part of the draw."""
    fields = {
        "temperature": 0.0,
        "repetition_penalty": 1.3,
        "presence_penalty": 0.5,
        "frequency_penalty": 0.2,
    }
    parameters = [SamplingParams(max_tokens=TOKENS, **fields) for _ in range(3)]
    parameters.append(SamplingParams(max_tokens=TOKENS, temperature=1.0))
    ours = ids_of(generate(llm, PROMPTS, parameters))
    vllm_draws()
    theirs = ids_of(generate(llm, PROMPTS, parameters))
    assert ours[:3] == theirs[:3]


def test_processed_logprobs_are_vllms(llm, vllm_draws):
    """Of the first token, where both see the same text: the best 5 tokens and their log-probs."""
    parameters = [
        SamplingParams(max_tokens=1, temperature=0.8, top_p=0.9, logprobs=5),
        SamplingParams(max_tokens=1, temperature=1.3, top_k=20, logprobs=5),
        SamplingParams(max_tokens=1, temperature=0.0, logprobs=5),
        SamplingParams(max_tokens=1, temperature=1.0, min_p=0.05, logprobs=5),
    ]
    ours = generate(llm, PROMPTS, parameters)
    vllm_draws()
    theirs = generate(llm, PROMPTS, parameters)
    for mine, its in zip(ours, theirs, strict=True):
        mine, its = ({i: x.logprob for i, x in out.logprobs[0].items() if x.rank <= 5} for out in (mine, its))
        assert mine.keys() == its.keys()
        for token, logprob in mine.items():
            assert logprob == pytest.approx(its[token], abs=1e-5)


def test_the_logprob_of_a_drawn_token_is_its_probability_under_the_filters(llm):
    out = generate(
        llm, PROMPTS[0], SamplingParams(max_tokens=6, temperature=0.7, top_k=4, seed=2, logprobs=4)
    )[0]
    for token, logprobs in zip(out.token_ids, out.logprobs, strict=True):
        assert len(logprobs) == 4  # the kept ones, the drawn one among them
        assert token in logprobs
        assert sum(math.exp(x.logprob) for x in logprobs.values()) == pytest.approx(1, abs=1e-5)


def test_requests_come_and_go(llm):
    """More requests than places, of different lengths: places change hands, seeded texts do not change."""
    parameters = [SamplingParams(max_tokens=2 + 3 * (i % 4), temperature=0.9, seed=i) for i in range(12)]
    prompts = [PROMPTS[i % 4] for i in range(12)]
    together = ids_of(generate(llm, prompts, parameters))
    for i in (0, 5, 11):
        assert ids_of(generate(llm, prompts[i], parameters[i]))[0] == together[i]


def test_unseeded_requests_repeat_with_the_generator_of_torch(llm):
    parameters = SamplingParams(max_tokens=8, temperature=1.0)
    runs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        runs.append(ids_of(generate(llm, PROMPTS[:2], parameters)))
    assert runs[0] == runs[1] != runs[2]


def test_an_engine_in_its_own_process_draws_the_same_and_says_so(llm, tmp_path):
    ids, output = run_script(tmp_path, PROMPTS[0], VLLM_ENABLE_V1_MULTIPROCESSING="1")
    assert ids == ids_of(generate(llm, PROMPTS[0], SamplingParams(**SEEDED)))[0]
    assert "draws for vLLM" in output


def test_switched_off_vllm_draws(llm, vllm_draws, tmp_path):
    ids, output = run_script(tmp_path, PROMPTS[0], FUSEDRAW_VLLM="0")
    vllm_draws()
    assert ids == ids_of(generate(llm, PROMPTS[0], SamplingParams(**SEEDED)))[0]
    assert "draws for vLLM" not in output


def test_a_seeded_request_draws_the_same_after_a_prompt_in_several_parts(llm, tmp_path):
    """Draws after a part of a prompt are thrown away: they must not count, nor end the engine."""
    prompt = PROMPTS[0] * 8
    ids, output = run_script(tmp_path, prompt, {"max_num_batched_tokens": 16})
    assert "max_num_batched_tokens=16" in output
    assert ids == ids_of(generate(llm, prompt, SamplingParams(**SEEDED)))[0]


def test_speculative_decoding_stays_vllms_and_the_log_says_so(tmp_path):
    speculation = {"method": "ngram", "num_speculative_tokens": 2, "prompt_lookup_max": 2}
    ids, output = run_script(tmp_path, PROMPTS[0], {"speculative_config": speculation})
    assert len(ids) == 8
    assert "speculative decoding verifies and draws with vLLM's own sampler" in output
