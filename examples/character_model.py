# SPDX-License-Identifier: Apache-2.0
"""A character model learns the sea, then a little of the kitchen: what fine-tuning makes of its texts.

A GRU is trained on 2500 generated sentences about a harbour and fine-tuned on 60 about a kitchen; the two
share small words and adjectives. Beside it one of the same size is trained on the 60 alone, for as many
steps. Each model then writes 64 texts of 160 characters at T = 1, every text with keys of its own, so that
the three write with the same noise.

- perplexity, per character: of 200 unseen kitchen sentences, scored by `token_logprob`, and of the texts
  themselves under the model that wrote them (`logp_raw` of the draws);
- valid: the share of whole words that stand in the kitchen's, or in either vocabulary;
- distinct: word pairs that are distinct, over all (`metrics.distinct_n`).

    python examples/character_model.py [--seed 1]

Asserted for each of three seeds: fine-tuning at least halves the perplexity of unseen kitchen sentences and
ends at least 10 % below the model that never saw the sea; the share of kitchen words among those written
rises by at least 0.15, and is at least 0.1 above that of the model that never saw the sea.
"""

import random

import fusedraw
import torch
from _shared import arguments, descend
from fusedraw import metrics
from torch import nn

SEA, KITCHEN, UNSEEN = 2500, 60, 200  # sentences
WIDTH, WINDOW, BATCH = 128, 24, 48
STEPS, RATE = 300, 5e-3
TUNING_STEPS, TUNING_RATE = 150, 2e-3
TEXTS, LENGTH = 64, 160

ADJECTIVES = ["old", "young", "quiet", "small", "tall", "northern", "brown", "grey", "tired", "cheerful"]
SUBJECTS = {
    "sea": ["captain", "sailor", "fisherman", "harbour-master", "pilot", "gull", "dolphin", "merchant"],
    "kitchen": ["cook", "baker", "waiter", "butcher", "gardener", "guest", "apprentice", "brewer"],
}
VERBS = {
    "sea": ["sailed", "steered", "anchored", "sighted", "followed", "repaired", "boarded"],
    "kitchen": ["roasted", "seasoned", "tasted", "stirred", "carved", "served", "sliced"],
}
THINGS = {
    "sea": ["ship", "lighthouse", "island", "schooner", "current", "trawler", "beacon", "reef"],
    "kitchen": ["bread", "pudding", "dumpling", "onion", "chestnut", "soup", "pie", "salmon"],
}
TIMES = {
    "sea": ("before the storm", "at high tide", "under a full moon", "against the wind"),
    "kitchen": ("before the supper", "at high heat", "under a heavy lid", "with some pepper"),
}


def sentences(topic, seed, count):
    """`count` distinct sentences in chance order."""
    chance, found = random.Random(f"{topic} {seed}"), {}
    while len(found) < count:
        subject, verb, thing = (chance.choice(words[topic]) for words in (SUBJECTS, VERBS, THINGS))
        first, second = (chance.choice(["", f"{chance.choice(ADJECTIVES)} "]) for _ in range(2))
        when = chance.choice(TIMES[topic])
        found[f"the {first}{subject} {verb} the {second}{thing} {when}. "] = None
    return list(found)


def vocabulary(topic):
    lists = (ADJECTIVES, SUBJECTS[topic], VERBS[topic], THINGS[topic])
    return {"the"}.union(*lists, *(phrase.split() for phrase in TIMES[topic]))


CHARACTERS = sorted(set(" .".join(vocabulary("sea") | vocabulary("kitchen"))))


def encode(text):
    return torch.tensor([CHARACTERS.index(character) for character in text])


def decode(ids):
    return "".join(CHARACTERS[number] for number in ids)


class CharacterModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(len(CHARACTERS), WIDTH // 2)
        self.gru = nn.GRU(WIDTH // 2, WIDTH, batch_first=True)
        self.out = nn.Linear(WIDTH, len(CHARACTERS))

    def forward(self, ids, state=None):
        hidden, state = self.gru(self.embed(ids), state)
        return self.out(hidden), state


def train(model, text, steps, rate, seed):
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    windows = text.unfold(0, WINDOW + 1, 1)
    for _ in range(steps):
        batch = windows[torch.randint(len(windows), (BATCH,), generator=generator)]
        logits, _ = model(batch[:, :-1])
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        descend(loss, model, optimizer, schedule)


@torch.no_grad()
def held_out(model, written):
    """Perplexity per character of sentences, each after the blank that ended another; mean over sentences."""
    rows = [encode(" " + sentence) for sentence in written]
    ids = nn.utils.rnn.pad_sequence(rows, batch_first=True)
    logits, _ = model(ids[:, :-1])
    logps = fusedraw.token_logprob(logits, ids[:, 1:])
    return metrics.perplexity(logps, lengths=[len(row) - 1 for row in rows]).mean().item()


@torch.no_grad()
def write(model, seed):
    """(texts, log-probabilities [TEXTS, LENGTH]); each text begins after a blank."""
    ids, state, drawn, logps = encode(" ").expand(TEXTS), None, [], []
    for step in range(LENGTH):
        logits, state = model(ids[:, None], state)
        keys = fusedraw.derive_keys(seed, torch.arange(TEXTS), step=step)
        out = fusedraw.sample(logits[:, 0], keys=keys, returns=("logp_raw",))
        ids = out.ids
        drawn.append(ids)
        logps.append(out.logp_raw)
    return [decode(row) for row in torch.stack(drawn, 1).tolist()], torch.stack(logps, 1)


def whole_words(text):
    return text.replace(".", " ").split()[:-1]  # the last may be cut


def judge(model, unseen, seed):
    texts, logps = write(model, seed)
    words = [whole_words(text) for text in texts]
    numbers = {word: n for n, word in enumerate(sorted(set().union(*words)))}
    flat = [word for row in words for word in row]
    kitchen, either = vocabulary("kitchen"), vocabulary("kitchen") | vocabulary("sea")
    return texts, {
        "unseen": held_out(model, unseen),
        "own": metrics.perplexity(logps).mean().item(),
        "kitchen words": sum(word in kitchen for word in flat) / len(flat),
        "either": sum(word in either for word in flat) / len(flat),
        "distinct": metrics.distinct_n([[numbers[word] for word in row] for row in words], 2),
    }


def main():
    seeds, _ = arguments(__doc__, picture=False)
    found = []
    print("                      perplexity       valid words")
    print("seed trained on      unseen      own  kitchen   either distinct  begins with")
    for seed in seeds:
        torch.manual_seed(seed)
        kitchen = sentences("kitchen", seed, KITCHEN + UNSEEN)
        few, unseen = encode("".join(kitchen[:KITCHEN])), kitchen[KITCHEN:]
        model, alone = CharacterModel(), CharacterModel()
        train(model, encode("".join(sentences("sea", seed, SEA))), STEPS, RATE, seed)
        results = {"sea": judge(model, unseen, seed)}
        train(model, few, TUNING_STEPS, TUNING_RATE, seed)
        results["sea, kitchen"] = judge(model, unseen, seed)
        train(alone, few, TUNING_STEPS, TUNING_RATE, seed)
        results["kitchen"] = judge(alone, unseen, seed)
        for name, (texts, figures) in results.items():
            shown = "".join(f"{figure:9.2f}" for figure in figures.values())
            print(f"{seed:4} {name:<13}{shown}  {texts[0][:40]!r}")
        found.append({name: figures for name, (_, figures) in results.items()})

    for before, after, scratch in map(dict.values, found):
        assert after["unseen"] <= before["unseen"] / 2, "fine-tuning does not halve the perplexity"
        assert after["unseen"] <= 0.9 * scratch["unseen"], "the sea has not helped"
        assert after["kitchen words"] >= before["kitchen words"] + 0.15, "not many more kitchen words"
        assert after["kitchen words"] >= scratch["kitchen words"] + 0.1, "no more words than without the sea"
    print("fine-tuning moves the words to the kitchen, and what was learnt at sea helps")


if __name__ == "__main__":
    main()
