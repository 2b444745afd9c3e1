# SPDX-License-Identifier: Apache-2.0
"""Adaptive-p: tokens near a target probability, and a moving average that is steered to it."""

import torch
from torch import Tensor

from ..softmax import softmax
from .base import Controller

# Constants of llama.cpp's adaptive-p, which its authors tuned and did not make settings.
_WIDTH = 0.3
_PEAK = 5.0
_SHARPNESS = 10.0


class AdaptiveP(Controller):
    """llama.cpp's adaptive-p (MrJackSpade, ddh0; ggml-org/llama.cpp pull request 17927, 2026).

    With p the probabilities of the tokens that min-p left, a token gets the new logit

        z = 5 - 10 * d^2 / (1 + d),   d = |p - aim| / 0.3,   aim = clamp(2 * target - mean, 0, 1)

    and one is drawn from softmax(z). `mean` is the moving average of the probabilities p (those before the
    transformation) of the drawn tokens, weighted_sum / total_weight with

        weighted_sum = p + decay * weighted_sum,   total_weight = 1 + decay * total_weight

    and begins at the target: weighted_sum = target / (1 - decay), total_weight = 1 / (1 - decay). z is not
    monotone in p, so this is no filter: `adjust` writes new logits [B, V], and log-probabilities of the draw
    are those of softmax(z), the law that it was drawn from.

    A min_p > 0 is needed for a large vocabulary: thousands of tokens with p = 0 lie only target / 0.3 from
    the peak.

    Args (numbers, or tensors of length 1 or B):
        target: in [0, 1]: the probability to steer to.
        decay: in [0, 0.99]: memory of the mean, about 1 / (1 - decay) tokens.
        min_p: in [0, 1]: tokens below min_p times the largest p are left out first.
        temperature: > 0, of p.
    """

    sets = ("temperature", "min_p")

    def __init__(self, target, *, decay=0.9, min_p=0.05, temperature=1.0, rows=1, device=None):
        settings = {"target": target, "decay": decay, "min_p": min_p, "temperature": temperature}
        ranges = {
            "target": {"low": 0.0, "high": 1.0},
            "decay": {"low": 0.0, "high": 0.99},
            "min_p": {"low": 0.0, "high": 1.0},
            "temperature": {"above": 0.0},
        }
        super().__init__(rows, settings, ranges, device)

    def _initial(self) -> dict[str, Tensor]:
        total = 1.0 / (1.0 - self._settings["decay"])
        return {"weighted_sum": self._settings["target"] * total, "total_weight": total}

    def mean(self) -> Tensor:
        """float32 [B]: the moving average of the probabilities of the drawn tokens."""
        return (self._state["weighted_sum"] / self._state["total_weight"]).to(torch.float32)

    def adjust(self, logits: Tensor, *, mask=None) -> tuple[Tensor, Tensor]:
        """(z, p) for logits [B, V], float32 [B, V] each; z is -inf and p is 0 where a token is left out."""
        self._check_logits(logits)
        temperature = self._settings["temperature"].to(torch.float32)
        p = softmax(logits, temperature, mask=mask, check="status")
        bad = p[:, :1].isnan()  # of the whole row: the draw from its own logits says what is wrong
        bar = self._settings["min_p"].to(torch.float32)[:, None] * p.amax(dim=-1, keepdim=True)
        kept = (p >= bar) & (p > 0)
        p = torch.where(kept, p, 0.0)
        p = p / p.sum(dim=-1, keepdim=True)
        mean = self._state["weighted_sum"] / self._state["total_weight"]
        aim = (2.0 * self._settings["target"] - mean).clamp(0.0, 1.0).to(torch.float32)[:, None]
        distance = (p - aim).abs() / _WIDTH
        z = _PEAK - _SHARPNESS * distance * distance / (1.0 + distance)
        z = torch.where(kept, z, -torch.inf)
        return torch.where(bad, logits.to(torch.float32), z), p

    def sample(self, logits: Tensor, *, mask=None, returns=(), **arguments):
        """One step on the adjusted logits: `rank`, `entropy`, `logp_raw` and the like are those of z."""
        self._check_call(logits, arguments)
        z, p = self.adjust(logits, mask=mask)
        out = self._draw(z, mask, returns, arguments)
        self.update_from(p, out.ids)
        return out

    def parameters(self, logits: Tensor, *, mask=None):
        raise TypeError("AdaptiveP: it changes the logits, not the parameters: use sample or adjust")

    def update_from(self, p: Tensor, ids: Tensor) -> None:
        """Take in that `ids` [B] were drawn, with the probabilities p that `adjust` returned."""
        drawn = p.gather(-1, ids.clamp(min=0)[:, None])[:, 0].to(torch.float64)
        drawn = torch.where(ids >= 0, drawn, torch.nan)
        decay = self._settings["decay"]
        weighted = drawn + decay * self._state["weighted_sum"]
        total = 1.0 + decay * self._state["total_weight"]
        self._keep("weighted_sum", weighted)
        self._keep("total_weight", torch.where(weighted.isnan(), torch.nan, total))
