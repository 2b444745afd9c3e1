# SPDX-License-Identifier: Apache-2.0
"""The large statistical tests (tests/statistics) at small size, and that they see what is wrong."""

import json
import math
import signal
import subprocess
import sys
import time
from pathlib import Path

import laws
import numpy as np
import pytest
import torch
from fusedraw import reference as r1

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE / "statistics"))
import agree_rows  # noqa: E402
import dieharder  # noqa: E402
import evidence  # noqa: E402
import law_rows  # noqa: E402
import never_rows  # noqa: E402
import pair_rows  # noqa: E402
import plan  # noqa: E402
import stream_rows  # noqa: E402
import tail_rows  # noqa: E402
from tasks import Case, do  # noqa: E402
from work_file import WorkFile  # noqa: E402

CPU = torch.device("cpu")
RUN = HERE / "statistics" / "run.py"


def found(case, draws, codes=None):
    """What the evidence would say of so many draws, `codes` in the place of the case's own."""
    case.piece = lambda device: draws
    if codes is not None:
        case.codes = codes
    return evidence.judged(case, [do(case, 0, CPU, 1)])


# Each kind of row passes as it is, and refuses what is planted


def tilted(case, share):
    """Codes of a tilted law: up on half the codes, down on the others, `share` in total variation."""
    g = torch.Generator().manual_seed(3)
    sign = torch.where(torch.rand(len(case.p), generator=g) < 0.5, -1.0, 1.0).double()
    q = case.p * (1 + 2 * share * sign)

    def codes(indices, seed):
        return torch.multinomial(q, len(indices), replacement=True, generator=g)

    return codes


LAW_CASES = {
    "C1": lambda: law_rows.plain_case("normal", 257),
    "C2, filter": lambda: law_rows.filtered_case(
        "top_k", law_rows.filtered_row("top_k"), law_rows.FILTERS["top_k"]
    ),
    "C2, verify": lambda: law_rows.Verify("plain", {}, {}, size=8),
    "C2, with replacement": lambda: law_rows.WithReplacement("normal", 257),
    "C2, without replacement": lambda: law_rows.WithoutReplacement(5, 3),
    "C4": lambda: pair_rows.Neighbours("step"),
}


@pytest.mark.parametrize("name", LAW_CASES)
def test_a_tilted_law_is_refused(name):
    """1 % of total variation at 2^20 draws; the draws themselves pass at fewer."""
    case = LAW_CASES[name]()
    assert not found(case, 1 << 16)["fails"]
    tilt = tilted(case, 0.01)
    said = found(case, 1 << 20, tilt)
    assert said["fails"] and said["forbidden"] == 0 and said["p"] < laws.ALPHA
    assert said["power_at_1_percent"] > laws.POWER
    assert not found(LAW_CASES[name](), 1 << 20, tilted(case, 0.0))["fails"]


def test_each_filter_has_a_law_of_several_tokens():
    """Draws of a row of which one token is kept agree with any law of it."""
    cases = list(law_rows.filtered())
    for name in law_rows.FILTERS:
        kept = [(case.p > 0).sum() for case in cases if case.name.startswith(f"{name}, ")]
        assert max(kept) >= 4, name
    one_kept = next(case for case in cases if (case.p > 0).sum() == 1)
    assert found(one_kept, 1 << 10)["tests"] == 0
    assert found(law_rows.plain_case("uniform", 2), 1 << 10)["tests"] == 2


def test_one_forbidden_id_is_refused():
    for case in (never_rows.masked("NaN", 257, 1), law_rows.plain_case("normal", 64)):
        draw = case.codes
        assert not found(case, 1 << 14)["fails"]
        # Masked, or beyond the row.
        bad = case.size if case.mask is None else int((~case.mask).nonzero()[0])

        def spoiled(indices, seed, draw=draw, bad=bad):
            return torch.where(indices == 77, bad, draw(indices, seed))

        said = found(case, 1 << 14, spoiled)
        assert said["fails"] and said["forbidden"] == 1


def coarse_tail(case, bits):
    """Codes of a race of single tokens whose uniform numbers have so many bits."""
    rng, w = np.random.default_rng(1), case.mass / (1 - case.mass) / case.tail  # of a token, the best is 1

    def codes(indices, seed):
        n = len(indices)
        least = np.floor(2.0**bits * -np.expm1(np.log1p(-rng.random(n)) / case.tail))  # of the tail's tokens
        tail = -np.log1p(-(least + 0.5) * 2.0**-bits) / w
        ids = rng.integers(case.size, size=n)
        code = case.encoded(torch.from_numpy(ids)).clamp(min=1)
        return torch.where(torch.from_numpy(tail < rng.exponential(size=n)), code, 0)

    return codes


def test_noise_of_24_bits_loses_the_tail():
    """At 18 nats below the best; noise of 64 bits does not."""
    gap, heads, tail, *_ = tail_rows.TAILS[2]
    for bits, fails in ((24, True), (64, False)):
        case = tail_rows.Tail(gap, heads, tail, 1, 1)
        said = found(case, 1 << 19, coarse_tail(case, bits))
        assert said["fails"] == fails and (not fails or said["least"] == "tail")
    assert not found(tail_rows.Tail(gap, heads, 657, 1, 1), 1 << 14)["fails"]


