# SPDX-License-Identifier: Apache-2.0
"""The law of what `verify` emits: that of plain sampling from the target, by G-tests against enumerated laws;
of drafts, tokens and bonus tokens jointly; of whole texts of a small model.

Seeds are fixed, so a test passes always or never; ALPHA is that of test_statistics. What a wrong residual or
a wrong threshold would give is shown to be told apart.
"""

import functools
import itertools

import fusedraw
import pytest
import torch
from engines import F32, INF
from fusedraw import Status
from laws import ALPHA, binnings, g_test, joint_law, law_of
from scipy import stats

ROWS = 60_000


@functools.cache
def keys_of(seed, rows=ROWS):
    return fusedraw.derive_keys(seed, torch.arange(rows)).view(torch.int64)


def later(keys, steps):
    """Keys with their offsets further."""
    return torch.stack([keys[:, 0], keys[:, 1] + steps], dim=1)


def p_value(codes, law):
    """Of a G-test of outcomes 0, 1, ... against their probabilities; 0 where an impossible one occurs."""
    law = torch.as_tensor(law, dtype=torch.float64)
    assert abs(law.sum().item() - 1) < 1e-9 and codes.min() >= 0
    seen = torch.bincount(codes, minlength=len(law)).double()
    assert len(seen) == len(law)
    if seen[law == 0].sum() > 0:
        return 0.0
    value, df = g_test(seen, law * len(codes))
    assert df > 0 or (law > 0).sum() == 1
    return value


def check(codes, law):
    value = p_value(codes, law)
    assert value > ALPHA, value


def check_binned(ids, p):
    """Each binning of the tokens on its own."""
    for _, bins in binnings(p):
        check(bins[ids], torch.zeros(int(bins.max()) + 1, dtype=torch.float64).index_add_(0, bins, p))


def draft_params(params):
    """The draft's own, whatever the target's are."""
    params = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, **params}
    return {f"draft_{name}": value for name, value in params.items()}


def one_round(target, draft, params=None, of_draft=None, seed=1, rows=ROWS):
    """(drafts [rows], output) of one draft for each of many keys; target: logits [2, V], draft: [V]."""
    params, of_draft = params or {}, of_draft or {}
    keys, size = keys_of(seed, rows), len(draft)
    ids = fusedraw.sample(draft.expand(rows, -1), keys=keys, domain="draft", **of_draft)
    out = fusedraw.verify(
        *(ids[:, None], draft.expand(rows, 1, size), target.expand(rows, 2, size)),
        **params,
        **draft_params(of_draft),
        keys=keys,
        returns=("logp",),
    )
    return ids, out


TARGET = torch.tensor([[0.3, -1.0, 1.2, 0.0, -0.2], [1.0, 0.0, -0.5, 0.5, 0.1]])
DRAFTS = {
    "the same": TARGET[0],
    "near": TARGET[0] + torch.tensor([0.1, -0.2, 0.05, 0.0, 0.1]),
    "flat": torch.zeros(5),
    "peaked on the likely": torch.tensor([0.0, 0.0, 6.0, 0.0, 0.0]),
    "peaked on the unlikely": torch.tensor([0.0, 6.0, 0.0, 0.0, 0.0]),
    "turned round": -2 * TARGET[0],
    "without two tokens": torch.tensor([-INF, 0.5, -INF, 0.1, 0.0]),
    "a point": torch.tensor([-INF, -INF, -INF, 0.0, -INF]),
}
PARAMS = {
    "plain": ({}, {}),
    "temperatures": ({"temperature": 0.7}, {"temperature": 1.8}),
    "the target cut": ({"top_k": 2}, {}),
    "both cut": ({"temperature": 0.9, "top_p": 0.7}, {"temperature": 1.2, "top_k": 3}),
    "the draft cut": ({}, {"min_p": 0.5}),
    "greedy draft": ({}, {"temperature": 0.0}),
    "greedy target": ({"temperature": 0.0}, {"temperature": 1.5}),
    "flat target": ({"temperature": INF}, {"temperature": 0.5}),
}


def laws(target, draft, params, of_draft):
    """p, q and p of the token after, float64."""
    return law_of(target[0], **params), law_of(draft, **of_draft), law_of(target[1], **params)


