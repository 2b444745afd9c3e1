# SPDX-License-Identifier: Apache-2.0
"""generate(custom_generate=sample) against transformers' own generate: tokens, scores, states, streams."""

import pytest
import torch

pytest.importorskip("transformers", reason="needs transformers: pip install -r requirements-demo.txt")

import fusedraw.transformers as ours
from fusedraw.transformers._stage import Stage
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList
from transformers.generation.logits_process import TemperatureLogitsWarper, TopKLogitsWarper
from transformers.generation.streamers import BaseStreamer
from transformers.modeling_outputs import CausalLMOutput
from transformers_models import EOS, PAD, VOCAB, bart, hf_on_path, llama, prompts, same_text, t5, table

MODELS = {"llama": llama, "bart": bart, "t5": t5}
GREEDY = (
    {},
    {"repetition_penalty": 1.5},
    {"no_repeat_ngram_size": 2, "min_new_tokens": 4},
    {"suppress_tokens": [5, 40], "begin_suppress_tokens": [60], "sequence_bias": {(7,): 1.5, (8, 9): -2.0}},
    {"renormalize_logits": True, "remove_invalid_values": True},
    {"use_cache": False},
    {"cache_implementation": "static"},
    {"cache_implementation": "dynamic"},
    {"bad_words_ids": [[11], [12, 13]], "exponential_decay_length_penalty": (2, 1.3)},
)


@pytest.fixture(scope="module", params=MODELS)
def model(request):
    return MODELS[request.param]()


class Tail(BaseStreamer):
    """Keeps what is streamed."""

    def __init__(self):
        self.pieces, self.ended = [], 0

    def put(self, value):
        self.pieces.append(value.clone())

    def end(self):
        self.ended += 1


class StopAfter(StoppingCriteria):
    """Row r stops when it has `lengths[r]` tokens."""

    def __init__(self, *lengths):
        self.lengths = torch.tensor(lengths)
        self.seen_scores = []

    def __call__(self, input_ids, scores, **kwargs):
        self.seen_scores.append(None if scores is None else len(scores))
        return self.lengths <= input_ids.shape[1]


class Odd(LogitsProcessor):
    """A user's processor: writes into the scores that it is given and remembers its calls."""

    def __init__(self):
        self.lengths = []

    def __call__(self, input_ids, scores):
        self.lengths.append(input_ids.shape[1])
        scores[:, ::2] -= 3.0
        return scores


@pytest.mark.parametrize("fields", GREEDY, ids=lambda fields: "-".join(fields) or "plain")
def test_greedy_is_token_exact(model, fields):
    same_text(model, prompts(), max_new_tokens=12, **fields)


def test_greedy_takes_the_first_of_tied_logits_in_every_dtype():
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        model = table(dtype=dtype)
        with torch.no_grad():
            model.table.mul_(4).round_()
        same_text(model, prompts(4), max_new_tokens=9)


def sampled(model, *inputs, **arguments):
    arguments = {"do_sample": True, "max_new_tokens": 8, "seeds": [3, 4]} | arguments
    return model.generate(*inputs, custom_generate=ours.sample, return_dict_in_generate=True, **arguments)


def on_path(model, out, *inputs, **arguments):
    steps = len(out.scores or out.logits)
    path = out.sequences[:, -steps:]
    return hf_on_path(model, path, *inputs, do_sample=True, max_new_tokens=8, **arguments)


def test_scores_logits_and_states_are_those_of_transformers(model):
    x = prompts()
    asked = dict.fromkeys(
        ("output_scores", "output_logits", "output_attentions", "output_hidden_states"), True
    )
    fields = {"temperature": 0.7, "top_k": 30, "top_p": 0.9, "repetition_penalty": 1.3, **asked}
    out = sampled(model, x, **fields)
    theirs = on_path(model, out, x, **fields)
    assert torch.equal(out.sequences, theirs.sequences)
    assert set(theirs) <= set(out)
    for name in ("scores", "logits"):
        assert len(out[name]) == len(theirs[name]) == 8
        for a, b in zip(out[name], theirs[name], strict=True):
            assert a.dtype == b.dtype == torch.float32 and torch.equal(a, b), name
    for name in set(theirs) & {"attentions", "hidden_states", "decoder_attentions", "cross_attentions"}:
        assert len(out[name]) == len(theirs[name])
        for a, b in zip(out[name], theirs[name], strict=True):
            assert len(a) == len(b) and all(torch.equal(i, j) for i, j in zip(a, b, strict=True)), name
    assert type(out.past_key_values) is type(theirs.past_key_values)
    assert out.past_key_values.get_seq_length() == theirs.past_key_values.get_seq_length()
    if model.config.is_encoder_decoder:
        assert torch.equal(out.encoder_hidden_states[-1], theirs.encoder_hidden_states[-1])
        assert torch.equal(out.encoder_attentions[0], theirs.encoder_attentions[0])


