# SPDX-License-Identifier: Apache-2.0
"""Texts drawn by `fusedraw.sample` from a language model, printed token by token: an answer, or a chat."""

from __future__ import annotations

import math
import statistics
import sys
import time
from dataclasses import dataclass, field

from . import _model
from ._demo_screen import INDENT
from .keys import derive_keys
from .sampling import sample

RECORDED = 64  # rows of logits kept of a text: 12 MB at V = 49152


@dataclass
class Generation:
    """A text as it was drawn: ids (the end token too), what was shown of each, logits, seconds spent."""

    ids: list[int] = field(default_factory=list)
    tokens: list[tuple[str, float, float]] = field(default_factory=list)  # text, probability, entropy in nats
    logits: list = field(default_factory=list)  # the first RECORDED, [1, V] float32 each
    model_seconds: list[float] = field(default_factory=list)  # per forward pass
    draw_seconds: list[float] = field(default_factory=list)  # per token: key, draw and both figures

    def summary(self) -> str:
        count = len(self.tokens)
        if not count:
            return "an empty answer"
        nats = sum(math.log(p) for _, p, _ in self.tokens)
        entropy = sum(h for _, _, h in self.tokens) / count
        model_ms = 1e3 * statistics.median(self.model_seconds)
        draw_us = 1e6 * statistics.median(self.draw_seconds)
        return (
            f"{count} tokens; log-probability of the text {nats:.1f} nats (per token, geometric mean: "
            f"probability {math.exp(nats / count):.2f}), mean entropy {entropy:.2f} nats. Median time per "
            f"token: {model_ms:.0f} ms in the model, {draw_us:.0f} us for the draw with key and figures."
        )


def generate(screen, language_model, prompt: list[int], settings, request: int) -> Generation:
    """Draw an answer to prompt ids and print it as it comes. The position in the text is the key's step."""
    text = Generation()
    stream = _model.TextStream(language_model.decode)
    decoding = _timed(text, lambda: language_model.begin([prompt]))
    for step in range(settings.max_new_tokens):
        started = time.perf_counter()
        keys = derive_keys(settings.seed, [request], step=step)
        out = sample(decoding.logits, keys=keys, returns=("logp", "entropy"), **settings.filters())
        text.draw_seconds.append(time.perf_counter() - started)
        text.ids.append(int(out.ids))
        if len(text.logits) < RECORDED:
            text.logits.append(decoding.logits)
        if text.ids[-1] in language_model.stop_ids:
            break
        shown = stream.push(text.ids[-1])
        text.tokens.append((shown, math.exp(float(out.logp)), float(out.entropy)))
        screen.token(*text.tokens[-1])
        if step + 1 < settings.max_new_tokens:
            _timed(text, lambda ids=out.ids: decoding.feed(ids))
    screen.line()
    return text


def chat(screen, language_model, settings) -> int:
    """A conversation: a line in, a streamed answer out, until the end of stdin or /quit. Returns 0."""
    screen.line("An empty line is skipped; /quit or Ctrl-D ends.")
    screen.legend()
    messages: list[dict] = []
    for turn, line in enumerate(_lines(screen)):
        messages.append({"role": "user", "content": line})
        prompt = language_model.chat_prompt(messages)
        while not fits(language_model, prompt, settings) and len(messages) > 2:
            del messages[:2]  # the oldest question and its answer
            prompt = language_model.chat_prompt(messages)
        if not fits(language_model, prompt, settings):
            screen.line(INDENT + does_not_fit(language_model, prompt, settings))
            messages.pop()
            continue
        answer = generate(screen, language_model, prompt, settings, request=turn)
        screen.note(answer.summary())
        screen.line()
        spoken = [token for token in answer.ids if token not in language_model.stop_ids]
        messages.append({"role": "assistant", "content": language_model.decode(spoken)})
    return 0


def fits(language_model, prompt: list[int], settings) -> bool:
    return len(prompt) + settings.max_new_tokens <= language_model.context


def does_not_fit(language_model, prompt: list[int], settings) -> str:
    return (
        f"the prompt has {len(prompt)} tokens and --max-new-tokens is {settings.max_new_tokens}: "
        f"together more than the {language_model.context} that the model has room for"
    )


def _timed(text: Generation, work):
    started = time.perf_counter()
    result = work()
    text.model_seconds.append(time.perf_counter() - started)
    return result


def _lines(screen):
    """What the user says. Piped lines are shown too, so that the record reads as a conversation."""
    while True:
        screen.write("you> ", "bold")
        line = sys.stdin.readline()
        if not line or not sys.stdin.isatty():
            screen.line(line.strip())
        if not line or line.strip() == "/quit":
            return
        if line.strip():
            yield line.strip()
