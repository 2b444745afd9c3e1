# SPDX-License-Identifier: Apache-2.0
"""Odd input that is no error, and what it gives."""

import mmap

import fusedraw
import numpy as np
import torch
from fusedraw import reference
from input_cases import EVERYTHING, FLT_MAX, INF, KEYS, NAN, TINY, B, V, probs, rows, sample
from torch._subclasses.fake_tensor import FakeTensorMode

from .rows import Works

LADDER = [0.0, -1.0, 2.0, 2.0, -3.0, 0.5, 2.0, 1.0]
AS_WRITTEN = "the draw and its scores of docs/law.md, to the bit"


def as_the_law(x, parameters) -> bool:
    """16 draws of a row, their log-probabilities, counts and ranks are those of plain Python."""
    keys = fusedraw.derive_keys(7, range(16), step=3)
    batch = torch.tensor([x] * 16)
    out = fusedraw.sample(batch, keys=keys, returns=("logp", "logp_full", "n_kept", "rank"), **parameters)
    plain = {k: min(v, 1e308) if k == "temperature" else v for k, v in parameters.items()}
    for i, key in enumerate(keys.tolist()):
        want = reference.sample_row([float(v) for v in batch[i]], key=tuple(key), **plain)
        got = (out.ids[i], out.logp[i], out.logp_full[i], out.n_kept[i], out.rank[i])
        if want.status or [v.item() for v in got] != [
            *(want.id, want.logp, want.logp_full, want.n_kept, want.rank)
        ]:
            return False
    return True


def exact(what, x, parameters, result=AS_WRITTEN):
    return Works("sample", what, result, lambda: as_the_law(x, parameters))


