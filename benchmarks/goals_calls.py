# SPDX-License-Identifier: Apache-2.0
"""Goals of whole calls: what Python and a share of chance cost, and the peers."""

from __future__ import annotations

import argparse
import functools
import statistics
from collections.abc import Callable

import torch
from fusedraw.bench import cases, data, timing, validate
from fusedraw.bench.timing import chunk_of, interleave
from goal_lines import KEYS, ROWS, SMALL_VOCAB, VOCAB, Line, RowByRow, calls_for, load_engine, make_keys, us

SAMPLE_GOAL_US = 10.0
SAMPLER_GOAL_US = 4.0
MIX_GOAL = 1.03  # a call with mix_eps > 0 over the same call with mix_eps = 0
MIX_EPS = 0.05
MIX_KEYS = 64  # per batch: few enough fire that the first of a chunk would not stand for all


def overhead_part(args: argparse.Namespace) -> list[Line]:
    """What the facade and the dispatcher cost: whole calls, V = 64, B = 1."""
    engine = load_engine()
    torch.set_num_threads(1)
    row = data.make("flat", VOCAB, 1)[:, :SMALL_VOCAB].contiguous()
    keys = make_keys(1)
    draw = engine.Sampler(temperature=0.8)
    chunks = {
        "sample(temperature=0.8, keys=keys)": [
            functools.partial(engine.sample, row, temperature=0.8, keys=k) for k in keys
        ],
        "sample(temperature=0.8, seed=1, step=t)": [
            functools.partial(engine.sample, row, temperature=0.8, seed=1, step=t) for t in range(KEYS)
        ],
        "sample(top_k=50, top_p=0.95, keys=keys)": [
            functools.partial(engine.sample, row, top_k=50, top_p=0.95, keys=k) for k in keys
        ],
        "Sampler(temperature=0.8)(logits, keys=keys)": [functools.partial(draw, row, keys=k) for k in keys],
    }
    timed = {name: chunk_of(calls) for name, calls in chunks.items()}
    got = interleave(timed, args.rounds, chunk_seconds=1e-3, most_seconds=10)
    lines = []
    for name, samples in got.items():
        limit = SAMPLER_GOAL_US if name.startswith("Sampler") else SAMPLE_GOAL_US
        note = f"quartiles {samples.quantile(0.25) * 1e6:.2f} to {samples.quantile(0.75) * 1e6:.2f}"
        lines.append(
            Line("overhead", f"{name}, V = 64, B = 1", samples.median * 1e6, limit, "us a call", note)
        )
    return lines


def mix_part(args: argparse.Namespace) -> list[Line]:
    """What a share of chance costs: whole calls, with and without, on the same rows and keys in each round.

    Each batch of rows has keys of its own, of which about MIX_EPS let a coin fire. Turns go without, with,
    with, without, so that a drift cancels; the one ahead of them is not counted, since what runs first on a
    row finds less of it in the caches, which is 3 % of a call. Measured is the median over rounds of their
    ratio: a neighbour who takes the cache for a while slows both.
    """
    engine = load_engine()
    torch.set_num_threads(1)
    lines: list[Line] = []
    for kind in args.data:
        for batch in (1, 8):
            rows = data.make(kind, VOCAB, min(ROWS * batch, data.MAX_ROWS)).split(batch)
            keys = [make_keys(batch, MIX_KEYS, seed) for seed in range(len(rows))]
            walk = RowByRow(len(rows))
            chunks: dict[str, timing.Chunk] = {}
            configs = [config for config in ("T", "top-k", "top-p") if config in args.config]
            for config in configs:
                for turn, share in enumerate((0.0, 0.0, MIX_EPS, MIX_EPS, 0.0)):
                    draw = engine.Sampler(**cases.CONFIGS[config], mix_eps=share)
                    calls = [
                        [functools.partial(draw, x, keys=k) for k in some]
                        for x, some in zip(rows, keys, strict=True)
                    ]
                    chunks[f"{config}/{turn}"] = walk.chunk([chunk_of(c) for c in calls])
            got = interleave(chunks, args.rounds, args.chunk * batch, most_seconds=10, on_round=walk.start)
            for config in configs:
                _, *counted = (got[f"{config}/{turn}"].values for turn in range(5))
                rounds = list(zip(*counted, strict=True))
                without = statistics.median((a + d) / 2 for a, _, _, d in rounds)
                with_ = statistics.median((b + c) / 2 for _, b, c, _ in rounds)
                ratio = statistics.median((b + c) / (a + d) for a, b, c, d in rounds)
                goal = f"mix_eps = {MIX_EPS}, {cases.TITLES[config]}, {data.label(kind, VOCAB)}, B = {batch}"
                note = f"{us(without)} without, {us(with_)} with"
                lines.append(Line("mix", goal, ratio, MIX_GOAL, "x mix_eps = 0", note))
    return lines


def peers_part(args: argparse.Namespace) -> list[Line]:
    """One row, one thread, float32: whole calls against peers of Python, engine time against peers of C."""
    from fusedraw.bench import peers

    torch.set_num_threads(1)
    lines: list[Line] = []
    for kind in args.data:
        vocab = data.REAL_VOCAB if kind == "real" else VOCAB
        row = data.make(kind, vocab, 1)
        for config in (*args.config, *peers.MORE_CONFIGS):
            found = peers.peers_of(config, row)
            if config in cases.CONFIGS:
                case = cases.Case(vocab, 1, "float32", 1, kind, config)
                for name, peer in found.items():
                    validate.check_draws(name, case, peer.call)
            chunks = {name: peer.chunk for name, peer in found.items()}
            chunks |= {f"{name}/base": peer.base for name, peer in found.items() if peer.base is not None}
            chunks["call"] = chunk_of(whole_calls(config, row))
            chunks["small"] = chunk_of(whole_calls(config, row[:, :SMALL_VOCAB].contiguous()))
            got = interleave(chunks, max(15, args.rounds // 4), chunk_seconds=1e-3, most_seconds=0.3)
            call, small = got["call"].median, got["small"].median
            gains, notes = [], [f"call {us(call)}, engine {us(call - small)}"]
            for name, peer in found.items():
                seconds = got[name].median - (got[f"{name}/base"].median if peer.base else 0.0)
                notes.append(f"{name} {us(seconds)}")
                if (name, config) != ("numpy", "greedy"):  # near the floor: reported, not required
                    gains.append(seconds / (call - small if peer.in_c else call))
            goal = f"{cases.TITLES.get(config, config)}, {kind}, V = {vocab}, against the best peer"
            lines.append(Line("peers", goal, min(gains), 1.0, "x as fast", ", ".join(notes), True))
    return lines


def whole_calls(config: str, row: torch.Tensor) -> list[Callable[[], object]]:
    engine = load_engine()
    if config == "softmax":
        return [functools.partial(engine.softmax, row)]
    if config in cases.CONFIGS:
        return calls_for(config, row)
    draw = engine.Sampler(temperature=0.8, returns=("logp",), top_n=5)
    return [functools.partial(draw, row, keys=keys) for keys in make_keys(1)]
