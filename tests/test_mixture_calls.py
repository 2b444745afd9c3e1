# SPDX-License-Identifier: Apache-2.0
"""mixture as a call: bad input named before any work, forms of the arguments, what torch asks of an
operator."""

import fusedraw
import pytest
import torch
from engines import BF16, F32, make_keys, make_params, same_bits
from fusedraw import _ops
from mixture_cases import HOW, OUTPUTS, make_weights, offered

# torch


def test_forms_of_the_arguments():
    x, keys = torch.randn(3, 4, 100), make_keys(4)
    expected = fusedraw.mixture(x, [1, 2, 3], keys=keys, returns=("member_logp", "logp"))
    for members in (list(x), tuple(x)):
        for weights in ((1.0, 2, 3), torch.tensor([1.0, 2, 3]), torch.tensor([[10.0, 20, 30]] * 4)):
            got = fusedraw.mixture(members, weights, keys=keys, returns=["logp", "member_logp"])
            assert all(same_bits(a, b) for a, b in zip(got[:2:2], expected[:2:2], strict=True))
            assert same_bits(got.member_logp, expected.member_logp)
    one = fusedraw.mixture(x[:, 2], [1, 2, 3], keys=keys[2], returns=("member_logp", "logp"))
    assert one.ids.dim() == 0 and one.ids == expected.ids[2] and one.logp == expected.logp[2]
    assert torch.equal(one.member_logp, expected.member_logp[:, 2])
    per_row = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]])
    got = fusedraw.mixture(x, per_row, keys=keys)
    for row in range(3):
        assert got[row] == fusedraw.sample(x[row, row], keys=keys[row])
    assert fusedraw.mixture(torch.zeros(2, 0, 5), seed=1).shape == (0,)
    seeded = fusedraw.mixture(x, seed=5, step=2)
    derived = fusedraw.derive_keys(5, range(4), step=2)
    assert torch.equal(seeded, fusedraw.mixture(x, keys=derived))


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("dtype", [F32, BF16])
def test_opcheck(how, dtype):
    members = [torch.randn(2, 40).to(dtype) for _ in range(2)]
    weights = make_weights([0.5, 0.1], [1.0, 0.2])
    outputs = sum(1 << OUTPUTS[name] for name in offered(how))
    mask = torch.rand(2, 40) > 0.2
    arguments = (members, weights, make_params(), make_keys(2), mask, HOW.index(how), 0)
    for bits in (0, outputs & ~(1 << OUTPUTS["kept"]), outputs):
        torch.library.opcheck(_ops.mixture, (*arguments, bits))


@pytest.mark.parametrize("dynamic", [False, True])
def test_compile(dynamic):
    returns = ("logp", "member_logp", "mutual_information")

    def draw(members, weights, keys):
        return fusedraw.mixture(members, weights, keys=keys, top_p=0.9, returns=returns)

    compiled = torch.compile(draw, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for rows in (3, 5):
        x, weights = torch.randn(2, rows, 80), torch.rand(rows, 2) + 0.1
        for got, expected in zip(
            compiled(x, weights, make_keys(rows)), draw(x, weights, make_keys(rows)), strict=True
        ):
            assert (got is None) == (expected is None)
            assert expected is None or same_bits(got, expected)


def test_results_carry_no_gradient():
    x = torch.randn(2, 3, 20, requires_grad=True)
    out = fusedraw.mixture(x, seed=1, returns=("logp", "member_logp"))
    assert not out.logp.requires_grad and not out.member_logp.requires_grad
