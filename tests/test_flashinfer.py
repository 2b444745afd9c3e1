# SPDX-License-Identifier: Apache-2.0
"""fusedraw.flashinfer: signatures against flashinfer's own, semantics against its rules written out here."""

import ast
import importlib.util
import inspect
import itertools
import json
import math
from pathlib import Path

import fusedraw
import pytest
import torch
from fusedraw import flashinfer
from fusedraw.flashinfer import sampling
from scipy.stats import chisquare

STORED = json.loads((Path(__file__).parent / "data" / "flashinfer_signatures.json").read_text())
NAMES = list(STORED["functions"])
B, V = 6, 60

LOGITS = torch.randn(B, V, generator=torch.Generator().manual_seed(3)) * 2
LOGITS[2] = (LOGITS[2] * 2).round()  # ties
LOGITS[3] = LOGITS[3, 0]  # nothing but ties
PROBS = LOGITS.softmax(-1)
PER_ROW = {
    "top_k": torch.tensor([1, 2, 5, 10, 59, 60]),
    "top_p": torch.tensor([0.05, 0.3, 0.5, 0.7, 0.9, 1.0]),
    "min_p": torch.tensor([0.0, 0.01, 0.1, 0.3, 0.7, 1.0]),
}
# (function, its rules, whether it takes logits)
DRAWS = [
    (sampling.sampling_from_probs, (), False),
    (sampling.sampling_from_logits, (), True),
    (sampling.top_p_sampling_from_probs, ("top_p",), False),
    (sampling.top_k_sampling_from_probs, ("top_k",), False),
    (sampling.min_p_sampling_from_probs, ("min_p",), False),
    (sampling.top_k_top_p_sampling_from_probs, ("top_k", "top_p"), False),
    (sampling.top_k_top_p_sampling_from_logits, ("top_k", "top_p"), True),
]
each_draw = pytest.mark.parametrize("function, rules, logits", DRAWS, ids=[row[0].__name__ for row in DRAWS])
with_valid = pytest.mark.parametrize(
    "function, rules",
    [row[:2] for row in DRAWS if not row[2]],
    ids=[row[0].__name__ for row in DRAWS if not row[2]],
)


def rows_of(logits):
    return LOGITS if logits else PROBS


def values(rules, row=None):
    return [PER_ROW[name] if row is None else PER_ROW[name][row].item() for name in rules]


def kept(p, top_k=None, top_p=None, min_p=None, joint=False):
    """What flashinfer's rules leave of one row of probabilities, written out: {id}."""
    p = [float(x) for x in p]
    total = sum(p)
    above = [sum(y for y in p if y > x) for x in p]
    ids = set(range(len(p)))
    if min_p is not None:
        ids = {i for i in ids if p[i] >= max(p) * min_p}
    if top_k is not None:
        ids = {i for i in ids if sum(y > p[i] for y in p) < top_k}
    if top_p is not None:
        mass = total if joint else sum(p[i] for i in ids)
        ids = {i for i in ids if above[i] < top_p * mass}
    return ids


# Signatures


def parameters(function):
    return [
        [p.name, None if p.default is p.empty else repr(p.default)]
        for p in inspect.signature(function).parameters.values()
    ]


@pytest.mark.parametrize("name", NAMES)
def test_signature_is_flashinfers(name):
    assert parameters(getattr(sampling, name)) == [
        [parameter, None if default is None else repr(ast.literal_eval(default))]
        for parameter, default in STORED["functions"][name]
    ]
    assert all(
        p.kind is p.POSITIONAL_OR_KEYWORD
        for p in inspect.signature(getattr(sampling, name)).parameters.values()
    )


def test_all_names_are_there():
    for alias, name in STORED["aliases"].items():
        assert getattr(sampling, alias) is getattr(sampling, name)
    assert flashinfer.sampling is sampling
    for name in (*NAMES, *STORED["aliases"]):
        assert getattr(flashinfer, name) is getattr(sampling, name)
    assert set(flashinfer.__all__) == {"sampling", *NAMES, *STORED["aliases"]}


