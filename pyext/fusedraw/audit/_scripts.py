# SPDX-License-Identifier: Apache-2.0
"""Where a text changes its script or its language.

Scripts are told by the Unicode names of letters. Latin text is told apart by the commonest function words of
four languages (English, French, German, Spanish): about every second word of running text is one; and by the
letters with marks that they write. Other languages in Latin letters are not seen, nor is a switch of a few
words without either, nor one in a text (a list of nouns, code) whose own language shows in neither.
"""

import json
import re
import unicodedata
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

_ALPHABETS = """LATIN GREEK CYRILLIC ARMENIAN GEORGIAN HEBREW ARABIC SYRIAC ETHIOPIC HANGUL THAI LAO KHMER
    DEVANAGARI BENGALI GURMUKHI GUJARATI TAMIL TELUGU KANNADA MALAYALAM SINHALA TIBETAN MYANMAR"""
SCRIPTS = {name: name.title() for name in _ALPHABETS.split()}  # first words of letters' names
# Japanese mixes the three.
SCRIPTS |= {"CJK": "Han and kana", "HIRAGANA": "Han and kana", "KATAKANA": "Han and kana"}
# A letter of these is a syllable or a word, and no blanks part words: each counts, not each word.
DENSE = {"Han and kana", "Hangul", "Thai", "Lao", "Khmer", "Tibetan", "Myanmar"}

# Letters outside a-z that a language writes.
LETTERS_OF = {
    "English": frozenset(),
    "French": frozenset("àâæçèéêëîïôùûüÿœ"),
    "German": frozenset("äöüß"),
    "Spanish": frozenset("áéíñóúü"),
}
# The commonest function words of each. A word of two lists (in, de, no) speaks for neither against the other;
# words that are common in English without being function words there (man, war, hat, pour, plus, son) are
# left out.
_FILE = Path(__file__).parent.parent / "data" / "function_words.json"
WORDS_OF = {
    language: frozenset(" ".join(lines).split())
    for language, lines in json.loads(_FILE.read_text(encoding="utf-8")).items()
}
LEAST_HITS = 2  # function words without which a text has no main language

# Evidence, in function words. A word of another script is worth two: it is not a homograph of anything.
OTHER_SCRIPT_WORD = 2.0
MARKED = 0.5  # a word known by its letters: names and dishes travel (café, crème, Müller)
NEITHER = -0.1  # a word that no list has: a switch ends after ten of them for each function word in it

_WORD = re.compile(r"[^\W\d_]+")


class Switch(NamedTuple):
    """`evidence` that text[start:end] is in `other`, the text around it in `main`; 0.0 if there is none."""

    evidence: float
    main: str
    other: str
    start: int
    end: int


def strongest_switch(text: str) -> Switch:
    """The stretch of a text that differs most in script or language from the rest.

    Evidence is summed over the words of a stretch, and the best stretch is taken (Kadane's maximum sum): +1
    for a function word of the other language, -1 for one of the main language, 0 for one of both and for a
    single letter; else +0.5 and -0.5 for a word with letters that only the one writes, -0.1 for one without.
    By scripts, +2 for a word of the other script of two letters or more, -1 for one of the main script, where
    each letter of a script without blanks stands for a word, and counts 1. Main is what most of the text is
    in.
    """
    words = [word for match in _WORD.finditer(text) for word in _by_script(match)]
    latin = [word for word in words if word.script == "Latin"]
    return _strongest([_other_script(words), _other_language(latin)])


def _other_script(words) -> Switch:
    letters: dict[str, int] = {}
    for word in words:
        if word.script:
            letters[word.script] = letters.get(word.script, 0) + len(word.text)
    if len(letters) < 2:
        return _NONE
    main = max(letters, key=lambda script: letters[script])
    return _strongest_of(letters, main, words, words, _script_value)


def _script_value(word, main: str, other: str) -> float:
    weight = len(word.text) if word.script in DENSE else 1.0
    if word.script == main:
        return -weight
    if word.script != other:
        return 0.0
    if other in DENSE:
        return weight
    return OTHER_SCRIPT_WORD if len(word.text) > 1 else 0.0  # a single letter is a symbol of mathematics


def _other_language(words) -> Switch:
    lowered = [word.text.lower() for word in words]
    hits = {language: sum(word in known for word in lowered) for language, known in WORDS_OF.items()}
    main = max(hits, key=lambda language: hits[language])
    if hits[main] < LEAST_HITS:
        return _NONE
    return _strongest_of(WORDS_OF, main, words, lowered, _language_value)


def _language_value(word: str, main: str, other: str) -> float:
    if len(word) == 1 and word.isascii():  # a variable more often than French or Spanish y
        return 0.0
    ours, theirs = word in WORDS_OF[main], word in WORDS_OF[other]
    if ours or theirs:
        return float(theirs) - float(ours)
    marks = {letter for letter in word if not letter.isascii()}
    if not marks:
        return NEITHER
    return MARKED * (float(marks <= LETTERS_OF[other]) - float(marks <= LETTERS_OF[main]))


def _best_stretch(words, values, main: str, other: str) -> Switch:
    best, total, first = _NONE, 0.0, 0
    for place, value in enumerate(values):
        if total <= 0.0:
            total, first = 0.0, place
        total += value
        if total > best.evidence:
            best = Switch(total, main, other, words[first].start, words[place].end)
    return best


def _strongest_of(others, main: str, words, seen, value_of) -> Switch:
    """The strongest switch from `main`; value_of(seen word, main, other) is the evidence of a word."""
    stretches = [
        _best_stretch(words, [value_of(word, main, other) for word in seen], main, other)
        for other in others
        if other != main
    ]
    return _strongest(stretches)


def _strongest(found: list[Switch]) -> Switch:
    return max(found, key=lambda switch: switch.evidence, default=_NONE)


_NONE = Switch(0.0, "", "", 0, 0)


class _Word(NamedTuple):
    text: str
    start: int
    end: int
    script: str | None  # None: letters of no script above


def _by_script(match: re.Match[str]) -> list[_Word]:
    """A run of letters, cut where the script changes; a letter of none goes with the letter before it."""
    word, start = match.group(), match.start()
    scripts = [_script_of(letter) for letter in word]
    for place in range(1, len(word)):
        scripts[place] = scripts[place] or scripts[place - 1]
    ends = [place for place in range(1, len(word)) if scripts[place] != scripts[place - 1]]
    edges = zip([0, *ends], [*ends, len(word)], strict=True)
    return [_Word(word[a:b], start + a, start + b, scripts[a]) for a, b in edges]


@lru_cache(maxsize=4096)
def _script_of(letter: str) -> str | None:
    return SCRIPTS.get(unicodedata.name(letter, "").split(" ")[0])
