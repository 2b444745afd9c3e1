# SPDX-License-Identifier: Apache-2.0
"""Why two conditions wrote different outputs: the logits, the settings of the draw, or the sampler.

The first token that differs is the fork: before it both conditions had seen the same tokens. There each
condition draws from its own logits and from the other's, with its own key and law, which says what moved:

    from equal logits both draw the same token   the logits moved the draw
    each draws its token from either's logits    the settings (law or key) moved it
    neither                                      both did
    logits, law and key equal, tokens not        the sampler: never, which every audit checks
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import median
from typing import Any

import numpy
import torch

from .decode import Drawn, draw
from .plan import KEY, LAW, Condition


def same_law(a: Condition, b: Condition) -> bool:
    """Whether equal logits must give equal tokens under both."""
    return all(getattr(a, name) == getattr(b, name) for name in (*LAW, *KEY))


def compare(
    a: Condition, b: Condition, first: Drawn, second: Drawn, seed_a: int, seed_b: int
) -> dict[str, Any]:
    """One output under a beside the same one under b (same prompt, same sample)."""
    shorter, longer = sorted((len(first.ids), len(second.ids)))
    differ = numpy.flatnonzero(first.ids[:shorter] != second.ids[:shorter])
    equal = shorter == longer and not len(differ)
    # an output that ended earlier without a differing token was cut by max_new_tokens: both are, or neither
    fork = int(differ[0]) if len(differ) else shorter
    found: dict[str, Any] = {
        "equal": equal,
        "length": longer,
        "fork": None if equal else fork,
        "agreement": 1.0 if equal else fork / longer,
    }
    found |= _logits(first.logits[: fork + 1], second.logits[: fork + 1])
    if len(differ):
        found |= _fork(a, b, first, second, seed_a, seed_b, fork)
    return found


def _logits(a: torch.Tensor, b: torch.Tensor) -> dict[str, Any]:
    """Where logits first differ, and by how much up to the fork."""
    steps = min(len(a), len(b))
    step = next((t for t in range(steps) if not same_bits(a[t], b[t])), None)
    if step is None:
        return {"first_logit_difference": None, "difference": 0.0, "ulp": 0}
    return {
        "first_logit_difference": step,
        "difference": max(_difference(a[t], b[t]) for t in range(step, steps)),
        "ulp": max(ulps(a[t], b[t]) for t in range(step, steps)),
    }


def _fork(a, b, first, second, seed_a, seed_b, fork) -> dict[str, Any]:
    x, y = first.logits[fork], second.logits[fork]
    a_on_y = int(draw(a, seed_a, y[None], fork)[0])
    b_on_x = int(draw(b, seed_b, x[None], fork)[0])
    token_a, token_b = int(first.ids[fork]), int(second.ids[fork])
    equal_bits = same_bits(x, y)
    return {
        "token_a": token_a,
        "token_b": token_b,
        "logits_equal": equal_bits,
        "fork_difference": _difference(x, y),
        "fork_ulp": ulps(x, y),
        "margin_a": margin(x),
        "margin_b": margin(y),
        "token_of_a_on_logits_of_b": a_on_y,
        "same_on_same_logits": a_on_y == token_b and b_on_x == token_a,
        "same_on_other_logits": a_on_y == token_a and b_on_x == token_b,
        "sampler": equal_bits and same_law(a, b),
    }


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.equal(a.view(torch.int32), b.view(torch.int32))


def _difference(a: torch.Tensor, b: torch.Tensor) -> float:
    """Largest difference where both are finite."""
    gap = (a - b).abs()
    return float(torch.where(torch.isfinite(gap), gap, 0.0).max())


def ulps(a: torch.Tensor, b: torch.Tensor) -> int:
    """Largest distance in float32 steps; -0 and +0 are the same number."""

    def ordered(x):
        bits = x.view(torch.int32).long()
        return torch.where(bits < 0, -(bits & 0x7FFFFFFF), bits)

    return int((ordered(a) - ordered(b)).abs().max())


def margin(row: torch.Tensor) -> float:
    """Best logit minus the second best."""
    best = row.topk(min(2, len(row))).values
    return float(best[0] - best[-1]) if len(best) > 1 else 0.0


# Over all outputs


def summary(a: Condition, b: Condition, found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One line of the report's table: what `compare` found for every output that both conditions have."""
    forks = [c for c in found if "token_a" in c]
    first = [c["first_logit_difference"] for c in found if c["first_logit_difference"] is not None]
    line: dict[str, Any] = {
        "a": a.name,
        "b": b.name,
        "compared": len(found),
        "equal": sum(c["equal"] for c in found),
        "agreement": _mean(c["agreement"] for c in found),
        "forks": len(forks),
        "first_difference_median": _median(c["fork"] for c in forks),
        "logits_equal": sum(c["logits_equal"] for c in forks),
        "same_logits_same_token": sum(c["same_on_same_logits"] for c in forks),
        "other_logits_same_token": sum(c["same_on_other_logits"] for c in forks),
        "sampler": sum(c["sampler"] for c in forks),
        "max_difference": max((c["difference"] for c in found), default=0.0),
        "max_ulp": max((c["ulp"] for c in found), default=0),
        "median_margin": _median(c["margin_a"] for c in forks),
        "first_logit_difference_median": _median(first),
    }
    line["blame"] = blame(forks)
    line["says"] = sentence(a, b, line)
    return line


def blame(forks: Sequence[dict[str, Any]]) -> str:
    if not forks:
        return "none"
    if any(c["sampler"] for c in forks):
        return "sampler"
    if all(c["same_on_other_logits"] for c in forks):
        return "settings"
    if all(c["same_on_same_logits"] for c in forks):
        return "logits"
    return "both"


def sentence(a: Condition, b: Condition, line: dict[str, Any]) -> str:
    """The line in words."""
    pair = f"{a.name} and {b.name}"
    count, forks, equal = line["compared"], line["forks"], line["equal"]
    if not count:
        return f"{pair} have no output in common."
    if line["blame"] == "none":
        moved = line["first_logit_difference_median"] is not None
        how = f", though the logits differ by up to {line['max_difference']:.2g}" if moved else ", logits too"
        return f"{pair} wrote the same {count} outputs{how}."
    head = f"{pair} wrote {count - equal} of {count} outputs differently: "
    if line["blame"] == "logits":
        return head + (
            f"at each fork the logits had moved (by up to {line['max_difference']:.2g}), and from equal "
            f"logits both draw the same token. The model's arithmetic is to blame, not the sampler."
        )
    if line["blame"] == "settings":
        what, where = ", ".join(b.changes(a)), f"at each of {forks} forks"
        if line["logits_equal"] == forks:
            return head + f"{where} the logits are equal bit for bit; {what} moved the draw."
        return head + f"{where} either's logits give each its own token; {what} moved the draw."
    if line["blame"] == "sampler":
        return head + f"{line['sampler']} times from equal logits, law and key. This is a bug in fusedraw."
    return head + (
        f"at {line['other_logits_same_token']} of {forks} forks only the settings moved the draw, at "
        f"{line['same_logits_same_token']} only the logits, at the others both."
    )


def _mean(values: Iterable[float]) -> float | None:
    found = list(values)
    return sum(found) / len(found) if found else None


def _median(values: Iterable[float]) -> float | None:
    found = list(values)
    return float(median(found)) if found else None
