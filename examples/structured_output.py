# SPDX-License-Identifier: Apache-2.0
"""JSON that keeps to a schema: xgrammar says which tokens may follow, `fusedraw.sample` draws among them.

SmolLM2-135M reports the weather of eight cities, 25 times each: an object with a string, a choice of words
and an array of objects with an integer and a number. xgrammar compiles the schema and writes, before every
token, one bit per token of the vocabulary; that packed int32 mask goes to the draw as it is, where it costs
no copy of the logits. All 200 texts grow in one batch, each with keys of its own, and leave it when they draw
the end-of-turn token, which the grammar allows once the object is complete.

    python examples/structured_output.py [--seed N]

Needs the packages of requirements-demo.txt, xgrammar and jsonschema. About two minutes on one core.

Asserted: every text parses, is valid by the jsonschema package and was ended by the model; at least 100 of
the 200 are distinct. One request is repeated alone: its draws are the same, and so is its text as long as the
model computes the same logits for one row as for many.
"""

import argparse
import json
import time

import fusedraw
import torch
from fusedraw._model import ModelUnavailable, load_language_model

try:
    import jsonschema
    import xgrammar
except ImportError as error:
    raise SystemExit(
        f"structured_output: {error.name} is missing; "
        "pip install jsonschema && pip install --no-deps xgrammar apache-tvm-ffi"
    ) from None

CITIES = ("Lima", "Oslo", "Cairo", "Tokyo", "Perth", "Paris", "Quito", "Delhi")
SAMPLES = 25  # of each city
MOST_TOKENS = 120  # far more than the schema lets a text need
DRAW = {"temperature": 1.0, "top_p": 0.95}
SCHEMA = {
    "type": "object",
    "properties": {
        # Not a maxLength: with that, xgrammar 0.2.8 lets tabs into the string, which JSON does not.
        "city": {"type": "string", "pattern": "^[A-Z][a-z]{2,11}$"},
        "sky": {"enum": ["clear", "cloudy", "rain", "snow"]},
        "hours": {
            "type": "array",
            "minItems": 1,
            "maxItems": 3,
            "items": {
                "type": "object",
                "properties": {
                    "hour": {"type": "integer", "minimum": 0, "maximum": 23},
                    "celsius": {"type": "number", "minimum": -40, "maximum": 50},
                },
                "required": ["hour", "celsius"],
                "additionalProperties": False,
            },
        },
    },
    "required": ["city", "sky", "hours"],
    "additionalProperties": False,
}


def compile_schema(model, vocabulary):
    """The schema as a grammar over the model's tokens, without white space between them."""
    tokens = xgrammar.TokenizerInfo.from_huggingface(
        model.tokenizer, vocab_size=vocabulary, stop_token_ids=sorted(model.stop_ids)
    )
    compiler = xgrammar.GrammarCompiler(tokens, max_threads=1)
    return compiler.compile_json_schema(SCHEMA, any_whitespace=False, separators=(",", ":"))


def prompt_of(model, city):
    text = f"Report today's weather in {city} as JSON with city, sky and some hours with celsius."
    return model.chat_prompt([{"role": "user", "content": text}])


class Clock:
    """Seconds spent in each part of the loop."""

    def __init__(self):
        self.seconds = {}

    def timed(self, name, function, *arguments, **options):
        begin = time.perf_counter()
        result = function(*arguments, **options)
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - begin
        return result


def fill_masks(matchers, bits):
    for row, matcher in enumerate(matchers):
        matcher.fill_next_token_bitmask(bits, row)


def generate(model, prompts, requests, seed, clock):
    """Token lists, one for each request = (number of its prompt, number that makes its keys)."""
    decoding = clock.timed("model", model.begin, prompts)
    decoding.keep(torch.tensor([prompt for prompt, _ in requests]))  # a prompt is read once for all its texts
    vocabulary = decoding.logits.shape[-1]
    grammar = clock.timed("grammar", compile_schema, model, vocabulary)
    texts = [[] for _ in requests]
    matchers = [xgrammar.GrammarMatcher(grammar) for _ in requests]
    alive = list(range(len(requests)))
    numbers = torch.tensor([number for _, number in requests])
    for step in range(MOST_TOKENS):
        bits = xgrammar.allocate_token_bitmask(len(alive), vocabulary)
        clock.timed("masks", fill_masks, [matchers[text] for text in alive], bits)
        keys = fusedraw.derive_keys(seed, numbers[alive], step=step)
        ids = clock.timed("draw", fusedraw.sample, decoding.logits, mask=bits, keys=keys, **DRAW)
        for text, token in zip(alive, ids.tolist(), strict=True):
            assert matchers[text].accept_token(token), (text, token)
            texts[text].append(token)
        going = [row for row, text in enumerate(alive) if not matchers[text].is_terminated()]
        if not going:
            break
        if len(going) < len(alive):
            decoding.keep(torch.tensor(going))
            alive = [alive[row] for row in going]
        clock.timed("model", decoding.feed, ids[going])
    return texts


def examine(model, tokens):
    """(text, whether it is valid, whether the model ended it)."""
    ended = tokens[-1] in model.stop_ids
    text = model.decode(tokens[:-1] if ended else tokens)
    try:
        jsonschema.validate(json.loads(text), SCHEMA)
    except (json.JSONDecodeError, jsonschema.ValidationError):
        return text, False, ended
    return text, True, ended


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=1)
    seed = parser.parse_args().seed
    try:
        model = load_language_model(lambda stage: None)
    except ModelUnavailable as error:
        raise SystemExit(f"structured_output: {error}") from None

    prompts = [prompt_of(model, city) for city in CITIES]
    requests = [(number // SAMPLES, number) for number in range(len(CITIES) * SAMPLES)]
    clock = Clock()
    texts = generate(model, prompts, requests, seed, clock)
    results = [examine(model, tokens) for tokens in texts]

    print(f"{'city':<8}{'valid':>6}{'ended':>6}{'distinct':>9}{'tokens':>8}  one of them")
    for number, city in enumerate(CITIES):
        of_city = slice(number * SAMPLES, (number + 1) * SAMPLES)
        written, valid, ended = zip(*results[of_city], strict=True)
        tokens = sum(map(len, texts[of_city])) / SAMPLES
        print(f"{city:<8}{sum(valid):>6}{sum(ended):>6}{len(set(written)):>9}{tokens:>8.1f}  {written[0]}")
    written, valid, ended = zip(*results, strict=True)
    drawn = sum(map(len, texts))
    print(f"{'all':<8}{sum(valid):>6}{sum(ended):>6}{len(set(written)):>9}{drawn / len(texts):>8.1f}")
    print(", ".join(f"{name} {seconds:.2f} s" for name, seconds in clock.seconds.items()), end="")
    print(f"; a draw took {clock.seconds['draw'] / drawn * 1e6:.0f} us a token")

    alone = generate(model, prompts[3:4], [(0, requests[80][1])], seed, Clock())
    print(f"request 80 alone: {'the same text' if alone[0] == texts[80] else model.decode(alone[0])}")
    assert all(valid), written[valid.index(False)]
    assert all(ended), written[ended.index(False)]
    assert len(set(written)) >= 100, len(set(written))


if __name__ == "__main__":
    main()
