# SPDX-License-Identifier: Apache-2.0
"""Data errors: the row gets a status and no result, and the rows beside it are as without it."""

import fusedraw
import torch
from fusedraw import Status
from input_cases import EVERYTHING, INF, KEYS, NAN, B, V, probs, rows

from .rows import BAD, BadRow, one_bad, spoiling, status_message

I32, I64 = torch.int32, torch.int64


def edited(x=None, **at):
    """Rows with row BAD changed: i<index>=value."""
    x = rows() if x is None else x.clone()
    for index, value in at.items():
        x[BAD, ..., int(index[1:])] = value
    return x


def filled(value, x=None):
    x = rows() if x is None else x.clone()
    x[BAD] = value
    return x


def mask_of_bad(*allowed):
    """A mask [B, V] that allows everything but, in row BAD, only these."""
    mask = torch.ones(B, V, dtype=torch.bool)
    mask[BAD] = False
    mask[BAD, list(allowed)] = True
    return mask


of = spoiling("sample", fusedraw.sample, logits=rows(), keys=KEYS, returns=EVERYTHING, top_n=2)
SAMPLE = [
    *[of(Status.NAN, f"NaN at {i}", logits=edited(**{f"i{i}": NAN})) for i in range(V)],
    *[of(Status.POS_INF, f"+inf at {i}", logits=edited(**{f"i{i}": INF})) for i in range(V)],
    of(Status.NAN, "NaN before +inf", logits=edited(i3=INF, i60=NAN)),
    of(Status.NAN, "all NaN", logits=filled(NAN)),
    of(Status.EMPTY, "all -inf", logits=filled(-INF)),
    of(Status.POS_INF, "all +inf", logits=filled(INF)),
    of(Status.EMPTY, "mask all", mask=mask_of_bad()),
    of(Status.EMPTY, "mask all but -inf", logits=edited(i7=-INF), mask=mask_of_bad(7)),
    of(Status.EMPTY, "mask all but -inf, top_k=1", logits=edited(i7=-INF), mask=mask_of_bad(7), top_k=1),
    of(Status.NAN, "mask all but NaN", logits=edited(i7=NAN), mask=mask_of_bad(7)),
    of(Status.EMPTY, "greedy all -inf", logits=filled(-INF), temperature=0.0),
    of(Status.NAN, "greedy NaN", logits=edited(i9=NAN), temperature=0.0),
    of(Status.NAN, "top_k NaN", logits=edited(i9=NAN), top_k=1),
    of(Status.BAD_PARAM, "temperature -1", temperature=one_bad(1.0, -1.0)),
    of(Status.BAD_PARAM, "temperature NaN", temperature=one_bad(1.0, NAN)),
    of(Status.BAD_PARAM, "temperature before NaN", logits=edited(i9=NAN), temperature=one_bad(1.0, -1.0)),
    of(Status.BAD_PARAM, "top_k -2", top_k=one_bad(0, -2, I64)),
    of(Status.BAD_PARAM, "top_k int64 min", top_k=one_bad(0, -(2**63), I64)),
    of(Status.BAD_PARAM, "top_p 1.5", top_p=one_bad(1.0, 1.5)),
    of(Status.BAD_PARAM, "top_p -0.5", top_p=one_bad(1.0, -0.5)),
    of(Status.BAD_PARAM, "top_p NaN", top_p=one_bad(1.0, NAN)),
    of(Status.BAD_PARAM, "min_p 1.5", min_p=one_bad(0.0, 1.5)),
    of(Status.BAD_PARAM, "min_p -0.5", min_p=one_bad(0.0, -0.5)),
    of(Status.BAD_PARAM, "min_p NaN", min_p=one_bad(0.0, NAN)),
    of(Status.BAD_PARAM, "mix_eps 1.5", mix_eps=one_bad(0.0, 1.5)),
    of(Status.BAD_PARAM, "mix_eps -0.5", mix_eps=one_bad(0.0, -0.5)),
    of(Status.BAD_PARAM, "mix_eps NaN", mix_eps=one_bad(0.0, NAN)),
]
HISTORY = torch.arange(B * 3).view(B, 3)
of = spoiling("sample", fusedraw.sample, logits=rows(), keys=KEYS, returns=("status", "logp"))
PROCESSED = [
    of(
        Status.BAD_PARAM,
        f"an id of history that is none: {bad}",
        history=filled(bad, HISTORY),
        presence_penalty=0.1,
    )
    for bad in (V, 2**40)
] + [
    of(Status.BAD_PARAM, "repetition_penalty 0", history=HISTORY, repetition_penalty=one_bad(1.0, 0.0)),
    of(Status.BAD_PARAM, "repetition_penalty NaN", history=HISTORY, repetition_penalty=one_bad(1.0, NAN)),
    of(Status.BAD_PARAM, "frequency_penalty inf", history=HISTORY, frequency_penalty=one_bad(0.0, INF)),
    of(Status.BAD_PARAM, "presence_penalty NaN", history=HISTORY, presence_penalty=one_bad(0.0, NAN)),
    of(Status.BAD_PARAM, "typical_p 1.5", typical_p=one_bad(1.0, 1.5)),
    of(Status.BAD_PARAM, "epsilon_cutoff -0.1", epsilon_cutoff=one_bad(0.0, -0.1)),
    of(Status.BAD_PARAM, "eta_cutoff NaN", eta_cutoff=one_bad(0.0, NAN)),
    of(Status.BAD_PARAM, "top_n_sigma -1", top_n_sigma=one_bad(0.0, -1.0)),
    of(Status.BAD_PARAM, "xtc_probability 2", xtc_threshold=0.1, xtc_probability=one_bad(0.5, 2.0)),
    of(Status.EMPTY, "a bias of -inf on every token", logit_bias=[{}, {}, dict.fromkeys(range(V), -INF), {}]),
    of(
        Status.EMPTY,
        "every token suppressed",
        suppress=torch.where(torch.arange(B)[:, None] == BAD, torch.arange(V), -1),
    ),
    of(Status.EMPTY, "every token denied", deny_mask=~mask_of_bad()),
    of(Status.NAN, "NaN, with a rule", logits=edited(i5=NAN), typical_p=0.9),
    of(Status.POS_INF, "+inf, with a rule", logits=edited(i5=INF), top_n_sigma=1.0),
]


