# SPDX-License-Identifier: Apache-2.0
"""Tokens per second of vLLM's CPU build, and the sampler's share of a step: its own sampler and the plugin,
taken in turn in one engine.

    python benchmarks/vllm_sampler.py MODEL_FOLDER [--batches 1,8,32] [--tokens 16] [--rounds 5] [--json FILE]

MODEL_FOLDER is what tests/integrations/convert_model.py writes; the environment is that of
tests/integrations/run.py. One thread by default (OMP_NUM_THREADS). "Sampler" is the call that takes logits
and gives tokens and log-probs, penalties included; a round generates as many tokens with each.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from pathlib import Path

# Read when torch and vLLM are imported. Two threads on shared cores mostly wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"

CASES = {
    "greedy": {"temperature": 0.0},
    "temperature 0.8": {"temperature": 0.8},
    "top-k 50": {"temperature": 0.8, "top_k": 50},
    "top-p 0.9": {"temperature": 0.8, "top_p": 0.9},
    "min-p 0.05": {"temperature": 0.8, "min_p": 0.05},
    "top-k 50, top-p 0.95, seeded": {"temperature": 0.8, "top_k": 50, "top_p": 0.95, "seed": 1},
    "top-p 0.9, 5 log-probs": {"temperature": 0.8, "top_p": 0.9, "logprobs": 5},
    "repetition 1.1, top-p 0.9": {"temperature": 0.8, "top_p": 0.9, "repetition_penalty": 1.1},
}
PROMPT = "The sea at night is"


def main() -> None:
    arguments = parse()
    from fusedraw.vllm import _batch_sampler, register
    from vllm import LLM, SamplingParams

    batches = [int(text) for text in arguments.batches.split(",")]
    llm = LLM(
        str(arguments.model),
        dtype="float32",
        enforce_eager=True,
        max_model_len=256,
        max_num_seqs=max(batches),
        kv_cache_memory_bytes=1 << 30,
        enable_prefix_caching=False,
    )
    register()
    providers = {"vLLM": _batch_sampler.give_back, "fusedraw": _batch_sampler.install}
    sampler_time = time_sampler(llm)
    results = []
    for rows in batches:
        for name, fields in CASES.items():
            parameters = SamplingParams(max_tokens=arguments.tokens, ignore_eos=True, **fields)
            seconds = {provider: [] for provider in providers}  # (sampler, whole) per step
            for number in range(arguments.rounds + 1):
                for provider, take_over in providers.items():
                    take_over()
                    sampler_time.clear()
                    start = time.perf_counter()
                    llm.generate([PROMPT] * rows, parameters, use_tqdm=False)
                    whole = (time.perf_counter() - start) / arguments.tokens
                    if number:  # the first round warms up
                        # Medians of steps: one step that lost its core for a while does not count.
                        seconds[provider].append((statistics.median(sampler_time), whole))
            results.append(report(rows, name, seconds))
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--batches", default="1,8,32")
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def time_sampler(llm) -> list[float]:
    """The seconds of each call of the engine's sampler from now on."""
    executor = llm.llm_engine.engine_core.engine_core.model_executor
    runner = executor.driver_worker.worker.model_runner
    sampler, seconds = runner.sampler, []
    forward = sampler.forward

    def timed(*positional, **named):
        start = time.perf_counter()
        out = forward(*positional, **named)
        seconds.append(time.perf_counter() - start)
        return out

    sampler.forward = timed
    return seconds


def report(rows: int, name: str, seconds: dict) -> dict:
    result = {"rows": rows, "case": name}
    line = f"B={rows:<3d} {name:29s}"
    for provider, values in seconds.items():
        sampler = statistics.median(value[0] for value in values)
        step = statistics.median(value[1] for value in values)
        result[provider] = {"sampler_us": sampler * 1e6, "step_us": step * 1e6, "tokens_per_s": rows / step}
        line += f"  {provider} {sampler * 1e6:8.0f} us {100 * sampler / step:5.2f} % {rows / step:7.1f} tok/s"
    own, ours = (result[provider]["sampler_us"] for provider in seconds)
    print(f"{line}  x {own / ours:.1f}", flush=True)
    return result


if __name__ == "__main__":
    main()
