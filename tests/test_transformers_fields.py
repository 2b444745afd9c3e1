# SPDX-License-Identifier: Apache-2.0
"""Every field of GenerationConfig is honoured or refused by name, and honoured means: transformers' own."""

import pytest
import torch

pytest.importorskip("transformers", reason="needs transformers: pip install -r requirements-demo.txt")

import fusedraw.transformers as ours
from fusedraw.transformers import _fields
from tokenizers import Tokenizer, decoders, models
from transformers import (
    CompileConfig,
    GenerationConfig,
    PreTrainedTokenizerFast,
    SynthIDTextWatermarkingConfig,
    WatermarkingConfig,
)
from transformers_models import BOS, EOS, VOCAB, bart, hf_on_path, kept_mask, llama, prompts, same_text

FIELDS = {name for name in vars(GenerationConfig()) if not name.startswith("_")}
STEPS = 8

# By field: values for which transformers builds a processor that changes these scores.
PROCESSED = {
    "temperature": {"temperature": 0.6},
    "top_k": {"top_k": 6},
    "top_p": {"top_p": 0.7},
    "min_p": {"min_p": 0.05},
    "top_h": {"top_h": 0.5},
    "typical_p": {"typical_p": 0.6},
    "epsilon_cutoff": {"epsilon_cutoff": 0.02},
    "eta_cutoff": {"eta_cutoff": 0.05},
    "repetition_penalty": {"repetition_penalty": 1.6},
    "encoder_repetition_penalty": {"encoder_repetition_penalty": 1.6},
    "no_repeat_ngram_size": {"no_repeat_ngram_size": 1},
    "encoder_no_repeat_ngram_size": {"encoder_no_repeat_ngram_size": 1},
    "bad_words_ids": {"bad_words_ids": [[5], [6], [7, 8]]},
    "renormalize_logits": {"renormalize_logits": True},
    "forced_bos_token_id": {"forced_bos_token_id": 33},
    "forced_eos_token_id": {"forced_eos_token_id": [EOS, 9]},
    "remove_invalid_values": {"remove_invalid_values": True, "bad_words_ids": [[4]]},
    "exponential_decay_length_penalty": {"exponential_decay_length_penalty": (2, 1.5)},
    "suppress_tokens": {"suppress_tokens": [3, 4, 50]},
    "begin_suppress_tokens": {"begin_suppress_tokens": [3, 4, 50]},
    "sequence_bias": {"sequence_bias": {(10,): 4.0, (11, 12): 2.0}},
    "guidance_scale": {"guidance_scale": 1.5},
    "watermarking_config": {"watermarking_config": WatermarkingConfig(bias=2.5)},
    "min_length": {"min_length": 9},
    "min_new_tokens": {"min_new_tokens": 3},
}
WITHOUT = {"remove_invalid_values": {"bad_words_ids": [[4]]}}
MORE = {
    "watermark-synthid": {
        "watermarking_config": SynthIDTextWatermarkingConfig(
            keys=[1, 2, 3], ngram_len=3, context_history_size=16
        )
    },
    "bias-of-single-tokens": {"sequence_bias": {(10,): 4.0, (90,): -3.0}, "bad_words_ids": [[5], [6]]},
    "all-edits": {
        "sequence_bias": {(10,): 4.0},
        "repetition_penalty": 1.4,
        "bad_words_ids": [[5]],
        "min_new_tokens": 3,
        "suppress_tokens": [3],
        "temperature": 0.8,
        "top_k": 20,
        "top_p": 0.9,
        "typical_p": 0.9,
        "renormalize_logits": True,
    },
    "penalty-below-one": {"repetition_penalty": 0.7, "no_repeat_ngram_size": 3},
}


def model_for(name):
    return bart() if name in ("forced_bos_token_id", "encoder_no_repeat_ngram_size") else llama()


def arguments_for(fields):
    """For both sides: no default filter, and no end before the last step unless a field brings it."""
    return {"max_new_tokens": STEPS, "top_k": 0, "eos_token_id": EOS, "output_scores": True, **fields}


def test_every_field_is_classified_once():
    kinds = (
        _fields.BY_PROCESSORS,
        _fields.BY_GENERATE,
        _fields.BY_LOOP,
        _fields.METADATA,
        set(_fields.REFUSED),
        set(_fields.IDLE),
    )
    assert sum(map(len, kinds)) == len(_fields.KNOWN)
    assert FIELDS <= _fields.KNOWN, sorted(FIELDS - _fields.KNOWN)
    assert set(PROCESSED) == _fields.BY_PROCESSORS
    assert set(PREPARED) == _fields.BY_GENERATE
    assert set(REFUSED) == _fields.REFUSED.keys() & FIELDS
    assert set(IDLE) == _fields.IDLE.keys()


