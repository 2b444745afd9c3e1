# SPDX-License-Identifier: Apache-2.0
"""Which processors are fused and which are called, and that both ways keep the tokens transformers keeps."""

import math
from itertools import product

import pytest
import torch

pytest.importorskip("transformers", reason="needs transformers: pip install -r requirements-demo.txt")

import fusedraw.transformers as ours
import transformers
from fusedraw.transformers._plan import Plan
from fusedraw.transformers._seen import SeenIds
from transformers import LogitsProcessorList
from transformers.generation import logits_process as hf
from transformers_models import EOS, kept_mask, llama, prompts

ROWS, VOCAB = 24, 1000
# Earlier versions count the padding too, and so do we with them.
LEFT_PADDING_IS_LEFT_OUT = tuple(map(int, transformers.__version__.split(".")[:2])) >= (5, 23)
OPTIONS = {"mix_eps": 0.0, "mix_support": "kept", "ties": None, "returns": ("kept",), "top_n": 0}


def warpers(temperature=1.0, top_h=None, top_k=0, top_p=1.0, min_p=None, typical=1.0, epsilon=0.0, eta=0.0):
    """In the order of transformers, with its conditions."""
    found = []
    if temperature != 1.0:
        found.append(hf.TemperatureLogitsWarper(temperature))
    if top_h is not None:
        found.append(hf.TopHLogitsWarper(top_h))
    if top_k:
        found.append(hf.TopKLogitsWarper(top_k))
    if top_p < 1.0:
        found.append(hf.TopPLogitsWarper(top_p))
    if min_p is not None:
        found.append(hf.MinPLogitsWarper(min_p))
    if typical < 1.0:
        found.append(hf.TypicalLogitsWarper(typical))
    if epsilon:
        found.append(hf.EpsilonLogitsWarper(epsilon))
    if eta:
        found.append(hf.EtaLogitsWarper(eta))
    return LogitsProcessorList(found)


GRID = [
    *(dict(temperature=t, top_k=k, top_p=p) for t, k, p in product((0.3, 1.0, 2.0), (0, 7), (0.5, 0.95, 1))),
    *(dict(temperature=t, min_p=m, top_p=p) for t, m, p in product((0.6, 1.0), (0.02, 0.3, 1.0), (0.8, 1.0))),
    *(dict(top_k=k, typical=t) for k, t in product((0, 40), (0.2, 0.9))),
    *(dict(temperature=0.8, top_p=0.9, epsilon=e) for e in (3e-4, 0.02, 0.5)),
    *(dict(temperature=0.8, top_k=100, eta=e) for e in (3e-4, 0.02, 0.5)),
    dict(temperature=0.9, top_h=0.4, top_k=50, top_p=0.9),
    dict(temperature=0.7, top_k=200, top_p=0.97, min_p=0.01, typical=0.95, epsilon=1e-3, eta=1e-3),
]  # fmt: skip


def rows(spread):
    """float32 [ROWS, VOCAB] whose logits are all different within a row."""
    generator = torch.Generator().manual_seed(11)
    order = torch.rand(ROWS, VOCAB, generator=generator).argsort(-1)
    place = order + 0.05 + 0.9 * torch.rand(ROWS, VOCAB, generator=generator, dtype=torch.float64)
    x = (torch.special.ndtri(place / VOCAB) * spread).float()  # normal, by quantiles
    assert all(row.unique().numel() == VOCAB for row in x)
    return x


def keys(n=ROWS):
    return torch.stack((torch.arange(n) * 77 + 5, torch.zeros(n, dtype=torch.int64)), dim=1)


def drawn(plan, ids, x):
    """What the plan draws on the step that follows `ids`: SampleOutput."""
    stage = plan.stage(ids.shape[1])
    scores = x.clone()
    for processor in stage.called:
        scores = processor(ids, scores)
    return stage.draw(scores, keys(len(x)))


def finite(scores):
    """bool like `scores`: what transformers may draw, without what weighs nothing in the law.

    A token 44 powers of two (30.5 nats) below the best one has no weight: docs/law.md.
    """
    return scores.isfinite() & ((scores.amax(-1, keepdim=True) - scores) / math.log(2) < 44)


def kept(out):
    return kept_mask(out.kept_ids, out.kept_offsets, VOCAB)


@pytest.mark.parametrize("spread", [0.8, 3.0])
@pytest.mark.parametrize("settings", GRID, ids=lambda s: "-".join(f"{k}={v}" for k, v in s.items()))
def test_kept_sets_are_those_of_the_warpers(settings, spread):
    processors, x, ids = warpers(**settings), rows(spread), torch.zeros(ROWS, 3, dtype=torch.int64)
    theirs = finite(processors(ids, x.clone()))
    out = drawn(Plan("test", processors, do_sample=True, options=OPTIONS), ids, x)
    assert torch.equal(kept(out), theirs)
    assert theirs[torch.arange(ROWS), out.ids].all()


