# SPDX-License-Identifier: Apache-2.0
"""Every field of GenerationConfig: who honours it, or why it is refused.

A field that would change what transformers does and that we do not do is an error which names it. A field
that acts only in a mode that is off (a beam's length penalty, a temperature beside do_sample=False) is an
error where the caller set it, and idle, as in transformers, where it comes with the model's own
generation_config.
"""

# Turned into logits processors by transformers: see _rules.
BY_PROCESSORS = frozenset(
    (
        *("temperature", "top_k", "top_p", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff"),
        *("repetition_penalty", "encoder_repetition_penalty", "no_repeat_ngram_size"),
        *("encoder_no_repeat_ngram_size", "bad_words_ids", "renormalize_logits", "forced_bos_token_id"),
        *("forced_eos_token_id", "remove_invalid_values", "exponential_decay_length_penalty"),
        *("suppress_tokens", "begin_suppress_tokens", "sequence_bias", "guidance_scale"),
        *("watermarking_config", "min_length", "min_new_tokens"),
    )
)
# Turned into inputs, caches and stopping criteria by `generate` before the first step.
BY_GENERATE = frozenset(
    (
        *("max_length", "max_new_tokens", "max_time", "stop_strings", "eos_token_id", "bos_token_id"),
        *("decoder_start_token_id", "token_healing", "cache_implementation", "cache_config", "max_cache_len"),
        *("use_cache",),
    )
)
# Read by our loop, or by the methods of the model that it calls.
BY_LOOP = frozenset(
    (
        *("do_sample", "num_return_sequences", "pad_token_id", "return_dict_in_generate", "output_scores"),
        *("output_logits", "output_attentions", "output_hidden_states", "prefill_chunk_size"),
        *("compile_config", "disable_compile"),
    )
)
# Other ways to decode: (values that leave it off, what it is).
REFUSED: dict[str, tuple[tuple, str]] = {
    "num_beams": ((None, 1), "beam search"),
    "num_beam_groups": ((None, 1), "group beam search"),
    "diversity_penalty": ((None, 0.0), "group beam search"),
    "constraints": ((None,), "constrained beam search"),
    "force_words_ids": ((None,), "constrained beam search"),
    "penalty_alpha": ((None, 0.0), "contrastive search"),
    "low_memory": ((None, False), "contrastive search"),
    "dola_layers": ((None,), "DoLa"),
    "use_mtp": ((None, False), "assisted generation"),
    "prompt_lookup_num_tokens": ((None,), "assisted generation"),
    "assistant_early_exit": ((None,), "assisted generation"),
    "assistant_ensemble_weight": ((None,), "assisted generation"),
    "speculation_type": ((None,), "assisted generation"),
    "is_assistant": ((None, False), "assisted generation"),
    "continuous_batching_config": ((None,), "continuous batching"),
}
# Fields of a mode that is off: (values that mean nothing, the mode they belong to).
IDLE: dict[str, tuple[tuple, str]] = {
    "early_stopping": ((None, False), "beam search"),
    "length_penalty": ((None, 1.0), "beam search"),
    "num_assistant_tokens": ((None, 20), "assisted generation"),
    "num_assistant_tokens_schedule": ((None, "constant"), "assisted generation"),
    "assistant_confidence_threshold": ((None, 0.4), "assisted generation"),
    "max_matching_ngram_size": ((None,), "assisted generation"),
    "assistant_lookbehind": ((None, 10), "assisted generation"),
    "target_lookbehind": ((None, 10), "assisted generation"),
}
# Fields that only sampling reads: values that agree with greedy decoding.
_ONLY_SAMPLING = {
    "temperature": (None, 1.0, 0.0),
    "top_k": (None, 50, 0, 1),
    "top_p": (None, 1.0),
    "min_p": (None, 0.0),
    "top_h": (None, 1.0),
    "typical_p": (None, 1.0),
    "epsilon_cutoff": (None, 0.0),
    "eta_cutoff": (None, 0.0),
}
_ONLY_IN_DICTS = ("output_scores", "output_logits", "output_attentions", "output_hidden_states")
METADATA = frozenset(("transformers_version",))  # and whatever begins with an underscore
KNOWN = BY_PROCESSORS | BY_GENERATE | BY_LOOP | METADATA | REFUSED.keys() | IDLE.keys()


def check_fields(op: str, config, own) -> None:
    """Raise ValueError for the first field of `config` that is refused, in conflict or unknown.

    Args:
        config: the GenerationConfig that `generate` prepared.
        own: the model's generation_config, whose idle fields are nobody's wish.
    """

    def inherited(name):
        return getattr(own, name, None) == getattr(config, name)

    for name, (off, what) in REFUSED.items():
        value = getattr(config, name, None)
        if value not in off:
            raise ValueError(f"{op}: {name}={value!r} is not supported: it asks for {what}")
    for name, (off, what) in IDLE.items():
        value = getattr(config, name, None)
        if value not in off and not inherited(name):
            raise ValueError(f"{op}: {name}={value!r} acts in {what} only, which is not supported")
    if not config.do_sample:
        for name, neutral in _ONLY_SAMPLING.items():
            value = getattr(config, name, None)
            if value not in neutral and not inherited(name):
                raise ValueError(
                    f"{op}: {name}={value!r} conflicts with do_sample=False, which is greedy; "
                    f"give do_sample=True, or leave {name} out"
                )
    if not config.return_dict_in_generate:
        for name in _ONLY_IN_DICTS:
            if getattr(config, name, None) and not inherited(name):
                raise ValueError(f"{op}: {name}=True needs return_dict_in_generate=True")
    for name, value in vars(config).items():
        if name in KNOWN or name.startswith("_") or value is None or inherited(name):
            continue
        raise ValueError(f"{op}: {name}={value!r} of the generation config is unknown to fusedraw")
