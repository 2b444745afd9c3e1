# SPDX-License-Identifier: Apache-2.0
"""The page of a stored result, made from random numbers (data/bench_synthetic.json): whole, alone, narrow."""

import copy
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from fusedraw.bench import page

RESULT = Path(__file__).resolve().parent / "data" / "bench_synthetic.json"
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_all = pytest.mark.skipif(page.missing() is not None, reason=f"the page {page.missing()}")
# Written into the document by a browser that has laid the page out in a frame of 390 pixels.
PROBE = """<body><iframe id=f style="width:390px;height:900px;border:0"></iframe><script>
f.onload = () => { const d = f.contentDocument, w = d.documentElement;
 document.body.textContent = `wide ${w.scrollWidth} of ${w.clientWidth} `
 + `plots ${d.querySelectorAll("figure svg").length} `
 + `request ${f.contentWindow.performance.getEntriesByType("resource").length} `
 + `text ${d.querySelector("h1").textContent}`; };
f.srcdoc = TEXT;</script>"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    assert page.main([str(RESULT), "--output", str(folder)]) == 0
    return folder


@needs_all
def test_the_page_stands_alone(made):
    text = (made / "index.html").read_text(encoding="utf-8")
    for said in (
        "How to read it",
        "departs &amp; differs",
        "no machine &lt;b&gt;&amp;",
        "penalties+bitmask",
        "growth-vocab",
    ):
        assert said in text
    assert "<script>alert" not in text and "&lt;script&gt;alert" in text
    assert not re.search(r"""(?:src|href|action)=["']?(?:https?:)?//|@import|url\(["']?http""", text)
    assert text.count("<svg") >= 4 and len(list(made.glob("*.svg"))) == len(list(made.glob("*.png"))) >= 4


@needs_all
@pytest.mark.skipif(BROWSER is None, reason="no chromium to open the page with")
def test_a_browser_shows_it_390_pixels_wide(made):
    text = json.dumps((made / "index.html").read_text(encoding="utf-8")).replace("</", "<\\/")
    (made / "probe.html").write_text(PROBE.replace("TEXT", text), encoding="utf-8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={made / 'profile'}"]
    asked = [BROWSER, *options, "--virtual-time-budget=9000", "--dump-dom", (made / "probe.html").as_uri()]
    shown = subprocess.run(asked, capture_output=True, text=True, timeout=60).stdout
    found = re.search(r"wide (\d+) of (\d+) plots (\d+) request (\d+) text fusedraw", shown)
    assert found, shown[:500]
    wide, room, plots, requests = map(int, found.groups())
    assert wide <= room <= 390 and plots >= 4 and requests == 0


GOOD = json.loads(RESULT.read_text(encoding="utf-8"))


def changed(**us):
    stored = copy.deepcopy(GOOD)
    stored["results"][0].update(us)
    return json.dumps(stored)


BROKEN = {
    "no JSON": "{",
    "a list": "[]",
    "foreign": '{"name": "x"}',
    "no results": json.dumps({**GOOD, "results": []}),
    "three times": changed(us={"read": [1, 2, 3]}),
    "not finite": changed(us={"read": [1, 2, float("nan"), 4]}),
    "no vocab": changed(vocab="many"),
    "other part": changed(part="nonsense"),
}


@needs_all
@pytest.mark.parametrize("text", BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_file_is_one_line(tmp_path, capsys, text):
    (tmp_path / "x.json").write_text(text, encoding="utf-8")
    assert page.main([str(tmp_path / "x.json"), "--output", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert said.startswith("page: ") and said.count("\n") == 1 and "x.json" in said
    assert not (tmp_path / "out").exists()


def test_missing_packages_are_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(page, "NEEDED", ("matplotlib_absent",))
    assert page.main([str(RESULT), "--output", str(tmp_path)]) == 2
    assert capsys.readouterr().err == "page: needs matplotlib_absent: pip install matplotlib_absent\n"
