# SPDX-License-Identifier: Apache-2.0
"""Entropy: the temperature at which a law has the entropy that one wants, and controllers built on it.

All entropies are in nats and of the tempered, untruncated law, as `fusedraw.sample` returns them. With
u = ln T, dH/du = varentropy (the variance of -ln p under the law): both come from one call.
"""

import math
import numbers
from typing import NamedTuple

import torch
from torch import Tensor

from .._checks import check_choice, check_rows
from .._settings import INF, device_of, setting
from .base import Controller, statistics

_COLD = 2.0**-100  # a temperature at which only ties of the best token have weight
_MAX_JUMP = 3.0  # longest first step in ln T: a factor of 20 in T
_MAX_ONLINE_JUMP = 1.0  # longest step in ln T from one token to the next: a factor of e in T
_FIRST_BRACKET = 20.0  # where a bisection of an open bracket looks in ln T
_ROUNDING = 1e-6  # relative, of the entropies that the engine returns in float32
_INFEASIBLE = ("raise", "clamp")


class EntropySolution(NamedTuple):
    """What `solve_temperature` found, one entry per row."""

    temperature: Tensor  # float32 [B]
    entropy: Tensor  # float32 [B], nats, at that temperature
    steps: Tensor  # int64 [B]: Newton steps taken from T = 1 (0: it was right at once)
    feasible: Tensor  # bool [B]


def solve_temperature(
    logits: Tensor,
    target,
    *,
    mask=None,
    tolerance: float = 0.002,
    max_steps: int = 10,
    infeasible: str = "raise",
) -> EntropySolution:
    """The temperature at which each row of logits has the entropy `target`.

    Newton's method in u = ln T on g(H) = ln((H - H0) / (H1 - H)), with H0 and H1 the entropies for T -> 0 and
    T -> inf: dg/du = varentropy * (1 / (H - H0) + 1 / (H1 - H)). g is nearly straight in u where H itself
    flattens out, so steps from the flat ends are right, too. A step that leaves the bracket of what was seen
    is replaced by its middle. Each step is one call of `fusedraw.sample` for its `entropy` and `varentropy`;
    the rows do not influence each other.

    Args:
        logits: [B, V] float32, bfloat16 or float16.
        target: nats, a number or a tensor of length 1 or B. Feasible: from the logarithm of the number of
            tokens tied for the best (T -> 0) to that of the number of valid tokens (T = inf).
        mask: as in `fusedraw.sample`.
        tolerance: relative error of the entropy at which a row is done.
        max_steps: most Newton steps. Two calls more find the feasible range, one the start at T = 1.
        infeasible: "raise" (reads one flag from the device) or "clamp": T = inf for a target that is too
            high, 2^-100 for one that is too low.

    A bad row (NaN, no valid token) gets temperature 1 and entropy NaN.

    Raises: ValueError naming row, target and feasible range; and for metadata what `fusedraw.sample` raises.
    """
    op = "solve_temperature"
    check_choice(op, "infeasible", infeasible, _INFEASIBLE)
    check_rows(op, "logits", logits)
    if logits.dim() != 2:
        raise ValueError(f"{op}: logits must be [B, V], got shape {list(logits.shape)}")
    if not isinstance(tolerance, numbers.Real) or not 0 < tolerance < 1:
        raise ValueError(f"{op}: tolerance must be in (0, 1), got {tolerance}")
    rows, device = logits.shape[0], device_of([logits])
    goal = setting(op, "target", target, device, 0.0)
    if goal.numel() not in (1, rows):
        raise ValueError(f"{op}: target must have length 1 or {rows}, got {goal.numel()}")
    return _solve(op, logits, goal.expand(rows), mask, float(tolerance), max_steps, infeasible)


