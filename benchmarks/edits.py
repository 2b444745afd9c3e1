# SPDX-License-Identifier: Apache-2.0
"""What edits add to a draw: penalties over histories of several lengths, a bias, a bitmask, everything
together; and the same edits as Hugging Face's processors make them, before a draw of ours.

Interleaved medians in microseconds. `engine` is the time of a call less that of the same call at V = 64: what
rows cost, without what calls cost. A draw with edits is compared with a draw from the same rows edited
beforehand, since edits change the law and with it the work of the race. The goal is +25 %.

    python benchmarks/edits.py [--json benchmarks/results/edits.json]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import fusedraw
import torch
from fusedraw.bench.data import make
from fusedraw.bench.timing import chunk_of, interleave, keep_memory, load_said, store

VOCAB, SMALL = 128256, 64
GOAL = 1.25
PENALTIES = {"repetition_penalty": 1.2, "frequency_penalty": 0.1, "presence_penalty": 0.1}


def history_of(x: torch.Tensor, n: int) -> torch.Tensor:
    """n ids as a text has them: drawn from the row itself at T = 1.5."""
    return fusedraw.multinomial(
        torch.softmax(x / 1.5, -1), n, True, generator=torch.Generator().manual_seed(n)
    )


def cases(x: torch.Tensor) -> dict[str, dict[str, object]]:
    vocab = x.shape[1]
    g = torch.Generator().manual_seed(0)
    words = torch.randint(-(2**31), 2**31 - 1, (1, (vocab + 31) // 32), generator=g, dtype=torch.int64).int()
    words |= torch.randint(-(2**31), 2**31 - 1, words.shape, generator=g, dtype=torch.int64).int()
    ids = torch.randperm(vocab, generator=g)[:16]
    bias = (ids, torch.randn(16, generator=g), torch.tensor([0, 16]))
    by_length = {
        f"penalties, history {n}": {"history": history_of(x, n), **PENALTIES} for n in (64, 256, 1024)
    }
    every = {"history": history_of(x, 256), "logit_bias": bias, "mask": words, **PENALTIES}
    return {
        "bias of 16": {"logit_bias": bias},
        "bitmask": {"mask": words},
        **by_length,
        "all, history 256": every,
    }


def hf_processors(x: torch.Tensor, history: torch.Tensor):
    """The penalty that transformers has, on its float32 copy of the row."""
    from transformers import RepetitionPenaltyLogitsProcessor

    penalty = RepetitionPenaltyLogitsProcessor(1.2)
    return lambda: penalty(history, x.to(copy=True, dtype=torch.float32))


def measure(kind: str, dtype: torch.dtype) -> dict[str, dict[str, float]]:
    rows = {vocab: make(kind, VOCAB, 1)[:, :vocab].contiguous().to(dtype) for vocab in (VOCAB, SMALL)}
    keys = fusedraw.derive_keys(1, torch.arange(1))
    chunks = {}
    listed = {vocab: cases(x) for vocab, x in rows.items()}
    for vocab, x in rows.items():
        for name, edits in listed[vocab].items():
            edited = fusedraw.edit_logits(x, **edits)
            with_edits = fusedraw.sample(x, keys=keys, temperature=0.8, **edits)
            assert torch.equal(with_edits, fusedraw.sample(edited, keys=keys, temperature=0.8)), name
            chunks[name, vocab] = chunk_of(
                [lambda x=x, e=edits: fusedraw.sample(x, keys=keys, temperature=0.8, **e)]
            )
            same = edited if dtype == torch.float32 else edited.to(dtype)
            chunks["beforehand: " + name, vocab] = chunk_of(
                [lambda y=same: fusedraw.sample(y, keys=keys, temperature=0.8)]
            )
    for n in (64, 256, 1024):
        chunks[f"HF's repetition penalty, history {n}", VOCAB] = chunk_of(
            [hf_processors(rows[VOCAB], history_of(rows[VOCAB], n))]
        )
    samples = interleave(chunks, rounds=61, chunk_seconds=2e-3, most_seconds=3.0)
    times = {key: s.median * 1e6 for key, s in samples.items()}
    out = {}
    for name in listed[VOCAB]:
        engine = times[name, VOCAB] - times[name, SMALL]
        base = times["beforehand: " + name, VOCAB] - times["beforehand: " + name, SMALL]
        out[name] = {
            "call us": times[name, VOCAB],
            "engine us": engine,
            "engine beforehand us": base,
            "engine ratio": engine / base,
        }
    for (name, _), value in times.items():
        if name.startswith("HF"):
            out[name] = {"call us": value}
    return {name: {k: round(v, 2) for k, v in row.items()} for name, row in out.items()}


def main() -> None:
    keep_memory()
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", type=Path, help="where to store the figures")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(load_said())
    results = {}
    for kind in ("real", "peaked"):
        for dtype in (torch.float32, torch.bfloat16):
            label = f"{kind}, {str(dtype).removeprefix('torch.')}"
            results[label] = measure(kind, dtype)
            print(f"\n{label}, V = {VOCAB}, B = 1, one thread")
            for name, row in results[label].items():
                ratio = row.get("engine ratio")
                goal = "" if ratio is None else "reached" if ratio <= GOAL else "missed"
                print(f"  {name:38}", "  ".join(f"{k} {v:9.2f}" for k, v in row.items()), goal)
    store(options.json, goal=GOAL, results=results)


if __name__ == "__main__":
    main()
