# SPDX-License-Identifier: Apache-2.0
"""The 10,000 golden rows of stream version 1: the arguments of 10 operations, made of integers alone.

Every number comes from SplitMix64 and shifts: no random number generator of torch or NumPy, no function of a
math library, no rounding. torch carries the bits. What must come out is in data/golden_v1.* (golden.py).
"""

import functools
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

import engines
import mixture_cases
import numpy as np
import operations_r1
import processed_cases
import route_cases
import scoring
import torch
import verify_cases
from engines import BF16, F16, F32, HALVING, INF, NAN, bits_of, make_mode

U64 = np.uint64
NEG_INF = 0xFF800000


@dataclass
class Call:
    """An operator and its arguments in the order of its schema; `plain` gives the same by R1, as a dict."""

    group: str
    op: str
    rows: int
    arguments: list
    plain: Callable = field(repr=False)


class Words:
    """SplitMix64 from a label: 64 random bits at a time."""

    def __init__(self, label):
        self.state = int.from_bytes(hashlib.sha256(label.encode()).digest()[:8], "little")

    def take(self, n):
        """uint64 [n]."""
        with np.errstate(over="ignore"):
            z = U64(self.state) + np.arange(1, n + 1, dtype=U64) * U64(0x9E3779B97F4A7C15)
            self.state = int(z[-1]) if n else self.state
            z = (z ^ z >> U64(30)) * U64(0xBF58476D1CE4E5B9)
            z = (z ^ z >> U64(27)) * U64(0x94D049BB133111EB)
            return z ^ z >> U64(31)

    def below(self, limit, n=None):
        """An integer in [0, limit), or int64 [n] of them."""
        high = (self.take(1 if n is None else n) >> U64(32)).astype(np.int64)
        out = high * limit >> 32
        return int(out[0]) if n is None else out

    def choose(self, values):
        return values[self.below(len(values))]


# Rows, as the bits of float32


def bits_of_ratio(numerator, shift):
    """numerator * 2^-shift for |numerator| < 2^24: exact."""
    return (numerator.astype(np.float32) * np.float32(2.0**-shift)).view(np.uint32)


def _bell(words, n):
    """A sum of four uniforms in [-8, 8)."""
    total = words.below(1 << 22, 4 * n).reshape(4, n).sum(0) - (1 << 23)
    return bits_of_ratio(total, 20)


def _ties(words, n):
    return bits_of_ratio(words.below(17, n) - 8, 0)


def _holes(words, n):
    bits = _bell(words, n)
    bits[words.below(10, n) < 7] = NEG_INF
    return bits


def _any_below_64(words, n):
    """Signs, exponents and fractions of all kinds, subnormals and both zeros among them."""
    w = words.take(n)
    exponent = (w >> U64(32)) % U64(132)
    return (w & U64(0x807FFFFF) | exponent << U64(23)).astype(np.uint32)


def _subnormal(words, n):
    return (words.take(n) & U64(0x807FFFFF)).astype(np.uint32)


def _cliff(words, n):
    """One best token, the others about the gap at which weights end."""
    bits = bits_of_ratio(-(61 << 15) + words.below(1 << 16, n), 16)
    bits[words.below(n)] = 0
    return bits


def _huge(words, n):
    w = words.take(n)
    return (w & U64(0x807FFFFF) | (U64(235) + (w >> U64(32)) % U64(20)) << U64(23)).astype(np.uint32)


def _equal(words, n):
    return np.full(n, words.choose([0, 0x80000000, 0x40600000, 0xF149F2CA, 0x7F7FFFFF]), np.uint32)


def _spread(words, n):
    """A bell four times as wide: most weights are small."""
    total = words.below(1 << 22, 4 * n).reshape(4, n).sum(0) - (1 << 23)
    return bits_of_ratio(total, 18)


def _spoiled(words, n):
    bits = _bell(words, n)
    bits[words.below(n)] = words.choose([0x7FC00000, 0x7F800000, NEG_INF])
    if words.below(3) == 0:
        bits[:] = NEG_INF
    return bits


KINDS = (_bell, _spread, _bell, _ties, _holes, _any_below_64, _subnormal, _cliff, _huge, _equal, _spoiled)


def narrowed(bits, dtype):
    """float32 bits as a tensor of this dtype: towards zero, huge values to the largest."""
    if dtype == F32:
        return torch.from_numpy(bits.view(np.int32).copy()).view(F32)
    sign, exponent, fraction = bits >> 16 & 0x8000, bits >> 23 & 255, bits & 0x7FFFFF
    if dtype == BF16:
        half = bits >> 16
    else:
        half = np.select(
            [exponent == 255, exponent == 0, exponent < 113, exponent > 142],
            [sign | 0x7C00 | (fraction != 0) << 9, sign | fraction >> 13, sign, sign | 0x7BFF],
            sign | (exponent.astype(np.int64) - 112 << 10).clip(0).astype(np.uint32) | fraction >> 13,
        )
    return torch.from_numpy(half.astype(np.uint16).view(np.int16).copy()).view(dtype)


