# SPDX-License-Identifier: Apache-2.0
"""Mirostat 2: a cut in surprise that follows the surprise of what was drawn."""

import math

import torch
from torch import Tensor

from .._checks import check_choice
from .base import Controller, statistics

_SURPRISES = ("kept", "full")


class Mirostat2(Controller):
    """Mirostat 2.0 (Basu et al., "Mirostat: a neural text decoding algorithm that directly controls
    perplexity", ICLR 2021): the mean surprise per token is held at `tau` bits.

    Tokens whose surprise -log2 p exceeds mu are cut, the best one never; one of the rest is drawn; then
    `mu -= eta * (S - tau)` with S the surprise of the drawn token. mu begins at 2 * tau. Since mu sums up the
    errors, the mean of S over n tokens is `tau + (mu_0 - mu_n) / (eta * n)`.

    The cut is the engine's min-p: p_i >= 2^-mu is w_i >= min_p * w_max for `min_p = 2^-mu / p_max`, where
    p_max comes from one more call (`top_k=1`) at the same temperature. A token within one rounding of the
    threshold may fall on either side.

    Args (numbers, or tensors of length 1 or B):
        tau: bits, > 0: the target (log2 of the perplexity).
        eta: > 0: learning rate.
        temperature: > 0; p is the law at this temperature.
        surprise: of the drawn token: "kept", under the law it was drawn from, as in the authors' version 2
            ports (llama.cpp), or "full", under the law before the cut, as in the paper's Algorithm 1.
    """

    returns = ("logp", "logp_full")
    sets = ("temperature", "min_p")

    def __init__(self, tau, *, eta=0.1, temperature=1.0, surprise="kept", rows=1, device=None):
        check_choice(self._op, "surprise", surprise, _SURPRISES)
        settings = {"tau": tau, "eta": eta, "temperature": temperature}
        super().__init__(rows, settings, {name: {"above": 0.0} for name in settings}, device)
        self._surprise = surprise

    def _initial(self) -> dict[str, Tensor]:
        return {"mu": 2.0 * self._settings["tau"]}

    def parameters(self, logits: Tensor, *, mask=None) -> dict[str, Tensor]:
        self._check_logits(logits)
        temperature = self._settings["temperature"].to(torch.float32)
        (best,) = statistics(logits, mask, temperature, ("logp_full",), top_k=1)
        min_p = torch.exp2(-self._state["mu"] - best / math.log(2.0)).clamp(max=1.0)
        # A bad row has no best token: its own status, not one of the parameters, is to be seen.
        return {"temperature": temperature, "min_p": torch.nan_to_num(min_p, nan=0.0).to(torch.float32)}

    def update(self, out) -> None:
        name = "logp" if self._surprise == "kept" else "logp_full"
        surprise = -self._by_product(out, name) / math.log(2.0)
        error = surprise - self._settings["tau"]
        self._keep("mu", self._state["mu"] - self._settings["eta"] * error)
