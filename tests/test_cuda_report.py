# SPDX-License-Identifier: Apache-2.0
"""The report behind `make cuda-report`: what it reads from the compiler, its formulas and tables, and the
kernels themselves on the interpreter of machine code (test_sass.py)."""

import copy
import dataclasses
import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
if not (ROOT / "benchmarks" / "cuda_report.py").is_file():
    pytest.skip(f"no benchmarks beside the tests: {ROOT}", allow_module_level=True)
sys.path.append(str(ROOT / "benchmarks"))
import cuda_compile  # noqa: E402
import cuda_devices as devices  # noqa: E402
import cuda_report  # noqa: E402
import cuda_table  # noqa: E402

# What ptxas says

PTXAS = """\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_Z3oneIfEvv' for 'sm_90'
ptxas info    : Function properties for _Z3oneIfEvv
    184 bytes stack frame, 416 bytes spill stores, 548 bytes spill loads
ptxas info    : Used 64 registers, used 1 barriers, 184 bytes cumulative stack size, 30188 bytes smem
ptxas info    : Compile time = 2168.917 ms
ptxas info    : Function properties for _ZN42_INTERNAL_fe_1_x_cu_2f8fusedraw4cuda5innerIiEEvv
    0 bytes stack frame, 8 bytes spill stores, 12 bytes spill loads
ptxas info    : Compiling entry function '_Z3twov' for 'sm_90'
ptxas info    : Function properties for _Z3twov
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 26 registers, 380 bytes cmem[0]
"""


def test_ptxas():
    one, two = cuda_compile.parse_ptxas(PTXAS)
    assert (one.registers, one.shared, one.stack) == (64, 30188, 184)
    assert (one.spill_stores, one.spill_loads, one.spills) == (416, 548, 416 + 548 + 8 + 12)
    assert [f.name for f in one.functions] == ["_ZN42_INTERNAL_fe_1_x_cu_2f8fusedraw4cuda5innerIiEEvv"]
    assert (two.registers, two.shared, two.spills, two.functions) == (26, 0, 0, [])


@pytest.mark.parametrize(
    "text, name",
    [
        ("void fusedraw::cuda::f<float, false>(int, a<b>)", "fusedraw::cuda::f<float, false>"),
        ("fusedraw::cuda::g(int const*)", "fusedraw::cuda::g"),
        ("long _INTERNAL_fe_1_x_cu_2f::a::h<_INTERNAL_fe_1_x_cu_2f::a::B>(int)", "a::h<a::B>"),
        ("__internal_0_$__cuda", "__internal_0_$__cuda"),
    ],
)
def test_names(text, name):
    assert cuda_compile.plain_name(text) == name


def test_flags_are_those_of_the_build():
    assert {"-fmad=false", "-O3", "-lineinfo", "-Xptxas=-v"} <= set(cuda_compile.nvcc_flags())


# Occupancy, by hand: registers a warp = registers * 32, up to a multiple of 256, out of 16384 a partition


@pytest.mark.parametrize(
    "arch, threads, registers, shared, blocks, share, limit",
    [
        (90, 256, 64, 30188, 4, 0.5, "registers"),  # 8 warps a partition, 32 in all
        (90, 256, 65, 30188, 3, 0.375, "registers"),  # 72 * 32: 7 a partition, 28 in all
        (90, 256, 32, 0, 8, 1.0, "warps"),
        (90, 64, 16, 0, 32, 1.0, "warps"),
        (90, 32, 16, 0, 32, 0.5, "blocks"),
        (90, 256, 32, 60 * 1024, 3, 0.375, "shared memory"),  # 61 KiB of 228
        (75, 256, 64, 30188, 2, 0.5, "shared memory"),  # 29.5 KiB of 64, none reserved
        (89, 256, 64, 30188, 3, 0.5, "shared memory"),  # 30.5 KiB of 100
        (86, 256, 40, 1000, 6, 1.0, "warps"),
    ],
)
def test_occupancy(arch, threads, registers, shared, blocks, share, limit):
    assert devices.occupancy(arch, threads, registers, shared) == devices.Occupancy(blocks, share, limit)


