# SPDX-License-Identifier: Apache-2.0
"""mixture as a call: bad input named before any work, forms of the arguments, what torch asks of an
operator."""

import fusedraw
import pytest
import torch
from engines import BF16, F32, INF, NAN, make_keys, make_params, same_bits
from fusedraw import _ops
from mixture_cases import HOW, OUTPUTS, make_weights, offered

# Errors before any work

X = torch.zeros(2, 8)
ERRORS = [
    ("different V", ([X, torch.zeros(2, 9)],), {}, ValueError, "one V .the same vocabulary.*V = 8.*V = 9"),
    ("different B", ([X, torch.zeros(3, 8)],), {}, ValueError, "one shape"),
    ("different dims", ([X, torch.zeros(8)],), {}, ValueError, "one shape"),
    ("different dtypes", ([X, X.bfloat16()],), {}, TypeError, "one dtype, got float32.*bfloat16"),
    ("no members", ([],), {}, ValueError, "1 to 32, got 0"),
    ("too many", ([X] * 33,), {}, ValueError, "1 to 32, got 33"),
    ("no sequence", (3,), {}, TypeError, "tensor or a sequence of tensors, got int"),
    ("no tensor", ([X, 1.0],), {}, TypeError, r"members\[1\] must be a torch.Tensor"),
    ("float64", ([X.double()] * 2,), {}, TypeError, "float64"),
    ("four dims", (torch.zeros(2, 2, 2, 8),), {}, ValueError, "shape"),
    ("unknown mode", ([X, X],), {"mode": "mean"}, ValueError, "'arithmetic', 'geometric'.*got 'mean'"),
    ("mode of no str", ([X, X],), {"mode": 1}, TypeError, "mode must be a str"),
    ("weights too few", ([X, X], [1.0]), {}, ValueError, "weights must be 2, one a member, got 1"),
    ("weights negative", ([X, X], [1.0, -0.5]), {}, ValueError, "finite and >= 0, got -0.5"),
    ("weights NaN", ([X, X], [NAN, 1.0]), {}, ValueError, "finite and >= 0, got nan"),
    ("weights infinite", ([X, X], [INF, 1.0]), {}, ValueError, "finite and >= 0, got inf"),
    ("weights zero", ([X, X], [0, 0.0]), {}, ValueError, "some weight must be > 0"),
    ("weights bool", ([X, X], [True, 1]), {}, TypeError, "weights must hold numbers, got bool"),
    ("weights str", ([X, X], "ab"), {}, TypeError, "sequence of numbers or a tensor, got str"),
    ("weights shape", ([X, X], torch.ones(3, 2)), {}, ValueError, r"\[2\] or \[2, 2\]"),
    ("weights dtype", ([X, X], torch.ones(2, dtype=torch.int64)), {}, TypeError, "weights tensor must be"),
    (
        "weights of a pair",
        ([X, X], [1, 1]),
        {"mode": "cfg", "strength": 1},
        ValueError,
        "takes a strength and no",
    ),
    ("strength missing", ([X, X],), {"mode": "cfg"}, ValueError, "needs a strength"),
    ("strength NaN", ([X, X],), {"mode": "cfg", "strength": NAN}, ValueError, "finite, got nan"),
    ("strength str", ([X, X],), {"mode": "cfg", "strength": "1"}, TypeError, "number or a tensor, got str"),
    ("strength of a mean", ([X, X],), {"strength": 1}, ValueError, "strength is for other modes"),
    ("strength length", ([X, X],), {"mode": "cfg", "strength": torch.ones(3)}, ValueError, "length 1 or 2"),
    ("three for a pair", ([X] * 3,), {"mode": "cfg", "strength": 1}, ValueError, "takes two members, got 3"),
    (
        *("plausibility elsewhere", ([X, X],), {"mode": "cfg", "strength": 1, "plausibility": 0.1}),
        *(ValueError, "plausibility is for mode 'contrastive'"),
    ),
    (
        *("plausibility range", ([X, X],), {"mode": "contrastive", "strength": 1, "plausibility": 1.5}),
        *(ValueError, r"plausibility must be in \[0, 1\]"),
    ),
    ("returns unknown", ([X, X],), {"returns": ("rank", "margin")}, ValueError, "among status.*got 'margin'"),
    (
        *("no mutual information", ([X, X],), {"mode": "geometric", "returns": "mutual_information"}),
        *(ValueError, "mutual_information needs mode 'arithmetic'"),
    ),
    (
        *("no mean entropy", ([X, X],), {"mode": "cfg", "strength": 1, "returns": "mean_entropy"}),
        *(ValueError, "mean_entropy needs mode"),
    ),
    ("top_p", ([X, X],), {"top_p": 2.0}, ValueError, "top_p must be in"),
    ("mask", ([X, X],), {"mask": torch.ones(3, dtype=torch.bool)}, ValueError, "bool mask must be"),
    ("keys", ([X, X],), {"keys": torch.zeros(3, 2, dtype=torch.int64)}, ValueError, r"keys must be \[2, 2\]"),
    ("keys and seed", ([X, X],), {"keys": make_keys(2), "seed": 1}, ValueError, "one of keys, seed"),
]


@pytest.mark.parametrize(
    "arguments, more, error, message", [e[1:] for e in ERRORS], ids=[e[0] for e in ERRORS]
)
def test_bad_input_is_named(arguments, more, error, message):
    before = torch.get_rng_state()
    with pytest.raises(error, match=f"^mixture: .*{message}"):
        fusedraw.mixture(*arguments, **more)
    assert torch.equal(torch.get_rng_state(), before)  # a refused call draws no seed


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