def test_stored_signatures_are_those_of_the_installed_package():
    try:
        spec = importlib.util.find_spec("flashinfer")
    except (ImportError, ValueError):
        spec = None
    if spec is None or spec.origin is None:
        pytest.skip(
            f"flashinfer is not installed; {STORED['package']} {STORED['version']} is what was stored"
        )
    tree = ast.parse((Path(spec.origin).parent / "sampling.py").read_text())
    found = {}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name in NAMES:
            none = [None] * (len(node.args.args) - len(node.args.defaults))
            defaults = none + [ast.unparse(default) for default in node.args.defaults]
            found[node.name] = [[arg.arg, d] for arg, d in zip(node.args.args, defaults, strict=True)]
    assert found == STORED["functions"]


# The examples of its documentation: renormalisation of one table of probabilities

EXAMPLE = torch.tensor(
    [
        [0.2499, 0.2592, 0.1085, 0.2718, 0.1106],
        [0.2205, 0.0942, 0.2912, 0.3452, 0.0489],
        [0.2522, 0.1602, 0.2346, 0.1532, 0.2000],
        [0.1543, 0.3182, 0.2062, 0.0958, 0.2255],
    ]
)


def test_documented_top_p_renorm():
    expected = torch.tensor(
        [
            [0.0000, 0.4882, 0.0000, 0.5118, 0.0000],
            [0.0000, 0.0000, 0.0000, 1.0000, 0.0000],
            [0.5181, 0.0000, 0.4819, 0.0000, 0.0000],
            [0.0000, 1.0000, 0.0000, 0.0000, 0.0000],
        ]
    )
    assert torch.allclose(sampling.top_p_renorm_probs(EXAMPLE, 0.3), expected, atol=1.5e-4)


def test_documented_top_k_renorm():
    expected = torch.tensor(
        [
            [0.3201, 0.3319, 0.0000, 0.3480, 0.0000],
            [0.2573, 0.0000, 0.3398, 0.4028, 0.0000],
            [0.3672, 0.0000, 0.3416, 0.0000, 0.2912],
            [0.0000, 0.4243, 0.2750, 0.0000, 0.3007],
        ]
    )
    assert torch.allclose(sampling.top_k_renorm_probs(EXAMPLE, 3), expected, atol=1.5e-4)


def test_documented_top_k_mask():
    x = torch.tensor([[1.9269, 1.4873, 0.9007, -2.1055, -0.7581], [1.0783, 0.8008, 1.6806, 0.3559, -0.6866]])
    expected = [
        [1.9269, 1.4873, 0.9007, -math.inf, -math.inf],
        [1.0783, 0.8008, 1.6806, -math.inf, -math.inf],
    ]
    assert torch.equal(sampling.top_k_mask_logits(x, 3), torch.tensor(expected))


# Rules


@pytest.mark.parametrize("row", range(B))
def test_filters_keep_what_the_rules_say(row):
    """Rows with ties included: all of them stay."""
    p = PROBS[row].double()
    k, threshold = PER_ROW["top_k"][row].item(), PER_ROW["top_p"][row].item()
    threshold = torch.tensor(threshold).item()  # the float32 of it

    def support(x):
        return set(x.nonzero().flatten().tolist())

    assert support(sampling.top_k_renorm_probs(PROBS, PER_ROW["top_k"])[row]) == kept(p, top_k=k)
    assert support(sampling.top_k_mask_logits(LOGITS, PER_ROW["top_k"])[row].exp()) == kept(p, top_k=k)
    assert support(sampling.top_p_renorm_probs(PROBS, PER_ROW["top_p"])[row]) == kept(p, top_p=threshold)


