# SPDX-License-Identifier: Apache-2.0
"""Hugging Face's `generate` with fusedraw's draw: one argument more, and each request has a seed of its own.

    python examples/transformers_generate.py [--tokens 32] [--seed 1]

SmolLM2-135M answers three prompts, once in one batch and once each alone, with the same seeds. The draw does
not know the batch: given equal logits it gives equal tokens. The logits know it a little, because a batch is
padded and its matrix products are summed in another order. The example prints how far they differ and how
many tokens agree: a difference of 2e-3 in the logits changes about one draw in a thousand, and these are a
hundred times smaller.

Asserted: greedy text is that of transformers; a prompt repeated with one seed gives one text, with other
seeds others; the log-probabilities are those of `token_logprob` on the returned logits, to the bit.
"""

import argparse

import fusedraw
import fusedraw.transformers
import torch
from fusedraw._model import ModelUnavailable, load_language_model

PROMPTS = (
    "Name a colour and say why you like it.",
    "Write the first sentence of a novel.",
    "What should I cook tonight?",
)
SAMPLING = {"do_sample": True, "temperature": 0.8, "top_k": 50, "top_p": 0.95, "repetition_penalty": 1.1}
SCORED = {"do_sample": True, "temperature": 0.8, "top_k": 0, "top_p": 0.95, "mix_eps": 0.01}


def batch_of(language_model, prompts):
    """Left-padded inputs of the conversations that ask `prompts`."""
    ids = [language_model.chat_prompt([{"role": "user", "content": prompt}]) for prompt in prompts]
    width = max(map(len, ids))
    padding = language_model.tokenizer.pad_token_id or 0
    return {
        "input_ids": torch.tensor([[padding] * (width - len(row)) + row for row in ids]),
        "attention_mask": torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in ids]),
    }


def generate(model, inputs, **arguments):
    """The output of `generate` with our draw, and its new tokens int64 [B, new]."""
    out = model.generate(
        **inputs, return_dict_in_generate=True, custom_generate=fusedraw.transformers.sample, **arguments
    )
    return out, out.sequences[:, inputs["input_ids"].shape[1] :]


def check_greedy(model, inputs, tokens):
    theirs = model.generate(**inputs, do_sample=False, max_new_tokens=tokens)
    ours = model.generate(
        **inputs, do_sample=False, max_new_tokens=tokens, custom_generate=fusedraw.transformers.sample
    )
    assert torch.equal(theirs, ours), "greedy text differs"


def check_scores(model, inputs, seeds, tokens):
    out, ids = generate(
        model,
        inputs,
        **SCORED,
        seeds=seeds,
        max_new_tokens=tokens,
        eos_token_id=None,
        return_logprobs=True,
        output_logits=True,
    )
    parameters = {name: value for name, value in SCORED.items() if name != "do_sample"}
    expected = fusedraw.token_logprob(torch.stack(out.logits, dim=1), ids, **parameters)
    assert torch.equal(out.logprobs, expected), "log-probabilities are not those of the policy that drew"
    return out.logprobs


def agreement(text, alone):
    """How many tokens agree before the first that does not."""
    length = min(len(text), len(alone))
    differs = (text[:length] != alone[:length]).nonzero()
    return int(differs[0]) if len(differs) else length


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    try:
        language_model = load_language_model(lambda stage: None)
    except ModelUnavailable as error:
        raise SystemExit(f"transformers_generate: {error}") from None
    model, tokens = language_model.model, arguments.tokens
    seeds = [arguments.seed + row for row in range(len(PROMPTS))]
    inputs = batch_of(language_model, PROMPTS)

    print("What is fused into the draw:")
    print(fusedraw.transformers.explain(model, **inputs, max_new_tokens=tokens, **SAMPLING).describe())
    check_greedy(model, inputs, tokens)

    sampling = {**SAMPLING, "max_new_tokens": tokens, "output_logits": True}
    together, texts = generate(model, inputs, seeds=seeds, **sampling)
    for row, prompt in enumerate(PROMPTS):
        single = batch_of(language_model, [prompt])
        alone, ids = generate(model, single, seeds=[seeds[row]], **sampling)
        far = (together.logits[0][row] - alone.logits[0][0]).abs().max().item()
        print(f"\n{prompt} (seed {seeds[row]})\n  {language_model.decode(ids[0].tolist())!r}")
        print(
            f"  in the batch: {agreement(texts[row], ids[0])} tokens agree; first logits differ by {far:.1e}"
        )

    copies = batch_of(language_model, [PROMPTS[1]] * 3)
    same_but_one = [arguments.seed, arguments.seed, arguments.seed + 1]
    _, drawn = generate(model, copies, seeds=same_but_one, **sampling)
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    scores = check_scores(model, inputs, seeds, tokens)
    print(f"\nmean log-probability of a token: {scores.mean():.3f} nats, that of token_logprob to the bit")


if __name__ == "__main__":
    main()
