# SPDX-License-Identifier: Apache-2.0
"""token_logprob and importance_weight: bad input named before any work, malformed kept sets, the bound of the
weight."""

import fusedraw
import pytest
import torch
from engines import F32, make_params, on_every_engine
from scoring import score

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