LAW = [
    exact("V = 1", [3.0], {}, "id 0"),
    exact("V = 1, greedy", [-FLT_MAX], {"temperature": 0.0}, "id 0"),
    exact("-0.0", [0.0, -0.0, -0.0, 0.0], {"temperature": 0.0}, "-0.0 and 0.0 are one value"),
    exact("-0.0 ties", [-0.0, 0.0, -1.0], {"top_k": 1}, "-0.0 and 0.0 are one value"),
    exact("subnormals, T = 2^-149", [TINY, 0.0, -TINY, 3 * TINY], {"temperature": TINY}),
    exact("subnormals, T = 1", [TINY, 0.0, -TINY, 3 * TINY], {}),
    exact("FLT_MAX and -FLT_MAX", [FLT_MAX, -FLT_MAX, FLT_MAX, 0.0], {}),
    exact("FLT_MAX, T huge", [FLT_MAX, -FLT_MAX, 0.0], {"temperature": FLT_MAX}),
    exact("finfo.min in every place", [-FLT_MAX] * 5, {}, "a logit like any other: no mask"),
    exact("some -inf", [-INF, 1.0, -INF, 0.5, -INF], {}),
    exact("all but one -inf", [-INF, -INF, -5.0, -INF], {"top_p": 0.5}),
    exact("T = 0", LADDER, {"temperature": 0.0}, "the largest logit, the lowest index on ties"),
    exact("T = -0.0", LADDER, {"temperature": -0.0}, "as T = 0"),
    exact("T = 0, filters", LADDER, {"temperature": 0.0, "top_k": 3, "top_p": 0.1, "min_p": 1.0}, "as T = 0"),
    exact("T = 1e-45", LADDER, {"temperature": 1e-45}, "the exact limit: the largest, ties evenly"),
    exact("T = 1e-38", LADDER, {"temperature": 1e-38}, "the exact limit: the largest, ties evenly"),
    exact("T = 1e-30", LADDER, {"temperature": 1e-30}, "the exact limit: the largest, ties evenly"),
    exact("T = 1e-30, no ties", [0.0, 1.0, 1.0000001], {"temperature": 1e-30}, "the largest logit"),
    exact("T = 2^64", LADDER, {"temperature": 2.0**64}),
    exact("T > 2^64", LADDER, {"temperature": 2.0**65}, "uniform over the finite logits"),
    exact("T = inf", LADDER, {"temperature": INF}, "uniform over the finite logits"),
    exact("T = 1e300", LADDER, {"temperature": 1e300}, "uniform over the finite logits"),
    exact("T an int beyond float64", LADDER, {"temperature": 10**400}, "uniform over the finite logits"),
    exact("top_k = 0", LADDER, {"top_k": 0}, "off"),
    exact("top_k = -1", LADDER, {"top_k": -1}, "off"),
    exact("top_k = 1", LADDER, {"top_k": 1}),
    exact("top_k ties", LADDER, {"top_k": 2}, "exactly k, the lowest indices"),
    exact("top_k ties, all", LADDER, {"top_k": 2, "ties": "all"}, "every token tied with the last one kept"),
    exact("top_k > V", LADDER, {"top_k": 9}, "V"),
    exact("top_k = 2^30", LADDER, {"top_k": 2**30}, "V"),
    exact("top_k = 2^31 - 1", LADDER, {"top_k": 2**31 - 1}, "V"),
    exact("top_k = 2^63", LADDER, {"top_k": 2**63}, "V"),
    exact("top_p = 0", LADDER, {"top_p": 0.0}, "the first token of the order"),
    exact("top_p = -0.0", LADDER, {"top_p": -0.0}, "as 0"),
    exact("top_p = 1e-45", LADDER, {"top_p": 1e-45}, "the first token of the order"),
    exact("top_p = 1e-60", LADDER, {"top_p": 1e-60}, "0 in float32"),
    exact("top_p = -1e-60", LADDER, {"top_p": -1e-60}, "0 in float32"),
    exact("top_p = 1", LADDER, {"top_p": 1.0}, "off: no cumulated sum"),
    exact("top_p = 1 + 1e-9", LADDER, {"top_p": 1 + 1e-9}, "1 in float32"),
    exact("top_p = 1 - 2^-24", LADDER, {"top_p": 1 - 2.0**-24}),
    exact("min_p = 0", LADDER, {"min_p": 0.0}, "off"),
    exact("min_p = 1", LADDER, {"min_p": 1.0}, "the ties of the largest"),
    exact("min_p = 1, min_p_first", LADDER, {"min_p": 1.0, "filter_order": "min_p_first"}),
    exact("mix_eps = 0", LADDER, {"mix_eps": 0.0}, "the law without it, to the bit"),
    exact("mix_eps = 1", LADDER, {"mix_eps": 1.0, "top_k": 3}, "uniform over what the filters keep"),
    exact(
        "mix_eps = 1, valid",
        [*LADDER, -INF],
        {"mix_eps": 1.0, "top_k": 3, "mix_support": "valid"},
        "uniform over the tokens that are not -inf",
    ),
    exact("mix_eps = 1e-45", LADDER, {"mix_eps": 1e-45}),
]


def same(a, b) -> bool:
    return torch.equal(a, b)


def never_minus_inf() -> bool:
    x = rows()
    x[:, ::2] = -INF
    draws = [fusedraw.sample(x, seed=3, step=s, mix_eps=0.5, mix_support="valid") for s in range(200)]
    return bool((torch.stack(draws) % 2 == 1).all())


def empty_batch() -> bool:
    x = torch.zeros(0, V)
    out = sample(x, keys=KEYS[:0], returns=EVERYTHING, top_n=3)
    drawn = [out.ids, sample(x, seed=1), fusedraw.sample(x), sample(x, seed=torch.tensor([1]))]
    return (
        all(ids.shape == (0,) and ids.dtype == torch.int64 for ids in drawn)
        and (out.kept_offsets.tolist(), out.kept_ids.shape, out.top_ids.shape) == ([0], (0,), (0, 3))
        and fusedraw.top_k_mask(x, 3).shape == (0, V)
        and fusedraw.multinomial(x, 3, seed=1).shape == (0, 3)
    )


def laid_out(view) -> bool:
    x = view.copy_(rows())
    return same(sample(x), sample(rows()))