@pytest.mark.parametrize("setting", PARAMS)
@pytest.mark.parametrize("name", DRAFTS)
def test_draft_and_token(name, setting):
    """The joint law of draft and emitted token; the token alone has p; the rate is sum min(p, q)."""
    draft, (params, of_draft) = DRAFTS[name], PARAMS[setting]
    ids, out = one_round(TARGET, draft, params, of_draft)
    p, q, after = laws(TARGET, draft, params, of_draft)
    assert (out.status == Status.OK).all()
    first = out.ids[:, 0]
    check(first, p)
    both = joint_law(p, q)
    assert torch.allclose(both.sum(0), p, atol=1e-9)  # the theorem itself
    check(ids * 5 + first, both.flatten())
    accepted = out.n_accepted == 1
    rate = torch.minimum(p, q).sum().clamp(max=1).item()
    assert torch.equal(accepted, out.ids[:, 1] >= 0) and (ids[accepted] == first[accepted]).all()
    assert stats.binomtest(int(accepted.sum()), ROWS, rate).pvalue > ALPHA
    if accepted.any():  # the bonus token owes nothing to the draft
        accepted_law = torch.minimum(p, q) / rate
        check(first[accepted] * 5 + out.ids[accepted, 1], torch.outer(accepted_law, after).flatten())


def test_probabilities_of_the_laws_are_those_of_softmax():
    """law_of goes by R1's integers; here once against torch in double, filters by hand."""
    p, q, _ = laws(TARGET, DRAFTS["near"], {"temperature": 0.7}, {"top_k": 2})
    assert torch.allclose(p, (TARGET[0].double() / 0.7).softmax(0), atol=1e-6)
    top = DRAFTS["near"].double().topk(2)
    assert torch.allclose(
        q, torch.zeros(5).double().scatter(0, top.indices, top.values.softmax(0)), atol=1e-6
    )


def test_wrong_schemes_are_told_apart():
    """What drawing the replacement from p, or accepting with p itself, gives: no such output passes."""
    p, q, _ = laws(TARGET, DRAFTS["flat"], {}, {})
    g = torch.Generator().manual_seed(1)
    drafts = torch.multinomial(q, ROWS, True, generator=g)
    coins = torch.rand(ROWS, generator=g, dtype=torch.float64)
    left = (p - q).clamp(min=0)
    for accept, instead in ((p / q, p), (p, left / left.sum()), (p / q, q)):
        tokens = torch.multinomial(instead, ROWS, True, generator=g)
        assert p_value(torch.where(coins < accept[drafts], drafts, tokens), p) < ALPHA
    tokens = torch.multinomial(left / left.sum(), ROWS, True, generator=g)
    assert p_value(torch.where(coins < (p / q)[drafts], drafts, tokens), p) > ALPHA


