# SPDX-License-Identifier: Apache-2.0
"""token_logprob: the logp of `sample` for given tokens, to the bit; replay; rows and shapes; what torch asks
of an operator."""

import fusedraw
import pytest
import torch
from engines import (
    BF16,
    ENGINES,
    F16,
    F32,
    INF,
    ORDERS,
    SUPPORTS,
    TIES,
    assert_same,
    bits_of,
    engine,
    make_keys,
    make_mode,
    make_params,
    on_every_engine,
    same_bits,
    sample,
)
from hypothesis import given
from hypothesis import strategies as st
from row_kinds import KINDS, MASKS, make_mask, make_rows
from scoring import pack_kept, score, score_r1, scored_batches
from strategies import examples, modes, param_rows, row_batches

# The law


@examples(500)
@given(scored_batches())
def test_every_engine_gives_the_law(batch):
    arguments, _ = batch
    on_every_engine(score, *arguments, expected=score_r1(*arguments))


@pytest.mark.parametrize("kind", KINDS)
def test_engines_agree_on_long_rows(kind):
    """Sizes and filters beyond what plain Python reaches: lists, estimates and the counting paths."""
    dtype = F32 if kind in ("huge", "denormal", "equal") else (F32, BF16, F16)[len(kind) % 3]
    x = make_rows(kind, 4, 20_011, 5, dtype)
    params = torch.cat(
        [
            make_params(0.8, 0.9, 0.0, 0.1, 0),
            make_params(1.3, 1.0, 0.02, 0.0, 0),
            make_params(0.7, 0.95, 0.0, 0.3, 5000),
            make_params(2.0, 1.0, 0.0, 0.5, 0),
        ]
    )
    mode = make_mode(ORDERS[len(kind) % 3], TIES[len(kind) % 2], SUPPORTS[len(kind) // 2 % 2])
    drawn = sample(x, params, make_keys(4, 9), None, mode, bits_of("logp", "entropy", "kept"))
    grads = torch.tensor([1.0, -0.5, 2.0, 0.25]), torch.tensor([0.0, 0.3, -0.7, 1.0])
    for kept in ((None, None), (drawn["kept_ids"], drawn["kept_offsets"])):
        for entropy, used in ((True, grads), (False, (grads[0], None))):
            got = on_every_engine(score, x, drawn["ids"], params, None, kept, mode, entropy, used)
            assert same_bits(got["logp"], drawn["logp"])
            assert not entropy or same_bits(got["entropy"], drawn["entropy"])


@examples(250)
@given(st.data())
def test_equals_what_sample_returned(data):
    """On every engine, for the drawn token: from the filters, and from the recorded kept set."""
    rows = data.draw(row_batches())
    params, mode = data.draw(param_rows(*rows.x.shape)), data.draw(modes)
    outputs = bits_of("status", "logp", "entropy", "kept")
    for name in ENGINES:
        with engine(name):
            drawn = sample(rows.x, params, rows.keys, rows.mask, mode, outputs)
            kept = drawn["kept_ids"], drawn["kept_offsets"]
            again = score(rows.x, drawn["ids"].clamp(min=0), params, rows.mask, mode=mode)
            replayed = score(rows.x, drawn["ids"].clamp(min=0), params, rows.mask, kept, mode)
        wanted = {part: drawn[part] for part in ("logp", "entropy", "status")}
        assert_same(again, wanted, name)
        assert_same(replayed, wanted, name)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("support", SUPPORTS)
def test_the_scores_of_all_tokens_are_a_law(order, support):
    """mu of all tokens sums to 1, is 0 outside its support, and pi / mu is at most 1 / (1 - mix_eps)."""
    v, eps = 300, 0.2
    x = make_rows("peaked", 1, v, 3)
    x[0, 7] = -INF
    filters = {"top_k": 40, "top_p": 0.8, "min_p": 0.01, "filter_order": order}
    mixed = {**filters, "mix_eps": eps, "mix_support": support}
    rows, ids = x.expand(v, v), torch.arange(v)
    mu = fusedraw.token_logprob(rows, ids, **mixed)
    pi = fusedraw.token_logprob(rows, ids, **filters)
    assert mu.double().exp().sum().item() == pytest.approx(1, abs=2e-6)
    assert pi.double().exp().sum().item() == pytest.approx(1, abs=2e-6)
    out = fusedraw.sample(x, seed=1, returns="kept", **mixed)
    in_kept = torch.zeros(v, dtype=torch.bool).index_fill(0, out.kept_ids.long(), True)
    assert torch.equal(pi > -INF, in_kept)
    assert torch.equal(mu > -INF, in_kept if support == "kept" else x[0] > -INF)
    weight = fusedraw.importance_weight(pi[in_kept], mu[in_kept], mix_eps=eps)
    assert weight.max() <= (1 + 1e-5) / (1 - eps)
    assert weight.max() > 1.0 / (1 - eps) - 0.1  # the bound is nearly reached by the likeliest token
    # E_mu[pi / mu] = 1
    assert (mu[in_kept].exp() * weight).sum().item() == pytest.approx(1, abs=1e-5)


def test_off_the_support_is_minus_infinity():
    x = torch.tensor([[3.0, 2.0, 1.0, -INF, 0.0]])
    mask = torch.tensor([True, True, False, True, True])
    rows, ids = x.expand(5, 5), torch.arange(5)
    assert (fusedraw.token_logprob(rows, ids, mask=mask) == -INF).tolist() == [
        False,
        False,
        True,
        True,
        False,
    ]
    logp = fusedraw.token_logprob(rows, ids, mask=mask, top_k=1, mix_eps=0.5, mix_support="valid")
    expected = torch.tensor([0.5 + 0.5 / 3, 0.5 / 3, 0.0, 0.0, 0.5 / 3]).log()
    torch.testing.assert_close(logp, expected, rtol=1e-6, atol=0)
    y = rows.clone().requires_grad_()
    fusedraw.token_logprob(y, ids, mask=mask, top_k=2).backward(torch.full((5,), INF))
    assert torch.equal(y.grad[2:], torch.zeros(3, 5))  # a probability of 0 stays 0


def test_greedy_and_flat_rows():
    x = torch.tensor([[1.0, 2.0, 2.0, 0.0]]).repeat(4, 1).requires_grad_()
    ids = torch.tensor([1, 2, 1, 0])
    temperature = torch.tensor([0.0, 0.0, INF, INF])
    out = fusedraw.token_logprob(x, ids, temperature=temperature, returns="entropy")
    quarter = torch.tensor(0.25).log().item()
    assert out.logp.tolist() == pytest.approx([0.0, -INF, quarter, quarter])
    assert out.entropy.tolist() == pytest.approx([0.0, 0.0, -quarter, -quarter])
    (out.logp[[0, 2, 3]].sum() + out.entropy.sum()).backward()
    assert torch.equal(x.grad, torch.zeros_like(x))
    epsilon_greedy = fusedraw.token_logprob(x, ids, temperature=0.0, mix_eps=0.2, mix_support="valid")
    assert epsilon_greedy.exp().tolist() == pytest.approx([0.85, 0.05, 0.85, 0.05])


def test_replay_holds_the_set_of_the_draw():
    """After the logits have moved: K is the recorded one, as an enumeration of it says."""
    x, moved = make_rows("normal", 8, 500, 1), make_rows("normal", 8, 500, 2)
    out = fusedraw.sample(x, seed=3, top_p=0.7, mix_eps=0.25, returns=("logp", "kept"))
    kept = out.kept_ids, out.kept_offsets
    y = moved.clone().requires_grad_()
    logp = fusedraw.token_logprob(y, out.ids, kept=kept, mix_eps=0.25, temperature=1.0)
    logp.sum().backward()
    z = moved.double().requires_grad_()
    for row in range(8):
        ids = out.kept_ids[out.kept_offsets[row] : out.kept_offsets[row + 1]].long()
        pi = torch.softmax(z[row, ids], 0)
        place = (ids == out.ids[row]).nonzero().item()
        exact = (0.75 * pi[place] + 0.25 / len(ids)).log()
        assert logp[row].item() == pytest.approx(exact.item(), abs=1e-6)
        exact.backward(retain_graph=True)
    torch.testing.assert_close(y.grad.double(), z.grad, rtol=1e-5, atol=1e-7)
    outside = torch.ones(8, 500, dtype=torch.bool)
    for row in range(8):
        outside[row, out.kept_ids[out.kept_offsets[row] : out.kept_offsets[row + 1]].long()] = False
    assert not y.grad[outside].any() and not torch.equal(logp, out.logp)


def test_replay_reads_only_the_kept_tokens():
    x = make_rows("normal", 2, 600, 4)
    out = fusedraw.sample(x, seed=1, top_k=5, returns=("logp", "kept"))
    kept = out.kept_ids, out.kept_offsets
    spoiled = torch.full_like(x, float("nan"))
    for row in range(2):
        ids = kept[0][kept[1][row] : kept[1][row + 1]].long()
        spoiled[row, ids] = x[row, ids]
    assert torch.equal(fusedraw.token_logprob(spoiled, out.ids, kept=kept), out.logp)
    with pytest.raises(ValueError, match="row 0 has status NAN"):
        fusedraw.token_logprob(spoiled, out.ids, kept=kept, returns="entropy")


# Rows, shapes, torch


def test_bad_rows_are_nan_and_move_nothing():
    x = make_rows("normal", 5, 40, 1)
    x[0, 3], x[1, 5], x[2] = float("nan"), INF, -INF
    ids = torch.tensor([1, 1, 1, 40, 2])
    y = x.clone().requires_grad_()
    out = fusedraw.token_logprob(y, ids, check="status", returns=("entropy", "status"))
    names = ("NAN", "POS_INF", "EMPTY", "BAD_PARAM", "OK")
    assert out.status.tolist() == [fusedraw.Status[name].value for name in names]
    assert out.logp.isnan().tolist() == out.entropy.isnan().tolist() == [True] * 4 + [False]
    torch.where(out.status == 0, out.logp + out.entropy, 0).sum().backward()
    assert not y.grad[:4].any() and y.grad[4].all() and not y.grad.isnan().any()


def test_leading_dimensions():
    x = make_rows("normal", 6, 50, 1).view(2, 3, 50)
    ids = torch.randint(50, (2, 3), generator=torch.Generator().manual_seed(0))
    flat = fusedraw.token_logprob(x.view(6, 50), ids.view(6), temperature=0.7)
    shaped = fusedraw.token_logprob(x, ids, temperature=0.7, returns=("entropy", "status"))
    assert shaped.logp.shape == shaped.entropy.shape == shaped.status.shape == (2, 3)
    assert torch.equal(shaped.logp.view(6), flat)
    temperature = torch.linspace(0.5, 1.5, 6).view(2, 3)
    mask = torch.rand(2, 3, 50, generator=torch.Generator().manual_seed(1)) < 0.9
    mask.scatter_(2, ids[..., None], True)
    got = fusedraw.token_logprob(x, ids.int(), temperature=temperature, mask=mask)
    one = fusedraw.token_logprob(x[1, 2], ids[1, 2], temperature=temperature[1, 2].item(), mask=mask[1, 2])
    assert one.shape == () and torch.equal(got[1, 2], one)
    assert fusedraw.token_logprob(x[:, 1:], ids[:, 1:]).shape == (2, 2)  # not viewable as rows
    assert fusedraw.token_logprob(torch.empty(0, 4, 50), torch.empty(0, 4, dtype=torch.int64)).shape == (0, 4)


def test_strides_and_batch_do_not_count():
    x = make_rows("normal", 8, 1000, 1)
    ids = torch.arange(8) * 100
    wide = torch.empty(8, 1300).fill_(float("nan"))
    wide[:, 100:1100] = x
    g = torch.linspace(-1, 1, 8)
    results = []
    for view in (x, wide[:, 100:1100], x.t().contiguous().t()):
        y = view.detach().requires_grad_()
        logp = fusedraw.token_logprob(y, ids, top_p=0.9, mix_eps=0.1, mix_support="valid")
        logp.backward(g)
        results.append((logp.detach(), y.grad))
    for logp, grad in results[1:]:
        assert same_bits(logp, results[0][0]) and torch.equal(grad, results[0][1])
    alone = [
        fusedraw.token_logprob(x[i], ids[i], top_p=0.9, mix_eps=0.1, mix_support="valid") for i in range(8)
    ]
    assert same_bits(torch.stack(alone), results[0][0])


@pytest.mark.parametrize("mask_kind", MASKS)
def test_masks_restrict_the_law(mask_kind):
    x = make_rows("normal", 4, 200, 6)
    mask = make_mask(mask_kind, 4, 200, 3)
    out = fusedraw.sample(x, seed=4, mask=mask, top_p=0.9, returns="logp", check="status")
    good = out.ids >= 0
    got = fusedraw.token_logprob(x, out.ids, mask=mask, top_p=0.9, check="status")
    assert same_bits(got, out.logp) and good.any()


@pytest.mark.parametrize("dtype", [F32, BF16, torch.float64])
@pytest.mark.parametrize("replay", [False, True])
def test_opcheck(dtype, replay):
    x = make_rows("normal", 3, 40, 1, dtype).requires_grad_()
    ids = torch.tensor([1, 2, 3])
    kept = pack_kept([[1, 5], [2, 7, 9], [3]]) if replay else (None, None)
    for entropy in (False, True):
        arguments = (x, ids, make_params(0.8, 0.9, 0.0, 0.1), None, *kept, 0, entropy)
        torch.library.opcheck(torch.ops.fusedraw.token_logprob.default, arguments)
    _, _, _, saved = torch.ops.fusedraw.token_logprob(*arguments)
    g = torch.ones(3, dtype=torch.float64 if dtype == torch.float64 else F32)
    backward = (g, g, x.detach(), ids, None, *kept, saved)
    torch.library.opcheck(torch.ops.fusedraw.token_logprob_backward.default, backward)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_compiled_with_its_backward():
    options = {"top_p": 0.9, "mix_eps": 0.1, "mix_support": "valid", "returns": "entropy", "check": "status"}

    def loss(x, ids, temperature):
        out = fusedraw.token_logprob(x * 2, ids, temperature=temperature, **options)
        return (out.logp + 0.1 * out.entropy).sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    ids, temperature = torch.tensor([1, 2, 3]), torch.tensor([0.7, 1.0, 1.3])
    grads = []
    for run in (loss, compiled):
        x = make_rows("normal", 3, 64, 1).requires_grad_()
        run(x, ids, temperature).backward()
        grads.append(x.grad)
    assert torch.equal(*grads)


def test_bits_of_the_rounded_gradient():
    """bfloat16 and float16: the float32 gradient, rounded as torch rounds it."""
    for dtype in (BF16, F16):
        x = make_rows("normal", 3, 700, 8, dtype)
        ids = torch.tensor([5, 6, 7])
        narrow, wide = x.clone().requires_grad_(), x.float().requires_grad_()
        for y in (narrow, wide):
            fusedraw.token_logprob(y, ids, temperature=0.3).backward(torch.tensor([1.0, 1e-4, 3e4]))
        assert same_bits(narrow.grad, wide.grad.to(dtype))
