# SPDX-License-Identifier: Apache-2.0
"""Whole audits of a tiny model: what is stored, killed and continued, redacted, shared by processes."""

import json
import os
import signal
import sqlite3
import subprocess
import sys

import numpy
import pytest
import torch

pytest.importorskip("transformers", reason="needs transformers: pip install -r requirements-demo.txt")
pytest.importorskip("yaml", reason="needs PyYAML: pip install pyyaml")

from audit_models import PROMPTS, WORDS, prompts_file, save
from fusedraw.__main__ import main
from fusedraw.audit import decode, models, results, runner
from fusedraw.audit.plan import AuditError, make_plan
from fusedraw.audit.store import STATS, Store

TOKENS = 10
CONDITIONS = {
    "luck": {"seed": 2},
    "one": {"batch": 1},
    "half": {"dtype": "bfloat16"},
    "warm": {"temperature": 1.3},
    "explore": {"mix_eps": 0.3},
    "greedy": {"temperature": 0.0},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def loaded(folder):
    return models.load(str(folder))


def plan_of(**more):
    base = {"threads": 1, "batch": 2, "samples": 3}
    return make_plan(PROMPTS, base=base, conditions=CONDITIONS, max_new_tokens=TOKENS, **more)


def run(loaded, output, **more):
    made = runner.Runner(plan_of(**more), loaded, output, runner.Options())
    made.run()
    made.store.close()
    return output / "audit.sqlite"


@pytest.fixture(scope="module")
def stored(loaded, tmp_path_factory):
    return run(loaded, tmp_path_factory.mktemp("audit"))


@pytest.fixture(scope="module")
def analysis(stored):
    return results.analyse([stored])


def test_every_prompt_has_an_output_under_every_condition(stored, analysis):
    outputs = list(Store(stored, read_only=True).outputs())
    assert len(outputs) == len(PROMPTS) * (3 + len(CONDITIONS))
    for output in outputs:
        assert 1 <= len(output.ids) <= TOKENS and output.stats.shape == (len(output.ids), len(STATS))
        assert output.finished == (output.ids[-1] == 2)
        assert output.finished or len(output.ids) == TOKENS
        assert numpy.isfinite(output.stats).all()
    assert analysis["run"]["tokens"] == sum(len(o.ids) for o in outputs) == analysis["run"]["redrawn"]
    assert analysis["headline"]["sampler_differences"] == 0
    json.dumps(analysis, allow_nan=False)


def test_the_statistics_are_those_of_the_logits(loaded):
    plan = plan_of()
    ids = [loaded.ids_of(text, True) for text in PROMPTS[:2]]
    for output in decode.decode(loaded, plan.base, [0, 1], ids, 0, TOKENS):
        columns = {name: output.stats[:, place].astype(float) for place, name in enumerate(STATS)}
        logits, chosen = output.logits.double(), torch.from_numpy(output.ids).long()
        law = (logits / plan.base.temperature).log_softmax(-1)
        raw = logits.log_softmax(-1)
        best = logits.sort(-1, descending=True).values
        drawn = logits.gather(-1, chosen[:, None])
        top = raw.sort(-1, descending=True).values[:, :20]
        expected = {
            "entropy": -(law.exp() * law).sum(-1),
            "varentropy": (law.exp() * law**2).sum(-1) - (law.exp() * law).sum(-1) ** 2,
            "logp_raw": raw.gather(-1, chosen[:, None])[:, 0],
            "margin": best[:, 0] - best[:, 1],
            "rank": (logits > drawn).sum(-1).double(),
            "confidence": -top.mean(-1),
            "best_logp": raw.max(-1).values,
        }
        for name, value in expected.items():
            assert columns[name] == pytest.approx(value.numpy(), abs=2e-5), name
        assert (columns["logp"] <= 0).all() and (columns["kept_mass"] >= plan.base.top_p - 1e-6).all()


def test_who_is_to_blame(analysis):
    pairs = {(p["a"], p["b"]): p for p in analysis["pairs"]}
    for name in ("luck", "warm", "explore", "greedy"):  # one model, one batch: the logits are the same
        line = pairs["base", name]
        assert line["blame"] == "settings" and line["logits_equal"] == line["forks"] > 0, name
    assert pairs["base", "half"]["blame"] in ("logits", "none")
    assert pairs["base", "half"]["max_difference"] > 0
    assert all(p["sampler"] == 0 for p in analysis["pairs"])
    assert {p["compared"] for p in analysis["pairs"]} == {len(PROMPTS)}
    assert analysis["prompts"][0]["samples"] == 3


def test_forks_say_what_each_condition_draws_from_the_others_logits(stored, analysis):
    outputs = {(o.condition, o.prompt, o.sample): o for o in Store(stored, read_only=True).outputs()}
    assert analysis["forks"]
    for fork in analysis["forks"]:
        a, b = (outputs[fork[side], fork["prompt"], fork["sample"]].ids for side in ("a", "b"))
        step = fork["step"]
        assert (a[:step] == b[:step]).all() and a[step] != b[step]
        assert (fork["token_a"], fork["token_b"]) == (a[step], b[step])
        if fork["logits_equal"]:  # a draws its own token from them, which b did not
            assert fork["token_of_a_on_logits_of_b"] == fork["token_a"] and fork["difference"] == 0
            assert not fork["same_on_same_logits"]


def test_a_sampler_that_differs_would_be_told(stored):
    """The planted one: an output whose logits, law and key are equal and whose token is not."""
    from fusedraw.audit import blame

    plan = plan_of()
    logits = torch.randn(3, 30, generator=torch.Generator().manual_seed(1))
    ids = decode.draw(plan.base, 5, logits).numpy().astype("int32")
    wrong = ids.copy()
    wrong[1] = (wrong[1] + 1) % 30
    right, planted = (decode.Drawn(i, logits) for i in (ids, wrong))
    threads = next(c for c in plan.conditions if c.name == "one")
    line = blame.compare(plan.base, threads, right, planted, 5, 5)
    assert line["sampler"] and blame.summary(plan.base, threads, [line])["blame"] == "sampler"
    assert "bug in fusedraw" in blame.summary(plan.base, threads, [line])["says"]
    same = blame.compare(plan.base, threads, right, right, 5, 5)
    assert same["equal"] and blame.summary(plan.base, threads, [same])["blame"] == "none"


def everything(path):
    file = sqlite3.connect(path)
    tables = ("meta", "prompts", "outputs", "comparisons", "units")
    return {table: sorted(map(repr, file.execute(f"SELECT * FROM {table}"))) for table in tables}


# A process that stops itself, as by kill -9, when the given unit is stored (before or after the transaction).
KILLED = """
import os, signal, sys
from fusedraw.audit import store
for name in ("add_outputs", "add_comparisons", "put"):
    def killed(self, unit, *rest, was=getattr(store.Store, name)):
        if unit == sys.argv[1] and sys.argv[2] == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        was(self, unit, *rest)
        if unit == sys.argv[1]:
            os.kill(os.getpid(), signal.SIGKILL)
    setattr(store.Store, name, killed)
from fusedraw.__main__ main
""".replace("__main__ main", "__main__ import main\nsys.exit(main(sys.argv[3:]))")


def command(folder, prompts, output):
    given = ["--base", "threads=1,batch=2,samples=2", "-c", "luck:seed=2", "-c", "one:batch=1"]
    rest = ["--max-new-tokens", "6", "--output", str(output), "--format", "json", "--bias", "off"]
    return ["audit", str(folder), "--prompts", str(prompts), *given, *rest]


def test_a_killed_audit_goes_on_to_an_identical_report(folder, tmp_path):
    prompts = prompts_file(tmp_path)
    whole = subprocess.run(
        [sys.executable, "-m", "fusedraw", *command(folder, prompts, tmp_path / "whole")], capture_output=True
    )
    assert whole.returncode == 0, whole.stderr.decode()
    for place, (unit, when) in enumerate(
        (("0/base", "before"), ("2/luck", "after"), ("calibration", "after"))
    ):
        output = tmp_path / f"killed-{place}"
        arguments = command(folder, prompts, output)
        killed = subprocess.run([sys.executable, "-c", KILLED, unit, when, *arguments], capture_output=True)
        assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
        again = subprocess.run([sys.executable, "-m", "fusedraw", *arguments], capture_output=True)
        assert again.returncode == 0, again.stderr.decode()
        assert again.stdout == whole.stdout
        assert everything(output / "audit.sqlite") == everything(tmp_path / "whole" / "audit.sqlite")
        assert not list(output.glob("scratch*"))


def test_what_is_stored_is_not_run_again(loaded, stored, monkeypatch):
    monkeypatch.setattr(runner, "decode", None)  # it would raise
    made = runner.Runner(plan_of(), loaded, stored.parent, runner.Options())
    made.run()
    made.store.close()


def test_another_plan_is_refused(loaded, stored):
    with pytest.raises(AuditError, match=r"another audit \(other: redact\)"):
        runner.Runner(plan_of(redact=True), loaded, stored.parent, runner.Options())


def test_a_foreign_file_is_refused(loaded, tmp_path):
    (tmp_path / "audit.sqlite").write_bytes(b"no database, but longer than its header would be" * 20)
    with pytest.raises(AuditError, match="cannot be used"):
        Store(tmp_path / "audit.sqlite")


def test_redacted_results_hold_no_text_and_no_ids(loaded, stored, analysis, tmp_path):
    path = run(loaded, tmp_path, redact=True)
    data = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    for secret in (*PROMPTS, *(f'"{word}"' for word in WORDS if len(word) > 2)):
        assert secret.encode() not in data
    outputs = list(Store(path, read_only=True).outputs())
    plain = list(Store(stored, read_only=True).outputs())
    known = {}
    for ours, theirs in zip(outputs, plain, strict=True):
        assert ours.text is None and ours.pieces is None
        for pseudonym, token in zip(ours.ids.tolist(), theirs.ids.tolist(), strict=True):
            assert known.setdefault(token, pseudonym) == pseudonym and pseudonym > len(WORDS)
    assert len(set(known.values())) == len(known)
    assert Store(path, read_only=True).get("pseudonym_key") is None
    ours = results.analyse([path])
    assert [p["agreement"] for p in ours["pairs"]] == [p["agreement"] for p in analysis["pairs"]]
    assert all(line["text"] is None for line in (*ours["outputs"], *ours["prompts"]))


def test_processes_share_the_groups(folder, tmp_path):
    prompts = prompts_file(tmp_path)
    arguments = command(folder, prompts, tmp_path / "shared")
    started = []
    for rank in (1, 0):
        environment = {**os.environ, "RANK": str(rank), "WORLD_SIZE": "2"}
        given = [sys.executable, "-m", "fusedraw", *arguments]
        started.append(subprocess.Popen(given, env=environment, stdout=subprocess.PIPE))
    other, first = (json.loads(p.communicate(timeout=300)[0] or b"null") for p in started)
    assert other is None
    alone = subprocess.run(
        [sys.executable, "-m", "fusedraw", *command(folder, prompts, tmp_path / "alone")], capture_output=True
    )
    assert first == json.loads(alone.stdout)


def test_a_file_that_is_being_made_is_not_complete(stored, tmp_path):
    (tmp_path / "audit-1.sqlite").touch()
    assert not runner._is_complete(tmp_path / "audit-1.sqlite")
    assert runner._is_complete(stored)


@pytest.mark.parametrize("limit", [120_000, 20_000])
def test_a_full_disk_is_said_and_loses_nothing(folder, tmp_path, limit):
    """The limit of file sizes stands for the disk: writing beyond it fails in the same places."""
    prompts = prompts_file(tmp_path, PROMPTS * 8)
    arguments = command(folder, prompts, tmp_path / "out")
    limited = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}));"
        "from fusedraw.__main__ import main; sys.exit(main(sys.argv[1:]))"
    )
    failed = subprocess.run([sys.executable, "-c", limited, *arguments], capture_output=True, text=True)
    assert failed.returncode == 1, failed.stderr
    assert "Traceback" not in failed.stderr
    assert "audit.sqlite" in failed.stderr or "scratch" in failed.stderr
    again = subprocess.run([sys.executable, "-m", "fusedraw", *arguments], capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["run"]["prompts"] == len(PROMPTS) * 8


def test_thresholds_and_formats(folder, tmp_path, capsys):
    prompts = prompts_file(tmp_path)
    arguments = command(folder, prompts, tmp_path / "out")
    assert main([*arguments, "--fail-on", "sampler_differences>0", "agreement:luck<0"]) == 0
    assert json.loads(capsys.readouterr().out)["schema"] == results.SCHEMA
    only = ["audit", "--report-only", "--output", str(tmp_path / "out"), "--format", "text"]
    assert main([*only, "--fail-on", "agreement:luck<0.99,mean_entropy>0"]) == 3
    told = capsys.readouterr()
    assert (
        "Who is to blame" in told.out and "agreement:luck<0.99" in told.err and "mean_entropy>0" in told.err
    )
    assert main([*only, "--fail-on", "agreement:nobody<1"]) == 2


def test_models_that_cannot_be_read(folder, tmp_path, capsys):
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in folder.iterdir():
        data = file.read_bytes()
        (broken / file.name).write_bytes(data[: len(data) // 2] if file.suffix == ".safetensors" else data)
    assert main(["audit", str(broken), "--output", str(tmp_path / "out"), "--format", "text"]) == 2
    error = capsys.readouterr().err
    assert "cannot be read" in error and str(broken) in error and "Traceback" not in error


def test_prompts_that_do_not_fit_are_refused(folder, tmp_path, capsys):
    prompts = prompts_file(tmp_path, ["the cat " * 60])
    given = ["audit", str(folder), "--prompts", str(prompts), "--output", str(tmp_path / "out")]
    assert main([*given, "--format", "text"]) == 2
    assert "prompt 1 has 120 tokens" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_ensembles_and_dropout_give_mutual_information(folder, loaded, tmp_path):
    save(tmp_path / "other", seed=5)
    figures = {}
    for name, options in {
        "itself": runner.Options(ensemble=[models.load(str(folder))]),
        "other": runner.Options(ensemble=[models.load(str(tmp_path / "other"))]),
        "dropout": runner.Options(mc_dropout=0.3),
    }.items():
        made = runner.Runner(plan_of(), loaded, tmp_path / name, options)
        made.run()
        found = results.analyse([tmp_path / name / "audit.sqlite"])
        figures[name] = [line["mutual_information"] for line in found["prompts"]]
    assert figures["itself"] == pytest.approx([0.0] * len(PROMPTS), abs=1e-9)
    assert min(figures["other"]) > 0.01 and min(figures["dropout"]) > 1e-4


def test_planted_bias_in_outputs_is_told_and_none_is_not(loaded, monkeypatch):
    """Outputs are made up: tokens by the group, or by the template alone."""
    from types import SimpleNamespace

    from fusedraw.audit import extras

    texts = [[f"{n} {word}" for n in range(12)] for word in ("cat", "dog")]
    stats = numpy.zeros((6, len(STATS)))

    def written(planted):
        def decode(loaded, condition, prompts, rows, number, most):
            of_group = [hash_of(row) if planted else hash_of(row[:-1]) for row in rows]
            made = [numpy.random.default_rng(7 * n + number) for n in prompts]
            return [
                SimpleNamespace(ids=d.integers(0, 4, 6) + 4 * (g % 2) * planted, stats=stats)
                for d, g in zip(made, of_group, strict=True)
            ]

        return decode

    def hash_of(row):
        return int(row[-1])

    told = {}
    for planted in (True, False):
        monkeypatch.setattr(extras, "decode", written(planted))
        told[planted] = extras._outputs_of_groups(loaded, plan_of(), texts)
    assert told[True]["p_value"] < 0.01 and told[True]["outputs"]["js"] > 0.6
    assert told[False]["p_value"] > 0.5 and told[False]["outputs"]["js"] < 1e-9
