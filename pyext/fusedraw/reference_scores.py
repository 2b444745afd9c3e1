# SPDX-License-Identifier: Apache-2.0
"""R1 of `token_logprob` (docs/law.md, section 15): the score of a given token and its gradient, row by row.

Standard library only, on the rules of `fusedraw.reference`.
"""

from dataclasses import dataclass, field
from itertools import pairwise

from .reference import (
    BAD_PARAM,
    FLT_MAX,
    INF,
    LN2,
    NOT_A_NUMBER,
    OK,
    ONE,
    Params,
    Weights,
    entropies,
    fixed,
    fl32,
    kept_set,
    mixture_prob,
    neg_log,
    out32,
    read,
    weigh,
)


@dataclass
class Score:
    """What `token_logprob` knows of a row; the defaults are a bad row's. law_kept: the law that K shares."""

    status: int
    logp: float = NOT_A_NUMBER
    entropy: float = NOT_A_NUMBER
    law: Weights | None = None
    law_kept: Weights | None = None
    kept: list = field(default_factory=list)
    share: float = 0.0  # (1 - mix_eps) * pi(i) / mu(i): how much of the token's probability moves with pi


def well_formed(kept, vocab):
    """Whether a recorded kept set holds ids of the row, ascending, none twice."""
    return all(0 <= i < vocab for i in kept) and all(i < j for i, j in pairwise(kept))


def score_row(x, token, *, mask=None, kept=None, entropy=True, **params):
    """The Score of `token`. `kept`, ids as recorded: K is the valid tokens among them, whatever the filters
    say, and no other token is looked at unless the entropy or U = valid ask for the row."""
    p = Params(**params)
    if p.bad or not 0 <= token < len(x) or (kept is not None and not well_formed(kept, len(x))):
        return Score(BAD_PARAM)
    over_valid = p.mix_support == "valid" and p.mix_eps > 0
    law = clean = None
    if kept is None or entropy or over_valid:
        status, clean, order = read(x, mask, p)
        if status != OK:
            return Score(status)
        law = weigh(clean, order, p.temperature)
    if kept is None:
        law_kept, chosen = law, kept_set(clean, law, p)
    else:
        listed = set(kept)
        status, clean, chosen = read(x, [i in listed and (mask is None or mask[i]) for i in range(len(x))], p)
        if status != OK:
            return Score(status)
        law_kept = weigh(clean, chosen, p.temperature)
    support = law.order if over_valid else chosen
    mu = mixture_prob(law_kept, chosen, support, p.mix_eps, token)
    score = Score(OK, -INF, 0.0, law, law_kept, chosen)
    if mu > 0:
        score.logp = out32(-neg_log(mu))
        if token in chosen:
            pi = float(law_kept.w[token]) / float(sum(law_kept.w[j] for j in chosen))
            score.share = (1 - p.mix_eps) * pi / mu
    if entropy:
        score.entropy = out32(entropies(law)[0])
    return score


def score_grad_row(x, token, grad_logp, grad_entropy=None, *, mask=None, kept=None, entropy=True, **params):
    """The gradient of grad_logp * logp + grad_entropy * entropy in x (float32 values), K held fixed."""
    score = score_row(x, token, mask=mask, kept=kept, entropy=entropy, **params)
    p, grad = Params(**params), [0.0] * len(x)
    if score.status != OK or p.temperature == 0 or p.temperature > 2.0**64:
        return grad
    law, law_kept, slope = score.law, score.law_kept, min(1 / p.temperature, FLT_MAX)
    rate = score.share * slope
    total = float(sum(law_kept.w[j] for j in score.kept))
    own, each = rate * ((total - float(law_kept.w[token])) / total), rate * (ONE / total)
    own, each = (factor32(grad_logp, f) for f in (own, each))
    if grad_entropy is not None:
        spread = factor32(grad_entropy, slope * LN2 * (ONE / float(law.total)))
        mean = sum(fixed(fl32(-t * e)) for t, e, w in zip(law.t, law.e, law.w, strict=True) if w > 0)
        mean = fl32(float(mean) / float(law.total))
    for j in range(len(x)):
        moves = own if j == token else 0.0 - fl32(each * law_kept.e[j])
        if j in score.kept and law_kept.w[j] > 0:
            grad[j] = moves
        if grad_entropy is not None and law.w[j] > 0:
            grad[j] = fl32(grad[j] - fl32(spread * fl32(law.e[j] * fl32(law.t[j] + mean))))
    return grad


def factor32(grad, factor):
    """grad * factor in float32; what does not move stays put, whatever the gradient that arrives."""
    return out32(grad * factor) if factor != 0 else 0.0