def test_tails_have_the_mass_that_was_asked_for():
    for (gap, *_), mass in zip(tail_rows.TAILS[:6], (1e-3, 1e-5) * 3, strict=True):
        case = next(c for c in tail_rows.tails() if c.gap == gap and abs(c.mass / mass - 1) < 0.01)
        tail, p = case.tail * math.exp(-gap), case.law()
        unit = case.tail / (case.heads * r1.ONE)  # a weight is a whole number
        assert math.isclose(case.mass, tail / (case.heads + tail), rel_tol=1e-5, abs_tol=unit)
        assert len(p) == 257 and math.isclose(p[1:].sum(), case.mass, rel_tol=1e-9)


def test_neighbours_that_know_each_other_are_refused():
    case = pair_rows.Domains(0, 1)
    both = case.both

    def tied(indices, seed):
        first, second = both(indices, seed)
        return first, torch.where(indices % 50 == 0, first, second)

    assert not found(case, 1 << 17)["fails"]
    case.both = tied
    assert found(case, 1 << 19)["fails"]


def test_repeats_of_a_coarse_row_are_refused():
    """A bit that no binning looks at is lost in every other draw."""
    case = tail_rows.Collisions(size=1 << 14)
    assert not found(case, 1 << 12)["fails"]
    draw = case.codes

    def coarse(indices, seed):
        ids = draw(indices, seed)
        return torch.where(indices % 2 == 0, ids & ~64, ids)

    case.codes, case.piece = coarse, lambda device: 1 << 13
    pieces = [do(case, number, CPU, 1) for number in range(4)]
    said = evidence.judged(case, pieces)
    assert said["fails"] and said["least"] == "repeated ids"


def test_moments_of_repeats():
    """Against enumeration: 3 draws from 2 cells repeat once (3 of 4) or twice."""
    assert tail_rows.moments_of_repeats(3, 2) == pytest.approx((1.25, 0.1875), rel=1e-12)


def test_a_wrong_lane_is_refused():
    case = stream_rows.Lanes("scalar")
    case.sizes = case.sizes[:3]
    assert not found(case, 1 << 10)["fails"]
    draw = case.draw

    def wrong(x, keys, domain):
        ids = draw(x, keys, domain)
        return torch.where(ids % 16 == 7, ids - 1, ids)

    case.draw = wrong
    assert found(case, 1 << 10)["forbidden"] > 10


@pytest.mark.parametrize("kind", ["Engines", "PlainPython", "Sums"])
def test_one_bit_in_one_row_is_refused(kind, monkeypatch):
    """In what is not the expectation: another engine, the reference beside R1, another order of tokens."""
    case = getattr(agree_rows, kind)()
    monkeypatch.setattr(case, "batches", 2)
    assert do(case, 0, CPU, 1)["forbidden"] == 0
    name = "statistics" if kind == "Sums" else "sample"
    place, calls = (case if kind == "Sums" else agree_rows), []
    right = getattr(place, name)

    def wrong(*arguments):
        out = dict(right(*arguments))
        calls.append(0)
        if len(calls) == 2:  # Sums: the second of a pair; Engines: the first engine behind the reference
            field = "entropy" if kind == "Sums" else "ids"
            out[field] = out[field].clone()
            out[field].view(torch.int32)[-1] ^= 1
        return out

    monkeypatch.setattr(place, name, wrong)
    assert do(case, 0, CPU, 1)["forbidden"] == 1


@pytest.mark.parametrize("kind", [stream_rows.DerivedKeys, stream_rows.NoiseWords])
def test_two_equal_words_are_refused(kind):
    case = kind()
    case.requests = 1
    assert not found(case, 1 << 12)["fails"]
    words = case.words
    case.words = lambda *arguments: torch.cat([words(*arguments), words(*arguments)[:1]])
    assert found(case, 1 << 12)["forbidden"] == 1


