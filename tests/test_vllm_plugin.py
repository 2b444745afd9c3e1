# SPDX-License-Identifier: Apache-2.0
"""The parts of the vLLM plugin that need no vLLM: whether it steps in, keys, and processed logits. The plugin
in vLLM is tested in tests/integrations."""

import logging
import subprocess
import sys
from pathlib import Path

import fusedraw
import pytest
import torch
from fusedraw import reference
from fusedraw.vllm import TESTED_VERSIONS, _gate, _rows, register

ROOT = Path(__file__).resolve().parent.parent


def test_the_entry_point_names_register():
    text = (ROOT / "pyproject.toml").read_text()
    table = text.split('[project.entry-points."vllm.general_plugins"]\n')[1]
    assert table.split("\n")[0] == 'fusedraw = "fusedraw.vllm:register"'
    assert callable(register)


def test_fusedraw_imports_neither_the_plugin_nor_vllm():
    code = "import sys, fusedraw; assert not [m for m in sys.modules if 'vllm' in m]"
    subprocess.run([sys.executable, "-c", code], check=True)
    code = "import sys, fusedraw.vllm; assert 'vllm' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("version", [*TESTED_VERSIONS, TESTED_VERSIONS[0] + "+cpu"])
def test_tested_versions_are_accepted(version):
    assert _gate.refusal(version) is None


@pytest.mark.parametrize("version", ["0.31.9", "0.32.1", "0.32.0rc1", "0.32", "dev"])
def test_other_versions_are_refused_by_name(version):
    reason = _gate.refusal(version)
    assert reason.startswith(f"version {version} is not among")
    assert reason.endswith(", ".join(TESTED_VERSIONS))


@pytest.mark.parametrize(("value", "on"), [(None, True), ("1", True), ("0", False)])
def test_the_switch(value, on, monkeypatch):
    monkeypatch.delenv("FUSEDRAW_VLLM", raising=False)
    if value is not None:
        monkeypatch.setenv("FUSEDRAW_VLLM", value)
    assert _gate.switched_on() is on


@pytest.mark.parametrize("value", ["", "off", "2"])
def test_another_value_of_the_switch_is_an_error(value, monkeypatch):
    monkeypatch.setenv("FUSEDRAW_VLLM", value)
    with pytest.raises(ValueError, match=f"FUSEDRAW_VLLM must be 0 or 1, got '{value}'"):
        _gate.switched_on()


@pytest.mark.parametrize(
    ("device", "has_cuda", "reason"),
    [
        ("cpu", False, None),
        ("cuda", True, None),
        ("cuda", False, "no CUDA kernels"),
        ("xpu", True, "no kernels for xpu"),
    ],
)
def test_devices(device, has_cuda, reason, monkeypatch):
    monkeypatch.setattr(_gate, "HAS_CUDA", has_cuda)
    found = _gate.device_refusal(torch.device(device))
    assert found is None if reason is None else reason in found


def test_a_reason_is_logged_once(caplog):
    logger = logging.getLogger("test_vllm_plugin")
    with caplog.at_level(logging.INFO, logger.name):
        for reason in ("one reason", "another", "one reason"):
            _gate.say_once(logger, reason)
    assert caplog.messages == ["fusedraw: one reason", "fusedraw: another"]


CPU = torch.device("cpu")


def test_keys_of_seeded_rows_are_seed_and_number_of_outputs():
    keys = _rows.Keys(3, {0: 7, 1: 2**64 - 1, 2: 2**63}, CPU)
    assert keys.at([[5, 5], [], [1]]).tolist() == [[7, 2], [-1, 0], [-(2**63), 1]]


def test_keys_of_other_rows_are_fresh_and_from_the_default_generator():
    keys = _rows.Keys(4, {2: 11}, CPU)
    torch.manual_seed(3)
    first, second = keys.at([[], [], [9], []]), keys.at([[], [], [9, 9], []])
    torch.manual_seed(3)
    again = keys.at([[], [], [9], []])
    assert first.equal(again)
    assert first[2].tolist() == [11, 1] and second[2].tolist() == [11, 2]
    rest = [0, 1, 3]
    assert len({tuple(key) for key in first[rest].tolist() + second[rest].tolist()}) == 6
    words = torch.cat([_rows.Keys(500, {}, CPU).at(None) for _ in range(2)]).flatten()
    assert (words < 0).float().mean() == pytest.approx(0.5, abs=0.05)  # all 64 bits are drawn


def test_seeded_rows_alone_take_nothing_from_the_default_generator():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    _rows.Keys(2, {0: 1, 1: 2}, CPU).at([[], []])
    assert torch.rand(1) == expected


