# SPDX-License-Identifier: Apache-2.0
"""What waits for a device: the scripts say in one line that there is none, and their tests, run on CPU
tensors, pass there."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
GPU = Path(__file__).resolve().parent / "gpu"
if not (ROOT / "benchmarks" / "bench_gpu.py").is_file():
    pytest.skip(f"no benchmarks beside the tests: {ROOT}", allow_module_level=True)
sys.path.append(str(ROOT / "benchmarks"))
import bench_gpu  # noqa: E402
import gpu_peers  # noqa: E402
from fusedraw.bench import cases  # noqa: E402

SCRIPTS = {
    "test-gpu": (GPU / "run.py", "-q"),
    "sanitize-gpu": (GPU / "sanitize.py", "racecheck"),
    "bench-gpu": (ROOT / "benchmarks" / "bench_gpu.py", "--quick"),
}


def run(*command, timeout=600, **variables):
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", **variables}
    return subprocess.run(
        [sys.executable, *map(str, command)],
        capture_output=True,
        text=True,
        timeout=timeout,
        env=environment,
        cwd=ROOT,
    )


@pytest.mark.parametrize("name", SCRIPTS)
def test_without_a_device_one_line(name):
    done = run(*SCRIPTS[name], FUSEDRAW_TEST_DEVICE="cuda")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{name}: skipped, no CUDA device") and done.stdout.count("\n") == 1


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_makefile_runs_them(name):
    text = (ROOT / "Makefile").read_text()
    script = SCRIPTS[name][0].relative_to(ROOT)
    assert f"\n{name}: " in text and f"$(PY) {script} " in text


def on_the_cpu(*arguments):
    done = run(GPU / "run.py", "-q", *arguments, FUSEDRAW_TEST_DEVICE="cpu")
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    return done.stdout


# Among those of all files: what takes long on a CPU is left to test_all_of_them_on_the_cpu.
SOME = (
    *("graphs.py", "reduced.py", "parity.py", "rows.py::test_bad_values_anywhere_in_a_split_row"),
    *("processed.py", "speculative.py", "golden_on_device.py", "streams.py"),
    "statistics_on_device.py::test_law[uniform-2]",
    "statistics_on_device.py::test_rows_of_a_seeded_batch_are_independent",
)
LONG = (
    "sums_are_exact or top_p_at_the_cut or seventy or top_k_from_one or compiled or opcheck"
    " or language_models or every_kind_of_row"
)


def test_on_the_cpu():
    """The bodies of the tests, on CPU tensors."""
    said = on_the_cpu(*(GPU / name for name in SOME), "-k", f"not ({LONG})")
    assert "passed" in said and "failed" not in said


@pytest.mark.slow
def test_all_of_them_on_the_cpu():
    assert "failed" not in on_the_cpu()


def test_a_wrong_result_is_seen(tmp_path):
    """The comparison with the device is not one with itself."""
    (tmp_path / "broken.py").write_text(
        "import on_device, torch\n"
        "from test_cuda_executor import on_the_executor, test_few_and_many_rows  # noqa: F401\n"
        "right = on_device.Operator.__call__\n"
        "def wrong(self, *arguments):\n"
        "    out = right(self, *arguments)\n"
        "    return [out[0] + 1, *out[1:]] if self.name == 'sample' else out\n"
        "on_device.Operator.__call__ = wrong\n"
    )
    done = run(GPU / "run.py", "-q", tmp_path / "broken.py", FUSEDRAW_TEST_DEVICE="cpu")
    assert done.returncode == 1 and "ids differs" in done.stdout


@pytest.mark.parametrize("config", list(cases.CONFIGS))
def test_the_benchmark_on_the_cpu(config):
    """Providers are checked, then timed; torch's draws lie in the kept set."""
    case = cases.Case(49152, 2, "float32", 1, "real", config)
    clock = bench_gpu.Clock(torch.device("cpu"), 1, 1)
    us = bench_gpu.measure(case, ["read", "fusedraw", "torch"], ["warm"], clock)
    assert set(us) == {"read", "fusedraw", "torch"}
    assert all(len(times["warm"]) == 3 and min(times["warm"]) > 0 for times in us.values())


def test_what_is_not_installed_is_left_out():
    for name in gpu_peers.MODULES:
        why = gpu_peers.missing(name)
        assert why is None or why.startswith(f"{name}: ")
    logits = torch.zeros(2, 100)
    assert gpu_peers.call_of("vllm", "min-p", logits, None) is None
    assert gpu_peers.call_of("flashinfer", "greedy", logits, None) is None


def test_exponential_race_of_the_torch_peer():
    torch.manual_seed(1)
    p = torch.tensor([0.5, 0.3, 0.2])
    counts = torch.bincount(gpu_peers.race(p.expand(20_000, 3)), minlength=3) / 20_000
    assert torch.allclose(counts, p, atol=0.02)
