# SPDX-License-Identifier: Apache-2.0
"""Everything before the first forward pass: checks, the plan, the keys."""

from __future__ import annotations

import numbers
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import GenerationMixin
from transformers.generation.configuration_utils import GenerationMode

from .._params import OUTPUTS, names_tuple, returned_names
from ._fields import check_fields
from ._plan import Plan
from ._seeds import StepKeys, first_keys

_OP = "fusedraw.transformers.sample"
# Rules of the law that transformers has no field for, and the values that leave them off.
_OWN_RULES = {
    "frequency_penalty": 0.0,
    "presence_penalty": 0.0,
    "top_n_sigma": 0.0,
    "xtc_threshold": 0.1,
    "xtc_probability": 0.0,
}
_OWN_FILTERS = ("top_n_sigma", "xtc_probability")


class Prepared(NamedTuple):
    plan: Plan
    keys: StepKeys
    names: tuple[str, ...]  # fields of SampleOutput to keep
    return_logprobs: bool


def prepare(
    model,
    input_ids,
    logits_processor,
    stopping_criteria,
    generation_config,
    *,
    seeds=None,
    mix_eps=0.0,
    mix_support=None,
    ties=None,
    returns=(),
    top_n=0,
    return_logprobs=False,
    assistant_model=None,
    assistant_tokenizer=None,
    **others: Any,  # rules of our own, and what only a run needs
) -> Prepared:
    """For the arguments of `sample`. Raises ValueError, TypeError for the first that is refused."""
    config = generation_config
    for name, value in (("assistant_model", assistant_model), ("assistant_tokenizer", assistant_tokenizer)):
        if value is not None:
            raise ValueError(f"{_OP}: {name} is not supported: it asks for assisted generation")
    check_fields(_OP, config, model.generation_config)
    _check_decoding(model, config, stopping_criteria)
    returns = _checked_returns(config, returns, top_n, return_logprobs)
    do_sample = bool(config.do_sample)
    samples = config.num_return_sequences or 1
    rows, device = input_ids.shape[0], input_ids.device
    options = {"mix_eps": _per_sequence("mix_eps", mix_eps, rows, samples, device)}
    for name, off in _OWN_RULES.items():
        value = _per_sequence(name, others.get(name, off), rows, samples, device)
        if _is_number(value, off):
            continue
        if name in _OWN_FILTERS and not do_sample:
            raise ValueError(f"{_OP}: {name} conflicts with do_sample=False, which is greedy")
        options[name] = value
    if mix_support is None:
        mix_support = "kept" if do_sample or _is_number(mix_eps, 0) else "valid"
    options |= {"mix_support": mix_support, "ties": ties, "returns": returns, "top_n": top_n}
    options["check"] = "raise"  # a drawn -1 would be looked up in the embedding
    plan = Plan(_OP, logits_processor, do_sample=do_sample, options=options)
    names = tuple(name for name in OUTPUTS if name in returns and name != "kept")
    names += ("kept_ids", "kept_offsets") if "kept" in returns else ()
    names += ("top_ids", "top_logps") if top_n else ()
    return Prepared(plan, first_keys(_OP, seeds, rows, samples, device), names, return_logprobs)


def _check_decoding(model, config, stopping_criteria) -> None:
    mode = config.get_generation_mode()
    if mode not in (GenerationMode.SAMPLE, GenerationMode.GREEDY_SEARCH):
        raise ValueError(f"{_OP}: these fields ask for {mode.value}, which is not supported")
    if type(model)._sample is not GenerationMixin._sample:
        raise ValueError(f"{_OP}: {type(model).__name__} decodes in a way of its own, which is not supported")
    if ends_by_token(stopping_criteria) and config._pad_token_tensor is None:
        raise ValueError(f"{_OP}: sequences that end need pad_token_id, got None")


def ends_by_token(stopping_criteria) -> bool:
    """Whether a sequence may end before the others, and is padded from there on."""
    return any(hasattr(criterion, "eos_token_id") for criterion in stopping_criteria)


def _checked_returns(config, returns, top_n, return_logprobs) -> tuple[str, ...]:
    if not isinstance(return_logprobs, bool):
        raise TypeError(f"{_OP}: return_logprobs must be a bool, got {type(return_logprobs).__name__}")
    returns = returned_names(_OP, names_tuple(_OP, returns), OUTPUTS)
    if not config.return_dict_in_generate:
        for name, asked in (("return_logprobs", return_logprobs), ("returns", returns), ("top_n", top_n)):
            if asked:
                raise ValueError(f"{_OP}: {name} needs return_dict_in_generate=True")
    return (*returns, "logp") if return_logprobs and "logp" not in returns else returns


def _is_number(value, number: float) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and value == number


def _per_sequence(name: str, value, rows: int, samples: int, device):
    """A number as it is, or one per sequence from one per request."""
    if not isinstance(value, (Tensor, list, tuple)):
        return value
    requests = rows // samples
    per_request = torch.as_tensor(value)
    if tuple(per_request.shape) != (requests,):
        raise ValueError(
            f"{_OP}: {name} must be a number or one per request, [{requests}], "
            f"got shape {list(per_request.shape)}"
        )
    return per_request.to(device).repeat_interleave(samples)
