# SPDX-License-Identifier: Apache-2.0
"""The gradient of token_logprob, against an enumeration in float64."""

import fusedraw
import pytest
import torch
from engines import BF16, F16, F32, ORDERS, SUPPORTS
from row_kinds import make_mask, make_rows
from scoring import pack_kept

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