def test_renorm_of_other_types():
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        p = PROBS.to(dtype)
        assert sampling.top_k_renorm_probs(p, 5).dtype == dtype
        assert sampling.top_p_renorm_probs(p, 0.5).dtype == torch.float32
        assert torch.equal(
            sampling.top_k_renorm_probs(p, 5), sampling.top_k_renorm_probs(p.float(), 5).to(dtype)
        )
    for dtype in (torch.float16, torch.bfloat16):
        assert sampling.top_k_mask_logits(LOGITS.to(dtype), 5).dtype == dtype
    with pytest.raises(TypeError, match="top_k_mask_logits: logits must be"):
        sampling.top_k_mask_logits(LOGITS.double(), 5)


@each_draw
@pytest.mark.parametrize("order", ["top_k_first", "joint"])
def test_draws_follow_the_rules(function, rules, logits, order):
    if order == "joint" and len(rules) < 2:
        return  # no order to choose
    draws = 3000
    order_given = {"filter_apply_order": order} if len(rules) == 2 else {}
    for row in range(B):
        given = values(rules, row)
        ids = function(
            rows_of(logits)[row : row + 1],
            *given,
            torch.zeros(draws, dtype=torch.int64),
            **order_given,
            seed=row,
            offset=5,
        )
        p = PROBS[row].double()
        exact = {name: torch.tensor(value).item() for name, value in zip(rules, given, strict=True)}
        expected_ids = sorted(kept(p, **exact, joint=order == "joint"))
        counts = torch.bincount(ids, minlength=V)
        assert set(counts.nonzero().flatten().tolist()) <= set(expected_ids)
        if len(expected_ids) > 1:
            law = p[expected_ids] / p[expected_ids].sum() * draws
            seen = counts[expected_ids].double()
            few = law < 5  # together, as the test wants counts that are not small
            law, seen = (torch.cat((x[~few], x[few].sum(0, keepdim=True))) for x in (law, seen))
            law, seen = (law[:-1], seen[:-1]) if law[-1] == 0 else (law, seen)
            assert chisquare(seen.numpy(), (law * seen.sum() / law.sum()).numpy()).pvalue > 1e-5


def test_order_matters():
    p = torch.tensor([[0.4, 0.3, 0.2, 0.1]])
    one = torch.zeros(500, dtype=torch.int32)
    first = sampling.top_k_top_p_sampling_from_probs(p, 2, 0.5, one, seed=1, offset=0)
    joint = sampling.top_k_top_p_sampling_from_probs(p, 2, 0.5, one, "joint", seed=1, offset=0)
    assert set(first.tolist()) == {0}  # 0.4 of 0.7 is enough
    assert set(joint.tolist()) == {0, 1}  # 0.4 of 1 is not
    for function, x in (
        (sampling.top_k_top_p_sampling_from_probs, PROBS),
        (sampling.top_k_top_p_sampling_from_logits, LOGITS),
    ):
        with pytest.raises(ValueError, match="filter_apply_order must be"):
            function(x, 2, 0.5, filter_apply_order="top_p_first")


# Forms


@each_draw
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_ids(function, rules, logits, dtype):
    x = rows_of(logits).to(dtype)
    ids = function(x, *values(rules), seed=1, offset=2)
    assert ids.dtype == torch.int32 and ids.shape == (B,) and ids.device == x.device
    assert ((ids >= 0) & (ids < V)).all()
    if dtype == torch.float64:
        assert torch.equal(ids, function(x.float(), *values(rules), seed=1, offset=2))
    for deterministic in (True, False):
        assert torch.equal(
            function(x, *values(rules), None, deterministic=deterministic, seed=1, offset=2), ids
        )


@each_draw
def test_a_row_is_drawn_as_by_sample(function, rules, logits):
    keys = fusedraw.derive_keys(11, range(B), step=4)
    given = dict(zip(rules, values(rules), strict=True))
    draw = fusedraw.sample if logits else fusedraw.sample_probs
    expected = draw(rows_of(logits), **given, ties="all", keys=keys)
    assert torch.equal(function(rows_of(logits), *values(rules), seed=11, offset=4), expected.int())