def test_asking_for_scores_changes_no_token(model):
    x = prompts()
    fields = {"top_k": 20, "typical_p": 0.9, "repetition_penalty": 1.4}
    plain = sampled(model, x, **fields)
    asked = sampled(model, x, output_scores=True, output_logits=True, return_logprobs=True, **fields)
    assert torch.equal(plain.sequences, asked.sequences)
    assert plain.scores is None and plain.logits is None and plain.logprobs is None and plain.draws is None


def test_plain_sequences_without_a_dict(model):
    out = model.generate(
        prompts(), do_sample=True, max_new_tokens=8, seeds=[3, 4], custom_generate=ours.sample
    )
    assert torch.equal(out, sampled(model, prompts()).sequences)


def test_streamer_gets_the_prompt_and_every_token(model):
    x, tail = prompts(), Tail()
    out = sampled(model, x, streamer=tail, min_new_tokens=8)
    expected = Tail()
    hf_on_path(
        model, out.sequences[:, -8:], x, do_sample=True, max_new_tokens=8, min_new_tokens=8, streamer=expected
    )
    assert tail.ended == expected.ended == 1
    assert len(tail.pieces) == len(expected.pieces) == 9
    assert all(torch.equal(a, b) for a, b in zip(tail.pieces, expected.pieces, strict=True))


def test_streamer_of_greedy_text():
    model, tail, theirs = llama(), Tail(), Tail()
    model.generate(prompts(1), max_new_tokens=6, do_sample=False, streamer=theirs)
    model.generate(prompts(1), max_new_tokens=6, do_sample=False, streamer=tail, custom_generate=ours.sample)
    assert [p.tolist() for p in tail.pieces] == [p.tolist() for p in theirs.pieces]


@pytest.mark.parametrize("wanted", [True, False])
def test_stopping_criteria_end_rows_and_see_scores(wanted):
    model, x = table(eos=EOS), prompts()
    fields = {"suppress_tokens": [EOS], "top_k": 0, "output_scores": wanted}
    rules = [StopAfter(7, 10), StopAfter(7, 10)]
    out = sampled(model, x, stopping_criteria=StoppingCriteriaList(rules[:1]), output_logits=True, **fields)
    theirs = on_path(model, out, x, stopping_criteria=StoppingCriteriaList(rules[1:]), **fields)
    assert torch.equal(out.sequences, theirs.sequences)
    assert out.sequences.shape == (2, 10)
    assert (out.sequences[0, 7:] == PAD).all() and (out.sequences[1, 7:] != PAD).any()
    assert rules[0].seen_scores == rules[1].seen_scores == ([1, 2, 3, 4, 5] if wanted else [None] * 5)


def test_rows_that_end_are_padded_and_the_batch_ends_with_the_last():
    model, x = table(eos=EOS), prompts(4)
    with torch.no_grad():
        model.table[:, EOS] += 4.0
    out = model.generate(
        x,
        do_sample=True,
        max_new_tokens=40,
        seeds=[1, 2, 3, 4],
        custom_generate=ours.sample,
        return_dict_in_generate=True,
        return_logprobs=True,
        returns=("entropy", "n_kept", "kept"),
    )
    new = out.sequences[:, 5:]
    ends = [row.index(EOS) for row in new.tolist()]
    assert len(set(ends)) > 1 and new.shape[1] == max(ends) + 1 < 40
    for row, end in enumerate(ends):
        assert (new[row, end + 1 :] == PAD).all()
        for field in (out.logprobs, out.draws.entropy, out.draws.n_kept, out.draws.ids):
            assert (field[row, end + 1 :] == 0).all() and (field[row, : end + 1] != 0).all()
    assert len(out.draws.kept_ids) == len(out.draws.kept_offsets) == new.shape[1]


def test_user_processors_are_called_once_per_step_and_may_write_in_place():
    model, x = llama(), prompts()
    odd, theirs_odd = Odd(), Odd()
    fields = {"temperature": 0.8, "top_p": 0.9, "output_scores": True}
    out = sampled(model, x, logits_processor=LogitsProcessorList([odd]), **fields)
    theirs = on_path(model, out, x, logits_processor=LogitsProcessorList([theirs_odd]), **fields)
    assert odd.lengths == theirs_odd.lengths == list(range(5, 13))
    assert all(torch.equal(a, b) for a, b in zip(out.scores, theirs.scores, strict=True))
    plain = sampled(model, x, temperature=0.8, top_p=0.9)
    assert not torch.equal(plain.sequences, out.sequences)


