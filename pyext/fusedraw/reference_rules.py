# SPDX-License-Identifier: Apache-2.0
"""R1 of edits and of the rules beyond top-k, top-p and min-p: docs/law.md, sections 18 and 19.

As in `reference`: Python integers and floats, one short function per rule, one row at a time.
"""

import math
from dataclasses import dataclass, replace

from .reference import (
    BAD_PARAM,
    ONE,
    XTC,
    Params,
    RowResult,
    ceil_mul,
    exp2p,
    fixed,
    fl32,
    kept_set,
    out32,
    sample_row,
    weigh,
)

_MOST_GAP = 512.0
_FLT_MAX = float.fromhex("0x1.fffffep+127")


@dataclass
class Rules:
    """Rules and penalties of a row, as given; rounded to float32 before anything looks at them."""

    top_n_sigma: float = 0.0
    typical_p: float = 1.0
    epsilon_cutoff: float = 0.0
    eta_cutoff: float = 0.0
    xtc_threshold: float = 0.1
    xtc_probability: float = 0.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    temperature_last: bool = False

    def __post_init__(self):
        for name in self.__dataclass_fields__:
            if name != "temperature_last":
                setattr(self, name, out32(getattr(self, name)))
        shares = (self.typical_p, self.epsilon_cutoff, self.eta_cutoff)
        shares += (self.xtc_threshold, self.xtc_probability)
        self.bad = not (
            self.top_n_sigma >= 0
            and all(0 <= p <= 1 for p in shares)
            and 0 < self.repetition_penalty <= _FLT_MAX
            and abs(self.frequency_penalty) <= _FLT_MAX
            and abs(self.presence_penalty) <= _FLT_MAX
        )


# Edits


def edited(x, rules, history=(), prompt=(), suppress=(), bias=()):
    """(x with every edit in place, whether the lists are good). bias: pairs (id, value).

    Negative ids are padding. An id beyond the row, one that stands twice in the bias, and a bias that is
    NaN or +inf are not.
    """
    lists = [[i for i in ids if i >= 0] for ids in (history, prompt, suppress)]
    pairs = [(i, fl32(b)) for i, b in bias if i >= 0]
    named = [i for ids in lists for i in ids] + [i for i, _ in pairs]
    twice = len({i for i, _ in pairs}) < len(pairs)
    if twice or any(i >= len(x) for i in named) or not all(b < math.inf for _, b in pairs):
        return x, False
    history, prompt, suppress = lists
    values, biases = list(x), dict(pairs)
    for i in set(named):
        y = values[i]
        if i in biases:
            y = fl32(y + biases[i])
        if i in history or i in prompt:
            penalty = rules.repetition_penalty
            y = fl32(y / penalty) if y > 0 else fl32(y * penalty)
        if count := history.count(i):
            y = fl32(y - fl32(rules.frequency_penalty * count))
            y = fl32(y - rules.presence_penalty)
        removed = i in suppress or biases.get(i) == -math.inf
        values[i] = -math.inf if removed else y
    return values, True


# Rules. Each takes `kept` in the order and gives what is left of it.


def sums(kept, law):
    """(S, G): the weight of K and the sum of -t * e, as in the entropy."""
    heavy = [i for i in kept if law.w[i] > 0]
    return sum(law.w[i] for i in heavy), sum(fixed(fl32(-law.t[i] * law.e[i])) for i in heavy)


def top_n_sigma(order, x, n_sigma):
    """x >= max - n * sigma, sigma the standard deviation of the valid logits in units of 2^-13."""
    if not 0 < n_sigma < math.inf:
        return order
    best = x[order[0]]
    gaps = {i: fl32(best - x[i]) for i in order}
    q = [round(min(gap, _MOST_GAP) * 2**13) for gap in gaps.values()]
    spread = len(q) * sum(v * v for v in q) - sum(q) ** 2
    reach = n_sigma * (math.sqrt(float(spread)) / float(len(q)) * 2.0**-13)
    return [i for i in order if gaps[i] <= reach]


def typical(kept, law, share):
    """The tokens whose surprise lies nearest to the mean, up to a share of the weight, ties kept."""
    s, g = sums(kept, law)
    center = fl32(float(g) / float(s))
    distance = {i: abs(fl32(-law.t[i] - center)) for i in kept}
    target, mass, reach = ceil_mul(share, s), 0, 0.0
    for i in sorted(kept, key=lambda i: distance[i]):
        mass, reach = mass + law.w[i], distance[i]
        if mass >= target:
            break
    return [i for i in kept if distance[i] <= reach]


def at_least(kept, law, weight):
    """Tokens of that weight or more; the best ones always."""
    weight = min(weight, law.w[kept[0]])
    return [i for i in kept if law.w[i] >= weight]


def epsilon_cutoff(kept, law, epsilon):
    return at_least(kept, law, ceil_mul(epsilon, sums(kept, law)[0]))


def eta_cutoff(kept, law, epsilon):
    """p >= min(epsilon, sqrt(epsilon) * exp(-entropy)) (Hewitt et al. 2022); log S cancels."""
    s, g = sums(kept, law)
    bound = math.sqrt(epsilon) * (ONE * exp2p(-fl32(float(g) / float(s))))
    return at_least(kept, law, min(ceil_mul(epsilon, s), math.ceil(bound)))


def xtc(kept, law, threshold):
    """Without the tokens of at least that share of the weight, the last of them excepted."""
    least = max(ceil_mul(threshold, sums(kept, law)[0]), 1)
    n = sum(law.w[i] >= least for i in kept)
    return kept[max(n - 1, 0) :]


def choose(x, law, params, noise, rules):
    """K under the filters of `params` and the rules, in the order."""
    if law.greedy:
        return kept_set(x, law, params)
    seen = weigh(x, law.order, 1.0) if rules.temperature_last else law
    among = replace(seen, order=top_n_sigma(seen.order, x, rules.top_n_sigma))  # what filters choose from
    kept = kept_set(x, among, params)
    if rules.typical_p < 1:
        kept = typical(kept, seen, rules.typical_p)
    if rules.epsilon_cutoff > 0:
        kept = epsilon_cutoff(kept, seen, rules.epsilon_cutoff)
    if rules.eta_cutoff > 0:
        kept = eta_cutoff(kept, seen, rules.eta_cutoff)
    if noise.r64(XTC, 0) < ceil_mul(rules.xtc_probability, 1 << 64):
        kept = xtc(kept, seen, rules.xtc_threshold)
    return [i for i in kept if law.w[i] > 0]


def process_row(x, *, history=(), prompt=(), suppress=(), bias=(), rules=None, top_n=0, **rest):
    """`reference.sample_row` after edits and with rules. rules: a Rules; rest: as for sample_row."""
    rules = rules or Rules()
    names = ("temperature", "top_k", "top_p", "min_p", "mix_eps", "mix_support", "filter_order", "ties")
    params = Params(**{name: rest[name] for name in names if name in rest})
    x, good = edited([v + 0.0 for v in x], rules, history, prompt, suppress, bias)
    if params.bad or rules.bad or not good:
        return RowResult(BAD_PARAM, top_ids=[-1] * top_n, top_logps=[math.nan] * top_n)

    def rule(x, law, params, noise):
        return choose(x, law, params, noise, rules)

    return sample_row(x, top_n=top_n, choose=rule, **rest)
