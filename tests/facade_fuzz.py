# SPDX-License-Identifier: Apache-2.0
"""A fuzzer of the public functions: arbitrary arguments give a documented error that names one of them, or a
result that is R2's to the bit. Never another error, a crash, or a hang.

    python tests/facade_fuzz.py SECONDS [SEED]     prints one line of JSON
"""

import collections
import faulthandler
import json
import re
import sys
import time
import warnings

import fusedraw
import fusedraw.numpy
import hypothesis.strategies as st
import torch
from engines import FAST, engine, same_bits
from facade_values import HOSTILE, biases, ids, integers_per_row, keys, masks, per_row, plain, rows, values_of
from hypothesis import HealthCheck, given, seed, settings
from strategies import epsilons, min_ps, temperatures, top_ps

HANG_S = 60  # of one call: then every thread's stack is printed and the process ends
ERRORS = (
    TypeError,
    ValueError,
    OverflowError,
)  # as documented; compiled graphs, which add RuntimeError, are not here

top_ks = st.one_of(st.sampled_from([0, -1, None, 1, 2, 5, 50, 10**12]), st.integers(1, 80))
choices = {
    "mix_support": ("kept", "valid"),
    "filter_order": ("sequential", "joint", "min_p_first"),
    "ties": ("index", "all"),
    "domain": ("target", "draft", "accept", "recovery"),
    "check": (None, "raise", "status"),
}
RETURNS = {
    "sample": (
        "status",
        "logp",
        "logp_full",
        "logp_raw",
        "entropy",
        "varentropy",
        "margin",
        "n_kept",
        "kept_mass",
    ),
    "sample_probs": ("status", "logp", "margin", "n_kept", "kept_mass", "rank", "explored", "kept"),
    "mixture": ("status", "logp", "entropy", "n_kept", "kept_mass", "rank", "member_logp", "member_entropy"),
    "token_logprob": ("entropy", "status"),
    "verify": ("logp", "status"),
}
FILTERS = ("temperature", "top_k", "top_p", "min_p", "filter_order", "ties", "mask", "check")
DRAW = (
    *FILTERS,
    "mix_eps",
    "exploit",
    "mix_support",
    "keys",
    "seed",
    "step",
    "generator",
    "domain",
    "returns",
)
RULES = (
    *(
        "repetition_penalty",
        "frequency_penalty",
        "presence_penalty",
        "top_n_sigma",
        "typical_p",
        "epsilon_cutoff",
    ),
    *("eta_cutoff", "xtc_threshold", "xtc_probability", "temperature_last"),
)
EDITS = ("history", "prompt", "logit_bias", "suppress", "deny_mask")
PENALTIES = ("repetition_penalty", "frequency_penalty", "presence_penalty")
# Positional arguments, then the others.
SIGNATURES = {
    "sample": (("logits",), (*DRAW, "top_n", *RULES, *EDITS)),
    "sample_probs": (("probs",), tuple(name for name in DRAW if name != "temperature")),
    "numpy.sample": (("logits",), (*DRAW, "top_n")),
    "Sampler": (("logits",), (*DRAW, "top_n", *RULES, *EDITS)),
    "softmax": (("logits",), ("temperature", "mask", "check")),
    "log_softmax": (("logits",), ("temperature", "mask", "check")),
    "top_k_mask": (("logits", "top_k"), ("mask", "ties")),
    "top_p_mask": (("logits", "top_p"), ("temperature", "mask", "ties")),
    "top_k_renorm": (("probs", "top_k"), ("from_logits", "temperature", "mask", "ties")),
    "top_p_renorm": (("probs", "top_p"), ("from_logits", "temperature", "mask", "ties")),
    "multinomial": (
        ("input", "num_samples"),
        ("replacement", "generator", "out", "keys", "seed", "step", "check"),
    ),
    "token_logprob": (
        ("logits", "ids"),
        (*FILTERS, "mix_eps", "exploit", "mix_support", "kept", "returns"),
    ),
    "importance_weight": (("logp_pi", "logp_mu"), ("mix_eps", "check")),
    "mixture": (("members",), ("weights", "mode", "strength", "plausibility", *DRAW)),
    "route": (
        ("logits", "k"),
        (
            *("noise", "temperature", "jitter", "mix_eps", "score", "renormalise", "bias"),
            *("keys", "seed", "step", "generator", "replay_ids", "check"),
        ),
    ),
    "verify": (
        ("draft_ids", "draft_logits", "target_logits"),
        (
            *FILTERS,
            *(f"draft_{name}" for name in FILTERS[:-1]),
            "n_draft",
            "keys",
            "seed",
            "step",
            "generator",
            "returns",
        ),
    ),
    "derive_keys": (("seed", "request_ids"), ("sample_ids", "step")),
    "edit_logits": (("logits",), (*PENALTIES, *EDITS, "mask")),
}


