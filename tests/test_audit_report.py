# SPDX-License-Identifier: Apache-2.0
"""The report of an audit, of a made-up analysis: whole, alone, narrow, redacted, with parts missing."""

import collections
import csv
import errno
import html.parser
import json
import math
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from audit_analysis import HOSTILE, WORDS, made_up
from fusedraw.audit import _format, _summary, report, tables, tensorboard

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_all = pytest.mark.skipif(report.missing() is not None, reason=f"the report {report.missing()}")
needs_tensorboard = pytest.mark.skipif(
    tensorboard.missing() is not None, reason=f"it {tensorboard.missing()}"
)
SECRETS = [w for w in WORDS if len(w) > 4] + [
    "alert(",
    "HYPERLINK",
    "Describe the",
    "WWWW",
    "nurse",
    "Muslim",
]
# Written into the document by a browser that has laid the page out in frames of 390 and 1280 pixels.
PROBE = """<body><iframe id=f style="border:0;height:900px;width:390px"></iframe><script>
const said = [];
f.onload = () => { const d = f.contentDocument, w = d.documentElement;
 for (const width of [390, 1280]) {
  f.style.width = width + "px"; said.push(`wide ${w.scrollWidth} of ${w.clientWidth}`); }
 const token = d.querySelector(".strip i"); token.click();
 said.push(`plots ${d.querySelectorAll("figure svg").length} strips ${d.querySelectorAll(".strip").length}`,
 `request ${f.contentWindow.performance.getEntriesByType("resource").length}`,
 `back ${getComputedStyle(d.body).backgroundColor}`, `images ${d.querySelectorAll("img, iframe").length}`,
 `out ${token.closest(".both").querySelector(".out").textContent}`,
 `text ${d.querySelector("h1").textContent}`);
 document.body.textContent = said.join("; "); };
f.srcdoc = TEXT;</script>"""


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    return report.write(made_up(), tmp_path_factory.mktemp("full")).parent


@pytest.fixture(scope="module")
def redacted(tmp_path_factory):
    """With texts in the analysis all the same: the report does not rely on their absence."""
    analysis = made_up()
    analysis["run"]["redacted"] = True
    return report.write(analysis, tmp_path_factory.mktemp("redacted")).parent


class Tags(html.parser.HTMLParser):
    """Tags with their number, what attributes point to, and all style sheets."""

    def __init__(self):
        super().__init__()
        self.tags, self.places, self.styles = collections.Counter(), [], ""

    def handle_starttag(self, tag, attrs):
        self.tags[tag] += 1
        assert not [name for name, _ in attrs if name.startswith("on")]
        self.places += [v for k, v in attrs if k in ("src", "href", "xlink:href", "action", "srcset", "data")]
        self.styles += "".join(f"{v};" for k, v in attrs if k in ("style", "clip-path"))

    def handle_data(self, data):
        self.styles += data if self.lasttag == "style" else ""


def page(folder):
    return (folder / "report.html").read_text(encoding="utf-8")


@needs_all
def test_the_page_stands_alone(full):
    text = page(full)
    assert text.startswith("<!doctype html>")
    for said in (
        "Not the sampler.",
        "Who is to blame",
        "Token by token",
        "Outputs that look wrong",
        "How to read it",
        "What this cannot tell",
        "Machine and versions",
        "2.13.0",
    ):
        assert said in text
    read = Tags()
    read.feed(text)
    assert not {"img", "link", "iframe", "object", "embed", "form", "base"} & set(read.tags)
    assert read.tags["script"] == 1 and len(read.places) > 20
    # Within the page: its chapters, and parts of a picture that the picture itself defines.
    assert [place for place in read.places if not place.startswith("#")] == []
    assert not re.search(r"@import|url\((?!#)", read.styles)
    assert text.count("<svg") >= 15 and 'role="img" aria-label="' in text
    assert {p.name for p in full.iterdir()} == {
        "report.html",
        "report.json",
        *(f"{name}.csv" for name in tables.COLUMNS),
    }


@needs_all
def test_hostile_text_is_text(full):
    text = page(full)
    assert "<script>alert" not in text and "<img" not in text and "&lt;script&gt;alert" in text
    assert "{{ 7 * 7 }}" in text and "</pre>" not in text
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e\u2066-\u2069]", text)
    assert "·U+202E·" in text and "·U+0007·" in text