def test_a_key_gives_the_draw_of_that_key():
    logits = torch.randn(2, 300, generator=torch.Generator().manual_seed(0))
    key = _rows.Keys(2, {0: 5, 1: 6}, CPU).at([[1, 2, 3], []])
    ids = fusedraw.sample(logits, keys=key, **_rows.RULES)
    for row, pair in enumerate([(5, 3), (6, 0)]):
        assert ids[row] == reference.sample_row(logits[row].tolist(), key=pair).id


def test_history_follows_the_lists_of_vllm():
    lists = [[1, 2], [], [7] * 70]
    history = _rows.History(3, CPU)

    def rows():
        return [[i for i in row if i >= 0] for row in history.at(lists).tolist()]

    assert rows() == lists
    assert history.at(lists).shape == (3, 70) and history.at(lists).dtype is torch.int32
    lists[0].append(3)
    lists[1] += [4, 5]
    assert rows() == lists
    del lists[2][2:]  # tokens taken back
    lists[2].append(9)
    assert rows() == lists
    lists[0].append(-1)  # a token under way, known later
    assert rows() == [[1, 2, 3], [4, 5], [7, 7, 9]]
    lists[0][-1] = 8
    lists[0].append(6)
    assert rows() == lists
    assert _rows.History(2, CPU).at([[], []]).tolist() == [[-1], [-1]]


def test_prompts_lose_their_padding():
    assert _rows.prompt_ids(torch.tensor([[0, 9, 10], [3, 10, -5]]), 10).tolist() == [[0, 9, -1], [3, -1, -1]]


def test_temperatures():
    given = torch.tensor([0.0, 9e-6, 1.5e-5, 0.7])
    assert _rows.tempered(given).tolist() == pytest.approx([0.0, 0.0, 1.5e-5, 0.7])
    assert _rows.neutral(given).tolist() == [0, 0, 1, 1]


def test_unfiltered_rows():
    greedy = torch.tensor([True, False, False, False, False])
    top_k = torch.tensor([3, 10, 9, 10, 10], dtype=torch.int32)
    top_p = torch.tensor([0.5, 1.0, 1.0, 0.9, 1.0])
    min_p = torch.tensor([0.1, 0.0, 0.0, 0.0, 0.1])
    assert _rows.unfiltered(greedy, 10, top_k, top_p, min_p).tolist() == [True, True, False, False, False]
    assert _rows.unfiltered(greedy, 10, 0, 1.0).tolist() == [True] * 5


def test_processed_logits_are_the_kept_ones():
    logits = torch.randn(4, 500, generator=torch.Generator().manual_seed(1)) * 3
    logits[1, :200] = logits[1, 200]  # ties
    filters = {"top_p": torch.tensor([0.5, 0.9, 0.95, 1.0]), "top_k": 40, "min_p": 0.01}
    out = fusedraw.sample(logits, seed=1, returns=("n_kept", "kept", "status"), **filters, **_rows.RULES)
    whole = torch.tensor([False, False, True, False])
    processed = _rows.processed_logits(logits, out.n_kept, whole)
    for row in range(4):
        if whole[row]:
            expected = logits[row]
        else:
            ids = out.kept_ids[out.kept_offsets[row] : out.kept_offsets[row + 1]].long()
            expected = torch.full((500,), float("-inf")).index_copy(0, ids, logits[row, ids])
        assert processed[row].equal(expected)


def test_a_cpu_generator_keeps_its_state_and_gets_an_offset():
    generator = torch.Generator().manual_seed(8)
    torch.rand(3, generator=generator)
    ours = _rows.seed_generator(generator)
    assert ours.initial_seed() == 8
    assert torch.rand(4, generator=ours).equal(torch.rand(4, generator=generator))
    ours.set_offset(ours.get_offset() - 4)  # as vLLM does it
    assert _rows.seed_generator(ours) is ours
    assert _rows.seed_generator(None) is None


def test_bad_rows_get_token_0_and_are_named():
    ids, status = torch.tensor([4, -1, -1, 2]), torch.tensor([0, 2, 4, 0], dtype=torch.uint8)
    replaced, message = _rows.BadRows().replace(ids, status)
    assert replaced.tolist() == [4, 0, 0, 2]
    assert message.endswith("EMPTY, NAN")
    good = torch.tensor([1, 0])
    assert _rows.BadRows().replace(good, torch.zeros(2, dtype=torch.uint8)) == (good, None)


def test_on_a_device_bad_rows_are_counted_and_looked_at_once_in_a_while():
    rows = _rows.BadRows(period=3)
    good, bad = torch.tensor([1, 0]), torch.tensor([1, -1])
    assert [rows.due(ids) for ids in (good, bad, good)] == [False, False, True]
    assert [rows.due(ids) for ids in (good, good, good)] == [False] * 3  # what was told is not counted again
    assert [rows.due(ids) for ids in (bad, bad, bad)] == [False, False, True]
