# SPDX-License-Identifier: Apache-2.0
"""Text and numbers as the report shows them. Prompts and outputs are untrusted: nothing in them may hide."""

from __future__ import annotations

import math
import unicodedata
from typing import Any

import numpy

NONE = "–"
SPACE = "\u00a0"


def visible(text: str) -> str:
    """The text with what cannot be seen, or would turn its surroundings, made visible.

    Control characters and those that turn or hide text become ·U+202E·, half of a surrogate pair U+FFFD (no
    UTF-8 has it). Line ends and tabs stay, also the joiners that scripts and emoji need.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(map(shown, text))


def shown(letter: str) -> str:
    if letter in "\n\t\u200c\u200d" or letter.isprintable():
        return letter
    kind = unicodedata.category(letter)
    if kind == "Cs":
        return "\ufffd"
    return letter if kind == "Zs" else f"·U+{ord(letter):04X}·"  # no bracket: right to left it would turn


def short(text: str, letters: int) -> str:
    """On one line, at most so many letters, the last of them an ellipsis where something is left out."""
    line = " ".join(visible(text[: 4 * letters]).split())
    return line if len(line) <= letters and len(text) <= 4 * letters else line[: letters - 1] + "…"


def finite(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if math.isfinite(value) else None


def number(value: Any, digits: int = 3) -> str:
    """Significant digits, no zeros at the end, no exponent from 1e-4 to 1e6, groups of three."""
    x = finite(value)
    if x is None:
        return NONE
    if x == int(x) and abs(x) < 1e15:
        return f"{int(x):,}"
    if 1e-4 <= abs(x) < 1e6:
        places = max(0, digits - 1 - math.floor(math.log10(abs(x))))
        text = f"{x:,.{places}f}"
        return text.rstrip("0").rstrip(".") if places else text
    mantissa, _, exponent = f"{x:.{digits - 1}e}".partition("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


def percent(share: Any) -> str:
    """Nothing but 0 says 0 %, nothing but 1 says 100 %. The space does not break."""
    x = finite(share)
    if x is None:
        return NONE
    if 0 < x < 0.001:
        return f"< 0.1{SPACE}%"
    if 0.999 < x < 1:
        return f"> 99.9{SPACE}%"
    text = f"{100 * x:.1f}"
    return f"{text.removesuffix('.0')}{SPACE}%"


def plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def listed(words: list[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def clean(value: Any) -> Any:
    """A copy of plain types for JSON: None for what is not finite, NumPy's numbers as Python's."""
    if isinstance(value, dict):
        return {str(k): clean(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [clean(v) for v in value]
    if isinstance(value, numpy.generic):
        value = value.item()
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return value


# What may hold words of a prompt or an output, and token ids, which the model's tokenizer turns into words.
# The recorder keeps none of it in a redacted run; the report does not rely on that.
TEXTS = frozenset(
    [
        *("text", "pieces", "text_a", "text_b", "template", "top_a", "top_b"),
        *("token_a", "token_b", "token_of_a_on_logits_of_b"),
    ]
)


def redact(value: Any) -> Any:
    """A copy of an analysis without TEXTS; the section "bias" keeps numbers alone: its words are prompts."""
    if isinstance(value, dict):
        return {k: None if k in TEXTS else numbers(v) if k == "bias" else redact(v) for k, v in value.items()}
    return [redact(v) for v in value] if isinstance(value, list) else value


def numbers(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: None if k in TEXTS else numbers(v) for k, v in value.items()}
    if isinstance(value, list):
        return [numbers(v) for v in value]
    return None if isinstance(value, str) else value