def shown(folder, options):
    text = json.dumps(page(folder)).replace("</", "<\\/")
    probe = folder.parent / f"{folder.name}-probe.html"
    probe.write_text(PROBE.replace("TEXT", text), encoding="utf-8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", *options]
    options.append(f"--user-data-dir={folder.parent / f'{folder.name}-profile'}")
    asked = [BROWSER, *options, "--virtual-time-budget=9000", "--dump-dom", probe.as_uri()]
    return subprocess.run(asked, capture_output=True, text=True, timeout=120).stdout


@needs_all
@pytest.mark.skipif(BROWSER is None, reason="no chromium to open the page with")
@pytest.mark.parametrize("kind", ["full", "redacted"])
def test_a_browser_shows_it(kind, request):
    dark = kind == "redacted"
    text = shown(request.getfixturevalue(kind), ["--blink-settings=preferredColorScheme=0"] if dark else [])
    found = re.search(r"wide (\d+) of (\d+); wide (\d+) of (\d+); plots (\d+) strips (\d+)", text)
    assert found, text[:500]
    narrow, room, wide, space, plots, strips = map(int, found.groups())
    assert narrow <= room <= 390 and 1200 < wide <= space <= 1280
    assert plots >= 15 and strips == 8
    assert "request 0;" in text and "images 0;" in text and "text SmolLM2-135M-Instruct" in text
    assert ("back rgb(18, 18, 17)" if dark else "back rgb(245, 245, 242)") in text
    assert re.search(r"out .*token 0: log-prob\. -", text)


@needs_all
def test_redacted_keeps_no_text(redacted):
    for path in redacted.iterdir():
        text = path.read_text(encoding="utf-8")
        assert not [word for word in SECRETS if word in text], path.name
    text = page(redacted)
    assert "token_a" in (redacted / "report.json").read_text() and not re.search(r">id \d", text)
    assert all(row["token_a"] == "" for row in rows(redacted / "forks.csv"))
    assert "no text of a prompt or an output" in text and 'class="strip positions"' in text


@needs_all
def test_redacted_analysis_is_shown(tmp_path):
    """As the recorder gives it: None where a text would be."""
    text = page(report.write(made_up(outputs=40, redacted=True), tmp_path).parent)
    assert "digest" in text and "None" not in text


