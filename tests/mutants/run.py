# SPDX-License-Identifier: Apache-2.0
"""Makes each mutant, builds, runs the test named for it, and says who told the mistake and how.

    python tests/mutants/run.py [--only NAME ...] [--fresh] [--jobs N] [--list]

Works in a copy of the tree, build/mutants/tree, which it builds there without CUDA and at -O1 (a third of the
time; what the law rounds does not depend on it). Kernels are built for float32 alone and run by the executor.
Before a mutant is made, the tests must pass on the tree as it is. Results are kept in results.json as they
come: a second call makes only the mutants that are new or whose file or test has changed, --fresh all of
them. The exit code is 0 only if every mutant was killed: an assertion failed in a test's own body. A build
error, a crash, a timeout and any other exception do not count.

The last thing it writes is docs/mutants.md.
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from mutants import EQUIVALENT, FROM_THE_PLAN, MUTANTS, SURVIVED

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
RESULTS, PAGE = HERE / "results.json", ROOT / "docs" / "mutants.md"
WORK, BUILT = ROOT / "build" / "mutants" / "tree", ROOT / "build" / "mutants" / "built"
VERDICT = ROOT / "build" / "mutants" / "verdict.json"
COPIED = (
    "csrc",
    "pyext",
    "tests",
    "benchmarks",
    "setup.py",
    "build_cuda.py",
    "build_sdist.py",
    "pyproject.toml",
)
LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.so", "build", "*.egg-info")
TIMEOUT_S = 900
KILLED = "killed"


def digest(*parts):
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()[:16]


def definition(mutant):
    return digest(mutant.name, mutant.file, *mutant.edits, mutant.test, mutant.count)


def sources(mutant):
    """Of what a result depends on most: the file as it is, and that of the test."""
    return digest(*((ROOT / path).read_text() for path in (mutant.file, mutant.test.split("::")[0])))


def mutated(mutant, text):
    for old, new in mutant.edits:
        found = text.count(old)
        if found != mutant.count:
            raise ValueError(f"{mutant.name}: {mutant.file} has {found} times, not {mutant.count}: {old!r}")
        text = text.replace(old, new)
    return text


# The tree


def update(source, target):
    """A copy in which files that are the same keep their times, so that they are not built again."""
    if source.is_file():
        if not target.exists() or target.read_bytes() != source.read_bytes():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
        return
    names = {p.name for p in source.iterdir()}
    names -= LEFT_OUT(str(source), names)
    for name in names:
        update(source / name, target / name)
    if target.is_dir():
        for gone in {p.name for p in target.iterdir()} - names:
            if gone.endswith((".py", ".h", ".inl", ".cpp", ".cuh", ".cu")):
                (target / gone).unlink()


def environment(kernels=False):
    env = {name: value for name, value in os.environ.items() if not name.startswith("FUSEDRAW_")}
    paths = [WORK / "pyext", WORK / "tests", WORK / "tests" / "mutants"]
    env |= {"PYTHONPATH": os.pathsep.join(map(str, paths)), "PYTHONDONTWRITEBYTECODE": "1"}
    env |= {"FUSEDRAW_CUDA": "0", "FUSEDRAW_CXXFLAGS": "-O1", "FUSEDRAW_VERDICT": str(VERDICT)}
    if kernels:
        env["FUSEDRAW_SIMT_KERNELS"] = str(WORK / "csrc" / "cuda")
    return env


def build(mutant=None):
    """What of the tree is out of date. Returns what the compiler says if it fails, else None."""
    command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    if mutant is not None and mutant.kernels:
        command = [sys.executable, "-c", "import simt_engine; simt_engine.library_path()"]
    elif mutant is not None and mutant.file.endswith(".py"):
        return None
    env = environment(kernels=mutant is not None and mutant.kernels)
    done = subprocess.run(command, cwd=WORK, env=env, capture_output=True, text=True)
    return None if done.returncode == 0 else (done.stdout + done.stderr)[-4000:]


def built_files():
    return [*(WORK / "build").glob("temp*"), *(WORK / "pyext" / "fusedraw").glob("*.so")]


def keep_built():
    shutil.rmtree(BUILT, ignore_errors=True)
    for path in built_files():
        to = BUILT / path.relative_to(WORK)
        to.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if path.is_dir() else shutil.copy2)(path, to)


def restore_built():
    """With the times of the files, by which ninja knows that they are up to date."""
    shutil.copytree(BUILT, WORK, dirs_exist_ok=True)


# The tests


def run_tests(tests, kernels):
    """(exit code or None for a timeout, entries of verdict.py, output)."""
    VERDICT.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-p", "verdict", *tests]
    try:
        done = subprocess.run(
            command,
            cwd=WORK,
            env=environment(kernels),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=TIMEOUT_S * len(tests),
        )
    except subprocess.TimeoutExpired:
        return None, [], ""
    entries = json.loads(VERDICT.read_text()) if VERDICT.exists() else []
    return done.returncode, entries, done.stdout


def judge(code, entries):
    """(verdict, test, first line of what it says)."""
    if code is None:
        return "timeout", "", f"after {TIMEOUT_S} s"
    if code < 0:
        return "crash", "", f"signal {-code}"
    failed = [entry for entry in entries if entry["ended"] == "failed"]
    if code == 1 and failed:
        first = failed[0]
        if first["phase"] == "call" and all(entry.get("asserts") for entry in failed):
            return KILLED, first["test"], first["line"]
        return "other exception", first["test"], f"{first['type']} in {first['phase']}: {first['line']}"
    ran = sum(entry["phase"] == "call" and entry["ended"] == "passed" for entry in entries)
    if code == 0 and ran:
        return "survived", "", f"{ran} tests passed"
    return "no test ran", "", f"pytest ended with {code}"


def check_tests(mutants):
    """The named tests pass on the tree as it is."""
    for kernels in (False, True):
        tests = sorted({m.test for m in mutants if m.kernels == kernels})
        if not tests:
            continue
        if kernels and (error := build(next(m for m in mutants if m.kernels))):
            sys.exit(f"the kernels do not build:\n{error}")
        begin = time.time()
        code, entries, output = run_tests(tests, kernels)
        ran = {e["test"] for e in entries if e["phase"] == "call" and e["ended"] == "passed"}
        idle = [test for test in tests if not any(name.startswith(test) for name in ran)]
        if code != 0 or idle:
            sys.exit(f"the tests do not pass on the tree as it is (not run: {idle}):\n{output[-4000:]}")
        print(f"{len(tests)} tests ({len(ran)} cases) pass as it is, {time.time() - begin:.0f} s", flush=True)


def make(mutant):
    """The result of one mutant; the tree is as before afterwards."""
    path, begin = WORK / mutant.file, time.time()
    text, times = path.read_text(), path.stat()
    try:
        path.write_text(mutated(mutant, text))
        error = build(mutant)
        built = time.time()
        if error is not None:
            verdict, test, line = "build error", "", error.strip().splitlines()[-1]
        else:
            verdict, test, line = judge(*run_tests([mutant.test], mutant.kernels)[:2])
    finally:
        path.write_text(text)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
        if not mutant.kernels and not mutant.file.endswith(".py"):
            restore_built()
    seconds = {"build_s": round(built - begin), "test_s": round(time.time() - built)}
    return {
        "verdict": verdict,
        "by": test,
        "says": line,
        **seconds,
        "definition": definition(mutant),
        "sources": sources(mutant),
    }


# Results


def load_results():
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else {}


def save_results(results):
    kept = {name: results[name] for name in MUTANTS if name in results}
    RESULTS.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n")


def cut(text, most):
    """On one line, of so many characters at most."""
    text = " ".join(text.split())
    return text if len(text) <= most else text[: most - 3] + "..."


def cell(text, most=110):
    return cut(text, most).replace("|", "\\|").replace("<", "&lt;").replace(">", "&gt;")


def code(text):
    """For a cell: a stroke ends it even inside backquotes."""
    return "`" + cut(text.replace("\\n", " "), 110).replace("`", "'").replace("|", "\\|") + "`"


def short(test):
    return code(test.removeprefix("tests/"))


def table(mutants, results):
    lines = ["| mutant | stands for | file | killed by | what it says |", "|---|---|---|---|---|"]
    for mutant in mutants:
        result = results[mutant.name]
        by = short(result["by"]) if result["verdict"] == KILLED else code(result["verdict"])
        row = (
            cell(mutant.name),
            cell(mutant.stands_for, 200),
            code(mutant.file),
            by,
            code(result["says"]),
        )
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)


def page(results):
    killed = sum(result["verdict"] == KILLED for result in results.values())
    minutes = sum(result["build_s"] + result["test_s"] for result in results.values()) / 60
    planned = {mutant.name for mutant in FROM_THE_PLAN}
    beside = [mutant for mutant in MUTANTS.values() if mutant.name not in planned]
    holes = "\n".join(f"- {name}: {short(test)}: {lacked}." for name, test, lacked in SURVIVED)
    replaced = "\n".join(f"- {name}: {why} Instead: {instead}." for name, why, instead in EQUIVALENT)
    return f"""# Mutants: do the tests bite?