@each_draw
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_indices(function, rules, logits, dtype):
    """Rows and their parameters are shared; the noise is that of the place or of the seed."""
    index = torch.tensor([3, 0, 0, 5, 2, 2, 2, 1], dtype=dtype)
    x = rows_of(logits)
    ids = function(x, *values(rules), index, seed=3, offset=0)
    assert ids.dtype == dtype and ids.shape == (8,)
    spread = [value[index] for value in values(rules)]
    assert torch.equal(ids, function(x[index], *spread, seed=3, offset=0).to(dtype))
    for rule in range(len(rules)):  # one number for all rows
        given = values(rules, 4)
        mixed = values(rules)
        mixed[rule] = given[rule]
        assert function(x, *mixed, index, seed=3, offset=0).shape == (8,)
    one = function(x[:1], *values(rules, 0), torch.zeros(4, dtype=dtype), seed=3, offset=0)
    assert torch.equal(one, function(x[:1].repeat(4, 1), *values(rules, 0), seed=3, offset=0).to(dtype))
    for wrong, kind in (
        (index.short(), TypeError),
        ([0], TypeError),
        (index[None], ValueError),
        (index - 1, ValueError),
        (index + 1, ValueError),
    ):
        with pytest.raises(kind, match=f"{function.__name__}: indices must be"):
            function(x, *values(rules), wrong)
    if rules:
        with pytest.raises(ValueError, match=f"{rules[0]} must be"):
            function(x, *[value[:3] for value in values(rules)], index)


@each_draw
def test_numbers_and_tensors_are_one(function, rules, logits):
    x = rows_of(logits)
    for row in range(B):
        numbers = function(x, *values(rules, row), seed=2, offset=1)
        tensors = function(x, *[value[row].expand(B) for value in values(rules)], seed=2, offset=1)
        assert torch.equal(numbers, tensors)


# Seeds


@each_draw
def test_seed_of_a_row_is_its_own(function, rules, logits):
    """A row with its seed draws the same alone, elsewhere in the batch, and with other companions."""
    x = rows_of(logits)
    seeds, offsets = torch.arange(100, 100 + B), torch.arange(B) * 7
    ids = function(x, *values(rules), seed=seeds, offset=offsets)
    order = torch.tensor([4, 2, 0, 5, 1, 3])
    moved = function(x[order], *[v[order] for v in values(rules)], seed=seeds[order], offset=offsets[order])
    assert torch.equal(moved, ids[order])
    for row in range(B):
        alone = function(
            x[row : row + 1], *values(rules, row), seed=seeds[row : row + 1], offset=offsets[row : row + 1]
        )
        assert torch.equal(alone, ids[row : row + 1])
    unsigned = function(x, *values(rules), seed=seeds.view(torch.uint64), offset=offsets.view(torch.uint64))
    assert torch.equal(unsigned, ids)
    by_keys = fusedraw.derive_keys(seeds, torch.zeros(B, dtype=torch.int64), step=offsets)
    given = dict(zip(rules, values(rules), strict=True))
    draw = fusedraw.sample if logits else fusedraw.sample_probs
    assert torch.equal(draw(x, **given, ties="all", keys=by_keys).int(), ids)


@each_draw
def test_one_seed_for_all(function, rules, logits):
    x = rows_of(logits)
    ids = function(x, *values(rules), seed=5, offset=9)
    assert torch.equal(function(x, *values(rules), seed=torch.tensor([5]), offset=torch.tensor([9])), ids)
    flat = torch.zeros(200, V)
    flat = flat if logits else flat + 1
    many = function(flat, *values(rules, 5), seed=5, offset=9)
    assert len(many.unique()) > 20  # rows of one seed have their own noise
    assert not torch.equal(function(flat, *values(rules, 5), seed=5, offset=10), many)
    assert not torch.equal(function(flat, *values(rules, 5), seed=6, offset=9), many)