def rows(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def numbers(value):
    if isinstance(value, dict):
        for v in value.values():
            yield from numbers(v)
    elif isinstance(value, list):
        for v in value:
            yield from numbers(v)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield value


@needs_all
def test_every_number_is_in_json_and_csv(full):
    stored = json.loads((full / "report.json").read_text(encoding="utf-8"))
    assert stored == json.loads(json.dumps(made_up()))
    cells = {cell for name in tables.COLUMNS for row in rows(full / f"{name}.csv") for cell in row.values()}
    stored.pop("schema")
    absent = [x for x in numbers(stored) if str(x) not in cells]
    assert not absent, absent[:5]


@needs_all
def test_csv_has_no_formula_and_numbers_stay(full):
    for name in tables.COLUMNS:
        for row in rows(full / f"{name}.csv"):
            for cell in filter(None, row.values()):
                if cell.lstrip().startswith(tables.FORMULA):
                    assert math.isfinite(float(cell)) and cell not in HOSTILE, (name, cell)
    texts = {row["text"] for row in rows(full / "outputs.csv")}
    assert {'\'=HYPERLINK("http://example.org")', "'+1+1", "'-2+3", "'@SUM(A1)", "'\t=1+1"} <= texts
    assert all(float(row["mean_logp"]) < 0 for row in rows(full / "outputs.csv"))
    assert tables.cell("-5") == "'-5" and tables.cell(-5) == -5 and tables.cell("\uff1d1") == "'\uff1d1"


@needs_all
def test_parts_that_are_missing(tmp_path):
    analysis = made_up(outputs=3, conditions=1, calibrated=False, biased=False)
    analysis["robustness"] = {"certificate": [], "measured_noise": None, "perturbations": []}
    text = page(report.write(analysis, tmp_path / "few").parent)
    assert (
        "Nothing compared." in text
        and "no pair of conditions to compare" in text
        and text.count("Not measured") >= 4
    )
    # A table without rows keeps its file: none of an earlier report stays.
    assert rows(tmp_path / "few" / "bias.csv") == [] and (tmp_path / "few" / "bias.csv").read_text()
    for key in ("outputs", "traces", "prompts", "pairs", "forks", "sweep", "anomaly_rules", "conditions"):
        analysis[key] = []
    analysis["headline"] = {}
    assert "No output was kept token by token." in page(report.write(analysis, tmp_path / "none").parent)


@needs_all
def test_nothing_known_of_what_was_measured(tmp_path):
    """None in place of every number of outputs, pairs and forks, and what is not finite."""
    analysis = made_up(outputs=36)
    for row in [*analysis["outputs"], *analysis["pairs"], *analysis["forks"], *analysis["sweep"]]:
        row.update({k: None for k, v in row.items() if isinstance(v, float)})
    analysis["headline"]["mean_entropy"] = float("nan")
    text = page(report.write(analysis, tmp_path).parent)
    assert "nan" not in text.lower().replace("nanum", "") and "Not the sampler" in text
    assert json.loads((tmp_path / "report.json").read_text())["headline"]["mean_entropy"] is None


@needs_all
@pytest.mark.filterwarnings("error")
def test_names_of_conditions_are_text(tmp_path):
    """In pictures too: no mathematics between dollars, no warning of a letter that the font lacks."""
    analysis = made_up(outputs=18)
    name = "\u6761\u4ef6 $\\frac$ <b> \u0634"
    whole = json.dumps(analysis).replace('"seed 1"', json.dumps(name))
    text = page(report.write(json.loads(whole), tmp_path).parent)
    assert text.count("\u6761\u4ef6 $\\frac$ &lt;b&gt; \u0634") >= 6 and "<b> \u0634" not in text


def test_the_verdict():
    analysis = made_up(outputs=90)
    assert _summary.verdict(analysis).title == "Not the sampler."
    logits = {**analysis, "pairs": [p for p in analysis["pairs"] if p["blame"] == "logits"]}
    assert _summary.verdict(logits).title == "Not the sampler: the logits."
    stopped = {**analysis, "pairs": [{**p, "compared": 0, "forks": 0} for p in analysis["pairs"]]}
    assert _summary.verdict(stopped).title == "Nothing compared."
    quiet = {**analysis, "pairs": [p for p in analysis["pairs"] if p["blame"] == "none"]}
    assert _summary.verdict(quiet).title == "Nothing changed."
    analysis["pairs"][0]["sampler"] = 2
    said = _summary.verdict(analysis)
    assert (
        said.kind == "bad" and said.title == "The sampler is to blame." and said.text.startswith("At 2 of ")
    )
    analysis["pairs"][0]["sampler"] = 0
    assert "drawn again from their logits, came out equal" in _summary.verdict(analysis).text
    assert _summary.verdict({**analysis, "pairs": []}).title == "Nothing compared."
    analysis["run"]["redrawn"] -= 1
    assert _summary.verdict(analysis).title == "The sampler is to blame."
    assert "1 of " in _summary.verdict(analysis).text and _summary.tiles(analysis)[0].value == "1"


def test_the_summary_counts():
    analysis = made_up(outputs=180)
    found = {c.setting: c for c in _summary.changes(analysis)}
    pair = next(p for p in analysis["pairs"] if (p["a"], p["b"]) == ("base", "batch 8"))
    assert found["batch"].equal == pair["equal"] / pair["compared"] and found["threads"].equal == 1
    assert found["temperature"].compared == 2 * pair["compared"]  # two conditions
    said = {s.title: s.text for s in _summary.sentences(analysis)}
    wrong = sum(bool(row["anomalies"]) for row in analysis["outputs"])
    assert said["Outputs that look wrong"].startswith(f"{wrong} of 180 outputs")
    assert "none with another thread count" in said["What changes the outputs"]
    assert "over-confident" in said["Calibration"]


@needs_all
def test_thousands_of_outputs_show_the_most_telling(tmp_path):
    text = page(report.write(made_up(outputs=3000, conditions=30), tmp_path).parent)
    assert len(text) < 2_000_000 and "more in anomalies.csv" in text and "more in forks.csv" in text
    assert len(rows(tmp_path / "outputs.csv")) == 3000
    assert "The first 24 of 30 conditions." in text


@needs_all
def test_written_again_the_bytes_are_the_same(full, tmp_path):
    (tmp_path / "report.html").write_text("an older one")
    report.write(made_up(), tmp_path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {
        p.name: p.read_bytes() for p in full.iterdir()
    }


@pytest.mark.parametrize("name", ["conditions.csv", "report.json", "report.html"])
def test_a_full_disk_keeps_the_old_report(tmp_path, monkeypatch, name):
    monkeypatch.setattr(report, "render", lambda analysis: f"{len(analysis['outputs'])} outputs")
    before = {p.name: p.read_bytes() for p in report.write(made_up(outputs=9), tmp_path).parent.iterdir()}
    whole = Path.write_text

    def full_at(path, *args, **kwargs):
        whole(path, *args, **kwargs)
        if path.name == name:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full_at)
    with pytest.raises(OSError, match="No space left") as caught:
        report.write(made_up(outputs=18), tmp_path)
    assert caught.value.errno == errno.ENOSPC and caught.value.filename == str(tmp_path / name)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


@pytest.mark.parametrize("kind", [report, tensorboard], ids=["report", "tensorboard"])
def test_a_folder_that_cannot_be(tmp_path, kind):
    if kind.missing():
        pytest.skip(f"it {kind.missing()}")
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError) as caught:
        kind.write(made_up(outputs=9), tmp_path / "file" / "out")
    assert "file" in str(caught.value.filename)