def _solve(op, logits, goal, mask, tolerance, max_steps, infeasible) -> EntropySolution:
    def entropies(temperature):
        return statistics(logits, mask, temperature, ("entropy", "varentropy"))

    highest, lowest = entropies(INF)[0], entropies(_COLD)[0]
    too_high, too_low = goal > highest * (1 + _ROUNDING), goal < lowest * (1 - _ROUNDING)
    if infeasible == "raise":
        _refuse(op, goal, too_low, too_high, lowest, highest)
    u = torch.zeros_like(goal)
    below, above = u - INF, u + INF  # the bracket of u
    limit = u + _MAX_JUMP  # longest step, twice as long each time while one end of the bracket is open
    wanted = _stretched(goal, lowest, highest)
    steps = torch.zeros(goal.shape, dtype=torch.int64, device=goal.device)
    entropy, variance = entropies(u.exp().to(torch.float32))
    for _ in range(max_steps):
        done = (entropy - goal).abs() <= tolerance * goal
        done = done | too_low | too_high | entropy.isnan()
        if done.is_cpu and bool(done.all()):  # elsewhere looking would cost a sync
            break
        below = torch.where(entropy < goal, u, below)
        above = torch.where(entropy < goal, above, u)
        slope = variance * (1 / (entropy - lowest) + 1 / (highest - entropy))
        jump = torch.nan_to_num((wanted - _stretched(entropy, lowest, highest)) / slope, nan=0.0)
        # On the flat ends float32 entropies have no slope left: away from there.
        jump = torch.where(entropy >= highest * (1 - _ROUNDING), -limit, jump)
        jump = torch.where(entropy <= lowest + highest * _ROUNDING, limit, jump)
        aim = u + torch.minimum(torch.maximum(jump, -limit), limit)
        limit = torch.where(below.isinf() | above.isinf(), 2 * limit, limit)
        middle = (below.clamp(min=-_FIRST_BRACKET) + above.clamp(max=_FIRST_BRACKET)) / 2
        aim = torch.where((aim > below) & (aim < above), aim, middle)
        u = torch.where(done, u, aim)
        steps += ~done
        entropy, variance = entropies(u.exp().to(torch.float32))
    # The ends themselves: reached at T = inf and T -> 0, which no finite u is.
    at_end = torch.where(goal >= highest * (1 - _ROUNDING), INF, u.exp())
    temperature = torch.where(goal <= lowest * (1 + _ROUNDING), _COLD, at_end)
    temperature = torch.where(entropy.isnan(), 1.0, temperature)  # a bad row: not for its temperature
    entropy = torch.where(temperature == INF, highest, torch.where(temperature == _COLD, lowest, entropy))
    feasible = ~(too_low | too_high)
    return EntropySolution(temperature.to(torch.float32), entropy.to(torch.float32), steps, feasible)


def _stretched(entropy: Tensor, lowest: Tensor, highest: Tensor) -> Tensor:
    return torch.log(entropy - lowest) - torch.log(highest - entropy)


def _refuse(op, goal, too_low, too_high, lowest, highest) -> None:
    wrong = too_low | too_high
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0])
        reason = (
            "the logarithm of the number of valid tokens"
            if too_high[row]
            else "the logarithm of the number of tokens tied for the best"
        )
        raise ValueError(
            f"{op}: a target entropy of {float(goal[row]):.6g} nats is infeasible in row {row}: it lies in "
            f"[{float(lowest[row]):.6g}, {float(highest[row]):.6g}], whose end is {reason}"
        )


