# SPDX-License-Identifier: Apache-2.0
"""A made-up analysis of the audit, in the shape of results.analyse: for the report's tests and for looking at
the page. The same arguments give the same dict; HOSTILE texts stand among its prompts and outputs."""

import numpy as np

HOSTILE = (
    "<script>alert('x')</script><img src=http://example.org/x onerror=alert(1)>",
    "quotes \" ' ` and &amp; & </pre> {{ 7 * 7 }} {% raw %}",
    "\u05e9\u05dc\u05d5\u05dd \u202egnitirw tfel\u202c \u0645\u0631\u062d\u0628\u0627",
    "bell \x07 null \x00 escape \x1b[31m half \ud83d end",
    "W" * 400,
    '=HYPERLINK("http://example.org")',
    "+1+1",
    "-2+3",
    "@SUM(A1)",
    "\t=1+1",
)
CONDITIONS = (
    ("base", {}),
    ("seed 1", {"seed": 1}),
    ("batch 8", {"batch": 8}),
    ("threads 2", {"threads": 2}),
    ("bfloat16", {"dtype": "bfloat16"}),
    ("T 0.7", {"temperature": 0.7}),
    ("T 1.3", {"temperature": 1.3}),
    ("mix_eps 0.02", {"mix_eps": 0.02}),
    ("upper case", {"perturb": "upper"}),
)
BASE = {
    "temperature": 1.0,
    "top_p": 0.95,
    "top_k": 0,
    "min_p": 0.0,
    "mix_eps": 0.0,
    "seed": 0,
    "batch": 1,
    "threads": 1,
    "dtype": "float32",
    "samples": 2,
    "perturb": None,
}
# Setting: share of the outputs that stay, blame, difference of the logits at a fork.
EFFECTS = {
    "batch": (0.94, "logits", 2.9e-5),
    "threads": (1.0, "none", None),
    "dtype": (0.41, "logits", 0.19),
    "seed": (0.03, "settings", 0.0),
    "temperature": (0.10, "settings", 0.0),
    "mix_eps": (0.55, "settings", 0.0),
    "perturb": (0.05, "both", 3.4),
}
RULES = {
    "repetition": ("the end repeats itself", 0.5),
    "entropy_spike": ("one step far above the median", 6.0),
    "near_tie": ("a margin that noise can turn", 1e-3),
    "off_nucleus": ("a draw outside the nucleus", 0.05),
    "script_switch": ("letters of another script", 0.2),
    "outlier": ("far from the other outputs", 3.5),
}
WORDS = (
    "",
    "The",
    "sea",
    "at",
    "night",
    "is",
    "a",
    "quiet",
    "dark",
    "mirror",
    ",",
    "and",
    "the",
    "harbour",
    "lights",
    "like",
    ".",
    "Nobody",
)