def test_missing_packages_are_named(monkeypatch):
    monkeypatch.setattr(report, "NEEDED", ("matplotlib_absent", "jinja2_absent"))
    assert report.missing() == (
        "needs matplotlib_absent and jinja2_absent: pip install matplotlib_absent jinja2_absent"
    )


def luminance(colour):
    parts = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in colour]
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]


def contrast(one, two):
    high, low = sorted((luminance(one), luminance(two)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def rgb(text):
    text = text.lstrip("#")
    text = "".join(c * 2 for c in text) if len(text) == 3 else text
    return tuple(int(text[i : i + 2], 16) / 255 for i in (0, 2, 4))


@needs_all
def test_words_can_be_read_in_light_and_dark(full):
    """WCAG AA, 4.5: all words on page and card, and words on the strongest heat."""
    from fusedraw.audit import _drawing

    light, dark = (
        {k: rgb(v) for k, v in re.findall(r"--(\w+): (#\w+)", block)}
        for block in re.findall(r":root \{(.*?)\}", page(full), re.S)
    )
    for theme in (light, {**light, **dark}):
        for ink in ("ink", "soft", "good", "warn", "bad", "plain"):
            assert min(contrast(theme[ink], theme[back]) for back in ("page", "card")) >= 4.5, ink
        for heat, share in (
            (theme["entropy"], 0.65),
            (theme["surprise"], 0.65),
            (rgb(_drawing.ORANGE), 0.75),
        ):
            mixed = tuple(share * h + (1 - share) * c for h, c in zip(heat, theme["card"], strict=True))
            assert contrast(theme["ink"], mixed) >= 4.5
    assert _drawing.HOTTEST == 0.75


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0 %"), (1, "100 %"), (0.9999, "> 99.9 %"), (1e-6, "< 0.1 %"), (0.123, "12.3 %"), (None, "–")],
)
def test_percent(value, text):
    assert _format.percent(value) == text.replace(" %", "\u00a0%")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.03, "0.03"), (2.9e-5, "2.9e-5"), (1234567, "1,234,567"), (-1.2345, "-1.23"), (400.0, "400"),
        (float("nan"), "–"), (True, "–"), (0.99999, "1"), (123456.7, "123,457"),
    ],
)  # fmt: skip
def test_number(value, text):
    assert _format.number(value) == text


@needs_tensorboard
def test_tensorboard_reads_it(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    analysis = made_up(outputs=36)
    assert tensorboard.write(analysis, tmp_path, step=3) == tmp_path
    read = EventAccumulator(str(tmp_path), size_guidance={"histograms": 0})
    read.Reload()
    tags = read.Tags()
    known = {k: v for k, v in analysis["headline"].items() if v is not None}
    assert len(tags["scalars"]) == len(known)
    (event,) = read.Scalars("audit/mean_entropy")
    assert event.step == 3 and event.value == pytest.approx(known["mean_entropy"])
    assert "audit/agreement/batch_8" in tags["scalars"]
    (drawn,) = read.Histograms("entropy_of_tokens/base")
    traced = [x for t in analysis["traces"] if t["condition"] == "base" for x in t["entropy"]]
    assert drawn.histogram_value.num == len(traced)
    (said,) = read.Tensors("audit/summary/text_summary")
    assert b"Not the sampler." in said.tensor_proto.string_val[0]


def test_tensorboard_missing_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(tensorboard.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="needs tensorboard: pip install tensorboard"):
        tensorboard.write(made_up(outputs=9), tmp_path / "out")
    assert not (tmp_path / "out").exists()