@each_draw
def test_generator(function, rules, logits):
    x = rows_of(logits).repeat(5, 1)
    given = [value.repeat(5) for value in values(rules)]
    first = function(x, *given, generator=torch.Generator().manual_seed(3))
    generator = torch.Generator().manual_seed(3)
    assert torch.equal(function(x, *given, generator=generator), first)
    assert not torch.equal(function(x, *given, generator=generator), first)
    torch.manual_seed(4)
    by_default = function(x, *given)
    torch.manual_seed(4)
    assert torch.equal(function(x, *given), by_default)


BAD_SEEDS = [
    ({"seed": 1}, "give seed and offset together, got seed alone"),
    ({"offset": 1}, "give seed and offset together, got offset alone"),
    ({"seed": 1, "offset": 1, "generator": torch.Generator()}, "generator"),
    ({"seed": torch.tensor([1]), "offset": 1}, "both be tensors or both be ints"),
    ({"seed": torch.tensor([1.0]), "offset": torch.tensor([1])}, "seed tensor must be int64 or uint64"),
    ({"seed": torch.tensor([1]), "offset": torch.tensor([1, 2])}, "offset tensor must be"),
    ({"seed": torch.tensor(1), "offset": torch.tensor([1])}, "seed tensor must be"),
]


@each_draw
def test_bad_seeds(function, rules, logits):
    for bad, message in BAD_SEEDS:
        with pytest.raises(ValueError, match=message):
            function(rows_of(logits), *values(rules), **bad)


# Bad rows


@with_valid
def test_return_valid(function, rules):
    bad = PROBS.clone()
    bad[1], bad[4, 7] = 0.0, math.nan
    ids, valid = function(bad, *values(rules), seed=1, offset=0, return_valid=True)
    assert valid.tolist() == [True, False, True, True, False, True] and valid.dtype == torch.bool
    assert ids.dtype == torch.int32 and ids[~valid].tolist() == [0, 0]
    good = function(PROBS, *values(rules), seed=1, offset=0)
    assert torch.equal(ids[valid], good[valid])
    index = torch.tensor([1, 0])
    ids, valid = function(bad, *values(rules), index, seed=1, offset=0, return_valid=True)
    assert ids.dtype == torch.int64 and valid.tolist() == [False, True]


@each_draw
def test_bad_rows_raise(function, rules, logits):
    bad = rows_of(logits).clone()
    bad[2, 3] = math.nan
    name = "logits" if logits else "probs"
    with pytest.raises(ValueError, match=f"{function.__name__}: row 2 has status NAN"):
        function(bad, *values(rules))
    with pytest.raises(ValueError, match=f"{function.__name__}: {name} must have no NaN"):
        function(bad, *values(rules), check_nan=True)
    assert function(rows_of(logits), *values(rules), check_nan=True).shape == (B,)


@each_draw
def test_bad_rows_of_numbers(function, rules, logits):
    for x, kind in (
        (rows_of(logits)[0], ValueError),
        ([1.0], TypeError),
        (torch.ones(2, 3).long(), TypeError),
    ):
        with pytest.raises(kind, match=f"{function.__name__}: {'logits' if logits else 'probs'} must be"):
            function(x, *values(rules, 0))
    for number, name in enumerate(rules):
        given = values(rules, 0)
        given[number] = -2 if name == "top_k" else 1.5
        with pytest.raises(ValueError, match=f"{function.__name__}: {name} must be"):
            function(rows_of(logits), *given)


# softmax


def test_softmax():
    t = torch.tensor([0.5, 1.0, 2.0, 0.1, 3.0, 1.0])
    expected = (LOGITS.double() / t[:, None].double()).softmax(-1)
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        out = sampling.softmax(LOGITS.to(dtype), t)
        assert out.dtype == torch.float32
        assert torch.allclose(out.double(), expected, atol=1e-6 if dtype.itemsize > 2 else 5e-2)
    assert torch.equal(sampling.softmax(LOGITS), sampling.softmax(LOGITS, 1.0, enable_pdl=True))
    assert torch.equal(sampling.softmax(LOGITS, 2), fusedraw.softmax(LOGITS, 2.0))