class TargetEntropy(Controller):
    """Every token is drawn at the temperature at which its law has the entropy `target`.

    Each step solves for T (`solve_temperature`: 2 + 1 + usually 2 to 4 passes over the logits), so the
    entropy is held token by token, and a row's draw is still a function of its logits and its key. For the
    running mean alone, without more passes, see `TargetMeanEntropy`.

    Args (numbers, or tensors of length 1 or B):
        target: nats, >= 0. Infeasible above ln(vocab_size): ValueError.
        vocab_size: V.
        min_temperature, max_temperature: T is kept between them, even if the target is missed.
        tolerance, max_steps: as in `solve_temperature`.
        infeasible: what a step does whose law cannot have the target (a grammar that allows one token):
            "clamp" (default) or "raise", which on CUDA waits for the device.
    """

    returns = ("entropy",)
    sets = ("temperature",)

    def __init__(
        self,
        target,
        *,
        vocab_size: int,
        rows: int = 1,
        min_temperature=_COLD,
        max_temperature=2.0**64,
        tolerance: float = 0.002,
        max_steps: int = 10,
        infeasible: str = "clamp",
        device=None,
    ):
        check_choice(self._op, "infeasible", infeasible, _INFEASIBLE)
        settings, ranges = _entropy_settings(target, min_temperature, max_temperature)
        super().__init__(rows, settings, ranges, device)
        _check_entropy_settings(self._op, self._settings, vocab_size)
        self._tolerance, self._max_steps, self._infeasible = tolerance, max_steps, infeasible

    def parameters(self, logits: Tensor, *, mask=None) -> dict[str, Tensor]:
        self._check_logits(logits)
        found = _solve(
            self._op,
            logits,
            self._settings["target"],
            mask,
            self._tolerance,
            self._max_steps,
            self._infeasible,
        )
        low, high = self._settings["min_temperature"], self._settings["max_temperature"]
        temperature = found.temperature.to(torch.float64)
        return {"temperature": torch.minimum(torch.maximum(temperature, low), high).to(torch.float32)}

    def update(self, out) -> None:
        """Nothing to learn: the next step solves anew."""


class TargetMeanEntropy(Controller):
    """The mean entropy over the tokens of a text is steered to `target`, from what `sample` returns anyway.

    One damped Newton step per token: `ln T += gain * (target - H) / max(v, floor)`, with H the entropy of the
    law just drawn from and v the running mean of its varentropy (`v = decay * v + (1 - decay) * varentropy`,
    first value: the first varentropy). Single tokens stay as sure or unsure as the model is. The errors sum
    up to `sum((target - H) / v) = (ln T_n - ln T_0) / gain` (but for steps longer than 1, which are cut),
    which is bounded, so their mean goes to 0 with the number of tokens.

    Args (numbers, or tensors of length 1 or B):
        target, vocab_size, min_temperature, max_temperature: as in `TargetEntropy`; defaults 0.05 and 20.
        gain: in (0, 1]. 1 with decay = 0 is Newton's method on one law drawn from again and again; it has no
            bracket and may swing where the entropy rises steeply.
        decay: in [0, 1): memory of the varentropy; 1 / (1 - decay) tokens.
        floor: > 0, nats^2: below it the varentropy does not count.
        initial: the temperature of the first token.
    """

    returns = ("entropy", "varentropy")
    sets = ("temperature",)

    def __init__(
        self,
        target,
        *,
        vocab_size: int,
        rows: int = 1,
        gain=0.2,
        decay=0.9,
        floor=0.1,
        initial=1.0,
        min_temperature=0.05,
        max_temperature=20.0,
        device=None,
    ):
        settings, ranges = _entropy_settings(target, min_temperature, max_temperature)
        settings.update(gain=gain, decay=decay, floor=floor, initial=initial)
        ranges.update(
            gain={"above": 0.0, "high": 1.0},
            decay={"low": 0.0, "high": 1.0 - 2.0**-53},
            floor={"above": 0.0},
            initial={"above": 0.0},
        )
        super().__init__(rows, settings, ranges, device)
        _check_entropy_settings(self._op, self._settings, vocab_size)

    def _initial(self) -> dict[str, Tensor]:
        log_t = self._settings["initial"].log()
        return {"log_temperature": log_t, "varentropy": torch.full_like(log_t, -1.0)}

    def parameters(self, logits: Tensor | None = None, *, mask=None) -> dict[str, Tensor]:
        return {"temperature": self._state["log_temperature"].exp().to(torch.float32)}

    def update(self, out) -> None:
        now = self._settings
        entropy, varentropy = self._by_product(out, "entropy"), self._by_product(out, "varentropy")
        old = self._state["varentropy"]
        mean = torch.where(old < 0, varentropy, now["decay"] * old + (1 - now["decay"]) * varentropy)
        jump = now["gain"] * (now["target"] - entropy) / torch.maximum(mean, now["floor"])
        log_t = self._state["log_temperature"] + jump.clamp(-_MAX_ONLINE_JUMP, _MAX_ONLINE_JUMP)
        log_t = torch.minimum(
            torch.maximum(log_t, now["min_temperature"].log()), now["max_temperature"].log()
        )
        self._keep("varentropy", mean)
        self._keep("log_temperature", log_t)