OCCUPANCY_H = """
#include <cstdio>
#include <cstddef>
#include <limits.h>
#include "cuda_occupancy.h"
int main() {
  int major, minor, threads, registers, shared, sm_threads, sm_shared, reserved;
  while (scanf("%d %d %d %d %d %d %d %d", &major, &minor, &threads, &registers, &shared, &sm_threads,
               &sm_shared, &reserved) == 8) {
    cudaOccDeviceProp p = {};
    p.computeMajor = major, p.computeMinor = minor, p.maxThreadsPerBlock = 1024;
    p.maxThreadsPerMultiprocessor = sm_threads, p.regsPerBlock = p.regsPerMultiprocessor = 65536;
    p.warpSize = 32, p.sharedMemPerBlock = 49152, p.sharedMemPerMultiprocessor = sm_shared;
    p.numSms = 100, p.sharedMemPerBlockOptin = sm_shared - reserved;
    p.reservedSharedMemPerBlock = reserved;
    cudaOccFuncAttributes a = {};
    a.maxThreadsPerBlock = 1024, a.numRegs = registers, a.sharedSizeBytes = shared;
    a.partitionedGCConfig = PARTITIONED_GC_OFF, a.shmemLimitConfig = FUNC_SHMEM_LIMIT_OPTIN;
    a.maxDynamicSharedSizeBytes = 0;
    cudaOccDeviceState s = {};
    s.carveoutConfig = SHAREDMEM_CARVEOUT_MAX_SHARED;
    cudaOccResult r = {};
    cudaOccError e = cudaOccMaxActiveBlocksPerMultiprocessor(&r, &p, &a, &s, threads, 0);
    printf("%d\\n", e == CUDA_OCC_SUCCESS ? r.activeBlocksPerMultiprocessor : -1);
  }
}
"""


def test_occupancy_is_that_of_the_toolkit(tmp_path):
    """NVIDIA's own formula, on the same descriptions."""
    kit = cuda_compile.toolkit()
    header = kit and Path(kit.cudart).resolve().parents[3] / "include" / "cuda_occupancy.h"
    places = [Path("/usr/local/cuda/include/cuda_occupancy.h"), *([header] if header else [])]
    found = next((p for p in places if p.is_file()), None)
    if found is None or shutil.which("g++") is None:
        pytest.skip("no cuda_occupancy.h, or no g++")
    (tmp_path / "occupancy.cpp").write_text(OCCUPANCY_H)
    program = tmp_path / "occupancy"
    command = ["g++", "-w", f"-I{found.parent}", str(tmp_path / "occupancy.cpp"), "-o", str(program)]
    subprocess.run(command, check=True, capture_output=True)
    random.seed(3)
    cases = []
    for arch, sm in devices.LIMITS.items():
        for _ in range(60):
            threads, registers = 32 * random.randint(1, 16), random.randint(16, 128)
            cases.append((arch, threads, registers, random.randint(0, 47) * 1021, sm))
    lines = "\n".join(
        f"{a // 10} {a % 10} {t} {r} {s} {sm.warps * 32} {sm.shared} {sm.shared_reserved}"
        for a, t, r, s, sm in cases
    )
    said = subprocess.run([str(program)], input=lines, check=True, capture_output=True, text=True).stdout
    for (arch, threads, registers, shared, _), blocks in zip(cases, said.split(), strict=True):
        got = devices.occupancy(arch, threads, registers, shared).blocks
        assert got == int(blocks), (arch, threads, registers, shared)


# The roofline, by hand

ROUND = devices.Device("round numbers", 90, 100, 1.0, 1e6)


def test_roofline():
    work = devices.Work(blocks=1, threads=256, resident=4, bytes_moved=1e5, instructions=8000, tiles=10)
    parts = devices.launch_us(work, 200, ROUND)
    assert parts["memory"] == pytest.approx(1e5 * 200 / 1e6)
    # 2 thread blocks on each SM: 16000 instructions, 4 a cycle of a nanosecond
    assert parts["issue"] == pytest.approx(4.0)
    # one wave: 10 tiles of 0.6 us, and 1000 instructions a warp at 4 cycles
    assert parts["latency"] == pytest.approx(6 + 4)
    assert devices.launch_us(work, 401, ROUND)["latency"] == pytest.approx(2 * (6 + 4))
    result = devices.estimate([work, work], 200, ROUND)
    assert result.us == pytest.approx(2 * (20 + devices.LAUNCH_US)) and result.bound == "memory"
    assert devices.estimate([work], 1, ROUND).bound == "latency"


# The report

STORED = ROOT / "benchmarks" / "results" / "cuda_report.json"


