# SPDX-License-Identifier: Apache-2.0
"""The share of "processors + draw" in a decoding step of SmolLM2-135M: fusedraw's and transformers' own.

    python benchmarks/transformers_share.py [--steps N] [--rounds N] [--batch 1 8] [--config NAME ...]

Real generations run through `generate(custom_generate=fusedraw.transformers.sample)`. On every step both ways
from the model's logits to the next tokens are timed on the same logits, in turn, the first one going first on
every other step: ours as the loop runs it; transformers' as its own loop has it (a float32 copy, its list of
processors, softmax, torch.multinomial, or argmax). The rest of the step is what both have in common: the
forward pass, caches, stopping criteria. Share = way / (way + rest), of medians. One thread, and its processor
time: on a shared machine, waiting for a core would hit the long parts and spare the short ones.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

import torch
from fusedraw.bench import timing

CONFIGS: dict[str, dict] = {
    "greedy": {"do_sample": False},
    "T 0.8": {"do_sample": True, "temperature": 0.8, "top_k": 0},
    "top-k 50 (default)": {"do_sample": True},
    "T 0.8, top-k 50, top-p 0.95": {"do_sample": True, "temperature": 0.8, "top_p": 0.95},
    "T 0.8, top-p 0.95": {"do_sample": True, "temperature": 0.8, "top_k": 0, "top_p": 0.95},
    "min-p 0.05": {"do_sample": True, "top_k": 0, "min_p": 0.05},
    "T, top-k, top-p, repetition 1.1": {
        "do_sample": True,
        "temperature": 0.8,
        "top_p": 0.95,
        "repetition_penalty": 1.1,
    },
    "T, top-p, repetition, typical, suppress": {
        "do_sample": True,
        "temperature": 0.8,
        "top_k": 0,
        "top_p": 0.95,
        "typical_p": 0.95,
        "repetition_penalty": 1.1,
        "suppress_tokens": [5, 6, 7],
    },
}
GOALS = {1: 0.002, 8: 0.005}  # share by batch size
PROMPT = "Write a short story about a lighthouse keeper who finds a message in a bottle."
SKIPPED_STEPS = 4  # of each generation: caches and allocators settle
clock = time.thread_time


class Steps:
    """Seconds of the three parts, step by step."""

    def __init__(self):
        self.ours, self.theirs, self.rest = [], [], []

    def share(self, way: list[float]) -> float:
        way, rest = statistics.median(way), statistics.median(self.rest)
        return way / (way + rest)


def theirs_of(processors, do_sample: bool):
    """transformers' way from logits to tokens, with its own processors."""

    def way(input_ids, logits):
        scores = logits.to(copy=True, dtype=torch.float32, device=input_ids.device)
        scores = processors(input_ids, scores)
        if do_sample:
            return torch.multinomial(torch.nn.functional.softmax(scores, dim=-1), num_samples=1).squeeze(1)
        return torch.argmax(scores, dim=-1)

    return way


def measure(model, inputs, arguments: dict, steps: int, into: Steps) -> None:
    """One generation of `steps` tokens; its steps are added to `into`."""
    from fusedraw.transformers import _loop
    from fusedraw.transformers import sample as ours

    state = {"step": 0, "left": None}
    draw = _loop._Run._draw

    def timed_draw(run, logits, unfinished):
        began = clock()
        state["step"] += 1
        seconds = {}
        ways = [
            ("theirs", lambda: theirs(run.ids, logits)),
            ("ours", lambda: draw(run, logits, unfinished)),
        ]
        tokens = None
        for name, way in ways if state["step"] % 2 else reversed(ways):
            start = clock()
            found = way()
            seconds[name] = clock() - start
            tokens = found if name == "ours" else tokens
        if state["step"] > SKIPPED_STEPS:
            into.ours.append(seconds["ours"])
            into.theirs.append(seconds["theirs"])
            into.rest.append(began - state["left"])
        state["left"] = clock()
        return tokens

    def generate(model, input_ids, logits_processor, **rest):
        nonlocal theirs
        theirs = theirs_of(logits_processor, rest["generation_config"].do_sample)
        return ours(model, input_ids, logits_processor, **rest)

    theirs = None
    _loop._Run._draw = timed_draw
    try:
        model.generate(
            **inputs,
            max_new_tokens=steps,
            min_new_tokens=0,
            eos_token_id=None,
            custom_generate=generate,
            **arguments,
        )
    finally:
        _loop._Run._draw = draw


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=36)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--config", nargs="+", default=list(CONFIGS), choices=list(CONFIGS))
    parser.add_argument("--store", type=Path, help="write the figures to this JSON file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    from fusedraw import _model

    if missing := _model.missing_for_model():
        sys.exit(missing)
    loaded = _model.load_language_model(lambda stage: None)
    print(timing.load_said())
    prompt = loaded.chat_prompt([{"role": "user", "content": PROMPT}])
    found: dict[tuple[int, str], Steps] = {}
    for _ in range(options.rounds):
        for batch in options.batch:
            ids = torch.tensor([prompt] * batch)
            inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
            for name in options.config:
                steps = found.setdefault((batch, name), Steps())
                measure(loaded.model, inputs, CONFIGS[name], options.steps, steps)
    print("| B | configuration | rest, ms | transformers, us | share | fusedraw, us | share | goal |")
    print("|--:|---|--:|--:|--:|--:|--:|---|")
    stored = []
    for (batch, name), steps in found.items():
        ours, theirs = steps.share(steps.ours), steps.share(steps.theirs)
        goal = GOALS.get(batch)
        reached = "" if goal is None else f"<= {goal:.1%}: {'yes' if ours <= goal else 'no'}"
        rest, mine, his = (statistics.median(part) for part in (steps.rest, steps.ours, steps.theirs))
        print(
            f"| {batch} | {name} | {1e3 * rest:.1f} | {1e6 * his:.0f} | {theirs:.2%} "
            f"| {1e6 * mine:.0f} | {ours:.3%} | {reached} |"
        )
        stored.append({"batch": batch, "config": name, "rest": rest, "ours": mine, "transformers": his})
    print(timing.load_said())
    if options.store:
        machine = {"machine": timing.machine(), "versions": timing.versions()}
        options.store.write_text(json.dumps({**machine, "steps": stored}, indent=1) + "\n")


if __name__ == "__main__":
    main()