def right(function, name, shape):
    """A strategy of arguments that may well be right; shape: rows, drafts, size, whether one row is 1-D."""
    n, drafts, size, flat = shape
    line = (size,) if flat else (n, size)
    probs = name in ("probs", "input")
    if name.startswith("draft_") and name not in ("draft_ids", "draft_logits"):
        return right(function, name.removeprefix("draft_"), shape)
    if name in choices:
        return values_of(st.sampled_from(choices[name]))
    if name in ("logits", "probs", "input"):
        if function == "numpy.sample":
            return rows(line, False, (torch.float32, torch.float16)).map(as_array)
        return rows(line, probs)
    several = (drafts, size) if flat else (n, drafts, size)
    further = (drafts + 1, size) if flat else (n, drafts + 1, size)
    table = {
        "temperature": per_row(temperatures, n),
        "top_p": per_row(top_ps, n),
        "min_p": per_row(min_ps, n),
        "mix_eps": per_row(epsilons, n),
        "exploit": values_of(st.sampled_from([None, 1.0, 0.5])),
        "top_k": values_of(top_ks),
        "mask": masks(n, size),
        "deny_mask": masks(n, size),
        "keys": keys(n, flat),
        "seed": integers_per_row(st.integers(-(2**63), 2**63 - 1), n),
        "step": integers_per_row(st.integers(0, 2**40), n),
        "generator": values_of(st.none()),
        "returns": values_of(
            st.lists(st.sampled_from(RETURNS.get(function, RETURNS["sample"])), unique=True).map(tuple)
        ),
        "top_n": values_of(st.integers(0, 5)),
        "repetition_penalty": per_row(st.sampled_from([1.0, 1.3, 0.5]), n),
        "frequency_penalty": per_row(st.sampled_from([0.0, 0.5, -1.0]), n),
        "presence_penalty": per_row(st.sampled_from([0.0, 0.5, -1.0]), n),
        "top_n_sigma": per_row(st.sampled_from([0.0, 1.0, 0.3]), n),
        "typical_p": per_row(st.sampled_from([1.0, 0.5, 0.9]), n),
        "epsilon_cutoff": per_row(st.sampled_from([0.0, 1e-3, 0.2]), n),
        "eta_cutoff": per_row(st.sampled_from([0.0, 1e-3, 0.2]), n),
        "xtc_threshold": per_row(st.sampled_from([0.1, 0.01]), n),
        "xtc_probability": per_row(st.sampled_from([0.0, 0.5, 1.0]), n),
        "temperature_last": values_of(st.booleans()),
        "history": ids((n, 5), size, -1),
        "prompt": ids((n, 3), size, -1),
        "suppress": values_of(st.lists(st.integers(0, size - 1), max_size=3).map(tuple)),
        "logit_bias": biases(size),
        "from_logits": values_of(st.booleans()),
        "num_samples": values_of(st.integers(1, 9)),
        "replacement": values_of(st.booleans()),
        "out": values_of(st.none()),
        "ids": ids((n,)[flat:], size),
        "kept": values_of(st.none()),
        "logp_pi": rows(line),
        "logp_mu": rows(line),
        "members": rows((2, *line)),
        "weights": values_of(st.sampled_from([None, (0.5, 0.5), (1, 0), (0.0, 2.0)])),
        "mode": values_of(
            st.sampled_from(["arithmetic", "geometric", "cfg", "context_aware", "contrastive"])
        ),
        "strength": values_of(st.sampled_from([None, 0.0, 1.5, -2.0])),
        "plausibility": values_of(st.sampled_from([None, 0.0, 0.1])),
        "k": values_of(st.integers(1, min(4, size))),
        "noise": values_of(st.sampled_from(["none", "gumbel", "jitter"])),
        "jitter": per_row(st.sampled_from([0.0, 0.01, 1.0]), n),
        "score": values_of(st.sampled_from(["softmax", "sigmoid"])),
        "renormalise": values_of(st.booleans()),
        "bias": rows((size,)),
        "replay_ids": values_of(st.none()),
        "draft_ids": ids((n, drafts)[flat:], size),
        "draft_logits": rows(several),
        "target_logits": rows(further),
        "n_draft": values_of(st.none()),
        "request_ids": values_of(st.just(tuple(range(n))).map(list)),
        "sample_ids": values_of(st.integers(0, 2**32 - 1)),
    }
    return table[name]


def as_array(value):
    def make():
        tensor = value.make()
        return tensor.detach().resolve_neg().as_subclass(torch.Tensor).numpy()

    return type(value)(f"numpy {value.text}", make)


