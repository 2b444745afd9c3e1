# SPDX-License-Identifier: Apache-2.0
"""Several models as one law: where an ensemble disagrees, and how context-aware decoding trusts a text more.

1. Two copies of SmolLM2-135M read texts that differ in one word. Drawn from together (the mean of their
   probabilities), their mutual information per token says where they disagree: at the word that differs.
2. Stories contradict what the model knows. x_with + strength (x_with - x_without) draws the story's answer
   more often than the model that merely reads the story.

    python examples/several_models.py [--out FOLDER] [--seed N]

Needs the packages of requirements-demo.txt, and matplotlib for the picture. About 20 seconds on two cores.
"""

import argparse
import math
from pathlib import Path

import fusedraw
import matplotlib
import torch
from fusedraw._model import ModelUnavailable, load_language_model

matplotlib.use("Agg")
from matplotlib import pyplot as plt

# Texts that differ in one word, and the beginning of an answer that must name it.
DISPUTES = [
    ("Anna lives in {}. Where does Anna live?", " Anna lives in", ("Paris", "Rome")),
    ("Tom's car is {}. What color is Tom's car?", " Tom's car is", ("red", "green")),
    ("Mary works as a {}. What does Mary do?", " Mary works as a", ("nurse", "lawyer")),
    ("The key is under the {}. Where is the key?", " The key is under the", ("bed", "table")),
    ("Ben's dog is called {}. What is the dog called?", " The dog is called", ("Max", "Bella")),
    ("The meeting is on {}. When is the meeting?", " The meeting is on", ("Monday", "Friday")),
]
# What a story says, a sentence to finish, and the story's word for it.
STORIES = [
    ("the capital of France is Lyon", "The capital of France is", " Lyon"),
    ("the sky is green", "The color of the sky is", " green"),
    ("bananas are blue", "The color of a banana is", " blue"),
    ("the sun rises in the west", "The sun rises in the", " west"),
    ("dogs say meow", "The sound that a dog makes is called a", " me"),
    ("a week has nine days", "The number of days in a week is", " nine"),
    ("snow is black", "The color of snow is", " black"),
    ("cows drink oil", "A cow drinks", " oil"),
    ("Shakespeare was born in Berlin", "William Shakespeare was born in", " Berlin"),
    ("gold is cheap", "The price of gold is very", " cheap"),
]
STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
DRAWS = 400  # of each story and strength


def tokens_of(model, text):
    return model.tokenizer(text, add_special_tokens=False)["input_ids"]


def disagreement(model, text, stem, words, seed):
    """The stem's tokens, the drawn one, and the readers' mutual information before each, in nats."""
    stem_ids = tokens_of(model, stem)
    readers = model.begin([tokens_of(model, text.format(word)) for word in words])
    nats = []
    for step, token in enumerate([*stem_ids, None]):
        members = readers.logits.unsqueeze(1)  # [M, 1, V]
        out = fusedraw.mixture(members, seed=seed, step=step, top_p=0.5, returns=("mutual_information",))
        nats.append(out.mutual_information.item())
        if token is not None:
            readers.feed(torch.tensor([token] * len(words)))
    return [model.decode([token]) for token in stem_ids], model.decode(out.ids.tolist()), nats


def shares_of_story(model, says, sentence, word, seed):
    """Which share of draws is the story's word, by strength."""
    prompts = [f"In the story, {says}. {sentence}", sentence]
    members = model.begin([tokens_of(model, prompt) for prompt in prompts]).logits
    answer = tokens_of(model, word)[0]
    members = members.unsqueeze(1).expand(-1, DRAWS, -1)  # [M, B, V], one row for all draws: no copy
    ids = [
        fusedraw.mixture(members, mode="context_aware", strength=strength, seed=seed)
        for strength in STRENGTHS
    ]
    return [(drawn == answer).float().mean().item() for drawn in ids]


def picture(disputes, shares, path):
    figure, (left, right) = plt.subplots(1, 2, figsize=(13, 5.2), width_ratios=(1.5, 1))
    longest = max(len(nats) for *_, nats in disputes)
    for row, (stem, drawn, nats) in enumerate(disputes):
        first = longest - len(nats)  # aligned at the word in dispute
        for i, (word, value) in enumerate(zip([*stem, "?"], nats, strict=True)):
            left.add_patch(
                plt.Rectangle((first + i, row - 0.42), 0.94, 0.84, color=plt.cm.YlOrRd(value / math.log(2)))
            )
            dark = value > 0.55 * math.log(2)
            left.text(
                *(first + i + 0.47, row - 0.1, drawn.strip() if word == "?" else word.strip()),
                **{"ha": "center", "va": "center", "fontsize": 10.5, "color": "white" if dark else "black"},
            )
            left.text(
                *(first + i + 0.47, row + 0.24, f"{value:.2f}"),
                **{"ha": "center", "va": "center", "fontsize": 8, "color": "white" if dark else "0.35"},
            )
    left.set(xlim=(0, longest), ylim=(len(disputes) - 0.5, -0.5), xticks=[], yticks=[])
    left.set_title(
        "Two readers of texts that differ in one word: mutual information\n"
        "before each token (nats; ln 2 = 0.69 is full dispute), last token drawn",
        fontsize=11,
    )
    for spine in left.spines.values():
        spine.set_visible(False)
    for (_, _, word), line in zip(STORIES, shares, strict=True):
        right.plot(STRENGTHS, line, color="0.75", linewidth=1)
        if line[-1] > 0.02:  # the others lie on the axis
            at = (STRENGTHS[-1], line[-1])
            right.annotate(word.strip(), at, (3, 0), textcoords="offset points", fontsize=8, va="center")
    mean = torch.tensor(shares).mean(0)
    right.plot(STRENGTHS, mean, color="C3", linewidth=2.5, marker="o", label="mean of the ten stories")
    right.set(xlabel="strength (0: the model that reads the story)", ylabel="share of draws", ylim=(0, 1))
    right.set_title("Context-aware decoding: draws of\nthe story's word, against what is known", fontsize=11)
    right.spines[["top", "right"]].set_visible(False)
    right.legend(frameon=False, loc="upper left", bbox_to_anchor=(0.02, 0.86))
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "out")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    try:
        model = load_language_model(lambda stage: None)
    except ModelUnavailable as error:
        raise SystemExit(f"several_models: {error}") from None

    disputes = [disagreement(model, *dispute, arguments.seed) for dispute in DISPUTES]
    at_word = sum(nats[-1] for *_, nats in disputes) / len(disputes)
    before = [value for *_, nats in disputes for value in nats[:-1]]
    elsewhere = sum(before) / len(before)
    print(f"mutual information at the word in dispute {at_word:.3f} nats, elsewhere {elsewhere:.3f}")

    shares = [shares_of_story(model, *story, arguments.seed) for story in STORIES]
    mean = torch.tensor(shares).mean(0).tolist()
    print("strength           " + "".join(f"{strength:7.2f}" for strength in STRENGTHS))
    print("draws of the story " + "".join(f"{share:7.3f}" for share in mean))

    path = arguments.out / "several_models.png"
    picture(disputes, shares, path)
    print(f"picture: {path}")
    assert at_word > 5 * elsewhere and at_word > 0.3, (at_word, elsewhere)
    assert mean[STRENGTHS.index(1.0)] > 1.7 * mean[0], mean


if __name__ == "__main__":
    main()
