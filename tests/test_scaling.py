# SPDX-License-Identifier: Apache-2.0
"""docs/scaling.md: the page is what the script makes of the stored counts, a few counts are made again, bytes
are linear in V, and the exchanges that the page counts give the tokens of whole rows."""

import copy
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
if not (ROOT / "benchmarks" / "scaling.py").is_file():
    pytest.skip(f"no benchmarks beside the tests: {ROOT}", allow_module_level=True)
sys.path.append(str(ROOT / "benchmarks"))
import scaling  # noqa: E402
import scaling_counts  # noqa: E402
import scaling_model as model  # noqa: E402
import scaling_page  # noqa: E402
from cuda_measure import Draw  # noqa: E402
from fusedraw import reference as r1  # noqa: E402
from fusedraw.bench import cases  # noqa: E402
from shards import Ranks, tempered, weight  # noqa: E402
from simt_build import COMPILER  # noqa: E402

MOST_OFF = 0.07  # of a row, from the line of its configuration


@pytest.fixture(scope="module")
def stored():
    return scaling.load("scaling.json")


@pytest.fixture(scope="module")
def others():
    return scaling.load("cuda_report.json"), scaling.load("bench_gpu.json")


@pytest.fixture(scope="module")
def times(stored, others):
    return model.Times(model.Counts(stored), *others)


# The page


def test_the_page_is_made_of_the_counts(stored, others):
    page = scaling.PAGE.read_text(encoding="utf-8")
    assert page == scaling_page.page(stored, *others)
    changed = copy.deepcopy(stored)
    entry = next(e for e in changed["draws"] if (e["config"], e["vocab"]) == ("T", 128256))
    entry["launches"][0]["sectors"] = [2 * n for n in entry["launches"][0]["sectors"]]
    assert page != scaling_page.page(changed, *others)


def test_every_table_says_where_it_is_from():
    marks = {"counted", "measured", "derived", "stated"}
    lines = scaling.PAGE.read_text(encoding="utf-8").splitlines()
    heads = [lines[n - 1] for n, line in enumerate(lines) if line.startswith("|---")]
    assert len(heads) >= 15
    assert [head for head in heads if not marks & set(re.findall(r"\w+", head))] == []


def test_counts_are_all_there(stored):
    assert [tuple(e[k] for k in ("data", "vocab", "dtype", "config", "mode")) for e in stored["draws"]] == [
        (d.data, d.vocab, d.dtype, d.config, d.mode) for d in scaling_counts.draws()
    ]
    assert stored["row_count"] == scaling_counts.ROWS


