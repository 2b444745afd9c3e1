# SPDX-License-Identifier: Apache-2.0
"""The command with a report: the page and its files from a real run, and the packaged model."""

import csv
import json

import pytest

pytest.importorskip("transformers", reason="needs transformers: pip install -r requirements-demo.txt")

from audit_models import PROMPTS, prompts_file, save
from fusedraw import _model
from fusedraw.__main__ import main
from fusedraw.audit import report

needs_page = pytest.mark.skipif(report.missing() is not None, reason=f"the report {report.missing()}")


@needs_page
def test_a_run_leaves_a_page_tables_and_figures(tmp_path, capsys):
    folder, out = save(tmp_path / "model"), tmp_path / "out"
    given = ["audit", str(folder), "--prompts", str(prompts_file(tmp_path)), "--output", str(out)]
    given += ["--base", "threads=1,samples=2", "-c", "luck:seed=2", "-c", "half:dtype=bfloat16"]
    assert main([*given, "--max-new-tokens", "8", "--history", str(tmp_path / "runs.jsonl")]) == 0
    assert "report.html" in capsys.readouterr().out
    page = (out / "report.html").read_text(encoding="utf-8")
    assert PROMPTS[0] in page and "luck" in page and page.count("<svg") >= 4
    figures = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert figures["headline"] == json.loads((tmp_path / "runs.jsonl").read_text())
    with (out / "outputs.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(figures["outputs"]) == len(PROMPTS) * 4
    again = out / "report.html"
    again.unlink()
    assert main(["audit", "--report-only", "--output", str(out)]) == 0
    assert again.read_text(encoding="utf-8") == page


@needs_page
def test_tensorboard_gets_the_figures(tmp_path):
    pytest.importorskip("tensorboard", reason="needs tensorboard: pip install -r requirements-audit.txt")
    folder = save(tmp_path / "model")
    given = [
        "audit",
        str(folder),
        "--prompts",
        str(prompts_file(tmp_path)),
        "--output",
        str(tmp_path / "out"),
    ]
    given += ["--base", "threads=1", "-c", "luck:seed=2", "--max-new-tokens", "4", "--format", "text"]
    assert main([*given, "--tensorboard", str(tmp_path / "tb")]) == 0
    assert list((tmp_path / "tb").rglob("events*"))


@pytest.mark.model
@pytest.mark.skipif(_model.missing_for_model() is not None, reason=str(_model.missing_for_model()))
def test_the_packaged_model_is_the_default(tmp_path, capsys):
    prompts = prompts_file(tmp_path, ["What is the capital of France?", "Name a colour."])
    given = ["audit", "--prompts", str(prompts), "--output", str(tmp_path / "out"), "--bias", "off"]
    given += ["--base", "samples=1,batch=2", "-c", "half:dtype=bfloat16", "--max-new-tokens", "5"]
    assert main([*given, "--format", "json", "--fail-on", "sampler_differences>0"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["model"]["name"] == _model.MODEL_NAME and figures["model"]["kind"] == "embedded"
    assert all(line["text"].strip() and line["length"] <= 5 for line in figures["outputs"])
    assert figures["pairs"][0]["max_difference"] > 0.001  # bfloat16 moves the logits
    assert figures["calibration"]["tokens"] > 5
