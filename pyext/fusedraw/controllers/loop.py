# SPDX-License-Identifier: Apache-2.0
"""FeedbackLoop: generate, score, learn, until it is enough."""

import numbers
from collections.abc import Callable
from typing import Any, NamedTuple

from .._settings import check_state, check_step


class Round(NamedTuple):
    """One turn of the loop."""

    number: int  # 0, 1, ...
    parameters: dict[str, Any]  # what was generated with
    outputs: Any  # what `generate` returned, None unless kept
    score: Any  # what `score` returned


class FeedbackLoop:
    """Closes the loop on what was drawn: `controller.parameters()` -> generate -> score -> controller.update.

    >>> def generate(parameters, number):                           # keys that move on with the round
    ...     return fusedraw.sample(logits, seed=7, step=number, **parameters)
    >>> loop = FeedbackLoop(generate, lambda ids: (ids == wanted).float(), UCB1(arms, rows=B), stop=200)
    >>> history = loop.run()

    Args:
        generate: (parameters, number of the round) -> outputs, of any kind. Parameters are keywords for
            `fusedraw.sample`.
        score: outputs -> what the controller's `update` takes: rewards for a bandit, a metric for schedules
            with a Plateau, the SampleOutput itself for `Mirostat2` or `TargetMeanEntropy`.
        controller: a Controller whose parameters need no logits, a `schedules.Schedules`, or anything with
            `parameters`, `update`, `state_dict` and `load_state_dict`.
        stop: number of rounds, or history -> bool, asked after each round.
        keep_outputs: whether rounds hold what `generate` returned.
    """

    def __init__(
        self,
        generate: Callable[[dict, int], Any],
        score: Callable[[Any], Any],
        controller,
        stop: int | Callable[[list[Round]], bool],
        *,
        keep_outputs: bool = False,
    ):
        op = type(self).__name__
        for name, function in (("generate", generate), ("score", score)):
            if not callable(function):
                raise TypeError(f"{op}: {name} must be callable, got {type(function).__name__}")
        for name in ("parameters", "update"):
            if not callable(getattr(controller, name, None)):
                raise TypeError(f"{op}: controller must have {name}(), got {type(controller).__name__}")
        if not callable(stop):
            if isinstance(stop, bool) or not isinstance(stop, numbers.Integral):
                raise TypeError(f"{op}: stop must be an int or a function, got {type(stop).__name__}")
            if stop < 0:
                raise ValueError(f"{op}: stop must be >= 0 rounds, got {stop}")
        self._generate, self._score, self._stop, self._keep = generate, score, stop, keep_outputs
        self.controller = controller
        self.round = 0
        self.history: list[Round] = []

    def step(self) -> Round:
        """One round."""
        parameters = self.controller.parameters()
        outputs = self._generate(parameters, self.round)
        score = self._score(outputs)
        self.controller.update(score)
        done = Round(self.round, parameters, outputs if self._keep else None, score)
        self.round += 1
        self.history.append(done)
        return done

    def run(self) -> list[Round]:
        """Rounds until `stop` says so. Returns the history; calling it again goes on where it stopped."""
        while not self._stopped():
            self.step()
        return self.history

    def _stopped(self) -> bool:
        if callable(self._stop):
            return bool(self.history) and bool(self._stop(self.history))
        return self.round >= self._stop

    def state_dict(self) -> dict:
        """The round and the controller's state. The history is not in it."""
        return {"round": self.round, "controller": self.controller.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        check_state("FeedbackLoop", state, ("round", "controller"))
        number = check_step("FeedbackLoop", state["round"])
        self.controller.load_state_dict(state["controller"])
        self.round = number