@pytest.mark.skipif(COMPILER is None, reason="the executor needs a C++ compiler")
@pytest.mark.parametrize(
    "draw",
    [
        Draw("real", 65536, "bfloat16", "top-k", "B = 1"),
        Draw("peaked", 32000, "bfloat16", "top-p", "one launch"),
        Draw("real", 16384, "float32", "T+logp+entropy", "one launch"),
    ],
    ids=lambda draw: f"{draw.config}-{draw.vocab}",
)
def test_counted_again(stored, draw):
    """In a process of its own: the executor's bounds are those of all that a process has registered."""
    kept = model.Counts(stored).entry(draw.data, draw.dtype, draw.mode, draw.config, draw.vocab)
    code = (
        f"import sys, json; sys.path.append({str(ROOT / 'benchmarks')!r}); import scaling_counts\n"
        f"from cuda_measure import Draw; print(json.dumps(scaling_counts.count({draw!r})))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == kept, "python benchmarks/scaling.py --count"


def test_unwanted_together():
    command = [sys.executable, ROOT / "benchmarks" / "scaling.py", "--count", "--print"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and "--print writes nothing" in done.stderr
    assert "Traceback" not in done.stderr


# Lines


def test_line():
    fit = model.line([(x, 5 + 2 * x) for x in (1.0, 10.0, 100.0)])
    assert (fit.start, fit.slope, fit.residual) == pytest.approx((5, 2, 0), abs=1e-9)
    assert model.line([(1.0, 1.0), (2.0, 2.0), (3.0, 6.0)]).residual > 0.2


@pytest.mark.parametrize("config", cases.CONFIGS)
def test_bytes_are_linear_in_v(stored, config):
    counts = model.Counts(stored)
    for kind, dtype, modes in scaling_counts.GRID:
        for mode in modes:
            fit = counts.line(kind, dtype, mode, config)
            assert fit.residual < MOST_OFF, (kind, dtype, mode, fit)
            assert 0 <= fit.slope / model.ELEMENT[dtype] - model.USUAL.get(config, 1) < 0.12
            most = counts.row_count * sum(v >= model.FITTED_FROM for v in counts.vocabs)
            # Only long nuclei take another way.
            assert (
                fit.points == most
                if "top-p" not in config.replace("top-k+top-p", "")
                else fit.points > most / 2
            )


# Times


def test_times_of_the_report(times, others):
    """Where both speak, they say nearly the same: sectors here and bytes there, four rows here."""
    for e in others[0]["estimates"]:
        if e["device"] == model.H100.name and "top-p" != e["config"] != "mix+top-p":
            mine = times.paper_us(e["config"], e["batch"], model.MEASURED_VOCAB)
            assert mine == pytest.approx(e["us"], rel=0.03)


def test_one_rank_exchanges_nothing(times):
    for config in cases.CONFIGS:
        alone = times.scaled_us(config, 32, 128256)
        assert model.gathered_us(times, config, 32, 128256, 1) == alone
        assert model.sharded_us(times, config, 32, 128256, 1) == alone
        assert times.ratio(config) > 1


def test_weights_of_the_models():
    """Parameters without norms, as their makers count: 8.03e9 and 70.6e9."""
    small, large = model.MODELS
    assert small.read(128256) + 128256 * small.hidden == pytest.approx(8.03e9, rel=1e-3)
    assert large.read(128256) + 128256 * large.hidden == pytest.approx(70.6e9, rel=1e-3)
    assert small.step_us(1, 128256, 1) == pytest.approx(2 * small.read(128256) / 3.35e6)
    assert small.step_us(4096, 128256, 2) == pytest.approx(small.read(128256) * 4096 / 989e6)


def test_least():
    assert model.least(lambda b: b > 3, (1, 2, 4, 8)) == 4
    assert model.least(lambda b: b != 4, (1, 2, 4, 8)) == 8
    assert model.least(lambda b: False, (1, 2)) is None


# Exchanges: what the page counts is enough, and gives the tokens of whole rows

VOCAB = 2900  # 12 blocks, the last one partial


def row(seed, dtype=torch.bfloat16):
    """Peaked, with ties, -inf and a stretch without a valid token."""
    generator = torch.Generator().manual_seed(seed)
    x = (2.5 * torch.randn(VOCAB, generator=generator)).to(dtype).float()
    x[torch.randperm(VOCAB, generator=generator)[:40]] = -torch.inf
    x[512:1024] = -torch.inf
    x[torch.randperm(VOCAB, generator=generator)[:30]] = x.max() - 2
    return x.tolist()


def token_and_kept(x, key, **settings):
    whole = r1.sample_row(x, key=key, **settings)
    return whole.id, whole.kept


PLAYED = {
    "greedy": (dict(temperature=0.0), lambda ranks: ranks.greedy()),
    "T": (dict(temperature=0.8), lambda ranks: ranks.draw()),
    "min-p": (dict(min_p=0.05), lambda ranks: ranks.draw(min_p=0.05)),
    "top-k": (dict(top_k=50), lambda ranks: ranks.top_k(50)),
    "top-k+top-p": (dict(top_k=50, top_p=0.95), lambda ranks: ranks.top_k(50, 0.95)),
    "top-p": (dict(top_p=0.9), lambda ranks: ranks.top_p(0.9, 2048 // len(ranks.ranks), 2)),
}


@pytest.mark.parametrize("number", model.RANKS[1:])
@pytest.mark.parametrize("config", PLAYED)
def test_ranks_draw_the_token_of_the_whole_row(config, number):
    settings, play = PLAYED[config]
    for seed in range(3):
        x, key = row(seed), (seed, 7)
        ranks = Ranks(x, number, key, settings.get("temperature", 1.0) or 1.0)
        assert (play(ranks), ranks.kept) == token_and_kept(x, key, **settings)
        assert ranks.exchanges == model.plan(config, 2, number).exchanges


@pytest.mark.parametrize("dtype, levels", [(torch.bfloat16, 2), (torch.float32, 4)])
@pytest.mark.parametrize("top_p", [0.3, 0.9, 0.999])
def test_ranks_find_a_long_nucleus(dtype, levels, top_p):
    element = 2 if dtype == torch.bfloat16 else 4
    for seed in range(3):
        x, key = row(seed, dtype), (seed, 9)
        ranks = Ranks(x, 4, key)
        assert (ranks.top_p(top_p, 1, levels), ranks.kept) == token_and_kept(x, key, top_p=top_p)
        assert ranks.exchanges == model.plan("top-p", element, 4, long=True).exchanges


def test_offers_that_are_not_enough_are_noticed():
    """Whether the nucleus ends within the offers differs by row; equal tokens stand at its end."""
    ways = set()
    for seed in range(4):
        x = [round(2 * v) / 2 if v > -r1.INF else v for v in row(seed)]
        for offered in (20, 60, 400):
            ranks = Ranks(x, 4, (seed, 3))
            assert (ranks.top_p(0.8, offered, 2), ranks.kept) == token_and_kept(x, (seed, 3), top_p=0.8)
            ways.add(ranks.exchanges)
    assert ways == {model.plan("top-p", 2, 4, long).exchanges for long in (False, True)}


def test_sums_of_a_local_maximum_are_another_law():
    """Why m comes first: weights relative to a rank's own maximum, scaled afterwards, are not the law's."""
    ranks = Ranks(row(0), 4, (0, 0))
    ranks.draw()
    rank = min(ranks.ranks, key=lambda rank: max(rank.x.values(), default=r1.INF))
    own = max(rank.x.values())
    assert own < ranks.m
    exact = sum(rank.w.values())
    local = sum(weight(v, own, 1.0) for v in rank.x.values())
    assert r1.fixed(r1.exp2p(tempered(own, ranks.m, 1.0))) * local // r1.ONE != exact


def test_ranks_sum_the_entropy():
    x = row(5)
    ranks = Ranks(x, 4, (5, 5), 0.8)
    ranks.draw()
    assert r1.out32(ranks.entropy()) == r1.sample_row(x, key=(5, 5), temperature=0.8).entropy


def test_bytes_of_the_plans():
    for config in cases.CONFIGS:
        for ranks in model.RANKS[1:]:
            two, four = (model.plan(config, e, ranks).bytes_given for e in (2, 4))
            assert 0 < two <= four < model.gathered_bytes(128256, 2, ranks)
    assert model.plan("top-k").bytes_given == 50 * (2 + 4) + 8
    assert model.gathered_bytes(1000, 4, 8) == 3500
