# SPDX-License-Identifier: Apache-2.0
"""What the reference implementations say of the fixtures in data/metrics.json.

    python tests/metrics_references.py      computes them again and writes the file

sacrebleu is among the tests' requirements; vendi-score and diversity pull in far more than the functions that
are called here, so they are installed without what they depend on:

    pip install sacrebleu==2.6.0 scikit-learn==1.5.2 scipy==1.13.1 "numpy<2" nltk tqdm
    pip install --no-deps vendi-score==0.0.3 diversity==0.3.1

(vendi-score calls `.A` of a sparse matrix, which scipy 1.14 removed: hence the older scipy.) Texts are words
joined by blanks: token ids in decimal, or for the set "sentences" the words themselves too.
"""

import importlib.util
import json
import sys
import types
import zlib
from importlib.metadata import version
from pathlib import Path

FILE = Path(__file__).parent / "data" / "metrics.json"
SENTENCES = (
    "the sea at night is a dark mirror and the moon walks on it",
    "the sea at night is a quiet animal that breathes under the moon",
    "at night the sea keeps its colours for the morning",
    "a dark sea and a bright moon and no wind at all",
    "the moon walks on the sea and the sea walks on the sand",
    "no ship no light no sound but the sea at night",
)


def load(package, module):
    """One file of a package, without the package's own __init__ and what it imports."""
    place = importlib.util.find_spec(package)
    if place is None:
        raise ImportError(f"{package} is not installed")
    path = Path(place.submodule_search_locations[0]) / f"{module}.py"
    spec = importlib.util.spec_from_file_location(f"_{package}_{module}", path)
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def words(text):
    return " ".join(map(str, text))


def sacrebleu_values(texts):
    from sacrebleu.metrics import BLEU

    bleu = BLEU(tokenize="none", effective_order=True)
    lines = [words(text) for text in texts]
    return {
        "self_bleu": [
            bleu.sentence_score(line, [other for j, other in enumerate(lines) if j != i]).score
            for i, line in enumerate(lines)
        ]
    }


def vendi_values(texts):
    # text_utils imports these at its top, and no function that is called here uses them
    for name in ("datasets", "transformers"):
        if name not in sys.modules:
            sys.modules[name] = types.ModuleType(name)
            sys.modules[name].AutoModel = sys.modules[name].AutoTokenizer = None
    from vendi_score import text_utils

    lines = [words(text) for text in texts]
    split = {"tokenizer": str.split, "token_pattern": None}
    return {
        "vendi_score": float(text_utils.ngram_vendi_score(lines, tokenizer=str.split)),
        "vendi_score_of_words": float(text_utils.ngram_vendi_score(lines, ns=[1], tokenizer=str.split)),
        "distinct_n": [float(text_utils.single_ngram_diversity(lines, n, **split)) for n in (1, 2, 3, 4)],
    }


def diversity_values(texts):
    lines = [words(text) for text in texts]
    self_repetition = load("diversity", "self_repetition").self_repetition_score
    return {
        "compression_ratio": load("diversity", "compression").compression_ratio(lines),
        "self_repetition": [float(self_repetition(lines, n, verbose=False)) for n in (2, 4)],
        # of one text: it joins texts, and n-grams across the seam are none of any text
        "sum_of_distinct_n_of_first": load("diversity", "ngram_diversity").ngram_diversity_score(lines[:1]),
    }


REFERENCES = {"sacrebleu": sacrebleu_values, "vendi-score": vendi_values, "diversity": diversity_values}


def fixtures():
    """Sets of texts: Zipf-like ids, loops, texts that are alike, sentences as ids of their words."""
    import random

    rng = random.Random(5)

    def zipf(size, length):
        return rng.choices(range(size), [1 / (rank + 1) for rank in range(size)], k=length)

    loops = [[7, 8, 9] * 6, [7, 8, 9, 10] * 5, [1] * 12, zipf(5, 25)]
    base = zipf(3000, 24)
    alike = [base, list(base), [*base[:20], 1, 2, 3], base[4:], [*reversed(base)]]
    vocabulary: dict[str, int] = {}
    sentences = [[vocabulary.setdefault(w, len(vocabulary)) for w in line.split()] for line in SENTENCES]
    long = [zipf(49152, rng.randint(60, 90)) for _ in range(10)]
    few = [zipf(40, rng.randint(4, 30)) for _ in range(12)]
    return {"long": long, "few words": few, "loops": loops, "alike": alike, "sentences": sentences}


def main():
    packages = (*REFERENCES, "scipy", "scikit-learn", "numpy", "nltk")
    stored = {
        "origin": "python tests/metrics_references.py",
        "versions": {**{name: version(name) for name in packages}, "zlib": zlib.ZLIB_RUNTIME_VERSION},
        "sets": {
            name: {"texts": texts, "values": {who: of(texts) for who, of in REFERENCES.items()}}
            for name, texts in fixtures().items()
        },
        "compression_ratio_of_sentences": load("diversity", "compression").compression_ratio(SENTENCES),
    }
    FILE.write_text(json.dumps(stored) + "\n", encoding="utf-8")
    print(f"written: {FILE} with {stored['versions']}")


if __name__ == "__main__":
    main()
