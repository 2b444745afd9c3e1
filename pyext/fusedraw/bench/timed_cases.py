# SPDX-License-Identifier: Apache-2.0
"""The timed cases, driven by pytest-benchmark; `python -m fusedraw bench` chooses and stores.

One test is one case. Its providers take turns round by round in this process: pytest-benchmark times the
leading one (fusedraw), the others run in the setup of each of its rounds. Before that, all are validated.
"""

from __future__ import annotations

import pytest
import torch

from . import command, data, providers, timing, validate
from .cases import DTYPES, Case

SELECTION = command.Selection.from_environment()


@pytest.mark.parametrize("case", SELECTION.cases, ids=lambda case: case.name)
def test_case(case: Case, benchmark, recorder: command.Recorder) -> None:
    if recorder.out_of_time():
        recorder.leave_out(case)
        pytest.skip("out of time")
    torch.set_num_threads(case.threads)
    logits = data.make(case.data, case.vocab, case.batch, DTYPES[case.dtype])
    names = [name for name in SELECTION.providers if recorder.takes_part(name, case)]
    chunks = {name: providers.chunk(name, case, logits) for name in names}
    for name in names:
        validate.check(name, case, logits)
    turns = {
        name: timing.Turn(chunk, SELECTION.rounds, command.CHUNK_SECONDS, command.MOST_SECONDS)
        for name, chunk in chunks.items()
    }
    lead = "fusedraw" if "fusedraw" in turns else names[0]
    leader = turns.pop(lead)
    rounds = leader.rounds
    counter = iter(range(rounds))

    def others() -> None:
        number = next(counter)
        for turn in turns.values():
            # a slow leader has few rounds: nobody gets more turns than there are
            if turn.due(number, rounds) or turn.rounds >= rounds:
                turn.run()
        if not leader.slow:
            leader.chunk(1, False)

    benchmark.extra_info["calls_per_round"] = leader.calls
    benchmark.pedantic(leader.chunk, args=(leader.calls, False), setup=others, rounds=rounds, iterations=1)
    for seconds in benchmark.stats.stats.data if benchmark.stats else []:
        leader.samples.add(seconds, leader.calls)
    turns[lead] = leader
    recorder.store(case, {name: turns[name].samples for name in names})


@pytest.fixture(scope="session")
def recorder():
    out = command.Recorder(SELECTION)
    yield out
    out.finish()