A test that cannot fail proves nothing. So the source is changed for the worse, one mistake at a time, the
extension (or the kernels) built again, and the one test run that is named for the mistake.
**{killed} of {len(MUTANTS)} are killed**: an assertion in the body of the test fails. A build error, a crash,
a timeout or any other exception would not count, and before a mutant is made its test passes on the source as
it is.

Each mistake is one that samplers have had, or a careless hand could make here. The first twenty are those of
the plan of the tests, written before the code, in the words of this code. The twenty beside them were chosen,
with their tests, and committed before any test was run on them; they are spread over the instruction sets,
the passes, the operators' checks, the Python package and the CUDA kernels, which the executor runs on the
CPU. R1 and R2, the references, are what others are compared with and no target. A mutant of csrc/core changes
R2 as well: it is told by R1, which shares no line with it, or by what must hold whoever computes it.

    make mutants                                        # what is new or changed; all: {minutes:.0f} minutes
    python tests/mutants/run.py --only "noise by rank"  # one

tests/mutants/mutants.py holds the list, tests/mutants/results.json what came of it. A test compares the list
with the sources, and this page with both.

## From the plan

{table(FROM_THE_PLAN, results)}

## Chosen beside them

{table(beside, results)}

## What the tests lacked

The first run killed {len(MUTANTS) - len(SURVIVED)} of {len(MUTANTS)}. These it did not, by the test named
here as it was then: four survived, one ended in an exception that is no assertion. None is an equivalent, so
tests were written or changed to tell them; the tables show the run after that.