def of_rows(name, function, argument, x, cases, what="", **good):
    """Rows of a function of one argument of rows."""
    of = spoiling(name, function, **{argument: x}, **good)
    return [of(status, f"{words}{what}", **{argument: bad}) for words, status, bad in cases]


LOGITS = [
    ("NaN", Status.NAN, edited(i5=NAN)),
    ("+inf", Status.POS_INF, edited(i5=INF)),
    ("all -inf", Status.EMPTY, filled(-INF)),
]
PROBS = [
    ("NaN", Status.NAN, edited(probs(), i5=NAN)),
    ("+inf", Status.POS_INF, edited(probs(), i5=INF)),
    ("all 0", Status.EMPTY, filled(0.0, probs())),
    ("a weight of -0.5", Status.BAD_PARAM, edited(probs(), i5=-0.5)),
]
DOUBLE = [(words, status, x.double()) for words, status, x in LOGITS]
OF_ROWS = [
    *of_rows("softmax", fusedraw.softmax, "logits", rows(), LOGITS),
    *of_rows("softmax", fusedraw.softmax, "logits", rows().double(), DOUBLE, ", float64"),
    *of_rows("log_softmax", fusedraw.log_softmax, "logits", rows(), LOGITS),
    *of_rows("log_softmax", fusedraw.log_softmax, "logits", rows().double(), DOUBLE, ", float64"),
    *of_rows("sample_probs", fusedraw.sample_probs, "probs", probs(), PROBS, keys=KEYS, returns="status"),
    *of_rows(
        "multinomial", fusedraw.multinomial, "input", probs(), PROBS, ", 1 draw", num_samples=1, keys=KEYS
    ),
    *of_rows(
        "multinomial", fusedraw.multinomial, "input", probs(), PROBS, ", 3 draws", num_samples=3, keys=KEYS
    ),
    *of_rows(
        "multinomial",
        fusedraw.multinomial,
        "input",
        probs(),
        PROBS,
        ", 3 with replacement",
        num_samples=3,
        replacement=True,
        keys=KEYS,
    ),
    spoiling("softmax", fusedraw.softmax, logits=rows())(
        Status.BAD_PARAM, "temperature NaN", temperature=one_bad(1.0, NAN)
    ),
]

IDS = torch.tensor([1, 2, 3, 4])
of = spoiling("token_logprob", fusedraw.token_logprob, logits=rows(), ids=IDS, returns=("entropy", "status"))
SCORES = [
    of(Status.NAN, "NaN", logits=edited(i5=NAN)),
    of(Status.POS_INF, "+inf", logits=edited(i5=INF)),
    of(Status.EMPTY, "all -inf", logits=filled(-INF)),
    of(
        Status.BAD_PARAM,
        f"an id of {V}",
        r"token_logprob: ids must lie in \[0, 70\), got 70 in row 2",
        ids=torch.tensor([1, 2, V, 4]),
    ),
    of(
        Status.BAD_PARAM,
        "an id of -1",
        r"token_logprob: ids must lie in \[0, 70\), got -1 in row 2",
        ids=torch.tensor([1, 2, -1, 4]),
    ),
    of(Status.BAD_PARAM, "top_p 1.5", top_p=one_bad(1.0, 1.5)),
    of(Status.BAD_PARAM, "mix_eps NaN", mix_eps=one_bad(0.0, NAN)),
]