def test_softmax_at_temperature_zero():
    x = torch.tensor([[1.0, 3.0, -math.inf, 3.0], [0.0, -1.0, 2.0, -math.inf]])
    expected = torch.tensor([[0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]])
    assert torch.equal(sampling.softmax(x, 0.0), expected)
    assert torch.equal(sampling.softmax(x, torch.tensor([0.0, 1e-30])), expected)


def test_softmax_of_bad_rows():
    x = torch.tensor([[1.0, math.nan], [-math.inf, -math.inf], [0.0, 0.0]])
    out = sampling.softmax(x)
    assert out[:2].isnan().all() and out[2].tolist() == [0.5, 0.5]


@pytest.mark.parametrize(
    "bad, kind",
    [
        (torch.ones(B + 1), ValueError),
        (torch.ones(1, B), ValueError),
        (torch.ones(B, dtype=torch.int64), ValueError),
        (True, TypeError),
        ("1", TypeError),
        (-1.0, ValueError),
    ],
)
def test_bad_temperature(bad, kind):
    with pytest.raises(kind, match="softmax: temperature must be"):
        sampling.softmax(LOGITS, bad)


# Speculative decoding

DRAFT = torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.2, 0.3, 0.4, 0.1]])
TARGET = torch.tensor([[0.0, 0.1, 0.6, 0.3], [0.5, 0.2, 0.05, 0.25], [0.7, 0.1, 0.1, 0.1]])


def chain(draft, ids, target, **arguments):
    n = len(ids)
    return sampling.chain_speculative_sampling(
        draft.expand(n, -1, -1), ids, target.expand(n, -1, -1), **arguments
    )


def test_documented_chain():
    target = TARGET.clone()
    target[1] = torch.tensor([1.0, 0.0, 0.0, 0.0])
    ids, accepted, emitted = chain(DRAFT, torch.tensor([[2, 1]], dtype=torch.int32), target)
    assert ids.tolist() == [[2, 0, -1]] and ids.dtype == torch.int32
    assert accepted.tolist() == [1] and emitted.tolist() == [1]
    assert accepted.dtype == emitted.dtype == torch.int32


def test_chain_gives_the_law_of_the_target():
    """Tokens drafted from the draft's law, verified: each position that is reached follows the target's."""
    rows = 40000
    drafted = torch.stack([fusedraw.multinomial(DRAFT[i], rows, True, seed=21, step=i) for i in range(2)], 1)
    ids, accepted, emitted = chain(DRAFT, drafted, TARGET, seed=8, offset=3)
    law = torch.zeros(4, 5, 5, dtype=torch.float64)  # the tokens at 0, 1, 2; 4 stands for -1
    first = torch.minimum(DRAFT[0], TARGET[0]).double()
    second = torch.minimum(DRAFT[1], TARGET[1]).double()
    rest0, rest1 = TARGET[0].double() - first, TARGET[1].double() - second
    for a, b, c in itertools.product(range(4), repeat=3):
        law[a, b, c] = first[a] * second[b] * TARGET[2, c]
    law[:, :4, 4] = first[:, None] * rest1[None]
    law[:, 4, 4] = rest0
    counts = torch.zeros_like(law)
    places = torch.where(ids < 0, 4, ids).long()
    counts.index_put_(tuple(places.T), torch.ones(rows, dtype=torch.float64), accumulate=True)
    assert counts[law == 0].sum() == 0
    possible = law > 0
    assert chisquare(counts[possible].numpy(), (law[possible] / law.sum() * rows).numpy()).pvalue > 1e-4
    assert torch.equal(emitted, (ids >= 0).sum(1) - 1) and (accepted >= emitted).all()
    passing = torch.minimum(DRAFT, TARGET[:2]).double().sum(1)  # of each position, on its own
    assert accepted.double().mean() == pytest.approx(passing.sum().item(), abs=0.015)