{holes or "None."}

## Equivalent ones

{replaced or "None: nothing had to be replaced because no test could tell it from the code as it is."}
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--only", action="append", metavar="NAME", choices=MUTANTS, help="this one")
    parser.add_argument("--fresh", action="store_true", help="all again")
    parser.add_argument("--jobs", type=int, default=2, help="compilers at a time")
    parser.add_argument("--list", action="store_true", help="names and verdicts, and nothing else")
    args = parser.parse_args()
    os.environ["MAX_JOBS"] = str(args.jobs)
    results = load_results()
    if args.list:
        for name in MUTANTS:
            print(f"{results.get(name, {}).get('verdict', 'not run'):16} {name}")
        return
    todo = []
    for mutant in MUTANTS.values():
        mutated(mutant, (ROOT / mutant.file).read_text())
        known = results.get(mutant.name, {})
        current = (known.get("definition"), known.get("sources")) == (definition(mutant), sources(mutant))
        wanted = mutant.name in args.only if args.only else args.fresh or not current
        if wanted or (not args.only and known.get("verdict") != KILLED):
            todo.append(mutant)
    if todo:
        for name in COPIED:
            update(ROOT / name, WORK / name)
        if error := build():
            sys.exit(f"the tree does not build:\n{error}")
        keep_built()
        check_tests(todo)
    for mutant in todo:
        results[mutant.name] = result = make(mutant)
        save_results(results)
        spent = f"{result['build_s']} + {result['test_s']} s"
        print(f"{result['verdict']:16} {mutant.name} ({spent}): {result['says'][:150]}", flush=True)
    if all(name in results for name in MUTANTS):
        PAGE.write_text(page({name: results[name] for name in MUTANTS}), encoding="utf-8")
    left = [name for name in MUTANTS if results.get(name, {}).get("verdict") != KILLED]
    print(
        f"{len(MUTANTS) - len(left)} of {len(MUTANTS)} killed" + (f"; not: {', '.join(left)}" if left else "")
    )
    sys.exit(1 if left else 0)


if __name__ == "__main__":
    main()