of = spoiling(
    "mixture", fusedraw.mixture, members=[rows(), rows() * 2], keys=KEYS, returns=("status", "logp")
)
MIXTURE = [
    of(Status.NAN, "NaN in one member", members=[rows(), edited(i5=NAN)]),
    of(Status.POS_INF, "+inf in one member", members=[edited(i5=INF), rows()]),
    of(Status.EMPTY, "all -inf in every member", members=[filled(-INF), filled(-INF)]),
    of(Status.EMPTY, "mask all", mask=mask_of_bad()),
    of(Status.BAD_PARAM, "temperature -1", temperature=one_bad(1.0, -1.0)),
    of(Status.BAD_PARAM, "strength NaN", mode="cfg", strength=one_bad(1.0, NAN)),
]

TARGET = torch.randn(B, 3, V, generator=torch.Generator().manual_seed(3))
DRAFT = TARGET[:, :2].clone()
BEST = DRAFT.argmax(-1)
of = spoiling(
    *("verify", fusedraw.verify),
    draft_ids=BEST,
    draft_logits=DRAFT,
    target_logits=TARGET,
    keys=KEYS,
    returns="logp",
)
VERIFY = [
    of(Status.BAD_PARAM, f"a draft of {V}", draft_ids=edited(BEST, i0=V)),
    of(Status.BAD_PARAM, "a draft of -1", draft_ids=edited(BEST, i0=-1)),
    of(Status.POS_INF, "+inf in the target", target_logits=edited(TARGET, i5=INF)),
    of(Status.NAN, "NaN in the draft's logits", draft_logits=edited(DRAFT, i5=NAN)),
    of(Status.EMPTY, "all -inf in the target", target_logits=filled(-INF, TARGET)),
    of(Status.BAD_PARAM, "temperature NaN", temperature=one_bad(1.0, NAN)),
    of(Status.BAD_PARAM, "draft_min_p 2", draft_min_p=one_bad(0.0, 2.0)),
    of(Status.BAD_PARAM, "n_draft 3 of 2", n_draft=one_bad(2, 3, I64)),
]

EXPERTS = rows()[:, :8]
of = spoiling("route", fusedraw.route, logits=EXPERTS, k=4, noise="gumbel", keys=KEYS)
ROUTE = [
    of(Status.NAN, "NaN", logits=edited(EXPERTS, i5=NAN)),
    of(Status.POS_INF, "+inf", logits=edited(EXPERTS, i5=INF)),
    of(
        Status.EMPTY,
        "fewer finite logits than k",
        logits=edited(EXPERTS, i0=-INF, i1=-INF, i2=-INF, i3=-INF, i4=-INF),
    ),
    of(Status.BAD_PARAM, "temperature NaN", temperature=one_bad(1.0, NAN)),
    of(Status.BAD_PARAM, "mix_eps -0.1", mix_eps=one_bad(0.0, -0.1)),
    spoiling("route", fusedraw.route, logits=EXPERTS, k=4, noise="jitter", keys=KEYS)(
        Status.BAD_PARAM, "jitter 1.5", jitter=one_bad(0.5, 1.5)
    ),
    spoiling("route", fusedraw.route, logits=EXPERTS, k=2)(
        Status.BAD_PARAM,
        "a replayed id of 8 experts that is 8",
        replay_ids=edited(IDS.view(B, 1).expand(B, 2) - 1, i1=8),
    ),
]


def sampler(status, what, logits):
    """A row of the module, whose `check` is a setting."""

    def call(rows, check):
        x = logits if rows is None else logits[rows]
        keys = KEYS if rows is None else KEYS[rows]
        return fusedraw.Sampler(top_p=0.5, check=check, returns="status")(x, keys=keys)

    return BadRow("Sampler", what, status, call, status_message("sample", status))


SAMPLER = [sampler(status, what, x) for what, status, x in LOGITS]
ROWS = [*SAMPLE, *PROCESSED, *OF_ROWS, *SCORES, *MIXTURE, *VERIFY, *ROUTE, *SAMPLER]
