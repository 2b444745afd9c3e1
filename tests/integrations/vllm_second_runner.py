# SPDX-License-Identifier: Apache-2.0
"""The plugin behind vLLM's second model runner, the default of the CUDA build.

That runner needs Triton. Here its kernels run in Triton's interpreter, on vLLM's CPU build: the engine, the
sampler and its state are the real ones, only slow.
"""

import os

# Read when triton and vLLM are imported.
os.environ.update(TRITON_INTERPRET="1", VLLM_USE_V2_MODEL_RUNNER="1", VLLM_ENABLE_V1_MULTIPROCESSING="0")

import pytest
import triton.backends


class Interpreter:
    """The driver of a backend "cpu", which vLLM's CPU build looks for; the interpreter asks it nothing."""

    @staticmethod
    def is_active():
        return True


triton.backends.backends["cpu"] = triton.backends.Backend(None, Interpreter)

from vllm import LLM, SamplingParams  # noqa: E402
from vllm.v1.sample.ops.topk_topp_sampler import apply_top_k_top_p_pytorch  # noqa: E402
from vllm.v1.worker.gpu.model_runner import GPUModelRunner  # noqa: E402
from vllm.v1.worker.gpu.sample import sampler as vllm_sampler  # noqa: E402
from vllm_process import MODEL, SEEDED, SMALL, generate, ids_of, run_script  # noqa: E402
from vllm_rows import logged  # noqa: E402

PROMPTS = ["The sea at night is", "My name is", "Once upon a time, there was"]
MIXED = [
    SamplingParams(max_tokens=5, temperature=0.8, seed=3, top_p=0.9, logprobs=2),
    SamplingParams(max_tokens=5, temperature=0.0),
    SamplingParams(max_tokens=5, temperature=1.0, seed=4, min_p=0.02, top_k=30, repetition_penalty=1.2),
]


@pytest.fixture(scope="module")
def llm():
    return LLM(MODEL, logprobs_mode="processed_logprobs", **SMALL)


@pytest.fixture
def vllm_draws(llm, monkeypatch):
    """A function that gives the sampling back to vLLM for the rest of the test."""
    from fusedraw.vllm import _slot_sampler

    def give_back():
        _slot_sampler.give_back()
        # The interpreter does not run vLLM's Triton kernel of the filters; vLLM has them in torch, too.
        monkeypatch.setattr(vllm_sampler, "apply_top_k_top_p", apply_top_k_top_p_pytorch)

    yield give_back
    _slot_sampler.install()


def runner_of(llm):
    return llm.llm_engine.engine_core.engine_core.model_executor.driver_worker.worker.model_runner


def test_the_second_runner_draws_the_tokens_of_the_first(llm, tmp_path):
    assert isinstance(runner_of(llm), GPUModelRunner)
    parameters = SamplingParams(**SEEDED)
    with logged() as messages:
        ids = ids_of(generate(llm, PROMPTS[0], parameters))[0]
    assert [m for m in messages if "draws for vLLM" in m] == messages, "something was left to vLLM"
    assert ids == run_script(tmp_path, PROMPTS[0])[0]


def test_a_seeded_request_gets_the_same_tokens_alone_and_in_a_mixed_batch(llm):
    together = ids_of(generate(llm, PROMPTS, MIXED))
    alone = [ids_of(generate(llm, prompt, p))[0] for prompt, p in zip(PROMPTS, MIXED, strict=True)]
    assert together == alone


def test_greedy_requests_get_vllms_own_tokens(llm, vllm_draws):
    parameters = [SamplingParams(max_tokens=5, temperature=t) for t in (0.0, 1.0, 0.0)]
    ours = ids_of(generate(llm, PROMPTS, parameters))
    vllm_draws()
    theirs = ids_of(generate(llm, PROMPTS, parameters))
    assert (ours[0], ours[2]) == (theirs[0], theirs[2])


def test_unseeded_requests_differ(llm):
    parameters = SamplingParams(max_tokens=6, temperature=1.0)
    assert len({tuple(ids) for ids in ids_of(generate(llm, [PROMPTS[0]] * 4, parameters))}) == 4


def test_processed_logprobs_are_vllms(llm, vllm_draws):
    """Of the first token, where both see the same text: the best tokens and their log-probs."""
    parameters = [
        SamplingParams(max_tokens=1, temperature=0.8, top_p=0.9, logprobs=4),
        SamplingParams(max_tokens=1, temperature=1.3, top_k=20, logprobs=4),
        SamplingParams(max_tokens=1, temperature=0.0, logprobs=4),
    ]
    ours = generate(llm, PROMPTS, parameters)
    vllm_draws()
    theirs = generate(llm, PROMPTS, parameters)
    for mine, its in zip(ours, theirs, strict=True):
        mine, its = ({i: x.logprob for i, x in out.logprobs[0].items() if x.rank <= 4} for out in (mine, its))
        assert mine.keys() == its.keys()
        for token, logprob in mine.items():
            assert logprob == pytest.approx(its[token], abs=1e-5)


def test_sampling_masks_are_left_to_vllm_and_the_log_says_so(llm, monkeypatch):
    monkeypatch.setattr(runner_of(llm).sampler, "return_sampling_mask", True)
    monkeypatch.setattr(vllm_sampler, "apply_top_k_top_p", apply_top_k_top_p_pytorch)
    with logged() as messages:
        out = generate(llm, PROMPTS[0], SamplingParams(max_tokens=2, temperature=1.0, top_k=5, seed=1))
    assert len(out[0].token_ids) == 2
    assert [m for m in messages if "sampling masks" in m] == messages
