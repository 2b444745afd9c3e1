# SPDX-License-Identifier: Apache-2.0
"""token_logprob: the logp of `sample` for given tokens, to the bit; its gradient; replay; bad input."""

import fusedraw
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scoring import pack_kept, score, score_r1
from strategies import (
    BF16,
    ENGINES,
    F16,
    F32,
    INF,
    KINDS,
    MASKS,
    ORDERS,
    SUPPORTS,
    TIES,
    assert_same,
    bits_of,
    engine,
    examples,
    make_keys,
    make_mask,
    make_mode,
    make_params,
    make_rows,
    modes,
    on_every_engine,
    param_rows,
    row_batches,
    same_bits,
    sample,
)

GRADS = st.sampled_from([0.0, 1.0, -1.0, 0.37, -2.5e3, 1e-30, 3e38])


# The law


@st.composite
def scored_batches(draw):
    """Rows, token ids, a recorded kept set or none, gradients."""
    rows = draw(row_batches(size=st.one_of(st.sampled_from([1, 2, 255, 256, 257, 513]), st.integers(1, 900))))
    n, v = rows.x.shape
    params, mode = draw(param_rows(n, v)), draw(modes)
    drawn = sample(rows.x, params, rows.keys, rows.mask, mode, bits_of("kept"))
    ids = drawn["ids"].clone()
    for row in range(n):
        if draw(st.booleans()):
            ids[row] = draw(st.integers(0, v - 1))
    kept, source = (None, None), draw(st.sampled_from(["filters", "filters", "drawn", "other"]))
    if source == "drawn":
        kept = drawn["kept_ids"], drawn["kept_offsets"]
    elif source == "other":
        chosen = st.lists(st.integers(0, v - 1), unique=True, max_size=40).map(sorted)
        kept = pack_kept([draw(chosen) for _ in range(n)])
    entropy = draw(st.booleans())
    g = torch.tensor([draw(GRADS) for _ in range(n)])
    h = torch.tensor([draw(GRADS) for _ in range(n)]) if entropy and draw(st.booleans()) else None
    return (rows.x, ids, params, rows.mask, kept, mode, entropy, (g, h)), rows


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


# Gradients


def enumerated(z, ids, kept_ids, kept_offsets, temperature, mix_eps, support_sizes):
    """log mu and the entropy, in float64 from their formulas, the kept set given."""
    logps = []
    for row in range(z.shape[0]):
        kept = kept_ids[kept_offsets[row] : kept_offsets[row + 1]].long()
        pi = torch.zeros_like(z[row]).index_put((kept,), torch.softmax(z[row, kept] / temperature, 0))
        size = support_sizes[row]
        inside = size != len(kept) or bool((kept == ids[row]).any())
        logps.append(((1 - mix_eps) * pi[ids[row]] + mix_eps * inside / size).log())
    p = torch.softmax(z / temperature, -1)
    return torch.stack(logps), -(p * p.log()).sum(-1)


