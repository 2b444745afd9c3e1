# SPDX-License-Identifier: Apache-2.0
"""Bad input to generate(custom_generate=sample): the error names what is wrong, before any forward pass."""

import subprocess
import sys

import pytest
import torch

pytest.importorskip("transformers", reason="needs transformers: pip install -r requirements-demo.txt")

import fusedraw.transformers as ours
from fusedraw.transformers import _arguments
from transformers import GenerationMixin, LogitsProcessor, LogitsProcessorList, StoppingCriteriaList
from transformers.generation.stopping_criteria import EosTokenCriteria
from transformers_models import llama, prompts, table

NAN, INF = float("nan"), float("inf")
BAD = (
    ({"seeds": [1]}, ValueError, "seeds must have one seed per request, 2, got 1"),
    ({"seeds": [1, 2, 3, 4], "num_return_sequences": 2}, ValueError, "one seed per request, 2, got 4"),
    ({"seeds": 7}, TypeError, "seeds must be a sequence .* got int"),
    ({"seeds": "12"}, TypeError, "seeds must be a sequence .* got str"),
    ({"seeds": [1, 2.0]}, TypeError, r"seeds\[1\] must be an int, got float"),
    ({"seeds": [True, 1]}, TypeError, r"seeds\[0\] must be an int, got bool"),
    ({"seeds": torch.tensor([1.0, 2.0])}, TypeError, "seeds must be int64, uint64 or int32, got .*float32"),
    ({"seeds": torch.tensor([[1, 2]])}, ValueError, r"one seed per request, \[2\], got shape \[1, 2\]"),
    ({"mix_eps": 1.5}, ValueError, r"mix_eps must be in \[0, 1\], got 1.5"),
    ({"mix_eps": NAN}, ValueError, r"mix_eps must be in \[0, 1\], got nan"),
    ({"mix_eps": "half"}, TypeError, "mix_eps must be a number"),
    ({"mix_eps": [0.1, 0.2, 0.3]}, ValueError, r"one per request, \[2\], got shape \[3\]"),
    ({"mix_eps": [0.1, 1.2]}, ValueError, "row 1"),
    ({"mix_support": "all"}, ValueError, "mix_support must be 'kept' or 'valid', got 'all'"),
    ({"ties": "none"}, ValueError, "ties must be 'index' or 'all', got 'none'"),
    ({"return_logprobs": 1}, TypeError, "return_logprobs must be a bool, got int"),
    ({"return_logprobs": True}, ValueError, "return_logprobs needs return_dict_in_generate=True"),
    ({"returns": ("entropy",)}, ValueError, "returns needs return_dict_in_generate=True"),
    ({"top_n": 3}, ValueError, "top_n needs return_dict_in_generate=True"),
    ({"returns": ("entropi",), "return_dict_in_generate": True}, ValueError, "got 'entropi'"),
    ({"returns": 3, "return_dict_in_generate": True}, TypeError, "returns must be a tuple of names, got int"),
    ({"top_n": -1, "return_dict_in_generate": True}, ValueError, "top_n must be >= 0, got -1"),
    (
        {"returns": "entropy", "top_h": 0.5, "return_dict_in_generate": True},
        ValueError,
        "returns has 'entropy' .* TopHLogitsWarper",
    ),
    ({"mix_support": "valid", "top_h": 0.5, "mix_eps": 0.1}, ValueError, "mix_support='valid' needs .* TopH"),
    ({"top_n_sigma": 1.0, "top_h": 0.5}, ValueError, "top_n_sigma needs the row .* TopHLogitsWarper"),
    ({"top_n_sigma": -1.0}, ValueError, "top_n_sigma must be >= 0, got -1.0"),
    ({"xtc_threshold": 0.3}, ValueError, "xtc_threshold needs xtc_probability"),
    ({"frequency_penalty": [1.0]}, ValueError, r"frequency_penalty must be .* per request, \[2\], got shape"),
    ({"presence_penalty": NAN}, ValueError, "presence_penalty must be finite, got nan"),
    ({"presence_penalty": True}, TypeError, "presence_penalty must be a number"),
    ({"do_sample": False, "top_n_sigma": 1.0}, ValueError, "top_n_sigma conflicts with do_sample=False"),
    ({"do_sample": False, "xtc_probability": 0.1}, ValueError, "xtc_probability conflicts with do_sample"),
    ({"sequence_bias": {(5,): NAN}}, ValueError, "row 0"),
    ({"sequence_bias": {(500,): 1.0}}, ValueError, "row 0"),
    ({"mixeps": 0.1}, ValueError, "mixeps"),
    ({"seed": 5}, ValueError, "seed"),
)


