# SPDX-License-Identifier: Apache-2.0
"""fusedraw.multinomial beside torch.multinomial, and the block that puts it in the place of torch's."""

import asyncio
import itertools
import threading
import warnings

import fusedraw
import numpy
import pytest
import torch
import torch._dynamo.testing
from fusedraw.replacing import replacing_torch_multinomial
from scipy.stats import chisquare
from torch import multinomial as imported_before
from torch.overrides import TorchFunctionMode

P = torch.rand(3, 50, generator=torch.Generator().manual_seed(1))
FLOATS = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
tensor_method = torch.Tensor.multinomial


def ours(n, samples=2, replacement=False, p=P, seed=7):
    """The draws of the n-th call of a block with this seed."""
    return fusedraw.multinomial(p, samples, replacement, seed=seed, step=n)


# The function beside torch's


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape", [(5,), (1, 5), (4, 5), (0, 5), (4, 1)])
@pytest.mark.parametrize("samples, replacement", [(1, False), (5, False), (1, True), (9, True)])
def test_form_is_torchs(dtype, shape, samples, replacement):
    p = torch.rand(shape).to(dtype) + 0.1
    if not replacement and samples > shape[-1]:
        with pytest.raises(RuntimeError, match="without replacement"):
            torch.multinomial(p, samples, replacement)
        with pytest.raises(ValueError, match="without replacement"):
            fusedraw.multinomial(p, samples, replacement)
        return
    want = torch.multinomial(p, samples, replacement)
    got = fusedraw.multinomial(p, samples, replacement)
    assert (got.dtype, got.shape, got.device) == (want.dtype, want.shape, want.device)
    assert got.is_contiguous() and not got.requires_grad
    assert ((got >= 0) & (got < shape[-1])).all()
    if not replacement:
        assert all(len(set(row)) == samples for row in got.reshape(-1, samples).tolist())


@pytest.mark.parametrize(
    "samples", [2, numpy.int64(2), numpy.uint8(2), torch.tensor(2), torch.tensor(2, dtype=torch.int32)]
)
def test_numbers_that_torch_takes(samples):
    assert torch.multinomial(P, samples).shape == (3, 2)
    assert torch.equal(fusedraw.multinomial(P, samples, seed=7), ours(0))


def test_no_bool_is_a_number():
    for samples in (True, numpy.bool_(True), torch.tensor(True)):
        with pytest.raises(TypeError, match="num_samples must be an int"):
            fusedraw.multinomial(P, samples)


BAD_CALLS = [  # arguments that both refuse: TypeError is torch's TypeError, ValueError its RuntimeError
    (([0.5, 0.5], 1), TypeError),
    ((P, 1.0), TypeError),
    ((P, True), TypeError),
    ((P, numpy.float32(1)), TypeError),
    ((P, "1"), TypeError),
    ((P, None), TypeError),
    ((P, 1, 1), TypeError),
    ((P, 1, None), TypeError),
    ((P, 1, numpy.bool_(True)), TypeError),
    ((P, 1, torch.tensor(True)), TypeError),
    ((torch.ones(3, dtype=torch.int64), 1), RuntimeError),
    ((torch.ones(3, dtype=torch.complex64), 1), RuntimeError),
    ((torch.tensor(1.0), 1), RuntimeError),
    ((torch.ones(1, 2, 3), 1), RuntimeError),
    ((P, 0), RuntimeError),
    ((P, -1), RuntimeError),
    ((P, 51), RuntimeError),
    ((torch.ones(2, 0), 1), RuntimeError),
    ((torch.zeros(3), 1), RuntimeError),
    ((torch.tensor([1.0, -1.0, 1.0]), 2), RuntimeError),
    ((torch.tensor([1.0, -1.0, 1.0]), 2, True), RuntimeError),
    ((torch.tensor([1.0, float("nan")]), 1), RuntimeError),
    ((torch.tensor([1.0, float("inf")]), 2, True), RuntimeError),
    ((P.to_sparse(), 1), RuntimeError),
]


@pytest.mark.parametrize("arguments, kind", BAD_CALLS, ids=range(len(BAD_CALLS)))
def test_what_torch_refuses_is_refused(arguments, kind):
    with pytest.raises(kind):
        torch.multinomial(*arguments)
    with pytest.raises((TypeError, ValueError)):
        fusedraw.multinomial(*arguments)
    with replacing_torch_multinomial(), pytest.raises(kind, match=r"^multinomial"):
        torch.multinomial(*arguments)