def far_apart() -> bool:
    """In memory that is reserved, not used."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000  # MAP_NORESERVE, for which Python has no name
    memory = mmap.mmap(-1, 2 * (2**32 + V), flags=flags)
    x = torch.frombuffer(memory, dtype=torch.float16).as_strided((3, V), (2**31, 1))
    x.copy_(rows(torch.float16)[:3])
    return same(sample(x, keys=KEYS[:3]), sample(x.clone(), keys=KEYS[:3]))


def many_elements() -> bool:
    x = torch.randn(1, 2**18, generator=torch.Generator().manual_seed(1)).expand(2**14 + 3, 2**18)
    ids, keys = fusedraw.sample(x, seed=1, top_k=50), fusedraw.derive_keys(1, range(2**14 + 3))
    some = (0, 2**13 - 1, 2**13, 2**14 - 1, 2**14, 2**14 + 2)
    return all(ids[row] == fusedraw.sample(x[0], keys=keys[row], top_k=50) for row in some)


def long_row(vocab) -> bool:
    x = torch.zeros(1, vocab)
    x[0, -1] = 60.0
    return fusedraw.sample(x, seed=1).item() == vocab - 1


class Named(torch.Tensor):
    """A subclass that does nothing."""


def plain_ids(x) -> bool:
    """Of such logits, and of other arguments of their class."""
    like = type(x)
    drawn = [
        sample(x),
        sample(temperature=torch.ones(B).as_subclass(like)),
        sample(keys=KEYS.as_subclass(like), mask=torch.ones(V).bool().as_subclass(like)),
    ]
    return all(
        ids.dtype == torch.int64 and not ids.requires_grad and ids.tolist() == sample().tolist()
        for ids in drawn
    )


def fake() -> bool:
    with FakeTensorMode():
        ids = fusedraw.sample(torch.empty(3, 9), keys=torch.empty(3, 2, dtype=torch.int64))
    return ids.shape == (3,) and ids.dtype == torch.int64


def meta() -> bool:
    keys = torch.empty(3, 2, dtype=torch.int64, device="meta")
    ids = fusedraw.sample(torch.empty(3, 9, device="meta"), keys=keys)
    return ids.device.type == "meta" and ids.shape == (3,)


def seeds(pairs) -> bool:
    return all(same(sample(seed=a), sample(seed=b)) for a, b in pairs)


def dry() -> bool:
    x = torch.tensor([[0.5, 0.0, 0.25, 0.25, 0.0]])
    ids = fusedraw.multinomial(x, 5, seed=1, check="status")[0].tolist()
    return sorted(ids[:3]) == [0, 2, 3] and ids[3:] == [-1, -1]


T = torch.linspace(0.1, 2, B)
OFF = ("top_k", "top_p", "min_p", "mix_eps")  # by None
SHAPES = [
    Works(
        "sample",
        "logits [V]",
        "one row: a 0-D id, that of [1, V]",
        lambda: same(sample(rows()[0], keys=KEYS[0]), sample()[0]),
    ),
    Works("sample", "logits [0, V]", "ids int64 [0]", empty_batch),
    Works("sample", "2^20 tokens in a row", "as any other", lambda: long_row(2**20)),
    Works("sample", "2^25 tokens in a row", "as any other", lambda: long_row(2**25), slow=True),
    Works("sample", "rows 2^31 elements apart", "as contiguous ones", far_apart),
    Works("sample", "2^32 logits and more", "each row as alone", many_elements, slow=True),
    Works(
        "sample",
        "one element off every alignment",
        "as contiguous ones",
        lambda: laid_out(torch.empty(B * V + 1)[1:].view(B, V)),
    ),
    Works(
        "sample",
        "rows of a wider tensor",
        "as contiguous ones",
        lambda: laid_out(torch.empty(B, V + 3)[:, 2 : V + 2]),
    ),
    Works(
        "sample", "elements two apart", "as contiguous ones", lambda: laid_out(torch.empty(B, V, 2)[:, :, 1])
    ),
    Works("sample", "transposed", "as contiguous ones", lambda: laid_out(torch.empty(V, B).t())),
    Works(
        "sample",
        "one row expanded: stride 0",
        "as contiguous ones",
        lambda: same(sample(rows()[:1].expand(B, V)), sample(rows()[:1].expand(B, V).contiguous())),
    ),
    Works(
        "sample",
        "flipped (torch copies)",
        "as contiguous ones",
        lambda: same(sample(rows().flip(1)), sample(rows().flip(1).contiguous())),
    ),
    Works(
        "sample",
        "a parameter tensor of stride 2",
        "as a contiguous one",
        lambda: same(sample(temperature=T.repeat_interleave(2)[::2]), sample(temperature=T)),
    ),
    Works(
        "sample",
        "a parameter tensor, 0-D or of length 1",
        "for every row, as the number",
        lambda: all(
            same(sample(temperature=torch.full(shape, 0.5)), sample(temperature=0.5)) for shape in ((), (1,))
        ),
    ),
    Works(
        "sample",
        "None for top_k, top_p, min_p, mix_eps",
        "off",
        lambda: (
            all(same(sample(**{name: None}), sample()) for name in OFF)
            and same(sample(**dict.fromkeys(OFF)), sample())
        ),
    ),
    Works(
        "sample",
        "logits that require grad; a Parameter; a subclass",
        "plain int64 ids without a graph",
        lambda: (
            plain_ids(rows().requires_grad_())
            and plain_ids(torch.nn.Parameter(rows()))
            and plain_ids(rows().as_subclass(Named))
        ),
    ),
    Works("sample", "meta tensors", "ids on meta", meta),
    Works("sample", "fake tensors", "fake ids of the right shape", fake),
    Works("sample", "some -inf, 800 draws", "never drawn, by the coin of mix_eps neither", never_minus_inf),
    Works(
        "sample",
        "NaN where the mask forbids",
        "not looked at",
        lambda: same(
            sample(torch.cat([rows(), torch.full((B, 1), NAN)], 1), mask=torch.arange(V + 1) < V),
            sample(rows()),
        ),
    ),
]
SEEDS = [
    Works(
        "sample",
        "seed -1, 2^63, 2^64, -(2^64) - 7, 10^30",
        "taken mod 2^64",
        lambda: seeds(
            [(-1, 2**64 - 1), (2**63, -(2**63)), (2**64, 0), (-(2**64) - 7, -7), (10**30, 10**30 % 2**64)]
        ),
    ),
    Works(
        "sample",
        "seed and seed + 2^32",
        "different draws: the high bits matter",
        lambda: (
            len({fusedraw.sample(torch.zeros(1, 2**15), seed=5 + (b << 32)).item() for b in range(50)}) > 45
        ),
    ),
    Works(
        "sample",
        "seed a numpy int of any width",
        "as the int",
        lambda: seeds([(np.int32(5), 5), (np.uint64(2**64 - 1), -1)]),
    ),
    Works(
        "sample",
        "step -1 and 2^64 - 1",
        "one step",
        lambda: same(sample(seed=1, step=-1), sample(seed=1, step=2**64 - 1)),
    ),
]
OTHERS = [
    Works(
        "multinomial",
        'fewer weights > 0 than draws without replacement, check="status"',
        "the ids there are, then -1",
        dry,
    ),
    Works(
        "multinomial",
        "weights of any sum",
        "those of the weights divided by it",
        lambda: same(fusedraw.multinomial(probs() * 8, 3, seed=1), fusedraw.multinomial(probs(), 3, seed=1)),
    ),
    Works(
        "multinomial",
        "out= empty",
        "resized",
        lambda: same(
            fusedraw.multinomial(probs(), 3, seed=1, out=torch.empty(0, dtype=torch.int64)),
            fusedraw.multinomial(probs(), 3, seed=1),
        ),
    ),
    Works("softmax", "logits [0, V]", "[0, V]", lambda: fusedraw.softmax(torch.zeros(0, V)).shape == (0, V)),
    Works(
        "mixture",
        "members of no rows",
        "ids int64 [0]",
        lambda: fusedraw.mixture(torch.zeros(2, 0, 5), seed=1).shape == (0,),
    ),
    Works(
        "verify",
        "no drafts: G = 0",
        "the draw of sample",
        lambda: same(
            fusedraw.verify(
                torch.zeros(B, 0, dtype=torch.int64), torch.zeros(B, 0, V), rows()[:, None], seed=1
            ).ids[:, 0],
            fusedraw.sample(rows(), seed=1),
        ),
    ),
    Works(
        "top_k_mask",
        "top_k more than V",
        "every token",
        lambda: bool(fusedraw.top_k_mask(rows(), 2**40).all()),
    ),
]
ROWS = [*LAW, *SHAPES, *SEEDS, *OTHERS]
