# SPDX-License-Identifier: Apache-2.0
"""What the laws refuse: softmax, masks, renormalised rows, edits and rules, scores, Categorical."""

import math

import fusedraw
import torch
from input_cases import KEYS, NAN, B, V, probs, rows
from processing_cases import HISTORY, PROMPT
from processing_cases import KEYS as EDIT_KEYS
from processing_cases import V as EDIT_V
from processing_cases import X as EDIT_X

from .rows import Refused, refusing

I32, I64 = torch.int32, torch.int64
short_mask = torch.ones(3, dtype=torch.bool)


def of_softmax(name):
    of = refusing(name, getattr(fusedraw, name), logits=rows())
    return [
        of(TypeError, f"{name}: logits .* or float64, got int64", logits=rows().long()),
        of(TypeError, "logits must be a torch.Tensor, got list", logits=[1.0]),
        of(ValueError, f"{name}: logits must be", logits=torch.zeros(2, 3, 4)),
        of(ValueError, "at least one token", logits=torch.zeros(2, 0)),
        of(ValueError, f"{name}: temperature must be >= 0", temperature=-1),
        of(ValueError, "temperature must have length 1 or 4", temperature=torch.ones(3)),
        of(TypeError, "temperature must be a number", temperature="1"),
        of(ValueError, "a bool mask must be", mask=short_mask),
        of(ValueError, "check must be", check="no"),
    ]


top_k_mask = refusing("top_k_mask", fusedraw.top_k_mask, logits=rows(), top_k=3)
top_p_mask = refusing("top_p_mask", fusedraw.top_p_mask, logits=rows(), top_p=0.5)
top_k_renorm = refusing("top_k_renorm", fusedraw.top_k_renorm, probs=probs(), top_k=3)
top_p_renorm = refusing("top_p_renorm", fusedraw.top_p_renorm, probs=probs(), top_p=0.5)
FILTERS = [
    top_k_mask(TypeError, "top_k_mask: logits must be .* got float64", logits=rows(torch.float64)),
    top_k_mask(TypeError, "top_k_mask: top_k must be an int", top_k=1.5),
    top_k_mask(ValueError, "top_k must be >= 1", top_k=-2),
    top_k_mask(ValueError, "ties must be 'index' or 'all'", ties="none"),
    top_k_mask(ValueError, "a bool mask must be", mask=short_mask),
    top_p_mask(ValueError, "top_p_mask: top_p must be in", top_p=1.5),
    top_p_mask(ValueError, "top_p must be in", top_p=NAN),
    top_p_mask(ValueError, "temperature must be >= 0", temperature=-1),
    top_p_mask(ValueError, "logits must be", logits=torch.zeros(1, 2, 3)),
    top_k_renorm(TypeError, "got float64", probs=rows(torch.float64), from_logits=True),
    top_k_renorm(TypeError, "top_k must be an int", top_k=True),
    top_k_renorm(ValueError, "top_k must have length 1 or 4", top_k=torch.ones(3, dtype=I64)),
    top_p_renorm(TypeError, "top_p_renorm: probs must be", probs=rows().to(torch.int8)),
    top_p_renorm(ValueError, "from_logits", temperature=2.0),
    top_p_renorm(ValueError, "top_p must be in", top_p=-0.1),
]

