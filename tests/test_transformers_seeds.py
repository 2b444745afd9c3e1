# SPDX-License-Identifier: Apache-2.0
"""Seeds of requests, log-probabilities and the law of what `generate` draws.

The logits of the table model are a row of a table, whatever the batch: what stays is the draw's own doing.
"""

import pytest
import torch

pytest.importorskip("transformers", reason="needs transformers: pip install -r requirements-demo.txt")

import fusedraw
import fusedraw.transformers as ours
from scipy import stats
from transformers_models import EOS, bart, llama, prompts, table

SEEDS = [11, 2**64 - 1, -3, 2**63, 11]
STEPS = 12


def texts(model, x, seeds=None, **fields):
    """int64 [rows, STEPS]: the new tokens."""
    fields = {"do_sample": True, "max_new_tokens": STEPS, "top_p": 0.95, **fields}
    return model.generate(x, seeds=seeds, custom_generate=ours.sample, **fields)[:, x.shape[1] :]


def test_a_request_alone_is_the_request_in_any_batch():
    model, x = table(), prompts(5)
    together = texts(model, x, SEEDS)
    assert len({tuple(row) for row in together.tolist()}) == 5
    for row, seed in enumerate(SEEDS):
        assert torch.equal(texts(model, x[row : row + 1], [seed])[0], together[row])
    order = [3, 0, 4, 2, 1]
    assert torch.equal(texts(model, x[order], [SEEDS[row] for row in order]), together[order])


def test_prompts_of_other_lengths_and_requests_that_end_do_not_matter():
    model, x = table(eos=EOS), prompts(3)
    with torch.no_grad():
        model.table[:, EOS] += 3.0
    short = x[:, -2:]
    alone = [
        texts(model, row[None], [seed], max_new_tokens=40)[0]
        for row, seed in zip(short, (1, 2, 3), strict=True)
    ]
    together = texts(model, x, [1, 2, 3], max_new_tokens=40)
    assert len({len(row) for row in alone}) > 1
    for row, text in zip(together, alone, strict=True):
        assert torch.equal(row[: len(text)], text) and (row[len(text) :] == 0).all()


def test_num_return_sequences_are_samples_of_their_request():
    model, x = table(), prompts(3)
    three = texts(model, x, SEEDS[:3], num_return_sequences=3).view(3, 3, STEPS)
    assert torch.equal(three[:, 0], texts(model, x, SEEDS[:3]))
    assert len({tuple(text) for request in three.tolist() for text in request}) == 9
    for row in range(3):
        alone = texts(model, x[row : row + 1], SEEDS[row : row + 1], num_return_sequences=3)
        assert torch.equal(alone, three[row])


def test_keys_are_those_of_derive_keys():
    """The text is that of fusedraw.sample with the keys that the documentation states, on any step."""
    model, x = table(), prompts(2)
    drawn = texts(model, x, [7, 8], num_return_sequences=2, temperature=0.9, top_k=40, max_new_tokens=140)
    seeds = torch.tensor([7, 7, 8, 8])
    last = x.repeat_interleave(2, 0)[:, -1]
    for step in range(140):
        keys = fusedraw.derive_keys(seeds, 0, torch.tensor([0, 1, 0, 1]), step)
        last = fusedraw.sample(
            model.table[last].detach(), keys=keys, temperature=0.9, top_k=40, top_p=0.95, ties="all"
        )
        assert torch.equal(last, drawn[:, step])


def test_seeds_as_a_tensor_and_mod_2_to_the_64():
    model, x = table(), prompts(5)
    expected = texts(model, x, SEEDS)
    words = torch.tensor([seed % 2**64 for seed in SEEDS], dtype=torch.uint64)
    assert torch.equal(texts(model, x, words), expected)
    assert torch.equal(texts(model, x, words.view(torch.int64)), expected)
    assert torch.equal(texts(model, x, [seed + 2**64 for seed in SEEDS]), expected)
    changed = texts(model, x, [SEEDS[0] + 2**33, *SEEDS[1:]])
    assert torch.equal(changed[1:], expected[1:]) and not torch.equal(changed[0], expected[0])