class DynamicTemperature(Controller):
    """A higher temperature where the model is unsure: `T = min + (max - min) * (H / Hmax)^exponent`.

    The entropy-based rule of koboldcpp and llama.cpp ("dynatemp", `temp-ext`): H is the entropy at T = 1 of
    the valid tokens and Hmax the logarithm of their number. There, filters may come first, and H is that of
    the survivors: for this, filter the logits before (`fusedraw.top_p_mask`). With one valid token T = 1.

    Args (numbers, or tensors of length 1 or B):
        min_temperature: >= 0; max_temperature: >= min_temperature.
        exponent: > 0: above 1 keeps T low until the model is very unsure.
    """

    sets = ("temperature",)

    def __init__(self, min_temperature=0.5, max_temperature=1.5, *, exponent=1.0, rows=1, device=None):
        settings = {"min_temperature": min_temperature, "max_temperature": max_temperature}
        ranges = {"min_temperature": {"low": 0.0}, "max_temperature": {"low": 0.0}}
        ranges["exponent"] = {"above": 0.0}
        super().__init__(rows, {**settings, "exponent": exponent}, ranges, device)
        _check_order(self._op, self._settings)

    def parameters(self, logits: Tensor, *, mask=None) -> dict[str, Tensor]:
        self._check_logits(logits)
        (entropy,) = statistics(logits, mask, 1.0, ("entropy",))
        (highest,) = statistics(logits, mask, INF, ("entropy",))
        low, high = self._settings["min_temperature"], self._settings["max_temperature"]
        share = (entropy / highest).clamp(max=1.0) ** self._settings["exponent"]
        temperature = torch.where(highest > 0, low + (high - low) * share, 1.0)
        return {"temperature": torch.where(highest.isnan(), 1.0, temperature).to(torch.float32)}

    def update(self, out) -> None:
        """Nothing to learn: T follows from the logits of the step."""


def _entropy_settings(target, min_temperature, max_temperature) -> tuple[dict, dict]:
    settings = {"target": target, "min_temperature": min_temperature, "max_temperature": max_temperature}
    ranges = {
        "target": {"low": 0.0},
        "min_temperature": {"above": 0.0},
        "max_temperature": {"above": 0.0},
    }
    return settings, ranges


def _check_entropy_settings(op: str, settings: dict[str, Tensor], vocab_size) -> None:
    if isinstance(vocab_size, bool) or not isinstance(vocab_size, numbers.Integral):
        raise TypeError(f"{op}: vocab_size must be an int, got {type(vocab_size).__name__}")
    if vocab_size < 1:
        raise ValueError(f"{op}: vocab_size must be >= 1, got {vocab_size}")
    highest = torch.full_like(settings["target"], math.log(vocab_size))
    none = torch.zeros_like(highest)
    _refuse(op, settings["target"], none.bool(), settings["target"] > highest, none, highest)
    _check_order(op, settings)


def _check_order(op: str, settings: dict[str, Tensor]) -> None:
    if bool((settings["min_temperature"] > settings["max_temperature"]).any()):
        raise ValueError(f"{op}: min_temperature must be <= max_temperature")
