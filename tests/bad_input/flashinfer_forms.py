# SPDX-License-Identifier: Apache-2.0
"""What the forms of fusedraw.flashinfer refuse. Every draw refuses the same."""

import torch
from flashinfer_cases import DRAWS, LOGITS, PROBS, rows_of, values
from fusedraw import flashinfer

from .rows import refusing


def of_draw(function, rules, logits):
    x = "logits" if logits else "probs"
    name = function.__name__
    of = refusing(
        f"flashinfer.{name}",
        function,
        **{x: rows_of(logits)},
        **dict(zip(rules, values(rules, 0), strict=True)),
    )
    return [
        of(ValueError, f"{name}: {x} must be", **{x: rows_of(logits)[0]}),
        of(TypeError, f"{name}: {x} must be", **{x: [1.0]}),
        of(TypeError, f"{name}: {x} must be", **{x: torch.ones(2, 3).long()}),
        *[of(ValueError, f"{name}: {r} must be", **{r: -2 if r == "top_k" else 1.5}) for r in rules],
        of(TypeError, f"{name}: indices must be", indices=torch.zeros(2, dtype=torch.int16)),
        of(TypeError, f"{name}: indices must be", indices=[0]),
        of(ValueError, f"{name}: indices must be", indices=torch.zeros(1, 2, dtype=torch.int64)),
        of(ValueError, f"{name}: indices must be", indices=torch.tensor([0, 6])),
        of(ValueError, "give seed and offset together, got seed alone", seed=1),
        of(ValueError, "generator", seed=1, offset=1, generator=torch.Generator()),
        of(ValueError, "both be tensors or both be ints", seed=torch.tensor([1]), offset=1),
        of(TypeError, f"{name}: seed must be an int", seed=1.5, offset=1),
        of(TypeError, f"{name}: offset must be an int", seed=1, offset=1.5),
        of(OverflowError, f"{name}: offset must fit", seed=1, offset=2**64),
    ]


def chain(*shape):
    return torch.full(shape, 0.25)


renorm_p = {
    name: refusing(f"flashinfer.{name}", getattr(flashinfer, name), probs=PROBS, top_p=0.5)
    for name in ("top_p_renorm_probs", "top_p_renorm_prob")
}
renorm_k = {
    name: refusing(f"flashinfer.{name}", getattr(flashinfer, name), probs=PROBS, top_k=3)
    for name in ("top_k_renorm_probs", "top_k_renorm_prob")
}
mask = refusing("flashinfer.top_k_mask_logits", flashinfer.top_k_mask_logits, logits=LOGITS, top_k=3)
softmax = refusing("flashinfer.softmax", flashinfer.softmax, logits=LOGITS)
both = [
    refusing(
        "flashinfer.top_k_top_p_sampling_from_probs",
        flashinfer.top_k_top_p_sampling_from_probs,
        probs=PROBS,
        top_k=3,
        top_p=0.5,
    ),
    refusing(
        "flashinfer.top_k_top_p_sampling_from_logits",
        flashinfer.top_k_top_p_sampling_from_logits,
        logits=LOGITS,
        top_k=3,
        top_p=0.5,
    ),
]
speculative = refusing(
    *("flashinfer.chain_speculative_sampling", flashinfer.chain_speculative_sampling),
    draft_probs=chain(1, 2, 4),
    draft_token_ids=torch.zeros(1, 2, dtype=torch.int32),
    target_probs=chain(1, 3, 4),
)
name = "chain_speculative_sampling: "

REFUSED = [
    *[row for draw in DRAWS for row in of_draw(*draw)],
    *[of(ValueError, "top_p must be", top_p=1.5) for of in renorm_p.values()],
    *[of(TypeError, "probs must be", probs=[1.0]) for of in renorm_p.values()],
    *[of(ValueError, "top_k must be", top_k=-2) for of in renorm_k.values()],
    *[of(TypeError, "probs must be", probs=[1.0]) for of in renorm_k.values()],
    mask(TypeError, "top_k_mask_logits: logits must be", logits=[1.0]),
    mask(ValueError, "top_k must be", top_k=-2),
    softmax(TypeError, "softmax: logits must be", logits=[1.0]),
    softmax(ValueError, "softmax: temperature must be", temperature=-1.0),
    *[of(ValueError, "filter_apply_order must be", filter_apply_order="both") for of in both],
    speculative(ValueError, name, draft_probs=chain(2, 4)),
    speculative(ValueError, name, draft_token_ids=torch.zeros(1, 1, dtype=torch.int32)),
    speculative(ValueError, name, target_probs=chain(1, 2, 4)),
    speculative(TypeError, name, draft_token_ids=torch.zeros(1, 2, dtype=torch.float64)),
    speculative(TypeError, name, draft_probs=chain(1, 2, 4).long()),
    speculative(
        *(ValueError, name, "drafts of 4, of 4 tokens"),
        draft_token_ids=torch.full((1, 2), 4, dtype=torch.int32),
    ),
    speculative(
        *(ValueError, name, "drafts of -1"), draft_token_ids=torch.full((1, 2), -1, dtype=torch.int32)
    ),
    speculative(TypeError, name, draft_token_ids=[[0, 0]]),
]