def logits(words, rows, size, dtype, kinds=KINDS):
    lines = [words.choose(kinds)(words, size) for _ in range(rows)]
    return narrowed(np.stack(lines), dtype)


def probabilities(words, rows, size, dtype):
    """Over 40 octaves, zeros among them, not summing to 1."""
    w = words.take(rows * size)
    k = (w >> U64(40) >> w % U64(25)).astype(np.int64)
    k[(w >> U64(8)) % U64(9) == 0] = 0
    k[:: size or 1] |= 1 << 20
    return narrowed(bits_of_ratio(k, 24).reshape(rows, size), dtype)


def mask_of(words, rows, size):
    """None, bool for each row or for all, or words of bits."""
    kind = words.below(6)
    if kind < 3:
        return None
    share = words.choose([2, 7, 15])  # of 16
    if kind == 3:
        return torch.from_numpy(words.below(16, size) < share)
    if kind == 4:
        return torch.from_numpy(words.below(16, rows * size).reshape(rows, size) < share)
    taken = words.take(rows * -(-size // 32)).reshape(rows, -1)
    return torch.from_numpy((taken >> U64(32)).astype(np.uint32).view(np.int32))


TEMPERATURES = (1.0, 1.0, 0.7, 1.5, 0.0, HALVING, INF, 1e-3, 1e-30, 1e-45, 2.0**64, 1e30, 5.0, 1e-39)
TOP_PS = (1.0, 1.0, 1.0, 0.9, 0.95, 0.5, 0.99, 1e-9, 0.0, 1 - 2.0**-24, 0.1)
MIN_PS = (0.0, 0.0, 0.0, 0.05, 0.5, 0.001, 1.0, 2.0**-43, 1e-30)
EPSILONS = (0.0, 0.0, 0.0, 0.05, 0.5, 1.0, 1e-6)


def params_of(words, rows, size, epsilons=EPSILONS, temperatures=TEMPERATURES, spoil=True):
    """float64 [rows, 5]."""
    top_ks = (0, 0, 0, 1, 5, 50, size, size // 2, 10**12, -1)
    lines = [[words.choose(t) for t in (temperatures, TOP_PS, MIN_PS, epsilons, top_ks)] for _ in range(rows)]
    if spoil and words.below(12) == 0:
        lines[words.below(rows)][words.below(4)] = words.choose((NAN, -1.0))
    return torch.tensor(lines, dtype=torch.float64)


def keys_of(words, rows):
    edges = (0, 1, -1, 2**32, 2**32 - 1, 2**63 - 1, -(2**63))
    keys = words.take(2 * rows).view(np.int64).reshape(rows, 2)
    if words.below(4) == 0:
        keys[0] = words.choose(edges), words.choose(edges)
    return torch.from_numpy(keys)


def mode_of(words, **more):
    return make_mode(
        words.choose(engines.ORDERS),
        words.choose(engines.TIES),
        words.choose(engines.SUPPORTS),
        words.below(4),
        **more,
    )


# The operations. Each gives (operator, arguments, R1 as a dict). ids, status and logp are always asked for.

ALWAYS = bits_of("status", "logp")
ASKED = (ALWAYS, ALWAYS | bits_of("n_kept", "kept_mass", "rank", "explored"), engines.ALL)
DTYPES = (F32, BF16, F16)


def sample(words, rows, size):
    x, mask = logits(words, rows, size, words.choose(DTYPES)), mask_of(words, rows, size)
    asked, top_n = words.choose(ASKED), words.choose((0, 0, 3))
    params = params_of(words, rows, size)
    arguments = [x, params, keys_of(words, rows), mask, mode_of(words), asked, min(top_n, size)]
    return "sample", arguments, lambda: operations_r1.sample_r1(*arguments)


def sample_probs(words, rows, size):
    x, mask = probabilities(words, rows, size, words.choose(DTYPES)), mask_of(words, rows, size)
    asked = words.choose(ASKED) & engines.ALL_OF_PROBS
    params = params_of(words, rows, size, temperatures=(1.0,))
    arguments = [x, params, keys_of(words, rows), mask, mode_of(words, probs=True), asked, 0]
    return "sample", arguments, lambda: operations_r1.sample_r1(*arguments)


def sample_processed(words, rows, size):
    x, mask = logits(words, rows, size, words.choose(DTYPES)), mask_of(words, rows, size)
    shares = (0.0, 1e-7, 3e-4, 0.01, 0.1, 0.3, 0.9, 1.0)
    columns = (
        (0.0, 0.0, 0.3, 1.0, 2.0, 1e9),
        (1.0, 1.0, *shares),
        (0.0, 0.0, *shares),
        (0.0, 0.0, *shares),
        (0.1, *shares),
        (0.0, 0.0, 0.5, 1.0),
        (1.0, 1.1, 0.7, 10.0),
        (0.0, 0.5, -0.25, 1e30),
        (0.0, 0.5, -1.5, 1e-3),
    )
    rules = torch.tensor([[words.choose(c) for c in columns] for _ in range(rows)], dtype=torch.float64)

    def ids():
        return [words.below(size + 1) - 1 for _ in range(words.below(24))]  # -1 is padding

    def biases():
        chosen = sorted({i for i in ids() if i >= 0})
        return [(i, words.choose((0.0, 1.5, -3.0, 40.0, -INF, 2.0**-10))) for i in chosen]

    edits = processed_cases.Edits(
        [ids() for _ in range(rows)],
        [ids() for _ in range(rows)],
        [ids()[:3]],
        [biases() for _ in range(rows)],
    )
    form = words.choose(("csr", "csr32", "padded"))
    mode, params = mode_of(words) | words.choose((0, processed_cases.LAST)), params_of(words, rows, size)
    keys, asked = keys_of(words, rows), words.choose(ASKED)
    arguments = [x, params, rules, keys, mask, *edits.arguments(form), mode, asked, 0]
    return (
        "sample_processed",
        arguments,
        lambda: processed_cases.process_r1(x, rules, edits, params, keys, mask, mode, asked, 0),
    )


def softmax(words, rows, size):
    x, mask, log = logits(words, rows, size, words.choose(DTYPES)), mask_of(words, rows, size), words.below(2)
    temperature = torch.tensor([words.choose(TEMPERATURES) for _ in range(rows)], dtype=torch.float64)
    return (
        "softmax",
        [x, temperature, mask, log],
        lambda: operations_r1.softmax_r1(x, temperature, mask, bool(log)),
    )


def filter_(words, rows, size):
    x, mask, renorm = (
        logits(words, rows, size, words.choose(DTYPES)),
        mask_of(words, rows, size),
        words.below(2),
    )
    params, mode = params_of(words, rows, size), mode_of(words)
    return (
        "filter",
        [x, params, mask, mode, renorm],
        lambda: operations_r1.keep_r1(x, params, mask, mode, bool(renorm)),
    )


def multinomial(words, rows, size):
    p, keys = probabilities(words, rows, size, words.choose(DTYPES)), keys_of(words, rows)
    n, replacement = words.choose((1, 2, 17, 60)), bool(words.below(2))
    return (
        "multinomial",
        [p, keys, n, replacement, 0],
        lambda: operations_r1.multinomial_r1(p, keys, n, replacement),
    )


def token_logprob(words, rows, size):
    """Followed by its backward on the same engine: the last two arguments are the gradients that come in."""
    x, mask = logits(words, rows, size, words.choose(DTYPES)), mask_of(words, rows, size)
    ids = torch.from_numpy(words.below(size, rows))
    kept = (None, None)
    if words.below(3) == 0:
        lists = [sorted({*words.below(size, 40).tolist(), int(i)}) for i in ids]
        kept = scoring.pack_kept(lists)
    params, mode, entropy = params_of(words, rows, size), mode_of(words), bool(words.below(2))
    grads = [torch.tensor([words.choose((0.0, 1.0, -1.0, 0.37, -2.5e3)) for _ in range(rows)]) for _ in "ab"]
    grads[1] = grads[1] if entropy else None
    return (
        "token_logprob",
        [x, ids, params, mask, *kept, mode, entropy, *grads],
        lambda: scoring.score_r1(x, ids, params, mask, kept, mode, entropy, grads),
    )


def mixture(words, rows, size):
    how = words.choose(mixture_cases.HOW)
    mean = how in ("arithmetic", "geometric")
    n, dtype = (1 + words.below(4) if mean else 2), words.choose(DTYPES)
    members = [logits(words, rows, size, dtype) for _ in range(n)]
    tables = [(0.0, 1.0, 0.5, 0.3)] * n if mean else [(0.0, 1.5, -2.0, 1.0), (0.0, 0.1, 1.0)]
    weights = torch.tensor([[words.choose(t) for t in tables] for _ in range(rows)], dtype=torch.float64)
    params, keys, mask = params_of(words, rows, size), keys_of(words, rows), mask_of(words, rows, size)
    names = mixture_cases.offered(how)
    bits = sum(1 << mixture_cases.OUTPUTS[name] for name in names)
    mode = mode_of(words)
    arguments = [members, weights, params, keys, mask, mixture_cases.HOW.index(how), mode, bits]
    return (
        "mixture",
        arguments,
        lambda: mixture_cases.mixture_r1(members, weights, how, params, keys, mask, mode, names),
    )


def route(words, rows, size):
    noise = words.below(3)
    k = words.choose(sorted({1, min(2, size), min(8, size), size}))
    tables = ((0.0, 0.5, 1.0, 5.0, 1e-3, INF), (0.0, 0.01, 0.5, 1.0), (0.0, 0.0, 0.3, 1.0))
    case = route_cases.Case(
        logits(words, rows, size, words.choose(DTYPES)),
        k,
        noise | words.choose((0, route_cases.SIGMOID)) | words.choose((0, route_cases.RENORMALISE)),
        torch.tensor([[words.choose(t) for t in tables] for _ in range(rows)], dtype=torch.float64),
        keys_of(words, rows),
        narrowed(_bell(words, size), F32) if noise == 0 and words.below(2) else None,
        torch.from_numpy(words.below(size, rows * k).reshape(rows, k)) if words.below(5) == 0 else None,
    )

    def plain():
        out = route_cases.route_r1(case)
        return {name: out[name] for name in ("weights", "ids", "counts", "status", "explored")}

    return "route", [case.x, case.params, case.keys, case.bias, case.replay, k, case.mode], plain


def verify(words, rows, size):
    """Drafts are any token where the draft's law has no filter, else its best one."""
    drafts, dtypes = words.below(4), (words.choose(DTYPES), words.choose(DTYPES))
    n = rows * (drafts + 1) * size
    target = words.below(1 << 22, 4 * n).reshape(4, n).sum(0) - (1 << 23)
    draft = target + (words.below(1 << 22, n) - (1 << 21))
    target, draft = (t.reshape(rows, drafts + 1, size) for t in (target, draft))
    draft = draft[:, :drafts]
    as_bits = [bits_of_ratio(t, 20) for t in (draft, target)]
    as_rows = [narrowed(b, dtype) for b, dtype in zip(as_bits, dtypes, strict=True)]
    nothing = (0.0,)
    params = params_of(words, rows, size, nothing, (1.0, 0.7, 0.0, 1.5))
    draft_params = torch.tensor([[1.0, 1.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
    if words.below(3) == 0:
        draft_params = params_of(words, rows, size, nothing, (1.0, 0.7, 1.5), spoil=False)
        ids = as_rows[0].float().argmax(-1)
    else:
        ids = torch.from_numpy(words.below(size, rows * drafts).reshape(rows, drafts))
    n_draft = torch.from_numpy(words.below(drafts + 1, rows)) if words.below(3) == 0 else None
    mask = mask_of(words, rows, size)
    mode = words.choose((0, 1, 2)) | words.choose((0, 4))
    case = verify_cases.Case(
        ids, *as_rows, draft_params, params, keys_of(words, rows), None, mask, n_draft, mode * 9
    )
    arguments = [ids, *as_rows, draft_params, params, case.keys, None, mask, n_draft, case.mode, True]
    return "verify", arguments, lambda: verify_cases.verify_r1(case)


# (operation, size, rows, rows of one call)
GROUPS = (
    *((sample, v, n, 20) for v, n in ((1, 120), (2, 300), (255, 1000), (256, 1000), (257, 1200))),
    *((sample, v, n, m) for v, n, m in ((1000, 1200, 20), (4099, 480, 16), (32000, 24, 4), (128256, 8, 2))),
    *((sample_processed, v, n, 12) for v, n in ((2, 60), (257, 600), (1000, 600), (4099, 140))),
    *((sample_probs, v, n, 16) for v, n in ((257, 480), (1000, 320))),
    *((multinomial, v, n, 8) for v, n in ((257, 240), (1000, 120), (4099, 40))),
    *((token_logprob, v, n, 10) for v, n in ((257, 400), (1000, 200))),
    *((mixture, v, n, 8) for v, n in ((257, 240), (1000, 120))),
    *((route, v, n, 10) for v, n in ((8, 120), (64, 150), (256, 120), (257, 10))),
    *((verify, v, n, 8) for v, n in ((257, 240), (1000, 120))),
    *((softmax, v, n, 10) for v, n in ((257, 60), (4099, 20))),
    *((filter_, v, n, 10) for v, n in ((257, 200), (1000, 60), (4099, 8))),
)
ROWS = 10_000
assert sum(group[2] for group in GROUPS) == ROWS


def group_name(operation, size):
    return f"{operation.__name__.strip('_')} V={size}"


@functools.lru_cache
def all_calls():
    """The calls of every group, in order."""
    calls = []
    for operation, size, rows, most in GROUPS:
        words = Words(f"golden 1 {group_name(operation, size)}")
        for begin in range(0, rows, most):
            n = min(most, rows - begin)
            op, arguments, plain = operation(words, n, size)
            calls.append(Call(group_name(operation, size), op, n, arguments, plain))
    return calls
