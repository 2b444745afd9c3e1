# SPDX-License-Identifier: Apache-2.0
"""What a share of pure chance buys and costs: SmolLM2 writes with and without, on the same noise.

    python examples/with_and_without_chance.py [--out examples/out] [--seed 7]

One batch decodes every prompt under every mix_eps of a sweep, several samples each. Rows that differ in
mix_eps alone have the same key, so a text parts from its twin without chance where a coin fired and nowhere
else, and scores are paired by prompt: diversity among the samples of a prompt, perplexity under the model.
Prints tables, draws a picture and ends by checking what it found.

Needs the demo's packages (requirements-demo.txt), scipy, sacrebleu and matplotlib.
"""

import argparse
import math
from pathlib import Path

import torch
from fusedraw import _model, metrics, sample
from fusedraw.comparing import compare, keys_of_draws, sweep

PROMPTS = (
    "Once upon a time, in a village by the sea,",
    "The best way to spend a rainy Sunday is",
    "When the lights went out, everybody in the room",
    "A good friend is someone who",
    "The old map on the wall showed",
    "In the year 2150, people will",
    "My grandmother always used to say that",
    "At the bottom of the lake there was",
    "The letter from the king began with",
    "What I like most about the city is",
    "The scientist opened the box and found",
    "Every winter, the birds in our garden",
)
SHARES = (0.0, 0.05, 0.15, 0.4)  # mix_eps; the first is the one that the others are compared with
SAMPLES, TOKENS = 3, 24  # of each prompt under each share; of each text
SETTINGS = {"temperature": 0.5, "top_k": 20}  # common to all: chance is uniform over the 20 that top_k keeps


def decode(language_model, plan, seed):
    """(ids, logp_raw, explored), each [rows, TOKENS], and lengths [rows]: up to the first stop token."""
    prompts = [language_model.tokenizer(prompt)["input_ids"] for prompt in PROMPTS for _ in range(SAMPLES)]
    decoding = language_model.begin(plan.repeat(prompts))
    steps = []
    for step in range(TOKENS):
        keys = plan.repeat(keys_of_draws(seed, range(len(PROMPTS)), SAMPLES, step))
        parameters = {**plan.parameters, **SETTINGS}
        out = sample(decoding.logits, keys=keys, returns=("logp_raw", "explored"), **parameters)
        steps.append((out.ids, out.logp_raw, out.explored))
        if step + 1 < TOKENS:
            decoding.feed(out.ids)
    ids, logps, explored = (torch.stack(column, 1) for column in zip(*steps, strict=True))
    stops = torch.isin(ids, torch.tensor(sorted(language_model.stop_ids)))
    lengths = torch.where(stops.any(1), stops.int().argmax(1), TOKENS)
    return ids, logps, explored, lengths.clamp(min=4)  # four tokens: what 4-grams need


def score(plan, ids, logps, lengths):
    """{metric: float64 [shares, prompts]}: among the samples of a prompt, or their mean."""
    by_prompt = [plan.split(x).unflatten(1, (len(PROMPTS), SAMPLES)) for x in (ids, lengths)]
    groups = list(zip(*(x.flatten(0, 1) for x in by_prompt), strict=True))
    log_perplexity = metrics.perplexity(logps, lengths=lengths).log()
    scores = {
        "distinct-2": [metrics.distinct_n(group, 2, lengths=ends) for group, ends in groups],
        "self-BLEU": [metrics.self_bleu(group, lengths=ends).mean().item() for group, ends in groups],
        "Vendi score": [metrics.vendi_score(group, lengths=ends) for group, ends in groups],
        "log perplexity": log_perplexity.reshape(-1, SAMPLES).mean(1).tolist(),
    }
    return {name: torch.tensor(values).reshape(len(plan), -1) for name, values in scores.items()}


def parted_at_a_coin(plan, ids, explored):
    """[(share of texts that part from their twin without chance, of those: where a coin fired)]."""
    found = []
    for with_chance, fired in zip(plan.split(ids)[1:], plan.split(explored)[1:], strict=True):
        differs = with_chance != plan.split(ids)[0]
        parted, first = differs.any(1), differs.int().argmax(1, keepdim=True)
        found.append((parted.double().mean().item(), fired.gather(1, first)[parted].double().mean().item()))
    return found