@pytest.mark.parametrize("size", [257, 900])
@pytest.mark.parametrize("apart", [False, True])
def test_rows_of_several_blocks(size, apart):
    """Also where draft and target have no token in common: then every token is a recovered one."""
    g = torch.Generator().manual_seed(size)
    target, draft = torch.randn(2, size, generator=g), torch.randn(size, generator=g) * 1.5
    if apart:
        target[0, : size // 2], draft[size // 2 :] = -INF, -INF
    params, of_draft = {"temperature": 0.8, "top_p": 0.97}, {"top_k": 200}
    _, out = one_round(target, draft, params, of_draft, rows=60_000)
    p, q, _ = laws(target, draft, params, of_draft)
    accepted = (out.n_accepted == 1).sum().item()
    if apart:
        assert accepted == 0
    else:
        assert stats.binomtest(accepted, 60_000, torch.minimum(p, q).sum().item()).pvalue > ALPHA
    check_binned(out.ids[:, 0], p)


def test_recovered_tokens_follow_the_residual():
    g = torch.Generator().manual_seed(3)
    target, draft = torch.randn(2, 600, generator=g), torch.randn(600, generator=g)
    _, out = one_round(target, draft)
    p, q, _ = laws(target, draft, {}, {})
    left = (p - q).clamp(min=0)
    recovered = out.ids[out.n_accepted == 0, 0]
    assert len(recovered) > 10_000 and (left[recovered] > 0).all()
    check_binned(recovered, left / left.sum())


def test_logp_is_the_log_of_the_law():
    _, out = one_round(TARGET, DRAFTS["flat"], {"temperature": 0.7, "top_k": 4})
    p, _, after = laws(TARGET, DRAFTS["flat"], {"temperature": 0.7, "top_k": 4}, {})
    for j, law in ((0, p), (1, after)):
        emitted = out.ids[:, j] >= 0
        expected = law[out.ids[emitted, j]].log().to(F32)
        torch.testing.assert_close(out.logp[emitted, j], expected, rtol=1e-6, atol=1e-7)


def test_domains_are_independent():
    """Four draws from one row with one key: all 81 outcomes have the product of their probabilities."""
    x = torch.tensor([0.2, -0.4, 0.5])
    keys = keys_of(4, 400_000)
    domains = ("target", "draft", "accept", "recovery")
    draws = [fusedraw.sample(x.expand(len(keys), -1), keys=keys, domain=domain) for domain in domains]
    codes = sum(ids * 3**n for n, ids in enumerate(draws))
    p = law_of(x)
    check(codes, torch.stack([a * b * c * d for a, b, c, d in itertools.product(p, repeat=4)]))


# Texts


class Model:
    """A language model of one token's memory: logits by the last token, [V + 1, V]; V is the start."""

    def __init__(self, size, seed, scale=1.0):
        g = torch.Generator().manual_seed(seed)
        self.logits = torch.randn(size + 1, size, generator=g) * scale

    def __call__(self, last):
        return self.logits[last]

    def text_law(self, length, **params):
        """The probability of every text."""
        size = self.logits.shape[1]
        laws = [law_of(row, **params) for row in self.logits]
        texts = itertools.product(range(size), repeat=length)
        return torch.stack(
            [torch.stack([laws[a][b] for a, b in itertools.pairwise((size, *text))]).prod() for text in texts]
        )


def speculate(target, draft, length, drafts, keys, params, of_draft, n_draft=None):
    """(texts [rows, length], number of rounds): the decoding loop of the docstring."""
    rows, size = len(keys), target.logits.shape[1]
    text = torch.full((rows, length + drafts + 2), size)  # column 0: the start
    at, rounds = torch.zeros(rows, dtype=torch.int64), 0
    while at.min() < length:
        live = (at < length).nonzero()[:, 0]
        now = later(keys[live], at[live])
        last = text[live, at[live]]
        ids, said, heard = [], [], [target(last)]
        for j in range(drafts):
            said.append(draft(last))
            last = fusedraw.sample(said[-1], keys=later(now, j), domain="draft", **of_draft)
            ids.append(last)
            heard.append(target(last))
        out = fusedraw.verify(
            *(torch.stack(part, dim=1) for part in (ids, said, heard)),
            **params,
            **draft_params(of_draft),
            n_draft=None if n_draft is None else n_draft(live, rounds),
            keys=now,
        )
        for j in range(drafts + 1):
            more = j <= out.n_accepted
            text[live[more], at[live[more]] + 1 + j] = out.ids[more, j]
        at[live] += out.n_accepted + 1
        rounds += 1
    return text[:, 1 : length + 1], rounds


def codes_of(texts, size):
    length = texts.shape[1]
    return (texts * size ** torch.arange(length - 1, -1, -1)).sum(dim=1)


SIZE, LENGTH = 4, 3
LOOPS = {
    "the same model, warmer": (Model(SIZE, 1), None, {}, {"temperature": 2.0}),
    "another model": (Model(SIZE, 1), Model(SIZE, 2), {}, {}),
    "another model, both cut": (Model(SIZE, 1), Model(SIZE, 2), {"top_k": 3}, {"top_k": 2}),
    "a greedy draft": (Model(SIZE, 1), Model(SIZE, 1, 1.2), {"temperature": 0.9}, {"temperature": 0.0}),
    "a draft of noise": (Model(SIZE, 1, 2.0), Model(SIZE, 3, 8.0), {"top_p": 0.9}, {}),
}


@pytest.mark.parametrize("drafts", [1, 2, 4])
@pytest.mark.parametrize("name", LOOPS)
def test_texts_follow_the_target(name, drafts):
    """All texts of three tokens, over rounds of decoding whose keys go on by what was emitted."""
    target, draft, params, of_draft = LOOPS[name]
    texts, rounds = speculate(target, draft or target, LENGTH, drafts, keys_of(7), params, of_draft)
    check(codes_of(texts, SIZE), target.text_law(LENGTH, **params))
    assert rounds <= LENGTH


def test_texts_with_fewer_drafts_in_some_rows():
    target, draft = Model(SIZE, 1), Model(SIZE, 2)
    texts, _ = speculate(
        target, draft, LENGTH, 2, keys_of(8), {}, {}, n_draft=lambda live, rounds: (live + rounds) % 3
    )
    check(codes_of(texts, SIZE), target.text_law(LENGTH))


def test_a_greedy_text_is_that_of_plain_decoding():
    target, keys = Model(50, 5), keys_of(9, 500)
    texts, rounds = speculate(target, target, 20, 4, keys, {"temperature": 0.0}, {"temperature": 0.3})
    plain, last = [], torch.full((500,), 50)
    for _ in range(20):
        last = fusedraw.sample(target(last), temperature=0)
        plain.append(last)
    assert torch.equal(texts, torch.stack(plain, dim=1)) and rounds < 20


def test_better_drafts_are_accepted_more():
    target, keys = Model(200, 6), keys_of(10, 3000)
    rounds = [speculate(target, target, 12, 3, keys, {}, {"temperature": t})[1] for t in (1.0, 1.2, 6.0)]
    assert rounds[0] == 3 and rounds[0] < rounds[1] <= rounds[2]
