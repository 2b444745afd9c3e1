# SPDX-License-Identifier: Apache-2.0
"""Which logits processors of transformers are rules of our law, and on which steps a processor acts.

A rule gives the arguments of `fusedraw.sample` that do what the processor does, and its place in the law's
order. Only the very classes are listed: a subclass may do something else. A processor that is not listed, or
whose settings its rule does not cover, is called as it is.
"""

import inspect
import math
from collections.abc import Callable
from typing import Any, NamedTuple

from transformers.generation import logits_process as hf

# Places in the law's order. Masks commute, so several may stand side by side; every other place holds one.
BIAS, REPETITION, MASK, TEMPERATURE, TOP_K, TOP_P, MIN_P, TYPICAL, EPSILON, ETA, SHIFT = range(11)


class Rule(NamedTuple):
    """`arguments(processor)` -> keyword arguments of `fusedraw.sample`, or None where it is to be called."""

    place: int
    arguments: Callable[[Any], dict | None]


def _filter(name, attribute):
    def arguments(processor):
        plain = processor.filter_value == -math.inf and getattr(processor, "min_tokens_to_keep", 1) == 1
        return {name: float(getattr(processor, attribute))} if plain else None

    return arguments


def _top_k(processor):
    # min_tokens_to_keep is already in top_k. Ties of the last token kept stay, as in transformers.
    return {"top_k": processor.top_k} if processor.filter_value == -math.inf else None


def _single_token_bias(processor):
    biases = processor.sequence_bias
    if any(len(sequence) != 1 for sequence in biases):
        return None
    return {"logit_bias": {int(sequence[0]): float(bias) for sequence, bias in biases.items()}}


def _bad_words(processor):
    bias = _single_token_bias(processor)
    return None if bias is None else {"suppress": list(bias["logit_bias"])}


def _repetition(processor):
    if isinstance(processor.prompt_ignore_length, int):  # a user's; generate gives a length per row, or none
        return None
    return {"repetition_penalty": float(processor.penalty)}


def _suppress(attribute):
    return lambda processor: {"suppress": getattr(processor, attribute).reshape(-1).tolist()}


_RULES: dict[type, Rule] = {
    hf.SequenceBiasLogitsProcessor: Rule(BIAS, _single_token_bias),
    hf.RepetitionPenaltyLogitsProcessor: Rule(REPETITION, _repetition),
    hf.NoBadWordsLogitsProcessor: Rule(MASK, _bad_words),
    hf.MinLengthLogitsProcessor: Rule(MASK, _suppress("eos_token_id")),
    hf.MinNewTokensLengthLogitsProcessor: Rule(MASK, _suppress("eos_token_id")),
    hf.SuppressTokensLogitsProcessor: Rule(MASK, _suppress("suppress_tokens")),
    hf.SuppressTokensAtBeginLogitsProcessor: Rule(MASK, _suppress("begin_suppress_tokens")),
    hf.TemperatureLogitsWarper: Rule(TEMPERATURE, lambda processor: {"temperature": processor.temperature}),
    hf.TopKLogitsWarper: Rule(TOP_K, _top_k),
    hf.TopPLogitsWarper: Rule(TOP_P, _filter("top_p", "top_p")),
    hf.MinPLogitsWarper: Rule(MIN_P, _filter("min_p", "min_p")),
    hf.TypicalLogitsWarper: Rule(TYPICAL, _filter("typical_p", "mass")),
    hf.EpsilonLogitsWarper: Rule(EPSILON, _filter("epsilon_cutoff", "epsilon")),
    hf.EtaLogitsWarper: Rule(ETA, _filter("eta_cutoff", "epsilon")),
    hf.LogitNormalization: Rule(SHIFT, lambda processor: {}),  # no law knows a shift of all logits
}

# Whether a processor changes anything where `length` tokens stand before the new one. Every step: not listed.
_ACTS: dict[type, Callable[[Any, int], bool]] = {
    hf.MinLengthLogitsProcessor: lambda p, length: length < p.min_length,
    hf.MinNewTokensLengthLogitsProcessor: lambda p, length: (
        length - p.prompt_length_to_skip < p.min_new_tokens
    ),
    hf.SuppressTokensAtBeginLogitsProcessor: lambda p, length: length == p.begin_index,
    hf.ForcedBOSTokenLogitsProcessor: lambda p, length: length == 1,
    hf.ForcedEOSTokenLogitsProcessor: lambda p, length: length == p.max_length - 1,
    hf.ExponentialDecayLengthPenalty: lambda p, length: length > p.regulation_start,
    hf.NoRepeatNGramLogitsProcessor: lambda p, length: length >= p.ngram_size,
}
# Processors after which the row is no longer the model's law: what `returns` says of that law would be wrong.
WARPERS = (
    *(hf.TemperatureLogitsWarper, hf.TopHLogitsWarper, hf.TopKLogitsWarper, hf.TopPLogitsWarper),
    *(hf.MinPLogitsWarper, hf.TypicalLogitsWarper, hf.EpsilonLogitsWarper, hf.EtaLogitsWarper),
)


def rule_of(processor, do_sample: bool) -> tuple[int, dict] | str:
    """(place in the law's order, arguments), or why the processor must be called."""
    rule = _RULES.get(type(processor))
    if rule is None:
        return "no rule of the draw"
    if rule.place >= TEMPERATURE and not do_sample:
        return "greedy, and the draw at temperature 0 has no filters"  # a shift may round into ties
    arguments = rule.arguments(processor)
    if arguments is None:
        return "its settings have no rule of the draw"
    return rule.place, arguments


def condition_of(processor) -> Callable[[Any, int], bool] | None:
    """`acts(processor, length)`, or None for a processor that acts on every step."""
    return _ACTS.get(type(processor))


def check_callable(op: str, processor) -> None:
    """A processor takes (input_ids, scores): more is never given to it, by transformers neither."""
    names = list(inspect.signature(processor.__call__).parameters)
    if len(names) > 2:
        raise ValueError(
            f"{op}: {type(processor).__name__} needs {', '.join(names[2:])} beside input_ids and scores, "
            "which generate does not give"
        )