@st.composite
def calls(draw, functions=tuple(SIGNATURES), hostile=(0, 0, 1, 1, 1, 2, 3)):
    """(function, its arguments as Values); `hostile`: how many of them may be anything."""
    function = draw(st.sampled_from(functions))
    needed, offered = SIGNATURES[function]
    n = draw(st.sampled_from([1, 1, 2, 3, 0]))
    flat = n == 1 and draw(st.booleans())
    size = draw(st.sampled_from([1, 2, 3, 16, 31, 32, 33, 64, 70, 70, 70, 255, 256, 257, 300]))
    shape = (n, draw(st.integers(0, 2)), size, flat)
    some = draw(st.lists(st.sampled_from(offered), max_size=5, unique=True))
    if not {"keys", "seed", "generator"} & set(some) and {"seed", "keys"} & set(offered):
        some.append("seed")  # else the default generator decides
    values = {name: draw(right(function, name, shape)) for name in (*needed, *some)}
    for _ in range(draw(st.sampled_from(hostile))):
        name = draw(st.sampled_from([*needed, *needed, *some, *offered]))
        values[name] = draw(st.sampled_from(HOSTILE))
    if values.get("seed") is not None and values["seed"].text == "None" and "keys" not in values:
        values["seed"] = plain(7)
    return function, values


def run(function, values):
    """The result, or the error."""
    needed, _ = SIGNATURES[function]
    made = {name: value.make() for name, value in values.items()}
    torch.manual_seed(3)  # of the default generator, which draws a seed where none is given
    try:
        if function == "Sampler":
            return of_sampler(made)
        place = fusedraw.numpy.sample if function == "numpy.sample" else getattr(fusedraw, function)
        given_first = [made.pop(name) for name in needed]
        return place(*given_first, **made)
    except ERRORS as error:
        return error


def of_sampler(made):
    in_call = (
        "keys",
        "mask",
        "seed",
        "step",
        "generator",
        "deny_mask",
        "history",
        "prompt",
        "suppress",
        "logit_bias",
    )
    later = {name: made.pop(name) for name in in_call if name in made}
    logits = made.pop("logits")
    return fusedraw.Sampler(**made)(logits, **later)


def tensors_of(result):
    if isinstance(result, tuple):
        return [part for part in result if part is not None]
    return [result]


def as_tensor(part):
    return (
        (part if isinstance(part, torch.Tensor) else torch.as_tensor(part)).detach().as_subclass(torch.Tensor)
    )


def same(a, b):
    if isinstance(a, Exception) or isinstance(b, Exception):
        return type(a) is type(b) and str(a) == str(b)
    a, b = tensors_of(a), tensors_of(b)
    return len(a) == len(b) and all(
        p.device.type == "meta" or same_bits(p, q)
        for p, q in zip(map(as_tensor, a), map(as_tensor, b), strict=True)
    )


def complaint(function, values, result):
    """What is wrong with an error's message or with ids, or None."""
    needed, offered = SIGNATURES[function]
    if isinstance(result, Exception):
        op = "sample" if function == "numpy.sample" else function
        said = str(result)
        start = ("sample: ", "Sampler: ") if function == "Sampler" else (f"{op}: ",)
        if not said.startswith(start):
            return f"does not say who complains: {said}"
        words = set(re.findall(r"\w+", said))
        if "row" not in words and not words & {*needed, *offered, "probs", "logits"}:
            return f"names no argument: {said}"
        return None
    for part in tensors_of(result)[:1]:
        ids_given = as_tensor(part)
        if function in (
            "sample",
            "sample_probs",
            "Sampler",
            "numpy.sample",
            "multinomial",
            "mixture",
            "route",
            "verify",
        ):
            rows_given = values[needed[-1] if function == "verify" else needed[0]].make()
            if ids_given.device.type == "meta":
                return None
            if isinstance(rows_given, (list, tuple)):
                rows_given = rows_given[0]
            size = rows_given.shape[-1]
            if ids_given.dtype != torch.int64 or ((ids_given < -1) | (ids_given >= size)).any():
                return f"ids out of [-1, {size}): {ids_given}"
    return None


def check(function, values, counts=None):
    faulthandler.dump_traceback_later(HANG_S, exit=True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with engine("reference"):
                expected = run(function, values)
            name = FAST[len(repr(values)) % len(FAST)]
            with engine(name):
                got = run(function, values)
            assert same(got, expected), f"{name} gives\n{got!r}\nwhere R2 gives\n{expected!r}"
            wrong = complaint(function, values, expected)
            assert wrong is None, wrong
    finally:
        faulthandler.cancel_dump_traceback_later()
    if counts is not None:
        counts["errors" if isinstance(expected, Exception) else "results"] += 1
        counts[function] += 1


def fuzz(seconds, first_seed):
    """New examples until the time is over."""
    counts, start, turn = collections.Counter(), time.monotonic(), 0
    while time.monotonic() - start < seconds:

        @seed(first_seed + turn)
        @settings(max_examples=100, database=None, deadline=None, suppress_health_check=list(HealthCheck))
        @given(calls())
        def some(made):
            if time.monotonic() - start < seconds + HANG_S:
                check(*made, counts)

        some()
        turn += 1
    return {"seconds": round(time.monotonic() - start), **counts}


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(fuzz(float(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0)))
