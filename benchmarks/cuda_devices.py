# SPDX-License-Identifier: Apache-2.0
"""What GPUs have, and two formulas on paper: occupancy, and a roofline that no device has confirmed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

WARP = 32


@dataclass(frozen=True)
class Limits:
    """Of one SM. CUDA C++ Programming Guide, "Technical Specifications per Compute Capability"; how registers
    and shared memory are rounded up is in cuda_occupancy.h, with which a test compares."""

    warps: int
    blocks: int
    shared: int  # bytes
    shared_reserved: int = 1024  # of each thread block, for the system
    shared_unit: int = 128
    registers: int = 65536
    register_unit: int = 256  # of a warp
    partitions: int = 4  # whose registers a warp cannot share


KB = 1024
LIMITS = {
    75: Limits(32, 16, 64 * KB, shared_reserved=0, shared_unit=256),
    80: Limits(64, 32, 164 * KB),
    86: Limits(48, 16, 100 * KB),
    89: Limits(48, 24, 100 * KB),
    90: Limits(64, 32, 228 * KB),
    100: Limits(64, 32, 228 * KB),
    120: Limits(48, 24, 100 * KB),
}


def round_up(n: int, unit: int) -> int:
    return ceil(n / unit) * unit


@dataclass(frozen=True)
class Occupancy:
    blocks: int  # resident on an SM
    share: float  # of its warps
    limited_by: str


def occupancy(arch: int, threads: int, registers: int, shared: int) -> Occupancy:
    """Of a kernel with so many registers a thread and bytes of shared memory a thread block."""
    sm = LIMITS[arch]
    warps = ceil(threads / WARP)
    # Registers are given to whole warps, in units, out of the quarter of the SM that runs the warp.
    by_partition = sm.registers // sm.partitions // round_up(registers * WARP, sm.register_unit)
    bytes_each = round_up(shared + sm.shared_reserved, sm.shared_unit)
    fits = {
        "warps": sm.warps // warps,
        "blocks": sm.blocks,
        "registers": by_partition * sm.partitions // warps,
        "shared memory": sm.shared // bytes_each if bytes_each else sm.blocks,
    }
    limit = min(fits, key=fits.get)
    return Occupancy(fits[limit], fits[limit] * warps / sm.warps, limit)


# The roofline. Devices by their data sheets: SMs, boost clock, memory bandwidth.


@dataclass(frozen=True)
class Device:
    name: str
    arch: int
    sms: int
    ghz: float
    bytes_per_us: float
    schedulers: int = 4  # of an SM, each issues one warp instruction a cycle


DEVICES = (
    Device("H100 SXM", 90, 132, 1.755, 3.35e6),
    Device("H200 SXM", 90, 132, 1.755, 4.8e6),
    Device("L4", 89, 58, 2.04, 0.3e6),
)

LAUNCH_US = 1.5
MEMORY_LATENCY_US = 0.6
DEPENDENT_CYCLES = 4

ASSUMPTIONS = (
    "Every byte that a kernel reads or writes counts at the full bandwidth of the memory, also where it "
    "would be in L2.",
    "Each scheduler of an SM issues one warp instruction a cycle at the boost clock; instructions and bytes "
    "are those counted here.",
    f"A warp by itself issues one instruction in {DEPENDENT_CYCLES} cycles, the latency of arithmetic.",
    "A thread block has one tile of 16-byte loads on the way at a time and waits for it: "
    f"{MEMORY_LATENCY_US} us a tile, whatever else the device does.",
    "As many thread blocks are resident as the occupancy allows; the others wait for a whole wave of them.",
    "Of these (bytes, issue, a wave's latency) the slowest counts, as if the others were hidden behind it.",
    f"{LAUNCH_US} us for each launch, as in a CUDA graph; nothing for Python, the operator or the allocator.",
)


@dataclass(frozen=True)
class Work:
    """A launch, on average over its rows: for one row."""

    blocks: float
    threads: int
    resident: int  # thread blocks on an SM
    bytes_moved: float
    instructions: float  # issued by its warps
    tiles: float  # loads that a thread block waits for, one after the other


@dataclass(frozen=True)
class Estimate:
    us: float
    memory_us: float  # the bytes alone, all launches
    bound: str  # what decides the longest launch


def launch_us(work: Work, rows: int, device: Device) -> dict[str, float]:
    blocks = ceil(work.blocks * rows)
    cycle_us = 1e-3 / device.ghz
    per_block = work.instructions / work.blocks
    issue = ceil(blocks / device.sms) * per_block / device.schedulers * cycle_us
    alone = per_block / ceil(work.threads / WARP) * DEPENDENT_CYCLES * cycle_us
    waves = ceil(blocks / (device.sms * work.resident))
    return {
        "memory": work.bytes_moved * rows / device.bytes_per_us,
        "issue": issue,
        "latency": waves * (work.tiles * MEMORY_LATENCY_US + alone),
    }


def estimate(launches: Sequence[Work], rows: int, device: Device) -> Estimate:
    """Microseconds for a call with so many rows. ESTIMATED, NOT MEASURED."""
    parts = [launch_us(work, rows, device) for work in launches]
    longest = max(parts, key=lambda p: max(p.values()))
    return Estimate(
        sum(LAUNCH_US + max(p.values()) for p in parts),
        sum(p["memory"] for p in parts),
        max(longest, key=longest.get),
    )
