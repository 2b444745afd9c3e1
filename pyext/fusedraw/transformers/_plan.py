# SPDX-License-Identifier: Apache-2.0
"""The plan of a `generate`: which processors are called, which are fused into the draw, step by step.

transformers applies its processors in the order of the list. The longest tail of the list that keeps to the
law's order is fused into one `fusedraw.Sampler`; everything before it is called as it is. Processors that act
on some steps only are left out of the others, so a plan has a stage for each set of them that acts.
"""

from __future__ import annotations

from typing import NamedTuple

from ._rules import MASK, WARPERS, check_callable, condition_of, rule_of
from ._stage import Stage

# By-products of the tempered or untruncated law of the row, which called warpers have already changed.
_NEEDS_WHOLE_LAW = (
    *("logp_full", "logp_raw", "entropy", "varentropy", "margin", "kept_mass", "rank"),
    *("top_ids", "top_logps"),
)


class Decision(NamedTuple):
    """What happens to one processor, in the order of the list."""

    name: str  # of its class
    fused: dict | None  # arguments of fusedraw.sample; None: it is called
    why: str  # where it is called, else ""
    always: bool  # False: it acts on some steps only


class Plan:
    """How a list of logits processors and the draw are carried out.

    Args:
        processors: the LogitsProcessorList that transformers prepared.
        do_sample: False: greedy, temperature 0 after the processors.
        options: keyword arguments of `fusedraw.Sampler` beside those that the processors give.

    `describe()` tells what is fused and what is called; `decisions` has the same as data.
    """

    def __init__(self, op: str, processors, *, do_sample: bool, options: dict):
        self._op = op
        self._processors = tuple(processors)
        self._do_sample = do_sample
        self._options = options
        self._rules = [rule_of(processor, do_sample) for processor in self._processors]
        self._conditions = [
            (index, condition)
            for index, condition in enumerate(map(condition_of, self._processors))
            if condition is not None
        ]
        self._stages: dict[tuple, Stage] = {}
        for processor in self._processors:
            check_callable(op, processor)
        self._all = self._make_stage(self._processors, self._rules)
        self._check_whole_law()

    def stage(self, length: int) -> Stage:
        """What is done where `length` tokens stand before the new one."""
        if not self._conditions:
            return self._all
        idle = tuple([i for i, acts in self._conditions if not acts(self._processors[i], length)])
        stage = self._stages.get(idle)
        if stage is None:
            acting = [i for i in range(len(self._processors)) if i not in idle]
            stage = self._make_stage([self._processors[i] for i in acting], [self._rules[i] for i in acting])
            self._stages[idle] = stage
        return stage

    @property
    def decisions(self) -> tuple[Decision, ...]:
        """One entry per processor, for a step on which all of them act."""
        conditional = {index for index, _ in self._conditions}
        first = len(self._all.called)
        found = []
        for index, (processor, rule) in enumerate(zip(self._processors, self._rules, strict=True)):
            fused, why = None, ""
            if isinstance(rule, str):
                why = rule
            elif index >= first:
                fused = rule[1]
            else:
                why = f"stands before {self._blocker(index)}"
            found.append(Decision(type(processor).__name__, fused, why, index not in conditional))
        return tuple(found)

    def describe(self) -> str:
        """One line per processor, in order, and one for the draw."""
        lines = []
        for entry in self.decisions:
            if entry.fused is None:
                does = f"called: {entry.why}"
            else:
                arguments = [f"{name}={_short(value)}" for name, value in entry.fused.items()]
                does = "fused: " + (", ".join(arguments) or "changes no law")
            lines.append(f"{entry.name}: {does}" + ("" if entry.always else " (on some steps)"))
        lines.append(f"draw: {self._all.sampler!r}")
        return "\n".join(lines)

    def _blocker(self, index: int) -> str:
        """The name of what keeps a processor with a rule out of the fused tail."""
        for later in range(index + 1, len(self._all.called)):
            if isinstance(self._rules[later], str):
                return type(self._processors[later]).__name__
        return type(self._processors[index + 1]).__name__  # which comes earlier in the law's order

    def _make_stage(self, processors, rules) -> Stage:
        first = len(processors)
        next_place = float("inf")
        while first:
            rule = rules[first - 1]
            if isinstance(rule, str):
                break
            place = rule[0]
            if place > next_place or (place == next_place and place != MASK):
                break
            next_place = place
            first -= 1
        fused = list(zip(processors[first:], rules[first:], strict=True))
        arguments: dict = {} if self._do_sample else {"temperature": 0.0}
        for _, (_, its) in fused:
            for name, value in its.items():
                if name == "suppress":
                    arguments[name] = sorted({*arguments.get(name, ()), *value})
                else:
                    arguments[name] = value
        # transformers' top-k keeps all tokens tied with the last one kept, its top-p those its sort likes.
        options = dict(self._options)
        if options.get("ties") is None:
            options["ties"] = "all" if "top_k" in arguments else "index"
        return Stage(tuple(processors[:first]), fused, arguments, options)

    def _check_whole_law(self) -> None:
        called = [p for p in self._all.called if isinstance(p, WARPERS)]
        if not called:
            return
        last = type(self._all.called[-1]).__name__
        which = f"{type(called[0]).__name__} is called before the draw (because of {last})"
        for name in self._options.get("returns", ()):
            if name in _NEEDS_WHOLE_LAW:
                raise ValueError(f"{self._op}: returns has {name!r} of the law before filters, but {which}")
        if self._options.get("top_n"):
            raise ValueError(f"{self._op}: top_n needs the law before filters, but {which}")
        if "top_n_sigma" in self._options:
            raise ValueError(f"{self._op}: top_n_sigma needs the row before filters, but {which}")
        if self._options.get("mix_support") == "valid":
            raise ValueError(f"{self._op}: mix_support='valid' needs the row before filters, but {which}")


def _short(value) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
