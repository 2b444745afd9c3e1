# SPDX-License-Identifier: Apache-2.0
"""What the demo measures: the time of a draw beside other samplers, and that a draw keeps its bits.

Rows are recorded logits [1, V] float32 on the CPU. The number of threads is put back as it was found.
"""

from __future__ import annotations

import contextlib
import ctypes
import statistics
import time
from dataclasses import dataclass

import torch

from . import _pure_torch
from ._threads import threads as on_threads
from .keys import derive_keys
from .sampling import sample

CALLS = 96  # per sampler and configuration, interleaved: all meet the same state of the machine
BATCH = 8
PLACE = 3  # where in the batch the request sits
DRAWS = 256
CONTRAST_DRAWS = 32  # torch.multinomial takes 60 ms for two of its calls here
REQUEST = 0  # request id of the text that the demo shows; the other rows of a batch have other ids


@dataclass
class Settings:
    seed: int
    temperature: float
    top_p: float
    max_new_tokens: int

    def filters(self) -> dict:
        return {"temperature": self.temperature, "top_p": self.top_p}


@dataclass
class Timing:
    label: str
    fused_us: float
    pure_torch_us: float
    hugging_face_us: float | None


@dataclass
class Sameness:
    label: str
    tokens: int
    logps: int | None  # None: not asked for
    draws: int


def time_draws(rows, settings: Settings, with_hugging_face: bool) -> list[Timing]:
    """Median microseconds of one Python call, one row, one thread: the demo's settings and six usual ones."""
    configurations = [
        ("greedy", {"temperature": 0.0}),
        ("temperature 0.8", {"temperature": 0.8}),
        ("top-k 50", {"top_k": 50}),
        ("top-p 0.9", {"top_p": 0.9}),
        ("top-k 50, top-p 0.95", {"top_k": 50, "top_p": 0.95}),
        ("min-p 0.05", {"min_p": 0.05}),
    ]
    _keep_freed_memory()
    with on_threads(1):
        timings = [_time_text_settings(rows, settings, with_hugging_face)]
        for label, filters in configurations:
            timings.append(_time_configuration(label, rows, settings.seed, filters, with_hugging_face))
    return timings


def compare_draws(rows, settings: Settings) -> list[Sameness]:
    """The same draws alone and in a batch of other requests at other temperatures, with 1 and 2 threads.

    Each is compared with the first way, token by token and log-probability bit by bit. Last, for contrast,
    torch.multinomial.
    """
    ways = [("alone", 1), ("alone", 2), (f"in a batch of {BATCH}", 1), (f"in a batch of {BATCH}", 2)]
    results = []
    for place, threads in ways:
        with on_threads(threads):
            draw_one = _draw_alone if place == "alone" else _draw_in_batch
            drawn = [draw_one(rows, number, settings) for number in range(DRAWS)]
        results.append((torch.stack([ids for ids, _ in drawn]), torch.stack([logp for _, logp in drawn])))
    first_ids, first_logps = results[0]
    report = []
    for (place, threads), (ids, logps) in zip(ways[1:], results[1:], strict=True):
        same_bits = logps.view(torch.int32) == first_logps.view(torch.int32)
        label = f"{place}, {threads} thread{'s' if threads > 1 else ''}"
        report.append(Sameness(label, int((ids == first_ids).sum()), int(same_bits.sum()), DRAWS))
    if settings.temperature > 0:
        report.append(_compare_multinomial(rows, settings.temperature))
    return report


def replay(language_model, prompt, others, text, settings: Settings, count: int, threads: int | None):
    """Generate the first `count` tokens of `text` again, model included, among other prompts.

    Returns (tokens equal before the first difference, largest difference of the logits up to there).
    """
    place = min(PLACE, len(others))
    prompts = [*others[:place], prompt, *others[place:]]
    requests = [REQUEST + 1 + number for number in range(len(prompts))]
    requests[place] = REQUEST
    gap = 0.0
    with on_threads(threads or torch.get_num_threads()):
        decoding = language_model.begin(prompts)
        for step in range(count):
            gap = max(gap, float((decoding.logits[place] - text.logits[step][0]).abs().max()))
            keys = derive_keys(settings.seed, torch.tensor(requests), step=step)
            ids = sample(decoding.logits, keys=keys, **settings.filters())
            if int(ids[place]) != text.ids[step]:
                return step, gap
            if step + 1 < count:
                decoding.feed(ids)
    return count, gap