def test_processors_never_write_into_the_models_own_rows(monkeypatch):
    model, x = table(), prompts()
    rows = torch.randn(2, 1, VOCAB, generator=torch.Generator().manual_seed(0))
    before = rows.clone()
    monkeypatch.setattr(type(model), "forward", lambda self, input_ids, **kwargs: CausalLMOutput(logits=rows))
    sampled(model, x, logits_processor=LogitsProcessorList([Odd()]))
    assert torch.equal(rows, before)


def test_prefix_allowed_tokens_are_all_that_is_drawn():
    model, x = llama(), prompts()
    out = sampled(model, x, prefix_allowed_tokens_fn=lambda row, ids: [10 + row, 20 + row], top_k=0)
    assert set(out.sequences[0, 5:].tolist()) == {10, 20}
    assert set(out.sequences[1, 5:].tolist()) == {11, 21}


def test_left_padding_and_the_repetition_penalty_of_the_real_prompt():
    model = llama()
    x = prompts(2, 6)
    x[0, :3] = PAD
    attended = (x != PAD).long()
    # Padding would be drawn, if not counted.
    fields = {"repetition_penalty": 1.7, "sequence_bias": {(PAD,): 4.0}}
    text = same_text(model, x, attention_mask=attended, max_new_tokens=10, **fields)
    assert (text[:, 6:] == PAD).any()


@pytest.mark.parametrize("fields", [{}, {"repetition_penalty": 1.4}], ids=["plain", "penalty"])
@pytest.mark.filterwarnings("ignore:Passing `repetition_penalty` with `inputs_embeds`")
def test_inputs_embeds(fields):
    model = llama()
    embeds = model.get_input_embeddings()(prompts())
    same_text(model, inputs_embeds=embeds, max_new_tokens=8, **fields)


def test_greedy_calls_a_users_warper_as_transformers_does():
    warpers = LogitsProcessorList([TopKLogitsWarper(3), TemperatureLogitsWarper(0.5)])
    same_text(llama(), prompts(), max_new_tokens=8, logits_processor=warpers)


def test_no_inputs_at_all_begin_with_bos():
    same_text(llama(), max_new_tokens=6)


def test_a_cache_of_the_caller_goes_on():
    model, x = llama(), prompts()
    fields = {"max_new_tokens": 4, "do_sample": False, "return_dict_in_generate": True}
    texts = []
    for arguments in ({}, {"custom_generate": ours.sample}):
        first = model.generate(x, **fields, **arguments)
        again = model.generate(first.sequences, past_key_values=first.past_key_values, **fields, **arguments)
        texts.append(again.sequences)
    assert torch.equal(*texts)


def test_chunked_prefill():
    same_text(llama(), prompts(2, 9), max_new_tokens=6, prefill_chunk_size=4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_logits_of_every_dtype(dtype):
    model, x = table(dtype=dtype), prompts()
    out = sampled(model, x, top_p=0.9, output_logits=True, output_scores=True)
    theirs = on_path(model, out, x, top_p=0.9, output_scores=True, output_logits=True)
    assert all(torch.equal(a, b) for a, b in zip(out.logits, theirs.logits, strict=True))
    assert torch.equal(sampled(model, x, top_p=0.9).sequences, out.sequences)


def test_synced_gpus_keeps_company_until_all_have_ended(monkeypatch):
    """One process of two: its peer ends three steps later, and it runs three more passes, drawing nothing."""
    model, x = llama(), prompts()
    passes = []
    monkeypatch.setattr(
        type(model),
        "_has_unfinished_sequences",
        lambda self, finished, synced, device: not finished or (synced and len(passes) < 7),
    )
    forward = type(model).forward

    def counting(self, *args, **kwargs):
        passes.append(1)
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(type(model), "forward", counting)
    out = model.generate(x, max_new_tokens=4, do_sample=False, synced_gpus=True, custom_generate=ours.sample)
    assert out.shape == (2, 9) and len(passes) == 7


def test_logits_are_not_copied_where_nothing_is_called(monkeypatch):
    model, seen = table(), []
    draw = Stage.draw

    def seeing(self, scores, *arguments):
        seen.append(scores.data_ptr())
        return draw(self, scores, *arguments)

    monkeypatch.setattr(Stage, "draw", seeing)
    rows = []
    forward = type(model).forward

    def remembering(self, *args, **kwargs):
        out = forward(self, *args, **kwargs)
        rows.append(out.logits.data_ptr())
        return out

    monkeypatch.setattr(type(model), "forward", remembering)
    sampled(model, prompts(), top_k=10)
    assert seen == rows and len(rows) == 8
