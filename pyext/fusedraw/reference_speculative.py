# SPDX-License-Identifier: Apache-2.0
"""R1 of `verify` (docs/law.md, section 20): drafts accepted, or replaced by a draw from the residual, in
Python integers. The definition that every engine is compared with, by equality. Standard library only.
"""

from dataclasses import dataclass, field

from . import reference as r1
from .reference import ACCEPT, BAD_PARAM, COIN, NOT_A_NUMBER, OK, RECOVERY, TARGET


@dataclass
class Side:
    """One of the two models: logits [positions][V], masks (a list per position, or None), parameters."""

    x: list
    params: dict = field(default_factory=dict)  # temperature, top_k, top_p, min_p, filter_order, ties
    mask: list | None = None

    def at(self, position):
        """(status, weights of the kept set by id, 0 elsewhere) at a position."""
        params = r1.Params(**self.params)
        mask = None if self.mask is None else self.mask[position]
        status, x, order = r1.read(self.x[position], mask, params)
        if status != OK:
            return status, []
        law = r1.weigh(x, order, params.temperature)
        kept = set(r1.kept_set(x, law, params))
        return OK, [w if i in kept else 0 for i, w in enumerate(law.w)]

    @property
    def bad(self):
        params = r1.Params(**self.params)
        return params.bad or params.mix_eps != 0


@dataclass
class VerifyResult:
    """Of one row, filled up to G + 1 tokens with -1 and NaN. Floats are float32 values."""

    status: int
    n_accepted: int
    ids: list
    logp: list


def accepts(r64, w, target_sum, v, draft_sum):
    """r64 / 2^64 < (w / target_sum) / (v / draft_sum)."""
    return r64 * v * target_sum < w * draft_sum << 64


def residuals(w, v):
    """max(0, p - q) by id, in units of 1 / (sum w * sum v)."""
    s, q = sum(w), sum(v)
    return [max(0, a * q - b * s) for a, b in zip(w, v, strict=True)]


def log_prob(w, i):
    return r1.out32(-r1.neg_log(float(w[i]) / float(sum(w))))


def verify_row(draft_ids, draft, target, *, key=(0, 0), n_draft=None, forced=None):
    """The verdict on one row's drafts.

    draft_ids: G ints; draft: a Side of G positions, target: one of G + 1; key: (seed, offset) of position 0;
    n_draft: how many drafts there are, None: all; forced: see reference.Noise.
    """
    drafts = len(draft_ids)
    n = drafts if n_draft is None else n_draft
    bad_ids, bad_logp = [-1] * (drafts + 1), [NOT_A_NUMBER] * (drafts + 1)

    def noise(position, domain):
        return r1.Noise((key[0], key[1] + position), domain, forced or {})

    def bad(status):
        return VerifyResult(status, 0, bad_ids, bad_logp)

    if draft.bad or target.bad or not 0 <= n <= drafts:
        return bad(BAD_PARAM)
    ids, logp = [], []
    for j, i in enumerate(draft_ids[:n]):
        if not 0 <= i < len(target.x[0]):
            return bad(BAD_PARAM)
        status, v = draft.at(j)
        if status != OK:
            return bad(status)
        if v[i] == 0:
            return bad(BAD_PARAM)
        status, w = target.at(j)
        if status != OK:
            return bad(status)
        accepted = accepts(noise(j, ACCEPT).r64(COIN, 0), w[i], sum(w), v[i], sum(v))
        if not accepted:
            left = residuals(w, v)
            i = r1.race(noise(j, RECOVERY), left, [k for k in range(len(left)) if left[k] > 0])
        ids.append(i)
        logp.append(log_prob(w, i))
        if not accepted:
            break
    if len(ids) == n and (n == 0 or accepted):
        mask = None if target.mask is None else target.mask[n]
        last = noise(n, TARGET)
        drawn = r1.sample_row(target.x[n], mask=mask, key=last.key, forced=forced, **target.params)
        if drawn.status != OK:
            return bad(drawn.status)
        ids.append(drawn.id)
        logp.append(drawn.logp)
    end = len(ids)
    return VerifyResult(OK, end - 1, ids + bad_ids[end:], logp + bad_logp[end:])