@pytest.mark.parametrize("name", [*PROCESSED, *MORE])
@pytest.mark.filterwarnings("ignore:Passing `encoder_")
def test_processed_scores_and_kept_sets_are_those_of_transformers(name):
    """Step by step on one path: the scores are equal, and a token can be drawn where its score is finite."""
    model, x = model_for(name), prompts()
    fields = arguments_for({**PROCESSED, **MORE}[name])
    out = model.generate(
        x,
        do_sample=True,
        seeds=[8, 9],
        returns=("kept",),
        return_dict_in_generate=True,
        custom_generate=ours.sample,
        **fields,
    )
    path = out.sequences[:, -len(out.scores) :]
    theirs = hf_on_path(model, path, x, do_sample=True, **fields)
    assert torch.equal(out.sequences, theirs.sequences)
    assert len(out.scores) == len(theirs.scores)
    for step, (mine, scores) in enumerate(zip(out.scores, theirs.scores, strict=True)):
        assert torch.equal(mine, scores), step
        weighs = scores.isfinite() & (scores.amax(-1, keepdim=True) - scores < 30.4)
        kept = kept_mask(out.draws.kept_ids[step], out.draws.kept_offsets[step], scores.shape[1])
        assert torch.equal(kept, weighs), step


@pytest.mark.parametrize("name", PROCESSED)
@pytest.mark.filterwarnings("ignore:Passing `encoder_")
def test_the_fields_above_do_change_scores(name):
    """Else equality would say nothing: on the same path, the scores without the field are others."""
    model, x = model_for(name), prompts()
    path = torch.full((2, STEPS), 40)
    fields = arguments_for(PROCESSED[name])
    plain = arguments_for(WITHOUT.get(name, {}))
    scores = [hf_on_path(model, path, x, do_sample=True, **f).scores for f in (fields, plain)]
    assert any(not torch.equal(a, b) for a, b in zip(*scores, strict=True))


def tokenizer():
    """One token to each printable character."""
    vocab = {"<pad>": 0, "<s>": BOS, "</s>": EOS} | {chr(33 + i): 3 + i for i in range(VOCAB - 3)}
    backend = Tokenizer(models.BPE(vocab, merges=[]))
    backend.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="<pad>", padding_side="left"
    )


# By field that `generate` turns into inputs, caches and criteria: values that change the outcome or the road.
PREPARED = {
    "max_length": {"max_length": 9},
    "max_new_tokens": {"max_new_tokens": 5},
    "max_time": {"max_new_tokens": 50, "max_time": 0.0},
    "stop_strings": {
        "max_new_tokens": 20,
        "stop_strings": [chr(30 + 82), chr(30 + 71)],
        "tokenizer": tokenizer(),
    },
    "eos_token_id": {"max_new_tokens": 20, "eos_token_id": [61, 94]},
    "bos_token_id": {"max_new_tokens": 5, "bos_token_id": 44, "inputs": None},
    "decoder_start_token_id": {"max_new_tokens": 5, "decoder_start_token_id": 31},
    "token_healing": {"max_new_tokens": 5, "token_healing": True, "tokenizer": tokenizer()},
    "cache_implementation": {"max_new_tokens": 12, "cache_implementation": "static"},
    "cache_config": {"max_new_tokens": 5, "cache_implementation": "dynamic", "cache_config": {}},
    "max_cache_len": {"max_new_tokens": 5, "cache_implementation": "static", "max_cache_len": 64},
    "use_cache": {"max_new_tokens": 12, "use_cache": False},
}


@pytest.mark.parametrize("name", PREPARED)
def test_prepared_fields_give_the_greedy_text_of_transformers(name):
    model = bart() if name == "decoder_start_token_id" else llama()
    fields = {"inputs": prompts(), "do_sample": False, "pad_token_id": 0, **PREPARED[name]}
    if name == "token_healing":
        fields["inputs"] = prompts(1)
    text = same_text(model, **fields)
    if name == "stop_strings":
        assert text.shape[1] < 25