def test_noise_words_are_those_of_r1():
    """The noise that A2 and A4 go by."""
    keys = torch.tensor([[5, 7], [-1, 2**40 + 3]])
    ids = torch.tensor([[0, 1, 2, 2**31 + 1, 2**33 - 1]]).expand(2, -1)
    got = stream_rows.r64(keys, r1.COIN, 2, ids)
    for row, key in zip(got, keys.tolist(), strict=True):
        noise = r1.Noise(tuple(key), 2)
        assert [w % 2**64 for w in row.tolist()] == [noise.r64(r1.COIN, i) for i in ids[0].tolist()]
    seed, number = 9, 3
    at = number * dieharder.CHUNK
    orders = {
        "rows": lambda i: (r1.derive_key(seed, i // 2048), i % 2048),
        "steps": lambda i: (r1.derive_key(seed, 5, step=i), 0),
        "seeds": lambda i: ((i + (seed << 32), 0), 0),
    }
    for order, of in orders.items():
        stream = dieharder.chunk(order, seed, number)
        for i in (0, 1, 4000, dieharder.CHUNK - 1):
            key, pair = of(at + i)
            expected = [r1.Noise(key).r64(r1.TOKEN, 2 * pair + odd) for odd in (0, 1)]
            assert stream[2 * i : 2 * i + 2].tolist() == expected


@pytest.mark.skipif(dieharder.missing() is not None, reason=str(dieharder.missing()))
def test_ent_sees_a_poor_stream(monkeypatch):
    monkeypatch.setattr(dieharder, "ENT_BYTES", 1 << 22)
    assert not dieharder.ent_case("rows", 1)["fails"]
    good = dieharder.chunk
    monkeypatch.setattr(dieharder, "chunk", lambda *a: good(*a) & np.uint64(0xFFFFFFFFFFFFFF0F))
    assert dieharder.ent_case("rows", 1)["fails"]


# Plan, work file, evidence


class Coin(Case):
    def law(self):
        return torch.tensor([0.5, 0.5], dtype=torch.float64)

    def binnings(self):
        return {"side": torch.arange(2)}

    def codes(self, indices, seed):
        return indices % 2

    def piece(self, device):
        return 64


def test_pieces_of_a_plan_come_once():
    cases = [Coin("C1", "first", 2, 640, 0), Coin("C3", "second", 2, 320, 0)]
    stored = [do(cases[0], 4, CPU, 1)]
    todo = plan.Plan(cases, "cpu", 100.0, 0.5, stored)
    tasks = []
    while (task := todo.next()) is not None:
        tasks.append((task[0].name, task[1]))
        todo.finish({"case": task[0].id, "piece": task[1], "seconds": 1.0})
    assert len(tasks) == len(set(tasks)) == 4 + 3 and ("first", 4) not in tasks


def test_a_row_takes_no_more_than_its_share_while_others_wait():
    cases = [Coin("C3", "long", 2, 64_000, 0), Coin("D1", "short", 2, 640, 0)]
    todo = plan.Plan(cases, "cpu", 100.0, 1.0, [])
    order = []
    for _ in range(40):
        case, number = todo.next()
        order.append(case.name)
        todo.finish({"case": case.id, "piece": number, "seconds": 10.0})
    share = plan.SHARES["C3"] / (plan.SHARES["C3"] + plan.SHARES["D1"])
    assert order.index("short") == -(-100 * share // 10)
    assert order.count("short") == -(-100 * (1 - share) // 10)


def test_a_broken_line_of_the_work_file_is_dropped(tmp_path):
    path, header = tmp_path / "work", {"seed": 1}
    file = WorkFile(path, header)
    file.add({"case": "a", "piece": 0})
    with path.open("a") as more:
        more.write('{"case": "a", "pi')
    again = WorkFile(path, header)
    again.add({"case": "a", "piece": 1})
    assert [p["piece"] for p in WorkFile(path, header).pieces] == [0, 1]
    with pytest.raises(SystemExit, match="--fresh"):
        WorkFile(path, {"seed": 2})


def run(folder, *arguments, **options):
    command = [sys.executable, str(RUN), "--work", str(folder / "work"), "--out", str(folder), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)


def test_a_stopped_run_writes_and_goes_on(tmp_path):
    only = ("--only", "C4 step and the next", "--workers", "1")
    process = run(tmp_path, *only)
    work = tmp_path / "work"
    while process.poll() is None and (not work.exists() or work.read_text().count("\n") < 2):
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 0, said
    file = tmp_path / "evidence-statistics-cpu.json"
    first = json.loads(file.read_text())
    kept = len(work.read_text().splitlines())
    assert first["cases"] and "forbidden ids" in said and (tmp_path / evidence.PAGE).exists()
    said, _ = run(tmp_path, *only, "--minutes", "0.05", "--workers", "2").communicate(timeout=120)
    assert len(work.read_text().splitlines()) > kept, said
    again = json.loads(file.read_text())
    assert sum(c["draws"] for c in again["cases"]) > sum(c["draws"] for c in first["cases"])
    assert not any(c["fails"] for c in again["cases"])


def test_every_row_has_cases_and_a_share():
    for device in ("cpu", "cuda"):
        cases = plan.all_cases(device)
        rows = {case.row for case in cases.values()}
        assert rows == set(plan.SHARES) - ({"A1", "A5"} if device == "cuda" else set())
        assert set(plan.ABOUT) == set(plan.SHARES) | {"A4"}
        assert abs(sum(plan.SHARES.values()) - 1) < 1e-9
        never = [c for c in cases.values() if c.row == "D1"]
        assert sum(c.targets[device] for c in never if c.size <= evidence.SHORT) >= 10**9
        assert sum(c.targets[device] for c in never if c.size >= evidence.LONG) >= 10**6


def test_the_page_is_made_of_the_files():
    docs = HERE.parent / "docs"
    if not (docs / evidence.PAGE).exists():
        pytest.skip(f"no documents beside the tests: {docs}")
    files = evidence.stored(docs)
    assert files and (docs / evidence.PAGE).read_text() == evidence.page(files)
    for one in files:
        assert not evidence.failures(one) and one["stream_version"] == 1