def test_top_k_keeps_ties_as_transformers_does():
    x = rows(2.0).mul(2).round()
    processors = warpers(temperature=0.8, top_k=20)
    theirs = finite(processors(None, x.clone()))
    assert (theirs.sum(-1) > 20).any()
    out = drawn(Plan("test", processors, do_sample=True, options=OPTIONS), torch.zeros(ROWS, 3), x)
    assert torch.equal(kept(out), theirs)
    exact = Plan("test", processors, do_sample=True, options={**OPTIONS, "ties": "index"})
    assert (kept(drawn(exact, torch.zeros(ROWS, 3), x)).sum(-1) == 20).all()


def names(plan, fused):
    return [entry.name for entry in plan.decisions if (entry.fused is not None) == fused]


def make(*processors, do_sample=True):
    return Plan("test", processors, do_sample=do_sample, options={**OPTIONS, "returns": ()})


def test_warpers_in_order_are_all_fused():
    plan = make(*warpers(temperature=0.7, top_k=5, top_p=0.9, min_p=0.1))
    assert names(plan, fused=False) == [] and not plan.stage(3).called
    assert [entry.fused for entry in plan.decisions] == [
        {"temperature": 0.7},
        {"top_k": 5},
        {"top_p": 0.9},
        {"min_p": 0.1},
    ]


def test_what_stands_before_a_foreign_processor_is_called():
    plan = make(*warpers(temperature=0.7, top_h=0.5, top_k=5))
    assert names(plan, fused=False) == ["TemperatureLogitsWarper", "TopHLogitsWarper"]
    assert plan.decisions[0].why == "stands before TopHLogitsWarper"
    assert plan.decisions[1].why == "no rule of the draw"
    assert plan.decisions[2].fused == {"top_k": 5}


@pytest.mark.parametrize(
    "processors",
    [
        (hf.TopPLogitsWarper(0.9), hf.TopKLogitsWarper(5)),
        (hf.TopKLogitsWarper(7), hf.TopKLogitsWarper(5)),
        (hf.TopKLogitsWarper(7), hf.TemperatureLogitsWarper(0.5)),
        (hf.TemperatureLogitsWarper(0.5), hf.TemperatureLogitsWarper(0.5)),
    ],
    ids=lambda pair: "-".join(type(p).__name__ for p in pair),
)
def test_out_of_the_laws_order_only_the_tail_is_fused(processors):
    plan = make(*processors)
    assert [entry.fused is not None for entry in plan.decisions] == [False, True]
    assert plan.decisions[0].why.startswith("stands before ")
    x = rows(2.0)
    scores = LogitsProcessorList(processors)(None, x.clone())
    plan = Plan("test", processors, do_sample=True, options=OPTIONS)
    assert torch.equal(kept(drawn(plan, torch.zeros(ROWS, 3), x)), finite(scores))


class Louder(hf.TemperatureLogitsWarper):
    def __call__(self, input_ids, scores):
        return scores * 2


@pytest.mark.parametrize(
    "processor",
    [
        Louder(0.5),
        hf.TopKLogitsWarper(5, filter_value=-50.0),
        hf.TopPLogitsWarper(0.5, min_tokens_to_keep=3),
        hf.MinPLogitsWarper(0.5, min_tokens_to_keep=3),
        hf.SequenceBiasLogitsProcessor({(4, 5): 1.0, (6,): 2.0}),
        hf.NoBadWordsLogitsProcessor([[4, 5]]),
    ],
    ids=lambda p: type(p).__name__,
)
def test_a_subclass_and_unusual_settings_are_called(processor):
    plan = make(processor)
    assert names(plan, fused=True) == [] and plan.stage(3).called == (processor,)
    assert plan.decisions[0].why in ("no rule of the draw", "its settings have no rule of the draw")


def test_normalisation_at_the_end_is_no_work_but_may_tie_greedy_rows():
    processors = (hf.TopKLogitsWarper(5), hf.LogitNormalization())
    plan = make(*processors)
    assert names(plan, fused=False) == []
    assert plan.describe().split("\n")[1] == "LogitNormalization: fused: changes no law"
    assert names(make(processors[1], do_sample=False), fused=True) == []
    assert names(make(*reversed(processors)), fused=False) == ["LogitNormalization"]


def test_greedy_calls_warpers_that_a_user_brings():
    plan = make(hf.TemperatureLogitsWarper(0.5), do_sample=False)
    assert names(plan, fused=False) == ["TemperatureLogitsWarper"]
    assert "temperature=0.0" in plan.describe()


def test_edits_before_the_temperature_are_fused():
    plan = make(
        hf.SequenceBiasLogitsProcessor({(6,): 2.0}),
        hf.RepetitionPenaltyLogitsProcessor(1.3),
        hf.NoBadWordsLogitsProcessor([[4], [8]]),
        hf.MinLengthLogitsProcessor(6, EOS),
        hf.SuppressTokensLogitsProcessor([9]),
        *warpers(temperature=0.7, top_k=5),
    )
    assert names(plan, fused=False) == []
    assert not plan.stage(3).called and not plan.stage(6).called