def test_without_seeds_torch_manual_seed_decides():
    model, x = table(), prompts(4)
    torch.manual_seed(5)
    first, second = texts(model, x), texts(model, x)
    torch.manual_seed(5)
    assert torch.equal(texts(model, x), first) and torch.equal(texts(model, x), second)
    assert not torch.equal(first, second)
    same = x[:1].expand(4, -1)
    assert len({tuple(row) for row in texts(model, same).tolist()}) == 4  # rows are requests of their own


def test_seeds_do_not_touch_torchs_generator():
    torch.manual_seed(5)
    state = torch.get_rng_state()
    texts(table(), prompts(2), [1, 2])
    assert torch.equal(torch.get_rng_state(), state)


def test_encoder_decoder_requests_have_seeds_too():
    model, x = bart(), prompts(2)
    fields = {"num_return_sequences": 2, "top_k": 0, "suppress_tokens": [EOS]}
    drawn = texts(model, x, [4, 5], **fields)
    again = texts(model, x, [4, 6], **fields)
    assert torch.equal(drawn[:2], again[:2]) and not torch.equal(drawn[2:], again[2:])


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"top_k": 9, "top_p": 0.8, "temperature": 0.7},
        {"mix_eps": 0.2, "top_p": 0.5},
        {"mix_eps": 0.3, "mix_support": "valid", "min_p": 0.1},
        {"ties": "index", "top_k": 5},
    ],
    ids=lambda fields: "-".join(fields) or "plain",
)
def test_logprobs_are_those_of_token_logprob(fields):
    model, x = llama(), prompts(3)
    arguments = {"top_k": 0, "top_p": 1.0, **fields}
    out = model.generate(
        x,
        do_sample=True,
        max_new_tokens=STEPS,
        seeds=[1, 2, 3],
        return_logprobs=True,
        return_dict_in_generate=True,
        output_logits=True,
        eos_token_id=None,
        custom_generate=ours.sample,
        **arguments,
    )
    assert out.draws is None and out.logprobs.shape == (3, STEPS) and out.logprobs.dtype == torch.float32
    ties = {"ties": "all" if arguments["top_k"] else "index", **arguments}
    for step, logits in enumerate(out.logits):
        expected = fusedraw.token_logprob(logits, out.sequences[:, 5 + step], **ties)
        assert torch.equal(out.logprobs[:, step], expected)


def test_by_products_come_back_as_draws():
    model, x = table(), prompts(3)
    names = ("logp", "entropy", "n_kept", "explored", "margin", "rank")
    out = model.generate(
        x,
        do_sample=True,
        max_new_tokens=4,
        seeds=[1, 2, 3],
        returns=names,
        top_n=5,
        mix_eps=0.1,
        return_dict_in_generate=True,
        output_logits=True,
        custom_generate=ours.sample,
    )
    assert out.logprobs is None
    for step, logits in enumerate(out.logits):
        keys = fusedraw.derive_keys(torch.tensor([1, 2, 3]), 0, 0, step)
        expected = fusedraw.sample(
            logits, keys=keys, top_k=50, ties="all", mix_eps=0.1, returns=names, top_n=5
        )
        for name in (*names, "ids", "top_ids", "top_logps"):
            assert torch.equal(getattr(out.draws, name)[:, step], getattr(expected, name)), name
    assert torch.equal(out.draws.ids, out.sequences[:, 5:])


def test_mix_eps_per_request_and_epsilon_greedy():
    model, x = table(), prompts(2)
    fields = {"do_sample": False, "top_p": 1.0, "max_new_tokens": 60}
    greedy = texts(model, x, **fields)
    for mix_eps in ([0.0, 0.5], torch.tensor([0.0, 0.5])):
        mixed = texts(model, x, [1, 2], mix_eps=mix_eps, **fields)
        assert torch.equal(mixed[0], greedy[0])
        best = model.table[torch.cat((x[1, -1:], mixed[1, :-1]))].argmax(-1)
        explored = int((mixed[1] != best).sum())
        assert 15 <= explored <= 45  # 60 coins of 0.5: outside with probability below 1e-4
    assert torch.equal(texts(model, x, [1, 2], mix_eps=0.0, **fields), greedy)


