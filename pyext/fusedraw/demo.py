# SPDX-License-Identifier: Apache-2.0
"""`python -m fusedraw demo`: text from a real model, token by token with its probabilities; then what a draw
costs on that model's own logits, and that it depends neither on the batch nor on threads. `--chat` talks.

Exit status: 0; 1 when something is missing or a promise does not hold; 2 for options that cannot be met.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from pathlib import Path

import numpy
import torch

from . import _demo_checks, _demo_screen, _demo_text, _model
from ._C import isa
from ._demo_screen import INDENT
from .keys import derive_keys
from .sampling import sample

DEFAULT_PROMPT = "Describe the sea at night in two sentences."
DEFAULT_TOKENS, DEFAULT_CHAT_TOKENS = 80, 400
REPLAYED = 32  # tokens of the text that are generated again, alone and in a batch
OTHER_PROMPTS = (  # what else is in the batch then
    "The capital of France is",
    "Why is the sky blue?",
    "Suggest a name for a coffee shop.",
    "Who wrote Pride and Prejudice?",
    "Write an email asking for a day off.",
    "What are three tips for better sleep?",
    "Write a haiku about autumn.",
)
ROWS_FILE = Path(__file__).parent / "data" / "real_logits.npz"
DRAWS_SHOWN = 3  # of each packaged row


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--chat", action="store_true", help="talk with the model: lines from stdin, /quit ends"
    )
    parser.add_argument(
        "--no-model", action="store_true", help="packaged rows of real logits instead of a model"
    )
    parser.add_argument(
        "--prompt", default=DEFAULT_PROMPT, help="what to ask the model (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=7, help="seed of all draws (default: %(default)s)")
    limits = f"longest answer (default: {DEFAULT_TOKENS}; in a chat {DEFAULT_CHAT_TOKENS})"
    parser.add_argument("--max-new-tokens", type=_count, metavar="N", help=limits)
    temperature = "0 is greedy (default: %(default)s)"
    parser.add_argument("--temperature", type=_at_least_zero, default=0.8, metavar="T", help=temperature)
    top_p = "1 keeps every token (default: %(default)s)"
    parser.add_argument("--top-p", type=_share, default=0.95, metavar="P", help=top_p)
    parser.add_argument("--no-color", action="store_true", help="plain text, figures in tables")


def main(args: argparse.Namespace) -> int:
    if args.chat and args.no_model:
        print("demo: --chat needs the model; leave out --no-model", file=sys.stderr)
        return 2
    missing = None if args.no_model else _model.missing_for_model()
    if missing:
        print(f"demo: {missing}", file=sys.stderr)
        return 1
    limit = args.max_new_tokens or (DEFAULT_CHAT_TOKENS if args.chat else DEFAULT_TOKENS)
    settings = _demo_checks.Settings(args.seed, args.temperature, args.top_p, limit)
    screen = _demo_screen.make_screen(args.no_color)
    try:
        if args.no_model:
            return _show_packaged_rows(screen, settings)
        with screen.progress(f"loading {_model.MODEL_NAME}", _model.LOAD_STAGES) as on_stage:
            language_model = _model.load_language_model(on_stage)
        if args.chat:
            screen.line(f"A conversation with {_model.MODEL_NAME} ({_describe(settings)}).")
            return _demo_text.chat(screen, language_model, settings)
        return _show_model(screen, language_model, args.prompt, settings)
    except _model.ModelUnavailable as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # `| head` has seen enough; nothing more can be flushed at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        screen.line()
        return 130


def _show_model(screen, language_model, question: str, settings) -> int:
    prompt = language_model.chat_prompt([{"role": "user", "content": question}])
    if not _demo_text.fits(language_model, prompt, settings):
        print(f"demo: {_demo_text.does_not_fit(language_model, prompt, settings)}", file=sys.stderr)
        return 2
    screen.heading(f"1. A text: every token drawn by fusedraw.sample ({_describe(settings)})")
    screen.line(f"{INDENT}> {_demo_screen.printable(question)}", "bold")
    screen.line()
    screen.legend()
    text = _demo_text.generate(screen, language_model, prompt, settings, _demo_checks.REQUEST)
    screen.line()
    if not screen.has_color:
        screen.note("prob.: with which the token was drawn; entropy: before filters, in nats")
        screen.table_of_tokens(text.tokens)
    screen.note(text.summary())
    holds = _show_checks(screen, text.logits, settings, "the logits recorded above")
    _show_replays(screen, language_model, prompt, text, settings)
    return 0 if holds else 1


def _show_packaged_rows(screen, settings) -> int:
    rows, prompts, vocabulary = load_packaged_rows()
    screen.heading(f"1. Next tokens drawn from {len(rows)} rows of real logits ({_describe(settings)})")
    screen.note(f"recorded from {_model.MODEL_NAME}; {DRAWS_SHOWN} draws of each, with probabilities")
    screen.legend()
    screen.line(f"{INDENT}{'prompt':<29}{'entropy':>7}  next token, probability")
    for number, (row, prompt) in enumerate(zip(rows, prompts, strict=True)):
        out = sample(
            row.expand(DRAWS_SHOWN, -1),
            keys=derive_keys(settings.seed, torch.arange(DRAWS_SHOWN), step=number),
            returns=("logp", "entropy"),
            **settings.filters(),
        )
        prompt = " ".join(prompt.split())
        short = prompt if len(prompt) <= 28 else prompt[:25] + "..."
        entropy = float(out.entropy[0])
        screen.write(f"{INDENT}{short:<29}{entropy:7.2f}  ")
        for token, logp in zip(out.ids.tolist(), out.logp.tolist(), strict=True):
            screen.cell(vocabulary[token].decode("utf-8", "replace"), math.exp(logp), entropy)
        screen.line()
    return 0 if _show_checks(screen, rows, settings, "these rows") else 1


def _show_checks(screen, rows, settings, what: str) -> bool:
    """Sections 2 and 3; False if a draw changed although its logits and key did not."""
    with_hugging_face = _model.is_installed("transformers")
    screen.heading(f"2. Time of one draw from {what}")
    _show_timings(screen, _demo_checks.time_draws(rows, settings, with_hugging_face), rows[0].shape[-1])
    if not with_hugging_face:
        screen.note("transformers is not installed: its column is left out")
    screen.heading(f"3. The same request again on {what}: alone or in a batch, with 1 or 2 threads")
    return _show_sameness(screen, _demo_checks.compare_draws(rows, settings))


def _show_timings(screen, timings, vocabulary: int) -> None:
    head = f"{INDENT}{'':<32}{'fusedraw':>10}{'pure PyTorch':>22}"
    if timings[0].hugging_face_us is not None:
        head += f"{'HF warpers':>22}"
    screen.line(head)
    for timing in timings:
        line = f"{INDENT}{timing.label:<32}{timing.fused_us:7.0f} us"
        for other in (timing.pure_torch_us, timing.hugging_face_us):
            if other is not None:
                line += f"{other:10.0f} us {f'({other / timing.fused_us:.1f} x)':>9}"
        screen.line(line)
    screen.note(
        f"One row of {vocabulary} float32 logits, 1 thread, whole Python calls, medians of"
        f" {_demo_checks.CALLS} taken in turn; in brackets, how often ours fits into it. HF warpers: of"
        f" transformers, then torch.multinomial."
        f" Engine: {isa()}."
    )


def _show_sameness(screen, report) -> bool:
    draws = report[0].draws
    first = f"{draws} draws, beside the same alone, 1 thread"
    screen.line(f"{INDENT}{first:<50}{'tokens equal':>14}{'log-prob. bits equal':>22}")
    for way in report:
        logps = "" if way.logps is None else f"{way.logps} of {way.draws}"
        screen.line(f"{INDENT}{way.label:<50}{f'{way.tokens} of {way.draws}':>14}{logps:>22}".rstrip())
    ours = [way for way in report if way.logps is not None]
    holds = all(way.tokens == way.logps == way.draws for way in ours)
    if holds:
        screen.note("Compared: draws from equal logits with equal keys. They are equal, always.")
    else:
        screen.line(f"{INDENT}A draw changed although logits and key did not: a bug in fusedraw.", "bold red")
    return holds


def _show_replays(screen, language_model, prompt, text, settings) -> None:
    """Section 4: the model runs again too, and its own arithmetic may differ; said as it is."""
    count = min(REPLAYED, len(text.ids), len(text.logits))
    screen.heading(f"4. The first {count} tokens of the text again, the model included")
    screen.line(f"{INDENT}{'':<50}{'tokens equal':>14}{'logits differ by':>22}")
    others = [language_model.chat_prompt([{"role": "user", "content": other}]) for other in OTHER_PROMPTS]
    ways: tuple[tuple[str, int | None, list], ...] = (
        ("alone, 1 thread", 1, []),
        ("alone, 2 threads", 2, []),
        (f"in a batch of {len(others) + 1} prompts, {torch.get_num_threads()} threads", None, others),
    )
    for label, threads, batch in ways:
        equal, gap = _demo_checks.replay(language_model, prompt, batch, text, settings, count, threads)
        differ = "0" if gap == 0 else f"up to {gap:.1e}"
        screen.line(f"{INDENT}{label:<50}{f'{equal} of {count}':>14}{differ:>22}")
    screen.note(
        "Compared: whole generations. The model's matrix products round differently by batch size and"
        " threads, which no sampler can undo; a difference this small rarely moves a draw, but it can."
    )


def load_packaged_rows():
    """(rows: 16 of [1, 49152] float32, prompts, vocabulary as bytes); origin and licence: data/README.md."""
    with numpy.load(ROWS_FILE) as file:
        logits = torch.from_numpy(file["logits"]).float()
        ends = file["token_lengths"].astype(int).cumsum().tolist()
        all_bytes = file["token_bytes"].tobytes()
        prompts = file["prompts"].tolist()
    vocabulary = [all_bytes[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]
    return list(logits.split(1)), prompts, vocabulary


def _describe(settings) -> str:
    return f"T = {settings.temperature:g}, top-p = {settings.top_p:g}, seed = {settings.seed}"


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


def _at_least_zero(text: str) -> float:
    value = float(text)
    if not value >= 0:
        raise argparse.ArgumentTypeError(f"must be >= 0, got {text}")
    return value


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"must be in [0, 1], got {text}")
    return value
