# SPDX-License-Identifier: Apache-2.0
"""Thresholds and the history of runs."""

import json

import pytest
from fusedraw.audit import gates
from fusedraw.audit.plan import AuditError

HEADLINE = {"agreement:batch": 0.8, "ece": None, "anomalies": 0.1}


def test_gates_trip_on_their_side_only():
    found = gates.parse(["agreement:batch<0.9", "agreement:batch>=0.9, anomalies<=0.1", "anomalies>0.1"])
    assert [str(gate) for gate in found][:2] == ["agreement:batch<0.9", "agreement:batch>=0.9"]
    assert [line.split(":")[0] for line in gates.tripped(found[:1], HEADLINE)] == ["agreement"]
    assert len(gates.tripped(found, HEADLINE)) == 2  # below 0.9, and at most 0.1


def test_a_figure_that_was_not_measured_trips():
    assert gates.tripped(gates.parse(["ece>0.5"]), HEADLINE) == ["ece>0.5: ece was not measured"]


@pytest.mark.parametrize("text", ["", "ece", "ece<", "<1", "ece=1", "ece<one", "ece<1<2"])
def test_what_is_no_gate(text):
    with pytest.raises(AuditError, match="--fail-on takes"):
        gates.parse([text])


def test_a_history_grows_and_tells_a_planted_drift(tmp_path):
    path = tmp_path / "history.jsonl"
    for run in range(12):
        assert gates.add_to_history(path, {"ece": 0.1 + 0.001 * (run % 3), "other": None}) == []
    told = []
    for _ in range(4):
        told = gates.add_to_history(path, {"ece": 0.2, "other": None})
    assert len(told) == 1 and "ece has risen" in told[0]
    assert len(gates.read_history(path)) == 16
    assert not list(tmp_path.glob("*.part"))


def test_a_broken_history_is_refused_and_kept(tmp_path):
    path = tmp_path / "history.jsonl"
    path.write_text(json.dumps({"ece": 1}) + "\nno json\n")
    with pytest.raises(AuditError, match="line 2"):
        gates.add_to_history(path, {"ece": 1})
    assert path.read_text().endswith("no json\n")