def _time_text_settings(rows, settings, with_hugging_face):
    """As the demo drew its text: with log-probability and entropy."""
    filters = settings.filters()
    returns = ("logp", "entropy")
    samplers = {
        "fused": lambda row, i: sample(row, seed=settings.seed, step=i, returns=returns, **filters),
        "torch": lambda row, i: _pure_torch.draw_with_statistics(row, **filters),
    }
    if with_hugging_face:
        hugging_face = _pure_torch.hugging_face_draw_with_statistics(**filters)
        samplers["hf"] = lambda row, i: hugging_face(row)
    return _interleave("as in 1, + log-prob. and entropy", rows, samplers)


def _time_configuration(label, rows, seed, filters, with_hugging_face):
    samplers = {
        "fused": lambda row, i: sample(row, seed=seed, step=i, **filters),
        "torch": lambda row, i: _pure_torch.draw(row, **filters),
    }
    if with_hugging_face:
        hugging_face = _pure_torch.hugging_face_draw(**filters)
        samplers["hf"] = lambda row, i: hugging_face(row)
    return _interleave(label, rows, samplers)


def _interleave(label, rows, samplers):
    times = {name: [] for name in samplers}
    in_order = list(samplers.items())
    for call in range(-4, CALLS):  # the first few warm up
        row = rows[call % len(rows)]
        turn = call % len(samplers)  # who comes first finds the row in a farther cache: everybody in turn
        for name, sampler in (*in_order[turn:], *in_order[:turn]):
            start = time.perf_counter_ns()
            sampler(row, max(call, 0))
            if call >= 0:
                times[name].append((time.perf_counter_ns() - start) / 1e3)
    medians = {name: statistics.median(values) for name, values in times.items()}
    return Timing(label, medians["fused"], medians["torch"], medians.get("hf"))


def _draw_alone(rows, number, settings):
    keys = derive_keys(settings.seed, [REQUEST], step=number)
    out = sample(rows[number % len(rows)], keys=keys, returns=("logp",), **settings.filters())
    return out.ids[0], out.logp[0]


def _draw_in_batch(rows, number, settings):
    """The same request among seven others, each with its own logits, key and temperature."""
    batch = [rows[(number + 1 + place) % len(rows)] for place in range(BATCH)]
    batch[PLACE] = rows[number % len(rows)]
    requests = torch.arange(REQUEST + 1, REQUEST + 1 + BATCH)
    requests[PLACE] = REQUEST
    temperature = torch.linspace(0.0, 1.5, BATCH)
    temperature[PLACE] = settings.temperature
    out = sample(
        torch.cat(batch),
        keys=derive_keys(settings.seed, requests, step=number),
        temperature=temperature,
        top_p=settings.top_p,
        returns=("logp",),
    )
    return out.ids[PLACE], out.logp[PLACE]


def _compare_multinomial(rows, temperature):
    """torch.multinomial with torch's generator set to the same seed before each of the two calls."""
    equal = 0
    for number in range(CONTRAST_DRAWS):
        batch = torch.cat([rows[(number + 1 + place) % len(rows)] for place in range(BATCH)])
        batch[PLACE] = rows[number % len(rows)][0]
        p = torch.softmax(batch / temperature, -1)
        drawn = []
        for probabilities, place in ((p[PLACE : PLACE + 1], 0), (p, PLACE)):
            generator = torch.Generator().manual_seed(number)
            drawn.append(int(torch.multinomial(probabilities, 1, generator=generator)[place]))
        equal += drawn[0] == drawn[1]
    return Sameness(f"for contrast, torch.multinomial, in a batch of {BATCH}", equal, None, CONTRAST_DRAWS)


def _keep_freed_memory():
    """Ask glibc to keep freed memory: page faults slow samplers with large temporaries, up to threefold,
    and the comparison would show the allocator. Without glibc nothing is done."""
    trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD of <malloc.h>
    with contextlib.suppress(OSError, AttributeError, TypeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(trim_threshold, 1 << 30)
        libc.mallopt(mmap_threshold, 1 << 30)