@pytest.mark.parametrize(
    "fields",
    [
        {"num_return_sequences": 3, "do_sample": True},
        {"pad_token_id": 55, "eos_token_id": [61, 94]},
        {"compile_config": CompileConfig(), "disable_compile": True},
        {"prefill_chunk_size": 2},
    ],
    ids=lambda fields: "-".join(fields),
)
def test_fields_of_the_loop(fields):
    model, x = llama(), prompts()
    fields = {"max_new_tokens": 12, **fields}
    if "do_sample" in fields:
        out = model.generate(x, custom_generate=ours.sample, **fields)
        assert out.shape == (6, 17) and torch.equal(out[:, :5], x.repeat_interleave(3, 0))
    else:
        same_text(model, x, **fields)


REFUSED = {
    "num_beams": 2,
    "num_beam_groups": 2,
    "diversity_penalty": 0.5,
    "constraints": [object],
    "force_words_ids": [[5]],
    "penalty_alpha": 0.6,
    "low_memory": True,
    "dola_layers": "high",
    "use_mtp": True,
    "prompt_lookup_num_tokens": 3,
    "assistant_early_exit": 1,
    "assistant_ensemble_weight": 0.5,
    "speculation_type": "dflash",
    "is_assistant": True,
    "continuous_batching_config": {"block_size": 4},
}
IDLE = {
    "early_stopping": True,
    "length_penalty": 2.0,
    "num_assistant_tokens": 7,
    "num_assistant_tokens_schedule": "heuristic",
    "assistant_confidence_threshold": 0.9,
    "max_matching_ngram_size": 2,
    "assistant_lookbehind": 3,
    "target_lookbehind": 3,
}


def generate(model, **fields):
    return model.generate(prompts(), max_new_tokens=3, custom_generate=ours.sample, **fields)


@pytest.mark.parametrize("name", sorted(REFUSED.keys() | IDLE.keys()))
@pytest.mark.filterwarnings("ignore")
def test_other_ways_to_decode_are_refused_by_name(name):
    if name not in FIELDS:
        pytest.skip(f"this version of transformers has no {name}")
    value = {**REFUSED, **IDLE}[name]
    with pytest.raises(ValueError, match=rf"^fusedraw.transformers.sample: {name}=") as caught:
        generate(llama(), **{name: value})
    assert "not supported" in str(caught.value)


@pytest.mark.parametrize("name", IDLE)
def test_idle_fields_of_the_models_own_config_do_nothing(name):
    model = llama()
    expected = generate(model, do_sample=False)
    setattr(model.generation_config, name, IDLE[name])
    assert torch.equal(generate(model, do_sample=False), expected)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", 0.7),
        ("top_k", 10),
        ("top_p", 0.9),
        ("min_p", 0.1),
        ("top_h", 0.5),
        ("typical_p", 0.9),
        ("epsilon_cutoff", 0.1),
        ("eta_cutoff", 0.1),
    ],
)
def test_sampling_fields_conflict_with_greedy(name, value):
    with pytest.raises(ValueError, match=rf"{name}={value} conflicts with do_sample=False"):
        generate(llama(), do_sample=False, **{name: value})
    model = llama()
    expected = generate(model, do_sample=False)
    setattr(model.generation_config, name, value)  # the model's own default for sampling: idle here
    assert torch.equal(generate(model, do_sample=False), expected)


def test_what_agrees_with_greedy_is_no_conflict():
    expected = generate(llama(), do_sample=False)
    assert torch.equal(generate(llama(), do_sample=False, temperature=0.0, top_k=1, top_p=1.0), expected)


@pytest.mark.parametrize(
    "name", ["output_scores", "output_logits", "output_attentions", "output_hidden_states"]
)
def test_outputs_without_a_dict_are_named(name):
    with pytest.raises(ValueError, match=f"{name}=True needs return_dict_in_generate=True"):
        generate(llama(), **{name: True})


def test_unknown_fields_are_named():
    config = GenerationConfig(
        max_new_tokens=3, warmth=0.7, bos_token_id=BOS, eos_token_id=EOS, pad_token_id=0
    )
    with pytest.raises(ValueError, match=r"warmth=0.7 of the generation config is unknown"):
        llama().generate(prompts(), generation_config=config, custom_generate=ours.sample)
    with pytest.raises(ValueError, match="warmth"):
        generate(llama(), warmth=0.7)
    model = llama()
    model.generation_config.chat_format = "chatml"  # what a model brings along is not the caller's wish
    assert generate(model, do_sample=False).shape == (2, 8)