def small_report():
    kernel = {
        "arch": 90, "name": "fusedraw::cuda::sample_kernel<float, false>", "stack": 0, "spill_stores": 0,
        "spill_loads": 0, "registers": 64, "shared": 30188, "functions": [], "spills": 0, "occupancy": 0.5,
        "resident": 4, "limited_by": "registers",
    }  # fmt: skip
    launch = {
        "kernel": kernel["name"], "threads": 256, "blocks": 1.0, "read": 257000.0, "written": 100.0,
        "loads16": 16032.0, "sectors": 8000.0,
    }  # fmt: skip
    entry = {
        "data": "real", "vocab": 128256, "dtype": "bfloat16", "config": "T", "rows": "real-like",
        "launches": [launch], "read": 1.002, "written": 0.0004, "issued": {"90": [40000.0]},
        "per_element": {"90": 9.98},
    }  # fmt: skip
    return [kernel], [{**copy.deepcopy(entry), "mode": mode} for mode in ("B = 1", "one launch")]


def test_goals_and_table():
    kernels, entries = small_report()
    goals = {g.goal: g for g in cuda_report.goals_of(kernels, entries)}
    assert all(g.reached for g in goals.values()) and len(goals) == 8
    kernels[0]["spills"], entries[0]["per_element"]["90"], kernels[0]["occupancy"] = 8, 10.5, 0.4
    missed = {g.goal for g in cuda_report.goals_of(kernels, entries) if not g.reached}
    assert missed == {
        "bytes spilled, every architecture",
        "occupancy, sm_90",
        "instructions per element: T, bfloat16, B = 1",
    }
    loop = {"arch": 90, "kernel": kernels[0]["name"], "function": "scan_blocks"}
    loops = [{**loop, "loads16": 2, "instructions": 98, "per_element": 12.25}]
    estimates = cuda_report.estimates_of(entries, kernels, loops)
    assert {(e["device"], e["batch"]) for e in estimates} == {
        (d, b) for d in ("H100 SXM", "H200 SXM") for b in cuda_report.BATCHES
    }
    stored = {
        "nvcc": "13.0", "nvdisasm": "13.5", "command": "x", "threads": 256, "assumptions": ["one"],
        "goals": [
            {**dataclasses.asdict(g), "reached": g.reached} for g in cuda_report.goals_of(kernels, entries)
        ],
        "kernels": kernels, "loops": loops, "draws": entries, "estimates": estimates,
    }  # fmt: skip
    text = cuda_table.table(stored)
    assert "ESTIMATED, NOT MEASURED" in text
    assert "| bytes spilled, every architecture | <= 0 | 8 | **no** |" in text
    assert "1.00 / 1.00" in text and "10.5 / 10.0" in text and "`sample_kernel<false>`" in text


def test_the_stored_report_makes_a_table():
    if not STORED.exists():
        pytest.skip("no stored report")
    stored = json.loads(STORED.read_text())
    text = cuda_table.table(stored)
    assert "ESTIMATED, NOT MEASURED" in text and text.count("\n") > 40


# The kernels themselves


@pytest.fixture(scope="module")
def compiled():
    kit = cuda_compile.toolkit()
    if kit is None:
        pytest.skip("no nvcc")
    if cuda_compile.tool("nvdisasm") is None:
        pytest.skip("no nvdisasm: pip install -r requirements-cuda.txt")
    return cuda_compile.compile_all(kit, [90], ("bfloat16",))


def test_one_architecture_compiles(compiled):
    kernels = cuda_report.kernels_of(compiled)
    names = {cuda_table.short(k["name"]) for k in kernels}
    assert {"sample_kernel<false>", "sample_kernel<true>", "scan_part_kernel"} <= names
    for k in kernels:
        assert k["occupancy"] >= 0.5, k
    loops = {loop["function"]: loop for loop in cuda_report.loops_of(compiled)}
    assert loops["scan_blocks"]["loads16"] >= 2  # several loads under way at once


@pytest.mark.parametrize("config", ["T", "top-k", "top-p", "T+logp+entropy"])
@pytest.mark.parametrize("mode, vocab", [("one launch", 3000), ("B = 1", 40_000)])
def test_machine_code_draws_the_same_tokens(compiled, config, mode, vocab):
    """What nvcc made of the kernels, executed; `execute` compares with the CPU engine."""
    import cuda_measure as measure

    measure.use(compiled)
    draw = measure.Draw("real", vocab, "bfloat16", config, mode)
    launches = measure.execute(draw, 90, 1)
    assert len(launches) == (2 if mode == "B = 1" else 1)
    assert all(sum(counts) > 0 for _, counts in launches)