def test_seen_ids_are_those_that_the_penalty_counts():
    """Marked by the lists = changed by transformers' processor: padding and ids beyond the logits are not."""
    start = torch.tensor([[0, 0, 5, 12], [7, 0, 3, 5]])
    ids = torch.cat(
        (start, torch.tensor([[4, 11], [2, 11]])), dim=1
    )  # the last one: padding beyond the logits
    per_row = [torch.tensor([2, 0])] if LEFT_PADDING_IS_LEFT_OUT else []
    for ignored in (None, *per_row):
        processor = hf.RepetitionPenaltyLogitsProcessor(2.0, prompt_ignore_length=ignored)
        seen = SeenIds(start, torch.tensor(11))
        prompt, history = seen.lists(processor, ids, 10, False).values()
        assert prompt.shape == (2, 4) and history.shape == (2, 2)
        changed = processor(ids, torch.ones(2, 13))[:, :10] != 1
        for row in range(2):
            listed = {i for i in (*prompt[row].tolist(), *history[row].tolist()) if i >= 0}
            assert listed == set(changed[row].nonzero()[:, 0].tolist())
    again = SeenIds(start, torch.tensor(0))
    apart = [again.lists(processor, ids, vocab=13, new_apart=True) for _ in range(2)]
    assert apart[0]["prompt"] is apart[1]["prompt"] and torch.equal(apart[0]["history"], ids[:, 4:])
    assert list(again.lists(None, ids, vocab=13, new_apart=True)) == ["history"]
    everything = SeenIds(start, torch.tensor(0))
    processor = hf.RepetitionPenaltyLogitsProcessor(2.0)
    everything.lists(processor, ids, vocab=13, new_apart=False)
    assert everything.lists(processor, ids, vocab=13, new_apart=False)["history"] is ids


def test_processors_of_some_steps_are_left_out_of_the_others():
    processors = LogitsProcessorList(
        [
            hf.NoRepeatNGramLogitsProcessor(4),
            hf.MinLengthLogitsProcessor(6, EOS),
            hf.MinNewTokensLengthLogitsProcessor(3, 2, EOS),
            hf.ForcedBOSTokenLogitsProcessor(17),
            hf.ForcedEOSTokenLogitsProcessor(12, EOS),
            hf.ExponentialDecayLengthPenalty((4, 1.5), EOS, 3),
            hf.SuppressTokensAtBeginLogitsProcessor([3, 4], 3),
            *warpers(top_k=400),
        ]
    )
    plan = Plan("test", processors, do_sample=True, options=OPTIONS)
    called = []
    for length in range(1, 13):
        ids = torch.arange(length).expand(ROWS, length) % 2  # repeats itself from the third token on
        x = rows(2.0)
        theirs = processors(ids, x.clone())
        stage = plan.stage(length)
        called.append(len(stage.called))
        assert torch.equal(kept(drawn(plan, ids, x)), finite(theirs)), length
        scores = x.clone()
        for processor in [*stage.called, *(p for p, _ in stage.fused)]:
            scores = processor(ids, scores)
        assert torch.equal(scores, theirs), length
        assert plan.stage(length) is stage
    assert min(called) == 0
    assert len(set(map(id, map(plan.stage, range(1, 13))))) < 12


def test_describe_and_explain():
    fields = {"do_sample": True, "top_k": 50, "top_p": 0.9, "temperature": 0.7, "no_repeat_ngram_size": 3}
    plan = ours.explain(llama(), prompts(), max_new_tokens=4, **fields)
    lines = plan.describe().split("\n")
    assert lines[0] == "NoRepeatNGramLogitsProcessor: called: no rule of the draw (on some steps)"
    assert lines[1:4] == [
        "TemperatureLogitsWarper: fused: temperature=0.7",
        "TopKLogitsWarper: fused: top_k=50",
        "TopPLogitsWarper: fused: top_p=0.9",
    ]
    assert lines[4].startswith("draw: Sampler(temperature=0.7, top_p=0.9")
    with pytest.raises(ValueError, match="explain: custom_generate"):
        ours.explain(llama(), prompts(), max_new_tokens=4, custom_generate=ours.sample)
    with pytest.raises(ValueError, match="num_beams=3 is not supported"):
        ours.explain(llama(), prompts(), max_new_tokens=4, num_beams=3)


def test_a_processor_that_needs_more_than_ids_and_scores_is_named():
    class Greedy(hf.LogitsProcessor):
        def __call__(self, input_ids, scores, temperature_map):
            return scores

    with pytest.raises(ValueError, match="test: Greedy needs temperature_map beside"):
        make(Greedy())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"returns": ("entropy",)}, "returns has 'entropy' of the law before filters"),
        ({"top_n": 3}, "top_n needs the law before filters"),
        ({"mix_support": "valid"}, "mix_support='valid' needs the row before filters"),
    ],
)
def test_what_a_called_warper_would_falsify_is_refused(options, message):
    options = {**OPTIONS, "returns": (), **options}
    processors = warpers(temperature=0.7, top_h=0.5, top_k=5)
    with pytest.raises(ValueError, match=message) as caught:
        Plan("test", processors, do_sample=True, options=options)
    assert "TemperatureLogitsWarper is called before the draw (because of TopHLogitsWarper)" in str(
        caught.value
    )
    Plan("test", processors[2:], do_sample=True, options=options)