@pytest.mark.parametrize("dtype", [F32, BF16, F16])
@pytest.mark.parametrize("support", SUPPORTS)
def test_gradient_equals_that_of_the_enumeration(support, dtype):
    eps, temperature = 0.25, 0.8
    mixed = {"top_k": 60, "top_p": 0.9, "temperature": temperature, "mix_eps": eps, "mix_support": support}
    x = make_rows("normal", 6, 300, 11, dtype)
    out = fusedraw.sample(x, seed=5, returns=("kept", "n_kept"), **mixed)
    g, h = torch.linspace(-1, 1, 6), torch.linspace(0.5, -0.2, 6)
    y, z = x.clone().requires_grad_(), x.double().requires_grad_()
    scores = fusedraw.token_logprob(y, out.ids, returns="entropy", **mixed)
    ((g * scores.logp) + (h * scores.entropy)).sum().backward()
    sizes = out.n_kept if support == "kept" else torch.full((6,), 300)
    eps, temperature = (torch.tensor(v).double() for v in (eps, temperature))
    temperature = temperature.float().double()
    logp, entropy = enumerated(z, out.ids, out.kept_ids, out.kept_offsets, temperature, eps, sizes.tolist())
    (g * logp + h * entropy).sum().backward()
    torch.testing.assert_close(scores.logp.double(), logp.detach(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(scores.entropy.double(), entropy.detach(), rtol=1e-6, atol=1e-6)
    rtol = {F32: 2e-5, BF16: 2**-8, F16: 2**-11}[dtype]
    assert y.grad.dtype == dtype
    torch.testing.assert_close(y.grad.double(), z.grad, rtol=rtol, atol=1e-7)


@pytest.mark.parametrize("support", SUPPORTS)
@pytest.mark.parametrize("order", ORDERS)
def test_gradcheck(order, support):
    """In float64 against finite differences: filters, mixture, mask, replay, entropy."""
    x = make_rows("normal", 4, 23, 2).double().requires_grad_()
    mask = make_mask("rows-0.9", 4, 23, 1)
    options = {"temperature": torch.tensor([0.7, 1.0, 2.0, 0.0]), "mix_eps": 0.3, "mix_support": support}
    filters = {"top_k": 9, "top_p": 0.9, "min_p": 0.05, "filter_order": order}
    ids = fusedraw.sample(x.float(), seed=2, mask=mask, **options, **filters)
    kept = pack_kept([[0, 3, 4, 11], [2, 5, 7], list(range(23)), [1, 2]])
    chosen = torch.tensor([3, 7, 20, 1])

    def filtered(x):
        return fusedraw.token_logprob(x, ids, mask=mask, returns="entropy", **options, **filters)[:2]

    def replayed(x):
        return fusedraw.token_logprob(x, chosen, kept=kept, **options)

    assert torch.autograd.gradcheck(filtered, (x,))
    assert torch.autograd.gradcheck(replayed, (x,))
    y = x.detach().float()
    torch.testing.assert_close(filtered(x)[0].detach(), filtered(y)[0].double(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(replayed(x).detach(), replayed(y).double(), rtol=1e-6, atol=1e-6)


def test_the_gradient_keeps_its_precision_beside_a_certain_token():
    """1 - pi of a token that is all but certain, where 1 - fl32(pi) would be 0 or noise."""
    x = torch.tensor([[0.0, -20.0]]).requires_grad_()
    fusedraw.token_logprob(x, torch.tensor([0])).backward()
    rest = torch.sigmoid(torch.tensor(-20.0, dtype=torch.float64)).item()
    assert x.grad[0].tolist() == pytest.approx([rest, -rest], rel=2e-4)  # weights are multiples of 2^-43


def test_no_second_derivative():
    x = torch.randn(2, 8).requires_grad_()
    (grad,) = torch.autograd.grad(fusedraw.token_logprob(x, torch.tensor([1, 2])).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="second derivatives are not implemented"):
        grad.sum().backward()


def test_only_what_is_used_gets_a_gradient():
    x = torch.randn(2, 8)
    ids = torch.tensor([1, 2])
    y = x.clone().requires_grad_()
    fusedraw.token_logprob(y, ids, returns="entropy").entropy.sum().backward()
    z = x.double().requires_grad_()
    p = torch.softmax(z, -1)
    (-(p * p.log()).sum()).backward()
    torch.testing.assert_close(y.grad.double(), z.grad, rtol=1e-5, atol=1e-6)
    bare = fusedraw.token_logprob(x, ids)
    assert not bare.requires_grad and bare.shape == (2,)


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


# Bad input

X, IDS = torch.zeros(2, 4), torch.zeros(2, dtype=torch.int64)
KEPT = (torch.tensor([0, 1, 0], dtype=torch.int32), torch.tensor([0, 2, 3]))
WRONG = {
    "logits type": (TypeError, "logits must be a torch.Tensor, got list", [[1.0]], IDS, {}),
    "logits dtype": (TypeError, "logits must be .*got int64", X.long(), IDS, {}),
    "no tokens": (ValueError, "at least one token per row", X[:, :0], IDS, {}),
    "ids type": (TypeError, "ids must be a torch.Tensor, got list", X, [0, 0], {}),
    "ids dtype": (TypeError, "ids must be int64 or int32, got float32", X, IDS.float(), {}),
    "ids shape": (ValueError, r"leading shape of logits, \[2\], got shape \[3\]", X, IDS.new_zeros(3), {}),
    "ids of all": (ValueError, r"leading shape of logits, \[2\], got shape \[2, 1\]", X, IDS[:, None], {}),
    "ids device": (ValueError, "ids must be on cpu like the rest, got meta", X, IDS.to("meta"), {}),
    "id too large": (ValueError, r"ids must lie in \[0, 4\), got 4 in row 1", X, torch.tensor([0, 4]), {}),
    "id negative": (ValueError, r"ids must lie in \[0, 4\), got -1 in row 0", X, torch.tensor([-1, 4]), {}),
    "mix_eps": (ValueError, r"mix_eps must be in \[0, 1\], got 1.5", X, IDS, {"mix_eps": 1.5}),
    "mix_eps NaN": (ValueError, r"mix_eps must be in \[0, 1\], got nan", X, IDS, {"mix_eps": float("nan")}),
    "length": (ValueError, "top_p must have length 1 or 2", X, IDS, {"top_p": torch.ones(3)}),
    "support": (ValueError, "mix_support must be 'kept' or 'valid'", X, IDS, {"mix_support": "all"}),
    "order": (ValueError, "filter_order must be", X, IDS, {"filter_order": "first"}),
    "returns": (
        ValueError,
        "must be among entropy or status, got 'logp'",
        X,
        IDS,
        {"returns": "logp"},
    ),
    "check": (ValueError, "check must be 'raise' or 'status'", X, IDS, {"check": "warn"}),
    "mask": (ValueError, r"mask must be \[4\]", X, IDS, {"mask": torch.ones(3, dtype=torch.bool)}),
    "kept alone": (TypeError, r"kept must be \(ids, offsets\), got Tensor", X, IDS, {"kept": KEPT[0]}),
    "kept dtype": (
        TypeError,
        "kept ids must be int32, got int64",
        X,
        IDS,
        {"kept": (KEPT[0].long(), KEPT[1])},
    ),
    "offsets dtype": (TypeError, "kept offsets must be int64", X, IDS, {"kept": (KEPT[0], KEPT[1].int())}),
    "offsets length": (ValueError, r"kept offsets must be \[3\]", X, IDS, {"kept": (KEPT[0], KEPT[1][:2])}),
    "offsets past the end": (
        *(ValueError, "kept offsets must ascend from 0 to 3, got 2 and 4 for row 1", X, IDS),
        {"kept": (KEPT[0], torch.tensor([0, 2, 4]))},
    ),
    "offsets descend": (
        *(ValueError, "kept offsets must ascend from 0 to 3, got 2 and 1 for row 1", X, IDS),
        {"kept": (KEPT[0], torch.tensor([0, 2, 1]))},
    ),
    "kept order": (
        *(ValueError, "kept ids must ascend .* got 0 after 1 in row 0", X, IDS),
        {"kept": (KEPT[0], torch.tensor([0, 3, 3]))},
    ),
    "kept twice": (
        *(ValueError, "kept ids must ascend .* got 1 after 1 in row 0", X, IDS),
        {"kept": (torch.tensor([1, 1], dtype=torch.int32), torch.tensor([0, 2, 2]))},
    ),
    "kept id": (
        *(ValueError, r"kept ids must ascend within a row and lie in \[0, 4\), got 7 in row 1", X, IDS),
        {"kept": (torch.tensor([0, 7], dtype=torch.int32), torch.tensor([0, 1, 2]))},
    ),
    "kept empty": (
        *(ValueError, "row 1 has status EMPTY", X, IDS),
        {"kept": (torch.tensor([0], dtype=torch.int32), torch.tensor([0, 1, 1]))},
    ),
}


@pytest.mark.parametrize("case", WRONG)
@pytest.mark.parametrize("dtype", [F32, torch.float64])
def test_bad_input_is_named(case, dtype):
    error, message, logits, ids, options = WRONG[case]
    if isinstance(logits, torch.Tensor) and logits.dtype == F32:
        logits = logits.to(dtype)
    with pytest.raises(error, match=f"^token_logprob: .*{message}"):
        fusedraw.token_logprob(logits, ids, **options)


# In row 1: an id that is none, descending ids, an offset past the end, descending offsets.
MALFORMED = [
    (torch.tensor(ids, dtype=torch.int32), torch.tensor(offsets))
    for ids, offsets in (
        *(([0, 7], [0, 1, 2]), ([1, 0], [0, 0, 2])),
        *(([0, 1], [0, 1, 9]), ([0, 1], [0, 1, -3])),
    )
]


def test_malformed_kept_sets_are_a_status_too():
    for kept in MALFORMED:
        got = on_every_engine(score, X, IDS, make_params(), None, kept, 0, True, (torch.ones(2), None))
        assert got["status"][1].item() == fusedraw.Status.BAD_PARAM.value
        assert got["logp"][1].isnan() and not got["grad"][1].any()


def test_importance_weight():
    pi, mu = torch.tensor([0.5, 0.25, 0.0]), torch.tensor([0.25, 0.5, 0.25])
    weight = fusedraw.importance_weight(pi.log(), mu.log())
    assert weight.tolist() == pytest.approx([2.0, 0.5, 0.0])
    logp = mu.log().requires_grad_()
    fusedraw.importance_weight(logp, mu.log()).sum().backward()
    torch.testing.assert_close(logp.grad, torch.ones(3))  # d (pi / mu) = pi / mu d log pi
    assert fusedraw.importance_weight(pi.log(), mu.log(), mix_eps=0.5).tolist() == weight.tolist()
    assert fusedraw.importance_weight(pi.log(), mu.log(), mix_eps=torch.tensor([0.5, 0.0, 0.0])).shape == (3,)


@pytest.mark.parametrize(
    ("error", "message", "arguments", "options"),
    [
        (TypeError, "logp_pi must be a torch.Tensor, got float", (0.5, torch.zeros(1)), {}),
        (TypeError, "logp_mu must be floating point, got int64", (torch.zeros(1), IDS), {}),
        (ValueError, r"must broadcast, got \[2\] and \[3\]", (torch.zeros(2), torch.zeros(3)), {}),
        (ValueError, "logp_mu must be on cpu", (torch.zeros(2), torch.zeros(2, device="meta")), {}),
        (ValueError, r"mix_eps must be in \[0, 1\]", (torch.zeros(2), torch.zeros(2)), {"mix_eps": -0.1}),
        (ValueError, "check must be", (torch.zeros(2), torch.zeros(2)), {"check": "no"}),
        (
            *(ValueError, r"at most 1 / \(1 - mix_eps\) = 1.25, got 2.71828 at \[1\]: logp_pi is not that"),
            *((torch.tensor([0.0, 1.0]), torch.zeros(2)), {"mix_eps": 0.2}),
        ),
    ],
)
def test_importance_weight_refuses(error, message, arguments, options):
    with pytest.raises(error, match=f"^importance_weight: .*{message}"):
        fusedraw.importance_weight(*arguments, **options)