@pytest.mark.parametrize("bad", [{"generator": "x"}, {"out": []}, {"out": (torch.zeros(3, 1),)}])
def test_bad_keywords(bad):
    for replaced in (False, True):
        with replacing_torch_multinomial() if replaced else torch.no_grad(), pytest.raises(TypeError):
            torch.multinomial(P, 1, **bad)


def test_out_that_is_empty_grows():
    out = torch.empty(0, dtype=torch.int64)
    assert fusedraw.multinomial(P, 2, seed=7, out=out) is out
    assert torch.equal(out, ours(0))
    row = torch.empty(0, 3, dtype=torch.int64)
    assert torch.equal(fusedraw.multinomial(P[0], 4, seed=7, out=row), ours(0, 4)[0])
    scattered = torch.zeros(2, 3, dtype=torch.int64).t()
    assert torch.equal(fusedraw.multinomial(P, 2, seed=7, out=scattered), ours(0))
    for wrong in (torch.empty(0), torch.empty(0, dtype=torch.int32), torch.zeros(3, 4, dtype=torch.int64)):
        with pytest.raises(ValueError, match="out must be int64"):
            fusedraw.multinomial(P, 2, out=wrong)


def orders(weights, samples):
    """Law of the ordered draws without replacement: {ids: probability}."""
    law = {}
    for ids in itertools.permutations(range(len(weights)), samples):
        left, chance = sum(weights), 1.0
        for i in ids:
            chance *= weights[i] / left
            left -= weights[i]
        law[ids] = chance
    return law


@pytest.mark.parametrize("draw", [torch.multinomial, fusedraw.multinomial], ids=["torch", "fusedraw"])
@pytest.mark.parametrize("samples, replacement", [(1, False), (2, False), (3, False), (2, True)])
def test_law_is_torchs(draw, samples, replacement):
    """Both against the enumerated law of ordered draws."""
    weights, rows = [1.0, 2.0, 4.0, 0.5], 20000
    if replacement:
        pairs = itertools.product(range(4), repeat=samples)
        law = {ids: numpy.prod([weights[i] / sum(weights) for i in ids]) for ids in pairs}
    else:
        law = orders(weights, samples)
    generator = torch.Generator().manual_seed(5)
    ids = draw(torch.tensor(weights).repeat(rows, 1), samples, replacement, generator=generator)
    counts = dict.fromkeys(law, 0)
    for drawn in map(tuple, ids.tolist()):
        counts[drawn] += 1
    assert chisquare(list(counts.values()), [rows * p for p in law.values()]).pvalue > 1e-4


def test_generator_decides():
    for draw in (torch.multinomial, fusedraw.multinomial):
        first, again = (draw(P, 3, generator=torch.Generator().manual_seed(9)) for _ in range(2))
        generator = torch.Generator().manual_seed(9)
        assert torch.equal(first, again)
        assert torch.equal(draw(P, 3, generator=generator), first)
        assert not torch.equal(draw(P, 3, generator=generator), first)  # it has moved on


# The block


def test_every_way_to_call():
    with replacing_torch_multinomial(seed=7):
        assert torch.equal(torch.multinomial(P, 2), ours(0))
        assert torch.equal(P.multinomial(2), ours(1))
        assert torch.equal(imported_before(P, 2), ours(2))
        assert torch.equal(tensor_method(P, num_samples=2, replacement=True), ours(3, replacement=True))
        assert torch.equal(
            torch.multinomial(input=P, num_samples=2, replacement=False, generator=None, out=None), ours(4)
        )
        for out in (torch.empty(0, dtype=torch.int64), torch.zeros(7, dtype=torch.int64)):  # both resized
            n = 5 if out.numel() == 0 else 6
            assert torch.multinomial(P, 2, out=out) is out and torch.equal(out, ours(n))
        for wrong in (torch.zeros(3, 2), torch.zeros(3, 2, dtype=torch.int64, device="meta")):
            with pytest.raises(RuntimeError, match="out must be"):
                torch.multinomial(P, 2, out=wrong)
        with pytest.raises(TypeError, match="out"):
            P.multinomial(2, out=torch.empty(0, dtype=torch.int64))
        with pytest.raises(TypeError, match="samples"):
            torch.multinomial(P, samples=2)
        row = torch.multinomial(P[0], 2)
        assert torch.equal(row, ours(9)[0])  # the two with a wrong `out` counted