def made_up(outputs=288, redacted=False, seed=0, conditions=9, calibrated=True, biased=True, steps=48):
    draw = np.random.default_rng(seed)
    chosen = [condition_of(number) for number in range(conditions)]
    prompts = max(1, -(-outputs // (2 * conditions)))
    rows = [one_output(draw, n, prompts, chosen, redacted, steps) for n in range(outputs)]
    pairs, forks = compared(draw, chosen, prompts, redacted)
    flagged = [a["rule"] for r in rows for a in r["anomalies"]]
    traces = [
        one_trace(draw, rows[n * outputs // min(40, outputs)], redacted, steps)
        for n in range(min(40, outputs))
    ]
    mean = float(np.mean([r["mean_entropy"] for r in rows]))
    return {
        "schema": 1,
        "model": {
            "name": "SmolLM2-135M-Instruct",
            "kind": "embedded",
            "parameters": 134515008,
            "vocab": 49152,
            "digest": "5af571cbf074e6d2",
        },
        "run": {
            "prompts": prompts,
            "outputs": outputs,
            "tokens": sum(r["length"] for r in rows),
            "redrawn": sum(r["length"] for r in rows),
            "max_new_tokens": steps,
            "redacted": redacted,
            "seed": 0,
            "versions": {"fusedraw": "0.1.0", "torch": "2.13.0", "transformers": "5.0.0"},
            "machine": {"cpu": "made up, 2 cores", "memory": "8 GB", "isa": "avx2"},
        },
        "conditions": [
            {
                "name": name,
                "settings": settings,
                "changes": sorted(k for k in settings if settings[k] != BASE[k]),
                "outputs": 2 * prompts,
                "tokens": 2 * prompts * steps,
                "mean_length": steps - 3.5 + draw.random(),
                "finished": 0.4,
                "mean_entropy": mean * settings["temperature"],
                "mean_logp": -mean,
                "distinct_2": 0.6 + 0.2 * settings["temperature"] * draw.random(),
                "self_bleu": 0.25 + 0.2 * draw.random(),
                "perplexity": 4 + 6 * settings["temperature"] ** 3 + 30 * settings["mix_eps"],
                "repetition": 0.04,
            }
            for name, settings in chosen
        ],
        "pairs": pairs,
        "forks": forks,
        "outputs": rows,
        "traces": traces,
        "prompts": [one_prompt(draw, n, redacted) for n in range(prompts)],
        "anomaly_rules": [
            {"rule": r, "says": s, "threshold": t, "flagged": flagged.count(r), "outputs": outputs}
            for r, (s, t) in RULES.items()
        ],
        "calibration": calibration(draw) if calibrated else None,
        "robustness": {
            "certificate": [
                {"noise": 10 ** (k / 4), "share": float(np.exp(-(10 ** (k / 4)) * 1.4))}
                for k in range(-24, 5)
            ],
            "measured_noise": 2.9e-5 if conditions > 2 else None,
            "perturbations": [
                {"name": "upper", "prompts": prompts, "agreement": 0.05, "js": 0.21},
                {"name": "spaces", "prompts": prompts, "agreement": 0.38, "js": 0.044},
                {"name": "punctuation", "prompts": prompts, "agreement": 0.27, "js": 0.071},
            ],
        },
        "bias": bias(draw, redacted) if biased else None,
        "sweep": [
            {
                "condition": name,
                "temperature": settings["temperature"],
                "mix_eps": settings["mix_eps"],
                "distinct_2": 0.5 + 0.3 * settings["temperature"] + 2 * settings["mix_eps"],
                "self_bleu": 0.5 - 0.2 * settings["temperature"],
                "perplexity": 4 + 6 * settings["temperature"] ** 3 + 30 * settings["mix_eps"],
                "repetition": 0.1 / settings["temperature"],
            }
            for name, settings in chosen
        ],
        "headline": {
            "sampler_differences": 0,
            "anomalies": sum(bool(r["anomalies"]) for r in rows),
            "ece": 0.043 if calibrated else None,
            "mean_entropy": mean,
            **{f"agreement:{p['b']}": p["agreement"] for p in pairs if p["a"] == "base"},
        },
    }


def condition_of(number):
    if number < len(CONDITIONS):
        name, changed = CONDITIONS[number]
        return name, {**BASE, **changed}
    return f"T {1 + number / 100}", {**BASE, "temperature": 1 + number / 100}


def text_of(draw, number, redacted):
    if redacted:
        return None
    return HOSTILE[number // 7 % len(HOSTILE)] if number % 7 == 3 else " ".join(draw.choice(WORDS, 40))


def one_output(draw, number, prompts, chosen, redacted, steps):
    n, entropy = int(draw.integers(steps // 2, steps + 1)), float(draw.gamma(4, 0.45))
    found = [
        {
            "rule": rule,
            "score": threshold * (1.2 + draw.random()),
            "threshold": threshold,
            "at": None if rule in ("repetition", "outlier") else int(draw.integers(n)),
            "says": says,
        }
        for rule, (says, threshold) in RULES.items()
        if draw.random() < 0.02
    ]
    return {
        "prompt": number % prompts,
        "condition": chosen[number // prompts % len(chosen)][0],
        "sample": number // prompts // len(chosen),
        "length": n,
        "finished": n < steps,
        "text": text_of(draw, number, redacted),
        "mean_logp": -entropy,
        "perplexity": float(np.exp(entropy)),
        "mean_entropy": entropy,
        "max_entropy": entropy * 2.5,
        "mean_varentropy": entropy * 1.3,
        "min_margin": float(draw.random() * 0.1),
        "mean_margin": 2.1,
        "mean_kept_mass": 0.96,
        "lowest_window_confidence": float(draw.normal(9, 1)),
        "explored": 0.0,
        "mean_rank": float(draw.gamma(2, 3)),
        "repetition": float(draw.beta(1, 12)),
        "anomalies": found,
    }


def one_trace(draw, row, redacted, steps):
    entropy = np.round(draw.gamma(1.2, 1.6, steps), 4)
    pieces = [" " + str(w) for w in draw.choice(WORDS, steps)]
    pieces[5:7] = ["\n", " \u05e9\u05dc\u05d5\u05dd"]
    pieces[9:12] = ["\u202e<b>", "\x1b\x00", "\ufffd\ud83d"]
    return {
        "prompt": row["prompt"],
        "condition": row["condition"],
        "sample": row["sample"],
        "pieces": None if redacted else pieces,
        "entropy": entropy.tolist(),
        "logp": np.round(-entropy * draw.random(steps) * 1.6, 4).tolist(),
        "margin": np.round(draw.exponential(2.2, steps), 4).tolist(),
        "rank": draw.geometric(0.6, steps).astype(int).__sub__(1).tolist(),
        "confidence": np.round(draw.normal(9, 1.2, steps), 4).tolist(),
        "anomalies": row["anomalies"],
    }


def one_prompt(draw, number, redacted):
    same = float(draw.beta(2, 4))
    text = (
        HOSTILE[number % len(HOSTILE)]
        if number % 4 == 3
        else f"Describe the sea at night, {number + 1} times."
    )
    return {
        "prompt": number,
        "text": None if redacted else text,
        "digest": f"{number:016x}",
        "samples": 2,
        "exact_agreement": same * 0.3,
        "agreement": same,
        "lexical_similarity": same**0.7,
        "clusters": 1 + number % 2,
        "semantic_entropy": 0.69 * (number % 2),
        "mutual_information": 0.05 * same,
    }


def compared(draw, chosen, prompts, redacted):
    """Every pair; a fork's figures follow from the settings that differ."""
    pairs, forks = [], []
    for i, (a, first) in enumerate(chosen):
        for b, second in chosen[i + 1 :]:
            moved = [k for k in first if first[k] != second[k]]
            stay = float(np.prod([EFFECTS[k][0] for k in moved]))
            blames = {EFFECTS[k][1] for k in moved} - {"none"}
            blame = "none" if not blames else blames.pop() if len(blames) == 1 else "both"
            size = max((EFFECTS[k][2] or 0.0 for k in moved), default=0.0)
            count, total = round((1 - stay) * 2 * prompts), 2 * prompts
            moving = size > 0 and count > 0
            pairs.append(
                {
                    "a": a,
                    "b": b,
                    "compared": total,
                    "equal": total - count,
                    "agreement": stay**0.5,
                    "forks": count,
                    "first_difference_median": 11.0 if count else None,
                    "logits_equal": 0 if moving else count,
                    "same_logits_same_token": count if blame == "logits" else 0,
                    "sampler": 0,
                    "max_difference": size or None,
                    "max_ulp": int(size * 2**21) or None,
                    "median_margin": 0.03 if count else None,
                    "first_logit_difference_median": 0.0 if moving else None,
                    "blame": blame if count else "none",
                    "says": f"{count} of {total} outputs differ; {' and '.join(moved) or 'nothing'} changed.",
                }
            )
            for n in range(min(count, 8)):
                forks.append(
                    {
                        "a": a,
                        "b": b,
                        "prompt": n % prompts,
                        "sample": n // prompts,
                        "step": int(draw.integers(40)),
                        "token_a": int(draw.integers(49152)),
                        "token_b": int(draw.integers(49152)),
                        "text_a": None if redacted else " quiet",
                        "text_b": None if redacted else HOSTILE[n],
                        "logits_equal": not moving,
                        "difference": size,
                        "ulp": int(size * 2**21),
                        "margin_a": float(draw.exponential(0.2)),
                        "margin_b": float(draw.exponential(0.2)),
                        "token_of_a_on_logits_of_b": int(draw.integers(49152)),
                        "same_on_same_logits": blame == "logits",
                    }
                )
    return pairs, forks


def calibration(draw):
    low = np.arange(15) / 15
    count = draw.integers(40, 900, 15)
    bins = [
        {
            "low": float(a),
            "high": float(a + 1 / 15),
            "count": int(c),
            "confidence": float(a + 1 / 30),
            "accuracy": float(np.clip((a + 1 / 30) ** 1.15 - 0.02 * (a > 0.1), 0, 1)),
        }
        for a, c in zip(low, count, strict=True)
    ]
    cover = np.linspace(0.05, 1, 20)
    return {
        "source": "greedy continuation of the prompts' references",
        "tokens": int(count.sum()),
        "ece": 0.043,
        "mce": 0.11,
        "brier": 0.52,
        "nll": 2.71,
        "accuracy": 0.47,
        "bins": bins,
        "risk_coverage": [[float(c), float(0.05 + 0.48 * c**1.7)] for c in cover],
        "risk_coverage_area": 0.21,
        "temperature": 1.08,
        "nll_after": 2.69,
        "ece_after": 0.021,
    }


def bias(draw, redacted):
    words = [("man", "woman"), ("he", "she"), ("Muslim", "Christian"), ("<b>young</b>", "old")]
    pairs = [
        {
            "template": None if redacted else "The {group} worked as a",
            "a": None if redacted else a,
            "b": None if redacted else b,
            "js": float(draw.gamma(2, 0.01)),
            "total_variation": 0.12,
            "top_a": [] if redacted else [" nurse", " =1+1"],
            "top_b": [] if redacted else [" doctor", " clerk"],
        }
        for a, b in words
    ]
    mean = float(np.mean([p["js"] for p in pairs]))
    return {"pairs": pairs, "mean_js": mean, "baseline_js": 0.008, "p_value": 0.031, "outputs": None}
