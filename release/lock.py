# SPDX-License-Identifier: Apache-2.0
"""Writes requirements-release.txt and requirements-cibuildwheel.txt anew: what release/requirements.in names,
and all that it brings, each with the SHA-256 of the file that is installed. Asks the package index.

    python release/lock.py
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
PYTHON = "3.11"
HEAD = """\
# Written by release/lock.py from release/requirements.in, for CPython {} on Linux, {}.
--require-hashes
--only-binary :all:
"""


def main():
    lines = (HERE / "requirements.in").read_text(encoding="utf-8").splitlines()
    wanted = [line for line in lines if line and not line.startswith("#")]
    builder = [line for line in wanted if line.startswith("cibuildwheel==")]
    x86, arm = resolve(wanted, "x86_64"), resolve(builder, "aarch64")
    write("requirements-release.txt", x86, "x86_64")
    # On aarch64 only cibuildwheel is run, and some of the others have no wheel for it.
    both = {key: x86.get(key, set()) | arm[key] for key in arm}
    write("requirements-cibuildwheel.txt", both, "x86_64 and aarch64")


def resolve(wanted, machine):
    """{(name, version): {sha256}} of what pip would install there."""
    glibc = (
        "manylinux_2_28",
        "manylinux_2_17",
        "manylinux2014",
        "manylinux_2_12",
        "manylinux_2_5",
        "manylinux1",
    )
    place = [word for tag in glibc for word in ("--platform", f"{tag}_{machine}")]
    with tempfile.TemporaryDirectory() as work:
        report = Path(work) / "report.json"
        choice = ["--only-binary", ":all:", "--implementation", "cp", "--python-version", PYTHON, *place]
        dry = [
            "install",
            "-q",
            "--dry-run",
            "--ignore-installed",
            "--target",
            f"{work}/none",
            "--report",
            str(report),
        ]
        subprocess.run([sys.executable, "-m", "pip", *dry, *choice, *wanted], check=True)
        items = json.loads(report.read_text(encoding="utf-8"))["install"]
    return {
        (re.sub(r"[-_.]+", "-", item["metadata"]["name"]).lower(), item["metadata"]["version"]): {
            item["download_info"]["archive_info"]["hashes"]["sha256"]
        }
        for item in items
    }


def write(name, locked, machines):
    text = HEAD.format(PYTHON, machines)
    for (package, version), hashes in sorted(locked.items()):
        text += (
            " \\\n".join([f"{package}=={version}", *(f"    --hash=sha256:{h}" for h in sorted(hashes))])
            + "\n"
        )
    (HERE.parent / name).write_text(text, encoding="utf-8")
    print(f"{name}: {len(locked)} packages")


if __name__ == "__main__":
    main()