# Edits and rules are those of sample; edit_logits takes the edits alone.
of = refusing("sample", fusedraw.sample, logits=EDIT_X, keys=EDIT_KEYS)
EDITS = [
    of(ValueError, "repetition_penalty needs history or prompt", repetition_penalty=1.2),
    of(ValueError, "frequency_penalty needs history", frequency_penalty=0.1, prompt=PROMPT),
    of(ValueError, "presence_penalty needs history", presence_penalty=0.1),
    of(ValueError, "repetition_penalty must be > 0 and finite", repetition_penalty=0, history=HISTORY),
    of(ValueError, "repetition_penalty must be > 0", repetition_penalty=math.inf, history=HISTORY),
    of(ValueError, "frequency_penalty must be finite", frequency_penalty=math.nan, history=HISTORY),
    of(TypeError, "presence_penalty must be a number or a tensor", presence_penalty="1", history=HISTORY),
    of(ValueError, r"typical_p must be in \[0, 1\], got 1.5", typical_p=1.5),
    of(ValueError, "epsilon_cutoff must be in", epsilon_cutoff=-0.1),
    of(TypeError, "eta_cutoff must be a number", eta_cutoff=True),
    of(ValueError, "top_n_sigma must be >= 0", top_n_sigma=-1),
    of(ValueError, "xtc_threshold needs xtc_probability", xtc_threshold=0.2),
    of(TypeError, "temperature_last must be a bool, got int", temperature_last=1),
    of(ValueError, "typical_p must have length 1 or 4", typical_p=torch.ones(3)),
    of(TypeError, "typical_p tensor must be", typical_p=torch.ones(4, dtype=torch.bool)),
    of(TypeError, r"history must be a tensor \[B, L\] or a pair", history=[1, 2, 3]),
    of(TypeError, "history must be int64 or int32, got float32", history=HISTORY.float()),
    of(ValueError, r"history must be \[4, L\], got shape \[3, 300\]", history=HISTORY[:3]),
    of(ValueError, r"history must be \[4, L\], got shape \[300\]", history=HISTORY[0]),
    of(ValueError, r"offsets \[5\]", prompt=(PROMPT[0], torch.tensor([0, 50, 50]))),
    of(TypeError, "offsets of prompt", prompt=(PROMPT[0], torch.tensor([0, 50], dtype=I32))),
    of(ValueError, "offsets of prompt must rise from 0 to the 50", prompt=(PROMPT[0], torch.tensor([0, 49]))),
    of(
        *(ValueError, "must rise", "prompt=(int64 [50], offsets 0, 30, 20, 40, 50)"),
        prompt=(PROMPT[0], torch.tensor([0, 30, 20, 40, 50])),
    ),
    of(ValueError, rf"logit_bias must hold ids in \[0, {EDIT_V}\), got {EDIT_V}", logit_bias={EDIT_V: 1.0}),
    of(ValueError, "logit_bias must be a number or -inf", logit_bias={1: math.nan}),
    of(TypeError, "logit_bias must hold token ids", logit_bias={"1": 1.0}),
    of(TypeError, "logit_bias must map ids to numbers", logit_bias={1: "x"}),
    of(ValueError, "logit_bias must hold 4 dicts", logit_bias=[{1: 1.0}]),
    of(TypeError, "logit_bias must be a dict", logit_bias=3),
    of(ValueError, "suppress must hold ids", suppress=[EDIT_V]),
    of(TypeError, "suppress must be ids", suppress=3),
    of(ValueError, "mask must be", deny_mask=torch.zeros(3, dtype=torch.bool)),
    of(TypeError, "deny_mask must be a torch.Tensor", deny_mask=[True]),
    of(
        *(TypeError, "mask and deny_mask must be of one kind"),
        deny_mask=torch.zeros(EDIT_V, dtype=torch.bool),
        mask=torch.zeros((EDIT_V + 31) // 32, dtype=I32),
    ),
]
of = refusing("edit_logits", fusedraw.edit_logits, logits=EDIT_X)
EDITS += [
    of(TypeError, "edit_logits: logits must be .* got float64", logits=EDIT_X.double()),
    of(ValueError, "repetition_penalty needs history or prompt", repetition_penalty=1.2),
    of(ValueError, "repetition_penalty must be > 0", repetition_penalty=-1.0, history=HISTORY),
    of(ValueError, "presence_penalty must be finite", presence_penalty=math.inf, history=HISTORY),
    of(ValueError, "logit_bias must hold ids", logit_bias={-1: 1.0}),
    of(ValueError, "suppress must hold ids", suppress=[EDIT_V]),
    of(ValueError, f"history must hold ids in .* got {EDIT_V}", history=HISTORY.clamp(min=EDIT_V)),
    of(ValueError, f"prompt must hold ids in .* got {EDIT_V}", prompt=HISTORY.clamp(min=EDIT_V)),
    of(ValueError, "mask must be", mask=short_mask),
    of(TypeError, "typical_p", typical_p=0.5),
]

X, IDS = torch.zeros(2, 4), torch.zeros(2, dtype=I64)
KEPT = (torch.tensor([0, 1, 0], dtype=I32), torch.tensor([0, 2, 3]))


def of_scores(x):
    """What token_logprob refuses before any work, and what its pass over the rows finds."""
    of = refusing("token_logprob", fusedraw.token_logprob, logits=x, ids=IDS)
    before = [
        of(TypeError, "logits must be a torch.Tensor, got list", logits=[[1.0]]),
        of(TypeError, "logits must be .*got int64", logits=x.long()),
        of(ValueError, "at least one token per row", logits=x[:, :0]),
        of(TypeError, "ids must be a torch.Tensor, got list", ids=[0, 0]),
        of(TypeError, "ids must be int64 or int32, got float32", ids=IDS.float()),
        of(ValueError, r"leading shape of logits, \[2\], got shape \[3\]", ids=IDS.new_zeros(3)),
        of(ValueError, r"leading shape of logits, \[2\], got shape \[2, 1\]", ids=IDS[:, None]),
        of(ValueError, "ids must be on cpu like the rest, got meta", ids=IDS.to("meta")),
        of(ValueError, r"mix_eps must be in \[0, 1\], got 1.5", mix_eps=1.5),
        of(ValueError, r"mix_eps must be in \[0, 1\], got nan", mix_eps=NAN),
        of(ValueError, "top_p must have length 1 or 2", top_p=torch.ones(3)),
        of(ValueError, "mix_support must be 'kept' or 'valid'", mix_support="all"),
        of(ValueError, "filter_order must be", filter_order="first"),
        of(ValueError, "must be among entropy or status, got 'logp'", returns="logp"),
        of(ValueError, "check must be 'raise' or 'status'", check="warn"),
        of(ValueError, r"mask must be \[4\]", mask=short_mask),
        of(TypeError, r"kept must be \(ids, offsets\), got Tensor", kept=KEPT[0]),
        of(TypeError, "kept ids must be int32, got int64", kept=(KEPT[0].long(), KEPT[1])),
        of(TypeError, "kept offsets must be int64", kept=(KEPT[0], KEPT[1].int())),
        of(ValueError, r"kept offsets must be \[3\]", kept=(KEPT[0], KEPT[1][:2])),
    ]
    # Data: named by the draw's own pass, and a status where check="status".
    data = [
        of(ValueError, r"ids must lie in \[0, 4\), got 4 in row 1", ids=torch.tensor([0, 4])),
        of(ValueError, r"ids must lie in \[0, 4\), got -1 in row 0", ids=torch.tensor([-1, 4])),
        *[
            of(ValueError, message, kept=(torch.tensor(ids, dtype=I32), torch.tensor(offsets)))
            for ids, offsets, message in (
                ([0, 1, 0], [0, 2, 4], "kept offsets must ascend from 0 to 3, got 2 and 4 for row 1"),
                ([0, 1, 0], [0, 2, 1], "kept offsets must ascend from 0 to 3, got 2 and 1 for row 1"),
                ([0, 1, 0], [0, 3, 3], "kept ids must ascend .* got 0 after 1 in row 0"),
                ([1, 1], [0, 2, 2], "kept ids must ascend .* got 1 after 1 in row 0"),
                ([0, 7], [0, 1, 2], r"kept ids must ascend within a row and lie in \[0, 4\), got 7 in row 1"),
                ([0], [0, 1, 1], "row 1 has status EMPTY"),
            )
        ],
    ]
    return before, data


SCORES, SCORE_DATA = of_scores(X)

of = refusing("importance_weight", fusedraw.importance_weight, logp_pi=torch.zeros(2), logp_mu=torch.zeros(2))
WEIGHTS = [
    of(TypeError, "logp_pi must be a torch.Tensor, got float", logp_pi=0.5),
    of(TypeError, "logp_mu must be floating point, got int64", logp_mu=IDS),
    of(ValueError, r"must broadcast, got \[2\] and \[3\]", logp_mu=torch.zeros(3)),
    of(ValueError, "logp_mu must be on cpu", logp_mu=torch.zeros(2, device="meta")),
    of(ValueError, r"mix_eps must be in \[0, 1\]", mix_eps=-0.1),
    of(ValueError, "check must be", check="no"),
    of(
        *(ValueError, r"at most 1 / \(1 - mix_eps\) = 1.25, got 2.71828 at \[1\]: logp_pi is not that"),
        logp_pi=torch.tensor([0.0, 1.0]),
        mix_eps=0.2,
    ),
]

of = refusing("Categorical", fusedraw.Categorical)
made = fusedraw.Categorical(logits=rows()[:3])
CATEGORICAL = [
    of(ValueError, "Categorical: give one of probs and logits|Categorical: ", "neither probs nor logits"),
    of(ValueError, "Categorical: ", probs=torch.ones(2), logits=torch.ones(2)),
    of(ValueError, "Categorical: ", logits=torch.tensor(1.0)),
    of(TypeError, "Categorical: ", probs=[0.5, 0.5]),
    *[
        of(ValueError, f"Categorical: each row of {name} must", validate_args=True, **{name: torch.tensor(x)})
        for name, x in (
            ("logits", [0.0, math.nan]),
            ("logits", [0.0, math.inf]),
            ("logits", [-math.inf, -math.inf]),
            ("probs", [0.5, -0.5]),
            ("probs", [0.0, 0.0]),
            ("probs", [0.5, math.nan]),
            ("probs", [1.0, math.inf]),
        )
    ],
    *[
        Refused(
            "Categorical",
            f"sample() with {what}",
            lambda more=more: made.sample(**more),
            error,
            "Categorical: ",
        )
        for what, more, error in (
            ("keys of 2 rows for 3", {"keys": KEYS[:2]}, ValueError),
            ("float32 keys", {"keys": torch.zeros(3, 2)}, TypeError),
            ("a list as keys", {"keys": [1, 2]}, TypeError),
            ("keys and seed", {"keys": KEYS[:3], "seed": 1}, ValueError),
            ("seed and generator", {"seed": 1, "generator": torch.Generator()}, ValueError),
            ("step alone", {"step": 1}, ValueError),
            ("seed=1.0", {"seed": 1.0}, TypeError),
            ("generator=1", {"generator": 1}, TypeError),
        )
    ],
]

bad = rows()
bad[2, 5] = NAN
FILTER_DATA = [
    top_k_mask(ValueError, "^top_k_mask: row 2 has status NAN", "NaN in row 2", logits=bad),
    top_p_mask(ValueError, "^top_p_mask: row 2 has status NAN", "NaN in row 2", logits=bad),
    top_k_renorm(ValueError, "^top_k_renorm: row 2 has status NAN", "NaN in row 2", probs=bad.abs()),
    top_p_renorm(
        *(ValueError, "^top_p_renorm: row 2 has status NAN", "NaN in row 2, from_logits=True"),
        probs=bad,
        from_logits=True,
    ),
]

REFUSED = [
    *of_softmax("softmax"),
    *of_softmax("log_softmax"),
    *(*FILTERS, *EDITS, *SCORES, *WEIGHTS, *CATEGORICAL),
]
assert (B, V) == (4, 70)  # as the patterns say
