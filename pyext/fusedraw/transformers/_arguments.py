# SPDX-License-Identifier: Apache-2.0
"""The arguments of `generate` that transformers would not hand to a callable `custom_generate`.

For a callable, `generate` replaces what its own decoding methods are given (streamer, tokenizer, assistant
model, synced_gpus) by the callable's own arguments: a streamer would be dropped without a word, and
`stop_strings` would not find its tokenizer. Where the callable is ours, both are passed on.
"""

import functools
import inspect

from ._prepare import prepare

_PARAMETERS = ("self", "custom_generate", "kwargs", "synced_gpus", "assistant_model", "streamer")
_PASSED_ON = "_fusedraw_passes_on"


def pass_generate_arguments(transformers, decoding_method) -> None:
    """Let `generate` give `decoding_method`, or a functools.partial of it, both kinds of arguments."""
    mixin = transformers.GenerationMixin
    extract = getattr(mixin, "_extract_generation_mode_kwargs", None)
    needed = ("_prefill", "_update_model_kwargs_for_generation", "_has_unfinished_sequences")
    if extract is None or not all(hasattr(mixin, name) for name in needed):
        raise ImportError(
            "fusedraw.transformers needs transformers >= 5.20 (tested: 5.20.2, 5.23.0), "
            f"got {transformers.__version__}"
        )
    if hasattr(extract, _PASSED_ON):
        return
    if tuple(inspect.signature(extract).parameters) != _PARAMETERS:
        raise ImportError(
            f"fusedraw.transformers does not know transformers {transformers.__version__}: "
            f"{extract.__qualname__} has new parameters (tested: 5.20.2, 5.23.0)"
        )

    @functools.wraps(extract)
    def extract_with_ours(self, custom_generate, kwargs, synced_gpus, assistant_model, streamer):
        if _innermost(custom_generate) not in (decoding_method, _explain):
            return extract(self, custom_generate, kwargs, synced_gpus, assistant_model, streamer)
        usual = inspect.signature(mixin._sample).parameters
        ours = [name for name in inspect.signature(decoding_method).parameters if name not in usual]
        own = {name: kwargs.pop(name) for name in ours if name in kwargs and name not in _USUAL_MODE}
        return {**extract(self, None, kwargs, synced_gpus, assistant_model, streamer), **own}

    setattr(extract_with_ours, _PASSED_ON, True)
    mixin._extract_generation_mode_kwargs = extract_with_ours


# What `extract` itself takes out of the arguments, in whatever decoding method's signature they stand.
_USUAL_MODE = ("tokenizer", "assistant_tokenizer", "assistant_model", "streamer", "synced_gpus")


def explain(model, inputs=None, **arguments):
    """The `Plan` that `generate` with these arguments would follow; no token is drawn.

    Args:
        model: a transformers model that generates.
        inputs, arguments: as for `model.generate`, with those that `sample` adds, without `custom_generate`.

    >>> print(explain(model, **inputs, do_sample=True, top_k=50, no_repeat_ngram_size=3).describe())
    """
    if "custom_generate" in arguments:
        raise ValueError("explain: custom_generate is fusedraw.transformers.sample, and no argument")
    return model.generate(inputs, custom_generate=_explain, **arguments)


def _explain(model, input_ids, **arguments):
    return prepare(model, input_ids, **arguments).plan


def _innermost(function):
    while isinstance(function, functools.partial):
        function = function.func
    return function