def draw_picture(path, compared):
    """What each share adds, in diversity and in perplexity; bars are the 95 % intervals of both."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot, ticker

    figure, axes = pyplot.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    for axis, (name, better) in zip(axes, (("distinct-2", "more"), ("self-BLEU", "less")), strict=True):
        gains, costs = compared[name], compared["log perplexity"]
        times = [math.exp(cost.difference) for cost in costs]
        axis.plot(times, [gain.difference for gain in gains], color="0.75", zorder=1)
        axis.axhline(0, color="0.85", lw=0.8, zorder=0)
        for share, gain, cost, x in zip(SHARES, gains, costs, times, strict=True):
            color = "tab:blue" if share else "tab:orange"
            axis.plot([math.exp(cost.low), math.exp(cost.high)], [gain.difference] * 2, color=color, lw=1.3)
            axis.plot([x, x], [gain.low, gain.high], color=color, lw=1.3)
            axis.scatter(x, gain.difference, s=45, color=color, zorder=3)
            below = name == "distinct-2"  # labels keep away from the curve
            if share:
                where = {"xytext": (7, -7 if below else 7), "va": "top" if below else "bottom"}
            else:
                where = {"xytext": (-8, 0), "va": "center", "ha": "right"}
            label = f"mix_eps = {share:g}" if share else "without"
            axis.annotate(label, (x, gain.difference), textcoords="offset points", fontsize=9, **where)
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(ticker.FixedLocator([1, 1.5, 2, 3, 4, 5]))
        axis.xaxis.set_major_formatter(ticker.FormatStrFormatter("%g x"))
        axis.xaxis.set_minor_locator(ticker.NullLocator())
        axis.set_xlim(0.66, 1.9 * max(times))
        axis.set_xlabel("perplexity under the model, in multiples of that without")
        axis.set_ylabel(f"change of {name} among {SAMPLES} samples")
        axis.set_title(f"{name}: {better} is more diverse", fontsize=11)
        axis.spines[["top", "right"]].set_visible(False)
    how = ", ".join(f"{name} = {value}" for name, value in SETTINGS.items())
    what = f"{_model.MODEL_NAME}, {how}; bars: 95 % intervals, paired over {len(PROMPTS)} prompts"
    figure.suptitle(what, fontsize=10)
    figure.savefig(path, dpi=130)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "out", help="where pictures go")
    parser.add_argument("--seed", type=int, default=7)
    args = parser.parse_args()
    language_model = _model.load_language_model(lambda stage: None)
    plan = sweep({"mix_eps": SHARES}, rows=len(PROMPTS) * SAMPLES)
    ids, logps, explored, lengths = decode(language_model, plan, args.seed)

    print(f"{PROMPTS[0]!r} goes on:")
    for setting, texts in zip(plan, plan.split(ids), strict=True):
        print(f"  mix_eps = {setting['mix_eps']:<5g}{language_model.decode(texts[0].tolist())!r}")
    scores = score(plan, ids, logps, lengths)
    compared = {name: [compare(values[0], v) for v in values] for name, values in scores.items()}
    print("\nmeans over prompts")
    print(plan.table(**{name: values.mean(1) for name, values in scores.items()}))
    print("\nwith chance against without: mean difference [95 % interval], p-value")
    print(plan.table(**{name: list(map(str, found)) for name, found in compared.items()}))
    parted = parted_at_a_coin(plan, ids, explored)
    for share, (texts, coins) in zip(SHARES[1:], parted, strict=True):
        print(f"mix_eps = {share:g}: {texts:.0%} of the texts part from their twin, at a coin {coins:.0%}")
    args.out.mkdir(parents=True, exist_ok=True)
    picture = args.out / "with_and_without_chance.png"
    draw_picture(picture, compared)
    print(f"picture: {picture}")

    # A model's matrix products round by the place in the batch, which may move one draw in thousands.
    assert all(coins >= 0.95 for _, coins in parted), f"texts part where no coin fired: {parted}"
    most = {name: found[-1] for name, found in compared.items()}
    assert most["distinct-2"].low > 0, f"0.4 of chance makes no more distinct bigrams: {most['distinct-2']}"
    assert most["self-BLEU"].high < 0, f"0.4 of chance makes samples no less alike: {most['self-BLEU']}"
    assert most["log perplexity"].low > 0, f"0.4 of chance costs no likelihood: {most['log perplexity']}"
    print("as it should be: every text parts at a coin, and chance buys diversity for likelihood")


if __name__ == "__main__":
    main()