@pytest.mark.parametrize(
    "rules",
    [
        {"frequency_penalty": 0.7, "presence_penalty": 0.4},
        {"frequency_penalty": 0.9, "repetition_penalty": 1.3},
        {"top_n_sigma": 1.5},
        {"xtc_probability": 0.5, "xtc_threshold": 0.05},
    ],
    ids=lambda rules: "-".join(rules),
)
def test_rules_that_transformers_does_not_have(rules):
    """The text is that of fusedraw.sample with the rule, the new tokens as history and the prompt."""
    model, x = table(spread=2.0), prompts(2)
    drawn = texts(model, x, [7, 8], top_k=0, max_new_tokens=40, **rules)
    assert not torch.equal(drawn, texts(model, x, [7, 8], top_k=0, max_new_tokens=40))
    last = x[:, -1]
    for step in range(40):
        ids = {"history": drawn[:, :step]} if "frequency_penalty" in rules else {}
        ids |= {"prompt": x} if "repetition_penalty" in rules else {}
        keys = fusedraw.derive_keys(torch.tensor([7, 8]), 0, 0, step)
        last = fusedraw.sample(model.table[last].detach(), keys=keys, top_p=0.95, **ids, **rules)
        assert torch.equal(last, drawn[:, step])


def test_own_rules_per_request():
    model, x = table(spread=1.0), prompts(2)
    both = texts(model, x, [7, 8], presence_penalty=[0.0, 2.0], num_return_sequences=2)
    assert torch.equal(both[:2], texts(model, x[:1], [7], num_return_sequences=2))
    assert torch.equal(both[2:], texts(model, x[1:], [8], presence_penalty=2.0, num_return_sequences=2))


def test_padding_and_prompts_beyond_the_logits_are_not_penalised():
    """Models with more embeddings than logits: such ids can stand in the text and cannot be drawn."""
    model, x = table(eos=EOS), prompts(4)
    with torch.no_grad():
        model.table[:, EOS] += 4.0
    forward = type(model).forward
    model.forward = lambda input_ids, **kwargs: forward(model, input_ids.clamp(max=96), **kwargs)
    x[:, 1] = 120
    fields = {
        "pad_token_id": 130,
        "repetition_penalty": 1.5,
        "presence_penalty": 0.1,
        "suppress_tokens": [110],
    }
    together = texts(model, x, [1, 2, 3, 4], max_new_tokens=30, **fields)
    assert (together == 130).any()
    for row in range(4):
        alone = texts(model, x[row : row + 1], [row + 1], max_new_tokens=30, **fields)[0]
        assert torch.equal(together[row, : len(alone)], alone)


VOCAB, DRAWS = 24, 60_000


@pytest.mark.parametrize(
    "fields",
    [
        {"top_k": 0},
        {"temperature": 0.7, "top_k": 12, "top_p": 0.9},
        {"top_k": 0, "min_p": 0.05, "typical_p": 0.8},
        {"top_k": 0, "repetition_penalty": 1.5, "sequence_bias": {(7,): 1.0}, "suppress_tokens": [9]},
        {"top_k": 10, "top_h": 0.7},
    ],
    ids=lambda fields: "-".join(fields),
)
def test_the_law_of_the_second_token_is_that_of_transformers(fields):
    """Chi-square of counted tokens against softmax of the scores that transformers returns."""
    model = table(VOCAB, spread=1.0)
    x = torch.tensor([[5, 11, 17]])
    forced = {"prefix_allowed_tokens_fn": lambda row, ids: [8] if len(ids) == 3 else list(range(VOCAB))}
    arguments = {"do_sample": True, "max_new_tokens": 2, **forced, **fields}
    scores = model.generate(x, output_scores=True, return_dict_in_generate=True, **arguments).scores[1]
    law = scores[0].double().softmax(-1)
    drawn = texts(model, x.expand(DRAWS, -1), range(DRAWS), **{"top_p": 1.0, **arguments})
    assert (drawn[:, 0] == 8).all()
    counts = drawn[:, 1].bincount(minlength=VOCAB)
    assert counts[law == 0].sum() == 0
    possible = law > 0
    expected = law[possible] * DRAWS
    assert expected.min() > 5
    p = stats.chisquare(counts[possible].numpy(), expected.numpy(), sum_check=False).pvalue
    assert p > 1e-6, p
