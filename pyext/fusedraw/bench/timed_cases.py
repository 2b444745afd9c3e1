# SPDX-License-Identifier: Apache-2.0
"""The timed cases, driven by pytest-benchmark; `python -m fusedraw bench` chooses and stores.

One test is one case. Its providers take turns round by round in this process: pytest-benchmark times the
leading one (fusedraw), the others run in the setup of each of its rounds. Before that, all are validated; one
that is wrong or raises is left out of the case, and the test fails after the others are stored.
"""

from __future__ import annotations

import pytest
import torch

from . import sources, timing
from .cases import Case
from .recorder import Recorder, Selection

SELECTION = Selection.from_environment()
CHUNK_SECONDS = 1e-3  # of calls per provider and round
MOST_SECONDS = 0.2  # per provider and case, unless three calls take longer


@pytest.mark.parametrize("case", SELECTION.cases, ids=lambda case: case.name)
def test_case(case: Case, benchmark, recorder: Recorder) -> None:
    if recorder.has(case):
        pytest.skip("stored already")
    if recorder.out_of_time():
        recorder.leave_out(case)
        pytest.skip("out of time")
    torch.set_num_threads(case.threads)
    logits = sources.rows(case)
    turns: dict[str, timing.Turn] = {}
    failed = []
    for name in SELECTION.providers:
        if not recorder.takes_part(name, case):
            continue
        try:
            sources.check(name, case, logits)
            chunk = sources.chunk(name, case, logits)
            turns[name] = timing.Turn(chunk, SELECTION.rounds, CHUNK_SECONDS, MOST_SECONDS)
        except Exception as error:
            failed.append(name)
            recorder.fail(case, name, str(error) or type(error).__name__)
    if not turns:
        pytest.skip("no provider can do this case") if not failed else pytest.fail(f"{failed} failed")
    run(benchmark, turns)
    benchmark.extra_info.update(
        part=case.part,
        cache=case.cache,
        us={name: turn.samples.quartiles() for name, turn in turns.items()},
    )
    recorder.store(case, {name: turn.samples for name, turn in turns.items()})
    assert not failed, f"left out of {case.name}: {', '.join(failed)}"


def run(benchmark, turns: dict[str, timing.Turn]) -> None:
    """All rounds, those of the leader as pytest-benchmark's, which is then given their times per call."""
    leader = turns["fusedraw" if "fusedraw" in turns else next(iter(turns))]
    others = [turn for turn in turns.values() if turn is not leader]
    rounds = max(1, leader.rounds)
    counter = iter(range(rounds))

    def before() -> None:
        number = next(counter)
        for turn in others:
            # a slow leader has few rounds: nobody gets more turns than there are
            if turn.due(number, rounds) or turn.rounds >= rounds:
                turn.run()
        if not leader.slow:
            leader.chunk(1, False)

    def lead() -> None:
        leader.samples.add(leader.chunk(leader.calls, False), leader.calls)

    first = len(leader.samples.values)
    benchmark.pedantic(lead, setup=before, rounds=rounds, iterations=1)
    if benchmark.stats:
        # its own figures are of many calls, and of what a cold call is preceded by
        benchmark.stats.stats.data[:] = leader.samples.values[first:]
        benchmark.stats.iterations = leader.calls


@pytest.fixture(scope="session")
def recorder():
    out = Recorder(SELECTION)
    yield out
    out.finish()
