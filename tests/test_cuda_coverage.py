# SPDX-License-Identifier: Apache-2.0
"""Nothing of csrc/cuda is left out by the tests of the executor: every kernel of its sources was launched for
every dtype, every instantiation in the library too, and hardly a line was not run."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from engines import (
    ALL,
    BF16,
    EXECUTOR,
    F16,
    F32,
    engine,
    keep,
    make_keys,
    make_mode,
    make_params,
    multinomial,
    op,
    sample,
    softmax,
)
from mixture_cases import make_weights, mixture
from processed_cases import Edits, make_rules, process
from route_cases import Case, route
from row_kinds import make_probs, make_rows
from scoring import score
from simt_build import CSRC, KEPT, ROOT
from simt_engine import library_path, recorded, run_tests
from verify_cases import spread_case, verify

EDITED = "(?:fusedraw::cuda::Edited<)?"  # rows of this type, edited or not
DTYPES = {"float": F32, "fusedraw::BFloat16": BF16, "fusedraw::Float16": F16}
SOURCES = sorted([*(CSRC / "cuda").glob("*.cuh"), *(CSRC / "cuda").glob("*.cu")])
KERNEL = re.compile(
    r"(?:template\s*<(?P<parameters>[^>]*)>\s*)?(?:static\s+)?__global__\s+void\s+"
    r"(?:__launch_bounds__\([^)]*\)\s*)?(?P<name>\w+)\s*\("
)
LEAST_COVERED = 0.95
# What covers the lines: tests of the executor, by -k.
COVERING = (
    ("test_cuda_executor.py", "schedules or keys or lane_and_block or bad_row or softmax or renormalisation"),
    ("test_cuda_token_logprob.py", "replayed and dtype0 or kept_sets"),
    ("test_cuda_mixture.py", "bad_rows or odd_and_unaligned"),
    ("test_cuda_route.py", "random or replay or bad"),
    ("test_cuda_verify.py", "bad_rows or two_dtypes or odd_and_unaligned or masks or fewer"),
    (
        "test_cuda_processed.py",
        "not_allowed or in_parts or form_at or edited_many or every_kind",
    ),
    ("test_cuda_rows.py", "(every_output and real-49152) or top_n or shared_memory_holds"),
)


def kernels_of_sources():
    """{name: whether it is a template of the row's type}, of all __global__ functions."""
    found = {}
    for path in SOURCES:
        code = re.sub(r"//[^\n]*", "", path.read_text())
        assert len(re.findall(r"\b__global__\b", code)) == len(KERNEL.findall(code)), (
            f"{path}: not all understood"
        )
        found |= {m["name"]: "typename T" in (m["parameters"] or "") for m in KERNEL.finditer(code)}
    return found


def run_everything():
    """A few calls of every operator, in every dtype: rows in parts and whole, short and long."""
    for dtype in DTYPES.values():
        for rows, size in ((2, 300), (1, 33_000)):
            x, keys = make_rows("normal", rows, size, 1, dtype), make_keys(rows)
            sample(x, make_params(0.7, 0.9), keys, outputs=0)
            sample(x, make_params(0.7, top_k=20), keys, outputs=ALL, top_n=3)
            for log in (False, True):
                softmax(x, torch.ones(1, dtype=torch.float64), None, log)
            for renorm in (False, True):
                keep(x, make_params(top_k=9), None, make_mode(), renorm)
            ids, ones = torch.arange(rows), torch.ones(rows)
            score(x, ids, make_params(0.7, 0.9), grads=(ones, ones))
            p = make_probs("normal", rows, size, 1, dtype)
            for n, replacement in ((1, True), (5, True), (5, False)):
                multinomial(p, keys, n, replacement)
            process(x, make_rules(typical_p=0.9, repetition_penalty=1.2), Edits([[1, 2]]), keys=keys)
            for how, weights in (("arithmetic", [1, 2]), ("cfg", [1.5, 0])):
                mixture([x, x], make_weights(weights), how, keys=keys)
        route(Case(make_rows("normal", 2, 40, 1, dtype), 3))
        verify(spread_case(rows=2, drafts=1, size=300, dtype=dtype))
    op.row_keys(x, 1, 2)
    one = torch.ones(1, dtype=torch.int64)
    op.derive_keys(one, one, one, one)


def instantiated(path):
    """Kernels in a library's symbol table, with template arguments, as records name them."""
    symbols = subprocess.run(["nm", "-C", path], check=True, capture_output=True, text=True).stdout
    names = "|".join(kernels_of_sources())
    return set(re.findall(rf"(fusedraw::cuda::(?:{names})\b(?:<[^\n]*>)?)\(", symbols))


@pytest.fixture(scope="module")
def launched():
    with engine(EXECUTOR), recorded() as launches:
        run_everything()
    return {launch.kernel.removeprefix("void ") for launch in launches}


def test_every_kernel_of_the_sources_was_launched_for_every_dtype(launched):
    kernels = kernels_of_sources()
    assert len(kernels) >= 10
    missing = []
    for name, typed in kernels.items():
        for dtype in DTYPES if typed else [""]:
            print(f"{name}{dtype and f'<{dtype}>'}")
            if not any(
                re.match(rf"fusedraw::cuda::{name}\b{dtype and f'<{EDITED}{dtype}[ ,>]'}", k)
                for k in launched
            ):
                missing.append((name, dtype))
    assert not missing


@pytest.mark.skipif(shutil.which("nm") is None, reason="no nm")
def test_every_instantiation_was_launched(launched):
    assert instantiated(library_path()) == launched


def lines_run(folder):
    """{file of csrc/cuda: {line: times}} of what ran with its counters in `folder`."""
    lines = {}
    for counters in folder.glob("*.gcda"):
        shutil.copy(KEPT / f"{counters.stem}.gcno", folder)
        command = ["gcov", "--json-format", "--stdout", counters.name]
        done = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
        for report in done.stdout.splitlines():
            for file in json.loads(report)["files"]:
                path = Path(os.path.normpath(os.path.join(ROOT, file["file"])))
                if path.parent == CSRC / "cuda":
                    counts = lines.setdefault(path.name, {})
                    for line in file["lines"]:
                        number = line["line_number"]
                        counts[number] = counts.get(number, 0) + line["count"]
    return lines


@pytest.mark.skipif(shutil.which("gcov") is None, reason="no gcov")
def test_lines_were_run(tmp_path):
    environment = {
        "FUSEDRAW_SIMT_FLAVOUR": "coverage",
        "GCOV_PREFIX": str(tmp_path),
        "GCOV_PREFIX_STRIP": "99",
    }
    for file, chosen in COVERING:
        done = run_tests(file, chosen, **environment)
        assert done.returncode == 0, done.stdout[-4000:]
    lines = lines_run(tmp_path)
    missed = {name: sorted(n for n, count in counts.items() if count == 0) for name, counts in lines.items()}
    for name, numbers in sorted(missed.items()):
        text = (CSRC / "cuda" / name).read_text().splitlines()
        for number in numbers:
            print(f"not run: {name}:{number}: {text[number - 1].strip()}")
    every, not_run = sum(map(len, lines.values())), sum(map(len, missed.values()))
    print(f"run: {every - not_run} of {every} lines of {len(lines)} files")
    assert {path.name for path in SOURCES if path.suffix == ".cu"} < set(lines)
    assert not_run <= (1 - LEAST_COVERED) * every