def test_chain_by_seed():
    ids = torch.randint(0, 4, (B, 2), generator=torch.Generator().manual_seed(2))
    seeds, offsets = torch.arange(B), torch.arange(B)
    whole = chain(DRAFT, ids, TARGET, seed=seeds, offset=offsets)[0]
    for row in range(B):
        one = slice(row, row + 1)
        assert torch.equal(
            chain(DRAFT, ids[one], TARGET, seed=seeds[one], offset=offsets[one])[0], whole[one]
        )
    generated = [chain(DRAFT, ids, TARGET, generator=torch.Generator().manual_seed(s))[0] for s in (1, 1, 2)]
    assert torch.equal(generated[0], generated[1]) and not torch.equal(generated[0], generated[2])
    equal_ids = torch.tensor([[3, 0]]).repeat(200, 1)
    assert len(chain(DRAFT, equal_ids, TARGET, seed=1, offset=0)[0].unique(dim=0)) > 2


def test_chain_counts_are_added():
    ids = torch.tensor([[2, 2], [2, 2]])
    for dtype in (torch.int32, torch.int64):
        counts = [torch.full((2,), 10, dtype=dtype), torch.full((2,), 20, dtype=dtype)]
        plain = chain(DRAFT, ids, TARGET, seed=1, offset=0)
        out = chain(
            DRAFT,
            ids,
            TARGET,
            seed=1,
            offset=0,
            maybe_output_accepted_token_num=counts[0],
            maybe_output_emitted_draft_token_num=counts[1],
        )
        assert out[1] is counts[0] and out[2] is counts[1]
        assert torch.equal(counts[0], plain[1] + 10) and torch.equal(counts[1], plain[2] + 20)


def test_chain_of_no_draft():
    target = TARGET[2:].expand(500, 1, 4)
    ids, accepted, emitted = sampling.chain_speculative_sampling(
        torch.zeros(500, 0, 4), torch.zeros(500, 0, dtype=torch.int32), target, seed=1, offset=0
    )
    assert ids.shape == (500, 1) and accepted.sum() == emitted.sum() == 0
    assert chisquare(torch.bincount(ids[:, 0]).numpy(), (TARGET[2] * 500).double().numpy()).pvalue > 1e-4


def test_chain_of_equal_laws_accepts_all():
    ids = torch.tensor([[2, 1]]).repeat(100, 1)
    out, _, emitted = chain(DRAFT, ids, torch.cat((DRAFT, TARGET[2:])), seed=1, offset=0)
    assert torch.equal(out[:, :2].long(), ids) and (emitted == 2).all()


def test_bad_chain():
    ids, good = torch.zeros(1, 2, dtype=torch.int32), (DRAFT[None], TARGET[None])
    call = sampling.chain_speculative_sampling
    bad = [
        ((DRAFT, ids, TARGET[None]), ValueError),
        ((good[0], ids[:, :1], good[1]), ValueError),
        ((good[0], ids, good[1][:, :2]), ValueError),
        ((good[0], ids.float(), good[1]), TypeError),
        ((good[0].long(), ids, good[1]), TypeError),
        ((good[0], ids + 4, good[1]), ValueError),
        ((good[0], ids - 1, good[1]), ValueError),
        ((good[0], ids, good[1], torch.zeros(2, dtype=torch.int32)), ValueError),
        ((good[0], ids, good[1], torch.zeros(1)), TypeError),
        ((good[0], ids.tolist(), good[1]), TypeError),
    ]
    for arguments, kind in bad:
        with pytest.raises(kind, match="chain_speculative_sampling: "):
            call(*arguments)
    with pytest.raises(ValueError, match="row 0 has status EMPTY at position 0"):
        call(good[0], ids, good[1] * 0)