def is_replaced():
    """Whether a call draws by fusedraw: a seeded call then gives what the law says."""
    generator, twin = torch.Generator().manual_seed(3), torch.Generator().manual_seed(3)
    return torch.equal(
        torch.multinomial(P, 40, generator=generator), fusedraw.multinomial(P, 40, generator=twin)
    )


def test_ends_with_the_block():
    assert not is_replaced()
    with replacing_torch_multinomial():
        assert is_replaced()
    assert not is_replaced()
    with pytest.raises(ZeroDivisionError), replacing_torch_multinomial():
        raise ZeroDivisionError
    assert not is_replaced()
    with replacing_torch_multinomial(), pytest.raises(RuntimeError, match="NAN"):
        torch.multinomial(torch.tensor([1.0, float("nan")]), 1)
    assert not is_replaced()


def test_innermost_draws():
    with replacing_torch_multinomial(seed=7):
        assert torch.equal(torch.multinomial(P, 2), ours(0))
        with replacing_torch_multinomial(seed=8):
            assert torch.equal(torch.multinomial(P, 2), ours(0, seed=8))
            assert torch.equal(torch.multinomial(P, 2), ours(1, seed=8))
        assert torch.equal(torch.multinomial(P, 2), ours(1))


def test_other_modes_work_beside_it():
    seen = []

    class Watch(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            seen.append(func)
            return func(*args, **(kwargs or {}))

    with Watch(), replacing_torch_multinomial(seed=7):
        assert torch.equal(torch.multinomial(P, 2), ours(0))
    assert torch.multinomial not in seen
    with replacing_torch_multinomial(seed=7), Watch():
        assert torch.equal(torch.multinomial(P, 2), ours(0))
    assert torch.multinomial in seen
    with replacing_torch_multinomial(seed=7), torch.device("meta"), torch.inference_mode():
        assert torch.equal(torch.multinomial(P, 2), ours(0))


def test_inference_mode_and_back():
    block = replacing_torch_multinomial(seed=7)
    with block, torch.inference_mode():
        assert torch.equal(torch.multinomial(P, 2), ours(0))
    with block:  # the same object goes on counting
        assert torch.equal(torch.multinomial(P, 2), ours(1))
        p = P.clone().requires_grad_()
        assert not torch.multinomial(p, 2).requires_grad


def test_one_thread_each():
    inside, outside, results = threading.Event(), threading.Event(), {}

    def worker(name, block):
        if block is None:
            inside.wait(10)
            results[name] = is_replaced()
            outside.set()
            return
        with block:
            results[name] = [torch.multinomial(P, 2) for _ in range(3)]
            inside.set()
            outside.wait(10)

    threads = [
        threading.Thread(target=worker, args=("with", replacing_torch_multinomial(seed=7))),
        threading.Thread(target=worker, args=("without", None)),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results["without"] is False
    assert all(torch.equal(ids, ours(n)) for n, ids in enumerate(results["with"]))
    assert not is_replaced()


def test_whose_seed():
    generator, twin = torch.Generator().manual_seed(4), torch.Generator().manual_seed(4)
    want = [fusedraw.multinomial(P, 2, generator=twin) for _ in range(2)]
    with replacing_torch_multinomial(generator=generator):
        assert all(torch.equal(torch.multinomial(P, 2), ids) for ids in want)
    generator.manual_seed(4)
    with replacing_torch_multinomial(seed=7):
        assert torch.equal(torch.multinomial(P, 2, generator=generator), want[0])  # the call's own goes first
        assert torch.equal(torch.multinomial(P, 2), ours(0))
    torch.manual_seed(11)
    by_default = fusedraw.multinomial(P, 2)
    torch.manual_seed(11)
    with replacing_torch_multinomial():
        assert torch.equal(torch.multinomial(P, 2), by_default)
    with replacing_torch_multinomial(seed=-1):
        assert torch.equal(torch.multinomial(P, 2), ours(0, seed=2**64 - 1))


def test_decorator():
    @replacing_torch_multinomial(seed=7)
    def draw(p, *, samples=2):
        """Two calls."""
        return torch.multinomial(p, samples), torch.multinomial(p, samples)

    assert draw.__name__ == "draw" and draw.__doc__ == "Two calls."
    for _ in range(2):  # counted anew in each call
        first, second = draw(P, samples=3)
        assert torch.equal(first, ours(0, 3)) and torch.equal(second, ours(1, 3))
    assert not is_replaced()

    async def coroutine():
        await asyncio.sleep(0)

    def generate():
        yield torch.multinomial(P, 2)

    async def generate_later():
        yield torch.multinomial(P, 2)

    for other in (coroutine, generate, generate_later, type("Model", (), {}), 3):
        with pytest.raises(TypeError, match="replacing_torch_multinomial: decorates"):
            replacing_torch_multinomial()(other)


@pytest.mark.parametrize(
    "bad, kind",
    [
        ({"seed": 1, "generator": torch.Generator()}, ValueError),
        ({"seed": 1.0}, TypeError),
        ({"seed": True}, TypeError),
        ({"generator": 3}, TypeError),
    ],
)
def test_bad_block(bad, kind):
    with pytest.raises(kind, match="replacing_torch_multinomial: "):
        replacing_torch_multinomial(**bad)


def test_vmap_is_refused():
    with replacing_torch_multinomial(seed=7), pytest.raises(RuntimeError, match="vmap"):
        torch.vmap(lambda p: torch.multinomial(p, 1), randomness="different")(P)


# Compiled code


def test_compiled_inside_the_block():
    backend = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    draw = torch.compile(lambda x: imported_before(x.softmax(-1), 2), backend=backend, fullgraph=True)
    before = draw(P)  # compiled for torch's own: the block must not be blind to that
    with replacing_torch_multinomial(seed=7):
        for n in range(5):
            assert torch.equal(draw(P), ours(n, p=P.softmax(-1)))
        assert torch.equal(torch.multinomial(P, 2), ours(5))  # one count for both
    assert backend.frame_count == 2
    assert draw(P).shape == before.shape and backend.frame_count == 2
    assert not is_replaced()


def test_block_inside_compiled_code():
    def draw(p):
        with replacing_torch_multinomial(seed=7):
            return torch.multinomial(p, 2)

    assert torch.equal(torch.compile(draw, backend="aot_eager", fullgraph=True)(P), ours(0))


# Code of others


def test_weighted_random_sampler():
    weights = [0.1, 0.9, 0.4, 0.7, 3.0, 0.6]
    for replacement, samples in ((True, 20), (False, 6)):
        sampler = torch.utils.data.WeightedRandomSampler(weights, samples, replacement)
        loader = torch.utils.data.DataLoader(range(6), sampler=sampler, batch_size=1)
        with replacing_torch_multinomial(seed=7):
            got = list(sampler), [int(batch) for batch in loader]
        p = torch.tensor(weights, dtype=torch.double)
        assert got == tuple(ours(n, samples, replacement, p).tolist() for n in range(2))


def test_torch_categorical():
    law = torch.distributions.Categorical(logits=P.view(3, 5, 10))
    with replacing_torch_multinomial(seed=7):
        got = law.sample((4,))
    want = ours(0, 4, True, law.probs.reshape(15, 10)).T.reshape(4, 3, 5)
    assert torch.equal(got, want)


@pytest.fixture(scope="module")
def tiny_model():
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=128,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=None,
    )
    return transformers.LlamaForCausalLM(config).eval()


def test_generate_of_transformers(tiny_model):
    prompt = torch.randint(2, 128, (3, 5), generator=torch.Generator().manual_seed(1))

    def generate():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return tiny_model.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                do_sample=True,
                temperature=0.7,
                top_k=20,
                top_p=0.9,
                max_new_tokens=8,
                output_scores=True,
                return_dict_in_generate=True,
            )

    with replacing_torch_multinomial(seed=7):
        out, again = generate(), generate()
    assert not torch.equal(out.sequences, again.sequences)  # the count goes on
    for n, scores in enumerate(out.scores):
        assert torch.equal(out.sequences[:, 5 + n], ours(n, 1, p=scores.softmax(-1))[:, 0])
    decorated = replacing_torch_multinomial(seed=7)(generate)
    assert torch.equal(decorated().sequences, out.sequences)
    assert torch.equal(decorated().sequences, out.sequences)