@pytest.mark.parametrize(("arguments", "error", "message"), BAD, ids=lambda x: str(x)[:40])
def test_bad_arguments(arguments, error, message, monkeypatch):
    model, passes = table(), []
    forward = type(model).forward
    monkeypatch.setattr(type(model), "forward", lambda *a, **k: passes.append(1) or forward(*a, **k))
    arguments = {"do_sample": True, "max_new_tokens": 3, **arguments}
    with pytest.raises(error, match=message):
        model.generate(prompts(), custom_generate=ours.sample, **arguments)
    assert not passes or message.startswith("row")  # data and tensors are looked at by the draw


class Set(LogitsProcessor):
    def __init__(self, row, value):
        self.row, self.value = row, value

    def __call__(self, input_ids, scores):
        scores[self.row] = self.value
        return scores


@pytest.mark.parametrize(("value", "reason"), [(NAN, "NaN"), (INF, "inf"), (-INF, "left|finite|allowed")])
@pytest.mark.parametrize("do_sample", [True, False])
def test_rows_that_cannot_be_drawn_from_raise(value, reason, do_sample):
    fields = {"do_sample": do_sample, "max_new_tokens": 3, "custom_generate": ours.sample}
    with pytest.raises(ValueError, match=f"row 1.*({reason})"):
        table().generate(prompts(), logits_processor=LogitsProcessorList([Set(1, value)]), **fields)


def test_assistants_are_named():
    model = llama()
    for name, value in (("assistant_model", llama()), ("assistant_tokenizer", object())):
        arguments = {name: value, "max_new_tokens": 3, "custom_generate": ours.sample}
        if name == "assistant_tokenizer":
            arguments["tokenizer"] = object()
        with pytest.raises(ValueError, match=f"sample: {name} is not supported"):
            model.generate(prompts(1), **arguments)


def test_a_model_that_decodes_in_its_own_way_is_named(monkeypatch):
    model = table()
    monkeypatch.setattr(type(model), "_sample", lambda self: None, raising=False)
    with pytest.raises(ValueError, match="TableModel decodes in a way of its own"):
        model.generate(prompts(), max_new_tokens=3, custom_generate=ours.sample)


def test_an_end_without_padding_is_named():
    model = table()
    model.generation_config.pad_token_id = None
    stop = StoppingCriteriaList([EosTokenCriteria(5)])
    with pytest.raises(ValueError, match="sequences that end need pad_token_id, got None"):
        model.generate(prompts(), max_new_tokens=3, stopping_criteria=stop, custom_generate=ours.sample)


def test_transformers_without_ours_is_as_it_was():
    """Other callables and no callable at all go through transformers' own code."""
    seen = {}

    def theirs(model, input_ids, extra=None, **arguments):
        seen.update(extra=extra, streamer=arguments.get("streamer"))
        return input_ids

    model = table()
    assert torch.equal(
        model.generate(prompts(), custom_generate=theirs, extra=3, max_new_tokens=2), prompts()
    )
    assert seen == {"extra": 3, "streamer": None}
    torch.manual_seed(0)
    first = model.generate(prompts(), do_sample=True, max_new_tokens=5)
    torch.manual_seed(0)
    assert torch.equal(model.generate(prompts(), do_sample=True, max_new_tokens=5), first)


def test_a_partial_of_sample_is_sample():
    import functools

    model = table()
    fields = {"do_sample": True, "max_new_tokens": 6}
    bound = functools.partial(ours.sample, seeds=[1, 2])
    assert torch.equal(
        model.generate(prompts(), custom_generate=bound, **fields),
        model.generate(prompts(), custom_generate=ours.sample, seeds=[1, 2], **fields),
    )


def test_another_transformers_is_refused_by_version(monkeypatch):
    class Module:
        __version__ = "4.0.0"
        GenerationMixin = object

    with pytest.raises(ImportError, match=r"needs transformers >= 5.20 .* got 4.0.0"):
        _arguments.pass_generate_arguments(Module, ours.sample)

    class Newer(GenerationMixin):
        def _extract_generation_mode_kwargs(self, kwargs):
            pass

    Module.GenerationMixin = Newer
    with pytest.raises(ImportError, match=r"does not know transformers 4\.0\.0"):
        _arguments.pass_generate_arguments(Module, ours.sample)


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)


def test_fusedraw_does_not_import_transformers():
    code = "import sys, fusedraw; assert not any(n.split('.')[-1] == 'transformers' for n in sys.modules)"
    done = run(code)
    assert done.returncode == 0, done.stderr


def test_without_transformers_the_import_says_what_to_install():
    code = (
        "import sys; sys.modules['transformers'] = None\n"
        "try:\n    import fusedraw.transformers\nexcept ImportError as error:\n    print(error)"
    )
    assert "fusedraw.transformers needs transformers >= 5.20" in run(code).stdout
    assert "pip install transformers" in run(code).stdout
